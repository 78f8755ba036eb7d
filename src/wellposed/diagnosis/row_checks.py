"""What the rows themselves say: their order, copies on both sides, features that give the target away, wrong labels.

All of it is counted on rows that training did not choose, and comes with how many rows were looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from torch.utils.data import Subset as Part

from wellposed.core.errors import DataError
from wellposed.core.random import seeded
from wellposed.data.arrays import Items, Source, in_numpy, rows_of, source_of, split_batch
from wellposed.data.splits import duplicate_ids

Array = npt.NDArray[np.float64]

MOST_HASHED = 2**27  # numbers of both sides that are searched for copies: half a gibibyte of float32, about a second
MOST_JUDGED = 2048  # rows of each side by which single features are judged
MOST_FEATURES = 512  # tables are narrower; of what is wider no column stands for the target
MOST_TOKENS = 64  # letters, bases, classes of a feature; words have too many kinds to lie near one another
FEW_COLUMNS = 3  # in which rows that are no copies may agree all the same
NEAREST = 6  # rows that agree in a feature: enough to outvote a wrong label, few enough for a sharp boundary
BLOCKS = 16  # batches that are read to see in which order rows come


@dataclass(frozen=True)
class Copies:
    """Rows of validation that are in training too, as shares: of validation, and of training in the rest of training.

    ``rows`` validation rows were looked for among ``share`` of the training rows; ``known`` is whether both sides are
    rows of one Dataset by number; ``natural`` bounds how many copies a validation row has by chance, from the columns in which
    the fewest different rows agree.
    """

    valid: float
    within: float
    rows: int
    share: float
    known: bool
    natural: float = math.inf


@dataclass(frozen=True)
class Giveaway:
    """How much of the target a single feature explains on rows it was not fitted to: the best one, and the next."""

    feature: int
    explains: float
    next: float
    rows: int


@dataclass(frozen=True)
class Order:
    """How much more the targets within a batch resemble each other than any two do: 0 shuffled, 1 sorted."""

    resemblance: float
    z: float
    batches: int
    of: str


def array_source(given: Any, double: bool = False) -> Source | None:
    """The rows of a side where they are arrays, without fetching item by item; else None. ``double`` as of `source_of`."""
    if isinstance(given, Source):
        return given if given.arrays is not None else None
    if isinstance(given, DataLoader):
        if isinstance(given.dataset, Dataset) and given.batch_sampler is not None:
            try:
                kept = rows_of(given)
            except DataError:  # a sampler of its own: which rows it draws is not known
                return None
            source = source_of(given.dataset, given.collate_fn, double=double)
            return array_source(source if kept is None else source.subset(kept))
        return None
    if isinstance(given, (tuple, Dataset)):
        return array_source(source_of(given, double=double))
    return None


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch as a loader gives it; the batch itself where it has no known form."""
    try:
        inputs = split_batch(batch)[0]
    except DataError:  # the owner's forward= reads it in a way of its own
        return batch
    return next(iter(inputs.values())) if isinstance(inputs, dict) and len(inputs) == 1 else inputs


def exact_copies(train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], share: float = 1.0) -> Copies | None:
    """Exact copies of inputs and target on both sides; None where there is too much to search.

    Args:
        share: of all training rows that ``train`` are.
    """
    if train[0].numel() + valid[0].numel() > MOST_HASHED or train[0].shape[1:] != valid[0].shape[1:]:
        return None
    if train[1].shape[1:] != valid[1].shape[1:] or not len(valid[0]):
        return None
    count = len(train[0])
    both = [torch.cat([a.detach().cpu(), b.detach().cpu()]) for a, b in zip(train, valid, strict=True)]
    x, y = (in_numpy(side.reshape(len(side), -1)) for side in both)
    ids = duplicate_ids(np.ascontiguousarray(x), duplicate_ids(np.ascontiguousarray(y)))
    ours, theirs = ids[:count], ids[count:]
    _, inverse, counts = np.unique(ours, return_inverse=True, return_counts=True)
    within = float((counts[inverse] > 1).mean())
    found = float(np.isin(theirs, ours).mean())
    return Copies(found, within, len(theirs), share, False, _natural(x, ids, len(counts)))


