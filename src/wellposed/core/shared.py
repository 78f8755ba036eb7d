"""What all threads of a process share: random states, the filters of warnings, torch's threads, matplotlib's style.

Whatever changes one of them for a while does so inside `exclusively`, so that wellposed gives the same results in several Python
threads at once as in one after another. The turn is handed on after each epoch; user's code outside wellposed is not waited for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator

_turn = threading.RLock()


@contextlib.contextmanager
def exclusively() -> Iterator[None]:
    """Inside the block no other thread of this process is inside one; the same thread may be so several times."""
    with _turn:
        # A new thread takes over how many threads torch has from whoever asks first, which must not be in another one's block.
        if (torch := sys.modules.get("torch")) is not None:  # not imported for what does without it
            torch.get_num_threads()
        yield


@contextlib.contextmanager
def warnings_apart(record: bool = False) -> Iterator[list[warnings.WarningMessage] | None]:
    """`warnings.catch_warnings` that leaves no other thread's filters behind."""
    with exclusively(), warnings.catch_warnings(record=record) as seen:
        yield seen


@contextlib.contextmanager
def silenced(name: str) -> Iterator[None]:
    """Inside the block the logger of a library says nothing: what it would say is in the exception that it raises."""
    logger = logging.getLogger(name)
    with exclusively():
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


@contextlib.contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Let torch use so many threads inside the block."""
    import torch

    with contextlib.ExitStack() as stack:
        with exclusively():
            if (before := torch.get_num_threads()) != count:
                stack.enter_context(exclusively())  # the turn is kept, and none is needed where nothing changes
                stack.callback(torch.set_num_threads, before)
                torch.set_num_threads(count)
        yield


def _forked() -> None:
    """A turn that another thread had at a fork would never end in the child, which has no such thread."""
    global _turn
    if _turn.acquire(blocking=False):
        _turn.release()
    else:
        _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
