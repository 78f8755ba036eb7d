"""`regularize`: any torch optimizer, with terms enforced at each step. The wrapper is itself a torch optimizer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellposed.core.errors import CompositionError, FormatError, InputError
from wellposed.core.selectors import Leaf, leaves, select
from wellposed.optim.metrics import RAMP_STEPS, EffectiveStep, is_adaptive, needs_metric
from wellposed.optim.proximal import JointProx, joint
from wellposed.penalties.base import Constraint, Penalty, Term
from wellposed.penalties.elementwise import L2, Separable

if TYPE_CHECKING:
    from wellposed.optim.audit import Audit

SCHEMA = 1


@dataclass
class Charge:
    """All that is enforced on one parameter."""

    leaf: Leaf
    terms: list[Term] = field(default_factory=list)
    decay: float = 0.0
    prox: JointProx | None = None
    constraints: list[Constraint] = field(default_factory=list)


class Regularized(Optimizer):
    """An optimizer with terms: decay, the optimizer's own step, one joint proximal step, projection, in this order.

    It shares parameter groups, state and defaults with the optimizer it wraps, so that schedulers, gradient scalers and
    checkpoints work as with the bare one. Parameters without a gradient in a step, and steps that a gradient scaler
    skips, are left alone.
    """

    # A gradient scaler must look for infinities itself and skip our whole step, not only the fused inner one.
    _step_supports_amp_scaling = False

    def __init__(self, optimizer: Optimizer, model: nn.Module, terms: Sequence[Term]) -> None:
        self.optimizer = optimizer
        self.terms = tuple(terms)
        self.steps = 0
        self._model = weakref.ref(model)
        self._charges = bind(model, optimizer, self.terms)
        proximal = any(charge.prox for charge in self._charges)
        self._metric: EffectiveStep | None = needs_metric(optimizer) if proximal else None
        self._ramps = is_adaptive(optimizer)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self.optimizer.defaults

    def __getattr__(self, name: str) -> Any:
        # Only reached for what the wrapper does not have itself: torch's hooks and an optimizer's own methods.
        if name == "optimizer":
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __repr__(self) -> str:
        return f"Regularized({self.optimizer!r}, terms=[{', '.join(str(term) for term in self.terms)}])"

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("A regularized optimizer is not pickled; save optimizer.state_dict() and wrap again.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the wrapped optimizer with every term enforced. Returns what the wrapped step returns."""
        if isinstance(self.optimizer, torch.optim.LBFGS):
            result = self.optimizer.step(closure)  # type: ignore[no-untyped-call]
            self._project(list(self._moving()))
            return result
        loss = None
        if closure is not None:
            # The closure fills the gradients, and decay comes after them: torch's AdamW does it in this order.
            with torch.enable_grad():
                loss = closure()
        moving = list(self._moving())
        self._decay(moving)
        result = self.optimizer.step()
        self.steps += 1
        self._proximal(moving)
        self._project(moving)
        return loss if closure is not None else result

    def _trained(self) -> Iterator[tuple[Charge, dict[str, Any]]]:
        """The charged parameters that this optimizer trains, with their parameter groups."""
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        for charge in self._charges:
            parameter = charge.leaf.tensor
            if parameter.requires_grad and id(parameter) in groups:
                yield charge, groups[id(parameter)]

    def _moving(self) -> Iterator[tuple[Charge, dict[str, Any]]]:
        """Those that have a gradient in this step."""
        return ((charge, group) for charge, group in self._trained() if charge.leaf.tensor.grad is not None)

    @staticmethod
    def _decay(moving: list[tuple[Charge, dict[str, Any]]]) -> None:
        for charge, group in moving:
            if charge.decay:
                charge.leaf.tensor.mul_(1.0 - float(group["lr"]) * charge.decay)

    def _proximal(self, moving: list[tuple[Charge, dict[str, Any]]]) -> None:
        if self._metric is None:
            return
        for charge, group in moving:
            if charge.prox is None:
                continue
            w = charge.leaf.tensor
            state = self.optimizer.state[w]
            # By the parameter's own steps: one that joins late has no second moment yet.
            count = int(state["step"]) if self._ramps else 1
            metric = self._metric(group, state, count)
            steps = metric if isinstance(metric, float) else metric.steps() * min(1.0, count / RAMP_STEPS)
            w.copy_(charge.prox(w, steps))

    @staticmethod
    def _project(moving: list[tuple[Charge, dict[str, Any]]]) -> None:
        for charge, _ in moving:
            for constraint in charge.constraints:
                charge.leaf.tensor.copy_(constraint.project(charge.leaf.tensor))

    def penalty(self, outputs: Tensor | None = None) -> Tensor:
        """The terms that are enforced in the loss: add this to the cost before ``backward``. 0-d, carries gradient."""
        total = torch.zeros((), device=self._charges[0].leaf.tensor.device if self._charges else None)
        for charge, _ in self._trained():
            for term in charge.terms:
                if term.how == "loss" and isinstance(term.charge, Penalty):
                    total = total + term.charge.value(charge.leaf.tensor)
        return total

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """What each penalty charges the trained parameters now: ``{"L1(strength=0.0001) on weights by prox": 0.12, ...}``."""
        found: dict[str, float] = {}
        trained = [charge for charge, _ in self._trained()]
        for term in self.terms:
            if isinstance(term.charge, Penalty):
                charged = [c.leaf.tensor for c in trained if any(t is term for t in c.terms)]
                found[str(term)] = sum(float(term.charge.value(w)) for w in charged)
        return found

    def audit(self) -> Audit:
        """Who is charged what, how, in which convention, and which objective is solved."""
        from wellposed.optim.audit import Audit

        model = self._model()
        if model is None:
            raise InputError("The model of this optimizer no longer exists; there is nothing to audit.")
        return Audit.of(model, self.optimizer, {c.leaf.name: c.terms for c in self._charges})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the wrapped optimizer's."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add to the wrapped optimizer; terms bind to the model as it was when they were given."""
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state with our step count under ``"wellposed"``."""
        return {**self.optimizer.state_dict(), "wellposed": {"schema": SCHEMA, "steps": self.steps}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, or a bare optimizer's state.

        Raises:
            FormatError: the state was saved in another schema.
        """
        rest = dict(state_dict)
        own = rest.pop("wellposed", {"schema": SCHEMA, "steps": 0})
        if own.get("schema") != SCHEMA:
            raise FormatError(f"This optimizer state has schema {own.get('schema')!r}; schema {SCHEMA} can be loaded.")
        self.optimizer.load_state_dict(rest)
        self.steps = int(own["steps"])


