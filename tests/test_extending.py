"""What somebody writes is treated as what we ship: a toy of each kind is found everywhere, and a stranger's is not imported."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.forked import command
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.registry import import_name, import_typed, is_importable
from wellposed.core.selectors import leaves, selector
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Conditions, Job
from wellposed.parallel.population.compiled import kernel
from wellposed.parallel.processes import train_in_processes
from wellposed.study.trials import State
from wellposed.testing import LawBroken, check_constraint, check_optimizer, check_penalty, check_reader, check_rule

# The toys


@dataclass(frozen=True)
class Toll(wp.Penalty):
    """``strength * sum_i |w_i - corner|``."""

    strength: float
    corner: float = 0.0
    hows: ClassVar[tuple[Any, ...]] = ("prox", "loss")

    @property
    def traits(self) -> wp.Traits:
        plain = self.corner == 0
        return wp.Traits(homogeneous=1 if plain else None, symmetric=plain, sparse=plain)

    def value(self, w: Tensor) -> Tensor:
        return (self.strength * (w - self.corner).abs()).sum()

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        shifted = w - self.corner
        return torch.where(
            shifted.abs() <= step * self.strength, w * 0 + self.corner, w - shifted.sign() * step * self.strength
        )

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        inside = (grad.abs() - self.strength).clamp_min(0.0)
        return (
            torch.where(w == self.corner, inside, grad + self.strength * (w - self.corner).sign()).norm() + 0 * w.sum()
        )


@dataclass(frozen=True)
class Ceiling(wp.Constraint):
    """``|w_i| <= bound`` for every weight."""

    bound: float
    keeps_signs: ClassVar[bool] = True

    @property
    def traits(self) -> wp.Traits:
        return wp.Traits(sparse=self.bound == 0)

    def project(self, w: Tensor) -> Tensor:
        return w.clamp(-self.bound, self.bound) + 0 * w

    def follows(self, weighted: bool, thresholds: bool, cores: Any) -> bool:
        return not cores


@dataclass(frozen=True)
class Loudness(wp.FunctionalPenalty):
    """``strength * mean of squared outputs``."""

    strength: float

    def value(self, context: wp.Context) -> Tensor:
        context.needs(self)
        assert context.outputs is not None
        return self.strength * context.outputs.square().mean()


class Heavy(torch.optim.Optimizer):
    """Heavy-ball momentum, written anew."""

    effective_step = wp.OptimizerMetric(lambda group, state, count: group["lr"] / (1 - group["push"]), euclidean=True)

    def __init__(self, params: Any, lr: float = 0.01, push: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "push": push})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    speed = self.state[w].setdefault("speed", torch.zeros_like(w))
                    speed.mul_(group["push"]).add_(w.grad)
                    w.sub_(group["lr"] * speed)


class Loud(wp.Rule):
    """The training loss ends above where it began."""

    name, severity, axis, pulls = "louder", 1, "optimization", "optimizer"

    def judge(self, curves: Any) -> wp.Finding | None:
        known = curves.train_loss[curves.train_loss == curves.train_loss]
        if len(known) < 2 or not known[-1] > known[0]:
            return None
        return self.finding(0.9, {"epochs": len(known)}, "lower the learning rate", "The loss rose.")

    def advice(self, recipe: wp.Recipe) -> Iterable[wp.Recipe]:
        return [recipe.replace(optimizer={"lr": recipe.optimizer.lr / 100})]


def read_diary(source: Any) -> Any:
    """A log of lines ``day 3: spent 0.5, back 0.7``."""
    if not isinstance(source, Path) or not source.is_file() or b"day " not in source.read_bytes()[:4]:
        return None
    rows = [line.replace(",", "").split() for line in source.read_text().splitlines()]
    return [
        {"epoch": int(r[1][:-1]), "train_loss": float(r[3]), "valid_loss": float(r[5])} for r in rows if len(r) == 6
    ]


class Kite(nn.Module):
    """A network of somebody's own."""

    def __init__(self, features: int = 6, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def table(rows: int = 160) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] + 0.5 * x[:, 1] > 0).long()


def problem(**changes: Any) -> wp.Problem:
    return wp.Problem(**{"model": Kite, "loss": "cross_entropy", "data": wp.Data(train=table(), valid=0.25), **changes})


