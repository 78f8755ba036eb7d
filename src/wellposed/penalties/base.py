"""What a penalty is, and a term: a penalty or constraint bound to parameters and to an enforcement.

Chargeable           anything that can be bound with `on`
├── Penalty          g(w) of one parameter: value, prox, violation
├── CoupledPenalty   g(w_1, ..., w_k) of several parameters at once
├── FunctionalPenalty  of outputs, inputs, activations: value only, enforced in the loss
├── Constraint       a set: project
└── NormBound        a bound whose strength adapts (in ``constraints/multiplier.py``)
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from wellposed.core.errors import InputError, ShapeError, described
from wellposed.core.numbers import arrayed, to_python
from wellposed.core.registry import snake_case
from wellposed.core.selectors import Leaf, Selector, selector, weights
from wellposed.ops.norms import length
from wellposed.penalties.operands import guard_operators

LARGEST = sys.float_info.max
How = Literal["loss", "decay", "prox", "project"]
C = TypeVar("C", bound="Chargeable")
Schedule = Callable[[int], float]
"""The factor of a strength (or a bound) at a step, 0 for the first: ``lambda step: min(1, step/1000)``."""


@dataclass(frozen=True)
class Traits:
    """What holds for a penalty or a set, as the laws, the composition rules and the audit need to know it.

    Attributes:
        convex: ``g`` is convex.
        weak_convexity: rho >= 0 such that ``g + rho/2 |w|^2`` is convex; infinity where there is none (L0).
        homogeneous: k such that ``g(c w) = |c|^k g(w)``, or None.
        symmetric: signs and the order along an axis change nothing.
        diagonal: the prox is exact with a step for each coordinate. Where False it is Euclidean: it takes one number.
        linear: twice the strength is twice the charge.
        sparse: its step can make a weight exactly 0 that is not; averages and lookahead keep such zeros.
    """

    convex: bool = True
    weak_convexity: float = 0.0
    homogeneous: int | None = None
    symmetric: bool = True
    diagonal: bool = True
    linear: bool = True
    sparse: bool = True


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search tries of a charge or of a noise: which sizes, and what else it is made with.

    Attributes:
        low, high: between which its size is tried; ``least`` and ``most``: how far a best size at the border may widen them.
        odds: how likely it is in a first recipe, in (0, 1).
        log: whether sizes are tried on a logarithmic scale.
        rank: of a noise: its place among the ingredients. The numbers of a study depend on their order, so it stays as it is.
        amount: the field that is its size.
        settings: other keys of its term, such as ``on``.
        without: ingredients that it cannot be combined with; it is tried where they are out.
    """

    low: float
    high: float
    least: float
    most: float
    odds: float
    log: bool = True
    rank: int = 9
    amount: str = "strength"
    settings: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


