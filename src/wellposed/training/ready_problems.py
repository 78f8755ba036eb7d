"""Ready-made problems: from a table, from a set of images, from somebody's Python file."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from wellposed.core.errors import DataError, InputError, ProblemError, WellposedError, did_you_mean, listed, require
from wellposed.data.arrays import Source
from wellposed.data.columns import as_numbers, category_codes
from wellposed.data.data import Data, Prepared
from wellposed.data.images import arrays_in, image_tensor, pixel_statistics, read_npz
from wellposed.data.table_files import as_frame
from wellposed.data.tables import TableData, TargetEncoder
from wellposed.losses.metrics import metric as named_metric
from wellposed.losses.metrics import metrics
from wellposed.models.convnet import ConvNet
from wellposed.models.mlp import MLP
from wellposed.training.problem import Problem

TEST_SHARE = 0.2
"""Of the rows, that are kept for the confirmation where there are none of their own."""
PIECES = {"classification": 8, "regression": 16}
"""How many pieces each number of a table has, by task."""
TABLE_SPACE = {"width": [64, 128, 256, 512], "depth": [1, 2, 3, 4]}
"""Settings of a `TableMLP` that a search varies."""
ARCHITECTURES: dict[str, type[nn.Module]] = {"mlp": MLP, "convnet": ConvNet}
"""Models that can be built again from a saved run without anybody's code."""


class TableMLP:
    """Factory of an `MLP` for encoded rows. ``architecture`` says how a saved one is built again; with ``separable`` settings no
    norm reads all units of a layer, so that each can leave alone."""

    name = "mlp"
    separable: ClassVar[dict[str, Any]] = {"norm": False}

    def __call__(self, data: Prepared, width: int = 128, depth: int = 2, norm: bool = True) -> MLP:
        return MLP(**self.settings(data, width=width, depth=depth, norm=norm))

    @staticmethod
    def settings(data: Prepared, **chosen: Any) -> dict[str, Any]:
        return {"inputs": data.features, "outputs": data.outputs, **chosen}


class ImageConvNet:
    """Factory of a `ConvNet` that knows the training pixels' mean and spread."""

    name = "convnet"

    def __call__(self, data: Prepared, width: int = 16, depth: int = 3, hidden: int = 128) -> ConvNet:
        net = ConvNet(**self.settings(data, width=width, depth=depth, hidden=hidden))
        images, _ = data.train_clean.batch(torch.arange(min(len(data.train_clean), STATISTICS_ROWS)))
        mean, std = pixel_statistics(images)
        net.mean.copy_(mean)
        net.std.copy_(std)
        return net

    @staticmethod
    def settings(data: Prepared, **chosen: Any) -> dict[str, Any]:
        return {"channels": data.shape[0], "outputs": data.outputs, **chosen}


STATISTICS_ROWS = 4096
"""Images from which pixel statistics are learned: millions of pixels."""


RARE_SHARE = 0.4
"""A class is rare with less than this part of the rows that it would have if all classes had equally many."""


def rare_classes(target: Any) -> list[str]:
    """The names of classes so rare that a constant prediction, which never says them, has a high accuracy."""
    codes, names = category_codes(require("pandas", "tables").Series(target))
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    return [names[i] for i in np.flatnonzero(counts < RARE_SHARE * counts.sum() / len(names))]


def table_metric(table: TableData, class_weight: str | None = None) -> tuple[str, str]:
    """The metric that a table is scored by where none is named, and a sentence where it is not the usual one.

    Accuracy; balanced accuracy where classes are rare or shall count alike; R2 of numbers; the mean absolute error of
    levels, and of amounts whose logarithm is trained.
    """
    if table.task != "classification":
        return ("mae" if table.link != "none" or table.levels is not None else "r2"), ""
    if class_weight is not None:
        return (
            "balanced_accuracy",
            "Classes count alike: the score is the balanced accuracy, in which each class has the same weight.",
        )
    rare = rare_classes(table.target)
    if not rare:
        return "accuracy", ""
    counts = table.target.value_counts(normalize=True)
    constant = counts.iloc[0]
    said = (
        f"{len(rare)} of {len(counts)} classes {'is' if len(rare) == 1 else 'are'} rare ({listed(rare)}), and a "
        "constant prediction, which never "
        f"finds them, has an accuracy of {constant:.3g}: the score is the balanced accuracy, the mean over "
        "classes of the share that is found. "
        "--metric accuracy takes the accuracy, and --class-weight balanced trains for the balanced one."
    )
    return "balanced_accuracy", said


def table_problem(
    table: TableData,
    *,
    metric: str | None = None,
    test: tuple[Any, ...] | None = None,
    valid: float = 0.2,
    class_weight: str | None = None,
    pieces: bool = True,
) -> Problem:
    """A perceptron for a table: cross-entropy for classes, squared error of the standardized target for numbers.

    Args:
        table: what `prepare_table` gave.
        metric: a metric's name; None takes what `table_metric` says.
        test: features and target (and weight) of rows of their own for the confirmation; by default some are split off.
        valid: the share of the other rows on which is chosen.
        class_weight: ``"balanced"`` weighs each training row by ``rows / (classes * rows of its class)``.
        pieces: give the network features of each number beside itself, by `PIECES`; without them each number is one input.
    """
    classifying = table.task == "classification"
    check_metric(metric, classifying)
    if class_weight not in (None, "balanced"):
        raise InputError(f"There are no class weights {class_weight!r}; use balanced, or leave them out.")
    if class_weight and not classifying:
        raise InputError("Class weights are for classes, and this target is of numbers. Leave --class-weight out.")
    usual, said = table_metric(table, class_weight)
    data = Data(
        train=(table.frame, table.target), valid=valid, test=test, groups=table.groups, time=table.time,
        weight=table.weight, task=table.task, link=table.link, levels=table.levels, kinds={**table.readings},
        pieces=PIECES[table.task] if pieces else 0,
    )  # fmt: skip
    loss: Any = "cross_entropy" if classifying else "squared_error"
    # Other inputs are other data: a study of the one is not resumed with the other.
    sha256 = hashlib.sha256(f"{table.sha256} {data.pieces} pieces".encode()).hexdigest() if pieces else table.sha256
    if class_weight is not None:
        # The rows that are confirmed on are split off first: no weight is learned from them.
        data = data if test is not None else replace(data, test=TEST_SHARE)
        loss = nn.CrossEntropyLoss(weight=balanced_weights(data.prepare().train))
        sha256 = hashlib.sha256(f"{sha256} {class_weight}".encode()).hexdigest()
    return Problem(
        TableMLP(), loss, data, name=table.name,
        warnings=(*table.warnings, *filter(None, [said if metric is None else ""])), sha256=sha256, metric=metric or usual,
        space=TABLE_SPACE,
    )  # fmt: skip


