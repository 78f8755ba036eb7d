"""What every trainer's callback has in common: terms inside of the optimizer, a watch, its live diagnosis, a stopping rule.

A file beside this one says for one library where its model, optimizer and data are found, when to look, and where numbers go.
The class that a library calls needs that library's own base. It is joined when an object is made, so that the names of
this room can be imported where the library is not installed.
"""

from __future__ import annotations

import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellposed.core.checks import Seed, Within
from wellposed.core.errors import CompositionError, InputError, described, guard_call
from wellposed.core.random import seeded
from wellposed.data.arrays import split_batch, to_device
from wellposed.diagnosis.diagnose import diagnose
from wellposed.diagnosis.diagnosis import Diagnosis
from wellposed.losses.per_example import TORCH, Loss
from wellposed.optim.audit import Audit
from wellposed.optim.regularize import Regularized, checked_terms, regularize
from wellposed.optim.wrapper import find_wrapper, held_optimizer
from wellposed.penalties.base import FunctionalPenalty, Term
from wellposed.training.calls import Calls, Target, find_calls, plain_call
from wellposed.training.evaluate import Forward, evaluating
from wellposed.training.history import History
from wellposed.training.sides import sides_of
from wellposed.training.watch import Watch

PREFIX = "wp/"
"""Of the names under which a trainer's logger gets our numbers."""
ALONE: tuple[Any, ...] = ("cross_entropy", nn.BCEWithLogitsLoss(), nn.BCELoss(), "mse", "mae", nn.SmoothL1Loss())
"""Losses that a trainer's step may compute, in the order in which they are tried."""
CLOSE = 1e-4
"""Relative difference of two losses of a batch that are the same."""
FEW = 8
"""Rows that show which loss a step computes."""


