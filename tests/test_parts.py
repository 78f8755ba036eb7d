"""Every part of a recipe in `fit`: off is plain training, equal seeds are equal runs, and what is reported stays clean."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp
from wellposed.core.errors import InputError, ProblemError, RecipeError, TrainingError
from wellposed.core.random import generator
from wellposed.noise.inputs import mixup, mixup_or_cutmix
from wellposed.noise.noise import PLACED
from wellposed.noise.noise import kinds as noises
from wellposed.noise.perturb import WeightNoise
from wellposed.optim.schedules import NamedSchedule, named_schedule
from wellposed.penalties.base import Penalty
from wellposed.penalties.coupled import CoupledPenalty
from wellposed.penalties.functional import FunctionalPenalty
from wellposed.recipe.presets import PRESETS
from wellposed.recipe.recipe import Recipe, chargeables
from wellposed.training.checkpoint import load, save_run

ROWS, FEATURES, CLASSES, WORDS, LENGTH = 20, 4, 3, 7, 5
DRAW = torch.Generator().manual_seed(0)
X, XV = (torch.randn(ROWS, FEATURES, generator=DRAW) for _ in range(2))
Y, YV = ((x[:, 0] > 0).long() + (x[:, 1] > 0).long() for x in (X, XV))
IMAGES, IMAGES_V = (torch.randn(ROWS, 1, 8, 8, generator=DRAW) for _ in range(2))
TOKENS, TOKENS_V = (torch.randint(WORDS, (ROWS, LENGTH), generator=DRAW) for _ in range(2))
TAGS, TAGS_V = (tokens % CLASSES for tokens in (TOKENS, TOKENS_V))


class Table(nn.Module):
    """With everything that a part may look for: batch norm, dropout, a skip connection."""

    def __init__(self, norm: bool = True, dropout: float = 0.2, outputs: int = CLASSES) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES) if norm else nn.Identity()
        self.layers = nn.ModuleList([nn.Linear(FEATURES, 6), nn.Linear(6, 6)])
        self.act, self.drop = nn.Tanh(), nn.Dropout(dropout)
        self.skip = nn.Linear(FEATURES, outputs, bias=False)
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        hidden = self.drop(self.act(self.layers[0](x)))
        return self.head(hidden + self.layers[1](hidden)) + self.skip(x)


def conv_net() -> nn.Module:
    start = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(4)]
    return nn.Sequential(*start, nn.Flatten(), nn.Linear(16, CLASSES))


class Tagger(nn.Module):
    """Classes last; attention whose inner dropout is torch's own."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


def problem(kind: str = "table", **settings: Any) -> wp.Problem:
    model, train, valid = {
        "table": (Table, (X, Y), (XV, YV)),
        "image": (conv_net, (IMAGES, Y), (IMAGES_V, YV)),
        "tokens": (Tagger, (TOKENS, TAGS), (TOKENS_V, TAGS_V)),
    }[kind]
    data = wp.Data(**{"train": train, "valid": valid, **settings.pop("data", {})})
    return wp.Problem(settings.pop("model", model), settings.pop("loss", "cross_entropy"), data, **settings)


def numbers(loss: Any = "squared_error", **settings: Any) -> wp.Problem:
    return problem(
        loss=loss,
        model=lambda: Table(norm=False, dropout=0.0, outputs=1),
        data={"train": (X, X[:, :1].clone()), "valid": (XV, XV[:, :1].clone()), **settings},
    )


def recipe(**settings: Any) -> Recipe:
    return Recipe(**{"epochs": 2, "batch_size": 8, "optimizer": {"name": "adam", "lr": 0.01}, **settings})


def fit(problem: wp.Problem, recipe: Recipe, seed: int = 0, **settings: Any) -> wp.Run:
    return wp.fit(problem, recipe, seed, device="cpu", **settings)


def same(a: wp.Run, b: wp.Run) -> bool:
    """Equal bit for bit: weights, and the losses of every epoch."""
    left, right = a.model.state_dict(), b.model.state_dict()
    curves = all(a.history[k] == b.history[k] for k in ("cost", "train_loss", "valid_loss", "grad_norm"))
    return curves and left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def distance(a: nn.Module, b: nn.Module) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def term(penalty: str, **settings: Any) -> dict[str, Any]:
    return {"terms": [{"penalty": penalty, **settings}]}


def place(kind: str, on: Any, **settings: Any) -> dict[str, Any]:
    return {"noise": {"places": [{"kind": kind, "on": on, **settings}]}}


# ---- the parts: a problem, the recipe with the part, and with the part at size 0 (or at a bound that nothing reaches)

