"""Does a change that a proof shows to help lower the loss on rows that nothing has seen, in loops of public scripts?

    python benchmarks/real/proof_loops.py [--seconds 8] [--epochs 8] [--out lines.jsonl]

Each loop of `loops` trains as it is, with a watch on half of its validation rows, and is then diagnosed with ``prove=``. Every
branch is trained once more from the loop's state with fresh seeds, and judged on the other half. The columns are those of
``benchmarks/proof.py``.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import further_loops
import loops
import torch
from loops import Look
from torch import nn
from torch.utils.data import DataLoader, Subset

import wellposed as wp
from wellposed.core.batches import examples_in
from wellposed.diagnosis.forks import Branch

NAMES = (
    "mnist", "mnist_rnn", "logistic", "cifar", "unet", "sentiment", "recommending", "translation", "segmentation", "speech",
)  # fmt: skip
loops.VALID = further_loops.VALID = 640


@dataclass
class Halved(Look):
    """Half of the validation rows are watched, and the other half is kept."""

    active: bool = True
    kept: Any = None
    length: int = 8

    def __call__(self, net: nn.Module, loss: Any, train: Any, valid: Any, **more: Any) -> Any:
        data, half = valid.dataset, len(valid.dataset) // 2
        seen, self.kept = (
            DataLoader(Subset(data, rows), valid.batch_size, collate_fn=valid.collate_fn)
            for rows in (range(half), range(half, len(data)))
        )
        return super().__call__(net, loss, train, seen, **{"share": 1.0} | more)

    def on(self, epochs: int = 0) -> Iterator[int]:
        return super().on(self.length)


@torch.no_grad()
def test_loss(watch: wp.Watch, model: nn.Module, kept: Any) -> float:
    """The loss of a network on the rows that were kept."""
    model.eval()
    parts = [
        (float(watch.loss.per_example(watch.forward(model, batch), watch.target_of(batch)).mean()), examples_in(batch))
        for batch in kept
    ]
    return sum(value * rows for value, rows in parts) / sum(rows for _, rows in parts)


def judged(name: str, seconds: float, epochs: int, fresh: int = 3) -> dict[str, Any]:
    """What the proof said of one loop, and what each branch is worth on rows that were kept."""
    look = Halved(length=epochs)
    loops.run(loops.SCRIPTS[name], look)
    watch = look.watch
    line: dict[str, Any] = {"loop": name, "finding": wp.diagnose(watch)[0].name}
    before = {key: value.clone() for key, value in watch.model.state_dict().items()}
    try:
        proof = wp.diagnose(watch, prove=f"{seconds}s").proof
    except wp.InputError as error:
        return line | {"refused": str(error)}
    assert all(torch.equal(before[key], value) for key, value in watch.model.state_dict().items())

    def after(branch: Branch) -> float:
        runs = (branch.start.go_on(branch.recipe, proof.epochs, 1000 + seed) for seed in range(fresh))
        return statistics.fmean(test_loss(watch, run.model, look.kept) for run in runs)

    losses = [after(branch) for branch in proof]
    gains = [losses[0] - loss for loss in losses[1:]]
    return line | {
        "changes": [branch.says for branch in proof[1:]], "gains": gains,
        "intervals": [(branch.gain.interval.low, branch.gain.interval.high) for branch in proof[1:]],
        "shown": next((at for at, branch in enumerate(proof[1:]) if branch is proof.best), None),
        "longer": test_loss(watch, copy.deepcopy(watch.model), look.kept) - losses[0],
        "random": random.Random(name).randrange(len(gains)), "epochs": proof.epochs, "seeds": len(proof[0].runs),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for name in given.names or NAMES:
        lines.append(judged(name, given.seconds, given.epochs))
        print(json.dumps(lines[-1]), flush=True)
        if given.out:
            given.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    proved = [line for line in lines if "gains" in line]
    shown = [line["gains"][line["shown"]] for line in proved if line["shown"] is not None]
    pairs = [pair for line in proved for pair in zip(line["gains"], line["intervals"], strict=True)]
    for use, gains in (
        ("shown by the proof", shown),
        ("advice alone", [line["gains"][0] for line in proved]),
        ("a random one of the changes", [line["gains"][line["random"]] for line in proved]),
        ("longer training", [line["longer"] for line in proved]),
    ):
        print(f"{use}: lowers the test loss in {sum(gain > 0 for gain in gains)} of {len(gains)}")
    print(f"intervals that hold the gain: {sum(low <= gain <= high for gain, (low, high) in pairs)} of {len(pairs)}")


if __name__ == "__main__":
    main()