class Chargeable(ABC):
    """A penalty or a constraint: something that can be bound to parameters with `on`."""

    hows: ClassVar[tuple[How, ...]]
    searched: ClassVar[Searched | None] = None
    """What a search tries of it; None where it is only tried in a recipe of somebody's own. Not inherited."""

    def __init_subclass__(cls) -> None:
        """Refuse a field that would hide a method, such as ``at: float``."""
        methods = ("on", "at", "beside", "check", "times", "name", "everywhere", "placed", "default_how")
        if taken := [name for name in methods if name in vars(cls).get("__annotations__", {})]:
            raise InputError(
                f"{cls.__name__} has a field {taken[0]!r}, which hides a method of {cls.__mro__[1].__name__}."
            )

    def __post_init__(self) -> None:
        if "strength" in getattr(self, "__dataclass_fields__", {}):
            at_least_zero(self, strength=self.strength)  # type: ignore[attr-defined]

    @property
    def traits(self) -> Traits:
        """What holds for it; a class may say so once and for all."""
        return Traits()

    def on(self, where: object = None, how: How | None = None, schedule: Schedule | None = None) -> Term:
        """Bind to the parameters that ``where`` selects, by default `everywhere`.

        Args:
            where: ``wp.weights`` and its kin, a name or glob ``"encoder.*"``, a module type, a predicate
                ``(name, parameter)``, or several joined by ``|``, ``&``, ``-``; by default weight matrices and kernels.
            how: the enforcement; by default the first of these that the class allows, as its ``hows`` say:
                ``"decay"``, weights shrink before the step, outside of the gradient (L2's default);
                ``"prox"``, a proximal step after the optimizer's own, in its metric: exact zeros (penalties' default);
                ``"project"``, onto the set after each step (constraints' only one);
                ``"loss"``, part of ``optimizer.penalty(...)``, which you add to the cost: no exact zeros (the only one of
                what charges outputs or activations).
            schedule: the factor of the strength (of a constraint: of its bound) as a function of the optimizer's step.
        Raises:
            InputError: this penalty cannot be enforced so.
        """
        chosen = how or self.default_how
        if chosen not in get_args(How):
            raise InputError(f"how={chosen!r} is not known; it is one of {', '.join(get_args(How))}.")
        if chosen not in self.hows:
            raise InputError(
                f"{type(self).__name__} cannot be enforced by how={chosen!r}; it can by {', '.join(self.hows)}."
            )
        if schedule is not None and (not callable(schedule) or isinstance(schedule, type)):
            raise InputError(f"A schedule is a function of the step, such as wp.ramp(1000); {schedule!r} is none.")
        return Term(self, self.everywhere if where is None else selector(where), chosen, schedule)

    @property
    def everywhere(self) -> Selector:
        """Where it is charged if nothing is said: weight matrices and kernels."""
        return weights

    @classmethod
    def placed(cls) -> bool:
        """Whether `on` says where it acts; not so of what looks at the model's outputs."""
        return True

    @property
    def default_how(self) -> How:
        return self.hows[0]

    @property
    def beside(self) -> tuple[Tensor, ...]:
        """Other parameters that its value depends on, once it is bound: how widely a weight spreads."""
        return ()

    def check(self, name: str, w: Tensor) -> None:
        """Refuse a parameter whose shape this cannot charge; by default every shape can be charged."""
        return None

    def at(self, leaf: Leaf) -> Self:
        """This charge at one parameter of a model: what the model alone knows (heads, pretrained weights) filled in."""
        return self

    def times(self, factor: float) -> Self:
        """The same with ``factor`` times the strength, or the bound; refused where it has neither.

        Raises:
            InputError: it has neither.
        """
        for name in ("strength", "bound"):
            if name in getattr(self, "__dataclass_fields__", {}):
                return changed(self, **{name: getattr(self, name) * factor})
        raise InputError(f"{type(self).__name__} has no strength and no bound that a schedule could change.")

    @property
    def name(self) -> str:
        """The name in recipes: ``l1``, ``group_l2``, ``max_norm``."""
        return snake_case(type(self).__name__)

    def __str__(self) -> str:
        values = ", ".join(f"{f.name}={setting_text(getattr(self, f.name))}" for f in fields(self) if f.repr)  # type: ignore[arg-type]
        return f"{type(self).__name__}({values})"


