"""`ErrorBudget`: what `error_budget` measured, for people and programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wellposed.core.files import jsonable
from wellposed.decomposition import waterfall
from wellposed.decomposition.budget_findings import finding_of, nothing_found, remarks
from wellposed.decomposition.budget_terms import BudgetTerm, BudgetTerms
from wellposed.decomposition.waterfall import figure_html
from wellposed.diagnosis.finding import Finding


@dataclass(frozen=True)
class ErrorBudget(BudgetTerms):
    """What `error_budget` measured, with what it names. ``str()`` for people, `to_dict` for programs."""

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the terms name, the largest first; at least one finding."""
        found = [finding_of(self, part) for part in self.candidates]
        return tuple(found) if found else (nothing_found(self),)

    @property
    def lever(self) -> str:
        """What to pull first: ``capacity``, ``regularizer``, ``optimizer``, ``schedule``, ``data``, or ``none``."""
        return self.findings[0].pulls

    def to_dict(self) -> dict[str, Any]:
        """Terms, what they are made of, levels, levers and the cost of measuring, as dicts and lists that JSON can hold."""
        return {
            "schema": 1,
            "recipe": self.recipe.describe(),
            "level": self.level,
            "seeds": list(self.seeds),
            "rows": len(self.levels[0].valid),
            "valid": self.valid.to_dict(),
            "parts": [part.to_dict() for part in self.parts],
            "apart": [part.to_dict() for part in self.apart],
            "valid_gain": self.valid_gain.to_dict(),
            "way_gain": None if self.way_gain is None else self.way_gain.to_dict(),
            "shortfall": None if self.shortfall is None else self.shortfall.to_dict(),
            "constant": None if math.isnan(self.constant) else self.constant,
            "lever": self.lever,
            "findings": [finding.to_dict() | {"says": finding.says} for finding in self.findings],
            "remedies": [
                {"finding": remedy.name, "change": remedy.change.says, "gain": self.gain(remedy).to_dict()}
                for remedy in self.remedies
            ],
            "winners": [one.winner for one in self.levels],
            "larger": None if self.larger is None else jsonable(dict(self.larger)),
            "runs": self.runs,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "notes": [*remarks(self), *self.notes],
        }

    def __str__(self) -> str:
        """Each term with its interval and a bar from where the last one ended, and the sentences below."""
        lines: list[tuple[BudgetTerm, float]] = []
        start = 0.0
        for part in self.parts:
            lines.append((part, start))
            inner = start
            for one in self.apart if part.name == "regularization" else ():
                lines.append((one, inner))
                inner += one.estimate
            start += part.estimate
        lines.append((self.valid, 0.0))
        ends = [value for part, at in lines for value in (at, at + part.estimate)]
        low, high = min(0.0, *ends), max(ends)
        scale = WIDTH / (high - low) if high > low else 0.0
        wide = max(len(WORDS[part.name]) for part, _ in lines)
        rows = [f"Error budget of {self.recipe.describe()}, {len(self.seeds)} seed{'s'[: len(self.seeds) != 1]}"]
        for part, at in lines:
            row = f"{WORDS[part.name].ljust(wide)}  {part.estimate:+9.4f}  {_interval(part):<20}"
            rows.append(f"{row}  {_bar(at - low, part.estimate, scale)}".rstrip())
        if self.shortfall is not None:
            rows.append(
                f"cost left by the optimizer: at least {self.shortfall.estimate:.4g} {_interval(self.shortfall)} "
                "(a better optimum may exist)"
            )
        gain = self.valid_gain
        rows.append(
            f"validation at the best weights found: {-gain.estimate:+.4f} [{-gain.high:+.4f}, {-gain.low:+.4f}]"
        )
        for finding in self.findings[:2]:
            rows.append(f"{finding.name} (confidence {finding.confidence:.2f}): {finding.says} Next: {finding.lever}.")
        rows += [f"note: {note}" for note in (*remarks(self), *self.notes)]
        return "\n".join([*rows, f"measured by {self.runs} runs, {self.epochs} epochs, {self.seconds:.1f} s"])

    def _repr_html_(self) -> str:
        return figure_html(str(self), self.figure)

    def figure(self) -> str:
        """The waterfall as SVG; empty where a loss is not finite.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        return waterfall.budget_picture(jsonable(self.to_dict()), self.recipe.describe())


WIDTH = 28
"""Characters of the longest bar."""
WORDS = {
    "floor": "floor",
    "regularization": "regularization",
    "capacity": "  of it capacity",
    "charged": "  of it terms and noise",
    "optimization": "optimization",
    "stopping": "stopping",
    "gap": "generalization gap",
    "valid": "validation loss",
}


def _interval(part: BudgetTerm) -> str:
    return f"[{part.low:+.4f}, {part.high:+.4f}]" if math.isfinite(part.low) else "[one seed]"


def _bar(at: float, size: float, scale: float) -> str:
    """A bar that starts where the last one ended; what is taken away is drawn lighter, what is no number not at all."""
    if not all(map(math.isfinite, (at, size, scale))):
        return ""
    first, last = round(scale * min(at, at + size)), round(scale * max(at, at + size))
    return " " * first + ("█" if size >= 0 else "░") * max(last - first, 1 if size else 0)