def _natural(x: npt.NDArray[Any], ids: npt.NDArray[np.int64], different: int) -> float:
    """How many of ``different`` training rows agree with a row by chance, at most: as many as agree with it in `FEW_COLUMNS`
    columns, those in which the fewest different rows agree."""
    rows = x[np.unique(ids, return_index=True)[1]]
    count = len(rows)
    if count < 2:
        return math.inf
    some = rows.T[:: max(1, rows.shape[1] // MOST_FEATURES)]
    columns = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in some]
    finest = np.stack(sorted(columns, key=_agreeing)[:FEW_COLUMNS], axis=1)
    return different * _agreeing(np.unique(finest, axis=0, return_inverse=True)[1].reshape(-1)) / (count * (count - 1))


def _agreeing(codes: npt.NDArray[np.int64]) -> float:
    """Ordered pairs of rows with the same code."""
    counts = np.bincount(codes).astype(np.float64)
    return float((counts * (counts - 1)).sum())


def same_rows(train: Any, valid: Any) -> Copies | None:
    """Rows of one Dataset that both sides have by number; None where the sides are not parts of one Dataset."""
    ours, theirs = _numbered(train), _numbered(valid)
    if ours is None or theirs is None or ours[0] is not theirs[0]:
        return None
    rows = len(theirs[0]) if theirs[1] is None else len(theirs[1])
    if not rows:
        return None
    if ours[1] is None:
        shared = 1.0
    else:
        shared = float(len(np.unique(ours[1])) / rows if theirs[1] is None else np.isin(theirs[1], ours[1]).mean())
    return Copies(shared, 0.0, rows, 1.0, True)


def _numbered(side: Any) -> tuple[Any, npt.NDArray[np.int64] | None] | None:
    """The innermost Dataset and which of its rows a side has, None for all of them; None where that cannot be told.

    The numbers of all rows are not written out: a Dataset of windows over a text has as many rows as the text has words.
    """
    if isinstance(side, DataLoader):
        if side.batch_sampler is None or not hasattr(side.dataset, "__len__"):
            return None
        try:
            kept = rows_of(side)
        except DataError:  # a sampler of its own: which rows it draws is not known
            return None
        rows = None if kept is None else kept.numpy()
    elif type(side) is Part:
        rows = np.asarray(side.indices, dtype=np.int64)
    else:
        return (side, None) if isinstance(side, Dataset) and hasattr(side, "__len__") else None
    inner = _numbered(side.dataset)
    if inner is None or rows is None:
        return inner
    return inner[0], rows if inner[1] is None else inner[1][rows]


def giveaway(train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> Giveaway | None:
    """The single feature of a table that explains most of the target on validation rows, and the next best.

    A feature predicts by the nearest training rows: their mean target (class shares, for classes). It explains
    ``1 - error / error of the constant`` of the squared error on validation rows. None where the rows are no table of
    three features or more.
    """
    (x, y), (x_valid, y_valid) = ((_flat_table(side), _flat_target(side[1])) for side in (train, valid))
    if x is None or x_valid is None or y is None or y_valid is None or x.shape[1] != x_valid.shape[1]:
        return None
    if not 3 <= x.shape[1] <= MOST_FEATURES or min(len(x), len(x_valid)) < 50:
        return None
    if train[1].is_floating_point():
        y, y_valid = y[:, None], y_valid[:, None]
    else:  # a column for each class
        names = np.unique(np.concatenate([y, y_valid]))[:64]
        y, y_valid = ((numbers[:, None] == names).astype(np.float64) for numbers in (y, y_valid))
    constant = float(np.square(y_valid - y.mean(0)).sum())
    if constant <= 0:
        return None
    features = zip(x.T, x_valid.T, strict=True)
    explained = np.array([1 - _neighbours_error(a, y, b, y_valid) / constant for a, b in features])
    best = int(explained.argmax())
    # Copies of the best feature (the same number in another unit) are the same giveaway.
    strange = [j for j in range(x.shape[1]) if j != best and abs(_correlation(x[:, j], x[:, best])) < 0.99]
    return Giveaway(best, float(explained[best]), float(max(explained[strange], default=0.0)), len(x_valid))


def _flat_table(side: tuple[Tensor, Tensor]) -> Array | None:
    x = side[0]
    return x.detach().cpu().double().numpy() if x.ndim == 2 and x.is_floating_point() else None


def _flat_target(y: Tensor) -> Array | None:
    y = y.flatten(1).squeeze(1) if y.ndim > 1 and y[0].numel() == 1 else y
    return y.detach().cpu().double().numpy() if y.ndim == 1 else None


def _neighbours_error(x: Array, y: Array, x_valid: Array, y_valid: Array) -> float:
    """Squared error of the mean target of the training rows of the same value, or of the `NEAREST`."""
    by = np.argsort(x, kind="stable")
    x, sums = x[by], np.concatenate([np.zeros((1, y.shape[1])), np.cumsum(y[by], axis=0)])
    low, high = np.searchsorted(x, x_valid, side="left"), np.searchsorted(x, x_valid, side="right")
    few = high - low < NEAREST  # rows of the same value are enough where there are so many
    at = np.clip((low + high) // 2 - NEAREST // 2, 0, len(x) - NEAREST)
    low, high = np.where(few, at, low), np.where(few, at + NEAREST, high)
    means = (sums[high] - sums[low]) / (high - low)[:, None]
    return float(np.square(y_valid - means).sum())


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else 0.0


def row_order(given: Any, target_of: Any = None) -> Order | None:
    """In which order a loader gives its rows, by the targets of `BLOCKS` batches spread over it.

    None where the loader shuffles, the order is not known (a tuple of arrays is cut into batches by the loop), or a
    batch holds nearly all rows.
    """
    sampler = getattr(given.batch_sampler, "sampler", None) if isinstance(given, DataLoader) else None
    if type(sampler) is not SequentialSampler:
        return None
    size, dataset = given.batch_size or 0, given.dataset
    rows = len(dataset) if hasattr(dataset, "__len__") else 0
    if size < 2 or rows < 4 * size:
        return None
    count = min(BLOCKS, rows // size)
    starts = np.linspace(0, rows - size, count).astype(int)
    width = min(size, 32)  # of larger batches their beginning tells as much
    index = torch.from_numpy((starts[:, None] + np.arange(width)).reshape(-1))
    source = array_source(given)
    if source is not None:
        target: Any = source.batch(index)[1]
    else:
        with seeded(0, "order"):
            batch = Items(dataset, given.collate_fn).raw(index)
        target = target_of(batch) if target_of is not None else split_batch(batch)[1]
    y = _flat_target(target) if isinstance(target, Tensor) else None
    if y is None or len(y) != count * width:
        return None
    classes = not target.is_floating_point() or len(set(y.tolist())) <= 2
    return resemblance(y.reshape(count, width), classes)


def resemblance(y: Array, classes: bool) -> Order | None:
    """Intraclass correlation of targets within batches ``(batches, rows)``: ``1 - within / total``.

    For classes the variances are those of their indicators. ``z`` is its distance from 0 under shuffling, from the F
    statistic of the analysis of variance.
    """
    columns = (y[..., None] == np.asarray(sorted(set(y.flat)))).astype(np.float64) if classes else y[..., None]
    batches, rows = y.shape
    total = float(np.square(columns - columns.mean((0, 1))).sum())
    if total <= 0 or batches < 4:
        return None
    within = float(np.square(columns - columns.mean(1, keepdims=True)).sum())
    expected = batches * (rows - 1) / (batches * rows - 1)  # share of the variance that is within shuffled batches
    share = 1 - within / total / expected
    # Under shuffling the share has a standard deviation of about this, from F's degrees of freedom.
    spread = math.sqrt(2 * (batches - 1) / (batches * (rows - 1) * (batches * rows - 1)))
    return Order(max(share, 0.0), share / max(spread, 1e-12), batches, "class" if classes else "target")


@dataclass(frozen=True)
class Wrong:
    """Answers contradicted by their labels: among the surest fifth, and among all; with how many rows each.

    ``expected`` is the error rate of the most frequent class. ``shared`` is the share of the contradicted surest answers whose
    nearest rows have the contradicting label rather than the answer; NaN where rows cannot be compared.
    """

    sure: float
    sure_rows: int
    all: float
    rows: int
    expected: float
    shared: float = math.nan


def wrong_labels(outputs: Tensor, target: Tensor, inputs: Tensor | None = None) -> Wrong | None:
    """How often labels contradict the network where it is surest; None unless outputs are scores of classes.

    Errors from overlapping classes lie near the boundary, where the network is unsure; wrong labels lie anywhere. So
    the surest fifth, by the margin between the two best scores within each answer's class, shows them alone.
    """
    scores, y = (side[:, 0] if side.ndim == 2 and side.shape[1] == 1 else side for side in (outputs.double(), target))
    if y.ndim != 1 or len(y) < 100 or len(scores) != len(y) or not bool(torch.isfinite(scores).all()):
        return None
    if scores.ndim == 1:
        if not bool(((y == 0) | (y == 1)).all()):
            return None
        answers, margin = (scores > 0).long(), scores.abs()
    elif scores.ndim == 2 and not y.is_floating_point():
        best = scores.topk(2, dim=1)
        answers, margin = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
    else:
        return None
    errors = (answers != y.long()).double()
    sure = margin.argsort(descending=True)[: len(y) // 5]
    counts = torch.unique(y, return_counts=True)[1]  # not by number: one wrong label would take all memory
    shared = _shared(inputs, y.long(), answers, sure[errors[sure] > 0])
    return Wrong(
        float(errors[sure].mean()), len(sure), float(errors.mean()), len(y), 1 - float(counts.max()) / len(y), shared
    )


def _shared(inputs: Tensor | None, y: Tensor, answers: Tensor, wrong: Tensor) -> float:
    """Of rows ``wrong``, the share whose nearest rows have their label more often than the answer that was given."""
    if inputs is None or not inputs.is_floating_point() or len(inputs) != len(y) or not len(wrong):
        return math.nan
    x = inputs.detach().cpu().flatten(1).float()
    x = x[:, :: max(1, x.shape[1] // MOST_FEATURES)]
    x = (x - x.mean(0)) / x.std(0).clamp_min(1e-6)
    if not bool(torch.isfinite(x).all()):
        return math.nan
    near = torch.cdist(x[wrong], x).scatter_(1, wrong[:, None], math.inf).topk(NEAREST, largest=False).indices
    label, answer = (y[near] == y[wrong, None]).sum(1), (y[near] == answers[wrong, None]).sum(1)
    return float((label > answer).double().mean())


def leftover(
    train: tuple[Tensor, Tensor, Tensor], valid: tuple[Tensor, Tensor, Tensor], classes: bool, exclusive: bool
) -> float | None:
    """How surely what a network leaves of the targets is the same in rows that lie close: a z score, 0 on average for noise.

    What is left of a validation row, ``target - output`` (of classes their indicators minus their probabilities), is multiplied by
    the mean of what is left of the `NEAREST` training rows; the sum is divided by the root of the sum of squares.

    Args:
        train, valid: outputs, targets and inputs, each of as many rows.
        classes: outputs are scores of classes; ``exclusive`` of such that a row is one of, whose probabilities sum to 1.
    Returns:
        The score; None where inputs are neither numbers nor few kinds of tokens, or fewer than 100 rows are known on a side.
    """
    ours, theirs = (_left(outputs, target, classes, exclusive) for outputs, target, _ in (train, valid))
    x, x_valid = (_placed(inputs) for *_, inputs in (train, valid))
    if ours is None or theirs is None or x is None or x_valid is None or min(len(ours), len(theirs)) < 100:
        return None
    if ours.shape[1:] != theirs.shape[1:] or x.shape[1:] != x_valid.shape[1:]:
        return None
    x, x_valid = (points[:, :: max(1, points.shape[1] // MOST_FEATURES)] for points in (x, x_valid))
    middle, scale = x.mean(0), x.std(0).clamp_min(1e-6)
    near = torch.cdist((x_valid - middle) / scale, (x - middle) / scale).topk(NEAREST, largest=False).indices
    shared = (theirs * ours[near].mean(1)).sum(1)
    size = float(shared.square().sum().sqrt())
    return float(shared.sum()) / size if math.isfinite(size) and size > 0 else None


def _placed(x: Tensor) -> Tensor | None:
    """Inputs as points ``(rows, numbers)``: numbers as they are, tokens of at most `MOST_TOKENS` kinds as their indicators."""
    x = x.detach().cpu().flatten(1) if x.ndim > 1 else x.detach().cpu()[:, None]
    if x.is_floating_point():
        return x.float()
    if not x.numel() or int(x.min()) < 0 or int(x.max()) >= MOST_TOKENS:
        return None
    return torch.nn.functional.one_hot(x.long(), MOST_TOKENS).flatten(1).float()


def _left(outputs: Tensor, target: Tensor, classes: bool, exclusive: bool) -> Tensor | None:
    """What is left of each target, ``(rows, outputs)``; None where outputs and targets do not fit."""
    scores, y = outputs.detach().cpu().double(), target.detach().cpu()
    scores = scores.flatten(1) if scores.ndim > 1 else scores[:, None]
    if classes and scores.shape[1] > 1 and not y.is_floating_point() and y.ndim == 1:
        return torch.nn.functional.one_hot(y.long().clamp(0, scores.shape[1] - 1), scores.shape[1]) - scores.softmax(1)
    y = y.double().flatten(1) if y.ndim > 1 else y.double()[:, None]
    said = scores.softmax(1) if exclusive else scores.sigmoid() if classes else scores
    return None if y.shape != scores.shape else y - said


def code_gain(train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> tuple[float, float, float] | None:
    """Hit rates of two ridge fits on validation rows: of class indicators, and of the class number, rounded.

    Where numbers are names of classes, the first wins by far; where they count or rank, it does not.

    Returns:
        Both hit rates and the standard error of their paired difference; None where inputs are no numbers.
    """
    (x, y), (x_valid, y_valid) = ((_features(side[0]), _flat_target(side[1])) for side in (train, valid))
    if x is None or x_valid is None or y is None or y_valid is None or min(len(y), len(y_valid)) < 50:
        return None
    center, scale = x.mean(0), x.std(0)
    keep = scale > 0
    if not keep.any():
        return None
    x, x_valid = ((v[:, keep] - center[keep]) / scale[keep] for v in (x, x_valid))
    names = np.unique(y)
    hot = (y[:, None] == names).astype(np.float64)
    both = np.concatenate([hot, y[:, None]], axis=1)
    mean = both.mean(0)
    gram = x.T @ x + 0.1 * len(x) * np.eye(x.shape[1])  # a tenth of a feature's variance: enough to be stable
    fitted = x_valid @ np.linalg.solve(gram, x.T @ (both - mean)) + mean
    by_class = names[fitted[:, :-1].argmax(1)] == y_valid
    rounded = names[np.abs(fitted[:, -1:] - names).argmin(1)] == y_valid
    difference = by_class.astype(float) - rounded
    return float(by_class.mean()), float(rounded.mean()), float(difference.std() / math.sqrt(len(difference)))


def _features(x: Tensor) -> Array | None:
    if x.ndim < 2 or not x.is_floating_point():
        return None
    flat = x.detach().flatten(1).double().cpu().numpy()
    return flat[:, :: max(1, flat.shape[1] // MOST_FEATURES)]
