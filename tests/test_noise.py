"""Noise: means preserved, rates exact, masks that are functions of (seed, step, site), nothing in evaluation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import InputError, ShapeError
from wellposed.core.random import generator
from wellposed.noise.activations import (
    LEVELS,
    Streams,
    dropout_from_streams,
    dropout_mask,
    dropouts,
    set_dropout,
)
from wellposed.noise.gradient_noise import annealed_variance, gradient_noise
from wellposed.noise.inputs import (
    NO_IMAGE,
    NO_NUMBERS,
    Gaussian,
    blend,
    cutmix,
    cutout,
    mixing_weight,
    mixup,
    mixup_or_cutmix,
)
from wellposed.noise.labels import mixed_targets, smooth_binary, smooth_classes
from wellposed.noise.perturb import NO_CHANNELS

dropout, gaussian_dropout = wp.Dropout(0.0).apply, wp.GaussianDropout(0.0).apply
drop_connect, gaussian = wp.DropConnect(0.0).apply, Gaussian(0.0).apply


def spatial_dropout(x: Tensor, rate: float, source: torch.Generator, axis: int = 1) -> Tensor:
    return wp.SpatialDropout(rate, axis).apply(x, rate, source)


def weight_noise(w: Tensor, std: float, source: torch.Generator, relative: bool = False) -> Tensor:
    return wp.WeightNoise(std, relative).apply(w, std, source)


def stochastic_depth(
    x: Tensor, rate: float, source: torch.Generator, skip: Tensor | None = None, by: Any = "example"
) -> Tensor:
    return wp.StochasticDepth(rate, of="branch" if skip is None else "block", by=by).behind(x, rate, source, skip)


@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.1, 0.3, 0.5, 0.9, 0.9999])
def test_masks_keep_the_mean_and_the_rate(rate: float) -> None:
    count = 2_000_000
    mask = dropout_mask((count,), rate, generator(0, "mask"))
    exact = round(rate * LEVELS) / LEVELS
    assert abs(exact - rate) <= 0.5 / LEVELS
    dropped = float((mask == 0).double().mean())
    assert abs(dropped - exact) <= 5 * (exact * (1 - exact) / count) ** 0.5
    assert set(mask.unique().tolist()) <= {0.0, float(torch.tensor(1 / (1 - exact)))}
    assert float(mask.double().mean()) == pytest.approx(1.0, abs=5 * (exact / (1 - exact) / count) ** 0.5 + 1e-7)


def test_each_of_the_65536_levels_is_one() -> None:
    """At rate k/65536 exactly the draws below k are dropped: a smaller rate's zeros are among a larger one's."""
    masks = [dropout_mask((500_000,), k / LEVELS, generator(0, "mask")) == 0 for k in (0, 1, 2, 30_000, LEVELS - 1)]
    for fewer, more in pairwise(masks):
        assert not (fewer & ~more).any()
    assert not masks[0].any()
    assert 0 < int(masks[1].sum()) < 40
    assert 0 < int((~masks[-1]).sum()) < 40


def test_the_ends_of_a_rate() -> None:
    source = generator(0, "mask")
    assert torch.equal(dropout_mask((3, 2), 0.0, source), torch.ones(3, 2))
    assert torch.equal(dropout_mask((3, 2), 1.0, source), torch.zeros(3, 2))
    assert dropout_mask((0, 2), 0.5, source).shape == (0, 2)
    assert dropout_mask((), 0.0, source).shape == ()


def test_neighbouring_numbers_are_independent() -> None:
    kept = (dropout_mask((400_000,), 0.5, generator(0, "mask")) > 0).double()
    for lag in (1, 2, 3, 4, 5, 8):
        correlation = float(torch.corrcoef(torch.stack([kept[lag:], kept[:-lag]]))[0, 1])
        assert abs(correlation) < 0.01


def masks_of(net: nn.Module, streams: Streams, x: Tensor) -> list[Tensor]:
    """What each dropout layer of a sequence multiplied its input with."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda m, a, out: seen.append(out / a[0])) for layer in dropouts(net).values()]
    with dropout_from_streams(net, streams):
        net(x)
    for hook in hooks:
        hook.remove()
    return seen


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)).train()


def test_a_mask_is_a_function_of_seed_step_and_site() -> None:
    x = torch.ones(40, 5)
    streams = Streams(seed=3)
    first, second = masks_of(nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5))), streams, x)[:2]
    again = Streams(seed=3)
    torch.rand(7)
    assert torch.equal(masks_of(nn.Sequential(nn.Dropout(0.5)), again, x)[0], first)
    assert not torch.equal(torch.nan_to_num(second), first)
    streams.step = 1
    later = masks_of(nn.Sequential(nn.Dropout(0.5)), streams, x)[0]
    assert not torch.equal(later, first)
    assert not torch.equal(masks_of(nn.Sequential(nn.Dropout(0.5)), Streams(seed=4), x)[0], first)
    # Step 1 alone is step 1 after step 0: what was drawn before does not matter.
    alone = Streams(seed=3)
    alone.step = 1
    assert torch.equal(masks_of(nn.Sequential(nn.Dropout(0.5)), alone, x)[0], later)


def test_a_layer_called_twice_in_a_step_draws_twice_and_the_same_next_time() -> None:
    layer = nn.Dropout(0.5)
    net = nn.Sequential(layer)
    x = torch.ones(100)

    def twice() -> tuple[Tensor, Tensor]:
        with dropout_from_streams(net, Streams(seed=0)):
            return layer(x), layer(x)

    a, b = twice()
    c, d = twice()
    assert not torch.equal(a, b)
    assert torch.equal(a, c)
    assert torch.equal(b, d)


