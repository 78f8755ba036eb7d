"""What somebody's own loop did between two epochs: its forwards, the gradients it left, and which weights moved."""

from __future__ import annotations

import contextlib
import math
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from typing_extensions import TypedDict

from wellposed.core.preserve import OwnHook
from wellposed.core.random import generator
from wellposed.core.schemas import Whole
from wellposed.core.selectors import Leaf, leaves
from wellposed.ops.shards import unshard

SAMPLED = 1024
"""Weights of each parameter that are kept to see whether it moved, drawn at random: evenly spaced ones may all belong to one
input that is always 0. Of a table of which one row in a hundred is used, all are missed once in 30,000 times."""
KNOWN_BY = 64
"""Numbers of a row by which it is known again, evenly spaced."""
MOST_KNOWN = 2**14
"""Rows that are kept to be known again: more than a probe of the watch has."""


@dataclass
class Forwards:
    """Forward passes of the loop in one epoch, by gradients and mode; ``rows`` is the sum over ``trained``."""

    trained: Whole = 0
    trained_evaluating: Whole = 0
    evaluated: Whole = 0
    evaluated_training: Whole = 0
    rows: Whole = 0


class NotesState(TypedDict):
    """What `Notes.state_dict` gives, and a checkpoint holds."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # type: ignore[misc]
    forwards: Annotated[list[Forwards], Field(min_length=1)]
    gradients: list[dict[str, float]]
    first: dict[str, Tensor]
    unlearned: list[int]


@dataclass
class Notes:
    """What was seen of a loop, an entry an epoch; of parameters, by name.

    Attributes:
        forwards: of the finished epochs.
        gradients: of each finished epoch, the norm of each parameter's gradient as the loop left it; empty where it
            left none, or zeros alone.
        unlearned: marks (`row_marks`) of rows that went through without gradients in training mode: of validation, of batch
            norms that are estimated anew, or a step's own (a generator's images, labels of a teacher).
        seconds: that noting took, forward by forward.
    """

    forwards: list[Forwards] = field(default_factory=list)
    gradients: list[dict[str, float]] = field(default_factory=list)
    unlearned: set[int] = field(default_factory=set)
    seconds: float = 0.0
    _now: Forwards = field(default_factory=Forwards)
    _looking: bool = True
    _first: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Notes:
        return cls(_first=samples(model))

    def saw(self, training: bool, gradients: bool, inputs: Sequence[Any]) -> None:
        if training and not gradients and len(self.unlearned) < MOST_KNOWN:
            self.unlearned.update(row_marks(inputs))
        rows = next((len(value) for value in inputs if isinstance(value, Tensor) and value.ndim), 0)
        if gradients and training:
            self._now.trained += 1
            self._now.rows += rows
        elif gradients:
            self._now.trained_evaluating += 1
        elif training:
            self._now.evaluated_training += 1
        else:
            self._now.evaluated += 1

    @property
    def steps(self) -> int:
        """Passes with gradients so far, also since the last look."""
        return sum(one.trained + one.trained_evaluating for one in (*self.forwards, self._now))

    def end_epoch(self, model: nn.Module) -> None:
        self.forwards.append(self._now)
        self._now = Forwards()
        self.gradients.append(gradients_left(model))

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """Forward passes of our own, which are not the loop's."""
        before, self._looking = self._looking, False
        try:
            yield
        finally:
            self._looking = before

    def state_dict(self) -> dict[str, Any]:
        return {
            "forwards": [asdict(one) for one in (*self.forwards, self._now)],
            "gradients": list(self.gradients),
            "first": self._first,
            "unlearned": sorted(self.unlearned),
        }

    def load_state_dict(self, state: NotesState) -> None:
        *self.forwards, self._now = state["forwards"]
        self.gradients, self._first = state["gradients"], state["first"]
        self.unlearned = set(state["unlearned"])

    def moved(self, model: nn.Module) -> dict[str, float]:
        """How far each parameter moved since the beginning, relative to its size; from a sample of its weights."""
        return distances(self._first, samples(model))


