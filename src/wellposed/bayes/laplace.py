"""`laplace`: a Gaussian around trained weights, and what it says of new rows and of the terms that were chosen.

    -log p(w|data)  ~  scale*C(w0) + 1/2 (w - w0)^T (H + D) (w - w0),        D_i = scale*strength_i

``C`` is the cost that was minimized, ``scale`` takes it to nats (`wellposed.bayes.likelihood`), ``H`` is the generalized
Gauss-Newton matrix, and ``D`` the prior's precision: the strengths of the L2 terms, read from the same audit as everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellposed.bayes import linearized
from wellposed.bayes.likelihood import Likelihood
from wellposed.bayes.linearized import Curvature, Linearized, WeightPosterior
from wellposed.bayes.predictive import (
    SEVERAL_LABELS,
    Predictive,
    PredictiveClasses,
    PredictiveNumbers,
    refuse_not_finite,
)
from wellposed.bayes.trained import Trained, strengths_of
from wellposed.core.checks import Positive, Seed, Within, checked
from wellposed.core.errors import DataError, InputError
from wellposed.core.formats import table
from wellposed.core.random import generator
from wellposed.optimality.certify import Certificate, certify
from wellposed.optimality.objective import BatchList
from wellposed.penalties.base import Term
from wellposed.training.run import Run

FULL_UP_TO = 2048
"""Weights whose whole matrix is taken by default: 32 MB, and about a second to factor."""
UNCHARGED_STD = 1e3
"""Standard deviation of the prior of weights that no term charges: it says nearly nothing, and weights that change no output have a
distribution still."""
NEAR, FAR = 0.5, 10.0
"""Nats that a Newton step may gain at what counts as a minimum, one standard deviation of the posterior; and beyond which it is
none however small the violation."""
STATIONARY = 1e-4
"""A violation up to which single precision cannot tell a gradient from none; in nearly flat directions it is many nats."""
CurvatureName = Literal["auto", "full", "kronecker", "diagonal"]


@dataclass(frozen=True, eq=False)
class Laplace:
    """The posterior that `laplace` found. ``str()`` for people.

    Attributes:
        evidence: ``log p(data)`` in nats: of all training targets, as the loss saw them (standardized where the data were). A
            weight that no term charges costs about ``log(prior_std/std_i)`` of it, with ``std_i`` its spread in the posterior:
            7 nats by default for a ``std_i`` of 1, as in `wellposed.evidence`.
        noise_std: of the targets, as the loss saw them; None of classes.
        effective: how many weights the data decide, ``sum_i 1 - D_i Var(w_i)``, in [0, P].
        certificate: `wellposed.certify` of the cost at these weights.
        distance: nats that a Newton step of the whole cost would gain; 0 at a minimum.
        curvature: ``full``, ``kronecker`` or ``diagonal``; ``weights`` how many are in it.
        notes: what a reader should know, in sentences.
    """

    evidence: float
    noise_std: float | None
    effective: float
    certificate: Certificate
    distance: float
    curvature: str
    weights: int
    notes: tuple[str, ...]
    likelihood: Likelihood = field(repr=False)
    posterior: WeightPosterior = field(repr=False)
    net: Linearized = field(repr=False)
    trained: Trained = field(repr=False)

    @checked
    def predict(self, X: Any, samples: Annotated[int, Within(0)] = 0, seed: Seed = 0) -> Predictive:
        """The predictive distribution of new rows, of the network linearized in its weights.

        Outputs are ``f ~ N(f(x; w0), J(x) Cov J(x)^T)``. Numbers: that plus the noise, in the target's own units. Classes:
        ``softmax(g_j / sqrt(1 + pi/8 Var g_j))``, the probit approximation with ``g_j`` the output less the mean of the others (a
        shift of all outputs changes no probability, and its variance must not count), or the mean over draws of ``f``, which
        also know what is epistemic.

        Args:
            X: new rows: an array or a tensor as the network takes it; of a run on a frame, a frame with its columns.
            samples: draws of the outputs for classes; 0 is the probit approximation. Of numbers it is exact without.
        Raises:
            DataError: rows that the network does not take.
        Source:
            Immer, Korzepa & Bauer (2021), AISTATS; MacKay (1992), Neural Computation 4(5), for the probit approximation.
        """
        means, spreads = [], []
        for batch in self.trained.inputs(X):
            for _, f, jacobian in self.net.jacobian(batch):
                means.append(f.cpu())
                spreads.append(self.posterior.covariance(jacobian).cpu())
        mean, spread = refuse_not_finite(torch.cat(means)), torch.cat(spreads)
        variances = spread.diagonal(dim1=1, dim2=2)
        if self.likelihood.numbers:
            noise = math.sqrt(self.likelihood.noise_var)
            return self.trained.in_own_units(PredictiveNumbers.gaussian(mean, variances.sqrt(), noise))
        if not samples:
            return PredictiveClasses(class_shares(_moderated(mean, spread, self.likelihood), self.likelihood)[None])
        # An eigenvalue may be a rounding below zero, where two outputs move together.
        values, vectors = torch.linalg.eigh(spread)
        root = vectors * values.clamp_min(0).sqrt()[:, None, :]
        noise_ = torch.randn(samples, *mean.shape, 1, generator=generator(seed, "laplace"), dtype=torch.float64)
        return PredictiveClasses(class_shares(mean + (root @ noise_)[..., 0], self.likelihood))

    def __str__(self) -> str:
        cells = [("what", "value"), ("log evidence, nats", f"{self.evidence:.6g}")]
        if self.noise_std is not None:
            cells.append(("noise, standard deviation", f"{self.noise_std:.4g}"))
        cells.append(("weights that the data decide", f"{self.effective:.1f} of {self.weights}"))
        cells.append(("curvature", self.curvature))
        cells.append(("distance from the minimum, nats", f"{self.distance:.3g}"))
        return "\n".join([*table(cells, ruled=True), *(f"note: {note}" for note in self.notes)])


@checked
def laplace(
    trained: Run | nn.Module,
    data: Any = None,
    loss: Any = None,
    terms: Iterable[Term] | Term | Optimizer | None = None,
    *,
    layers: Literal["all", "last"] = "all",
    curvature: CurvatureName = "auto",
    noise_std: Positive | None = None,
    prior_std: Positive = UNCHARGED_STD,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> Laplace:
    """The Gaussian posterior around trained weights: ``N(w0, (H + D)^-1)``, and the evidence of the terms.

    ``D`` is read from the L2 terms: strength ``s`` is precision ``m s`` under a mean negative log-likelihood of ``m`` rows, and
    ``m s/(2 noise_std^2)`` under squared error. The noise of numbers is estimated as ``residual sum of squares / (m k - gamma)``,
    where ``gamma`` weights are decided by the data. The model is copied in double precision and left as it was.

    Args:
        trained: a run of `fit`, which knows the rest, or a network.
        data, loss: of a network: ``(X, y)`` or a loader of its training rows, and ``"squared_error"``, ``"mse"``,
            ``"cross_entropy"`` or ``"binary_cross_entropy"`` (or torch's).
        terms: what charged the weights: a list of terms or a regularized optimizer; of a run those of its recipe.
        layers: ``"last"`` puts a posterior on the layer of the last weight alone; all others are taken as known.
        curvature: ``"full"``, ``"kronecker"`` or ``"diagonal"``; ``"auto"`` takes the whole matrix up to 2,048 weights, then
            Kronecker factors, and the diagonal where a layer has none.
        noise_std: > 0, of the targets as the loss sees them, where it is known; else it is estimated.
        prior_std: > 0, of the weights that no term charges: ``N(0, prior_std^2)``. The default says nearly nothing of them, and
            keeps the posterior a distribution where they change no output (a shift of all logits of a softmax, or a dead unit).
        forward: ``forward(model, inputs)``, where a plain call is not right.
    Raises:
        ProblemError: the loss is no likelihood, or rows are weighted.
        InputError: a term that is no Gaussian prior; a curvature that is singular, with what to do.
        DataError: one row, constant targets, or no residual to estimate noise from.
    Source:
        MacKay (1992), Neural Computation 4(3); Ritter, Botev & Barber (2018), ICLR; Daxberger et al. (2021), NeurIPS.
    Example:
        >>> import torch, wellposed as wp
        >>> x = torch.linspace(-1, 1, 20)[:, None]
        >>> net = torch.nn.Linear(1, 1)
        >>> _ = wp.settle(net, "squared_error", (x, 2 * x + 0.1 * torch.cos(20 * x)), wp.L2(1e-3).on(how="loss"))
        >>> post = wp.laplace(net, (x, 2 * x + 0.1 * torch.cos(20 * x)), "squared_error", wp.L2(1e-3).on())
        >>> post.predict(torch.tensor([[0.0], [5.0]])).std.shape
        torch.Size([2])
    """
    of = Trained.of(trained, data, loss, terms, forward, "wp.laplace")
    net = Linearized(of.net, of.forward, layers == "last")
    likelihood = of.likelihood(net.outputs(of.batches[0][0][:1]).shape[1]).with_noise(1.0)
    strength, center = strengths_of(of.net, [leaf.name for leaf in net.leaves], of.terms)
    uncharged = strength == 0
    kind = chosen_curvature(curvature, net)
    found, slope, misfit = measured_curvature(net, of, likelihood, kind)

    def precision(at: Likelihood) -> Tensor:
        return torch.where(uncharged, prior_std**-2, at.scale * strength)

    likelihood, posterior = with_estimated_noise(likelihood, found, misfit, precision, noise_std)
    prior_at = precision(likelihood)
    away = net.weights - center
    gradient = slope / likelihood.noise_var + prior_at * away
    distance = 0.5 * float(gradient @ posterior.solve(gradient))
    certificate = certify(
        net.net,
        of.loss,
        BatchList(of.batches),
        list(of.terms),
        forward=lambda model, batch: of.forward(model, linearized.as_double(batch[0])),
    )
    return Laplace(
        evidence=log_evidence(misfit / likelihood.noise_var + likelihood.constant, prior_at, away, posterior.log_det),
        noise_std=math.sqrt(likelihood.noise_var) if likelihood.numbers else None,
        effective=net.size - float(prior_at @ posterior.variances),
        certificate=certificate,
        distance=distance,
        curvature=kind,
        weights=net.size,
        notes=_notes(distance, certificate, net.weights[uncharged], net.size, prior_std),
        likelihood=likelihood,
        posterior=posterior,
        net=net,
        trained=of,
    )


def measured_curvature(
    net: Linearized, of: Trained, likelihood: Likelihood, kind: str
) -> tuple[Curvature, Tensor, float]:
    """The curvature of a kind with gradient and value of `Likelihood.misfit`, at the likelihood's noise."""
    found: Curvature
    if kind == "kronecker":
        found, slope, misfit = linearized.kronecker(net, of.batches, likelihood)
    else:
        found, slope, misfit = linearized.full_parts(net, of.batches, likelihood, diagonal=kind == "diagonal")
    if not math.isfinite(misfit):
        raise DataError(
            f"-log p of the training rows is {misfit}: inputs, targets or weights are not finite, or outputs overflow."
        )
    return found, slope, misfit


def with_estimated_noise(
    likelihood: Likelihood,
    curvature: Curvature,
    misfit: float,
    precision: Callable[[Likelihood], Tensor],
    noise_std: float | None,
) -> tuple[Likelihood, WeightPosterior]:
    """The likelihood with its noise variance ``v = RSS/(m k - gamma)``, and the posterior there.

    Args:
        curvature, misfit: at unit noise.
        noise_std: of the targets where it is known.
    Raises:
        DataError: outputs that equal all targets, or as many weights as targets: nothing is left to see noise in.
    """
    if not likelihood.numbers:
        return likelihood, curvature.at(precision(likelihood))
    targets, residual = likelihood.rows * likelihood.outputs, 2 * misfit
    if likelihood.is_exact(misfit) and noise_std is None:
        raise DataError(
            "The outputs equal the targets of every training row: there is no noise to estimate. Give noise_std=."
        )
    variance = residual / targets if noise_std is None else noise_std**2
    for _ in range(50):
        at = likelihood.with_noise(variance)
        prior = precision(at)
        posterior = curvature.at(prior, 1 / variance)
        left = targets - (len(prior) - float(prior @ posterior.variances))
        if noise_std is not None:
            break
        if left < 0.5:  # of a target; a weak prior of uncharged weights alone leaves far less
            raise DataError(
                f"{len(prior)} weights fit {targets} targets: nothing is left to estimate the noise from. Give noise_std=, a "
                "larger strength, or more rows."
            )
        # With strengths alone gamma does not depend on the noise, and the second round changes nothing.
        before, variance = variance, residual / left
        if abs(variance - before) <= 1e-12 * variance:
            break
    at = likelihood.with_noise(variance)
    return at, curvature.at(precision(at), 1 / variance)


def log_evidence(nll: float, precision: Tensor, away: Tensor, log_det: float) -> float:
    """``log p(data)`` in nats, by Laplace: ``-nll - 1/2 sum D w^2 + 1/2 sum log D - 1/2 log det(H + D)``, with all ``D > 0``."""
    return -nll + 0.5 * float(precision.log().sum() - (precision * away.square()).sum()) - 0.5 * log_det


def chosen_curvature(asked: CurvatureName, net: Linearized, one_strength: bool = True) -> str:
    """The curvature that is taken; Kronecker factors need ``one_strength`` for all of a parameter."""
    if asked != "auto":
        return asked
    if net.size <= FULL_UP_TO:
        return "full"
    return "kronecker" if one_strength and all(map(linearized.kronecker_fits, net.leaves)) else "diagonal"


def _notes(
    distance: float, certificate: Certificate, uncharged: Tensor, size: int, prior_std: float
) -> tuple[str, ...]:
    notes = []
    if distance > NEAR and (certificate.violation > STATIONARY or distance > FAR):
        notes.append(
            f"these weights are no minimum of the cost: certify finds a violation of {certificate.violation:.3g}, and a Newton "
            f"step would gain {distance:.3g} nats. The evidence is too low by about as much; train longer, or call wp.settle first."
        )
    if len(uncharged):
        far = float(uncharged.abs().max())
        said = f"no term charges {len(uncharged)} of {size} weights; their prior is N(0, {prior_std:g}^2)."
        if far > prior_std:
            said += f" The largest is {far:.3g}, which that prior pulls to 0: give a larger prior_std=."
        notes.append(said)
    return tuple(notes)


def _moderated(mean: Tensor, spread: Tensor, likelihood: Likelihood) -> Tensor:
    """Logits whose probabilities are about the mean over ``N(mean, spread)``, ``(n, outputs)``; exact in form for two classes."""
    if likelihood.kind == "labels":
        return mean / (1 + math.pi / 8 * spread.diagonal(dim1=1, dim2=2)).sqrt()
    classes = mean.shape[1]
    against = torch.eye(classes).to(mean) - 1 / classes
    variances = (against @ spread @ against).diagonal(dim1=1, dim2=2) * (classes / (classes - 1)) ** 2
    return (mean @ against) / (1 + math.pi / 8 * variances).sqrt()


def class_shares(logits: Tensor, likelihood: Likelihood) -> Tensor:
    """Probabilities of classes, ``(..., classes)``; one output with labels 0 and 1 is two classes."""
    if likelihood.kind == "classes":
        return logits.softmax(-1)
    if logits.shape[-1] > 1:
        raise InputError(SEVERAL_LABELS)
    return torch.cat([(-logits).sigmoid(), logits.sigmoid()], -1)
