"""Rows as they were written -> one entry an epoch, or one an evaluation where the curves run along steps.

What a resumed run wrote again replaces what it wrote before. Where validation is looked at every so many steps, the
training losses since the last look are averaged into one point beside it.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wellposed.logs.log import Array

Cells = Sequence[float | None]
FEWEST = 3  # evaluations that make a curve; with fewer, training alone says where the points lie
FEWEST_COUNTED = 5  # whole numbers from 0 or 1 on that are epochs rather than the first steps
MOST = 1000  # points of a training curve without evaluations: more would not be seen, and rules would be slow


@dataclass
class Points:
    """Curves of equal length, what they run along, and what had to be decided."""

    columns: dict[str, Array] = field(default_factory=dict)
    axis: str = "epoch"
    notes: list[str] = field(default_factory=list)


def points_from_cells(raw: Mapping[str, Cells], ours: bool = False) -> Points:
    """The curves that a log's cells make, one value for each epoch or step.

    Args:
        raw: cells by our names, of equal length; ``epoch`` and ``step`` say where each row belongs.
        ours: the rows are epochs of a history of ours, where a blank is a loss that was no number.
    """
    raw = dict(raw)
    losses: list[str] = [name for name in ("train_loss", "valid_loss") if name in raw]
    counted = {*raw.get("epoch", ())} - {None}
    several = any(sum(cell is not None for cell in raw[name]) > 1 for name in losses)
    if len(counted) == 1 and several and ("step" in raw or counted <= {0.0, 1.0}):  # it never counts on
        del raw["epoch"]
        steps = raw.get("step", ())
        pairs = ([*zip(steps, raw[name], strict=False)] for name in losses)
        own = ([step for step, loss in one if step is not None and loss is not None] for one in pairs)
        if not _mostly(steps) or any(b < a for one in own for a, b in itertools.pairwise(one)):
            raw["step"] = [*range(len(raw[losses[0]]))]
    if (usual := _as_they_are(raw, losses)) is not None:
        return usual
    if _of_an_epoch(raw):
        del raw["step"]
    key = _key(raw)
    notes: list[str] = []
    if key == "step" and "epoch" in raw:
        raw["epoch"] = _filled(raw["step"], raw["epoch"])
    if key is not None:
        raw = _current(raw, key, losses, notes)
    if key is not None and _along_steps(raw):
        found = _by_evaluation(raw, key, losses)
    else:
        raw.pop("step", None)
        found = _by_epoch(raw, losses, ours)
    found.notes = notes + found.notes
    return found


def _as_they_are(raw: Mapping[str, Cells], losses: Sequence[str]) -> Points | None:
    """The columns as arrays, where each row is the next epoch and has a loss, which is the usual log; else None.

    What the long way would give; it looks at cells one by one.
    """
    if "step" in raw or not any(raw[name] and None not in raw[name] for name in losses):
        return None
    count = len(raw[losses[0]])
    epochs = np.array(raw.get("epoch", range(count)), dtype=np.float64)  # None becomes NaN
    if not (np.isfinite(epochs).all() and (epochs == np.round(epochs)).all() and (np.diff(epochs) > 0).all()):
        return None
    others = {name: np.array(cells, dtype=np.float64) for name, cells in raw.items() if name != "epoch"}
    return Points({"epoch": epochs, **others})


def _key(raw: Mapping[str, Cells]) -> str | None:
    """The column that orders the rows: steps if the rows with losses have them, else epochs."""
    for name in ("step", "epoch"):
        cells = raw.get(name)
        if cells is not None and sum(cell is not None for cell in cells) * 2 > len(cells):
            return name
    return None


def _of_an_epoch(raw: Mapping[str, Cells]) -> bool:
    """Whether steps start again with each epoch, as numbers of batches do: then they order nothing."""
    if "step" not in raw or "epoch" not in raw:
        return False
    rows = [(s, e) for s, e in zip(raw["step"], raw["epoch"], strict=True) if s is not None and e is not None]
    back = [e < later for (s, e), (after, later) in itertools.pairwise(rows) if after < s]
    return sum(back) * 2 > len(back)


def _filled(steps: Cells, epochs: Cells) -> Cells:
    """Epochs in every row that has a step: those of the same step, else of the step before, in which they were logged."""
    pairs = {(s, e) for s, e in zip(steps, epochs, strict=True) if s is not None and e is not None}
    known = sorted((s, e) for s, e in pairs if math.isfinite(s) and math.isfinite(e))
    at = [s for s, _ in known]

    def epoch_of(step: float | None) -> float | None:
        found = bisect.bisect_right(at, step) if step is not None else 0
        return known[found - 1][1] if found else None

    return [epoch_of(s) if e is None else e for s, e in zip(steps, epochs, strict=True)]


def _whole(epochs: Cells) -> bool:
    return all(epoch is None or not math.isfinite(epoch) or epoch == round(epoch) for epoch in epochs)


def _along_steps(raw: Mapping[str, Cells]) -> bool:
    """Whether epochs are no good points: there are none, they are broken numbers, or most saw several evaluations."""
    epochs = raw.get("epoch")
    if epochs is None or not _whole(epochs):
        return True
    if "step" not in raw or "valid_loss" not in raw:
        return False
    looks: dict[float, int] = {}
    for epoch, loss in zip(epochs, raw["valid_loss"], strict=True):
        if epoch is not None and loss is not None:
            looks[epoch] = looks.get(epoch, 0) + 1
    return sum(count > 1 for count in looks.values()) * 2 > len(looks)


# Runs that begin anew, and runs that were resumed


def restarts(raw: Mapping[str, Cells]) -> list[tuple[int, int]]:
    """The rows of each run in cells whose epochs, or steps, begin anew: ``(first, one after the last)``.

    A resumed run goes back to some epoch; another run goes back to the first. A loss must have values on both sides of the
    place, as curves that stand one below the other have not.
    """
    count = max((len(cells) for cells in raw.values()), default=0)
    key = "step" if _mostly(raw.get("step")) and not _of_an_epoch(raw) else "epoch"
    if not _mostly(raw.get(key)):
        return [(0, count)]
    often = key == "step" and "epoch" in raw  # two looks at one step are no two runs where epochs count on
    places = [
        _places(raw[key], raw[name], often) for name in ("train_loss", "valid_loss", "valid_metric") if name in raw
    ]
    last = max((i for i, cell in enumerate(raw.get("train_loss", ())) if cell is not None), default=count)
    without = [[i for i in at if i > last] for at in places]  # runs without training losses, after those with them
    begins = {*_firsts([[i for i in at if i <= last] for at in places]), *_firsts(without)}
    return list(itertools.pairwise([0, *sorted(begins), count]))


def _firsts(places: Sequence[list[int]]) -> list[int]:
    """Where each run begins: the first of its columns, of those that begin as often as the first that begins anew does."""
    places = [one for one in places if one]
    return [min(at) for at in zip(*(one for one in places if len(one) == len(places[0])), strict=True)]


def _mostly(cells: Cells | None) -> bool:
    return cells is not None and sum(cell is not None for cell in cells) * 2 > len(cells)


def _places(keys: Cells, cells: Cells, often: bool) -> list[int]:
    """The rows of a column at which another run begins."""
    rows = [
        (i, k)
        for i, (k, cell) in enumerate(zip(keys, cells, strict=True))
        if cell is not None and k is not None and math.isfinite(k)
    ]
    once = not often and sum(a[1] == b[1] for a, b in itertools.pairwise(rows)) * 4 < len(rows)  # a row an epoch
    ordered = sum(a[1] > b[1] for a, b in itertools.pairwise(rows)) * 4 < len(rows)
    found: list[int] = []
    first = before = rows[0][1] if rows else 0.0
    seen = {first}
    pace = rows[1][1] - first if len(rows) > 1 else 0.0
    for at, (i, k) in enumerate(rows[1:], 1):
        later = [b - k for _, b in rows[at + 1 : at + 2]]
        counted = later == [k] and k not in (first, pace)  # of another pace, from its first count on: another stage
        if (k < before or (once and k == before)) and (k <= first or counted) and (ordered or k in seen):
            found.append(i)
            first, seen = k, set()
        before = k
        seen.add(k)
    return found


def counted_on(raw: Mapping[str, Cells], parts: Sequence[tuple[int, int]]) -> dict[str, Cells] | None:
    """Cells of a run whose writer counted one or two epochs and began anew, with epochs counted on; None for several runs."""
    key = "epoch" if "epoch" in raw else "step"
    sizes = [len({*raw[key][a:b]} - {None}) for a, b in parts]
    if len(parts) < FEWEST or max(sizes) > 2 or max(sizes) * len(sizes) > 2 * sum(sizes):
        return None
    counted: list[float | None] = []
    for number, (a, b) in enumerate(parts):
        lowest = min(cell for cell in raw[key][a:b] if cell is not None)
        counted += [None if cell is None else cell - lowest + 1 + number * max(sizes) for cell in raw[key][a:b]]
    return {**raw, key: counted}


# A run that was resumed


def _current(raw: dict[str, Cells], key: str, losses: Sequence[str], notes: list[str]) -> dict[str, Cells]:
    """Without the rows that a resumed run wrote again. Each column is looked at alone: some writers keep them apart."""
    kept = {name: cells if name in ("epoch", "step") else _superseded(raw[key], cells) for name, cells in raw.items()}
    for name in losses:
        gone = sum(cell is not None for cell in raw[name]) - sum(cell is not None for cell in kept[name])
        if gone:
            notes.append(
                f"The {key}s go back, as after a resume: what was written again replaces {gone} earlier "
                f"value{'' if gone == 1 else 's'} of {name}."
            )
            break
    said = [name for name in raw if name not in ("epoch", "step")]
    rows = [
        i
        for i in range(len(raw[key]))
        if any(kept[name][i] is not None for name in said) or all(raw[name][i] is None for name in said)
    ]  # a row that lost all it said is gone: left blank it would be one whose loss was no number
    return {name: [cells[i] for i in rows] for name, cells in kept.items()}


def _superseded(keys: Cells, cells: Cells) -> Cells:
    found = [
        (i, key) for i, (key, cell) in enumerate(zip(keys, cells, strict=True)) if cell is not None and key is not None
    ]
    rows, at = [i for i, key in found if math.isfinite(key)], [key for _, key in found if math.isfinite(key)]
    drops = sum(b < a for a, b in itertools.pairwise(at))
    if drops == 0 or drops * 4 > len(at):  # more than every fourth: rows in no order, not a resumed run
        return cells
    keep, lowest, after = set(), math.inf, math.inf
    for i, x in zip(reversed(rows), reversed(at), strict=True):
        if x > after:  # a drop lies behind this row: the part after it began at `after`
            lowest = min(lowest, after)
        if x < lowest:
            keep.add(i)
        after = x
    return [cell if i in keep else None for i, cell in enumerate(cells)]


# Points


def _by_epoch(raw: Mapping[str, Cells], losses: Sequence[str], ours: bool) -> Points:
    """The mean of what an epoch's rows know; rows without an epoch or without a loss are dropped."""
    count = max((len(cells) for cells in raw.values()), default=0)
    epochs = raw.get("epoch") or list(range(count))
    groups: dict[float, list[int]] = {}
    for index, epoch in enumerate(epochs):
        if epoch is not None and math.isfinite(epoch):
            groups.setdefault(float(epoch), []).append(index)
    every = sorted(groups)
    logged = [any(raw[name][i] is not None for name in losses for i in groups[e]) for e in every]
    kept = [e for e, has in zip(every, _epochs(logged, ours), strict=True) if has]
    merged = {"epoch": np.array(kept, dtype=np.float64)}
    once = len(groups) == sum(map(len, groups.values()))  # the usual log, which need not wait for means of one
    for name, cells in raw.items():
        if name != "epoch" and once:
            merged[name] = np.array([cells[groups[e][0]] for e in kept], dtype=np.float64)  # None becomes NaN
        elif name != "epoch":
            merged[name] = np.array([_mean([cells[i] for i in groups[e]]) for e in kept], dtype=np.float64)
    if once:
        return Points(merged)
    several = [name for name in losses if any(sum(_is_number(raw[name][i]) for i in groups[e]) > 1 for e in kept)]
    notes = [f"Several values of {name} in one epoch were averaged." for name in several]
    return Points(merged, "epoch", notes)


