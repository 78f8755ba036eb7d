"""What a score becomes where rows are not exchangeable: a cheap reference under a random split, beside one that keeps
entities or time.

Both splits score the same rows with equally many training rows, so that their difference is paired: of entities every row, of
an order its latest quarter. The reference is a forest of extremely randomized trees: it needs no tuning, and what a few like
rows give away it finds in small tables too. (Boosting does not: of 27 children with 4 rows each it uses none, since its leaves
have 20 rows.)
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wellposed.core.errors import InputError, require
from wellposed.core.formats import score
from wellposed.core.random import numpy_generator
from wellposed.core.shared import warnings_apart
from wellposed.data.encoding import TableEncoder, TargetEncoder
from wellposed.data.exchangeability import ROW_ORDER, Suspect
from wellposed.data.target_columns import TargetColumns
from wellposed.losses.metrics import in_own_terms, in_target_units
from wellposed.losses.metrics import metric as named_metric
from wellposed.search.references import answers, few_threads, log_shares

if TYPE_CHECKING:
    from wellposed.data.tables import TableData
    from wellposed.losses.score import Score

FOLDS = 4
MOST_ROWS = 5000  # of the table, so that the check takes seconds
TREES = 50
STRETCHES = 20  # of time, that count as draws
MOST_TRIED = 50  # features that are looked at in full; of more, the square root of their number at each split
LEAST_RISE = {True: (1.1, 0.0), False: (1.25, 2.0)}
"""By how much the error must rise, and by how many standard errors, to be worth a warning: less where a column speaks for it
beside the test, more where nothing but the order of the file does."""
SKILL = 0.2
"""Of what the reference knows beyond a constant: losing so much is worth a warning too, if it is two standard errors."""
Index = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Dependence:
    """A suspect, and the score of a forest on the same rows under either split.

    Attributes:
        at_random: rows of one entity, or of near times, are on both sides.
        apart: they are not.
        constant: the score of the same answer for every row.
        se: standard error of the difference, by clusters.
    """

    suspect: Suspect
    metric: str
    higher_is_better: bool
    at_random: float
    apart: float
    se: float
    constant: float = math.nan

    @property
    def fall(self) -> float:
        """How much worse the score becomes."""
        return (self.at_random - self.apart) if self.higher_is_better else (self.apart - self.at_random)

    @property
    def matters(self) -> bool:
        """Whether the error rises enough, or much of what the reference knew is lost."""
        least, error = self.at_random, self.apart
        if self.higher_is_better:
            least, error = 1.0 - least, 1.0 - error
        rise, errors = LEAST_RISE[self.suspect.named or self.suspect.kind == "group"]
        known = abs(self.at_random - self.constant)
        lost = rise < LEAST_RISE[False][0] and self.fall > max(SKILL * known, 2 * self.se)
        return lost or (self.fall > errors * self.se and error >= rise * least)

    @property
    def sentence(self) -> str:
        """The warning: what was found, what the score becomes, what to do."""
        column, values = self.suspect.column, self.suspect.values
        both = f"{self.metric} of a forest of trees is {score(self.at_random)}", f"{score(self.apart)}"
        if self.suspect.kind == "group":
            count = len(np.unique(values))
            named = f"The part of {column!r} before its last number" if self.suspect.part else f"Column {column!r}"
            part = "make a column of this part and give it with --group"
            how = part if self.suspect.part else f"give --group {column}"
            return (
                f"{named} names {count} entities with {len(values) / count:.3g} rows each, whose targets are alike: {both[0]} "
                f"where rows are split at random, and {both[1]} where an entity is held out whole. If new rows are of new "
                f"entities, {how}; the score promises too much otherwise."
            )
        order, when = f"Rows that follow each other in {column!r}", "If you will predict later rows"
        if column == ROW_ORDER:
            order, when = "Rows that follow each other in the file", "If the file is in the order of time"
        return (
            f"{order} have targets that are alike: on the last quarter {both[0]} where rows are split at random, and {both[1]} "
            f"where only earlier rows are trained on. {when}, give --time {column}; the score promises too much otherwise."
        )


def dependence(table: TableData, metric: str | None = None) -> list[Dependence]:
    """The suspects of a table that change the score of a reference, the largest fall first.

    Args:
        table: what `prepare_table` gave.
        metric: a metric's name.
    """
    if not table.suspects:
        return []
    require("sklearn", "tables")
    found = [measured for suspect in table.suspects if (measured := _measured(table, suspect, metric)) is not None]
    return sorted((one for one in found if one.matters), key=lambda one: -one.fall)


def _measured(table: TableData, suspect: Suspect, name: str | None) -> Dependence | None:
    """None where the metric is not defined on the rows of either split."""
    draw = numpy_generator(0, "dependence")
    kept = _kept(suspect, draw)
    frame, values = table.frame.iloc[kept], np.asarray(suspect.values)[kept]
    target = table.target.iloc[kept]
    metric, y, task = _scored_by(table, target, name)
    own = [suspect.column] if suspect.column in frame.columns and frame.shape[1] > 1 else []
    weight = None if table.weight is None else torch.from_numpy(table.weight[kept])
    scored, clusters = _scored(suspect, values, draw)
    chance = np.array_split(draw.permutation(len(kept)), FOLDS)
    strict = _strict_folds(suspect, values, scored, draw)

    def rows_of(outputs: torch.Tensor) -> torch.Tensor:
        return metric.rows(outputs[scored], torch.from_numpy(y[scored]), None if weight is None else weight[scored])

    rows = []
    try:
        with few_threads(np.empty((len(frame), frame.shape[1]))), warnings_apart():
            warnings.simplefilter("ignore")
            for folds, features in ((chance, frame), (strict, frame.drop(columns=own))):
                rows.append(rows_of(_out_of_fold(TableEncoder.fit(features).transform(features), y, task, folds)))
    except (ValueError, InputError):
        return None
    least = rows_of(_constant_outputs(y, task))
    lost = (rows[0] - rows[1]).numpy()
    sums = np.bincount(clusters, weights=lost - lost.mean())
    count = len(np.unique(clusters))
    se = math.sqrt(count / max(count - 1, 1) * float(np.square(sums).sum())) / len(lost)
    title = metric.title or metric.name.replace("_", " ")
    scores = (float(rows[0].mean()), float(rows[1].mean()), se, float(least.mean()))
    return Dependence(suspect, title, metric.higher_is_better, *scores)


def _constant_outputs(y: Any, task: str) -> torch.Tensor:
    """The logarithms of the classes' shares, or the mean, for every row."""
    if task == "classification":
        shares = np.bincount(y, minlength=int(y.max()) + 1) / len(y)
        return torch.from_numpy(np.log(np.clip(shares, 1e-12, 1.0))).expand(len(y), -1)
    return torch.from_numpy(np.broadcast_to(y.mean(axis=0), y.shape).astype(np.float64))


