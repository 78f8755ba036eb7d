"""Budgets: minutes, recipes or trained epochs, and how far one is spent."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import Literal

from wellposed.core.errors import InputError
from wellposed.core.formats import parse_seconds

Unit = Literal["seconds", "recipes", "epochs"]

PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(recipes?|epochs?|)\s*$")


@dataclass(frozen=True)
class Budget:
    """How much may be spent: ``"90s"``, ``"5m"``, ``"1h"``, ``"30 recipes"``, ``"200 epochs"``, or ``"0"``: no search.

    Attributes:
        amount: >= 0, in ``unit``.
    """

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Read a budget from text such as ``5m`` or ``30 recipes``."""
        if isinstance(text, Budget):
            return text
        if (seconds := parse_seconds(text)) is not None:
            return cls(seconds, "seconds")
        found = PATTERN.match(str(text).lower())
        if not found:
            raise InputError(
                f"The budget {text!r} is not understood; write 90s, 5m, '30 recipes', '200 epochs', or 0 for no search."
            )
        amount, unit = float(found[1]), found[2]
        if not unit and amount:
            raise InputError(f"The budget {text!r} has no unit; write {text}s, {text}m or '{text} recipes'.")
        return cls(amount, "recipes" if unit.startswith("recipe") else "epochs" if unit else "seconds")

    @property
    def none(self) -> bool:
        """Whether nothing is to be searched."""
        return self.amount == 0


@dataclass
class Account:
    """What of a budget is spent. Seconds run by themselves since ``began``; recipes and epochs are booked."""

    budget: Budget
    began: float
    recipes: int = 0
    epochs: int = 0

    @property
    def timed(self) -> bool:
        """Whether the clock is what counts."""
        return self.budget.unit == "seconds" and not self.budget.none

    @property
    def elapsed(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self.began

    @property
    def spent(self) -> float:
        """Share of the budget that is gone, from 0 up; 1 for an empty one."""
        if self.budget.none:
            return 1.0
        used = {"seconds": self.elapsed, "recipes": self.recipes, "epochs": self.epochs}[self.budget.unit]
        return used / self.budget.amount

    def deadline(self, share: float) -> float:
        """The value of ``time.monotonic()`` at which ``share`` of the budget is gone; infinite without a clock."""
        return self.began + share * self.budget.amount if self.timed else math.inf

    def book(self, epochs: int) -> None:
        """A recipe was tried for so many epochs."""
        self.recipes += 1
        self.epochs += epochs
