"""Noise: means preserved, rates exact, masks that are functions of (seed, step, site), nothing in evaluation."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.random import generator
from wellposed.noise.activations import LEVELS, Streams, dropout_from_streams, dropout_mask, dropouts, set_dropout
from wellposed.noise.inputs import gaussian
from wellposed.noise.labels import smooth_binary, smooth_classes


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
