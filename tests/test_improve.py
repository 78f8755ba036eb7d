"""`improve`: fair baselines, rows that are never looked at too early, honest verdicts, and studies that go on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")
pytest.importorskip("jinja2")
threadpool_limits = pytest.importorskip("threadpoolctl").threadpool_limits

from wellposed.cli import main  # noqa: E402 - needs the extras
from wellposed.cli.improve import Asked, problem_of  # noqa: E402
from wellposed.core.errors import FolderInUse, InputError, WellposedError  # noqa: E402
from wellposed.core.progress import reporting_to  # noqa: E402
from wellposed.data.data import Data  # noqa: E402
from wellposed.recipe.recipe import Recipe  # noqa: E402
from wellposed.search import (  # noqa: E402
    confirmation,
    runner,
    timing,
)
from wellposed.search import improve as searching  # noqa: E402
from wellposed.search.baseline import BASELINE_RATES, next_rates  # noqa: E402
from wellposed.search.confirmation import Confirmed  # noqa: E402
from wellposed.search.improve import improve, with_test  # noqa: E402
from wellposed.search.references import references  # noqa: E402
from wellposed.search.space import Space  # noqa: E402
from wellposed.study.folder import claim_folder  # noqa: E402
from wellposed.study.ranking import WORST, rank_of  # noqa: E402
from wellposed.study.study import Study  # noqa: E402
from wellposed.study.trials import State  # noqa: E402
from wellposed.training.problem import Problem  # noqa: E402
from wellposed.training.ready_problems import file_problem  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _short_runs() -> Iterator[None]:
    """Three epochs a run and one thread: what is tested here is not what is learned."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(timing, "PLAIN_EPOCHS", 3)
        yield
    torch.set_num_threads(threads)


def rows(count: int = 80, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=draw)
    return x, (x[:, 0] + 0.5 * torch.randn(count, generator=draw) > 0).long()


def make_net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Dropout(0.0), nn.Linear(width, 2))


def problem(train: Any = None, test: Any = None, **more: Any) -> Problem:
    data = Data(train=rows() if train is None else train, test=test)
    return Problem(more.pop("model", make_net), more.pop("loss", "cross_entropy"), data, **more)


def timeless(value: Any) -> Any:
    """A record without what a clock says."""
    if isinstance(value, dict):
        return {
            k: timeless(v)
            for k, v in value.items()
            if k not in ("seconds", "watch_seconds", "clock", "command", "budget")
        }
    return [timeless(item) for item in value] if isinstance(value, list) else value


def record_of(study: Study) -> dict[str, Any]:
    from wellposed.core.files import jsonable

    found: dict[str, Any] = timeless(jsonable(study.record()))
    return found


def trials_of(study: Study, *kinds: str) -> list[dict[str, Any]]:
    return [trial for trial in record_of(study)["trials"] if trial["kind"] in kinds]