EXTRAS: dict[str, dict[str, Any]] = {
    "activation_l1": {"on": "act"},
    "activation_l2": {"on": ["layers.0", "act"]},
    "confidence": {},
    "consistency": {"temperature": 2.0},
    "jacobian": {"projections": 1},
    "kl_to_standard_normal": {"on": "act"},
    "logit_l2": {},
    "elastic_net": {"mix": 0.3},
    "group_l2": {"by": "block", "block": [2, 2], "on": "layers.*"},
    "group_mcp": {"gamma": 4.0},
    "hierarchical": {"hierarchy": 5.0},
    "mcp": {"gamma": 4.0},
    "scad": {"gamma": 4.0},
    "sparse_group": {"mix": 0.3},
    "tied_groups": {"axes": {"layers.0.weight": "unit", "layers.0.bias": "unit"}},
    "total_variation": {"axis": 0},
    "weighted_l1": {"weights": 0.5},
}
SCHEDULED = {"schedule": "cosine", "warmup": 0.2}
ELSEWHERE = {"kl"}
"""Of distributions, whose network keeps hooks: tests/test_divergence.py."""
PENALTIES = [
    name for name, cls in chargeables().items() if "strength" in cls.__dataclass_fields__ and name not in ELSEWHERE
]
CONSTRAINTS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "box": ({"low": -0.2, "high": 0.2}, {"low": -99.0, "high": 99.0}),
    "half_space": ({"normal": 1.0, "limit": -0.5}, {"normal": 1.0, "limit": 99.0}),
    "l1_ball": ({"bound": 1.0}, {"bound": 99.0}),
    "l2_ball": ({"bound": 0.5}, {"bound": 99.0}),
    "linf_ball": ({"bound": 0.1}, {"bound": 99.0}),
    "max_norm": ({"bound": 0.3}, {"bound": 99.0}),
    "non_negative": ({}, None),
    "norm_bound": ({"bound": 0.5, "rate": 0.2}, {"bound": 99.0}),
    "orthogonal": ({"on": "layers.1"}, None),
    "simplex": ({"total": 2.0}, None),
    "spectral_ball": ({"bound": 0.3}, {"bound": 99.0}),
    "top_k": ({"keep": 0.5}, {"keep": 99}),
    "unit_norm": ({}, None),
}

Part = tuple[str, dict[str, Any], dict[str, Any] | None]
PARTS: dict[str, Part] = {
    **{
        name: (
            "table",
            term(name, strength=0.05, **EXTRAS.get(name, {}), **SCHEDULED),
            term(name, strength=0.0, **EXTRAS.get(name, {})),
        )
        for name in PENALTIES
    },
    **{
        name: ("table", term(name, **on), None if off is None else term(name, **off))
        for name, (on, off) in CONSTRAINTS.items()
    },
    "coupled in the loss": (
        "table",
        term("tied_groups", strength=0.05, how="loss", **EXTRAS["tied_groups"]),
        term("tied_groups", strength=0.0, how="loss", **EXTRAS["tied_groups"]),
    ),
    "l2 in the loss": (
        "table",
        term("l2", strength=0.05, how="loss", warmup=0.5),
        term("l2", strength=0.0, how="loss"),
    ),
    "consistency of tags": (
        "tokens",
        term("consistency", strength=0.5, axis=-1),
        term("consistency", strength=0.0, axis=-1),
    ),
    "label_smoothing": ("table", {"noise": {"label_smoothing": 0.1}}, {"noise": {"label_smoothing": 0.0}}),
    "input": ("table", {"noise": {"input": 0.1}}, {"noise": {"input": 0.0}}),
    "cutout": ("image", {"noise": {"cutout": 0.2}}, {"noise": {"cutout": 0.0}}),
    "mixup": ("table", {"noise": {"mixup": 0.5}}, {"noise": {"mixup": 0.0}}),
    "mixup and smoothing": ("table", {"noise": {"mixup": 0.5, "label_smoothing": 0.1}}, None),
    "cutmix": ("image", {"noise": {"cutmix": 1.0}}, {"noise": {"cutmix": 0.0}}),
    "mix_mode": ("table", {"noise": {"mixup": 0.5, "mix_mode": "elem"}}, {"noise": {"mix_mode": "elem"}}),
    "switch_prob": (
        "image",
        {"noise": {"mixup": 0.5, "cutmix": 1.0, "switch_prob": 0.3, "mix_mode": "elem"}},
        {"noise": {"switch_prob": 0.3}},
    ),
    "mixup or cutmix": ("image", {"noise": {"mixup": 0.5, "cutmix": 1.0, "label_smoothing": 0.1}}, None),
    "gradient": ("table", {"noise": {"gradient": 0.01}}, {"noise": {"gradient": 0.0}}),
    "dropout": ("table", {"noise": {"dropout": 0.5}}, None),
    "place dropout": ("table", place("dropout", "act", rate=0.5, **SCHEDULED), place("dropout", "act", rate=0.0)),
    "place spatial_dropout": ("image", place("spatial_dropout", "2", rate=0.5), place("spatial_dropout", "2", rate=0)),
    "place gaussian_dropout": (
        "tokens",
        place("gaussian_dropout", ["embedding"], rate=0.5),
        place("gaussian_dropout", "embedding", rate=0.0),
    ),
    "place stochastic_depth": (
        "table",
        place("stochastic_depth", "layers.1", rate=0.5, by="batch"),
        place("stochastic_depth", "layers.1", rate=0.0),
    ),
    "place drop_connect": ("tokens", place("drop_connect", "weights", rate=0.5), place("drop_connect", "head", rate=0)),
    "place weight_noise": (
        "image",
        place("weight_noise", ["0", "5"], std=0.1, relative=True),
        place("weight_noise", "weights", std=0.0),
    ),
    "sharpness": ("table", {"sharpness": {"radius": 0.1}}, {"sharpness": {"radius": 0.0}}),
    "adaptive sharpness": (
        "tokens",
        {"sharpness": {"radius": 1.0, "adaptive": True}},
        {"sharpness": {"radius": 0.0, "adaptive": True}},
    ),
    "lookahead": ("table", {"lookahead": {"every": 2, "share": 0.5}}, {"lookahead": {"every": 0, "share": 0.5}}),
    "ema": ("table", {"averaging": {"ema": 0.9}, **place("dropout", "act", rate=0.5)}, None),
    "swa": ("image", {"averaging": {"swa": 0.5}, **place("weight_noise", "weights", std=0.1)}, None),
    "all at once": (
        "image",
        {
            "accumulate": 2,
            "terms": [
                {"penalty": "l1", "strength": 1e-3, **SCHEDULED},
                {"penalty": "confidence", "strength": 0.1},
                {"penalty": "activation_l2", "strength": 0.01, "on": "2"},
            ],
            "noise": {"input": 0.1, "cutmix": 1.0, "label_smoothing": 0.1, **place("dropout", "2", rate=0.1)["noise"]},
            "sharpness": {"radius": 0.05},
            "lookahead": {"every": 2},
            "averaging": {"ema": 0.5},
        },
        None,
    ),
}
OFF = [name for name, (_, _, off) in PARTS.items() if off is not None]


