"""The loss against the number of rows: what is trained on, what is fitted, and what is said of more rows."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from benchmarks.tradeoff import learning_curves, needed
from torch import nn

import wellposed as wp
from wellposed.core.drawing import standalone
from wellposed.core.errors import InputError, TrainingError
from wellposed.decomposition import learning_curve
from wellposed.decomposition.learning_curve import (
    HELP,
    NOT,
    UNKNOWN,
    LearningCurve,
    RecipeCurve,
    as_many_steps,
    curve_of,
    level_of,
    row_counts,
)
from wellposed.statistics import power_law
from wellposed.statistics.power_law import Prediction, fit_power_law

SIZES = np.array([100.0, 200, 400, 700, 1000])


def runs(loss: np.ndarray, noise: float, count: int = 5, seed: int = 0) -> np.ndarray:
    """Losses ``(sizes, runs)`` with a relative noise."""
    return np.asarray(loss[:, None] * (1 + noise * np.random.default_rng(seed).normal(size=(len(loss), count))))


def law(floor: float, height: float, rate: float, sizes: np.ndarray = SIZES) -> np.ndarray:
    return np.asarray(floor + height * (sizes / 1000) ** -rate)


# --- the fit


@pytest.mark.parametrize(
    ("floor", "height", "rate"), [(0.2, 0.3, 0.7), (0.0, 0.5, 0.3), (0.4, 0.1, 1.2), (0.5, 0.0, 1.0)]
)
def test_a_power_law_is_found_beyond_its_sizes(floor: float, height: float, rate: float) -> None:
    found = fit_power_law(SIZES, runs(law(floor, height, rate), 0.01))
    for rows in (1000, 2000, 4000):
        true = float(law(floor, height, rate, np.array([rows]))[0])
        said = found.at(rows, level=0.999)
        assert said.low < true < said.high
        assert said.estimate == pytest.approx(true, rel=0.05 if rows <= 2000 else 0.1)
    gain = found.gain(2000)
    assert gain.estimate == pytest.approx(found.at(1000).estimate - found.at(2000).estimate)
    assert found.gain(1000).estimate == pytest.approx(0, abs=1e-12)
    assert abs(found.weight.sum() - 1) < 1e-12
    assert 0 <= found.floor <= found.at(1000).estimate


def test_intervals_of_the_law_cover() -> None:
    """Over laws with any floor and rate: the interval at twice the rows, and that of the gain."""
    rng = np.random.default_rng(1)
    covered = {"loss": 0, "gain": 0}
    count = 200
    for seed in range(count):
        share, rate = rng.uniform(), np.exp(rng.uniform(np.log(0.1), np.log(1.5)))
        truth = (law(1 - share, share, rate, np.array([1000.0]))[0], law(1 - share, share, rate, np.array([2000.0]))[0])
        found = fit_power_law(SIZES, runs(law(1 - share, share, rate), 0.03, seed=seed))
        loss, gain = found.at(2000), found.gain(2000)
        covered["loss"] += loss.low <= truth[1] <= loss.high
        covered["gain"] += gain.low <= truth[0] - truth[1] <= gain.high
    assert min(covered.values()) > 0.91 * count, covered


def test_noise_widens_and_a_wrong_law_widens() -> None:
    quiet, loud = (fit_power_law(SIZES, runs(law(0.2, 0.3, 0.7), noise)).gain(2000) for noise in (0.01, 0.2))
    assert loud.high - loud.low > 2 * (quiet.high - quiet.low)
    bent = law(0.2, 0.3, 0.7) * np.array([1, 1.3, 0.8, 1.2, 1])
    wrong = fit_power_law(SIZES, runs(bent, 0.01)).gain(2000)
    assert wrong.high - wrong.low > 2 * (quiet.high - quiet.low)


def test_a_loss_that_rises_with_rows_promises_nothing() -> None:
    found = fit_power_law(SIZES, runs(np.array([0.5, 0.55, 0.6, 0.65, 0.7]), 0.01)).gain(2000)
    assert found.low == pytest.approx(0, abs=0.02)
    assert np.isfinite([found.estimate, found.high]).all()


def test_no_more_can_be_gained_than_the_gap() -> None:
    """Training loss is a floor: the gain is less than what lies above it, whatever the sizes seem to promise."""
    table = runs(law(0.2, 0.3, 0.7), 0.03)
    free, bound = fit_power_law(SIZES, table).gain(2000), fit_power_law(SIZES, table, floor=0.45).gain(2000)
    assert free.estimate > 0.09
    assert 0 <= bound.estimate < 0.05
    assert fit_power_law(SIZES, table, floor=9.0).gain(2000).estimate < 0.01


def test_scale_changes_nothing() -> None:
    table = runs(law(0.2, 0.3, 0.7), 0.02)
    one, other = fit_power_law(SIZES, table).gain(2000), fit_power_law(SIZES * 7, table * 100).gain(14000)
    assert other.estimate == pytest.approx(100 * one.estimate)
    assert other.low == pytest.approx(100 * one.low, rel=1e-5)


def test_a_fit_that_trusts_its_curve_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the spread of the runs the interval is of the law alone, and does not cover."""
    monkeypatch.setattr(power_law, "standard_errors", lambda sizes, table: np.full(len(table), 1e-3))
    with pytest.raises(AssertionError):
        test_intervals_of_the_law_cover()