TOYS = {
    "penalty": Toll(0.02, corner=0.1).on("*.weight"),
    "constraint": Ceiling(0.4).on(),
    "function": Loudness(0.1).on(),
}
EPOCHS = 3


def recipe(kind: str = "penalty", **changes: Any) -> wp.Recipe:
    return wp.Recipe(**{"epochs": EPOCHS, "batch_size": 40, "terms": [TOYS[kind]], **changes})


def weights(run: wp.Run) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


# The laws


def test_the_toys_obey_the_laws() -> None:
    check_penalty(Toll(0.3))
    check_penalty(Toll(0.3, corner=0.7))
    check_constraint(Ceiling(0.8))
    check_optimizer(lambda parameters: Heavy(parameters, lr=0.01))
    check_rule(Loud, found=[{"loss": [1.0, 2.0]}], absent=[{"loss": [2.0, 1.0]}])


def test_what_a_constraint_declares_is_tried() -> None:
    @dataclass(frozen=True)
    class Shifted(Ceiling):
        traits: ClassVar[wp.Traits] = wp.Traits(symmetric=False, sparse=False)  # type: ignore[assignment]

        def project(self, w: Tensor) -> Tensor:
            return w.clamp(0.5, 0.5 + self.bound) + 0 * w

    with pytest.raises(LawBroken, match="keeps_signs"):
        check_constraint(Shifted(1.0))

    @dataclass(frozen=True)
    class Hasty(wp.MaxNorm):
        keeps_signs: ClassVar[bool] = False

        def follows(self, weighted: bool, thresholds: bool, cores: Any) -> bool:
            return True

        def project(self, w: Tensor) -> Tensor:
            return w.where(w.abs().sum() < 1, torch.full_like(w, 0.1))

    with pytest.raises(LawBroken):
        check_constraint(Hasty(1.0))


@pytest.mark.parametrize("factor", [0.1, 1.02])
def test_a_wrong_effective_step_is_caught(factor: float) -> None:
    class Wrong(Heavy):
        effective_step = wp.OptimizerMetric(lambda group, state, count: factor * group["lr"] / 0.1, euclidean=True)

    with pytest.raises(LawBroken, match="away from a stationary point"):
        check_optimizer(lambda parameters: Wrong(parameters, lr=0.01))


def test_an_optimizer_that_steps_in_its_own_way_must_say_its_metric_anew() -> None:
    class Half(Heavy):
        def step(self, closure: Any = None) -> None:
            super().step(closure)

    with pytest.raises(LawBroken, match="declares no effective step"):
        check_optimizer(lambda parameters: Half(parameters))
    net = Kite()
    with pytest.raises(wp.CompositionError, match=r"effective_step = wp\.OptimizerMetric"):
        wp.regularize(Half(net.parameters()), net, [Toll(0.1).on()])

    class Odd(Heavy):
        effective_step = 0.1  # type: ignore[assignment]

    with pytest.raises(wp.InputError, match=r"is a wp\.OptimizerMetric; it was given 0\.1"):
        wp.regularize(Odd(net.parameters()), net, [Toll(0.1).on()])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"judge": lambda self, curves: 3}, "gives int"),
        ({"judge": lambda self, curves: curves.nothing}, "raises AttributeError"),
        ({"judge": lambda self, curves: wp.Finding("other", 0.5)}, "called 'other'"),
        ({"judge": lambda self, curves: None}, "not found in found"),
        ({"judge": lambda self, curves: self.finding(0.5, {}, "", "")}, "needs words"),
        ({"axis": "elsewhere", "judge": lambda self, curves: self.finding(0.5, {}, "a", "b")}, "has the axis"),
        (
            {"judge": lambda self, curves: self.finding(float(curves.train_loss[0] > 1), {}, "a", "b")},
            "unit of the loss",
        ),
    ],
)
def test_a_wrong_rule_is_caught(change: dict[str, Any], said: str) -> None:
    with pytest.raises(LawBroken, match=said):
        check_rule(type("Wrong", (Loud,), change)(), found=[{"loss": [2.0, 3.0]}])


def diary(folder: Path, days: int = 6) -> Path:
    path = folder / "a.diary"
    path.write_text("".join(f"day {d}: spent {1 / d:.4f}, back {0.1 + 1 / d:.4f}\n" for d in range(1, days + 1)))
    return path


