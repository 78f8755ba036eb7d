"""Faults that are named and mended without a human: one number over planted kinds and published programs.

    python -m benchmarks.mended [--minutes 10] [--seconds 4] [--fresh 3] [--seed 0] [--data ../shared/data] [--out lines.jsonl]
    python -m benchmarks.mended --show lines.jsonl

The cases are the kinds with a fault of `planted.frozen` and `planted.frozen_two`, one seed each, and the programs of
`planted.published`, in an order that ``--seed`` draws; they are judged until the minutes are over. A planted case whose ground
truth fails is dropped and counted.

**Named**: a finding of at least .5 names a planted cause, or a published fault. **Mended**: ``diagnose(..., prove=)`` shows a
change, and trained once more from the same state with fresh seeds it has a lower loss than going on, on rows that nothing has
seen: the fresh rows of a planted case, by a loss of the benchmark's own; half of a program's validation rows, which are held
back (all of them where a program validates on the rows that it trains on). Where going on is shown to help and nothing more than
that, going on is the change, and is compared with the weights at the fork. **Named and mended**: both, and the change that was
shown is one that a finding with a right name advises. What cannot be gone on with (logs, a refusal) is not mended.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.planted import data
from benchmarks.planted.parts import kinds_of
from benchmarks.planted.published import PROGRAMS, Program, Setup
from benchmarks.planted.score import rate, share
from benchmarks.planted.training import Training, per_row

import wellposed as wp
from wellposed.core.files import jsonable, write_atomically
from wellposed.diagnosis.advice import recipe_difference
from wellposed.diagnosis.forks import GO_ON, Branch

LEAST = 0.5
Loss = Callable[[wp.Run], float]


def cases(seed: int) -> list[tuple[str, str]]:
    """Half and kind, or "published" and the program's number, in the order that a seed draws."""
    found = [
        (half, name)
        for half in ("frozen", "frozen_two")
        for name, kind in kinds_of(half).items()
        if kind.group in ("fault", "several")
    ]
    found += [("published", post) for post in PROGRAMS]
    random.Random(seed).shuffle(found)
    return found


def planted(half: str, name: str) -> tuple[Any, frozenset[str], Loss]:
    """What is diagnosed, the right names, and the loss of a run on fresh rows.

    Raises:
        LookupError: the ground truth fails, so that there is no fault to name.
    """
    case = kinds_of(half)[name].case(0, "test")
    source = case.make()
    if failed := case.truth():
        raise LookupError(failed)
    training = getattr(case.plan.make, "__self__", None)

    @torch.no_grad()
    def fresh(run: wp.Run) -> float:
        if not isinstance(training, Training):
            return run.losses(run.problem.prepared.test).mean
        x, y = training.data.fresh
        return float(per_row(training.loss, run.model.eval()(x), y).mean())

    return source, case.causes, fresh


def published(program: Program) -> tuple[Any, frozenset[str], Loss]:
    """The same of a program, half of whose validation rows are held back."""
    kept: list[torch.Tensor] = []

    def build(seed: int) -> Setup:
        its = program.build(seed)
        half = len(its.valid[0]) // 2
        same = its.train[0].shape == its.valid[0].shape and torch.equal(its.train[0], its.valid[0])
        kept[:] = its.valid if same else [part[half:] for part in its.valid]
        return its if same else replace(its, valid=(its.valid[0][:half], its.valid[1][:half]))

    watch = replace(program, build=build).watched(0)

    @torch.no_grad()
    def held(run: wp.Run) -> float:
        return float(watch.loss.per_example(run.model.eval()(kept[0]), kept[1]).mean())

    return watch, program.right, held


def judged(half: str, name: str, seconds: float, fresh: int) -> dict[str, Any]:
    """What was found in a case, what the proof showed, and what that is worth on rows that nothing has seen."""
    line: dict[str, Any] = {"half": half, "case": name, "found": [], "named": False, "mended": False, "both": False}
    try:
        source, right, test_loss = published(PROGRAMS[name]) if half == "published" else planted(half, name)
        found = wp.diagnose(source)
    except LookupError as failed:
        return line | {"dropped": str(failed)}
    except wp.WellposedError as refused:  # before any training: a refusal names nothing
        return line | {"refused": str(refused)}
    line["found"] = [one.name for one in found if one.confidence >= LEAST]
    line["named"] = bool(right & set(line["found"]))
    try:
        found = wp.diagnose(source, prove=f"{seconds}s")
    except wp.WellposedError as refused:
        return line | {"refused": str(refused)}
    assert found.proof is not None
    proof, best = found.proof, found.proof.best
    if best is proof[0] and not best.gain.shown:
        return line | {"changes": [branch.says for branch in proof[1:]]}
    start = proof[0].start

    def after(branch: Branch) -> float:
        runs = (branch.start.go_on(branch.recipe, proof.epochs, 1000 + seed) for seed in range(fresh))
        return statistics.fmean(map(test_loss, runs))

    gain = (test_loss(start.here) if best is proof[0] else after(proof[0])) - after(best)
    kept = {"epochs": start.recipe.epochs, "schedule": start.recipe.schedule, "stopping": start.recipe.stopping}
    by = [
        one.name
        for one in found
        if one.confidence >= LEAST
        and best.says
        in {
            says
            for c in one.changes
            for says in (c.says, recipe_difference(start.recipe, c.recipe.replace(**kept)) or GO_ON)
        }
    ]
    mended = gain > 0
    return line | {
        "shown": best.says, "by": by, "gain": gain, "mended": mended, "both": mended and bool(right & set(by)),
        "epochs": proof.epochs, "seeds": len(proof[0].runs),
    }  # fmt: skip


def told(lines: Sequence[dict[str, Any]]) -> str:
    """The number, and what it is made of."""
    held = [line for line in lines if "dropped" not in line]
    out = [f"{len(held)} cases, {len(lines) - len(held)} dropped by their ground truth"]
    for title, part in (
        ("planted", [line for line in held if line["half"] != "published"]),
        ("published", [line for line in held if line["half"] == "published"]),
        ("together", held),
    ):
        shown = [line for line in part if "shown" in line]
        out += ["", f"{title}:"]
        out += [f"  {what}: {share(rate(sum(line[key] for line in part), len(part)))}" for what, key in (
            ("named", "named"), ("mended", "mended"), ("named and mended", "both"),
        )]  # fmt: skip
        out.append(
            f"  a shown change lowers the loss on unseen rows: {sum(x['mended'] for x in shown)} of {len(shown)}"
        )
        out.append(f"  nothing to try, or refused: {sum('refused' in line for line in part)} of {len(part)}")
    return "\n".join(out)


def run(minutes: float, seconds: float, fresh: int, seed: int) -> Iterator[dict[str, Any]]:
    """The cases that are begun within the minutes."""
    began = time.monotonic()
    for half, name in cases(seed):
        if time.monotonic() - began > 60 * minutes:
            return
        yield judged(half, name, seconds, fresh)


def main() -> None:
    """Run the cases, or show those that were run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--fresh", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default=None)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path)
    given = parser.parse_args()
    if given.show:
        print(told([json.loads(line) for line in given.show.read_text().splitlines()]))
        return
    data.use(given.data or data.DEFAULT)
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    for line in run(given.minutes, given.seconds, given.fresh, given.seed):
        lines.append(line)
        print(json.dumps(jsonable(line)), flush=True)
        if given.out:
            write_atomically(given.out, "".join(json.dumps(jsonable(one)) + "\n" for one in lines))
    print(told(lines))


if __name__ == "__main__":
    main()