def test_losses_that_have_no_law() -> None:
    with pytest.raises(InputError, match="at least 4 sizes"):
        fit_power_law(SIZES[:3], np.ones((3, 5)))
    with pytest.raises(InputError, match="at least 4 sizes"):
        fit_power_law(SIZES, np.ones((5, 1)))
    for table in (np.full((5, 2), np.nan), -np.ones((5, 2))):
        with pytest.raises(InputError, match="above 0"):
            fit_power_law(SIZES, table)
    with pytest.raises(InputError, match="rise"):
        fit_power_law(SIZES[::-1], np.ones((5, 2)))


# --- the verdict


def curve(loss: np.ndarray, noise: float = 0.01, train: float = 0.0, rows: int = 400, draws: int = 5) -> RecipeCurve:
    """From losses of rows and draws with that mean."""
    rng = np.random.default_rng(2)
    common = rng.gamma(2.0, size=(1, rows))
    levels = []
    for n, mean in zip(SIZES, loss, strict=True):
        table = mean * (common / common.mean()) * (1 + noise * rng.normal(size=(draws, 1)))
        levels.append(level_of(int(n), table, np.ones(rows), [train] * draws))
    return curve_of("one", wp.Recipe(), levels)


def told(found: RecipeCurve) -> str | None:
    findings = LearningCurve((found,), "squared_error", "test", 400, 5, 0.05).findings()
    return findings[0].name + " " + findings[0].pulls if findings else None


def test_verdicts() -> None:
    steep = curve(law(0.1, 0.4, 0.6), train=0.02)
    assert (steep.verdict, told(steep)) == (HELP, "overfits data")
    assert steep.gain is not None
    assert steep.gain.low < 0.4 * (1 - 2**-0.6) < steep.gain.high
    flat = curve(law(0.5, 0.005, 1.0), train=0.5, rows=4000)
    assert (flat.verdict, told(flat)) == (NOT, "underfits capacity")
    gap = curve(law(0.5, 0.005, 1.0), train=0.1)
    assert (gap.verdict, told(gap)) == (NOT, None)
    noisy = curve(law(0.4, 0.1, 0.6), noise=0.3)
    assert (noisy.verdict, told(noisy)) == (UNKNOWN, "not_enough_evidence data")


def test_a_loss_that_rises_is_a_matter_of_optimization() -> None:
    found = curve(np.array([0.5, 0.4, 0.3, 0.35, 0.4]))
    assert (found.verdict, found.rises, told(found)) == (UNKNOWN, 700, "not_enough_evidence data")
    assert "the loss rises at 700 rows. Next: more epochs" in str(
        LearningCurve((found,), "squared_error", "test", 400, 5, 0.05)
    )
    assert curve(law(0.4, 0.0, 1.0), noise=0.1).rises == 0


