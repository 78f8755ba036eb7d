"""`wp.Classifier` and `wp.Regressor`: scikit-learn's conventions, awkward tables, honest probabilities, and files."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import make_classification, make_regression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import wellposed as wp
from wellposed.estimators.training import EncodedRows, held_out

DATA = Path(__file__).parents[2] / "shared" / "data" / "tables"
QUICK = wp.Recipe(epochs=12, batch_size=32, optimizer={"lr": 1e-2}, schedule={"name": "cosine"})
"""Little data need few steps; the default recipe goes through the same code."""
WEIGHTS = (
    "Steps are taken on batches of rows: a row of weight 2 is in one batch, and two copies are in two. scikit-learn's own "
    "perceptron passes with a full-batch solver."
)


def classifier(**given: Any) -> wp.Classifier:
    return wp.Classifier(**{"budget": "0", "members": 2, "recipe": QUICK, "random_state": 0, **given})


def regressor(**given: Any) -> wp.Regressor:
    return wp.Regressor(**{"budget": "0", "members": 2, "recipe": QUICK, "random_state": 0, **given})


def people(rows: int = 120, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Columns of every kind, with gaps, and a class that depends on two of them."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "income": np.exp(draw.normal(size=rows)),
            "city": draw.choice(["Rome", "Oslo", None], rows),
            "owner": draw.random(rows) > 0.5,
            "since": pd.date_range("2020-01-01", periods=rows),
            "level": pd.Categorical(draw.choice(["low", "high"], rows)),
            "gaps": np.where(draw.random(rows) < 0.2, np.nan, draw.normal(size=rows)),
            "empty": np.nan,
        }
    )
    return frame, np.where(np.log(frame.income) + (frame.city == "Rome") > 0.3, "yes", "no")


# --- scikit-learn's checks ---------------------------------------------------------------------------------------


def failures(estimator: Any, only: tuple[str, ...] = ()) -> dict[str, str]:
    """scikit-learn's checks that fail, but for the one whose reason is `WEIGHTS`."""
    found = {}
    for one, check in estimator_checks_generator(estimator):
        name = getattr(check, "func", check).__name__
        if name == "check_sample_weight_equivalence_on_dense_data" or (only and name not in only):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check(one)
            except Exception as error:
                if type(error).__name__ != "SkipTest":
                    found[name] = f"{type(error).__name__}: {error}"
    return found


@pytest.mark.parametrize("make", [classifier, regressor])
def test_checks_of_scikit_learn_pass(make: Any) -> None:
    assert failures(make(members=1)) == {}


SEARCHED = ("check_fit2d_1feature", "check_fit_check_is_fitted", "check_n_features_in", "check_pipeline_consistency")
"""Checks that fit a search once or twice: the whole list takes minutes, and a search ends in the code that it covers above. The
last has thirty rows that are copies of two."""


@pytest.mark.parametrize("make", [classifier, regressor])
def test_checks_of_scikit_learn_pass_after_a_search(make: Any) -> None:
    assert failures(make(budget="3 recipes"), SEARCHED) == {}


def test_pipelines_searches_over_settings_and_weights_that_are_routed() -> None:
    frame, y = people()
    columns = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")), remainder="passthrough"
    )
    columns.set_output(transform="pandas")
    whole = make_pipeline(columns, classifier())
    assert cross_val_score(whole, frame.drop(columns="empty"), y, cv=2).mean() > 0.7
    found = GridSearchCV(classifier(members=1), {"recipe": [QUICK, QUICK.replace(epochs=1)]}, cv=2).fit(frame, y)
    assert found.best_estimator_.recipe in (QUICK, QUICK.replace(epochs=1))
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        routed = make_pipeline(classifier().set_fit_request(sample_weight=True, groups=True))
        groups = np.arange(len(y)) // 3
        weighted = routed.fit(frame, y, sample_weight=np.where(y == "yes", 50.0, 1.0), groups=groups)
    assert (weighted.predict(frame) == "yes").mean() > (y == "yes").mean()
    assert clone(found.best_estimator_).get_params()["members"] == 1