def test_a_new_step_starts_over() -> None:
    net, x = two_layers(), torch.ones(100)
    streams = Streams(seed=0)
    with dropout_from_streams(net, streams):
        zero = net(x)
        streams.step = 1
        one = net(x)
        streams.step = 0
        assert torch.equal(net(x), zero)
    assert not torch.equal(zero, one)


def test_the_global_random_state_is_not_touched() -> None:
    net, x = two_layers(), torch.ones(100)
    before = torch.get_rng_state()
    with dropout_from_streams(net, Streams(seed=0)):
        net(x)
    gaussian(x, 0.5, generator(0, "input"))
    assert torch.equal(torch.get_rng_state(), before)


def test_outside_of_the_block_layers_are_torchs_own() -> None:
    net = two_layers()
    with dropout_from_streams(net, Streams(seed=0)):
        assert "forward" in vars(net[0])
    assert "forward" not in vars(net[0])
    with pytest.raises(RuntimeError, match="inside"), dropout_from_streams(net, Streams(seed=0)):
        raise RuntimeError("inside")
    assert "forward" not in vars(net[0])
    torch.manual_seed(0)
    wanted = nn.functional.dropout(torch.ones(50), 0.5)
    torch.manual_seed(0)
    assert torch.equal(net[0](torch.ones(50)), wanted)


def test_evaluation_mode_is_untouched() -> None:
    net, x = two_layers().eval(), torch.randn(40, 5)
    with dropout_from_streams(net, Streams(seed=0)):
        assert net(x) is x


def test_rate_0_in_training_is_untouched() -> None:
    net = two_layers()
    assert set_dropout(net, 0.0) == 2
    x = torch.randn(4, 5)
    with dropout_from_streams(net, Streams(seed=0)):
        assert net(x) is x


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Dropout1d(0.5), (8, 20, 6)), (nn.Dropout2d(0.5), (8, 20, 3, 4)), (nn.Dropout3d(0.5), (4, 20, 2, 3, 2))],
)
def test_spatial_dropout_drops_whole_channels(layer: nn.Module, shape: tuple[int, ...]) -> None:
    net, x = nn.Sequential(layer), torch.ones(shape)
    with dropout_from_streams(net, Streams(seed=0)):
        y = net(x)
    channels = y.flatten(2)
    assert torch.equal(channels.amin(-1), channels.amax(-1))
    assert set(channels[..., 0].unique().tolist()) == {0.0, 2.0}


def test_plain_dropout_does_not_drop_channels() -> None:
    with dropout_from_streams(net := nn.Sequential(nn.Dropout(0.5)), Streams(seed=0)):
        y = net(torch.ones(8, 20, 6))
    assert (y.amin(-1) != y.amax(-1)).any()


def test_dropout_scales_the_gradient_by_its_mask_and_keeps_the_type() -> None:
    x = torch.ones(50, dtype=torch.float64, requires_grad=True)
    with dropout_from_streams(net := nn.Sequential(nn.Dropout(0.3)), Streams(seed=0)):
        y = net(x)
    y.sum().backward()
    assert y.dtype == torch.float64
    assert torch.equal(x.grad, y.detach())
    half = torch.ones(50, dtype=torch.bfloat16)
    with dropout_from_streams(net, Streams(seed=0)):
        assert net(half).dtype == torch.bfloat16


def test_set_dropout_reaches_every_layer_and_attention() -> None:
    net = nn.Sequential(nn.Dropout(0.1), nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1), nn.Dropout2d(0.2))
    assert set_dropout(net, 0.4) == len(dropouts(net)) + 1 == 6
    assert {layer.p for layer in dropouts(net).values()} == {0.4}
    assert net[1].self_attn.dropout == 0.4


def test_label_smoothing() -> None:
    target = torch.tensor([2, 0])
    wanted = torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]])
    torch.testing.assert_close(smooth_classes(target, 4, 0.2), wanted)
    assert torch.equal(smooth_classes(target, 4, 0.0), nn.functional.one_hot(target, 4).float())
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    ours = -(smooth_classes(target, 4, 0.3) * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(ours, nn.functional.cross_entropy(logits, target, label_smoothing=0.3))
    torch.testing.assert_close(smooth_binary(torch.tensor([0.0, 1.0]), 0.2), torch.tensor([0.1, 0.9]))
    # Binary is two classes.
    both = smooth_classes(torch.tensor([0, 1]), 2, 0.2)[:, 1]
    torch.testing.assert_close(smooth_binary(torch.tensor([0.0, 1.0]), 0.2), both)
    # Tokens: any leading shape, rows sum to 1.
    tokens = smooth_classes(torch.randint(0, 7, (3, 5)), 7, 0.1)
    torch.testing.assert_close(tokens.sum(-1), torch.ones(3, 5))


def test_input_noise() -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = x.clone()
    assert gaussian(x, 0.0, generator(0, "input")) is x
    noise = gaussian(x, 0.3, generator(0, "input")) - x
    assert torch.equal(x, kept)
    assert noise.dtype == torch.float64
    assert float(noise.std()) == pytest.approx(0.3, rel=0.01)
    assert abs(float(noise.mean())) < 0.003
    assert torch.equal(noise, gaussian(x, 0.3, generator(0, "input")) - x)
    assert not torch.equal(noise, gaussian(x, 0.3, generator(1, "input")) - x)


def small_problem() -> wp.Problem:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(80, 4)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)

    def make_net() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    return wp.Problem(model=make_net, loss="cross_entropy", data=wp.Data(train=(X, y), valid=0.25))


