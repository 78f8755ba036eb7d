"""Arguments are checked against their annotations, so that a signature is the one place that says what a call takes.

``@checked`` on a function or a class refuses an argument that its annotation does not allow, in one sentence; numbers of
numpy and 0-d tensors arrive as Python's own. Bounds stand in the annotation: ``Annotated[int, Within(1)]``. What an
annotation cannot say (``Any``, a name that is imported for the type checker alone) is let through.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from wellposed.core.errors import InputError, WellposedError, described, did_you_mean
from wellposed.core.numbers import arrayed, to_python

C = TypeVar("C", bound=Callable[..., Any])
MOST = 1_000_000
"""What a generator may give where a sequence is needed; one that gives more is taken for endless and refused."""


@dataclass(frozen=True)
class Within:
    """The interval that a number lies in; ``open`` leaves out its ends: ``Within(0, 1, open="high")`` is [0, 1)."""

    low: float = -math.inf
    high: float = math.inf
    open: Literal["", "low", "high", "both"] = ""

    def holds(self, value: float) -> bool:
        above = self.low < value if self.open in ("low", "both") else self.low <= value
        return above and (value < self.high if self.open in ("high", "both") else value <= self.high)

    def __str__(self) -> str:
        if self.high in (math.inf, sys.float_info.max):
            finite = "" if self.high == math.inf else ", finite"
            return f"{'>' if self.open in ('low', 'both') else '>='} {self.low:g}{finite}"
        left = "(" if self.open in ("low", "both") else "["
        return f"in {left}{self.low:g}, {self.high:g}{')' if self.open in ('high', 'both') else ']'}"


Count = Annotated[int, Within(1)]
"""How many of something, at least one."""
ConfidenceLevel = Annotated[float, Within(0, 1, open="both")]
"""A probability that is neither 0 nor 1."""
Positive = Annotated[float, Within(0, sys.float_info.max, open="low")]
"""A finite number above 0."""
Seed = Annotated[int, "seed"]
"""What draws are a function of: any whole number of 64 bits, with a sign or without, as torch and numpy have them."""


def matches_annotation(value: object, hint: Any) -> bool:
    """Whether a value is what an annotation says. A bool is no number, NaN is none, a text is no sequence, an array is one."""
    origin, inner = cast(Any, get_origin(hint)), get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint].holds(value)
    if origin is Annotated:
        bounds = [bound for bound in inner[1:] if isinstance(bound, Within)]
        return matches_annotation(value, inner[0]) and all(bound.holds(cast(float, value)) for bound in bounds)
    if origin in (Union, types.UnionType):
        return any(matches_annotation(value, one) for one in inner)
    if origin is Literal:
        # Of the choice's own type, or a text of a subclass, such as a member of a `StrEnum`.
        alike = (one for one in inner if (isinstance(value, str) if isinstance(one, str) else type(value) is type(one)))
        return any(value == one for one in alike)
    if isinstance(origin, type):
        return callable(value) if cast(Any, origin) is Callable else _holds(value, origin, inner)
    return hint in (Any, object) or not isinstance(hint, type) or _is_of(value, hint)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value == value if isinstance(value, float) else abs(value) <= sys.float_info.max


@dataclass(frozen=True)
class Scalar:
    """What a plain type is called, and what is of it."""

    name: str
    holds: Callable[[Any], bool]


SCALARS: dict[object, Scalar] = {
    None: Scalar("None", lambda value: value is None),
    type(None): Scalar("None", lambda value: value is None),
    bool: Scalar("True or False", lambda value: isinstance(value, bool)),
    int: Scalar("a whole number", lambda value: _is_number(value) and isinstance(value, int) and abs(value) < 2**63),
    Seed: Scalar(
        "a whole number", lambda value: _is_number(value) and isinstance(value, int) and -(2**63) <= value < 2**64
    ),
    float: Scalar("a number", _is_number),
    str: Scalar("text", lambda value: isinstance(value, str)),
    Path: Scalar("a path", lambda value: isinstance(value, Path)),
}
NAMES = {
    "Module": "an nn.Module",
    "Optimizer": "a torch optimizer",
    "Tensor": "a dense tensor",
    "Generator": "a torch.Generator, such as torch.Generator().manual_seed(0)",
}
"""What torch's types are called; torch itself is not imported here, since logs are diagnosed without it."""
FUNCTIONAL = (
    "Where a network is a function net(x, params) of a mapping of tensors, write params = nn.ParameterDict(params) before the "
    "optimizer is made, and give model=params; a watch takes forward=lambda params, batch: net(batch[0], params) too."
)