def test_every_part_is_here() -> None:
    assert set(chargeables()) - ELSEWHERE <= set(PARTS)
    assert {f"place {name}" for name, kind in noises().items() if kind.acts in PLACED} <= set(PARTS)
    missing = set(Recipe().noise.model_dump()) - {"places"} - set(PARTS)
    assert not missing
    kinds = (Penalty, CoupledPenalty, FunctionalPenalty)
    assert all(name in {*PENALTIES, *ELSEWHERE} for name, cls in chargeables().items() if issubclass(cls, kinds))


@pytest.fixture(scope="module")
def plain() -> dict[str, wp.Run]:
    return {kind: fit(problem(kind), recipe()) for kind in ("table", "image", "tokens")}


@pytest.mark.parametrize("name", OFF)
def test_a_part_of_size_0_is_plain_training_bit_for_bit(name: str, plain: dict[str, wp.Run]) -> None:
    kind, _, off = PARTS[name]
    assert off is not None
    assert same(fit(problem(kind), recipe(**off)), plain[kind])


@pytest.mark.parametrize("name", PARTS)
def test_a_part_in_fit(name: str, plain: dict[str, wp.Run]) -> None:
    """It acts; equal seeds are equal runs whatever the global state, which stays; losses are clean; nothing stays behind."""
    kind, on, _ = PARTS[name]
    wanted = recipe(**on)
    assert Recipe.from_toml(wanted.to_toml()) == wanted
    assert wanted.replace() == wanted
    assert wanted.describe()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run = fit(problem(kind), wanted)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(run, fit(problem(kind), Recipe.from_toml(wanted.to_toml())))
    assert not same(run, plain[kind])
    clean_losses(run, kind)
    nothing_left(run.model)


@pytest.mark.parametrize("name", list(PARTS))
def test_a_part_is_audited(name: str) -> None:
    kind, on, _ = PARTS[name]
    run = fit(problem(kind), recipe(epochs=1, **on))
    audit = str(run.audit())
    for one in run.recipe.terms:
        assert type(one.build().charge).__name__ in audit
    nothing_left(run.model)


def clean_losses(run: wp.Run, kind: str) -> None:
    """What the history says of the chosen epoch is what the returned weights do, in evaluation mode, without anything."""
    model = run.model
    assert not model.training
    sides = {"table": (X, Y, XV, YV), "image": (IMAGES, Y, IMAGES_V, YV), "tokens": (TOKENS, TAGS, TOKENS_V, TAGS_V)}
    x, y, xv, yv = sides[kind]
    with torch.no_grad():
        for name, inputs, target in (("train_loss", x, y), ("valid_loss", xv, yv)):
            outputs = model(inputs)
            outputs = outputs.movedim(-1, 1) if kind == "tokens" else outputs
            expected = float(F.cross_entropy(outputs, target))
            assert run.history[name][run.best_epoch] == pytest.approx(expected, rel=1e-5)


