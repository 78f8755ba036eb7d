"""The time of a study as tables, from the rows that `wellposed.core.clock.Clock` keeps of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wellposed.core.clock import BATCHES, CONFIRMATION, EVALUATION, PACE, TRAINING
from wellposed.core.formats import percent, table
from wellposed.core.records import number_or_nan, rows, text

COLUMNS = "s", "share", "computing"
"""Of a table of parts, after the name; the last is the share of its seconds in which the process had a processor."""


@dataclass(frozen=True)
class TimeShare:
    """What one stage, activity or shape took: its name, seconds, share of the clock, and share of its seconds computed."""

    name: str
    seconds: float
    share: float
    cpu: float

    def cells(self) -> tuple[str, str, str, str]:
        """The part as a row of a table."""
        computed = percent(round(min(self.cpu / self.seconds, 1.0), 2)) if self.seconds > 0 else ""
        return self.name, f"{self.seconds:.1f}", percent(round(self.share, 3)), computed


@dataclass(frozen=True)
class TimeSpent:
    """The time of a study in three tables, and what of it was its overhead.

    Attributes:
        overhead: the share that was neither training nor evaluation nor confirmation.
        waited: the share in which this process had no processor.
    """

    seconds: float
    overhead: float
    waited: float
    stages: list[TimeShare]
    activities: list[TimeShare]
    shapes: list[TimeShare]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TimeSpent | None:
        """From what ``study.json`` holds; None where it says nothing of it."""
        told = [row for row in rows(record.get("clock")) if number_or_nan(row.get("seconds")) > 0]
        total = sum(row["seconds"] for row in told)
        if not told:
            return None

        def by(key: str, among: Sequence[dict[str, Any]] = told) -> list[TimeShare]:
            found: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
            for row in among:
                both = found[text(row.get(key))]
                both[0] += row["seconds"]
                both[1] += number_or_nan(row.get("cpu"))
            return [TimeShare(name, wall, wall / total, cpu) for name, (wall, cpu) in found.items()]

        kept = (TRAINING, BATCHES, EVALUATION)
        useful = [
            row for row in told
            if row.get("stage") == CONFIRMATION or (row.get("activity") in kept and row.get("stage") != PACE)
        ]  # fmt: skip
        computed = sum(number_or_nan(row.get("cpu")) for row in told)
        trained = [row for row in told if row.get("activity") == TRAINING]
        return cls(
            total, 1.0 - sum(row["seconds"] for row in useful) / total, max(0.0, 1.0 - computed / total),
            by("stage"), _largest(by("activity")), _largest(by("of", trained)),
        )  # fmt: skip

    def __str__(self) -> str:
        lines = [self.sentence]
        for title, parts in self.tables:
            lines += ["", *table([(title, *COLUMNS), *(part.cells() for part in parts)], ruled=True)]
        return "\n".join(lines)

    @property
    def tables(self) -> list[tuple[str, list[TimeShare]]]:
        """The parts by stage, by activity, and of training by network, each with its title."""
        titled = [("stage", self.stages), ("activity", self.activities), ("training, by network", self.shapes)]
        return [(title, parts) for title, parts in titled if parts]

    @property
    def sentence(self) -> str:
        """The three numbers that sum it up."""
        return (
            f"Of {self.seconds:.1f} s, {percent(round(self.overhead, 3))} was neither training nor evaluation nor confirmation; in "
            f"{percent(round(self.waited, 3))} this process waited for a processor or a disk."
        )


def _largest(parts: list[TimeShare]) -> list[TimeShare]:
    return sorted(parts, key=lambda part: -part.seconds)
