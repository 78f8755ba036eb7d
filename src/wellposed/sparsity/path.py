"""The path of strengths: models from empty to dense, or from dense to empty, each trained to convergence from the one before.

    w(strength) = argmin_w  mean loss(w) + strength * penalty(w)

Where the selection enters linearly (a linear model, a skip connection) the strength that empties it is the dual norm of the
gradient at zero, and the path begins there, from empty to dense. Elsewhere a network whose first layer is zero is often
stationary at any strength, since two adjacent layers at zero pass no gradient: there the strength is bracketed from the dense
side, and the path runs from dense to empty. All points are reckoned in double precision on all rows, so that the support is
settled; see `wellposed.optimality.settle`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.core.batches import mapped, tensors_in
from wellposed.core.checks import Count, Positive, Seed, Within, checked
from wellposed.core.errors import DataError, InputError, listed, require
from wellposed.core.files import jsonable
from wellposed.core.formats import count_noun, score
from wellposed.core.formats import table as columns_of_words
from wellposed.core.progress import emit
from wellposed.core.selectors import inputs as all_inputs
from wellposed.data.arrays import Source, Subset, in_numpy, source_of, split_batch
from wellposed.data.splits import AnyArray, duplicate_ids, split
from wellposed.optim.charges import Charges
from wellposed.optimality.certify import Certificate
from wellposed.optimality.objective import BatchList, Cost
from wellposed.optimality.settle import settle
from wellposed.penalties.base import Term, changed
from wellposed.sparsity.active_inputs import Narrowed, narrowed, reawakened
from wellposed.sparsity.droppable import PathPenalty, Support, emptying_strength, enters_linearly, penalty_of
from wellposed.sparsity.newton import newton
from wellposed.training.evaluate import BATCH, Evaluation, call, evaluate
from wellposed.training.problem import Problem

MOST_DOUBLINGS = 60
"""Of a strength while its end of the path is looked for: a factor of 1e18."""
SHOWN = 12
"""Points that a printed table shows, evenly, with the two that are chosen."""
FIRST_STEPS = 20
"""Proximal steps before the first of Newton's; twice as many each time after."""


@dataclass(frozen=True)
class PathPoint:
    """The model of one strength.

    Attributes:
        strength: what the penalty is multiplied by.
        norms: of every part, in the order of `Path.names`; exactly 0 where it is gone. After debiasing, if it was asked for.
        train: loss on the training rows, without the penalty.
        valid, valid_se: loss on rows that the model has not seen, with its standard error; NaN where it is not known.
        metric: of the same rows; NaN where there is none.
        violation: of stationarity, as `wellposed.certify` measures it. ``converged``: it is within the tolerance.
        weights: of the model, a state dict.
    """

    strength: float
    norms: tuple[float, ...]
    train: float
    valid: float
    valid_se: float
    metric: float
    violation: float
    converged: bool
    weights: dict[str, Tensor] = field(repr=False, compare=False)

    @property
    def support(self) -> tuple[int, ...]:
        """The numbers of the parts that are left."""
        return tuple(i for i, norm in enumerate(self.norms) if norm)