def nothing_left(model: nn.Module) -> None:
    """No hook, no patched forward, no shadow of a parameter; a copy and a pickled copy are the model."""
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__
        assert not set(module.__dict__) & set(module._parameters)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert distance(copied, model) == 0


def test_presets_have_none_of_the_new_parts() -> None:
    for preset in PRESETS.values():
        wanted = preset.recipe
        assert Recipe.from_toml(wanted.to_toml()) == wanted
        new = Recipe()
        assert (wanted.sharpness, wanted.lookahead, wanted.noise.places) == (new.sharpness, new.lookahead, ())
        assert all(t.schedule == "constant" and not t.warmup for t in wanted.terms)


# ---- seeds

STOCHASTIC = [
    n for n in PARTS if n.startswith("place") or n in ("input", "mixup", "cutmix", "cutout", "gradient", "dropout")
]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_another_seed_draws_another_noise(name: str) -> None:
    """The same initial weights and one batch, so that nothing but the noise differs."""
    kind, on, _ = PARTS[name]
    start = problem(kind).build({}, 0)

    def moved(seed: int) -> nn.Module:
        whole = problem(kind, model=lambda: copy.deepcopy(start))
        wanted = recipe(epochs=1, batch_size=ROWS, optimizer={"name": "sgd", "lr": 1.0}, **on)
        if kind == "table" and name != "dropout":
            wanted = wanted.replace(noise={"dropout": 0.0})
        return fit(whole, wanted, seed).model

    assert max(distance(moved(0), moved(seed)) for seed in (1, 2, 3)) > 1e-4


# ---- what is refused

REFUSALS: list[tuple[str, Callable[[], wp.Problem], dict[str, Any], str]] = [
    ("mixup of tokens", lambda: problem("tokens"), {"noise": {"mixup": 0.2}}, "inputs that are one floating tensor"),
    ("input noise of tokens", lambda: problem("tokens"), {"noise": {"input": 0.2}}, "inputs that are one floating"),
    ("cutmix of a table", problem, {"noise": {"cutmix": 1.0}}, "needs images"),
    ("cutout of a table", problem, {"noise": {"cutout": 0.1}}, "needs images"),
    ("smoothing of numbers", numbers, {"noise": {"label_smoothing": 0.1}}, "Label smoothing needs"),
    ("smoothing of tags", lambda: problem("tokens"), {"noise": {"label_smoothing": 0.1}}, "one class index for each"),
    (
        "smoothing in a loss of one's own",
        lambda: problem(loss=lambda f, y: F.cross_entropy(f, y)),
        {"noise": {"label_smoothing": 0.1}},
        "Label smoothing needs",
    ),
    (
        "mixup of classes in a loss of one's own",
        lambda: problem(loss=lambda f, y: F.cross_entropy(f, y)),
        {"noise": {"mixup": 0.2}},
        "targets that can be mixed",
    ),
    ("dropout without a layer", lambda: problem("image"), {"noise": {"dropout": 0.2}}, "no dropout layer"),
    ("confidence of numbers", numbers, term("confidence", strength=0.1), "compares predicted classes"),
    ("consistency of numbers", numbers, term("consistency", strength=0.1), 'set of = "values"'),
    ("confidence of tags", lambda: problem("tokens"), term("confidence", strength=0.1), r"Set axis = -1"),
    ("jacobian of tokens", lambda: problem("tokens"), term("jacobian", strength=0.1), "one floating tensor"),
    (
        "confidence of several labels",
        lambda: problem(
            loss="binary_cross_entropy", data={"train": (X, F.one_hot(Y, 3)), "valid": (XV, F.one_hot(YV, 3))}
        ),
        term("confidence", strength=0.1),
        "Set binary = true",
    ),
    ("a module that is not there", problem, term("activation_l1", strength=0.1, on="nowhere"), "matches no module"),
    ("a place that is not there", problem, place("dropout", "nowhere", rate=0.1), "matches no module"),
    ("a schedule of no strength", problem, term("top_k", keep=0.5, schedule="cosine"), "no strength and no bound"),
    (
        "masked classes mixed",
        lambda: problem(data={"train": (X, Y.clone().index_fill_(0, torch.tensor([3]), -100))}),
        {"noise": {"mixup": 0.5}},
        "-100",
    ),
    (
        "masked classes smoothed",
        lambda: problem(data={"train": (X, Y.clone().index_fill_(0, torch.tensor([3]), -100))}),
        {"noise": {"label_smoothing": 0.1}},
        "-100",
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case[0])
def test_what_a_problem_cannot_take_is_refused_in_one_sentence(case: Any) -> None:
    _, make, wanted, text = case
    with pytest.raises((ProblemError, InputError), match=text) as caught:
        fit(make(), recipe(**wanted))
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, TrainingError)