# --- rows ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_column_and_the_same_answer_whatever_comes_along() -> None:
    import polars

    frame, y = people()
    model = classifier().fit(frame, y)
    chances = model.predict_proba(frame)
    assert model.score(frame, y) > 0.8
    assert model.feature_names_in_.tolist() == list(frame)
    assert model.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(model.predict_log_proba(frame), np.log(chances))
    np.testing.assert_allclose(chances[7:9], model.predict_proba(frame[7:9]), rtol=1e-9)
    with pytest.warns(UserWarning, match="'city' has 120 of 120 values, such as 'Lima'"):
        assert np.isfinite(model.predict_proba(frame.assign(city="Lima"))).all()
    plain = frame.drop(columns=["since", "empty"])
    again = classifier().fit(polars.from_pandas(plain), polars.Series(y))
    np.testing.assert_array_equal(again.predict_proba(plain), classifier().fit(plain, y).predict_proba(plain))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"income": np.inf}, "infinity"),
        ({"income": [{} for _ in range(120)]}, "must be a number, a text, a truth or a date"),
        ({"city": [f"the row {i} is about something" for i in range(120)]}, "Texts are not learned from"),
    ],
    ids=["infinite", "objects", "sentences"],
)
def test_columns_that_cannot_be_used_are_named(change: dict[str, Any], says: str) -> None:
    frame, y = people()
    with pytest.raises(ValueError, match=says) as said:
        classifier().fit(frame.assign(**change), y)
    assert repr(next(iter(change))) in str(said.value)


