"""A slot of a population is the same recipe trained alone: for every optimizer, term, noise and average that there is."""

from __future__ import annotations

import ctypes
import gc
import itertools
import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from charges import constraints, elementwise, groups, matrix
from populations import (
    FEATURES,
    LAYERS,
    ROWS,
    STRUCTURES,
    XV,
    Net,
    X,
    alone,
    apart,
    classes,
    difference,
    problem,
    recipe,
    same,
    together,
)  # fmt: skip
from wellposed.core.errors import TrainingError, WellposedError
from wellposed.models.mlp import MLP
from wellposed.optim.averaging import averages_of
from wellposed.optim.schedules import COURSES, SHAPES
from wellposed.parallel.jobs import Job, Outcome, Standing
from wellposed.parallel.population import grouping as together_module
from wellposed.parallel.population import population as population_module
from wellposed.parallel.population import update_rules
from wellposed.parallel.population.batch_rows import Feed
from wellposed.parallel.population.compiled import Kernel, kernel
from wellposed.parallel.population.eager import Eager, StackedModel
from wellposed.parallel.population.native import Program
from wellposed.parallel.population.population import Population, through
from wellposed.parallel.population.stacks import Stacks
from wellposed.parallel.population.tracing import trace
from wellposed.penalties.base import FunctionalPenalty
from wellposed.recipe.noise_section import NoiseSpec
from wellposed.recipe.recipe import AveragingSpec, chargeables, optimizers
from wellposed.training.checkpoint import load, save_run
from wellposed.training.run import Run

TOLERANCE = 1e-9
needs_kernel = pytest.mark.skipif(kernel() is None, reason="no C compiler, or another BLAS")
BOTH = pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_kernel), False], ids=["compiled", "torch"])

# What is tried

