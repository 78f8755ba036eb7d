"""Wrong values for every parameter of every public name: one sentence that says so, or a right result; never silence.

`CALLS` has a valid call for each public name; a new name without one fails. Which values are wrong for a parameter is read
from its annotation, so that a new parameter is covered by itself.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import itertools
import math
import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp
from wellposed.core.checks import checked
from wellposed.core.selectors import leaves
from wellposed.losses.per_example import Loss
from wellposed.study.trials import State

os.environ.setdefault("KERAS_BACKEND", "torch")
ROWS = 24
X = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 2))


def images() -> torch.Tensor:
    return torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def problem() -> wp.Problem:
    return wp.Problem(net, "cross_entropy", wp.Data(train=(X, Y), test=(X, Y)))


def numbers() -> wp.Problem:
    return wp.Problem(lambda: nn.Linear(3, 1), "squared_error", (X, X[:, :1]))


def noisy() -> wp.Problem:
    return wp.Problem(
        lambda: nn.Linear(3, 1), "squared_error", (X, X[:, :1] + torch.randn(ROWS, 1, generator=source()))
    )


RECIPE = wp.Recipe(epochs=1, batch_size=12)


@functools.cache
def runs(count: int = 2) -> list[wp.Run]:
    return [wp.fit(problem(), RECIPE, seed) for seed in range(count)]


@functools.cache
def compressed() -> str:
    """A folder with a compressed network."""
    model = net()
    model[0].weight.data[0] = 0
    return str(wp.compress(model, X).save(Path(tempfile.mkdtemp()) / "small"))


@functools.cache
def estimator() -> str:
    """A folder with a fitted estimator."""
    model = wp.Classifier("0", members=1, recipe=RECIPE).fit(X.numpy(), Y.numpy())
    return str(model.save(Path(tempfile.mkdtemp()) / "estimator"))


def watched() -> dict[str, Any]:
    return {"model": net(), "loss": "cross_entropy", "train": (X, Y), "valid": (X, Y)}


def convex() -> dict[str, Any]:
    return {"net": nn.Linear(3, 1), "loss": "squared_error", "data": (X, X[:, :1])}


def source() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def stepped(term: Any) -> None:
    """One step of an optimizer that enforces a term."""
    model = nn.Linear(3, 2)
    wp.regularize(torch.optim.SGD(model.parameters(), lr=0.1), model, [term]).step()


def drawn() -> nn.Module:
    return wp.bayesian(net(), wp.GaussianPrior(1.0))


def charged(term: Any) -> object:
    """What a divergence charges a network whose weights are distributions."""
    model = drawn()
    return wp.regularize(torch.optim.SGD(model.parameters(), lr=0.1), model, [term.on()]).penalty()


class Call(NamedTuple):
    """Arguments of a valid call, made anew each time, and what is then done with its result."""

    given: Callable[[], dict[str, Any]]
    use: Callable[[Any], object] = lambda result: None


def charge(**given: Any) -> Call:
    """A penalty or constraint, which is then enforced for a step where it can charge any matrix."""
    return Call(lambda: dict(given), lambda made: stepped(made.on()))


def activations(**given: Any) -> Call:
    return Call(lambda: dict(given), lambda made: made.on(nn.Linear))


def noise(**given: Any) -> Call:
    return Call(lambda: dict(given), lambda made: wp.perturb(net(), made.on("0")))


def loss(**given: Any) -> Call:
    """A loss, which is then minimized for an epoch."""
    return Call(
        lambda: dict(given),
        lambda made: wp.fit(wp.Problem(lambda data: nn.Linear(3, data.outputs), made, (X, X[:, :1] ** 2)), RECIPE),
    )


CALLS: dict[str, Call] = {
    **dict.fromkeys(
        ("L0", "L1", "L2", "MCP", "SCAD", "ElasticNet", "GroupL2", "GroupMCP", "SparseGroup"), charge(strength=0.1)
    ),
    **dict.fromkeys(("TotalVariation", "Nuclear", "Orthogonality", "RowL21", "Spectral"), charge(strength=0.1)),
    **dict.fromkeys(("L1SP", "L2SP"), charge(strength=0.1, reference=0.0)),
    **dict.fromkeys(("WeightedL1", "WeightedL2"), charge(strength=0.1, weights=1.0)),
    "ActivationL1": activations(strength=0.1),
    "ActivationL2": activations(strength=0.1),
    **dict.fromkeys(
        ("Confidence", "Consistency", "Jacobian", "LogitL2"), Call(lambda: {"strength": 0.1}, lambda made: made.on())
    ),
    "GaussianPrior": Call(lambda: {"std": 1.0}, lambda made: wp.kl(wp.bayesian(net(), made))),
    "LaplacePrior": Call(lambda: {"scale": 1.0}, lambda made: wp.kl(wp.bayesian(net(), made))),
    "ScaleMixturePrior": Call(lambda: {}, lambda made: wp.kl(wp.bayesian(net(), made))),
    "KL": Call(lambda: {"rows": 10}, charged),
    "KLToStandardNormal": activations(),
    "bayesian": Call(lambda: {"net": net(), "prior": wp.GaussianPrior(1.0)}),
    "kl": Call(lambda: {"net": drawn()}),
    "mc_dropout": Call(lambda: {"net": net()}),
    "predictive": Call(lambda: {"net": drawn(), "X": X, "samples": 2}),
    "IVON": Call(
        lambda: {"params": net().parameters(), "rows": 10, "prior": wp.GaussianPrior(1.0)},
        lambda made: made.sampled().__enter__(),
    ),
    "Hierarchical": Call(lambda: {"strength": 0.1, "skip": "0.weight", "first": "1.weight"}),
    "TiedGroups": Call(lambda: {"strength": 0.1, "axes": {"0.weight": "unit"}}),
    **dict.fromkeys(("L1Ball", "L2Ball", "LInfBall", "MaxNorm", "SpectralBall"), charge(bound=1.0)),
    **dict.fromkeys(("NonNegative", "Orthogonal", "UnitNorm", "Simplex"), charge()),
    "HalfSpace": charge(normal=1.0, limit=5.0),
    "Huber": loss(delta=1.0),
    "Quantile": loss(level=0.5),
    "Quantiles": loss(levels=(0.1, 0.9)),
    "StudentT": loss(dof=3.0),
    "GaussianMixture": loss(components=2),
    "calibrate": Call(lambda: {"outputs": X[:, :2], "y": Y}, lambda made: made.predict(X[:, :2])),
    "calibration": Call(lambda: {"probabilities": X[:, :2], "y": Y}, lambda made: made.figure()),
    "conformal": Call(
        lambda: {"low": X[:, 0], "high": X[:, 1], "y": X[:, 2], "level": 0.5, "counts": torch.ones(len(X))}
    ),
    "risk_coverage": Call(lambda: {"score": X[:, 0], "wrong": Y}, lambda made: made.area),
    "distribution_of": Call(lambda: {"loss": "gaussian", "outputs": X[:, :2]}, lambda made: made.interval(0.9)),
    "crps_of_samples": Call(lambda: {"samples": X, "y": X[0]}),
    "Metric": Call(
        lambda: {"function": lambda outputs, target: (outputs - target).abs().mean(), "higher_is_better": False},
        lambda made: wp.fit(wp.Problem(lambda: nn.Linear(3, 1), "squared_error", (X, X[:, :1]), metric=made), RECIPE),
    ),
    "Poisson": loss(),
    "reading_up_to": Call(lambda: {"memory": "1GiB"}, lambda made: made.__enter__()),
    "mixup_or_cutmix": Call(
        lambda: {"x": images(), "mixup_concentration": 1.0, "cutmix_concentration": 1.0, "source": source()}
    ),
    "Box": charge(low=-1.0, high=1.0),
    "TopK": charge(keep=0.5),
    "NormBound": charge(bound=1.0),
    **dict.fromkeys(
        ("DropConnect", "Dropout", "GaussianDropout", "SpatialDropout", "StochasticDepth"), noise(rate=0.1)
    ),
    "WeightNoise": noise(std=0.1),
    "SAM": Call(lambda: {"model": net()}),
    "Average": Call(lambda: {"model": net()}, lambda made: made.update()),
    "Lookahead": Call(lambda: {"optimizer": torch.optim.SGD(net().parameters(), lr=0.1)}, lambda made: made.step()),
    "GradientNoise": Call(lambda: {"model": net(), "eta": 0.1}),
    "ManifoldMixup": Call(lambda: {"model": net(), "where": "0"}),
    "perturb": Call(lambda: {"model": net(), "noises": wp.Dropout(0.1).on("0")}),
    "cutmix": Call(lambda: {"x": images(), "concentration": 1.0, "source": source()}),
    "mixup": Call(lambda: {"x": images(), "concentration": 1.0, "source": source()}),
    "cutout": Call(lambda: {"x": images(), "share": 0.2, "source": source()}),
    "mixed_targets": Call(lambda: {"target": Y, "permutation": torch.randperm(ROWS), "weight": 0.3, "classes": 2}),
    "decay_to": Call(lambda: {"steps": 10}, lambda made: made(3)),
    "ramp": Call(lambda: {"steps": 10}, lambda made: made(3)),
    "named_schedule": Call(lambda: {"name": "cosine", "total_steps": 10}, lambda made: made(3)),
    "staircase": Call(lambda: {"stairs": {0: 1.0, 5: 0.1}}, lambda made: made(3)),
    "named": Call(lambda: {"pattern": "0.*"}, lambda made: wp.L1(0.1).on(made)),
    "Data": Call(lambda: {"train": (X, Y)}, lambda made: made.prepare()),
    "Problem": Call(lambda: {"model": net, "loss": "cross_entropy", "data": (X, Y)}, lambda made: wp.fit(made, RECIPE)),
    "Recipe": Call(lambda: {}),
    "History": Call(
        lambda: {"facts": {}, "rows": [{"epoch": 0, "train_loss": 1.0, "valid_loss": 1.0}] * 3},
        lambda made: wp.diagnose(made),
    ),
    "Watch": Call(watched, lambda made: made.epoch()),
    "watch": Call(watched, lambda made: made.epoch()),
    "certify": Call(convex),
    "settle": Call(lambda: {**convex(), "steps": 3}),
    "lr_range_test": Call(
        lambda: (
            lambda model: {
                "model": model,
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": "cross_entropy",
                "data": DataLoader(TensorDataset(X, Y), 8),
                "steps": 5,
            }
        )(net())
    ),
    "regularize": Call(
        lambda: (
            lambda model: {
                "model": model,
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "terms": [wp.L1(0.1).on()],
            }
        )(net()),
        lambda made: made.step(),
    ),
    "audit": Call(
        lambda: (
            lambda model: {"optimizer": torch.optim.AdamW(model.parameters()), "model": model, "steps_per_epoch": 9}
        )(net())
    ),
    "translate_decay": Call(lambda: {"value": 0.1, "source": "torch", "target": "timm", "lr": 0.1}),
    "fit": Call(lambda: {"problem": problem(), "recipe": RECIPE}),
    "fit_many": Call(lambda: {"problem": problem(), "recipes": RECIPE, "engine": "inprocess"}),
    "improve": Call(lambda: {"problem": problem(), "budget": "0", "recipe": RECIPE, "engine": "inprocess"}),
    "fork": Call(lambda: {"source": runs(1)[0], "changes": [{"clip": 1.0}], "epochs": 1, "repeats": 2}),
    "price": Call(
        lambda: {"problem": problem(), "change": {"clip": 1.0}, "recipe": RECIPE, "repeats": 2, "engine": "inprocess"}
    ),
    "bias_variance": Call(
        lambda: {"problem": problem(), "recipes": {"one": RECIPE}, "resamples": 2, "engine": "inprocess"}
    ),
    "bias_variance_path": Call(
        lambda: {
            "problem": problem(),
            "recipe": RECIPE,
            "vary": lambda recipe, strength: recipe,
            "strengths": [0.1],
            "resamples": 2,
            "engine": "inprocess",
        }
    ),
    "strength_path": Call(lambda: {"problem": numbers(), "points": 2, "steps": 5}),
    "select": Call(lambda: {"problem": numbers(), "points": 2, "steps": 5}),
    "FeatureSelector": Call(
        lambda: {"points": 2, "steps": 5, "folds": 2}, lambda made: made.fit(X.numpy(), X[:, 0].numpy())
    ),
    **dict.fromkeys(
        ("Classifier", "Regressor"),
        Call(lambda: {"budget": "0", "members": 1, "recipe": RECIPE}, lambda made: made.fit(X.numpy(), Y.numpy())),
    ),
    "load": Call(lambda: {"folder": estimator()}),
    "learning_curve": Call(
        lambda: {
            "problem": problem(),
            "recipes": {"one": RECIPE},
            "sizes": (0.5, 1.0),
            "repeats": 2,
            "engine": "inprocess",
        }
    ),
    "error_budget": Call(
        lambda: {"problem": problem(), "recipe": RECIPE, "seeds": [0], "seconds": 1.0, "engine": "inprocess"}
    ),
    "gap_split": Call(lambda: {"source": runs(1)[0], "draws": 2}),
    "compare": Call(lambda: {"a": runs(2), "b": runs(2)}),
    "diagnose": Call(lambda: {"source": {"loss": [1.0, 0.5, 0.3], "val_loss": [1.0, 0.6, 0.5]}}),
    "diagnose_many": Call(lambda: {"sources": [{"loss": [1.0, 0.5, 0.3], "val_loss": [1.0, 0.6, 0.5]}]}),
    "stop_when_sure": Call(lambda: {}, lambda made: made(wp.History(rows=[{"epoch": 0, "valid_loss": 1.0}]))),
    "laplace": Call(
        lambda: {"trained": nn.Linear(3, 1), "data": (X, X[:, :1]), "loss": "squared_error", "terms": wp.L2(0.1).on()},
        lambda made: made.predict(X),
    ),
    "evidence": Call(lambda: {"problem": noisy(), "recipe": RECIPE, "terms": wp.L2(0.1).on(), "rounds": 1}),
    "ensemble": Call(lambda: {"runs": runs(2)}, lambda made: made.predict(X)),
    "PiecewiseLinear": Call(lambda: {"X": X}, lambda made: made(X)),
    "cross_fit": Call(
        lambda: {"model": lambda: nn.Linear(3, 1), "X": X, "y": X.sum(1).exp(), "recipes": RECIPE, "folds": 2},
        lambda made: made.predict(X),
    ),
    "SWAG": Call(lambda: {"net": net()}, lambda made: made.update()),
    "PredictiveNumbers": Call(
        lambda: {"means": torch.zeros(2, 3, 1), "stds": torch.ones(2, 3, 1)}, lambda made: made.std
    ),
    "PredictiveClasses": Call(lambda: {"components": torch.full((1, 3, 2), 0.5)}, lambda made: made.probabilities),
    "compress": Call(lambda: {"source": net(), "example": X}),
    "verify": Call(lambda: {"folder": compressed()}),
    "report": Call(lambda: {"study_or_folder": "nowhere"}),
    "LightningWatch": Call(
        lambda: {"loss": "cross_entropy", "train": (X, Y), "valid": (X, Y)},
        lambda made: made.begin(net(), None, None, None),
    ),
    **dict.fromkeys(("KerasWatch", "SkorchWatch", "TransformersWatch"), Call(lambda: {"terms": []})),
}
LIBRARIES = {name: name.removesuffix("Watch").lower() for name in CALLS if name.endswith("Watch") and name != "Watch"}
LACKING = {name for name, library in LIBRARIES.items() if importlib.util.find_spec(library) is None}
"""Callbacks whose library is not installed here; what they are given is refused all the same."""


def _exhausted() -> Iterator[Any]:
    found = iter([(X, Y)])
    list(found)
    return found


WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "zero": lambda: 0,
    "minus one": lambda: -1,
    "fraction": lambda: 1.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "minus inf": lambda: -math.inf,
    "huge": lambda: 10**30,
    "beyond float": lambda: 10**400,
    "empty text": lambda: "",
    "text": lambda: "x",
    "bytes": lambda: b"x",
    "empty list": lambda: [],
    "empty dict": lambda: {},
    "empty tuple": lambda: (),
    "list of None": lambda: [None],
    "list of text": lambda: ["x"],
    "list of fraction": lambda: [1.5],
    "list of nan": lambda: [math.nan],
    "dict of None": lambda: {"x": None},
    "dict by number": lambda: {1: 2},
    "object": lambda: object(),
    "function": lambda: lambda: None,
    "function of any": lambda: lambda *a, **k: None,
    "class": lambda: dict,
    "complex": lambda: 1j,
    "numpy fraction": lambda: np.float64(1.5),
    "numpy nan": lambda: np.float32("nan"),
    "array": lambda: np.array([1.5, 2.5]),
    "empty array": lambda: np.array([]),
    "object array": lambda: np.array([None, "x"], dtype=object),
    "tensor of nan": lambda: torch.tensor(math.nan),
    "empty tensor": lambda: torch.zeros(0),
    "tensor of one axis": lambda: torch.ones(3),
    "complex tensor": lambda: torch.ones(2, 3, dtype=torch.complex64),
    "sparse tensor": lambda: torch.eye(3).to_sparse(),
    "meta tensor": lambda: torch.ones(2, 3, device="meta"),
    "whole tensor": lambda: torch.ones(4, 3, dtype=torch.long),
    "another model": lambda: nn.Linear(7, 5),
    "a model of nothing": lambda: nn.Identity(),
    "a model class": lambda: nn.Linear,
    "another's optimizer": lambda: torch.optim.SGD(nn.Linear(7, 5).parameters(), lr=0.1),
    "a term": lambda: wp.L1(0.1).on("*.nothing"),
    "a penalty": lambda: wp.L1(0.1),
    "exhausted": _exhausted,
    "generator": lambda: (i for i in [(X, Y)]),
    "empty loader": lambda: DataLoader(TensorDataset(X[:0], Y[:0])),
    "rows of nothing": lambda: (X[:0], Y[:0]),
    "lengths differ": lambda: (X, Y[:-1]),
    "pair of nan": lambda: (X * math.nan, Y),
    "pair of inf": lambda: (X * math.inf, Y),
    "complex pair": lambda: (X.to(torch.complex64), Y),
    "object pair": lambda: (np.array([[None, "x"]] * ROWS, dtype=object), Y.numpy()),
    "sparse pair": lambda: (X.to_sparse(), Y),
    "meta pair": lambda: (X.to("meta"), Y.to("meta")),
    "numbers for rows": lambda: (3, 4),
    "one axis": lambda: (X[:, 0], Y),
    "wide": lambda: (torch.ones(ROWS, 9), Y),
    "target of nan": lambda: (X, X[:, 0] * math.nan),
    "negative target": lambda: (X, -Y - 5),
    "text target": lambda: (X, np.array(["a", "b"] * (ROWS // 2))),
    "cut batch": lambda: [(X,)],
    "batch of numbers": lambda: [1, 2, 3],
    "mapping batch": lambda: [{"x": X}],
    "whole doubles": lambda: (X.double(), Y),
    "half": lambda: (X.half(), Y),
    "loss of one": lambda: lambda outputs, target: torch.ones(1),
    "loss of too few": lambda: lambda outputs, target: torch.ones(max(1, len(outputs) - 1), requires_grad=True),
    "loss of too many": lambda: lambda outputs, target: torch.ones(len(outputs) + 1, requires_grad=True),
    "loss of text": lambda: lambda outputs, target: "x",
    "loss of None": lambda: lambda outputs, target: None,
    "loss of nothing": lambda: lambda outputs, target: torch.ones(0),
    "loss of numbers": lambda: lambda outputs, target: 1.0,
    "loss of numpy": lambda: lambda outputs, target: np.ones(len(outputs)),
    "cuda": lambda: "cuda",
    "no device": lambda: "cuda:99",
    "meta": lambda: "meta",
    "a path": lambda: "/nonexistent/x",
}

SCALARS: dict[str, tuple[type, ...]] = {
    "int": (int, np.integer), "float": (int, float, np.integer, np.floating), "bool": (bool, np.bool_), "str": (str,),
    "None": (type(None),),
}  # fmt: skip


def contradicts(annotation: object, value: Any) -> bool:
    """Whether a value is of no type that an annotation of plain types allows. NaN is no number."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    literal = re.fullmatch(r"Literal\[(.*)\]", text)
    if literal:
        return not any(
            isinstance(value, str) and repr(value).strip("'") == one.strip(" '\"") for one in literal[1].split(",")
        )
    words = [word.strip() for word in text.split("|")]
    if not set(words) <= set(SCALARS):
        return False
    kinds = tuple(kind for word in words for kind in SCALARS[word])
    if isinstance(value, bool):
        return bool not in kinds
    if isinstance(value, torch.Tensor) and value.ndim == 0 and "float" in words:
        return bool(value.isnan())
    return not isinstance(value, kinds) or (isinstance(value, (float, np.floating)) and math.isnan(value))


