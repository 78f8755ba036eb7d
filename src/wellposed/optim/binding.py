"""Who is charged with what: terms resolved on a model's parameters, and what cannot be enforced refused."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from wellposed.constraints.multiplier import NormBound
from wellposed.core.errors import CompositionError, InputError, SelectorError
from wellposed.core.selectors import Leaf, leaves, named, select
from wellposed.optim.composition import check_after, intersection, order_constraints
from wellposed.optim.optimizer_metrics import check_momentum
from wellposed.optim.parametrized import check_parametrized
from wellposed.optim.proximal import JointProx, joint
from wellposed.optim.schedules import factor_at
from wellposed.penalties.base import (
    Chargeable,
    Constraint,
    CoupledPenalty,
    FunctionalPenalty,
    How,
    Penalty,
    Term,
)
from wellposed.penalties.divergence import KL
from wellposed.penalties.elementwise import L2
from wellposed.penalties.reference import Towards


@dataclass
class BoundTerm:
    """A term on one parameter: the charge with what the parameter fills in, and the term that it came from."""

    term: Term
    charge: Chargeable

    @property
    def how(self) -> How:
        return self.term.how

    def now(self, step: int) -> Chargeable:
        return self.charge if self.term.schedule is None else self.charge.times(factor_at(self.term.schedule, step))

    @property
    def sparse(self) -> bool:
        """Whether enforcing the term makes weights exactly zero; a strength of 0 does not."""
        makes = self.how in ("prox", "project") and self.charge.traits.sparse
        return makes and getattr(self.charge, "strength", None) != 0


@dataclass(frozen=True)
class StepPlan:
    """What is done to one parameter at one step."""

    decays: tuple[L2, ...] = ()
    prox: JointProx | None = None
    constraints: tuple[Constraint, ...] = ()
    multiplier: NormBound | None = None
    multiplier_decays: bool = False


@dataclass
class Charged:
    """One parameter and everything that is enforced on it.

    Attributes:
        count: steps that the parameter has taken, once known.
        radius: norms of its groups after the last proximal step, from which the next one starts.
        multiplier, norm: of a bound that adapts its strength, and that bound, once found.
    """

    leaf: Leaf
    bounds: list[BoundTerm] = field(default_factory=list)
    count: int | None = None
    radius: Tensor | None = None
    multiplier: Tensor | None = None
    norm: float | None = None
    _plan: StepPlan | None = None
    _scheduled: bool = False

    @property
    def terms(self) -> list[Term]:
        return [bound.term for bound in self.bounds]

    def counted(self, trained: Container[int]) -> list[BoundTerm]:
        """The charges of a trained parameter; of a frozen one those that depend on a trained one beside it, as a spread is."""
        if id(self.leaf.tensor) in trained:
            return self.bounds
        return [bound for bound in self.bounds if any(id(w) in trained for w in bound.charge.beside)]

    def referring(self) -> dict[str, tuple[BoundTerm, Tensor]]:
        """Charges towards a tensor, with it, by their kind; ``l2_sp#2`` is the second of a kind."""
        found: dict[str, tuple[BoundTerm, Tensor]] = {}
        for bound in self.bounds:
            charge = bound.charge
            if isinstance(charge, Towards) and isinstance(charge.reference, Tensor):
                same = sum(other.charge.name == charge.name for other, _ in found.values())
                found[f"{charge.name}#{same + 1}" if same else charge.name] = bound, charge.reference
        return found

    def plan(self, step: int) -> StepPlan:
        """What to do at a step (0 for the first); the same at every step unless a strength follows a schedule."""
        if self._plan is None or self._scheduled:
            self._plan = self._planned(step)
            self._scheduled = any(bound.term.schedule for bound in self.bounds)
        return self._plan

    def check(self) -> None:
        """Refuse charges that have no joint step, with the strengths that they will have and those of the first step."""
        self._planned(None)
        self.plan(0)

    def _planned(self, step: int | None) -> StepPlan:
        """At a step, or with full strengths."""
        charges = [(b, b.charge if step is None else b.now(step)) for b in self.bounds]
        by = {how: [charge for b, charge in charges if b.how == how] for how in ("decay", "prox", "project")}
        constraints = order_constraints(self.leaf.name, [c for c in by["project"] if isinstance(c, Constraint)])
        penalties = [p for p in by["prox"] if isinstance(p, Penalty)]
        several = [b for b, charge in charges if isinstance(charge, NormBound)]
        multiplier = next((charge for _, charge in charges if isinstance(charge, NormBound)), None)
        prox, rest = None, constraints
        if penalties:
            prox, rest = join_operators(self.leaf.name, penalties, constraints)
        elif several and several[0].how == "prox":
            prox = JointProx()
        return StepPlan(
            tuple(c for c in by["decay"] if isinstance(c, L2)),
            prox,
            tuple(rest),
            multiplier,
            bool(several) and several[0].how == "decay",
        )