def test_fit_leaves_every_global_generator_as_it_was() -> None:
    problem = small_problem()
    recipe = wp.Recipe(epochs=2, batch_size=16, noise={"dropout": 0.3, "label_smoothing": 0.1, "input": 0.1})
    torch.manual_seed(5)
    random.seed(5)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    wp.fit(problem, recipe=recipe, seed=0)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.random.get_state()[1].tolist() == state[2]  # noqa: NPY002


def test_a_run_does_not_depend_on_the_global_state() -> None:
    recipe = wp.Recipe(epochs=2, batch_size=16, noise={"dropout": 0.3, "label_smoothing": 0.1, "input": 0.1})
    runs = []
    for ambient in (0, 1):
        torch.manual_seed(ambient)
        runs.append(wp.fit(small_problem(), recipe=recipe, seed=0).model.state_dict())
    for name in runs[0]:
        assert torch.equal(runs[0][name], runs[1][name])
    other = wp.fit(small_problem(), recipe=recipe, seed=1).model.state_dict()
    assert not torch.equal(other["0.weight"], runs[0]["0.weight"])


# ---- laws of multiplicative and additive noise, and wrong versions that they catch

Draw = Callable[[Tensor, float, torch.Generator], Tensor]
DRAWS: dict[str, Draw] = {
    "dropout": dropout,
    "spatial_dropout": spatial_dropout,
    "gaussian_dropout": gaussian_dropout,
    "drop_connect": drop_connect,
    "stochastic_depth": stochastic_depth,
    "weight_noise": weight_noise,
    "relative": lambda w, std, source: weight_noise(w, std, source, relative=True),
    "gaussian": gaussian,
}
MULTIPLIES = ("dropout", "spatial_dropout", "gaussian_dropout", "drop_connect", "stochastic_depth", "relative")
SHAPE = (4000, 3, 2)


def variance(name: str, size: float, x: Tensor) -> Tensor:
    """What each number's variance is to be."""
    if name in ("gaussian", "weight_noise"):
        return torch.full_like(x, size**2)
    return x.square() * (size**2 if name == "relative" else size / (1 - size))


def check_mean_and_variance(name: str, draw: Draw) -> None:
    """The mean within 4 standard errors, the variance to 5 %; x is 2 in one channel, -1 and 0.5 in others."""
    x = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64).view(1, 3, 1).expand(SHAPE).contiguous()
    for size in (0.2, 0.5):
        y = draw(x, size, generator(0, name))
        # The sites that share a mask make fewer independent draws.
        independent = {"stochastic_depth": SHAPE[0], "spatial_dropout": SHAPE[0]}.get(name, SHAPE[0] * SHAPE[2])
        wanted = variance(name, size, x)
        error = (wanted[0, :, 0] / independent).sqrt()
        assert ((y - x).mean((0, 2)).abs() <= 4 * error + 1e-6).all(), "the mean"
        torch.testing.assert_close((y - x).square().mean((0, 2)), wanted[0, :, 0], rtol=0.12, atol=0)


