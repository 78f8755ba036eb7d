"""Ready-made problems: from a table, from a set of images, from somebody's Python file."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wellposed.core.errors import DataError, InputError, ProblemError, WellposedError, did_you_mean, listed
from wellposed.data.data import Data, Prepared
from wellposed.data.images import arrays_in, image_tensor, pixel_statistics, read_npz
from wellposed.data.table_files import as_frame
from wellposed.data.tables import TableData, TargetEncoder
from wellposed.losses.metrics import metric as named_metric
from wellposed.losses.metrics import metrics
from wellposed.models.convnet import ConvNet
from wellposed.models.mlp import MLP
from wellposed.training.problem import Problem

ARCHITECTURES: dict[str, type[nn.Module]] = {"mlp": MLP, "convnet": ConvNet}
"""Models that can be built again from a saved run without anybody's code."""


class TableMLP:
    """Factory of an `MLP` for encoded rows. ``architecture`` says how a saved one is built again."""

    name = "mlp"

    def __call__(self, data: Prepared, width: int = 128, depth: int = 2, norm: bool = True) -> MLP:
        """A perceptron with as many inputs and outputs as the data need."""
        return MLP(**self.settings(data, width=width, depth=depth, norm=norm))

    @staticmethod
    def settings(data: Prepared, **chosen: Any) -> dict[str, Any]:
        """All arguments of the model's class."""
        return {"inputs": data.features, "outputs": data.outputs, **chosen}


class ImageConvNet:
    """Factory of a `ConvNet` that knows the training pixels' mean and spread."""

    name = "convnet"

    def __call__(self, data: Prepared, width: int = 16, depth: int = 3, hidden: int = 128) -> ConvNet:
        """A network with as many channels and outputs as the data need."""
        net = ConvNet(**self.settings(data, width=width, depth=depth, hidden=hidden))
        images, _ = data.train_clean.batch(torch.arange(min(len(data.train_clean), STATISTICS_ROWS)))
        mean, std = pixel_statistics(images)
        net.mean.copy_(mean)
        net.std.copy_(std)
        return net

    @staticmethod
    def settings(data: Prepared, **chosen: Any) -> dict[str, Any]:
        """All arguments of the model's class."""
        return {"channels": data.shape[0], "outputs": data.outputs, **chosen}


STATISTICS_ROWS = 4096
"""Images from which pixel statistics are learned: millions of pixels."""


def table_problem(
    table: TableData,
    *,
    metric: str | None = None,
    test: tuple[Any, Any] | None = None,
    valid: float = 0.2,
) -> Problem:
    """A perceptron for a table: cross-entropy for classes, squared error of the standardized target for numbers.

    Args:
        table: what `prepare_table` gave.
        metric: a metric's name; by default accuracy or R2.
        test: features and target of rows of their own for the confirmation; by default some are split off.
        valid: the share of the other rows on which is chosen.
    Raises:
        InputError: the metric is not known or not for this task.
    """
    classifying = table.task == "classification"
    check_metric(metric, classifying)
    data = Data(
        train=(table.frame, table.target), valid=valid, test=test,
        groups=table.groups, time=table.time, task=table.task, kinds={**table.readings},
    )  # fmt: skip
    return Problem(
        TableMLP(), "cross_entropy" if classifying else "squared_error", data, name=table.name,
        warnings=table.warnings, sha256=table.sha256,
        metric=metric or ("accuracy" if classifying else "r2"),
        space={"width": [64, 128, 256, 512], "depth": [1, 2, 3, 4]},
    )  # fmt: skip


def labelled_rows(frame: Any, table: TableData) -> tuple[Any, Any]:
    """Features and target of confirmation rows that come in a table of their own; rows without target are left out.

    Raises:
        DataError: the target's column is missing, or no row has a target.
    """
    found = as_frame(frame)
    target = str(table.target.name)
    if target not in found.columns:
        raise DataError(f"The test table has no column {target!r}.{did_you_mean(target, found.columns)}")
    found = found[found[target].notna()]
    if len(found) < 2:
        raise DataError(f"The test table has {len(found)} rows with a target; at least 2 are needed.")
    return found.drop(columns=[target]), found[target]


def check_metric(name: str | None, classifying: bool) -> None:
    """Refuse a metric of the other task.

    Raises:
        InputError: the metric is not known, or not for this task.
    """
    if name is None:
        return
    if named_metric(name).classifies != classifying:
        fitting = list(metrics(classifying))
        task = "classification" if classifying else "regression"
        raise InputError(
            f"The metric {name!r} is not for {task}.{did_you_mean(name, fitting)} Use one of {listed(fitting, 40)}."
        )


def image_problem(path: str | Path, *, metric: str | None = None) -> Problem:
    """A small convolutional network for an ``.npz`` of images.

    Raises:
        DataError: the file cannot be used.
    """
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
    """Import ``FILE.py:NAME``, a `Problem` or a function without arguments that returns one.

    This runs the file, so it is only ever done for a reference that the user typed.

    Raises:
        ProblemError: the file or the name is missing, the file raises, or the name is no problem.
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
    """Images to predict: ``X_test`` of an ``.npz``, or its ``X`` or ``X_train``. Labels are not needed.

    Raises:
        DataError: the file cannot be used.
    """
    path = Path(path)
    images, names = arrays_in(path, ("X_test", "X", "X_train"))
    if not images:
        raise DataError(
            f"'{path}' has {listed(names) or 'nothing'}; images to predict are an array called X_test, X or X_train."
        )
    return image_tensor(next(iter(images.values())))
