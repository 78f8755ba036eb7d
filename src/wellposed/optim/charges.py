"""What terms add to a loss: the charges of every trained parameter, whatever optimizer enforces them.

Charges
├── Alone       one parameter with its penalties and constraints
├── Together    parameters that one penalty couples
└── functional  penalties of what the model computes
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellposed.constraints.balls import L2Ball
from wellposed.constraints.multiplier import NormBound
from wellposed.core.errors import CompositionError, InputError, listed
from wellposed.core.selectors import Leaf, leaves
from wellposed.optim.audit import Audit, AuditRow
from wellposed.optim.binding import Binding, BoundTerm, bind
from wellposed.optim.proximal import JointProx
from wellposed.optim.regularize import Regularized, checked_terms
from wellposed.optim.stationarity import (
    Stationarity,
    joint_step,
    measure_of,
    project_on_all,
    smooth_gradient,
    stationarity,
    sum_penalties,
)
from wellposed.optim.wrapper import find_wrapper, unwrap_optimizer
from wellposed.penalties.base import Chargeable, Constraint, CoupledPenalty, FunctionalPenalty, Penalty, Term
from wellposed.penalties.elementwise import L2

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class ChargedParameter:
    """A parameter with all that charges it, at one step."""

    leaf: Leaf
    penalties: list[Penalty] = field(default_factory=list)
    constraints: list[Constraint] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)

    def add(self, charge: Chargeable, text: str) -> None:
        """One more charge: a parameter alone is bound to nothing but penalties and sets."""
        self.terms.append(text)
        (self.constraints if isinstance(charge, Constraint) else self.penalties).append(charge)  # type: ignore[arg-type]

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        return (self.leaf,)

    @property
    def charges(self) -> tuple[Chargeable, ...]:
        return (*self.penalties, *self.constraints)

    @property
    def total(self) -> JointProx:
        return sum_penalties(self.leaf.name, self.penalties)

    @torch.no_grad()
    def value(self, ws: Tensors) -> float:
        return math.fsum(float(penalty.value(ws[0])) for penalty in self.penalties)

    def stationarity(self, ws: Tensors, grads: Tensors) -> Stationarity:
        return stationarity(self.leaf.name, ws[0], grads[0], self.penalties, self.constraints)

    def feasible(self, ws: Tensors) -> list[Tensor]:
        return [project_on_all(self.leaf.name, ws[0], self.constraints)]

    def prox(self, ws: Tensors, step: float) -> list[Tensor]:
        operator, proven = joint_step(self.leaf.name, self.penalties, self.constraints)
        if not proven:
            raise CompositionError(
                f"No joint step is known for {listed(self.terms)} on {self.leaf.name!r}. Settle without the constraint, "
                "or with L2 and the constraint alone."
            )
        return [operator(ws[0], step)]


@dataclass(frozen=True)
class CoupledParameters:
    """A coupled penalty and its parameters, each with no more than squares of its own."""

    charge: CoupledPenalty
    members: tuple[ChargedParameter, ...]

    def __post_init__(self) -> None:
        for member in self.members:
            total = member.total
            if total.core is not None or isinstance(total.l1, Tensor) or total.l1 or member.constraints:
                raise CompositionError(
                    f"The stationarity of {self.charge} together with the other terms on {member.leaf.name!r} is not "
                    f"known: {listed(member.terms)}. Charge different parameters; L2 goes with it."
                )

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        return tuple(member.leaf for member in self.members)

    @property
    def terms(self) -> list[str]:
        return [*(term for member in self.members for term in member.terms), str(self.charge)]

    @property
    def charges(self) -> tuple[Chargeable, ...]:
        return (self.charge, *(charge for member in self.members for charge in member.charges))

    def value(self, ws: Tensors) -> float:
        return float(self.charge.value(ws)) + math.fsum(
            member.value([w]) for member, w in zip(self.members, ws, strict=True)
        )

    def stationarity(self, ws: Tensors, grads: Tensors) -> Stationarity:
        rows = zip(self.members, ws, grads, strict=True)
        smooth = [smooth_gradient(w, grad, member.total) for member, w, grad in rows]
        return Stationarity(float(self.charge.violation(ws, smooth)), measure_of(self.charge))

    def feasible(self, ws: Tensors) -> list[Tensor]:
        """The weights themselves: no constraint binds several parameters at once."""
        return list(ws)

    def prox(self, ws: Tensors, step: float) -> list[Tensor]:
        """The coupled step after the squares, which turn ``(w, t)`` into ``(prox(w, t), t/(1 + t sum l2))``."""
        totals = [member.total for member in self.members]
        shrunk = [total(w, step) for total, w in zip(totals, ws, strict=True)]
        return self.charge.prox(shrunk, [step / (1.0 + step * total.l2) for total in totals])


ChargedPart = ChargedParameter | CoupledParameters


@dataclass(frozen=True)
class Charges:
    """The sum of terms on the trained parameters of a model, each of which is in one of ``parts``.

    Attributes:
        functional: penalties of outputs.
        terms: what it was made of.
        optimizer: the bare one, or None.
        frozen: parameters that are not trained, whose charge depends on one beside them that is: means whose spread is.
    """

    parts: tuple[ChargedPart, ...]
    functional: tuple[FunctionalPenalty, ...]
    terms: tuple[Term, ...]
    optimizer: Optimizer | None
    frozen: tuple[ChargedParameter, ...] = ()

    @classmethod
    def of(cls, net: nn.Module, terms: Iterable[Term] | Term | Optimizer, optimizer: Optimizer | None) -> Charges:
        """The charges of terms, or of a regularized optimizer, with the strengths of its last step."""
        wrapper = find_wrapper(terms if isinstance(terms, Optimizer) else optimizer, Regularized)
        if isinstance(terms, Optimizer):
            if wrapper is None:
                raise InputError("terms= is a list of terms or a regularized optimizer; this optimizer has no terms.")
            optimizer, terms = terms, wrapper.terms
        found, plain = checked_terms(terms), None if optimizer is None else unwrap_optimizer(optimizer)
        alone = {id(leaf.tensor): ChargedParameter(leaf) for leaf in trained_parameters(net, plain)}
        if not alone:
            raise InputError("The model has no trained parameter to judge: none requires a gradient.")
        # Charges that keep the weights at the moment of binding are those of the optimizer, not new ones.
        own = wrapper is not None and list(map(id, found)) == list(map(id, wrapper.terms))
        assumed = plain or torch.optim.SGD([one.leaf.tensor for one in alone.values()], lr=0.0)
        binding = wrapper.binding if own and wrapper is not None else bind(net, assumed, found)
        step = None if wrapper is None else max(0, wrapper.steps - 1)
        _charge(alone, net, plain, binding, step)
        coupled = _coupled(alone, binding, step)
        inner = {id(member) for one in coupled for member in one.members}
        functional = tuple(known_context(_now(BoundTerm(term, term.charge), step)) for term in binding.functional)
        frozen = tuple(
            ChargedParameter(one.leaf, [_now(bound, step) for bound in bounds])  # type: ignore[misc]
            for one in binding.charged
            if id(one.leaf.tensor) not in alone and (bounds := one.counted(alone))
        )
        parts: list[ChargedPart] = [*(one for one in alone.values() if id(one) not in inner), *coupled]
        return cls(tuple(parts), functional, found, plain, frozen)

    @property
    def params(self) -> list[nn.Parameter]:
        return [leaf.tensor for part in self.parts for leaf in part.leaves]

    def of_parts(self, *tensors: Tensors) -> Iterator[tuple[Any, ...]]:
        """Every part with its share of lists that are ordered as `params`."""
        start = 0
        for part in self.parts:
            end = start + len(part.leaves)
            yield (part, *(given[start:end] for given in tensors))
            start = end

    def value(self) -> float:
        """What is charged at the weights as they are, but for the functional penalties."""
        frozen = math.fsum(one.value([one.leaf.tensor.detach()]) for one in self.frozen)
        return frozen + math.fsum(part.value(ws) for part, ws in self.of_parts(self._now()))

    def judged(self, grads: Tensors) -> list[tuple[ChargedPart, Stationarity]]:
        return [(part, part.stationarity(ws, gs)) for part, ws, gs in self.of_parts(self._now(), grads)]

    def feasible(self) -> list[Tensor]:
        return [w for part, ws in self.of_parts(self._now()) for w in part.feasible([w.clone() for w in ws])]

    def prox(self, ws: Tensors, step: float) -> list[Tensor]:
        return [u for part, own in self.of_parts(ws) for u in part.prox(own, step)]

    def _now(self) -> list[Tensor]:
        return [w.detach() for w in self.params]


OWN = ("weight_decay", "lambd")
"""Settings by which an optimizer itself charges weights, as the audit names them."""


def trained_parameters(net: nn.Module, optimizer: Optimizer | None) -> list[Leaf]:
    """Every parameter that requires a gradient and, if there is an optimizer, is held by it; tied ones once."""
    found = [leaf for leaf in leaves(net) if leaf.tensor.requires_grad]
    if optimizer is None:
        return found
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [leaf for leaf in found if id(leaf.tensor) in held]


def _charge(
    alone: Mapping[int, ChargedParameter],
    net: nn.Module,
    optimizer: Optimizer | None,
    binding: Binding,
    step: int | None,
) -> None:
    audit = () if optimizer is None else Audit.of(net, optimizer, binding).rows
    rows = {(row.parameter, row.term): row for row in audit}
    for one in alone.values():
        for setting in OWN:
            own = rows.get((" = ".join(one.leaf.aliases), setting))
            if own is None:
                continue
            if own.effective_strength is None:  # decoupled
                raise CompositionError(
                    f"{type(optimizer).__name__}'s weight_decay on {own.parameter!r} minimizes {own.objective}. Use "
                    "weight_decay=0 and wp.L2(...).on(..., how='prox')."
                )
            one.add(L2(own.effective_strength), f"{setting}={own.effective_strength:g}")
    for bounded in binding.charged:
        found = alone.get(id(bounded.leaf.tensor))
        if found is None:
            continue
        for bound in bounded.bounds:
            if bound.how == "decay":
                row = rows.get((" = ".join(bounded.leaf.aliases), str(bound.charge)))
                refuse_unknown_decay(bound, row, optimizer)
            now = _now(bound, step)
            found.add(as_set(now, bounded.norm), str(now))


def _coupled(alone: Mapping[int, ChargedParameter], binding: Binding, step: int | None) -> list[CoupledParameters]:
    found: list[CoupledParameters] = []
    taken: dict[int, CoupledPenalty] = {}
    for one in binding.coupled:
        charge = _now(one.bound, step)
        members = [alone[id(leaf.tensor)] for leaf in one.leaves if id(leaf.tensor) in alone]
        if not members or not isinstance(charge, CoupledPenalty):
            continue
        if len(members) < len(one.leaves):
            raise CompositionError(f"{charge} couples parameters of which some are not trained; train all or none.")
        for member in members:
            if id(member) in taken:
                raise CompositionError(
                    f"The stationarity of {taken[id(member)]} together with {charge} on {member.leaf.name!r} is not known. "
                    "Charge different parameters."
                )
            taken[id(member)] = charge
        found.append(CoupledParameters(charge, tuple(members)))
    return found


def _now(bound: BoundTerm, step: int | None) -> Chargeable:
    if bound.term.schedule is not None and step is None:
        raise InputError(
            f"The strength of {bound.term} depends on the step. Give the regularized optimizer, which knows its "
            "step, or a term without a schedule."
        )
    return bound.now(step or 0)


def refuse_unknown_decay(bound: BoundTerm, row: AuditRow | None, optimizer: Optimizer | None) -> None:
    """Pass where decay minimizes its own L2: under plain SGD."""
    remedy = "Use how='prox' or how='loss', which minimize the same cost with any optimizer."
    if row is None:
        raise CompositionError(
            f"What {bound.term} minimizes depends on the optimizer. Give optimizer=, if it is plain SGD. {remedy}"
        )
    charge = bound.charge
    if type(optimizer) is torch.optim.SGD and isinstance(charge, L2) and row.effective_strength == charge.strength:
        return
    raise CompositionError(
        f"{bound.term} with {type(optimizer).__name__} does not minimize the loss plus {charge} on {row.parameter!r}. "
        f"What it solves: {row.objective}. {remedy}"
    )


def as_set(charge: Chargeable, norm: float | None) -> Chargeable:
    """A norm bound that is met by an adaptive strength as the ball whose constrained minimum it comes to."""
    if not isinstance(charge, NormBound):
        return charge
    bound = charge.bound if charge.bound is not None else norm
    if bound is None:
        raise CompositionError(
            f"{charge} takes its bound after {charge.warm_steps} steps; train first, or give bound=."
        )
    return L2Ball(bound)


def known_context(charge: Chargeable) -> FunctionalPenalty:
    """The penalty, if outputs and inputs are all that it looks at."""
    assert isinstance(charge, FunctionalPenalty)
    unknown = [need for need in charge.needs if need not in ("outputs", "inputs")]
    if unknown:
        raise InputError(
            f"{charge} looks at {' and '.join(unknown)}, which a full pass in evaluation mode does not have. "
            "Certify without this term."
        )
    return charge