def check_purity(name: str, draw: Draw) -> None:
    """Nothing in place, no global state, one stream one draw, the type and a gradient kept, size 0 bit for bit."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.randn(6, 4, 5, dtype=dtype, generator=generator(1)).requires_grad_()
        kept, state = x.detach().clone(), torch.get_rng_state()
        y = draw(x, 0.4, generator(0, name))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(x.detach(), kept)
        assert y.dtype == dtype
        assert torch.equal(y, draw(x, 0.4, generator(0, name)))
        assert not torch.equal(y, draw(x, 0.4, generator(1, name)))
        assert draw(x, 0.0, generator(0, name)) is x
        y.sum().backward()
        mask = draw(torch.ones_like(x), 0.4, generator(0, name)) if name in MULTIPLIES else torch.ones_like(x)
        torch.testing.assert_close(x.grad, mask.detach())


def check_draw(name: str, draw: Draw) -> None:
    check_mean_and_variance(name, draw)
    check_purity(name, draw)


@pytest.mark.parametrize("name", DRAWS)
def test_noise_keeps_mean_variance_and_hands(name: str) -> None:
    check_draw(name, DRAWS[name])


def not_rescaled(x: Tensor, rate: float, source: torch.Generator) -> Tensor:
    return x if rate == 0 else x * (dropout_mask(x.shape, rate, source) > 0).to(x.dtype)


def kept_with_the_rate(x: Tensor, rate: float, source: torch.Generator) -> Tensor:
    return x if rate == 0 else x * dropout_mask(x.shape, 1 - rate, source).to(x.dtype)


def global_state(x: Tensor, rate: float, source: torch.Generator) -> Tensor:
    return x if rate == 0 else nn.functional.dropout(x, rate)


def in_place(x: Tensor, rate: float, source: torch.Generator) -> Tensor:
    return x if rate == 0 else x.data.mul_(dropout_mask(x.shape, rate, source).to(x.dtype)) + 0 * x


def straight_through(x: Tensor, rate: float, source: torch.Generator) -> Tensor:
    """Backward through all units, also those that were dropped."""
    return x if rate == 0 else x + (dropout(x, rate, source) - x).detach()


def rate_as_std(x: Tensor, rate: float, source: torch.Generator) -> Tensor:
    return x if rate == 0 else x * (1 + rate * torch.randn(x.shape, generator=source)).to(x.dtype)


def std_as_variance(x: Tensor, std: float, source: torch.Generator) -> Tensor:
    return gaussian(x, std**0.5, source)


def detached(w: Tensor, std: float, source: torch.Generator) -> Tensor:
    return w if std == 0 else weight_noise(w.detach(), std, source) + 0 * w


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *[(name, not_rescaled) for name in ("dropout", "drop_connect")],
        *[(name, global_state) for name in ("dropout", "drop_connect")],
        *[(name, kept_with_the_rate) for name in ("dropout", "drop_connect")],
        ("dropout", in_place),
        ("dropout", straight_through),
        ("gaussian_dropout", rate_as_std),
        ("gaussian_dropout", lambda x, rate, source: gaussian(x, (rate / (1 - rate)) ** 0.5, source)),
        ("spatial_dropout", not_rescaled),
        ("spatial_dropout", global_state),
        ("stochastic_depth", not_rescaled),
        ("stochastic_depth", global_state),
        ("weight_noise", std_as_variance),
        ("weight_noise", detached),
        ("relative", weight_noise),
        ("relative", std_as_variance),
        ("gaussian", std_as_variance),
        ("gaussian", lambda x, std, source: x if std == 0 else x + std * torch.rand(x.shape, generator=source).to(x)),
    ],
)
def test_wrong_noise_is_caught(name: str, wrong: Draw) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        check_draw(name, wrong)


def check_shared(draw: Draw, shared: tuple[int, ...]) -> None:
    """Along ``shared`` all are dropped together, along the other axes each by itself."""
    kept = draw(torch.ones(40, 30, 20), 0.5, generator(0)) != 0
    for axis in range(3):
        together = bool((kept.all(axis) | ~kept.any(axis)).all())
        assert together == (axis in shared)


def test_what_is_dropped_together() -> None:
    check_shared(dropout, ())
    check_shared(spatial_dropout, (2,))
    check_shared(lambda x, p, s: spatial_dropout(x, p, s, axis=-1), (1,))
    check_shared(stochastic_depth, (1, 2))
    check_shared(lambda x, p, s: stochastic_depth(x, p, s, by="batch"), (0, 1, 2))
    for wrong, shared in ((dropout, (2,)), (spatial_dropout, (1, 2)), (dropout, (1, 2))):
        with pytest.raises(AssertionError):
            check_shared(wrong, shared)
    for shape in ((4, 3), (4,)):
        with pytest.raises(ShapeError, match=NO_CHANNELS.split(",")[0]):
            spatial_dropout(torch.ones(shape), 0.5, generator(0))
    with pytest.raises(ShapeError):
        spatial_dropout(torch.ones(4, 3, 2), 0.5, generator(0), axis=0)


# ---- dropout is what it claims: the training of a thinned network


def check_thinned(draw: Draw) -> None:
    """Outputs and gradients are those of the network that has only the kept units, with their outputs rescaled."""
    rate, source = 0.5, (3, "thin")
    first, second = nn.Linear(6, 40).double(), nn.Linear(40, 3).double()
    x = torch.randn(1, 6, dtype=torch.float64, generator=generator(2))
    out = second(draw(first(x).relu(), rate, generator(*source)))
    grads = torch.autograd.grad(out.square().sum(), [first.weight, first.bias, second.weight])
    kept = (dropout_mask((1, 40), rate, generator(*source)) > 0).view(-1)
    w, b, v = (t.detach().requires_grad_() for t in (first.weight[kept], first.bias[kept], second.weight[:, kept]))
    thin = (x @ w.T + b).relu() / (1 - rate) @ v.T + second.bias
    torch.testing.assert_close(out, thin)
    thinned = torch.autograd.grad(thin.square().sum(), [w, b, v])
    for whole, part, axis in zip(grads, thinned, (0, 0, 1), strict=True):
        index = torch.arange(40)
        torch.testing.assert_close(whole.index_select(axis, index[kept]), part)
        assert (whole.index_select(axis, index[~kept]) == 0).all()


class OtherMaskBackward(torch.autograd.Function):
    """Drops other units in the backward pass than in the forward pass."""

    @staticmethod
    def forward(ctx: object, x: Tensor, rate: float, source: torch.Generator) -> Tensor:
        mask = dropout_mask(x.shape, rate, source).to(x.dtype)
        ctx.other = dropout_mask(x.shape, rate, source).to(x.dtype)
        return x * mask

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.other, None, None


def test_dropout_trains_a_thinned_network() -> None:
    check_thinned(dropout)
    for wrong in (straight_through, not_rescaled, OtherMaskBackward.apply):
        with pytest.raises(AssertionError):
            check_thinned(wrong)


def check_expected_output(draw: Draw) -> None:
    """Over many draws, a linear layer's mean output is its output without noise, within 4 standard errors."""
    layer, count = nn.Linear(12, 5).double(), 4000
    x = torch.randn(12, dtype=torch.float64, generator=generator(0))
    with torch.no_grad():
        outputs = torch.stack([layer(draw(x, 0.3, generator(7, "draw", step))) for step in range(count)])
        error = outputs.std(0) / count**0.5
        assert ((outputs.mean(0) - layer(x)).abs() <= 4 * error).all()


def test_the_expected_output_of_a_linear_layer_is_kept() -> None:
    check_expected_output(dropout)
    check_expected_output(gaussian_dropout)
    with pytest.raises(AssertionError):
        check_expected_output(not_rescaled)


