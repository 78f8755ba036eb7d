"""The audit: every parameter, its role, the terms that charge it, how, and the objective that is solved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from wellposed.constraints.multiplier import NormBound
from wellposed.core.errors import listed
from wellposed.core.formats import table
from wellposed.core.selectors import Leaf, leaves
from wellposed.optim.averaging import averages_of
from wellposed.optim.binding import Binding, BoundTerm, Charged
from wellposed.optim.optimizer_metrics import (
    RAMP_STEPS,
    Diagonal,
    decays_by_its_step,
    is_adaptive,
    is_euclidean,
    metric_of,
)
from wellposed.optim.own_decay import try_decay
from wellposed.penalties.base import Constraint, Penalty, Term
from wellposed.penalties.elementwise import L2
from wellposed.penalties.group import GroupL2

COUPLED = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax,
    torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD,
)  # fmt: skip
"""Optimizers whose own ``weight_decay`` is added to the gradient, unless a flag decouples it."""

EUCLIDEAN = "; Euclidean, so not stationary in the metric"
UNKNOWN = "; the optimizer's metric is not known, so feasible and perhaps not stationary"
BESIDE = ", but for the decay beside it, which has no objective"
NO_OBJECTIVE = "no fixed objective: decay in the optimizer's own metric"

ASKED = "note: terms by loss act only if optimizer.penalty() is added to the cost before backward."
CONVENTION = "mean loss over examples; L2(s) = s/2 |w|^2, L1(s) = s |w|_1, GroupL2(s) = s sum_g sqrt(size_g) |w_g|_2"


@dataclass(frozen=True)
class AuditRow:
    """One parameter, or one term on it. ``gone``: every weight is exactly zero, so the layer is no longer there."""

    parameter: str
    shape: tuple[int, ...]
    role: str
    term: str
    how: str
    effective_strength: float | None
    objective: str
    gone: bool = False


@dataclass(frozen=True)
class Audit:
    """Who is charged what. ``rows`` for programs, ``str()`` for people."""

    rows: tuple[AuditRow, ...]
    notes: tuple[str, ...]
    convention: str = CONVENTION

    @classmethod
    def of(cls, model: nn.Module | None, optimizer: Optimizer, binding: Binding) -> Audit:
        """Audit a model whose parameters are charged as ``binding`` says; None is the model as it was then."""
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        bounds = {one.leaf.name: list(one.bounds) for one in binding.charged}
        found = binding.leaves if model is None else leaves(model)
        for coupled in binding.coupled:
            for leaf in coupled.leaves:
                bounds.setdefault(leaf.name, []).append(coupled.bound)
        for bound in [bound for one in binding.charged for bound in one.bounds]:
            for leaf in found:
                if any(leaf.tensor is w for w in bound.charge.beside):
                    bounds.setdefault(leaf.name, []).append(bound)
        rows = [row for leaf in found for row in _rows(leaf, optimizer, groups, bounds.get(leaf.name, []))]
        for term in binding.functional:
            objective = f"loss + {term.charge}"
            rows.append(AuditRow(term.place, (), "function", str(term.charge), term.how, None, objective))
        terms = [bound.term for found in bounds.values() for bound in found] + binding.functional
        notes = [*_notes(optimizer, terms, rows), *_notes_of_weights(optimizer, groups, binding)]
        notes += _notes_of_others(optimizer, {id(leaf.tensor) for leaf in found})
        kept = () if model is None else averages_of(model)
        notes += sorted(average_note(average.says) for average in kept)
        return cls(tuple(rows), tuple(notes))

    def to_dict(self) -> dict[str, Any]:
        return {"convention": self.convention, "notes": list(self.notes), "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        header = ("parameter", "shape", "role", "term", "how", "effective strength", "objective solved")
        cells = [header] + [
            (
                row.parameter, "x".join(map(str, row.shape)) or "scalar", row.role, row.term, row.how,
                "" if row.effective_strength is None else f"{row.effective_strength:.4g}", row.objective,
            )
            for row in self.rows
        ]  # fmt: skip
        return "\n".join([*table(cells, ruled=True), f"convention: {self.convention}", *self.notes])


def _rows(leaf: Leaf, optimizer: Optimizer, groups: Mapping[int, Any], bounds: Sequence[BoundTerm]) -> list[AuditRow]:
    """The rows of one parameter: one for each term, or one that says that there is none."""
    group = groups.get(id(leaf.tensor))
    name, shape = " = ".join(leaf.aliases), tuple(leaf.tensor.shape)
    if group is None or not leaf.tensor.requires_grad:
        waiting: list[tuple[str, str]] = [(str(b.charge), b.how) for b in bounds] or [("-", "-")]
        said = "not trained" if not leaf.tensor.requires_grad else "not in this optimizer"
        return [AuditRow(name, shape, leaf.role, term, how, None, said) for term, how in waiting]
    gone = bool(bounds) and leaf.role != "spread" and leaf.tensor.numel() > 0 and not bool(leaf.tensor.any())
    own = float(group.get("weight_decay", 0.0) or 0.0)
    rows = [AuditRow(name, shape, leaf.role, *_own_decay(optimizer, group, own))] if own else []
    averaged = float(group.get("lambd", 0.0)) if isinstance(optimizer, torch.optim.ASGD) else 0.0
    if averaged:
        rows.append(AuditRow(name, shape, leaf.role, "lambd", "decay", averaged, f"loss + {averaged:g}/2 |w|^2"))
    for bound in bounds:
        strength, objective = _solved(bound, leaf.tensor, optimizer, group)
        objective += ", scheduled" if bound.term.schedule else ""
        objective += "; the layer is gone: all its weights are 0" if gone else ""
        rows.append(AuditRow(name, shape, leaf.role, str(bound.charge), bound.how, strength, objective, gone))
    if any(row.objective.startswith(NO_OBJECTIVE) for row in rows):
        rows = [
            row if row.objective.startswith(NO_OBJECTIVE) else replace(row, objective=row.objective + BESIDE)
            for row in rows
        ]
    return rows or [AuditRow(name, shape, leaf.role, "-", "-", None, "not charged")]


def _own_decay(optimizer: Optimizer, group: Mapping[str, Any], strength: float) -> tuple[str, str, float | None, str]:
    """The optimizer's own ``weight_decay``, as the row's last four cells."""
    decoupled = isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay", False)
    if isinstance(optimizer, COUPLED) and not decoupled:
        return "weight_decay", "loss", strength, f"loss + {strength:g}/2 |w|^2"
    if type(optimizer).__module__.startswith("torch."):  # Adafactor, Muon: apart from the gradient
        return "weight_decay", "decay", None, NO_OBJECTIVE
    kind = try_decay(optimizer, group).kind
    if kind == "coupled":
        return "weight_decay", "loss", strength, f"loss + {strength:g}/2 |w|^2"
    told = {"adaptive": "; it depends on the gradients", "unknown": "; its decay could not be tried"}
    return "weight_decay", "none" if kind == "none" else "decay", None, NO_OBJECTIVE + told.get(kind, "")


def _solved(
    bound: BoundTerm, w: torch.Tensor, optimizer: Optimizer, group: Mapping[str, Any]
) -> tuple[float | None, str]:
    """The effective strength of a term on one parameter and the objective that is solved."""
    charge = bound.charge
    if isinstance(charge, Constraint):
        known = metric_of(optimizer) is not None
        exact = is_euclidean(optimizer) or (known and charge.interval is not None)
        return None, f"loss over the set {charge}{'' if exact else EUCLIDEAN if known else UNKNOWN}"
    if isinstance(charge, NormBound):
        exact = bound.how == "prox" or decays_by_its_step(optimizer)
        return None, f"loss over the set {charge}" if exact else NO_OBJECTIVE
    strength = getattr(charge, "strength", None)
    if bound.how in ("loss", "prox"):
        if isinstance(charge, GroupL2) and isinstance(scaled := charge.scaled(w), float):
            strength = scaled
        exact = bound.how == "loss" or charge.traits.diagonal or is_euclidean(optimizer)
        return strength, f"loss + {charge}{'' if exact else EUCLIDEAN}"
    if decays_by_its_step(optimizer) and isinstance(charge, L2) and charge.scaling == "torch":
        momentum = float(group.get("momentum", 0.0))
        kept = 1.0 - float(group.get("dampening", 0.0)) if momentum else 1.0
        effective = charge.strength * (1.0 - momentum) / kept if kept else math.inf
        return effective, f"loss + {effective:g}/2 |w|^2" + (" (momentum divides decay)" if momentum else "")
    return None, NO_OBJECTIVE


def _notes(optimizer: Optimizer, terms: Sequence[Term], rows: Sequence[AuditRow]) -> list[str]:
    notes = []
    gone = list(dict.fromkeys(row.parameter for row in rows if row.gone))
    if gone:
        notes.append(f"note: nothing is left of {listed(gone)}; what is put in there no longer reaches the output.")
    if any(term.how == "prox" for term in terms) and is_adaptive(optimizer):
        notes.append(
            f"note: proximal strengths rise from 0 over the first {RAMP_STEPS} steps, while second moments form."
        )
    charged = [row.parameter for row in rows if row.term != "-" and row.role != "function"]
    if len(charged) > len(set(charged)):
        notes.append("note: a parameter that has several rows in this table is charged the sum of their terms.")
    if any(term.how == "loss" for term in terms):
        notes.append(ASKED)
    kinked = [t.charge for t in terms if t.how == "loss" and isinstance(t.charge, Penalty) and "prox" in t.charge.hows]
    if any(charge.traits.homogeneous != 2 for charge in kinked):
        notes.append(
            "note: terms enforced by loss make nothing exactly zero; at a constant learning rate such weights swing around zero."
        )
    centered = any(group.get("centered") for group in optimizer.param_groups)
    if centered and any(term.how == "prox" for term in terms):
        notes.append(
            "note: centered RMSprop divides by a variance that vanishes where a penalty holds the gradient constant; "
            "it need not come to rest. Use centered=False."
        )
    return notes


def _notes_of_weights(optimizer: Optimizer, groups: Mapping[int, Any], binding: Binding) -> list[str]:
    """What the weights themselves make of their terms: rounding, and coordinates that wait for a gradient."""
    notes = []
    low = {one.leaf.name: one.leaf.tensor.dtype for one in binding.charged if one.leaf.tensor.dtype.itemsize < 4}
    if low:
        kinds = listed(sorted({str(kind).removeprefix("torch.") for kind in low.values()}))
        notes.append(
            f"note: {listed(low)} has {kinds} weights, in which small changes are rounded away: decay "
            "and small thresholds do nothing to large weights. Keep float32 weights and use torch.autocast."
        )
    waiting = [one.leaf.name for one in binding.charged if _waiting(optimizer, groups, one)]
    if waiting:
        notes.append(
            f"note: weights that have never received a gradient are skipped by the proximal step: some of {listed(waiting)}."
        )
    return notes


def _notes_of_others(optimizer: Optimizer, own: set[int]) -> list[str]:
    """What an optimizer moves beside the network: a head of its own, weights of a loss, an image."""
    others = [(p, group) for group in optimizer.param_groups for p in group["params"] if id(p) not in own]
    if not others:
        return []
    shapes = dict.fromkeys("x".join(map(str, p.shape)) or "scalar" for p, _ in others)
    decays = sorted({float(group.get("weight_decay") or 0.0) for _, group in others})
    return [
        f"note: {len(others)} more parameters of this optimizer, of shape {listed(shapes)}, are not in this network, and so not in "
        f"this table; its own weight_decay on them is {listed(f'{decay:g}' for decay in decays)}."
    ]


def average_note(says: str) -> str:
    return f"note: an average of the weights is kept: {says}."


def _waiting(optimizer: Optimizer, groups: Mapping[int, Any], one: Charged) -> bool:
    """Whether some weights of a parameter with a proximal term have had no gradient yet."""
    metric, w = metric_of(optimizer), one.leaf.tensor
    state = optimizer.state.get(w)
    if metric is None or not state or id(w) not in groups or all(bound.how != "prox" for bound in one.bounds):
        return False
    given = state if metric.before is None else state | metric.before(w, groups[id(w)], state)
    found = metric(groups[id(w)], given, max(1, int(state.get("step", 1))))
    return isinstance(found, Diagonal) and found.spared() is not None