def test_a_gain_is_no_surer_than_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and rows without end leave a quarter of the gain; of no gain they leave nothing."""
    curves = law(0.1, 0.4, 0.6), law(0.4, 0.0, 1.0)
    steep, flat = (curve(loss, noise=0.001, rows=4000).gain for loss in curves)
    monkeypatch.setattr(learning_curve, "SHAPE", 0.0)
    trusting, resting = (curve(loss, noise=0.001, rows=4000).gain for loss in curves)
    assert steep is not None
    assert trusting is not None
    assert flat is not None
    assert resting is not None
    assert steep.estimate - steep.low > 1.96 * 0.25 * steep.estimate > trusting.estimate - trusting.low
    assert flat.high - flat.low < 1.05 * (resting.high - resting.low)
    wide = Prediction(1.0, 0.7, 1.6).wider(0.4 / 1.96)
    assert (wide.low, wide.high) == pytest.approx((0.5, 1 + 0.52**0.5))


def test_rows_that_differ_widen_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_curve, "SHAPE", 0.0)  # which is the same for few rows and many
    few, many = (curve(law(0.1, 0.4, 0.6), rows=rows).gain for rows in (10, 4000))
    assert few is not None
    assert many is not None
    assert few.high - few.low > 1.2 * (many.high - many.low)


def test_few_rows_show_what_the_exact_test_of_their_signs_shows() -> None:
    """Of 5 rows no signs show anything, of 6 alike they do; a rise is one of four comparisons, which needs 8."""
    alike = np.array([0.5, 0.4, 0.3, 0.35, 0.4])
    for rows, shown in ((5, False), (6, True), (8, True)):
        steep, rising = (curve(loss, noise=0.001, train=0.02, rows=rows) for loss in (law(0.1, 0.4, 0.6), alike))
        assert steep.verdict == (HELP if shown else UNKNOWN)
        assert (steep.last.gap.low > 0) == shown
        assert bool(rising.rises) == (rows == 8)
        pair = (steep, replace(rising, name="other"))
        between = LearningCurve(pair, "squared_error", "test", rows, 5, 0.05).differences("one", "other")
        assert any(not interval.holds_zero for interval in between.values()) == shown


def test_few_sizes_have_no_law() -> None:
    levels = [level_of(n, np.ones((3, 5)), np.ones(5), [0.0] * 3) for n in (10, 20)]
    found = curve_of("one", wp.Recipe(), levels)
    assert (found.law, found.gain, found.verdict) == (None, None, UNKNOWN)
    assert "needs 4 sizes" in str(LearningCurve((found,), "squared_error", "test", 5, 3, 0.05))


def test_weighted_rows_have_the_weighted_mean() -> None:
    losses, weight = np.array([[1.0, 2, 4], [2, 2, 6]]), np.array([2.0, 1, 1])
    share = weight / weight.mean()
    level = level_of(10, losses * share, share, [0.5, 0.5])
    assert level.valid.estimate == pytest.approx(float((losses * weight).sum(1).mean() / weight.sum()))
    assert level.gap.estimate == pytest.approx(level.valid.estimate - 0.5)


# --- from a problem


def problem() -> wp.Problem:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(700, 6, generator=draw)
    y = x[:, :1] - x[:, 1:2] + 0.5 * torch.randn(700, 1, generator=draw)
    data = wp.Data(train=(x[:200], y[:200]), valid=(x[200:400], y[200:400]), test=(x[400:], y[400:]))

    def net(width: int = 32) -> nn.Module:
        return nn.Sequential(nn.Linear(6, width), nn.SiLU(), nn.Linear(width, 1))

    return wp.Problem(net, "squared_error", data)


@pytest.fixture(scope="module")
def measured() -> LearningCurve:
    # The last epoch's weights: regularization is what keeps a large network on few rows from harm.
    plain = wp.Recipe(epochs=30, batch_size=50, optimizer={"lr": 0.02}, stopping={"patience": 0, "keep": "last"})
    decayed = plain.replace(terms=[{"penalty": "l2", "strength": 3.0}])
    return wp.learning_curve(problem(), {"plain": plain, "decayed": decayed}, sizes=(0.25, 0.4, 0.7, 1.0), repeats=5)


def test_gaps_close_with_rows_and_regularization_is_needed_where_they_are_few(measured: LearningCurve) -> None:
    plain = measured.curve("plain")
    assert [level.rows for level in plain.levels] == [50, 80, 140, 200]
    gaps = [level.gap.estimate for level in plain.levels]
    assert gaps[0] > 2 * gaps[-1] > 0
    needed = measured.differences("plain", "decayed")
    assert needed[50].low > 0
    assert needed[200].low < 0
    assert needed[50].estimate > 3 * needed[200].estimate
    assert plain.gain is not None
    assert plain.gain.low > 0
    with pytest.raises(InputError, match="no recipe 'other'"):
        measured.curve("other")


def test_what_is_shown_and_saved(measured: LearningCurve) -> None:
    text = str(measured)
    assert "5 draws of each size" in text
    assert "At 400 rows the loss would fall by" in text
    saved = json.loads(json.dumps(measured.to_dict()))
    assert saved["curves"][0]["levels"][0]["rows"] == 50
    assert saved["curves"][0]["gain"]["low"] > 0


def test_figures_name_what_they_show(measured: LearningCurve) -> None:
    for svg, words in (
        (learning_curves("one", measured), {"plain", "decayed", "50", "400", "training rows"}),
        (needed("two", measured, [("plain", "decayed")]), {"plain", "50", "200", "training rows"}),
    ):
        alone = standalone(svg)
        assert words <= {text.strip() for text in ElementTree.fromstring(alone).itertext()}
        assert "var(--" not in alone
        assert "nan" not in alone
    escaped = replace(measured, curves=tuple(replace(c, name="<script>") for c in measured.curves))
    assert "<script>" not in learning_curves("three", escaped)


def test_every_size_has_as_many_steps() -> None:
    recipe = wp.Recipe(epochs=10, batch_size=32, stopping={"patience": 3})
    few = as_many_steps(recipe, 64, 640)
    assert (few.epochs, few.stopping.patience) == (100, 30)
    assert as_many_steps(recipe, 640, 640) == recipe
    assert as_many_steps(recipe.replace(stopping={"patience": 0}), 64, 640).stopping.patience == 0
    assert (as_many_steps(recipe, 5, 640).epochs, as_many_steps(recipe, 5, 640).batch_size) == (200, 5)
    assert as_many_steps(recipe, 33, 640).batch_size == 33  # not 32 and a single row
    assert as_many_steps(recipe, 100, 640).batch_size == 34
    assert as_many_steps(recipe.replace(schedule={"name": "plateau", "patience": 4}), 64, 640).schedule.patience == 40
    small = as_many_steps(recipe.replace(batch_size=2), 9, 640)  # three batches of three rows, not four of two
    assert (small.batch_size, small.epochs) == (3, round(10 * 320 / 3))
    several = as_many_steps(recipe.replace(accumulate=2), 100, 640)
    assert (several.batch_size, several.epochs) == (25, 50)


def test_sizes() -> None:
    assert row_counts((1.0, 0.1, 50), 200) == [20, 50, 200]
    for sizes in ((0.001, 1.0), (300, 1.0), (0.5,), (1, 200)):
        with pytest.raises(InputError):
            row_counts(sizes, 200)


def test_input_that_cannot_be_used() -> None:
    recipe = wp.Recipe(epochs=1)
    with pytest.raises(InputError, match="at least 2 repeats"):
        wp.learning_curve(problem(), recipe, repeats=1)
    with pytest.raises(InputError, match="matters="):
        wp.learning_curve(problem(), recipe, matters=0)
    with pytest.raises(TrainingError, match="Give more time"):
        wp.learning_curve(problem(), recipe, repeats=2, deadline=0.0)
    wild = wp.Recipe(epochs=6, batch_size=20, optimizer={"name": "sgd", "lr": 1e8}, stopping={"keep": "last"})
    with pytest.raises(TrainingError, match="'wild' diverged: lower its learning rate"):
        wp.learning_curve(problem(), {"tame": recipe, "wild": wild}, repeats=2)