OPTIMIZERS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {"lr": 0.1}, {"lr": 0.05, "momentum": 0.9}, {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}, {"lr": 0.01, "maximize": True}, {"lr": 0.1, "foreach": True},
    ],
    "adam": [
        {}, {"weight_decay": 0.3}, {"amsgrad": True}, {"betas": (0.5, 0.7), "eps": 0.01},
        {"weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    "adamw": [{}, {"weight_decay": 0.3}, {"fused": False}],
    "rmsprop": [{}, {"momentum": 0.6, "weight_decay": 0.3}, {"centered": True}, {"alpha": 0.5, "eps": 0.1}],
    "muon": [{"lr": 0.02}],
}  # fmt: skip
"""Settings beside ``lr = 0.01``; one that is not named here is tried as it is."""

TABLES = {name: given for room in (elementwise, groups, matrix, constraints) for name, given in room.GIVEN.items()}
SPECIAL: dict[str, list[dict[str, Any]]] = {
    "tied_groups": [{"axes": {"net.0.weight": "unit", "net.0.bias": "unit", "net.4.weight": "input"}, "strength": 0.1}],
    "hierarchical": [{"strength": 0.4, "hierarchy": 1.5, "skip": "net.8.weight", "first": "net.4.weight"}],
}
"""Those that name the tensors that they are about."""
HOWS = ("decay", "prox", "loss", "project")
TERM_OPTIMIZERS = ({"lr": 0.01}, {"name": "sgd", "lr": 0.05, "momentum": 0.9}, {"name": "rmsprop", "lr": 0.01})


def sayable(given: dict[str, Any]) -> dict[str, Any]:
    """What a recipe can say of a charge's arguments."""
    return {k: v for k, v in given.items() if k != "reference" and not isinstance(v, Tensor)}


def terms() -> dict[str, dict[str, Any]]:
    """Every charge with every setting of the tables in its own way, and with the first one in every way.

    ``KL`` is of distributions: tests/test_bayes_variational.py trains them in slots.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, cls in chargeables().items():
        if name == "kl":
            continue
        functional = issubclass(cls, FunctionalPenalty)
        cases = SPECIAL.get(name) or ([{"strength": 0.1}] if functional else [sayable(g) for g in TABLES[name]])
        if name.startswith(("activation", "kl_to")):
            cases = [{**case, "on": "net.2"} for case in cases]
        for i, given in enumerate(cases):
            settled = "on" in given or "axes" in given or "skip" in given or functional
            for how in (None, *HOWS) if i == 0 else (None,):
                for where in (
                    (None,) if settled else ("weights", "net.4", "named:net.0.bias")[: 3 if how is None else 1]
                ):
                    own = {key: value for key, value in (("how", how), ("on", where)) if value is not None}
                    found[f"{name}-{i}-{how}-{where}"] = {"penalty": name, **given, **own}
    return found


NOISES: dict[str, list[Any]] = {
    "dropout": [0.0, 0.3], "label_smoothing": [0.1], "input": [0.2], "mixup": [0.4], "gradient": [0.01],
    "cutout": [0.3], "cutmix": [0.5], "switch_prob": [0.3], "mix_mode": ["elem"],
    "places": [
        [{"kind": "drop_connect", "rate": 0.2, "on": "net.4.weight"}],
        [{"kind": "weight_noise", "std": 0.1, "on": "net.0", "schedule": "cosine"}],
        [{"kind": "gaussian_dropout", "rate": 0.2, "on": "net.2"}],
    ],
}  # fmt: skip
IMAGES = ("cutout", "cutmix", "switch_prob")
SCHEDULES: dict[str, dict[str, Any]] = {
    "exponential": {"gamma": 0.7}, "multistep": {"milestones": [1], "gamma": 0.5}, "cosine_restarts": {"T_0": 2, "per": "step"},
    "step": {"step_size": 2, "per": "step"}, "linear": {"total_iters": 3}, "polynomial": {"power": 2.0}, "cosine": {"min_lr": 1e-3},
}  # fmt: skip
"""Settings of schedules; one that is not named here is tried as it is."""
AVERAGING = {
    name: get_args(field.annotation) for name, field in AveragingSpec.model_fields.items() if get_args(field.annotation)
}
"""The choices of an average."""


def ingredients() -> dict[str, dict[str, Any]]:
    """Recipes that differ from plain training in one thing."""
    found: dict[str, dict[str, Any]] = {"plain": {}}
    for name in optimizers():
        for i, given in enumerate(OPTIMIZERS.get(name, [{}])):
            model = {"model": {"kind": "bare"}} if name == "muon" else {}
            found[f"{name}-{i}"] = {"optimizer": {"name": name, "lr": 0.01, **given}, **model}
            if "weight_decay" not in given:
                found[f"{name}-{i}-decayed"] = {**found[f"{name}-{i}"], "terms": [{"penalty": "l2", "strength": 0.5}]}
    found |= {
        f"{key}-{i}": {"noise": {"mixup": 0.4, key: v} if key == "mix_mode" else {key: v}}
        for key in NOISES
        if key not in IMAGES
        for i, v in enumerate(NOISES[key])
    }
    found |= {f"schedule-{name}": {"schedule": {"name": name, "warmup": 0.3}} for name in SHAPES}
    found |= {
        f"schedule-{name}-set": {"epochs": 3, "schedule": {"name": name, **SCHEDULES.get(name, {})}} for name in COURSES
    }
    found |= {
        "plateau": {"epochs": 5, "schedule": {"name": "plateau", "patience": 0}, "optimizer": {"lr": 0.3}},
        "plateau-adagrad": {"epochs": 5, "schedule": {"name": "plateau", "patience": 0}, "optimizer": {"name": "adagrad", "lr": 1}},
        "plateau-metric": {"epochs": 5, "optimizer": {"lr": 0.3}, "schedule":
            {"name": "plateau", "patience": 0, "factor": 0.5, "cooldown": 1, "min_lr": 0.1, "monitor": "valid_metric"}},
        "schedule-own": {"schedule": lambda epoch: 0.5**epoch},
        "patience-metric": {"epochs": 8, "stopping": {"patience": 2, "monitor": "train_metric", "min_delta": 0.05, "baseline": 0.9},
                            "optimizer": {"lr": 0.1}},
        "patience-cost": {"epochs": 8, "stopping": {"patience": 1, "monitor": "cost"}, "noise": {"mixup": 0.4},
                          "optimizer": {"lr": 0.3}},
        "elem-sam": {"sharpness": {"radius": 0.1}, "noise": {"mixup": 0.4, "mix_mode": "elem", "label_smoothing": 0.1}},
        "ema": {"averaging": {"ema": 0.9}}, "ema-short": {"averaging": {"ema": 0.1}},
        **{f"ema-{key}-{value}": {"averaging": {"ema": 0.9, key: value}} for key in AVERAGING for value in AVERAGING[key]},
        "ema-all": {"averaging": {"ema": 0.3, "warmup": "none", "start": "model", "buffers": "average"}},
        "swa-zeros": {"averaging": {"swa": 0.9}, "epochs": 4, "optimizer": {"lr": 0.1},
                      "terms": [{"penalty": "l1", "strength": 0.3}]},
        "swa": {"averaging": {"swa": 0.6}, "epochs": 4}, "swa-buffers": {"averaging": {"swa": 0.6, "buffers": "average"}},
        "ema-adagrad": {"averaging": {"ema": 0.9}, "optimizer": {"name": "adagrad"}},
        "ema-zeros": {"averaging": {"ema": 0.9}, "terms": [{"penalty": "l1", "strength": 0.3}], "optimizer": {"lr": 0.1}},
        "clip": {"clip": 0.1}, "clip-wide": {"clip": 100.0}, "clip-adagrad": {"clip": 0.1, "optimizer": {"name": "adagrad"}},
        "clip-sgd": {"clip": 0.05, "optimizer": {"name": "sgd", "lr": 0.5}},
        "clip-sam": {"clip": 0.1, "sharpness": {"radius": 0.1}},
        "lookahead": {"lookahead": {"every": 2}}, "lookahead-constrained":
            {"lookahead": {"every": 2, "share": 0.3}, "terms": [{"penalty": "max_norm", "bound": 0.5}]},
        "sam": {"sharpness": {"radius": 0.1}}, "asam": {"sharpness": {"radius": 0.5, "adaptive": True}},
        "sam-loss": {"sharpness": {"radius": 0.1}, "terms": [{"penalty": "l2", "strength": 0.5, "how": "loss"}]},
        "sam-drop": {"sharpness": {"radius": 0.1}, "noise": {"dropout": 0.3, "mixup": 0.4}},
        "sam-weights": {"sharpness": {"radius": 0.1}, "noise": {"places": NOISES["places"][0]}},
        "accumulate": {"accumulate": 2}, "patience": {"epochs": 8, "stopping": {"patience": 1}, "optimizer": {"lr": 0.3}},
        "strength-schedule": {"terms": [{"penalty": "l1", "strength": 0.1, "schedule": "cosine", "warmup": 0.5}]},
        "l1-l2-norm": {"terms": [{"penalty": "l1", "strength": 0.1}, {"penalty": "l2", "strength": 0.3, "how": "prox"},
                                 {"penalty": "max_norm", "bound": 0.6}]},
        "l1-group": {"terms": [{"penalty": "l1", "strength": 0.1}, {"penalty": "group_l2", "strength": 0.1, "by": "input"}]},
        "mixup-smooth-weights": {"noise": {"mixup": 0.5, "label_smoothing": 0.2, "input": 0.1, "dropout": 0.2}},
        "batch-of-all": {"batch_size": 64}, "batch-of-three": {"batch_size": 3},
    }  # fmt: skip
    return found


INGREDIENTS, TERMS = ingredients(), terms()


ENGINES = (True, False) if kernel() is not None else (False,)
"""With the kernel, where there is one, and by torch."""


def pair(settings: dict[str, Any], given: wp.Problem, seed: int = 1, engines: Sequence[bool] = ENGINES) -> float:
    """The most that a job beside another one differs in from itself alone."""
    job = Job(recipe(**settings), seed)
    wanted = alone(given, job)
    return max(difference(wanted, together(given, [Job(job.recipe, 5), job], one)[1]) for one in engines)


class Tried:
    """Outcomes of many recipes, trained alone and all together by one engine; those that cannot be written are errors."""

    def __init__(self, given: wp.Problem, settings: dict[str, dict[str, Any]], seeds: int = 3) -> None:
        self.jobs: dict[str, Job] = {}
        self.refused: dict[str, WellposedError] = {}
        for i, (name, values) in enumerate(settings.items()):
            try:
                self.jobs[name] = Job(recipe(**values), i % seeds)
            except WellposedError as error:
                self.refused[name] = error
        self.alone = {name: alone(given, job) for name, job in self.jobs.items()}
        self.together: dict[bool, dict[str, Outcome]] = {}
        for compiled in (True, False):
            outcomes = together(given, list(self.jobs.values()), compiled)
            assert len(outcomes) == len(self.jobs)
            self.together[compiled] = dict(zip(self.jobs, outcomes, strict=True))

    def apart(self, name: str, compiled: bool) -> float:
        return difference(self.alone[name], self.together[compiled][name])

    def engine(self, name: str, compiled: bool) -> str:
        found = self.together[compiled][name]
        return found.engine if isinstance(found, Run) else ""


@pytest.fixture(scope="module")
def tried() -> Tried:
    return Tried(problem(), INGREDIENTS)


@BOTH
@pytest.mark.parametrize("name", INGREDIENTS)
def test_a_slot_is_the_recipe_alone(name: str, compiled: bool, tried: Tried) -> None:
    assert name in tried.jobs, tried.refused.get(name)
    assert tried.apart(name, compiled) < TOLERANCE


def test_what_is_tried_is_all_there_is(tried: Tried) -> None:
    """Every optimizer, schedule and noise that recipes know; only what the loop itself refuses is refused."""
    assert set(NOISES) == set(NoiseSpec.model_fields) - {"own"}, "which tests/test_extending_noise.py tries"
    failed = {name for name, found in tried.alone.items() if not isinstance(found, Run)}
    assert failed == {name for name in tried.jobs if name.startswith(("lbfgs", "sparseadam"))}
    assert set(optimizers()) <= {name.partition("-")[0] for name in tried.jobs}
    assert {f"schedule-{name}" for name in SHAPES} | {f"schedule-{name}-set" for name in COURSES} <= set(tried.jobs)
    moved = {name: found for name, found in tried.alone.items() if isinstance(found, Run)}
    plain = moved["plain"]
    for name, found in moved.items():  # every ingredient does something, so that leaving it out would be seen
        inert = name in ("plain", "clip-wide", "dropout-0", "adam-0", "adamw-0", "adamw-2", "schedule-constant")
        inert = inert or name in ("schedule-constant-set", "schedule-plateau-set")
        if found.recipe.model == plain.recipe.model and not inert:
            assert difference(plain, found) > 1e-6, name


@needs_kernel
def test_what_the_kernel_does_and_what_it_leaves(tried: Tried) -> None:
    """The kernel takes the whole step of common recipes; of the others it takes the gradient."""
    engines = {name: tried.engine(name, True) for name in tried.jobs}
    assert engines["plain"] == engines["adagrad-0"] == engines["ema"] == engines["gradient-0"] != ""
    assert engines["plain"].startswith("compiled population of ")
    assert tried.engine("plain", False).startswith("torch population of ")
    assert "gradients" in engines["accumulate"]
    assert "its schedule is a function of your own" in engines["schedule-own"]
    assert engines["mix_mode-0"].startswith("torch population of ")
    assert engines["mix_mode-0"].endswith(": classes are mixed by a weight for each example")


@BOTH
def test_the_average_of_a_slot_is_over_with_it(compiled: bool) -> None:
    """The audit of its run names the average of the recipe, once, whatever still waits to be collected."""
    gc.disable()
    try:
        job = Job(recipe(averaging={"ema": 0.9, "warmup": "none"}))
        run = together(problem(), [job], compiled)[0]
        assert isinstance(run, Run)
        assert str(run.audit()).count("an average of the weights is kept: ema=0.9, warmup='none'") == 1
        assert not averages_of(run.model)
    finally:
        gc.enable()


# Terms


@pytest.fixture(scope="module")
def charged() -> Tried:
    return Tried(
        problem(),
        {name: {"terms": [term], "optimizer": TERM_OPTIMIZERS[i % 3]} for i, (name, term) in enumerate(TERMS.items())},
    )


@BOTH
def test_every_term_in_every_way(charged: Tried, compiled: bool) -> None:
    broken = {name: d for name in charged.jobs if not (d := charged.apart(name, compiled)) < TOLERANCE}
    assert not broken


def test_every_term_is_tried(charged: Tried) -> None:
    taken = {name.partition("-")[0] for name, found in charged.alone.items() if isinstance(found, Run)}
    assert taken == set(chargeables()) - {"kl"}, set(chargeables()) - taken
    for how in HOWS:
        assert any(f"-{how}-" in n for n, found in charged.alone.items() if isinstance(found, Run)), how


# Models, losses, data


@pytest.mark.parametrize("kind", [*LAYERS, *STRUCTURES])
def test_every_structure(kind: str) -> None:
    """One step of full rows, then epochs with an average, prox and noise; what is not used or frozen stays as it was."""
    given = problem(kind)
    for settings in (
        {"epochs": 1, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.1}},
        {"terms": [{"penalty": "l2", "strength": 0.5}, {"penalty": "l1", "strength": 0.01}], "averaging": {"ema": 0.9}},
        {"optimizer": {"name": "adagrad"}, "terms": [{"penalty": "l2", "strength": 0.5, "how": "loss"}], "clip": 0.1},
    ):
        assert pair(settings, given) < TOLERANCE


@needs_kernel
def test_the_kernel_takes_these_structures() -> None:
    """All but layers that are called twice; so that the law above is one of the kernel."""
    for kind in (*LAYERS, *STRUCTURES):
        run = together(problem(kind), [Job(recipe(epochs=1))])[0]
        assert isinstance(run, Run)
        wanted = "torch" if kind in ("shared", "batch_norm_twice") else "compiled"
        assert run.engine.startswith(f"{wanted} population of 1"), (kind, run.engine)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    "loss", ["cross_entropy", "binary_cross_entropy", "squared_error", "absolute_error", "mse", "mae", "huber"]
)
def test_every_loss(loss: str, weighted: bool) -> None:
    given = problem("no_norm", loss, weighted=weighted)
    smoothing = {"label_smoothing": 0.2} if given.loss.classifies else {}
    for noise in ({}, smoothing, {"mixup": 0.5, **smoothing}, {"mixup": 0.5, "mix_mode": "elem", **smoothing}):
        assert pair({"noise": noise, "optimizer": {"lr": 0.05}}, given) < TOLERANCE


@BOTH
@pytest.mark.parametrize("noise", [
    {"cutout": 0.3}, {"cutmix": 0.5}, {"cutmix": 0.5, "cutout": 0.2, "input": 0.1}, {"cutmix": 0.5, "mix_mode": "elem"},
    {"mixup": 0.5, "cutmix": 1.0, "switch_prob": 0.3}, {"mixup": 0.5, "cutmix": 1.0, "mix_mode": "elem"},
])  # fmt: skip
def test_noise_on_images(noise: dict[str, float], compiled: bool) -> None:
    x = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0, 0, 0] > 0).long()

    def model() -> nn.Module:
        return Cast(nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 2)), torch.float64)

    given = wp.Problem(model, "cross_entropy", wp.Data(train=(x[:28], y[:28]), valid=(x[28:], y[28:])))
    assert pair({"noise": noise}, given, engines=(compiled,)) < TOLERANCE


def test_embeddings_are_stacked_by_torch() -> None:
    x = torch.randint(0, 7, (40, 3), generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] > 3).long()

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(7, 4, padding_idx=2), nn.Flatten(), nn.Linear(12, 2)).double()

    given = wp.Problem(model, "cross_entropy", wp.Data(train=(x[:28], y[:28]), valid=(x[28:], y[28:])))
    job = Job(recipe(terms=[{"penalty": "l1", "strength": 0.1, "on": "named:0.weight"}]), 1)
    one = together(given, [Job(recipe()), job])[1]
    assert isinstance(one, Run)
    assert one.engine.startswith("torch population of 2: ")
    assert difference(alone(given, job), one) < TOLERANCE


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: [nn.Conv1d(3, 4, 3, padding=1, stride=2), nn.GELU(), nn.Dropout1d(0.3), nn.Flatten(), nn.Linear(16, 2)], (3, 8)),
        (lambda: [nn.Conv2d(2, 4, 3, groups=2, bias=False), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)],
         (2, 6, 6)),
        (lambda: [nn.BatchNorm1d(3), nn.Conv1d(3, 4, 2, dilation=2), nn.AdaptiveAvgPool1d(1), nn.Flatten()], (3, 8)),
        (lambda: [nn.LayerNorm((3, 8)), nn.Linear(8, 5), nn.BatchNorm1d(3), nn.Hardswish(), nn.AvgPool1d(5)], (3, 8)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
def test_stacked_layers_are_the_layers(
    make: Callable[[], list[nn.Module]], shape: tuple[int, ...], training: bool
) -> None:
    """Outputs, gradients and running statistics of three models at once are those of each by itself."""
    models = [nn.Sequential(*make()).double().train(training) for _ in range(3)]
    x = torch.randn(3, 5, *shape, dtype=torch.float64)
    for model in models:
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
    weights = {n: torch.stack([m.get_parameter(n).detach() for m in models]) for n, _ in models[0].named_parameters()}
    weights = {n: w.requires_grad_() for n, w in weights.items()}
    buffers = {n: torch.stack([m.get_buffer(n).clone() for m in models]) for n, b in models[0].named_buffers()}
    out = StackedModel(trace(models[0], x[0]), 3, weights, buffers, {} if training else None).run(x.flatten(0, 1))
    out = out.view(3, 5, *out.shape[1:])
    found = torch.autograd.grad((out**2).sum(), list(weights.values()))
    for i, model in enumerate(models):
        alone_ = model(x[i])
        torch.testing.assert_close(out[i], alone_, rtol=1e-12, atol=1e-12)
        wanted = torch.autograd.grad((alone_**2).sum(), list(model.parameters()))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-10, atol=1e-10)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                torch.testing.assert_close(buffers[name][i], buffer, rtol=1e-12, atol=1e-12)


LONG = {
    "adamw": {"optimizer": {"lr": 1e-3}, "noise": {"dropout": 0.2}, "averaging": {"ema": 0.99}},
    "lasso": {
        "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9},
        "terms": [{"penalty": "l1", "strength": 1e-2}],
    },
    "adagrad": {"optimizer": {"name": "adagrad", "lr": 1e-2}, "schedule": {"name": "one_cycle"}},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("name", LONG)
def test_twenty_epochs_agree_in_outputs(name: str, dtype: torch.dtype) -> None:
    """Rounding is all that differs: 60 steps of which each adds a few units in the last place (6e-8 in single precision, of
    numbers of size 1), along a path that does not amplify them."""
    given = problem("residual", dtype=dtype)
    job = Job(recipe(epochs=20, **LONG[name]), 1)
    one = alone(given, job)
    assert isinstance(one, Run)
    for compiled in ENGINES:
        other = together(given, [Job(recipe(epochs=20)), job], compiled)[1]
        assert isinstance(other, Run)
        with torch.no_grad():
            outputs = apart(one.model(XV).double(), other.model(XV).double())
        assert outputs < (1e-9 if dtype == torch.float64 else 1e-4)
        assert len(one.history) == len(other.history) == 20
        assert one.best_epoch == other.best_epoch or dtype == torch.float32


def drawn(seed: int, size: int) -> list[dict[str, Any]]:
    """Recipes of several ingredients at once."""
    pick = random.Random(seed)
    kernel_like = [{"lr": 0.01}, {"name": "sgd", "lr": 0.05, "momentum": 0.9}, {"name": "rmsprop", "lr": 0.003}]
    parts: dict[str, list[Any]] = {
        "optimizer": [*kernel_like, *kernel_like, {"name": "nadam", "lr": 0.01}, {"name": "adam", "lr": 0.01, "weight_decay": 0.1}],
        "schedule": [{"name": name, "warmup": w} for name in SHAPES for w in (0.0, 0.4)],
        "clip": [0.0, 0.0, 0.3], "averaging": [{}, {"ema": 0.8}, {"swa": 0.6}],
        "noise": [{}, {"dropout": 0.3}, {"mixup": 0.3, "label_smoothing": 0.1}, {"input": 0.1, "dropout": 0.1}, {"gradient": 0.01}],
        "lookahead": [{}, {}, {}, {"every": 2}], "sharpness": [{}, {}, {}, {"radius": 0.05}],
    }  # fmt: skip
    charges = [
        {"penalty": "l2", "strength": 0.3}, {"penalty": "l1", "strength": 0.02}, {"penalty": "l2", "strength": 0.3, "how": "loss"},
        {"penalty": "group_l2", "strength": 0.05, "by": "input"}, {"penalty": "max_norm", "bound": 0.7},
        {"penalty": "mcp", "strength": 0.1}, {"penalty": "confidence", "strength": 0.1},
    ]  # fmt: skip
    found = []
    while len(found) < size:
        settings = {key: pick.choice(values) for key, values in parts.items()}
        settings["terms"] = pick.sample(charges, pick.choice([0, 1, 1, 2]))
        found.append(settings | {"epochs": pick.choice([2, 3])})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_mixtures_beside_each_other(seed: int) -> None:
    given = problem()
    tried = Tried(given, {str(i): settings for i, settings in enumerate(drawn(seed, 60))})
    assert sum(isinstance(found, Run) for found in tried.alone.values()) > 30
    assert not {n: d for n in tried.jobs for c in (True, False) if not (d := tried.apart(n, c)) < TOLERANCE}


# What a slot computes is its own affair


class Cast(nn.Module):
    """A model in some type, whatever its inputs are."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.double_ = net.to(dtype), dtype == torch.float64

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x.double() if self.double_ else x.float())
        return found


