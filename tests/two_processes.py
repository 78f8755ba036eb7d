"""Two processes of a test that train together, each a rank of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from {module} import work
work(int(sys.argv[2]), sys.argv[3])
"""


def found_by_both(folder: Path, module: str, **environment: str) -> list[dict[str, Any]]:
    """What each of two processes left in ``RANK.pt``; both run ``work(rank, folder)`` of a module of tests.

    Args:
        environment: of both, beside the rank; a Python path that finds what this process finds is given.
    """
    (folder / "worker.py").write_text(WORKER.format(module=module))
    shared = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment}
    call = [sys.executable, str(folder / "worker.py"), str(Path(__file__).parent)]
    workers = [
        subprocess.Popen(
            [*call, str(rank), str(folder)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=150)[1].decode() for process in workers]
    finally:
        for process in workers:
            process.kill()
    assert all(process.returncode == 0 for process in workers), errors[0][-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
