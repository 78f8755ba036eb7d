"""A trained model in a folder: safetensors and JSON, never pickle. Loading runs nobody's code."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_weights
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from wellposed.core.batches import examples_in
from wellposed.core.errors import DataError, FormatError, InputError, first_line, listed
from wellposed.core.files import meant, read_json, spelled, write_atomically, write_json
from wellposed.core.reading import read_bytes
from wellposed.core.schemas import validate
from wellposed.data.arrays import Arrays, tensors
from wellposed.data.tables import TableEncoder
from wellposed.data.target_columns import AnyTarget, TargetColumns, target_from_dict
from wellposed.losses.distributions import Distribution, Quantiles
from wellposed.losses.per_example import Loss
from wellposed.training.evaluate import Forward, batches_of, call, evaluating
from wellposed.training.problem import Problem
from wellposed.training.ready_problems import ARCHITECTURES
from wellposed.training.run import Run

SCHEMA = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save_run(run: Run, folder: str | Path, within: str | Path | None = None) -> Path:
    """Write the weights, how the model is built, and how rows are encoded. Of a user's own factory only the weights are written;
    `load` then needs the problem.

    Args:
        within: the folder of a study, below which no link is followed; by default ``folder`` itself.
    """
    return Saved.of(run).write_to(folder, within)


@dataclass(frozen=True)
class Saved:
    """A model as it was saved, ready to predict."""

    model: nn.Module
    task: str
    encoder: TableEncoder | None
    target: AnyTarget | None
    forward: Forward = call
    loss: Loss = field(default_factory=lambda: Loss("squared_error"))
    description: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: Run) -> Saved:
        """The model of a run, with the description that its folder has."""
        problem, prepared = run.problem, run.problem.prepared
        factory = problem.model
        name = getattr(factory, "name", None)
        known = name in ARCHITECTURES and hasattr(factory, "settings")
        settings = factory.settings(prepared, **run.recipe.model) if known else dict(run.recipe.model)  # type: ignore[attr-defined]
        description = {
            "schema": SCHEMA,
            "architecture": name if known else None,
            "settings": spelled(settings),
            "task": prepared.task,
            "metric": problem.metric.name if problem.metric else None,
            "loss": None if problem.loss.criterion is None else str(problem.loss),
            "encoder": prepared.encoder.to_dict() if prepared.encoder else None,
            "target": prepared.target.to_dict() if prepared.target else None,
            "recipe": str(
                run.recipe
            ),  # which shows a function by its name: no model is lost by a schedule of one's own
            "seed": run.seed,
        }
        return cls(
            run.model, prepared.task, prepared.encoder, prepared.target, problem.forward, problem.loss, description
        )

    def write_to(self, folder: str | Path, within: str | Path | None = None) -> Path:
        """Write what `load` reads; see `save_run`."""
        folder = Path(folder)
        within = folder if within is None else within
        # A tied tensor is written under each of its names; safetensors refuses shared memory.
        weights = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in self.model.state_dict().items()}
        write_atomically(folder / WEIGHTS, save(weights), within)
        write_json(folder / DESCRIPTION, self.description, within)
        return folder

    def outputs(self, inputs: Any) -> Tensor:
        if self.encoder is not None:
            inputs = torch.from_numpy(self.encoder.transform(inputs))
        inputs = tensors(inputs)
        rows = Arrays(inputs, torch.zeros(examples_in(inputs)))  # of which only the inputs matter
        with evaluating(self.model):
            try:
                return torch.cat([self.forward(self.model, x) for x, _ in batches_of(rows)])
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise DataError(
                    f"The saved model does not take these rows: {first_line(error)}. Give what it was trained on; if these are, "
                    "its files are damaged."
                ) from error

    def predict(self, inputs: Any) -> dict[str, np.ndarray]:
        """``prediction``, of several targets ``prediction_<target>``, and for classes ``p_<class>``, one value a row.

        Where the loss knows the target's distribution, the prediction is its mean, and ``low`` and ``high`` are the ends of the
        central interval that holds the target with probability 0.9 (``low_<target>``, ``high_<target>``); where the loss is of
        quantiles it is the median, and there is a column ``quantile_<level>`` for each. A warning says where a column of new
        rows is not as it was in training.
        """
        if hasattr(inputs, "__len__") and len(inputs) == 0:
            raise DataError("There is no row to predict.")
        for doubt in () if self.encoder is None else self.encoder.doubts(inputs):
            warnings.warn(doubt, stacklevel=2)
        outputs = self.outputs(inputs)
        if not bool(torch.isfinite(outputs).all()):
            raise FormatError(
                "The saved model gives outputs that are no numbers: its training diverged, or its weights are damaged. "
                "Take another run, or train again."
            )
        if self.task != "classification" or isinstance(self.target, TargetColumns):
            found = self._numbers("prediction", self.loss.response(outputs))
            for name, level in self._levels().items():
                found |= self._numbers(name, cast(Distribution, self.loss.distribution).quantile(outputs, level))
            return found
        outputs = self.loss.response(outputs)
        if outputs.shape[-1] == 1 or outputs.ndim == 1:  # one logit, of the second class
            positive = outputs.reshape(-1).double().sigmoid()
            chances = torch.stack([1 - positive, positive], 1).numpy()
        else:
            chances = outputs.softmax(-1).numpy().astype(np.float64)
        best = chances.argmax(-1)
        names = [str(i) for i in range(chances.shape[1])] if self.target is None else self.target.classes or []
        if len(names) != chances.shape[1]:
            raise FormatError(
                f"The saved model has {chances.shape[1]} outputs and its target {len(names)} classes; its files are damaged "
                "or of two models."
            )
        labels = best if self.target is None else self.target.inverse(best)
        return {"prediction": labels, **{f"p_{name}": chances[:, i] for i, name in enumerate(names)}}

    def _levels(self) -> dict[str, float]:
        if isinstance(self.loss.criterion, Quantiles):
            return {f"quantile_{level:g}": level for level in self.loss.criterion.levels}
        return {} if self.loss.distribution is None else {"low": 0.05, "high": 0.95}

    def _numbers(self, name: str, values: Tensor) -> dict[str, np.ndarray]:
        """Columns of numbers in the target's own terms, whose names begin with ``name``."""
        if isinstance(self.target, TargetColumns):
            return self.target.predictions(values, name)
        found = values.reshape(len(values), -1).numpy().astype(np.float64)
        found = found[:, 0] if found.shape[1] == 1 else found
        return {name: found if self.target is None else self.target.inverse(found)}


