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
        return _table(self)

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


def _table(budget: ErrorBudget) -> str:
    """Each term with its interval and a bar from where the last one ended."""
    lines: list[tuple[BudgetTerm, float]] = []
    start = 0.0
    for part in budget.parts:
        lines.append((part, start))
        inner = start
        for one in budget.apart if part.name == "regularization" else ():
            lines.append((one, inner))
            inner += one.estimate
        start += part.estimate
    lines.append((budget.valid, 0.0))
    ends = [value for part, at in lines for value in (at, at + part.estimate)]
    low, high = min(0.0, *ends), max(ends)
    scale = WIDTH / (high - low) if high > low else 0.0
    wide = max(len(WORDS[part.name]) for part, _ in lines)
    table = [f"Error budget of {budget.recipe.describe()}, {len(budget.seeds)} seed{'s'[: len(budget.seeds) != 1]}"]
    for part, at in lines:
        row = f"{WORDS[part.name].ljust(wide)}  {part.estimate:+9.4f}  {_interval(part):<20}"
        table.append(f"{row}  {_bar(at - low, part.estimate, scale)}".rstrip())
    return "\n".join([*table, *_sentences(budget)])


def _interval(part: BudgetTerm) -> str:
    return f"[{part.low:+.4f}, {part.high:+.4f}]" if math.isfinite(part.low) else "[one seed]"


def _bar(at: float, size: float, scale: float) -> str:
    """A bar that starts where the last one ended; what is taken away is drawn lighter, what is no number not at all."""
    if not all(map(math.isfinite, (at, size, scale))):
        return ""
    first, last = round(scale * min(at, at + size)), round(scale * max(at, at + size))
    return " " * first + ("█" if size >= 0 else "░") * max(last - first, 1 if size else 0)


def _sentences(budget: ErrorBudget) -> list[str]:
    """Cost, validation at w*, lever, notes."""
    lines = []
    if budget.shortfall is not None:
        lines.append(
            f"cost left by the optimizer: at least {budget.shortfall.estimate:.4g} {_interval(budget.shortfall)} "
            "(a better optimum may exist)"
        )
    gain = budget.valid_gain
    lines.append(f"validation at the best weights found: {-gain.estimate:+.4f} [{-gain.high:+.4f}, {-gain.low:+.4f}]")
    for finding in budget.findings[:2]:
        lines.append(f"{finding.name} (confidence {finding.confidence:.2f}): {finding.says} Next: {finding.lever}.")
    lines += [f"note: {note}" for note in (*remarks(budget), *budget.notes)]
    return [*lines, f"measured by {budget.runs} runs, {budget.epochs} epochs, {budget.seconds:.1f} s"]
