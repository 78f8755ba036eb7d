"""Convex penalties that are sums over single weights: L1, weighted L1, L2, and the elastic net that holds both."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, Literal, Self

import torch
from torch import Tensor

from wellposed.core.checks import Within, checked
from wellposed.core.errors import InputError, ShapeError
from wellposed.core.selectors import Leaf
from wellposed.ops.norms import at_least_float32, length, signs, unless_diverged
from wellposed.ops.prox import shrink, soft_threshold
from wellposed.penalties import conventions
from wellposed.penalties.base import (
    How,
    Penalty,
    Schedule,
    Searched,
    Summands,
    Term,
    Traits,
    array,
    as_weights,
    at_least_zero,
    changed,
    setting_text,
)

Scaling = Literal["torch", "composer", "independent", "timm"]
"""How decoupled decay follows the learning rate; see `L2.decoupled`."""


class Separable(Penalty):
    """``g(w) = sum_i l1_i |w_i| + l2/2 * |w|_2^2``: what L1, weighted L1, L2 and the elastic net have in common; ``l1`` is a
    number or a tensor that broadcasts to ``w``, ``l2`` a number.
    """

    convention: str = ""
    """The convention that the strength was translated from, or nothing. A translated one names an objective: ``loss``."""

    @property
    def l1(self) -> float | Tensor:
        return 0.0

    @property
    def l2(self) -> float:
        return 0.0

    def summands(self) -> Summands:
        return Summands(((self.l2, None),), self.l1)

    @property
    def default_how(self) -> How:
        """``loss`` where the strength was translated from an objective, else the first of `hows`."""
        return "loss" if self.convention else super().default_how

    def __str__(self) -> str:
        told = [f for f in fields(self) if f.repr or getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        values = ", ".join(f"{f.name}={setting_text(getattr(self, f.name))}" for f in told)
        return f"{type(self).__name__}({values})"

    __repr__ = __str__

    def value(self, w: Tensor) -> Tensor:
        x = at_least_float32(w)
        total, l1 = x.new_zeros(()), as_weights(self.l1, x)
        if isinstance(l1, Tensor):
            total = total + (l1 * x.abs()).sum()
        elif l1:
            total = total + l1 * x.abs().sum()
        if self.l2:
            total = total + 0.5 * self.l2 * x.square().sum()
        return total.to(w.dtype)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``soft_threshold(w, step*l1) / (1 + step*l2)``, for each coordinate alone."""
        return shrink(soft_threshold(w, step * as_weights(self.l1, w)), step * self.l2)

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """``|grad + l2*w + l1*sign(w)|`` off zero, ``max(|grad| - l1, 0)`` at zero; Euclidean over coordinates."""
        smooth, l1 = grad + self.l2 * w, as_weights(self.l1, w)
        off = (smooth + l1 * signs(w)).abs()
        at = (smooth.abs() - l1).clamp_min(0.0)
        return unless_diverged(length(torch.where(w == 0, at, off)), w)


@checked
@dataclass(frozen=True, repr=False)
class L1(Separable):
    """``strength * sum_i |w_i|``: drives single weights to exactly zero.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing. From about the largest ``|gradient|`` at zero on, all is zero.
    Source:
        Tibshirani (1996), JRSS-B 58(1).
    Example:
        >>> import torch
        >>> L1(1.0).prox(torch.tensor([3.0, -0.5]), step=1.0)
        tensor([2., 0.])
    """

    strength: float
    convention: str = field(default="", kw_only=True, repr=False)
    traits: ClassVar[Traits] = Traits(homogeneous=1)
    searched: ClassVar[Searched] = Searched(low=1e-6, high=1e-3, least=1e-8, most=1e-1, odds=0.12)

    @property
    def l1(self) -> float:
        return self.strength

    @classmethod
    def prior(cls, scale: float, m: int, noise_std: float | None = None) -> Self:
        """The maximum a posteriori under a Laplace prior, ``p(w_i) = exp(-|w_i|/scale)/(2*scale)``.

        Args:
            scale: > 0, of the prior; its standard deviation is ``sqrt(2)*scale``.
            m: >= 1, training examples.
            noise_std: > 0, of the targets, where the loss is squared error; None where it is a negative log-likelihood.
        """
        conventions.check_above_zero("L1.prior", scale=scale)
        factor = conventions.squared_error_factor("L1.prior", noise_std)
        strength = factor / (conventions.checked_examples("L1.prior", m) * scale)
        return cls(strength, convention=conventions.call_text("prior", scale=scale, m=m, noise_std=noise_std))

    @classmethod
    def lasso(cls, alpha: float) -> Self:
        """scikit-learn's ``Lasso(alpha)``, under squared error (a mean without 1/2): strength ``2*alpha``."""
        conventions.check_above_zero("The lasso", or_zero=True, alpha=alpha)
        return cls(2.0 * alpha, convention=conventions.call_text("lasso", alpha=alpha))


