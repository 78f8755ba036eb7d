"""Jobs trained by several processes on this machine, each with one thread and a share of the jobs.

On Linux a worker is a fork: it has the problem already, whatever its parts are (lambdas, classes of a script), and shares the
memory of its rows. A fork is safe here because a worker sets torch to one thread before it computes: the pool of threads that
OpenMP keeps does not survive a fork, and with more than one thread the first product would wait for it for ever. Elsewhere,
and where a GPU has been used or is to be used, a worker is a fresh interpreter, and the problem is sent to it by cloudpickle.
"""

from __future__ import annotations

import _thread
import ctypes
import json
import math
import multiprocessing as mp
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch

from wellposed.core.clock import TRAINING, spent_on
from wellposed.core.errors import InputError, TrainingError, require
from wellposed.core.progress import emit, reporting_to
from wellposed.core.shared import warnings_apart
from wellposed.parallel import transfer
from wellposed.parallel.jobs import Conditions, Job, Outcome, Outcomes
from wellposed.parallel.population.compiled import kernel
from wellposed.training.device import resolve_device
from wellposed.training.problem import Problem

ENGINE = "processes"
TRIES = 2
"""A share whose worker died is trained again once: what kills a worker twice would kill it again."""
PATIENCE = 10.0
"""Seconds that workers get after Ctrl-C to hand over what they have: an epoch is not waited for, a batch is."""
ON_ONE_GPU = 4
"""Processes on one GPU: each keeps half a gigabyte of its memory for itself."""
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask to end. A terminal, and a cluster that takes its machine back, send them to parent and workers alike."""
PR_SET_PDEATHSIG = 1
"""Number of the request to Linux for a signal when the parent dies."""
FRESH = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from wellposed.parallel.processes import serve; serve()"
)


def train_in_processes(
    problem: Problem,
    jobs: Sequence[Job],
    conditions: Conditions,
    workers: int | None = None,
    fork: bool | None = None,
) -> list[Outcome]:
    """Train every job in some worker; see `wellposed.parallel.executors.train_jobs`.

    Each outcome is told as it comes. A worker that dies is noticed, and what it had not told is trained again in a new one,
    once; without a deadline among the whole share, so that a death changes nothing but the time. A copy of ``cull`` judges
    each worker's share; what it remembers stays there.

    Args:
        workers: how many processes, >= 1; None takes as many as there are cores.
        fork: whether workers are forks; None does so where it is safe.
    Raises:
        InputError: this system has neither way.
        ProblemError, MissingExtra: workers are fresh interpreters, and the problem cannot be sent.
    """
    if os.name != "posix":
        raise InputError('The engine "processes" needs Linux or macOS; use engine="inprocess" or "ray".')
    problem.prepared  # noqa: B018 - once, not in each worker
    where = resolve_device(conditions.device)
    count = min(workers or cores(), len(jobs), len(jobs) if where.type == "cpu" else ON_ONE_GPU)
    start = fork_worker if (forkable(where) if fork is None else fork) else Fresh(problem)
    warm_up()
    sent = replace(conditions, device=str(where), done=None)
    return Crew(problem, jobs, start, Outcomes(len(jobs), conditions.done)).train(transfer.shares(jobs, count, sent))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forkable(device: torch.device) -> bool:
    """Whether a fork of this process could train.

    Not on macOS, whose own libraries do not survive a fork; not where a GPU is used, whose state does not; and not in a
    daemonic process, which may have no children of this kind.
    """
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return sys.platform == "linux" and device.type == "cpu" and not used and not mp.current_process().daemon


def warm_up() -> None:
    """Do once what every worker would else do at its first step, which takes a second or two each time."""
    kernel()  # compiled, or found
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # imports a third of torch


# The parent


@dataclass(eq=False)
class Worker:
    """One process and what it still has to tell."""

    share: transfer.WorkerShare
    line: Connection
    alive: Callable[[], bool]
    kill: Callable[[], None]
    join: Callable[[], int | None]
    tries: int = 1
    waiting: set[int] = field(default_factory=set)

    def ask_to_end(self) -> None:
        """Let it hand over what it has, and end."""
        with suppress(OSError):
            self.line.send_bytes(b"end")

    def end(self) -> int | None:
        """Make sure that it is gone; its exit status, less the signal that ended it."""
        self.kill()
        self.line.close()
        return self.join()


StartWorker = Callable[[Problem, transfer.WorkerShare, "Sequence[Worker]"], Worker]


@dataclass
class Crew:
    """Workers, and the outcomes that they have told so far."""

    problem: Problem
    jobs: Sequence[Job]
    start: StartWorker
    told: Outcomes
    workers: list[Worker] = field(default_factory=list)
    ending: float | None = None
    hearing: Worker | None = None

    def train(self, waiting: Sequence[transfer.WorkerShare]) -> list[Outcome]:
        """All outcomes in the order of the jobs; after Ctrl-C those that there are.

        Raises:
            KeyboardInterrupt: Ctrl-C came when all jobs had ended and been told; no run could say ``interrupted``.
        """
        try:
            try:
                for share in waiting:
                    self.add(share, share.places)
                self.listen()
            except KeyboardInterrupt:
                self.interrupt()
                self.listen()
        except KeyboardInterrupt:  # a second time: at once
            self.ending = time.monotonic()
        finally:
            for worker in self.workers:
                worker.end()
        return self.told.so_far(self.ending is not None)

    def add(self, share: transfer.WorkerShare, waiting: Sequence[int], tries: int = 1) -> None:
        """Start a worker, of which the outcomes of the places ``waiting`` are to be told.

        Signals wait until it is in the list of those that are ended, and answers them itself.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            worker = self.start(self.problem, share, self.workers)
            worker.waiting, worker.tries = set(waiting), tries
            self.workers.append(worker)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def listen(self) -> None:
        """Until no worker is left, or those that were asked to end have had their time."""
        while self.workers and (self.ending is None or time.monotonic() < self.ending):
            with spent_on(TRAINING, "in other processes"):
                ready = wait([worker.line for worker in self.workers], timeout=0.5)
            for worker in list(self.workers):
                if worker.line in ready:
                    self.hear(worker)
                elif not ready and not worker.alive() and not worker.line.poll():
                    self.lose(worker)

    def hear(self, worker: Worker) -> None:
        self.hearing = worker
        try:
            message = worker.line.recv_bytes()
        except (EOFError, OSError):
            self.lose(worker)
            return
        self.hearing = None
        with interrupts_held():  # what has come is not lost
            self.answer(worker, message)

    def answer(self, worker: Worker, message: bytes) -> None:
        """Take in what a worker said."""
        kind, *said = pickle.loads(message)
        if kind == "report":
            emit(said[0], **said[1])
        elif kind == "failed":
            error, text = said
            error.add_note(f"In the worker:\n{text}")
            raise error
        elif kind == "ended":
            self.dismiss(worker)
            if said[0] and self.ending is None:  # an interrupt that only the worker saw
                self.interrupt()
        else:
            place, answer = said
            if place not in worker.waiting:  # told by the worker that this one replaces
                return
            worker.waiting.discard(place)
            self.told.finish_job(place, transfer.unpack_outcome(answer, self.problem, self.jobs[place], ENGINE))

    def interrupt(self) -> None:
        self.ending = time.monotonic() + PATIENCE
        if self.hearing in self.workers:  # half of its message is gone
            self.dismiss(self.hearing)
        for worker in self.workers:
            worker.ask_to_end()

    def dismiss(self, worker: Worker) -> int | None:
        """A worker is no longer needed."""
        self.workers.remove(worker)
        return worker.end()

    def lose(self, worker: Worker) -> None:
        """A worker died: train again what it had not told, or say that it cannot be trained.

        Without a deadline the new worker trains the whole share: what is judged and stopped together must be so again, or a death
        would change which jobs are stopped. Under one, time is dearer, and it trains what is left.
        """
        status = self.dismiss(worker)
        left = tuple(place for place in worker.share.places if place in worker.waiting)
        if self.ending is not None or not left:
            return
        if worker.tries < TRIES:
            share = worker.share
            if not math.isinf(share.conditions.deadline):
                share = replace(share, places=left, jobs=tuple(self.jobs[i] for i in left))
            self.add(share, left, worker.tries + 1)
            return
        said = f"{describe_death(status)} Train fewer at a time, or smaller ones."
        for place in left:
            self.told.finish_job(place, TrainingError(said))


