"""Any loss, example by example: the sum of its units (tokens, outputs) and how many there are.

    mean = sum_i w_i total_i / sum_i w_i count_i

With one unit an example this is the plain mean; with masked tokens it is the mean over tokens, and its standard error
treats examples, not tokens, as the independent draws.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_iter, tree_unflatten

from wellposed.core.batches import examples_in, examples_of, mapped, tensors_in
from wellposed.core.errors import InputError, ProblemError, TargetError, described, listed, noting
from wellposed.core.registry import classes_in
from wellposed.losses.classification import (
    BinaryCrossEntropy,
    CrossEntropy,
    class_indices,
    classes_second,
    is_distribution,
)
from wellposed.losses.criterion import Criterion, at_least_single, from_spec, match_shapes, over_outputs
from wellposed.losses.distributions import Distribution, Ordinal
from wellposed.losses.regression import MeanAbsoluteError, MeanSquaredError, Poisson
from wellposed.losses.targets import (
    IGNORED,
    need_classes,
    need_distributions,
    need_numbers,
    need_shares,
    need_signs,
)


@dataclass(frozen=True)
class PerExample:
    """``total`` and ``count`` of each example, both ``(n,)``; or of a batch whose examples cannot be told apart, as one."""

    total: Tensor
    count: Tensor
    whole: bool = False

    def of_examples(self, rows: int) -> PerExample:
        """The same with a whole batch counted as so many examples: its targets may be fewer or more, as boxes in images are."""
        if not self.whole or not rows:
            return self
        return _whole(self.total[0] / self.count[0], rows)

    def sums(self, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The (weighted) sum over units, which carries gradient, and the (weighted) number of units; both 0-d."""
        if weight is None:
            return self.total.sum(), self.count.sum()
        weight = weight.to(self.total)
        return (weight * self.total).sum(), (weight * self.count).sum()

    def mean(self, weight: Tensor | None = None) -> Tensor:
        """The (weighted) mean over units, 0-d, carries gradient; 0 where no unit counts."""
        total, size = self.sums(weight)
        return total / size.clamp_min(torch.finfo(size.dtype).tiny)


def losses_by_name() -> dict[str, type[Criterion]]:
    found = classes_in("wellposed.losses", Criterion)  # type: ignore[type-abstract]
    return found | {alias: cls for cls in found.values() for alias in cls.aliases}


@dataclass(frozen=True)
class _Known:
    """What is known of a loss of torch: its ``function`` with the same arguments, what checks its targets, and which loss of ours
    is the ``same``.

    Attributes:
        elementwise: it compares number with number, and would broadcast ``(n, 1)`` against ``(n,)``.
        numeric: outputs are predictions of the target itself.
        ends_in: the activation after which it is `same`: ``NLLLoss`` of a log-softmax is cross-entropy of the scores.
        scores: takes outputs back to scores, up to what the loss does not depend on.
    """

    function: Any
    check: Callable[..., None]
    same: type[Criterion] | None = None
    elementwise: bool = True
    numeric: bool = False
    ends_in: Callable[[Tensor], Tensor] | None = None
    scores: Callable[[Tensor], Tensor] | None = None