@dataclass(frozen=True)
class Path:
    """Models along decreasing strength. ``str()`` for people, `to_dict` for JSON, `frame` for pandas, `figure` to look at.

    Attributes:
        points: from the strongest to the weakest.
        names: of the parts that can be dropped; ``noun`` is what they are, in the plural.
        penalty: what was charged, at strength 1.
        empties_at: the strength from which on nothing is left.
        computed: whether that is known from the gradient at zero; else it is bracketed from the dense side.
        judged: on what the validation losses were measured.
        notes: what a reader should know, in sentences.
    """

    points: tuple[PathPoint, ...]
    names: tuple[str, ...]
    noun: str
    penalty: str
    empties_at: float
    computed: bool
    loss: str
    metric: str | None
    judged: str
    problem: Problem = field(repr=False, compare=False)
    seed: int = 0
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> PathPoint:
        """The point with the smallest validation loss; of equal ones the strongest."""
        return min(self.points, key=lambda point: math.inf if math.isnan(point.valid) else point.valid)

    @property
    def one_se(self) -> PathPoint:
        """The strongest point whose validation loss is within one standard error of the best one's."""
        best = self.best
        limit = best.valid + (0.0 if math.isnan(best.valid_se) else best.valid_se)
        return next(point for point in self.points if point.valid <= limit or point is best)

    @property
    def entered(self) -> dict[str, float]:
        """The strength up to which each part is in the model at all: its importance along the path; 0 where it never is."""
        return {
            name: max((point.strength for point in self.points if point.norms[i]), default=0.0)
            for i, name in enumerate(self.names)
        }

    def ranking(self) -> list[int]:
        """The numbers of all parts, the most important first: by `entered`, then by their norm there."""
        norms, entered = np.array([point.norms for point in self.points]), self.entered
        first = norms[(norms != 0).argmax(0), np.arange(len(self.names))]
        return [int(i) for i in np.lexsort((-first, [-entered[name] for name in self.names]))]

    @checked
    def kept(self, point: PathPoint) -> list[str]:
        """The names of the parts that are left at a point."""
        return [self.names[i] for i in point.support]

    @checked
    def model(self, point: PathPoint) -> nn.Module:
        """The model of a point, in evaluation mode and in its own precision; what is zero stays zero."""
        net = self.problem.build({}, self.seed)
        net.load_state_dict(point.weights)
        return net.eval()

    def to_dict(self) -> dict[str, Any]:
        """All numbers but the weights, ready for JSON."""
        points = [
            {key: value for key, value in vars(point).items() if key != "weights"} | {"kept": self.kept(point)}
            for point in self.points
        ]
        mine = {key: value for key, value in vars(self).items() if key not in ("points", "problem")}
        chosen = {"best": self.points.index(self.best), "one_se": self.points.index(self.one_se)}
        found: dict[str, Any] = jsonable({**mine, **chosen, "entered": self.entered, "points": points})
        return found

    def frame(self) -> Any:
        """A pandas frame, a row for each point and a column for the norm of each part.

        Raises:
            MissingExtra: pandas is not installed.
        """
        rows = [
            {
                "strength": p.strength, "kept": len(p.support), "train": p.train, "valid": p.valid, "valid_se": p.valid_se,
                "metric": p.metric, "violation": p.violation, "converged": p.converged,
                **dict(zip(self.names, p.norms, strict=True)),
            }
            for p in self.points
        ]  # fmt: skip
        return require("pandas", "tables").DataFrame(rows)

    def figure(self) -> str:
        """Norms, validation loss and support against the strength, and which parts enter when, as an SVG text.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        from wellposed.sparsity.path_figure import path_figure

        return path_figure(self)

    def __str__(self) -> str:
        best, sparse = self.points.index(self.best), self.points.index(self.one_se)
        chosen = {best: "best", sparse: "within one SE" if best != sparse else "best, and within one SE"}
        even = {round(i) for i in np.linspace(0, len(self.points) - 1, min(SHOWN, len(self.points)))}
        cells = [("strength", self.noun, f"train {self.loss}", "validation", "SE", self.metric or "", "")]
        for i in sorted(even | set(chosen)):
            p = self.points[i]
            train, valid, se, metric = map(score, (p.train, p.valid, p.valid_se, p.metric))
            kept, metric = str(len(p.support)), metric if self.metric else ""
            cells.append((f"{p.strength:.4g}", kept, train, valid, se, metric, chosen.get(i, "")))
        return "\n".join([*columns_of_words(cells, ruled=True), "", *self.sentences()])

    def sentences(self) -> list[str]:
        """What the path shows, as sentences for people."""
        how = "computed from the gradient at zero" if self.computed else "found by trying, from weak strengths on"
        best, sparse = self.best, self.one_se
        said = [f"From strength {self.empties_at:.4g} on, no {self.noun} are left ({how})."]
        if not math.isnan(best.valid):
            said.append(
                f"Strength {best.strength:.4g} has the smallest validation loss, {score(best.valid)}, on {self.judged}; it keeps "
                f"{self._amount(best)}."
            )
            said.append(
                f"Strength {sparse.strength:.4g} is the strongest within one standard error of it; it keeps {self._amount(sparse)}"
                + (f": {listed(self.kept(sparse), 12)}." if sparse.support else ".")
            )
        if best is self.points[-1] and len(self.points) > 1:
            said.append("The best strength is the weakest of the path. Give a smaller ratio= to look beyond it.")
        open_points = [point for point in self.points if not point.converged]
        if open_points:
            said.append(
                f"{len(open_points)} of {count_noun(len(self.points), 'point')} did not converge: the violation is up to "
                f"{max(point.violation for point in open_points):.2g}. Give more steps=, or take their supports as not settled."
            )
        return [*said, *self.notes]

    def _amount(self, point: PathPoint) -> str:
        return f"{len(point.support)} of {len(self.names)} {self.noun}"


@checked
def strength_path(
    problem: Problem,
    penalty: Any = "l1",
    on: Any = all_inputs,
    *,
    points: Annotated[int, Within(2)] = 50,
    ratio: Annotated[float, Within(0, 1, open="both")] = 1e-3,
    strengths: Sequence[Positive] | None = None,
    folds: Annotated[int, Within(2)] | Sequence[Any] | None = None,
    seeds: Annotated[int, Within(1, 1000)] = 1,
    debias: bool = False,
    terms: Sequence[Term] = (),
    tolerance: Positive = 1e-6,
    steps: Count = 1000,
    seed: Seed = 0,
) -> Path:
    """Models of a problem along the strengths of a penalty, warm-started, with what each scores on rows that it has not seen.

    The grid is geometric, from the strength that empties the selection down to ``ratio`` times it. Each point is trained in
    double precision on all training rows until `wellposed.certify` finds a violation within the tolerance.

    Args:
        problem: any model; its factory's defaults are used.
        penalty: a name (``l1``, ``group``, ``sparse_group``, ``hierarchical``, ``mcp``, ``scad``, ``l0``) or a penalty such as
            ``wp.GroupL2(1.0, by="unit")``, whose own strength does not matter. Groups of inputs follow the columns of a table.
        on: what it charges, as in `Penalty.on`; a hierarchical one says so itself.
        points, ratio: >= 2 points; the weakest strength as a share in (0, 1) of the strongest.
        strengths: a grid of your own instead, each > 0, in any order.
        folds: None judges on the problem's validation rows. A number >= 2 cuts the training and validation rows together, never
            through a group or a pair of copies; where the problem has ``time=``, each fold is judged on the rows that follow
            those it learns from, in as many later stretches of time, and the first stretch is never judged. A list of pairs
            ``(training rows, validation rows)`` of indices, such as ``list(KFold(5).split(X))``, is taken as it is. The
            models of the path are then trained on all of these rows, and the standard error is over folds, not over rows.
        seeds: 1 to 1,000; initializations that the validation losses are averaged over. The models are those of the first.
        debias: retrain the weights of each support without the penalty, and judge those.
        terms: what else is charged at every point, such as ``wp.L2(1e-3).on(wp.weights, how="prox")``.
        tolerance, steps: > 0, >= 1, of each point, as in `wellposed.settle`.
        seed: of the initialization and the folds.
    Returns:
        The path; `Path.notes` and the printed sentences say what did not converge.
    Raises:
        SelectorError, ShapeError, CompositionError, InputError: the penalty cannot be charged there, or empties nothing.
        DataError: rows with weights, or folds that are none.
    Source:
        Friedman, Hastie & Tibshirani (2010), J. Statistical Software 33(1), for warm starts and one standard error;
        Lemhadri et al. (2021), JMLR 22, for paths from dense to sparse.
    Example:
        >>> import torch, wellposed as wp
        >>> x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        >>> problem = wp.Problem(lambda: torch.nn.Linear(4, 1), "squared_error", (x, 2 * x[:, :1]))
        >>> path = wp.strength_path(problem, points=5)
        >>> path.kept(path.best)
        ['x0']
    """
    if strengths is not None and not len(strengths):
        raise InputError("strengths is empty; give at least one, or leave it out for a grid that is found.")
    charged, trainer, support = trainer_of(problem, penalty, on, terms, tolerance, steps, seed)
    rows = trainer.rows
    cuts = _cuts(rows, folds, seed)
    whole = cuts[0][0] if folds is None else np.arange(len(rows))
    net = trainer.new(seed)
    few = rows.batches(whole[:16])
    convex_enough = math.isfinite(charged.traits.weak_convexity)
    computed = convex_enough and enters_linearly(net, support, lambda model: problem.forward(model, few[0][0]))
    end = trainer.emptied(net, support, whole) if computed else trainer.bracketed(seed, support, whole)
    grid = np.geomspace(end, end * ratio, points).tolist() if strengths is None else sorted(strengths, reverse=True)
    found = trainer.path(net, support, whole, grid, computed, debias, extend=strengths is None)
    grid = [fitted.strength for fitted in found]
    scores = np.full((len(grid), len(cuts), seeds, 3), np.nan)
    for i, (training, held) in enumerate(cuts):
        for j in range(seeds):
            ready = found if folds is None and j == 0 else trainer.path(
                trainer.new(seed + j), support, training, grid, computed, debias
            )  # fmt: skip
            for k, fitted in enumerate(ready):
                measured = trainer.judged(fitted.net, held)
                scores[k, i, j] = measured.loss.mean, measured.loss.se, measured.metric
            emit("path", fold=i + 1, folds=len(cuts), seed=j, seeds=seeds)
    if not computed:
        end = min((f.strength for f in found if not bool(support.norms(f.net).any())), default=end)
    valid, metric = scores[..., 0].mean((1, 2)), scores[..., 2].mean((1, 2))
    return Path(
        tuple(
            PathPoint(
                strength, tuple(support.norms(fitted.net).tolist()), trainer.judged(fitted.net, whole).loss.mean,
                float(valid[k]), _standard_error(scores[k]), float(metric[k]), fitted.certificate.violation,
                fitted.certificate.violation <= tolerance, fitted.net.state_dict(),
            )
            for k, (strength, fitted) in enumerate(zip(grid, found, strict=True))
        ),
        support.names, support.noun, str(charged), end, computed, problem.loss.name,
        None if problem.metric is None else problem.metric.name,
        f"{len(cuts[0][1])} validation rows" if folds is None else f"{len(cuts)} folds of {len(rows)} rows",
        problem, seed,
    )  # fmt: skip


def trainer_of(
    problem: Problem, penalty: Any, on: Any, terms: Sequence[Term], tolerance: float, steps: int, seed: int
) -> tuple[PathPenalty, PathTrainer, Support]:
    """The penalty at strength 1, what the models of a path are trained with, and the parts that can be dropped."""
    charged = penalty_of(penalty, on, problem.prepared)
    where = None if charged.name == "hierarchical" else on

    def all_terms(strength: float) -> list[Term]:
        return [*terms, changed(charged, strength=strength).on(where, "prox")]

    trainer = PathTrainer(problem, PathRows.of(problem), all_terms, tolerance, steps)
    return charged, trainer, Support.of(problem.build({}, seed), trainer.terms(1.0)[-1], problem.prepared)


def _standard_error(cells: AnyArray) -> float:
    """Of a mean over ``(folds, seeds)``: over folds where there are several, else over rows and seeds."""
    means = cells[..., 0].mean(1)
    if len(means) > 1:
        return float(means.std(ddof=1) / math.sqrt(len(means)))
    seeds = cells[0, :, 0]
    between = float(seeds.var(ddof=1) / len(seeds)) if len(seeds) > 1 else 0.0
    return math.sqrt(float(cells[0, :, 1].mean()) ** 2 + between)


@dataclass(frozen=True)
class PathRows:
    """The training and validation rows of a problem in one source, in the order in which they were given, in double precision.

    ``groups`` and ``time`` are those of the problem; ``paired`` says that there is one for each row, of validation rows too.
    """

    source: Source
    training: AnyArray
    held: AnyArray
    groups: AnyArray | None
    time: AnyArray | None
    paired: bool = True

    def __len__(self) -> int:
        return len(self.training) + len(self.held)

    @classmethod
    def of(cls, problem: Problem) -> PathRows:
        data, prepared = problem.data, problem.prepared
        if data.weight is not None:
            raise DataError(
                "strength_path minimizes a plain mean over rows, and these data have weight=. Leave it out."
            )
        train, valid = prepared.train_clean, prepared.valid

        def doubled(given: Any, source: Source) -> Source:
            """The rows as they were given: what a problem keeps of arrays is in single precision."""
            found = source if prepared.encoder is not None else source_of(given, data.collate_fn, double=True)
            return found if len(found) == len(source) else source

        given = data.train if data.train_clean is None else data.train_clean
        if prepared.places is None:
            both = _Joined(doubled(given, train), doubled(data.valid, valid))
            return cls(both, np.arange(len(train)), np.arange(len(train), len(both)), data.groups, data.time, False)
        numbers = np.concatenate(prepared.places)
        order = numbers.argsort()
        if isinstance(train, Subset):
            source: Source = Subset(doubled(given, train.source), torch.from_numpy(numbers[order]))
        else:
            source = Subset(_Joined(train, valid), torch.from_numpy(order))
        first = order < len(train)
        groups, time = (None if one is None else np.asarray(one)[numbers[order]] for one in (data.groups, data.time))
        return cls(source, np.flatnonzero(first), np.flatnonzero(~first), groups, time)

    def copies(self) -> AnyArray | None:
        """An id for each row, equal for copies; None where the inputs are no tensor."""
        x, y = self.source.batch(torch.arange(len(self)))
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            return None
        return duplicate_ids(in_numpy(x.reshape(len(self), -1)), duplicate_ids(in_numpy(y.reshape(len(self), -1))))

    def batches(self, index: AnyArray) -> list[tuple[Any, Any]]:
        """The rows at ``index``, floating numbers as doubles."""
        return [
            mapped(lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, batch)
            for part in torch.split(torch.from_numpy(np.asarray(index)), BATCH)
            for batch in [self.source.batch(part)]
        ]


class _Joined(Source):
    """The rows of two sources, one after the other."""

    def __init__(self, first: Source, second: Source) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batch(self, index: Tensor) -> tuple[Any, Any]:
        inside = index < len(self.first)
        parts = [(self.first, index[inside]), (self.second, index[~inside] - len(self.first))]
        filled = [source.batch(part) for source, part in parts if len(part)]
        if len(filled) == 1:
            return filled[0]
        ahead = iter(list(tensors_in(filled[1])))
        joined: tuple[Any, Any] = mapped(lambda leaf: torch.cat([leaf, next(ahead)]), filled[0])
        return joined


def _cuts(rows: PathRows, folds: int | Sequence[Any] | None, seed: int) -> list[tuple[AnyArray, AnyArray]]:
    """Pairs of training and validation rows."""
    if folds is None:
        return [(rows.training, rows.held)]
    if not isinstance(folds, int):
        try:
            found = [tuple(np.asarray(part, dtype=np.int64).reshape(-1) for part in pair) for pair in folds]
        except (TypeError, ValueError):
            found = []
        fit = (len(pair) == 2 and all(len(p) and 0 <= p.min() <= p.max() < len(rows) for p in pair) for pair in found)
        if not found or not all(fit):
            raise DataError(
                "folds= is a number >= 2, or a list of pairs (training rows, validation rows) of indices from 0 to "
                f"{len(rows) - 1}, such as list(KFold(5).split(X))."
            )
        return [(training, held) for training, held in found]
    if folds > len(rows):
        raise DataError(f"{folds} folds need as many rows, and there are {len(rows)}. Give fewer folds=.")
    ids = {"groups": rows.groups, "time": rows.time, "duplicates": rows.copies()}
    if not rows.paired and (rows.groups is not None or rows.time is not None):
        raise DataError(
            "Folds are cut from the training and validation rows together, and groups= and time= are known for the training "
            "rows alone. Give a share as valid=, or folds= as a list of pairs of indices."
        )
    # In time every fold is judged on the rows that follow those it learns from; the first rows are never judged.
    last = 0 if rows.time is None else 1
    rest: AnyArray = np.arange(len(rows))
    cuts: list[tuple[AnyArray, AnyArray]] = []
    for left in range(folds + last, last, -1):
        before, held = rest[:0], rest
        if left > 1:
            own = {name: None if values is None else values[rest] for name, values in ids.items()}
            before, held = (rest[part] for part in split(len(rest), 1 / left, seed=seed, stream=f"fold {left}", **own))
        cuts.append((before if last else np.setdiff1d(np.arange(len(rows)), held), held))
        rest = before
    return cuts


@dataclass(frozen=True)
class _Fitted:
    """A model at one strength, and how well it converged."""

    strength: float
    net: nn.Module
    certificate: Certificate


@dataclass(frozen=True)
class PathTrainer:
    """What every model of a path is trained with."""

    problem: Problem
    rows: PathRows
    terms: Callable[[float], list[Term]]
    tolerance: float
    steps: int

    def new(self, seed: int) -> nn.Module:
        """A fresh model in double precision."""
        net = self.problem.build({}, seed)
        self.problem.check(net, torch.device("cpu"))
        return net.double()

    @property
    def forward(self) -> Callable[[nn.Module, Any], Any] | None:
        own = self.problem.forward
        return None if own is call else lambda net, batch: own(net, split_batch(batch)[0])

    def settled(
        self, net: nn.Module, rows: AnyArray, terms: Sequence[Term], support: Support | None = None
    ) -> Certificate:
        """Train in place until the violation is within the tolerance, or the steps are used up; Newton's steps are few.

        Args:
            support: of the last term; what is zero there is left out of the steps for as long as it stays zero.
        """
        batches, left, some = self.rows.batches(rows), self.steps, FIRST_STEPS
        if support is not None and bool(support.norms(net).any()):
            # One step is always taken: weights smaller than the tolerance would stay at any strength, since none violates more.
            self._settle(net, batches, terms, 1, 0.0)
        while True:
            small = self._narrowed(net, support, terms, batches)
            now = min(some, left)
            if small is None:
                found = self._stepped(net, batches, terms, now, now < left)
            else:
                self._stepped(small.net, small.rows(batches), small.terms, now, now < left)
                small.write_back(net)
                found = self._settle(net, batches, terms, 0, self.tolerance)
            left, some = left - now, 2 * some
            if found.violation <= self.tolerance or left <= 0 or not math.isfinite(found.objective):
                return found

    def _settle(
        self, net: nn.Module, batches: list[tuple[Any, Any]], terms: Sequence[Term], steps: int, tolerance: float
    ) -> Certificate:
        return settle(net, self.problem.loss, BatchList(batches), terms, tolerance, steps, forward=self.forward)

    def _cost(self, net: nn.Module, batches: list[tuple[Any, Any]], terms: Sequence[Term]) -> Cost:
        return Cost(net, self.problem.loss, BatchList(batches), terms, None, forward=self.forward)

    def _stepped(
        self, net: nn.Module, batches: list[tuple[Any, Any]], terms: Sequence[Term], steps: int, go_on: bool
    ) -> Certificate:
        """Proximal steps and, where more are to come, Newton's."""
        found = self._settle(net, batches, terms, steps, self.tolerance)
        if go_on and self.tolerance < found.violation < math.inf:
            cost = self._cost(net, batches, terms)
            with cost.frozen():
                newton(cost, self.problem.forward)
        return found

    def _narrowed(
        self, net: nn.Module, support: Support | None, terms: Sequence[Term], batches: list[tuple[Any, Any]]
    ) -> Narrowed | None:
        """The network without the inputs that are zero and stay so; None where all of it is to be trained."""
        if support is None or self.forward is not None:
            return None
        parts = support.norms(net) > 0
        if narrowed(net, support, terms, parts, batches) is None:
            return None
        cost = self._cost(net, batches, terms)
        with cost.frozen():
            return narrowed(net, support, terms, parts | reawakened(cost, support), batches)

    def judged(self, net: nn.Module, rows: AnyArray) -> Evaluation:
        """Loss and metric on rows."""
        return evaluate(
            net, self.rows.batches(rows), self.problem.loss, self.problem.metric,
            device=torch.device("cpu"), forward=self.problem.forward,
        )  # fmt: skip

    def emptied(self, net: nn.Module, support: Support, rows: AnyArray) -> float:
        """Set the charged weights to zero, train the others, and give the strength that keeps it so."""
        inside = [leaf.tensor for leaf in support.leaves(net) if leaf.tensor.requires_grad]
        with torch.no_grad():
            for p in inside:
                p.zero_().requires_grad_(False)
        if any(p.requires_grad for p in net.parameters()):
            self.settled(net, rows, self.terms(1.0)[:-1])
        for p in inside:
            p.requires_grad_(True)
        cost = self._cost(net, self.rows.batches(rows), [])
        with cost.frozen():
            gradients = {id(p): grad for p, grad in zip(cost.params, cost.at().grads, strict=True)}
        return emptying_strength(lambda s: Charges.of(net, self.terms(s), None), gradients, support)

    def bracketed(self, seed: int, support: Support, rows: AnyArray) -> float:
        """About a strength that empties the selection from the dense side; the path goes on from there where it does not."""
        few = replace(self, steps=1 + self.steps // 10)
        net = self.new(seed)
        charge = Charges.of(net, self.terms(1.0)[-1:], None).value()
        strength = max(self.judged(net, rows).loss.mean, 1e-12) / max(charge, 1e-12)
        for _ in range(MOST_DOUBLINGS):
            few.settled(net, rows, self.terms(strength), support)
            if not bool(support.norms(net).any()):
                return strength
            strength *= 2.0
        raise InputError(
            f"No strength up to {strength:.3g} empties the {support.noun}. Choose another penalty or other parameters."
        )

    def path(
        self,
        net: nn.Module,
        support: Support,
        rows: AnyArray,
        grid: Sequence[float],
        rising: bool,
        debias: bool,
        extend: bool = False,
        enough: int | None = None,
    ) -> list[_Fitted]:
        """The models of a grid of decreasing strengths, in its order.

        Args:
            rising: from empty to dense; else the other way round, from the net as it is.
            enough: a rising path ends where so many parts are left.
        """
        if rising:
            with torch.no_grad():
                for leaf in support.leaves(net):
                    leaf.tensor.zero_()
        found: list[_Fitted] = []
        for strength in grid if rising else _beyond(reversed(grid), lambda: extend and bool(support.norms(net).any())):
            certificate = self.settled(net, rows, self.terms(strength), support)
            kept = copy.deepcopy(net)
            if debias:
                certificate = self.settled(kept, rows, support.holding(kept))
            found.append(_Fitted(strength, kept, certificate))
            emit("path", strength=strength, points=len(grid), point=len(found), violation=certificate.violation)
            if rising and enough is not None and int((support.norms(net) > 0).sum()) >= enough:
                break
        return found if rising else found[::-1]


def _beyond(grid: Iterable[float], unfinished: Callable[[], bool]) -> Iterator[float]:
    """Increasing strengths, and doubled ones beyond them as long as something is left: a dense model holds on to its inputs."""
    strength = 0.0
    for strength in grid:
        yield strength
    for _ in range(MOST_DOUBLINGS):
        if not unfinished():
            return
        strength *= 2.0
        yield strength