@pytest.mark.parametrize(
    ("settings", "given", "says"),
    [
        ({"members": 0}, {}, "Classifier needs members= to be a whole number >= 1"),
        ({"n_jobs": 1.5}, {}, "Classifier needs n_jobs="),
        ({"n_jobs": 0}, {}, "n_jobs= must be threads"),
        ({"budget": 0}, {}, "Classifier needs budget= to be text"),
        ({"random_state": "x"}, {}, "random_state= must be"),
        ({"random_state": -1}, {}, "random_state= must be a whole number >= 0"),
        ({"class_weight": {"yes": -1.0, "no": 1.0}}, {}, "class_weight= must be None, 'balanced' or a dict"),
        ({"class_weight": "equal"}, {}, "class_weight= must be None, 'balanced' or a dict"),
        ({"budget": "soon"}, {}, "'soon' is not understood"),
        ({"metric": "r2"}, {}, "not for classification"),
        ({"recipe": "steadi"}, {}, "Did you mean 'steady'"),
        ({}, {"groups": [1, 2]}, "groups= needs one value for each of the 120 rows"),
        ({}, {"groups": ["a"] * 120}, "All rows are one group"),
        ({}, {"time": ["noon"] * 120}, "time= needs numbers or dates"),
        ({}, {"time": [None] * 120}, "time= is missing in 120 rows"),
        ({}, {"sample_weight": [0.0] * 119 + [1.0]}, "All sample weights but one are zero"),
        ({}, {"validation": 0.2}, r"validation= is \(X, y\)"),
        ({}, {"validation": (people()[0], ["maybe"] * 120)}, "the class 'maybe', which y had not"),
        ({}, {"y": ["one"] * 120}, "the target has one class, 'one'"),
        ({}, {"y": [None, "b"] * 60}, "y contains NaN or None in 60 of 120 rows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_bad_settings_and_arguments_are_told(settings: dict[str, Any], given: dict[str, Any], says: str) -> None:
    frame, y = people()
    with pytest.raises(ValueError, match=says):
        classifier(**settings).fit(frame, given.pop("y", y), **given)


def test_rows_are_held_out_by_groups_time_and_copies() -> None:
    groups = np.repeat(np.arange(8), 5)
    pairs = held_out(40, 4, 0, groups=groups)
    assert len(pairs) == 4
    assert sorted(np.concatenate([held for _, held in pairs])) == list(range(40))
    assert all(set(groups[rest]).isdisjoint(groups[held]) for rest, held in pairs)
    copies = np.arange(40)
    copies[39] = 0  # the last row is a copy of the first
    ((rest, held),) = held_out(40, 5, 0, times=np.arange(40.0), copies=copies)
    assert rest.max() < held.min()
    assert 39 not in {*rest, *held}
    assert (
        len(held_out(40, 4, 0, classes=np.arange(40) % 2, copies=np.arange(40) % 2)) == 4
    )  # no two rows of a class differ


def test_few_rows_and_many_columns_many_classes_and_rare_ones() -> None:
    x, y = make_classification(62, 2000, n_informative=20, random_state=0)
    assert classifier(random_state=np.random.RandomState(3)).fit(x, y).score(x, y) > 0.8
    draw = np.random.default_rng(0)
    labels = np.array([*np.repeat(np.arange(110), 3), 500])  # and one class of one row
    model = classifier().fit(draw.normal(size=(331, 2)), labels)
    assert model.predict_proba(draw.normal(size=(3, 2))).shape == (3, 111)
    np.testing.assert_allclose(model.predict_proba(draw.normal(size=(3, 2))).sum(1), 1.0)


def test_class_weights_are_sample_weights() -> None:
    frame, y = people()
    by_class = classifier(class_weight={"yes": 5.0, "no": 1.0}).fit(frame, y)
    by_row = classifier().fit(frame, y, sample_weight=np.where(y == "yes", 5.0, 1.0))
    np.testing.assert_array_equal(by_class.predict_proba(frame), by_row.predict_proba(frame))
    half = classifier().fit(frame[:60], y[:60])
    zeros = classifier().fit(frame, y, sample_weight=[1.0] * 60 + [0.0] * 60)
    np.testing.assert_array_equal(half.predict_proba(frame), zeros.predict_proba(frame))


def test_rows_of_little_weight_change_neither_units_nor_probabilities_nor_intervals() -> None:
    draw = np.random.default_rng(0)
    x, there = draw.normal(size=(400, 2)), np.arange(400) < 200
    y = np.where(there, 1.0, 100.0) * draw.normal(size=400)
    alone, gone = regressor().fit(x[:200], y[:200]), regressor().fit(x, y, sample_weight=there * 1.0)
    np.testing.assert_array_equal(gone.predict_interval(x), alone.predict_interval(x))
    hardly = regressor().fit(x, y, sample_weight=np.where(there, 1.0, 1e-9))
    assert hardly.predict(x, return_std=True)[1].mean() == pytest.approx(1.0, rel=0.3)
    assert np.subtract(*hardly.predict_interval(x)[::-1]).mean() == pytest.approx(3.3, rel=0.3)
    sure = np.where(there, x[:, 0] > 0, draw.random(400) > 0.5)
    assert classifier().fit(x, sure, sample_weight=np.where(there, 1.0, 1e-9)).power_ > 0.5
    answer = hardly.predict(x)
    np.testing.assert_array_equal(hardly.set_params(loss="poisson").predict(x), answer)  # of the next fit


def test_columns_without_names_go_by_their_place() -> None:
    frame, y = people()
    frame = frame[["income", "city", "owner"]]
    rows, numbered = frame.to_numpy(), frame.set_axis(range(3), axis=1)
    wanted = classifier().fit(frame, y).predict_proba(frame)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X (does not have valid|has) feature names")
        for fitted in (frame, rows, numbered):
            model = classifier().fit(fitted, y)
            for new in (frame, rows, numbered):
                np.testing.assert_array_equal(model.predict_proba(new), wanted)
        assert classifier().fit(frame, y, validation=(rows, y)).score(frame, y) > 0.7
    np.testing.assert_array_equal(classifier().fit(numbered, y).predict_proba(numbered[[2, 0, 1]]), wanted)
    with pytest.raises(ValueError, match="same order"):
        classifier().fit(frame, y).predict(frame[["city", "income", "owner"]])


def test_a_column_that_was_empty_in_training_may_say_anything() -> None:
    frame, y = people()
    model = classifier().fit(frame, y)
    with pytest.warns(UserWarning, match="such as 'Y': they count as missing"):
        found = model.predict_proba(frame.assign(empty="Y"))
    np.testing.assert_array_equal(found, model.predict_proba(frame))


# --- what is learned from rows held out --------------------------------------------------------------------------


def test_probabilities_of_pure_noise_are_calibrated() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(300, 10)), draw.integers(0, 2, 300)
    model = classifier(recipe=QUICK.replace(epochs=40, stopping={"patience": 0, "keep": "last"})).fit(x, y)
    new = draw.normal(size=(2000, 10))
    assert 0.1 <= model.power_ < 0.5
    assert np.abs(model.predict_proba(new) - 0.5).mean() < 0.12  # the networks alone are surer than 0.14


def test_recipes_are_chosen_by_the_loss_that_was_trained() -> None:
    frame, _ = people()
    y = frame.income.fillna(0.0)
    for loss, cost in {
        "absolute_error": lambda mean, y: (mean[:, 0] - y).abs(),
        "quantiles:0.1,0.9": lambda mean, y: sum(
            torch.where(y > mean[:, k], q, 1 - q) * (y - mean[:, k]).abs() for k, q in enumerate((0.1, 0.9))
        ) / 2,
    }.items():  # fmt: skip
        model = regressor(loss=loss).fit(frame, y)
        outputs, weights, target = model.held_out_.outputs[0], model.held_out_.weights[0], model.held_out_.y[0].double()
        mean = torch.einsum("k,kro->ro", weights, outputs)
        found = [model._mixture_loss([(outputs, weights, EncodedRows(target, y))]) for y in (target, 2.0 * target)]
        expected = [float(cost(mean, y).mean()) for y in (target, 2.0 * target)]
        assert found[1] / found[0] == pytest.approx(expected[1] / expected[0])


def test_how_sure_networks_are_decides_no_choice() -> None:
    """A recipe that is right more often is chosen, though its probabilities are far too sure until they are calibrated."""
    draw = np.random.default_rng(5)
    y = torch.from_numpy(draw.integers(0, 2, 400))
    rows, model = EncodedRows(torch.zeros(400, 1), y), classifier()

    def logits(right: float, size: float) -> torch.Tensor:
        said = torch.where(torch.from_numpy(draw.random(400) < right), y, 1 - y)
        return size * torch.nn.functional.one_hot(said, 2).double()[None]

    sure, careful = logits(0.85, 30.0), logits(0.7, 0.85)
    one = torch.ones(1, dtype=torch.float64)
    assert model._mixture_loss([(sure, one, rows)]) < model._mixture_loss([(careful, one, rows)]) - 0.1


@pytest.mark.parametrize("loss", ["squared_error", "gaussian", "quantiles:0.05,0.5,0.95"])
def test_intervals_cover(loss: str) -> None:
    draw = np.random.default_rng(1)
    x = draw.uniform(-1, 1, size=(1200, 1))
    y = 100.0 + 10.0 * x[:, 0] + (0.5 + 3.0 * (x[:, 0] > 0)) * draw.normal(size=1200)
    model = regressor(loss=loss).fit(x[:400], y[:400])
    low, high = model.predict_interval(x[400:], 0.9)
    assert 0.86 <= ((low <= y[400:]) & (y[400:] <= high)).mean() <= 0.96
    if loss == "gaussian":
        mean, std = model.predict(x[400:], return_std=True)
        wide, narrow = std[x[400:, 0] > 0.2].mean(), std[x[400:, 0] < -0.2].mean()
        assert wide / narrow > 1.5
        assert abs(mean - y[400:]).mean() < 4.0
    if loss == "squared_error":
        assert np.allclose(high - low, (high - low)[0])


def test_several_targets_and_a_constant_one() -> None:
    x, y = make_regression(150, 4, n_targets=2, random_state=0)
    with pytest.raises(ValueError, match="The target has the type timedelta64"):
        regressor().fit(x, np.arange(150).astype("timedelta64[D]"))
    y = np.column_stack([y, np.full(150, 0.1)])
    model = regressor().fit(x, y)
    mean, std = model.predict(x, return_std=True)
    assert mean.shape == std.shape == (150, 3)
    assert model.score(x, y) > 0.6
    np.testing.assert_allclose(mean[:, 2], 0.1)
    assert model.predict_interval(x, 0.8)[0].shape == (150, 3)


def test_importances_find_the_columns_that_matter() -> None:
    frame, y = people(300)
    worth = classifier().fit(frame, y).importances()
    assert next(iter(worth)) == "income"
    assert worth["income"].low > 0
    assert worth["owner"].low < 0.02
    assert worth["empty"].estimate == 0.0
    model = regressor().fit(frame, np.log(frame.income))
    assert next(iter(model.importances(frame, np.log(frame.income), repeats=2))) == "income"


def test_importances_count_rows_as_they_are_weighted() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 2))
    first = np.arange(400) < 200
    y = np.where(first, x[:, 0], x[:, 1])
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "first": first})
    model = regressor().fit(frame, y)
    assert max(model.importances(frame, y, first.astype(float)).items(), key=lambda item: item[1].estimate)[0] == "a"
    assert max(model.importances(frame, y, ~first * 3.0).items(), key=lambda item: item[1].estimate)[0] == "b"
    assert model.importances(frame, y, np.full(400, 2.0)) == model.importances(frame, y)
    own = regressor().fit(frame, y, sample_weight=np.where(first, 1.0, 1e-6)).importances()
    assert own["a"].estimate > 20 * own["b"].estimate
    with pytest.raises(wp.InputError, match="have theirs already"):
        model.importances(sample_weight=np.ones(400))
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        model.importances(frame, y, -np.ones(400))