def test_log_readers_are_tried(tmp_path: Path) -> None:
    path = diary(tmp_path)
    check_reader(read_diary, path)
    with pytest.raises(LawBroken, match="gives None for"):
        check_reader(lambda source: None, path)
    with pytest.raises(LawBroken, match="not of its kind"):
        check_reader(lambda source: {"loss": [1.0, 0.5]}, path)
    with pytest.raises(LawBroken, match="raised"):
        check_reader(lambda source: {"loss": [float(source.read_text().split()[3][:-1])]}, path)


# Recipes


def test_a_term_is_taken_by_a_recipe_as_it_is_by_regularize() -> None:
    found = recipe(terms=[TOYS["penalty"], TOYS["constraint"], TOYS["function"]])
    assert [str(term) for term in found.build_terms()] == [str(term) for term in TOYS.values()]
    assert found == wp.Recipe(**found.model_dump()) == found.replace(epochs=EPOCHS)
    assert hash(found) == hash(found.replace())
    assert found != found.replace(terms=[Toll(0.02).on("*.weight"), *found.terms[1:]])
    assert found.describe() == "adamw lr 0.001, toll 0.02, ceiling 0.4, loudness 0.1"
    assert wp.Recipe(terms=Toll(0.1).on()).terms[0].penalty is Toll
    assert found.differences(recipe())["terms"][1][0]["penalty"] == "test_extending:Toll"


@pytest.mark.parametrize(
    ("term", "same"),
    [
        (lambda: wp.L1(1e-3).on(), {"penalty": "l1", "strength": 1e-3}),
        (lambda: wp.L2(0.1).on(how="prox"), {"penalty": "l2", "strength": 0.1, "how": "prox"}),
        (
            lambda: wp.MaxNorm(2.0, by="input").on(wp.outputs),
            {"penalty": "max_norm", "bound": 2.0, "by": "input", "on": "outputs"},
        ),
        (lambda: wp.L1(1.0).on(wp.named("*.bias")), {"penalty": "l1", "strength": 1.0, "on": "named:*.bias"}),
        (lambda: wp.L1(1.0).on(["a.*", "b.*"]), {"penalty": "l1", "strength": 1.0, "on": ["a.*", "b.*"]}),
        (lambda: wp.Confidence(0.1).on(), {"penalty": "confidence", "strength": 0.1}),
        (lambda: wp.ActivationL1(0.1).on("body.1"), {"penalty": "activation_l1", "strength": 0.1, "on": "body.1"}),
        (lambda: wp.Box([0.0, -1.0], 1.0).on(), {"penalty": "box", "low": [0.0, -1.0], "high": 1.0}),
    ],
)
def test_our_own_objects_are_their_names(term: Any, same: dict[str, Any]) -> None:
    assert wp.Recipe(terms=[term()]) == wp.Recipe(terms=[same])
    assert wp.Recipe.from_toml(wp.Recipe(terms=[term()]).to_toml()) == wp.Recipe(terms=[same])


def _is_weight(name: str, parameter: Tensor) -> bool:
    return name.endswith("weight")


@pytest.mark.parametrize(
    "term",
    [
        lambda: wp.L1(0.01).on(_is_weight),
        lambda: wp.L1(0.01).on(nn.Linear),
        lambda: wp.L1(0.01).on(wp.weights - wp.outputs),
        lambda: wp.L1(0.01).on(schedule=wp.ramp(10)),
        lambda: wp.L2SP(0.01, reference={"body.0.weight": torch.ones(4, 6)}).on("body.0.weight"),
        lambda: wp.ActivationL2(0.01).on(nn.Tanh),
    ],
)
def test_what_only_python_can_say_is_held_and_trained_and_not_written(term: Any) -> None:
    given = term()
    found = recipe(terms=[given])
    assert found == found.replace() == wp.Recipe(**found.model_dump())
    hash(found)
    (built,) = found.build_terms(total_steps=4)
    assert (str(built.charge), built.schedule) == (str(given.charge), given.schedule)
    net = Kite()
    if not isinstance(given.charge, wp.FunctionalPenalty):
        wanted = [leaf.name for leaf in selector(given.where).choose(leaves(net))]
        assert [leaf.name for leaf in selector(built.where).choose(leaves(net))] == wanted
    assert len(wp.fit(problem(), found).history) == EPOCHS
    with pytest.raises(wp.RecipeError, match="cannot be written down"):
        found.to_toml()
    assert "penalty" in str(found)


