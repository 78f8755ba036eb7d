"""A case: a training whose causes are known because they were planted, and the registry of kinds of cases."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import wellposed as wp

CAUSES = (
    "diverged", "not_learning", "undertrained", "underfits", "over_regularized", "overfits", "overconfident",
    "noisy_evidence", "not_enough_evidence", "oscillates", "slow", "rate_too_high", "rate_too_low",
    "vanishing_gradients", "exploding_gradients", "dying_units", "dead_layers", "wrong_output", "wrong_loss",
    "unscaled_inputs", "unshuffled", "leakage", "label_noise", "forgotten_mode", "batch_too_small", "decayed_norms",
    "posterior_collapse", "healthy",
)  # fmt: skip
"""What is planted, by the names of findings."""
GROUPS = ("healthy", "near_miss", "fault", "several")
SIDES = ("tuned", "test")
"""Which ranges parameters are drawn from: those that rules may be tuned on, and those kept apart."""


class Draws:
    """What a seed draws for a case; the tuning side and the test side have ranges and random streams of their own.

    Each method takes one range, used on both sides, or two: that of the tuning side, then that of the test side.
    """

    def __init__(self, kind: str, side: str, seed: int) -> None:
        self._random = random.Random(f"{kind}/{side}/{seed}")
        self._test = side == "test"
        self.seed = zlib.crc32(f"{kind}/{side}/{seed}".encode()) % 2**31
        self.values: dict[str, Any] = {}

    def number(self, name: str, *ranges: tuple[float, float]) -> float:
        """A number whose logarithm is uniform."""
        low, high = ranges[-1 if self._test else 0]
        return self._kept(name, math.exp(self._random.uniform(math.log(low), math.log(high))))

    def whole(self, name: str, *ranges: tuple[int, int]) -> int:
        """A whole number, both ends included."""
        return self._kept(name, self._random.randint(*ranges[-1 if self._test else 0]))

    def one_of(self, name: str, *choices: Sequence[Any]) -> Any:
        """One of the choices."""
        return self._kept(name, self._random.choice(choices[-1 if self._test else 0]))

    def _kept(self, name: str, value: Any) -> Any:
        self.values[name] = value
        return value


@dataclass(frozen=True)
class Plan:
    """What a kind makes of its draws.

    Args:
        make: trains, and returns what `wp.diagnose` takes.
        truth: the ground truth, measured apart from diagnosis: an empty string, or why the planted causes did not come
            about (or, in a healthy case, what is wrong with it).
        problem, recipe: where a change of the recipe can mend the fault.
    """

    make: Callable[[], Any]
    truth: Callable[[], str]
    problem: wp.Problem | None = None
    recipe: wp.Recipe | None = None


@dataclass(frozen=True)
class Case:
    """One training with known causes.

    Args:
        kind: what it is an instance of.
        seed, side: what its parameters are drawn with.
        group: one of `GROUPS`.
        causes: must be found.
        allowed: consequences of the causes, or matters of taste, that count neither way.
        first: what a practitioner may name first, the causes among them.
        drawn: the parameters.
    """

    kind: str
    seed: int
    side: str
    group: str
    causes: frozenset[str]
    allowed: frozenset[str]
    first: frozenset[str]
    drawn: dict[str, Any] = field(hash=False)
    plan: Plan = field(hash=False, repr=False)

    @cached_property
    def source(self) -> Any:
        """What `wp.diagnose` takes, trained once."""
        return self.plan.make()

    def make(self) -> Any:
        """Train, and return what `wp.diagnose` takes."""
        return self.source

    def truth(self) -> str:
        """Empty where the ground truth holds; else why the case must be dropped."""
        return self.plan.truth()

    @property
    def problem(self) -> wp.Problem | None:
        """The problem, where a change of the recipe can mend the fault."""
        return self.plan.problem

    @property
    def recipe(self) -> wp.Recipe | None:
        """The recipe with the fault, where a change of it can mend the fault."""
        return self.plan.recipe


@dataclass(frozen=True)
class Kind:
    """A way to bring causes about; its docstring says how, and what the ground truth is."""

    name: str
    group: str
    causes: frozenset[str]
    allowed: frozenset[str]
    first: frozenset[str]
    build: Callable[[Draws], Plan]

    @property
    def doc(self) -> str:
        """What is planted, and how it is known."""
        return self.build.__doc__ or ""

    def case(self, seed: int, side: str = "tuned") -> Case:
        """The case that a seed draws on one side.

        Raises:
            ValueError: there is no such side.
        """
        if side not in SIDES:
            raise ValueError(f"There is no side {side!r}; it is {' or '.join(SIDES)}.")
        draws = Draws(self.name, side, seed)
        plan = self.build(draws)
        return Case(self.name, seed, side, self.group, self.causes, self.allowed, self.first, draws.values, plan)


class Kinds(dict[str, Kind]):
    """Kinds by name. Its methods are decorators of functions that make a `Plan` of what was drawn."""

    def healthy(self, function: Callable[[Draws], Plan]) -> Callable[[Draws], Plan]:
        """A training that nothing is wrong with."""
        return self._add("healthy", {"healthy"}, ())(function)

    def near_miss(self, *causes: str, allowed: Collection[str] = ()) -> Callable[[Any], Any]:
        """A training that looks like a fault and is none; healthy unless ``causes`` says what else holds."""
        return self._add("near_miss", causes or {"healthy"}, allowed)

    def fault(self, *causes: str, first: Collection[str] = (), allowed: Collection[str] = ()) -> Callable[[Any], Any]:
        """A training with these faults: several, where there is more than one; ``first`` may be named in their place."""
        return self._add("several" if len(causes) > 1 else "fault", causes, allowed, first)

    def _add(
        self, group: str, causes: Collection[str], allowed: Collection[str], first: Collection[str] = ()
    ) -> Callable[[Any], Any]:
        unknown = {*causes, *first, *allowed} - set(CAUSES)
        if unknown:
            raise ValueError(f"There is no finding {sorted(unknown)}.")

        def registered(function: Callable[[Draws], Plan]) -> Callable[[Draws], Plan]:
            name = function.__name__
            known = frozenset(causes)
            rest = frozenset(first) | frozenset(allowed)
            self[name] = Kind(name, group, known, rest - known, known | frozenset(first), function)
            return function

        return registered
