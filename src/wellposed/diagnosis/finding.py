"""One verdict, with the numbers it rests on and the lever to pull next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wellposed.core.files import jsonable

Number = float | int | str | bool


@dataclass(frozen=True)
class Finding:
    """A verdict about one history.

    Args:
        name: the finding's name, such as ``overfits``.
        confidence: from 0 (a guess) to 1 (certain).
        evidence: the numbers that the verdict rests on; ``low`` and ``high`` bound the main one, ``estimate``, at 95 %.
        lever: what to pull next, in plain words.
        says: one plain sentence for a person.
    """

    name: str
    confidence: float
    evidence: Mapping[str, Number] = field(default_factory=dict)
    lever: str = ""
    says: str = ""

    def to_dict(self) -> dict[str, Any]:
        """``{"name", "confidence", "evidence", "lever"}``, ready for JSON: what is not finite becomes ``None``."""
        return {
            "name": self.name,
            "confidence": round(float(self.confidence), 4),
            "evidence": jsonable(dict(self.evidence)),
            "lever": self.lever,
        }

    def __str__(self) -> str:
        return f"{self.name} (confidence {self.confidence:.2f}): {self.says} Next: {self.lever}"
