"""Live progress of a study: recipes done, best so far, time left; in a terminal, in a notebook, or nowhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from wellposed.core.progress import listened_to, reporting_to
from wellposed.core.signs import escape_html
from wellposed.study.budget import Budget

NO_BAR = ("dumb", "unknown")
"""What TERM says of a terminal that cannot move its cursor."""

Draw = Callable[[str, float, str], None]
"""Takes the phase, the share of the budget that is spent, and the state in words."""


@contextmanager
def show_progress(budget: Budget, note: Callable[[str], None] | None = None, quiet: bool = False) -> Iterator[None]:
    """Show what work inside the block reports where a notebook or a terminal watches, and nobody else is told of it.

    Args:
        note: prints a sentence that is said beside the bar: how the table was read, a device that cannot be used. Where no bar is
            drawn it gets only what must be said, such as the device. None prints nothing.
        quiet: draw nothing, whoever watches.
    """
    with ExitStack() as stack:
        draw: Draw | None = None
        shown = not quiet and not listened_to()
        if shown and in_notebook():
            draw = stack.enter_context(_notebook_line())
        elif shown and stderr_is_terminal():
            draw = stack.enter_context(_terminal_bar())
        if draw is not None or note is not None:
            stack.enter_context(reporting_to(Progress(budget, draw, note)))
        yield


def in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this process."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None) is not None


def stderr_is_terminal() -> bool:
    """Whether stderr is a terminal that can show a bar."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in NO_BAR


@contextmanager
def _terminal_bar() -> Iterator[Draw]:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars
    except ImportError:  # it comes with the command line
        yield lambda phase, share, said: None
        return
    columns = TextColumn("{task.description:<13}"), BarColumn(), TextColumn("{task.fields[said]}")
    apart = sys.stdout.isatty()  # what is printed into a file stays there
    with Bars(*columns, console=Console(stderr=True), transient=True, redirect_stdout=apart) as bars:
        task = bars.add_task("reading", total=1.0, said="")
        yield lambda phase, share, said: bars.update(task, description=phase, completed=share, said=said)


@contextmanager
def _notebook_line() -> Iterator[Draw]:
    handle = sys.modules["IPython"].display.display({"text/plain": "reading"}, raw=True, display_id=True)

    def draw(phase: str, share: float, said: str) -> None:
        text = f"{phase} · {said}"
        page = f'<progress max="1" value="{share:.3f}"></progress> {escape_html(text)}'
        handle.update({"text/plain": f"{share:.0%} {text}", "text/html": page}, raw=True)

    try:
        yield draw
    finally:
        handle.update({"text/plain": ""}, raw=True)


class Progress:
    """The state of a study, from the events of the library."""

    def __init__(self, budget: Budget, draw: Draw | None, note: Callable[[str], None] | None = None) -> None:
        self.budget, self.draw, self.note = budget, draw, note
        self.phase, self.share = "reading", 0.0
        self.recipes, self.best, self.began = 0, float("nan"), time.monotonic()
        self.drawn: tuple[str, float, str] | None = None

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        """Take an event of the library."""
        if self.note is not None and (event == "note" or (event == "reading" and self.draw is not None)):
            self.note(fields["text"])
        elif event == "phase":
            self.phase = fields["text"]
        elif event == "trial":
            self.recipes += fields["trial"].kind in ("baseline", "search")
            self.best, self.share = fields["best"], min(1.0, fields["spent"])
        state = self.phase, self.share, self.said()
        if self.draw is not None and state != self.drawn:
            self.draw(*state)
            self.drawn = state

    def said(self) -> str:
        """``12 recipes · best 0.912 · 0:41 left``."""
        parts = [f"{self.recipes} recipes"]
        if self.best == self.best:
            parts.append(f"best {self.best:.4g}")
        if self.budget.unit == "seconds" and not self.budget.none:
            left = max(0, round(self.budget.amount - (time.monotonic() - self.began)))
            parts.append(f"{left // 60}:{left % 60:02d} left")
        return " · ".join(parts)