def samples(model: nn.Module) -> dict[str, Tensor]:
    """Some weights of each parameter that is at hand: all of a small one, else as many at random, always the same."""
    return {leaf.name: _sample(leaf) for leaf in leaves(model) if not is_lazy(leaf.tensor) and leaf.tensor.numel()}


def real(weight: Tensor) -> Tensor:
    """A weight, whole and in single precision, without its gradient; of a complex one the sizes, whose norm is its norm."""
    weight = unshard(weight.detach())
    return (weight.abs() if weight.is_complex() else weight).float()


@torch.no_grad()
def _sample(leaf: Leaf) -> Tensor:
    flat = unshard(leaf.tensor.detach()).flatten()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    if len(flat) > SAMPLED:
        some = torch.randint(len(flat), (SAMPLED,), generator=generator(0, "notes", len(flat)))
        flat = flat[some.to(flat.device)]
    return flat.to("cpu", torch.float32, copy=True)


def distances(first: Mapping[str, Tensor], last: Mapping[str, Tensor]) -> dict[str, float]:
    """``|last - first| / |first|`` of each parameter's sample; of what began at 0, infinite once it moved."""
    found = {}
    for name, before in first.items():
        after = last.get(name)
        if after is None or after.shape != before.shape:
            continue
        change, size = float((after - before).norm()), float(before.norm())
        found[name] = change / size if size else (math.inf if change else 0.0)
    return found


@torch.no_grad()
def gradients_left(model: nn.Module) -> dict[str, float]:
    """Norms of the gradients that lie at the parameters; empty where all are 0 or none is there."""
    left = {leaf.name: leaf.tensor.grad for leaf in leaves(model) if leaf.tensor.grad is not None}
    norms = {name: float(real(grad).norm()) for name, grad in left.items() if not grad.is_sparse}
    return norms if any(norms.values()) else {}


class _Eye(OwnHook):
    """A forward pre-hook that tells the notes."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A compiled graph is left as it would be without us, and what we ask ourselves is no forward of the loop.
        if torch.compiler.is_compiling() or not self._notes._looking:
            return
        began = time.perf_counter()
        self._notes.saw(module.training, torch.is_grad_enabled(), (*args, *kwargs.values()))
        self._notes.seconds += time.perf_counter() - began


def row_marks(inputs: Sequence[Any]) -> list[int]:
    """A number for each row of a model's first tensor, by which the row is known again; none where it has no rows."""
    rows = next((x.detach() for x in inputs if isinstance(x, Tensor) and x.ndim and x.layout == torch.strided), None)
    if rows is None or not rows.numel():
        return []
    if rows.ndim > 1:
        width = rows[0].numel()
        picked = torch.linspace(0, width - 1, min(width, KNOWN_BY), device=rows.device).long()
        places: tuple[Any, ...] = torch.unravel_index(picked, rows.shape[1:])
        rows = rows[(slice(None), *places)]
    rows = torch.view_as_real(rows) if rows.is_complex() else rows
    return [zlib.crc32(row.tobytes()) for row in rows.double().cpu().numpy()]


def marks_of(model: nn.Module, forward: Callable[[nn.Module, Any], Any], batches: Iterable[Any]) -> set[int]:
    """The marks of rows as they reach a model, whatever lies between a batch and its call."""
    found: set[int] = set()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.update(row_marks((*args, *kwargs.values())))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        for batch in batches:
            forward(model, batch)
    finally:
        handle.remove()
    return found


def note_forwards(model: nn.Module, notes: Notes, owner: object) -> weakref.finalize[Any, Any]:
    """Note the model's forwards until ``owner`` is gone or the returned handle is called."""
    handle = model.register_forward_pre_hook(_Eye(notes), with_kwargs=True)
    return weakref.finalize(owner, handle.remove)