def _is_of(value: Any, kind: type) -> bool:
    """Whether it is of the type; of tensors only those whose numbers can be read one by one."""
    dense = kind.__name__ != "Tensor" or (str(getattr(value, "layout", "")) == "torch.strided" and not value.is_meta)
    return isinstance(value, kind) and dense


def _holds(value: Any, kind: type, inner: tuple[Any, ...]) -> bool:
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(
            matches_annotation(to_python(key), inner[0]) and matches_annotation(to_python(item), inner[1])
            for key, item in value.items()
        )
    if not issubclass(kind, Iterable):
        return isinstance(value, kind)
    # `isinstance(value, Iterable)` asks the same, and looks through all classes of all packages to say no.
    if getattr(type(value), "__iter__", None) is None or isinstance(value, (str, bytes, Mapping)):
        return False
    if kind is tuple and inner[-1] is not Ellipsis:
        fixed = isinstance(value, (tuple, list)) and len(value) == len(inner)
        return fixed and all(matches_annotation(to_python(item), one) for item, one in zip(value, inner, strict=True))
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return kind is Iterable  # used up by looking
    return getattr(value, "ndim", 1) == 1 and all(matches_annotation(to_python(item), inner[0]) for item in value)


def words(hint: Any) -> str:
    """What an annotation says, for a person."""
    origin, inner = cast(Any, get_origin(hint)), get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint].name
    if origin is Annotated:
        return " ".join([words(inner[0]), *(str(bound) for bound in inner[1:] if isinstance(bound, Within))])
    if origin in (Union, types.UnionType):
        known = list(dict.fromkeys(map(words, inner)))
        return f"{', '.join(known[:-1])} or {known[-1]}" if len(known) > 1 else known[0]
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if isinstance(origin, type):
        if cast(Any, origin) is Callable:
            return "a function"
        if issubclass(origin, Mapping):
            return f"a mapping from {words(inner[0])} to {words(inner[1])}"
        if origin is tuple and inner[-1] is not Ellipsis:
            return f"({', '.join(map(words, inner))})"
        return f"a list of which each is {words(inner[0])}" if issubclass(origin, Iterable) else origin.__name__
    if hint in (Any, object) or not isinstance(hint, type):
        return "anything"
    return NAMES.get(hint.__name__, f"a {hint.__name__}")


