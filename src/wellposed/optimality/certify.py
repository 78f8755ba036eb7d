"""`certify`: how far a model is from a stationary point of its cost, measured on all rows in evaluation mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import nn
from torch.optim import Optimizer

from wellposed.core.checks import Within, checked
from wellposed.core.errors import listed
from wellposed.core.formats import table
from wellposed.optim.charges import ChargedPart, Charges
from wellposed.optim.optimizer_metrics import is_adaptive
from wellposed.optim.stationarity import Measure, Stationarity
from wellposed.optimality import linear
from wellposed.optimality.objective import Cost, CostPoint
from wellposed.penalties.base import Constraint, Term
from wellposed.penalties.functional import Jacobian
from wellposed.training.calls import Target


@dataclass(frozen=True)
class CertificateRow:
    """One parameter, or several that one penalty couples.

    Attributes:
        parameter: its name; several are joined by ``" & "``.
        terms: what charges it.
        violation: what it adds to the certificate's violation, Euclidean.
        zeros: share of exact zeros, in [0, 1].
        gone: it is zero as a whole.
        infeasible: distance to its constraint's set.
        measure: ``"distance"`` of minus the gradient to the subdifferential; ``"residual"`` ``|w - prox(w - gradient)|``,
            zero at stationary points only, and at all of them where the terms are convex; ``"fixed point"``: the residual
            of operators applied in turn, which proves nothing about their sum.
    """

    parameter: str
    terms: tuple[str, ...]
    violation: float
    zeros: float
    gone: bool
    infeasible: float = 0.0
    measure: Measure = "distance"


@dataclass(frozen=True)
class Certificate:
    """What `certify` measured. ``str()`` for people, `to_dict` for JSON.

    Attributes:
        objective: ``loss + penalty``.
        loss: the mean over all examples.
        penalty: the sum of all terms on trained parameters.
        violation: Euclidean over `rows`; 0 at a stationary point. In the units of the gradient.
        tolerance: up to which the violation counts as none.
        convex: whether loss and terms are known to be convex in the weights, so that stationary is optimal.
        gap: at most so far is ``objective`` above its minimum; None where it is not known.
        strong_convexity: mu >= 0 with ``objective - mu/2 |w|^2`` convex, or None where it is not known.
    """

    objective: float
    loss: float
    penalty: float
    violation: float
    rows: tuple[CertificateRow, ...]
    tolerance: float
    gap: float | None = None
    strong_convexity: float | None = None
    convex: bool = False
    notes: tuple[str, ...] = ()

    @property
    def optimal(self) -> bool:
        """Stationary and feasible within the tolerance, by measures that prove it. Of a cost that is not convex this is
        a stationary point, not more."""
        return self.violation <= self.tolerance and all(row.measure != "fixed point" for row in self.rows)

    def _said(self) -> str:
        """Without a gap a small gradient is all that is known: on a flat cost it may be far from the minimum."""
        if self.optimal:
            near = self.gap is not None and self.gap <= self.tolerance
            return f"optimal to {self.gap:.3g}" if near else f"stationary to {self.tolerance:g}"
        proven = all(row.measure != "fixed point" for row in self.rows)
        return f"not {'' if proven else 'proven '}{'stationary' if self.gap is None else 'optimal'}"

    @property
    def distance_bound(self) -> float | None:
        """At most how far the weights are from the only minimizer, ``violation/mu``; None where mu is 0 or not known."""
        if not self.strong_convexity or any(row.measure != "distance" for row in self.rows):
            return None
        return self.violation / self.strong_convexity

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        return {**found, "optimal": self.optimal, "distance_bound": self.distance_bound}

    def __str__(self) -> str:
        lines = [
            f"{self._said()}: violation {self.violation:.3g}, tolerance {self.tolerance:g}",
            f"objective {self.objective:.10g} = loss {self.loss:.10g} + penalty {self.penalty:.6g}",
        ]
        if self.gap is not None:
            lines.append(f"at most {self.gap:.3g} above the minimum (duality gap)")
        if self.distance_bound is not None:
            lines.append(f"the weights are within {self.distance_bound:.3g} of the minimizer")
        cells = [("parameter", "violation", "zeros", "terms")]
        for row in self.rows:
            zeros = "all" if row.gone else f"{100 * row.zeros:.0f} %"
            cells.append((row.parameter, f"{row.violation:.3g}", zeros, ", ".join(row.terms) or "-"))
        return "\n".join([*lines, *table(cells, ruled=True), *(f"note: {note}" for note in self.notes)])


@checked
def certify(
    net: nn.Module,
    loss: Any,
    data: Any,
    terms: Iterable[Term] | Term | Optimizer = (),
    optimizer: Optimizer | None = None,
    *,
    tolerance: Annotated[float, Within(0)] = 1e-6,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    target: Target | None = None,
) -> Certificate:
    """How far is ``w`` from ``argmin_w mean loss(w) + sum of terms(w)``? To first order, on all rows, in evaluation mode.

    The violation is the Euclidean distance of minus the gradient to the subdifferential of the sum of all terms, over all
    trained parameters; an uncharged one adds its gradient. Where the cost is convex 0 is the minimum; where the model
    is one ``nn.Linear`` and the loss a squared error or a cross-entropy, the duality gap bounds ``objective - minimum``.
    The model is left as it was: mode, gradients, buffers, random state.

    Args:
        net: the model.
        loss: a name or a callable, as `watch` takes it; as training sees it, with label smoothing if it has any.
        data: ``(X, y)``, a DataLoader, a Dataset, or an iterable of batches; every row is looked at once.
        terms: a list of terms, or a `regularize`d optimizer, which holds them.
        optimizer: says what decay solves, and which parameters are trained; by default all that require a gradient.
        tolerance: >= 0, for `Certificate.optimal`. Single precision allows about 1e-4 times the gradient's terms.
        forward, target: how a batch is read, as in `watch`.
    Raises:
        CompositionError: terms whose sum has no known stationarity, or decay that solves no known objective.
        InputError, DataError: something given cannot be judged.
    Source:
        Stationarity: Rockafellar & Wets (1998), Variational Analysis, ch. 10; the gap: docs/certificates.md.
    Example:
        >>> import torch, wellposed as wp
        >>> net, x = torch.nn.Linear(2, 1), torch.randn(50, 2)
        >>> wp.certify(net, "squared_error", (x, x[:, :1]), [wp.L1(1e-3).on(wp.weights)]).optimal
        False
    """
    cost = Cost(net, loss, data, terms, optimizer, forward=forward, target=target)
    with cost.frozen():
        return certificate(cost, cost.at(), tolerance)


def certificate(cost: Cost, point: CostPoint, tolerance: float, notes: Sequence[str] = ()) -> Certificate:
    """Judge the weights as they are, of which ``point`` is the cost; inside `Cost.frozen`."""
    rows = tuple(_row(part, found) for part, found in cost.charges.judged(point.grads))
    gap, why = linear.linear_duality_gap(cost, point)
    return Certificate(
        objective=point.objective,
        loss=point.loss,
        penalty=point.penalty + point.functional,
        violation=math.hypot(*(row.violation for row in rows)),
        rows=rows,
        tolerance=tolerance,
        gap=gap,
        strong_convexity=linear.strong_convexity(cost, point),
        convex=linear.is_convex(cost),
        notes=(*notes, *why, *_of_rows(rows), *_of_terms(cost.charges), *_of_numbers(cost, point)),
    )


def _row(part: ChargedPart, found: Stationarity) -> CertificateRow:
    numbers = sum(leaf.tensor.numel() for leaf in part.leaves)
    zeros = sum(int((leaf.tensor == 0).sum()) for leaf in part.leaves)
    return CertificateRow(
        parameter=" & ".join(" = ".join(leaf.aliases) for leaf in part.leaves),
        terms=tuple(dict.fromkeys(part.terms)),
        violation=found.violation,
        zeros=zeros / max(1, numbers),
        gone=0 < numbers == zeros,
        infeasible=found.infeasible,
        measure=found.measure,
    )


MEANINGS = {
    "residual": "the violation is the residual |w - prox(w - gradient)|.",
    "fixed point": "the violation is the residual of a proximal step followed by projection; 0 is a fixed point of such "
    "steps, not proven to be stationary.",
}


def _of_rows(rows: Sequence[CertificateRow]) -> list[str]:
    gone = [row.parameter for row in rows if row.gone]
    notes = [f"{listed(gone)} {'is' if len(gone) == 1 else 'are'} zero as a whole."] if gone else []
    for row in rows:
        if 0.0 < row.infeasible == row.violation:
            notes.append(f"{row.parameter}: the violation is the distance to what its constraints allow.")
        elif row.measure in MEANINGS:
            notes.append(f"{row.parameter}: {MEANINGS[row.measure]}")
    return notes


def _of_terms(charges: Charges) -> list[str]:
    """Terms whose limit in training is another one."""
    if charges.optimizer is None or not is_adaptive(charges.optimizer):
        return []
    return [
        f"{term}: Euclidean under {type(charges.optimizer).__name__}, whose limit need not be stationary; that of plain SGD and "
        "of settle is."
        for term in charges.terms
        if (isinstance(term.charge, Constraint) and term.charge.interval is None)
        or (term.how == "prox" and not term.charge.traits.diagonal)
    ]


def _of_numbers(cost: Cost, point: CostPoint) -> list[str]:
    """What the numbers depend on beside the weights."""
    notes = []
    if cost.charges.functional and point.batches > 1:
        notes.append("penalties of the outputs are means over batches, weighed by their rows.")
    if any(isinstance(one, Jacobian) and one.projections for one in cost.charges.functional):
        notes.append("random projections of the Jacobian are judged at one draw.")
    if (dtype := cost.params[0].dtype) != torch.float64:
        name, allowed = str(dtype).removeprefix("torch."), 1e3 * torch.finfo(dtype).eps
        notes.append(f"{name} allows a violation of about {allowed:.0e} times the gradient's terms.")
    return notes
