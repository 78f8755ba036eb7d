"""The audit: every parameter, its role, the terms that charge it, how, and the objective that is solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from wellposed.core.selectors import leaves
from wellposed.optim.metrics import RAMP_STEPS, is_adaptive
from wellposed.penalties.base import Constraint, Penalty, Term
from wellposed.penalties.group import GroupL2

CONVENTION = "mean loss over examples; L2(s) = s/2 |w|^2, L1(s) = s |w|_1, GroupL2(s) = s sum_g sqrt(size_g) |w_g|_2"


@dataclass(frozen=True)
class AuditRow:
    """One parameter, or one term on it."""

    parameter: str
    shape: tuple[int, ...]
    role: str
    term: str
    how: str
    effective_strength: float | None
    objective: str


@dataclass(frozen=True)
class Audit:
    """Who is charged what. ``rows`` for programs, ``str()`` for people."""

    rows: tuple[AuditRow, ...]
    notes: tuple[str, ...]
    convention: str = CONVENTION

    @classmethod
    def of(cls, model: nn.Module, optimizer: Optimizer, terms: Mapping[str, Sequence[Term]]) -> Audit:
        """Audit a model whose parameters are charged with ``terms`` (by qualified name)."""
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        rows: list[AuditRow] = []
        for leaf in leaves(model):
            group = groups.get(id(leaf.tensor))
            shape = tuple(leaf.tensor.shape)
            name = " = ".join(leaf.aliases)
            charged = list(terms.get(leaf.name, ()))
            if group is None or not leaf.tensor.requires_grad:
                waiting: list[tuple[str, str]] = [(str(term.charge), term.how) for term in charged] or [("-", "-")]
                rows.extend(AuditRow(name, shape, leaf.role, term, how, None, "not trained") for term, how in waiting)
                continue
            own = float(group.get("weight_decay", 0.0) or 0.0)
            if own:
                rows.append(AuditRow(name, shape, leaf.role, *_own_decay(optimizer, own)))
            for term in charged:
                strength, objective = _solved(term, leaf.tensor, optimizer, group)
                rows.append(AuditRow(name, shape, leaf.role, str(term.charge), term.how, strength, objective))
            if not charged and not own:
                rows.append(AuditRow(name, shape, leaf.role, "-", "-", None, "not charged"))
        return cls(tuple(rows), tuple(_notes(optimizer, [t for found in terms.values() for t in found])))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"convention": self.convention, "notes": list(self.notes), "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        header = ("parameter", "shape", "role", "term", "how", "effective strength", "objective solved")
        cells = [header] + [
            (
                row.parameter,
                "x".join(map(str, row.shape)) or "scalar",
                row.role,
                row.term,
                row.how,
                "" if row.effective_strength is None else f"{row.effective_strength:.4g}",
                row.objective,
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*lines, f"convention: {self.convention}", *self.notes])


def _own_decay(optimizer: Optimizer, strength: float) -> tuple[str, str, float | None, str]:
    """The optimizer's own ``weight_decay``, as the row's last four cells."""
    decoupled = isinstance(optimizer, torch.optim.AdamW) or optimizer.defaults.get("decoupled_weight_decay", False)
    if decoupled:
        return "weight_decay", "decay", None, "no fixed objective: decay in the optimizer's own metric"
    return "weight_decay", "loss", strength, f"loss + {strength:g}/2 |w|^2"


def _solved(term: Term, w: torch.Tensor, optimizer: Optimizer, group: Mapping[str, Any]) -> tuple[float | None, str]:
    """The effective strength of a term on one parameter and the objective that is solved."""
    charge = term.charge
    if isinstance(charge, Constraint):
        euclidean = "; Euclidean, so not stationary in the metric" if is_adaptive(optimizer) else ""
        return None, f"loss over the set {charge}{euclidean}"
    assert isinstance(charge, Penalty)
    if term.how in ("loss", "prox"):
        strength = charge.scaled(w) if isinstance(charge, GroupL2) else charge.strength
        return strength, f"loss + {charge}"
    if isinstance(optimizer, torch.optim.SGD):
        momentum = float(group.get("momentum", 0.0))
        kept = 1.0 - float(group.get("dampening", 0.0)) if momentum else 1.0
        effective = charge.strength * (1.0 - momentum) / kept
        return effective, f"loss + {effective:g}/2 |w|^2" + (" (momentum divides decay)" if momentum else "")
    return None, "no fixed objective: decay in the optimizer's own metric"


def _notes(optimizer: Optimizer, terms: Sequence[Term]) -> list[str]:
    notes = []
    if any(term.how == "prox" for term in terms) and is_adaptive(optimizer):
        notes.append(
            f"note: proximal strengths rise from 0 over the first {RAMP_STEPS} steps, while second moments form."
        )
    if any(term.how == "loss" for term in terms):
        notes.append("note: terms by loss act only if optimizer.penalty() is added to the cost before backward.")
    return notes
