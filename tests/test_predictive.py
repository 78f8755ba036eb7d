"""Predictive distributions against scipy and torch.distributions: moments, quantiles, densities, CRPS, entropies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from wellposed.bayes.predictive import PredictiveClasses, PredictiveNumbers
from wellposed.core.errors import DataError, InputError


def mixture(components: int, rows: int = 6, outputs: int = 1, seed: int = 0) -> PredictiveNumbers:
    draws = torch.Generator().manual_seed(seed)
    means = torch.randn(components, rows, outputs, generator=draws, dtype=torch.float64) * 2
    stds = torch.rand(components, rows, outputs, generator=draws, dtype=torch.float64) + 0.2
    return PredictiveNumbers(means, stds)


def in_torch(given: PredictiveNumbers) -> MixtureSameFamily:
    each = Independent(Normal(given.means.movedim(0, 1), given.stds.movedim(0, 1)), 1)
    return MixtureSameFamily(Categorical(torch.ones(each.batch_shape, dtype=torch.float64)), each)


@pytest.mark.parametrize(("components", "outputs"), [(1, 1), (5, 1), (3, 2)])
def test_moments_density_and_quantiles_are_those_of_the_mixture(components: int, outputs: int) -> None:
    given = mixture(components, outputs=outputs)
    known = in_torch(given)
    y = torch.linspace(-2, 3, 6 * outputs, dtype=torch.float64).reshape(6, outputs)
    torch.testing.assert_close(given.mean.reshape(6, outputs), known.mean)
    torch.testing.assert_close(given.std.reshape(6, outputs), known.variance.sqrt())
    assert given.nll(y) == pytest.approx(-float(known.log_prob(y).mean()), abs=1e-12)
    for level, ends in ((0.9, given.interval(0.9)), (0.5, given.interval(0.5))):
        for p, end in zip(((1 - level) / 2, (1 + level) / 2), ends, strict=True):
            cdf = stats.norm.cdf(end.reshape(6, outputs).numpy(), given.means.numpy(), given.stds.numpy()).mean(0)
            np.testing.assert_allclose(cdf, p, atol=1e-12)


@pytest.mark.parametrize(("components", "block"), [(1, 2**24), (4, 2**24), (4, 32)])
def test_crps_is_the_integral_of_the_squared_distance_of_distribution_functions(
    components: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wellposed.bayes.predictive.LARGEST_BLOCK", block)
    given, y = mixture(components), np.linspace(-2, 3, 6)
    values = []
    for row in range(6):
        mean, std = given.means[:, row, 0].numpy(), given.stds[:, row, 0].numpy()

        def gap(x: float, above: float, mean: np.ndarray = mean, std: np.ndarray = std) -> float:
            return float((stats.norm.cdf(x, mean, std).mean() - above) ** 2)

        below = integrate.quad(gap, -30, y[row], args=(0.0,), epsabs=1e-12, limit=200)[0]
        values.append(below + integrate.quad(gap, y[row], 30, args=(1.0,), epsabs=1e-12, limit=200)[0])
    assert given.crps(y) == pytest.approx(np.mean(values), abs=1e-8)


def test_scores_follow_the_units_of_the_targets() -> None:
    given, y = mixture(3), torch.linspace(-2, 3, 6, dtype=torch.float64)
    other = given.rescaled(10.0, 5.0)
    assert other.nll(10 * y + 5) == pytest.approx(given.nll(y) + np.log(10))
    assert other.crps(10 * y + 5) == pytest.approx(10 * given.crps(y))
    assert other.rmse(10 * y + 5) == pytest.approx(10 * given.rmse(y))


def test_total_variance_is_epistemic_plus_aleatoric() -> None:
    one = PredictiveNumbers.gaussian([0.0, 1.0], torch.tensor([3.0, 0.0]), 4.0)
    assert one.std.tolist() == [5.0, 4.0]
    assert one.epistemic is not None
    assert one.aleatoric is not None
    assert (one.epistemic.tolist(), one.aleatoric.tolist()) == ([3.0, 0.0], [4.0, 4.0])
    many = PredictiveNumbers.mixture(torch.tensor([[0.0, 0.0], [6.0, 0.0]]), torch.tensor([4.0, 4.0])).rescaled(2.0)
    assert many.epistemic is not None
    assert (many.epistemic.tolist(), many.std.tolist()) == ([6.0, 0.0], [10.0, 8.0])
    assert mixture(2).epistemic is mixture(2).aleatoric is None


def test_spreads_broadcast_by_their_last_axes_however_many_there_are() -> None:
    """Of two outputs two spreads are one for each output, whether there are two components, two rows, or three."""
    for count in (2, 3):
        many = PredictiveNumbers.mixture(torch.zeros(count, count, 2), [0.1, 5.0])
        assert many.std.tolist() == [pytest.approx([0.1, 5.0])] * count
        one = PredictiveNumbers.gaussian(torch.zeros(count, 2), 0.0, [0.1, 5.0])
        assert one.std.tolist() == [pytest.approx([0.1, 5.0])] * count
    each = PredictiveNumbers.mixture(torch.zeros(2, 3, 2), torch.tensor([3.0, 4.0])[:, None, None])
    assert each.std[0].tolist() == pytest.approx([12.5**0.5] * 2)
    by_row = PredictiveNumbers.mixture(torch.zeros(2, 3), [1.0, 2.0, 3.0])
    assert by_row.std.tolist() == pytest.approx([1.0, 2.0, 3.0])
    assert PredictiveNumbers.mixture(torch.zeros(3, 4, 2), [[1.0, 2.0]]).std[0].tolist() == pytest.approx([1.0, 2.0])
    for wrong in (
        lambda: PredictiveNumbers.gaussian(torch.zeros(4, 2), 0.0, [1.0, 2.0, 3.0]),
        lambda: PredictiveNumbers.mixture(torch.zeros(3, 4, 2), [1.0, 2.0, 3.0]),
    ):
        with pytest.raises(InputError, match="does not broadcast to the means"):
            wrong()


def test_classes_are_the_mean_of_probabilities_and_their_entropies() -> None:
    each = torch.softmax(torch.randn(4, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), -1)
    given, known = PredictiveClasses(each), Categorical(each.mean(0))
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    assert given.nll(y) == pytest.approx(-float(known.log_prob(y).mean()))
    torch.testing.assert_close(given.entropy, known.entropy())
    torch.testing.assert_close(given.aleatoric, Categorical(each).entropy().mean(0))
    torch.testing.assert_close(given.epistemic, known.entropy() - Categorical(each).entropy().mean(0))
    assert given.accuracy(y[:, None].float()) == pytest.approx(float((each.mean(0).argmax(1) == y).double().mean()))
    assert PredictiveClasses(each[:1]).epistemic is None


def test_bad_input_is_told() -> None:
    with pytest.raises(DataError, match="spreads above 0"):
        PredictiveNumbers.gaussian([0.0], 0.0, 0.0)
    with pytest.raises(DataError, match="one shape"):
        PredictiveNumbers(torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(InputError, match="standard deviations >= 0"):
        PredictiveNumbers.gaussian([0.0], -1.0, 1.0)
    with pytest.raises(DataError, match="finite numbers of shape \\(6,\\)"):
        mixture(2).nll(torch.zeros(5))
    with pytest.raises(DataError, match="sum over the classes is 1"):
        PredictiveClasses(torch.ones(1, 2, 3))
    with pytest.raises(DataError, match="two classes or more"):
        PredictiveClasses(torch.ones(1, 2, 1))
    for wrong in ([0, 3], [0, -100], [0.5, 1.0], [0, 1, 1]):
        with pytest.raises(DataError, match="whole numbers from 0 to 2"):
            PredictiveClasses(torch.full((1, 2, 3), 1 / 3)).accuracy(wrong)
