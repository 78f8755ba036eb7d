"""How fast a population trains.

    python benchmarks/population.py [--widths 32,64,128,256] [--slots 32] [--repeats 20] [--dropout 0.2]
    python benchmarks/population.py --slots 1,2,4,8,16,32,64,128,256 --widths 128     cost against the number of slots
    python benchmarks/population.py --rows 1000,10000,100000,1000000                  cost against the number of rows
    python benchmarks/population.py --figure docs/figures/population.svg              both, as a figure

Perceptrons of 64-H-H-10 with ReLU and dropout, AdamW, batches of 128; a seed for each slot, or one for all, as in a search. A
step of the population (rows gathered, masks drawn, forward, backward, update, of every slot) against the same steps of a plain loop
over models (fused AdamW, rows at hand), and against the matrix products alone, batched (``torch.bmm`` into memory that is
there). The sides alternate in one process, an epoch of 16 steps each, and the minimum of the repeats is compared. GFLOP/s count
the products: six for each weight and example, less the first layer's gradient by its inputs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import wellposed as wp
from wellposed.core.shared import threads_of
from wellposed.parallel.jobs import Conditions, Job
from wellposed.parallel.population.grouping import PopulationTrainer
from wellposed.parallel.population.population import Population

FEATURES, CLASSES, BATCH = 64, 10, 128
STEPS = 16
"""Steps of the population in one timing."""


def perceptron(width: int, rate: float) -> nn.Module:
    """64-H-H-10."""
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Dropout(rate),
        nn.Linear(width, width), nn.ReLU(), nn.Dropout(rate), nn.Linear(width, CLASSES),
    )  # fmt: skip


def problem(width: int, rate: float, rows: int) -> wp.Problem:
    """Random rows: what they say does not matter to the clock."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, FEATURES, generator=draw)
    y = torch.randint(CLASSES, (rows,), generator=draw)
    few = slice(0, 256)
    return wp.Problem(lambda: perceptron(width, rate), "cross_entropy", wp.Data(train=(x, y), valid=(x[few], y[few])))


def population(width: int, rate: float, slots: int, rows: int, one_seed: bool = False) -> Population:
    """A population whose slots have seeds of their own, or one for all, as in a search."""
    recipes = [wp.Recipe(batch_size=BATCH, optimizer={"lr": 1e-3 * (1 + i / slots)}) for i in range(slots)]
    jobs = [Job(recipe, 0 if one_seed else seed) for seed, recipe in enumerate(recipes)]
    together = PopulationTrainer(problem(width, rate, rows), jobs, Conditions("cpu"))
    (group,) = together.groups
    assert isinstance(group, Population)
    group.fill()
    return group


def epoch(group: Population) -> None:
    """The steps of an epoch, without its evaluation."""
    with threads_of(1):  # as in training; the kernel has threads of its own
        group.train(list(group.slots))


def loop(width: int, rate: float, slots: int) -> Callable[[], None]:
    """One step of every model of a plain loop."""
    nets = [perceptron(width, rate) for _ in range(slots)]
    optimizers = [torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0, fused=True) for net in nets]
    x, y, cost = torch.randn(BATCH, FEATURES), torch.randint(CLASSES, (BATCH,)), nn.CrossEntropyLoss()

    def step() -> None:
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            cost(net(x), y).backward()
            optimizer.step()

    return step


def products(width: int, slots: int) -> Callable[[], None]:
    """The matrix products of a step, batched over slots, and nothing else."""
    sizes = ((FEATURES, width), (width, width), (width, CLASSES))
    weights = [torch.randn(slots, wide, narrow) for narrow, wide in sizes]
    inputs = [torch.randn(slots, BATCH, narrow) for narrow, _ in sizes]
    outputs = [torch.randn(slots, BATCH, wide) for _, wide in sizes]
    by_weights, by_inputs = [torch.empty_like(w) for w in weights], [torch.empty_like(x) for x in inputs]

    def step() -> None:
        for w, x, out in zip(weights, inputs, outputs, strict=True):
            torch.bmm(x, w.transpose(1, 2), out=out)
        for layer in (2, 1, 0):
            torch.bmm(outputs[layer].transpose(1, 2), inputs[layer], out=by_weights[layer])
            if layer:
                torch.bmm(outputs[layer], weights[layer], out=by_inputs[layer])

    return step


