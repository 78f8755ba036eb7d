"""Live progress in a terminal: recipes done, best so far, time left. A pipe gets only notes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wellposed.cli.terminal import complain, stderr_is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from wellposed.study.budget import Budget


@contextmanager
def show_progress(budget: Budget, quiet: bool) -> Iterator[None]:
    """Show what long work reports; ``quiet`` shows notes only."""
    from wellposed.core.progress import reporting_to

    if quiet or not stderr_is_terminal():
        with reporting_to(show_notes):
            yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description:<13}"), BarColumn(), TextColumn("{task.fields[said]}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar, reporting_to(Bar(bar, budget)):
        yield


def show_notes(event: str, fields: dict[str, Any]) -> None:
    """Only what must be said: a device that cannot be used, say."""
    if event == "note":
        complain(fields["text"])


class Bar:
    """Draws the state of a study."""

    def __init__(self, bar: Progress, budget: Budget) -> None:
        self.bar, self.budget = bar, budget
        self.task: TaskID = bar.add_task("reading", total=1.0, said="")
        self.recipes, self.best, self.began = 0, float("nan"), time.monotonic()

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        """Take an event of the library."""
        if event in ("note", "reading"):
            complain(fields["text"])  # above the bar, which has taken stderr
        elif event == "phase":
            self.bar.update(self.task, description=fields["text"])
        elif event == "trial":
            self.recipes += fields["trial"].kind in ("baseline", "search")
            self.best = fields["best"]
            self.bar.update(self.task, completed=min(1.0, fields["spent"]))
        self.bar.update(self.task, said=self.said())

    def said(self) -> str:
        """``12 recipes · best 0.912 · 0:41 left``."""
        parts = [f"{self.recipes} recipes"]
        if self.best == self.best:
            parts.append(f"best {self.best:.4g}")
        if self.budget.unit == "seconds" and not self.budget.none:
            left = max(0, round(self.budget.amount - (time.monotonic() - self.began)))
            parts.append(f"{left // 60}:{left % 60:02d} left")
        return " · ".join(parts)
