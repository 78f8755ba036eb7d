"""One verdict, with the numbers it rests on and the lever to pull next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellposed.core.files import jsonable

if TYPE_CHECKING:
    from wellposed.recipe.recipe import Recipe

EvidenceValue = float | int | str | bool


MILDEST = 99
AXES = ("optimization", "regularization", "evidence", "none")
"""What fails: the training cost that is reached, the gap to new rows, the evidence itself, or nothing."""
PULLS = ("optimizer", "schedule", "capacity", "regularizer", "data", "loop", "none")
"""Which lever is pulled; ``loop`` is the program around the training: a fault to be mended, which no recipe can."""


@dataclass(frozen=True)
class Change:
    """A change of a recipe that pulls a finding's lever.

    Args:
        says: in a few words, with the numbers: ``"lr 0.1 -> 0.01"``.
        recipe: with the change.
    """

    says: str
    recipe: Recipe


@dataclass(frozen=True)
class Finding:
    """A verdict about one history.

    Args:
        name: the finding's name, such as ``overfits``.
        confidence: from 0 (a guess) to 1 (certain).
        evidence: the numbers that the verdict rests on; ``low`` and ``high`` bound the main one, ``estimate``, at 95 %.
        lever: what to pull next, in plain words.
        says: one plain sentence for a person.
        axis: one of `AXES`: what fails.
        pulls: one of `PULLS`: the kind of lever.
        severity: of its rule, 0 the worst; decides between equally sure findings.
        changes: of the recipe, the first to be tried first; empty where the recipe is not known or cannot help.
    """

    name: str
    confidence: float
    evidence: Mapping[str, EvidenceValue] = field(default_factory=dict)
    lever: str = ""
    says: str = ""
    axis: str = "none"
    pulls: str = "none"
    changes: tuple[Change, ...] = ()
    severity: int = MILDEST

    def to_dict(self) -> dict[str, Any]:
        """``{"name", "confidence", "evidence", "lever", "axis", "pulls", "changes"}``, ready for JSON.

        What is not finite becomes ``None``.
        """
        return {
            "name": self.name,
            "confidence": round(float(self.confidence), 4),
            "evidence": jsonable(dict(self.evidence)),
            "lever": self.lever,
            "axis": self.axis,
            "pulls": self.pulls,
            "changes": [change.says for change in self.changes],
        }

    def __str__(self) -> str:
        return f"{self.name} (confidence {self.confidence:.2f}): {self.says} Next: {self.lever}"