# --- the same again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["4 recipes", "30 epochs", "0"])
def test_a_study_repeated_with_its_seed_is_equal(budget: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = improve(problem(space={"width": [4, 8, 16]}), budget, seed=3, out=tmp_path / "a")
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002 - nothing may depend on it
    second = improve(problem(space={"width": [4, 8, 16]}), budget, seed=3)
    assert record_of(first) == record_of(second)
    other = improve(problem(space={"width": [4, 8, 16]}), budget, seed=4)
    assert trials_of(other, "confirmation") != trials_of(first, "confirmation")


def test_a_study_leaves_global_random_state_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    improve(problem(), "0")
    assert torch.equal(torch.get_rng_state(), before)


# --- the confirmation rows -----------------------------------------------------------------------------------------


def test_test_labels_change_nothing_before_the_confirmation() -> None:
    x, y = rows(60, seed=9)
    space = {"width": [4, 8, 16]}
    honest, mutant = (improve(problem(test=(x, labels), space=space), "5 recipes") for labels in (y, 1 - y))
    assert trials_of(honest) == trials_of(mutant)
    for key in ("recipes", "histories", "diagnoses", "differences"):
        assert record_of(honest)[key] == record_of(mutant)[key]
    assert record_of(honest)["confirmation"] != record_of(mutant)["confirmation"]
    assert record_of(honest)["references"] != record_of(mutant)["references"]


def test_split_off_rows_are_in_no_other_part_and_stay_the_same() -> None:
    x = torch.arange(80.0)[:, None].repeat(1, 3)
    prepared = with_test(problem((x, rows()[1]))).prepared
    assert prepared.test is not None
    parts = [
        set(source.batch(torch.arange(len(source)))[0][:, 0].tolist())
        for source in (prepared.train, prepared.valid, prepared.test)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 80
    assert len(parts[2]) == 16


def test_groups_and_time_hold_for_the_confirmation_rows_too() -> None:
    x = torch.arange(80.0)[:, None].repeat(1, 3)
    y = torch.arange(80) % 2

    def parts(**how: Any) -> list[set[int]]:
        data = with_test(Problem(make_net, "cross_entropy", Data(train=(x, y), **how))).prepared
        assert data.test is not None
        return [
            {int(row) for row in source.batch(torch.arange(len(source)))[0][:, 0]}
            for source in (data.train, data.valid, data.test)
        ]

    grouped = [{row // 8 for row in part} for part in parts(groups=np.arange(80) // 8)]
    assert sum(map(len, grouped)) == 10
    train, valid, test = parts(time=np.arange(80.0))
    assert max(train) < min(valid) <= max(valid) < min(test)


def test_group_and_time_columns_reach_the_split_and_are_no_features(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.normal(size=60), "who": np.repeat(list("abcdefghijkl"), 5),
                          "day": np.arange(60), "kind": ["x", "y"] * 30})  # fmt: skip
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = problem_of(str(tmp_path / "t.csv"), None, Asked("kind", group="who", time="day"))[0]
    assert list(found.data.train[0].columns) == ["a"]
    assert len(set(zip(found.data.groups.tolist(), frame["who"], strict=True))) == 12
    assert found.data.time.tolist() == list(range(60))


# --- a fair baseline -----------------------------------------------------------------------------------------------


def test_the_baseline_looks_beyond_the_border_of_its_rates() -> None:
    limit = len(BASELINE_RATES)
    assert next_rates({}, limit) == list(BASELINE_RATES), "all at once: they are trained together"
    done = {rate: (rate, 0.0) for rate in BASELINE_RATES}  # the more, the better
    assert next_rates(done, limit) == [pytest.approx(0.09)]
    done[0.09] = (5.0, 0.0)
    assert next_rates(done, limit) == [pytest.approx(0.3)]
    done[0.3] = (9.0, 0.0)
    assert next_rates(done, limit) == [], "two beyond the border are enough"


def test_the_baseline_does_so_on_the_lower_side_and_stops_where_the_best_is_inside() -> None:
    limit = len(BASELINE_RATES)
    done = {rate: rank_of(rate, 1.0, sign=-1.0) for rate in BASELINE_RATES}  # a loss: the less, the better
    assert next_rates(done, limit) == [pytest.approx(1e-4)]
    done[1e-4] = rank_of(1.0, 1.0, sign=-1.0)
    assert next_rates(done, limit) == []
    failed = dict.fromkeys(BASELINE_RATES, WORST)
    failed[1e-3] = (0.5, 0.0)
    assert next_rates(failed, limit) == [], "a run that failed is no border to go beyond"


def test_the_baseline_of_a_study_is_the_best_of_its_own_search() -> None:
    study = improve(problem(), "60 epochs")
    tried = [t for t in study.trials if t.kind == "baseline"]
    assert {t.built.optimizer.lr for t in tried} >= set(BASELINE_RATES)
    best = max(tried, key=lambda t: (t.valid, -t.valid_loss))
    assert study.baseline.recipe.optimizer.lr == best.built.optimizer.lr
    for one in tried:  # plain training: nothing regularizes
        recipe = one.built
        assert recipe.terms == ()
        assert not any((recipe.noise.dropout, recipe.noise.input, recipe.noise.label_smoothing, recipe.averaging.ema))
        assert recipe.optimizer.name == "adamw"
        assert not recipe.optimizer.settings.get("weight_decay")


# --- honest verdicts -----------------------------------------------------------------------------------------------


class Blind(nn.Module):
    """A model that sees its inputs only where it is told to."""

    def __init__(self, sees: bool) -> None:
        super().__init__()
        self.layer, self.sees = nn.Linear(3, 2), float(sees)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x * self.sees)
        return out


def blind_problem(metric: str) -> Problem:
    def factory(sees: bool = False) -> nn.Module:
        return Blind(sees)

    return problem(rows(400), model=factory, metric=metric)


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_a_planted_improvement_is_found_shown_and_positive(metric: str) -> None:
    own = Recipe(batch_size=16, optimizer={"lr": 0.1}, model={"sees": True})
    study = improve(blind_problem(metric), "4 recipes", recipe=own)
    assert study.best.recipe.model == {"sees": True}
    assert study.shown
    assert study.improvement is not None
    assert study.improvement.low > 0.1
    record = study.record()
    assert (record["best"]["test"] > record["baseline"]["test"]) == record["metric"]["higher_is_better"]
    assert str(study).startswith("Shown")


def test_a_planted_improvement_of_a_regression() -> None:
    x, _ = rows(300)

    class Number(nn.Module):
        def __init__(self, sees: bool) -> None:
            super().__init__()
            self.layer, self.sees = nn.Linear(3, 1), float(sees)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x * self.sees)  # type: ignore[no-any-return]

    def factory(sees: bool = False) -> nn.Module:
        return Number(sees)

    data = (x, x[:, :1] * 2 + 1)
    own = Recipe(batch_size=16, optimizer={"name": "sgd", "lr": 0.1}, model={"sees": True})
    for metric in ("rmse", "r2"):
        found = problem(data, model=factory, loss="squared_error", metric=metric)
        study = improve(found, "4 recipes", recipe=own)
        assert study.shown, metric
        record = study.record()
        assert record["task"] == "regression"
        assert (record["best"]["test"] > record["baseline"]["test"]) == (metric == "r2")
        assert set(record["references"]) == {"constant", "linear", "boosting"}


def test_where_the_baseline_stays_the_best_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Space, "recipe", lambda self, point: self.baseline)
    study = improve(problem(), "6 recipes")
    assert study.best.recipe == study.baseline.recipe
    assert not study.shown
    assert study.improvement is not None
    assert (study.improvement.estimate, study.improvement.low, study.improvement.high) == (0, 0, 0)
    assert str(study).startswith("Not shown")
    assert study.record()["differences"] == {}