def balanced_weights(source: Source) -> torch.Tensor:
    """``(classes,)``: ``n / (classes * n_c)`` of the (weighted) rows, so that all classes weigh alike; 1 for a class without
    rows."""
    target = source.targets()
    assert target is not None  # a table's targets are at hand
    counts = torch.bincount(target, weights=source.weight).double()
    there = counts > 0
    return torch.where(there, counts.sum() / (there.sum() * counts.clamp_min(1e-300)), 1.0).float()


def labelled_rows(frame: Any, table: TableData, weight: str | None = None) -> tuple[Any, ...]:
    """Features and target (and weight) of confirmation rows that come in a table of their own; rows without target are left out."""
    found = as_frame(frame)
    targets = [str(table.target.name)] if table.target.ndim == 1 else [str(name) for name in table.target.columns]
    for name in [*targets, *filter(None, [weight])]:
        if name not in found.columns:
            raise DataError(f"The test table has no column {name!r}.{did_you_mean(name, found.columns)}")
    found = found[found[targets].notna().all(axis=1)]
    if len(found) < 2:
        raise DataError(f"The test table has {len(found)} rows with a target; at least 2 are needed.")
    target = found[targets[0]] if len(targets) == 1 else found[targets]
    features = found.drop(columns=targets)
    return (features, target) if weight is None else (features, target, as_numbers(found[weight]))


def check_metric(name: str | None, classifying: bool) -> None:
    if name is None:
        return
    if named_metric(name).classifies != classifying:
        fitting = list(metrics(classifying))
        task = "classification" if classifying else "regression"
        raise InputError(
            f"The metric {name!r} is not for {task}.{did_you_mean(name, fitting)} Use one of {listed(fitting, 40)}."
        )


def image_problem(path: str | Path, *, metric: str | None = None) -> Problem:
    """A small convolutional network for an ``.npz`` of images."""
    arrays = read_npz(path)
    check_metric(metric, classifying=True)
    classes = np.unique(arrays["y_train"])

    def pair(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        return image_tensor(arrays[f"X_{part}"]), torch.from_numpy(np.searchsorted(classes, arrays[f"y_{part}"]))

    data = Data(train=pair("train"), test=pair("test") if "X_test" in arrays else None)
    problem = LabelledProblem(
        ImageConvNet(), "cross_entropy", data, name=Path(path).stem, metric=metric or "accuracy",
        space={"width": [8, 16, 32], "depth": [2, 3]},
    )  # fmt: skip
    problem.labels = tuple(classes.tolist())
    return problem


class LabelledProblem(Problem):
    """Classes keep the labels that they came with: predictions say 3 and 7, not 0 and 1."""

    labels: tuple[int, ...]

    @cached_property
    def prepared(self) -> Prepared:
        """The data, split once, and what its classes are called."""
        return replace(super().prepared, target=TargetEncoder("classification", self.labels))


def file_problem(reference: str) -> Problem:
    """Import ``FILE.py:NAME``, a `Problem` or a function without arguments that returns one. This runs the file, so it is only
    ever done for a reference that the user typed.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ProblemError(f"There is no file '{path}' to take a problem from; give FILE.py:NAME.")
    spec = importlib.util.spec_from_file_location(f"wellposed_problem_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ProblemError(f"'{path}' cannot be imported; it must be a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
        found = getattr(module, name, None)
        if found is not None and not isinstance(found, Problem) and callable(found):
            found = found()
    except WellposedError:
        raise
    except SystemExit as error:
        raise ProblemError(
            f"'{path}' ended the program by itself, with {error.code!r}; leave sys.exit() out."
        ) from error
    except Exception as error:
        raise ProblemError(f"'{path}' raised {type(error).__name__}: {error}.") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    if isinstance(found, Problem):
        return found
    problems = [key for key, value in vars(module).items() if isinstance(value, Problem)]
    if found is None:
        raise ProblemError(
            f"'{path}' has no {name!r}.{did_you_mean(name, problems)} Its problems: {listed(problems) or 'none'}."
        )
    raise ProblemError(
        f"'{path}:{name}' is {type(found).__name__}; it must be a wp.Problem. Its problems: {listed(problems) or 'none'}."
    )


def new_images(path: str | Path) -> torch.Tensor:
    """Images to predict: ``X_test`` of an ``.npz``, or its ``X`` or ``X_train``. Labels are not needed."""
    path = Path(path)
    images, names = arrays_in(path, ("X_test", "X", "X_train"))
    if not images:
        raise DataError(
            f"'{path}' has {listed(names) or 'nothing'}; images to predict are an array called X_test, X or X_train."
        )
    return image_tensor(next(iter(images.values())))