def test_toml_calls_a_class_by_its_import_name() -> None:
    text = recipe().to_toml()
    assert 'penalty = "test_extending:Toll"\nstrength = 0.02\non = "*.weight"\ncorner = 0.1' in text
    assert wp.Recipe.from_toml(text) == recipe()
    with_heavy = recipe(optimizer={"name": Heavy, "lr": 0.02, "push": 0.5})
    assert 'name = "test_extending:Heavy"' in with_heavy.to_toml()
    assert wp.Recipe.from_toml(with_heavy.to_toml()) == with_heavy
    assert with_heavy.describe().startswith("heavy lr 0.02, toll")


def test_a_class_inside_of_a_function_is_used_and_not_written() -> None:
    @dataclass(frozen=True)
    class Local(Toll):
        pass

    found = recipe(terms=[Local(0.1).on()])
    assert not is_importable(Local)
    assert len(wp.fit(problem(), found).history) == EPOCHS
    with pytest.raises(wp.RecipeError, match=r"its class .*Local cannot be imported: define it in a module"):
        found.to_toml()
    with pytest.raises(wp.RecipeError, match="cannot be imported"):
        wp.improve(problem(), "0", recipe=found)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ([Toll(0.1)], r"bound with \.on\(\.\.\.\); Toll"),
        ([{"penalty": Toll, "strength": 0.1, "height": 1}], "penalty 'toll' takes no height"),
        ([{"penalty": Toll}], "penalty 'toll' needs strength"),
        ([{"penalty": wp.Penalty, "strength": 0.1}], "with all their methods"),
        ([{"penalty": int}], "with all their methods"),
        ([{"penalty": "test_extending:Tol", "strength": 0.1}], "Did you mean 'Toll'"),
        ([{"penalty": "test_extending:table"}], "it was given function"),
        ([{"penalty": "tol", "strength": 0.1}], "One of your own has an import name"),
    ],
)
def test_refusals(terms: Any, said: str) -> None:
    with pytest.raises(wp.RecipeError, match=said):
        wp.Recipe(terms=terms)


def test_a_penalty_that_is_no_dataclass_is_refused_by_recipes() -> None:
    class Plain(wp.L1):
        def __init__(self) -> None:
            object.__setattr__(self, "strength", 0.1)

    class Bare(wp.Constraint):
        def project(self, w: Tensor) -> Tensor:
            return w

    with pytest.raises(wp.RecipeError, match="Bare is no dataclass"):
        wp.Recipe(terms=[Bare().on()])
    with pytest.raises(wp.RecipeError, match=r"takes no strength"):
        wp.Recipe(terms=[Plain().on()])

    @dataclass(frozen=True)
    class Confused(Toll):
        how: str = "x"

    with pytest.raises(wp.RecipeError, match="field 'how', which is the name of a key"):
        wp.Recipe(terms=[Confused(0.1, how="y").on()])


def test_a_charge_of_ones_own_cannot_hide_a_method_or_decay() -> None:
    with pytest.raises(wp.InputError, match="Hidden has a field 'at', which hides a method of Toll"):

        @dataclass(frozen=True)
        class Hidden(Toll):
            at: float = 0.0  # type: ignore[assignment]

    @dataclass(frozen=True)
    class Rotting(Toll):
        hows: ClassVar[tuple[Any, ...]] = ("decay", "prox")

    net = Kite()
    with pytest.raises(wp.CompositionError, match=r"is no wp\.L2"):
        wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [Rotting(0.1).on()])


@pytest.mark.parametrize("key", ["penalty", "on", "schedule", "how"])
@pytest.mark.parametrize("value", [3, None, [], {}, {"a": 1}, [1, [2]], True, 0.5, "", "::"])
def test_damaged_terms_end_in_a_sentence(key: str, value: Any) -> None:
    try:
        wp.Recipe(terms=[{"penalty": "l1", "strength": 0.1, key: value}])
    except wp.RecipeError as error:
        assert "Traceback" not in str(error)  # noqa: PT017


