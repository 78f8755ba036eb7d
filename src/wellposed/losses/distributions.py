"""Losses whose outputs are a whole distribution of the target: its place and its spread, its quantiles, or its classes in order.

A network with such a loss has several outputs for each number that it predicts, the first kind for all numbers, then the
second: with targets ``(n, t)`` and a Gaussian, ``outputs[:, :t]`` are the means and ``outputs[:, t:]`` the logarithms of the
variances, as ``outputs.chunk(2, 1)`` gives them. Metrics and predictions read `Criterion.response`, the mean (of quantiles the
median); the whole distribution is read by the metrics of `wellposed.losses.proper_scores` and by ``wp.distribution_of``.

Values are in nats where they are a likelihood. Differences are divided by a spread in two halves of its exponent, so that
neither overflows before their product does.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from wellposed.core.checks import Within, checked
from wellposed.core.errors import InputError, TargetError, described, require
from wellposed.losses.classification import MOST_COUNTED, is_distribution
from wellposed.losses.criterion import Criterion, at_least_single, over_outputs
from wellposed.losses.targets import IGNORED, extremes, need_classes, need_distributions, need_numbers

LOG_2PI = math.log(2.0 * math.pi)
BISECTIONS = 80
"""Halvings of the bracket of a quantile: a double has 53 bits, and the bracket may straddle 0."""
ONE_CLASS = "ordinal takes one class for each row, and outputs (rows, classes - 1)"
LARGE_DOF = 1e6
"""Degrees of freedom above which the gamma functions of Student's t are taken from their first two orders: their logarithms, which
grow, would be subtracted from each other."""
ITERATIONS = 100
"""Of the fixed point that fits a constant Student's t: it comes closer by a factor of 2 or more each time."""


