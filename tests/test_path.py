"""The path of strengths: scikit-learn's where the model is linear, exact zeros elsewhere, a sentence for what cannot be."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import Lasso, LassoCV, lasso_path
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn

import wellposed as wp
from wellposed.sparsity import active_inputs
from wellposed.sparsity.path import PathRows, _cuts
from wellposed.sparsity.select import SkipNet

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(120, 6, generator=GENERATOR, dtype=torch.float64)
Y = (2 * X[:, :1] - X[:, 2:3] + 0.1 * torch.randn(120, 1, generator=GENERATOR, dtype=torch.float64)).contiguous()


def problem(make: Callable[[], nn.Module] = lambda: nn.Linear(6, 1), **data: Any) -> wp.Problem:
    return wp.Problem(make, "squared_error", wp.Data(train=(X, Y), **data))


@functools.cache
def diabetes() -> tuple[np.ndarray, np.ndarray, wp.Path]:
    x, y = load_diabetes(return_X_y=True)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    given = wp.Problem(lambda: nn.Linear(10, 1), "squared_error", (x, y[:, None]))
    return x, y, wp.strength_path(given, points=6, ratio=0.01, folds=list(KFold(3).split(x)), tolerance=1e-8)


def test_the_path_of_a_linear_model_is_the_lasso_path() -> None:
    x, y, path = diabetes()
    alphas = [point.strength / 2 for point in path.points]  # squared error without 1/2
    theirs = lasso_path(x, y, alphas=alphas, tol=1e-12, max_iter=100_000)[1].T
    ours = np.array([point.weights["weight"].numpy()[0] for point in path.points])
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert [len(point.support) for point in path.points] == (abs(theirs) > 1e-10).sum(1).tolist()
    assert path.computed
    assert path.empties_at / 2 == pytest.approx(np.abs(x.T @ y).max() / len(y), rel=1e-12)


def test_the_best_strength_is_that_of_lasso_cv() -> None:
    x, y, path = diabetes()
    theirs = LassoCV(alphas=[p.strength / 2 for p in path.points], cv=KFold(3), tol=1e-12, max_iter=100_000).fit(x, y)
    assert path.best.strength / 2 == pytest.approx(theirs.alpha_, rel=1e-12)
    assert [point.valid for point in path.points] == pytest.approx(theirs.mse_path_.mean(1).tolist(), abs=1e-6)
    errors = theirs.mse_path_.std(1, ddof=1) / np.sqrt(3)
    assert [point.valid_se for point in path.points] == pytest.approx(errors.tolist(), abs=1e-6)
    assert path.one_se.strength >= path.best.strength
    assert path.one_se.valid <= path.best.valid + path.best.valid_se


def test_debiasing_is_least_squares_on_the_support() -> None:
    path = wp.strength_path(problem(), points=4, debias=True)
    rows = PathRows.of(problem())
    x, y = X[rows.training], Y[rows.training]
    shrunk = wp.strength_path(problem(), points=4)
    for point, before in zip(path.points, shrunk.points, strict=True):
        assert point.support == before.support
        z = torch.cat([x[:, list(point.support)], torch.ones(len(x), 1)], 1)
        solved = torch.linalg.lstsq(z, y).solution[:-1, 0]
        found = point.weights["weight"][0, list(point.support)]
        assert torch.allclose(found, solved, atol=1e-5)


@pytest.mark.parametrize(
    "penalty", ["l1", "group", "sparse_group", "mcp", "scad", wp.ElasticNet(7.0, mix=0.9)], ids=str
)
def test_paths_of_a_linear_model_begin_where_nothing_is_left(penalty: Any) -> None:
    path = wp.strength_path(problem(), penalty, points=4, ratio=0.05)
    assert path.computed
    assert not path.points[0].support
    assert {0, 2} <= set(path.points[-1].support)
    assert path.ranking()[:2] == [0, 2]
    assert all(point.converged for point in path.points), [point.violation for point in path.points]


@pytest.mark.parametrize(
    ("penalty", "on", "noun"),
    [
        ("hierarchical", wp.inputs, "inputs"),
        (wp.GroupL2(1.0, by="unit"), "layers.0", "units"),
        ("l1", wp.weights, "weights"),
    ],
    ids=["inputs", "units", "weights"],
)
def test_paths_of_a_network_are_bracketed_from_the_dense_side(penalty: Any, on: Any, noun: str) -> None:
    path = wp.strength_path(problem(lambda: SkipNet(6, 1, 3)), penalty, on, points=3, steps=40)
    assert not path.computed
    assert path.noun == noun
    assert not path.points[0].support
    assert path.points[-1].support
    for point in path.points:
        state = path.model(point).state_dict()
        name = "skip.weight" if noun == "inputs" else "layers.0.weight"
        axis = {"inputs": 0, "units": 1}.get(noun)
        gone = (state[name] == 0) if axis is None else (state[name] == 0).all(axis)
        mine = [
            norm == 0 for label, norm in zip(path.names, point.norms, strict=True) if noun != "weights" or name in label
        ]
        assert gone.reshape(-1).tolist() == mine
    if noun == "inputs":
        assert "did not converge" in str(path) or all(point.converged for point in path.points)


@pytest.mark.parametrize("kind", ["hierarchical", "group", "columns"])
def test_steps_on_the_active_inputs_alone_end_where_steps_on_all_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = 2 * x[:, :1] - x[:, 4:5]
    numbers = torch.tensor([[i // 2 for i in range(12)]])
    penalty: Any = wp.GroupL2(1.0, by=numbers) if kind == "columns" else kind
    widths = []

    def make() -> nn.Module:
        return SkipNet(12, 1, 3) if kind == "hierarchical" else nn.Linear(12, 1)

    def found(rows: tuple[torch.Tensor, torch.Tensor]) -> wp.Path:
        given = wp.Problem(make, "squared_error", wp.Data(train=rows, valid=rows))
        return wp.strength_path(
            given, penalty, points=3, ratio=0.3, tolerance=1e-7, steps=40 if kind == "hierarchical" else 200
        )

    seen = active_inputs.narrowed

    def watched(*given: Any) -> Any:
        small = seen(*given)
        widths.append(0 if small is None else len(small.columns))
        return small

    monkeypatch.setattr(active_inputs, "LEAST_NUMBERS", 0)
    monkeypatch.setattr("wellposed.sparsity.path.narrowed", watched)
    fast = found((x, y))
    assert 0 < min(width for width in widths if width) < 12
    monkeypatch.setattr("wellposed.sparsity.path.narrowed", lambda *given: None)
    slow = found((x, y))
    for one, other in zip(fast.points, slow.points, strict=True):
        assert one.support == other.support
        if one.converged and other.converged and kind != "hierarchical":
            assert torch.allclose(one.weights["weight"], other.weights["weight"], atol=1e-5)
    assert kind == "hierarchical" or all(point.converged for point in fast.points)


def test_columns_of_one_category_enter_together() -> None:
    source = np.random.default_rng(0)
    frame = pd.DataFrame({"colour": source.choice(["red", "green", "blue"], 90), "noise": source.normal(size=90)})
    y = (frame["colour"] == "red") * 2.0 + (frame["colour"] == "blue") + source.normal(size=90) * 0.01
    given = wp.Problem(lambda data: nn.Linear(data.features, 1), "squared_error", (frame, y))
    path = wp.strength_path(given, "group", points=4)
    assert path.names == ("colour", "noise")
    assert path.kept(path.one_se) == ["colour"]
    selector = wp.FeatureSelector(k=1, points=4, task="regression").fit(frame, y)
    assert selector.get_feature_names_out().tolist() == ["colour"]


def as_frame() -> tuple[pd.DataFrame, np.ndarray]:
    return pd.DataFrame(X.numpy(), columns=list("abcdef")), Y[:, 0].numpy()


@pytest.mark.parametrize("table", [False, True])
def test_groups_never_straddle_folds(table: bool) -> None:
    groups = np.repeat(np.arange(12), 10)[np.random.default_rng(0).permutation(120)]
    given = as_frame() if table else (X, Y)
    rows = PathRows.of(wp.Problem(lambda: nn.Linear(6, 1), "squared_error", wp.Data(train=given, groups=groups)))
    assert np.array_equal(rows.groups, groups)  # all rows, in the order in which they were given
    seen = []
    for training, held in _cuts(rows, 4, 0):
        assert not set(groups[training]) & set(groups[held])
        seen += held.tolist()
    assert sorted(seen) == list(range(120))


@pytest.mark.parametrize("table", [False, True])
def test_folds_in_time_are_judged_on_later_rows(table: bool) -> None:
    time = np.random.default_rng(0).permutation(120) // 2
    given = as_frame() if table else (X, Y)
    rows = PathRows.of(wp.Problem(lambda: nn.Linear(6, 1), "squared_error", wp.Data(train=given, time=time)))
    seen = []
    for training, held in _cuts(rows, 3, 0):
        assert time[training].max() < time[held].min()
        seen += held.tolist()
    assert len(seen) == len(set(seen)) == 90
    assert time[seen].min() > np.delete(time, seen).max()


def test_frames_of_dates_and_of_missing_numbers_are_selected_from() -> None:
    frame = pd.DataFrame(X.numpy()[:60], columns=[f"c{i}" for i in range(X.shape[1])])
    y = (frame["c0"] > 0).astype(int)
    selector = wp.FeatureSelector(k=1, points=3, steps=20)
    dated = frame.assign(c1=pd.date_range("2020", periods=60))
    assert selector.fit(dated, y).get_support().sum() == 1
    missing = frame.assign(c1=pd.array([1, None] * 30, dtype="Int64"))
    assert selector.fit(missing, y).transform(missing).shape == (60, 1)
    with pytest.raises(wp.InputError, match="the same name"):
        selector.fit(pd.concat([frame, frame], axis=1), y)


def test_a_selector_takes_groups_and_time() -> None:
    x, y = X.numpy(), Y[:, 0].numpy()
    ids = np.repeat(np.arange(6), 20)
    selector = wp.FeatureSelector(points=2, folds=3, steps=5).fit(x, y, groups=ids)
    assert np.array_equal(selector.selection_.path.problem.data.groups, ids)
    with pytest.raises(wp.DataError, match="groups= needs one value for each"):
        wp.FeatureSelector(points=2, folds=3).fit(x, y, groups=ids[1:])
    with pytest.raises(wp.DataError, match="needs at least two"):
        wp.FeatureSelector(points=2, folds=3).fit(x, y, groups=ids * 0)


@pytest.mark.parametrize("given", [{"strengths": []}, {"strengths": torch.ones(0)}, {"seeds": 10**9}], ids=str)
def test_paths_of_nothing_and_of_too_much_are_refused(given: dict[str, Any]) -> None:
    problem = wp.Problem(lambda: nn.Linear(3, 1), "squared_error", (torch.randn(9, 3), torch.randn(9, 1)))
    with pytest.raises(wp.InputError, match=next(iter(given))):
        wp.strength_path(problem, **given)


@pytest.mark.parametrize("name", ["groups", "time"])
def test_folds_refuse_what_they_cannot_cut_by(name: str) -> None:
    with pytest.raises(wp.DataError, match="are known for the training rows alone"):
        wp.strength_path(problem(valid=(X, Y), **{name: np.arange(120)}), folds=3)


def test_copies_never_straddle_folds() -> None:
    rows = PathRows.of(problem(valid=(X, Y)))
    for training, held in _cuts(rows, 3, 0):
        assert not set(training % 120) & set(held % 120)


def test_the_record_is_json_and_the_figure_names_what_enters() -> None:
    path = wp.strength_path(problem(), points=3)
    found = json.loads(json.dumps(path.to_dict()))
    assert len(found["points"]) == 3
    assert "weights" not in found["points"][0]
    assert found["entered"]["x0"] == path.points[1].strength
    assert path.frame().shape == (3, 8 + 6)
    svg = path.figure()
    assert svg.startswith("<svg")
    assert ">x0<" in svg
    assert "inputs left" in svg


def test_select_keeps_what_was_planted() -> None:
    assert set(wp.select(problem(), k=2, points=5).names) == {"x0", "x2"}
    found = wp.select(problem(), points=5, folds=3)
    assert {"x0", "x2"} <= set(found.names)
    assert found.mask.sum() == len(found.names)


def planted(seed: int, strong: float = 1.0, rows: int = 120) -> wp.Problem:
    """4 of 40 inputs matter."""
    source = np.random.default_rng(seed)
    x = source.normal(size=(rows, 40))
    y = strong * x[:, :4] @ np.array([1.0, -1.0, 0.8, 0.8]) + source.normal(size=rows)
    return wp.Problem(lambda: nn.Linear(40, 1), "squared_error", wp.Data(train=(x, y[:, None])))


QUICK: dict[str, Any] = {"points": 7, "ratio": 0.1, "tolerance": 1e-3}


def test_stability_keeps_the_planted_inputs_and_few_others() -> None:
    chosen = wp.select(planted(0, rows=240), by="stability", threshold=0.9, pairs=4, seed=0, **QUICK)
    assert {0, 1, 2, 3} <= set(chosen.numbers)
    assert len(chosen.numbers) <= 5
    assert "at most 0.78 are kept in vain" in str(chosen)  # 5^2 / (0.8 * 40): each half chooses 5 inputs


@pytest.mark.parametrize(("strong", "kept"), [(0.0, set()), (1.0, {0, 1, 2, 3})])
def test_the_null_strength_keeps_nothing_where_nothing_is_and_what_is_planted(strong: float, kept: set[int]) -> None:
    given = planted(0, strong, rows=400)
    chosen = wp.select(given, by="null", draws=39, **QUICK)
    assert set(chosen.numbers) == kept
    x, y = (part.numpy() for part in given.prepared.train.source.batch(torch.arange(400)))
    orders = (np.random.default_rng(i).permutation(400) for i in range(300))
    largest = np.array([2 * abs(x.T @ (y[order] - y.mean()) / 400).max() for order in orders])
    exceeded = np.mean(largest > chosen.path.points[-1].strength)
    assert exceeded == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 41))  # the error of a quantile of 39 draws


def test_halves_of_rows_in_time_are_refused() -> None:
    with pytest.raises(wp.DataError, match="draws halves of the rows at random"):
        wp.select(problem(time=np.arange(120)), by="stability", points=2)
    with pytest.raises(wp.InputError, match="may choose none of the"):
        wp.select(problem(), by="stability", most_false=0.1, points=2)
    with pytest.raises(wp.InputError, match="needs more draws than 9"):
        wp.select(problem(), by="null", draws=9, points=2)


def test_a_selector_fits_into_a_pipeline() -> None:
    x, y = load_iris(return_X_y=True, as_frame=True)
    line = make_pipeline(wp.FeatureSelector(k=2, points=4, steps=60), Lasso(0.01)).fit(x, y)
    assert line[0].get_feature_names_out().tolist() == ["petal length (cm)", "petal width (cm)"]
    assert line[:-1].transform(x).shape == (150, 2)


CHECKS = [
    "check_estimators_dtypes",
    "check_n_features_in",
    "check_fit2d_1sample",
    "check_fit2d_1feature",
    "check_estimators_nan_inf",
    "check_fit1d",
    "check_dict_unchanged",
    "check_no_attributes_set_in_init",
    "check_estimators_pickle",
    "check_readonly_memmap_input",
    "check_transformer_general",
    "check_requires_y_none",
    "check_parameters_default_constructible",
    "check_dataframe_column_names_consistency",
]


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks() -> None:
    estimator = wp.FeatureSelector(k=1, points=2, steps=3)
    failed = []
    for made, check in estimator_checks_generator(estimator, legacy=True):
        name = getattr(check, "func", check).__name__
        if name in CHECKS:
            try:
                check(made)
            except Exception as error:
                failed.append((name, str(error)[:200]))
    assert not failed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"penalty": "l2"}, "makes exact zeros"),
        ({"penalty": "lasoo"}, "Did you mean 'lasso'"),
        ({"on": "nowhere.*"}, "matches no parameter"),
        ({"folds": [(0, 1, 2)]}, "folds= is a number >= 2"),
        ({"folds": 500}, "500 folds need as many rows"),
        ({"ratio": 1.0}, "ratio="),
        ({"strengths": [0.0]}, "strengths="),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_is_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(wp.InputError, match=said):
        wp.strength_path(problem(), **{"points": 2, **given})


def test_more_of_what_cannot_be() -> None:
    with pytest.raises(wp.DataError, match="weight="):
        wp.strength_path(problem(weight=np.ones(120)))
    with pytest.raises(wp.InputError, match="No gradient reaches"):
        wp.strength_path(wp.Problem(lambda: nn.Linear(6, 1), "squared_error", (0 * X, Y)))
    with pytest.raises(wp.InputError, match="k=9, and there are 6 inputs"):
        wp.select(problem(), k=9, points=2)


def test_weights_smaller_than_the_tolerance_leave_at_a_large_strength() -> None:
    path = wp.strength_path(problem(lambda: SkipNet(6, 1, 3)), "hierarchical", points=3, steps=40, tolerance=0.5)
    assert not path.points[0].support
    assert path.empties_at < 1e4


def test_a_path_that_does_not_converge_says_so() -> None:
    path = wp.strength_path(problem(lambda: SkipNet(6, 1, 3)), "l1", wp.weights, points=2, steps=2)
    assert not path.points[-1].converged
    assert "did not converge" in str(path)


def test_the_command_prints_one_object_and_writes_the_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from wellposed.cli.app import app

    table, out = tmp_path / "table.csv", tmp_path / "out"
    pd.DataFrame(X.numpy(), columns=list("abcdef")).assign(y=Y[:, 0].numpy()).to_csv(table, index=False)
    app(["path", str(table), "--target", "y", "--points", "3", "--out", str(out), "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == list("abcdef")
    assert (out / "path.svg").read_text(encoding="utf-8").startswith("<svg")
    with pytest.raises(FileExistsError, match="--out needs a new or an empty folder"):
        app(["path", str(table), "--target", "y", "--out", str(out)], standalone_mode=False)
