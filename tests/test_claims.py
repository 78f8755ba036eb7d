"""Laws of what is claimed: where nothing differs, "better" is said as rarely as promised, and where something does, often enough.

Every sentence and every part of the page that can say so stands in `CLAIMS` with what judges it. The judges are tried on simulated
scores; nothing is trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from wellposed.core.errors import DataError, InputError
from wellposed.statistics import intervals
from wellposed.statistics.compare import compare
from wellposed.statistics.intervals import crossed_interval, fewest_rows, fold_interval, holm, paired_interval
from wellposed.study import verdict

Array = npt.NDArray[np.float64]
ROOT = Path(__file__).parents[1]
ROOMS = ("cli/", "reporting/", "search/", "statistics/", "study/")
WORDS = re.compile(
    r"\b(better|worse|wins?|winner|ahead|behind|beats?|outperform\w*|superior|helped|did harm|as good|came through)\b",
    re.I,
)

# --- every place that claims, and what judges it

CLAIMS = {
    "b is better than a by {estimate} {score} ({numbers}; {basis}).": "compare",
    "b is worse than a by {estimate} {score} ({numbers}; {basis}).": "compare",
    "{who} is better than the tuned baseline by {size}": "improvement",
    "{chose} is worse than the tuned baseline by {size}": "improvement",
    "the network is better by {size}.": "references",
    "better than the network by {size}.": "references",
    "The gain came through regularization: a smaller gap outweighs a higher training cost.": "improvement",
    "The gain came through optimization: a lower training cost outweighs a larger gap.": "improvement",
    "it helped in this pair of runs": "advice",
    "it did harm in this pair of runs": "advice",
}
NO_CLAIMS = {
    "Find out what holds a model back, search for a better recipe, and prove or deny that it is better.": "what it is for",
    "One pair of seeds does not tell a better recipe from a lucky seed, however many the rows. Give a larger budget, so that at "
    "least five pairs are trained.": "refuses the claim",
    "Not shown: that the network is better than {level}.": "refuses the claim",
    "no recipe of the search beat the tuned baseline on the validation rows.": "refuses the claim",
}


def test_every_sentence_that_claims_has_a_judge() -> None:
    room, found = "", set()
    for line in (ROOT / "tests" / "messages.txt").read_text().splitlines():
        room = line[2:] if line.startswith("# ") else room
        if room.startswith(ROOMS) and not line.startswith("# ") and WORDS.search(line):
            found.add(line)
    assert found == set(CLAIMS) | set(NO_CLAIMS)
    assert set(CLAIMS.values()) <= set(JUDGES)


def test_the_page_claims_nothing_of_its_own() -> None:
    """What its template says of better is which direction is."""
    page = (ROOT / "src" / "wellposed" / "reporting" / "report.html.j2").read_text()
    text = re.sub(
        r'\{\{ "higher" if higher else "lower" \}\} is better|right of zero is better|improvement is better', "", page
    )
    assert not WORDS.findall(text)


# --- the judges: differences in, whether any claim is made out


def by_compare(d: Array) -> bool:
    found = compare(np.zeros_like(d), d)
    return not found.interval.holds_zero


def by_verdict(d: Array) -> bool:
    found = paired_interval(d)
    record = {
        "improvement": {key: getattr(found, key) for key in ("estimate", "low", "high", "level", "pairs", "shown")}
    }
    said = verdict.verdict(record)
    claims = bool(WORDS.search(said.sentence))
    return claims or "came through" in verdict.source_of_change((0.4, 0.5), (0.2, 0.3), said.kind == "shown")


def by_references(d: Array) -> bool:
    """Three references at once; the first differs from the network as given, the others are null too."""
    rng = np.random.default_rng(int(1e6 * abs(d).sum()) % 2**31)
    tables = {
        "constant": d,
        "linear": d[rng.integers(0, len(d), len(d))] * rng.choice([-1, 1], (len(d), 1)),
        "boosting": -d,
    }
    found = {
        name: {"pairs": i.pairs, "estimate": i.estimate, "low": i.low, "high": i.high}
        for name, i in holm(tables).items()
    }
    record = {"references": dict.fromkeys(tables, 0.5), "best": {"test": 0.5}, "against_references": found}
    said = " ".join(one.says for one in verdict.against(record))
    assert ("better than the network" in said) >= any(
        "is better than the network" in one for one in verdict.references_first(record)
    )
    return bool(WORDS.search(said))


def by_shares(d: Array) -> bool:
    """Three pieces of advice, each with its share of the error."""
    rng = np.random.default_rng(int(1e6 * abs(d).sum()) % 2**31)
    flat = d.mean(axis=1)
    level = 1 - 0.05 / 3
    return any(
        not paired_interval(flat * rng.choice([-1, 1], len(flat)) if k else flat, level).holds_zero for k in range(3)
    )


JUDGES: dict[str, Callable[[Array], bool]] = {
    "compare": by_compare, "improvement": by_verdict, "references": by_references, "advice": by_shares,
}  # fmt: skip


def hits(rng: np.random.Generator, rows: int, gain: float = 0.0, seeds: int = 5) -> Array:
    """Differences of hits on random labels: two answers that are each right by chance, seeds nearly alike."""
    right = rng.random((rows, 1)) < 0.5 + gain / 2
    other = rng.random((rows, 1)) < 0.5 - gain / 2
    flips = rng.random((rows, seeds)) < 0.05
    return np.where(flips, 0.0, right.astype(float) - other)


def losses(rng: np.random.Generator, rows: int, gain: float = 0.0, seeds: int = 5) -> Array:
    return (
        gain
        + rng.normal(size=(rows, 1))
        + 0.2 * rng.normal(size=(1, seeds)) / np.sqrt(rows)
        + 0.2 * rng.normal(size=(rows, seeds))
    )


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("law", [hits, losses])
def test_where_nothing_differs_a_claim_is_rare(name: str, law: Callable[..., Array]) -> None:
    """Of 160 tables each of 2 to 60 rows at most one in twenty, up to chance (three standard errors)."""
    rng = np.random.default_rng(1)
    for rows in (2, 5, 10, 40):
        made = sum(JUDGES[name](law(rng, rows)) for _ in range(160))
        assert made <= 160 * 0.05 + 3 * np.sqrt(160 * 0.05 * 0.95), rows
        assert rows > 5 or law is losses or made == 0


@pytest.mark.parametrize("name", JUDGES)
def test_a_true_difference_is_claimed(name: str) -> None:
    rng = np.random.default_rng(2)
    assert np.mean([JUDGES[name](hits(rng, 150, 0.4)) for _ in range(40)]) > 0.8
    assert np.mean([JUDGES[name](losses(rng, 60, 0.6)) for _ in range(40)]) > 0.8


def test_the_laws_would_catch_a_judge_without_the_exact_test() -> None:
    rng = np.random.default_rng(3)
    assert sum(not crossed_interval(hits(rng, 2, seeds=1)).holds_zero for _ in range(300)) / 300 > 0.05
    assert not any(paired_interval(np.ones((rows, 3))).shown for rows in (2, 3, 4, 5))
    assert paired_interval(np.ones((6, 3))).shown


# --- the exact test, Holm, folds


@pytest.mark.parametrize(
    ("gained", "lost", "rows"), [(4, 0, 60), (6, 1, 8), (6, 0, 10), (11, 1, 10_000), (12, 4, 16), (9, 5, 20)]
)
def test_few_hits_are_judged_as_by_mcnemars_exact_test(gained: int, lost: int, rows: int) -> None:
    from scipy.stats import binomtest

    d = np.zeros(rows)
    d[:gained], d[gained : gained + lost] = 1.0, -1.0
    exact = binomtest(gained, gained + lost).pvalue
    assert intervals.chance_of_signs(d) == pytest.approx(exact)
    assert exact <= 0.05 or paired_interval(d).holds_zero
    assert exact > 0.04 or not paired_interval(d).holds_zero


def test_fewer_rows_than_can_show_anything_say_so() -> None:
    assert [fewest_rows(level) for level in (0.5, 0.95, 0.975, 0.99)] == [2, 6, 7, 8]
    for rows in (2, 5):
        found = compare(np.zeros((rows, 1)), np.ones((rows, 1)))
        assert not found.shown
        assert f"So few rows ({rows}) show no gain at this level" in str(found)
        assert found.interval.to_dict()["needs"]["smallest"] is None
    assert "Not shown" in repr(found)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_holm_shows_what_holms_procedure_rejects(count: int) -> None:
    """Against the textbook: probabilities in order, each against its share, the first that fails ends it."""
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(count)
    for _ in range(10):
        tables = {str(k): rng.normal(rng.choice([0.0, 0.3]), 1, 40) for k in range(count)}
        skewless = {name: np.concatenate([d, 2 * d.mean() - d]) for name, d in tables.items()}
        chances = {name: ttest_1samp(d, 0).pvalue for name, d in skewless.items()}
        wanted = set()
        for place, name in enumerate(sorted(chances, key=lambda name: chances[name])):
            if chances[name] > 0.05 / (count - place):
                break
            wanted.add(name)
        assert {name for name, i in holm(skewless).items() if not i.holds_zero} == wanted
    assert holm({}) == {}


def test_folds_are_judged_by_the_corrected_test() -> None:
    """Nadeau and Bengio's statistic, written out with scipy."""
    from scipy.stats import t

    rng = np.random.default_rng(0)
    for folds, repeats in ((5, 1), (10, 1), (10, 10)):
        d = rng.normal(0.02, 0.03, folds * repeats)
        half = t.ppf(0.975, len(d) - 1) * np.sqrt((1 / len(d) + (1 / folds) / (1 - 1 / folds)) * d.var(ddof=1))
        found = compare(np.zeros(len(d)), d, folds=folds)
        assert (found.interval.low, found.interval.high) == pytest.approx((d.mean() - half, d.mean() + half))
        assert f"{len(d)} scores of {folds} folds" in str(found)
        assert found.to_dict()["needs"] is None