class Distribution(Criterion):
    """A loss whose outputs are a distribution of each target number: shapes are ``(n,)``, or ``(n, t, ...)`` of several numbers."""

    convex = False
    needs: ClassVar[str]
    """What the outputs of one number are."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Outputs for each number."""

    @abstractmethod
    def nll(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``-log p(target)`` in nats, ``(n,)``, summed over the numbers of a row; refused where there is no density.

        Raises:
            InputError: the distribution has no density.
        """

    @abstractmethod
    def crps(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``E|Y - y| - 1/2 E|Y - Y'|`` of each number, in its units; of the targets' shape. Refused where the distribution is not
        known as a whole.

        Raises:
            InputError: the distribution is not known as a whole.
        """

    @abstractmethod
    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        """The value below which a target lies with probability ``level`` in (0, 1)."""

    @abstractmethod
    def std(self, outputs: Tensor) -> Tensor:
        """The standard deviation of a target; refused where it is not known.

        Raises:
            InputError: it is not known.
        """

    @abstractmethod
    def rescaled(self, outputs: Tensor, scale: float | Tensor, shift: float | Tensor) -> Tensor:
        """The outputs that say of ``scale * y + shift`` what ``outputs`` say of ``y``; scale > 0 and shift are numbers, or one for
        each target number ``(t,)``.
        """

    def outputs_for(self, targets: int) -> int:
        return self.width * targets

    def parameters(self, outputs: Tensor, target: Tensor | None = None) -> Tensor:
        """``(n, width, t, ...)``, at least single precision.

        Raises:
            ValueError: the number of outputs is another one than the targets need.
        """
        outputs = outputs[:, None] if outputs.ndim == 1 else outputs
        shape = None if target is None else target.shape[1:] if target.ndim > 1 else torch.Size([1])
        wanted = self.width * (1 if shape is None else shape[0])
        fits = outputs.shape[1] % self.width == 0 if shape is None else outputs.shape[1:] == (wanted, *shape[1:])
        if not fits:
            raise ValueError(
                f"{self.name} needs {self.width} outputs for each number to predict, {self.needs}: the model needs {wanted} "
                "outputs"
            )
        return at_least_single(outputs).reshape(
            len(outputs), self.width, outputs.shape[1] // self.width, *outputs.shape[2:]
        )


class Density(Distribution):
    """A distribution with a density of each number, of which the loss is the negative logarithm."""

    def check(self, target: Tensor, classes: int | None = None) -> None:
        need_numbers(self.name, target)

    def check_training(self, target: Tensor) -> None:
        """Refuse training targets of which a number is always the same: no spread is too small for it.

        Raises:
            TargetError: a number is the same in all rows.
        """
        same = (target == target[:1]).flatten(1).all(0) if target.ndim > 1 else (target == target[:1]).all()
        if bool(same.any()):
            raise TargetError(
                f"{self.name} needs training targets that differ; a number to predict is the same in all {len(target)} rows, and "
                "the likelihood grows without end as its spread becomes 0. Leave it out, or use squared_error."
            )

    def units(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
        """``(n,)``: a sum over the numbers of a row."""
        self.check(target)
        parameters, target = self._both(outputs, target)
        return over_outputs(self.surprise(parameters, target)), None

    def nll(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self.units(outputs, target)[0]

    def crps(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self.distance(*self._both(outputs, target)).reshape(target.shape)

    def _both(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        parameters = self.parameters(outputs, target)
        return parameters, target.to(parameters.dtype).reshape(parameters[:, 0].shape)

    @abstractmethod
    def surprise(self, parameters: Tensor, y: Tensor) -> Tensor:
        """``-log p(y)`` of each number, of parameters ``(n, width, t, ...)``."""

    @abstractmethod
    def distance(self, parameters: Tensor, y: Tensor) -> Tensor:
        """The continuous ranked probability score of each number."""


class _LocationScale(Density):
    """``y = location + scale * z``: two outputs, the location and the logarithm of the squared scale."""

    @property
    def width(self) -> int:
        return 2

    def response(self, outputs: Tensor) -> Tensor:
        return _answer(self.parameters(outputs)[:, 0])

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        location, log_square = self.parameters(outputs).unbind(1)
        return _answer(location + (0.5 * log_square).exp() * self.standard_quantile(inside(level)))

    def rescaled(self, outputs: Tensor, scale: float | Tensor, shift: float | Tensor) -> Tensor:
        location, log_square = self.parameters(outputs).unbind(1)
        return torch.cat(
            [location * scale + shift, log_square + 2.0 * torch.as_tensor(scale, dtype=torch.float64).log()], 1
        )

    @abstractmethod
    def standard_quantile(self, level: float) -> float:
        """Of ``z``."""


@dataclass(frozen=True)
class GaussianDensity(_LocationScale):
    """``1/2 ((y - m)^2 e^-v + v + log 2 pi)``, in nats, summed over the numbers of a row: minus the logarithm of a normal density.

    As text ``"gaussian"``. Two outputs for each number: the mean ``m`` and the logarithm of the variance, ``v``; convex in either,
    not in both. The loss falls without end where rows can be predicted exactly. Torch's ``GaussianNLLLoss(full=True)`` of
    ``exp(v)``.

    Source:
        Nix & Weigend (1994), ICNN.
    Example:
        >>> GaussianDensity().units(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 1.0]))[0]
        tensor([1.4189, 1.9866])
    """

    name = "gaussian"
    needs = "a mean and the logarithm of a variance"

    def surprise(self, parameters: Tensor, y: Tensor) -> Tensor:
        mean, log_var = parameters.unbind(1)
        return 0.5 * (_divided(y - mean, 0.5 * log_var).square() + log_var + LOG_2PI)

    def distance(self, parameters: Tensor, y: Tensor) -> Tensor:
        mean, log_var = parameters.unbind(1)
        std = _scale(log_var)
        return _mean_distance(y - mean, std) - std / math.sqrt(math.pi)

    def std(self, outputs: Tensor) -> Tensor:
        return _answer((0.5 * self.parameters(outputs)[:, 1]).exp())

    def standard_quantile(self, level: float) -> float:
        return float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """Mean and variance of the training targets."""
        y = train.float()
        return _stacked([y.mean(0), _log(y.var(0, correction=0))])


@checked
@dataclass(frozen=True)
class StudentT(_LocationScale):
    """``-log`` of Student's t density of ``z = (y - m) e^(-v/2)``, in nats, summed over the numbers of a row.

    ``(dof + 1)/2 log(1 + z^2/dof) + v/2`` and a constant: far targets pull with ``1/|y - m|``, where a Gaussian's pull grows with
    ``|y - m|``. As text ``"student_t:4"``. Two outputs for each number: the location ``m``, which is the mean, and the
    logarithm ``v`` of the squared scale; the variance is ``e^v dof/(dof - 2)``.

    Args:
        dof: degrees of freedom, > 2, so that there is a variance, and <= 1e30. Towards infinity the loss is `GaussianDensity`.
    Raises:
        InputError: dof is no number above 2 and up to 1e30.
    Source:
        Lange, Little & Taylor (1989), JASA 84(408).
    Example:
        >>> import torch, wellposed as wp
        >>> wp.StudentT(4).units(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 1.0]))[0]
        tensor([1.5387, 2.0640])
    """

    dof: Annotated[float, Within(2, 1e30, open="low")] = 4.0

    name = "student_t"
    needs = "a location and the logarithm of a squared scale"

    @property
    def _offset(self) -> float:
        if self.dof > LARGE_DOF:
            return 0.5 * LOG_2PI + 0.25 / self.dof
        return math.lgamma(0.5 * self.dof) - math.lgamma(0.5 * (self.dof + 1.0)) + 0.5 * math.log(math.pi * self.dof)

    def surprise(self, parameters: Tensor, y: Tensor) -> Tensor:
        location, log_square = parameters.unbind(1)
        return (
            0.5 * (self.dof + 1.0) * _log1p_square(y - location, 0.5 * log_square, self.dof)
            + 0.5 * log_square
            + self._offset
        )

    def distance(self, parameters: Tensor, y: Tensor) -> Tensor:
        """Source: Jordan, Krüger & Lerch (2019), J. Stat. Software 90(12), appendix A."""
        special = require("scipy.special", "tables")
        location, log_square = parameters.unbind(1)
        scale, n = _scale(log_square), self.dof
        z = (y - location) / scale
        below = torch.as_tensor(special.stdtr(n, z.cpu().numpy()), dtype=z.dtype, device=z.device)
        # The density times (1 + z^2/n), whose factors are 0 and infinite far outside.
        tail = torch.exp(0.5 * (1.0 - n) * torch.log1p(z.square() / n) - self._offset)
        if n > LARGE_DOF:
            among = (1.0 - 0.125 / n) / math.sqrt(math.pi)
        else:
            among = 2.0 / math.sqrt(n) * math.exp(special.betaln(0.5, n - 0.5) - 2.0 * special.betaln(0.5, 0.5 * n))
        return (y - location) * (2.0 * below - 1.0) + scale * (2.0 * tail - among) / (1.0 - 1.0 / n)

    def std(self, outputs: Tensor) -> Tensor:
        return _answer((0.5 * self.parameters(outputs)[:, 1]).exp() * math.sqrt(self.dof / (self.dof - 2.0)))

    def standard_quantile(self, level: float) -> float:
        return float(require("scipy.special", "tables").stdtrit(self.dof, level))

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """The maximum of the likelihood, by weighing far targets less until nothing changes.

        Source:
            Kent, Tyler & Vardi (1994), Commun. Stat. Simul. 23(2): the weighted variance is divided by the mean weight.
        """
        y = train.double()
        location, square = y.median(0).values, y.var(0, correction=0)
        for _ in range(ITERATIONS):
            weight = (self.dof + 1.0) / (
                self.dof + (y - location).square() / square.clamp_min(torch.finfo(y.dtype).tiny)
            )
            location = (weight * y).sum(0) / weight.sum(0)
            square = (weight * (y - location).square()).sum(0) / weight.sum(0)
        return _stacked([location, _log(square)]).float()


@checked
@dataclass(frozen=True)
class GaussianMixture(Density):
    """``-log sum_k w_k N(y; m_k, e^v_k)``, in nats, summed over the numbers of a row, each of which has a mixture of its own.

    As text ``"gaussian_mixture:3"``: for answers that are one of several, whose mean is none of them. Three outputs for each
    component: first the logits of the weights of all components, then their means, then the logarithms of their variances.

    Args:
        components: >= 1; with 1 the loss is `GaussianDensity`, behind a logit without effect.
    Raises:
        InputError: components is no whole number of at least 1.
    Source:
        Bishop (1994), Mixture Density Networks, Aston University NCRG/94/004.
    Example:
        >>> import torch, wellposed as wp
        >>> two = torch.tensor([[0.0, 0.0, -1.0, 1.0, 0.0, 0.0]])  # even weights, means -1 and 1, variances 1
        >>> wp.GaussianMixture(2).units(two, torch.tensor([0.0]))[0]
        tensor([1.4189])
    """

    components: Annotated[int, Within(1, 10**6)] = 3

    name = "gaussian_mixture"
    needs = "a logit, a mean and the logarithm of a variance for each component"

    @property
    def width(self) -> int:
        return 3 * self.components

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of the weights, means and logarithms of the variances, each ``(n, components, t, ...)``."""
        logits, mean, log_var = parameters.chunk(3, 1)
        return logits.log_softmax(1), mean, log_var

    def surprise(self, parameters: Tensor, y: Tensor) -> Tensor:
        log_weight, mean, log_var = self._split(parameters)
        difference, size = y[:, None] - mean, torch.finfo(y.dtype)
        # Of a component too far away to have a density that is representable, the least stands for it: an infinity has no gradient.
        lost = difference.abs().clamp_min(size.tiny).log() - 0.5 * log_var > 0.49 * math.log(size.max)
        lost &= difference != 0
        z = _divided(difference.masked_fill(lost, 0.0), 0.5 * log_var.masked_fill(lost, 0.0))
        density = (-0.5 * (z.square() + log_var + LOG_2PI)).masked_fill(lost, -0.1 * size.max)
        return -(log_weight + density).logsumexp(1)

    def distance(self, parameters: Tensor, y: Tensor) -> Tensor:
        """Source: Grimit et al. (2006), Q. J. R. Meteorol. Soc. 132, equation 5."""
        log_weight, mean, log_var = self._split(parameters)
        weight, std = log_weight.exp(), _scale(log_var)
        apart = (weight * _mean_distance(y[:, None] - mean, std)).sum(1)
        both = torch.hypot(std[:, :, None], std[:, None])
        among = _mean_distance(mean[:, :, None] - mean[:, None], both)
        return apart - 0.5 * (weight[:, :, None] * weight[:, None] * among).sum((1, 2))

    def response(self, outputs: Tensor) -> Tensor:
        log_weight, mean, _ = self._split(self.parameters(outputs))
        return _answer((log_weight.exp() * mean).sum(1))

    def std(self, outputs: Tensor) -> Tensor:
        log_weight, mean, log_var = self._split(self.parameters(outputs))
        weight = log_weight.exp()
        off = mean - (weight * mean).sum(1, keepdim=True)
        return _answer((weight * (log_var.exp() + off.square())).sum(1).sqrt())

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        """By bisection between the least and the largest of the components' quantiles."""
        log_weight, mean, log_var = self._split(self.parameters(outputs.double()))
        weight, std = log_weight.exp(), _scale(log_var)
        each = mean + std * GaussianDensity().standard_quantile(inside(level))
        low, high = each.amin(1), each.amax(1)
        for _ in range(BISECTIONS if self.components > 1 else 0):
            middle = 0.5 * (low + high)
            below = (weight * torch.special.ndtr((middle[:, None] - mean) / std)).sum(1) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return _answer(0.5 * (low + high))

    def rescaled(self, outputs: Tensor, scale: float | Tensor, shift: float | Tensor) -> Tensor:
        logits, mean, log_var = self.parameters(outputs).chunk(3, 1)
        moved = [logits, mean * scale + shift, log_var + 2.0 * torch.as_tensor(scale, dtype=torch.float64).log()]
        return torch.cat(moved, 1).flatten(1, 2)


@dataclass(frozen=True)
class Quantiles(Distribution):
    """``sum_k max(p_k r_k, (p_k - 1) r_k)`` of ``r_k = y - f_k``, summed over the numbers of a row: several quantiles at once.

    As text ``"quantiles:0.05,0.5,0.95"``. An output for each level; convex in the outputs. They may cross while they are learned;
    every answer sorts them, and a sorted answer never costs more (Chernozhukov et al.).

    Args:
        levels: two or more in (0, 1), increasing.
    Raises:
        InputError: the levels are others.
    Source:
        Koenker & Bassett (1978), Econometrica 46(1); Chernozhukov, Fernández-Val & Galichon (2010), Econometrica 78(3).
    Example:
        >>> import torch, wellposed as wp
        >>> wp.Quantiles((0.1, 0.9)).units(torch.tensor([[-1.0, 1.0]]), torch.tensor([2.0]))[0]
        tensor([1.2000])
    """

    levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)

    name = "quantiles"
    needs = "one for each level"
    convex = True

    def __post_init__(self) -> None:
        given = self.levels
        try:
            levels = tuple(float(level) for level in given)
        except (TypeError, ValueError):
            levels = ()
        if len(levels) < 2 or not all(a < b for a, b in zip((0.0, *levels), (*levels, 1.0), strict=True)):
            raise InputError(
                "Quantiles needs levels= of two or more numbers in (0, 1), each larger than the one before, such as "
                f"(0.05, 0.5, 0.95); it was given {described(given)}."
            )
        object.__setattr__(self, "levels", levels)

    @property
    def width(self) -> int:
        return len(self.levels)

    def check(self, target: Tensor, classes: int | None = None) -> None:
        need_numbers(self.name, target)

    def units(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, None]:
        self.check(target)
        parameters = self.parameters(outputs, target)
        level = parameters.new_tensor(self.levels).view(-1, *[1] * (parameters.ndim - 2))
        left = target.to(parameters.dtype).reshape(parameters[:, 0].shape)[:, None] - parameters
        return over_outputs(torch.maximum(level * left, (level - 1.0) * left)), None

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        """On the line between the two nearest levels of the loss; refused outside of them.

        Raises:
            InputError: the level is outside those of the loss, of which it says nothing.
        """
        level = next((own for own in self.levels if math.isclose(own, level)), level)
        if not self.levels[0] <= level <= self.levels[-1]:
            raise InputError(
                f"The loss {self} has quantiles from {self.levels[0]:g} to {self.levels[-1]:g}; {level:g} is outside. Train with a "
                "level there."
            )
        ordered = self.parameters(outputs).sort(1).values
        place = max(k for k in range(self.width - 1) if self.levels[k] <= level)
        share = (level - self.levels[place]) / (self.levels[place + 1] - self.levels[place])
        return _answer(torch.lerp(ordered[:, place], ordered[:, place + 1], share))

    def response(self, outputs: Tensor) -> Tensor:
        """The median, or the quantile of the nearest level."""
        return self.quantile(outputs, min(max(0.5, self.levels[0]), self.levels[-1]))

    def std(self, outputs: Tensor) -> Tensor:
        raise InputError(f"The loss {self} gives quantiles, which have no standard deviation. Ask for an interval.")

    def nll(self, outputs: Tensor, target: Tensor) -> Tensor:
        raise InputError(
            f"The loss {self} gives quantiles, which have no density. Take the metric pinball or interval_score."
        )

    def crps(self, outputs: Tensor, target: Tensor) -> Tensor:
        raise InputError(
            f"The loss {self} gives some quantiles, and crps needs all of them. Take the metric pinball or interval_score."
        )

    def rescaled(self, outputs: Tensor, scale: float | Tensor, shift: float | Tensor) -> Tensor:
        return (self.parameters(outputs) * scale + shift).flatten(1, 2)

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """Of ``n`` sorted training targets number ``ceil(level n)``, for each level."""
        places = [max(1, math.ceil(level * len(train))) for level in self.levels]
        return _stacked([train.float().kthvalue(place, 0).values for place in places])


@dataclass(frozen=True)
class Ordinal(Criterion):
    """``-log p(y)`` of classes in an order, in nats: ``P(y <= k) = sigmoid(c_k)`` with ``c_0 = f_0`` and ``c_k = c_(k-1) +
    softplus(f_k)``.

    As text ``"ordinal"``. ``K`` classes, numbered from the lowest on, need ``K - 1`` outputs. The cumulative logits never cross,
    so that every class has a probability above 0. Where only ``f_0`` depends on the inputs it is the proportional odds model.
    Metrics and predictions are of the classes' probabilities; ``log p(k) = log sigmoid(c_k) + log sigmoid(-c_(k-1)) + log
    sigmoid(f_k)``, without a difference of two numbers near each other.

    Source:
        McCullagh (1980), JRSS-B 42(2).
    Example:
        >>> Ordinal().response(torch.tensor([[0.0, 0.0]])).exp()
        tensor([[0.5000, 0.1667, 0.3333]])
    """

    name = "ordinal"
    classifies = True
    convex = False

    def outputs_for(self, targets: int) -> int:
        return max(1, targets - 1)

    def response(self, outputs: Tensor) -> Tensor:
        """Logarithms of the classes' probabilities, ``(n, K)``."""
        outputs = at_least_single(outputs[:, None] if outputs.ndim == 1 else outputs)
        if outputs.ndim != 2:
            raise ValueError(ONE_CLASS)
        first, more = outputs[:, :1], outputs[:, 1:]
        cumulative = torch.cat([first, -F.logsigmoid(-more)], 1).cumsum(1)
        within = torch.cat([torch.zeros_like(first), F.logsigmoid(more)], 1)
        below = F.logsigmoid(cumulative) + within
        above = F.pad(F.logsigmoid(-cumulative), (1, 0))
        return F.pad(below, (0, 1)) + above

    def units(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """A value for each row and which count, of class indices ``(n,)`` or probabilities of the classes ``(n, K)``."""
        scores = self.response(outputs)
        if is_distribution(scores, target):
            need_distributions(self.name, target)
            return -(target.to(scores.dtype) * scores).sum(1), None
        target = target.squeeze(-1) if target.ndim == 2 and target.shape[1] == 1 else target
        if target.shape != scores.shape[:1]:
            raise ValueError(ONE_CLASS)
        self.check(target, scores.shape[1])
        mask = target != IGNORED
        values = -scores.gather(1, target.where(mask, torch.zeros_like(target)).long()[:, None])[:, 0]
        return values, None if bool(mask.all()) else mask

    def check(self, target: Tensor, classes: int | None = None) -> None:
        """Class indices from 0 on; -100 is left out."""
        need_classes(self.name, target)
        if classes is not None and (high := int(extremes(target)[1])) >= classes:
            raise TargetError(
                f"ordinal: {high + 1} classes, of which the last is labelled {high}, need {high} outputs, one less; there are "
                f"{classes - 1}."
            )

    def constant(self, train: Tensor, valid: Tensor) -> Tensor | None:
        """The outputs of the training rows' class shares, with half a row more for each class that either side has."""
        train, valid = (part.flatten()[part.flatten() != IGNORED] for part in (train, valid))
        low, high = extremes(torch.cat([train, valid]))
        if not (low >= 0 and 1 <= high < max(MOST_COUNTED, len(train))):
            return None
        counts = torch.bincount(train.long(), minlength=int(high) + 1).double() + 0.5
        cumulative = (counts.cumsum(0) / counts.sum())[:-1].logit()
        return torch.cat([cumulative[:1], cumulative.diff().expm1().log()]).float()


def _answer(values: Tensor) -> Tensor:
    """``(n,)`` where there is one number a row."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def inside(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise InputError(f"A quantile of a distribution needs a level in (0, 1); it was given {level:g}.")
    return level


def _divided(difference: Tensor, log_scale: Tensor) -> Tensor:
    """``difference / exp(log_scale)``, also where the scale alone is not representable; 0 of 0, with gradient 0."""
    least = -1.9 * math.log(torch.finfo(difference.dtype).max)
    half = torch.exp(-0.5 * log_scale.clamp_min(least))
    return difference * half * half


def _log1p_square(difference: Tensor, log_scale: Tensor, dof: float) -> Tensor:
    """``log(1 + z^2/dof)`` of ``z = difference / exp(log_scale)``; where ``|z| > 1`` from its logarithm, since its square may be
    infinite."""
    size = difference.abs()
    far = (size > 0) & (size.clamp_min(torch.finfo(size.dtype).tiny).log() > log_scale)
    near = torch.log1p(_divided(difference.masked_fill(far, 0.0), log_scale).square() / dof)
    log_z = size.masked_fill(~far, 1.0).log() - log_scale.masked_fill(~far, 0.0)
    return torch.where(far, -F.logsigmoid(math.log(dof) - 2.0 * log_z), near)


def _scale(log_square: Tensor) -> Tensor:
    """``exp(log_square / 2)``, kept off 0, so that a metric of a point is its limit."""
    return (0.5 * log_square).exp().clamp_min(torch.finfo(log_square.dtype).tiny)


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(torch.finfo(values.dtype).tiny).log()


def _mean_distance(difference: Tensor, std: Tensor) -> Tensor:
    """``E|D|`` of ``D ~ N(difference, std^2)``."""
    z = difference / std
    return difference * torch.erf(z / math.sqrt(2.0)) + 2.0 * std * torch.exp(-0.5 * z.square()) / math.sqrt(
        2.0 * math.pi
    )


def _stacked(parts: list[Tensor]) -> Tensor:
    """The outputs of one row from its parameters, each ``()`` or ``(t, ...)``."""
    return torch.stack(parts) if parts[0].ndim == 0 else torch.cat(parts)
