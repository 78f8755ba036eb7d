"""Judge `wp.diagnose` by planted cases.

    python -m benchmarks.planted --part tuned|frozen|frozen_two [--seeds 5] [--kinds a,b] [--least 0.5] [--processes 1]
                                 [--json FILE] [--markdown FILE] [--data ../shared/data] [--truth] [--curves FOLDER]

``tuned``: the kinds that rules may be tuned on, with tuning parameters. ``frozen``: the other kinds, and the tuned kinds with test
parameters, reported apart and together. ``--truth`` judges nothing: it only says which ground truths hold. Cases whose
ground truth fails are dropped and counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.planted import data
from benchmarks.planted.case import Kinds
from benchmarks.planted.judging import Work, judged, prepare
from benchmarks.planted.parts import PARTS, kinds_of
from benchmarks.planted.score import Judged, markdown, score

from wellposed.core.files import jsonable, write_atomically


def works(part: str, seeds: int, only: set[str], least: float, truth_only: bool, curves: str | None) -> Iterator[Work]:
    """Every case of a part."""
    for half, side in PARTS[part]:
        kinds: Kinds = kinds_of(half)
        for name in kinds:
            if not only or name in only:
                yield from ((half, side, name, seed, least, truth_only, curves) for seed in range(seeds))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PARTS), default="tuned")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kinds", default="", help="names, separated by commas")
    parser.add_argument("--least", type=float, default=0.5, help="confidence from which a finding counts as claimed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--data", default=None, help=f"folder of real data; {data.DEFAULT} by default")
    parser.add_argument("--curves", default=None, help="write the losses of each case to this folder")
    parser.add_argument("--truth", action="store_true", help="only check the ground truths")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    given = arguments()
    data.use(given.data or data.DEFAULT)
    only = set(filter(None, given.kinds.split(",")))
    work = list(works(given.part, given.seeds, only, given.least, given.truth, given.curves))
    if not work:
        raise SystemExit(f"There is no kind {given.kinds!r} in this part.")
    with ProcessPoolExecutor(
        given.processes, mp_context=get_context("spawn"), initializer=prepare, initargs=(given.data,)
    ) as pool:
        rows = list(pool.map(judged, work))
    halves = {half: [row for row in rows if row.half == half] for half in dict.fromkeys(row.half for row in rows)}
    scored = {half: score(part) for half, part in halves.items()}
    if len(halves) > 1:
        scored["together"] = score(rows)
    text = told(rows) if given.truth else "\n\n".join(markdown(found, half) for half, found in scored.items())
    print(text)
    if given.markdown:
        write_atomically(given.markdown, text + "\n")
    if given.json:
        whole = {"part": given.part, "seeds": given.seeds, "least": given.least, "scores": scored}
        whole["cases"] = [row.to_dict() for row in rows]
        write_atomically(given.json, json.dumps(jsonable(whole), indent=1) + "\n")


def told(rows: list[Judged]) -> str:
    """Which ground truths hold, and why not."""
    lines = []
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        kept = sum(not row.dropped for row in mine)
        seconds = sum(row.seconds for row in mine) / len(mine)
        lines.append(f"{kind}: {kept} of {len(mine)} hold, {seconds:.2f} s each")
        lines += [f"    seed {row.seed}: {row.dropped}" for row in mine if row.dropped]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
