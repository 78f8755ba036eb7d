"""Calibration and its guarantees: against scikit-learn, published identities, and draws whose truth is known."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

import wellposed as wp
from wellposed.bayes.calibration import _equal_bins
from wellposed.bayes.out_of_distribution import auroc, energy, least_confidence, mahalanobis, neighbours
from wellposed.core.errors import DataError, InputError, TargetError

pytest.importorskip("sklearn")


def too_sure(rows: int, classes: int, seed: int = 0, factor: float = 3.0) -> tuple[Tensor, Tensor]:
    """Outputs that are ``factor`` times as large as those that the labels were drawn from."""
    draw = torch.Generator().manual_seed(seed)
    true = 1.5 * torch.randn(rows, classes, generator=draw, dtype=torch.float64)
    return factor * true, torch.multinomial(true.softmax(1), 1, generator=draw)[:, 0]


# Calibration maps


def test_the_temperature_is_the_one_that_made_the_outputs_too_large_and_has_the_highest_likelihood() -> None:
    outputs, y = too_sure(4000, 4)
    found = wp.calibrate(outputs, y)
    assert found.temperature == pytest.approx(3.0, rel=0.06)
    cost = lambda t: torch.nn.functional.cross_entropy(outputs / t, y).item()  # noqa: E731
    assert cost(found.temperature) <= min(cost(found.temperature * f) for f in (0.99, 1.01)) + 1e-12
    torch.testing.assert_close(found.predict(outputs), (outputs / found.temperature).softmax(1))
    # As probabilities they are the same rows, and a temperature is the same power of them.
    again = wp.calibrate(outputs.softmax(1), y)
    assert again.temperature == pytest.approx(found.temperature, rel=1e-9)
    torch.testing.assert_close(again.predict(outputs.softmax(1)), found.predict(outputs))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("how", ["platt", "isotonic"])
def test_platt_and_isotonic_are_scikit_learns(how: str, classes: int) -> None:
    from sklearn.calibration import _SigmoidCalibration
    from sklearn.isotonic import IsotonicRegression

    outputs, y = too_sure(400, classes)
    chances = outputs.softmax(1)
    columns = []
    for k in range(classes) if classes > 2 else [1]:
        model = _SigmoidCalibration() if how == "platt" else IsotonicRegression(out_of_bounds="clip")
        given = (chances.logit() if how == "platt" else chances)[:, k].numpy()
        columns.append(model.fit(given, (y == k).double().numpy()).predict(given))
    found = np.stack(columns, 1)
    wanted = np.concatenate([1 - found, found], 1) if classes == 2 else found / found.sum(1, keepdims=True)
    np.testing.assert_allclose(wp.calibrate(outputs, y, how).predict(outputs).numpy(), wanted, atol=2e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["temperature", "platt", "isotonic", "venn_abers"])
@pytest.mark.parametrize("single", [False, True])
def test_every_map_brings_overconfident_outputs_nearer_to_the_truth_on_other_rows(how: str, single: bool) -> None:
    outputs, y = too_sure(1500, 2 if single else 3)
    given = outputs[:, 1] - outputs[:, 0] if single else outputs
    fitted, rest = slice(0, 700), slice(700, None)
    found = wp.calibrate(given[fitted], y[fitted], how)  # type: ignore[arg-type]
    told = found.predict(given[rest])
    assert told.shape == given[rest].shape
    assert bool(((told >= 0) & (told <= 1)).all())
    if not single:
        torch.testing.assert_close(told.sum(1), torch.ones(800, dtype=torch.float64))
    before = wp.calibration(given[rest], y[rest])
    after = wp.calibration(told, y[rest])
    assert before.p_value < 0.01
    assert after.error < 0.5 * before.error
    with pytest.raises(DataError, match="fitted to"):
        found.predict(outputs[:, :1].repeat(1, 5))


def test_one_of_the_two_probabilities_of_venn_abers_is_calibrated_whatever_the_network() -> None:
    """``E[y | p_y] = p_y`` exactly, of a score that is miscalibrated and on few rows (Vovk, Petej & Fedorova, theorem 1)."""
    rng = np.random.default_rng(0)
    told, came = [], []
    for _ in range(600):
        chance = rng.uniform(size=13)
        y = (rng.uniform(size=13) < chance).astype(int)
        score = chance**4  # far from calibrated
        if len(set(y[:12])) < 2:
            continue
        low, high = wp.calibrate(score[:12], y[:12], "venn_abers").interval(score[12:])
        assert float(low) <= float(high)
        told.append(float(high if y[12] else low))
        came.append(float(y[12]))
    told_, came_ = np.array(told), np.array(came)
    for part in (told_ < 0.35, (told_ >= 0.35) & (told_ < 0.7), told_ >= 0.7):
        off = came_[part] - told_[part]
        assert abs(off.mean()) < 3.5 * off.std() / math.sqrt(part.sum())


def test_venn_abers_is_two_isotonic_fits_with_the_row_among_them() -> None:
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(1)
    score = rng.integers(0, 12, 40) / 12
    y = (rng.uniform(size=40) < score).astype(int)
    new = np.array([0.0, 0.25, 0.3, 1.0])
    found = wp.calibrate(score, y, "venn_abers").interval(new)
    for label, side in enumerate(found):
        for s, p in zip(new, side.tolist(), strict=True):
            model = IsotonicRegression().fit(np.append(score, s), np.append(y, label))
            assert p == pytest.approx(model.predict([s])[0])


def test_what_cannot_be_calibrated_is_said() -> None:
    outputs, y = too_sure(60, 3)
    right = torch.nn.functional.one_hot(y, 3).double()
    cases = [
        (lambda: wp.calibrate(4 * right, y), "No temperature is the best: all 60 rows"),
        (lambda: wp.calibrate(outputs, torch.zeros(60)), "two classes or more; all 60 are of class 0"),
        (lambda: wp.calibrate(outputs, y[:5]), "one label for each of the 60 rows"),
        (lambda: wp.calibrate(outputs * math.nan, y), "finite numbers of shape"),
        (lambda: wp.calibrate(outputs, y, training=outputs), "rows of its own: 60 of the 60 rows"),
        (lambda: wp.calibrate(outputs.softmax(1), y).predict(outputs), "fitted to probabilities"),
        (lambda: wp.calibrate(outputs, y, "platt").interval(outputs), "needs how='venn_abers' and two classes"),
        (lambda: wp.calibration(outputs[:9], y[:9]), "at least 20 rows; there are 9"),
        (lambda: wp.calibration(outputs, y + 1), "label 3 needs 4 outputs"),
    ]
    for enter, match in cases:
        with pytest.raises((DataError, TargetError), match=match):
            enter()
    wp.calibrate(outputs, y, training=outputs + 1e-3)
    worse = wp.calibrate(-outputs, y)  # outputs that say less than nothing
    assert worse.temperature == math.inf
    torch.testing.assert_close(worse.predict(outputs), torch.full((60, 3), 1 / 3, dtype=torch.float64))


# The error of calibration


def test_the_error_has_no_bias_and_its_interval_and_p_value_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap of 0.1 everywhere, and none: over 300 draws of 400 rows the interval holds the truth, and p-values are uniform."""
    monkeypatch.setattr("wellposed.bayes.calibration.DRAWS", 199)
    rng = np.random.default_rng(0)
    for gap in (0.0, 0.1):
        squares, inside, p_values, plain = [], 0, [], []
        for seed in range(300):
            sure = rng.uniform(0.2, 0.9, 400)
            found = wp.calibration(sure, (rng.uniform(size=400) < sure - gap).astype(int), seed=seed)
            squares.append(found.error**2)
            inside += found.low <= gap <= found.high
            p_values.append(found.p_value)
            plain.append(found.ece)
        assert inside / 300 >= 0.92
        if gap:
            assert np.mean(squares) == pytest.approx(gap**2, rel=0.12)
            assert np.mean(np.array(p_values) < 0.05) > 0.7
        else:
            assert np.mean(plain) > 0.05  # of a perfect model: the usual number is biased
            assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.06)
            assert found.ece_by_chance == pytest.approx(np.mean(plain), rel=0.15)


