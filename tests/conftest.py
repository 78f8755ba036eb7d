"""One thread a test process: two processes on two cores, and threads that wait for a busy core are many times slower."""

from __future__ import annotations

import math
import os
import random
import signal
import tempfile
import time

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

# What this process ignores, a program that it starts ignores too: under nohup, or behind a shell's "&", no Ctrl-C would reach the
# programs that tests interrupt.
for number, handler in (
    ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)) if os.name == "posix" else ()
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


# A cluster that one test process starts writes its address into this folder, and any ``ray.init()`` on the machine that finds it
# there connects to it, also while it is being taken down. The path is short: a socket's may have no more than 107 bytes.
_ray_folder = tempfile.TemporaryDirectory(
    prefix="ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp" if os.name == "posix" else None), ignore_cleanup_errors=True
)
os.environ["RAY_TMPDIR"] = _ray_folder.name
# Ray's workers give way to every other process of the machine, 15 steps of nice: beside two busy tests they stand nearly still.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws from the global random states, it draws alike alone, after any other test, and in any order."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - this state is the one that is meant
    torch.manual_seed(0)


def pytest_unconfigure() -> None:
    _ray_folder.cleanup()


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks that go on with the work of this process alone, so that a budget in seconds is spent alike on a busy machine. The
    process begins with the test, since a command counts what its process did before it."""
    work, began = time.process_time, time.process_time()
    monkeypatch.setattr(time, "monotonic", work)
    monkeypatch.setattr(time, "perf_counter", work)
    monkeypatch.setattr(time, "process_time", lambda: work() - began)


@pytest.fixture(autouse=True)
def _watches_look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine two seconds are soon over, and a watch would pass over epochs."""
    monkeypatch.setattr("wellposed.training.watch.FREE", math.inf)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Two workers that name a test differently end the whole run, without saying which part of the name it is."""
    if " at 0x" in item.nodeid:
        raise pytest.UsageError(
            f"{item.nodeid} has an address in its name, which is another one in each process. Give ids=."
        )