def _hints(function: Callable[..., Any], owner: type | None) -> dict[str, Any]:
    """The annotations of a function's parameters, or of the fields that a class's own ``__init__`` fills."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = parameter.annotation
        if isinstance(hint, str):
            homes = [cls for cls in (owner.__mro__ if owner else ()) if name in vars(cls).get("__annotations__", {})]
            home = vars(sys.modules[homes[0].__module__]) if homes else function.__globals__
            try:
                while isinstance(hint, str):  # an alias may be written in quotes, too
                    hint = eval(hint, home)
            except NameError:  # imported for the type checker alone
                continue
        if hint not in (parameter.empty, Any, object) and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            found[name] = hint
    return found


def checked(given: C) -> C:
    """Refuse arguments of a function, or of a class's constructor, that their annotations do not allow.

    A dataclass's own ``__post_init__`` speaks first, since it knows more than a type; a function is not even entered. A class
    that is annotated with may say in its own words what is wrong, by a static method ``refused(caller, value)``.

    Raises:
        InputError: by the call, naming the parameter, what it needs and what it was given.
    """
    if isinstance(given, type):
        owner: Any = given
        owner.__init__ = checking(owner.__init__, given.__name__, given)
        return given
    return cast(C, checking(given, given.__name__))


def unchecked(function: C) -> C:
    """What `checked` made, without the look at each argument: for calls at each step of a training whose arguments are known."""
    return cast(C, inspect.unwrap(cast(Any, function)))


def checking(function: Callable[..., Any], name: str, owner: type | None = None) -> Callable[..., Any]:
    """The function as `checked` makes it, called ``name`` in errors."""
    signature = inspect.signature(function)

    @functools.cache  # at the first call: what annotations name may be defined further down
    def hints() -> dict[str, tuple[Any, bool]]:
        return {key: (hint, _takes_tensors(hint)) for key, hint in _hints(function, owner).items()}

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        try:
            bound = signature.bind(*args, **keywords)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
        own, refusal = owner is not None and is_dataclass(owner), None
        for key, (hint, of_tensors) in hints().items():
            if key in bound.arguments:
                value = bound.arguments[key]
                value = value if of_tensors else to_python(value)
                if isinstance(value, int) and 2**63 <= abs(value) <= sys.float_info.max and hint != Seed:
                    value = float(value)  # a number of this size, which most libraries take as a float alone
                known = matches_annotation(value, hint)
                if not known:
                    value = _written_out(value, hint)
                    known = matches_annotation(value, hint)
                bound.arguments[key] = value
                known = known or (own and of_tensors and _become_tensors(value, hint))
                refusal = refusal or (None if known else _refusal(name, key, value, hint))
        if refusal is None:
            return function(*bound.args, **bound.kwargs)
        raise (_own_words(function, bound) if own else None) or refusal

    return call


def _written_out(value: Any, hint: Any) -> Any:
    """A generator, a set or a view of a dict as a list, where a sequence is needed; one without an end stays as it is.

    A set has no order, and that of its texts changes from process to process: its list is sorted.
    """
    held = [get_args(one)[1] for one in (hint, *get_args(hint)) if get_origin(one) is Mapping]
    if held and isinstance(value, Mapping):
        return {key: _written_out(item, held[0]) for key, item in value.items()}
    needed = [get_origin(one) for one in (hint, *get_args(hint))]
    listable = isinstance(value, (Iterator, Collection)) and not hasattr(value, "__getitem__")
    if Sequence not in needed or not listable:
        return value
    found = _in_order(value) if isinstance(value, (set, frozenset)) else list(itertools.islice(value, MOST + 1))
    return found if len(found) <= MOST else value


def _in_order(values: Collection[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # of several kinds
        return sorted(values, key=lambda value: (type(value).__name__, repr(value)))


def _parts(hint: Any) -> list[Any]:
    return [hint, *(part for one in get_args(hint) for part in _parts(one))]


def _takes_tensors(hint: Any) -> bool:
    return any(getattr(one, "__name__", "") == "Tensor" for one in _parts(hint))


def _become_tensors(value: Any, hint: Any) -> bool:
    """Whether it is a list, an array or a mapping of them in place of tensors: which it takes, a dataclass says itself."""
    if not isinstance(value, Mapping):
        return arrayed(value)
    held = [get_args(one) for one in _parts(hint) if get_origin(one) is Mapping]
    return any(
        all(matches_annotation(k, key) and (matches_annotation(v, item) or arrayed(v)) for k, v in value.items())
        for key, item in held
    )


def _own_words(function: Callable[..., Any], bound: inspect.BoundArguments) -> WellposedError | None:
    """How a dataclass itself refuses what it was given, if in a sentence; what else it raises is no answer to a wrong type."""
    try:
        function(*bound.args, **bound.kwargs)
    except WellposedError as error:
        return None if "\n" in str(error) else error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None
    return None


def _refusal(name: str, key: str, value: object, hint: Any) -> WellposedError:
    own = next((one for one in _parts(hint) if hasattr(one, "refused")), None)
    if own is not None:
        found: WellposedError = own.refused(name, value)
        return found
    choices = [one for part in (hint, *get_args(hint)) if get_origin(part) is Literal for one in get_args(part)]
    nearest = did_you_mean(value, choices) if isinstance(value, str) else ""
    whole = isinstance(value, (int, float)) and abs(value) >= 2**63 and int in _parts(hint)
    range_ = "Seeds go from -2**63 to 2**64 - 1." if hint == Seed else "Whole numbers are below 2**63."
    limit = f" {range_}" if whole else ""
    wanted = tuple(one for one in _parts(hint) if isinstance(one, type) and one.__name__ in NAMES)
    inside = next((held for held, one in getattr(value, "__dict__", {}).items() if isinstance(one, wanted)), None)
    holds = f" It holds one: its attribute {inside!r}." if inside is not None else ""
    parts = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    holds = " Give one of those in it." if parts and all(isinstance(one, wanted) for one in parts) else holds
    tensors = isinstance(value, Mapping) and all(hasattr(one, "requires_grad") for one in value.values())
    if any(one.__name__ == "Module" for one in wanted) and (
        tensors or isinstance(value, (types.FunctionType, functools.partial))
    ):
        holds = f" {FUNCTIONAL}"
    return InputError(
        f"{name} needs {key}= to be {words(hint)}; it was given {described(value)}.{holds}{nearest}{limit}"
    )
