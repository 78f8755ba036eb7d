"""Cross-fitted networks: honest of each row, with closed forms for what neighbours say and a density for the spread."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.bayes import nearby, spread
from wellposed.bayes.nearby import Nearby
from wellposed.bayes.predictive import PredictiveNumbers
from wellposed.bayes.spread import Spread


def rows(many: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(many, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_bins_of_a_column_add_up_to_it_also_beyond_the_rows_it_was_fitted_on() -> None:
    x = torch.cat([rows(100, 2), torch.full((100, 1), 3.0), (torch.arange(100.0) % 4)[:, None]], 1)
    code = wp.PiecewiseLinear(x, bins=5)
    far = 3 * rows(50, 4, 1)
    given = code(far).double()
    assert given.shape == (50, 4 + 5 + 5 + 3)  # nothing goes through a constant, and three bins are between four values
    torch.testing.assert_close(given[:, : code.columns] * code.scale + code.mean, far, rtol=1e-5, atol=1e-5)
    for column, start, bins in ((0, 4, 5), (1, 9, 5), (3, 14, 3)):
        edges = code.edges[column]
        back = edges[0] + given[:, start : start + bins] @ edges.diff()
        torch.testing.assert_close(back, far[:, column], rtol=1e-5, atol=1e-5)
    with pytest.raises(wp.DataError, match="fitted on 4 columns; these rows have 3"):
        code(far[:, :3])
    with pytest.raises(wp.DataError, match="needs finite numbers"):
        wp.PiecewiseLinear([[math.nan]])


def test_a_row_left_out_is_predicted_as_the_closed_form_of_a_gaussian_process_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rasmussen & Williams (2006), eq. 5.12, where the neighbours of a row are all other rows."""
    monkeypatch.setattr(nearby, "NEAR", 100)
    x, r = rows(40, 2), rows(40, 1, 1)[:, 0]
    known = Nearby(x / 0.7, r, torch.full((2,), 1 / 0.7).double(), noise=0.2)
    inverse = ((-torch.cdist(x, x) / 0.7).exp() + 0.2 * torch.eye(40)).inverse()
    mean, left = known()
    torch.testing.assert_close(mean, r - inverse @ r / inverse.diagonal())
    torch.testing.assert_close(left, 1 / inverse.diagonal() / 1.2)
    to = (-torch.cdist(x[:3] + 0.1, x) / 0.7).exp()
    torch.testing.assert_close(known(x[:3] + 0.1)[0], to @ inverse @ r)


def test_neighbours_help_where_residuals_are_alike_and_do_no_harm_where_they_are_noise() -> None:
    x = rows(400, 2)
    wave, noise = torch.sin(3 * x[:, 0]), rows(400, 1, 2)[:, 0]
    for r, most in ((wave, 0.1), (noise, 1.02)):
        known = Nearby.fit(x[:300], r[:300])
        mean, _ = known(x[300:])
        assert float((r[300:] - mean).square().mean() / r[300:].square().mean()) < most
    fixed = Nearby(x, wave, None, noise=1.0)
    assert not fixed(x[:2])[0].any()
    assert bool((fixed()[1] == 1).all())


