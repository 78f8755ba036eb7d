"""`regularize`: any torch optimizer, with terms enforced at each step. The wrapper is itself a torch optimizer."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellposed.constraints.multiplier import NormBound
from wellposed.core.checks import checked
from wellposed.core.errors import CompositionError, FormatError, InputError, first_line, noting
from wellposed.core.random import stream_seed
from wellposed.core.selectors import modules, unwrap_model
from wellposed.ops.shards import unshard
from wellposed.optim.batch import Move, assemble_, proximal_steps_
from wellposed.optim.binding import Binding, BoundTerm, Charged, CoupledCharge, StepPlan, bind, check_groups
from wellposed.optim.optimizer_metrics import (
    RAMP_STEPS,
    Diagonal,
    MetricOrStep,
    OptimizerMetric,
    is_adaptive,
    needs_metric,
)
from wellposed.optim.recording import Recorder
from wellposed.optim.wrapper import Wrapper, held_optimizer
from wellposed.optim.zeros import note_zeros
from wellposed.penalties.base import Chargeable, Context, CoupledPenalty, FunctionalPenalty, Penalty, Term, changed

if TYPE_CHECKING:
    from wellposed.optim.audit import Audit

SCHEMA = 1
OWN = "wellposed"
"""The key of our part of an optimizer's state."""
Group = dict[str, Any]
Moving = list[tuple[Charged, Group, StepPlan]]
"""Parameters that take a step, with their parameter groups and what is done to them in this step."""


NO_STEP = frozenset({"", "get", "set", "reset", "zero", "on", "pre", "post", "before", "after"})
"""How methods begin that end in `_step` and take none."""


