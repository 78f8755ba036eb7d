"""An estimator in a folder: JSON and safetensors, never pickle. Loading runs nobody's code.

estimator.json         settings, the encoder of the columns, and what was learned of the target
held_out.safetensors   what the networks say of rows that they have not learned from
member-0/, ...         the networks, as `wellposed.training.checkpoint` writes them
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from wellposed._version import __version__
from wellposed.core.checks import checked
from wellposed.core.errors import FolderInUse, FormatError, InputError, described, first_line
from wellposed.core.files import read_json, write_atomically, write_json
from wellposed.core.reading import read_bytes
from wellposed.core.schemas import Finite, Scale, Whole, validate
from wellposed.data.encoding import Label, TableEncoder
from wellposed.estimators.classifier import Classifier
from wellposed.estimators.ensemble import HeldOut, Members
from wellposed.estimators.networks import Networks
from wellposed.estimators.regressor import Regressor
from wellposed.losses.per_example import Loss
from wellposed.recipe.recipe import Recipe
from wellposed.training import checkpoint

SCHEMA = 1
DESCRIPTION, HELD_OUT, MEMBER = "estimator.json", "held_out.safetensors", "member-{}"
KINDS: dict[str, type[Networks]] = {"Classifier": Classifier, "Regressor": Regressor}
NotNegative = Annotated[Finite, Field(ge=0)]
NUMBERS = "biuf"
"""Kinds of numpy that classes may have, beside texts and objects."""


@dataclass(frozen=True)
class SavedEstimator:
    """What `save_estimator` writes beside the networks.

    Attributes:
        settings: of the estimator. classes, power: of a classifier; shift, scale, single, noise: of a regressor.
        kind_of_classes: a letter of numpy's, with its size for numbers.
    """

    kind: Literal["Classifier", "Regressor"]
    settings: dict[str, Any]
    columns: Annotated[int, Field(ge=1)]
    names: list[str] | None
    encoder: dict[str, Any]
    weights: Annotated[list[Scale], Field(min_length=1)]
    parts: list[Whole]
    classes: Annotated[list[Label], Field(min_length=2)] | None = None
    kind_of_classes: str = "O"
    power: Scale = 1.0
    shift: list[Finite] | None = None
    scale: list[NotNegative] | None = None
    noise: list[NotNegative] | None = None
    single: bool = True


def save_estimator(model: Networks, folder: str | Path) -> Path:
    """See `Networks.save`."""
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).exists()):
        raise FolderInUse(f"The folder '{folder}' holds something else; give another one.")
    names = getattr(model, "feature_names_in_", None)
    description: dict[str, Any] = {
        "schema": SCHEMA,
        "wellposed": __version__,
        "kind": next(name for name, kind in KINDS.items() if isinstance(model, kind)),
        "settings": _written(model.get_params(deep=False)),
        "columns": model.n_features_in_,
        "names": None if names is None else [str(name) for name in names],
        "encoder": model.encoder_.to_dict(),
        "weights": model.members_.weights.tolist(),
        "parts": list(model.members_.parts),
    }
    if isinstance(model, Classifier):
        classes = model.classes_
        kind = classes.dtype.kind
        if kind not in f"{NUMBERS}UO" or not all(isinstance(one, (bool, int, float, str)) for one in classes.tolist()):
            raise InputError(
                f"Classes of the type {classes.dtype} cannot be saved; give numbers or texts, such as {str(classes[0])!r}."
            )
        description |= {
            "classes": classes.tolist(), "power": model.power_,
            "kind_of_classes": f"{kind}{classes.dtype.itemsize}" if kind in NUMBERS else kind,
        }  # fmt: skip
    elif isinstance(model, Regressor):
        description |= {name: getattr(model, f"{name}_").tolist() for name in ("shift", "scale", "noise")}
        description["single"] = model.single_
    for place, member in enumerate(model.members_.models):
        member.write_to(folder / MEMBER.format(place), folder)
    held = model.held_out_
    parts = {f"{name}.{k}": part for name in ("y", "outputs", "counts") for k, part in enumerate(getattr(held, name))}
    write_atomically(folder / HELD_OUT, tensor_bytes({name: part.contiguous() for name, part in parts.items()}), folder)
    write_json(folder / DESCRIPTION, description, folder)
    return folder


def _written(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them: a recipe as TOML, a loss by its name, weights of classes as pairs; a random state is spent."""
    found = dict(settings)
    if isinstance(found.get("recipe"), Recipe):
        found["recipe"] = found["recipe"].to_toml()
    if "loss" in found:
        found["loss"] = str(Loss(found["loss"]))
    if isinstance(found.get("class_weight"), dict):
        found["class_weight"] = [[_plain(key), _plain(value)] for key, value in found["class_weight"].items()]
    if not isinstance(found["random_state"], (int, np.integer)):
        found["random_state"] = None
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (bool, int, float, str, list, type(None))):
        raise InputError(f"The setting {described(value)} cannot be saved. Give it as a number or a text.")
    return value