@contextmanager
def interrupts_held() -> Iterator[None]:
    """What is done inside is done whole: a signal that asks to end is answered after it. A mask would not do, since the system then
    gives the signal to another thread, and Python answers it in this one all the same."""
    came: list[tuple[int, Any]] = []
    mine = threading.current_thread() is threading.main_thread()  # others see no signals
    before: dict[int, Any] = {number: signal.getsignal(number) for number in ENDING} if mine else {}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, lambda *given: came.append(given))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, frame in came:
            before[number](number, frame)


def describe_death(status: int | None) -> str:
    """What is known of the death of the last of `TRIES` workers."""
    how = f"with exit status {status}"
    if status is not None and status < 0:
        how = f"by signal {-status} ({signal.Signals(-status).name})"
    if status == -signal.SIGKILL:
        how += ", as a system out of memory does it"
    return f"{TRIES} workers that trained this job died, the last {how}."


# Two ways to start a worker


def fork_worker(problem: Problem, share: transfer.WorkerShare, others: Sequence[Worker]) -> Worker:
    """A worker that is a copy of this process."""
    context = mp.get_context("fork")
    here, there = context.Pipe()
    inherited = [here, *(worker.line for worker in others)]
    process = context.Process(target=_begin, args=(problem, share, there, inherited, os.getpid()), daemon=True)
    with warnings_apart():  # that threads are not copied is known, and provided for
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        process.start()
    there.close()

    def join() -> int | None:
        process.join()
        return process.exitcode

    return Worker(share, here, process.is_alive, process.kill, join)


