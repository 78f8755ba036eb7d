"""Does the recipe change that a diagnosis proposes first lower the validation loss? Beside two other uses of the time.

    python -m benchmarks.advice [--part tuned|frozen] [--seeds 3] [--runs 3] [--kinds a,b] [--json FILE] [--data ../shared/data]

For each case that a change of the recipe can mend: the recipe is trained and diagnosed; then are trained, from equal seeds,
the first change of the surest finding that has one; a random one (the first change of a finding drawn at random among all
that there are, which changes something) for as many epochs; and the recipe itself for as many epochs as the first two runs
together. A use of the time helps where the mean validation loss of the chosen epoch over ``--runs`` seeds is lower than that
of the recipe, by more than one in a thousand.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.planted import data
from benchmarks.planted.parts import PARTS, kinds_of

import wellposed as wp
from wellposed.core.files import jsonable, write_atomically
from wellposed.diagnosis.advice import ADVICE, Room, changes_for

LEAST = 1e-3
"""A relative gain below one in a thousand is none."""


@dataclass(frozen=True)
class Row:
    """One case: the finding, its change, and by which share each use of the time lowered the validation loss."""

    kind: str
    seed: int
    causes: tuple[str, ...]
    finding: str
    change: str
    advice: float
    random: float
    longer: float
    random_change: str

    def helped(self, use: str) -> bool:
        """Whether a use of the time lowered the validation loss."""
        return bool(getattr(self, use) > LEAST)


def loss_of(problem: wp.Problem, recipe: wp.Recipe, seeds: Iterable[int]) -> float:
    """Mean validation loss of the chosen epochs; infinite where a run learned nothing finite."""
    losses = [run.evaluate().loss.mean for run in wp.fit_many(problem, [recipe], seeds)]
    return statistics.fmean(loss if math.isfinite(loss) else math.inf for loss in losses)


def judged(case: Any, runs: int) -> Row | None:
    """What became of the advice; None where the diagnosis advises no change."""
    problem, recipe, seeds = case.problem, case.recipe, range(runs)
    run = wp.fit(problem, recipe, seed=0)
    found = next((finding for finding in wp.diagnose(run) if finding.changes), None)
    before = loss_of(problem, recipe, seeds)
    if found is None:
        return None
    change = found.changes[0]
    other = random_change(recipe, Room.of(problem, run.model), f"{case.kind}/{case.seed}")
    epochs = change.recipe.epochs
    whole = recipe.replace(epochs=recipe.epochs + epochs, stopping={"patience": 0})
    after = {
        "advice": loss_of(problem, change.recipe, seeds),
        "random": loss_of(problem, other[1].replace(epochs=epochs), seeds),
        "longer": loss_of(problem, whole, seeds),
    }
    gains = {use: gain(before, loss) for use, loss in after.items()}
    return Row(
        case.kind, case.seed, tuple(sorted(case.causes)), found.name, change.says, **gains, random_change=other[0]
    )


def gain(before: float, after: float) -> float:
    """The share of the loss that is gone; 1 where it was infinite and is not, -1 the other way."""
    if math.isinf(before) or math.isinf(after):
        return float(math.isinf(before)) - float(math.isinf(after))
    return (before - after) / max(abs(before), 1e-12)


def random_change(recipe: wp.Recipe, room: Room, seed: str) -> tuple[str, wp.Recipe]:
    """The first change of a finding drawn at random."""
    able = [changes[0] for name in sorted(ADVICE) if (changes := changes_for(name, recipe, room))]
    chosen = random.Random(f"lever/{seed}").choice(able)
    return chosen.says, chosen.recipe


def cases(part: str, seeds: int, only: set[str]) -> Iterable[Any]:
    """The cases of a part that a recipe can mend, with something to be mended, whose ground truth holds."""
    for half, side in PARTS[part]:
        for name, kind in kinds_of(half).items():
            if only and name not in only:
                continue
            for seed in range(seeds):
                case = kind.case(seed, side)
                if case.problem is None or case.recipe is None or "healthy" in case.causes:
                    continue
                if not case.truth():
                    yield case


def told(rows: list[Row], unadvised: int) -> str:
    """Tables of all cases, and of each kind."""
    lines = [
        "| kind | cases | advice helps | random lever | longer | median gain | the changes |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = {"all": rows} | {kind: [r for r in rows if r.kind == kind] for kind in dict.fromkeys(r.kind for r in rows)}
    for name, mine in groups.items():
        shares = [f"{sum(row.helped(use) for row in mine)}/{len(mine)}" for use in ("advice", "random", "longer")]
        middle = statistics.median(row.advice for row in mine)
        said = "" if name == "all" else "; ".join(dict.fromkeys(f"{row.finding}: {row.change}" for row in mine))
        lines.append(f"| {name} | {len(mine)} | {' | '.join(shares)} | {middle:+.1%} | {said} |")
    better = sum(row.advice > row.random for row in rows), sum(row.advice > row.longer for row in rows)
    lines.append(f"\nAdvice beats the random lever in {better[0]} and longer training in {better[1]} of {len(rows)}; ")
    lines.append(f"{unadvised} cases got no advice.")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PARTS), default="tuned")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", default=data.DEFAULT)
    given = parser.parse_args()
    data.use(given.data)
    torch.set_num_threads(1)
    rows, unadvised = [], 0
    for case in cases(given.part, given.seeds, set(filter(None, given.kinds.split(",")))):
        row = judged(case, given.runs)
        if row is None:
            unadvised += 1
            print(f"{case.kind} {case.seed}: no advice", file=sys.stderr, flush=True)
        else:
            rows.append(row)
            print(
                f"{row.kind} {row.seed}: {row.finding}: {row.change}: {row.advice:+.2%}, random ({row.random_change}) "
                f"{row.random:+.2%}, longer {row.longer:+.2%}", file=sys.stderr, flush=True,
            )  # fmt: skip
    if not rows:
        raise SystemExit("No case got advice.")
    print(told(rows, unadvised))
    if given.json:
        write_atomically(
            given.json, json.dumps(jsonable({"rows": [asdict(row) for row in rows], "unadvised": unadvised}), indent=1)
        )


if __name__ == "__main__":
    main()