# Training


@pytest.mark.parametrize("kind", TOYS)
def test_fit_trains_with_it_and_says_so(kind: str) -> None:
    run = wp.fit(problem(), recipe(kind))
    plain = wp.fit(problem(), recipe(kind, terms=[]))
    assert not torch.equal(weights(run), weights(plain))
    name = type(TOYS[kind].charge).__name__
    assert name in str(run.audit())
    assert any(name.lower() in what for what in run.history.facts["regularized"])
    if kind == "constraint":
        matrices = [p.detach() for name, p in run.model.named_parameters() if name.endswith("weight")]
        assert max(float(w.abs().max()) for w in matrices) < 0.4001


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("engine", ["inprocess", "processes"])
def test_fit_many_trains_the_same_and_says_how(kind: str, engine: str) -> None:
    runs = wp.fit_many(problem(), [recipe(kind), recipe(kind, terms=[])], seeds=range(2), engine=engine)
    for run, seed in zip(runs[:2], range(2), strict=True):
        alone = wp.fit(problem(), recipe(kind), seed=seed)
        torch.testing.assert_close(weights(run), weights(alone), rtol=1e-4, atol=1e-5)
        assert run.recipe == recipe(kind)
    if engine == "inprocess":
        assert "torch" in runs[0].engine
        assert kind == "function" or "by torch" not in runs[2].engine


def test_fresh_interpreters_get_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cloudpickle")

    @dataclass(frozen=True)
    class Local(Toll):
        pass

    jobs = [Job(recipe(terms=[Local(0.1).on()])), Job(recipe("constraint"))]
    found = train_in_processes(problem(), jobs, Conditions(), workers=1, fork=False)
    for run, job in zip(found, jobs, strict=True):
        assert isinstance(run, wp.Run), run
        torch.testing.assert_close(weights(run), weights(wp.fit(problem(), job.recipe)), rtol=1e-4, atol=1e-5)


def test_an_optimizer_of_ones_own_trains_everywhere() -> None:
    own = recipe(optimizer={"name": Heavy, "lr": 0.02, "push": 0.5})
    torchs = recipe(optimizer={"name": "sgd", "lr": 0.02, "momentum": 0.5})
    many = [
        run for run in train_jobs(problem(), [Job(own), Job(torchs)], engine="inprocess") if isinstance(run, wp.Run)
    ]
    wanted = weights(wp.fit(problem(), torchs))
    for run in (wp.fit(problem(), own), *many, wp.fit(problem(), torchs, optimizer=lambda p: Heavy(p, 0.02, 0.5))):
        torch.testing.assert_close(weights(run), wanted, rtol=1e-4, atol=1e-5)
    assert kernel() is None or "Heavy" in many[0].engine  # why it was not compiled


# Studies


def test_a_study_tries_it_searches_around_it_and_keeps_it(tmp_path: Path) -> None:
    study = wp.improve(problem(), "8 recipes", recipe=recipe(epochs=2), out=tmp_path / "a", rules=[Loud])
    own = [trial for trial in study.trials if any(t.penalty is Toll for t in trial.built.terms)]
    assert own[0].recipe["terms"][0] == {
        "penalty": "test_extending:Toll",
        "strength": 0.02,
        "on": "*.weight",
        "corner": 0.1,
    }
    assert "toll 0.02" in own[0].describe
    dimensions = {d["name"]: d for d in study.facts["space"]}
    assert dimensions["toll.size"]["low"] == pytest.approx(0.002)
    assert json.loads((tmp_path / "a" / "state.json").read_text())["trials"]
    assert "toll" in wp.report(tmp_path / "a").read_text()
    again = wp.improve(problem(), "10 recipes", recipe=recipe(epochs=2), out=tmp_path / "a", resume=True)
    assert len(again.trials) > len(study.trials)


