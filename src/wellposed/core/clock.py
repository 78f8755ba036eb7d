"""Where the time of a study goes: seconds by stage and activity, which add up to the wall clock.

A clock is open in the context of one thread, and at each moment exactly one pair of stage and activity is running on it: what a
nested `spent_on` takes is taken from what surrounds it. Other threads have no clock, so that work beside counts nowhere twice;
the processor time is that of the whole process, threads of the kernel included.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from wellposed.core.progress import emit

PYTHON, IMPORTS, SAMPLER, DIAGNOSIS, WRITING = "Python", "imports", "sampler", "diagnosis", "writing"
TRAINING, BATCHES, EVALUATION = "training", "batches", "evaluation"
"""What a study is for: gradients and steps, what a population does in Python around each of them, and scores. Everything else but
the confirmation is its overhead."""
CONFIRMATION, PACE = "confirmation", "pace"
"""The stage that is counted whole, and that of trainings that nobody keeps."""


class Clock:
    """Seconds of the wall and of the processor since ``began``, by stage, activity and its object (a shape of networks).

    Args:
        began: a value of ``time.monotonic()``; before it was opened, where the clock of a command starts with its process.
        outer: a clock that goes on, and has what this one has too.
    """

    def __init__(self, began: float, outer: Clock | None = None) -> None:
        self.began, self.outer = began, outer
        self.spent: defaultdict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.now = ("start", PYTHON, "")
        since = time.monotonic() - began
        self._last = (began, max(time.process_time() - since, 0.0))

    def turn(self, stage: str, activity: str, of: str) -> None:
        """Charge what has passed since the last turn to what was running, and let this run."""
        wall, cpu = time.monotonic(), time.process_time()
        seconds = self.spent[self.now]
        seconds[0] += wall - self._last[0]
        seconds[1] += cpu - self._last[1]
        self.now, self._last = (stage, activity, of), (wall, cpu)
        if self.outer is not None:
            self.outer.turn(stage, activity, of)

    def told(self) -> list[dict[str, Any]]:
        """The rows of ``clock`` in ``study.json``, in the order in which they first ran."""
        self.turn(*self.now)
        keys = ("stage", "activity", "of", "seconds", "cpu")
        return [dict(zip(keys, (*name, *spent), strict=True)) for name, spent in self.spent.items()]


_clock: ContextVar[Clock | None] = ContextVar("wellposed_clock", default=None)


@contextmanager
def clock_open(began: float | None = None) -> Iterator[Clock]:
    """The clock of the block: the one that is open, or a new one that began then (None: now), if that is later."""
    if (outer := _clock.get()) is not None and (began is None or began <= outer.began):
        yield outer
        return
    token = _clock.set(opened := Clock(time.monotonic() if began is None else began, outer))
    around = None if outer is None else outer.now
    opened.turn(*opened.now)
    try:
        yield opened
    finally:
        _clock.reset(token)
        opened.turn(*(around or opened.now))


def enter_stage(name: str) -> None:
    """Say which stage begins, and charge to it what comes."""
    emit("phase", text=name)
    if (clock := _clock.get()) is not None:
        clock.turn(name, clock.now[1], clock.now[2])


class spent_on:
    """Charge the block to an activity (one of the constants above) of the stage that runs; nothing where no clock is open."""

    __slots__ = ("activity", "before", "clock", "of")

    def __init__(self, activity: str, of: str = "") -> None:
        self.activity, self.of = activity, of

    def __enter__(self) -> None:
        self.clock = _clock.get()
        if self.clock is not None:
            self.before = self.clock.now[1:]
            self.clock.turn(self.clock.now[0], self.activity, self.of)

    def __exit__(self, *error: object) -> None:
        if self.clock is not None:
            self.clock.turn(self.clock.now[0], *self.before)