class OwnRates(Penalty):
    """A penalty that charges each weight by a rate of its own, ``weights``: what rates may be, and at which parameters they fit."""

    strength: float
    weights: float | Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.weights if isinstance(self.weights, Tensor) else array(self, "weights", masks=True)
        if not isinstance(weights, Tensor):
            at_least_zero(self, weights=weights)
        elif weights.is_complex() or not bool((torch.isfinite(weights) & (weights >= 0)).all()):
            raise InputError(
                f"{type(self).__name__} needs finite weights >= 0; the tensor {setting_text(weights)} that it was given holds "
                "others. Clamp what they are computed from away from 0."
            )

    def check(self, name: str, w: Tensor) -> None:
        if isinstance(self.weights, Tensor) and not broadcasts(self.weights, w):
            raise ShapeError(
                f"{type(self).__name__} needs weights that broadcast to the parameter; {name!r} has shape {tuple(w.shape)}, "
                f"the weights have {tuple(self.weights.shape)}. Give one term for each shape."
            )

    def at(self, leaf: Leaf) -> Self:
        """This penalty at one parameter, with its rates in the parameter's type and on its device."""
        if not isinstance(self.weights, Tensor):
            return self
        return changed(self, weights=self.weights.to(leaf.tensor))

    @property
    def rates(self) -> float | Tensor:
        """``strength * c``; constants, to which no gradient flows."""
        return self.strength * (self.weights.detach() if isinstance(self.weights, Tensor) else self.weights)


@checked
@dataclass(frozen=True, repr=False)
class WeightedL1(OwnRates, Separable):
    """``strength * sum_i c_i |w_i|``: an L1 that charges each weight by a rate of its own.

    With ``c_i = 1/|v_i|^p`` of a first estimate ``v`` it is the adaptive lasso, whose large weights are hardly biased.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        weights: the rates ``c``, finite and >= 0: a number, or a tensor, an array or lists that broadcast to the parameter
            (a mask of booleans too). 0 leaves a weight free. They are constants: no gradient flows to them.
    Raises:
        InputError: a rate is negative or not finite.
        ShapeError: the rates do not broadcast to a parameter.
    Source:
        Zou (2006), Journal of the American Statistical Association 101(476).
    Example:
        >>> import torch
        >>> WeightedL1(1.0, torch.tensor([2.0, 0.0])).prox(torch.tensor([3.0, -0.5]), step=1.0)
        tensor([ 1.0000, -0.5000])
    """

    strength: float
    weights: float | Tensor = field(default=1.0, compare=False)  # tensors have no one truth to compare by

    @property
    def traits(self) -> Traits:
        """A norm where all rates are positive; rates of a tensor belong to their places."""
        return Traits(homogeneous=1, symmetric=not isinstance(self.weights, Tensor))

    @property
    def l1(self) -> float | Tensor:
        return self.rates


def broadcasts(value: Tensor, w: Tensor) -> bool:
    sizes = zip(reversed(value.shape), reversed(w.shape), strict=False)
    return value.ndim <= w.ndim and all(mine in (1, theirs) for mine, theirs in sizes)