def test_a_rule_of_ones_own_is_asked_and_its_advice_is_tried() -> None:
    rising = {"loss": [1.0, 1.5, 2.0, 3.0], "val_loss": [1.0, 1.5, 2.0, 3.0]}
    assert "louder" in wp.diagnose(rising, rules=[Loud]).names
    assert "louder" not in wp.diagnose(rising).names
    assert "louder" in wp.diagnose_many([rising], rules=[Loud()])[0].names
    always = type("Always", (Loud,), {"judge": lambda self, curves: self.finding(1.0, {}, "go slower", "It is fast.")})
    found = next(one for one in wp.diagnose(wp.fit(problem(), recipe()), rules=[always]) if one.name == "louder")
    assert [change.recipe.optimizer.lr for change in found.changes] == [pytest.approx(1e-5)]
    assert found.severity == 1
    study = wp.improve(problem(), "4 recipes", rules=[always])
    assert {"finding": "louder"}.items() <= study.facts["advice"][0].items()
    assert "louder" in study.diagnoses["best"].names
    with pytest.raises(wp.InputError, match="already"):
        wp.diagnose(rising, rules=[type("Again", (Loud,), {"name": "overfits"})])
    with pytest.raises(wp.InputError, match="has no severity"):
        wp.diagnose(rising, rules=[type("Bare", (wp.Rule,), {"judge": lambda self, c: None, "name": "bare"})])
    with pytest.raises(wp.InputError, match="needs rules= to be a list"):
        wp.diagnose(rising, rules=[3])  # type: ignore[list-item]
    with pytest.raises(wp.InputError, match="The rule 'bad' raised ZeroDivisionError"):
        wp.diagnose(rising, rules=[type("Bad", (Loud,), {"name": "bad", "judge": lambda self, curves: 1 / 0})])


def test_a_reader_of_ones_own_reads(tmp_path: Path) -> None:
    path = diary(tmp_path)
    found = wp.diagnose(path, readers=[read_diary])
    assert found.source == str(path)
    assert len(found.curves) == 6
    several = wp.diagnose_many([path, {"loss": [1.0, 0.5, 0.4]}], readers=[read_diary])
    assert len(several) == 2

    def two(source: Any) -> Any:
        return [wp.Log({"loss": [1.0, 0.5]}, "one"), wp.Log({"loss": [1.0, 0.2]}, "two")]

    assert [one.source for one in wp.diagnose_many([path], readers=[two])] == ["one", "two"]
    with pytest.raises(wp.InputError, match="The reader broken raised KeyError"):
        wp.diagnose(path, readers=[broken])


def broken(source: Any) -> Any:
    raise KeyError("x")


# The command line

OWN = """
from dataclasses import dataclass
import wellposed as wp

open("imported", "a").write("once ")

@dataclass(frozen=True)
class Mine(wp.L1):
    "An L1 under another name."

class Always(wp.Rule):
    name, severity, axis, pulls = "always", 9, "none", "none"
    def judge(self, curves):
        return self.finding(1.0, {}, "read it", "It is read.")

def reader(source):
    return {"loss": [1.0, 0.5, 0.2], "val_loss": [1.0, 0.6, 0.4]} if str(source).endswith(".mine") else None
"""
RECIPE = 'epochs = 2\n[[terms]]\npenalty = "own_{}:Mine"\nstrength = 0.001\n'


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module in the folder that one is in, by a name of its own for each test."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{abs(hash(request.node.name)) % 10**8}"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / "mine.toml").write_text(RECIPE.replace("own_{}", name))
    yield name  # type: ignore[misc]
    sys.modules.pop(name, None)


def test_the_command_line_imports_what_is_typed(mine: str, tmp_path: Path) -> None:
    (tmp_path / "a.mine").write_text("nothing that we read")
    done = command("diagnose", "a.mine", "--reader", f"{mine}:reader", "--rule", f"{mine}:Always", "--json")
    assert done.returncode == 0, done.stderr
    assert "always" in [one["name"] for one in json.loads(done.stdout)[0]["findings"]]
    assert command("recipe", "check", "mine.toml").stdout.strip().endswith("mine 0.001")
    for wrong, said in (
        ("nowhere:Mine", "there is no module 'nowhere'"),
        (f"{mine}:Min", "Did you mean"),
        ("Mine", "is named as"),
    ):
        done = command("diagnose", "a.mine", "--rule", wrong)
        assert (done.returncode, done.stdout) == (2, "") or done.returncode == 1
        assert said.lower() in done.stderr.lower()