def test_equal_methods_on_folds_are_rarely_told_apart_and_the_plain_test_is_caught() -> None:
    """Fold scores of a cross-validation, simulated: a part that the folds share, and a part of their own."""
    rng = np.random.default_rng(5)
    folds, plain, corrected = 10, 0, 0
    for _ in range(400):
        d = np.sqrt(1 / folds) * rng.normal() + rng.normal(size=folds)
        plain += not paired_interval(d).holds_zero
        corrected += not fold_interval(d, folds).holds_zero
    assert corrected / 400 < 0.08 < plain / 400


def test_what_may_be_rows_or_folds_is_asked_about() -> None:
    a, b = [0.81, 0.83, 0.79, 0.85, 0.8], [0.84, 0.86, 0.83, 0.87, 0.84]
    with pytest.raises(InputError, match="cannot tell 5 scores of rows from scores of folds"):
        compare(a, b)
    assert compare(a, b, folds=5).folds == 5
    assert compare(np.array(a)[:, None], np.array(b)[:, None]).folds is None
    assert compare([0, 1, 0, 1], [1, 1, 0, 1]).folds is None  # hits are of rows
    with pytest.raises(InputError, match="folds must be at least 2"):
        compare(a, b, folds=1)
    with pytest.raises(InputError, match="folds= is for arrays"):
        compare("a.csv", "b.csv", folds=5)
    with pytest.raises(DataError, match="at least 2 of them"):
        compare(np.ones((5, 2)), np.zeros((5, 2)), folds=5)