SLOW = {
    "Classifier",
    "Regressor",
    "improve",
    "error_budget",
    "learning_curve",
    "strength_path",
    "select",
    "FeatureSelector",
    "bias_variance",
    "bias_variance_path",
    "fit_many",
    "gap_split",
    "compare",
    "cross_fit",
}
"""Calls that train several times: of the values that their annotations allow, none is tried."""
GIVEN_BACK = {
    "BiasVariance", "Calibration", "Certificate", "Compressed", "Context", "CrossFitted", "Ensemble", "ErrorBudget",
    "Evidence", "Finding", "Fork", "GapSplit", "Laplace", "LearningCurve", "Path", "Predictive", "Price", "RangeTest", "Run",
    "Selection", "Study", "Term", "Verification",
    *(name for name in wp.__all__ if name.endswith("Error")),
    "Noise", "Constraint", "CoupledPenalty", "FunctionalPenalty", "Penalty", "Rule",  # to be written
    "Diagonal", "Log", "OptimizerMetric", "Searched", "Traits",  # what these give and declare
}  # fmt: skip
"""What is given back, or is the base or a part of what a caller writes, and is not called with values."""
RANGES = {  # what an annotation of plain types lets through and is no right value
    ("fit", "rows"): ("zero", "minus one"),
    ("fit", "probe_rows"): ("zero", "minus one"),
    ("fit", "device"): ("no device", "meta", *(() if torch.cuda.is_available() else ("cuda",))),
    ("fit", "problem"): ("another model", "lengths differ"),
    ("watch", "rows"): ("zero", "minus one"),
    ("watch", "optimizer"): ("another's optimizer",),
    ("watch", "loss"): (  # one number in a tensor of one is a mean
        "loss of too few",
        "loss of too many",
        "loss of nothing",
        "loss of text",
        "loss of None",
    ),
    ("watch", "metric"): ("empty text", "text"),
    ("watch", "train"): (
        "exhausted",
        "generator",
        "empty loader",
        "rows of nothing",
        "lengths differ",
        "complex pair",
        "sparse pair",
    ),
    ("Problem", "loss"): (
        "loss of one",
        "loss of too few",
        "loss of too many",
        "loss of nothing",
        "loss of text",
        "loss of None",
    ),
    ("certify", "loss"): ("loss of too few", "loss of too many", "loss of nothing"),
    ("certify", "optimizer"): ("another's optimizer",),
    ("lr_range_test", "optimizer"): ("another's optimizer",),
    ("mixed_targets", "weight"): ("minus one", "fraction", "inf"),
    ("Data", "weight"): ("zero", "text", "sparse tensor", "lengths differ"),
    ("Data", "train"): (
        "complex pair",
        "sparse pair",
        "meta pair",
        "text target",
        "object pair",
        "lengths differ",
        "rows of nothing",
    ),
}