def test_bins_have_equally_many_rows_and_equal_confidences_share_one() -> None:
    draw = np.random.default_rng(0)
    count = np.bincount(_equal_bins(draw.uniform(size=1000), 10))
    assert len(count) == 10
    assert count.min() >= 99
    tied = _equal_bins(np.repeat([0.1, 0.5, 0.9], [1, 60, 39]), 10)
    assert np.bincount(tied).tolist() == [61, 39]
    for values in (np.full(30, 0.5), np.append(np.full(29, 0.5), 0.9)):
        assert np.bincount(_equal_bins(values, 3)).min() >= 2


def test_the_reliability_diagram_and_the_sentence_say_the_numbers() -> None:
    outputs, y = too_sure(2000, 4)
    found = wp.calibration(outputs, y)
    assert sum(one.rows for one in found.bins) == 2000
    assert all(one.low <= one.right <= one.high for one in found.bins)
    assert re.search(r"Confidences are 0\.\d+ off.*they are not calibrated \(p = 0\.001\)", str(found))
    pytest.importorskip("matplotlib")
    svg = found.figure()
    assert svg.startswith("<svg")
    assert "confidence" in svg
    assert f"{found.bins[0].right:.3f} at {found.bins[0].confidence:.3f}" in svg


# Intervals of numbers


