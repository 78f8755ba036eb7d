"""What a distribution of weights is charged: its divergence ``KL(q || p)`` from a prior, in nats.

    KL(q || p) = E_q[-log p(w)] - H(q)        the energy under the prior less the entropy of q, weight by weight

A family says what is needed of ``q`` (entropy, variance, mean size), a prior its energy under that: every pair of a Gaussian or
Laplace ``q`` with a Gaussian or Laplace prior has a closed form. Under any other prior (a mixture, one of somebody's own) the
energy is a mean over draws from a named stream. ``q`` has its mean where the weight was, and its scale in a `Posterior` beside it.

Families    GAUSSIAN, LAPLACE
Priors      GaussianPrior, LaplacePrior, ScaleMixturePrior
Charges     KL (of weights), KLToStandardNormal (of activations)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellposed.core.checks import Count, Positive, Within, checked
from wellposed.core.errors import InputError, ShapeError
from wellposed.core.selectors import Leaf, Selector, distributions
from wellposed.ops.norms import at_least_float32, length, unless_diverged
from wellposed.penalties.base import Context, How, Penalty, Summands, Traits, at_least_zero
from wellposed.penalties.functional import OfActivations

GeneratorSource = Callable[[], torch.Generator]
"""Gives the generator that a sampled energy draws from now."""
NARROW = math.exp(-6)
MOST_STEPS = 80
"""Of Newton's method to a proximal step; it ends earlier where a step gains nothing, mostly after five."""