def outcome(name: str, parameter: str, label: str) -> str:
    """What a call with a wrong value says that it should not; empty where it says one sentence, or is right."""
    call, value = CALLS[name], WRONG[label]()
    function = getattr(wp, name)
    wrong = contradicts(inspect.signature(function).parameters[parameter].annotation, value)
    if name in SLOW and not wrong:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", ".* has not been added to the cost"
        )  # said on purpose, and `stepped` adds nothing
        try:
            call.use(function(**call.given() | {parameter: value}))
        except wp.WellposedError as error:
            said = str(error)
            return "" if re.fullmatch(r".{20,}[.?)']", said) else f"no sentence: {said!r}"
        except Exception as error:
            return f"raw {type(error).__name__}: {error}"
    return "silent" if wrong or label in RANGES.get((name, parameter), ()) else ""


def tried() -> list[Any]:
    return [
        pytest.param(name, parameter, id=f"{name}-{parameter}")
        for name in CALLS
        for parameter, one in inspect.signature(getattr(wp, name)).parameters.items()
        if one.kind is not one.VAR_KEYWORD
    ]


def test_every_public_name_that_can_be_called_has_a_valid_call() -> None:
    assert {name for name in wp.__all__ if callable(getattr(wp, name))} == CALLS.keys() | GIVEN_BACK


