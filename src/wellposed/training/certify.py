"""`certify`: how far a model is from a stationary point of its cost, measured on all rows in evaluation mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, TensorDataset

from wellposed.constraints.balls import L2Ball
from wellposed.constraints.multiplier import NormBound
from wellposed.core.errors import CompositionError, DataError, InputError, listed
from wellposed.core.random import reseed
from wellposed.core.selectors import Leaf, leaves
from wellposed.data.arrays import Source, moved, split_batch
from wellposed.losses.per_example import Loss
from wellposed.ops import duality
from wellposed.ops.prox import soft_threshold
from wellposed.optim.audit import Audit
from wellposed.optim.binding import Binding, Bound, bind, joined
from wellposed.optim.composition import ordered
from wellposed.optim.metrics import is_adaptive
from wellposed.optim.proximal import joint
from wellposed.optim.regularize import Regularized
from wellposed.penalties.base import (
    Chargeable,
    Constraint,
    Context,
    CoupledPenalty,
    FunctionalPenalty,
    Penalty,
    Term,
)
from wellposed.penalties.elementwise import L2
from wellposed.penalties.group import GroupL2
from wellposed.training.evaluate import BATCH, call, evaluating
from wellposed.training.watch import KEPT_BYTES, Target, _bytes, _side

Measure = Literal["distance", "residual", "fixed point"]
MOST_FEATURES = 2000
"""The smallest eigenvalue of a Gram matrix is computed up to this size."""
MOST_NUMBERS = 2**26
"""Rows times features that are gathered for a duality gap: half a gibibyte of doubles."""
CONVEX_LOSSES = ("squared_error", "binary_cross_entropy", "cross_entropy", "absolute_error", "huber")


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
            zero at the same points; ``"fixed point"``: the residual of operators applied in turn, which proves nothing
            about their sum.
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
        proven = all(row.measure != "fixed point" and row.infeasible <= self.tolerance for row in self.rows)
        return proven and self.violation <= self.tolerance

    @property
    def distance_bound(self) -> float | None:
        """``violation/mu``: at most so far are the weights from the only minimizer; None where mu is 0 or not known."""
        if not self.strong_convexity or any(row.measure != "distance" for row in self.rows):
            return None
        return self.violation / self.strong_convexity

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        return {**found, "optimal": self.optimal, "distance_bound": self.distance_bound}

    def __str__(self) -> str:
        goal = "optimal" if self.convex else "stationary"
        within = f"violation {self.violation:.3g}, tolerance {self.tolerance:g}"
        lines = [
            f"{goal}: {within}" if self.optimal else f"not {goal}: {within}",
            f"objective {self.objective:.10g} = loss {self.loss:.10g} + penalty {self.penalty:.6g}",
        ]
        if self.gap is not None:
            lines.append(f"at most {self.gap:.3g} above the minimum (duality gap)")
        if self.distance_bound is not None:
            lines.append(f"the weights are within {self.distance_bound:.3g} of the minimizer")
        cells = [("parameter", "violation", "zeros", "terms")]
        cells += [
            (
                row.parameter,
                f"{row.violation:.3g}",
                "all" if row.gone else f"{100 * row.zeros:.0f} %",
                ", ".join(row.terms) or "-",
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        table.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*lines, *table, *(f"note: {note}" for note in self.notes)])


def certify(
    net: nn.Module,
    loss: Any,
    data: Any,
    terms: Sequence[Term] | Term | Optimizer = (),
    optimizer: Optimizer | None = None,
    *,
    tolerance: float = 1e-6,
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
        >>> from wellposed.training.certify import certify
        >>> net, x = torch.nn.Linear(2, 1), torch.randn(50, 2)
        >>> certify(net, "squared_error", (x, x[:, :1]), [wp.L1(1e-3).on(wp.weights)]).optimal
        False
    """
    cost = Cost(net, loss, data, terms, optimizer, forward=forward, target=target)
    with cost.frozen():
        return cost.certificate(cost.at(), tolerance)


@dataclass
class Charged:
    """A trained parameter with all that charges it."""

    leaf: Leaf
    penalties: list[Penalty] = field(default_factory=list)
    constraints: list[Constraint] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)

    def add(self, charge: Chargeable, text: str) -> None:
        """One more charge."""
        self.terms.append(text)
        if isinstance(charge, Constraint):
            self.constraints.append(charge)
        elif isinstance(charge, Penalty):
            self.penalties.append(charge)
        else:
            raise CompositionError(f"certify does not know how to judge {text}: it is no penalty and no constraint.")