def written(folder: Path, name: str, header: str, rows: list[str]) -> Path:
    (folder / name).write_text("\n".join([header, *rows]))
    return folder / name


def test_files_weigh_their_rows_and_join_those_of_a_fold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 4, 40)
    ours, theirs = rng.integers(0, 2, (2, 40))
    head = "target,prediction,weight,fold"
    rows = [
        [f"1,{p},{w},{i % 5}" for i, (p, w) in enumerate(zip(side, weight, strict=True))] for side in (theirs, ours)
    ]
    a, b = (written(tmp_path, name, head, side) for name, side in zip("ab", rows, strict=True))
    parts = [np.average((ours - theirs)[k::5], weights=weight[k::5]) for k in range(5)]
    assert compare(a, b).folds == 5
    assert compare(a, b).interval == fold_interval(parts, 5)
    a, b = (
        written(tmp_path, name, "target,prediction,weight", [r.rsplit(",", 1)[0] for r in side])
        for name, side in zip("ab", rows, strict=True)
    )
    assert compare(a, b).interval.estimate == pytest.approx(np.average(ours - theirs, weights=weight))
    for bad, said in (("-1", "at least 0"), ("x", "at least 0"), ("9", "differently")):
        c = written(tmp_path, "c", "target,prediction,weight", [f"1,1,{bad}"] * 40)
        with pytest.raises(DataError, match=said):
            compare(a, c)