def test_conformal_intervals_hold_their_level_whatever_the_prediction() -> None:
    """Between ``level`` and ``level + 1/(rows + 1)`` on average, of a prediction that is wrong and skew noise."""
    rng, rows = np.random.default_rng(0), 19
    held = []
    for _ in range(3000):
        y = rng.exponential(size=rows + 1)
        guess = rng.normal(size=rows + 1)
        found = wp.conformal(guess[:rows], guess[:rows] + 0.5, y[:rows], 0.8)
        low, high = found.predict(guess[rows:], guess[rows:] + 0.5)
        held.append(float(low) <= y[rows] <= float(high))
    error = 3 * math.sqrt(0.16 / 3000)
    assert 0.8 - error <= np.mean(held) <= 0.8 + 1 / (rows + 1) + error
    assert "not for each kind of row by itself" in str(found)


def test_conformal_refuses_too_few_rows() -> None:
    with pytest.raises(DataError, match=r"0.9 of new targets needs at least 9 rows of calibration; there are 8"):
        wp.conformal([0.0] * 8, [0.0] * 8, [1.0] * 8)
    assert wp.conformal([0.0] * 9, [0.0] * 9, range(9)).margin == 8.0
    assert wp.conformal([-5.0] * 99, [5.0] * 99, [0.0] * 99).margin == -5.0  # too wide ones are narrowed
    low, high = wp.conformal([-5.0] * 99, [5.0] * 99, [0.0] * 99).predict([0.0, 0.0], [2.0, 20.0])
    assert (low.tolist(), high.tolist()) == ([1.0, 5.0], [1.0, 15.0])  # but not beyond their middle
    for counts in ([5.0] * 99, [1.0] * 15 + [1e-9] * 84):  # rows that all count alike, and rows that hardly count
        assert wp.conformal([0.0] * 99, [0.0] * 99, range(99), 0.9, counts).margin == (
            89.0 if counts[-1] == 5.0 else 14.0
        )
    with pytest.raises(DataError, match="needs counts= above 0"):
        wp.conformal([0.0] * 9, [0.0] * 9, range(9), 0.9, [0.0] * 9)
    with pytest.raises(DataError, match=r"one shape \(rows,\); they have \(2,\), \(2,\), \(3,\)"):
        wp.conformal([0.0] * 2, [0.0] * 2, [0.0] * 3)


# Which rows to answer, and which are strange


def test_the_area_is_the_mean_risk_and_the_threshold_keeps_its_promise() -> None:
    rng = np.random.default_rng(0)
    assert wp.risk_coverage([3.0, 2.0, 1.0], [0, 1, 0]).risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3])
    broken, shares = 0, []
    for _ in range(200):
        score = rng.uniform(size=1500)
        wrong = rng.uniform(size=1500) < 0.4 * (1 - score)  # of rows above t a share of 0.2 (1 - t)
        found = wp.risk_coverage(score, wrong).threshold(0.15, confidence=0.9)
        broken += 0.2 * (1 - max(found.threshold, 0.0)) > 0.15
        shares.append(found.coverage)
        assert found.wrong <= found.bound <= 0.15
    assert broken / 200 <= 0.1
    assert np.mean(shares) > 0.5  # 0.75 where the risks are known
    with pytest.raises(DataError, match=r"No threshold keeps.*below 0.001 with confidence 0.95 on 50 rows"):
        wp.risk_coverage(rng.uniform(size=50), rng.integers(0, 2, 50)).threshold(0.001)
    with pytest.raises(DataError, match="0 or 1 in the second"):
        wp.risk_coverage([0.1, 0.2], [2, 0])
    best = wp.risk_coverage(score, wrong)
    assert best.best < best.area < wrong.mean()


def test_scores_of_strange_rows_are_their_formulas_and_tell_far_rows_apart() -> None:
    scipy_distance = pytest.importorskip("scipy.spatial.distance")
    draw = torch.Generator().manual_seed(0)
    known = torch.randn(300, 4, generator=draw).double()
    labels = torch.arange(300) % 3
    known[:, 0] += 3.0 * labels
    near, far = known[:50] + 0.1, torch.randn(50, 4, generator=draw).double() - 6.0
    means = torch.stack([known[labels == c].mean(0) for c in range(3)])
    within = known - means[labels]
    inverse = np.linalg.inv((within.T @ within / 300).numpy())
    by_hand = [min(scipy_distance.mahalanobis(x, m, inverse) ** 2 for m in means.numpy()) for x in near.numpy()]
    np.testing.assert_allclose(mahalanobis(near, known, labels).numpy(), by_hand, rtol=1e-4)
    unit = torch.nn.functional.normalize
    nearest = torch.cdist(unit(near), unit(known)).sort(1).values[:, 4]
    torch.testing.assert_close(neighbours(near, known, 5), nearest, atol=1e-6, rtol=1e-6)
    for score in (lambda x: mahalanobis(x, known, labels), lambda x: neighbours(x, known)):
        assert auroc(score(near), score(far)) > 0.9
    outputs = torch.randn(6, 3, generator=draw).double()
    torch.testing.assert_close(least_confidence(outputs), 1 - outputs.softmax(1).amax(1))
    torch.testing.assert_close(energy(outputs, 2.0), -2 * (outputs / 2).exp().sum(1).log())
    from sklearn.metrics import roc_auc_score

    a, b = torch.randn(30, generator=draw), torch.randn(20, generator=draw) + 0.5
    wanted = roc_auc_score([0] * 30 + [1] * 20, torch.cat([a, b]).numpy())
    assert auroc(a, b) == pytest.approx(wanted)
    with pytest.raises(InputError, match="equally many columns; they have 3 and 4"):
        neighbours(outputs, known)