def test_a_recipe_that_only_looks_different_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: its recipe differs, and what it does is nothing."""
    nothing = {"schedule": {"name": "step", "gamma": 1.0}}
    monkeypatch.setattr(Space, "recipe", lambda self, point: self.baseline.replace(**nothing))
    monkeypatch.setattr(searching, "best_of_finalists", lambda bench, baseline, epochs: baseline.replace(**nothing))
    study = improve(problem(), "4 recipes")
    assert study.best.recipe != study.baseline.recipe
    assert study.improvement is not None
    assert study.improvement.estimate == 0
    assert not study.shown


def test_noise_is_rarely_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that nothing predicts: over several studies, a gain is at most shown once."""
    shown = 0
    for seed in range(8):
        x, _ = rows(60, seed=seed)
        y = torch.randint(0, 2, (60,), generator=torch.Generator().manual_seed(seed))
        shown += improve(problem((x, y)), "4 recipes", seed=seed).shown
    assert shown <= 1


def test_findings_of_both_sides_are_recorded() -> None:
    record = improve(problem(), "0").record()
    for side in ("baseline", "best"):
        names = record[side]["findings"]
        assert names
        assert names == [finding["name"] for finding in record["diagnoses"][side]["findings"]]
        assert all(finding["says"] and finding["lever"] for finding in record["diagnoses"][side]["findings"])