F = nn.functional
TORCH: dict[type[nn.Module], _Known] = {
    nn.CrossEntropyLoss: _Known(F.cross_entropy, need_classes, CrossEntropy, elementwise=False),
    nn.NLLLoss: _Known(
        F.nll_loss, need_classes, CrossEntropy, elementwise=False, ends_in=lambda scores: F.log_softmax(scores, -1)
    ),
    nn.BCEWithLogitsLoss: _Known(F.binary_cross_entropy_with_logits, need_shares, BinaryCrossEntropy),
    nn.BCELoss: _Known(
        F.binary_cross_entropy,
        need_shares,
        BinaryCrossEntropy,
        ends_in=torch.sigmoid,
        scores=lambda shares: shares.logit(torch.finfo(shares.dtype).eps),
    ),
    nn.MultiLabelSoftMarginLoss: _Known(F.multilabel_soft_margin_loss, need_shares, elementwise=False),
    nn.MultiMarginLoss: _Known(F.multi_margin_loss, need_classes, elementwise=False),
    nn.SoftMarginLoss: _Known(F.soft_margin_loss, need_signs),
    nn.HingeEmbeddingLoss: _Known(F.hinge_embedding_loss, need_signs),
    nn.MSELoss: _Known(F.mse_loss, need_numbers, MeanSquaredError, numeric=True),
    nn.L1Loss: _Known(F.l1_loss, need_numbers, MeanAbsoluteError, numeric=True),
    nn.SmoothL1Loss: _Known(F.smooth_l1_loss, need_numbers, numeric=True),
    nn.HuberLoss: _Known(F.huber_loss, need_numbers, numeric=True),
    nn.PoissonNLLLoss: _Known(F.poisson_nll_loss, functools.partial(need_numbers, least=0.0)),
}
"""Losses of torch that are convex in the outputs and whose targets are known. Other callables are taken as they are."""
FUNCTIONS = {known.function: module for module, known in TORCH.items()}
BY_HAND: dict[str | None, _Known] = {
    "binary": replace(TORCH[nn.BCELoss]),
    "classes": _Known(
        None,
        need_classes,
        CrossEntropy,
        elementwise=False,
        ends_in=lambda scores: F.softmax(scores, -1),
        scores=lambda shares: shares.clamp_min(torch.finfo(shares.dtype).tiny).log(),
    ),
}
"""Cross-entropies of probabilities as people write them, by `Loss.of_shares`."""