PROBLEM = """
import torch, wellposed as wp
from torch import nn

def make_net(data, width=3):
    return nn.Sequential(nn.Linear(data.features, width), nn.Tanh(), nn.Linear(width, 2))

x = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
p = wp.Problem(model=make_net, loss="cross_entropy", data=wp.Data(train=(x, (x[:, 0] > 0).long()), valid=0.25),
               space={"width": [2, 5]})
"""


def test_a_study_with_it_by_the_command_line_goes_on_only_where_it_is_given_again(mine: str, tmp_path: Path) -> None:
    (tmp_path / "prob.py").write_text(PROBLEM)
    first = command("improve", "prob.py:p", "--recipe", "mine.toml", "--recipes", "6", "--out", "s", "--quiet")
    assert first.returncode == 0, first.stderr
    state = json.loads((tmp_path / "s" / "state.json").read_text())
    assert f"{mine}:Mine" in {term["penalty"] for trial in state["trials"] for term in trial["recipe"].get("terms", [])}
    widths = {trial["recipe"].get("model", {}).get("width") for trial in state["trials"]}
    assert widths & {2, 5}, "the settings of the problem's own model are searched"
    (tmp_path / "imported").unlink()
    for arguments in (["report", "s"], ["diagnose", "s"], ["predict", "s", "prob.py:p"]):
        command(*arguments)
        assert not (tmp_path / "imported").exists(), arguments
    refused = command("improve", "prob.py:p", "--recipes", "7", "--out", "s", "--resume", "--quiet")
    assert refused.returncode != 0
    assert "never for what it finds in a folder of results" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "imported").exists()
    again = command(
        "improve", "prob.py:p", "--recipe", "mine.toml", "--recipes", "7", "--out", "s", "--resume", "--quiet"
    )
    assert again.returncode == 0, again.stderr


# Strangers


STRANGE = [
    "os:system",
    "antigravity:geohash",
    "stranger_module:Mine",
    "subprocess:Popen",
    "wellposed.penalties.elementwise:L1.on",
]


@pytest.mark.parametrize("name", STRANGE)
def test_a_strangers_run_folder_imports_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "stranger_module.py").write_text("open('imported', 'w').write('x')\n" + OWN)
    folder = tmp_path / "s"
    wp.improve(problem(), "4 recipes", recipe=recipe(epochs=2), out=folder)
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    for file in ("state.json", "study.json", "recipe.toml", "model/model.json", "optuna.log", "history.csv"):
        if (folder / file).exists():
            (folder / file).write_text((folder / file).read_text().replace("test_extending:Toll", name))
    before = set(sys.modules)
    page = wp.report(folder).read_text()
    wp.diagnose(folder)
    State.load(folder)
    with pytest.raises(wp.InputError, match=r"somebody's own code|is needed, by its name or as a class|there is no '"):
        wp.improve(problem(), "6 recipes", out=folder, resume=True)
    with pytest.raises(wp.InputError):
        wp.Recipe(terms=[{"penalty": name, "strength": 0.1}])
    assert not {"antigravity", "stranger_module"} & (set(sys.modules) - before)
    assert not (tmp_path / "imported").exists()
    assert "toll" in page


def test_an_import_name_is_looked_up_without_running_code_of_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    lazy = types.ModuleType("lazy_module")
    lazy.__getattr__ = lambda name: (_ for _ in ()).throw(AssertionError("it ran"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)
    with pytest.raises(wp.InputError, match="there is no 'Mine' in the module 'lazy_module'"):
        wp.Recipe(terms=[{"penalty": "lazy_module:Mine"}])


@pytest.mark.parametrize(
    ("body", "said"),
    [("raise RuntimeError('no')", "raised RuntimeError: no"), ("raise SystemExit(3)", "raised SystemExit"),
     ("import nothing_like_it", "needs 'nothing_like_it', which is not installed")],
)  # fmt: skip
def test_a_module_that_cannot_be_imported_is_told(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "failing_module.py").write_text(body)
    with pytest.raises(wp.RecipeError, match=said):
        wp.Recipe.from_toml('[[terms]]\npenalty = "failing_module:Mine"\n')
    with pytest.raises(wp.InputError, match=said):
        import_typed("failing_module:Mine", "rule")
    assert import_name(Toll) == "test_extending:Toll"