@checked
@dataclass(frozen=True, repr=False)
class L2(Separable):
    """``strength/2 * sum_i w_i^2``, whose gradient is ``strength * w``: torch's weight decay.

    By default decoupled (``how="decay"``): ``w *= 1 - lr*strength`` before the optimizer's step. ``how="loss"`` and
    ``how="prox"`` minimize ``loss + strength/2 |w|^2`` itself; decay does so for plain SGD only, and the audit says what
    it solves elsewhere.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        convention: what the strength was translated from, by `textbook`, `keras`, `prior` or `ridge`.
        scaling: how decay follows the learning rate; see `decoupled`.
    Source:
        Hoerl & Kennard (1970), Technometrics 12(1); decoupled: Loshchilov & Hutter (2019), ICLR.
    """

    strength: float
    convention: str = field(default="", kw_only=True, repr=False)
    scaling: Scaling = field(default="torch", kw_only=True, repr=False)
    traits: ClassVar[Traits] = Traits(homogeneous=2, sparse=False)
    hows: ClassVar[tuple[How, ...]] = ("decay", "prox", "loss")
    searched: ClassVar[Searched] = Searched(low=1e-3, high=1.0, least=1e-6, most=30.0, odds=0.5)

    @property
    def default_how(self) -> How:
        """``decay``; ``loss`` where the strength was translated from an objective."""
        return super().default_how if self.scaling == "torch" else "decay"

    def on(self, where: object = None, how: How | None = None, schedule: Schedule | None = None) -> Term:
        """As for every penalty; a scaling of decay can only be enforced by decay.

        Raises:
            InputError: this penalty cannot be enforced so.
        """
        term = super().on(where, how, schedule)
        if self.scaling != "torch" and term.how != "decay":
            raise InputError(
                f"{self} says how decay follows the learning rate, so it cannot be enforced by how={how!r}. "
                f"Leave how out, or give L2({self.strength!r})."
            )
        return term

    @property
    def l2(self) -> float:
        return self.strength

    def decay_factor(self, lr: float, first: float, largest: float) -> float:
        """What one step of decay multiplies the weights by; see `decoupled`.

        Args:
            lr: of this step.
            first: > 0, the learning rate that the optimizer was built with (``"composer"``).
            largest: > 0, the largest learning rate of the schedule (``"timm"``).
        Raises:
            InputError: the learning rate to divide by is not positive.
        """
        return 1.0 - self.strength * conventions.decay_per_strength(self.scaling, lr, first, largest)

    @classmethod
    def textbook(cls, lam: float, m: int) -> Self:
        """``lam/(2m) * sum_j |W_j|^2`` over ``m`` training examples: strength ``lam/m``."""
        conventions.check_above_zero("L2.textbook", or_zero=True, lam=lam)
        strength = lam / conventions.checked_examples("L2.textbook", m)
        return cls(strength, convention=conventions.call_text("textbook", lam=lam, m=m))

    @classmethod
    def keras(cls, lam: float) -> Self:
        """``lam * |w|^2``, as of Keras's ``L2``, without 1/2: strength ``2*lam``."""
        conventions.check_above_zero("L2.keras", or_zero=True, lam=lam)
        return cls(2.0 * lam, convention=conventions.call_text("keras", lam=lam))

    @classmethod
    def prior(cls, std: float, m: int, noise_std: float | None = None) -> Self:
        """The maximum a posteriori under a Gaussian prior of mean 0 and standard deviation ``std`` on each weight.

        Args:
            std: > 0, of the prior.
            m: >= 1, training examples.
            noise_std: > 0, of the targets, where the loss is squared error; None where it is a negative log-likelihood.
        """
        conventions.check_above_zero("L2.prior", std=std)
        factor = conventions.squared_error_factor("L2.prior", noise_std)
        strength = factor / (conventions.checked_examples("L2.prior", m) * std**2)
        return cls(strength, convention=conventions.call_text("prior", std=std, m=m, noise_std=noise_std))

    @classmethod
    def ridge(cls, alpha: float, m: int) -> Self:
        """scikit-learn's ``Ridge(alpha)`` on ``m`` training examples, under squared error: strength ``2*alpha/m``."""
        conventions.check_above_zero("L2.ridge", or_zero=True, alpha=alpha)
        strength = 2.0 * alpha / conventions.checked_examples("L2.ridge", m)
        return cls(strength, convention=conventions.call_text("ridge", alpha=alpha, m=m))

    @classmethod
    def decoupled(cls, amount: float, scaling: Scaling = "torch") -> Self:
        """Decoupled weight decay in the scaling of the library that ``amount`` was tuned with.

        In each step the weights are multiplied by

        - ``"torch"``: ``1 - lr*amount`` (torch, optax; the default of `L2`),
        - ``"composer"``: ``1 - (lr/first)*amount``, with the optimizer's initial learning rate: the decay follows the shape
          of the schedule only, as Loshchilov & Hutter write it,
        - ``"independent"``: ``1 - amount``, whatever the learning rate,
        - ``"timm"``: ``1 - lr^2/largest*amount``, with the largest learning rate (timm's corrected decay).

        Args:
            amount: >= 0; where it is a share of the weights (``"composer"``, ``"independent"``) at most 1.
            scaling: one of the four.
        Source:
            Loshchilov & Hutter (2019), ICLR; Defazio (2025), arXiv:2506.02285, for the corrected one.
        """
        conventions.check_above_zero("L2.decoupled", or_zero=True, amount=amount)
        if scaling in ("composer", "independent") and amount > 1:
            raise InputError(
                f"With scaling={scaling!r} the amount is the share of the weights that a step takes away, at most 1; "
                f"it was given {amount!r}. An amount that is multiplied by the learning rate is scaling='torch'."
            )
        return cls(amount, scaling=scaling)


