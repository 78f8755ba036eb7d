"""`evidence`: strengths of L2 terms that the training rows choose by themselves, one for each term, layer, input or unit.

    log p(data | lambda, v) = max over lambda, v of  -nll(w) - 1/2 sum lambda_g |w_g|^2 + 1/2 sum n_g log lambda_g
                                                     - 1/2 log det(H/v + Lambda),      strength_g = lambda_g / scale

with the fixed point of MacKay: ``lambda_g <- gamma_g / |w_g|^2`` and ``v <- RSS / (m k - sum gamma)``, where
``gamma_g = n_g - lambda_g sum_(i in g) Var(w_i)`` is the number of weights of the group that the data decide. A group that the
data do not decide is switched off: its precision grows without bound (automatic relevance determination).

Between two updates the weights move to the minimum of the cost with the new strengths: by a Newton step of the network
linearized in its weights where the whole matrix fits (one matrix for both, and exact for a linear model under squared error, where
this is scikit-learn's ``BayesianRidge`` and ``ARDRegression``), and by training anew where it does not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from wellposed.bayes.laplace import UNCHARGED_STD, CurvatureName, chosen_curvature, log_evidence, measured_curvature
from wellposed.bayes.likelihood import Likelihood
from wellposed.bayes.linearized import Curvature, Full, Linearized, WeightPosterior
from wellposed.bayes.trained import Trained, of_problem, refuse_unlike, strengths_of
from wellposed.core.checks import Count, Seed, Within, checked
from wellposed.core.errors import DataError, InputError, ProblemError, listed
from wellposed.core.formats import table
from wellposed.core.selectors import Leaf, named
from wellposed.penalties.base import Term
from wellposed.penalties.elementwise import L2, WeightedL2
from wellposed.penalties.reference import L2SP
from wellposed.recipe.presets import as_recipe
from wellposed.recipe.recipe import Recipe
from wellposed.training.early_stopping import monitored_values
from wellposed.training.loop import fit
from wellposed.training.problem import Problem

By = Literal["term", "layer", "parameter", "input", "unit"]
OFF = 0.01
"""A group is called switched off where the data decide less than this share of its weights."""
LARGEST = 1e12
"""A precision beyond which a weight is zero for every purpose, times the curvature."""
MOST_UPDATES, MOST_STEPS = 20_000, 100
SETTLED = 1e-10
"""Change of a log precision, times the share of the group that is decided, at which the fixed point is reached."""
STEADY = 0.05
"""Change of a log precision (times the share that is decided) at which a network's strengths have stopped, three steps in a row:
5 %, which no prediction shows. The weights go on being fitted for long after that."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What `evidence` chose. ``str()`` for people.

    Attributes:
        strengths: of each group by its name, in the convention of the terms; ``inf`` where it was switched off for good.
        decided: how many weights of each group the data decide, ``gamma_g``; ``sizes`` how many there are.
        terms: with these strengths, ready for `regularize` or a recipe.
        log_evidence: in nats, of all training targets as the loss saw them: `Laplace.evidence` of ``model`` with ``terms``.
        noise_std: of the targets as the loss saw them; None of classes.
        model: the network with these strengths. A linear one is at the minimum of its cost if the curvature is ``full``; other
            networks are as near to it as the last step or training (by the recipe, with these strengths) came: see `laplace`.
        curvature: ``full``, ``kronecker`` or ``diagonal``.
        updates: of the strengths; ``settled`` says whether they had stopped moving.
    """

    strengths: dict[str, float]
    decided: dict[str, float]
    sizes: dict[str, int]
    terms: tuple[Term, ...]
    log_evidence: float
    noise_std: float | None
    model: nn.Module = field(repr=False)
    curvature: str
    updates: int
    settled: bool

    @property
    def off(self) -> tuple[str, ...]:
        """The groups that the evidence switched off: of whose weights the data decide less than 1 %."""
        return tuple(name for name, decided in self.decided.items() if decided < OFF * self.sizes[name])

    def __str__(self) -> str:
        cells = [("group", "strength", "weights", "decided by the data")]
        for name, strength in self.strengths.items():
            cells.append((name, f"{strength:.3g}", str(self.sizes[name]), f"{self.decided[name]:.1f}"))
        noise = "" if self.noise_std is None else f", noise {self.noise_std:.4g}"
        lines = [f"log evidence {self.log_evidence:.6g} nats{noise}", *table(cells, ruled=True)]
        if self.off:
            lines.append(f"switched off: {listed(self.off)}")
        if not self.settled:
            lines.append(f"note: the strengths still moved after {self.updates} updates.")
        return "\n".join(lines)


@checked
def evidence(
    problem: Problem,
    recipe: Recipe | str | Path = "baseline",
    terms: Sequence[Term] | Term | None = None,
    *,
    by: By = "term",
    curvature: CurvatureName = "auto",
    hyperprior: Annotated[float, Within(0)] = 0.0,
    rounds: Count = 3,
    seed: Seed = 0,
) -> Evidence:
    """Choose the strengths of L2 terms by the marginal likelihood of the training rows; no validation row plays a part.

    Args:
        problem: its loss must be squared_error, mse, cross_entropy or binary_cross_entropy.
        recipe: trains the network that the evidence starts from, with the terms; linear models do not depend on it. Every epoch is
            trained and the last one counts, whatever it says of stopping.
        terms: L2 (or L2SP) terms; their strengths, above 0, are where it starts. By default the recipe's own. Weights that no
            term charges (biases, say) have the prior ``N(0, 1000^2)``, as in `laplace`.
        by: what has a strength of its own: each ``"term"``, ``"layer"`` (module), ``"parameter"``, ``"input"`` (a column of each
            weight) or ``"unit"`` (a row). Where units may be scaled without a change of the function (ReLU between two layers),
            the strengths of the two layers are known up to that scale: their product is what the evidence decides.
        curvature: as in `laplace`. ``"full"`` takes steps of its own to the minimum; the others train anew after each of
            ``rounds`` updates.
        hyperprior: shape and rate of the Gamma priors of all precisions, and of the noise's; 0 is none, scikit-learn has 1e-6.
        rounds: >= 1, updates, each with a training, where the curvature is not ``"full"``.
        seed: of the training. The strengths of a network are one fixed point of several; of some seeds the one with the largest
            ``log_evidence`` is the best.
    Raises:
        ProblemError: the loss is no likelihood, rows are weighted, labels are smoothed or mixed, or the recipe's learning rate
            follows validation rows.
        InputError: a term that is no L2, one of strength 0, or two terms on one weight.
        DataError: one row, constant targets, or targets that the weights fit without residual.
    Source:
        MacKay (1992), Neural Computation 4(3); Tipping (2001), JMLR 1; Foresee & Hagan (1997), ICNN, for the steps; Immer et al.
        (2021), ICML, for strengths by layer.
    Example:
        >>> import torch, wellposed as wp
        >>> X = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        >>> y = X[:, 0] + 0.1 * torch.randn(100, generator=torch.Generator().manual_seed(1))
        >>> problem = wp.Problem(lambda: torch.nn.Linear(4, 1), "squared_error", wp.Data((X, y[:, None])))
        >>> found = wp.evidence(problem, wp.Recipe(epochs=1), wp.L2(1e-2).on(), by="input")
        >>> [name for name in found.strengths if name not in found.off][0]
        'weight[:, 0]'
    """
    recipe = as_recipe(recipe)
    chosen = recipe.build_terms() if terms is None else [terms] if isinstance(terms, Term) else list(terms)
    for term in chosen:
        if not isinstance(term.charge, (L2, L2SP)) or term.charge.strength <= 0 or term.schedule is not None:
            raise InputError(
                f"wp.evidence chooses strengths of L2 terms, and starts from those that are given, above 0 and without a schedule; "
                f"{term} is no such term."
            )
    if not chosen:
        raise InputError("wp.evidence needs L2 terms to choose the strengths of: [wp.L2(1e-3).on()].")

    refuse_unlike(recipe)
    if monitored_values(recipe).get("schedule", "").startswith("valid"):
        raise ProblemError(
            "wp.evidence looks at no validation row, and the recipe's learning rate falls by them. Let the plateau monitor "
            "train_loss or cost."
        )
    recipe = recipe.replace(stopping={"patience": 0, "keep": "last"})

    def trained(now: Iterable[Term]) -> tuple[Trained, Linearized]:
        run = fit(problem, recipe.replace(terms=list(now)), seed=seed)
        of = of_problem(problem, run.model, now, run.recipe)
        return of, Linearized(of.net, of.forward)

    of, net = trained(chosen)
    groups = WeightGroups.of(of.net, net, chosen, by)
    kind = chosen_curvature(curvature, net, one_strength=by not in ("input", "unit"))
    likelihood = of.likelihood(net.outputs(of.batches[0][0][:1]).shape[1]).with_noise(1.0)
    state = FixedPoint.start(groups, net, of, likelihood, hyperprior)
    if kind == "full":
        state.climb(net, of)  # which moves the weights of net
    found, _, misfit = measured_curvature(net, of, likelihood, kind)
    for _ in range(rounds) if kind != "full" else ():
        state.settle_at(net.weights, Quadratic(net.weights, found, None, misfit), move=False)
        of, net = trained(groups.terms(state.strengths()))
        found, _, misfit = measured_curvature(net, of, likelihood, kind)
    state.measure(net.weights, misfit, state.posterior(found))
    strengths = state.strengths()
    model = copy.deepcopy(of.net)
    for leaf in net.leaves:
        model.get_parameter(leaf.name).data.copy_(leaf.tensor.detach())
    strength, decided, sizes = (
        dict(zip(groups.names, of_groups.tolist(), strict=True))
        for of_groups in (strengths, state.decided, groups.sizes)
    )
    return Evidence(
        strengths=strength,
        decided=decided,
        sizes={name: int(size) for name, size in sizes.items()},
        terms=tuple(groups.terms(strengths)),
        log_evidence=state.value,
        noise_std=math.sqrt(state.variance) if likelihood.numbers else None,
        model=model,
        curvature=kind,
        updates=state.updates,
        settled=state.settled,
    )


@dataclass(frozen=True)
class WeightGroups:
    """Which weights share a strength.

    Attributes:
        names: of the groups.
        index: of each weight its group, ``(P,)``; the number of groups where no term charges it.
        by: see `evidence`.
        places: term, parameter and groups of each charged parameter, in the shape that the groups have in it.
    """

    names: tuple[str, ...]
    index: Tensor
    by: By
    places: tuple[tuple[Term, Leaf, Tensor], ...]

    @classmethod
    def of(cls, model: nn.Module, net: Linearized, terms: Sequence[Term], by: By) -> WeightGroups:
        names: dict[str, int] = {}
        index = [torch.full((size,), -1) for size in net.sizes]
        places = []
        alike = len({str(term.place) for term in terms}) < len(terms)
        for number, term in enumerate(terms, 1):
            title = f"{term.place} ({number})" if alike else str(term.place)
            for leaf, mine in zip(net.leaves, index, strict=True):
                if not bool(strengths_of(model, [leaf.name], [replace(term, how="loss")])[0].any()):
                    continue
                if bool((mine >= 0).any()):
                    raise InputError(f"Two terms charge {leaf.name!r}; give one, whose strength the evidence chooses.")
                called, shape = _called(leaf, title, by)
                here = torch.tensor([names.setdefault(name, len(names)) for name in called]).reshape(shape)
                mine.copy_(here.expand(leaf.tensor.shape).flatten())
                places.append((term, leaf, here))
        whole = torch.cat(index)
        whole[whole < 0] = len(names)
        return cls(tuple(names), whole.to(net.weights.device), by, tuple(places))

    @property
    def sizes(self) -> Tensor:
        return self.sum(torch.ones(len(self.index), dtype=torch.float64, device=self.index.device))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over each group, ``(P,)`` to ``(groups,)``."""
        return torch.zeros(len(self.names) + 1).to(values).index_add(0, self.index, values)[:-1]

    def each(self, values: Tensor, other: float) -> Tensor:
        """Of each weight its group's value, ``(groups,)`` to ``(P,)``; ``other`` where no term charges it."""
        return torch.cat([values, values.new_tensor([other])])[self.index]

    def terms(self, strengths: Tensor) -> list[Term]:
        """Terms with the strengths of the groups: L2 for whole parameters, WeightedL2 for inputs and units."""
        if self.by == "term":
            first = {id(term): (term, here) for term, _, here in reversed(self.places)}
            return [_with(term, strengths[here].item()) for term, here in reversed(list(first.values()))]
        found = []
        for term, leaf, here in self.places:
            where = named(leaf.name)
            if self.by in ("layer", "parameter"):
                found.append(replace(_with(term, strengths[here].item()), where=where))
            else:
                rates = strengths[here].clamp_max(torch.finfo(leaf.tensor.dtype).max / 1e10).cpu()
                found.append(WeightedL2(1.0, rates).on(where, how="loss" if term.how == "loss" else "prox"))
        return found