# --- references, against scikit-learn called directly

ROWS = 160


def table(seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 4))
    return x.astype(np.float32), x[:, 0] + 0.5 * rng.normal(size=ROWS)


def found_references(
    loss: Any, y: Any, metric: Any = None, weight: Array | None = None
) -> tuple[dict[str, float], Any]:
    import wellposed as wp
    from wellposed.search.references import references

    x, _ = table()
    y = torch.as_tensor(y)
    data = wp.Data(train=(x[:100], y[:100]), valid=(x[:20], y[:20]), test=(x[100:], y[100:]),
                   weight=None if weight is None else weight[:100])  # fmt: skip
    found = references(wp.Problem(model=lambda: nn.Linear(4, 1), loss=loss, data=data, metric=metric))
    assert found.notes == ()
    for name, rows in found.rows.items():
        assert abs(rows.mean()) == pytest.approx(abs(found.scores[name]))
    return found.scores, x


def boosted(regression: bool = False, **settings: Any) -> Any:
    from sklearn import ensemble

    return getattr(ensemble, f"HistGradientBoosting{'Regressor' if regression else 'Classifier'}")(
        random_state=0, **settings
    )


def classifiers() -> dict[str, Any]:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    return {"constant": DummyClassifier(), "linear": LogisticRegression(), "boosting": boosted()}