UNKNOWN = [
    (term("mcp", strength=0.1, gama=3.0), "gamma"),
    (term("group_l2", strength=0.1, blok=[2, 2]), "block"),
    (term("l1", strength=0.1, shedule="cosine"), "schedule"),
    (term("l1", strength=0.1, schedule="cosin"), "cosine"),
    (term("confidense", strength=0.1), "confidence"),
    (place("dropot", "act", rate=0.1), "dropout"),
    (place("dropout", "act", rat=0.1), "rate"),
    (place("weight_noise", "act", std=0.1, warmpu=0.1), "warmup"),
    (place("dropout", "act", rate=0.1, schedule="one_cycel"), "one_cycle"),
    ({"sharpness": {"raduis": 0.1}}, "radius"),
    ({"lookahead": {"evry": 2}}, "every"),
    ({"noise": {"mixpu": 0.1}}, "mixup"),
    ({"sharpnes": {"radius": 0.1}}, "sharpness"),
]


@pytest.mark.parametrize(("given", "meant"), UNKNOWN)
def test_an_unknown_key_gets_a_suggestion(given: dict[str, Any], meant: str) -> None:
    with pytest.raises(RecipeError, match=f"[Dd]id you mean '?{meant}'?") as caught:
        recipe(**given)
    assert "\n" not in str(caught.value)


IMPOSSIBLE = [
    term("mcp", strength=-1.0),
    term("mcp", strength=0.1, gamma="3"),
    term("mcp", strength=0.1, gamma=[3, 4]),
    term("box", low=1.0, high=-1.0),
    term("box", low="a", high=1.0),
    term("top_k", keep="half"),
    term("tied_groups", strength=0.1, axes=["a"]),
    term("tied_groups", strength=0.1, axes={"a": 3}),
    term("group_l2", strength=0.1, by=["unit"]),
    term("weighted_l1", strength=0.1, weights="a"),
    term("activation_l1", strength=0.1),
    term("confidence", strength=0.1, on="head"),
    term("confidence", strength=0.1, how="prox"),
    term("l1", strength=0.1, warmup=1.0),
    term("l1", strength=0.1, schedule="plateau"),
    term("norm_bound", bound=0.0),
    place("dropout", "act", rate=1.0),
    place("dropout", "act", rate="much"),
    place("dropout", 3, rate=0.1),
    place("dropout", "act"),
    place("weight_noise", "act", std=-1.0),
    {"sharpness": {"radius": -1.0}},
    {"lookahead": {"every": -1}},
    {"lookahead": {"share": 0.0}},
    {"noise": {"switch_prob": 1.2}},
    {"noise": {"mix_mode": "pair"}},
    {"noise": {"mixup": float("inf")}},
]


