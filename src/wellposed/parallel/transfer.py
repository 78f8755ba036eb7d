"""What travels between processes: a problem there, runs back. In memory only: nothing of this is written to a file.

A problem goes as a `Parcel`: bytes of everything but the arrays of its rows, and these apart, as plain memory that a store
may hold once for all who read it. A run comes back as weights and history, and becomes a `Run` of the problem that stayed.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed._version import __version__
from wellposed.core.batches import mapped
from wellposed.core.errors import ProblemError, TrainingError, WellposedError
from wellposed.core.shared import warnings_apart
from wellposed.data.arrays import Arrays
from wellposed.noise.activations import set_dropout
from wellposed.noise.noise import THEIRS, Kind
from wellposed.parallel.jobs import Conditions, Job, Outcome, interrupted
from wellposed.parallel.population.grouping import train_population
from wellposed.training.history import History
from wellposed.training.problem import Problem
from wellposed.training.run import Run

# Problems


@dataclass(frozen=True)
class Parcel:
    """A problem without its raw data: bytes, and the memory of the prepared rows apart."""

    body: bytes
    memory: tuple[np.ndarray, ...]


def pack_problem(problem: Problem, pickling: ModuleType, engine: str) -> Parcel:
    """The problem as it travels, its rows split and encoded here, once.

    Args:
        pickling: the module ``cloudpickle``, which takes lambdas and classes of a script too.
        engine: for the error.
    Raises:
        ProblemError: a part of the problem cannot be sent to another process.
    """
    problem.prepared  # noqa: B018 - computed here, so that nobody else has to
    light = copy.copy(problem)
    light.data = None  # type: ignore[assignment]
    body, memory = io.BytesIO(), list[pickle.PickleBuffer]()
    with by_value(pickling, problem):
        try:
            _pickler(pickling)(body, protocol=5, buffer_callback=memory.append).dump(light)
        except Exception as error:
            raise ProblemError(
                f"The engine {engine!r} sends the problem to other processes, and a part of this one cannot be sent "
                f"({type(error).__name__}: {error}). Let its model, loss and data hold no open files, locks or "
                'generators, or use engine="inprocess".'
            ) from error
    return Parcel(body.getvalue(), tuple(np.frombuffer(part.raw(), np.uint8) for part in memory))


def unpack_problem(parcel: Parcel) -> Problem:
    """The problem of a parcel; its rows are read where they lie."""
    problem: Problem = pickle.loads(parcel.body, buffers=parcel.memory)
    return problem


def _pickler(pickling: ModuleType) -> Any:
    class Pickler(pickling.CloudPickler):  # type: ignore[misc, name-defined]
        def reducer_override(self, value: Any) -> Any:
            if type(value) is Arrays:
                return _arrays_of, mapped(_as_numpy, (value.inputs, value.target, value.weight))
            return super().reducer_override(value)

    return Pickler


@dataclass(frozen=True)
class _Numbers:
    """A tensor as an array: pickling can leave an array's memory where it is."""

    array: np.ndarray


def _as_numpy(value: Any) -> Any:
    if type(value) is Tensor and value.device.type == "cpu" and not value.requires_grad:
        with contextlib.suppress(TypeError, RuntimeError):
            # With a type that numpy lacks, or a layout, it travels as a tensor.
            return _Numbers(np.ascontiguousarray(value.numpy()))
    return value


def _as_tensor(value: Any) -> Any:
    if isinstance(value, _Numbers):
        with warnings_apart():
            warnings.filterwarnings("ignore", message=".*not writable")  # training reads its rows only
            return torch.from_numpy(value.array)
    return value


def _arrays_of(inputs: Any, target: Any, weight: Any) -> Arrays:
    parts = (inputs, target, weight)
    return Arrays(*mapped(_as_tensor, parts, whole=lambda part: isinstance(part, _Numbers)))


@contextlib.contextmanager
def by_value(pickling: ModuleType, problem: Problem, jobs: Sequence[Job] = ()) -> Iterator[None]:
    """Send along the modules of a problem, and of what its recipes name, that nobody else could import: a file FILE.py:NAME."""
    parts: list[Any] = [problem.model, problem.forward, problem.loss.given, problem.measured_by, type(problem)]
    parts += [*THEIRS.values(), *(part for job in jobs for part in job.recipe.classes)]
    names = {getattr(part, "__module__", None) or type(part).__module__ for part in parts}
    ours = [sys.modules[name] for name in names if name in sys.modules and not _importable(name)]
    fresh = [module for module in ours if module.__name__ not in pickling.list_registry_pickle_by_value()]
    for module in fresh:
        pickling.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in fresh:
            pickling.unregister_pickle_by_value(module)


def _importable(name: str) -> bool:
    root = name.partition(".")[0]
    if root == "__main__" or root in sys.builtin_module_names:  # the first goes by value anyway
        return True
    return any(finder.find_spec(root, None) is not None for finder in sys.meta_path)


# Runs