@dataclass
class CoupledCharge:
    """A coupled penalty and its parameters, in the order that its operators take them; ``counted`` knows their steps."""

    bound: BoundTerm
    leaves: tuple[Leaf, ...]
    counted: dict[int, Charged] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        return [leaf.tensor for leaf in self.leaves]

    def now(self, step: int) -> CoupledPenalty:
        charge = self.bound.now(step)
        assert isinstance(charge, CoupledPenalty)
        return charge


def join_operators(
    name: str, penalties: Sequence[Penalty], constraints: Sequence[Constraint]
) -> tuple[JointProx, list[Constraint]]:
    """The joint operator, and the constraints that are projected on after it."""
    interval = intersection(constraints)
    rest = [c for c in constraints if c.interval is None]
    for constraint in rest:
        check_after(name, penalties, constraint)
    return joint(name, penalties, interval), rest


@dataclass
class Binding:
    """All terms on a model."""

    charged: list[Charged]
    coupled: list[CoupledCharge]
    functional: list[Term]
    leaves: list[Leaf]

    @property
    def terms(self) -> list[Term]:
        return [t for one in self.charged for t in one.terms] + [c.bound.term for c in self.coupled] + self.functional

    @property
    def sparse(self) -> set[int]:
        """The parameters, by ``id``, on which a term makes exact zeros."""
        alone = {id(one.leaf.tensor) for one in self.charged if any(bound.sparse for bound in one.bounds)}
        return alone | {id(leaf.tensor) for one in self.coupled if one.bound.sparse for leaf in one.leaves}

    def references(self) -> dict[str, dict[str, Tensor]]:
        """Tensors that belong to charges (the weights that one stays close to), by parameter and kind of charge."""
        found: dict[str, dict[str, Tensor]] = {}
        for charged in self.charged:
            for key, (_, reference) in charged.referring().items():
                found.setdefault(charged.leaf.name, {})[key] = reference
        return found


def bind(model: nn.Module, optimizer: Optimizer, terms: Sequence[Term]) -> Binding:
    """Resolve the selectors and check that what they ask for can be enforced."""
    charged: dict[int, Charged] = {}
    coupled: list[CoupledCharge] = []
    for term in terms:
        if isinstance(term.charge, FunctionalPenalty):
            continue
        if isinstance(term.charge, CoupledPenalty):
            coupled.append(_couple(model, term, term.charge))
            continue
        for leaf in select(model, term.where):
            _check_kind(leaf)
            check_parametrized(leaf, "project" if isinstance(term.charge, NormBound) else term.how)
            charge = term.charge.at(leaf)
            if term.how == "decay" and not isinstance(charge, (L2, NormBound)):
                raise CompositionError(
                    f"how='decay' shrinks weights as L2 does, and {charge} is no wp.L2. Leave 'decay' out of the hows of "
                    f"{type(charge).__name__}, and take 'prox' or 'loss'."
                )
            charge.check(leaf.name, leaf.tensor)
            _check_size(leaf, charge)
            charged.setdefault(id(leaf.tensor), Charged(leaf)).bounds.append(BoundTerm(term, charge))
    _check_optimizer(model, optimizer, terms)
    for one in charged.values():
        _check_together(one)
    _check_coupled(charged, coupled)
    functional = [term for term in terms if isinstance(term.charge, FunctionalPenalty)]
    binding = Binding(list(charged.values()), coupled, functional, leaves(model))
    check_groups(binding, optimizer.param_groups)
    return binding


