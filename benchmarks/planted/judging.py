"""One case made, its ground truth checked, and findings asked for: what a process of the pool does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.planted import data
from benchmarks.planted.parts import kinds_of
from benchmarks.planted.score import Judged

import wellposed as wp
from wellposed.core.files import write_atomically

Work = tuple[str, str, str, int, float, bool, str | None]
"""Half, side, kind, seed, least confidence, whether only the truth is asked for, and the folder that curves go to."""


def prepare(root: str | None) -> None:
    """What a process needs before its first case."""
    torch.set_num_threads(1)
    if root is not None:
        data.use(root)


def write_curves(path: Path, source: Any) -> None:
    """Both losses of a watch, a run or logs, an epoch a line, as any tool reads them."""
    history = source if isinstance(source, dict) else source.history
    train, valid = (
        history[name] for name in (("loss", "val_loss") if "val_loss" in history else ("train_loss", "valid_loss"))
    )
    lines = [
        "epoch,train_loss,val_loss",
        *(f"{i},{a},{b}" for i, (a, b) in enumerate(zip(train, valid, strict=True), 1)),
    ]
    write_atomically(path, "\n".join(lines) + "\n")


def judged(work: Work) -> Judged:
    """Make a case, check its ground truth, and ask for findings. Every failure is kept with the case."""
    half, side, name, seed, least, truth_only, curves = work
    case = kinds_of(half)[name].case(seed, side)
    began, found, error = time.perf_counter(), {}, ""
    try:
        source = case.make()
        seconds = time.perf_counter() - began
        dropped = case.truth()
    except Exception as raised:  # an error of the benchmark's own: told beside the case, and the others go on
        source, seconds = None, time.perf_counter() - began
        dropped = f"could not be made: {type(raised).__name__}: {raised}"
    if not truth_only and not dropped:
        try:
            found = {f.name: float(f.confidence) for f in wp.diagnose(source) if f.confidence >= least}
        except Exception as raised:  # a judge that fails has found nothing, and the table says so
            error = f"{type(raised).__name__}: {raised}"
        if curves:
            write_curves(Path(curves) / f"{name}.{seed}.csv", source)
    label = f"{half}, {side} parameters"
    return Judged(name, label, case.group, seed, case.causes, case.allowed, found, dropped, error, seconds, case.first)
