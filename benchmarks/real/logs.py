"""Public training logs, read and judged, against what a person wrote down for each before anything was run.

    python benchmarks/real/logs.py FOLDER [--answers FILE ...] [--half SET] [--all]

FOLDER holds the files; each answer names one of them, and says how many runs it holds, the first and the last value of the losses
of both sides, the axis, and which verdicts are right. ``logs.jsonl`` beside this script lists sources and answers; the files
themselves are not ours to give. A log is read right if it is refused where it has no curves, and else if runs, columns and axis are
those of the answer. Of a log with curves the verdict is right if the first finding is among the answer's and none is among those
that must not be said, or if it is refused where the answer would let it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wellposed as wp
from wellposed.core.errors import WellposedError
from wellposed.logs import Table, read_each
from wellposed.logs.column_names import guess
from wellposed.logs.folders import read_path
from wellposed.logs.points import restarts
from wellposed.logs.shapes import one_side_a_column, runs, wide
from wellposed.logs.sources import numbers_of

ANSWERS = Path(__file__).with_name("logs.jsonl")
Z = 1.96


def main() -> None:
    """Print the two shares and the table of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--answers", type=Path, nargs="+", default=[ANSWERS])
    parser.add_argument("--half", default="tune", help="which set of the answers is judged")
    parser.add_argument("--all", action="store_true", help="list the logs that are right, too")
    given = parser.parse_args()
    answers = [json.loads(line) for path in given.answers for line in path.read_text(encoding="utf-8").splitlines()]
    halves = [*dict.fromkeys(a["half"] for a in answers)]
    if given.half not in halves:
        parser.error(f"no answer is of the set '{given.half}'; there are {', '.join(halves)}")
    rows = [judged(given.folder / Path(a["path"]).name, a) for a in answers if a["half"] == given.half]
    for row in rows:
        if given.all or not (row["read"] and row["verdict"]):
            print(f"{row['id']:>4} {'read' if row['read'] else 'READ WRONG':10} {'right' if row['verdict'] else 'WRONG':6} "
                  f"{row['format'][:40]:40} {row['why']}")  # fmt: skip
    for what, judged_on in (("read", rows), ("verdict", [row for row in rows if row["curves"]])):
        right = sum(row[what] for row in judged_on)
        low, high = wilson(right, len(judged_on))
        print(
            f"{what} right: {right} of {len(judged_on)}, {right / max(len(judged_on), 1):.0%} ({low:.0%} to {high:.0%})"
        )


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score."""
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, Z * Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    return middle - half, middle + half


def judged(path: Path, answer: dict[str, Any]) -> dict[str, Any]:
    """Whether one log is read right, and its verdict right, and what is wrong."""
    wrong = list(misread(path, answer))
    names = verdicts(path)
    first = [found[0] for found in names] or ["refused"]
    right = first[0] in answer["verdict"] and not {name for found in names for name in found} & set(answer["not"])
    right = right or (not names and may_refuse(answer))
    if not right:
        wrong.append(f"verdict {names[:3] or 'refused'}, not {answer['verdict']}")
    read = not any(not one.startswith("verdict") for one in wrong)
    curves = not answer["reading"]["refused"]
    return {
        "id": answer["id"], "format": answer["format"], "read": read, "verdict": right, "curves": curves, "why": "; ".join(wrong),
    }  # fmt: skip


def may_refuse(answer: dict[str, Any]) -> bool:
    """Whether a person would refuse the log too, since it has no curves or hardly any."""
    reading = answer["reading"]
    return bool(reading["refused"] or "refus" in reading["note"].lower() or "refused" in answer["verdict"])


def verdicts(path: Path) -> list[list[str]]:
    """The findings of each run, the worst run first; none where the log is refused."""
    try:
        return [one.names for one in wp.diagnose_many([path]).worst_first]
    except WellposedError:
        return []


def misread(path: Path, answer: dict[str, Any]) -> Iterator[str]:
    """What is read otherwise than the answer says."""
    right = answer["reading"]
    allowed = may_refuse(answer)
    try:
        tables = [one for one in read_each(path) if isinstance(one, Table)]
    except WellposedError as error:
        if not allowed:
            yield f"refused: {str(error)[:150]}"
        return
    if not tables:
        if not allowed:
            yield "refused in every run"
        return
    if right["refused"]:
        if "tolerable" not in right["note"]:
            yield f"read as {dict(tables[0].facts['reading'].taken)}, should be refused"
        return
    if len(tables) != answer["runs"]:
        yield f"{len(tables)} runs, not {answer['runs']}"
    reading = tables[0].facts["reading"]
    if right["axis"] and reading.axis != right["axis"] and not {"epoch", "step"} <= reading.taken.keys():
        yield f"axis {reading.axis}, not {right['axis']}"
    each = ends(path)
    whole = {side: (each[0][side][0], each[-1][side][1]) for side in each[0] if side in each[-1]} if each else {}
    for side in ("train", "valid"):
        expected = [right[f"first_{side}"], right[f"last_{side}"]]
        if right[f"points_{side}"] == 0 and f"{side}_loss" in reading.taken and "stands_in" not in tables[0].facts:
            yield f"{side} is '{reading.taken[f'{side}_loss']}', and there is none"
        found = [one[side] for one in (*each, whole) if side in one]
        met = any(all(b is None or alike(a, b) for a, b in zip(one, expected, strict=True)) for one in found)
        if not met and expected != [None, None]:
            yield f"{side} from and to {found[-1] if found else 'missing'}, not {expected}"


def ends(path: Path) -> list[dict[str, tuple[float, float]]]:
    """The first and the last value of each side in each run, as they stand in the file."""
    found: list[dict[str, tuple[float, float]]] = []
    for log in (one_side_a_column(run) for one in read_path(path) for run in runs(wide(one))):
        try:
            raw, _ = numbers_of(log, guess(log.columns))
        except WellposedError:
            continue
        for a, b in restarts(raw):
            one: dict[str, tuple[float, float]] = {}
            for side in ("train", "valid"):
                kind = "loss" if f"{side}_loss" in raw else "metric"
                columns = [cells[a:b] for name, cells in raw.items() if name.partition("/")[0] == f"{side}_{kind}"]
                known = [[cell for cell in cells if cell is not None and math.isfinite(cell)] for cells in columns]
                if known and all(known):
                    one[side] = sum(cells[0] for cells in known), sum(cells[-1] for cells in known)
            found += [one] if one else []
    return found


def alike(found: float, right: float) -> bool:
    """Whether two values are one, up to the digits that were printed; a perplexity and its logarithm are one too."""
    return any(
        math.isclose(one, right, rel_tol=1e-3, abs_tol=0.6 * 10.0 ** -min(len(repr(right).partition(".")[2]), 6))
        for one in (found, math.log(found) if found > 0 else math.nan, math.exp(min(found, 50.0)))
    )


if __name__ == "__main__":
    main()
