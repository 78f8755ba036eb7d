"""What is seen inside a Watch or a Run: gradients, units, outputs, inputs, labels, modes; measured, not guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Signals:
    """What was seen inside one network and its training; a part is None where it could not be seen."""

    @classmethod
    def of(cls, source: Any) -> Self | None:
        """The signals of a Watch or a Run; None for anything else."""
        return None