@pytest.mark.filterwarnings("error")
def test_weights_whose_sum_is_beyond_a_float_are_shares_all_the_same() -> None:
    frame = people(120)[0]
    model = regressor().fit(frame, frame.income)
    usual = model.importances(frame, frame.income)
    for weights in (
        np.full(120, 1e308),
        np.full(120, 3e38, np.float32),
        np.full(120, 2.0**-1074),
        pd.Series(1.0, range(120)),
    ):
        assert model.importances(frame, frame.income, weights) == usual
    assert usual["income"].estimate > 0
    shown = regressor().fit(frame, frame.income, sample_weight=np.full(120, 2.0**1023)).predict(frame)
    np.testing.assert_array_equal(shown, model.predict(frame))
    with pytest.raises(wp.InputError, match="at least two"):
        model.importances(frame[:1], frame.income[:1])


def test_a_search_leaves_its_study_and_is_exact(tmp_path: Path) -> None:
    frame, y = people(90)
    model = classifier(budget="3 recipes").fit(frame, y)
    again = classifier(budget="3 recipes").fit(frame, y)
    np.testing.assert_array_equal(model.predict_proba(frame), again.predict_proba(frame))
    assert model.study_.facts["looks"] == 1
    assert "<html" in model.report(tmp_path / "report.html").read_text()
    shown = model._repr_html_()
    assert "Classifier" in shown
    assert f"{len(model.members_.models)} networks for" in shown
    assert "baseline: " in shown  # what the study found
    assert "networks for" not in classifier()._repr_html_()
    with pytest.raises(wp.InputError, match="There is no study to report on"):
        classifier().fit(frame, y).report(tmp_path / "none.html")


