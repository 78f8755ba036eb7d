"""Does a change that a proof shows to help lower the loss on rows that nothing has seen? Beside advice alone and other levers.

    python -m benchmarks.proof [--seconds 8] [--fresh 3] [--tables digits,wine] [--data ../shared/data] [--out lines.jsonl]
    python -m benchmarks.proof --show lines.jsonl

For each table and each way to spoil a recipe: a run with the spoiled recipe is diagnosed with ``prove=``; then every branch is
trained once more from the same state with fresh seeds, and its loss on test rows is compared with that of going on. ``shown``: the
proof named a change. ``advice``: the first change, whatever the proof says. ``random``: another of the changes that were tried,
drawn at random. ``longer``: going on, against the weights at the fork. Covered: the interval of a branch's gain holds its gain on
test rows with fresh seeds, whose own sampling error is not in it, so that less than 95 % are expected.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets

import wellposed as wp
from wellposed.core.files import jsonable, write_atomically
from wellposed.data.table_files import read_table
from wellposed.diagnosis.forks import Branch

SHIPPED = {
    "digits": datasets.load_digits,
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
}
SHARED = {
    "phoneme": "Class",
    "segment": "class",
    "concrete": None,
    "credit-g": "class",
    "vehicle": None,
    "kin8nm": None,
}
MOST_ROWS = 1200
GOOD = {"epochs": 15, "batch_size": 32, "optimizer": {"name": "adamw", "lr": 2e-3}, "stopping": {"patience": 0}}
SPOILED: dict[str, dict[str, Any]] = {
    "rate too low": {"optimizer": {"lr": 2e-5}},
    "rate too high": {"optimizer": {"lr": 0.3}},
    "decay too strong": {"terms": [{"penalty": "l2", "strength": 30.0}]},
    "dropout too strong": {"noise": {"dropout": 0.9}},
    "nothing spoiled": {},
    "long without regularization": {"epochs": 60},
}


def net(data: Any, width: int = 64) -> torch.nn.Module:
    """A perceptron with places for dropout."""
    return torch.nn.Sequential(
        torch.nn.Linear(data.features, width), torch.nn.ReLU(), torch.nn.Dropout(0.0),
        torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Dropout(0.0), torch.nn.Linear(width, data.outputs),
    )  # fmt: skip


def problems(names: set[str], folder: Path) -> Iterator[tuple[str, wp.Problem]]:
    """Few rows to train on, and all others to judge by."""
    for name, load in SHIPPED.items():
        if not names or name in names:
            found = load()
            yield name, problem(np.asarray(found.data, np.float32), np.asarray(found.target), name == "diabetes")
    for name in SHARED:
        paths = sorted((folder / "tables").glob(f"{name}.*"))
        if paths and (not names or name in names):
            frame = read_table(paths[0]).sample(frac=1.0, random_state=0).head(MOST_ROWS)
            y = frame.iloc[:, -1]
            x = frame.iloc[:, :-1].select_dtypes("number").to_numpy(np.float32)
            numeric = y.dtype.kind == "f"
            target = y.to_numpy(np.float64) if numeric else y.astype("category").cat.codes.to_numpy()
            yield name, problem(x, target, numeric)


def problem(x: np.ndarray, y: np.ndarray, numeric: bool) -> wp.Problem:
    """A fifth is trained on, two fifths are validation rows, two fifths test rows; standardized by the training rows."""
    order = np.random.default_rng(0).permutation(len(x))[:MOST_ROWS]
    x, y = x[order], y[order]
    n = len(x) // 5
    x = (x - x[:n].mean(0)) / (x[:n].std(0) + 1e-6)
    if numeric:
        y = ((y - y[:n].mean()) / y[:n].std()).astype(np.float32)[:, None]
    parts = [(x[a:b], y[a:b]) for a, b in ((0, n), (n, 3 * n), (3 * n, len(x)))]
    data = wp.Data(train=parts[0], valid=parts[1], test=parts[2])
    return wp.Problem(net, "mse" if numeric else "cross_entropy", data)


def judged(name: str, how: str, given: wp.Problem, seconds: float, fresh: int) -> dict[str, Any]:
    """One case: what the proof said, and what each branch is worth on test rows with fresh seeds."""
    run = wp.fit(given, wp.Recipe(**{**GOOD, "epochs": SPOILED[how].get("epochs", 15)}).replace(**SPOILED[how]), seed=0)
    line: dict[str, Any] = {"table": name, "spoiled": how, "finding": wp.diagnose(run)[0].name}
    try:
        found = wp.diagnose(run, prove=f"{seconds}s")
    except wp.InputError:
        return line
    assert found.proof is not None
    proof, source = found.proof, given.prepared.test

    def test_loss(branch: Branch) -> float:
        runs = (branch.start.go_on(branch.recipe, proof.epochs, 1000 + seed) for seed in range(fresh))
        return statistics.fmean(run.losses(source).mean for run in runs)

    losses = [test_loss(branch) for branch in proof]
    gains = [losses[0] - loss for loss in losses[1:]]
    here = wp.fit(given, run.recipe.replace(epochs=len(run.history)), seed=0).losses(source).mean
    intervals = [(b.gain.interval.low, b.gain.interval.high) for b in proof[1:]]
    best = next((at for at, branch in enumerate(proof[1:]) if branch is proof.best), None)
    return line | {
        "changes": [branch.says for branch in proof[1:]], "gains": gains, "intervals": intervals, "shown": best,
        "loss": losses[0], "longer": here - losses[0], "epochs": proof.epochs, "seeds": len(proof[0].runs),
        "random": random.Random(f"{name}/{how}").randrange(len(gains)),
    }  # fmt: skip


def told(lines: list[dict[str, Any]]) -> str:
    """How often each lowers the loss on test rows."""
    proved = [line for line in lines if "gains" in line]
    shown = [line for line in proved if line["shown"] is not None]
    rows = {
        "shown by the proof": [line["gains"][line["shown"]] for line in shown],
        "advice alone": [line["gains"][0] for line in proved],
        "a random one of the changes": [line["gains"][line["random"]] for line in proved],
        "longer training": [line["longer"] for line in proved],
    }
    out = [f"{len(lines)} cases; {len(proved)} with a change to try; {len(shown)} shown"]
    out += ["", "| use | lowers the test loss |", "|---|---|"]
    out += [f"| {use} | {sum(gain > 0 for gain in gains)}/{len(gains)} |" for use, gains in rows.items()]
    pairs = [pair for line in proved for pair in zip(line["gains"], line["intervals"], strict=True)]
    covered = sum(low <= gain <= high for gain, (low, high) in pairs)
    cost = statistics.median(line["epochs"] * line["seeds"] * (1 + len(line["gains"])) for line in proved)
    out.append(f"\nIntervals that hold the gain on test rows with fresh seeds: {covered}/{len(pairs)}.")
    out.append(f"Cost of a proof: {cost:.0f} epochs (median).")
    for line in shown:
        if line["gains"][line["shown"]] <= 0:
            out.append(f"Wrong: {line['table']}, {line['spoiled']}: {line['changes'][line['shown']]}")
    return "\n".join(out)


def main() -> None:
    """Run the cases, or show those that were run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--fresh", type=int, default=3)
    parser.add_argument("--tables", default="")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path)
    given = parser.parse_args()
    if given.show:
        print(told([json.loads(line) for line in given.show.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    lines = []
    for name, one in problems(set(filter(None, given.tables.split(","))), given.data):
        for how in SPOILED:
            lines.append(judged(name, how, one, given.seconds, given.fresh))
            print(json.dumps(jsonable(lines[-1])), flush=True)
            if given.out:
                write_atomically(given.out, "".join(json.dumps(jsonable(line)) + "\n" for line in lines).encode())
    print(told(lines))


if __name__ == "__main__":
    main()