LABELS: dict[str, tuple[Any, Callable[[Array], Any], Any]] = {
    "floats": ("binary_cross_entropy", lambda y: y.astype(np.float32), None),
    "column": ("bce", lambda y: y.astype(np.float32)[:, None], None),
    "bool": ("bce", lambda y: y.astype(bool), None),
    "int column": ("bce", lambda y: y[:, None], None),
    "torch's": (nn.BCEWithLogitsLoss(), lambda y: y.astype(np.float32)[:, None], None),
    "probabilities": (nn.BCELoss(), lambda y: y.astype(np.float32)[:, None], "accuracy"),
    "own function": (lambda f, y: ((f - y) ** 2).mean(), lambda y: y.astype(np.float32)[:, None], "accuracy"),
    "classes": ("cross_entropy", lambda y: y, None),
    "class column": ("ce", lambda y: y[:, None], None),
    "whole floats": ("ce", lambda y: y.astype(np.float32), None),
    "one-hot": ("ce", lambda y: np.eye(2, dtype=np.float32)[y], None),
    "torch's classes": (nn.CrossEntropyLoss(), lambda y: y, None),
    "log-likelihood": (nn.NLLLoss(), lambda y: y, "accuracy"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_references_of_labels_in_any_form_are_scikit_learns(kind: str) -> None:
    """A quarter of ones: a constant is right three times in four, whatever the form of the targets."""
    loss, form, metric = LABELS[kind]
    y = (table()[1] > 0.75).astype(np.int64)
    scores, x = found_references(loss, form(y), metric)
    expected = {name: model.fit(x[:100], y[:100]).score(x[100:], y[100:]) for name, model in classifiers().items()}
    assert scores == pytest.approx(expected)
    assert scores["constant"] > 0.6


def test_references_use_the_weights_in_training() -> None:
    y = (table()[1] > 0).astype(np.int64)
    weight = np.where(y == 1, 9.0, 1.0)
    scores, x = found_references("ce", y, weight=weight)
    expected = {
        name: model.fit(x[:100], y[:100], sample_weight=weight[:100]).score(x[100:], y[100:])
        for name, model in classifiers().items()
    }
    assert scores == pytest.approx(expected)


def test_references_of_several_labels_are_one_for_each() -> None:
    y = np.stack([table()[1] > 0.5, table()[0][:, 1] > 0], axis=1).astype(np.float32)
    scores, x = found_references("bce", y)
    for name in classifiers():
        each = [classifiers()[name].fit(x[:100], y[:100, k]).score(x[100:], y[100:, k]) for k in (0, 1)]
        assert scores[name] == pytest.approx(np.mean(each))


def test_labels_of_minus_one_and_one() -> None:
    y = np.where(table()[1] > 0.75, 1.0, -1.0).astype(np.float32)
    scores, x = found_references(nn.SoftMarginLoss(), y)
    for name, model in classifiers().items():
        share = model.fit(x[:100], y[:100] > 0).predict_proba(x[100:]).clip(1e-12, 1)
        margin = np.log(share[:, 1] / share[:, 0]) * y[100:]
        assert scores[name] == pytest.approx(np.log1p(np.exp(-margin)).mean(), rel=1e-4)


AMOUNTS = {
    "squared_error": ("mean", {}, "r2"), "mse": ("mean", {}, None), "huber": ("mean", {}, "mae"),
    "absolute_error": ("median", {"loss": "absolute_error"}, "mae"), "mae": ("median", {"loss": "absolute_error"}, None),
    "quantile:0.9": ("quantile", {"loss": "quantile", "quantile": 0.9}, "pinball:0.9"),
    "poisson": ("mean", {"loss": "poisson"}, "mae"),
}  # fmt: skip


@pytest.mark.parametrize("loss", AMOUNTS)
@pytest.mark.parametrize("column", [False, True])
def test_references_of_amounts_are_what_the_loss_asks_for(loss: str, column: bool) -> None:
    from sklearn import metrics
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import PoissonRegressor, QuantileRegressor, Ridge

    strategy, settings, metric = AMOUNTS[loss]
    y = table()[1].astype(np.float32)
    y = np.floor(np.exp(y)) if loss == "poisson" else y
    scores, x = found_references(loss, y[:, None] if column else y, metric)
    quantile = {"quantile": 0.9} if strategy == "quantile" else {}
    models = {"constant": DummyRegressor(strategy=strategy, **quantile), "boosting": boosted(True, **settings)}
    # The penalty of the linear model of a quantile is nothing on the scale of what is compared here.
    quantiles = {"median": QuantileRegressor(alpha=0), "quantile": QuantileRegressor(alpha=0, **quantile)}
    models["linear"] = quantiles.get(strategy, PoissonRegressor() if loss == "poisson" else Ridge())
    measure: dict[Any, Any] = {
        "mae": metrics.mean_absolute_error,
        "pinball:0.9": lambda t, p: metrics.mean_pinball_loss(t, p, alpha=0.9),
    }
    read = measure.get("mae" if loss == "mae" else metric, metrics.r2_score)
    expected = {name: read(y[100:], model.fit(x[:100], y[:100]).predict(x[100:])) for name, model in models.items()}
    assert scores == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_references_of_several_amounts_are_one_for_each() -> None:
    from sklearn.linear_model import Ridge

    y = np.stack([table()[1], table(1)[1]], axis=1).astype(np.float32)
    scores, x = found_references("squared_error", y)
    assert set(scores) == {"constant", "linear", "boosting"}
    off = Ridge().fit(x[:100], y[:100]).predict(x[100:]) - y[100:]
    mean = y[100:].mean(0)
    by_output = 1 - (off**2).sum(0) / ((y[100:] - mean) ** 2).sum(0)
    assert min(by_output) - 0.01 <= scores["linear"] <= max(by_output) + 0.01


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_probabilities_as_targets_count_a_row_as_one_of_each_class_for_its_share(loss: str) -> None:
    share = 1 / (1 + np.exp(-2 * table()[1]))
    both = np.stack([1 - share, share], axis=1)
    weight = np.random.default_rng(1).integers(1, 4, ROWS).astype(np.float64)
    scores, x = found_references(loss, torch.from_numpy(share if loss == "bce" else both).float(), "log_loss", weight)
    twice = np.repeat(x[:100], 2, axis=0), np.tile([0, 1], 100), (both * weight[:, None])[:100].reshape(-1)
    for name, model in classifiers().items():
        logs = np.log(model.fit(*twice).predict_proba(x[100:]))
        assert scores[name] == pytest.approx(-(both[100:] * logs).sum(1).mean(), rel=1e-3)
    mean = np.average(both[:100], axis=0, weights=weight[:100])  # the constant of least cross-entropy
    assert scores["constant"] == pytest.approx(-(both[100:] @ np.log(mean)).mean(), rel=1e-5)


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_the_linear_quantile_solves_its_problem(level: float) -> None:
    """``X'd = (0, b)`` with multipliers ``d`` that are ``level`` above it, ``level - 1`` below, and between on it."""
    from wellposed.search.linear_quantile import LinearQuantile

    x, y = table()
    weight = np.arange(ROWS) % 3 / 1.0
    model = LinearQuantile(level).fit(x.astype(np.float64), 1e6 * y, weight)
    same = LinearQuantile(level).fit(
        np.repeat(x, (np.arange(ROWS) % 3), axis=0), np.repeat(1e6 * y, np.arange(ROWS) % 3)
    )
    assert model.predict(x) == pytest.approx(same.predict(x), rel=1e-2, abs=1e4)
    scale = np.sqrt(np.cov(1e6 * y, aweights=weight, ddof=0))
    left = (1e6 * y - model.predict(x)) / scale
    on = np.abs(left) < 1e-4
    assert 0 < on.sum() <= 10
    design = np.concatenate([np.ones((ROWS, 1)), x], axis=1) * weight[:, None]
    rest = np.append(0.0, model.coefficients[1:] / scale) - design[~on].T @ np.where(left[~on] > 0, level, level - 1)
    prices = np.linalg.lstsq(design[on].T, rest, rcond=None)[0]
    assert design[on].T @ prices == pytest.approx(rest, abs=1e-2)
    assert level - 1 - 1e-2 <= prices.min() <= prices.max() <= level + 1e-2
    assert not LinearQuantile(level, deadline=0.0).fit(x, y).solved
    constant = LinearQuantile(level).fit(np.ones((20, 3)), np.arange(20.0))  # collinear: a quantile of all
    assert np.mean(np.arange(20.0) <= constant.predict(np.ones((1, 3)))[0] + 1e-3) == pytest.approx(level, abs=0.051)


@pytest.mark.parametrize("loss", ["bce", "squared_error", "ce"])
def test_the_constant_of_a_column_is_that_of_the_list(loss: str) -> None:
    import wellposed as wp

    x, y = table()
    labels = torch.from_numpy((y > 0.75).astype(np.int64 if loss == "ce" else np.float32))
    found = [
        wp.Problem(
            model=lambda: nn.Linear(4, 2), loss=loss, data=wp.Data(train=(x[:100], t[:100]), valid=(x[100:], t[100:]))
        ).constant()
        for t in (labels, labels[:, None])
    ]
    assert found[0] == pytest.approx(found[1])
    assert set(found[0]) == {"constant_loss", "chance_metric"}


@pytest.mark.parametrize(
    ("low", "high", "decimals"), [(0.0012, 0.44, 3), (-0.16, 0.0043, 3), (-0.1, 0.3, 2), (0.0, 0.3, 2), (1e-9, 0.3, 5)]
)
def test_the_digits_of_an_interval_say_on_which_side_of_0_its_ends_lie(low: float, high: float, decimals: int) -> None:
    from wellposed.core.formats import decimals_between

    assert decimals_between(low, high) == decimals