def _called(leaf: Leaf, term: str, by: By) -> tuple[list[str], tuple[int, ...]]:
    """The names of a parameter's groups, and the shape in which they broadcast to it."""
    shape = leaf.tensor.shape
    whole = (1,) * len(shape)
    if by not in ("input", "unit"):
        return [{"term": term, "parameter": leaf.name, "layer": leaf.name.rpartition(".")[0] or leaf.name}[by]], whole
    axis = 1 if by == "input" else 0
    if len(shape) <= axis:
        raise InputError(
            f"by={by!r} needs weights with {axis + 1} axes or more; {leaf.name!r} has shape {tuple(shape)}."
        )
    ahead = ":, " * axis
    names = [f"{leaf.name}[{ahead}{number}]" for number in range(shape[axis])]
    return names, (*whole[:axis], shape[axis], *whole[axis + 1 :])


def _with(term: Term, strength: float) -> Term:
    if isinstance(term.charge, L2SP):
        return replace(term, charge=replace(term.charge, strength=strength))
    return replace(term, charge=L2(strength))


@torch.no_grad()
def _misfit(net: Linearized, of: Trained, likelihood: Likelihood) -> float:
    """Of all training rows, at the weights as they are."""
    parts = [(net.outputs(x), y) for x, y in of.batches]
    return math.fsum(float(likelihood.misfit(f, likelihood.targets(y, f))) for f, y in parts)