def load(folder: str | Path, problem: Problem | None = None) -> Saved:
    """Read the model that `save_run` wrote into ``folder``.

    Args:
        problem: builds the model where it came from a factory of the user's own.
    Raises:
        FormatError: a file is missing, damaged, or of another schema.
        InputError: the model is of a user's own factory and no problem was given.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    written = read_json(path, SCHEMA, "model")
    description = validate(Description, written, f"The model in '{path}'", ("architecture", "encoder", "target"))
    if description.encoder is not None and description.target is None:
        raise FormatError(
            f"The model in '{path}' is damaged: rows of a table are encoded, and their target is missing."
        )
    try:
        weights = read_weights(read_bytes(folder / WEIGHTS, "model", FormatError, called="file of weights"))
        model = _built(description.architecture, meant(description.settings), problem, folder, weights)
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise FormatError(f"The weights at '{folder / WEIGHTS}' do not fit the model: {first_line(error)}.") from None
    encoder, target = description.encoder, description.target
    return Saved(
        model.eval(),
        description.task,
        None if encoder is None else TableEncoder.from_dict(encoder),
        None if target is None else target_from_dict(target),
        call if problem is None else problem.forward,
        _loss(description.loss, folder),
        written,
    )


@dataclass(frozen=True)
class Description:
    """What `save_run` writes about a model, as far as it is needed again."""

    settings: dict[str, Any]
    task: Literal["classification", "regression"]
    architecture: str | None = None
    encoder: dict[str, Any] | None = None
    target: dict[str, Any] | None = None
    loss: str | None = None


def _loss(loss: str | None, folder: Path) -> Loss:
    """The loss that was trained; one whose outputs are the predictions for a loss that was not written."""
    try:
        return Loss("squared_error" if loss is None else loss)
    except InputError as error:
        raise FormatError(f"'{folder / DESCRIPTION}' is damaged: {error}") from None


def _built(
    name: str | None, settings: dict[str, Any], problem: Problem | None, folder: Path, weights: dict[str, Tensor]
) -> nn.Module:
    if name is None:
        if problem is None:
            raise InputError(f"The model in '{folder}' was built by a problem file; give it again as FILE.py:NAME.")
        return problem.build(settings, seed=0)
    if name not in ARCHITECTURES:
        raise FormatError(f"'{folder}' holds a model of kind {name!r}; this wellposed builds {listed(ARCHITECTURES)}.")
    try:
        with torch.device("meta"), _no_larger(weights, folder):  # a trial, which takes no memory
            ARCHITECTURES[name](**settings)
        return ARCHITECTURES[name](**settings)
    except FormatError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"The settings in '{folder / DESCRIPTION}' do not build a {name}: {error}.") from None


@contextmanager
def _no_larger(weights: dict[str, Tensor], folder: Path) -> Iterator[None]:
    """Inside the block, this thread builds no model with more parameters than there are weights: a file of a hundred bytes can ask
    for a ``depth`` of a million.
    """
    thread, tensors, numbers = threading.get_ident(), len(weights), sum(w.numel() for w in weights.values())

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, numbers
        if parameter is None or threading.get_ident() != thread:
            return
        tensors, numbers = tensors - 1, numbers - parameter.numel()
        if tensors < 0 or numbers < 0:
            raise FormatError(
                f"The weights at '{folder / WEIGHTS}' do not fit the model: '{folder / DESCRIPTION}' describes one with "
                f"more than their {sum(w.numel() for w in weights.values()):,} numbers in {len(weights):,} tensors."
            )

    counting = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        counting.remove()
