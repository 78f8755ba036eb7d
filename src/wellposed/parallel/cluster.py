"""Jobs trained on a Ray cluster: the problem once in the object store, shares of jobs as tasks that any worker can repeat."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from wellposed.core.errors import InputError, ProblemError, TrainingError, first_line, require
from wellposed.core.progress import emit, reporting_to
from wellposed.core.reading import open_regular
from wellposed.parallel import transfer
from wellposed.parallel.jobs import Conditions, Job, Outcome, Outcomes
from wellposed.training.problem import Problem

ENGINE = "ray"
RETRIES = 3
"""Times that a share whose worker or node died is trained again: nodes that can be taken away at any time often are."""
LONGEST_ADDRESS = 256  # bytes of a machine's name and a port
LOT = 64
"""Jobs of one task, at most: what is lost with a worker, and as many as a population gains from."""


def train_on_ray(problem: Problem, jobs: Sequence[Job], conditions: Conditions) -> list[Outcome]:
    """Train every job as part of some Ray task; see `wellposed.parallel.executors.train_jobs`.

    If Ray is not connected yet, ``ray.init()`` finds the cluster of Ray's own configuration (``RAY_ADDRESS``, or the latest
    started on this machine), else it starts one here. The connection stays, so that the next call finds the problem where
    it is; ``ray.shutdown()`` ends it. A task takes one CPU and one thread; with ``device="cuda"`` also one GPU, and ``auto``
    is the CPU. The deadline travels as seconds left. The nodes need the same wellposed and the modules that the problem
    is written in; only what stands in the script itself, or in a FILE.py:NAME, is sent along.

    Raises:
        InputError: there is no such device, no node of the cluster has it, or the cluster has ended.
        ProblemError: the problem cannot be sent.
        MissingExtra: Ray is not installed.
    """
    ray = require("ray", "ray")
    kind = ray_resource(conditions.device)
    connect(ray)
    resources = ray.cluster_resources()
    count = int(resources.get("CPU" if kind != "cuda" else "GPU", 0))
    if kind == "cuda" and not count:
        raise InputError('No node of the Ray cluster has a GPU; use device="cpu", or add a node that has one.')
    count = max(1, count)
    several = max(min(count, len(jobs)), math.ceil(len(jobs) / LOT))
    waiting = transfer.shares(jobs, several, replace(conditions, device=kind, done=None))
    task = ray.remote(num_cpus=1, num_gpus=int(kind == "cuda"), max_retries=RETRIES)(train_remotely)
    own = transfer.by_value(require("ray.cloudpickle", "ray"), problem, jobs)
    with own, contextlib.redirect_stdout(sys.stdout and Ours(sys.stdout)):  # None where it was closed
        told = Outcomes(len(jobs), conditions.done)
        return Tasks(ray, task, problem, store_problem(ray, problem), jobs, told, count).train(waiting)


def ray_resource(device: str | torch.device) -> str:
    """``cpu``, which is ``auto``, or ``cuda``: which card it is there, Ray says.

    Raises:
        InputError: torch does not know the device, or Ray does not hand it out.
    """
    if device == "auto":
        return "cpu"  # a card that was not asked of Ray may be somebody else's
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = str(device)
    if kind not in ("cpu", "cuda"):
        raise InputError(f"There is no device {kind!r} on a Ray cluster; use auto, cpu or cuda.")
    return kind


def connect(ray: ModuleType) -> None:
    """Connect to Ray where that has not happened, without a word of its own; ``print`` and SIGTERM stay whose they were."""
    if ray.is_initialized():
        return
    refuse_dead_cluster()
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # Ray would put a print of its own in place of Python's
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except OSError as error:
        raise InputError(
            f"Ray did not start: {first_line(error)}. It keeps a token in the home folder and its files in RAY_TMPDIR; "
            "give it folders that it can write, or use --engine processes."
        ) from error
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGTERM, before)  # Ray would exit in the middle of a study


def refuse_dead_cluster() -> None:
    """Refuse an address of Ray's at which nobody answers: Ray would try for ten minutes, and then end the process.

    Raises:
        InputError: nobody answers.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    source, remedy = "RAY_ADDRESS names", "Start it, or set RAY_ADDRESS=local for one that is started here."
    if address in ("", "auto"):  # the latest that `ray start` has started on this machine and nobody has stopped
        folder = os.environ.get("RAY_TMPDIR") or (sys.platform == "linux" and os.environ.get("TMPDIR")) or "/tmp"
        file = Path(folder, "ray", "ray_current_cluster")
        if file.is_file():
            with open_regular(file, InputError) as opened:
                address = opened.read(LONGEST_ADDRESS).decode("utf-8", "replace").strip()
        source, remedy = f"{file} names", "`ray stop` forgets it; RAY_ADDRESS=local starts one here."
    host, _, port = address.rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        return  # none, one to start here, or one of Ray's client, which waits for half a minute
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=30).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{source} a Ray cluster at {address}, where nobody answers ({first_line(error)}). {remedy}"
        ) from error