def flops(width: int, slots: int) -> int:
    """Of the products of a step."""
    first, rest = FEATURES * width, width * width + width * CLASSES
    return slots * BATCH * (4 * first + 6 * rest)


def minima(sides: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Seconds of each side, alternating."""
    best = dict.fromkeys(sides, math.inf)
    for _ in range(repeats):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def measured(width: int, rate: float, slots: int, repeats: int, rows: int = STEPS * BATCH) -> dict[str, float]:
    """Seconds of one step of each side."""
    group, alike = population(width, rate, slots, rows), population(width, rate, slots, rows, one_seed=True)
    steps = -(-rows // BATCH)
    sides = {
        "population": lambda: epoch(group),
        "one seed": lambda: epoch(alike),
        "loop": loop(width, rate, slots),
        "products": products(width, slots),
    }
    found = minima(sides, repeats)
    return {**found, "population": found["population"] / steps, "one seed": found["one seed"] / steps}


def figure(path: str, slots: dict[int, float], rows: dict[int, float]) -> None:
    """Cost against slots and rows."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "wellposed"
    fig, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=False)
    for axis, found, label in ((axes[0], slots, "slots"), (axes[1], rows, "training rows")):
        axis.plot(list(found), [1e6 * value for value in found.values()], "o-", color="#2a6f97")
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.set_ylabel("µs of a slot's step")
        axis.set_ylim(0, 1.1e6 * max(found.values()))
        axis.spines[["top", "right"]].set_visible(False)
    fig.tight_layout()
    fig.savefig(path, metadata={"Date": None})


def numbers(text: str) -> list[int]:
    """``"32,64"`` as numbers."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=numbers, default=[32, 64, 128, 256])
    parser.add_argument("--slots", type=numbers, default=[32])
    parser.add_argument("--rows", type=numbers, default=[])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--figure")
    given = parser.parse_args()
    if given.figure:
        given.slots, given.widths = [1, 2, 4, 8, 16, 32, 64, 128, 256], [128]
        given.rows = [1000, 10_000, 100_000, 1_000_000]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, dropout {given.dropout}")
    print(
        "| H | slots | population, ms | one seed for all, ms | GFLOP/s | plain loop, ms | times faster | products alone, ms "
        "| share of their speed |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    by_slots, by_rows = {}, {}
    for width in given.widths:
        for slots in given.slots:
            s = measured(width, given.dropout, slots, given.repeats)
            by_slots[slots] = s["population"] / slots
            speeds = [flops(width, slots) / s[side] / 1e9 for side in ("population", "one seed")]
            faster, share = (
                [s[other] / s[side] for side in ("population", "one seed")] for other in ("loop", "products")
            )
            print(
                f"| {width} | {slots} | {1e3 * s['population']:.2f} | {1e3 * s['one seed']:.2f} "
                f"| {speeds[0]:.0f}, {speeds[1]:.0f} | "
                f"{1e3 * s['loop']:.2f} | {faster[0]:.1f}, {faster[1]:.1f} | {1e3 * s['products']:.2f} | "
                f"{share[0]:.2f}, {share[1]:.2f} |",
                flush=True,
            )
    if given.rows:
        print("\n| rows | µs of a slot's step, 32 slots, H 128 |\n|---|---|")
    for rows in given.rows:
        group = population(128, given.dropout, 32, rows)
        steps = -(-rows // BATCH)
        found = minima({"it": lambda group=group: epoch(group)}, max(1, min(given.repeats, 400 // steps)))
        by_rows[rows] = found["it"] / steps / 32
        print(f"| {rows} | {1e6 * by_rows[rows]:.1f} |", flush=True)
    if given.figure:
        figure(given.figure, by_slots, by_rows)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