def regularize(optimizer: Optimizer, model: nn.Module, terms: Sequence[Term] | Term = ()) -> Regularized:
    """Enforce ``terms`` on ``model`` at each step of ``optimizer``; use the result in its place.

    Args:
        optimizer: any ``torch.optim`` optimizer over parameters of ``model``.
        model: names the parameters, and says what each does.
        terms: such as ``wp.L1(1e-4).on("encoder.*")``. None is plain training, bit for bit.
    Returns:
        A ``torch.optim.Optimizer`` with ``audit()``, ``penalty()`` and ``values()`` beside the usual.
    Raises:
        SelectorError: a term's selector matches nothing.
        CompositionError: terms that cannot be enforced together or by this optimizer, or a decay that would double.
    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Linear(4, 2)
        >>> optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.L2(0.01).on(wp.weights)])
        >>> isinstance(optimizer, torch.optim.Optimizer)
        True
    """
    if isinstance(optimizer, Regularized):
        raise CompositionError("This optimizer is regularized already. Give all terms in one call of regularize.")
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"regularize needs a torch.optim.Optimizer; it was given {type(optimizer).__name__}.")
    terms = [terms] if isinstance(terms, Term) else list(terms)
    for term in terms:
        if not isinstance(term, Term):
            raise InputError(f"A term is a penalty bound with .on(...); {term!r} is not. Write {term}.on(wp.weights).")
    return Regularized(optimizer, model, terms)


def bind(model: nn.Module, optimizer: Optimizer, terms: Sequence[Term]) -> list[Charge]:
    """Resolve the selectors and check that what they ask for can be enforced.

    Raises:
        SelectorError, ShapeError, CompositionError: see `regularize`.
    """
    charges: dict[int, Charge] = {}
    for term in terms:
        for leaf in select(model, term.where):
            term.charge.check(leaf.name, leaf.tensor)
            charges.setdefault(id(leaf.tensor), Charge(leaf)).terms.append(term)
    if isinstance(optimizer, torch.optim.LBFGS) and any(term.how == "decay" for term in terms):
        raise CompositionError("LBFGS takes many steps in one, so decay has no place in it. Use .on(..., how='loss').")
    own_decay = {
        id(p): float(group.get("weight_decay", 0.0) or 0.0) for group in optimizer.param_groups for p in group["params"]
    }
    if terms and not any(id(leaf.tensor) in own_decay for leaf in leaves(model)):
        raise InputError("The optimizer holds no parameter of this model. Build it from model.parameters().")
    for charge in charges.values():
        _settle(charge, own_decay.get(id(charge.leaf.tensor), 0.0))
    return list(charges.values())


def _settle(charge: Charge, own_decay: float) -> None:
    """Sort the terms of one parameter by enforcement, and refuse what would be enforced twice."""
    name = charge.leaf.name
    squares = [term for term in charge.terms if isinstance(term.charge, L2)]
    decaying = [term for term in charge.terms if isinstance(term.charge, Separable) and term.charge.l2 > 0]
    if decaying and own_decay:
        raise CompositionError(
            f"{name!r} would be decayed twice: by the optimizer's weight_decay={own_decay:g} and by {decaying[0]}. "
            f"Build the optimizer with weight_decay=0, or leave {decaying[0].charge} out."
        )
    if len(squares) > 1:
        raise CompositionError(
            f"{name!r} is charged by two L2 terms: {squares[0]} and {squares[1]}. "
            "Give one, or subtract one selector from the other (wp.weights - wp.heads)."
        )
    decays = [term.charge for term in charge.terms if term.how == "decay"]
    charge.decay = sum(c.strength for c in decays if isinstance(c, Penalty))
    proximal = [term.charge for term in charge.terms if term.how == "prox" and isinstance(term.charge, Penalty)]
    charge.prox = joint(name, proximal) if proximal else None
    charge.constraints = [term.charge for term in charge.terms if isinstance(term.charge, Constraint)]
    if len(charge.constraints) > 1:
        raise CompositionError(
            f"{name!r} has two constraints; projecting on one leaves the other. Give one, or charge different parameters."
        )
