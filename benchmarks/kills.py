"""Kill `wellposed improve` before every one of its writes, or fill its disk there, resume it, and count what was lost or differs.

    python benchmarks/kills.py [--every 1] [--engine auto]

What lies on disk changes by writes alone, so that this is every moment at which a kill could come. Each study of a small table,
cut and resumed, must leave every file as one that was not disturbed leaves it, bit for bit, but for what the clock says.
Expected: 257 writes or so, two ways each, 0 wrong; twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import killing


def main() -> None:
    """Cut, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="only each so many-th write")
    parser.add_argument("--engine", default="auto")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        killing.warm_up(folder)
        wanted, writes = killing.undisturbed(folder, engine=given.engine)
        places = [(way, at) for at in range(1, writes + 1, given.every) for way in killing.WAYS]
        found = killing.cut_everywhere(folder, wanted, writes, places, engine=given.engine)
    print(f"{found.attempts} studies cut, of {found.writes} writes each, in {time.monotonic() - began:.0f} s")
    print(f"finished trials on disk when a study was cut, over all of them: {found.trials}")
    print(f"wrong: {len(found.wrong)}", *found.wrong, sep="\n")
    if found.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
