"""What a step of `wp.IVON`, with its draw, costs beside a step of torch's AdamW on as many weights.

    python benchmarks/variational_step.py [--weights 10000000] [--layers 10] [--repeats 15] [--threads 1]

Steps alternate in one process, and the minimum of each is compared: gradients are there, no network is called. On a CPU torch's
AdamW loops over the weights' tensors where nothing is said; ``foreach`` and ``fused`` are its other ways.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

import wellposed as wp


def steps(weights: int, layers: int) -> dict[str, Callable[[], object]]:
    """A step of each optimizer, on weights of its own."""

    def parameters() -> list[nn.Parameter]:
        side = round((weights / layers) ** 0.5)
        found = [nn.Parameter(torch.randn(side, side)) for _ in range(layers)]
        for parameter in found:
            parameter.grad = torch.randn_like(parameter)
        return found

    drawn = parameters()
    ivon = wp.IVON(drawn, lr=0.1, rows=50_000, prior=wp.GaussianPrior(1.0))

    def drawn_step() -> None:
        with ivon.sampled():
            drawn[0].grad[0, 0] = 1.0  # draws that leave no gradient do not count
        ivon.step()

    adams = {
        "AdamW": torch.optim.AdamW(parameters()),
        "AdamW, foreach": torch.optim.AdamW(parameters(), foreach=True),
        "AdamW, fused": torch.optim.AdamW(parameters(), fused=True),
    }
    return {"IVON, draw and step": drawn_step, **{name: adam.step for name, adam in adams.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=10_000_000)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    taken = steps(given.weights, given.layers)
    best = dict.fromkeys(taken, float("inf"))
    for _ in range(given.repeats + 1):  # the first makes the states
        for name, step in taken.items():
            began = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - began)
    ours = best["IVON, draw and step"]
    print(f"{given.weights:,} weights in {given.layers} tensors, {given.threads} thread(s), torch {torch.__version__}")
    for name, seconds in best.items():
        print(f"{name:22} {1000 * seconds:8.1f} ms   IVON costs {ours / seconds:5.2f} times as much")


if __name__ == "__main__":
    main()