def test_masks_of_other_steps_sites_and_seeds_are_independent() -> None:
    """Correlations of 100,000 numbers are within 4.5 standard errors of zero."""
    keys = [
        (0, "dropout", 0, "a"),
        (0, "dropout", 1, "a"),
        (0, "dropout", 0, "b"),
        (1, "dropout", 0, "a"),
        (0, "x", 0, "a"),
    ]
    masks = torch.stack([dropout_mask((100_000,), 0.3, generator(*key)) for key in keys])
    off = torch.corrcoef(masks) - torch.eye(len(keys))
    assert off.abs().max() < 4.5 / 100_000**0.5


# ---- depth


def test_depth_of_a_block_is_the_identity_where_it_is_dropped() -> None:
    skip = torch.randn(50, 3, dtype=torch.float64, generator=generator(0))
    branch = torch.randn(50, 3, dtype=torch.float64, generator=generator(1))
    of_block = stochastic_depth(skip + branch, 0.5, generator(2), skip=skip)
    of_branch = skip + stochastic_depth(branch, 0.5, generator(2))
    torch.testing.assert_close(of_block, of_branch)
    dropped = (of_branch == skip).all(1)
    assert 10 < int(dropped.sum()) < 40
    assert torch.equal(of_block[dropped], skip[dropped])
    with pytest.raises(ShapeError, match="of='branch'"):
        stochastic_depth(torch.ones(2, 4), 0.5, generator(0), skip=torch.ones(2, 3))
    with pytest.raises(ShapeError, match="single number"):
        stochastic_depth(torch.tensor(1.0), 0.5, generator(0))


def test_rates_rise_linearly() -> None:
    assert wp.StochasticDepth(0.5).sizes(5) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert wp.StochasticDepth(0.5).sizes(1) == [0.5]
    assert wp.StochasticDepth(0.5).sizes(0) == []


# ---- inputs: cutout, mixup, cutmix