def odd(dtype: torch.dtype, begin: int = 0) -> wp.Problem:
    """Sizes that no vector register divides, so that nothing falls into place by luck.

    Args:
        begin: numbers of the memory of the inputs that come before them.
    """
    values = torch.randn(61, 7, generator=torch.Generator().manual_seed(3))
    memory = torch.cat([torch.zeros(begin), values.flatten()])
    x = memory[begin:].view(61, 7)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()

    def model() -> nn.Module:
        hidden = [
            nn.Linear(7, 37),
            nn.LayerNorm(37),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Linear(37, 19),
            nn.BatchNorm1d(19),
            nn.ReLU(),
        ]
        return Cast(nn.Sequential(*hidden, nn.Linear(19, 3)), dtype)

    return wp.Problem(model, "cross_entropy", wp.Data(train=(x[:45], y[:45]), valid=(x[45:], y[45:])))


NEIGHBOURS: list[dict[str, Any]] = [
    {}, {"noise": {"dropout": 0.4, "mixup": 0.3}, "epochs": 1}, {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
    {"optimizer": {"name": "adagrad"}, "epochs": 4}, {"averaging": {"ema": 0.9}, "terms": [{"penalty": "l1", "strength": 0.1}]},
    {"noise": {"input": 0.3}, "terms": [{"penalty": "nuclear", "strength": 0.1}]}, {"optimizer": {"name": "rmsprop"}, "epochs": 5},
]  # fmt: skip
MINE: list[dict[str, Any]] = [
    {"epochs": 3, "noise": {"dropout": 0.3, "label_smoothing": 0.1}, "terms": [{"penalty": "l1", "strength": 0.02}]},
    {"epochs": 3, "optimizer": {"name": "adagrad"}, "averaging": {"ema": 0.9}, "noise": {"mixup": 0.3}},
]  # fmt: skip


def jobs_of(settings: Sequence[dict[str, Any]], seeds: Sequence[int]) -> list[Job]:
    return [Job(recipe(batch_size=13, **values), seed) for values, seed in zip(settings, seeds, strict=True)]


@pytest.mark.parametrize("mine", MINE, ids=["kernel", "own optimizer"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@needs_kernel
def test_neighbours_place_threads_and_waiting_change_no_bit(
    mine: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, job = odd(dtype), jobs_of([mine], [1])[0]
    wanted = together(given, [job])[0]
    assert isinstance(wanted, Run)
    others = jobs_of(NEIGHBOURS, [5, 1, 7, 8, 9, 10, 11])
    for at in (0, 3, 7):
        for threads in (1, 3):
            torch.set_num_threads(threads)
            try:
                found = together(given, [*others[:at], job, *others[at:]])
            finally:
                torch.set_num_threads(1)
            assert same(wanted, found[at]), (at, threads)
    per_slot = together_module.COPIES * sum(w.numel() * w.element_size() for w in given.build({}, 0).parameters())
    monkeypatch.setattr(together_module, "BYTES", 2 * per_slot)
    late = together(given, [*others, job])
    assert isinstance(late[-1], Run)
    assert "population of 2" in late[-1].engine
    assert same(wanted, late[-1])
    for one, other in zip(late, together(given, [*others, job]), strict=True):
        assert same(one, other)


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_a_slot_is_the_same_at_every_offset_in_memory(dtype: torch.dtype) -> None:
    """Batches of 13 rows of 7 numbers: lane k of a shared batch would begin 13*7*k numbers after the first, so that
    seventeen lanes without gaps meet every offset within a line of the cache; then a user's inputs that begin at each of them."""
    job = Job(recipe(batch_size=13), 1)
    wanted = together(odd(dtype), [job])[0]
    assert isinstance(wanted, Run)
    others = [Job(recipe(batch_size=13), 100 + seed) for seed in range(17)]
    for at in range(17):
        assert same(wanted, together(odd(dtype), [*others[:at], job, *others[at : at + 1]])[at]), at
    for begin in range(17):
        assert same(wanted, together(odd(dtype, begin), [job])[0]), begin


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize(
    "kind", sorted({*LAYERS, *STRUCTURES} - {"shared", "batch_norm_twice"})
)  # these are trained alone
def test_every_operand_of_a_product_begins_at_a_line_of_the_cache(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever model, lane, last batch and evaluation: the products are watched from outside, by a function in their place."""
    real = kernel()
    assert real is not None
    shape = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)
    product, seen = shape(real.gemm[dtype]), []

    def watched(*given: int) -> None:
        seen.append({given[at] % 64 for at in (6, 8, 11)})
        product(*given)

    spy = shape(watched)
    address = ctypes.cast(spy, ctypes.c_void_p).value
    assert address is not None
    monkeypatch.setattr(
        together_module, "kernel", lambda: Kernel(real.library, {**real.gemm, dtype: address}, real.blas_threads)
    )
    jobs = [
        Job(recipe(batch_size=13, noise=noise), seed) for seed, noise in enumerate([{}, {"input": 0.1}, {"mixup": 0.2}])
    ]
    found = together(problem(kind, dtype=dtype), jobs)
    assert all(isinstance(run, Run) and run.engine == "compiled population of 3" for run in found)
    assert len(seen) > 20
    assert set().union(*seen) == {0}


@BOTH
def test_a_slot_that_ends_badly_harms_no_other(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It diverges, meets an exception of its own in a step or a refusal at the start, is stopped by patience, or from outside;
    the others are as they are without it, and its place goes to one that waited."""
    given = problem("residual", dtype=torch.float32)
    good = [Job(recipe(epochs=4), 1), Job(recipe(epochs=4, optimizer={"name": "adagrad"}), 2)]
    bad = [
        Job(recipe(epochs=4, optimizer={"name": "sgd", "lr": 1e6}), 3),
        Job(recipe(epochs=4, optimizer={"name": "adagrad", "lr": 1e6}, clip=1.0), 4),
        Job(recipe(epochs=4, optimizer={"name": "rprop"}, terms=[{"penalty": "l1", "strength": 0.1}]), 5),
        Job(recipe(epochs=30, optimizer={"lr": 0.5}, stopping={"patience": 2}), 6),
        Job(recipe(epochs=4), 7),
    ]
    weights = sum(w.numel() * w.element_size() for w in given.build({}, 0).parameters())
    monkeypatch.setattr(together_module, "BYTES", 3 * together_module.COPIES * weights)

    def cull(standings: Sequence[Standing]) -> Collection[int]:
        return [s.job for s in standings if s.job == 4 and s.progress == 0.5]

    wanted = together(given, good, compiled)
    found = together(given, [*bad, *good], compiled, cull=cull)
    assert isinstance(found[0], Run)
    assert found[0].stopped == "diverged"
    assert isinstance(found[2], WellposedError)
    assert "Rprop has none" in str(found[2])
    assert isinstance(found[3], Run)
    assert found[3].stopped == "patience"
    assert isinstance(found[4], Run)
    assert (found[4].stopped, len(found[4].history)) == ("culled", 2)
    for one, other in zip(wanted, found[5:], strict=True):
        assert same(one, other) if compiled else difference(one, other) < 1e-6


@BOTH
def test_an_exception_of_one_slot_is_its_own(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its optimizer, its penalty, its average or its score; as `fit` tells it."""
    given = problem("residual")
    jobs = [Job(recipe(epochs=3, optimizer={"name": "adagrad"}), seed) for seed in range(3)]
    wanted = together(given, jobs, compiled)
    from wellposed.training.loop import Training

    for name in ("move", "charge_weights", "average_epoch", "judge"):
        usual = getattr(Training, name)

        def broken(self: Training, *given: Any, usual: Any = usual) -> Any:
            if self.seed == 1 and len(self.history) == 1:
                raise FloatingPointError("out of range")
            return usual(self, *given)

        monkeypatch.setattr(Training, name, broken)
        found = together(given, jobs, compiled)
        reference = alone(given, jobs[1])
        monkeypatch.setattr(Training, name, usual)
        assert isinstance(found[1], TrainingError), name
        assert str(found[1]) == str(reference) == "Training stopped by FloatingPointError: out of range."
        assert found[1].run is not None
        assert len(found[1].run.history) == 1
        assert difference(reference.run, found[1].run) < TOLERANCE
        for i in (0, 2):
            assert same(wanted[i], found[i]) if compiled else difference(wanted[i], found[i]) < 1e-12


@BOTH
def test_an_exception_in_a_shared_step_is_told_to_all(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Population, *given: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(Population, "gradients", broken)
    for outcome in together(problem(), [Job(recipe(), 0), Job(recipe(), 1)], compiled):
        assert str(outcome) == "Training stopped by MemoryError: no room."


@BOTH
def test_metrics_of_a_diverged_slot(compiled: bool) -> None:
    """What is no number is scored as `fit` scores it, and beside it as always."""
    for metric, loss in (("balanced_accuracy", "cross_entropy"), ("r2", "squared_error"), ("rmse", "squared_error")):
        given = problem("no_norm", loss, metric=metric)
        jobs = [Job(recipe(optimizer={"name": "sgd", "lr": 1e200}), 0), Job(recipe(), 1)]
        found = together(given, jobs, compiled)
        for job, outcome in zip(jobs, found, strict=True):
            assert difference(alone(given, job), outcome) < TOLERANCE
        assert isinstance(found[0], Run)
        assert found[0].stopped == ("diverged" if loss == "squared_error" else "epochs")


def test_gradients_through_noise_are_those_that_torch_is_handed() -> None:
    """Bit for bit, and a weight without a gradient is passed over."""
    model, draw = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), torch.Generator().manual_seed(0)
    noised = {n: w * torch.randn(w.shape, generator=draw) + 0.1 * w.square() for n, w in model.named_parameters()}
    handed = {n: torch.randn(w.shape, generator=draw) for n, w in model.named_parameters() if n != "1.bias"}
    for name, gradient in handed.items():
        model.get_parameter(name).grad = gradient.clone()
    wanted = {
        n: torch.autograd.grad(noised[n], model.get_parameter(n), g, retain_graph=True)[0] for n, g in handed.items()
    }
    through(model, noised)
    assert model.get_parameter("1.bias").grad is None
    assert all(torch.equal(model.get_parameter(name).grad, gradient) for name, gradient in wanted.items())


@BOTH
def test_masks_differ_by_seed_and_are_shared_where_seeds_agree(compiled: bool) -> None:
    given = problem("many_drops")
    job = Job(recipe(noise={"dropout": 0.5}), 1)
    a, b, c = together(given, [job, Job(job.recipe, 2), job], compiled)
    assert same(a, c)
    assert difference(a, b) > 1e-3


@BOTH
def test_best_weights_and_batch_norms_of_each(compiled: bool) -> None:
    """Weights of its own best epoch come back, with the running statistics of that epoch."""
    given = problem("batch")
    jobs = [
        Job(recipe(epochs=6, optimizer={"lr": lr}, stopping={"patience": 0}), s)
        for s, lr in enumerate((0.3, 0.01, 0.1))
    ]
    found = together(given, jobs, compiled)
    assert len({run.best_epoch for run in found if isinstance(run, Run)}) > 1
    for run in found:
        assert isinstance(run, Run)
        loss = run.history["valid_loss"]
        assert run.best_epoch == int(np.argmin(loss))
        assert run.evaluate("valid").loss.mean == pytest.approx(min(loss), rel=1e-5)
        mean = run.model.get_buffer("net.2.running_mean")
        assert all(
            run is other or not torch.equal(mean, other.model.get_buffer("net.2.running_mean")) for other in found
        )


# The contract of train_population


@BOTH
def test_done_and_cull_are_told_what_happens(compiled: bool) -> None:
    told: list[tuple[int, Outcome]] = []
    seen: list[list[Standing]] = []

    def cull(standings: Sequence[Standing]) -> Collection[int]:
        seen.append(list(standings))
        return [99, *(s.job for s in standings if s.job == 1 and len(s.history) == 2)]

    jobs = [
        Job(recipe(epochs=4), 0),
        Job(recipe(epochs=6), 1),
        Job(recipe(epochs=3), 2),
        Job(recipe(accumulate=2, epochs=2), 3),
    ]
    outcomes = together(
        problem(), jobs, compiled, cull=cull, done=lambda number, outcome: told.append((number, outcome))
    )
    assert sorted(number for number, _ in told) == [0, 1, 2, 3]
    assert all(outcomes[number] is outcome for number, outcome in told)
    order = [number for number, _ in told if number != 3]
    assert order == [1, 2, 0]
    assert [run.stopped for run in outcomes if isinstance(run, Run)] == ["epochs", "culled", "epochs", "epochs"]
    for standings in seen:
        assert [s.job for s in standings] == sorted({s.job for s in standings})
        for s in standings:
            assert s.epochs == jobs[s.job].recipe.epochs
            assert s.progress == len(s.history) / s.epochs
            assert 0 < s.progress <= 1
    assert not any(s.job == 1 and len(s.history) > 2 for standings in seen for s in standings)


@BOTH
def test_a_culled_run_is_the_run_so_far(compiled: bool) -> None:
    given = problem()
    whole = recipe(epochs=6, schedule={"name": "cosine"})
    jobs = [Job(whole, 0), Job(whole, 1)]
    free = together(given, jobs, compiled)
    cut = together(
        given, jobs, compiled, cull=lambda standings: [s.job for s in standings if len(s.history) == 3 and s.job]
    )
    assert same(free[0], cut[0]) if compiled else difference(free[0], cut[0]) < 1e-12
    rows = [[{k: v for k, v in row.items() if "seconds" not in k} for row in run.history] for run in (free[1], cut[1])]
    assert rows[0][:3] == rows[1] if compiled else len(rows[1]) == 3


@BOTH
def test_an_interrupt_ends_with_what_there_is(compiled: bool) -> None:
    given = problem()
    calls = itertools.count()

    def cull(standings: Sequence[Standing]) -> Collection[int]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return ()

    jobs = [Job(recipe(epochs=9), 0), Job(recipe(epochs=9), 1), Job(recipe(epochs=1), 2)]
    found = together(given, jobs, compiled, cull=cull)
    assert [(run.stopped, len(run.history)) for run in found if isinstance(run, Run)] == [
        ("interrupted", 3), ("interrupted", 3), ("epochs", 1),
    ]  # fmt: skip
    three = together(given, [Job(recipe(epochs=3), 0)], compiled)[0]
    assert isinstance(three, Run)
    assert apart(torch.tensor(found[0].history["train_loss"]), torch.tensor(three.history["train_loss"])) < 1e-12


@BOTH
def test_the_deadline_ends_after_a_step(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    over = time.monotonic() - 1
    found = together(given, [Job(recipe(epochs=5), 0)], compiled, deadline=over)[0]
    wanted = wp.fit(given, recipe(epochs=5), 0, device="cpu", deadline=over)
    assert isinstance(found, Run)
    assert (found.stopped, len(found.history)) == ("budget", 1)
    assert difference(wanted, found) < TOLERANCE
    monkeypatch.setattr(together_module, "BYTES", 1)
    outcomes = together(given, [Job(recipe(epochs=5), seed) for seed in range(3)], compiled, deadline=over)
    assert [isinstance(outcome, Run) for outcome in outcomes] == [True, False, False]
    assert "before the training of this recipe began" in str(outcomes[2])


@BOTH
def test_global_random_state_is_untouched(compiled: bool) -> None:
    given = problem()
    given.prepared  # noqa: B018 - splits are not what is looked at
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    jobs = [
        Job(recipe(noise={"mixup": 0.3}), 0),
        Job(recipe(accumulate=2), 1),
        Job(recipe(optimizer={"name": "sgd", "lr": 1e9}), 2),
    ]
    one = together(given, jobs, compiled)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert np.array_equal(state[2], np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(77)
    for a, b in zip(one, together(given, jobs, compiled), strict=True):
        assert same(a, b)


@BOTH
def test_models_own_their_memory(compiled: bool, tmp_path: Any) -> None:
    given = problem("batch", dtype=torch.float32)
    jobs = [Job(recipe(averaging={"ema": 0.9} if seed else {}), seed) for seed in range(3)]
    found = [run for run in together(given, jobs, compiled) if isinstance(run, Run)]
    tensors = [t for run in found for t in run.model.state_dict().values()]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in tensors)
    assert all(p.grad is None and p.requires_grad for run in found for p in run.model.parameters())
    assert not any(m.training or "forward" in vars(m) for run in found for m in run.model.modules())
    before = [{k: v.clone() for k, v in run.model.state_dict().items()} for run in found]
    net = found[0].model.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    nn.functional.cross_entropy(net(X), classes(X)).backward()
    optimizer.step()
    assert not torch.equal(before[0]["net.1.weight"], net.state_dict()["net.1.weight"])
    for run, kept in zip(found[1:], before[1:], strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in run.model.state_dict().items())
    loaded = load(save_run(found[1], tmp_path / "model"), given)
    with torch.no_grad():
        assert torch.equal(loaded.model(XV), found[1].model(XV))


NOTHING = [
    {"penalty": "l1"}, {"penalty": "l2"}, {"penalty": "l2", "how": "prox"}, {"penalty": "l2", "how": "loss"},
    {"penalty": "group_l2", "by": "unit"}, {"penalty": "elastic_net"}, {"penalty": "mcp"}, {"penalty": "nuclear"},
    {"penalty": "confidence"}, {"penalty": "l2_sp"},
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("term", NOTHING, ids=lambda t: "-".join(map(str, t.values())))
def test_strength_0_is_plain_training(term: dict[str, Any], compiled: bool) -> None:
    """Bit for bit where the same program takes the step; to rounding where a term sends it to another one."""
    given = problem()
    plain, charged = together(given, [Job(recipe(), 1), Job(recipe(terms=[{**term, "strength": 0.0}]), 1)], compiled)
    assert isinstance(plain, Run)
    assert isinstance(charged, Run)
    left, right = plain.model.state_dict(), charged.model.state_dict()
    largest = max(apart(left[name].double(), right[name].double()) for name in left)
    assert (
        largest == 0 if term["penalty"] in ("l1", "l2", "group_l2") and term.get("how") != "loss" else largest < 1e-12
    )


def test_histories_have_the_same_columns(tried: Tried) -> None:
    for compiled in (True, False):
        for name, one in tried.alone.items():
            other = tried.together[compiled][name]
            if isinstance(one, Run) and isinstance(other, Run):
                assert [list(row) for row in one.history] == [list(row) for row in other.history]
                assert one.history.facts == other.history.facts
                assert all(row["seconds"] > 0 for row in other.history)


# What is trained alone, and why


class Called(nn.Module):
    """``linear(function(x))``."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(FEATURES, 3)
        self.shift = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(self.function(self, x))
        return found


def hooked(kind: str) -> nn.Module:
    net = nn.Sequential(nn.Linear(FEATURES, 3))
    if kind == "forward":
        net[0].register_forward_hook(lambda *_: None)
    elif kind == "backward":
        net[0].register_full_backward_hook(lambda *_: None)
    else:
        net[0].weight.register_hook(lambda gradient: 0 * gradient)
    return net


class StaysInEvaluation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 3)

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(self.norm(x))
        return found


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(FEATURES, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.d = nn.Linear(8, 8)
        self.d.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.c(self.d(self.b(self.a(x))))
        return found


class TwoTypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(FEATURES, 3), nn.Linear(3, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.b(self.a(x).double())
        return found


def seq(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(make(), nn.Linear(FEATURES, 3))


ALONE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "forward hook": (lambda: hooked("forward"), "the model has hooks"),
    "backward hook": (lambda: hooked("backward"), "the model has hooks"),
    "hook of a weight": (lambda: hooked("weight"), "the model has hooks"),
    "branch": (lambda: Called(lambda m, x: x if x.sum() > 0 else -x), "cannot be traced (TraceError)"),
    "mode": (lambda: Called(lambda m, x: x if m.training else 0.5 * x), "its forward is another one in evaluation"),
    "evaluation": (StaysInEvaluation, "some of its layers stay in evaluation mode"),
    "shared": (Shares, "share weights"), "two types": (TwoTypes, "its weights have several types"),
    "function": (lambda: Called(lambda m, x: torch.sin(x)), "it calls sin"),
    "method": (lambda: Called(lambda m, x: x.cos()), "it calls .cos()"),
    "batch mean": (lambda: Called(lambda m, x: x - x.mean(0)), "it calls .mean()"),
    "number of examples": (lambda: Called(lambda m, x: x / x.size(0)), "it computes with sizes"),
    "number of examples again": (lambda: Called(lambda m, x: x * (0.1 * x.shape[0])), "it computes with sizes"),
    "first example": (lambda: Called(lambda m, x: x + (x[:, :2] - x[:, :2][0])[:, :1]), "it picks examples"),
    "transposed": (lambda: Called(lambda m, x: x + x.view(x.size(0), 2, 3).mT.flatten(1)), "it uses .mT"),
    "dimensions": (lambda: Called(lambda m, x: (x.view(x.size(0), 1, -1) + x[:, :1])[:, 0]), "of different dimensions"),
    "attribute": (lambda: Called(lambda m, x: x + m.shift), "it uses 'shift' outside a layer"),
    "layer": (seq(lambda: nn.PReLU()), "is PReLU"),
    "alpha dropout": (seq(lambda: nn.AlphaDropout(0.1)), "is AlphaDropout"),
    "momentum": (seq(lambda: nn.BatchNorm1d(FEATURES, momentum=None)), "keeps no running mean"),
    "no statistics": (seq(lambda: nn.BatchNorm1d(FEATURES, track_running_stats=False)), "keeps no running mean"),
    "parametrization": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(FEATURES, 3))), "ParametrizedLinear",
    ),
    "first axis": (lambda: Called(lambda m, x: torch.flatten(x, 0).view(-1, FEATURES)), "no axis of examples first"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("name", ALONE)
def test_models_that_cannot_be_stacked(name: str) -> None:
    make, reason = ALONE[name]
    given = wp.Problem(make, "cross_entropy", wp.Data(train=(X, classes(X)), valid=(XV, classes(XV))))
    jobs = [Job(recipe(), 0), Job(recipe(), 1)]
    for job, run in zip(jobs, together(given, jobs), strict=True):
        assert isinstance(run, Run), run
        assert run.engine.startswith("alone: ")
        assert reason in run.engine
        assert difference(alone(given, job), run) == 0


def images(channels: int = 800) -> wp.Problem:
    x = torch.randn(40, 1, 5, 5)
    y = (x[:, 0, 0, 0] > 0).long()

    def model() -> nn.Module:
        layers = nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Conv2d(channels, 6, 3), nn.Flatten(), nn.Linear(6, 2)
        return nn.Sequential(*layers)

    return wp.Problem(model, "cross_entropy", wp.Data(train=(x[:30], y[:30]), valid=(x[30:], y[30:])))


class Rows(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[i], classes(X)[i]


def single(**data: Any) -> wp.Problem:
    settings = {"train": (X, classes(X)), "valid": (XV, classes(XV))} | data.pop("data", {})
    return wp.Problem(
        lambda kind="no_norm": Net(kind, dtype=torch.float32), "cross_entropy", wp.Data(**settings), **data
    )


def ignoring() -> wp.Problem:
    y = classes(X)
    y[3] = -100
    return single(data={"train": (X, y)})


REASONS: dict[str, tuple[Callable[[], wp.Problem], dict[str, Any], str]] = {
    "accumulates": (single, {"accumulate": 2}, "it accumulates gradients"),
    "precision": (single, {"precision": "bfloat16"}, "it trains in bfloat16"),
    "place": (single, {"noise": {"places": [{"kind": "gaussian_dropout", "rate": 0.1, "on": "net.1"}]}},
              "is drawn inside the model"),
    "penalty": (single, {"terms": [{"penalty": "jacobian", "strength": 0.1}]}, "the penalty jacobian looks at inputs"),
    "forward": (lambda: single(forward=lambda m, x: m(x)), {}, "a forward of its own"),
    "dataset": (lambda: single(data={"train": Rows()}), {}, "fetched one by one"),
    "ignored": (ignoring, {}, "some rows do not count"),
    "one": (lambda: single(), {"batch_size": 1, "model": {"kind": "batch"}}, "a batch of one cannot be normalized"),
    "convolution": (images, {}, "its convolutions fill a CPU alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_recipes_and_data_that_cannot_be_stacked(name: str) -> None:
    make, settings, reason = REASONS[name]
    given = make()
    if name == "one":  # alone it has the same trouble, and says so
        outcome = together(given, [Job(recipe(**settings))])[0]
        assert isinstance(outcome, TrainingError)
        assert outcome.run.engine.startswith("alone") if outcome.run is not None else True
        return
    job = Job(recipe(**settings), 1)
    run = together(given, [Job(recipe(**settings), 0), job])[1]
    assert isinstance(run, Run), run
    assert run.engine.startswith("alone: ")
    assert reason in run.engine
    assert difference(alone(given, job), run) == 0


TORCHS: dict[str, Callable[[], wp.Problem]] = {
    "own loss": lambda: wp.Problem(
        lambda: Net("no_norm"), nn.CrossEntropyLoss(label_smoothing=0.1), wp.Data(train=(X, classes(X)), valid=(XV, classes(XV)))
    ),
    "probabilities": lambda: wp.Problem(
        lambda: Net("no_norm"), "cross_entropy",
        wp.Data(train=(X, nn.functional.one_hot(classes(X), 3).float()), valid=(XV, nn.functional.one_hot(classes(XV), 3).float())),
    ),
    "no kernel for a layer": lambda: wp.Problem(
        lambda: nn.Sequential(nn.Linear(FEATURES, 8), nn.Mish(), nn.Linear(8, 3)), "cross_entropy",
        wp.Data(train=(X, classes(X)), valid=(XV, classes(XV))),
    ),
    "whole numbers": lambda: wp.Problem(
        lambda: Net("no_norm"), "cross_entropy", wp.Data(train=((4 * X).long(), classes(X)), valid=((4 * XV).long(), classes(XV)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHS)
def test_what_only_torch_can_stack(name: str) -> None:
    given = TORCHS[name]()
    job = Job(recipe(), 1)
    run = together(given, [Job(recipe(), 0), job])[1]
    assert isinstance(run, Run), run
    assert run.engine.startswith("torch population of 2: ")  # and why
    assert difference(alone(given, job), run) < 1e-6


def test_a_class_without_an_output_is_told_and_not_looked_up() -> None:
    """The first rows are in order, so that only training meets it; the kernel must not read beyond the outputs."""
    y = classes(X)
    y[-5:] = 40
    given = single(data={"train": (X, y)})
    wanted = alone(given, Job(recipe()))
    found = together(given, [Job(recipe(), 0), Job(recipe(), 1)])
    assert isinstance(wanted, WellposedError)
    assert "40 needs 41 outputs" in str(wanted)
    assert all(isinstance(one, WellposedError) and str(wanted) in str(one) for one in found)


def test_different_shapes_and_batches_are_different_populations() -> None:
    jobs = [
        Job(recipe(model={"kind": kind}, batch_size=size), s)
        for s, (kind, size) in enumerate(itertools.product(("plain", "batch"), (8, 16)))
    ]
    given = problem()
    for job, run in zip(jobs, together(given, jobs), strict=True):
        assert isinstance(run, Run)
        assert "population of 1" in run.engine
        assert difference(alone(given, job), run) < TOLERANCE
    few = together(given, [Job(recipe(), 1, rows=20), Job(recipe(), 1)])
    assert difference(few[0], few[1]) > 1e-6
    assert difference(alone(given, Job(recipe(), 1, rows=20)), few[0]) < TOLERANCE


@needs_kernel
def test_steps_of_one_call_are_those_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also where the last batch is smaller, and where a slot diverges between others that go on."""
    given = problem(dtype=torch.float32)
    changes: list[dict[str, Any]] = [
        {}, {"noise": {"dropout": 0.3, "label_smoothing": 0.1}}, {"noise": {"mixup": 0.4, "input": 0.2}},
        {"sharpness": {"radius": 0.05}},
        {"averaging": {"ema": 0.9}, "schedule": {"name": "cosine"}}, {"optimizer": {"name": "sgd", "lr": 1e18}},
    ]  # fmt: skip
    jobs = [Job(recipe(batch_size=4, epochs=4, **change), seed) for seed in range(2) for change in changes]
    found, calls = [], []
    usual = Population.step
    monkeypatch.setattr(Population, "step", lambda *given: calls.append(len(given[-1])) or usual(*given))
    for limits in ((1e9, 2**40), (0.0, 2**40)):
        monkeypatch.setattr(population_module, "AT_ONCE", limits)
        found.append(together(given, jobs))
        assert set(calls) == ({1, 9, 10} if limits[0] else {1}), "43 rows are ten batches of 4 and one of 3"
        calls.clear()
    assert [run.stopped for run in found[0] if isinstance(run, Run)] == ([*["epochs"] * 5, "diverged"] * 2)
    for many, one in zip(*found, strict=True):
        assert same(many, one)


# Wrong versions of the rules must be caught


def steps_from_two(self: Any, places: Any, factors: Any, usual: Any = update_rules.Rules.now) -> Any:
    rule, charge = usual(self, places, factors)
    rule["correction1"] = 1.0 - rule["beta1"] ** (self.steps[places] + 1)
    return rule, charge


def changed(**values: Any) -> Callable[..., Any]:
    """`Rules.now` whose numbers are changed."""

    def now(self: Any, places: Any, factors: Any, usual: Any = update_rules.Rules.now) -> Any:
        rule, charge = usual(self, places, factors)
        for key, value in values.items():
            (rule if key in rule.dtype.names else charge)[key] = value(rule, charge)
        return rule, charge

    return now


WRONG_RULES: dict[str, tuple[Callable[..., Any], str]] = {
    "bias correction of the next step": (steps_from_two, "plain"),
    "no bias correction": (changed(correction1=lambda r, c: 1.0), "plain"),
    "second moment not corrected": (changed(root2=lambda r, c: 1.0), "plain"),
    "no schedule": (changed(lr=lambda r, c: r["lr"].max()), "schedule-cosine"),
    "decay not scaled by the rate": (changed(decay=lambda r, c: 0.9), "adamw-0-decayed"),
    "momentum from zero": (changed(first=lambda r, c: 0.0), "sgd-3"),
    "momentum reset at each step": (changed(first=lambda r, c: 1.0), "sgd-1"),
    "no clipping": (changed(clip=lambda r, c: 0.0), "clip-sgd"),
    "no ramp": (changed(ramp=lambda r, c: 1.0), "ema-zeros"),
    "average of one decay": (changed(average=lambda r, c: 0.1), "ema"),
    "average without its zeros": (changed(sparse=lambda r, c: 0.0), "ema-zeros"),
    "buffers copied": (changed(buffers=lambda r, c: 0.0), "ema-buffers-average"),
    "buffers averaged": (changed(buffers=lambda r, c: 1.0), "ema"),
    "no average": (changed(average=lambda r, c: 0.0), "ema"),
    "coupled decay forgotten": (changed(coupled=lambda r, c: 0.0), "adam-1"),
    "l1 forgotten": (changed(l1=lambda r, c: 0.0), "l1-l2-norm"),
    "l2 forgotten": (changed(l2=lambda r, c: 0.0), "l1-l2-norm"),
    "bound forgotten": (changed(bound=lambda r, c: -1.0), "l1-l2-norm"),
    "groups along the other axis": (changed(group_axis=lambda r, c: 1 - c["group_axis"]), "l1-group"),
    "neighbour's rule": (lambda self, places, factors, usual=update_rules.Rules.now: tuple(
        np.roll(part, 1, axis=1) for part in usual(self, places, factors)), "clip-sgd"),
}  # fmt: skip


@pytest.mark.nightly
@needs_kernel
@pytest.mark.parametrize("name", WRONG_RULES)
def test_wrong_rules_are_caught(name: str, tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, recipe_name = WRONG_RULES[name]
    job = tried.jobs[recipe_name]
    monkeypatch.setattr(update_rules.Rules, "now", wrong)
    found = together(problem(), [Job(recipe(), 4), job, Job(recipe(), 5)])[1]
    assert not difference(tried.alone[recipe_name], found) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_a_normalized_overflow_is_seen(dtype: torch.dtype) -> None:
    """Squares beyond the largest number are no zeros: the run has diverged, alone and together."""
    given = problem("residual", dtype=dtype)
    job = Job(recipe(epochs=4, optimizer={"name": "sgd", "lr": 1e6}), 3)
    one, other = alone(given, job), together(given, [job])[0]
    assert isinstance(one, Run)
    assert isinstance(other, Run)
    assert one.stopped == other.stopped == "diverged"


@BOTH
@pytest.mark.parametrize("begun", [True, False], ids=["its stacks", "its run"])
def test_an_exception_at_the_start_is_told_of_that_job(
    begun: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: no job is lost, and its place goes to the next."""
    given = problem()
    jobs = [Job(recipe(), seed) for seed in range(3)]
    wanted = together(given, jobs, compiled)
    owner, name = (Population, "move_in") if begun else (together_module.PopulationTrainer, "begin")
    usual = getattr(owner, name)

    def broken(self: Any, one: Any) -> Any:
        seed = one.training.seed if begun else one.seed
        if seed == 0:
            raise MemoryError("no room")
        return usual(self, one)

    monkeypatch.setattr(owner, name, broken)
    found = together(given, jobs, compiled)
    assert str(found[0]) == "Training stopped by MemoryError: no room."
    for one, other in zip(wanted[1:], found[1:], strict=True):
        assert same(one, other) if compiled else difference(one, other) < 1e-12


@BOTH
def test_an_exception_of_the_caller_is_the_callers(compiled: bool) -> None:
    """What `done` and `cull` raise comes out as it is, and is not taken for a failure of training."""

    def full(*_: Any) -> Any:
        raise OSError("the disk is full")

    told: list[Outcome] = []

    def done(number: int, outcome: Outcome) -> None:
        told.append(outcome)
        raise OSError("the disk is full")

    for settings in ({"cull": full}, {"done": done}):
        with pytest.raises(OSError, match="the disk is full"):
            together(problem(), [Job(recipe(), seed) for seed in range(3)], compiled, **settings)
    assert len(told) == 1
    assert isinstance(told[0], Run)


@BOTH
def test_an_interrupt_within_a_step(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was reached at the last epoch comes back, also of a recipe with an ascent, whose weights go back."""
    usual, calls = Population.gradients, itertools.count()

    def interrupted(self: Population, *given: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return usual(self, *given)

    monkeypatch.setattr(Population, "gradients", interrupted)
    told: list[int] = []
    jobs = [Job(recipe(epochs=5, optimizer={"name": "adagrad"}), seed) for seed in range(2)]
    found = together(problem(), jobs, compiled, done=lambda number, _: told.append(number))
    assert [(run.stopped, len(run.history)) for run in found if isinstance(run, Run)] == [("interrupted", 1)] * 2
    assert told == [0, 1]
    monkeypatch.setattr(Population, "gradients", usual)
    short = [Job(job.recipe.replace(epochs=1), job.seed) for job in jobs]
    for one, other in zip(found, together(problem(), short, compiled), strict=True):
        assert isinstance(one, Run)
        assert isinstance(other, Run)
        left, right = one.model.state_dict(), other.model.state_dict()
        assert all(apart(left[name].double(), right[name].double()) < 1e-12 for name in left)


class InPlace(nn.Module):
    """``l3(x + act(x))`` with an activation that writes over ``x``, as a layer or as a function."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.l1, self.l2, self.l3 = nn.Linear(FEATURES, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act = nn.LeakyReLU(0.3, inplace=True)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.l2(self.act(self.l1(x.double())))
        found = self.act(h) if self.how == "layer" else nn.functional.relu(h, inplace=True)
        out: Tensor = self.l3(found + h)
        return out


@BOTH
@pytest.mark.parametrize("how", ["layer", "function"])
def test_layers_that_write_over_their_input(how: str, compiled: bool) -> None:
    given = wp.Problem(lambda: InPlace(how), "cross_entropy", wp.Data(train=(X, classes(X)), valid=(XV, classes(XV))))
    assert pair({"optimizer": {"name": "sgd", "lr": 0.5}}, given, engines=(compiled,)) < TOLERANCE


@BOTH
def test_many_rows_are_evaluated_in_parts(compiled: bool) -> None:
    x = torch.randn(2500, FEATURES, generator=torch.Generator().manual_seed(2))
    data = wp.Data(train=(x[:1200], classes(x[:1200])), valid=(x[1200:], classes(x[1200:])))
    given = wp.Problem(lambda: Net("batch"), "cross_entropy", data)
    settings = {"epochs": 1, "batch_size": 400, "averaging": {"ema": 0.5}}
    assert pair(settings, given, engines=(compiled,)) < TOLERANCE


@BOTH
def test_a_job_that_cannot_be_trained_does_not_stop_the_others(compiled: bool) -> None:
    given = problem()
    impossible = [Job(recipe(model={"heigth": 3}), 0), Job(recipe(model={"kind": "bad"}), 0)]
    found = together(given, [*impossible, Job(recipe(), 1)], compiled)
    for job, outcome in zip(impossible, found, strict=False):
        assert isinstance(outcome, WellposedError)
        assert str(outcome) == str(alone(given, job))
    assert difference(alone(given, Job(recipe(), 1)), found[-1]) < TOLERANCE


@pytest.mark.parametrize("kind", ["activations", "residual", "positions", "batch", "skips"])
@needs_kernel
def test_steps_in_single_precision(kind: str) -> None:
    """The kernel's exponential and error function are good to a unit in the last place or two (1e-7) of numbers of size 1."""
    job = Job(recipe(optimizer={"name": "sgd", "lr": 0.1}), 1)
    given = problem(kind, dtype=torch.float32)
    assert difference(alone(given, job), together(given, [Job(recipe()), job])[1]) < 1e-5


def test_the_torch_engine_depends_on_neighbours_in_rounding_only() -> None:
    """Its products of several slots at once may add in another order; the kernel's do not."""
    given, job = problem("residual"), Job(recipe(epochs=3, noise={"dropout": 0.3}), 1)
    wanted = together(given, [job], False)[0]
    others = [Job(recipe(**settings), 5 + i) for i, settings in enumerate(NEIGHBOURS)]
    for at in (0, 3, 7):
        assert difference(wanted, together(given, [*others[:at], job, *others[at:]], False)[at]) < 1e-12


# Wrong versions of what is around the kernel must be caught


def each(jobs: Sequence[Job], given: wp.Problem, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> float:
    """The largest difference from alone, with two places for all."""
    weights = sum(w.numel() * w.element_size() for w in given.build({}, 0).parameters())
    with monkeypatch.context() as patch:
        patch.setattr(together_module, "BYTES", 2 * together_module.COPIES * weights)
        found = together(given, jobs, compiled)
    return max(difference(alone(given, job), one) for job, one in zip(jobs, found, strict=True))


AROUND = [
    Job(recipe(epochs=1, optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9}), 1),
    Job(recipe(epochs=4, averaging={"ema": 0.9}, noise={"dropout": 0.4}, optimizer={"lr": 0.3}), 2),
    Job(recipe(epochs=2, averaging={"ema": 0.9}, noise={"dropout": 0.2, "mixup": 0.5, "label_smoothing": 0.1}), 3),
    Job(recipe(epochs=2, optimizer={"name": "adagrad"}, noise={"input": 0.2, "gradient": 0.01}), 4),
    Job(recipe(epochs=3, schedule={"name": "cosine"}, terms=[{"penalty": "l2", "strength": 0.3, "how": "loss"}]), 5),
    Job(recipe(epochs=2, noise={"places": NOISES["places"][0]}), 6),
]


def without_moments(usual: Any) -> Callable[..., Any]:
    def adopt(self: Any, model: nn.Module, place: int, average: Any) -> None:
        kept = [[stack.at(place).clone() for stack in moment.values()] for moment in self.moments]
        usual(self, model, place, average)
        for moment, values in zip(self.moments, kept, strict=True):
            for stack, value in zip(moment.values(), values, strict=True):
                stack.at(place).copy_(value)

    return adopt


def first_of_all(usual: Any) -> Callable[..., Any]:
    def batch(self: Any, step: int, live: Any, trainings: Any) -> Any:
        found = usual(self, step, live, trainings)
        found.lane = np.zeros_like(found.lane)
        return found

    return batch


def same_mask(usual: Any) -> Callable[..., Any]:
    return lambda self, trainings, *rest: usual(self, [trainings[0]] * len(trainings), *rest)


def unmixed(usual: Any) -> Callable[..., Any]:
    def batch(self: Any, step: int, live: Any, trainings: Any) -> Any:
        found = usual(self, step, live, trainings)
        found.mixing.clear()
        return found

    return batch


def not_averaged(usual: Any) -> Callable[..., Any]:
    return lambda self, places, averaged, inputs: usual(self, places, np.zeros_like(averaged), inputs)


def turned(usual: Any) -> Callable[..., Any]:
    return lambda self, places, averaged, inputs: usual(self, places, averaged, inputs).flip(0)


def nothing(usual: Any) -> Callable[..., Any]:
    return lambda *given, **settings: None


AROUND_MUTANTS: dict[str, tuple[Any, str, Callable[[Any], Callable[..., Any]], bool]] = {
    "moments of the one before": (Stacks, "adopt", without_moments, True),
    "rows of the first": (Feed, "batch", first_of_all, True),
    "rows of the first, by torch": (Feed, "batch", first_of_all, False),
    "targets not mixed": (Feed, "batch", unmixed, True),
    "mask of the first": (Population, "bits", same_mask, True),
    "mask of the first, by torch": (Eager, "_masks", same_mask, False),
    "average not evaluated": (Program, "outputs", not_averaged, True),
    "average not evaluated, by torch": (Eager, "outputs", not_averaged, False),
    "outputs of another": (Program, "outputs", turned, True),
    "outputs of another, by torch": (Eager, "outputs", turned, False),
    "steps not told": (Population, "hand_back_steps", nothing, True),
    "noise on weights not undone in gradients": (population_module, "through", nothing, True),
}


@BOTH
def test_places_are_used_again(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert each(AROUND, problem(), compiled, monkeypatch) < TOLERANCE


@needs_kernel
@pytest.mark.parametrize("name", AROUND_MUTANTS)
def test_wrong_surroundings_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, make, compiled = AROUND_MUTANTS[name]
    monkeypatch.setattr(where, attribute, make(getattr(where, attribute)))
    assert not each(AROUND, problem(), compiled, monkeypatch) < TOLERANCE


@BOTH
def test_few_rows_weights_and_probes(compiled: bool) -> None:
    """A subset with weights, fixed rows of both sides, batches in which no row counts, one number a row in either shape."""
    job = Job(recipe(noise={"mixup": 0.4}), 1, rows=20)
    weighted = problem(weighted=True)
    assert (
        difference(alone(weighted, job), together(weighted, [Job(recipe(), 0, rows=20), job], compiled)[1]) < TOLERANCE
    )
    given = problem()
    wanted = wp.fit(given, recipe(), 1, device="cpu", probe_rows=7)
    assert (
        difference(wanted, together(given, [Job(recipe(), 0), Job(recipe(), 1)], compiled, probe_rows=7)[1]) < TOLERANCE
    )
    weight = torch.zeros(ROWS)
    weight[:3] = 1.0
    data = wp.Data(train=(X, classes(X)), valid=(XV, classes(XV)), weight=weight)
    sparse = wp.Problem(lambda: Net("no_norm"), "cross_entropy", data)
    assert pair({"batch_size": 2}, sparse, engines=(compiled,)) < TOLERANCE
    for shape in ((-1,), (-1, 1)):
        data = wp.Data(train=(X, (X[:, 0] * X[:, 1]).view(shape)), valid=(XV, XV[:, 0].view(shape)))
        single_number = wp.Problem(lambda: Net("no_norm", 1), "squared_error", data)
        assert pair({"noise": {"mixup": 0.3}}, single_number, engines=(compiled,)) < TOLERANCE


@needs_kernel
@pytest.mark.parametrize(
    ("loss", "engine"),
    [
        (nn.CrossEntropyLoss(), "compiled"), (nn.functional.cross_entropy, "compiled"),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), "torch"),
        (lambda f, y: nn.functional.cross_entropy(f, y, reduction="none") ** 2, "torch"),
    ],
)  # fmt: skip
def test_losses_that_are_given(loss: Any, engine: str) -> None:
    given = wp.Problem(lambda: Net("no_norm"), loss, wp.Data(train=(X, classes(X)), valid=(XV, classes(XV))))
    job = Job(recipe(), 1)
    run = together(given, [Job(recipe(), 0), job])[1]
    assert isinstance(run, Run)
    assert run.engine.startswith(f"{engine} population of 2")
    assert difference(alone(given, job), run) < TOLERANCE


@needs_kernel
@pytest.mark.parametrize("settings", [{}, {"depth": 0}, {"norm": False, "depth": 3}, {"width": 33}])
def test_the_perceptron_of_tables_is_compiled(settings: dict[str, Any]) -> None:
    """The model that the table command searches over must never fall out of the kernel unseen."""

    def model(**given: Any) -> nn.Module:
        return MLP(FEATURES, 3, **given)

    given = wp.Problem(model, "cross_entropy", wp.Data(train=(X, classes(X)), valid=(XV, classes(XV))))
    job = Job(recipe(model=settings), 1)
    run = together(given, [Job(recipe(model=settings), 0), job])[1]
    assert isinstance(run, Run)
    assert run.engine == "compiled population of 2"
    assert difference(alone(given, job), run) < 1e-4


def test_ctrl_c_when_all_have_ended_is_not_lost() -> None:
    """No run could say so, and a search would go on."""
    told: list[int] = []

    def done(place: int, outcome: Outcome) -> None:
        told.append(place)
        if len(told) == 2:
            raise KeyboardInterrupt

    jobs = [Job(recipe(epochs=1), seed) for seed in range(2)]
    with pytest.raises(KeyboardInterrupt):
        together(problem(), jobs, done=done)
    assert sorted(told) == [0, 1]
    told.clear()
    early = together(problem(), [*jobs, Job(recipe(epochs=9), 2)], done=done)
    assert [run.stopped for run in early] == ["epochs", "epochs", "interrupted"]


@pytest.mark.parametrize("compile_it", [True, False])
def test_a_layer_that_is_the_whole_model(compile_it: bool) -> None:
    def model() -> nn.Module:
        return nn.Linear(FEATURES, 3)

    given = wp.Problem(model, "cross_entropy", wp.Data(train=(X, classes(X)), valid=(XV, classes(XV))))
    jobs = [Job(recipe(terms=[{"penalty": "l1", "strength": 0.01}]), seed) for seed in range(2)]
    for job, run in zip(jobs, together(given, jobs, compiled=compile_it), strict=True):
        assert isinstance(run, Run)
        assert "population of 2" in run.engine
        assert difference(alone(given, job), run) < 1e-5  # single precision


def test_small_convolutions_are_stacked() -> None:
    given = images(channels=3)
    jobs = [Job(recipe(terms=[{"penalty": "l2", "strength": 0.1}]), seed) for seed in range(3)]
    for job, run in zip(jobs, together(given, jobs), strict=True):
        assert isinstance(run, Run)
        assert run.engine.startswith("torch population of 3")
        assert difference(alone(given, job), run) < 1e-5  # single precision


def test_confidence_is_charged_by_the_kernel_with_everything_beside_it() -> None:
    """In one population with recipes that do not charge it; a strength that follows a schedule is torch's."""
    charge = {"penalty": "confidence", "strength": 0.2}
    recipes = [
        recipe(terms=[charge], noise={"mixup": 0.3, "label_smoothing": 0.1, "dropout": 0.2}, clip=0.5),
        recipe(terms=[charge, {"penalty": "l1", "strength": 1e-3}], sharpness={"radius": 0.1}),
        recipe(terms=[charge, {"penalty": "l2", "strength": 1e-2, "how": "loss"}]),
        recipe(terms=[{**charge, "schedule": "cosine"}]),
        recipe(),
    ]
    given = problem()
    jobs = [Job(one, seed) for seed, one in enumerate(recipes)]
    runs = together(given, jobs)
    for job, run in zip(jobs, runs, strict=True):
        assert isinstance(run, Run)
        assert difference(alone(given, job), run) < TOLERANCE
    assert difference(runs[2], together(given, [Job(recipe(terms=recipes[2].terms[1:]), 2)])[0]) > 1e-6
    if kernel() is not None:
        assert [run.engine.split()[0] for run in runs] == ["compiled", "compiled", "compiled", "torch", "compiled"]