class TrainerWatch(ABC):
    """Terms, watch, diagnosis and stopping rule in a trainer of somebody else; see its subclasses.

    Args:
        terms: such as ``wp.L1(1e-4).on("encoder.*")``; none only watches.
        loss, forward, target, metric, rows, seed, share: as of `watch`, where the trainer's own are not what is to be seen.
        train, valid: data to look at in place of the trainer's.
        stop: a rule such as ``wp.stop_when_sure()``; it ends training as the library's own early stopping does.
    Attributes:
        watch, history, diagnosis: live; None, and without rows, before the first look and in all processes but the first.
        optimizer: from `regularize`; `audit` says what it does. Of several, the first.
    Raises:
        MissingExtra: by the call, where the library is not installed.
    """

    library: ClassVar[str]
    """The library's name in sentences."""
    where: ClassVar[str] = "your own training step"
    """Where its users may add to the loss."""

    watch: Watch | None = None
    diagnosis: Diagnosis | None = None
    optimizer: Regularized | None = None
    stopped: str | None = None

    def __init__(
        self,
        terms: Sequence[Term] | Term = (),
        *,
        loss: Any = None,
        train: Any = None,
        valid: Any = None,
        metric: Any = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        target: Callable[[Any], Any] | None = None,
        rows: Annotated[int, Within(2)] | None = None,
        seed: Seed = 0,
        share: Annotated[float, Within(0, 1, open="low")] = 0.05,
        stop: Callable[[Any], str | None] | None = None,
    ) -> None:
        for term in checked_terms(terms):
            self.check_term(term)
        self.__class__ = _joined(type(self))
        super().__init__()
        self.terms, self.loss, self.train, self.valid, self.metric = terms, loss, train, valid, metric
        self.forward, self.target, self.rows, self.seed, self.share = forward, target, rows, seed, share
        self.stop = stop
        self._pending: Mapping[str, Any] | None = None

    def check_term(self, term: Term) -> None:
        """Refuse a term that cannot be enforced here: one that looks at outputs.

        Raises:
            CompositionError: it looks at outputs.
        """
        if isinstance(term.charge, FunctionalPenalty):
            raise CompositionError(
                f"{term} looks at each batch's outputs, which {self.library} does not hand on. Add "
                f"optimizer.penalty(outputs) to the loss in {self.where}, with an optimizer from wp.regularize."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes get a new callback with the same settings."""
        names = list(inspect.signature(TrainerWatch.__init__).parameters)[1:]
        made = functools.partial(type(self).__mro__[1], **{name: getattr(self, name) for name in names})
        return made, ()

    @classmethod
    @abstractmethod
    def base(cls) -> type:
        """The library's class of callbacks, whose package may be missing.

        Raises:
            MissingExtra: the library is not installed.
        """

    @property
    def history(self) -> History:
        """The rows so far; empty before the first look."""
        return History() if self.watch is None else self.watch.history

    def audit(self) -> Audit:
        """Who is charged what, how, in which convention, and which objective is solved.

        Raises:
            InputError: no terms were given, or training has not begun.
        """
        if self.optimizer is None:
            raise InputError("There is no audit yet: it needs terms=[...] and a training that has begun.")
        return self.optimizer.audit()

    def charge(self, optimizer: Any, model: nn.Module) -> Any:
        """The optimizer with the terms: itself if it is a wrapper of the trainer's, inside of which they are put.

        Raises:
            CompositionError: it is regularized already, or terms do not fit it.
        """
        terms, found = checked_terms(self.terms), find_wrapper(optimizer, Regularized)
        if found is not None and terms and found is not self.optimizer:
            raise CompositionError(found.refusal)
        if found is not None or not terms:
            self.optimizer = self.optimizer or found
            return optimizer
        held, inner = held_optimizer(optimizer)
        if inner is not None:
            setattr(optimizer, held, self.charge(inner, model))
            return optimizer
        made = regularize(optimizer, model, terms)
        made.adds_penalty = True
        self.optimizer = self.optimizer or made
        return made

    def begin(
        self,
        model: nn.Module,
        train: Any,
        valid: Any,
        optimizer: Optimizer | None,
        *,
        loss: Any = None,
        own: Forward | None = None,
        forward: Forward | None = None,
        target: Target | None = None,
    ) -> None:
        """Make the watch, at the first weights; what the user gave is asked before what the trainer has.

        Args:
            model, optimizer, train, valid: the trainer's.
            loss: the trainer's; None where ``own(model, batch)``, the loss of the trainer's step, shows it.
            forward, target: ``forward(model, batch) -> outputs`` and ``target(batch)`` where the trainer has its own.
        Raises:
            InputError: there are no validation rows, or nothing says which loss it is.
        """
        train, valid = (
            (self.train if self.train is not None else train),
            (self.valid if self.valid is not None else valid),
        )
        if train is None or valid is None:
            side, word = ("validation", "valid") if valid is None else ("training", "train")
            raise InputError(
                f"{type(self).__name__} found no {side} data in the trainer. Give {word}=: a DataLoader, a Dataset, or (X, y)."
            )
        if forward is not None:
            forward = guard_call(f"The model, called as {self.library} calls it (forward= says another way),", forward)
        forward, target = self.forward or forward, self.target or target
        loss = self.loss if self.loss is not None else loss
        if loss is None and own is not None:
            loss, forward, target = find_loss(model, own, train, forward, target)
        if loss is None:
            raise InputError(
                f"{type(self).__name__} needs loss=, such as 'cross_entropy': {self.library} does not say it."
            )
        self.watch = Watch(
            model, loss, train, valid, optimizer=optimizer, metric=self.metric, forward=forward, target=target,
            rows=self.rows, seed=self.seed, share=self.share,
        )  # fmt: skip
        if self._pending is not None:
            self.watch.load_state_dict(self._pending)
            self._pending = None

    def look(self, more: Mapping[str, float] | None = None) -> dict[str, float]:
        """Add a row to the history, and ``more`` to it, and diagnose: the numbers for a logger, each finding with its confidence.

        Sets ``stopped`` where the stopping rule says so. Empty where there is no watch: in all processes but the first.
        """
        if self.watch is None:
            return {}
        with torch.inference_mode(False):
            row = self.watch.epoch() | dict(more or {})
            self.history.rows[-1] |= row
            self.diagnosis = diagnose(self.watch)
        self.stopped = self.stop(self.history) if self.stop is not None else None
        numbers = {name: float(value) for name, value in row.items() if math.isfinite(value)}
        return {PREFIX + name: value for name, value in numbers.items()} | {
            f"{PREFIX}finding/{found.name}": float(found.confidence) for found in self.diagnosis
        }

    def state_dict(self) -> dict[str, Any]:
        """The watch's history, for a checkpoint; terms are kept in the optimizer's state."""
        return {} if self.watch is None else self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after what `state_dict` gave, also where training has not begun."""
        self._pending = state_dict or None
        if self.watch is not None and self._pending is not None:
            self.watch.load_state_dict(self._pending)
            self._pending = None

    def __str__(self) -> str:
        said = "no look yet" if self.diagnosis is None else str(self.diagnosis)
        return f"{type(self).__name__}: {said}"


@functools.cache
def _joined(cls: type[Any]) -> type[Any]:
    """The class with the library's own base behind it; itself where it has it."""
    base = cls.base()
    return cls if issubclass(cls, base) else type(cls.__name__, (cls, base), {"__doc__": cls.__doc__})


def find_loss(
    model: nn.Module, own: Forward, train: Any, forward: Forward | None = None, target: Target | None = None
) -> tuple[Any, Forward | None, Target | None]:
    """``(loss, forward, target)`` that give the loss of a trainer's step on a few rows of ``train``.

    A loss that is known is compared with the step's own on these rows, in evaluation mode. Where none is the same, the step is
    asked for its loss, batch by batch.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with seeded(0, "loss"), evaluating(model):
        side = sides_of(train)[0]
        batch = to_device(next(iter(side.batches(torch.arange(min(FEW, side.size))))), device)
        value = float(own(model, batch))
        told = (
            Calls(forward or plain_call, target or (lambda batch: split_batch(batch)[1])) if forward or target else None
        )
        for given in _candidates(model):
            with suppress(Exception):
                loss = Loss(given)
                calls = told or find_calls(model, loss, batch)
                ours = float(loss.mean(calls.forward(model, batch), calls.target(batch)))
                if math.isclose(ours, value, rel_tol=CLOSE, abs_tol=1e-6):
                    return given, forward, target
    return _step_loss, own, _known_target


def _candidates(model: nn.Module) -> Iterator[Any]:
    """Losses that the model holds, then those that are usual."""
    yield from (module for module in model.modules() if type(module) in TORCH)
    yield from ALONE


def _step_loss(outputs: Tensor, target: Any) -> Tensor:
    """The loss that a trainer's step has returned."""
    return outputs


def _known_target(batch: Any) -> Any:
    """The target, by which a step's loss is counted for its rows; None where a batch has none."""
    with suppress(InputError):
        return split_batch(batch)[1]
    return None


def loss_in(returned: Any) -> Tensor:
    """The loss among what a step returned: itself, or under ``loss``."""
    found = returned.get("loss") if isinstance(returned, Mapping) else getattr(returned, "loss", returned)
    if isinstance(found, (tuple, list)):
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim:
        raise InputError(f"The training step returned {described(found)}, which is no loss. Give loss= and forward=.")
    return found