def _epochs(logged: list[bool], ours: bool) -> list[bool]:
    """Which rows are epochs: those that logged a loss, and the rows at the end if losses stopped being numbers there.

    Many writers leave a cell blank for NaN. Blank rows between others are sparse logging, and one at the end may hold
    the results of a test; more of them than ever before in one stretch, or any in a history of ours, mean divergence.
    """
    if True not in logged:
        return logged
    last = len(logged) - 1 - logged[::-1].index(True)
    tail = len(logged) - 1 - last
    longest = max((len(list(run)) for has, run in itertools.groupby(logged[:last]) if not has), default=0)
    broke = tail > max(longest, 0 if ours else 1)
    return [has or (broke and index > last) for index, has in enumerate(logged)]


def _is_number(cell: float | None) -> bool:
    return cell is not None and not math.isnan(cell)


def _mean(cells: Sequence[float | None]) -> float:
    """The mean of the known cells. NaN among numbers is a frame's blank; infinity stays."""
    known = [cell for cell in cells if cell is not None and _is_number(cell)]
    return sum(known) / len(known) if known else math.nan


def _by_evaluation(raw: Mapping[str, Cells], key: str, losses: Sequence[str]) -> Points:
    """One point for each evaluation: what was logged since the one before is averaged into it.

    Without at least three evaluations, one for each training loss, thinned to `MOST` by averaging.
    """
    series = {name: _series(raw[key], cells) for name, cells in raw.items() if name not in ("epoch", "step")}
    counted = None if key == "epoch" else _one_side_counts(series)
    series = counted or series
    anchor = "valid_loss" if len(series.get("valid_loss", ())) >= FEWEST or "train_loss" not in series else "train_loss"
    at = sorted({float(math.ceil(x)) if counted else x for x, _ in series[anchor]})
    if anchor == "train_loss" and len(at) > MOST:
        at = [at[round(i)] for i in np.linspace(0, len(at) - 1, MOST)]
    if anchor == "valid_loss" and (later := [x for x, y in series.get("train_loss", ()) if at and x > at[-1]]):
        values = [y for x, y in series["train_loss"] if x > at[-1]]
        if not all(math.isfinite(y) for y in values):  # training left the numbers after the last look
            at.append(later[-1])
    found = {name: _binned(entries, at) for name, entries in series.items()}
    axis, x = ("epoch", np.array(at)) if counted else _axis(raw, key, at)
    notes = []
    if counted:
        notes.append("One side counts its epochs, and the other its steps: both were taken to cover the same training.")
    binned = len(series.get("train_loss", ()))
    if axis == "step":
        notes.append("The curves run along steps, not epochs: where a finding counts epochs, it counts these points.")
    if anchor == "valid_loss" and binned > len(at):
        notes.append(f"{binned} training losses were averaged into {len(at)} points, one for each validation.")
    elif anchor == "train_loss" and binned > len(at):
        notes.append(f"{binned} training losses were averaged into {len(at)} points.")
    return Points({"epoch": x, **found}, axis, notes)