class Ours(io.TextIOBase):
    """Standard output without what Ray's threads print there of workers that died, whatever it was told: that is logged."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """To the log in a thread of Ray's, else to where it belongs."""
        if threading.current_thread().name.startswith("ray_"):
            logging.getLogger("ray").info(text.rstrip())
            return len(text)
        return int(self._stream.write(text))

    def flush(self) -> None:
        self._stream.flush()


_stored: weakref.WeakKeyDictionary[Problem, tuple[str, Any]] = weakref.WeakKeyDictionary()


def store_problem(ray: ModuleType, problem: Problem) -> Any:
    """Where the problem lies in the object store; put there at the first call, and kept as long as the problem."""
    session = ray.get_runtime_context().get_job_id()
    known = _stored.get(problem)
    if known is None or known[0] != session:
        known = session, ray.put(transfer.pack_problem(problem, require("ray.cloudpickle", "ray"), ENGINE))
        _stored[problem] = known
    return known[1]


RemoteAnswer = tuple[list[tuple[int, bytes]], bool, list[str]]
"""Each outcome with its place, whether an interrupt ended the share, and notes for the user."""


def train_remotely(parcel: transfer.Parcel, share: transfer.WorkerShare, left: float) -> RemoteAnswer:
    """The task: train a share within the seconds that are left."""
    share = replace(share, conditions=replace(share.conditions, deadline=time.monotonic() + left))
    told: list[tuple[int, bytes]] = []
    notes: list[str] = []

    def note(event: str, fields: dict[str, Any]) -> None:
        if event == "note":
            notes.append(fields["text"])

    with reporting_to(note):
        ended = transfer.train_share(transfer.unpack_problem(parcel), share, lambda *outcome: told.append(outcome))
    return told, ended, notes


@dataclass
class Tasks:
    """Tasks that are under way, and the outcomes so far."""

    ray: ModuleType
    task: Any
    problem: Problem
    parcel: Any
    jobs: Sequence[Job]
    told: Outcomes
    count: int
    running: dict[Any, transfer.WorkerShare] = field(default_factory=dict)
    interrupted: bool = False

    def train(self, shares: Sequence[transfer.WorkerShare]) -> list[Outcome]:
        """All outcomes in the order of the jobs; after Ctrl-C those that there are.

        Raises:
            KeyboardInterrupt: Ctrl-C came when all jobs had ended and been told; no run could say ``interrupted``.
        """
        waiting = list(reversed(shares))
        try:
            while (waiting or self.running) and not self.interrupted:
                # No more than can run, so that each leaves with the time that is left then.
                while waiting and len(self.running) < self.count:
                    share = waiting.pop()
                    left = share.conditions.deadline - time.monotonic()
                    self.running[self.task.remote(self.parcel, share, left)] = share
                ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=1.0)
                for reference in ready:
                    self.take(reference)
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            for reference in self.running:
                self.ray.cancel(reference, force=True)
        return self.told.so_far(self.interrupted)

    def take(self, reference: Any) -> None:
        """What a task returned, or why it did not."""
        share = self.running.pop(reference)
        errors = self.ray.exceptions
        try:
            told, interrupted, notes = self.ray.get(reference)
        except errors.RayTaskError as error:
            raise original_error(error) from error
        except errors.RayError as error:
            said = f"{1 + RETRIES} Ray workers that trained this job died: {' '.join(str(error).split())}"
            for place in share.places:
                self.told.finish_job(place, TrainingError(said))
            return
        for text in notes:
            emit("note", text=text)
        for place, answer in told:
            self.told.finish_job(place, transfer.unpack_outcome(answer, self.problem, self.jobs[place], ENGINE))
        self.interrupted = self.interrupted or interrupted


def original_error(error: Any) -> BaseException:
    """What a task raised, as it was raised there, with where it happened."""
    cause: BaseException = getattr(error, "cause", error)
    if isinstance(cause, ModuleNotFoundError):
        return ProblemError(
            f"A Ray worker lacks the module {cause.name!r}. Install it on the nodes, or send it along: "
            'ray.init(runtime_env={"py_modules": [...]}) before training.'
        )
    cause.add_note(f"In a Ray worker:\n{error}")
    return cause