@pytest.mark.parametrize("given", IMPOSSIBLE, ids=str)
def test_an_impossible_setting_is_one_sentence(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(**given)
    assert "\n" not in str(caught.value)
    assert "tuple[" not in str(caught.value)


# ---- several batches in one step

OF_OUTPUTS = {
    "confidence": {"axis": -1},
    "logit_l2": {"axis": -1},
    "jacobian": {},
    "consistency": {"axis": -1},
    "activation_l1": {"on": "head"},
    "activation_l2": {"on": "head"},
}


@pytest.mark.parametrize("units", ["rows", "weighted rows", "tags", "masked tags"])
@pytest.mark.parametrize("name", OF_OUTPUTS)
def test_a_penalty_of_outputs_does_not_see_that_a_step_has_several_batches(name: str, units: str) -> None:
    if "tags" in units and name == "jacobian":
        pytest.skip("tokens have no derivative")
    tags = TAGS.clone()
    if units == "masked tags":
        tags[:, 3:] = tags[::2, 2:] = -100
    whole = {
        "rows": problem(model=lambda: Table(norm=False, dropout=0.0)),
        "weighted rows": problem(
            model=lambda: Table(norm=False, dropout=0.0), data={"weight": torch.linspace(0.1, 4, ROWS)}
        ),
    }.get(units) or problem("tokens", model=lambda: Tagger(0.0), data={"train": (TOKENS, tags)})
    steps = {"optimizer": {"name": "sgd", "lr": 0.2}, **term(name, strength=0.3, **OF_OUTPUTS[name])}
    once = fit(whole, recipe(batch_size=12, **steps))
    twice = fit(whole, recipe(batch_size=6, accumulate=2, **steps))
    plain = fit(whole, recipe(batch_size=12, optimizer=steps["optimizer"]))
    assert distance(once.model, twice.model) < 1e-5
    assert once.history["cost"] == pytest.approx(twice.history["cost"], rel=1e-5)
    if name != "consistency":  # both passes are the same without noise
        assert distance(once.model, plain.model) > 1e-3


# ---- schedules


class Idle(nn.Module):
    """A weight that has a gradient of 0: nothing but its decay moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.idle = nn.Linear(FEATURES, CLASSES), nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + 0.0 * self.idle.weight.sum()


@pytest.mark.parametrize("around", [{}, {"lookahead": {"every": 2, "share": 1.0}}, {"sharpness": {"radius": 0.1}}])
@pytest.mark.parametrize("shape", [("cosine", 0.0), ("cosine", 0.3), ("one_cycle", 0.0), ("constant", 0.5)])
def test_a_strength_follows_its_schedule_over_all_of_training(shape: tuple[str, float], around: dict[str, Any]) -> None:
    name, warmup = shape
    whole = problem(model=Idle, data={"valid": (X, Y)})
    terms = term("l2", strength=0.5, on="idle", schedule=name, warmup=warmup)
    run = fit(whole, recipe(epochs=3, optimizer={"name": "sgd", "lr": 0.1}, **terms, **around))
    steps = 3 * 3
    done = 3 * (run.best_epoch + 1)
    expected = whole.build({}, 0).idle.weight.detach().clone()
    for step in range(done):
        expected *= 1 - 0.1 * 0.5 * named_schedule(name, steps, warmup)(step)
    torch.testing.assert_close(run.model.idle.weight.detach(), expected, rtol=1e-5, atol=1e-7)
    assert run.best_epoch == 2


@pytest.mark.parametrize(
    "around", [{}, {"accumulate": 2}, {"sharpness": {"radius": 0.1}}, term("consistency", strength=1.0)]
)
def test_the_size_of_a_noise_follows_its_schedule_over_all_of_training(
    around: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[float] = []
    apply = WeightNoise.apply

    def spied(self: WeightNoise, w: Tensor, size: float, source: torch.Generator) -> Tensor:
        sizes.append(size)
        return apply(self, w, size, source)

    monkeypatch.setattr(WeightNoise, "apply", spied)
    fit(problem(), recipe(**place("weight_noise", "head", std=0.1, schedule="cosine"), **around))
    passes = 2 if "terms" in around else 1
    batches = 3 * 2 * passes
    expected = [0.1 * named_schedule("cosine", batches)(i) for i in range(batches)]
    if "sharpness" in around:
        assert sizes[::2] == sizes[1::2] == pytest.approx(expected)
    else:
        assert sizes == pytest.approx(expected)


def test_schedules_end_with_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[tuple[int, int]] = set()
    call = NamedSchedule.__call__

    def spied(self: NamedSchedule, step: int) -> float:
        asked.add((step, self.total_steps))
        return call(self, step)

    monkeypatch.setattr(NamedSchedule, "__call__", spied)
    on = {**term("confidence", strength=0.1, **SCHEDULED), "accumulate": 2, "lookahead": {"every": 2}}
    fit(problem(), recipe(epochs=3, batch_size=4, **on))
    assert asked == {(step, 9) for step in range(9)}


def test_noise_is_drawn_anew_where_the_model_itself_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem's forward may call a part of the model only, as one of an encoder and a decoder."""
    drawn: list[float] = []
    apply = WeightNoise.apply

    def spied(self: WeightNoise, w: Tensor, size: float, source: torch.Generator) -> Tensor:
        noised = apply(self, w, size, source)
        drawn.append(round(float((noised - w).detach().sum()), 5))
        return noised

    monkeypatch.setattr(WeightNoise, "apply", spied)
    whole = problem(model=lambda: nn.ModuleDict({"net": Table()}), forward=lambda model, x: model["net"](x))
    fit(whole, recipe(**place("weight_noise", "net.head", std=0.1)))
    assert len(set(drawn)) == len(drawn) == 2 * 3


# ---- sharpness


class Drawing(nn.Module):
    """Keeps what it is given and what each kind of noise draws in training."""

    seen: list[list[Tensor]]

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.site = nn.BatchNorm1d(FEATURES), nn.Dropout(0.5), nn.Identity()
        self.linear = nn.Linear(FEATURES, CLASSES)
        self.alpha = nn.AlphaDropout(0.5)
        self.seen = []

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(len(x), 8)
        if self.training:
            masks = [self.drop(ones), self.drop(ones), self.site(ones), self.alpha(ones), F.dropout(ones, 0.5)]
            self.seen.append([x.detach().clone(), *masks])
        return self.linear(self.norm(x))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_both_passes_of_sharpness_see_the_same_noise(accumulate: int) -> None:
    made: list[Drawing] = []

    def model() -> nn.Module:
        made.append(Drawing())
        return made[-1]

    noise = {"input": 0.1, "mixup": 1.0, **place("dropout", "site", rate=0.5)["noise"]}
    on = {"noise": noise, "accumulate": accumulate, "batch_size": 10 // accumulate}
    fit(problem(model=model), recipe(sharpness={"radius": 0.1}, **on))
    seen = made[-1].seen
    assert len(seen) == 2 * 2 * 2 * accumulate
    for start in range(0, len(seen), 2 * accumulate):
        first, second = seen[start : start + accumulate], seen[start + accumulate : start + 2 * accumulate]
        for a, b in zip(first, second, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    draws = [pair for start in range(0, len(seen), 2 * accumulate) for pair in seen[start : start + accumulate]]
    for kind in range(6):
        assert len({tuple(draw[kind].flatten().tolist()) for draw in draws}) == len(draws)
    assert not torch.equal(seen[0][1], seen[0][2])  # a layer that is called twice draws twice


def test_sharpness_counts_one_pass() -> None:
    """Batch norm's statistics are those of the first pass, and the cost is that at w."""
    on = recipe(noise={"dropout": 0.0}, optimizer={"name": "sgd", "lr": 1e-9})
    plain, sharp = fit(problem(), on), fit(problem(), on.replace(sharpness={"radius": 3.0}))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(plain.model.norm, name), getattr(sharp.model.norm, name))
    assert plain.history["cost"] == pytest.approx(sharp.history["cost"], rel=1e-6)
    assert plain.history["grad_norm"] != pytest.approx(sharp.history["grad_norm"], rel=1e-2)


# ---- however training ends, the model is clean


class Failing(nn.Module):
    """Fails in its last layer, at the fifth training forward: in the second epoch."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.inner, self.error, self.count = Table(), error, 0
        self.last = Failure()

    def forward(self, x: Tensor) -> Tensor:
        self.count += self.training
        self.last.error = self.error if self.count == 5 else None
        return self.last(self.inner(x))


class Failure(nn.Module):
    error: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return x


EVERYWHERE = {
    "terms": [
        {"penalty": "activation_l1", "strength": 0.1, "on": "inner.act"},
        {"penalty": "consistency", "strength": 0.0},
    ],
    "noise": {
        "places": [
            {"kind": "dropout", "rate": 0.3, "on": ["inner.drop", "last"]},
            {"kind": "drop_connect", "rate": 0.3, "on": "weights"},
        ]
    },
}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ValueError("no")], ids=repr)
@pytest.mark.parametrize(
    "around", [{}, {"sharpness": {"radius": 0.1}, "lookahead": {"every": 2}}, {"averaging": {"ema": 0.9}}]
)
def test_nothing_is_left_on_the_model(error: BaseException | None, around: dict[str, Any], tmp_path: Path) -> None:
    whole = problem(model=lambda: Failing(error))
    wanted = recipe(**EVERYWHERE, **around)
    if isinstance(error, Exception):
        with pytest.raises(TrainingError) as caught:
            fit(whole, wanted)
        run = caught.value.run
    else:
        run = fit(whole, wanted)
    assert run.stopped == {None: "epochs", KeyboardInterrupt: "interrupted"}.get(error and type(error), "failed")
    run.model.last.error = run.model.error = None  # an exception that was raised holds frames, which are not copied
    nothing_left(run.model)
    again = load(save_run(run, tmp_path), problem(model=Failing))
    nothing_left(again.model)
    with torch.no_grad():
        assert torch.equal(run.model(XV), again.model(XV))


def test_a_model_with_noise_of_its_own_trains() -> None:
    def noisy() -> nn.Module:
        net = Table()
        wp.perturb(net, [wp.Dropout(0.5).on("act")])
        return net

    assert fit(problem(model=noisy), recipe()).stopped == "epochs"


# ---- mixed examples


def order(rows: int = ROWS) -> Tensor:
    return torch.randperm(rows, generator=generator(0, "order", 0))


def mixed_cost(whole: wp.Problem, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor], **noise: Any) -> None:
    """The cost of one step on all rows is ``loss(outputs, y)`` mixed from both targets, at the initial weights."""
    run = fit(whole, recipe(epochs=1, batch_size=ROWS, noise=noise))
    x, y = x[order()], y[order()]
    source = generator(0, "input", 0, "mix")
    mode, prob = noise.get("mix_mode", "batch"), noise.get("switch_prob", 0.5)
    inputs, permutation, kept = mixup_or_cutmix(
        x, noise.get("mixup", 0.0), noise.get("cutmix", 0.0), source, switch_prob=prob, mode=mode
    )
    weight = torch.as_tensor(kept).expand(ROWS).float()
    assert 0.01 < weight.mean() < 0.99
    outputs = whole.build({}, 0).train()(inputs)
    rows = [
        w * loss(outputs[i : i + 1], y[i : i + 1]) + (1 - w) * loss(outputs[i : i + 1], y[j : j + 1])
        for i, (w, j) in enumerate(zip(weight, permutation.tolist(), strict=True))
    ]
    expected = torch.stack(rows).mean()
    assert run.history["cost"][0] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_classes_are_mixed() -> None:
    mixed_cost(problem(model=lambda: Table(dropout=0.0)), X, Y, F.cross_entropy, mixup=2.0)
    mixed_cost(problem("image"), IMAGES, Y, F.cross_entropy, cutmix=1.0)
    mixed_cost(problem(model=lambda: Table(dropout=0.0)), X, Y, F.cross_entropy, mixup=2.0, mix_mode="elem")
    for mode in ("batch", "elem"):
        for prob in (0.2, 0.8):
            mixed_cost(
                problem("image"), IMAGES, Y, F.cross_entropy, mixup=0.8, cutmix=1.0, mix_mode=mode, switch_prob=prob
            )


@pytest.mark.parametrize("outputs", [1, CLASSES])
def test_labels_of_binary_cross_entropy_are_mixed(outputs: int) -> None:
    y, yv = ((t > 1).long() if outputs == 1 else F.one_hot(t, CLASSES) for t in (Y, YV))
    whole = problem(
        loss="binary_cross_entropy",
        model=lambda: Table(dropout=0.0, outputs=outputs),
        data={"train": (X, y), "valid": (XV, yv)},
    )

    def loss(f: Tensor, t: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(f, t.reshape(f.shape).float(), reduction="none").sum(1).mean()

    mixed_cost(whole, X, y, loss, mixup=2.0)
    mixed_cost(whole, X, y, loss, mixup=2.0, mix_mode="elem")
    assert fit(whole, recipe(noise={"mixup": 0.5, "label_smoothing": 0.1})).stopped == "epochs"


def test_numbers_are_mixed_linearly() -> None:
    run = fit(numbers(), recipe(epochs=1, batch_size=ROWS, noise={"mixup": 2.0}))
    x, y = X[order()], X[order(), :1]
    inputs, permutation, kept = mixup(x, 2.0, generator(0, "input", 0, "mix"))
    outputs = numbers().build({}, 0)(inputs)
    expected = (outputs - (kept * y + (1 - kept) * y[permutation])).square().mean()
    assert run.history["cost"][0] == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_weights_of_rows_are_mixed(mode: Any) -> None:
    weight = torch.linspace(0, 3, ROWS)
    run = fit(numbers(weight=weight), recipe(epochs=1, batch_size=ROWS, noise={"mixup": 2.0, "mix_mode": mode}))
    x, y, w = X[order()], X[order(), :1], weight[order()]
    inputs, permutation, kept = mixup(x, 2.0, generator(0, "input", 0, "mix"), mode)
    outputs = numbers().build({}, 0)(inputs)
    kept = torch.as_tensor(kept).expand(ROWS).float()
    w = kept * w + (1 - kept) * w[permutation]
    errors = (outputs[:, 0] - (kept * y[:, 0] + (1 - kept) * y[permutation, 0])).square()
    assert run.history["cost"][0] == pytest.approx(float((w * errors).sum().detach() / w.sum()), rel=1e-5)


# ---- what else looks at recipes


def test_what_regularizes_is_among_the_facts() -> None:
    for name in ("l1", "confidence", "mixup", "cutout", "cutmix", "gradient", "place drop_connect", "sharpness"):
        kind, on, off = PARTS[name]
        assert fit(problem(kind), recipe(epochs=1, **on)).history.facts["regularized"], name
        assert off is not None
        assert not fit(problem(kind), recipe(epochs=1, **off)).history.facts["regularized"], name


def test_a_part_without_a_number_is_described_by_its_name() -> None:
    several = recipe(
        terms=[{"penalty": "top_k", "keep": 0.5, "on": "head"}, {"penalty": "max_norm", "bound": 2.0, "on": "skip"}]
    )
    assert "top_k, max_norm 2" in several.describe()
    assert set(fit(problem(), several).history.facts["regularized"]) == {"top_k on head", "max_norm on skip"}


def test_a_search_goes_on_from_a_recipe_with_every_kind_of_part(tmp_path: Path) -> None:
    wanted = recipe(
        terms=[
            {"penalty": "mcp", "strength": 1e-3, "gamma": 4.0, **SCHEDULED},
            {"penalty": "confidence", "strength": 0.1},
            {"penalty": "activation_l1", "strength": 1e-3, "on": "act"},
            {"penalty": "tied_groups", "strength": 1e-3, **EXTRAS["tied_groups"], "how": "loss"},
        ],
        noise={"mixup": 0.2, **place("dropout", "act", rate=0.1)["noise"]},
        sharpness={"radius": 0.05},
        lookahead={"every": 2},
    )
    path = tmp_path / "recipe.toml"
    path.write_text(wanted.to_toml())
    study = wp.improve(problem(), budget="2 recipes", seed=0, recipe=Recipe.from_toml(path))
    assert study.best is not None