class ByValue:
    """Equality of charges that hold tensors, for dataclasses with ``eq=False``: tensors are compared by what they hold."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(
            equal_settings(*pair) for pair in zip(_held(self), _held(other), strict=True)
        )

    def __hash__(self) -> int:
        plainly = (value for value in _held(self) if not isinstance(value, (Tensor, Mapping)))
        return hash((type(self), *plainly))


def _held(charge: object) -> list[Any]:
    return [getattr(charge, f.name) for f in fields(charge)]  # type: ignore[arg-type]


def equal_settings(a: object, b: object) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.device == b.device and torch.equal(a, b)
    return a == b


@dataclass(frozen=True)
class Summands:
    """A penalty taken apart for a joint proximal step: ``sum_k l2_k/2 |w-c_k|^2 + l1 |w|_1 + core(w)``.

    Attributes:
        squares: pairs of ``l2_k`` and ``c_k``; None is 0.
        l1: a number, or one for each coordinate.
        core: the rest, which has a proximal step of its own.
    """

    squares: tuple[tuple[float, float | Tensor | None], ...] = ()
    l1: float | Tensor = 0.0
    core: Penalty | None = None


class Penalty(Chargeable):
    """A charge ``g(w) >= 0`` on one tensor, with the operators that enforce it."""

    hows: ClassVar[tuple[How, ...]] = ("prox", "loss")
    strength: float

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        guard_operators(cls)

    def summands(self) -> Summands:
        """The parts that the penalty is a sum of; by default the penalty itself alone."""
        return Summands(core=self)

    def merged(self, other: Penalty) -> Penalty | None:
        """One penalty that charges what both do, or None where there is none of this kind."""
        return None

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """The charge ``g(w)``, 0-d or one for each slot; its gradient flows to ``w``."""

    @abstractmethod
    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """The proximal step ``argmin_u 1/2 sum_i (u_i - w_i)^2/step_i + g(u)``; ``step`` is a number or one per coordinate, and a
        number (a 0-d tensor) where ``traits.diagonal`` is False.
        """

    def prox_sparing(self, w: Tensor, step: Tensor, spared: Tensor) -> Tensor:
        """`prox` under an adaptive optimizer, where ``spared`` says which coordinates have had no gradient (step 0).

        They stay as they are. A penalty of groups leaves them out of their groups, so that they keep none alive, and lets
        them go with a group that is gone.
        """
        return self.prox(w, step)

    @abstractmethod
    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """Euclidean distance of ``-grad`` to the subdifferential of ``g`` at ``w``, 0-d. 0 where stationary.

        Where the subdifferential says nothing (L0): ``|w - prox(w - step*grad, step)|/step``.
        """


class CoupledPenalty(Chargeable):
    """A charge on several tensors at once: groups that reach across layers, hierarchies between them."""

    hows: ClassVar[tuple[How, ...]] = ("prox", "loss")
    remedy: ClassVar[str] = "Give names that the model has."
    """What to do where a name matches nothing."""
    strength: float

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        guard_operators(cls, several=True)

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Globs of the parameters that are charged, one for each tensor, in the order that the operators take them."""

    @property
    def everywhere(self) -> Selector:
        return selector([f"named:{name}" for name in self.names])

    def at_all(self, leaves: Sequence[Leaf]) -> Self:
        """This charge at parameters of a model, in the order of `names`: what their layers alone know filled in."""
        return self

    def check_all(self, names: Sequence[str], ws: Sequence[Tensor]) -> None:
        return None

    @abstractmethod
    def value(self, ws: Sequence[Tensor]) -> Tensor:
        """The charge ``g(w_1, ..., w_k)``, 0-d; its gradient flows to every ``w``."""

    @abstractmethod
    def prox(self, ws: Sequence[Tensor], steps: Sequence[float | Tensor]) -> list[Tensor]:
        """The joint minimizer, one tensor for each; each step is a number or one per coordinate."""

    def prox_sparing(
        self, ws: Sequence[Tensor], steps: Sequence[float | Tensor], spared: Sequence[Tensor]
    ) -> list[Tensor]:
        """The proximal step that leaves the ``spared`` entries as they are; see `Penalty.prox_sparing`."""
        return self.prox(ws, steps)

    @abstractmethod
    def violation(self, ws: Sequence[Tensor], grads: Sequence[Tensor], step: float = 1.0) -> Tensor:
        """Distance of minus the gradients to the subdifferential, 0-d."""


@dataclass(frozen=True)
class Context:
    """What a functional penalty may look at: one batch on its way through the model, in training mode.

    Attributes:
        outputs: of the model, as they are (logits), ``(batch, ...)``; carry gradient.
        inputs: the floating input with ``requires_grad``, if a penalty differentiates with respect to it.
        reference: outputs to stay close to: a teacher's, or of a second pass under other noise.
        activations: outputs of the modules that the term selects, by name; of several uses of one ``name``, ``name#1``, ...
        step, seed: what draws are a function of.
    """

    outputs: Tensor | None = None
    inputs: Tensor | None = None
    reference: Tensor | None = None
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    seed: int = 0

    def needs(self, penalty: FunctionalPenalty) -> None:
        """Refuse to charge a batch that lacks what the penalty looks at, saying how to give it.

        Raises:
            InputError: naming the penalty, what is missing, and how to give it.
        """
        ways = {
            "outputs": "Call optimizer.penalty(outputs) with the model's outputs.",
            "inputs": "Call x.requires_grad_() before the forward pass and optimizer.penalty(outputs, inputs=x) after it.",
            "reference": "Call optimizer.penalty(outputs, reference=...) with a teacher's outputs, or a second pass's.",
            "activations": "Run the model in training mode before optimizer.penalty(), and backward after it.",
        }
        owner = type(penalty).__name__
        for need in penalty.needs:
            given = getattr(self, need)
            if given is None or (need == "activations" and not given):
                raise InputError(f"{owner} needs the {need} of this batch, and has none. {ways[need]}")
            if need != "activations" and not isinstance(given, Tensor):
                raise InputError(
                    f"{owner} needs the {need} of this batch as one tensor; it was given {described(given)}. "
                    "Give the tensor in it that is meant: outputs[0] of a tuple, outputs.logits of an object."
                )
            if need == "inputs" and not given.requires_grad:
                raise InputError(f"{owner} differentiates with respect to the inputs. {ways[need]}")


