"""One verdict, with the numbers it rests on and the lever to pull next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellposed.core.files import jsonable
from wellposed.core.formats import number_or_text, table
from wellposed.core.records import text

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
        remake: for what a recipe does not say, such as the order of the rows: ``remake(continuation)`` gives the one to train.
    """

    says: str
    recipe: Recipe
    remake: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Finding:
    """A verdict about one history.

    Args:
        name: the finding's name, such as ``overfits``.
        confidence: from 0 (a guess) to 1 (certain).
        evidence: the numbers that the verdict rests on; ``measured`` says in words what the main one, ``estimate``, is;
            ``low`` and ``high`` bound it at 95 %.
        lever: what to pull next, in plain words.
        says: one plain sentence for a person.
        axis: one of `AXES`: what fails.
        pulls: one of `PULLS`: the kind of lever.
        severity: of its rule, 0 the worst; decides between equally sure findings.
        code: what to do first, as a line of Python.
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
    code: str = ""

    @property
    def advice(self) -> list[str]:
        """What to do next: the lever, and what to try first, as a change of the recipe or as code."""
        tries = f"{'; then '.join(change.says for change in self.changes)}." if self.changes else self.code
        return [f"Next: {self.lever}.", *([f"Try first: {tries}"] if tries else [])]

    @property
    def lines(self) -> list[str]:
        """The finding as lines of text: what was seen and what it means, the evidence as a table, what to do."""
        rows = [f"  {line}" for line in table(evidence_rows(self.evidence), right=(1,))]
        return [self.says, *rows, *self.advice]

    def to_dict(self) -> dict[str, Any]:
        """The finding as ``{"name", "confidence", "evidence", "lever", "axis", "pulls", "changes"}``, which JSON can hold.

        What is not finite becomes ``None``.
        """
        return {
            "name": self.name, "confidence": round(float(self.confidence), 4), "evidence": jsonable(dict(self.evidence)),
            "lever": self.lever, "axis": self.axis, "pulls": self.pulls, "changes": [one.says for one in self.changes],
        }  # fmt: skip

    def __str__(self) -> str:
        return f"{self.name} (confidence {self.confidence:.2f}): {self.says} Next: {self.lever}"


WHAT = {
    "train_loss": "training loss at the end",
    "valid_loss": "validation loss at the end",
    "material": "smallest change that matters",
    "epochs": "over how many epochs",
    "gap": "validation minus training loss",
    "error_rise": "change of the validation error",
    "start": "training loss at the start",
    "reference": "loss to be beaten",
    "constant": "loss of a constant prediction",
    "progress": "fall of the loss since the start",
    "before": "swings a quarter earlier",
    "share": "swings as a share of the loss",
    "excess": "cost of regularizing, as a share of the loss",
    "train_left": "left of a constant prediction's error, training",
    "valid_left": "left of a constant prediction's error, validation",
    "left": "left of a constant prediction's error, training",
    "rows": "rows looked at",
    "threshold": "limit",
}
"""What the keys of evidence are, in words; other keys speak for themselves."""


def evidence_rows(evidence: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Evidence as rows of a table: what, value, 95 % interval (empty where there is none). What is not known has no row."""
    rows = []
    bounds = {key for key in evidence if key.split("_")[-1] in ("low", "high")}
    for key, value in evidence.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key in bounds or key in ("measured", "of") or value is None or (number and not math.isfinite(value)):
            continue
        prefix = "" if key == "estimate" else key.split("_")[0] + "_"
        what = evidence.get("measured", key) if key == "estimate" else WHAT.get(key, key.replace("_", " "))
        ends = [evidence.get(prefix + end) for end in ("low", "high")]
        known = all(isinstance(end, (int, float)) and math.isfinite(end) for end in ends)
        interval = " to ".join(map(number_or_text, ends)) if known else ""
        rows.append((text(what, 80), number_or_text(value), interval))
    return rows


def counted(number: int, thing: str) -> str:
    """A number with its noun: ``1 epoch``, ``2 epochs``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def moved(change: float, unit: str = "") -> str:
    """A change in words: ``rose by 0.34``, ``fell by 0.02``, ``stayed the same``."""
    size = f"{abs(change):.3g}{unit}"
    return "stayed the same" if not abs(change) > 0 else f"{'rose' if change > 0 else 'fell'} by {size}"
