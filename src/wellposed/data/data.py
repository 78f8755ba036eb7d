"""`Data`: what a problem is trained, validated and tested on, split once and prepared on training rows only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from wellposed.core.batches import tensors_in
from wellposed.core.checks import Seed, Within, checked
from wellposed.core.errors import DataError, described, did_you_mean
from wellposed.core.numbers import convert_numbers
from wellposed.data.arrays import Arrays, Source, Subset, array_of, in_numpy, source_of, weight_tensor
from wellposed.data.readings import Notation
from wellposed.data.splits import duplicate_ids, split
from wellposed.data.table_files import as_frame
from wellposed.data.tables import TableEncoder, TargetEncoder, Task, infer_task
from wellposed.data.target_columns import AnyTarget, Link, TargetColumns

TASKS = ("classification", "regression")
MOST_CLASSES = 2**18
"""More classes than this need as many labels: one wrong label must not ask for a model of millions of outputs."""
DUPLICATE_BYTES = 2**30
"""Arrays up to a gibibyte are searched for exact duplicates."""


@checked
@dataclass(frozen=True)
class Data:
    """Arrays, tensors, frames, Datasets or DataLoaders, and how they are split.

    Args:
        train: ``(X, y)`` of arrays, tensors or frames; a map-style Dataset; a DataLoader over one.
        valid: a share in (0, 1) of the training rows, or data of its own like ``train``.
        test: data of its own, a share in (0, 1) of the training rows, or None.
        groups: one id for each training row; a group never straddles a split.
        time: one time for each training row; the latest rows are held out.
        weight: one number >= 0 for each training row; means are weighted by it.
        train_clean: the training rows without augmentation, row for row, for like-for-like losses.
        collate_fn: makes a batch of a list of items.
        task: ``"classification"`` or ``"regression"``; None lets the target's type decide.
        split_seed: which rows are held out; fixed during a study.
        kinds: kinds of a frame's columns, or how they were read, overriding what is inferred; for a frame only.
        link: ``"log"`` trains on the logarithm of a frame's amounts, so that predictions are never below 0; ``"none"`` on
            themselves.
        levels: of a frame's ordinal target, from the lowest on; a prediction is then the nearest level.
        pieces: in 0..64, how many more features each number of a frame has at most; 0 for the number alone. See `TableEncoder`.
    """

    train: Any
    valid: Any = 0.2
    test: Any = None
    groups: Any = None
    time: Any = None
    weight: Any = None
    train_clean: Any = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    task: str | None = None
    split_seed: Seed = 0
    kinds: dict[str, str | Notation] | None = None
    link: Link = "none"
    levels: tuple[Any, ...] | None = None
    pieces: Annotated[int, Within(0, 64)] = 0

    def __post_init__(self) -> None:
        convert_numbers(self, "valid", "test")

    def prepare(self, standardize: bool = True, of_numbers: Task | None = None) -> Prepared:
        """Split the rows and encode them; the result is the same for the same ``split_seed``.

        Args:
            standardize: the numeric target of a frame is shifted and scaled to mean 0 and deviation 1 on training rows.
            of_numbers: the task of a target of numbers, where `task` is None and the loss says it; else the target's type decides.
        Raises:
            DataError: something given cannot be used.
        """
        if self.task is not None and self.task not in TASKS:
            raise DataError(
                f"There is no task {self.task!r}.{did_you_mean(self.task, TASKS)} Use {' or '.join(TASKS)}."
            )
        _check_used(self)
        if _is_frame_pair(self.train):
            return _prepare_frames(self, standardize, of_numbers)
        return _prepare_sources(self, of_numbers)


@dataclass(frozen=True)
class Prepared:
    """Sources for training, validation and test, and what a model's factory needs to know of them.

    ``places`` are the numbers of the training and of the validation rows among the rows that were given as ``train=``; None
    where validation data are of their own, and of a part of the rows.
    """

    train: Source
    train_clean: Source
    valid: Source
    test: Source | None
    task: str
    shape: tuple[int, ...]
    outputs: int
    encoder: TableEncoder | None = None
    target: AnyTarget | None = None
    warnings: tuple[str, ...] = ()
    places: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def features(self) -> int:
        """Numbers in one example's input."""
        return math.prod(self.shape)

    def limited(self, rows: int, seed: int) -> Prepared:
        """The same with at most ``rows`` training rows, stratified by class; validation and test stay whole."""
        if rows >= len(self.train):
            return self
        classes = _classes_of(self.train.targets()) if self.task == "classification" else None
        _, kept = split(len(self.train), rows / len(self.train), seed=seed, stream="rows", target=classes)
        index = torch.from_numpy(np.asarray(kept))
        return self.of_rows(index)

    def of_rows(self, index: Tensor) -> Prepared:
        """The same with the training rows at ``index`` alone, in that order; validation and test stay whole."""
        changed = {"train": self.train.subset(index), "train_clean": self.train_clean.subset(index), "places": None}
        return Prepared(**{**self.__dict__, **changed})