@pytest.mark.parametrize("name", [name for name in CALLS if name not in SLOW | LACKING | {"report"}])
def test_the_valid_calls_are_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* has not been added to the cost")
        CALLS[name].use(getattr(wp, name)(**CALLS[name].given()))


@pytest.mark.parametrize(("name", "parameter"), tried())
def test_a_wrong_value_is_refused_in_a_sentence(
    name: str, parameter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {label: said for label in WRONG if (said := outcome(name, parameter, label))}
    assert not found, "\n".join(f"{label}: {said}" for label, said in found.items())


def test_ranges_name_values_and_parameters_that_there_are() -> None:
    for (name, parameter), labels in RANGES.items():
        assert parameter in inspect.signature(getattr(wp, name)).parameters
        assert set(labels) <= WRONG.keys()


def test_a_sentence_says_what_was_given_and_what_is_needed() -> None:
    for call, says in (
        (lambda: wp.fit(problem(), RECIPE, seed=1.5), "fit needs seed= to be a whole number; it was given 1.5."),
        (lambda: wp.fit(problem(), RECIPE, rows=2**63), r"fit needs rows= .* Whole numbers are below 2\*\*63\."),
        (lambda: wp.fit(problem(), RECIPE, seed=2**64), r"a whole number; it was given .* Seeds go from -2\*\*63 to 2\*\*64 - 1\."),
        (lambda: wp.fit(problem(), RECIPE, rows=-1), "fit needs rows= to be a whole number >= 1 or None; it was given -1."),
        (lambda: wp.L1(True), "L1 needs a finite strength >= 0; it was given True."),
        (lambda: wp.Problem("mlp", "mse", (X, Y)), "Problem needs model= to be a function; it was given 'mlp'."),
        (lambda: wp.ramp([3]), r"Ramp needs .*steps.* a whole number.* >= 1; it was given \[3\]"),
        (lambda: wp.fit(problem(), RECIPE, device="cuda:99"), r"The device 'cuda:99' cannot be used: .* Give cpu, or auto"),
        (lambda: wp.mixup(images(), 0.1, source(), "elme"), "to be 'batch' or 'elem'; it was given 'elme'. Did you mean 'elem'?"),
        (lambda: wp.watch(**watched() | {"optimizer": torch.optim.SGD(net().parameters())}), "no parameter of this model"),
    ):  # fmt: skip
        with pytest.raises(wp.WellposedError, match=says):
            call()


def test_numbers_of_numpy_and_tensors_are_numbers() -> None:
    assert type(wp.L1(np.float32(0.5)).strength) is float
    assert wp.fit(problem(), RECIPE, seed=np.int64(3)).seed == 3
    assert len(wp.fit_many(problem(), RECIPE, np.arange(2), engine="inprocess")) == 2
    assert wp.ramp(torch.tensor(4))(2) == 0.5


SEEDS = [0, 2**63, np.uint64(2**64 - 1), torch.tensor(-1)]
"""Ends of what torch.seed() and numpy's SeedSequence give, and one with a sign."""


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_every_seed_of_64_bits_is_taken_wherever_a_seed_is(seed: Any) -> None:
    taken = [
        (name, key)
        for name in CALLS
        for key in inspect.signature(getattr(wp, name)).parameters
        if key in ("seed", "seeds", "split_seed") and name not in SLOW | LACKING
    ]
    assert len(taken) >= 6
    for name, key in taken:
        getattr(wp, name)(**CALLS[name].given() | {key: [seed, 5] if key == "seeds" else seed})


def test_a_seed_of_64_bits_is_kept_as_it_is_and_gives_the_same_again(tmp_path: Path) -> None:
    runs = wp.fit_many(problem(), RECIPE, np.array([2**64 - 1, 2**63], np.uint64), engine="inprocess")
    assert [run.seed for run in runs] == [2**64 - 1, 2**63]
    assert {type(run.seed) for run in runs} == {int}
    again = wp.fit(problem(), RECIPE, seed=2**64 - 1)
    assert again.history["valid_loss"] == pytest.approx(runs[0].history["valid_loss"], rel=1e-5)
    state = State("data", "r2", 2**64 - 1, own_test=False)
    state.save(tmp_path)
    assert State.load(tmp_path).seed == 2**64 - 1


NUMBERS = [1.0, 2.0, 3.0]
ARRAYS = {
    "list": NUMBERS, "tuple": tuple(NUMBERS), "range": range(1, 4), "tensors": [torch.tensor(x) for x in NUMBERS],
    "float32": np.array(NUMBERS, np.float32), "reversed": np.array(NUMBERS[::-1])[::-1], "big endian": np.array(NUMBERS, ">f8"),
    "read-only": np.broadcast_to(np.array(NUMBERS), 3), "series": pd.Series(NUMBERS, index=[7, 8, 9]),
    "nullable": pd.Series([1, 2, 3], dtype="Int64"),
}  # fmt: skip
BIAS = leaves(nn.Linear(1, 3))[1]
TAKES: dict[str, Callable[[Any], Any]] = {
    "WeightedL1": lambda v: wp.WeightedL1(0.1, v).weights,
    "WeightedL2": lambda v: wp.WeightedL2(0.1, v).weights,
    "L1SP": lambda v: wp.L1SP(0.1, v).reference,
    "L2SP": lambda v: wp.L2SP(0.1, v).reference,
    "L2SP by name": lambda v: wp.L2SP(0.1, {"bias": v}).at(BIAS).reference,
    "Box low": lambda v: wp.Box(v, 9.0).low,
    "Box high": lambda v: wp.Box(-9.0, v).high,
    "HalfSpace normal": lambda v: wp.HalfSpace(v, 1.0).normal,
    "HalfSpace limit": lambda v: wp.HalfSpace(1.0, v, by="input").limit,
    "GroupL2 weights": lambda v: wp.GroupL2(0.1, by="input", weights=v).weights,
    "TiedGroups weights": lambda v: wp.TiedGroups(0.1, {"w": "input"}, weights=v).weights,
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("takes", TAKES)
@pytest.mark.filterwarnings("error")
def test_where_a_tensor_is_taken_an_array_of_any_kind_is(takes: str, kind: str) -> None:
    assert TAKES[takes](ARRAYS[kind]).tolist() == NUMBERS


@pytest.mark.parametrize("given", [[1, 0, 1], np.array([1, 0, 1], np.uint8), pd.Series([1, 0, 1], index=[5, 6, 7])])
def test_group_numbers_are_any_array_of_integers(given: Any) -> None:
    found: Any = wp.GroupL2(0.1, by=given).by
    assert found.tolist() == [1, 0, 1]


@pytest.mark.parametrize("takes", TAKES)
@pytest.mark.parametrize(
    "wrong", [["a"], [[1.0], [2.0, 3.0]], [1.0, True], [None], pd.Series(["a"]), [math.nan]], ids=str
)
def test_what_is_no_array_of_numbers_is_refused(takes: str, wrong: Any) -> None:
    with pytest.raises(wp.WellposedError, match="needs"):
        TAKES[takes](wrong)


def test_a_space_takes_every_collection_and_a_set_in_the_same_order_always() -> None:
    for given in (
        {8, 2, 4},
        (v for v in (2, 4, 8)),
        np.array([2, 4, 8]),
        {2: "", 4: "", 8: ""}.keys(),
        pd.Series([2, 4, 8]),
    ):
        space = wp.Problem(lambda data, width=2: net(), "mse", (X, Y), space={"width": given}).space["width"]
        assert space == [2, 4, 8]
        assert {type(value) for value in space} == {int}
    words = wp.Problem(lambda data, act="": net(), "mse", (X, Y), space={"act": {"tanh", "elu", "relu", None}}).space[
        "act"
    ]
    assert words == [None, "elu", "relu", "tanh"]
    with pytest.raises(wp.WellposedError, match="space= to be a mapping"):
        wp.Problem(lambda data, width=2: net(), "mse", (X, Y), space={"width": itertools.count()})  # type: ignore[dict-item]


def test_a_checked_class_and_function_keep_their_signatures_and_copies() -> None:
    assert list(inspect.signature(wp.L1).parameters) == ["strength", "convention"]
    assert inspect.signature(wp.fit).parameters["seed"].default == 0
    assert copy.deepcopy(wp.L1(0.5)) == pickle.loads(pickle.dumps(wp.L1(0.5))) == wp.L1(0.5)


def test_an_annotation_of_somebody_elses_that_cannot_be_read_is_let_through() -> None:
    @checked
    def given(a: int, b: Unknown = None, *rest: int, c: Sequence[float] = ()) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return a, b, rest, c

    assert given(1, "x", 2.5, c=np.array([1.0, 2.0]))[1:3] == ("x", (2.5,))
    with pytest.raises(wp.WellposedError, match="given needs c= to be a list of which each is a number"):
        given(1, c=[math.nan])
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        given()


def test_flattened_tokens_are_counted_with_their_example() -> None:
    """A loss that flattens (examples, tokens) gives the numbers of one that does not."""
    outputs, target = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    flat = Loss(lambda a, b: (a - b).square().reshape(-1)).per_example(outputs, target)
    whole = Loss(lambda a, b: (a - b).square()).per_example(outputs, target)
    torch.testing.assert_close(flat.total, whole.total)
    assert flat.count.tolist() == whole.count.tolist() == [15.0] * 4