@dataclass(frozen=True)
class Point:
    """The cost at the weights of a moment, its parts, and the gradients of its first part by `Cost.charged`."""

    loss: float
    functional: float
    penalty: float
    grads: list[Tensor]
    units: float

    @property
    def smooth(self) -> float:
        """What the gradients are of: the loss and the functional penalties."""
        return self.loss + self.functional

    @property
    def objective(self) -> float:
        """All of it."""
        return self.loss + self.functional + self.penalty


class Cost:
    """``mean loss + sum of terms`` of a model on all rows, in evaluation mode."""

    def __init__(
        self,
        net: nn.Module,
        loss: Any,
        data: Any,
        terms: Sequence[Term] | Term | Optimizer,
        optimizer: Optimizer | None,
        *,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        target: Target | None = None,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise InputError(f"certify needs the model, an nn.Module; it was given {type(net).__name__}.")
        regularized = within(terms) or within(optimizer)
        if isinstance(terms, Optimizer):
            if regularized is None:
                raise InputError("terms= is a list of terms or a regularized optimizer; this optimizer has no terms.")
            optimizer, terms = terms, regularized.terms
        self.net, self.loss = net, Loss(loss)
        self.terms = checked_terms(terms)
        self.step = None if regularized is None else max(0, regularized.steps - 1)
        self.optimizer = bare(optimizer)
        self.forward = forward
        self._target = target or (lambda batch: split_batch(batch)[1])
        self.charged = [Charged(leaf) for leaf in trained(net, self.optimizer)]
        if not self.charged:
            raise InputError("The model has no trained parameter to judge: none requires a gradient.")
        self.params = [c.leaf.tensor for c in self.charged]
        self.functional: list[FunctionalPenalty] = []
        self.coupled: list[tuple[CoupledPenalty, list[Charged], str]] = []
        # Charges that keep the weights at the moment of binding are those of the optimizer, not new ones.
        own = regularized is not None and [id(t) for t in self.terms] == [id(t) for t in regularized.terms]
        self._charge(regularized._binding if own and regularized is not None else self._bound())
        self.device = self.params[0].device
        self._batches = kept(batches_of(data, self.params[0].dtype))
        self.several = False

    def frozen(self) -> Any:
        """Evaluation mode without gradients; buffers, mode and random states come back."""
        return as_it_was(self.net)

    # What charges what.

    def _bound(self) -> Binding:
        return bind(self.net, self.optimizer or torch.optim.SGD(self.params, lr=0.0), self.terms)

    def _charge(self, binding: Binding) -> None:
        """Give every trained parameter its charges, with the strengths of this step."""
        by_id = {id(c.leaf.tensor): c for c in self.charged}
        for c in self.charged:
            own = own_decay(self.optimizer, c.leaf)
            if own:
                c.add(L2(own), f"weight_decay={own:g}")
        for one in binding.charged:
            found = by_id.get(id(one.leaf.tensor))
            for bound in one.bounds if found is not None else ():
                if bound.how == "decay":
                    refuse_unknown_decay(self.net, self.optimizer, one.leaf, bound, binding)
                charge = self._now(bound)
                found.add(as_set(charge, one.norm), str(charge))  # type: ignore[union-attr]
        for coupled in binding.coupled:
            self._couple(self._now(coupled.bound), [by_id.get(id(leaf.tensor)) for leaf in coupled.leaves])
        for term in binding.functional:
            self.functional.append(known_context(self._now(Bound(term, term.charge))))

    def _couple(self, charge: Chargeable, members: Sequence[Charged | None]) -> None:
        together = [member for member in members if member is not None]
        if not together or not isinstance(charge, CoupledPenalty):
            return
        if len(together) < len(members):
            raise CompositionError(f"{charge} couples parameters of which some are not trained; train all or none.")
        taken = {id(c): text for _, others, text in self.coupled for c in others}
        for member in together:
            if id(member) in taken:
                raise CompositionError(
                    f"The stationarity of {taken[id(member)]} together with {charge} on {member.leaf.name!r} is not known. "
                    "Charge different parameters."
                )
            member.terms.append(str(charge))
        self.coupled.append((charge, together, str(charge)))

    def _now(self, bound: Bound) -> Chargeable:
        if bound.term.schedule is not None and self.step is None:
            raise InputError(
                f"The strength of {bound.term} depends on the step. Give the regularized optimizer, which knows its "
                "step, or a term without a schedule."
            )
        return bound.now(self.step or 0)

    # The cost and its gradient.

    def at(self) -> Point:
        """The cost and its gradients at the weights as they are; to be called inside `frozen`."""
        reseed(0, "certify")
        sums = [torch.zeros_like(p) for p in self.params]
        extra = [torch.zeros_like(p) for p in self.params] if self.functional else []
        total = units = functional = rows = 0.0
        count = 0
        for batch in self._batches():
            count += 1
            batch = moved(batch, self.device)
            with torch.enable_grad():
                outputs, inputs = self._outputs(batch)
                part, size = self.loss.parts(outputs, self._target(batch)).sums()
                if part.requires_grad:
                    _add(sums, torch.autograd.grad(part, self.params, allow_unused=True, retain_graph=bool(extra)))
                if self.functional:
                    size_here = float(len(outputs))
                    context = Context(outputs=outputs, inputs=inputs)
                    value = torch.stack([f.value(context) for f in self.functional]).sum() * size_here
                    if value.requires_grad:
                        _add(extra, torch.autograd.grad(value, self.params, allow_unused=True))
                    functional, rows = functional + float(value.detach()), rows + size_here
            total, units = total + float(part.detach()), units + float(size)
        if units == 0:
            raise DataError("There is no example to judge the model by: the data are empty, or all targets are masked.")
        self.several = count > 1
        grads = [g / units for g in sums]
        if self.functional:
            grads = [g + e / rows for g, e in zip(grads, extra, strict=True)]
            functional /= rows
        return Point(total / units, functional, self.penalty(), grads, units)

    def smooth(self) -> float:
        """The loss and the functional penalties, without gradients."""
        reseed(0, "certify")
        total = units = functional = rows = 0.0
        for batch in self._batches():
            batch = moved(batch, self.device)
            if self.functional:  # some of them differentiate
                with torch.enable_grad():
                    outputs, inputs = self._outputs(batch)
                    values = [f.value(Context(outputs=outputs, inputs=inputs)) for f in self.functional]
                functional += len(outputs) * float(torch.stack(values).sum().detach())
                rows += len(outputs)
            else:
                outputs, _ = self._outputs(batch)
            part, size = self.loss.parts(outputs, self._target(batch)).sums()
            total, units = total + float(part), units + float(size)
        return total / units + (functional / rows if rows else 0.0)

    def _outputs(self, batch: Any) -> tuple[Any, Tensor | None]:
        if self.forward is not None:
            if any("inputs" in f.needs for f in self.functional):
                raise InputError("A penalty that differentiates by the inputs cannot be judged with forward=.")
            return self.forward(self.net, batch), None
        inputs = split_batch(batch)[0]
        if any("inputs" in f.needs for f in self.functional):
            if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
                raise InputError("A penalty that differentiates by the inputs needs one floating tensor of inputs.")
            inputs = inputs.detach().requires_grad_()
            return call(self.net, inputs), inputs
        return call(self.net, inputs), None

    def penalty(self) -> float:
        """All terms but the functional ones, at the weights as they are."""
        parts = [p.value(c.leaf.tensor.detach()) for c in self.charged for p in c.penalties]
        parts += [charge.value([c.leaf.tensor.detach() for c in members]) for charge, members, _ in self.coupled]
        return math.fsum(float(part) for part in parts)

    # The certificate.

    def certificate(self, point: Point, tolerance: float, notes: Sequence[str] = ()) -> Certificate:
        """Judge the weights as they are, of which ``point`` is the cost."""
        rows = self.rows(point.grads)
        gap, why = self.gap(point)
        return Certificate(
            objective=point.objective,
            loss=point.loss,
            penalty=point.penalty + point.functional,
            violation=math.hypot(*(row.violation for row in rows)),
            rows=tuple(rows),
            tolerance=tolerance,
            gap=gap,
            strong_convexity=self.strong_convexity(point),
            convex=self.convex,
            notes=(*notes, *why, *self._notes(rows)),
        )

    def violation(self, grads: Sequence[Tensor]) -> float:
        """The certificate's violation alone."""
        return math.hypot(*(row.violation for row in self.rows(grads)))

    def rows(self, grads: Sequence[Tensor]) -> list[CertificateRow]:
        """One for each parameter, those that a penalty couples together."""
        by_id = {id(c): g for c, g in zip(self.charged, grads, strict=True)}
        coupled = {id(c) for _, members, _ in self.coupled for c in members}
        rows = [_row([c], *violation(c, by_id[id(c)])) for c in self.charged if id(c) not in coupled]
        for charge, members, text in self.coupled:
            ws = [c.leaf.tensor.detach() for c in members]
            smooth = [quadratic(c, text).smooth(w, by_id[id(c)]) for c, w in zip(members, ws, strict=True)]
            rows.append(_row(members, float(charge.violation(ws, smooth)), 0.0, "distance"))
        return rows

    @property
    def convex(self) -> bool:
        """Whether the cost is known to be convex in the weights."""
        charges: list[Chargeable] = [x for c in self.charged for x in (*c.penalties, *c.constraints)]
        charges += [charge for charge, _, _ in self.coupled]
        linear = self.layer is not None and self.loss.name in CONVEX_LOSSES and not self.functional
        return linear and all(charge.traits.convex for charge in charges)

    @property
    def layer(self) -> nn.Linear | None:
        """The one linear layer that the model is, if it is one."""
        net = self.net
        while type(net) is nn.Sequential and len(net) == 1:
            net = net[0]
        return net if type(net) is nn.Linear and self.forward is None else None

    def _of(self, parameter: Tensor | None) -> Charged | None:
        return next((c for c in self.charged if c.leaf.tensor is parameter), None)

    def strong_convexity(self, point: Point) -> float | None:
        """mu, the smallest curvature of the smooth part less what weakly convex penalties take away."""
        layer = self.layer
        if layer is None or self.functional or self.coupled or self.loss.name not in CONVEX_LOSSES:
            return None
        kinds = [(parts.l2, parts.taken) for parts in map(Parts.of, self.charged)]
        if not all(math.isfinite(taken) for _, taken in kinds):
            return None
        lowest = 0.0
        table = self._table(point) if self.loss.name == "squared_error" and layer.in_features < MOST_FEATURES else None
        if table is not None:
            x, _ = table
            columns = []
            charged = [self._of(layer.weight), self._of(layer.bias)]
            own = [0.0 if c is None else kinds[self.charged.index(c)][0] for c in charged]
            if charged[0] is not None:
                columns.append(x)
            if charged[1] is not None:
                columns.append(x.new_ones(len(x), 1))
            z = torch.cat(columns, 1)
            sizes = [own[0]] * (x.shape[1] if charged[0] is not None else 0) + [own[1]] * (charged[1] is not None)
            hessian = 2.0 / point.units * (z.T @ z) + torch.diag(x.new_tensor(sizes))
            values = torch.linalg.eigvalsh(hessian)
            lowest = float(values[0]) if values[0] > 1e-12 * values[-1] else 0.0
        else:
            lowest = min(l2 for l2, _ in kinds)
        mu = lowest - max(taken for _, taken in kinds)
        return mu if mu > 0 else 0.0

    def _table(self, point: Point) -> tuple[Tensor, Tensor] | None:
        """All rows of a linear model in double precision, targets as columns; None where they are not such a table."""
        xs, ys, numbers = [], [], 0
        for batch in self._batches():
            x, y = split_batch(batch)
            if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.ndim != 2 or not x.is_floating_point():
                return None
            numbers += x.numel()
            if numbers > MOST_NUMBERS:
                return None
            xs.append(x.to(self.device, torch.float64))
            ys.append(y.to(self.device))
        x, y = torch.cat(xs), torch.cat(ys)
        layer = self.layer
        outputs = layer.out_features if layer is not None else 1
        if self.loss.name == "cross_entropy" and not y.is_floating_point():
            y = y.reshape(len(y), -1)[:, 0].long()
            counted = y >= 0  # what is masked is left out
            x, y = x[counted], F.one_hot(y[counted], outputs)
        y = y.reshape(len(y), -1).double()
        return (x, y) if y.shape[1] == outputs else None

    def gap(self, point: Point) -> tuple[float | None, list[str]]:
        """The duality gap, and why there is none where one could be hoped for."""
        layer = self.layer
        if layer is None or self.loss.name not in duality.LOSSES or self.functional or self.coupled:
            return None, []
        weight, bias = self._of(layer.weight), self._of(layer.bias)
        if weight is None or not weight.penalties or weight.constraints or (bias is not None and _charges(bias)):
            return None, []
        parts = Parts.of(weight)
        group = parts.groups
        if (parts.cores and group is None) or parts.centered:
            return None, []
        table = self._table(point)
        if table is None:
            return None, ["no duality gap: the rows are no table of numbers, or too many."]
        x, y = table
        w = layer.weight.detach().double()
        b = None if layer.bias is None else layer.bias.detach().double()
        z = x @ w.T if b is None else x @ w.T + b
        mean = float(duality.losses(self.loss.name, z, y).sum()) / point.units
        if not math.isclose(mean, point.loss, rel_tol=1e3 * torch.finfo(layer.weight.dtype).eps, abs_tol=1e-12):
            return None, [
                "no duality gap: the loss weighs or smooths its targets, and its conjugate is not known here."
            ]
        found = duality.duality_gap(
            self.loss.name,
            x,
            y,
            w,
            b,
            l1=parts.l1.double() if isinstance(parts.l1, Tensor) else parts.l1,
            l2=parts.l2,
            group=0.0 if group is None else group.scaled(w),
            groups=None if group is None else group.groups(w),
            free_bias=bias is not None,
            units=point.units,
        )
        if not bool(torch.isfinite(found)):
            return None, ["no duality gap: the best bias was not found."]
        return float(found), []

    def _notes(self, rows: Sequence[CertificateRow]) -> list[str]:
        notes = []
        gone = [row.parameter for row in rows if row.gone]
        if gone:
            notes.append(f"{listed(gone)} {'is' if len(gone) == 1 else 'are'} zero as a whole.")
        for row in rows:
            if row.measure == "fixed point":
                notes.append(
                    f"{row.parameter}: the residual is that of a proximal step followed by projection; 0 is a fixed "
                    "point of training, not proven to be stationary."
                )
            elif row.measure == "residual":
                notes.append(f"{row.parameter}: the violation is the residual |w - prox(w - gradient)|.")
        if self.optimizer is not None and is_adaptive(self.optimizer):
            for term in self.terms:
                projected = isinstance(term.charge, Constraint) and term.charge.interval is None
                if projected or (term.how == "prox" and not term.charge.traits.diagonal):
                    notes.append(
                        f"{term}: Euclidean under {type(self.optimizer).__name__}, whose limit is then feasible "
                        "but not stationary; plain SGD, or settle, reaches a stationary point."
                    )
        if self.functional and self.several:
            notes.append("penalties of the outputs are means over batches, weighed by their rows.")
        if self.params[0].dtype != torch.float64:
            notes.append("single precision allows a violation of about 1e-4 times the gradient's terms.")
        return notes


def checked_terms(terms: Sequence[Term] | Term) -> tuple[Term, ...]:
    """Terms as a tuple.

    Raises:
        InputError: something else is among them.
    """
    found = (terms,) if isinstance(terms, Term) else tuple(terms)
    for term in found:
        if not isinstance(term, Term):
            raise InputError(f"A term is a penalty bound with .on(...); {term!r} is not. Write {term}.on(wp.weights).")
    return found


def trained(net: nn.Module, optimizer: Optimizer | None) -> list[Leaf]:
    """Every parameter that requires a gradient and, if there is an optimizer, is held by it; tied ones once."""
    held = None if optimizer is None else {id(p) for group in optimizer.param_groups for p in group["params"]}
    found = [leaf for leaf in leaves(net) if leaf.tensor.requires_grad]
    return found if held is None else [leaf for leaf in found if id(leaf.tensor) in held]


def own_decay(optimizer: Optimizer | None, leaf: Leaf) -> float:
    """The strength of an optimizer's own ``weight_decay``, where it is an L2 in the loss.

    Raises:
        CompositionError: it is decoupled.
    """
    group = _group(optimizer, leaf)
    strength = float(group.get("weight_decay", 0.0) or 0.0)
    if strength and optimizer is not None:
        decoupled = isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay", False)
        if decoupled:
            raise CompositionError(
                f"{type(optimizer).__name__}'s weight_decay={strength:g} on {leaf.name!r} minimizes no fixed objective: "
                "it decays in the optimizer's own metric. Use weight_decay=0 and wp.L2(...).on(..., how='prox')."
            )
    return strength


def _group(optimizer: Optimizer | None, leaf: Leaf) -> dict[str, Any]:
    groups = [] if optimizer is None else optimizer.param_groups
    return next((group for group in groups if any(p is leaf.tensor for p in group["params"])), {})


def refuse_unknown_decay(
    net: nn.Module, optimizer: Optimizer | None, leaf: Leaf, bound: Bound, binding: Binding
) -> None:
    """Pass where decay minimizes its own L2: under plain SGD.

    Raises:
        CompositionError: elsewhere, with the objective that is solved instead.
    """
    remedy = "Use how='prox' or how='loss', which minimize the same cost with any optimizer."
    if optimizer is None:
        raise CompositionError(
            f"What {bound.term} minimizes on {leaf.name!r} depends on the optimizer. Give optimizer=, if it is plain SGD. "
            f"{remedy}"
        )
    plain = type(optimizer) is torch.optim.SGD and not _group(optimizer, leaf).get("momentum", 0.0)
    if plain and isinstance(bound.charge, L2) and bound.charge.scaling == "torch":
        return
    names = {" = ".join(leaf.aliases), leaf.name}
    rows = Audit.of(net, optimizer, binding).rows
    solved = [row.objective for row in rows if row.how == "decay" and row.parameter in names]
    raise CompositionError(
        f"{bound.term} with {type(optimizer).__name__} does not minimize the loss plus {bound.charge} on {leaf.name!r}. "
        f"What it solves: {solved[0] if solved else 'no fixed objective'}. {remedy}"
    )


def as_set(charge: Chargeable, norm: float | None) -> Chargeable:
    """A norm bound that is met by an adaptive strength as the ball whose constrained minimum it comes to.

    Raises:
        CompositionError: its bound is still to be found.
    """
    if not isinstance(charge, NormBound):
        return charge
    bound = charge.bound if charge.bound is not None else norm
    if bound is None:
        raise CompositionError(
            f"{charge} takes its bound after {charge.warm_steps} steps; train first, or give bound=."
        )
    return L2Ball(bound)


def known_context(charge: Chargeable) -> FunctionalPenalty:
    """The penalty, if outputs and inputs are all that it looks at.

    Raises:
        InputError: it needs more.
    """
    assert isinstance(charge, FunctionalPenalty)
    unknown = [need for need in charge.needs if need not in ("outputs", "inputs")]
    if unknown:
        raise InputError(
            f"{charge} looks at {' and '.join(unknown)}, which a full pass in evaluation mode does not have. "
            "Certify without this term."
        )
    return charge


def _charges(charged: Charged) -> bool:
    return bool(charged.penalties or charged.constraints)


@dataclass(frozen=True)
class Parts:
    """The penalties on one parameter, taken apart: squares, absolute values, and cores that are neither."""

    squares: tuple[tuple[float, float | Tensor | None], ...]
    l1: float | Tensor
    cores: tuple[Penalty, ...]

    @classmethod
    def of(cls, charged: Charged) -> Parts:
        """Of a parameter; cores of one kind are merged."""
        w = charged.leaf.tensor
        parts = [penalty.summands() for penalty in charged.penalties]
        l1: float | Tensor = 0.0
        cores: list[Penalty] = []
        for part in parts:
            l1 = l1 + (part.l1.to(w) if isinstance(part.l1, Tensor) else part.l1)
            if part.core is None:
                continue
            merged = cores[-1].merged(part.core) if cores else None
            cores = [*cores[:-1], merged] if merged is not None else [*cores, part.core]
        return cls(tuple(square for part in parts for square in part.squares if square[0]), l1, tuple(cores))

    @property
    def l2(self) -> float:
        """The strength of all squares."""
        return math.fsum(strength for strength, _ in self.squares)

    @property
    def centered(self) -> bool:
        """Whether a square pulls elsewhere than to zero."""
        return any(center is not None for _, center in self.squares)

    @property
    def thresholds(self) -> bool:
        """Whether there are absolute values."""
        return bool((self.l1 > 0).any()) if isinstance(self.l1, Tensor) else self.l1 > 0

    @property
    def groups(self) -> GroupL2 | None:
        """The one core, if it is group norms."""
        core = self.cores[0] if len(self.cores) == 1 else None
        return core if type(core) is GroupL2 else None

    @property
    def taken(self) -> float:
        """What weakly convex cores take from the curvature."""
        return math.fsum(core.traits.weak_convexity for core in self.cores)

    def smooth(self, w: Tensor, grad: Tensor) -> Tensor:
        """The gradient with that of the squares."""
        for strength, center in self.squares:
            grad = grad + strength * (w if center is None else w - center)
        return grad


def quadratic(charged: Charged, text: str) -> Parts:
    """The squares beside a coupled penalty.

    Raises:
        CompositionError: something else charges the parameter too.
    """
    parts = Parts.of(charged)
    if parts.cores or parts.thresholds or charged.constraints:
        raise CompositionError(
            f"The stationarity of {text} together with the other terms on {charged.leaf.name!r} is not known: "
            f"{listed(charged.terms)}. Charge different parameters; L2 goes with it."
        )
    return parts


def violation(charged: Charged, grad: Tensor) -> tuple[float, float, Measure]:
    """How far a parameter is from stationary, how far from its set, and by which measure."""
    w, name = charged.leaf.tensor.detach(), charged.leaf.name
    parts = Parts.of(charged)
    if charged.constraints:
        return _constrained(charged, parts, w, grad)
    smooth = parts.smooth(w, grad)
    if not parts.cores or parts.groups is not None:
        return float(_distance(w, smooth, parts.l1, parts.groups)), 0.0, "distance"
    if len(parts.cores) == 1 and not parts.thresholds:
        core = parts.cores[0]
        measure: Measure = "distance" if math.isfinite(core.traits.weak_convexity) else "residual"
        return float(core.violation(w, smooth)), 0.0, measure
    try:
        prox = joint(name, charged.penalties)
    except CompositionError:
        raise CompositionError(
            f"The stationarity of {' and '.join(map(str, charged.penalties))} together on {name!r} is not known. "
            "Charge different parameters with them; L1 and L2 go with group norms."
        ) from None
    return float(torch.linalg.vector_norm(w - prox(w - grad, 1.0))), 0.0, "residual"


def _distance(w: Tensor, smooth: Tensor, l1: float | Tensor, group: GroupL2 | None) -> Tensor:
    """Distance of ``-smooth`` to the subdifferential of ``l1 |w|_1 + s sum_g |w_g|``.

    In a group that is not zero: ``|smooth_i + l1 sign(w_i) + s w_i/|w_g||``, and ``max(|smooth_i| - l1, 0)`` where
    ``w_i = 0``. In a group of zeros the subdifferential is a box plus a ball: ``max(|soft(smooth_g, l1)| - s, 0)``.
    """
    at = soft_threshold(smooth, l1)
    if group is None:
        distance: Tensor = torch.linalg.vector_norm(torch.where(w == 0, at, smooth + l1 * w.sign()))
        return distance
    groups, strength = group.groups(w), group.scaled(w)
    inside = groups.split(w)
    norms = groups.norms(inside)
    pull = groups.spread(strength / norms.where(norms > 0, torch.ones_like(norms))) * inside
    pulled = smooth + groups.join(pull, torch.zeros_like(w))
    alive = torch.where(w == 0, at, pulled + l1 * w.sign())
    dead = (groups.norms(groups.split(at)) - strength).clamp_min(0.0)
    parts = [torch.where(norms == 0, dead, groups.norms(groups.split(alive))).flatten()]
    rest = groups.rest(alive)
    parts += [] if rest is None else [rest.flatten()]
    distance = torch.linalg.vector_norm(torch.cat(parts))
    return distance


def _constrained(charged: Charged, parts: Parts, w: Tensor, grad: Tensor) -> tuple[float, float, Measure]:
    """The distance on intervals; elsewhere the residual of the joint step of penalties and sets, where it is proven."""
    constraints = ordered(charged.leaf.name, charged.constraints)
    nearest = w
    for constraint in constraints:
        nearest = constraint.project(nearest)
    infeasible = float(torch.linalg.vector_norm(w - nearest))
    if infeasible == 0.0 and not parts.cores and all(c.interval is not None for c in constraints):
        return float(_in_interval(w, parts.smooth(w, grad), parts.l1, constraints)), 0.0, "distance"
    step, proven = proximal(charged)
    residual = float(torch.linalg.vector_norm(w - step(w - grad, 1.0)))
    return max(residual, infeasible), infeasible, "residual" if proven else "fixed point"


def _in_interval(w: Tensor, smooth: Tensor, l1: float | Tensor, constraints: Sequence[Constraint]) -> Tensor:
    """Distance of ``-smooth`` to ``l1 d|w| + N(w)``; the normal cone ``N`` is open towards where the set ends."""
    low, high = torch.full_like(w, -torch.inf), torch.full_like(w, torch.inf)
    for constraint in constraints:
        bounds = constraint.interval
        assert bounds is not None
        low, high = low.clamp_min(bounds[0]), high.clamp_max(bounds[1])
    least = torch.where(w <= low, -torch.inf, torch.where(w > 0, l1, -l1 + torch.zeros_like(w)))
    most = torch.where(w >= high, torch.inf, torch.where(w < 0, -l1 + torch.zeros_like(w), l1))
    distance: Tensor = torch.linalg.vector_norm(torch.maximum(least + smooth, -smooth - most).clamp_min(0.0))
    return distance


Operator = Callable[[Tensor, float | Tensor], Tensor]


def proximal(charged: Charged) -> tuple[Operator, bool]:
    """The joint step of all penalties and sets on a parameter, and whether it is proven to be one.

    Raises:
        CompositionError: not even the penalties have a joint step.
    """
    name, penalties = charged.leaf.name, charged.penalties
    sets = ordered(name, charged.constraints)
    try:
        prox, rest = joined(name, penalties, sets) if penalties else (None, sets)
        proven = True
    except CompositionError:
        prox, rest, proven = joint(name, penalties), sets, False
    if penalties and not sets and len(penalties) == 1:
        return penalties[0].prox, True

    def step(w: Tensor, length: float | Tensor) -> Tensor:
        u = w if prox is None else prox(w, length)
        for constraint in rest:
            u = constraint.project(u)
        return u

    return step, proven


def within(optimizer: Any) -> Regularized | None:
    """The regularized optimizer in a chain of wrappers."""
    while isinstance(optimizer, Optimizer):
        if isinstance(optimizer, Regularized):
            return optimizer
        optimizer = getattr(optimizer, "optimizer", None)
    return None


def bare(optimizer: Optimizer | None) -> Optimizer | None:
    """The optimizer inside all wrappers."""
    while optimizer is not None and isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer  # type: ignore[attr-defined]
    return optimizer


def _row(members: Sequence[Charged], size: float, infeasible: float, measure: Measure) -> CertificateRow:
    ws = [c.leaf.tensor.detach() for c in members]
    numbers = sum(w.numel() for w in ws)
    zeros = sum(int((w == 0).sum()) for w in ws)
    return CertificateRow(
        parameter=" & ".join(" = ".join(c.leaf.aliases) for c in members),
        terms=tuple(dict.fromkeys(term for c in members for term in c.terms)),
        violation=size,
        zeros=zeros / max(1, numbers),
        gone=numbers > 0 and zeros == numbers,
        infeasible=infeasible,
        measure=measure,
    )


def _add(sums: list[Tensor], grads: Iterable[Tensor | None]) -> None:
    for total, grad in zip(sums, grads, strict=True):
        if grad is not None:
            total.add_(grad)


@contextmanager
def as_it_was(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes, buffers and all random states come back."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        with evaluating(net):
            yield
    finally:
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.data.copy_(before)


Batches = Callable[[], Iterable[Any]]


def batches_of(data: Any, dtype: torch.dtype) -> Batches:
    """A way to go through all rows again and again, from what a person gave.

    Arrays of numbers take the model's precision; other data are left as they are.
    """
    if isinstance(data, (tuple, list)) and len(data) == 2 and _rows_of_array(data[0]):
        return _chunks([_array(part, dtype) for part in data])
    if type(data) is TensorDataset:
        return _chunks([_array(part, dtype) for part in data.tensors])
    if hasattr(data, "__next__"):
        data = list(data)
    known = isinstance(data, (DataLoader, Dataset, Source, tuple, list)) or hasattr(data, "__getitem__")
    if not known and hasattr(data, "__iter__"):
        return lambda: data
    if isinstance(data, (tuple, list)) and not data:
        raise DataError("There is no example to judge the model by: the data are empty.")
    side = _side(data)
    return lambda: side.batches(torch.arange(side.size))


def kept(batches: Batches) -> Batches:
    """The same, with the batches held in memory where they are few."""
    held, size = [], 0
    for batch in batches():
        held.append(batch)
        size += _bytes(batch)
        if size > KEPT_BYTES:
            return batches
    return lambda: held


def _rows_of_array(value: Any) -> bool:
    """An array, a tensor or a frame with an axis of features, and so no example."""
    return len(getattr(value, "shape", ())) >= 2 and not isinstance(value, (tuple, list))


def _array(value: Any, dtype: torch.dtype) -> Tensor:
    """Floating numbers in the model's precision, labels as int64."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.ascontiguousarray(value))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _chunks(parts: Sequence[Tensor]) -> Batches:
    if len({len(part) for part in parts}) > 1:
        sizes = " and ".join(str(len(part)) for part in parts)
        raise DataError(f"Inputs and targets must have equally many rows; they have {sizes}.")
    return lambda: zip(*(torch.split(part, BATCH) for part in parts), strict=True)