def _check_used(data: Data) -> None:
    """Refuse what would be ignored."""
    if _is_frame_pair(data.train):
        for name in ("train_clean", "collate_fn"):
            if getattr(data, name) is not None:
                raise DataError(f"{name}= is for arrays and Datasets; a frame is encoded row by row. Leave it out.")
        return
    if data.link != "none" or data.levels is not None:
        name = "link" if data.link != "none" else "levels"
        raise DataError(
            f"{name}= says how the target of a frame (X, y) is encoded; encode the target of arrays yourself."
        )
    if data.pieces:
        raise DataError("pieces= is for the numbers of a frame (X, y); arrays are taken as they are. Leave it out.")
    if data.kinds:
        raise DataError(
            "kinds= names the kinds of a frame's columns, and these data are no frame (X, y). Give X as a frame, such as "
            'pandas.DataFrame(X, columns=["a", "b"]).'
        )


def _is_frame_pair(given: Any) -> bool:
    return isinstance(given, (tuple, list)) and len(given) == 2 and hasattr(given[0], "columns")


def _indices(data: Data, rows: int, target: np.ndarray | None, duplicates: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Row numbers of train, validation and test; test first, so that it does not depend on the validation share."""
    everything = np.arange(rows)
    groups, time = _column(data.groups, rows, "groups"), _column(data.time, rows, "time")

    def part(index: np.ndarray, share: float, stream: str) -> tuple[np.ndarray, np.ndarray]:
        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[index]

        rest, held = split(
            len(index), share, seed=data.split_seed, stream=stream,
            target=of(target), groups=of(groups), time=of(time), duplicates=of(duplicates),
        )  # fmt: skip
        return index[rest], index[held]

    test = valid = everything[:0]
    if _is_share(data.test, "test"):
        everything, test = part(everything, data.test, "test")
    if _is_share(data.valid, "valid"):
        everything, valid = part(everything, data.valid, "valid")
    return everything, valid, test


def _is_share(value: Any, name: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if not 0 < value < 1:
        raise DataError(f"{name}= as a share must be between 0 and 1; it was given {value!r}.")
    return True


def _column(values: Any, rows: int, name: str) -> np.ndarray | None:
    if values is None:
        return None
    array = array_of(values, f"{name}=")
    if array.shape != (rows,):
        raise DataError(f"{name}= needs one value for each of the {rows} training rows; it has shape {array.shape}.")
    return array


def _classes_of(target: Tensor | None) -> np.ndarray | None:
    if target is None or target.is_floating_point() or target.ndim != 1:
        return None
    return target.numpy()


def _prepare_sources(data: Data, of_numbers: Task | None) -> Prepared:
    train = source_of(data.train, data.collate_fn, data.weight)
    clean = train if data.train_clean is None else source_of(data.train_clean, data.collate_fn, data.weight)
    if len(clean) != len(train):
        raise DataError(f"train_clean has {len(clean)} rows and train {len(train)}; they must be the same rows.")
    inputs, target = clean.batch(torch.arange(min(2, len(clean))))
    targets = clean.targets()
    known = target if targets is None else targets
    numbers = isinstance(known, Tensor) and known.is_floating_point()
    task = data.task or of_numbers or ("regression" if numbers else "classification")
    labels = _classes_of(train.targets()) if task == "classification" else None
    index, valid_index, test_index = _indices(data, len(train), labels, _duplicates(train))

    def part_or_own(given: Any, part: np.ndarray, name: str) -> Source:
        if _is_share(given, name):
            return Subset(clean, torch.from_numpy(part))
        return source_of(given, data.collate_fn)

    valid = part_or_own(_needed_valid(data), valid_index, "valid")
    test = None if data.test is None else part_or_own(data.test, test_index, "test")
    rows = torch.from_numpy(index)
    whole = len(index) == len(train)
    parts = (train, clean) if whole else (train.subset(rows), clean.subset(rows))
    shape = next((tuple(part.shape[1:]) for part in tensors_in(inputs)), ())
    outputs = _outputs_of(targets, target, task)
    return Prepared(*parts, valid, test, task, shape, outputs, places=_places(data, index, valid_index))


def _needed_valid(data: Data) -> Any:
    if data.valid is None:
        raise DataError("valid= is needed: a share of the training rows such as 0.2, or data of its own.")
    return data.valid


def _places(data: Data, index: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    return (index, valid) if _is_share(data.valid, "valid") else None


def _duplicates(source: Source) -> np.ndarray | None:
    if not isinstance(source, Arrays) or not isinstance(source.inputs, Tensor):
        return None
    if source.inputs.numel() * source.inputs.element_size() > DUPLICATE_BYTES:
        return None
    rows = len(source)
    targets = duplicate_ids(in_numpy(source.target.reshape(rows, -1)))
    return duplicate_ids(in_numpy(source.inputs.reshape(rows, -1)), targets)


def _outputs_of(targets: Tensor | None, batch_target: Any, task: str) -> int:
    """Classes of a classification, numbers of a regression; 0 where it cannot be known from the targets."""
    if task == "classification":
        if targets is None or targets.is_floating_point():
            return 0
        classes = max(2, int(targets.max()) + 1)
        if classes > max(MOST_CLASSES, targets.numel()):
            raise DataError(
                f"The largest label is {classes - 1}, of {targets.numel()} labels: a model would need {classes} outputs. Number "
                "the classes 0, 1, 2, ..., or mend the label."
            )
        return classes
    if not isinstance(batch_target, Tensor):
        return 0
    return math.prod(batch_target.shape[1:])


def _prepare_frames(data: Data, standardize: bool, of_numbers: Task | None) -> Prepared:
    """Frames are encoded by what the training rows say, and only by that."""
    frame, target = as_frame(data.train[0]), _target_of(data.train[1])
    if len(frame) != len(target):
        raise DataError(f"X has {len(frame)} rows and y {len(target)}; they must be equally many.")
    several = target.ndim == 2
    amounts = several or data.link != "none" or data.levels is not None
    task = data.task or ("regression" if amounts else infer_task(target, of_numbers))
    if amounts and task == "classification":
        raise DataError(
            "Several targets, link= and levels= are for numbers (regression). Give one target of classes without them."
        )
    few = task == "classification" or data.levels is not None
    labels = target.astype("category").cat.codes.to_numpy() if few else None
    whole = frame.assign(**{f"y {n}": target[n] for n in target}) if several else frame
    duplicates = duplicate_ids(whole, None if several else target)
    index, valid_index, test_index = _indices(data, len(frame), labels, duplicates)
    encoder = TableEncoder.fit(frame.iloc[index], data.kinds, data.pieces)
    if amounts:
        answers: AnyTarget = TargetColumns.fit(target, data.link, data.levels, index)
    else:
        answers = TargetEncoder.fit(target.iloc[index] if task == "regression" else target, task)
    if not standardize and task == "regression":
        if amounts:
            raise DataError("Several targets, link= and levels= are for losses of numbers, such as squared_error.")
        answers = TargetEncoder("regression")
    weight = None if data.weight is None else weight_tensor(data.weight, len(frame))

    def rows(features: Any, outcome: Any, its_weight: Tensor | None) -> Arrays:
        x = torch.from_numpy(encoder.transform(features))
        return Arrays(x, torch.from_numpy(answers.transform(outcome)), its_weight)

    def of(part: np.ndarray) -> Arrays:
        its = None if weight is None else weight[torch.from_numpy(part)]
        return rows(frame.iloc[part], target.iloc[part], its)

    def part_or_own(given: Any, part: np.ndarray, name: str) -> Arrays:
        if _is_share(given, name):
            return of(part)
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3) or not hasattr(given[0], "columns"):
            raise DataError(
                f"{name}= is a share of the training rows, or (X, y) with a frame X as in train=; it was given {described(given)}."
            )
        its = weight_tensor(given[2], len(given[0])) if len(given) == 3 else None
        return rows(as_frame(given[0]), _target_of(given[1]), its)

    train, valid = of(index), part_or_own(_needed_valid(data), valid_index, "valid")
    test = None if data.test is None else part_or_own(data.test, test_index, "test")
    outputs = len(answers.classes) if answers.classes is not None else 1 if target.ndim == 1 else target.shape[1]
    places = _places(data, index, valid_index)
    return Prepared(train, train, valid, test, task, (len(encoder.names),), outputs, encoder, answers, places=places)


def _target_of(values: Any) -> Any:
    """A pandas Series of one target, or a DataFrame of several, with a plain index."""
    import pandas as pd

    if hasattr(values, "to_pandas"):
        values = values.to_pandas()
    if isinstance(values, pd.DataFrame):
        if not values.shape[1]:
            raise DataError("The target of a frame is at least one column; this one has 0.")
        values = values.iloc[:, 0] if values.shape[1] == 1 else values
    if isinstance(values, (pd.Series, pd.DataFrame)):
        return values.reset_index(drop=True)
    values = array_of(values, "The target")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"The target of a frame is one value for each row; this one has shape {values.shape}.")
    return pd.Series(values)
