"""The findings about one source and about several, and how they read: for people, in a notebook, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from wellposed.core.files import jsonable
from wellposed.core.formats import table
from wellposed.core.signs import escape_html, visible
from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.caveats import limitations as limits
from wellposed.diagnosis.caveats import reading_notes, reading_of
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding, evidence_rows
from wellposed.diagnosis.turning_point import Turn, format_place, turn

if TYPE_CHECKING:
    from wellposed.diagnosis.forks import Fork


@dataclass(frozen=True)
class Diagnosis(Sequence[Finding]):
    """The findings about one source, the surest first. Prints for people; `to_dict` is for programs."""

    findings: tuple[Finding, ...]
    curves: Curves
    proof: Fork | None = None
    """What the first changes that pull the levers are worth, where it was tried."""

    @property
    def source(self) -> str:
        """Where the curves came from: a path, or the kind of object."""
        return self.curves.source

    @property
    def axis(self) -> str:
        """What the curves run along: ``epoch``, or ``step`` where a log has no epochs."""
        return reading_of(self.curves).axis

    @property
    def best_epoch(self) -> int | float | None:
        """The epoch, as the source numbers it, with the lowest validation loss (training loss where there is none).

        A step where the curves run along steps; broken, as 5.976, where the source looked in the middle of an epoch.
        """
        index = measure.best_index(self.curves)
        if index is None:
            return None
        best = round(float(self.curves.epoch[index]), 6)
        return int(best) if best.is_integer() else best

    @property
    def names(self) -> list[str]:
        """Names of the findings, the surest first."""
        return [finding.name for finding in self.findings]

    @property
    def turn(self) -> Turn | None:
        """When validation turned, for how long and by how much it rose; None where it ended at its lowest."""
        return turn(self.curves)

    @property
    def limits(self) -> list[str]:
        """What cannot be known from these curves, a sentence each."""
        return limits(self.curves)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.findings[index]

    def __len__(self) -> int:
        return len(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """``{"source", "best_epoch", "findings", "turn", "epochs", "axis", "format", "columns", "left", "notes", "limits"}``.

        Ready for JSON: what is not finite becomes ``None``. ``columns`` says which column was taken for what.
        """
        reading, turned = reading_of(self.curves), self.turn
        return {
            "source": self.source,
            "best_epoch": self.best_epoch,
            "findings": [finding.to_dict() for finding in self.findings],
            "turn": None if turned is None else jsonable(turned.to_dict()),
            "epochs": len(self.curves),
            "axis": reading.axis,
            "format": reading.format,
            "columns": dict(reading.taken),
            "left": list(reading.left),
            "notes": list(reading.notes),
            "limits": self.limits,
            **({} if self.proof is None else {"proof": self.proof.to_dict()}),
        }

    def __str__(self) -> str:
        lines = [f"{self.source}: {', '.join(self.names)} ({_extent(self)})"]
        for finding in self.findings:
            lines += ["", f"{finding.name}, confidence {finding.confidence:.2f} · {finding.axis} | {finding.pulls}"]
            lines += [f"  {line}" for line in finding.lines]
        if self.proof is not None:
            lines += ["", *f"Tried: {self.proof}".splitlines()]
        if self.turn is not None:
            lines += ["", self.turn.says(self.axis)]
        if read_as := reading_notes(self.curves):
            lines += ["", "How it was read:", *(f"  - {sentence}" for sentence in read_as)]
        if self.limits:
            lines += ["", "Not known from these curves:", *(f"  - {sentence}" for sentence in self.limits)]
        return "\n".join(map(visible, lines))

    def _repr_html_(self) -> str:
        """The same as a notebook shows it, in whatever colours the notebook has."""
        parts = [f"<p><b>{escape_html(', '.join(self.names))}</b> · {escape_html(self.source)} · {_extent(self)}</p>"]
        rows = []
        for one in self.findings:
            evidence = [[escape_html(cell) for cell in row] for row in evidence_rows(one.evidence)]
            table = _html_table(("what", "value", "interval"), evidence) if evidence else ""
            told = f"{escape_html(one.says)}{table}{'<br>'.join(map(escape_html, one.advice))}"
            lever = escape_html(f"{one.axis} | {one.pulls}")
            rows.append((f"<b>{escape_html(one.name)}</b>", f"{one.confidence:.2f}", lever, told))
        parts.append(_html_table(("finding", "confidence", "axis | lever", "what it says"), rows))
        if self.turn is not None:
            parts.append(f"<p>{escape_html(self.turn.says(self.axis))}</p>")
        for title, sentences in (
            ("How it was read", reading_notes(self.curves)),
            ("Not known from these curves", self.limits),
        ):
            if sentences:
                items = "".join(f"<li>{escape_html(sentence)}</li>" for sentence in sentences)
                parts.append(f"<details><summary>{title}</summary><ul>{items}</ul></details>")
        return f"<div>{''.join(parts)}</div>"


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML; the last cell of a row has the sentences, which may wrap."""
    style, top = "padding:.2em 1.2em .2em 0", "text-align:left;vertical-align:top;"
    lines = []
    for row in rows:
        inside = "".join(f'<td style="{top}{style};white-space:nowrap">{cell}</td>' for cell in row[:-1])
        lines.append(f'<tr>{inside}<td style="{top}{style}">{row[-1]}</td></tr>')
    heads = "".join(f'<th style="text-align:left;{style}">{name}</th>' for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _extent(diagnosis: Diagnosis) -> str:
    along = diagnosis.axis == "epoch" and all(float(epoch).is_integer() for epoch in diagnosis.curves.epoch)
    best = diagnosis.best_epoch
    count = f"{len(diagnosis.curves)} {'epochs' if along else 'points'}"
    where = f"no {'epoch' if along else 'point'} has a finite loss" if best is None else f"best {diagnosis.axis} {best}"
    return f"{count}, {where}"


@dataclass(frozen=True)
class Diagnoses(Sequence[Diagnosis]):
    """The diagnoses of several sources, in the order in which they were given. Prints as a table, the worst first."""

    diagnoses: tuple[Diagnosis, ...]
    order: tuple[tuple[int, int], ...]
    """The worst first: a position among the diagnoses, and which of its findings puts it there."""

    @property
    def worst_first(self) -> tuple[Diagnosis, ...]:
        """The same, the most severe first; among equals the surest."""
        return tuple(self.diagnoses[position] for position, _ in self.order)

    @overload
    def __getitem__(self, index: int) -> Diagnosis: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Diagnosis]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.diagnoses[index]

    def __len__(self) -> int:
        return len(self.diagnoses)

    def __str__(self) -> str:
        return self.table()

    def table(self, width: int | None = None) -> str:
        """A row for each source, the worst first.

        Args:
            width: signs of a line; long names of sources are shortened to keep to it, None keeps them whole.
        """
        rows = [HEAD, *self._rows]
        *sizes, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
        room = None if width is None else max(width - sum(sizes) - 2 * len(sizes), 20)
        short = [(*cells, shorten_middle(source, room)) for *cells, source in rows]
        return "\n".join(table(short, right=RIGHT))

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        return [_row(self.diagnoses[position], self.diagnoses[position][index]) for position, index in self.order]

    def _repr_html_(self) -> str:
        """The table, and each diagnosis behind a click."""
        whole = _html_table(HEAD, [[escape_html(cell) for cell in row] for row in self._rows])
        parts = [(escape_html(f"{', '.join(one.names)} · {one.source}"), one._repr_html_()) for one in self.worst_first]
        return whole + "".join(f"<details><summary>{title}</summary>{inside}</details>" for title, inside in parts)


HEAD = ("finding", "confidence", "beside it", "best", "of", "turned", "rise", "source")
RIGHT = (1, 3, 4, 5, 6)
"""Columns of numbers."""


def _row(one: Diagnosis, worst: Finding) -> tuple[str, ...]:
    certain = one.turn if one.turn is not None and one.turn.certain else None
    rise = "" if certain is None else f"+{certain.rise:.3g}" if certain.percent is None else f"+{certain.percent:.3g} %"
    mark = "" if one.axis == "epoch" else "step "
    best = "-" if one.best_epoch is None else f"{mark}{one.best_epoch}"
    beside = ", ".join(name for name in one.names if name != worst.name)
    return (
        worst.name, f"{worst.confidence:.2f}", beside, best, str(len(one.curves)),
        "" if certain is None else format_place(certain.epoch), rise, visible(one.source),
    )  # fmt: skip


def shorten_middle(text: str, width: int | None) -> str:
    """Text of at most ``width`` signs, cut in the middle: paths differ at their ends."""
    if width is None or len(text) <= width:
        return text
    end = (width - 1) * 2 // 3
    return f"{text[: width - 1 - end]}…{text[-end:]}"