@dataclass(frozen=True)
class Quadratic:
    """``-log p(data|w)`` at unit noise around ``w0``, but for its constant: exact for linear models under squared error.

    ``value`` is the `Likelihood.misfit`: half the sum of squares for numbers, and in nats for classes.
    """

    around: Tensor
    curvature: Curvature
    slope: Tensor | None
    value: float

    def __call__(self, w: Tensor) -> float:
        """Its value at other weights, where the curvature is full."""
        d = w - self.around
        if self.slope is None or not isinstance(self.curvature, Full):
            return self.value
        return self.value + float(self.slope @ d) + 0.5 * float(d @ self.curvature.matrix @ d)


@dataclass
class FixedPoint:
    """Precisions, noise and weights on their way to the fixed point.

    Attributes:
        precision: of each group, ``lambda``. ``variance``: of the noise; 1 of classes.
        decided: ``gamma`` of each group. ``value``: the log evidence. ``updates``: of the precisions so far.
    """

    groups: WeightGroups
    likelihood: Likelihood
    center: Tensor
    precision: Tensor
    variance: float
    hyperprior: float
    decided: Tensor
    value: float = -math.inf
    updates: int = 0
    settled: bool = False

    @classmethod
    def start(
        cls, groups: WeightGroups, net: Linearized, of: Trained, likelihood: Likelihood, hyperprior: float
    ) -> FixedPoint:
        """Precisions by the terms' own strengths, and the noise that the residuals show."""
        strength, center = strengths_of(of.net, [leaf.name for leaf in net.leaves], of.terms)
        variance = 1.0
        if likelihood.numbers:
            variance = 2 * _misfit(net, of, likelihood) / (likelihood.rows * likelihood.outputs) or 1.0
        strengths = groups.sum(strength) / groups.sizes
        precision = likelihood.with_noise(variance).scale * strengths
        return cls(groups, likelihood, center, precision, variance, hyperprior, torch.zeros_like(precision))

    def strengths(self) -> Tensor:
        """``lambda/scale``, in the convention of the loss."""
        return self.precision / self.likelihood.with_noise(self.variance).scale

    @property
    def _diagonal(self) -> Tensor:
        return self.groups.each(self.precision, UNCHARGED_STD**-2)

    def cost(self, value: float, w: Tensor) -> float:
        """Minus the log posterior up to a constant, of a likelihood that is ``value`` at unit noise."""
        return value / self.variance + 0.5 * float(self._diagonal @ (w - self.center).square())

    def posterior(self, curvature: Curvature) -> WeightPosterior:
        """With these precisions and this noise."""
        return curvature.at(self._diagonal, 1 / self.variance)

    def measure(self, w: Tensor, value: float, posterior: WeightPosterior) -> Tensor:
        """Set `value` and `decided` at weights ``w``; of each weight the share that the data decide, ``(P,)``."""
        diagonal = self._diagonal
        nll = value / self.variance + self.likelihood.with_noise(self.variance).constant
        self.value = log_evidence(nll, diagonal, w - self.center, posterior.log_det)
        share = 1 - diagonal * posterior.variances
        self.decided = self.groups.sum(share).clamp_min(0)
        return share

    def update(self, w: Tensor, value: float, posterior: WeightPosterior) -> float:
        """One step of the fixed point at weights ``w``; how far the precisions moved."""
        share = self.measure(w, value, posterior)
        targets = self.likelihood.rows * self.likelihood.outputs
        squares = self.groups.sum((w - self.center).square())
        before = self.precision
        grown = (self.decided + 2 * self.hyperprior) / (squares + 2 * self.hyperprior).clamp_min(1e-300)
        moved = 0.0
        if self.likelihood.numbers:
            left = targets - float(share.sum())
            if left <= 1e-9 * targets or self.likelihood.is_exact(value):
                raise DataError(
                    f"The weights fit all {targets} targets without residual: there is no noise to weigh the prior against. Start "
                    "from a larger strength, or use fewer weights."
                )
            variance = (2 * value + 2 * self.hyperprior) / (left + 2 * self.hyperprior)
            moved, self.variance = abs(math.log(variance / self.variance)), variance
        self.precision = grown.clamp(1e-12, LARGEST)
        change = (self.precision / before).log().abs() * (self.decided / self.groups.sizes)
        self.updates += 1
        return max(moved, float(change.max()))

    def settle_at(self, w: Tensor, model: Quadratic, move: bool) -> Tensor:
        """The fixed point of a quadratic likelihood; where ``move``, the weights follow to each minimum."""
        for _ in range(MOST_UPDATES):
            posterior = self.posterior(model.curvature)
            if move:
                w = self.minimum(model, posterior)
            self.settled = self.update(w, model(w), posterior) <= SETTLED
            if self.settled:
                break
        return self.minimum(model, self.posterior(model.curvature)) if move else w

    def minimum(self, model: Quadratic, posterior: WeightPosterior) -> Tensor:
        """Where the quadratic cost is least."""
        assert model.slope is not None
        gradient = model.slope / self.variance + self._diagonal * (model.around - self.center)
        return model.around - posterior.solve(gradient)

    def climb(self, net: Linearized, of: Trained) -> None:
        """Alternate one update of the strengths with one damped Gauss-Newton step, in place, until the strengths are steady."""
        damping, linear, quiet = 0.0, False, 0
        for _ in range(MOST_STEPS):
            found, slope, misfit = measured_curvature(net, of, self.likelihood, "full")
            assert isinstance(found, Full)
            w = net.weights
            model = Quadratic(w, found, slope, misfit)
            if linear:
                net.weights = self.settle_at(w, model, move=True)
                return
            moved = self.update(w, model.value, self.posterior(found))
            quiet = quiet + 1 if moved <= STEADY else 0
            self.settled = quiet >= 3
            damping, linear = self._step(net, of, model, damping)
            if self.settled:
                return

    def _step(self, net: Linearized, of: Trained, model: Quadratic, damping: float) -> tuple[float, bool]:
        """Move the weights down their cost; the next damping, and whether the quadratic told the value exactly."""
        assert isinstance(model.curvature, Full)
        start = self.cost(model.value, model.around)
        unit = float(model.curvature.matrix.diagonal().mean()) / self.variance
        for _ in range(12):
            posterior = model.curvature.at(self._diagonal + damping * unit, 1 / self.variance)
            w = self.minimum(model, posterior)
            net.weights = w
            value = _misfit(net, of, self.likelihood)
            if math.isfinite(value) and self.cost(value, w) <= start:
                exact = self.likelihood.numbers and damping == 0.0 and abs(value - model(w)) <= 1e-9 * abs(model.value)
                return (damping / 10 if damping > 1e-8 else 0.0), exact
            damping = max(10 * damping, 1e-4)
        net.weights = model.around
        return damping, False