@pytest.fixture
def few_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spread chooses between two ridges in three folds, in a third of the time."""
    monkeypatch.setattr(spread, "FOLDS", 3)
    monkeypatch.setattr(spread, "RIDGES", (1.0, 100.0))


@pytest.mark.usefixtures("few_fits")
def test_a_spread_is_found_and_its_density_is_that_of_its_components() -> None:
    x = rows(1200, 2)
    students = rows(1200, 1, 1)[:, 0] / rows(1200, 4, 2).square().mean(1).sqrt()  # with 4 degrees of freedom
    r = 0.5 * (x[:, 0] * 0.7).exp() * students
    found = Spread.fit(x, r)
    low, high = found(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])).log()
    assert float(high - low) == pytest.approx(1.4, abs=0.15)
    assert found.scales.std() > 0.3  # heavier than a Gaussian's
    stds = found.components(x)[..., None]
    answer = PredictiveNumbers(torch.zeros_like(stds), stds)
    gaussian = PredictiveNumbers.gaussian(torch.zeros(1200), 0.0, r.square().mean().sqrt())
    assert answer.nll(r) < gaussian.nll(r) - 0.1
    low, high = answer.interval(0.9)
    assert float(((r >= low) & (r <= high)).double().mean()) == pytest.approx(0.9, abs=0.02)
    x, r = x[:200], r[:200]
    scaled = Spread.fit(5 * x + 2, 10 * r)  # units change nothing
    torch.testing.assert_close(scaled(5 * x + 2), 10 * Spread.fit(x, r)(x), rtol=1e-2, atol=0)
    with pytest.raises(wp.DataError, match="not all 0"):
        Spread.fit(x, torch.zeros(200))


@pytest.mark.usefixtures("few_fits")
def test_a_spread_fits_rows_of_two_kinds() -> None:
    """One row in ten errs five times as much: a lognormal scale alone covers 0.86 where 0.8 is asked for."""
    wide = rows(2000, 1, 1)[:, 0] > 1.2816
    r = rows(2000, 1, 2)[:, 0] * torch.where(wide, 5.0, 1.0)
    stds = Spread.fit(rows(2000, 1), r).components(rows(2000, 1))[..., None]
    answer = PredictiveNumbers(torch.zeros_like(stds), stds)
    for level in (0.5, 0.8, 0.9):
        low, high = answer.interval(level)
        assert float(((r >= low) & (r <= high)).double().mean()) == pytest.approx(level, abs=0.025)


def network(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))


RECIPE = wp.Recipe(epochs=15, batch_size=32, optimizer={"lr": 3e-2}, stopping={"patience": 0, "keep": "last"})


def wavy(many: int, seed: int) -> tuple[Tensor, Tensor]:
    x = rows(many, 1, seed)
    return x, 3 + torch.sin(2 * x[:, 0]) + 0.1 * (x[:, 0] / 2).exp() * rows(many, 1, seed + 1)[:, 0]


@pytest.mark.usefixtures("few_fits")
def test_rows_are_answered_by_networks_that_have_not_seen_them_and_intervals_cover() -> None:
    x, y = wavy(300, 0)
    found = wp.cross_fit(network, x, y, [RECIPE, RECIPE.replace(epochs=1)], folds=3)
    assert found.members == ("recipe 0", "recipe 1", "recipe 0, log", "recipe 1, log")
    assert sum(found.weights) == pytest.approx(1)
    assert found.weights[0] + found.weights[2] > 0.8
    x_new, y_new = wavy(1000, 7)
    answer = found.predict(x_new)
    assert answer.rmse(y_new) < 0.16
    low, high = answer.interval(0.9)
    assert 0.85 < float(((y_new >= low) & (y_new <= high)).double().mean()) < 0.95
    assert answer.nll(y_new) == pytest.approx(found.held_out.nll(y), abs=0.25)

    other = y.clone()
    other[5] += 1.0
    before, again = (wp.cross_fit(network, x[:60], t[:60], RECIPE.replace(epochs=1), folds=3) for t in (y, other))
    same = [
        torch.equal(one[0](x[5:6].float()), two[0](x[5:6].float()))
        for one, two in zip(before._folds, again._folds, strict=True)
    ]
    assert same.count(True) == 1


@pytest.mark.parametrize(
    ("x", "y"), [(rows(5, 1), rows(5, 1)), (rows(20, 1), rows(19, 1)), (rows(20, 1) * math.inf, rows(20, 1))]
)
def test_rows_that_cannot_be_cross_fitted_are_refused(x: Tensor, y: Tensor) -> None:
    with pytest.raises(wp.DataError, match="10 rows or more of finite numbers"):
        wp.cross_fit(network, x, y, RECIPE)


def test_nothing_to_train_is_refused() -> None:
    for given in ({"recipes": []}, {"recipes": RECIPE, "seeds": []}, {"recipes": RECIPE, "folds": 21}):
        with pytest.raises(wp.InputError, match="needs a recipe, a seed and no more folds than rows"):
            wp.cross_fit(network, rows(20, 1), rows(20, 1), **given)


def test_residuals_of_exactly_zero_leave_the_spread_finite() -> None:
    """Half of them: one of the scales would become 0, and the density of these rows infinite."""
    draw = torch.Generator().manual_seed(0)
    residuals = torch.randn(120, generator=draw) * (torch.arange(120) % 2)
    found = Spread.fit(torch.randn(120, 1, generator=draw), residuals).components(torch.zeros(1, 1))
    assert bool(torch.isfinite(found).all())
    assert float(found.min()) > 0