def _begin(
    problem: Problem, share: transfer.WorkerShare, line: Connection, inherited: Sequence[Connection], parent: int
) -> None:
    die_with(parent)
    for other in inherited:  # a line ends for its reader only when nobody holds the other end
        other.close()
    work(problem, share, line, parent)


class Fresh:
    """Starts workers that are new interpreters; the problem is packed once.

    Raises:
        MissingExtra: cloudpickle is not installed.
        ProblemError: the problem cannot be sent.
    """

    def __init__(self, problem: Problem) -> None:
        self.pickling = require("cloudpickle", "processes")
        self.parcel = transfer.pack_problem(problem, self.pickling, ENGINE)

    def __call__(self, problem: Problem, share: transfer.WorkerShare, others: Sequence[Worker]) -> Worker:
        """A worker that has been sent the problem and its share."""
        here, there = mp.Pipe()
        with there:
            line = there.fileno()
            command = [sys.executable, "-c", FRESH, json.dumps(sys.path), str(line), str(os.getpid())]
            process = subprocess.Popen(command, pass_fds=[line], stdin=subprocess.DEVNULL, start_new_session=True)
        with transfer.by_value(self.pickling, problem, share.jobs):
            jobs = self.pickling.dumps(share)
        # In a thread, since a new interpreter takes seconds until it reads.
        threading.Thread(target=self._feed, args=(here, jobs), daemon=True).start()
        return Worker(share, here, lambda: process.poll() is None, process.kill, process.wait)

    def _feed(self, line: Connection, share: bytes) -> None:
        memory = self.parcel.memory
        with suppress(OSError):  # the worker died: noticed by who listens
            line.send_bytes(self.parcel.body)
            line.send_bytes(str(len(memory)).encode())
            for part in memory:
                line.send_bytes(part.data)
            line.send_bytes(share)


def serve() -> None:
    """What a fresh worker does: take the problem and its share from the line that it was started with."""
    line, parent = Connection(int(sys.argv[2])), int(sys.argv[3])
    die_with(parent)
    body = line.recv_bytes()
    memory = tuple(np.frombuffer(line.recv_bytes(), np.uint8) for _ in range(int(line.recv_bytes())))
    share: transfer.WorkerShare = pickle.loads(line.recv_bytes())
    work(transfer.unpack_problem(transfer.Parcel(body, memory)), share, line, parent)


# The worker


def die_with(parent: int) -> None:
    """Let Linux kill this process when its parent dies, also where no thread of it could run: in a long product, or stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def work(problem: Problem, share: transfer.WorkerShare, line: Connection, parent: int) -> None:
    """Train a share and tell what comes of it, until it is done, or the parent asks to end, or is gone."""
    interrupts = WorkerInterrupts(line, parent)

    def tell(*message: Any) -> None:
        written = pickle.dumps(message, protocol=5)
        with interrupts.held():
            try:
                line.send_bytes(written)
            except (BrokenPipeError, ConnectionResetError):  # nobody is left to be told
                os._exit(1)

    def forward(event: str, fields: dict[str, Any]) -> None:
        with suppress(pickle.PicklingError, TypeError, AttributeError):  # a field that cannot travel
            tell("report", event, fields)

    interrupted = False
    try:
        with reporting_to(forward):
            interrupted = transfer.train_share(problem, share, lambda place, answer: tell("done", place, answer))
    except KeyboardInterrupt:
        interrupted = True
    except Exception as error:
        tell("failed", travelling(error), traceback.format_exc().rstrip())
        return
    tell("ended", interrupted)


def travelling(error: Exception) -> Exception:
    """The error, or what it says where it cannot travel."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return TrainingError(f"A worker stopped by {type(error).__name__}: {error}")


class WorkerInterrupts:
    """Ctrl-C as a worker sees it, and what ends like it: the parent's to answer, who then asks to end.

    A thread waits for that, and for the end of the parent, whom no worker outlives: its line ends, or, where a child of
    somebody else holds the other end open, the parent's number changes.
    """

    def __init__(self, line: Connection, parent: int) -> None:
        self._line, self._parent = line, parent
        self._asked = self._holding = self._raised = False
        for number in ENDING:
            signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # blocked while the worker was started
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        try:
            while not self._line.poll(1.0):
                if os.getppid() != self._parent:
                    os._exit(1)
            self._line.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)
        self._asked = True
        _thread.interrupt_main()

    def _handle(self, number: int, frame: Any) -> None:
        if self._asked and not self._holding and not self._raised:
            self._raised = True  # once: what is handed over afterwards is not to be interrupted
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done inside is done whole: half a message could not be read."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            if self._asked and not self._raised:
                _thread.interrupt_main()