def test_findings_of_the_baseline_move_the_odds_of_the_proposals() -> None:
    found = problem(space={"width": [4, 8]})
    baseline = Recipe(batch_size=32)

    def regularized(findings: list[str]) -> int:
        space = Space(found, baseline, findings)
        return sum(bool(space.recipe(space.point(units)).terms) for units in draws(space, 200))

    assert regularized(["overfits"]) > regularized([]) + 20 > regularized(["underfits"]) + 40


def draws(space: Space, count: int) -> list[dict[str, float]]:
    """Places in the unit cube of a space."""
    draw = np.random.default_rng(0)
    return [dict(zip(space.dimensions, draw.random(len(space.dimensions)), strict=True)) for _ in range(count)]


def test_settings_of_the_space_keep_their_types() -> None:
    space = Space(problem(model=lambda kind="a", width=4: make_net(), space={"kind": ["a", 2, True], "width": [4, 0.5]}),
                  Recipe(batch_size=32), ())  # fmt: skip
    drawn = [space.recipe(space.point(units)).model for units in draws(space, 60)]
    assert {(type(model["kind"]), model["kind"]) for model in drawn} == {(str, "a"), (int, 2), (bool, True)}
    assert {(type(model["width"]), model["width"]) for model in drawn} == {(int, 4), (float, 0.5)}


# --- references ----------------------------------------------------------------------------------------------------