def images(count: int = 200, height: int = 10, width: int = 20, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random images without zeros."""
    return torch.rand(count, 3, height, width, generator=generator(0), dtype=torch.float64).add(1).to(dtype)


def check_cutout(cut: Callable[..., Tensor]) -> None:
    """One box of the right share in each image, at all places equally often, the same in all channels."""
    x = images(3000)
    kept = x.clone()
    y = cut(x, 0.25, generator(0, "cutout"))
    assert torch.equal(x, kept)
    gone = y == 0
    assert (gone | (y == x)).all()
    assert (gone == gone[:, :1]).all()
    box = gone[:, 0]
    assert (box.sum((1, 2)) == 5 * 10).all(), "the share"
    rows, columns = box.any(2), box.any(1)
    assert (box == rows[:, :, None] & columns[:, None, :]).all()
    assert (rows.sum(1) == 5).all()
    for span, places in ((rows, 6), (columns, 11)):
        first = torch.bincount(span.int().argmax(1), minlength=places).double()
        assert len(first) == places
        error = (3000 * (1 / places) * (1 - 1 / places)) ** 0.5
        assert (first - 3000 / places).abs().max() < 4.5 * error, "the places"
    assert torch.equal(y, cut(x, 0.25, generator(0, "cutout")))
    assert cut(x, 0.0, generator(0)) is x


def test_cutout() -> None:
    check_cutout(cutout)

    def one_place(x: Tensor, share: float, source: torch.Generator) -> Tensor:
        return (
            x if share == 0 else torch.cat([cutout(x[:1], share, source)] * len(x)) * 0 + cutout(x, share, source)[:1]
        )

    wrong = [
        one_place,
        lambda x, share, source: cutout(x, share**2, source),
        lambda x, share, source: x if share == 0 else x * (dropout_mask((len(x), 1, 10, 20), share, source) > 0).to(x),
        lambda x, share, source: x if share == 0 else cutout(x, share, source).roll(1, -1),
    ]
    for mutant in wrong:
        with pytest.raises(AssertionError):
            check_cutout(mutant)
    assert cutout(images(2, dtype=torch.bfloat16), 0.2, generator(0)).dtype == torch.bfloat16


Mix = Callable[[Tensor, float, torch.Generator], tuple[Tensor, Tensor, float]]


def check_mix(mix: Mix, boxed: bool) -> None:
    """What comes back is what weight and permutation say; weights are those of a symmetric Beta, one a batch."""
    x = images(8)
    kept, state = x.clone(), torch.get_rng_state()
    weights = []
    for step in range(300):
        y, permutation, weight = mix(x, 1.0, generator(0, "mix", step))
        assert torch.equal(permutation.sort().values, torch.arange(8))
        assert 0 <= weight <= 1
        other = x[permutation]
        if boxed:
            from_other = (y == other) & (x != other)
            assert ((y == x) | from_other).all()
            moved = (permutation != torch.arange(8)).nonzero().view(-1)
            if len(moved):
                assert float(from_other[moved].double().mean()) == pytest.approx(1 - weight, abs=1e-12), "the area"
        else:
            torch.testing.assert_close(y, weight * x + (1 - weight) * other)
        weights.append(weight)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(weights)) > 50
    assert weights[0] == mix(x, 1.0, generator(0, "mix", 0))[2]
    plain, permutation, weight = mix(x, 0.0, generator(0))
    assert plain is x
    assert weight == 1
    assert torch.equal(permutation, torch.arange(8))


def wrong_weight(x: Tensor, concentration: float, source: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """CutMix with the drawn weight, where the box was cut off at the border."""
    seed = source.initial_seed()
    y, permutation, weight = cutmix(x, concentration, source)
    return (
        y,
        permutation,
        weight if concentration == 0 else mixing_weight(concentration, generator(0).manual_seed(seed)),
    )


def swapped(mix: Mix) -> Mix:
    """The weight of the other example."""

    def wrong(x: Tensor, concentration: float, source: torch.Generator) -> tuple[Tensor, Tensor, float]:
        y, permutation, weight = mix(x, concentration, source)
        return y, permutation, weight if concentration == 0 else 1 - weight

    return wrong


def inverse(mix: Mix) -> Mix:
    """The permutation the wrong way round."""

    def wrong(x: Tensor, concentration: float, source: torch.Generator) -> tuple[Tensor, Tensor, float]:
        y, permutation, weight = mix(x, concentration, source)
        return y, permutation.argsort(), weight

    return wrong


def from_global(x: Tensor, concentration: float, source: torch.Generator) -> tuple[Tensor, Tensor, float]:
    weight = float(torch.distributions.Beta(concentration, concentration).sample()) if concentration else 1.0
    permutation = torch.randperm(len(x)) if concentration else torch.arange(len(x))
    return blend(x, permutation, weight), permutation, weight


def test_mixup_and_cutmix() -> None:
    check_mix(mixup, boxed=False)
    check_mix(cutmix, boxed=True)
    for wrong in (swapped(mixup), inverse(mixup), from_global):
        with pytest.raises(AssertionError):
            check_mix(wrong, boxed=False)
    for wrong in (swapped(cutmix), inverse(cutmix), wrong_weight):
        with pytest.raises(AssertionError):
            check_mix(wrong, boxed=True)
    assert mixup(torch.ones(4, 3, dtype=torch.bfloat16), 1.0, generator(0))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
def test_mixing_weights_are_of_a_beta_distribution(concentration: float) -> None:
    """Mean 1/2 and variance 1/(4(2a + 1)) within 4 standard errors."""
    draws = torch.tensor([mixing_weight(concentration, generator(0, "beta", step)) for step in range(3000)])
    wanted = 1 / (4 * (2 * concentration + 1))
    assert abs(float(draws.mean()) - 0.5) < 4 * (wanted / 3000) ** 0.5
    squares = (draws - 0.5).square()
    assert abs(float(squares.mean()) - wanted) < 4 * float(squares.std()) / 3000**0.5
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="concentration"):
            mixing_weight(wrong, generator(0))


Mixed = tuple[Tensor, Tensor, Tensor]


def each(
    mix: Callable[..., Any], *concentrations: float, **settings: Any
) -> Callable[[Tensor, torch.Generator], Mixed]:
    return lambda x, source: mix(x, *concentrations, source, mode="elem", **settings)


def boxes(y: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """``(N,)``: whether what comes from the other image is a box, and all the rest is the image."""
    taken = (y != x).any(1)
    rows, columns = taken.any(2), taken.any(1)
    return ((rows[:, :, None] & columns[:, None, :]) == taken).all((1, 2)) & torch.where(
        taken[:, None], y == other, y == x
    ).all((1, 2, 3))


def check_each(
    mix: Callable[[Tensor, torch.Generator], Mixed], cut: float, concentrations: tuple[float, float]
) -> None:
    """Each example is mixed by a weight of its own, exactly, of the right Beta; a share ``cut`` of them by a box."""
    n, draws = 40, 100
    x = torch.randn(n, 2, 8, 9, generator=generator(0), dtype=torch.float64)
    kept, state = x.clone(), torch.get_rng_state()
    by_box: list[Tensor] = []
    blended: list[Tensor] = []
    for step in range(draws):
        y, permutation, weight = mix(x, generator(0, "mix", step))
        assert weight.shape == permutation.shape == (n,)
        assert torch.equal(permutation.sort().values, torch.arange(n))
        assert ((weight >= 0) & (weight <= 1)).all()
        other = x[permutation]
        smooth = torch.isclose(y, weight.view(-1, 1, 1, 1) * x + (1 - weight.view(-1, 1, 1, 1)) * other).all((1, 2, 3))
        share = (y == x).all(1).double().mean((1, 2))
        boxed = boxes(y, x, other) & torch.isclose(share, weight) & ~smooth
        apart = permutation != torch.arange(n)
        assert (smooth | boxed)[apart].all(), "targets and inputs are mixed by the same weight"
        # A box without an area, or of the whole image, is both.
        inner = apart & (weight > 1e-9) & (weight < 1 - 1e-9)
        by_box.append(boxed[inner].double())
        blended.append(weight[inner & smooth])
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    first, second = mix(x, generator(3)), mix(x, generator(3))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len(first[2].unique()) > n / 4, "one for each example"
    found = torch.cat(by_box)
    if concentrations[0] == concentrations[1]:
        assert abs(float(found.mean()) - cut) < 4.5 * max(cut * (1 - cut) / len(found), 1e-12) ** 0.5 + 0.02
    weights = torch.cat(blended)
    if len(weights) > 100:
        wanted = 1 / (4 * (2 * concentrations[0] + 1))
        assert abs(float(weights.mean()) - 0.5) < 4.5 * (wanted / len(weights)) ** 0.5
        assert abs(float(weights.var()) - wanted) < 0.02


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_a_weight_for_each_example(prob: float) -> None:
    check_each(each(mixup, 1.0), 0.0, (1.0, 1.0))
    check_each(each(cutmix, 1.0), 1.0, (1.0, 1.0))
    check_each(each(mixup_or_cutmix, 1.0, 1.0, switch_prob=prob), prob, (1.0, 1.0))
    check_each(each(mixup_or_cutmix, 4.0, 1.0, switch_prob=prob), prob, (4.0, 1.0))


def test_wrong_weights_for_each_example_are_found() -> None:
    def wrong(change: Callable[[Tensor, Tensor, Tensor], Mixed]) -> Callable[[Tensor, torch.Generator], Mixed]:
        return lambda x, source: change(*mixup_or_cutmix(x, 1.0, 1.0, source, mode="elem"))

    for change in (
        lambda y, p, w: (y, p, 1 - w),
        lambda y, p, w: (y, p.argsort(), w),
        lambda y, p, w: (y, p, w.mean().expand(len(w))),
        lambda y, p, w: (y, p, w.roll(1)),
    ):
        with pytest.raises(AssertionError):
            check_each(wrong(change), 0.5, (1.0, 1.0))
    with pytest.raises(AssertionError):
        check_each(each(mixup_or_cutmix, 1.0, 1.0, switch_prob=0.5), 0.3, (1.0, 1.0))
    with pytest.raises(AssertionError):
        check_each(each(mixup, 4.0), 0.0, (1.0, 1.0))


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_a_batch_is_mixed_or_cut(prob: float) -> None:
    """By what comes next from the source, which is `mixup` or `cutmix`; cut with the probability that was given."""
    x, cut, draws = images(6), 0, 600
    for step in range(draws):
        y, permutation, weight = mixup_or_cutmix(x, 0.8, 1.0, generator(0, "mix", step), switch_prob=prob)
        assert isinstance(weight, float)
        source = generator(0, "mix", step)
        torch.rand(1, generator=source, dtype=torch.float64)
        state = source.get_state()
        as_cut = cutmix(x, 1.0, source)
        source.set_state(state)
        as_mixed = mixup(x, 0.8, source)
        same = [torch.equal(y, z) and torch.equal(permutation, p) and weight == w for z, p, w in (as_mixed, as_cut)]
        assert any(same)
        cut += same[1]
    assert abs(cut / draws - prob) < 4.5 * (max(prob * (1 - prob), 1e-9) / draws) ** 0.5 + 1e-9


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_with_one_of_both_nothing_is_switched(mode: Any) -> None:
    x = images(6)
    for given, wanted in (
        ((0.8, 0.0), mixup(x, 0.8, generator(0), mode)),
        ((0.0, 0.8), cutmix(x, 0.8, generator(0), mode)),
        ((0.0, 0.0), (x, torch.arange(6), torch.ones(6))),
    ):
        for prob in (0.0, 1.0):
            found = mixup_or_cutmix(x, *given, generator(0), switch_prob=prob, mode=mode)
            assert torch.equal(found[0], wanted[0])
            assert torch.equal(found[1], wanted[1])
            assert (torch.as_tensor(found[2]) == torch.as_tensor(wanted[2])).all()
    table = torch.randn(6, 4)
    assert mixup_or_cutmix(table, 0.8, 0.0, generator(0), mode=mode)[0].shape == table.shape
    assert mixup(table.bfloat16(), 1.0, generator(0), mode)[0].dtype == torch.bfloat16
    assert cutmix(x.half(), 1.0, generator(0), mode)[0].dtype == torch.half


def test_a_mixture_by_timms_formulas() -> None:
    """timm pairs each example with the one from the other end, ``y1 * lam + y2 * (1 - lam)`` with a column of weights."""
    lam = torch.tensor([0.2, 0.9, 0.5, 1.0, 0.0, 0.7], dtype=torch.float64)
    x, y = torch.randn(6, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 0, 1, 2])
    flip = torch.arange(5, -1, -1)
    theirs = torch.stack([x[i] * lam[i] + x[5 - i] * (1 - lam[i]) for i in range(6)])
    torch.testing.assert_close(blend(x, flip, lam), theirs)
    one, other = (nn.functional.one_hot(t, 3).double() for t in (y, y.flip(0)))
    wanted = one * lam[:, None] + other * (1 - lam[:, None])
    torch.testing.assert_close(mixed_targets(y, flip, lam, classes=3).double(), wanted, rtol=1e-6, atol=1e-6)
    smooth = (smooth_classes(t, 3, 0.1, torch.float64) for t in (y, y.flip(0)))
    first, second = smooth
    wanted = first * lam[:, None] + second * (1 - lam[:, None])
    torch.testing.assert_close(mixed_targets(first, flip, lam), wanted)


def test_losses_are_mixed_by_each_examples_weight() -> None:
    """Cross entropy of the mixed target is the mixture of both; squared loss too, up to what the network does not change."""
    logits, lam = torch.randn(5, 4, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    y, permutation = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([3, 0, 1, 4, 2])

    def loss(f: Tensor, t: Tensor) -> Tensor:
        return nn.functional.cross_entropy(f, t, reduction="none")

    wanted = lam * loss(logits, y) + (1 - lam) * loss(logits, y[permutation])
    found = loss(logits, mixed_targets(y, permutation, lam, classes=4).double())
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(ShapeError, match=r"one weight or by 5; weight has shape \(4,\)"):
        mixed_targets(y, permutation, lam[:4], classes=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: mixup(x, 1.0, generator(0), "element"), "mode"),
        (lambda x: cutmix(x, -1.0, generator(0)), "concentration"),
        (lambda x: mixup_or_cutmix(x, 1.0, 1.0, generator(0), switch_prob=1.5), "switch_prob= to be a number in"),
        (lambda x: mixup_or_cutmix(x, math.nan, 1.0, generator(0)), "concentration"),
        (lambda x: mixup_or_cutmix(x, 1.0, 1.0, 0), "source"),
        (lambda x: mixup_or_cutmix(x[:, 0, 0], 1.0, 1.0, generator(0)), "image"),
    ],
)
def test_impossible_mixing(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(images(4))


def test_classes_that_no_memory_holds_are_refused_before_any_is_taken() -> None:
    labels, order = torch.arange(16), torch.randperm(16)
    with pytest.raises(InputError, match=r"1,000,000,000 classes for each of 16 labels: .* 238 GiB .* the model has"):
        mixed_targets(labels, order, 0.5, classes=10**9)
    with wp.reading_up_to("1MiB"), pytest.raises(InputError, match="may take 1 MiB"):
        mixed_targets(labels, order, 0.5, classes=10**5)
    assert mixed_targets(labels, order, 0.5, classes=10**5).shape == (16, 10**5)


@pytest.mark.parametrize(
    "wrong", [[0, 1, 1], [0, 1, 3], [-1, 0, 1], [0, 1, 10**15], [0, 1], [False, True, True], [0.0, 1.0, 2.0]], ids=str
)
def test_what_is_no_permutation_is_refused(wrong: list[Any]) -> None:
    with pytest.raises(ShapeError, match="mixed_targets needs the permutation of the 3 rows"):
        mixed_targets(torch.zeros(3), torch.tensor(wrong), 0.5)
    assert mixed_targets(torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5).shape == (0,)


def check_mixed(mix: Callable[..., Tensor]) -> None:
    """Cross entropy of mixed targets is the mixture of the two cross entropies."""
    logits = torch.randn(6, 4, generator=generator(0))
    target, permutation = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1, 2, 3, 4, 5, 0])
    loss = nn.functional.cross_entropy
    wanted = 0.3 * loss(logits, target) + 0.7 * loss(logits, target[permutation])
    torch.testing.assert_close(loss(logits, mix(target, permutation, 0.3, classes=4)), wanted)
    real = torch.randn(6, 2, dtype=torch.float64, generator=generator(1))
    torch.testing.assert_close(mix(real, permutation, 0.3), 0.3 * real + 0.7 * real[permutation])
    assert torch.equal(mix(real, permutation, 1.0), real)
    with pytest.raises(InputError, match="classes="):
        mix(target, permutation, 0.3)


def test_mixed_targets() -> None:
    check_mixed(mixed_targets)
    for wrong in (
        lambda t, p, w, classes=None: mixed_targets(t, p, 1 - w, classes),
        lambda t, p, w, classes=None: mixed_targets(t, p.argsort(), w, classes),
        lambda t, p, w, classes=None: w * t + (1 - w) * t[p],
    ):
        with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
            check_mixed(wrong)


def test_inputs_that_are_refused() -> None:
    tokens, rows = torch.randint(5, (4, 6)), torch.ones(4, 6)
    for call in (lambda: gaussian(tokens, 0.1, generator(0)), lambda: mixup(tokens, 1.0, generator(0))):
        with pytest.raises(ShapeError, match=NO_NUMBERS):
            call()
    for x in (tokens, rows, torch.ones(4, 6, 2), torch.ones(4, 1, 6, 6, dtype=torch.uint8)):
        for call in (lambda x=x: cutout(x, 0.1, generator(0)), lambda x=x: cutmix(x, 1.0, generator(0))):
            with pytest.raises(ShapeError) as caught:
                call()
            assert NO_IMAGE in str(caught.value)


@pytest.mark.parametrize("source", [None, 0, np.random.default_rng(0)], ids=["None", "0", "numpy"])
def test_a_source_is_a_generator(source: object) -> None:
    x = images(4)
    calls: list[Callable[..., object]] = [gaussian, cutout, cutmix, mixup, dropout, spatial_dropout, gaussian_dropout]
    calls += [drop_connect, weight_noise, stochastic_depth, gradient_noise]
    for call in calls:
        with pytest.raises(InputError, match=r"source.* a torch.Generator.* torch.Generator\(\).manual_seed\(0\)"):
            call(x, 0.3, source)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2, math.nan, math.inf, "0.1", None, True], ids=str)
def test_a_share_is_below_1(share: object) -> None:
    with pytest.raises(InputError, match=r"^cutout needs share= to be a number in \[0, 1\); it was given [^\n]*\.$"):
        cutout(images(2), share, generator(0))  # type: ignore[arg-type]
    kept = cutout(images(2), 0.999, generator(0))
    assert kept.shape == images(2).shape
    assert torch.equal(cutout(images(2), np.float32(0.25), generator(0)), cutout(images(2), 0.25, generator(0)))


# ---- gradients


def test_the_variance_of_gradient_noise_dies_out() -> None:
    assert annealed_variance(0.3, 0) == pytest.approx(0.3)
    assert annealed_variance(1.0, 99) == pytest.approx(100**-0.55)
    assert annealed_variance(1.0, 99, decay=0.0) == 1.0
    grad = torch.zeros(200_000, dtype=torch.float64)
    noise = gradient_noise(grad, 0.04, generator(0))
    assert noise.dtype == torch.float64
    assert float(noise.square().mean()) == pytest.approx(0.04, rel=0.02)
    assert gradient_noise(grad, 0.0, generator(0)) is grad
    assert not grad.any()
