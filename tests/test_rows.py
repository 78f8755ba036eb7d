"""Rows that are not exchangeable, rows that count differently, and targets that are more than one plain column."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed.core.errors import DataError, InputError

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from wellposed.cli.improve import Asked, problem_of  # noqa: E402 - needs the extras
from wellposed.data.data import Data  # noqa: E402
from wellposed.data.exchangeability import permutation_p, suspects  # noqa: E402
from wellposed.data.splits import folds  # noqa: E402
from wellposed.data.tables import prepare_table  # noqa: E402
from wellposed.data.target_columns import TargetColumns, is_long_tailed, target_from_dict  # noqa: E402
from wellposed.losses.metrics import metric  # noqa: E402
from wellposed.models.mlp import MLP  # noqa: E402
from wellposed.search.dependence import dependence  # noqa: E402
from wellposed.search.fold_studies import fold_tables  # noqa: E402
from wellposed.search.references import references  # noqa: E402
from wellposed.study.fingerprint import digest_of_test_rows, fingerprint  # noqa: E402
from wellposed.study.study import summary  # noqa: E402
from wellposed.study.verdict import verdict  # noqa: E402
from wellposed.training.checkpoint import Saved  # noqa: E402
from wellposed.training.problem import Problem  # noqa: E402
from wellposed.training.ready_problems import balanced_weights, table_problem  # noqa: E402

ROWS = 120


def entities(count: int = ROWS, each: int = 6) -> np.ndarray:
    return np.arange(count) // each


def numbers(seed: int, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rows)


# --- what is found -------------------------------------------------------------------------------------------------


def test_a_permutation_test_holds_its_level_at_every_level() -> None:
    draw = np.random.default_rng(0)
    found = [permutation_p(lambda u: float(u[:10].sum()), draw.normal(size=40), draw, 0.05) for _ in range(400)]
    for level in (0.05, 0.1, 0.3, 0.5):
        assert np.mean(np.array(found) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 400)


def test_exchangeable_targets_raise_hardly_an_alarm() -> None:
    who = entities()
    frame = pd.DataFrame(
        {"subject": who, "sex": who % 2, "x": numbers(0), "date": pd.date_range("2020-01-01", periods=ROWS)}
    )
    alarms = [bool(suspects(frame, numbers(seed), classes=False, level=0.05, seed=seed)) for seed in range(60)]
    assert np.mean(alarms) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def walk(seed: int = 1) -> np.ndarray:
    return np.cumsum(numbers(seed))


def slow(seed: int = 1) -> np.ndarray:
    """Numbers that rise and fall many times, each near the ones beside it."""
    return np.convolve(numbers(seed, ROWS + 7), np.ones(8), mode="valid")


DEPENDENT: dict[str, tuple[dict[str, Any], np.ndarray, str, str]] = {
    "entities called so": ({"subject": entities()}, numbers(0)[entities()], "group", "subject"),
    "entities in texts": ({"patient": [f"p{i}" for i in entities()]}, numbers(0)[entities()], "group", "patient"),
    "entities that fix other columns": (
        {"x1": entities() * 7 % 101, "sex": entities() % 2},
        numbers(0)[entities()],
        "group",
        "x1",
    ),
    "entities in the beginnings of ids": (
        {"name": [f"S{i:02d}_{k}" for k, i in enumerate(entities())]},
        numbers(0)[entities()],
        "group",
        "name",
    ),
    "a panel, whose waves begin anew with each unit": (
        {"unit": np.arange(ROWS) // 6 * 7 % 101, "wave": np.arange(ROWS) % 6},
        numbers(0)[np.arange(ROWS) // 6],
        "group",
        "unit",
    ),
    "entities with one curve in common": (
        {"subject": np.arange(ROWS) // 6, "hours": np.arange(ROWS) % 6},
        1.5 * np.sin(np.arange(ROWS) % 6) + numbers(0)[np.arange(ROWS) // 6],
        "group",
        "subject",
    ),
    "days of a walk": ({"date": pd.date_range("2020-01-01", periods=ROWS)}, walk(), "time", "date"),
    "years of a panel": ({"year": 1980 + np.arange(ROWS) % 20}, walk()[np.arange(ROWS) % 20], "time", "year"),
    "a counter": ({"No": np.arange(ROWS) + 5}, slow(), "time", "No"),
    "a counter with gaps": ({"No": np.arange(ROWS) + np.arange(ROWS) // 9}, slow(), "time", "No"),
    "the order of the file": ({}, slow(), "time", "rows"),
}


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("case", DEPENDENT)
def test_a_dependence_is_found_and_its_column_named(case: str, classes: bool) -> None:
    columns, target, kind, name = DEPENDENT[case]
    y = target + 0.1 * numbers(9)
    given = (y > np.median(y)).astype(int) if classes else y
    found = suspects(pd.DataFrame({"x": numbers(5), **columns}), given, classes)
    assert [(one.kind, one.column) for one in found] == [(kind, name)]


INNOCENT: dict[str, tuple[dict[str, Any], np.ndarray, bool]] = {
    "sorted by class": ({}, np.repeat([0, 1, 2], 40), True),
    "sorted by the target": ({}, np.sort(numbers(0)), False),
    "sorted by a feature": ({"size": np.sort(numbers(1))}, np.sort(numbers(1)) ** 2 + 0.3 * numbers(2), False),
    "a whole number that is measured": ({"age": numbers(3).round(1) * 10}, numbers(3), False),
    "a category that explains": (
        {"colour": np.array(list("abcdef"))[np.arange(ROWS) % 6]},
        (np.arange(ROWS) % 6) + 0.1,
        False,
    ),
}


def test_a_series_with_a_trend_is_no_sorted_file() -> None:
    trend = np.cumsum(1 + 0.6 * numbers(0))
    assert (np.diff(trend) > 0).mean() > 0.95
    assert [one.column for one in suspects(pd.DataFrame({"x": numbers(5)}), trend, classes=False)] == ["rows"]
    blocks = np.concatenate([np.sort(numbers(seed, ROWS // 3)) for seed in range(3)])
    assert suspects(pd.DataFrame({"x": numbers(5)}), blocks, classes=False) == ()


@pytest.mark.parametrize("case", INNOCENT)
def test_sorted_files_and_features_are_no_dependence(case: str) -> None:
    columns, target, classes = INNOCENT[case]
    assert suspects(pd.DataFrame({"x": numbers(5), **columns}), target, classes) == ()


def test_what_the_split_minds_is_not_looked_for() -> None:
    frame = pd.DataFrame({"x": numbers(5), "subject": entities(), "y": numbers(0)[entities()] + 0.1 * numbers(9)})
    assert [one.column for one in prepare_table(frame, "y").suspects] == ["subject"]
    assert prepare_table(frame, "y", group="subject").suspects == ()


def test_the_score_falls_where_entities_are_kept_whole_and_the_option_is_named() -> None:
    own = np.stack([numbers(seed)[entities()] for seed in (1, 2)], axis=1)
    frame = pd.DataFrame(
        {"a": own[:, 0], "b": own[:, 1], "subject": entities(), "y": numbers(0)[entities()] + 0.1 * numbers(9)}
    )
    found = dependence(prepare_table(frame, "y"))
    assert found[0].at_random > 0.8 > 0.3 > found[0].apart
    assert "--group subject" in found[0].sentence
    exchangeable = frame.assign(y=numbers(0))
    assert dependence(prepare_table(exchangeable, "y")) == []


def test_later_rows_are_held_out_by_the_order_of_the_file() -> None:
    table = prepare_table({"x": numbers(1), "y": numbers(0)}, "y", time="rows")
    prepared = table_problem(table).prepared
    assert table.time is not None
    assert list(table.frame.columns) == ["x"]
    assert len(prepared.valid) == ROWS // 5
    last = prepared.encoder.transform(table.frame)[-1]  # type: ignore[union-attr]
    assert torch.equal(prepared.valid.batch(torch.tensor([ROWS // 5 - 1]))[0][0], torch.from_numpy(last))


# --- folds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 5])
def test_folds_hold_every_row_out_once_and_no_group_straddles(count: int, seed: int) -> None:
    groups, target = entities(), np.arange(ROWS) % 3
    place = folds(ROWS, count, seed=seed, target=target, groups=groups)
    assert np.bincount(place).max() - np.bincount(place).min() <= 2 * 6
    assert all(len(set(place[groups == one])) == 1 for one in range(20))
    plain = folds(ROWS, count, seed=seed, target=target)
    assert all(np.ptp(np.bincount(plain[target == one], minlength=count)) <= 1 for one in range(3))


def test_the_tables_of_folds_are_the_table() -> None:
    table = prepare_table({"x": numbers(1), "y": numbers(0), "w": np.arange(ROWS)}, "y", weight="w")
    parts = list(fold_tables(table, 4))
    held = np.concatenate([rows[0]["x"] for _, rows in parts])
    assert np.array_equal(np.sort(held), np.sort(table.frame["x"]))
    assert len({part.sha256 for part, _ in parts}) == 4
    for part, rows in parts:
        assert not set(part.frame["x"]) & set(rows[0]["x"])
        assert len(rows[2]) + len(part.weight) == ROWS  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--time only the latest"):
        next(fold_tables(prepare_table({"x": numbers(1), "y": numbers(0)}, "y", time="rows"), 3))


def test_a_small_table_is_told_of_folds_and_a_large_one_or_one_in_folds_is_not() -> None:
    found = {"estimate": 0.1, "low": -0.1, "high": 0.3, "level": 0.9, "pairs": 5, "shown": False,
             "needs": {"gain": 0.1, "smallest": 0.2, "power": 0.8, "pairs": 20, "rows": 100}}  # fmt: skip
    record = {"improvement": found, "command": "wellposed improve t.csv", "confirmation": {"rows": 20},
              "baseline": {"recipe": "a"}, "best": {"recipe": "b"}}  # fmt: skip
    assert "--folds 5" in verdict(record).limits
    assert "--folds 5" not in verdict(record | {"confirmation": {"rows": 200}}).limits
    assert "--folds 5" not in verdict(record | {"folds": [{"gain": 0.1}, {"gain": 0.1}]}).limits


def test_a_verdict_over_folds_speaks_of_the_search_and_of_every_row() -> None:
    found = {"estimate": 0.1, "low": 0.02, "high": 0.18, "level": 0.9, "pairs": 5, "shown": True}
    record = {"improvement": found, "folds": [{"gain": 0.1}, {"gain": 0.1}], "confirmation": {"rows": 47},
              "baseline": {"recipe": "a", "test": 0.5}, "best": {"recipe": "a", "test": 0.6}, "differences": {}}  # fmt: skip
    said = verdict(record).sentence
    assert "the search of each fold is better" in said
    assert "47 untouched rows" in said
    assert "2 folds, which share training rows" in said


# --- targets -------------------------------------------------------------------------------------------------------

AMOUNTS = np.exp(2 * numbers(4))
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "amounts": (pd.Series(AMOUNTS, name="y"), {"link": "log"}),
    "amounts with zeros": (pd.Series(np.where(AMOUNTS < 1, 0.0, AMOUNTS), name="y"), {"link": "log"}),
    "levels in texts": (
        pd.Series(np.array(["low", "mid", "high"])[np.arange(ROWS) % 3], name="y"),
        {"levels": ("low", "mid", "high")},
    ),
    "levels in numbers": (pd.Series(np.array([1, 2, 5])[np.arange(ROWS) % 3], name="y"), {"levels": (1, 2, 5)}),
    "several": (pd.DataFrame({"a": numbers(1), "b": 1000 * numbers(2)}), {}),
    "several amounts": (pd.DataFrame({"a": AMOUNTS, "b": 1000 * AMOUNTS[::-1]}), {"link": "log"}),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_target_comes_back_as_it_came_in_through_a_file_too(case: str) -> None:
    given, how = KINDS[case]
    answers = TargetColumns.fit(given, **how)
    again = target_from_dict(json.loads(json.dumps(answers.to_dict())))
    assert again == answers
    encoded = torch.from_numpy(answers.transform(given)).double()
    assert encoded.mean(0).abs().max() < 1e-5
    predicted = list(answers.predictions(encoded).values())
    columns = [given] if given.ndim == 1 else [given[name] for name in given]
    for found, column in zip(predicted, columns, strict=True):
        if column.dtype.kind == "f":
            np.testing.assert_allclose(found, column, rtol=1e-4, atol=1e-4)
        else:
            assert list(found) == list(column)


@pytest.mark.parametrize("case", ["amounts", "amounts with zeros", "several amounts"])
def test_no_output_is_predicted_below_zero_or_beyond_all_numbers(case: str) -> None:
    answers = TargetColumns.fit(KINDS[case][0], link="log")
    outputs = torch.tensor([-1e9, -5.0, 0.0, 5.0, 1e9])[:, None].expand(-1, len(answers.columns)).squeeze(-1)
    restored = answers.restored(outputs)
    assert bool((restored >= 0).all())
    assert bool(torch.isfinite(restored).all())


def test_a_zero_among_held_out_rows_alone_is_an_amount_too() -> None:
    y = pd.Series([*AMOUNTS, 0.0], name="y")
    answers = TargetColumns.fit(y, link="log", rows=np.arange(ROWS))
    assert np.isfinite(answers.transform(y)).all()


@pytest.mark.parametrize(("target", "tailed"), [
    (np.exp(2 * numbers(0, 500)), True), (np.where(numbers(1, 500) < 0, 0, np.exp(2 * numbers(0, 500))), True),
    (numbers(0, 500), False), (np.abs(numbers(0, 500)), False), (np.exp(0.3 * numbers(0, 500)), False),
    (-np.exp(2 * numbers(0, 500)), False), (np.exp(2 * numbers(0, 20)), False),
])  # fmt: skip
def test_only_what_is_clearly_long_tailed_is_taken_for_it(target: np.ndarray, tailed: bool) -> None:
    assert is_long_tailed(target) is tailed
    if tailed:
        table = prepare_table({"x": numbers(1, len(target)), "y": target}, "y")
        assert table.link == "log"
        assert any("long-tailed" in said for said in table.warnings)
        assert prepare_table({"x": numbers(1, len(target)), "y": target}, "y", link="none").link == "none"


def test_an_error_is_in_the_unit_of_a_long_tailed_target() -> None:
    table = prepare_table({"x": numbers(1), "y": AMOUNTS}, "y", link="log")
    problem = table_problem(table)
    score, rows = problem.metric, problem.prepared.valid
    assert score is not None
    truth = rows.targets()
    own = problem.prepared.target.restored(truth)  # type: ignore[union-attr, arg-type]
    assert score.name == "mae"
    assert score.score(torch.zeros(len(own)), truth) == pytest.approx(  # type: ignore[arg-type]
        float((own - np.exp(np.log(AMOUNTS)[_train_rows(problem)].mean())).abs().mean()), rel=1e-4
    )


def _train_rows(problem: Problem) -> np.ndarray:
    """Which rows are trained on, by their amounts."""
    kept = problem.prepared.target.restored(problem.prepared.train.targets()).numpy()  # type: ignore[union-attr, arg-type]
    return np.array([int(np.abs(AMOUNTS / one - 1).argmin()) for one in kept])


def test_several_targets_are_several_columns_of_predictions() -> None:
    table = prepare_table({"x": numbers(1), "a": numbers(2), "b": numbers(3)}, ["a", "b"])
    data = Data(train=(table.frame, table.target)).prepare()
    assert data.outputs == 2
    saved = Saved(MLP(inputs=1, outputs=2, width=4, depth=1), "regression", data.encoder, data.target)
    found = saved.predict(table.frame.iloc[:5])
    assert {name: column.shape for name, column in found.items()} == {"prediction_a": (5,), "prediction_b": (5,)}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "several with a class": ({"target": ["y", "kind"]}, "must all be numbers"),
    "texts without order": ({"target": "kind", "task": "ordinal"}, "--levels"),
    "a value that is no level": ({"target": "kind", "levels": ["a", "c"]}, "no level"),
    "logarithm of negative numbers": ({"target": "y", "link": "log"}, "no logarithm of less than 0"),
    "logarithm of classes": ({"target": "kind", "link": "log"}, "of amounts"),
    "an unknown transform": ({"target": "y", "link": "lgo"}, "Did you mean 'log'"),
    "a negative weight": ({"target": "kind", "weight": "y"}, "number >= 0"),
    "a weight that is not there": ({"target": "kind", "weight": "w"}, "There is no column 'w'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(case: str) -> None:
    how, said = REFUSED[case]
    frame = {"x": numbers(1), "y": numbers(2), "kind": np.array(["a", "b"])[np.arange(ROWS) % 2]}
    with pytest.raises(DataError, match=said):
        prepare_table(frame, **how)
    with pytest.raises(InputError, match="Class weights are for classes"):
        table_problem(prepare_table(frame, "y"), class_weight="balanced")


@pytest.mark.parametrize("how", [{"link": "log"}, {"levels": (1, 2)}])
def test_links_and_levels_are_of_frames(how: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="how the target of a frame"):
        Data(train=(torch.zeros(20, 2), torch.zeros(20)), **how).prepare()


# --- what counts, and beside what ----------------------------------------------------------------------------------


def test_rows_of_weight_zero_are_not_there_for_references_and_constants() -> None:
    frame = pd.DataFrame({"x": numbers(1), "y": numbers(1) + 0.1 * numbers(2), "w": 1.0})
    wild = frame.assign(
        y=np.where(np.arange(ROWS) % 3 == 0, 100.0, frame["y"]), w=np.where(np.arange(ROWS) % 3 == 0, 0.0, 1.0)
    )
    held = frame.iloc[:40]
    test = (held[["x"]], held["y"], held["w"].to_numpy())
    found = references(table_problem(prepare_table(wild, "y", weight="w"), test=test)).scores
    assert found["linear"] > 0.9
    assert found["constant"] > -0.5
    assert references(table_problem(prepare_table(wild.drop(columns="w"), "y"), test=test[:2])).scores["linear"] < 0


RARE = pd.DataFrame({"x": numbers(1, 300), "kind": np.where(np.arange(300) % 20 == 0, "ill", "well")})


def test_rare_classes_are_scored_by_a_metric_that_sees_them_and_it_is_said_why() -> None:
    problem = table_problem(prepare_table(RARE, "kind"))
    assert problem.metric is not None
    assert problem.metric.name == "balanced_accuracy"
    assert any("ill" in said and "0.95" in said for said in problem.warnings)
    assert problem.constant()["chance_metric"] == pytest.approx(0.5)
    named = table_problem(prepare_table(RARE, "kind"), metric="accuracy")
    assert named.metric is not None
    assert named.metric.name == "accuracy"
    assert not any("rare" in said for said in named.warnings)
    even = RARE.assign(kind=np.array(["ill", "well"])[np.arange(300) % 2])
    assert table_problem(prepare_table(even, "kind")).metric.name == "accuracy"  # type: ignore[union-attr]


def test_balanced_classes_weigh_alike() -> None:
    problem = table_problem(prepare_table(RARE, "kind"), class_weight="balanced")
    train = problem.prepared.train
    weight = balanced_weights(train)
    label = train.targets()
    assert label is not None
    sums = torch.bincount(label, weights=weight[label])
    torch.testing.assert_close(sums, sums.mean().expand(2))
    assert float(weight[label].mean()) == pytest.approx(1.0)
    assert torch.equal(problem.loss.module.weight, weight)


def test_a_constant_stands_beside_each_score() -> None:
    record = {"metric": {"name": "accuracy"}, "constant": {"valid": 0.6, "test": 0.5},
              "baseline": {"recipe": "a", "test": 0.7}, "best": {"recipe": "b", "test": 0.8}}  # fmt: skip
    lines = [line for line in summary(record).splitlines() if line.startswith(("baseline", "best"))]
    assert len(lines) == 2
    assert all("a constant prediction has 0.5" in line for line in lines)


def test_the_command_line_takes_all_of_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": numbers(1), "a": numbers(2), "b": numbers(3), "w": 1.0, "who": entities()})
    frame.to_csv(tmp_path / "t.csv", index=False)
    asked = Asked(target="a,b", weight="w", group="who", target_transform="none")
    problem, table, _ = problem_of(str(tmp_path / "t.csv"), None, asked)
    assert table is not None
    assert list(table.target.columns) == ["a", "b"]
    assert problem.prepared.outputs == 2
    assert problem.prepared.train.weight is not None
    assert problem.constant()["chance_metric"] == pytest.approx(0.0, abs=0.2)
    assert asked.given() == ["--target", "--group", "--weight", "--target-transform"]
    assert metric("r2").name == problem.metric.name  # type: ignore[union-attr]


# --- numbers in pieces ---------------------------------------------------------------------------------------------


def test_pieces_are_other_inputs_and_the_same_test_rows() -> None:
    frame = pd.DataFrame({"a": numbers(1), "b": numbers(2), "y": numbers(3)})
    whole, pieced = (table_problem(prepare_table(frame, "y"), test=None, pieces=pieces) for pieces in (False, True))
    for problem in (whole, pieced):
        problem.data = dataclasses.replace(problem.data, test=0.2)
    assert fingerprint(whole) != fingerprint(pieced), "a study of the one is not resumed with the other"
    assert digest_of_test_rows(whole) == digest_of_test_rows(pieced), "a look at these rows is a look at them"
    assert pieced.prepared.features > whole.prepared.features == len(pieced.prepared.encoder.whole)


@pytest.mark.parametrize("classes", [False, True])
def test_a_column_that_gives_the_target_away_is_found_among_pieces(classes: bool) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 4))
    y = np.where(x[:, 0] > 0, "yes", "no") if classes else x[:, 0] ** 3
    frame = pd.DataFrame(x, columns=list("abcd")).assign(y=y)
    run = wp.fit(table_problem(prepare_table(frame, "y")), wp.Recipe(epochs=2, model={"width": 16, "depth": 1}))
    found = next(one for one in wp.diagnose(run) if one.name == "leakage")
    assert found.evidence["feature"] == 0