class Regularized(Wrapper):
    """An optimizer with terms: decay, the optimizer's own step, one joint proximal step, projection, in this order.

    It shares parameter groups, state and defaults with the optimizer it wraps, so that schedulers, gradient scalers and
    checkpoints work as with the bare one. Parameters without a gradient in a step, and steps that a gradient scaler
    skips, are left alone. So is a frozen parameter (``requires_grad=False``), also one on which a gradient is left
    (``zero_grad(set_to_none=False)`` leaves zeros, by which torch's own momentum and decay would move it). Without terms
    the step is torch's own.
    """

    refusal = "This optimizer is regularized already. Give all terms in one call of regularize."

    def __init__(self, optimizer: Optimizer, model: nn.Module, terms: Sequence[Term]) -> None:
        super().__init__(optimizer)
        self.terms = tuple(terms)
        self.steps = 0
        """Taken so far, by which schedules and warm-ups go; may be set where they were taken in another way."""
        self._asked = self._noted = False
        self.seed = 0
        """Of what functional penalties draw (random projections)."""
        self.adds_penalty = False
        """Whether a step adds the gradient of `weights_penalty` itself: a trainer's loss takes nothing more."""
        self._model = weakref.ref(unwrap_model(model))
        self.binding: Binding = bind(model, optimizer, self.terms)
        """What each parameter is charged, as it was resolved when this optimizer was made."""
        self._decaying = _own_decays(optimizer)
        proximal = any(term.how == "prox" for term in self.terms)
        self._metric: OptimizerMetric | None = needs_metric(optimizer) if proximal else None
        self._before: dict[int, dict[str, Any]] = {}
        self._ramps = is_adaptive(optimizer)
        self._rates = [first_rates(group) for group in optimizer.param_groups]
        self._activations: dict[int, list[str]] = {}
        self._recorder = self._recording(model)
        for kept in [group.pop(OWN) for group in optimizer.param_groups if OWN in group]:
            self._load_own(kept)  # the bare optimizer was loaded before

    def _recording(self, model: nn.Module) -> Recorder | None:
        """Hooks on the modules whose activations are charged; they go with this optimizer."""
        watched: dict[str, nn.Module] = {}
        for term in self.binding.functional:
            if isinstance(term.charge, FunctionalPenalty) and "activations" in term.charge.needs:
                found = modules(model, term.where)
                self._activations[id(term)] = list(found)
                watched |= found
        if not watched:
            return None
        recorder = Recorder(watched.items())
        weakref.finalize(self, recorder.remove)
        return recorder

    def __repr__(self) -> str:
        return f"Regularized({self.optimizer!r}, terms=[{', '.join(str(term) for term in self.terms)}])"

    def step(self, closure: Any = None, *more: Any, **named: Any) -> Any:
        """One step of the wrapped optimizer with every term enforced. Returns what the wrapped step returns.

        ``closure`` is torch's, or with ``more`` and ``named`` whatever a step of the wrapped optimizer's own kind takes.
        """
        self.note_zeros()
        own = () if closure is None and not more else (closure, *more)
        if isinstance(self.optimizer, torch.optim.LBFGS) or not self.terms:
            result = self.optimizer.step(*own, **named)
            self._end_step()
            return result
        loss = None
        if callable(closure):
            own = (None, *more) if more else ()
            # The closure fills the gradients, and decay comes after them: torch's AdamW does it in this order.
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            result = self._act(own, named)
        return loss if callable(closure) else result

    def _act(self, own: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Every term and the wrapped optimizer's step, which is given what is its ``own``."""
        if self.adds_penalty:
            self._add_penalty()
        self._check_asked()
        self._check_own_decay()
        # Every plan is made before anything moves: a schedule that fails leaves all as it was.
        moving, coupled = self._moving(), [(several, several.now(self.steps)) for several in self.binding.coupled]
        self._decay(moving)
        self._look_before(moving)
        with self._frozen_aside():
            result = self.optimizer.step(*own, **named)
        self._proximal(moving)
        for several, penalty in coupled:
            if several.bound.how == "prox":
                self._couple(several, penalty)
        self._project(moving)
        for one, group, plan in moving:
            if plan.multiplier_decays:
                self._adapt(one, plan, float(group["lr"]))
        self._end_step()
        return result

    def note_zeros(self) -> None:
        """Let averages of the model know where terms make zeros: before the first step, which does it by itself."""
        model = None if self._noted else self._model()
        if model is not None:
            held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
            note_zeros(model, held, self.binding.sparse)
        self._noted = True

    def _check_asked(self) -> None:
        """Warn once, at the first step, where terms by loss were given and the loss never got them."""
        if self.steps or self._asked:
            return
        forgotten = [term for term in self.terms if term.how == "loss" and getattr(term.charge, "strength", None)]
        if forgotten:
            warnings.warn(
                f"{forgotten[0]} has not been added to the cost: call optimizer.penalty() before backward and add it.",
                stacklevel=4,
            )

    def _check_own_decay(self) -> None:
        """Warn where a loop gives a parameter group a decay, as some schedules do, beside a term that decays it."""
        if (now := _own_decays(self.optimizer)) == self._decaying:
            return
        self._decaying = now
        try:
            check_groups(self.binding, self.optimizer.param_groups)
        except CompositionError as error:
            warnings.warn(str(error), stacklevel=4)

    def _add_penalty(self) -> None:
        """Add the gradient of the terms by loss to those at hand."""
        every = (w for bound, ws in self._charges() for w in (*ws, *bound.charge.beside))
        held = [w for w in {id(w): w for w in every}.values() if w.grad is not None and w.requires_grad]
        with torch.enable_grad():
            cost = self.weights_penalty()
            found = torch.autograd.grad(cost, held, allow_unused=True) if cost.requires_grad else ()
        for w, gradient in zip(held, found, strict=False):
            if w.grad is not None and gradient is not None:
                w.grad.add_(gradient)

    def _end_step(self) -> None:
        self.steps += 1
        self._before = {}
        if self._recorder is not None:
            self._recorder.clear()
        self._call_hooks()

    def _groups(self) -> dict[int, Group]:
        """The group of each parameter that the optimizer holds and that is trained."""
        return {id(p): group for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad}

    @contextmanager
    def _frozen_aside(self) -> Iterator[None]:
        """Inside, gradients that are left on frozen parameters are hidden from the optimizer's own step."""
        held = (p for group in self.optimizer.param_groups for p in group["params"]) if self.terms else ()
        hidden = [(p, p.grad) for p in held if p.grad is not None and not p.requires_grad]
        for parameter, _ in hidden:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in hidden:
                parameter.grad = gradient

    def _charges(self) -> Iterator[tuple[BoundTerm, list[Tensor]]]:
        """Every charge on trained parameters, with these."""
        groups = self._groups()
        for one in self.binding.charged:
            for bound in one.counted(groups):
                yield bound, [one.leaf.tensor]
        for coupled in self.binding.coupled:
            yield coupled.bound, coupled.tensors

    def _moving(self) -> Moving:
        """Those that have a gradient in this step, with their parameter groups."""
        groups = self._groups()
        return [
            (one, groups[id(one.leaf.tensor)], one.plan(self.steps))
            for one in self.binding.charged
            if id(one.leaf.tensor) in groups and one.leaf.tensor.grad is not None
        ]

    def _decay(self, moving: Moving) -> None:
        rates = self._seen_rates()
        for one, group, plan in moving:
            w, lr = one.leaf.tensor, float(group["lr"]) if plan.decays or plan.multiplier_decays else 0.0
            for penalty in plan.decays:
                factor = max(0.0, penalty.decay_factor(lr, *rates[id(group)]))
                if factor != 1.0:
                    w.mul_(factor)
            if plan.multiplier is not None and plan.multiplier_decays:
                strength = self._bound_of(one, plan.multiplier).strength(_multiplier(one, plan), w, lr, "decay")
                w.mul_((1.0 - lr * strength).clamp_min(0.0))

    def _look_before(self, moving: Moving) -> None:
        """Keep what the metric needs of the moment before the optimizer's step, for parameters with a proximal step."""
        before = None if self._metric is None else self._metric.before
        if before is None:
            return
        groups = self._groups()
        ws: list[Tensor] = [one.leaf.tensor for one, _, plan in moving if plan.prox is not None]
        ws += [w for one in self.binding.coupled for w in one.tensors if w.grad is not None and id(w) in groups]
        self._before = {id(w): before(w, groups[id(w)], self.optimizer.state.get(w, {})) for w in ws}

    def _seen_rates(self) -> dict[int, tuple[float, float]]:
        """The first and the largest learning rate of each group so far."""
        groups = self.optimizer.param_groups
        for i, group in enumerate(groups):
            if i == len(self._rates):
                self._rates.append(first_rates(group))
            first, largest = self._rates[i]
            # A scheduler may say how large the rate will be (OneCycleLR), or what it was before a warm-up.
            told = (float(group.get(key, 0.0)) for key in ("initial_lr", "max_lr", "lr"))
            self._rates[i] = (first, max(largest, *told))
        return {id(group): rates for group, rates in zip(groups, self._rates, strict=False)}

    def _proximal(self, moving: Moving) -> None:
        if self._metric is None:
            return
        moves, bounded = [], []
        for one, group, plan in moving:
            if plan.prox is None:
                continue
            metric, prox = self._step_of(one, group), plan.prox
            if plan.multiplier is not None:
                step = metric.steps() if isinstance(metric, Diagonal) else metric
                bound, multiplier = self._bound_of(one, plan.multiplier), _multiplier(one, plan)
                # Where it is the whole proximal step it may look ahead; beside other terms it is what was found so far.
                alone = prox.empty
                strength = bound.strength(multiplier, one.leaf.tensor, step) if alone else bound.strength(multiplier)
                prox = replace(prox, squares=(*prox.squares, (float(strength), None)))
                bounded.append((one, plan, step))
            moves.append(Move(one, prox, metric))
        proximal_steps_(moves)
        for one, plan, step in bounded:
            self._adapt(one, plan, step)

    def _bound_of(self, one: Charged, multiplier: NormBound) -> NormBound:
        """The multiplier with its bound; one that is to be found is the norm after the warm steps."""
        if multiplier.bound is not None:
            return multiplier
        if one.norm is None and self.steps >= multiplier.warm_steps:
            one.norm = float(torch.linalg.vector_norm(one.leaf.tensor)) or None
        return multiplier if one.norm is None else replace(multiplier, bound=one.norm)

    def _adapt(self, one: Charged, plan: StepPlan, step: float | Tensor) -> None:
        assert plan.multiplier is not None
        multiplier = _multiplier(one, plan)
        one.multiplier = self._bound_of(one, plan.multiplier).update(multiplier, one.leaf.tensor, step)

    def _step_of(self, one: Charged, group: Group) -> MetricOrStep:
        """The effective step of a parameter, with the ramp of adaptive optimizers by the parameter's own steps: one that joins
        late has no second moment yet.
        """
        assert self._metric is not None
        state = self.optimizer.state.get(one.leaf.tensor, {}) | self._before.get(id(one.leaf.tensor), {})
        if not self._ramps:
            return self._metric(group, state, 1)
        one.count = int(state.get("step", 1)) if one.count is None else one.count + 1
        metric = self._metric(group, state, one.count)
        ramp = min(1.0, one.count / RAMP_STEPS)
        return metric * ramp if isinstance(metric, float) else metric.times(ramp)

    def _couple(self, coupled: CoupledCharge, penalty: CoupledPenalty) -> None:
        """The joint step of a coupled penalty; a tensor that is not moving now has step 0 and stays."""
        groups = self._groups()
        steps: list[float | Tensor] = []
        spared: list[Tensor] = []
        for leaf in coupled.leaves:
            w = leaf.tensor
            spared.append(torch.zeros_like(w, dtype=torch.bool))
            if w.grad is None or id(w) not in groups:
                steps.append(0.0)
                continue
            one = coupled.counted.setdefault(id(w), Charged(leaf))
            metric = self._step_of(one, groups[id(w)])
            steps.append(metric if isinstance(metric, float) else metric.steps())
            if isinstance(metric, Diagonal):
                spared[-1] = metric.second <= metric.floor
        if all(isinstance(step, float) and step == 0.0 for step in steps):
            return
        moved = penalty.prox_sparing(coupled.tensors, steps, spared)
        for leaf, found in zip(coupled.leaves, moved, strict=True):
            leaf.tensor.copy_(found)

    def _project(self, moving: Moving) -> None:
        for one, _, plan in moving:
            for constraint in plan.constraints:
                assemble_(one.leaf.tensor, constraint.project)

    @torch.no_grad()
    def project(self) -> None:
        """Project every trained parameter on its constraints now: after weights were changed by other means.

        A bound that follows a schedule is that of the last step.
        """
        groups = self._groups()
        charged = [(one, groups.get(id(one.leaf.tensor))) for one in self.binding.charged]
        self._project([(one, group, one.plan(max(0, self.steps - 1))) for one, group in charged if group is not None])

    def penalty(
        self, outputs: Tensor | None = None, *, inputs: Tensor | None = None, reference: Tensor | None = None
    ) -> Tensor:
        """The terms that are enforced in the loss: add this to the cost before ``backward``. 0-d, carries gradient.

        Args:
            outputs: of the model for this batch, for penalties on outputs.
            inputs: the batch, with ``requires_grad``, for penalties on derivatives.
            reference: outputs to stay close to: a teacher's, or of a second pass.
        Raises:
            InputError: a penalty needs something that is not given.
        """
        return self.weights_penalty() + self.outputs_penalty(outputs, inputs=inputs, reference=reference)

    def weights_penalty(self) -> Tensor:
        """The part of `penalty` that looks at weights alone: once for each step, however many batches it has."""
        self._asked = True
        device = self.binding.charged[0].leaf.tensor.device if self.binding.charged else None
        total = torch.zeros((), device=device)
        for bound, ws in self._charges():
            charge = bound.now(self.steps) if bound.how == "loss" else None
            if isinstance(charge, (Penalty, CoupledPenalty)) and charge.strength:
                with noting(charge, *ws):
                    total = total + _value(charge, ws)
        return total

    def outputs_penalty(
        self, outputs: Tensor | None = None, *, inputs: Tensor | None = None, reference: Tensor | None = None
    ) -> Tensor | float:
        """The part of `penalty` that looks at this batch: a mean over its examples."""
        self._asked = True
        total: Tensor | float = 0.0
        for i, term in enumerate(self.binding.functional):
            total = total + self._functional(i, term, outputs, inputs, reference)
        if self._recorder is not None:
            self._recorder.clear()
        return total

    def _functional(
        self, site: int, term: Term, outputs: Tensor | None, inputs: Tensor | None, reference: Tensor | None
    ) -> Tensor | float:
        charge = BoundTerm(term, term.charge).now(self.steps)
        assert isinstance(charge, FunctionalPenalty)
        if not charge.strength:
            return 0.0
        names = self._activations.get(id(term), [])
        kept = self._recorder.taken(names) if self._recorder is not None else {}
        context = Context(outputs, inputs, reference, kept, self.steps, stream_seed(self.seed, "penalty", site))
        context.needs(charge)
        with noting(charge, outputs, inputs, reference):
            return charge.value(context)

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """What each penalty of weights charges now: ``{"L1(strength=0.0001) on weights by prox": 0.12, ...}``."""
        found: dict[str, float] = {}
        charged = list(self._charges())
        for term in self.terms:
            if isinstance(term.charge, (Penalty, CoupledPenalty)):
                alike = sum(name == str(term) or name.startswith(f"{term} (") for name in found)
                values = (_value(bound.now(self.steps), ws) for bound, ws in charged if bound.term is term)
                found[f"{term} ({alike + 1})" if alike else str(term)] = sum(map(float, values))
        return found

    def remove(self) -> None:
        """Take the hooks on charged activations away; penalties on them are then refused for want of them."""
        if self._recorder is not None:
            self._recorder.remove()

    def audit(self) -> Audit:
        """Who is charged what, how, in which convention, and which objective is solved."""
        from wellposed.optim.audit import ASKED, Audit

        found = Audit.of(self._model(), self.optimizer, self.binding)
        return replace(found, notes=tuple(note for note in found.notes if note != ASKED or not self.adds_penalty))

    def add_param_group(self, param_group: Group) -> None:
        """Add to the wrapped optimizer; terms bind to the model as it was when they were given.

        Raises:
            CompositionError: the group's own decay would double a term's.
        """
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        check_groups(self.binding, [{**self.optimizer.defaults, **param_group, "params": params}])
        self.optimizer.add_param_group({**param_group, "params": params})

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state with ours under ``"wellposed"``: steps, rates seen, references, radii, multipliers."""
        own = {
            "schema": SCHEMA,
            "steps": self.steps,
            "rates": [list(pair) for pair in self._rates],
            "references": self.binding.references(),
            "radii": {one.leaf.name: one.radius for one in self.binding.charged if one.radius is not None},
            "multipliers": {
                one.leaf.name: one.multiplier for one in self.binding.charged if one.multiplier is not None
            },
            "norms": {one.leaf.name: one.norm for one in self.binding.charged if one.norm is not None},
        }
        state = self.optimizer.state_dict()
        # A bare optimizer drops keys that it does not know, but keeps those of its groups: it may be loaded, then regularized.
        state["param_groups"][0][OWN] = own
        return {**state, OWN: own}

    def bare(self) -> Optimizer:
        """The wrapped optimizer, with our state in its groups: from it, `regularize` goes on."""
        self.optimizer.param_groups[0][OWN] = self.state_dict()[OWN]
        return self.optimizer

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, or a bare optimizer's state.

        Raises:
            FormatError: the state was saved in another schema.
        """
        rest = {key: value for key, value in state_dict.items() if key != OWN}
        saved, held = [dict(group) for group in rest.get("param_groups", [])], self.optimizer.param_groups
        kept = [group.pop(OWN) for group in saved if OWN in group]
        own = state_dict.get(OWN) or next(iter(kept), {"schema": SCHEMA, "steps": 0})
        if own.get("schema") != SCHEMA:
            raise FormatError(f"This optimizer state has schema {own.get('schema')!r}; schema {SCHEMA} can be loaded.")
        rest["param_groups"] = saved
        try:
            check_groups(
                self.binding, [{**new, "params": old["params"]} for new, old in zip(saved, held, strict=False)]
            )
        except CompositionError as error:
            raise CompositionError(
                "The state was saved from an optimizer with other settings, which loading would bring back: "
                f"{first_line(error).split('. ')[0]}. Change them in the state before it is loaded, such as: "
                'for group in state["param_groups"]: group["weight_decay"] = 0.0.'
            ) from error
        self.optimizer.load_state_dict(rest)
        self._load_own(own)

    def _load_own(self, own: dict[str, Any]) -> None:
        self.steps = int(own["steps"])
        self._rates = [(float(first), float(largest)) for first, largest in own.get("rates", [])] or self._rates
        for one in self.binding.charged:
            name, device = one.leaf.name, one.leaf.tensor.device
            one.count, one.norm = None, own.get("norms", {}).get(name)
            radius, multiplier = (own.get(key, {}).get(name) for key in ("radii", "multipliers"))
            one.radius = None if radius is None else radius.to(device)
            one.multiplier = None if multiplier is None else multiplier.to(device)
            referring = one.referring()
            for key, reference in own.get("references", {}).get(name, {}).items():
                if key in referring:
                    bound, _ = referring[key]
                    bound.charge = changed(bound.charge, reference=reference.to(device))
            one._plan = None
        for coupled in self.binding.coupled:
            coupled.counted.clear()


def first_rates(group: Group) -> tuple[float, float]:
    """The learning rate that a group was built with, twice: it is the first and the largest so far."""
    if "lr" not in group:
        raise InputError(
            "The optimizer's groups have no 'lr'; what is charged in a step, and who decays what, depends on the rate."
        )
    first = float(group["initial_lr"] if "initial_lr" in group else group["lr"])
    return first, first


def _own_decays(optimizer: Optimizer) -> list[bool]:
    """Which parameter groups the optimizer decays by itself."""
    return [bool(group.get("weight_decay")) for group in optimizer.param_groups]


def _value(charge: Chargeable, ws: list[Tensor]) -> Tensor:
    """What a penalty of weights charges."""
    if isinstance(charge, CoupledPenalty):
        return charge.value(ws)
    assert isinstance(charge, Penalty)
    return charge.value(unshard(ws[0]))


def _multiplier(one: Charged, plan: StepPlan) -> Tensor:
    """The multiplier of a parameter, started if it has none yet."""
    assert plan.multiplier is not None
    if one.multiplier is None:
        one.multiplier = plan.multiplier.start(one.leaf.tensor)
    return one.multiplier


@checked
def regularize(optimizer: Optimizer, model: nn.Module, terms: Iterable[Term] | Term = ()) -> Regularized:
    """Enforce ``terms`` on ``model`` at each step of ``optimizer``; use the result in its place.

    Args:
        optimizer: any ``torch.optim`` optimizer over parameters of ``model``.
        model: names the parameters, and says what each does.
        terms: such as ``wp.L1(1e-4).on("encoder.*")``. None is plain training, bit for bit. They bind to the model as it is.
    Returns:
        A ``torch.optim.Optimizer`` with ``audit()``, ``penalty()``, ``values()`` and ``project()`` beside the usual.
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
    if isinstance(optimizer, Wrapper):
        raise CompositionError(optimizer.refusal)
    given = checked_terms(terms)
    held, inner = held_optimizer(optimizer)
    acting = [term for term in given if term.how != "loss"]
    if inner is not None and (acting or held == "optimizer"):
        first = "optimizer = wp.regularize(optimizer, net, terms), then accelerator.prepare, fabric.setup or whatever wrapped it"
        inside = f"optimizer.{held} = wp.regularize(optimizer.{held}, net, terms)"
        raise CompositionError(
            f"{type(optimizer).__name__} wraps an optimizer and decides when a step is one, so that terms would act where it "
            f"takes no step. Regularize the bare optimizer first: {first if held == 'optimizer' else inside}."
        )
    ways = _further_steps(optimizer)
    if acting and ways:
        raise CompositionError(
            f"{type(optimizer).__name__} takes steps by {' and '.join(ways)} too, in which {acting[0]} would not act. "
            'Use .on(..., how="loss") with optimizer.penalty().'
        )
    return Regularized(optimizer, model, given)


def _further_steps(optimizer: Optimizer) -> list[str]:
    """Methods by which an optimizer takes steps beside `step`, such as the two of a script's SAM, by their names."""
    kind = type(optimizer)
    own = {name: getattr(kind, name) for name in sorted(set(dir(kind)) - set(dir(Optimizer))) if name.endswith("_step")}
    return [
        name
        for name, one in own.items()
        if name.partition("_")[0] not in NO_STEP and inspect.isfunction(one) and _alone(one)
    ]


def _alone(method: Any) -> bool:
    """Whether a loop can call a method: what needs more than a closure, such as one parameter, is a part of `step`."""
    given = inspect.signature(method).parameters.values()
    needed = {one.name for one in given if one.default is one.empty and one.kind < one.VAR_POSITIONAL}
    return needed <= {"self", "closure"}


def checked_terms(terms: Iterable[Term] | Term) -> tuple[Term, ...]:
    given: Any = [terms] if isinstance(terms, Term) else terms
    if isinstance(given, (str, Mapping, nn.Module, Chargeable)) or not isinstance(given, Iterable):
        raise Term.refused("regularize", given)
    found: tuple[Any, ...] = tuple(given)
    if not all(isinstance(term, Term) for term in found):
        raise Term.refused("regularize", found)
    return found
