"""The findings about one source and about several, and how they read: for people, in a notebook, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from wellposed.core.files import jsonable
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
    def best_epoch(self) -> int | None:
        """The epoch, as the source numbers it, with the lowest validation loss (training loss where there is none).

        A step where the curves run along steps; of a broken epoch, the whole epochs before it.
        """
        index = measure.best_index(self.curves)
        return None if index is None else int(self.curves.epoch[index])

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
    def __getitem__(self, index: int | slice) -> Finding | Sequence[Finding]:
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
        rows = [
            _html_row(
                f"<b>{escape_html(finding.name)}</b>", f"{finding.confidence:.2f}",
                escape_html(f"{finding.axis} | {finding.pulls}"), _html_told(finding),
            )
            for finding in self.findings
        ]  # fmt: skip
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


def _html_table(head: Sequence[str], rows: Sequence[str]) -> str:
    style = "text-align:left;padding:.2em 1.2em .2em 0"
    heads = "".join(f'<th style="{style}">{name}</th>' for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _html_row(*cells: str) -> str:
    style = "text-align:left;vertical-align:top;padding:.2em 1.2em .2em 0"
    whole = f'<td style="{style};white-space:nowrap">'  # the last cell has the sentences, which may wrap
    inside = "".join(f"{whole}{cell}</td>" for cell in cells[:-1])
    return f'<tr>{inside}<td style="{style}">{cells[-1]}</td></tr>'


def _html_told(finding: Finding) -> str:
    """What it says, its numbers as a table, and what to do."""
    rows = [_html_row(*map(escape_html, row)) for row in evidence_rows(finding.evidence)]
    table = _html_table(("what", "value", "interval"), rows) if rows else ""
    return f"{escape_html(finding.says)}{table}{'<br>'.join(map(escape_html, finding.advice))}"


def _extent(diagnosis: Diagnosis) -> str:
    along = diagnosis.axis == "epoch"
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
    def __getitem__(self, index: int | slice) -> Diagnosis | Sequence[Diagnosis]:
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
        rows = [
            HEAD,
            *(_row(self.diagnoses[position], self.diagnoses[position][index]) for position, index in self.order),
        ]
        sizes = [max(len(row[i]) for row in rows) for i in range(len(HEAD) - 1)]
        room = None if width is None else max(width - sum(sizes) - 2 * len(sizes), 20)
        lines = []
        for row in rows:
            cells = [
                cell.rjust(size) if right else cell.ljust(size)
                for cell, size, right in zip(row[:-1], sizes, RIGHT, strict=True)
            ]
            lines.append("  ".join([*cells, shorten_middle(row[-1], room)]).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table, and each diagnosis behind a click."""
        rows = [_row(self.diagnoses[position], self.diagnoses[position][index]) for position, index in self.order]
        table = _html_table(HEAD, [_html_row(*map(escape_html, row)) for row in rows])
        parts = [(escape_html(f"{', '.join(one.names)} · {one.source}"), one._repr_html_()) for one in self.worst_first]
        return table + "".join(f"<details><summary>{title}</summary>{inside}</details>" for title, inside in parts)


HEAD = ("finding", "confidence", "beside it", "best", "of", "turned", "rise", "source")
RIGHT = (False, True, False, True, True, True, True)


def _row(one: Diagnosis, worst: Finding) -> tuple[str, ...]:
    turned = one.turn
    certain = turned if turned is not None and turned.certain else None
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
