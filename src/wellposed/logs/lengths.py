"""Columns of different lengths -> rows: a loss a batch beside a loss an epoch, one look more or less than there are epochs."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wellposed.core.errors import listed

Cells = Sequence[float | None]
PLACES = ("epoch", "step")
FEWEST_PER_LOOK = 5  # training values for each validation; 60 beside 30 may as well be of a validation that began late
FEWEST_LOOKS = 3


@dataclass(frozen=True)
class Looks:
    """Which row each value of a side is of.

    Args:
        train, valid: a row for each value.
        count: of rows.
        note: what had to be assumed.
        evenly: validation was spread over the training values, of which so many came before each look.
        places: of the rows, and what they count, where they were given for validation.
    """

    train: Sequence[int]
    valid: Sequence[int]
    count: int
    note: str = ""
    evenly: bool = False
    places: tuple[str, Sequence[float]] | None = None


def made_rows(raw: Mapping[str, Cells], looked: Mapping[str, Cells], notes: list[str]) -> dict[str, Cells]:
    """Cells of equal length, where it is clear of which row each is; else as they are.

    Args:
        raw: cells by our names.
        looked: epochs or steps of validation, by what they count, where a column of its own gives them.
        notes: gets what had to be assumed or left out, a sentence each.
    """
    lengths = {name: len(cells) for name, cells in raw.items()}
    if len({*lengths.values()}) < 2:
        return dict(raw)
    train, valid = (lengths.get(f"{side}_loss", lengths.get(f"{side}_metric", 0)) for side in ("train", "valid"))
    looks = _looks(raw, train, valid, looked)
    known = {looks.count, train, valid} if looks else set()
    if looks is None or any(lengths.get(place, looks.count) not in known for place in PLACES):
        return dict(raw)
    rows = {name: placed for name, cells in raw.items() if (placed := _placed(name, cells, looks)) is not None}
    if not rows.keys() & {*PLACES} and (looks.evenly or looks.places):
        axis, places = looks.places or ("step", range(looks.count))
        rows[axis] = [*places]
    left = [f"{name} ({lengths[name]})" for name in raw if name not in rows and name not in PLACES]
    notes += [looks.note] * bool(looks.note)
    notes += [f"Left out, since they have another length than the losses: {listed(left)}."] * bool(left)
    return rows


def _looks(raw: Mapping[str, Cells], train: int, valid: int, looked: Mapping[str, Cells]) -> Looks | None:
    if train == valid or not train or not valid:
        count = max(train, valid)
        return Looks(range(train), range(valid), count)
    if (given := _as_given(raw, train, valid, looked)) is not None:
        return given
    if valid == train + 1:  # as of a trainer that first tries whether validation runs
        note = "There is one validation more than training values: it is taken to be of before the first epoch."
        return Looks(range(1, valid), range(valid), valid, note)
    if train == valid + 1:
        note = "There is one training value more than validations: its epoch, the last, is taken not to have been validated."
        return Looks(range(train), range(valid), train, note)
    if valid >= FEWEST_LOOKS and train >= FEWEST_PER_LOOK * valid:
        note = (
            f"{train} training values to {valid} of validation: validation is taken to have come as often throughout."
        )
        return Looks(range(train), [train * (look + 1) // valid - 1 for look in range(valid)], train, note, evenly=True)
    return None


def _as_given(raw: Mapping[str, Cells], train: int, valid: int, looked: Mapping[str, Cells]) -> Looks | None:
    """Looks at the places that a column of validation gives, each at the last training value that is not after it."""
    for axis, cells in looked.items():
        at = [cell for cell in cells if cell is not None]
        if train < valid or len(at) != valid or any(b <= a for a, b in itertools.pairwise(at)):
            continue
        own = [cell for cell in raw.get(axis, ()) if cell is not None]
        places = own if len(own) == train else [*range(train)] if at[-1] < train else [*range(1, train + 1)]
        if any(b <= a for a, b in itertools.pairwise(places)) or not places[0] <= at[0] or at[-1] > places[-1] + at[0]:
            continue
        rows = [bisect.bisect_right(places, one) - 1 for one in at]
        if len({*rows}) == valid:
            return Looks(range(train), rows, train, places=(axis, places))
    return None


def _placed(name: str, cells: Cells, looks: Looks) -> Cells | None:
    """A column with a cell in each row; None where its length says nothing."""
    if len(cells) == looks.count:
        return cells
    if name in PLACES:
        if not looks.evenly:
            return None
        return [cells[min(bisect.bisect_left(looks.valid, row), len(cells) - 1)] for row in range(looks.count)]
    for rows in (looks.train, looks.valid):
        if len(cells) == len(rows):
            filled: list[float | None] = [None] * looks.count
            for row, cell in zip(rows, cells, strict=True):
                filled[row] = cell
            return filled
    return None