def _kept(suspect: Suspect, draw: np.random.Generator) -> Index:
    """Rows that are looked at: whole entities at random, or the latest."""
    values = np.asarray(suspect.values)
    if suspect.kind == "group":
        return np.sort(np.argsort(draw.permutation(int(values.max()) + 1)[values], kind="stable")[:MOST_ROWS])
    return np.sort(np.lexsort((draw.permutation(len(values)), values))[-MOST_ROWS:])


def _scored_by(table: TableData, target: Any, name: str | None) -> tuple[Score, Any, str]:
    """The metric, the encoded target, and the task."""
    if table.task == "classification":
        encoder = TargetEncoder.fit(target, "classification")
        return named_metric(name or "accuracy"), encoder.transform(target), "classification"
    if table.target.ndim == 2 or table.link != "none" or table.levels is not None:
        columns = TargetColumns.fit(target, table.link, table.levels)
        metric = named_metric(name or "r2")
        if columns.bent or metric.in_units:
            metric = in_own_terms(metric, columns.restored)
        return metric, columns.transform(target), "regression"
    encoder = TargetEncoder.fit(target, "regression")
    metric = in_target_units(named_metric(name or "r2"), encoder.scale, encoder.mean)
    return metric, encoder.transform(target), "regression"


def _scored(suspect: Suspect, values: Any, draw: np.random.Generator) -> tuple[Index, Index]:
    """The rows that are scored, and the cluster of each."""
    if suspect.kind == "group":
        return np.arange(len(values)), np.unique(values, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((draw.permutation(len(values)), values))
    latest = order[-(len(values) // FOLDS) :]
    return latest, np.arange(len(latest)) * STRETCHES // len(latest)


def _strict_folds(suspect: Suspect, values: Any, scored: Index, draw: np.random.Generator) -> list[Index]:
    """Held-out rows of each fold: whole entities, the fullest fold last served; or the latest rows alone."""
    if suspect.kind == "time":
        return [scored]
    ids = np.unique(values, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(ids)
    folds, filled = np.zeros(len(sizes), dtype=np.int64), np.zeros(FOLDS)
    for entity in sorted(draw.permutation(len(sizes)).tolist(), key=lambda one: -sizes[one]):
        folds[entity] = int(filled.argmin())
        filled[folds[entity]] += sizes[entity]
    return [np.flatnonzero(folds[ids] == fold) for fold in range(FOLDS)]


def _out_of_fold(x: Any, y: Any, task: str, folds: list[Index]) -> torch.Tensor:
    """Outputs for the rows of the folds, each from a model of the other rows; zeros for rows in no fold."""
    classes = int(y.max()) + 1 if task == "classification" else 0
    outputs = torch.zeros((len(y), classes) if classes else y.shape, dtype=torch.float64)
    for held in folds:
        rest = np.setdiff1d(np.arange(len(y)), held)
        columns = [((), y)] if y.ndim == 1 else [((k,), y[:, k]) for k in range(y.shape[1])]
        for place, goal in columns:
            model = _forest(task, x.shape[1]).fit(x[rest], goal[rest])
            said = answers(model, x[held], bool(classes))
            found = log_shares(said, classes) if classes else torch.from_numpy(said)
            outputs[(torch.from_numpy(held), *place)] = found
    return outputs


def _forest(task: str, features: int) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    kind = ExtraTreesClassifier if task == "classification" else ExtraTreesRegressor
    tried = 0.5 if features <= MOST_TRIED else "sqrt"
    return kind(TREES, min_samples_leaf=2, max_features=tried, random_state=0)