@checked
@dataclass(frozen=True, repr=False)
class WeightedL2(OwnRates):
    """``strength/2 * sum_i c_i w_i^2``: an L2 that charges each weight by a rate of its own.

    What automatic relevance determination leads to (`wellposed.bayes.evidence.evidence`): a Gaussian prior of an own width for
    every input or unit.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        weights: the rates ``c``, finite and >= 0, as of `WeightedL1`, with its errors.
    Raises:
        InputError: a rate is negative or not finite.
        ShapeError: the rates do not broadcast to a parameter.
    Source:
        MacKay (1994), ASHRAE Transactions 100(2).
    Example:
        >>> import torch
        >>> WeightedL2(1.0, torch.tensor([1.0, 3.0])).prox(torch.tensor([2.0, 2.0]), step=1.0)
        tensor([1.0000, 0.5000])
    """

    strength: float
    weights: float | Tensor = field(default=1.0, compare=False)
    traits: ClassVar[Traits] = Traits(homogeneous=2, sparse=False, symmetric=False)

    def value(self, w: Tensor) -> Tensor:
        x = at_least_float32(w)
        # The root first: a rate of 0 times a square that overflows would be no number.
        return (0.5 * (as_weights(self.rates, x) ** 0.5 * x).square().sum()).to(w.dtype)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``w_i / (1 + step*strength*c_i)``."""
        return shrink(w, step * as_weights(self.rates, w))

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return length(grad + as_weights(self.rates, w) * w)


@checked
@dataclass(frozen=True, repr=False)
class ElasticNet(Separable):
    """``strength * (mix * |w|_1 + (1 - mix)/2 * |w|_2^2)``: zeros, shared among correlated weights.

    Args:
        strength: >= 0, per mean loss.
        mix: in [0, 1]; 1 is L1, 0 is L2.
    Source:
        Zou & Hastie (2005), JRSS-B 67(2).
    """

    strength: float
    mix: Annotated[float, Within(0, 1)] = 0.5
    convention: str = field(default="", kw_only=True, repr=False)

    @property
    def traits(self) -> Traits:
        return Traits(sparse=self.mix > 0)

    @property
    def l1(self) -> float:
        return self.strength * self.mix

    @property
    def l2(self) -> float:
        return self.strength * (1.0 - self.mix)

    @classmethod
    def sklearn(cls, alpha: float, l1_ratio: float = 0.5) -> Self:
        """scikit-learn's ``ElasticNet(alpha, l1_ratio)``, under squared error: strength ``2*alpha``, mix ``l1_ratio``."""
        conventions.check_above_zero("The lasso", or_zero=True, alpha=alpha)
        convention = conventions.call_text("sklearn", alpha=alpha, l1_ratio=l1_ratio)
        return cls(2.0 * alpha, mix=l1_ratio, convention=convention)
