"""Kill `wellposed improve` at a hundred random moments, resume it each time, and count what was lost.

    python benchmarks/kills.py [--kills 100] [--seed 0]

Studies of a small table, each killed with SIGKILL again and again until it ends by itself. Every finished trial must be there
afterwards, unchanged; Optuna's journal must hold the same trials as the state; and the record of the finished study must be that
of one that was not disturbed, bit for bit. Expected: 0 lost, 0 broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import optuna  # noqa: F401 - what the forks need is imported before them
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import killing
import wellposed.cli.improve
import wellposed.reporting.html
import wellposed.search.improve  # noqa: F401


def main() -> None:
    """Kill, resume, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = killing.kill(Path(folder), given.kills, given.seed)
    print(f"{found.kills} kills of {found.studies} studies in {time.monotonic() - began:.0f} s")
    print(
        f"finished trials on disk when a process was killed, over all kills: {found.trials}; lost afterwards: {found.lost}"
    )
    print(f"broken: {len(found.broken)}", *found.broken, sep="\n")
    if found.lost or found.broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