@checked
def load(folder: str | Path) -> Any:
    """The `Classifier` or `Regressor` that ``model.save(folder)`` wrote; it predicts as the one that was saved, bit for bit.

    Its study, and the rows that it learned from, are not in the folder.

    Raises:
        FormatError: the folder holds none, or one that is damaged or of another schema.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    found = validate(SavedEstimator, read_json(path, SCHEMA, "estimator"), f"The estimator in '{path}'")
    settings = dict(found.settings)
    try:
        if isinstance(settings.get("class_weight"), list):
            settings["class_weight"] = dict(map(tuple, settings["class_weight"]))
        model: Any = KINDS[found.kind](**settings)
        encoder = TableEncoder.from_dict(found.encoder)
        tensors = read_tensors(read_bytes(folder / HELD_OUT, "model", FormatError, called="file of rows held out"))
    except (TypeError, ValueError, SafetensorError) as error:
        raise FormatError(f"The estimator in '{folder}' is damaged: {first_line(error)}.") from None
    columns = [column.name for column in encoder.columns]
    fits = len(found.parts) == len(found.weights) and found.columns == len(columns) and found.names in (None, columns)
    if not fits or not math.isclose(sum(found.weights), 1.0):
        raise FormatError(f"The estimator in '{folder}' is damaged: the lists of its networks or columns do not fit.")
    saved = tuple(checkpoint.load(folder / MEMBER.format(place)) for place in range(len(found.weights)))
    model.encoder_, model.n_features_in_, model.study_ = encoder, found.columns, None
    if found.names is not None:
        model.feature_names_in_ = np.array(found.names, dtype=object)
    model.members_ = Members(saved, torch.tensor(found.weights, dtype=torch.float64), tuple(found.parts))
    _set_target(model, found, folder)
    try:
        said = model.members_.outputs(torch.zeros(1, len(encoder.names)))
        outputs = said.shape[2]
        model.held_out_ = held = _held_out(model.members_, tensors, outputs)
    except (RuntimeError, KeyError, IndexError) as error:
        raise FormatError(f"The estimator in '{folder}' is damaged: {first_line(error)}.") from None
    if not all(bool(numbers.isfinite().all()) for numbers in (said, *held.y, *held.outputs, *held.counts)):
        raise FormatError(f"The estimator in '{folder}' is damaged: what its networks say is no number.")
    if outputs != model._outputs:
        raise FormatError(
            f"The estimator in '{folder}' is damaged: its networks have {outputs} outputs, and its target needs {model._outputs}."
        )
    return model


def _set_target(model: Any, found: SavedEstimator, folder: Path) -> None:
    """What was learned of the target."""
    parts = (found.classes,) if found.kind == "Classifier" else (found.shift, found.scale, found.noise)
    if any(part is None for part in parts) or len({len(part) for part in parts if part is not None}) > 1:
        raise FormatError(f"The estimator in '{folder}' is damaged: what it learned of the target is incomplete.")
    if found.kind == "Regressor":
        model.shift_, model.scale_, model.noise_ = (np.array(part, dtype=np.float64) for part in parts)
        model.single_ = found.single
        return
    kind = found.kind_of_classes
    known = kind in ("U", "O") or (kind[:1] in NUMBERS and kind[1:] in ("1", "2", "4", "8"))
    try:
        model.classes_ = np.array(found.classes, dtype=object if kind == "O" else None if kind == "U" else kind)
        known = known and len(np.unique(model.classes_)) == len(model.classes_)
    except (TypeError, ValueError, OverflowError):
        known = False
    if not known:
        raise FormatError(
            f"The estimator in '{folder}' is damaged: its classes are not different ones of the type {kind!r}."
        )
    model.power_ = found.power


def _held_out(members: Members, tensors: dict[str, Tensor], outputs: int) -> HeldOut:
    there = sorted(set(members.parts))
    y = tuple(tensors[f"y.{k}"] for k in range(len(there)))
    said, counts = (tuple(tensors[f"{name}.{k}"].double() for k in range(len(there))) for name in ("outputs", "counts"))
    for one, target, count, part in zip(said, y, counts, there, strict=True):
        if one.shape != (members.parts.count(part), len(target), outputs) or count.shape != target.shape[:1]:
            raise KeyError(f"the rows held out have outputs of shape {tuple(one.shape)}")
    return HeldOut(y, said, members.weights_by_part(), counts, ())