def _one_side_counts(series: Mapping[str, list[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]] | None:
    """Both sides in epochs where one has them as its steps, 0, 1, 2 ..., and the steps of the other run far beyond; else None."""
    keys = [[x for x, _ in series.get(name, ())] for name in ("train_loss", "valid_loss")]
    few, many = sorted(keys, key=lambda one: one[-1] if one else 0.0)
    if len(few) < FEWEST_COUNTED or few != [few[0] + i for i in range(len(few))] or few[0] not in (0, 1):
        return None
    if sum(x > few[-1] for x in many) * 2 < len(many):
        return None
    return {
        name: [(x if entries[-1][0] <= few[-1] else few[0] - 1 + x * len(few) / entries[-1][0], y) for x, y in entries]
        for name, entries in series.items()
        if entries
    }


def _series(keys: Cells, cells: Cells) -> list[tuple[float, float]]:
    """A column's values in the order of the key. NaN between numbers, or as often at the end, is a frame's blank."""
    known = [(float(k), float(c)) for k, c in zip(keys, cells, strict=True) if k is not None and c is not None
             and math.isfinite(k)]  # fmt: skip
    known.sort(key=lambda entry: entry[0])
    numbers = [not math.isnan(y) for _, y in known]
    if all(numbers) or not any(numbers):
        return known
    keep = _epochs(numbers, ours=True)
    return [entry for entry, kept in zip(known, keep, strict=True) if kept]


def _binned(entries: Sequence[tuple[float, float]], at: Sequence[float]) -> Array:
    """Means of the entries in ``(at[i-1], at[i]]``; what comes after the last point is left out."""
    bins: list[list[float | None]] = [[] for _ in at]
    for x, y in entries:
        i = bisect.bisect_left(at, x)
        if i < len(at):
            bins[i].append(y)
    return np.array([_mean(values) for values in bins], dtype=np.float64)


def _axis(raw: Mapping[str, Cells], key: str, at: Sequence[float]) -> tuple[str, Array]:
    """Epochs where they are known and tell the points apart, else steps."""
    steps = np.array(at, dtype=np.float64)
    if key == "epoch":
        return "epoch", steps
    if "epoch" in raw:
        latest: dict[float, float] = {}
        for step, epoch in zip(raw["step"], raw["epoch"], strict=True):
            if step is not None and epoch is not None and math.isfinite(epoch):
                latest[step] = max(epoch, latest.get(step, -math.inf))
        epochs = np.array([latest.get(step, math.nan) for step in at], dtype=np.float64)
        if np.isfinite(epochs).all() and (np.diff(epochs) > 0).all():
            return "epoch", epochs
    return "step", steps