# --- files ---------------------------------------------------------------------------------------------------------


def test_saved_models_predict_alike(tmp_path: Path) -> None:
    frame, y = people()
    model = classifier(class_weight={"yes": 2.0, "no": 1.0}).fit(frame, y)
    folder = model.save(tmp_path / "classes")
    for again in (wp.load(folder), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
        assert (again.predict(frame) == model.predict(frame)).all()
        assert again.classes_.dtype == model.classes_.dtype
        with pytest.raises(wp.InputError, match="has no rows of its own"):
            again.importances()
    assert wp.load(folder).class_weight == {"yes": 2.0, "no": 1.0}
    model.__class__ = type("Own", (wp.Classifier,), {})  # a stranger's subclass comes back as ours
    assert type(wp.load(model.save(folder))) is wp.Classifier
    wp.load(folder).save(folder)  # over itself
    numbers = regressor(loss="gaussian").fit(frame, frame.income)
    loaded = wp.load(numbers.save(tmp_path / "numbers"))
    np.testing.assert_array_equal(loaded.predict_interval(frame), numbers.predict_interval(frame))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(wp.WellposedError, match="holds something else"):
        model.save(tmp_path / "other")
    assert not list(tmp_path.rglob("*.pkl"))


def test_folders_of_strangers_do_no_harm(tmp_path: Path) -> None:
    x, y = make_classification(60, 4, random_state=0)
    folder = classifier().fit(x, y).save(tmp_path / "model")
    path = folder / "estimator.json"
    written = json.loads(path.read_text())
    changes: list[dict[str, Any]] = [
        {"schema": 2},
        {"kind": "Pipeline"},
        {"settings": {"budget": "0", "callback": "os.system"}},
        {"weights": [0.5]},
        {"weights": [0.5] * 9, "parts": [0] * 9},
        {"parts": [0, 0]},
        {"weights": [0.5, 0.6]},
        {"classes": [0, 1, 2]},
        {"classes": None},
        {"kind_of_classes": "V4000000000"},
        {"encoder": {"schema": 1, "columns": []}},
        {"power": -1.0},
        {"names": ["a"]},
        {"names": ["a", "b", "c", "d"]},
        {"classes": [1, 1]},
        {"settings": {"class_weight": [[]]}},
    ]
    for change in changes:
        path.write_text(json.dumps({**written, **change}))
        with pytest.raises(wp.InputError):
            wp.load(folder)
    path.write_text(json.dumps(written))
    weights = folder / "member-0" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + np.float32("nan").tobytes())
    with pytest.raises(wp.InputError, match="what its networks say is no number"):
        wp.load(folder)
    weights.write_bytes(whole)
    (folder / "held_out.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(wp.InputError, match="damaged"):
        wp.load(folder)
    with pytest.raises(wp.InputError):
        wp.load(tmp_path)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared tables are not here")
def test_a_real_table_with_gaps_and_categories() -> None:
    frame = pd.read_csv(DATA / "titanic.csv.gz")
    x, y = frame.drop(columns="target"), frame["target"]
    model = classifier().fit(x[:600], y[:600])
    assert model.score(x[600:], y[600:]) > 0.75


def test_networks_as_one_module_answer_as_the_estimator() -> None:
    frame, y = people()
    for model, wanted in (
        (one := classifier().fit(frame, y), one.predict_proba(frame)),
        (two := regressor().fit(frame, frame.income), two.predict(frame)[:, None]),
    ):
        with torch.no_grad():
            found = model._joint().eval()(model._x(frame)).numpy()
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-5)
