"""Long work reports to one replaceable sink. The library itself never prints.

A sink is any callable that takes an event name and its fields; the default takes nothing and does nothing. The
command line installs one that draws a bar in a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Sink = Callable[[str, dict[str, Any]], None]


def silent(event: str, fields: dict[str, Any]) -> None:
    """The default sink: says nothing."""


_sink: ContextVar[Sink] = ContextVar("wellposed_progress", default=silent)


def emit(event: str, **fields: Any) -> None:
    _sink.get()(event, fields)


def listened_to() -> bool:
    """Whether somebody takes the events already."""
    return _sink.get() is not silent


@contextmanager
def reporting_to(sink: Sink) -> Iterator[None]:
    """Send events to ``sink`` inside the block."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)
