"""Recipes: frozen, equal to themselves read back, and clear about what they cannot be."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

import wellposed as wp
from wellposed.core.errors import FormatError, InputError, RecipeError
from wellposed.optim.averaging import Buffers, Start, Warmup
from wellposed.optim.schedules import COURSES, SHAPES, Monitor, named_schedule
from wellposed.recipe.noise_section import NoiseSpec
from wellposed.recipe.presets import PRESETS, as_recipe
from wellposed.recipe.recipe import Recipe, chargeables, optimizers
from wellposed.recipe.section import Section
from wellposed.study.trials import Pending, State, Trial

# Everything a recipe can say, at random.

rates = st.floats(0, 0.99)
positive = st.floats(1e-8, 1e4)
names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=8)
scalars = st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e6, 1e6) | names
places = st.sampled_from(["weights", "inputs", "norms", "encoder.*", "named:head.bias", ["a.*", "b"]])


@st.composite
def terms(draw: st.DrawFn) -> dict[str, Any]:
    sizes = st.floats(0, 1e3)
    name, given = draw(
        st.one_of(
            st.tuples(
                st.sampled_from(["l1", "l2", "mcp", "scad", "l0", "row_l21"]),
                st.fixed_dictionaries({"strength": sizes}),
            ),
            st.tuples(st.just("elastic_net"), st.fixed_dictionaries({"strength": sizes, "mix": st.floats(0, 1)})),
            st.tuples(st.just("mcp"), st.fixed_dictionaries({"strength": sizes, "gamma": st.floats(0.1, 100)})),
            st.tuples(
                st.just("group_l2"),
                st.fixed_dictionaries({"strength": sizes, "by": st.sampled_from(["unit", "input"])}),
            ),
            st.tuples(
                st.just("group_l2"),
                st.fixed_dictionaries({"strength": sizes, "by": st.just("block"), "block": st.just([2, 2])}),
            ),
            st.tuples(
                st.just("max_norm"), st.fixed_dictionaries({"bound": sizes, "by": st.sampled_from(["unit", "input"])})
            ),
            st.tuples(st.just("box"), st.fixed_dictionaries({"low": st.floats(-1e3, 0), "high": st.floats(0, 1e3)})),
            st.tuples(st.just("top_k"), st.fixed_dictionaries({"keep": st.integers(0, 100)})),
        )
    )
    term: dict[str, Any] = {"penalty": name, "on": draw(places), **given}
    if draw(st.booleans()):
        term |= {"schedule": draw(st.sampled_from(sorted(SHAPES))), "warmup": draw(rates)}
    if draw(st.booleans()):
        term["how"] = draw(st.sampled_from(chargeables()[name].hows))
    return term


optimizer = st.one_of(
    st.fixed_dictionaries({"name": st.just("sgd"), "lr": positive, "momentum": rates, "nesterov": st.booleans()}),
    st.fixed_dictionaries({"name": st.just("adam"), "lr": positive, "betas": st.lists(rates, min_size=2, max_size=2)}),
    st.fixed_dictionaries({"name": st.sampled_from(sorted(optimizers())), "lr": positive}),
)
average = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"ema": rates},
        optional={
            "warmup": st.sampled_from(get_args(Warmup)),
            "start": st.sampled_from(get_args(Start)),
            "buffers": st.sampled_from(get_args(Buffers)),
        },
    ),
    st.fixed_dictionaries({"swa": rates, "ema": st.just(0)}),
)


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    """Any schedule with what it needs, and some of what it may have."""
    name = draw(st.sampled_from(sorted(COURSES)))
    counts, factors = st.integers(1, 10**6), st.floats(1e-6, 10.0)
    kinds = {
        "Count": counts, "Positive": factors, "Size": st.floats(0, 1e6), "ConfidenceLevel": st.floats(0.01, 0.99),
            "Count | None": counts,
        "Size | None": st.floats(0, 1e6), "Sequence[Annotated[int, Within(0)]]": st.lists(counts, min_size=1, max_size=4),
        "Annotated[int, Within(0)]": st.integers(0, 1000), "Monitor": st.sampled_from(get_args(Monitor)),
        "Literal['rel', 'abs']": st.just("abs"),
    }  # fmt: skip
    given: dict[str, Any] = {"name": name, "warmup": draw(rates)}
    for field in fields(COURSES[name]):  # type: ignore[arg-type]
        if field.default is MISSING or draw(st.booleans()):
            given[field.name] = draw(kinds[str(field.type).replace('"', "'")])
    if name == "plateau" and "threshold" in given:
        given["threshold_mode"] = "abs"
    if draw(st.booleans()):
        given["per"] = draw(st.sampled_from(["epoch", "step"]) | counts)
    return given


stoppings = st.fixed_dictionaries(
    {"patience": st.integers(0, 1000)},
    optional={
        "monitor": st.sampled_from(get_args(Monitor)),
        "min_delta": st.floats(0, 1e6),
        "baseline": st.none() | st.floats(-1e6, 1e6),
        "keep": st.sampled_from(["best", "last"]),
    },
)
mixings = st.fixed_dictionaries(
    {"dropout": st.none() | rates, "label_smoothing": rates, "input": st.floats(0, 10)},
    optional={
        "mixup": st.floats(0, 10),
        "cutmix": st.floats(0, 10),
        "switch_prob": st.floats(0, 1),
        "mix_mode": st.sampled_from(["batch", "elem"]),
    },
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    return Recipe(
        epochs=draw(st.integers(1, 10**6)),
        batch_size=draw(st.integers(1, 10**6)),
        accumulate=draw(st.integers(1, 64)),
        clip=draw(st.floats(0, 1e6)),
        precision=draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        model=draw(st.dictionaries(names, scalars | st.lists(scalars, max_size=3), max_size=4)),
        optimizer=draw(optimizer),
        schedule=draw(schedules()),
        terms=draw(st.lists(terms(), max_size=4)),
        noise=draw(mixings),
        averaging=draw(average),
        stopping=draw(stoppings),
    )


@given(recipes())
@settings(max_examples=150, deadline=None)
def test_a_recipe_equals_itself_read_back(recipe: Recipe) -> None:
    text = recipe.to_toml()
    back = Recipe.from_toml(text)
    assert back == recipe
    assert back.to_toml() == text
    assert not recipe.differences(back)
    assert recipe.replace() == recipe
    assert Recipe(**recipe.to_dict()) == recipe
    assert len(back.build_terms()) == len(recipe.terms)
    assert recipe.describe()


@given(recipes(), recipes())
@settings(max_examples=40, deadline=None)
def test_no_differences_means_equal(one: Recipe, other: Recipe) -> None:
    assert bool(one.differences(other)) == (one != other)
    assert {k: (b, a) for k, (a, b) in one.differences(other).items()} == other.differences(one)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets(name: str, tmp_path: Path) -> None:
    recipe = as_recipe(name)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.from_toml(path) == as_recipe(str(path)) == as_recipe(path) == recipe
    assert as_recipe(recipe) is recipe
    assert PRESETS[name].says
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    optimizer = wp.regularize(recipe.optimizer.build(net.parameters()), net, recipe.build_terms())
    assert len(optimizer.audit().rows) >= 6


def test_the_baseline_has_no_regularizer() -> None:
    baseline = PRESETS["baseline"].recipe
    assert baseline.optimizer.name == "adamw"
    assert not baseline.terms
    assert baseline.noise == NoiseSpec(), "and what is in use of it is 0"
    assert {baseline.noise.dropout, baseline.noise.input, baseline.noise.mixup, baseline.noise.cutmix} == {None, 0.0}
    assert not baseline.averaging.says
    assert baseline.clip == 0
    assert baseline.stopping.patience > 0
    built = baseline.optimizer.build([nn.Parameter(torch.zeros(2))])
    assert built.param_groups[0]["weight_decay"] == 0


def test_the_contracts_example() -> None:
    text = """