# What a head says


def test_a_head_is_a_predictive_distribution() -> None:
    outputs = torch.tensor([[1.0, 0.0], [5.0, 2 * math.log(3.0)]])
    told = wp.distribution_of("gaussian", outputs)
    same = wp.distribution_of("gaussian_mixture:1", torch.cat([torch.zeros(2, 1), outputs], 1))
    y = [0.0, 7.0]
    for one in (told, same):
        assert one.std.tolist() == pytest.approx([1.0, 3.0])
        assert one.interval(0.9)[1].tolist() == pytest.approx([1 + 1.6448536, 5 + 3 * 1.6448536])
    assert same.nll(y) == pytest.approx(told.nll(y))
    assert same.crps(y) == pytest.approx(told.crps(y))
    wide = told.rescaled(10.0, 3.0)
    assert wide.mean.tolist() == pytest.approx([13.0, 53.0])
    assert wide.nll([3.0, 73.0]) == pytest.approx(told.nll(y) + math.log(10.0))
    from wellposed.bayes.predictive import PredictiveNumbers

    other = PredictiveNumbers.gaussian(outputs[:, 0], 0.0, (0.5 * outputs[:, 1]).exp())
    assert (other.nll(y), other.crps(y)) == (pytest.approx(told.nll(y)), pytest.approx(told.crps(y)))
    assert wp.distribution_of("ordinal", [[0.0, 0.0]]).probabilities.tolist() == [pytest.approx([1 / 2, 1 / 6, 1 / 3])]
    assert wp.distribution_of("binary_cross_entropy", [0.0]).probabilities.tolist() == [[0.5, 0.5]]
    quantiles = wp.distribution_of("quantiles:0.1,0.5,0.9", [[3.0, 1.0, 2.0]])  # which cross
    assert [float(end) for end in quantiles.interval(0.8)] == [1.0, 3.0]
    assert quantiles.mean.tolist() == [2.0]
    for enter, match in [
        (lambda: wp.distribution_of("squared_error", [0.0]), "gives one number for each target, and no distribution"),
        (lambda: wp.distribution_of("gaussian", [[0.0]]), "needs 2 outputs for each number"),
        (lambda: wp.distribution_of("gaussian", [[math.nan, 0.0]]), "the training diverged"),
        (lambda: told.nll([0.0]), r"finite numbers of shape \(2,\)"),
        (lambda: quantiles.std, "no standard deviation"),
    ]:
        with pytest.raises(InputError, match=match):
            enter()


# In a study


def test_the_report_shows_the_diagram_of_the_untouched_rows_with_its_number() -> None:
    from wellposed.reporting.html import render
    from wellposed.search.confirmation import reliability

    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=draw)
    y = (x[:, 0] + torch.randn(400, generator=draw) > 0).long()
    recipe = wp.Recipe(epochs=3, optimizer={"name": "adam", "lr": 0.05})
    runs = {
        loss: wp.fit(wp.Problem(lambda n=n: torch.nn.Linear(3, n), loss, wp.Data((x, t), valid=0.3, test=0.3)), recipe)
        for loss, n, t in (
            ("cross_entropy", 2, y),
            ("binary_cross_entropy", 1, y[:, None].float()),
            ("squared_error", 1, x[:, :1]),
        )
    }
    assert reliability(runs["squared_error"]) is None
    for loss in ("cross_entropy", "binary_cross_entropy"):
        found = reliability(runs[loss])
        assert found is not None
        assert found["rows"] == 120
        assert 0 <= found["low"] <= found["error"] <= found["high"]
    pytest.importorskip("jinja2")
    page = render({"schema": 1, "calibration": {"baseline": found, "best": found}})
    assert page.count("off the share that is right") == 2
    assert 'id="calibration"' in page
    for damaged in ({}, {"bins": 3}, {**found, "bins": [{"confidence": "x"}]}, {**found, "error": None}, [1]):
        assert 'id="calibration"' not in render({"schema": 1, "calibration": {"best": damaged}})