class Family(ABC):
    """A kind of distribution with a mean and a scale ``s = exp(log_scale)``, symmetric about the mean."""

    name: ClassVar[str]
    spread: ClassVar[float]
    """The standard deviation at scale 1."""

    def __repr__(self) -> str:
        return self.name.upper()

    @abstractmethod
    def entropy(self, log_scale: Tensor) -> Tensor:
        """``H(q) = E_q[-log q(w)]`` in nats."""

    @abstractmethod
    def mean_size(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """``E_q |w|``."""

    @abstractmethod
    def tilt(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """``d E_q|w| / d mean``, in [-1, 1]."""

    @abstractmethod
    def noise(self, shape: torch.Size, source: torch.Generator) -> Tensor:
        """Draws at mean 0 and scale 1, float32, on the CPU."""


class _Gaussian(Family):
    name, spread = "gaussian", 1.0

    def entropy(self, log_scale: Tensor) -> Tensor:
        return log_scale + 0.5 * (math.log(2 * math.pi) + 1.0)

    def mean_size(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Of the folded normal distribution: ``m erf(m/(s sqrt 2)) + s sqrt(2/pi) exp(-m^2/(2 s^2))``."""
        z = mean * torch.exp(-log_scale)
        bell = torch.exp(log_scale - 0.5 * z.clamp(-1e6, 1e6).square())
        return mean * torch.erf(z * math.sqrt(0.5)) + math.sqrt(2 / math.pi) * bell

    def tilt(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        return torch.erf(mean * torch.exp(-log_scale) * math.sqrt(0.5))

    def noise(self, shape: torch.Size, source: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float32)


class _Laplace(Family):
    name, spread = "laplace", math.sqrt(2.0)

    def entropy(self, log_scale: Tensor) -> Tensor:
        return log_scale + (math.log(2.0) + 1.0)

    def mean_size(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """``|m| + s exp(-|m|/s)``."""
        return mean.abs() + torch.exp(log_scale - mean.abs() * torch.exp(-log_scale))

    def tilt(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        side = torch.where(mean < 0, -1.0, 1.0).to(mean)  # not the sign, whose 0 would hide the slope 1/s at 0
        return -side * torch.expm1(-side * mean * torch.exp(-log_scale))

    def noise(self, shape: torch.Size, source: torch.Generator) -> Tensor:
        """By inversion: ``-sign(v) log(1 - 2|v|)`` of ``v`` uniform in (-1/2, 1/2)."""
        v = torch.rand(shape, generator=source, dtype=torch.float64) - 0.5
        return (-torch.sign(v) * torch.log1p(-2 * v.abs().clamp_max(0.5 - 2**-54))).float()


GAUSSIAN, LAPLACE = _Gaussian(), _Laplace()
FAMILIES: dict[str, Family] = {family.name: family for family in (GAUSSIAN, LAPLACE)}


class Prior(ABC):
    """What weights are believed to be before data: a density of one weight, the same for all and symmetric about 0.

    One of your own needs `log_density` alone; its energy is then a mean over draws.
    """

    @abstractmethod
    def log_density(self, w: Tensor) -> Tensor:
        """``log p(w_i)`` of each weight, in nats."""

    def energy(self, q: WeightDistribution, mean: Tensor, log_scale: Tensor) -> Tensor:
        """``E_q[-log p(w_i)]`` of each weight: here a mean over pairs of draws, mirrored at the mean."""
        noise = q.draws(mean)
        drawn = torch.exp(log_scale) * noise
        return -0.5 * (self.log_density(mean + drawn) + self.log_density(mean - drawn)).mean(0)

    def slope(self, q: WeightDistribution, mean: Tensor, log_scale: Tensor) -> Tensor | None:
        """The derivative of `energy` by the mean, None where it has no closed form; above 0 it grows and is concave."""
        return None


@checked
@dataclass(frozen=True)
class GaussianPrior(Prior):
    """``p(w_i) = N(w_i; 0, std^2)``: the prior that L2 is the logarithm of.

    Args:
        std: > 0, in the units of the weights. The precision is ``1/std^2``.
    """

    std: Positive

    def log_density(self, w: Tensor) -> Tensor:
        return -0.5 * (w / self.std).square() - math.log(self.std) - 0.5 * math.log(2 * math.pi)

    def energy(self, q: WeightDistribution, mean: Tensor, log_scale: Tensor) -> Tensor:
        variance = (q.family.spread * torch.exp(log_scale - math.log(self.std))).square()
        return 0.5 * ((mean / self.std).square() + variance + math.log(2 * math.pi)) + math.log(self.std)

    def slope(self, q: WeightDistribution, mean: Tensor, log_scale: Tensor) -> Tensor:
        return mean / self.std / self.std


@checked
@dataclass(frozen=True)
class LaplacePrior(Prior):
    """``p(w_i) = exp(-|w_i|/scale)/(2 scale)``: the prior that L1 is the logarithm of.

    Args:
        scale: > 0, in the units of the weights; the standard deviation is ``sqrt(2)*scale``.
    """

    scale: Positive

    def log_density(self, w: Tensor) -> Tensor:
        return -w.abs() / self.scale - math.log(2.0 * self.scale)

    def energy(self, q: WeightDistribution, mean: Tensor, log_scale: Tensor) -> Tensor:
        return q.family.mean_size(mean, log_scale) / self.scale + math.log(2.0 * self.scale)

    def slope(self, q: WeightDistribution, mean: Tensor, log_scale: Tensor) -> Tensor:
        return q.family.tilt(mean, log_scale) / self.scale


@checked
@dataclass(frozen=True)
class ScaleMixturePrior(Prior):
    """``p(w_i) = share N(w_i; 0, wide^2) + (1 - share) N(w_i; 0, narrow^2)``: few large weights, many near 0.

    Its divergence has no closed form; it is estimated from draws, without bias, and the estimate may fall below 0.

    Args:
        share: in (0, 1), of the wide Gaussian.
        wide, narrow: > 0, standard deviations in the units of the weights.
    Source:
        Blundell, Cornebise, Kavukcuoglu & Wierstra (2015), ICML, section 3.3; the defaults are among the values tried there.
    """

    share: Annotated[float, Within(0, 1, open="both")] = 0.5
    wide: Positive = 1.0
    narrow: Positive = NARROW

    def log_density(self, w: Tensor) -> Tensor:
        wide, narrow = GaussianPrior(self.wide).log_density(w), GaussianPrior(self.narrow).log_density(w)
        return torch.logaddexp(wide + math.log(self.share), narrow + math.log1p(-self.share))


@dataclass(frozen=True)
class WeightDistribution:
    """The distribution ``q`` of a parameter, but for its mean: that is the parameter itself.

    Attributes:
        log_scale: the logarithm of the scale, of the parameter's shape, or a number for all.
        source: gives generators for sampled energies; by default one that begins anew at seed 0.
        samples: pairs of draws for a sampled energy.
    """

    prior: Prior
    family: Family = GAUSSIAN
    log_scale: Tensor | float = 0.0
    source: GeneratorSource = field(default=lambda: torch.Generator().manual_seed(0), repr=False)
    samples: int = 1

    def draws(self, mean: Tensor) -> Tensor:
        return self.family.noise(torch.Size((self.samples, *mean.shape)), self.source()).to(mean)

    def scale_like(self, w: Tensor) -> Tensor:
        return torch.as_tensor(self.log_scale, dtype=w.dtype, device=w.device)

    def divergence(self, mean: Tensor) -> Tensor:
        """``KL(q_i || p)`` of each weight, in nats, of the shape of ``mean``."""
        log_scale = self.scale_like(mean)
        return self.prior.energy(self, mean, log_scale) - self.family.entropy(log_scale)

    def slope(self, mean: Tensor) -> Tensor:
        """The derivative of `divergence` by the mean."""
        found = self.prior.slope(self, mean, self.scale_like(mean))
        if found is None:
            raise InputError(
                f"The divergence from {self.prior} is estimated from draws; it has neither a proximal step nor a distance to a "
                "minimum in closed form."
            )
        return found

    @property
    def sampled(self) -> bool:
        """Whether the divergence is estimated from draws."""
        zero = torch.zeros(())
        return self.prior.slope(self, zero, zero) is None

    @property
    def curvature(self) -> float | None:
        """The second derivative of `divergence` by the mean, where it is the same everywhere."""
        return 1.0 / self.prior.std**2 if isinstance(self.prior, GaussianPrior) else None


@dataclass(frozen=True)
class DroppedInputs(WeightDistribution):
    """The weights of a layer whose K (``inputs``) inputs are dropped at rate p: ``w_ij z_j/(1-p)`` with ``z_j`` in {0, 1}.

    ``log_scale`` is the logit of p. The divergence, up to a constant by which it is 0 for weights 0 at p = 1/2, is
    ``sum_ij w_ij^2/(2 (1-p) std^2) + K (log 2 - H(p))``, with the entropy ``H(p)`` of a Bernoulli variable.

    Source:
        Gal, Hron & Kendall (2017), NeurIPS, eq. 3; there weights are not divided by 1-p.
    """

    inputs: int = 1

    @property
    def kept(self) -> Tensor:
        """``1 - p``."""
        return torch.sigmoid(-torch.as_tensor(self.log_scale))

    def divergence(self, mean: Tensor) -> Tensor:
        logit = self.scale_like(mean)
        entropy = F.softplus(logit) - logit * torch.sigmoid(logit)
        return 0.5 * mean * self.slope(mean) + (math.log(2.0) - entropy) * (self.inputs / max(1, mean.numel()))

    def slope(self, mean: Tensor) -> Tensor:
        return mean / (self.kept.to(mean) * self._variance)

    @property
    def curvature(self) -> float:
        return 1.0 / (float(self.kept.detach()) * self._variance)

    @property
    def _variance(self) -> float:
        assert isinstance(self.prior, GaussianPrior)
        return self.prior.std**2


class Posterior(nn.Module):
    """Beside the weights of one layer: the logarithms of their scales, as parameters under the weights' own names.

    Attributes:
        prior, family: of every weight here.
        draws: where the layer's noise comes from, shared by all layers of a network (`wellposed.noise.activations.Draws`).
        sites: the name of each weight in the whole network, by which its noise is drawn.
    """

    role: ClassVar[str] = "spread"
    """What its parameters do, for selectors: no other selector chooses them."""

    def __init__(self, prior: Prior, family: Family, draws: Any) -> None:
        super().__init__()
        self.prior, self.family, self.draws = prior, family, draws
        self.sites: dict[str, str] = {}

    def of(self, name: str, samples: int = 1) -> WeightDistribution:
        """The distribution of one weight of the layer."""
        scale = self.get_parameter(name)
        return WeightDistribution(
            self.prior, self.family, scale, lambda: self.draws.source("kl", self.sites[name]), samples
        )


class DropoutPosterior(Posterior):
    """Beside the weight of a layer: the logit of the rate at which its inputs are dropped, under the weight's own name; ``inputs``
    counts the features, or channels, that enter the layer.
    """

    inputs: int = 1

    def of(self, name: str, samples: int = 1) -> WeightDistribution:
        return DroppedInputs(self.prior, self.family, self.get_parameter(name), inputs=self.inputs)


def posterior_of(leaf: Leaf, samples: int = 1) -> WeightDistribution | None:
    """The distribution of a parameter; None where it is a number."""
    posterior = getattr(leaf.module, "posterior", None)
    if not isinstance(posterior, Posterior) or not distributions.choose([leaf]):
        return None
    return posterior.of(leaf.name.rpartition(".")[2], samples)


def _with_derivative(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """A function of single numbers and its derivative, as constants."""
    with torch.enable_grad():
        x = at.detach().requires_grad_()
        value = function(x)
        (derivative,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), derivative


@checked
@dataclass(frozen=True)
class KL(Penalty):
    """``strength * KL(q || p) / rows``: what the weights of a `wellposed.bayesian` network cost, in nats for each training row.

    Added to the mean negative log-likelihood of a row it makes the negative evidence lower bound, divided by ``rows``. In
    closed form for Gaussian and Laplace pairs, from draws elsewhere. Squared error is ``2 s^2`` times such a likelihood, of
    targets with noise of standard deviation s: there ``strength = 2 s^2`` is the bound.

    Args:
        rows: m >= 1, training rows.
        strength: >= 0, the factor beta of the divergence. 1 is the bound itself; less is a cold posterior, and a schedule
            from 0 to 1 (``wp.ramp``) a warm-up. 0 charges nothing.
        free: >= 0, nats for each weight that are not charged for: of a parameter with n weights ``max(n*free, KL)`` is charged.
        samples: >= 1, pairs of draws where there is no closed form.
    Raises:
        InputError: a parameter is no distribution, or ``rows`` is below 1.
    Source:
        Hinton & van Camp (1993), COLT; Graves (2011), NeurIPS; free bits: Kingma et al. (2016), NeurIPS, appendix C.8.
    Example:
        >>> import torch, wellposed as wp
        >>> net = wp.bayesian(torch.nn.Linear(4, 1), prior=wp.GaussianPrior(1.0))
        >>> optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        >>> optimizer = wp.regularize(optimizer, net, [wp.KL(rows=100).on(wp.weights)])
        >>> torch.allclose(optimizer.penalty(), wp.kl(net) / 100)
        True
    """

    rows: int
    strength: float = 1.0
    free: float = 0.0
    samples: Count = 1
    q: WeightDistribution | None = field(default=None, repr=False, compare=False)
    hows: ClassVar[tuple[How, ...]] = ("loss",)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_zero(self, free=self.free)
        if self.rows < 1:
            raise InputError(
                f"KL divides by the number of training rows, which is at least 1; it was given rows={self.rows}. "
                "Write rows=len(X_train)."
            )

    def __str__(self) -> str:
        told = {"strength": 1.0, "free": 0.0, "samples": 1}
        beyond = [f", {name}={getattr(self, name)!r}" for name, usual in told.items() if getattr(self, name) != usual]
        return f"KL(rows={self.rows}{''.join(beyond)})"

    @property
    def traits(self) -> Traits:
        """Convex in the means, at given scales, where there is a closed form; symmetric with one scale for all."""
        alike = self.q is None or not isinstance(self.q.log_scale, Tensor)
        if self.q is not None and self.q.sampled:
            return Traits(convex=False, weak_convexity=math.inf, symmetric=False, sparse=False)
        return Traits(symmetric=alike, diagonal=not self.free, sparse=False)

    @property
    def everywhere(self) -> Selector:
        """All weights that are distributions."""
        return distributions

    def at(self, leaf: Leaf) -> Self:
        found = posterior_of(leaf, self.samples)
        if found is None:
            raise InputError(
                f"KL charges weights that are distributions, and {leaf.name!r} is one of numbers. Train "
                "net = wp.bayesian(net, prior=wp.GaussianPrior(1.0)), or charge only what is one: .on() without a selector."
            )
        return replace(self, q=found)

    @property
    def beside(self) -> tuple[Tensor, ...]:
        return (self.q.log_scale,) if self.q is not None and isinstance(self.q.log_scale, Tensor) else ()

    @property
    def factor(self) -> float:
        """``strength/rows``."""
        return self.strength / self.rows

    def _known(self) -> WeightDistribution:
        if self.q is None:
            raise InputError("KL has no distribution to charge before it is bound: write wp.KL(rows=m).on(wp.weights).")
        return self.q

    def value(self, w: Tensor) -> Tensor:
        x = at_least_float32(w)
        q = self._known()
        total = q.divergence(x).sum()
        total = total.clamp_min(self.free * w.numel()) if self.free or not q.sampled else total
        return (self.factor * total).to(w.dtype)

    def summands(self) -> Summands:
        """With a Gaussian prior a square, but for a constant."""
        curvature = None if self.q is None or self.free else self.q.curvature
        return Summands(core=self) if curvature is None else Summands(squares=((self.factor * curvature, None),))

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """In the means, at the scales as they are: the root ``u`` of ``u + step*slope(u) = w``, between 0 and ``w``; refused where
        the divergence has no closed form, or some of it is free.

        Raises:
            InputError: the divergence has no closed form, or some of it is free.
        """
        q, x = self._known(), at_least_float32(w)
        if self.free:
            raise InputError("KL with free nats has no proximal step; it is enforced in the loss.")
        t = torch.as_tensor(step, dtype=x.dtype, device=x.device) * self.factor
        if q.curvature is not None:
            return (x / (1.0 + t * q.curvature)).to(w.dtype)
        size = x.detach().abs()
        root = (size - t * q.slope(size).detach()).clamp_min(0.0)
        for _ in range(MOST_STEPS):  # of Newton's method, which never passes the root of a concave function from below
            before, (slope, curvature) = root, _with_derivative(q.slope, root)
            root = before + (size - before - t * slope) / (1.0 + t * curvature)
            if not (root > before * (1.0 + 2 * torch.finfo(x.dtype).eps)).any():
                break
        # A last step from the root gives it the derivative 1/(1 + t*slope').
        root = torch.copysign(before, x)
        slope, curvature = _with_derivative(q.slope, root)
        found = root + (x - root - t * slope) / (1.0 + t * curvature)
        return torch.where(t > 0, found, x).to(w.dtype)

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """``|grad + strength/rows * d KL/d mean|``, Euclidean; of the means alone."""
        q, x = self._known(), at_least_float32(w)
        slope = self.factor * q.slope(x)
        free = bool(self.free) and float(q.divergence(x).sum()) <= self.free * w.numel()
        return unless_diverged(length(grad if free else grad + slope).to(w.dtype), w)


@checked
@dataclass(frozen=True)
class KLToStandardNormal(OfActivations):
    """``strength * mean_i KL(N(mean_i, exp(log_variance_i)) || N(0, I))`` of a code, as a variational autoencoder has.

    The selected module puts out mean and log-variance side by side along ``axis``: ``(batch, 2*code)``, or
    ``(batch, 2*channels, ...)``. Where two layers put them out, give both, the mean first: ``apart=True`` and
    ``.on(["to_mean", "to_log_variance"])``. In nats: ``1/2 sum_j (mean_j^2 + exp(v_j) - 1 - v_j)`` for each example.

    Args:
        strength: >= 0, beta: 1 is the evidence lower bound where the loss is a sum over pixels and a mean over examples. 0
            charges nothing.
        free: >= 0, nats for each dimension that are not charged for: ``max(free, mean_i KL_ij)``. It keeps a decoder from
            giving its code up.
        axis: along which mean and log-variance lie, not 0.
        apart: whether two modules put them out.
        batch: the axis of the examples. It is 1 of the last state of an LSTM, ``(layers, batch, features)``; ``axis`` then counts
            in ``(batch, layers, features)``.
    Raises:
        ShapeError: the activation's axis has an odd size, or is missing, or the two modules differ in shape.
        InputError: ``apart`` and not two modules.
    Source:
        Kingma & Welling (2014), ICLR, appendix B; Higgins et al. (2017), ICLR (beta); Kingma et al. (2016), NeurIPS (free bits).
    Example:
        >>> import torch, wellposed as wp
        >>> code = torch.nn.Linear(4, 2 * 3)
        >>> optimizer = torch.optim.Adam(code.parameters(), lr=1e-3)
        >>> optimizer = wp.regularize(optimizer, code, [wp.KLToStandardNormal(1.0).on("")])
        >>> code(torch.ones(8, 4)).shape                 # inside of a loop; then loss + optimizer.penalty()
        torch.Size([8, 6])
        >>> bool(optimizer.penalty() > 0)
        True
    """

    strength: float = 1.0
    free: float = 0.0
    axis: int = 1
    apart: bool = False
    batch: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_zero(self, free=self.free)

    def value(self, context: Context) -> Tensor:
        context.needs(self)
        uses: dict[str, list[Tensor]] = {}
        for name, activation in context.activations.items():
            uses.setdefault(name.partition("#")[0], []).append(activation)
        codes = {
            f"{names[0]}#{use}": self.joined(*parts)
            for names in self.places([*uses])
            for use, parts in enumerate(zip(*(uses[name] for name in names), strict=True))
        }
        return super().value(replace(context, activations=codes))

    def places(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The modules of each code, of all that a term selects; refused where ``apart`` and they are not two.

        Raises:
            InputError: ``apart``, and they are not two.
        """
        if self.apart and len(names) != 2:
            raise InputError(
                "KLToStandardNormal(apart=True) takes two modules, the mean's and then the log-variance's; it was given "
                f'{len(names)}. Write .on(["to_mean", "to_log_variance"]), and one term for each code.'
            )
        return [tuple(names)] if self.apart else [(name,) for name in names]

    def joined(self, mean: Tensor, *rest: Tensor) -> Tensor:
        """What the modules of a code put out, side by side, with the examples along the first axis."""
        if any(mean.shape != other.shape for other in rest):
            raise ShapeError(
                f"KLToStandardNormal needs a log-variance for each mean; their shapes are {tuple(mean.shape)} and "
                f"{', '.join(str(tuple(other.shape)) for other in rest)}."
            )
        parts = [part.movedim(self.batch, 0) if self.batch else part for part in (mean, *rest)]
        return torch.cat(parts, self.axis) if rest else parts[0]

    def of(self, activation: Tensor) -> Tensor:
        """``KL_ij`` in nats of each example and dimension: half as many along ``axis``."""
        if not -activation.ndim < self.axis < activation.ndim or self.axis == 0 or activation.shape[self.axis] % 2:
            raise ShapeError(
                f"KLToStandardNormal needs means and log-variances side by side along axis {self.axis}; the activation has shape "
                f"{tuple(activation.shape)}. Give torch.cat([mean, log_variance], dim={self.axis})."
            )
        mean, log_variance = activation.chunk(2, dim=self.axis)
        return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance)

    def told(self, activation: Tensor) -> Tensor:
        """The nats that each dimension says of its row, at most: ``1/2 (log(var_i mean_i + mean_i exp(v_i)) - mean_i v_i)``, the
        divergence from the Gaussian with the moments of all rows.
        """
        mean, log_variance = (part.flatten(1).double() for part in activation.chunk(2, dim=self.axis))
        return 0.5 * ((mean.var(0, correction=0) + log_variance.exp().mean(0)).log() - log_variance.mean(0))

    def mean(self, activation: Tensor) -> Tensor:
        return self.of(activation).mean(0).clamp_min(self.free).sum()