class FunctionalPenalty(Chargeable):
    """A charge on what the model computes, not on its weights; enforced in the loss, a mean over the examples."""

    hows: ClassVar[tuple[How, ...]] = ("loss",)
    needs: ClassVar[tuple[str, ...]] = ("outputs",)
    """Which of a `Context` it looks at. One that needs ``activations`` is bound to modules, others to the whole model."""
    strength: float

    @property
    def of_classes(self) -> bool:
        """Whether it takes outputs for logits of classes, along ``axis`` (1), or one by one where ``binary``."""
        return False

    def on(self, where: object = None, how: How | None = None, schedule: Schedule | None = None) -> Term:
        """Bind to modules, if it charges activations, else to the whole model; see `Chargeable.on`."""
        looks = self.placed()
        if where is not None and not looks:
            raise InputError(f"{type(self).__name__} charges what the model puts out; write .on() without a selector.")
        if where is None and looks:
            raise InputError(f'{type(self).__name__} needs modules: .on("encoder.*"), .on(nn.ReLU).')
        return replace(super().on(weights, how, schedule), where=where if looks else "outputs")

    @classmethod
    def placed(cls) -> bool:
        return "activations" in cls.needs

    @abstractmethod
    def value(self, context: Context) -> Tensor:
        """The charge of this batch, 0-d; its gradient flows to the weights, and it does not depend on the batch's size."""


