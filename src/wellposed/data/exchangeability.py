"""Are the rows of a table exchangeable? Columns of entities, dates and counters on which the target depends, before any split.

A random split supposes that a held-out row is to the training rows as a new row will be. Six rows of one patient, or the days
of one walk, break this. Two statistics see it, both sums of products ``u_i . u_j`` over pairs of rows: of one entity (the
intraclass correlation), or near each other in an order (the von Neumann ratio with more lags). ``u`` is what a linear fit to
the features leaves of the target's ranks, or of the indicators of its classes: what the features say of a row does not make it
dependent on others. Both statistics are judged by permutations of ``u``, so that all tests of a table together raise a false
alarm with probability at most `LEVEL` where the target is exchangeable (a fit to like rows makes their residuals unlike, never
alike), however the columns are distributed.

Whether it matters is another question: `wellposed.search.dependence` measures what the score becomes.

Source:
    Bartels (1982), JASA 77(377), for the rank von Neumann ratio; Freedman & Lane (1983), JBES 1(4), for permuting residuals;
    Besag & Clifford (1991), Biometrika 78(2), for stopping permutations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wellposed.core.errors import require
from wellposed.core.random import numpy_generator
from wellposed.data import columns
from wellposed.data.columns import as_numbers, category_codes, column_kind, distinct, is_text, ordered_values
from wellposed.data.readings import Floats, Integers

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.01
"""Probability of a false alarm for all tests of a table together, where the target is exchangeable."""
MOST_ROWS = 4000  # rows that are tested: enough power for any dependence that matters
ENOUGH = 10  # permutations that beat the table, after which no more are drawn
REACHES = (1, 2, 4, 8)  # rows ahead: a walk is seen by any, a slow drift in much noise by the longest
MOST_CLASSES = 20  # of thousands, each permutation would take seconds, and the rare ones tell little
MOST_COLUMNS = 100  # that are looked at: a table of hundreds of measurements has its entities and times among the first
MOST_LEVELS_FITTED = 10  # categories with more values are not fitted to
ROWS_PER_FEATURE = 10  # with fewer, nothing is fitted: a fit to noise leaves nothing
LEAST_ROWS = 40  # in fewer rows, an order or an entity shows in nothing
LEAST_ENTITIES, LEAST_UNNAMED = 6, 10
SEVERAL = 3  # columns
FAR = 5.0  # usual steps; the falls of a series that has a trend are about as long as its rises
LARGEST_ENTITY = 1 / 3  # of the rows; a larger one is a kind of row
ROW_ORDER = "rows"
"""What ``time=`` calls the order of the rows in the file."""

ENTITY = re.compile(
    r"(^|[_\W])(id|subject|patient|person|participant|user|customer|client|member|animal|family|household|device|sensor|station|site"
    r"|session|speaker|firm|company|store|shop|school|hospital|herd|batch|group|ticket|child|chick|name)s?(id|[_\W]|\d|$)",
    re.IGNORECASE,
)
"""How a column of entities is called."""
TIMELIKE = re.compile(
    r"(^|[_\W])(date|time|timestamp|datetime|year|yr|month|mnth|day|hour|week|quarter|period|t)([_\W]|$)", re.IGNORECASE
)
"""How a column of times is called."""
YEAR = re.compile(r"(^|[_\W])(year|yr)([_\W]|$)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Suspect:
    """A column, or the order of the rows, that a random split may not ignore.

    Attributes:
        kind: ``"group"`` for entities, ``"time"`` for an order.
        column: its name; `ROW_ORDER` for the order of the rows in the file.
        values: ``(rows,)`` ids of entities, or numbers in time order.
        p: probability of a dependence as strong as this in exchangeable rows.
        part: whether ids are only the beginnings of the column's texts.
        named: whether the column is called as entities are, or holds dates.
    """

    kind: Literal["group", "time"]
    column: str
    values: Integers | Floats
    p: float
    part: bool = False
    named: bool = True


def suspects(
    frame: pd.DataFrame, target: Any, classes: bool, *, skip: Sequence[str] = (), level: float = LEVEL, seed: int = 0
) -> tuple[Suspect, ...]:
    """The columns that show that rows are not exchangeable, entities first.

    Args:
        frame: ``(rows, columns)`` without the target; columns that name rows included.
        target: ``(rows,)`` or ``(rows, targets)``: class indices, or numbers.
        classes: whether targets are classes.
        skip: kinds that are not looked for, since the split minds them already.
        level: probability of any suspect where the target is exchangeable.

    Example:
        >>> import pandas as pd
        >>> person = np.repeat(np.arange(20), 5)
        >>> suspects(pd.DataFrame({"person": person}), np.sin(person), classes=False)[0].column
        'person'
    """
    if len(frame) < LEAST_ROWS:
        return ()
    frame = frame.iloc[:, :MOST_COLUMNS]
    scores = target_scores(np.asarray(target), classes)
    entities = [] if "group" in skip else list(_entities(frame))
    orders = [] if "time" in skip else list(_orders(frame))
    tests = len(entities) + len(orders)
    draw = numpy_generator(seed, "exchangeability")
    found: list[Suspect] = []
    for candidate in [*entities, *orders]:
        of_file = candidate.kind == "time" and np.array_equal(candidate.values, np.arange(len(frame)))
        if of_file and ("group" in skip or found):
            continue  # a file that is written entity after entity, or year after year, has an order for this reason alone
        kept, statistic = _statistic(candidate, draw)
        fitted = frame.iloc[kept].drop(columns=candidate.column, errors="ignore")
        if candidate.kind == "group":
            # What is one value in all rows of an entity tells it, and is no reason to let it go.
            fitted = fitted.drop(columns=_fixed(candidate.values.astype(np.int64)[kept], fitted))
        left = residuals(scores[kept], fitted)
        p = permutation_p(statistic, left, draw, level / tests)
        if p <= level / tests and not (of_file and _is_sorted(frame, np.asarray(target), classes)):
            found.append(replace(candidate, p=p))
    return tuple(found)


def residuals(scores: Floats, frame: pd.DataFrame) -> Floats:
    """What a linear fit to numbers (as ranks, with their squares and cubes) and small categories leaves of the scores; without
    squares and cubes, or the scores themselves, where there are too many.

    A curve that all entities share, such as a rise and a fall over time, would make the rows of one entity unlike each other.
    """
    terms: list[Floats] = [np.ones(len(scores))]
    bent: list[Floats] = []
    for name in frame.columns:
        kind = column_kind(frame[name])
        if kind == "number":
            x = as_numbers(frame[name])
            known = np.sort(x[np.isfinite(x)])
            # The mean of two numbers near the largest would overflow.
            middle = known[len(known) // 2] if len(known) else 0.0
            place = 2 * ranks(np.where(np.isfinite(x), x, middle)) / len(x) - 1
            terms.append(place)
            bent += [place**2, place**3]
        elif kind in ("category", "boolean"):
            codes, values = distinct(frame[name])
            if len(values) <= MOST_LEVELS_FITTED:
                terms += [(codes == level).astype(np.float64) for level in range(len(values))]
    if (len(terms) + len(bent)) * ROWS_PER_FEATURE <= len(scores):
        terms += bent
    if len(terms) * ROWS_PER_FEATURE > len(scores):
        return scores
    x = np.stack(terms, axis=1)
    return np.asarray(scores - x @ np.linalg.lstsq(x, scores, rcond=None)[0])


def target_scores(target: Any, classes: bool) -> Floats:
    """``(rows, k)``: ranks of each number, or indicators of the `MOST_CLASSES` largest classes, with mean 0 and one weight each."""
    y = np.asarray(target)
    if classes:
        classes_there, often = np.unique(y, return_counts=True)
        largest = classes_there[np.argsort(-often, kind="stable")[:MOST_CLASSES]]
        u = (y[:, None] == largest[None, :]).astype(np.float64)
    else:
        u = np.stack([ranks(one) for one in y.reshape(len(y), -1).T.astype(np.float64)], axis=1)
    u -= u.mean(axis=0)
    size = np.sqrt(np.square(u).mean(axis=0))
    return np.asarray(u / np.where(size > 0, size, 1.0))


def alike_within(u: Floats, ids: Integers) -> float:
    """``sum u_i . u_j`` over the pairs of one entity: large where its rows have like targets."""
    sums = np.stack([np.bincount(ids, weights=one) for one in u.T])
    return float(np.square(sums).sum() - np.square(u).sum())


def alike_nearby(u: Floats) -> float:
    """``sum_L sum_(l <= L) u_i . u_(i+l)`` over the reaches ``L`` of `REACHES`: large where neighbours have like targets.

    The nearest count most, since a swing of a dozen rows has both signs within its length.
    """
    sums, last = np.cumsum(u, axis=0), len(u) - 1
    ahead = sum(sums[np.minimum(np.arange(len(u)) + reach, last)] - sums for reach in REACHES)
    return float((u * ahead).sum())


def permutation_p(statistic: Callable[[Floats], float], u: Floats, draw: np.random.Generator, level: float) -> float:
    """Share of permutations of the rows of ``u`` whose statistic is as large as that of ``u`` itself.

    Valid at every level: the table itself counts as one permutation. After `ENOUGH` that are as large no more are drawn.
    """
    own, larger, most = statistic(u), 0, int(np.ceil(2.0 / level)) - 1
    for drawn in range(1, most + 1):
        larger += statistic(u[draw.permutation(len(u))]) >= own
        if larger == ENOUGH:
            return larger / drawn
    return (larger + 1) / (most + 1)


# --- which columns ---------------------------------------------------------------------------------------------------


def _statistic(suspect: Suspect, draw: np.random.Generator) -> tuple[Integers, Callable[[Floats], float]]:
    """Which rows are tested, and by what: whole entities, or rows side by side, up to `MOST_ROWS`."""
    rows = len(suspect.values)
    if suspect.kind == "group":
        ids = suspect.values.astype(np.int64)
        kept = np.argsort(draw.permutation(int(ids.max()) + 1)[ids], kind="stable")[:MOST_ROWS]
        own = np.unique(ids[kept], return_inverse=True)[1].reshape(-1)
        return kept, lambda u: alike_within(u, own)
    order = np.lexsort((draw.permutation(rows), suspect.values))  # equal times in random order
    start = max(0, (rows - MOST_ROWS) // 2)
    return order[start : start + MOST_ROWS], alike_nearby


def _entities(frame: pd.DataFrame) -> Iterator[Suspect]:
    """Columns whose values may each name an entity with several rows: by their name, or since they fix other columns, or since
    the file is a panel, in which another column counts up within each entity and begins anew in the next."""
    codes = {str(name): distinct(frame[name])[0] for name in frame.columns}
    for name, ids in codes.items():
        column = frame[name]
        kind = column_kind(column)
        whole = kind == "number" and _are_whole(as_numbers(column))
        if not (kind == "category" or whole) or TIMELIKE.search(name):
            continue
        part = False
        if is_text(column) and ids.max(initial=-1) + 1 >= 0.95 * len(ids):
            beginnings, part = _beginnings(column), True
            if beginnings is None:
                continue
            ids = beginnings
        ids = columns.apart_where_missing(ids)
        sizes = np.bincount(ids)
        count, rows = int((sizes > 0).sum()), len(ids)
        if rows < 1.5 * count or sizes.max() > LARGEST_ENTITY * rows:
            continue
        named = (ENTITY.search(name) is not None or part) and count >= LEAST_ENTITIES
        if named or (count >= LEAST_UNNAMED and (_fixes_another(ids, name, codes) or _is_panel(ids, frame, name))):
            yield Suspect("group", name, ids, 1.0, part, named)


def _are_whole(x: Floats) -> bool:
    there = x[np.isfinite(x)]
    return bool(len(there)) and bool((there == np.round(there)).all())


def _beginnings(column: pd.Series[Any]) -> Integers | None:
    """Ids of the texts without their last number: ``S01`` of ``S01_1``; None where texts are not all written so."""
    codes, names = category_codes(column)
    begins = [match[1] for name in names if (match := re.fullmatch(r"(.*\d)[-_./ ]\d+", name))]
    if not names or len(begins) < len(names) or (codes < 0).any():
        return None
    return np.asarray(require("pandas", "tables").factorize(np.array(begins, dtype=object))[0][codes])


def _neighbours(ids: Integers) -> tuple[Integers, Integers]:
    """Rows, and for each of them the next row of its entity."""
    order = np.argsort(ids, kind="stable")
    pairs = np.flatnonzero(np.diff(ids[order]) == 0)
    return order[pairs], order[pairs + 1]


def _fixed(ids: Integers, frame: pd.DataFrame) -> list[str]:
    """The columns that are the same in all rows of each entity."""
    one, next_one = _neighbours(ids)
    codes = {str(name): distinct(frame[name])[0] for name in frame.columns}
    return [name for name, values in codes.items() if (values[one] == values[next_one]).all()]


def _fixes_another(ids: Integers, name: str, codes: dict[str, Integers]) -> bool:
    """Whether another, coarser column is the same in all rows of each entity, as the sex of a patient is."""
    count = int(ids.max()) + 1
    one, next_one = _neighbours(ids)
    if len(one) < LEAST_ROWS:
        return False
    few = slice(0, LEAST_ROWS)  # most columns differ at once
    for other, values in codes.items():
        if other == name or (values[one[few]] != values[next_one[few]]).any():
            continue
        kinds = np.bincount(values[values >= 0], minlength=1)
        coarser = 2 <= (kinds > 0).sum() <= count / 2 and kinds.max() <= 0.9 * len(ids)
        if coarser and bool((values[one] == values[next_one]).all()):
            return True
    return False


def _is_panel(ids: Integers, frame: pd.DataFrame, name: str) -> bool:
    """Whether the rows of each entity lie together, and in some column numbers or dates rise from each to the next, as the years of
    a country do, and fall where another entity begins."""
    begins = np.flatnonzero(np.diff(ids)) + 1
    if len(begins) + 1 != len(np.unique(ids)):
        return False
    for other in frame.columns:
        moments = None if str(other) == name else ordered_values(frame[other])
        if moments is None:
            continue
        steps = np.diff(moments)
        between = np.zeros(len(steps), dtype=bool)
        between[begins - 1] = True
        if bool((steps[~between] > 0).all()) and float((steps[between] < 0).mean()) > 0.9:
            return True
    return False


def _orders(frame: pd.DataFrame) -> Iterator[Suspect]:
    """Dates and years; and the order of the file, by the counter that names it."""
    rows = np.arange(len(frame), dtype=np.float64)
    seen: list[Floats] = []
    counter = ROW_ORDER
    for name in map(str, frame.columns):
        x, dates = ordered_values(frame[name]), column_kind(frame[name]) == "date"
        if x is None or not np.isfinite(x).all() or len(np.unique(x)) < LEAST_ENTITIES:
            continue
        rises = bool((np.diff(x) >= 0).all()) and len(np.unique(x)) > len(x) / 2
        years = _are_whole(x) and bool(x.min() > 1500) and bool(x.max() < 2200)
        calendar = dates or (TIMELIKE.search(name) and rises) or (YEAR.search(name) and years)
        if not dates and _counts(x):
            counter = name if counter == ROW_ORDER else counter
        elif calendar and not any(_same_order(x, other) for other in seen):
            seen.append(x)
            yield Suspect("time", name, x, 1.0)
    if not any(_same_order(rows, other) for other in seen):
        yield Suspect("time", counter, rows, 1.0, named=False)


def _counts(x: Floats) -> bool:
    """Whether numbers count the rows, of which some may be left out."""
    return bool((np.diff(x) >= 1).all()) and _are_whole(x) and 2 * len(x) >= x[-1] - x[0] + 1


def _same_order(x: Floats, y: Floats) -> bool:
    return abs(float(np.corrcoef(ranks(x), ranks(y))[0, 1])) > 0.999


def _is_sorted(frame: pd.DataFrame, target: Any, classes: bool) -> bool:
    """Whether the file is sorted by the target or by a feature: then its order says nothing that they do not say.

    No sorting makes several columns rise nearly everywhere, each with short steps back of its own: they have trends.
    """
    y = np.asarray(target)
    goals = [y] if classes else list(y.reshape(len(y), -1).T)
    numbers = [as_numbers(frame[name]) for name in frame.columns if column_kind(frame[name]) == "number"]
    if sum(map(_trends, [*([] if classes else goals), *numbers])) >= SEVERAL:
        return False
    if any(_in_blocks(goal.astype(np.float64), classes) for goal in goals):
        return True
    for name in frame.columns:
        if TIMELIKE.search(str(name)):
            continue
        kind = column_kind(frame[name])
        x = as_numbers(frame[name]) if kind == "number" else distinct(frame[name])[0].astype(np.float64)
        if kind != "date" and not (kind == "number" and _counts(x)) and _in_blocks(np.nan_to_num(x), kind != "number"):
            return True
    return False


def _in_blocks(x: Floats, unordered: bool) -> bool:
    """Whether equal values lie together in few blocks, or numbers rise (or fall) nearly everywhere, and where they do not they go
    far back, as where another block begins. Short steps back are those of a series that has a trend."""
    steps = np.diff(x)
    values, counts = np.unique(x, return_counts=True)
    by_chance = 1 + len(steps) * (1 - np.square(counts / len(x)).sum())
    runs = 1 + int((steps != 0).sum())
    if len(values) > 1 and runs <= 3 * len(values) and 5 * runs <= by_chance:
        return True
    back, moved = _steps_back(steps)
    far = not len(back) or float(np.median(back)) > FAR * float(np.median(moved))
    return not unordered and len(back) < 0.05 * len(moved) and far


def _trends(x: Floats) -> bool:
    """Whether numbers rise (or fall) in most steps, and step back by no more than usual now and then."""
    back, moved = _steps_back(np.diff(np.nan_to_num(x.astype(np.float64))))
    return 0 < len(back) < 0.2 * len(moved) and float(np.median(back)) < FAR * float(np.median(moved))


def _steps_back(steps: Floats) -> tuple[Floats, Floats]:
    """The lengths of the steps against the direction of most, and all steps in that direction; none where they are too few."""
    moved = steps[steps != 0]
    moved = moved if len(moved) >= LEAST_ENTITIES else moved[:0]
    moved = moved if not len(moved) or np.median(moved) > 0 else -moved
    return -moved[moved < 0], moved


def ranks(x: Floats) -> Floats:
    """Ranks less one half, the mean rank for equal values."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - counts / 2)[inverse.reshape(-1)])