epochs = 100                 # at most
batch_size = 128
[model]                      # settings handed to the model's factory
width = 128
[optimizer]
name = "adamw"               # any torch.optim class
lr = 1e-3
[schedule]
name = "one_cycle"
[[terms]]
penalty = "l2"
strength = 1e-2
on = "weights"
how = "decay"                # and by = "unit" for groups
[noise]
dropout = 0.2
label_smoothing = 0.1
[averaging]
ema = 0.999
[stopping]
patience = 20
"""
    recipe = wp.Recipe.from_toml(text)
    assert recipe.model == {"width": 128}
    assert str(recipe.build_terms()[0]) == "L2(strength=0.01) on weights by decay"
    assert recipe.averaging.ema == 0.999
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert tomllib.loads(recipe.to_toml())["schema"] == 1
    assert str(recipe) == recipe.to_toml()
    assert recipe.describe() == ("adamw lr 0.001, one_cycle, l2 0.01, dropout 0.2, smoothing 0.1, ema 0.999, width 128")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown key 'epoch'. Did you mean 'epochs'?"),
        ("[noise]\ndropuot = 0.1", "unknown key 'noise.dropuot'. Did you mean 'dropout'?"),
        ("[optimiser]\nlr = 1", "unknown key 'optimiser'. Did you mean 'optimizer'?"),
        ('[[terms]]\npenalty = "l1"\nstrenght = 1', "penalty 'l1' takes no strenght. Did you mean 'strength'?"),
        ("[stopping]\npatiance = 1", "unknown key 'stopping.patiance'. Did you mean 'patience'?"),
        ("[averaging]\nswaa = 1", "unknown key 'averaging.swaa'. Did you mean 'swa'?"),
        ('[schedule]\nname = "cosin"', "there is no schedule 'cosin'. Did you mean 'cosine'?"),
        ('[optimizer]\nname = "adamx"', "there is no optimizer 'adamx'"),
        ('[optimizer]\nname = "sgd"\nmomentun = 0.9', "sgd takes no 'momentun'. Did you mean 'momentum'?"),
        ('[[terms]]\npenalty = "group_l1"\nstrength = 1', "there is no penalty 'group_l1'. Did you mean 'group_l2'?"),
        ('[[terms]]\npenalty = "l1"', "terms.0: penalty 'l1' needs strength"),
        ('[[terms]]\npenalty = "l1"\nstrength = 1\nbound = 2', "penalty 'l1' takes no bound. It takes strength"),
        ('[[terms]]\npenalty = "l1"\nstrength = 1\nhow = "decay"', "L1 cannot be enforced by how='decay'"),
        ('[[terms]]\npenalty = "group_l2"\nstrength = 1\nby = "row"', "groups by unit or input"),
        ('[[terms]]\npenalty = "elastic_net"\nstrength = 1\nmix = 2', "mix= to be a number in [0, 1]"),
        ('[[terms]]\npenalty = "l1"\nstrength = 1\non = []', "A selector is"),
        ('[[terms]]\npenalty = "l1"\nstrength = -1', "terms.0.strength = -1 is not possible"),
        ('[[terms]]\npenalty = "l1"\nstrength = nan', "terms.0.strength = nan is not possible"),
        ("epochs = 0", "epochs = 0 is not possible: input should be greater than or equal to 1"),
        ("batch_size = 2.5", "batch_size = 2.5 is not possible"),
        ('epochs = "many"', "epochs = 'many' is not possible"),
        ("clip = inf", "clip = inf is not possible"),
        ('precision = "float8"', "precision = 'float8' is not possible"),
        ("[optimizer]\nlr = 0", "optimizer.lr = 0 is not possible"),
        ("[optimizer]\nlr = nan", "optimizer.lr = nan is not possible"),
        ("[noise]\ndropout = 1.0", "noise.dropout = 1.0 is not possible: input should be less than 1"),
        ("[noise]\nlabel_smoothing = -0.1", "noise.label_smoothing = -0.1 is not possible"),
        ("[schedule]\nwarmup = 1", "schedule.warmup = 1 is not possible"),
        ("[stopping]\npatience = -1", "stopping.patience = -1 is not possible"),
        ("[averaging]\nema = 0.9\nswa = 0.5", "by ema or by swa, not both"),
        ('[averaging]\nwarmup = "linear"', "averaging.warmup"),
        ("[model]\nwidth = 2024-01-01", "model.width = datetime.date(2024, 1, 1) is not possible: a setting of the"),
        ("[model]\nwidth = {a = 1}", "model.width = {'a': 1} is not possible"),
        ("terms = 3", "terms = 3 is not possible"),
        ("epochs = = 3", "The recipe is not valid TOML: Invalid value (at line 1"),
    ],
)
def test_what_a_recipe_cannot_be(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_toml(text)
    found = str(caught.value)
    assert message in found
    assert found.startswith("The recipe")
    assert "\n" not in found
    assert "pydantic" not in found


def test_several_faults_are_all_said() -> None:
    with pytest.raises(RecipeError, match=r"epochs = 0 .*; unknown key 'clipp'. Did you mean 'clip'"):
        Recipe(epochs=0, clipp=1)


@pytest.mark.parametrize("value", [None, {"a": 1}, torch.tensor(1.0), [None]])
def test_settings_that_toml_cannot_say_are_refused(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"eps = .* cannot be written in a recipe"):
        Recipe(optimizer={"name": "adam", "eps": value})


def test_schemas() -> None:
    assert Recipe.from_toml("schema = 1\nepochs = 3").epochs == 3
    with pytest.raises(FormatError, match=r"schema 2; this wellposed reads schema 1. Update wellposed"):
        Recipe.from_toml("schema = 2")
    with pytest.raises(FormatError, match="schema 0; this wellposed reads schema 1 only"):
        Recipe.from_toml("schema = 0")
    with pytest.raises(FormatError, match="schema 'new'"):
        Recipe.from_toml('schema = "new"')


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "lr=0.1" / "recipe.toml"
    path.parent.mkdir()
    path.write_text("epochs = 7", encoding="utf-8")
    assert Recipe.from_toml(path).epochs == Recipe.from_toml(str(path)).epochs == as_recipe(str(path)).epochs == 7
    path.write_text("epochs = 0", encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"^'{path}': epochs = 0 is not possible"):
        Recipe.from_toml(path)
    path.write_text("schema = 9", encoding="utf-8")
    with pytest.raises(FormatError, match=rf"^'{path}' is a recipe of schema 9"):
        Recipe.from_toml(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.from_toml(path)
    with pytest.raises(RecipeError, match="There is no recipe file"):
        Recipe.from_toml(tmp_path / "nothing.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        Recipe.from_toml(tmp_path)
    assert Recipe.from_toml("") == Recipe()


def test_names_and_paths() -> None:
    assert as_recipe("epochs = 3").epochs == 3
    with pytest.raises(RecipeError, match=r"There is no preset 'baselin'. Did you mean 'baseline'"):
        as_recipe("baselin")
    with pytest.raises(InputError, match="3 is none of them"):
        as_recipe(3)


def test_replace_changes_what_it_names_and_nothing_else() -> None:
    recipe = PRESETS["steady"].recipe
    changed = recipe.replace(optimizer={"lr": 0.5}, noise={"label_smoothing": 0.2}, epochs=3)
    assert changed.differences(recipe) == {
        "optimizer.lr": (0.5, 0.002),
        "noise.label_smoothing": (0.2, 0.0),
        "epochs": (3, 100),
    }
    assert changed.noise.dropout == recipe.noise.dropout
    assert recipe.optimizer.lr == 2e-3
    assert not recipe.replace(terms=[]).terms
    assert recipe.replace(terms=recipe.terms) == recipe
    assert recipe.replace(optimizer=Recipe().optimizer).optimizer == Recipe().optimizer
    assert Recipe(model={"width": 3}).replace(model={"depth": 2}).model == {"width": 3, "depth": 2}
    with pytest.raises(RecipeError, match="Did you mean 'epochs'"):
        recipe.replace(epoch=3)
    with pytest.raises(RecipeError, match="adam takes no 'momentum'"):
        Recipe(optimizer={"name": "sgd", "momentum": 0.9}).replace(optimizer={"name": "adam"})


def test_differences_of_terms() -> None:
    one = Recipe(terms=[{"penalty": "l1", "strength": 0.1}])
    (key, (mine, theirs)), *rest = one.differences(Recipe()).items()
    assert (key, mine[0]["penalty"], theirs, rest) == ("terms", "l1", [], [])


def test_frozen() -> None:
    recipe = Recipe()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        recipe.optimizer.lr = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(optimizers()))
def test_every_optimizer_of_torch_can_be_built(name: str) -> None:
    parameters = [nn.Parameter(torch.zeros(3, 2))]
    built = Recipe(optimizer={"name": name, "lr": 0.1}).optimizer.build(parameters)
    assert type(built).__name__.lower() == name
    assert built.param_groups[0]["lr"] == 0.1
    assert not built.param_groups[0].get("weight_decay", 0.0)


def test_an_optimizers_settings_reach_it() -> None:
    recipe = Recipe(optimizer={"name": "AdamW", "lr": 0.1, "betas": [0.8, 0.9], "weight_decay": 0.3})
    built = recipe.optimizer.build(nn.Linear(2, 2).parameters())
    assert recipe.optimizer.name == "adamw"
    assert built.param_groups[0]["betas"] == (0.8, 0.9)
    assert built.param_groups[0]["weight_decay"] == 0.3
    with pytest.raises(RecipeError, match=r"\[optimizer\] sgd does not accept .*Nesterov momentum requires"):
        Recipe(optimizer={"name": "sgd", "nesterov": True}).optimizer.build([nn.Parameter(torch.zeros(2))])


def test_fused_updates_are_the_plain_ones_to_rounding() -> None:
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        net = nn.Linear(5, 3).double()
        built = Recipe(optimizer={"name": "adamw", "lr": 0.1, "fused": fused}).optimizer.build(net.parameters())
        assert bool(built.param_groups[0]["fused"]) == fused
        for _ in range(5):
            built.zero_grad()
            net(torch.ones(2, 5, dtype=torch.float64)).square().sum().backward()
            built.step()
        results.append(net.weight.detach())
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)


def factor(name: str, step: int, total: int, warmup: float = 0.0) -> float:
    return named_schedule(name, total, warmup)(step)


def test_schedules_at_both_ends() -> None:
    assert [factor("constant", i, 4) for i in range(4)] == [1.0] * 4
    cosine = [factor("cosine", i, 100) for i in range(100)]
    assert cosine[0] == 1.0
    assert cosine == sorted(cosine, reverse=True)
    assert 0.01 <= cosine[-1] < 0.02
    assert factor("cosine", 50, 100) == pytest.approx(0.01 + 0.99 / 2)
    cycle = [factor("one_cycle", i, 100) for i in range(100)]
    assert cycle[0] == pytest.approx(0.04)
    assert max(cycle) == cycle[30] == pytest.approx(1.0)
    assert [factor("step", i, 8) for i in range(8)] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    warm = [factor("constant", i, 10, warmup=0.4) for i in range(10)]
    assert warm == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1])
    # After the warm-up the whole shape follows: at its start and, halfway through the rest, at its middle.
    assert factor("cosine", 10, 20, warmup=0.5) == 1.0
    assert factor("cosine", 15, 20, warmup=0.5) == pytest.approx(factor("cosine", 5, 10))
    for name in SHAPES:
        assert all(0 < factor(name, i, total, 0.3) <= 1 for total in (1, 2, 7) for i in range(total))


def numbered() -> Iterator[tuple[str, dict[str, Any]]]:
    """A recipe with True in the place of each number that a recipe has, read from its sections; and some nested deeper."""
    sections = {"": Recipe, **{k: type(v) for k, v in Recipe() if isinstance(v, Section)}}
    for name, cls in sections.items():
        for key, field in cls.model_fields.items():
            kinds = str(field.annotation)
            if re.search(r"\b(int|float)\b", kinds) and "bool" not in kinds and key != "model":
                yield f"{name}.{key}", {key: True} if not name else {name: {key: True}}
    yield from {
        "optimizer.momentum": {"optimizer": {"name": "sgd", "momentum": True}},
        "optimizer.betas": {"optimizer": {"name": "adam", "betas": (0.9, True)}},
        "schedule.gamma": {"schedule": {"name": "step", "gamma": True}},
        "schedule.milestones": {"schedule": {"name": "multistep", "milestones": [True, 3]}},
        "terms.strength": {"terms": [{"penalty": "l1", "strength": True}]},
        "terms.bound": {"terms": [{"penalty": "max_norm", "bound": True}]},
        "terms.warmup": {"terms": [{"penalty": "l1", "strength": 0.1, "warmup": True}]},
        "terms.mix": {"terms": [{"penalty": "elastic_net", "strength": 0.1, "mix": True}]},
        "terms.low": {"terms": [{"penalty": "box", "low": [0.0, True], "high": 2.0}]},
        "terms.heads": {"terms": [{"penalty": "group_l2", "strength": 0.1, "by": "head", "heads": True}]},
        "places.rate": {"noise": {"places": [{"kind": "dropout", "on": "*", "rate": True}]}},
        "places.warmup": {"noise": {"places": [{"kind": "dropout", "on": "*", "rate": 0.1, "warmup": True}]}},
        "numpy": {"epochs": np.True_},
    }.items()


@pytest.mark.parametrize(("name", "values"), list(numbered()), ids=lambda part: part if isinstance(part, str) else "")
def test_true_is_no_number_anywhere_in_a_recipe(name: str, values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"True|False|torch\.bool"):
        Recipe(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": np.int64(3), "clip": np.float32(0.5)},
        {"optimizer": {"name": "sgd", "momentum": np.float32(0.5), "nesterov": np.True_}},
        {"optimizer": {"name": "adam", "betas": np.array([0.8, 0.9])}},
        {"schedule": {"name": "multistep", "milestones": np.array([3, 5])}},
        {"schedule": {"name": "step", "step_size": np.int64(3), "gamma": np.float32(0.5), "per": np.int64(4)}},
        {"schedule": {"name": np.str_("cosine"), "warmup": np.float64(0.1)}},
        {"model": {"width": np.int64(4), "norm": np.False_, "sizes": np.array([1, 2])}},
        {"terms": [{"penalty": "box", "low": np.array([0.0, 1.0]), "high": pd.Series([2, 3], index=[5, 6])}]},
        {"terms": [{"penalty": "weighted_l1", "strength": 0.1, "weights": [1, 2]}]},
        {"terms": [{"penalty": "weighted_l1", "strength": np.float32(0.5), "weights": np.array([True, False])}]},
        {"noise": {"places": [{"kind": "dropout", "on": np.array(["0", "1"]), "rate": np.float32(0.25)}]}},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_and_arrays_of_numpy_are_written_and_read_back(values: dict[str, Any]) -> None:
    recipe = Recipe(**values)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe


INFINITE = [
    {"terms": [{"penalty": "box", "low": 0.0, "high": math.inf}]},
    {"terms": [{"penalty": "box", "low": [[-math.inf, 0.0]], "high": math.inf}]},
    {"model": {"clip": math.inf, "ends": [-math.inf, 1.0], "norm": "inf"}},
    {"optimizer": {"name": "adam", "eps": math.inf}},
]


@pytest.mark.parametrize("values", INFINITE, ids=str)
def test_infinities_survive_every_file_that_keeps_a_recipe(values: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe(**values)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    strict = json.dumps(recipe.to_dict(), allow_nan=False)
    assert Recipe(**json.loads(strict)) == recipe
    trial = Trial(0, "search", recipe.to_dict(), "", 0, 0.0, 0.0, 0.0, 1, 0, 0.0, "epochs", 9)
    lot = [Pending(1, recipe.to_dict(), {}, 3, None)]
    State("data", "r2", 0, own_test=False, trials=[trial], pending=lot, planned=2).save(tmp_path)
    state = State.load(tmp_path)
    assert state.trials[0].built == Recipe(**state.pending[0].recipe) == recipe


@pytest.mark.parametrize(
    "values",
    [
        {"terms": [{"penalty": "box", "low": math.nan, "high": 1.0}]},
        {"optimizer": {"name": "adam", "betas": (math.nan, 0.9)}},
        {"schedule": {"name": "step", "gamma": math.nan}},
        {"noise": {"places": [{"kind": "dropout", "on": "*", "rate": math.nan}]}},
        {"model": {"a": [math.nan]}},
    ],
    ids=str,
)
def test_nan_is_in_no_recipe(values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="nan"):
        Recipe(**values)


ARRAYS = {
    "rates": 'penalty = "weighted_l1"\nstrength = 0.1\nweights = [1, 2, 3]',
    "rates of each": 'penalty = "weighted_l1"\nstrength = 0.1\nweights = [[1, 2, 3], [1, 2, 3], [0, 0, 0], [1.5, 2, 3]]',
    "mask": 'penalty = "weighted_l1"\nstrength = 0.1\nweights = [true, false, true]',
    "weights of inputs": 'penalty = "group_l2"\nstrength = 0.1\nby = "input"\nweights = [1, 2, 0]',
    "group numbers": 'penalty = "group_l2"\nstrength = 0.1\nby = [[0, 1, 1], [0, 1, 1], [2, 2, 2], [-1, -1, -1]]',
    "block": 'penalty = "group_l2"\nstrength = 0.1\nby = "block"\nblock = [2, 3]',
    "ends": 'penalty = "box"\nlow = [-inf, 0, 0]\nhigh = [1, inf, 2.5]',
    "normal and limits": 'penalty = "half_space"\nnormal = [1, 2, 3]\nlimit = [1, 1, 1, 2]\nby = "unit"',
    "weights of rows": 'penalty = "row_l21"\nstrength = 0.1\nweights = [1, 2, 3, 4]',
}


@pytest.mark.parametrize("term", ARRAYS)
def test_arrays_in_toml_terms_are_trained_with(term: str) -> None:
    recipe = Recipe.from_toml(f'epochs = 1\n[[terms]]\n{ARRAYS[term]}\non = "0.weight"')
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    problem = wp.Problem(lambda data: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), "mse", (x, x[:, 0]))
    alone, among = wp.fit(problem, recipe), wp.fit_many(problem, [recipe, recipe], [0, 1], engine="inprocess")[0]
    assert among.history["valid_loss"] == pytest.approx(alone.history["valid_loss"], rel=1e-4)