class _Made(TorchFunctionMode):
    """Notes every tensor that is made inside, without keeping it."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[weakref.ref[Tensor]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        new = [one for one in tree_iter(found) if isinstance(one, Tensor) and not any(one is given for given in args)]
        self.alive += map(weakref.ref, new)
        return found


class Loss:
    """A loss by name or by callable, that can be asked for each example's part.

    Args:
        given: a name of `losses_by_name`, with its number if it takes one (``"huber:0.5"``); a `Criterion`
            (``wp.Huber(0.5)``); a torch loss module; a function with ``reduction=``; or any callable
            ``loss(outputs, target)`` that returns values for each example, values with a mask, their mean, or their sum.
            Which of these it is, is found by calling it.
        by_example: smoothing of a torch cross-entropy with class weights is weighed by the class of the example, not by
            the classes that the smoothing is spread over. This is how `fit` trains; see `weighted`.
    Attributes:
        criterion: the loss of ours; None where the loss is a callable.
        same: the loss of ours that it is, by another name too; None where that is not known.
        derived: whether outputs or loss are made of derivatives (a force of an energy, the residual of a differential equation),
            so that they cannot be evaluated without gradients.
        of_shares: whether it takes probabilities: of a 0 or 1 in each output (``"binary"``), or of classes that exclude each other
            (``"classes"``); None where it takes something else. Of losses written by hand `recognition` says it.
        blind: whether it was seen to be the same whatever the outputs were.
        breaks: whether it was seen to be no finite number where a probability is 0.
    Raises:
        InputError: ``given`` is neither a known name nor callable.
    """

    def __init__(self, given: Any, *, by_example: bool = False) -> None:
        self.derived: bool = isinstance(given, Loss) and given.derived
        if isinstance(given, Loss):
            given = given.given
        self.given: Any = given
        self.criterion: Criterion | None = given if isinstance(given, Criterion) else None
        if isinstance(given, str):
            self.criterion = from_spec("loss", given, losses_by_name())
        given = _as_module(given)
        self._sums: bool | None = None
        self._vmaps: bool | None = None
        self._couples = False
        self._writes: bool | None = None
        self.known = _known(given)
        same = None if self.known is None or self.known.same is None else self.known.same()
        self.same: Criterion | None = self.criterion or same
        self.module: Any = given if isinstance(given, nn.Module) else None
        self.of_shares: Literal["binary", "classes"] | None = "binary" if isinstance(given, nn.BCELoss) else None
        self.blind = self.breaks = False
        if self.criterion is not None:
            self.name = self.criterion.name
            self.ignored: int | None = None
            self._units: Callable[[Any, Any], Any] = self.criterion.units
            self._clean: Callable[[Any, Any], Any] = self.criterion.units
        elif callable(given):
            plain = same if self.known is not None and self.known.ends_in is None else None
            self.name = plain.name if plain is not None else str(getattr(given, "__name__", type(given).__name__))
            ignored = getattr(given, "ignore_index", None)
            self.ignored = int(ignored) if isinstance(ignored, int) else None
            self._units = _unreduced(given, by_example)
            clean = given
            if (
                isinstance(given, nn.CrossEntropyLoss) and given.label_smoothing
            ):  # noise on targets: compared losses are clean
                clean = copy.copy(given)
                clean.label_smoothing = 0.0
            self._clean = _unreduced(clean, by_example)
        else:
            raise InputError(
                f"A loss is a name ({listed(losses_by_name(), 40)}) or a callable; {described(given)} is neither."
            )

    def __str__(self) -> str:
        return self.name if self.criterion is None else str(self.criterion)

    @property
    def convex(self) -> bool:
        """Whether the loss is known to be convex in the outputs: those of `TORCH` are, and most of ours."""
        return self.known is not None if self.criterion is None else self.criterion.convex

    @property
    def numeric(self) -> bool:
        """Whether outputs are known to be predictions of the target itself, number by number."""
        known = self.criterion or self.known
        return known is not None and known.numeric

    @property
    def summed(self) -> str:
        """The name of the loss before it is averaged over outputs: ``"squared_error"`` of ``"mse"``; else its own name."""
        return self.name if self.same is None or self.same.averages is None else self.same.averages.name

    @property
    def affine(self) -> bool:
        """Whether the target may be shifted and scaled before training."""
        if self.criterion is not None:
            return self.criterion.affine
        return self.known is None or self.known.numeric  # counts and shares are none any more once they are shifted

    def compiled(self) -> int | None:
        """The loss's number in the compiled population's ``kernel.c``; None: torch computes it."""
        if self.criterion is not None:
            return self.criterion.compiled()
        given = self.module
        plain = type(given) is nn.CrossEntropyLoss and given.weight is None and given.ignore_index == IGNORED
        return CrossEntropy.kernel if plain and not given.label_smoothing and given.reduction == "mean" else None

    def response(self, outputs: Tensor) -> Tensor:
        """The prediction in the target's own terms, which metrics compare with it: logits of classes, also where the loss takes
        probabilities, and numbers, also where it takes the logarithms of rates."""
        if self.known is not None and self.known.scores is not None:
            return self.known.scores(outputs)
        if self.of_log_rates:
            return outputs.exp()
        return outputs if self.criterion is None else self.criterion.response(outputs)

    @property
    def of_log_rates(self) -> bool:
        """Whether outputs are logarithms of the rates of counts: `Poisson`, and torch's."""
        return isinstance(self.criterion, Poisson) or bool(getattr(self.module, "log_input", False))

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """The outputs, alike for every example, that cost least on the training targets ``(n, ...)``; None where they are not
        known. Class indices count one by one, those that are left out do not; ``valid`` shows classes that training does not
        have.
        """
        if self.same is None:
            return None
        if self.classes_are_indices and not train.is_floating_point():
            train, valid = (targets[targets != self.ignored_index] for targets in (train, valid))
        elif train.ndim == 2 and train.shape[1] == 1:  # (n, 1) is (n,)
            train, valid = train[:, 0], valid[:, 0]
        if not len(train):
            return None
        scores = self.same.constant(train, valid)
        link = None if self.known is None else self.known.ends_in
        return scores if scores is None or link is None else link(scores)

    @property
    def ignored_index(self) -> int:
        return IGNORED if self.ignored is None else self.ignored

    def marked(self, target: Tensor) -> Tensor:
        """The target with the labels that this loss leaves out as metrics know them, by -100."""
        if self.ignored in (None, IGNORED) or target.is_floating_point():
            return target
        return target.long().where(target != self.ignored, IGNORED)

    def check(self, outputs: Any, target: Any, targets: Tensor | None) -> None:
        """Refuse targets that the loss does not take, or that the outputs cannot express, before anything is counted.

        Args:
            outputs, target: of a few rows, which show how many classes have an output.
            targets: all targets; None where they are not at hand: then each batch is checked when it comes.
        """
        if targets is None:
            return
        if self.classes_are_indices and isinstance(outputs, Tensor) and isinstance(target, Tensor) and outputs.ndim > 1:
            if not is_distribution(outputs, target):
                scores, _ = classes_second(outputs, target)
                need_classes(self.name, targets, scores.shape[1], self.ignored_index)
        elif self.criterion is not None:
            ordinal = isinstance(self.criterion, Ordinal) and isinstance(outputs, Tensor) and outputs.ndim > 1
            self.criterion.check(targets, outputs.shape[1] + 1 if ordinal else None)
        elif self.known is not None and not self.classes_are_indices:
            self.known.check(self.name, targets)

    @property
    def classes_are_indices(self) -> bool:
        """Whether targets may be class indices, each with an output: a cross-entropy, ours or torch's, say."""
        return isinstance(self.criterion, CrossEntropy) or (self.known is not None and self.known.check is need_classes)

    @property
    def labels(self) -> Literal["indices", "shares", "signs"] | None:
        """Which labels the targets are: class indices, 0 and 1 with what is between, or -1 and 1; None: amounts, or not known."""
        check = None if self.known is None else self.known.check
        if self.classes_are_indices:
            return "indices"
        if isinstance(self.criterion, BinaryCrossEntropy) or check is need_shares:
            return "shares"
        return "signs" if check is need_signs else None

    @property
    def classifies(self) -> bool:
        return self.same is not None and self.same.classifies

    @property
    def softens(self) -> bool:
        """Whether targets may be probabilities of classes, so that labels can be smoothed: not of ``NLLLoss``, say."""
        return self.same is not None and self.same.softens and (self.known is None or self.known.ends_in is None)

    @property
    def distribution(self) -> Distribution | None:
        """What the outputs say of a target as a whole, where they do: its density, quantiles and spread."""
        return self.criterion if isinstance(self.criterion, Distribution) else None

    def outputs_for(self, targets: int) -> int:
        """How many outputs a model needs for so many numbers, or classes, to predict."""
        return targets if self.criterion is None else self.criterion.outputs_for(targets)

    @property
    def task(self) -> Literal["regression"] | None:
        """``"regression"`` where every target is an amount, whole numbers too: not where they may be classes or shares."""
        check = None if self.known is None else getattr(self.known.check, "func", self.known.check)
        amounts = check is need_numbers if self.criterion is None else not self.criterion.classifies
        return "regression" if amounts else None

    @property
    def weighted(self) -> bool:
        """Whether a torch loss weighs classes: ``weight`` of a cross-entropy, ``pos_weight`` of a binary one."""
        return getattr(self.module, "pos_weight", None) is not None or (
            isinstance(self.module, nn.CrossEntropyLoss) and self.module.weight is not None
        )

    def mean(self, outputs: Any, target: Any, weight: Tensor | None = None) -> Tensor:
        """The mean that training minimizes, 0-d, carries gradient.

        Raises:
            ProblemError: outputs and targets do not fit, or weights are given to a loss that is a mean already.
        """
        return self.parts(outputs, target, weight is not None).mean(weight)

    def parts(self, outputs: Any, target: Any, weighted: bool = False, softened: float | None = None) -> PerExample:
        """Each example's part as training sees it, with gradient. A loss that only returns means is one example, and
        counts as many units as it has rows.

        Args:
            softened: class indices were made probabilities, smoothed by this amount and perhaps mixed; None: they were not.
                Class weights then weigh the example by its own classes, and the smoothing comes after.
        """
        if softened is not None and self.weighted:
            return self._call(functools.partial(_softened, self.module, softened), outputs, target)  # type: ignore[no-any-return]
        units = self._call(self._units, outputs, target)
        if _is_mean(units, outputs, target):
            units = self._mean(units.reshape(()), outputs, target)
            if weighted:
                raise ProblemError(
                    "Example weights need a loss that returns a value for each example; this one returns their mean. "
                    "Use reduction='none'."
                )
            return _whole(units, max(1, examples_in(target) or examples_in(outputs)))
        return per_example(self._of_rows(units, outputs, target), target, self.ignored)

    def per_example(self, outputs: Any, target: Any) -> PerExample:
        """Each example's part, without label smoothing and gradient. A loss that only returns means is asked example by example.

        Where the mean of those does not agree with the loss (it couples examples), or one example alone is nothing that the loss
        takes, the whole batch counts as one unit.
        """
        with torch.set_grad_enabled(self.derived):
            found = self._each(outputs, target)
        return replace(found, total=found.total.detach(), count=found.count.detach())

    def _each(self, outputs: Any, target: Any) -> PerExample:
        own = self.criterion is None and (self.known is None or self.known is BY_HAND.get(self.of_shares))
        new = self._writes is None and not self.derived and own
        if new and not torch.is_inference_mode_enabled():  # there no tensor says whether it was written to
            units = self._first(outputs, target)
        else:
            units = self._call(self._clean, outputs, target)
        if _is_mean(units, outputs, target):
            return self._sliced(outputs, target, self._mean(units.reshape(()), outputs, target))
        return per_example(self._of_rows(units, outputs, target), target, self.ignored)

    @torch.no_grad()
    def of_many(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """`per_example` of several models' outputs ``(models, n, ...)`` on the same targets: totals and counts ``(models, n)``."""
        if self.criterion is not None:  # of these it is known that examples do not touch each other
            together = self.per_example(outputs.flatten(0, 1), target.repeat(len(outputs), *[1] * (target.ndim - 1)))
            return together.total.view(len(outputs), -1), together.count.view(len(outputs), -1)
        parts = [self.per_example(one, target) for one in outputs]
        return torch.stack([part.total for part in parts]), torch.stack([part.count for part in parts])

    def _of_rows(self, units: Any, outputs: Any, target: Any) -> Any:
        """Units with a first axis of examples; those of tokens that were flattened are put back to their example."""
        values, mask = units if isinstance(units, tuple) and len(units) == 2 else (units, None)
        rows = examples_in(target) or examples_in(outputs)
        if not isinstance(values, Tensor) or values.ndim == 0 or not rows or len(values) == rows:
            return units
        if values.ndim == 1 and isinstance(target, Tensor) and len(values) == target.numel():
            both = [part.reshape(rows, -1) for part in (values, mask) if isinstance(part, Tensor)]
            return both[0] if mask is None else tuple(both)
        raise ProblemError(
            f"The loss {self.name!r} returned {len(values)} values for {rows} examples. Return one for each example, or "
            "their mean, a tensor without axes."
        )

    def _mean(self, value: Tensor, outputs: Any, target: Any) -> Tensor:
        """The mean over examples, also where the loss is their sum: that doubles where each example is given twice."""
        rows = examples_in(outputs)
        if self._sums is None and rows and rows == examples_in(target) and float(value.detach()):
            both = torch.arange(rows).repeat(2)
            with (
                torch.set_grad_enabled(self.derived),
                suppress(ProblemError),
            ):  # outputs by which it derives are one whole
                twice = self._call(self._units, *(examples_of(part, both, rows) for part in (outputs, target)))
                self._sums = bool(torch.isclose(twice.float(), 2.0 * value.detach().float(), rtol=1e-3))
        return value / rows if self._sums else value

    def _sliced(self, outputs: Any, target: Any, mean: Tensor) -> PerExample:
        rows = examples_in(outputs)
        if rows and rows == examples_in(target) and not self._couples:
            parts = self._together(outputs, target, rows)
            if parts is None:
                each = (examples_of((outputs, target), slice(i, i + 1), rows) for i in range(rows))
                try:
                    singles = [self._of_one(output, wanted) for output, wanted in each]
                except (
                    ProblemError
                ):  # as many targets as examples by chance: boxes of all images, by the image's number
                    return _whole(mean.float(), rows)
                parts = torch.stack([single.reshape(()) for single in singles]).float()
            if torch.isclose(parts.mean(), mean.float(), rtol=1e-3, atol=1e-6):
                # Of masked pixels or words a batch's mean is not quite the mean of its examples' means; it is what the loop sees.
                return PerExample(parts + (mean.float() - parts.mean()), torch.ones_like(parts))
            if self._broadcasts(outputs, target, parts.mean()):
                raise ProblemError(
                    f"The loss {self.name!r} compares all rows with all: outputs are {_shape(outputs)}, targets are "
                    f"{_shape(target)}. Give both one shape."
                )
            self._couples = True  # and is not asked for single examples again
        return _whole(mean.float(), max(1, examples_in(target) or rows))

    def _first(self, outputs: Any, target: Any) -> Any:
        """The first evaluation, on copies, which shows whether the loss writes into what it is given, as ``div_`` does."""
        copies = mapped(_clone, (outputs, target))
        before = [one._version for one in tensors_in(copies)]
        units = self._call(self._clean, *copies)
        self._writes = before != [one._version for one in tensors_in(copies)]
        return units

    def _together(self, outputs: Any, target: Any, rows: int) -> Tensor | None:
        """The loss of each example alone, ``(rows,)``, in one call; None where an earlier batch showed that it cannot be."""
        leaves, spec = tree_flatten(mapped(_clone, (outputs, target)) if self._writes else (outputs, target))
        if self._vmaps is False or not all(isinstance(one, Tensor) and one.layout == torch.strided for one in leaves):
            return None
        by_row = [leaf.ndim > 0 and len(leaf) == rows for leaf in leaves]
        alone = [leaf.unsqueeze(1) if its else leaf for leaf, its in zip(leaves, by_row, strict=True)]
        try:
            if self._vmaps is None:
                with _Made() as made:
                    self._clean(outputs, target)
                if any(one() is not None for one in made.alive):
                    self._vmaps = False  # what it keeps would be of no use after `vmap`, and end the user's own loop
                    return None
            parts = vmap(
                lambda *one: self._clean(*tree_unflatten(one, spec)),
                tuple(0 if its else None for its in by_row),
                randomness="different",
            )(*alone)
            self._vmaps = isinstance(parts, Tensor) and parts.numel() == rows
        except (
            Exception
        ):  # whatever a callable raises that looks at numbers, writes in place, or takes no single example
            self._vmaps = False
        return parts.reshape(rows).float() if self._vmaps else None

    def _of_one(self, output: Any, target: Any) -> Any:
        """The loss of one example; as the mean of it twice where ``squeeze`` leaves a single one no axis of examples."""
        try:
            return self._call(self._clean, output, target)
        except ProblemError:
            both = torch.zeros(2, dtype=torch.long)
            return self._call(self._clean, *(examples_of(part, both, 1) for part in (output, target)))

    def _broadcasts(self, outputs: Any, target: Any, mean: Tensor) -> bool:
        """Whether the loss would be the mean over examples if ``(n, 1)`` and ``(n,)`` were one shape."""
        if (
            not (isinstance(outputs, Tensor) and isinstance(target, Tensor))
            or len(outputs) < 2
            or {tuple(outputs.shape), tuple(target.shape)} != {(len(outputs),), (len(outputs), 1)}
        ):
            return False
        try:
            fitting = self._call(self._clean, outputs.reshape(-1), target.reshape(-1))
        except ProblemError:
            return False
        return bool(torch.isclose(fitting.float(), mean, rtol=1e-3, atol=1e-6))

    def _call(self, units: Callable[[Any, Any], Any], outputs: Any, target: Any) -> Any:
        if self._writes:
            outputs, target = mapped(_clone, (outputs, target))
        try:
            with noting(f"the loss {self.name!r}", outputs, target):
                return units(outputs, target)
        except TargetError:  # it says what is wrong with the targets
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
            raise ProblemError(
                f"The loss {self.name!r} does not fit the model: outputs are {_shape(outputs)}, targets are "
                f"{_shape(target)} ({error})."
            ) from error


def _is_mean(units: Any, outputs: Any, target: Any) -> bool:
    """Whether a loss returned one number for all examples; torch derives by a tensor of shape ``(1,)`` too."""
    if not isinstance(units, Tensor) or units.numel() != 1:
        return False
    return units.ndim == 0 or (units.ndim == 1 and (examples_in(target) or examples_in(outputs)) > 1)


def per_example(units: Any, target: Any, ignored: int | None = None) -> PerExample:
    """Sum the units of each example: ``units`` is ``(n, ...)``, or a pair of it and a mask of the same shape."""
    if isinstance(units, PerExample):
        return units
    values, mask = units if isinstance(units, tuple) and len(units) == 2 else (units, None)
    if not isinstance(values, Tensor) or values.ndim == 0:
        raise ProblemError("A loss must return a tensor: a value for each example, or their mean.")
    if mask is None and ignored is not None and isinstance(target, Tensor) and target.shape == values.shape:
        mask = target != ignored
    count = torch.ones_like(values) if mask is None else mask.to(values.dtype).expand_as(values)
    total = values if mask is None else values.where(mask.bool().expand_as(values), torch.zeros_like(values))
    return PerExample(over_outputs(total), over_outputs(count))


def _clone(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _as_module(given: Any) -> Any:
    """torch's functional cross-entropy, also with arguments set by ``functools.partial``, as the module it stands for."""
    function = given.func if isinstance(given, functools.partial) and not given.args else given
    if callable(function) and isinstance(function, Hashable) and function in FUNCTIONS:
        keywords = dict(given.keywords) if isinstance(given, functools.partial) else {}
        return FUNCTIONS[function](**keywords)
    return given


def _known(given: Any) -> _Known | None:
    """What is known of a loss of torch; of a subclass with a forward of its own nothing is."""
    plain = (cls for cls in TORCH if isinstance(given, cls) and type(given).forward is cls.forward)
    return next((TORCH[cls] for cls in plain), None)


def _whole(mean: Tensor, rows: int) -> PerExample:
    """A batch as one example of ``rows`` units."""
    count = torch.full((1,), float(rows), device=mean.device, dtype=mean.dtype)
    return PerExample((mean * rows).reshape(1), count, whole=True)


def _unreduced(given: Any, by_example: bool) -> Callable[[Any, Any], Any]:
    """The callable with its reduction over examples taken out, where that is possible, and its targets checked."""
    if isinstance(given, nn.modules.loss._Loss) and hasattr(given, "reduction"):
        if isinstance(given, (nn.CrossEntropyLoss, nn.NLLLoss)):
            return _of_classes(given, by_example)
        loose = copy.copy(given)
        loose.reduction = "none"
        if (known := _known(given)) is not None:
            return functools.partial(_checked, loose, known)
        if given.reduction == "batchmean":
            return lambda outputs, target: loose(outputs, target).flatten(1).sum(1)
        return loose
    if isinstance(given, nn.Module) and isinstance(getattr(given, "reduction", None), str):
        bare: Any = copy.copy(given)
        bare.reduction = "none"
        return _Probed(given, bare)
    try:
        has_reduction = "reduction" in inspect.signature(given).parameters
    except (TypeError, ValueError):
        has_reduction = False
    if has_reduction and not isinstance(given, type):
        return _Probed(given, functools.partial(given, reduction="none"))
    return given  # type: ignore[no-any-return]


class _Probed:
    """A loss with its reduction taken out, if that is found to give values whose mean or sum the loss is; else as it is."""

    def __init__(self, given: Callable[..., Any], loose: Callable[..., Any]) -> None:
        self.given, self.loose = given, loose
        self.chosen: Callable[..., Any] | None = None

    def __call__(self, outputs: Any, target: Any) -> Any:
        if self.chosen is None:
            with torch.no_grad():
                self.chosen = self.loose if self._agree(outputs, target) else self.given
        return self.chosen(outputs, target)

    def _agree(self, outputs: Any, target: Any) -> bool:
        whole = self.given(outputs, target)
        try:
            values = self.loose(outputs, target)
        except (TypeError, ValueError, NotImplementedError, RuntimeError, KeyError):
            return False
        if not isinstance(values, Tensor) or values.ndim == 0 or not isinstance(whole, Tensor):
            return False
        return whole.ndim > 0 or any(torch.isclose(whole, one, rtol=1e-3) for one in (values.mean(), values.sum()))


def _checked(loose: nn.Module, known: _Known, outputs: Tensor, target: Tensor) -> Any:
    name = known.same.name if known.same is not None else type(loose).__name__
    if known.check is need_classes:
        return loose(*class_indices(name, outputs, target))
    known.check(name, target)
    return loose(*match_shapes(outputs, target)) if known.elementwise else loose(outputs, target)


def _of_classes(given: nn.CrossEntropyLoss | nn.NLLLoss, by_example: bool) -> Callable[[Any, Any], Any]:
    """Values and how much each counts. Class weights weigh both sums, as torch's weighted mean does:
    ``sum w_y l / sum w_y``; what is ignored counts nothing."""
    loose = copy.deepcopy(given)
    loose.reduction = "none"
    by_example = by_example and bool(getattr(given, "label_smoothing", 0.0))
    name = "cross_entropy" if isinstance(given, nn.CrossEntropyLoss) else "NLLLoss"

    def units(outputs: Tensor, target: Tensor) -> Tensor | PerExample:
        if is_distribution(outputs, target):
            need_distributions(name, target)
            loose.weight = None if given.weight is None else given.weight.to(outputs)
            return loose(outputs, target)  # type: ignore[no-any-return]
        outputs, target = class_indices(name, outputs, target, given.ignore_index)
        counts = target != given.ignore_index
        if given.weight is not None:
            weight = given.weight.to(outputs)
            counts = weight[target.where(counts, torch.zeros_like(target))] * counts
            loose.weight = None if by_example else weight
        values = loose(outputs, target)
        if given.weight is not None and by_example:
            values = values * counts
        return PerExample(over_outputs(values), over_outputs(counts.to(values.dtype)))

    return units


def _softened(given: Any, amount: float, outputs: Tensor, target: Tensor) -> PerExample:
    """A torch loss with class weights ``w`` on targets that were smoothed by ``amount``:
    ``v * loss(outputs, (1 - amount) * p w / v + amount * uniform)`` with ``p`` the probabilities before smoothing, and
    ``v = sum_c w_c p_c``, the weight of the example.

    Weighing smoothed targets, as torch does, gives every example a share of the heavy classes: of two with weights 1 and 50 all
    rows are then predicted as the second (smoothing 0.1). Of a cross-entropy ``v`` also counts in the mean; of ``pos_weight``
    not, as in torch.
    """
    if isinstance(given, nn.CrossEntropyLoss):
        need_distributions("cross_entropy", target)
        outputs = at_least_single(outputs)
        weight = given.weight.to(outputs)  # type: ignore[union-attr]
        uniform = amount / outputs.shape[1]
        share = ((target.to(outputs.dtype) - uniform) / (1.0 - amount)) * weight.view(1, -1, *[1] * (outputs.ndim - 2))
        own = share.sum(1, keepdim=True)
        tilted = (1.0 - amount) * share / own.clamp_min(torch.finfo(own.dtype).tiny) + uniform
        values = own.squeeze(1) * F.cross_entropy(
            outputs, tilted, reduction="none", label_smoothing=given.label_smoothing
        )
        return PerExample(over_outputs(values), over_outputs(own.squeeze(1)))
    need_shares("binary_cross_entropy", target)
    outputs, target = match_shapes(outputs, target)
    clean = (target - 0.5 * amount) / (1.0 - amount)
    own = given.pos_weight.to(outputs) * clean + 1.0 - clean
    tilted = (1.0 - amount) * given.pos_weight.to(outputs) * clean / own + 0.5 * amount
    values = own * F.binary_cross_entropy_with_logits(outputs, tilted, given.weight, reduction="none")
    return PerExample(over_outputs(values), over_outputs(torch.ones_like(values)))


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


@dataclass(frozen=True)
class MeanLoss:
    """A mean with its standard error over examples, and what each example adds to it.

    ``rows[i]`` is example ``i``'s linearized part: the mean of ``rows`` is ``mean``, and differences of rows between
    two models on the same examples are paired.
    """

    mean: float
    se: float
    rows: Tensor


def mean_loss(parts: list[PerExample], weights: list[Tensor] | None = None) -> MeanLoss:
    """The mean over all parts with its standard error, by linearization of the ratio.

    ``se^2 = n/(n-1) * sum_i (w_i (total_i - mean*count_i))^2 / (sum_i w_i count_i)^2``; NaN for fewer than 2 examples.
    """
    total, count = torch.cat([p.total for p in parts]), torch.cat([p.count for p in parts])
    return mean_losses(total[None], count[None], None if weights is None else torch.cat(weights))[0]


def mean_losses(total: Tensor, count: Tensor, weight: Tensor | None = None) -> list[MeanLoss]:
    """`mean_loss` of several models on the same examples: ``total`` and ``count`` are ``(models, n)``, ``weight`` is ``(n,)``."""
    total, count = total.double().cpu(), count.double().cpu()
    if weight is not None:
        total, count = total * weight.double().cpu(), count * weight.double().cpu()
    n, sizes = total.shape[1], count.sum(1)
    if n == 0:
        return [MeanLoss(math.nan, math.nan, row) for row in total]
    means = (total.sum(1) / sizes)[:, None]
    influence = (total - means * count) * (n / sizes)[:, None]
    spread = (influence.square().sum(1) / (n * (n - 1))).sqrt() if n > 1 else torch.full_like(sizes, math.nan)
    plain = weight is None and bool((count == 1).all())
    rows = total if plain else means + influence
    return [MeanLoss(mean, se, row) for mean, se, row in zip(means[:, 0].tolist(), spread.tolist(), rows, strict=True)]