class Constraint(Chargeable):
    """A set that weights must stay in."""

    hows: ClassVar[tuple[How, ...]] = ("project",)
    keeps_signs: ClassVar[bool] = False
    """Whether the projection keeps signs and zeros of every point, so that weights of fixed signs may be projected on first."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        guard_operators(cls)

    def follows(self, weighted: bool, thresholds: bool, cores: Sequence[Penalty]) -> bool:
        """Whether projecting after a proximal step is the joint step; after squares alone it always is, and is not asked.

        Declare only what is proven (docs/derivations/composition.md); by default nothing is.

        Args:
            thresholds: absolute values are charged; ``weighted`` says that they have a strength for each coordinate.
            cores: what else is charged (`Summands.core`).
        """
        return False

    @property
    def interval(self) -> tuple[float | Tensor, float | Tensor] | None:
        """``(low, high)`` where the set is ``low_i <= w_i <= high_i`` for every weight: then it is exact in any metric."""
        return None

    @abstractmethod
    def project(self, w: Tensor) -> Tensor:
        """``argmin_u |u - w|`` over the set; a feasible ``w`` comes back unchanged, bit for bit."""

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """The residual ``|w - project(w - step*grad)|/step``: 0 where ``-grad`` is in the normal cone at a feasible ``w``."""
        return length(w - self.project(w - step * grad)) / step


guard_operators(Constraint)


@dataclass(frozen=True)
class Term:
    """A penalty or a constraint, bound to parameters (``where``) and to an enforcement (``how``).

    Of a penalty on activations, ``where`` says modules, as `wellposed.core.selectors.modules` takes them.
    """

    charge: Chargeable
    where: Any
    how: How
    schedule: Schedule | None = None

    @staticmethod
    def refused(caller: str, given: object) -> InputError:
        """The error to raise where terms are needed and something else is given, or is among them."""
        if isinstance(given, (list, tuple)):
            given = next((term for term in given if not isinstance(term, Term)), None)
            if not isinstance(given, Chargeable):
                return InputError(
                    "A term is a penalty or a constraint that is bound with .on(...), such as wp.L1(1e-3).on(); "
                    f"{described(given)} is none. Give a flat list of terms."
                )
        if isinstance(given, Chargeable):
            place = "" if isinstance(given, (FunctionalPenalty, CoupledPenalty)) else "wp.weights"
            place = "nn.ReLU" if "activations" in getattr(given, "needs", ()) else place
            return InputError(f"A term is a penalty bound with .on(...); {given} is not. Write {given}.on({place}).")
        return InputError(
            f"{caller} needs a list of terms, such as [wp.L1(1e-3).on()], or [] for none; it was given {described(given)}."
        )

    @property
    def place(self) -> str:
        return self.where.__name__ if isinstance(self.where, type) else str(self.where)

    def __str__(self) -> str:
        return f"{self.charge} on {self.place} by {self.how}{'' if self.schedule is None else ', scheduled'}"


def changed(charge: C, **settings: Any) -> C:
    """A copy with other settings: every charge is a dataclass, which the abstract classes cannot say."""
    return replace(charge, **settings)  # type: ignore[type-var]


def setting_text(value: object) -> str:
    if isinstance(value, Tensor) and value.ndim:
        return f"<{'x'.join(map(str, value.shape))}>"
    return repr(value.item() if isinstance(value, Tensor) else value)


Numbers = float | Tensor
"""A number for all, or numbers for each; `array` makes tensors of lists and arrays."""


def tensor_of(given: object) -> Tensor | None:
    """A list, an array, a column or a frame as a tensor of its own; None for anything else, a tensor too.

    Whole numbers are int64, booleans stay what they are, and other numbers are float64.

    Raises:
        TypeError, ValueError, RuntimeError: it holds what is no number, several kinds, or rows of different lengths.
    """
    if not arrayed(given):
        return None
    found = np.asarray(given)
    if found.dtype.kind not in "biuf" or isinstance(given, Sequence):
        kinds = {type(to_python(leaf)) for leaf in np.asarray(given, dtype=object).flat}
        if not kinds <= {int, float} and kinds != {bool}:
            raise TypeError("it holds something that is not a number")
    whole = found.dtype.kind in "iu" and (found.dtype != np.uint64 or bool((found < 2**63).all()))
    kept = np.bool_ if found.dtype.kind == "b" else np.int64 if whole else np.float64
    return torch.from_numpy(found.astype(kept, order="C"))


def array(owner: object, name: str, masks: bool = False) -> Any:
    """A setting that is a number for all, or numbers for each: those of arrays, lists and tuples become a tensor, in float64.

    Args:
        masks: whether booleans are taken, for 0 and 1.
    """
    given = to_python(getattr(owner, name))
    try:
        found = tensor_of(given)
        found = given if found is None else found
    except (TypeError, ValueError, RuntimeError):
        found = None
    wrong = isinstance(found, Tensor) and (
        found.is_complex() or (found.dtype == torch.bool and not masks) or bool(found.isnan().any())
    )
    if wrong or (found is None and given is not None):
        raise InputError(
            f"{type(owner).__name__} needs {name} as a number, or as numbers in a list, an array or a tensor; it was given "
            f"{described(given)}."
        )
    if isinstance(found, Tensor):
        # A copy, so that what a caller changes later changes no penalty.
        found = found.detach().clone() if isinstance(given, Tensor) else found.double()
    object.__setattr__(owner, name, found)
    return found


def as_weights(value: float | Tensor, w: Tensor) -> float | Tensor:
    """A tensor in the type and on the device of the weights, which may have moved since; a number as it is."""
    return value.to(w) if isinstance(value, Tensor) else value


def at_least_zero(owner: object, **values: float) -> None:
    """Refuse strengths and bounds that are negative, infinite or not numbers; those of numpy become Python's own."""
    for name, value in values.items():
        number = to_python(value)
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not 0 <= number <= LARGEST:
            hint = "" if isinstance(number, (int, float)) else " Give a Python number: float(...)."
            raise InputError(
                f"{type(owner).__name__} needs a finite {name} >= 0; it was given {described(number)}.{hint}"
            )
        if vars(owner).get(name) is value:
            object.__setattr__(owner, name, number)


def needs_axes(owner: object, name: str, w: Tensor, axes: int) -> None:
    if w.ndim < axes:
        raise ShapeError(
            f"{type(owner).__name__} needs >= {axes} axes; {name!r} has shape {tuple(w.shape)}. "
            "Use .on(wp.weights) or a glob that names matrices and kernels only."
        )