def matrix(source: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = source.batch(torch.arange(len(source)))
    return x.numpy(), y.numpy()


def test_references_agree_with_scikit_learn_itself() -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    found = with_test(problem(rows(300)))
    data = found.prepared
    train, test = matrix(data.train_clean), matrix(data.test)
    expected = {
        "constant": DummyClassifier().fit(*train).score(*test),
        "linear": LogisticRegression().fit(*train).score(*test),
        "boosting": HistGradientBoostingClassifier(random_state=0).fit(*train).score(*test),
    }
    assert references(found).scores == pytest.approx(expected)
    assert improve(found, "0").references == pytest.approx(expected)


def test_references_of_a_regression_agree_with_scikit_learn_itself() -> None:
    from sklearn.dummy import DummyRegressor
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge

    x, _ = rows(300)
    found = with_test(problem((x, x[:, :2].prod(1) + 2 * x[:, 2]), model=lambda: nn.Flatten(0), loss="squared_error"))
    data = found.prepared
    train, test = matrix(data.train_clean), matrix(data.test)
    models = {
        "constant": DummyRegressor(),
        "linear": Ridge(),
        "boosting": HistGradientBoostingRegressor(random_state=0),
    }
    expected = {name: model.fit(*train).score(*test) for name, model in models.items()}
    assert references(found).scores == pytest.approx(expected, abs=1e-5)


# --- going on ------------------------------------------------------------------------------------------------------


def test_resuming_keeps_trials_counts_looks_and_judges_more_strictly(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = improve(problem(), "4 recipes", out=out)
    with pytest.raises(InputError, match=r"has spent its budget of 4 recipes .* Give a larger budget"):
        improve(problem(), "4 recipes", out=out, resume=True)
    second = improve(problem(), "7 recipes", out=out, resume=True)
    assert trials_of(second)[: len(first.trials)] == trials_of(first)
    assert second.record()["recipes_tried"] == 7
    assert second.facts["looks"] == 2
    assert first.improvement is not None
    assert second.improvement is not None
    assert first.improvement.level == pytest.approx(0.95)
    assert second.improvement.level == pytest.approx(0.975)
    third = improve(problem(), "10 recipes", out=out, resume=True)
    assert third.improvement is not None
    assert (third.facts["looks"], third.improvement.level) == (3, pytest.approx(0.9875))
    searched = [json.dumps(t["recipe"]) for t in trials_of(third, "search")]
    assert len(searched) == len(set(searched)), "no proposal is drawn twice"
    saved = json.loads((out / "study.json").read_text())
    assert (saved["improvement"]["looks"], saved["recipes_tried"]) == (3, 10)


def test_only_the_same_study_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    improve(problem(), "0", out=out)
    before = (out / "state.json").read_bytes()
    for other, seed, says in (
        (problem(rows(90)), 0, "another data"),
        (problem(rows(80, seed=1)), 0, "another data"),
        (problem(metric="log_loss"), 0, "another metric"),
        (problem(), 1, "has seed 0; resume it with --seed 0"),
    ):
        with pytest.raises(InputError, match=says):
            improve(other, "0", seed, out, resume=True)
    assert (out / "state.json").read_bytes() == before
    with pytest.raises(InputError, match=r"^improve needs a wp\.Problem; it was given Linear\. Write wp\.Problem\("):
        improve(nn.Linear(2, 1), "1 recipe", out=tmp_path / "none")  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="give out="):
        improve(problem(), "0", resume=True)
    with pytest.raises(FolderInUse, match="in use"):
        improve(problem(), "0", out=out)


def test_new_test_rows_start_again_with_the_first_look_and_are_then_needed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.normal(size=140), "b": draw.normal(size=140)})
    frame["kind"] = np.where(frame["a"] > 0, "x", "y")
    for name, part in (("t", slice(0, 80)), ("test", slice(80, 110)), ("newer", slice(110, 140))):
        frame.iloc[part].to_csv(tmp_path / f"{name}.csv", index=False)

    def go(test: str | None, resume: bool = True) -> Study:
        rows_of = None if test is None else str(tmp_path / f"{test}.csv")
        found = problem_of(str(tmp_path / "t.csv"), None, Asked("kind", test=rows_of))[0]
        return improve(found, "0", out=tmp_path / "run", resume=resume)

    assert go(None, resume=False).facts["looks"] == 1
    assert go(None).facts["looks"] == 2
    assert go("test").facts["looks"] == 1
    with pytest.raises(InputError, match="Give --test again"):
        go(None)
    assert go("test").facts["looks"] == 2
    newer = go("newer")
    assert newer.facts["looks"] == 1
    assert newer.record()["data"]["test"] == 30


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with claim_folder(tmp_path / "run", resume=False), pytest.raises(FolderInUse, match="Another process works in"):
        improve(problem(), "0", out=tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a folder without content is taken away"
    improve(problem(), "0", out=tmp_path / "run")


def test_an_error_leaves_no_empty_folder_and_no_lock(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        improve(problem(metric="no such"), "0", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError):
        improve(problem(metric="no such"), "0", out=tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


class Interrupting(nn.Module):
    """Ctrl-C in the ``when``-th forward pass in training mode of all models together."""

    passes = 0
    when = math.inf

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()

    def forward(self, x: Tensor) -> Tensor:
        Interrupting.passes += self.training
        if Interrupting.passes >= Interrupting.when:
            Interrupting.when = math.inf  # once
            raise KeyboardInterrupt
        assert x.isfinite().all()  # nothing that can be traced: it is trained alone, by calling this
        return self.net(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("when", [4, 40, 110])
def test_an_interrupted_study_goes_on_as_if_nothing_had_been(
    when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the baseline's search, in the search, among the finalists, in the confirmation."""
    monkeypatch.setattr(Interrupting, "when", math.inf)
    whole = improve(problem(model=Interrupting), "5 recipes")
    monkeypatch.setattr(Interrupting, "when", when)
    monkeypatch.setattr(Interrupting, "passes", 0)
    out = tmp_path / "run"
    try:
        cut = improve(problem(model=Interrupting), "5 recipes", out=out)
    except KeyboardInterrupt:
        assert when < 20, "before any run had ended, there is no study to show"
    else:
        assert cut.improvement is None
        assert cut.facts["looks"] == 0
        assert "not compared on untouched rows" in str(cut)
        record = json.loads((out / "study.json").read_text())
        assert record["improvement"]["estimate"] is None
        assert record["improvement"]["shown"] is False
        assert record["references"] == {}
        assert record["best"]["test"] is None
        assert any("--resume" in note for note in record["notes"])
    again = improve(problem(model=Interrupting), "5 recipes", out=out, resume=True)
    kinds = ("baseline", "search")
    assert [t["recipe"] for t in trials_of(again, *kinds)] == [t["recipe"] for t in trials_of(whole, *kinds)]
    for key in ("baseline", "best", "improvement", "recipes", "histories"):
        assert record_of(again)[key] == record_of(whole)[key], key


def test_an_interrupted_run_is_not_kept_as_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interrupting, "when", 40)
    monkeypatch.setattr(Interrupting, "passes", 0)
    improve(problem(model=Interrupting), "5 recipes", out=tmp_path / "run")
    state = State.load(tmp_path / "run")
    assert state.trials
    assert {t.stopped for t in state.trials} <= {"epochs", "patience"}


def test_what_held_the_baseline_back_is_known_after_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interrupting, "when", 40)
    monkeypatch.setattr(Interrupting, "passes", 0)
    told: list[list[str]] = []
    drawn = Space.__init__

    def noted(self: Space, of: Problem, baseline: Recipe, findings: list[str], *rest: Any) -> None:
        told.append(list(findings))
        drawn(self, of, baseline, findings, *rest)

    monkeypatch.setattr(Space, "__init__", noted)
    for resume in (False, True):
        improve(problem(model=Interrupting), "5 recipes", out=tmp_path / "run", resume=resume)
    first, second = told
    assert first == second != []


SLOW = """
import json
import time
from pathlib import Path
import torch
import wellposed as wp
from torch import nn

X = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
y = (X[:, 0] > 0).long()

HOLD, STATE = Path(__file__).with_name("hold"), Path(__file__).parent / "run" / "state.json"

def make_net(width=4):
    time.sleep(0.05)
    while HOLD.exists() and STATE.exists() and len(json.loads(STATE.read_text())["trials"]) >= int(HOLD.read_text()):
        time.sleep(0.05)
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

problem = wp.Problem(make_net, "cross_entropy", (X, y), space={"width": [4, 8]})
"""
START = """
import sys, torch
from wellposed.search import timing
timing.PLAIN_EPOCHS = 3
torch.set_num_threads(1)
from wellposed.cli.main import run
run()
"""


def start(folder: Path, hold: int, *words: str) -> subprocess.Popen[str]:
    """The command in a process of its own, with runs that wait as soon as ``hold`` trials are on disk, however slow we are."""
    (folder / "slow.py").write_text(SLOW)
    (folder / "hold").write_text(str(hold))
    arguments = ["improve", "slow.py:problem", "--recipes", "5", "--out", "run", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, "-c", START, *arguments], cwd=folder, text=True, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def wait_for_trials(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    """Until so many trials are on disk."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "run" / "state.json").exists():
            state = json.loads((folder / "run" / "state.json").read_text())  # whole at any moment
            if len(state["trials"]) >= count:
                return
        time.sleep(0.005)
    process.kill()  # it may be held
    raise AssertionError(f"too few trials: {process.communicate()}")


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_killed_process_leaves_a_study_that_goes_on(tmp_path: Path) -> None:
    def go_on() -> Study:
        return improve(file_problem(f"{tmp_path / 'slow.py'}:problem"), "5 recipes", out=tmp_path / "run", resume=True)

    with start(tmp_path, 2) as process:
        wait_for_trials(tmp_path, process, 2)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(FolderInUse, match="Another process works in"):
            go_on()
        process.kill()
    assert len(State.load(tmp_path / "run").trials) >= 2
    (tmp_path / "hold").unlink()

    record = record_of(go_on())
    assert record["recipes_tried"] == 5
    assert record["improvement"]["looks"] == 1
    assert not (tmp_path / "run" / ".lock").exists()
    whole = record_of(improve(file_problem(f"{tmp_path / 'slow.py'}:problem"), "5 recipes"))
    for key in ("baseline", "best", "improvement", "recipes", "histories"):
        assert record[key] == whole[key], key


# --- no error is lost ----------------------------------------------------------------------------------------------


class Failing(nn.Module):
    """Fails in training where it is wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net, self.width = make_net(width), width

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.width > 4:
            raise RuntimeError("too wide to train")
        return self.net(x)  # type: ignore[no-any-return]


def failing(width: int = 4) -> nn.Module:
    return Failing(width)


@pytest.mark.usefixtures("own_clock")
@pytest.mark.parametrize("budget", ["7 recipes", "30 epochs", "6s"])
def test_a_recipe_that_fails_in_training_is_said_and_passed_over(budget: str) -> None:
    study = improve(problem(model=failing, space={"width": [8, 16]}), budget)
    assert any("could not be trained" in note and "too wide to train" in note for note in study.notes)
    assert study.best.recipe.model.get("width", 4) == 4


def test_a_baseline_that_fails_in_training_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WellposedError, match="too wide to train"):
        improve(problem(model=lambda: Failing(8)), "4 recipes", out=tmp_path / "run")


@pytest.mark.parametrize(
    ("place", "name"),
    [(Space, "recipe"), (searching, "best_of_finalists"), (confirmation, "paired_interval"), (runner, "diagnose")],
)
def test_a_mistake_of_ours_is_not_swallowed(place: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ArithmeticError("ours")

    monkeypatch.setattr(place, name, broken)
    with pytest.raises(ArithmeticError, match="ours"):
        improve(problem(), "4 recipes")


def test_every_trial_is_reported_with_the_share_that_is_spent() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []
    with reporting_to(lambda event, fields: seen.append((event, fields))):
        study = improve(problem(), "8 recipes")
    trials = [fields for event, fields in seen if event == "trial"]
    assert sorted(fields["trial"].index for fields in trials) == list(range(len(study.trials)))
    spent = [fields["spent"] for fields in trials]
    assert spent == sorted(spent)
    assert spent[7] == 1.0
    assert trials[-1]["best"] == max(t.valid for t in study.trials if t.kind in ("baseline", "search"))
    phases = [fields["text"] for event, fields in seen if event == "phase"]
    assert phases[-4:] == ["search", "finalists", "confirmation", "ablation"]


def test_the_example_is_a_problem_and_short() -> None:
    text = (ROOT / "examples" / "problem.py").read_text()
    assert len(text.splitlines()) < 60
    found = problem_of(f"{ROOT / 'examples' / 'problem.py'}:problem", None, Asked())[0]
    assert found.space
    study = improve(found, "2 epochs")
    assert study.record()["best"]["test"] > 0.5


def test_the_command_ends_with_130_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without --json: a script must see that the study is not done."""
    found = problem(model=Interrupting)
    monkeypatch.setattr("wellposed.cli.improve.problem_of", lambda *_: (found, None, ()))
    for number, more in enumerate(((), ("--json",))):
        monkeypatch.setattr(Interrupting, "when", 60)
        monkeypatch.setattr(Interrupting, "passes", 0)
        out = tmp_path / str(number)
        assert _status(monkeypatch, "improve", "--recipes", "5", "--out", str(out), *more) == 130
        assert (out / "report.html").exists()
        assert (out / "model" / "model.safetensors").exists()


def test_a_clock_that_cuts_the_confirmation_is_no_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wellposed.cli.improve.problem_of", lambda *_: (problem(), None, ()))
    monkeypatch.setattr(searching, "confirm", lambda bench, baseline, best, epochs: Confirmed(baseline, best))
    assert _status(monkeypatch, "improve", "--recipes", "2", "--out", str(tmp_path / "run")) == 0
    assert json.loads((tmp_path / "run" / "study.json").read_text())["looks"] == 0


def test_ctrl_c_before_the_first_run_ends_with_130_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wellposed.cli.improve.problem_of", stopped)
    assert _status(monkeypatch, "improve", "--out", str(tmp_path / "run")) == 130
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err


def _status(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["wellposed", *words])
    with pytest.raises(SystemExit) as ended:
        main.run()
    return int(ended.value.code or 0)