@dataclass(frozen=True)
class SentRun:
    """A run without what its parent has: problem, recipe and the model's structure."""

    weights: dict[str, Any]
    buffers: dict[str, Tensor]
    facts: dict[str, Any]
    rows: list[dict[str, float]]
    stopped: str
    engine: str


def pack_outcome(outcome: Outcome) -> bytes:
    """A run, or what an error is made of again and the run that it keeps."""
    error: Any = None
    run: Any = outcome
    if not isinstance(outcome, Run):
        notes = list(getattr(outcome, "__notes__", ()))
        if outcome.__cause__ is not None:
            notes.append("In the worker:\n" + "".join(traceback.format_exception(outcome.__cause__)).rstrip())
        error, run = (type(outcome), outcome.args, notes), getattr(outcome, "run", None)
    return pickle.dumps((error, _trained(run) if isinstance(run, Run) else None), protocol=5)


def unpack_outcome(answer: bytes, problem: Problem, job: Job, engine: str) -> Outcome:
    """The outcome that was sent, with the model built anew by the problem that stayed here.

    Args:
        engine: whose worker it was; put before what the worker says of itself.
    """
    error, trained = pickle.loads(answer)
    run: Any = None if trained is None else _run(trained, problem, job, engine)
    if error is None:
        return run  # type: ignore[no-any-return]
    kind, arguments, notes = error
    made: WellposedError = kind(*arguments)
    for note in notes:
        made.add_note(note)
    if isinstance(made, TrainingError) and isinstance(run, Run):
        made.run = run
    return made


def _trained(run: Run) -> SentRun:
    # Cloned: a view would take along all that it is a view of.
    weights = {name: _own(value) for name, value in run.model.state_dict().items()}
    buffers = {name: _own(value) for name, value in run.model.named_buffers() if name not in weights}
    return SentRun(weights, buffers, run.history.facts, run.history.rows, run.stopped, run.engine)


def _own(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _run(trained: SentRun, problem: Problem, job: Job, engine: str) -> Outcome:
    try:
        model = problem.build(job.recipe.model, job.seed)
        if job.recipe.noise.dropout is not None:
            set_dropout(model, job.recipe.noise.dropout)
        _filled(model, trained)
    except (WellposedError, RuntimeError, KeyError) as error:
        return TrainingError(
            f"Training ended, but the weights do not fit the model that the factory builds here ({error}). Let the factory "
            'build the same model each time, or use engine="inprocess".'
        )
    history = History(trained.facts, trained.rows)
    how = f"{engine}: {trained.engine}"
    return Run(model.eval(), history, job.recipe, job.seed, problem, trained.stopped, how)


@torch.no_grad()
def _filled(model: nn.Module, trained: SentRun) -> None:
    model.cpu().load_state_dict(trained.weights)
    own = dict(model.named_buffers())
    for name, value in trained.buffers.items():
        own[name].copy_(value)


# In a worker


@dataclass(frozen=True)
class WorkerShare:
    """Jobs that one worker trains, and how.

    Attributes:
        places: of the jobs, among all.
        conditions: told by nobody here; the deadline is a value of ``time.monotonic()`` on the worker's machine.
        noises: kinds of noise that are not ours, by the names in recipes.
    """

    places: tuple[int, ...]
    jobs: tuple[Job, ...]
    conditions: Conditions
    version: str = __version__
    noises: Mapping[str, Kind] = field(default_factory=lambda: dict(THEIRS))


def shares(jobs: Sequence[Job], count: int, conditions: Conditions) -> list[WorkerShare]:
    """The jobs in ``count`` shares of nearly equal size, none of them empty.

    Jobs that can be trained together are dealt out evenly, so that shares take equally long and each is a fair sample.
    """
    order = sorted(range(len(jobs)), key=lambda place: (*_kind(jobs[place]), place))
    dealt = (tuple(sorted(order[first::count])) for first in range(count))
    return [WorkerShare(places, tuple(jobs[i] for i in places), conditions) for places in dealt if places]


def _kind(job: Job) -> tuple[Any, ...]:
    """Equal for jobs of one shape and one way through the data."""
    settings = sorted((key, repr(value)) for key, value in job.recipe.model.items())
    return settings, job.recipe.batch_size, job.rows or 0, job.sample.own, job.recipe.epochs


def train_share(problem: Problem, share: WorkerShare, tell: Callable[[int, bytes], None]) -> bool:
    """Train a share on one thread, and tell each outcome with its place among all jobs; whether Ctrl-C ended it.

    Raises:
        TrainingError: this process has another version of wellposed.
    """
    if share.version != __version__:
        raise TrainingError(
            f"A worker has wellposed {__version__}, and it was sent jobs by wellposed {share.version}. "
            "Install the same version on both sides."
        )
    THEIRS.update(share.noises)
    # One thread: as many workers as cores share them, and OpenMP's pool of threads does not survive a fork.
    torch.set_num_threads(1)
    conditions = replace(share.conditions, done=lambda place, outcome: tell(place, pack_outcome(outcome)))
    return any(map(interrupted, train_population(problem, share.jobs, conditions.among(share.places))))