def check_groups(binding: Binding, groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse settings of parameter groups (their own, or such as will be loaded) that would enforce a term twice, or reward it."""
    own = {id(p): float(group.get("weight_decay", 0.0) or 0.0) for group in groups for p in group["params"]}
    for one in binding.charged:
        _check_decay(one, own.get(id(one.leaf.tensor), 0.0))
    how = {term.how for term in binding.terms}
    if "loss" in how and any(group.get("maximize") for group in groups):
        raise InputError(
            "The optimizer maximizes, so a penalty that is added to its objective would be rewarded. "
            "Minimize minus the objective, without maximize=True."
        )
    if "prox" in how:
        check_momentum(groups)


def _check_kind(leaf: Leaf) -> None:
    if is_lazy(leaf.tensor):
        raise InputError(f"{leaf.name!r} has no shape yet. Call the model on one batch before regularize.")
    if leaf.tensor.is_meta:
        raise InputError(
            f"{leaf.name!r} is on the meta device. Materialize the model (model.to_empty(device=...)) and build the "
            "optimizer from its parameters before regularize."
        )
    if leaf.tensor.is_complex():
        raise InputError(
            f"{leaf.name!r} is complex; penalties and constraints are defined for real weights. Leave it out, "
            f"for example .on(wp.weights - {leaf.name!r})."
        )


def _check_size(leaf: Leaf, charge: Chargeable) -> None:
    kind = leaf.tensor.dtype
    for name in ("strength", "bound"):
        value = getattr(charge, name, None)
        if isinstance(value, (int, float)) and kind.is_floating_point and value > torch.finfo(kind).max:
            raise InputError(
                f"{type(charge).__name__} has the {name} {value:g}, which is infinite in {kind}, the type of {leaf.name!r}. "
                f"Give at most {torch.finfo(kind).max:g}."
            )


def _check_optimizer(model: nn.Module, optimizer: Optimizer, terms: Sequence[Term]) -> None:
    if isinstance(optimizer, torch.optim.LBFGS) and any(term.how == "decay" for term in terms):
        raise CompositionError("LBFGS takes many steps in one, so decay has no place in it. Use .on(..., how='loss').")
    if isinstance(optimizer, torch.optim.LBFGS) and any(term.how == "project" for term in terms):
        raise CompositionError(
            "LBFGS steps along directions that mix all coordinates; projecting such a step does not lead to the solution in "
            "the set. Use SGD or Adam for constraints."
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if terms and not any(id(leaf.tensor) in held for leaf in leaves(model)):
        raise InputError("The optimizer holds no parameter of this model. Build it from model.parameters().")


def _check_decay(charged: Charged, own_decay: float) -> None:
    """Refuse a decay by the optimizer beside one by a term."""
    name = charged.leaf.name
    decaying = [
        bound.term
        for bound in charged.bounds
        if isinstance(bound.charge, (NormBound, KL))
        or (
            isinstance(bound.charge, Penalty) and any(l2 > 0 and c is None for l2, c in bound.charge.summands().squares)
        )
    ]
    if decaying and own_decay:
        raise CompositionError(
            f"{name!r} would be decayed twice: by the optimizer's weight_decay={own_decay:g} and by {decaying[0]}. "
            f"Build the optimizer with weight_decay=0, or leave {decaying[0].charge} out."
        )


def _check_together(charged: Charged) -> None:
    """Refuse what would be enforced twice, and what has no joint step."""
    name = charged.leaf.name
    squares = [bound.term for bound in charged.bounds if isinstance(bound.charge, (L2, NormBound, KL))]
    if len(squares) > 1:
        raise CompositionError(
            f"{name!r} is charged by two terms that decay it, like two L2 terms: {squares[0]} and {squares[1]}. "
            "Give one, or subtract one selector from the other (wp.weights - wp.outputs)."
        )
    charged.check()


def _couple(model: nn.Module, term: Term, penalty: CoupledPenalty) -> CoupledCharge:
    """The parameters of a coupled penalty, one for each of its names."""
    chosen = {id(leaf.tensor) for leaf in _matching(model, term.where, penalty)}
    found: list[Leaf] = []
    for name in penalty.names:
        matching = [leaf for leaf in _matching(model, named(name), penalty) if id(leaf.tensor) in chosen]
        if len(matching) != 1:
            raise SelectorError(
                f"{type(penalty).__name__} needs one parameter for {name!r}; it matches "
                f"{', '.join(repr(leaf.name) for leaf in matching) or 'none'}. Give a name that one parameter has."
            )
        _check_kind(matching[0])
        _check_size(matching[0], penalty)
        check_parametrized(matching[0], term.how)
        found.append(matching[0])
    penalty = penalty.at_all(found)
    penalty.check_all([leaf.name for leaf in found], [leaf.tensor for leaf in found])
    return CoupledCharge(BoundTerm(term, penalty), tuple(found))


def _matching(model: nn.Module, where: object, penalty: CoupledPenalty) -> list[Leaf]:
    """What a coupled penalty's names select, or what to do where that is nothing."""
    try:
        return select(model, where)
    except SelectorError as error:
        raise SelectorError(f"{error} {type(penalty).__name__}: {penalty.remedy}") from None


def _check_coupled(charged: dict[int, Charged], coupled: Sequence[CoupledCharge]) -> None:
    """A coupled proximal step is the only one on its parameters, and nothing is projected after it."""
    taken: dict[int, str] = {}
    for one in coupled:
        if one.bound.how != "prox":
            continue
        for leaf in one.leaves:
            other = charged.get(id(leaf.tensor))
            beside = [str(b.charge) for b in other.bounds if b.how in ("prox", "project")] if other else []
            beside += [taken[id(leaf.tensor)]] if id(leaf.tensor) in taken else []
            if beside:
                raise CompositionError(
                    f"{leaf.name!r} is charged by {one.bound.charge} and by {beside[0]}, which have no proven joint "
                    'proximal step. Charge different parameters, or enforce one with how="loss".'
                )
            taken[id(leaf.tensor)] = str(one.bound.charge)
