"""Noise in anybody's own loop: new in each training forward, nothing in evaluation, gone without a trace."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import wellposed as wp
from wellposed.core.errors import CompositionError, InputError, RecipeError, SelectorError, ShapeError
from wellposed.core.random import generator
from wellposed.noise import perturb as module
from wellposed.noise.activations import dropout_mask
from wellposed.noise.gradient_noise import GradientNoise, annealed_variance
from wellposed.noise.hooks import Hook
from wellposed.noise.inputs import NO_IMAGE, NO_NUMBERS, Gaussian, cutmix, cutout, mixup, mixup_or_cutmix
from wellposed.noise.labels import mixed_targets, smooth_classes
from wellposed.noise.mixing import ManifoldMixup
from wellposed.noise.noise import PLACED, Noise, Placed, kinds
from wellposed.noise.perturb import (
    NO_CHANNELS,
    DropConnect,
    Dropout,
    GaussianDropout,
    Perturbed,
    SpatialDropout,
    StochasticDepth,
    WeightNoise,
    perturb,
)

NOISES = {name: kind for name, kind in kinds().items() if kind.acts in PLACED}
Perturb = Callable[..., Any]
ROOT = Path(__file__).parent.parent


def network() -> nn.Sequential:
    """A table's network with a dropout layer of its own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Text(nn.Module):
    """Embedding, recurrent layer, attention, and a head that shares the embedding's weight."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h, _ = self.rnn(self.embedding(tokens))
        return self.head(self.norm(h + self.attention(h, h, h, need_weights=False)[0]))


def rows() -> Tensor:
    return torch.randn(30, 4, generator=generator(5))


def tokens() -> Tensor:
    return torch.randint(7, (5, 6), generator=generator(5))


EVERY: list[Placed] = [
    Dropout(0.3).on(nn.ReLU),
    Dropout(0.3).on("2"),
    GaussianDropout(0.3).on("4"),
    StochasticDepth(0.5).on([nn.ReLU]),
    StochasticDepth(0.5, of="block", linear=False).on("1"),
    DropConnect(0.3).on(nn.Linear),
    WeightNoise(0.1).on(wp.weights),
    WeightNoise(0.1, relative=True).on("0"),
]


def traces(model: nn.Module) -> list[object]:
    """All that hooks could have left on a model, beside the values of its tensors."""
    found: list[object] = []
    for name, m in model.named_modules():
        hooks = [len(v) for k, v in sorted(vars(m).items()) if k.startswith("_forward") and isinstance(v, dict)]
        found.append((name, m.training, hooks, sorted(vars(m)), [id(p) for p in m.parameters()]))
    return found


# ---- the handle, and wrong ones that the checks catch


def check_handle(make: Perturb, placed: Placed) -> None:
    """New draws in training, none in evaluation, none of the global state, and nothing left behind."""
    model, x = network(), rows()
    quiet = network()
    quiet[2].p = 0.0
    before, clean = traces(model), model.eval()(x)
    state = torch.get_rng_state()
    noise = make(model.train(), [placed, Dropout(0.0).on(nn.Dropout)] if placed.where != "2" else [placed], seed=3)
    first, second = model(x), model(x)
    assert torch.equal(torch.get_rng_state(), state), "the global state"
    assert not torch.equal(first, second), "a new draw"
    assert not torch.equal(first, quiet(x)), "noise"
    assert torch.equal(model.eval()(x), clean), "evaluation"
    model.train()
    noise.step = 0
    torch.rand(3)
    assert torch.equal(model(x), first), "a function of seed and step"
    noise.step = 1
    assert torch.equal(model(x), second)
    noise.remove()
    noise.remove()
    assert traces(model) == before
    other = make(model, [placed, Dropout(0.0).on(nn.Dropout)] if placed.where != "2" else [placed], seed=4)
    assert not torch.equal(model(x), first), "the seed"
    other.remove()


@pytest.mark.parametrize("placed", EVERY, ids=str)
def test_every_noise_in_a_loop(placed: Placed) -> None:
    check_handle(perturb, placed)


class OnInEvaluation(Perturbed):
    def _disturb(self, sites: list[Any]) -> Callable[..., Any]:
        right = super()._disturb(sites)

        def wrong(m: nn.Module, args: tuple[Any, ...], output: object) -> object:
            was, m.training = m.training, True
            found = right(m, args, output)
            m.training = was
            return found

        return wrong


class FromGlobalState(Perturbed):
    def draw(self, site: str) -> torch.Generator:
        return torch.default_generator


class NeverNew(Perturbed):
    def draw(self, site: str) -> torch.Generator:
        return generator(self._streams.seed, site)


class LeavesHooks(Perturbed):
    def remove(self) -> None:
        self._handles.pop()
        super().remove()


class NoSeed(Perturbed):
    def draw(self, site: str) -> torch.Generator:
        self._streams.seed = 0
        return super().draw(site)


class OwnDropoutToo(Perturbed):
    def _silence(self, m: nn.Module, args: object) -> None:
        return None


@pytest.mark.parametrize("wrong", [OnInEvaluation, FromGlobalState, NeverNew, LeavesHooks, NoSeed, OwnDropoutToo])
def test_wrong_handles_are_caught(wrong: type[Perturbed]) -> None:
    with pytest.raises((AssertionError, IndexError)):
        check_handle(wrong, Dropout(0.3).on(nn.ReLU))


def check_size_0(make: Perturb, zero: Placed) -> None:
    model, plain, x = network(), network(), rows()
    model[2].p = plain[2].p = 0.0
    with make(model, [zero], seed=0):
        y = model(x)
        assert torch.equal(y, plain(x))
        y.square().sum().backward()
    plain(x).square().sum().backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("name", NOISES)
def test_size_0_is_plain_bit_for_bit(name: str) -> None:
    cls = NOISES[name]
    check_size_0(perturb, cls(0.0).on(wp.weights if cls.acts == "weights" else ["0", nn.ReLU]))
    scheduled = cls(0.5).on("3" if name != "spatial_dropout" else "2", schedule=lambda step: 0.0)
    check_size_0(perturb, scheduled)


def test_size_0_is_checked() -> None:
    class Rescales(Perturbed):
        def _size(self, site: Any) -> float:
            return max(super()._size(site), 1e-3)

    with pytest.raises(AssertionError):
        check_size_0(Rescales, WeightNoise(0.0).on())
    with pytest.raises(AssertionError):
        check_size_0(Rescales, GaussianDropout(0.0).on(nn.ReLU))


# ---- what is drawn


def test_dropout_is_put_behind_a_module_and_takes_the_place_of_a_dropout_layer() -> None:
    for place in (nn.Linear, nn.Dropout):
        model = nn.Sequential(nn.Linear(4, 50), nn.Identity()) if place is nn.Linear else nn.Sequential(nn.Dropout(0.9))
        x = torch.ones(200, 4)
        with perturb(model, Dropout(0.5).on(place)):
            y = model(x)
        plain = model[0](x) if place is nn.Linear else x
        ratio = torch.where(y == 0, 0.0, y / plain)
        torch.testing.assert_close(ratio.unique(), torch.tensor([0.0, 2.0]), atol=1e-5, rtol=0)
        assert 0.4 < float((y == 0).float().mean()) < 0.6


def test_two_calls_in_a_forward_draw_twice_and_a_new_forward_starts_over() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.part(x), self.part(x)])

    for placed in (Dropout(0.5).on("part"), DropConnect(0.5).on("part")):
        model = Twice()
        noise = perturb(model, placed)
        a, b = model(rows()).chunk(2)
        assert not torch.equal(a, b)
        noise.step = 0
        assert torch.equal(model(rows()), torch.cat([a, b]))


def test_step_and_schedule() -> None:
    """Curriculum dropout: the rate rises from 0."""
    model = nn.Sequential(nn.Linear(4, 1000))
    seen: list[int] = []

    def rising(step: int) -> float:
        seen.append(step)
        return min(1.0, step / 2)

    noise = perturb(model, Dropout(0.6).on(nn.Linear, schedule=rising))
    shares = [float((model(rows()) == 0).double().mean()) for _ in range(4)]
    assert seen == [0, 1, 2, 3]
    assert shares == pytest.approx([0.0, 0.3, 0.6, 0.6], abs=0.02)
    assert noise.step == 4
    model.eval()(rows())
    assert noise.step == 4
    with pytest.raises(InputError, match="rate in"):
        perturb(nn.Sequential(nn.ReLU()), Dropout(0.6).on("0", schedule=lambda step: 2.0)).model(rows())
    with pytest.raises(InputError, match="schedule"):
        Dropout(0.6).on("0", schedule=0.5)


def test_a_part_in_evaluation_mode_is_left_alone() -> None:
    model = network().train()
    model[2].p = 0.0
    model[4].eval()
    plain = model(rows())
    with perturb(model, [Dropout(0.5).on("4")]):
        assert torch.equal(model(rows()), plain)


def test_linear_rates_over_the_selected_branches() -> None:
    model = nn.Sequential(*[Residual(4) for _ in range(4)])
    noise = perturb(model, StochasticDepth(0.4).on("*.branch"))
    assert [row["size"] for row in noise.table()] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    noise.remove()
    same = perturb(model, StochasticDepth(0.4, linear=False).on("*.branch"))
    assert [row["size"] for row in same.table()] == [0.4] * 4


@pytest.mark.parametrize("how", ["branch", "block"])
def test_a_dropped_branch_leaves_the_skip(how: str) -> None:
    model, x = nn.Sequential(Residual(4).double()), rows().double()
    where = "0" if how == "block" else "0.branch"
    with torch.no_grad(), perturb(model, StochasticDepth(0.5, of=how).on(where)):
        y = model(x)
    change = y - x
    dropped = (change == 0).all(1)
    assert 5 < int(dropped.sum()) < 25
    torch.testing.assert_close(change[~dropped], 2 * model[0].branch(x)[~dropped].detach())


def test_noises_at_one_place_act_in_order() -> None:
    model = nn.Sequential(nn.Linear(1, 400, bias=False))
    nn.init.ones_(model[0].weight)
    with torch.no_grad(), perturb(model, [DropConnect(0.5).on(), WeightNoise(0.1).on()]):
        noise_last = model(torch.ones(1, 1))
    assert (noise_last != 0).all()
    with torch.no_grad(), perturb(model, [WeightNoise(0.1).on(), DropConnect(0.5).on()]):
        dropped_last = model(torch.ones(1, 1))
    assert 100 < int((dropped_last == 0).sum()) < 300
    with torch.no_grad(), perturb(model, [Dropout(0.5).on("0"), WeightNoise(0.1).on()]):
        assert 100 < int((model(torch.ones(1, 1)) == 0).sum()) < 300


# ---- weights: the stored parameter stays clean


def check_weights(make: Perturb, model: nn.Module, x: Tensor, where: object) -> None:
    """Noise in the forward, and state, parameters, copies and gradients of the clean model."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    clean = model.eval()(x)
    clean = clean.detach()
    noise = make(model.train(), [WeightNoise(0.5).on(where)], seed=0)
    out = model(x)
    assert not torch.allclose(out, clean)
    assert [name for name, _ in model.named_parameters()] == [
        name for name in state if name in dict(model.named_parameters())
    ]
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin.train()(x), clean, msg="a copy is clean")
    count = noise.step
    twin(x)
    assert noise.step == count
    pickle.loads(pickle.dumps(model))
    out.square().mean().backward()
    for row in noise.table():
        assert model.get_parameter(row["place"]).grad is not None
    torch.testing.assert_close(model.eval()(x), clean)
    noise.remove()
    torch.testing.assert_close(model.train()(x), clean)
    model.zero_grad()


WHERE = ["embedding.weight", "rnn.weight_hh_l0", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("tied", [False, True])
def test_weight_noise_reaches_every_kind_of_layer(where: str, tied: bool) -> None:
    check_weights(perturb, Text(tied), tokens(), wp.named(where))


def test_weight_noise_on_everything_and_wrong_handles() -> None:
    check_weights(perturb, Text(), tokens(), wp.named("*"))

    class InPlace(Perturbed):
        def _shadow(self, found: list[Any]) -> Callable[..., None]:
            def wrong(caller: nn.Module, args: object) -> None:
                for owner, name, site in found:
                    with torch.no_grad():
                        getattr(owner, name).add_(
                            torch.randn(getattr(owner, name).shape, generator=self.draw(site.key))
                        )

            return wrong

    class NotTaken(Perturbed):
        def _uncover(self, found: list[Any]) -> Callable[..., None]:
            return lambda *_: None

    class Detached(Perturbed):
        def _shadow(self, found: list[Any]) -> Callable[..., None]:
            right = super()._shadow(found)

            def wrong(caller: nn.Module, args: object) -> None:
                right(caller, args)
                for owner, name in self._shadows:
                    owner.__dict__[name] = owner.__dict__[name].detach()

            return wrong

    for wrong in (InPlace, NotTaken, Detached):
        with pytest.raises((AssertionError, RuntimeError)):
            check_weights(wrong, nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), rows(), wp.weights)


def test_drop_connect_and_its_gradient_are_those_of_the_thinned_layer() -> None:
    model, x = nn.Sequential(nn.Linear(4, 30, bias=False)), rows()
    noise = perturb(model, DropConnect(0.5).on(), seed=2)
    model(x).square().sum().backward()
    site = noise.sites[0]
    mask = dropout_mask((30, 4), 0.5, generator(2, "perturb", 0, site.key))
    w = model[0].weight.detach().clone().requires_grad_()
    (x @ (mask * w).T).square().sum().backward()
    torch.testing.assert_close(model[0].weight.grad, w.grad)
    assert (model[0].weight.grad[mask == 0] == 0).all()


def test_a_tied_weight_is_disturbed_at_each_module_that_holds_it() -> None:
    model = Text(tied=True)
    noise = perturb(model, WeightNoise(0.1).on(wp.embeddings))
    assert [row["place"] for row in noise.table()] == ["embedding.weight", "head.weight"]
    model(tokens()).sum().backward()
    assert [row["drawn"] for row in noise.table()] == [1, 1]
    assert model.embedding.weight is model.head.weight


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_forward_leaves_the_model_intact(error: type[BaseException]) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.layer, self.fail = nn.Parameter(torch.eye(4)), nn.Dropout(0.3), True

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise error("inside")
            return self.layer(x @ self.weight)

    model = nn.Sequential(Fails())
    before = traces(model)
    noise = perturb(model, [WeightNoise(0.5).on(), Dropout(0.5).on(nn.Dropout)])
    with pytest.raises(error, match="inside"):
        model(rows())
    if error is ValueError:
        assert "weight" not in vars(model[0])
    model[0].fail = False
    torch.testing.assert_close(model.eval()(rows()), rows())
    model[0].fail = True
    with pytest.raises(error, match="inside"):
        model.train()(rows())
    noise.remove()
    assert traces(model) == before


def test_a_dropout_layer_that_is_interrupted_trains_again() -> None:
    class Interrupted(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    model = nn.Sequential(Interrupted(0.5))
    noise = perturb(model, Dropout(0.5).on("0"))
    with pytest.raises(KeyboardInterrupt):
        model(rows())
    with pytest.raises(KeyboardInterrupt):
        model.eval()(rows())
    assert not model[0].training
    with pytest.raises(KeyboardInterrupt):
        model.train()(rows())
    noise.remove()
    assert model[0].training


def test_parametrized_weights_are_refused() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(InputError, match="parametrized"):
        perturb(model, WeightNoise(0.1).on(nn.Linear))


# ---- other loops


def test_a_regularized_optimizer_trains_with_noise_and_equal_seeds_are_equal_runs() -> None:
    def trained(seed: int) -> Tensor:
        model = network()
        optimizer = wp.regularize(torch.optim.Adam(model.parameters(), lr=0.01), model, [wp.L2(0.01).on(wp.weights)])
        with perturb(model, [Dropout(0.3).on([nn.ReLU, nn.Dropout]), DropConnect(0.1).on()], seed=seed):
            for _ in range(5):
                optimizer.zero_grad()
                model(rows()).square().mean().backward()
                optimizer.step()
        return model[0].weight.detach()

    a, b, c = trained(0), trained(0), trained(1)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_checkpointed_modules_are_refused_rather_than_drawn_again() -> None:
    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.part, x, use_reentrant=False)

    for placed in (Dropout(0.5).on("part"), DropConnect(0.5).on("part")):
        model = Saving()
        with perturb(model, placed), pytest.raises(InputError, match="checkpoint"):
            model(rows()).square().sum().backward()


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_is_compiled_afterwards_draws_the_same() -> None:
    model, x = network(), rows()
    with perturb(model, [Dropout(0.5).on([nn.ReLU, nn.Dropout]), DropConnect(0.3).on()]) as noise:
        wanted = [model(x) for _ in range(4)]
        noise.step = 0
        compiled = torch.compile(model, backend="eager")
        for y in wanted:
            assert torch.equal(compiled(x), y)
        with pytest.raises(InputError, match=r"before torch\.compile"):
            perturb(compiled, Dropout(0.5).on(nn.ReLU))


def test_a_model_is_perturbed_once() -> None:
    model = network()
    with perturb(model, Dropout(0.5).on(nn.ReLU)), pytest.raises(CompositionError, match="remove"):
        perturb(model, Dropout(0.5).on(nn.ReLU))
    with perturb(model, Dropout(0.5).on(nn.ReLU)), pytest.raises(CompositionError, match="remove"):
        perturb(model[1], Dropout(0.5).on(""))
    perturb(model, Dropout(0.5).on(nn.ReLU)).remove()
    twin = copy.deepcopy(perturb(model, Dropout(0.5).on(nn.ReLU)).model)
    perturb(twin, Dropout(0.5).on(nn.ReLU)).remove()
    assert not any(isinstance(h, Hook) for m in twin.modules() for h in m._forward_hooks.values())


def test_the_table() -> None:
    model = network()
    noise = perturb(model, [Dropout(0.5).on("1"), WeightNoise(0.1).on("0")])
    model(rows())
    assert noise.table() == [
        {"place": "1", "noise": "Dropout(rate=0.5)", "size": 0.5, "drawn": 1},
        {"place": "0.weight", "noise": "WeightNoise(std=0.1, relative=False)", "size": 0.1, "drawn": 1},
    ]
    assert "0.weight" in str(noise)
    assert "1 training forward" in str(noise)


# ---- what is refused


def test_globs_take_the_outermost_modules() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU())), nn.ReLU())
    assert [r["place"] for r in perturb(model, Dropout(0.1).on("*")).table()] == ["0", "1"]
    model = copy.deepcopy(model)
    assert [r["place"] for r in perturb(model, Dropout(0.1).on(nn.ReLU)).table()] == ["0.1.0", "1"]
    model = copy.deepcopy(model)
    by_name = perturb(model, Dropout(0.1).on(lambda name, m: name.endswith("0") and isinstance(m, nn.ReLU)))
    assert [r["place"] for r in by_name.table()] == ["0.1.0"]
    model = copy.deepcopy(model)
    assert [r["place"] for r in perturb(model, Dropout(0.1).on("")).table()] == ["(the model)"]


@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        ("3x.*", SelectorError, "matches no module"),
        (["1", nn.Conv2d], SelectorError, "matches no module"),
        ([], SelectorError, "none of them|matches no"),
        (wp.weights, SelectorError, "put on modules"),
        (nn.Sequential, SelectorError, "only the model itself"),
        (3, SelectorError, "none of them"),
    ],
)
def test_places_that_are_refused(where: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        perturb(network(), Dropout(0.5).on(where))


def test_outputs_and_modules_that_are_refused() -> None:
    text = Text()
    with perturb(text, Dropout(0.5).on("rnn")), pytest.raises(InputError, match=r"'rnn' \(LSTM\) returns a tuple"):
        text(tokens())
    with pytest.raises(InputError, match="inside its attention"):
        perturb(text, Dropout(0.5).on("attention.out_proj"))
    assert [r["place"] for r in perturb(text, Dropout(0.5).on(nn.Linear)).table()] == ["head"]
    with pytest.raises(InputError, match="AlphaDropout"):
        perturb(nn.Sequential(nn.AlphaDropout(0.1)), Dropout(0.5).on("0"))
    with pytest.raises(SelectorError, match="matches no parameter"):
        perturb(network(), DropConnect(0.5).on("nothing.*"))
    with pytest.raises(InputError, match=r"\.on\("):
        perturb(network(), [Dropout(0.5)])
    with pytest.raises(InputError, match=r"\.on\("):
        perturb(network(), Dropout(0.5))
    with pytest.raises(InputError, match=r"nn\.Module"):
        perturb([network()], Dropout(0.5).on("0"))
    model = nn.Sequential(nn.Linear(4, 3))
    with perturb(model, StochasticDepth(0.5, of="block").on("0")), pytest.raises(ShapeError, match="of='branch'"):
        model(rows())


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), "0.5", True])
@pytest.mark.parametrize("name", NOISES)
def test_rates_that_are_refused(name: str, rate: object) -> None:
    if NOISES[name] is WeightNoise and isinstance(rate, float) and rate == 1:
        assert WeightNoise(rate).size == 1
        return
    with pytest.raises(InputError, match=NOISES[name].__name__):
        NOISES[name](rate)


def test_ways_of_depth_that_are_refused() -> None:
    for wrong in ({"of": "skip"}, {"by": "row"}):
        with pytest.raises(InputError, match="StochasticDepth"):
            StochasticDepth(0.5, **wrong)


def test_every_noise_has_a_name_and_is_in_the_registry() -> None:
    assert list(NOISES) == sorted(NOISES)
    assert {name: cls(0.1).name for name, cls in NOISES.items()} == {name: name for name in NOISES}
    here = {v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Noise)}
    assert set(NOISES.values()) == here - {Noise}
    assert set(NOISES) <= set(SUPPORT)
    assert set(NOISES.values()) <= {placed.noise.__class__ for placed in EVERY} | {SpatialDropout}


# ---- gradients


def check_gradient_noise(make: Callable[..., Any]) -> None:
    """The variance at each step, only where there is a gradient, and none of the global state."""
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(2, 2))
    noise, state = make(model, eta=0.5, seed=1), torch.get_rng_state()
    for step in range(4):
        model[0].weight.grad = torch.ones(300, 300)
        given = model[0].weight.grad
        noise()
        found = model[0].weight.grad - 1
        assert (given == 1).all(), "in place"
        assert float(found.square().mean()) == pytest.approx(annealed_variance(0.5, step), rel=0.02)
        assert abs(float(found.mean())) < 4 * (annealed_variance(0.5, step) / 90_000) ** 0.5
    assert torch.equal(torch.get_rng_state(), state)
    assert model[1].weight.grad is None
    again = make(model, eta=0.5, seed=1)
    again.step = 3
    model[0].weight.grad = torch.ones(300, 300)
    again()
    assert torch.equal(model[0].weight.grad - 1, found)


class Unannealed(GradientNoise):
    def __call__(self, *args: object) -> None:
        self.decay = 0.0
        super().__call__()


class WrongExponent(GradientNoise):
    def __init__(self, model: nn.Module, eta: float, seed: int) -> None:
        super().__init__(model, eta, decay=1.1, seed=seed)


class InPlaceGradients(GradientNoise):
    def __call__(self, *_: object) -> None:
        kept = {p: p.grad for p in self.model.parameters()}
        super().__call__()
        for p, grad in kept.items():
            if grad is not None:
                grad.copy_(p.grad)


class AlwaysTheSame(GradientNoise):
    def __call__(self, *_: object) -> None:
        self.seed += 1
        super().__call__()


def test_gradient_noise() -> None:
    check_gradient_noise(GradientNoise)
    for wrong in (Unannealed, WrongExponent, InPlaceGradients, AlwaysTheSame):
        with pytest.raises(AssertionError):
            check_gradient_noise(wrong)
    for given in ({"eta": -1.0}, {"eta": 0.1, "decay": -1.0}, {"eta": float("inf")}):
        with pytest.raises(InputError, match="GradientNoise"):
            GradientNoise(network(), **given)


def test_gradient_noise_as_a_hook_of_an_optimizer() -> None:
    def trained(hooked: bool, wrap: bool) -> Tensor:
        model = nn.Linear(4, 3)
        nn.init.ones_(model.weight)
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = wp.regularize(optimizer, model) if wrap else optimizer
        noise = GradientNoise(model, eta=0.1)
        if hooked:
            optimizer.register_step_pre_hook(noise)
        for _ in range(3):
            optimizer.zero_grad()
            model(rows()).square().mean().backward()
            if not hooked:
                noise()
            optimizer.step()
        assert noise.step == 3
        return model.weight.detach()

    torch.manual_seed(0)
    model = trained(True, False)
    for hooked, wrap in ((False, False), (True, True), (False, True)):
        torch.manual_seed(0)
        assert torch.equal(trained(hooked, wrap), model)


def test_gradient_noise_keeps_sparse_gradients_sparse() -> None:
    model = nn.Embedding(50, 3, sparse=True)
    model(torch.tensor([3, 7, 3])).sum().backward()
    GradientNoise(model, eta=0.01)()
    grad = model.weight.grad.coalesce()
    assert grad.is_sparse
    assert grad.indices().tolist() == [[3, 7]]
    noise = grad.values() - torch.tensor([[2.0] * 3, [1.0] * 3])
    assert 0 < float(noise.abs().max()) < 0.6
    torch.optim.SGD(model.parameters(), lr=0.1).step()


# ---- manifold mixup


def check_manifold(make: Callable[..., Any]) -> None:
    """At a linear layer: outputs are mixed as permutation and weight say, at every place sometimes, never in evaluation."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 3)).double()
    x, state = rows().double(), torch.get_rng_state()
    clean = model.eval()(x)
    mix = make(model.train(), ["0", "1"], concentration=1.0, seed=0)
    places, weights = set(), set()
    for _ in range(30):
        y = model(x)
        torch.testing.assert_close(y, mix.weight * clean + (1 - mix.weight) * clean[mix.permutation])
        places.add(mix.place)
        weights.add(mix.weight)
    assert places == {"0", "1"}
    assert len(weights) == 30
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.eval()(x), clean)
    assert mix.weight == 1
    assert torch.equal(mix.permutation, torch.arange(30))
    torch.testing.assert_close(mixed_targets(clean, mix.permutation, mix.weight), clean)
    mix.step = 29
    torch.testing.assert_close(model.train()(x), y)
    mix.remove()
    assert torch.equal(model(x), clean)


class WrongWay(ManifoldMixup):
    def _done(self, *given: Any) -> None:
        super()._done(*given)
        self.weight = 1 - self.weight if self.model.training else 1.0


class AlwaysOnePlace(ManifoldMixup):
    def draw(self, site: str) -> torch.Generator:
        return generator(0, site)


class MixesInEvaluation(ManifoldMixup):
    def _choose(self, model: nn.Module, args: tuple[Any, ...]) -> Any:
        was, model.training = model.training, True
        found = super()._choose(model, args)
        model.training = was
        return found


def test_manifold_mixup() -> None:
    check_manifold(ManifoldMixup)
    for wrong in (WrongWay, AlwaysOnePlace, MixesInEvaluation):
        with pytest.raises(AssertionError):
            check_manifold(wrong)


def test_manifold_mixup_refuses() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with ManifoldMixup(model := Skips(), "unused"), pytest.raises(InputError, match="did not call"):
        model(rows())
    with ManifoldMixup(model := Text(), "rnn"), pytest.raises(InputError, match="returns a tuple"):
        model(tokens())
    with pytest.raises(InputError, match="concentration"):
        ManifoldMixup(network(), "0", concentration=-1.0)
    with ManifoldMixup(model := network(), "0", concentration=0.0) as mix:
        model[2].p = 0.0
        assert torch.equal(model(rows()), model.eval()(rows()))
        assert mix.weight == 1


# ---- the table of what is supported: every cell is run


def batch(kind: str) -> Tensor:
    shapes = {"table": (6, 4), "image": (6, 3, 8, 8)}
    return torch.randint(7, (6, 5)) if kind == "tokens" else torch.rand(shapes[kind], generator=generator(0))


def model_of(kind: str) -> nn.Module:
    """A small network for a kind of input, whose hidden outputs have the kind's own axes."""
    if kind == "tokens":
        return nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), Residual(4), nn.Flatten(), nn.Linear(20, 3))
    if kind == "image":
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), Residual(6), nn.Flatten(), nn.Linear(144, 3))
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Residual(4), nn.Flatten(), nn.Linear(4, 3))


def use(method: str, kind: str) -> Tensor:
    """One backward pass with the method on a small batch of the kind; the output."""
    model, x, y = model_of(kind), batch(kind), torch.tensor([0, 1, 2, 0, 1, 2])
    source, placed = generator(0), {
        "stochastic_depth": lambda: StochasticDepth(0.5).on("*.branch"),
        "spatial_dropout": lambda: SpatialDropout(0.5, axis=-1 if kind == "tokens" else 1).on("1"),
        "drop_connect": lambda: DropConnect(0.5).on(),
        "weight_noise": lambda: WeightNoise(0.5).on(),
        "dropout": lambda: Dropout(0.5).on("1"),
        "gaussian_dropout": lambda: GaussianDropout(0.5).on("1"),
    }  # fmt: skip
    target, weight, permutation = (
        smooth_classes(y, 3, 0.1 if method == "label_smoothing" else 0.0),
        1.0,
        torch.arange(6),
    )
    noises: Sequence[Placed] = [placed[method]()] if method in placed else []
    with perturb(model, noises):
        if method == "gaussian":
            x = Gaussian(0.1).apply(x, 0.1, source)
        elif method == "cutout":
            x = cutout(x, 0.25, source)
        elif method in ("mixup", "cutmix"):
            x, permutation, weight = {"mixup": mixup, "cutmix": cutmix}[method](x, 1.0, source)
        elif method == "mixup_or_cutmix":
            x, permutation, weight = mixup_or_cutmix(x, 1.0, 1.0, source)
        if method == "manifold_mixup":
            with ManifoldMixup(model, ["1", "2"]) as mix:
                out = model(x)
            permutation, weight = mix.permutation, mix.weight
        else:
            out = model(x)
    nn.functional.cross_entropy(out, mixed_targets(target, permutation, weight)).backward()
    if method == "gradient_noise":
        before = model[4].weight.grad.clone()
        GradientNoise(model, eta=0.1)()
        assert not torch.equal(model[4].weight.grad, before)
    elif method != "label_smoothing":
        assert not torch.equal(out, model.eval()(batch(kind))), "it does something"
    return out


NO_RECIPE = "A recipe has no such key: it is for your own loop."

KINDS: tuple[str, ...] = ("table", "image", "tokens", "search")
"""``table``: floating (examples, features); ``image``: floating (examples, channels, height, width); ``tokens``: integer
(examples, places); ``search``: as a part of a recipe, and so in a search of many recipes."""


def _cells(table: str = "", image: str = "", tokens: str = "", search: str = "") -> dict[str, str]:
    return {"table": table, "image": image, "tokens": tokens, "search": search}


SUPPORT: dict[str, dict[str, str]] = {
    "gaussian": _cells(tokens=NO_NUMBERS),
    "cutout": _cells(table=NO_IMAGE, tokens=NO_IMAGE),
    "mixup": _cells(tokens=NO_NUMBERS),
    "cutmix": _cells(table=NO_IMAGE, tokens=NO_IMAGE),
    "mixup_or_cutmix": _cells(table=NO_IMAGE, tokens=NO_IMAGE),
    "manifold_mixup": _cells(search=NO_RECIPE),
    "label_smoothing": _cells(),
    "dropout": _cells(),
    "spatial_dropout": _cells(table=NO_CHANNELS),
    "gaussian_dropout": _cells(),
    "drop_connect": _cells(),
    "weight_noise": _cells(),
    "stochastic_depth": _cells(),
    "gradient_noise": _cells(),
}
"""Method -> kind -> ``""`` where it is supported, else why it is refused."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "search"])
@pytest.mark.parametrize("method", SUPPORT)
def test_each_cell_of_the_table_is_run(method: str, kind: str) -> None:
    reason = SUPPORT[method][kind]
    if not reason:
        assert use(method, kind).isfinite().all()
        return
    with pytest.raises(InputError) as caught:
        use(method, kind)
    assert reason in str(caught.value)


RECIPE_KEYS = {"gaussian": "input", "gradient_noise": "gradient"}
"""Where a recipe's key has another name than the method."""


@pytest.mark.parametrize("method", SUPPORT)
def test_a_recipe_takes_what_the_table_says(method: str) -> None:
    if method in NOISES:
        size = {NOISES[method].size_field: 0.1}
        recipe = wp.Recipe(noise={"places": [{"kind": method, "on": "0", **size}]})
        assert not SUPPORT[method]["search"]
        assert recipe.noise.places[0].build().noise == NOISES[method](0.1)
        return
    if method == "mixup_or_cutmix":
        assert wp.Recipe(noise={"mixup": 0.1, "cutmix": 0.1}).noise.switch_prob == 0.5
        return
    key = RECIPE_KEYS.get(method, method)
    if SUPPORT[method]["search"]:
        with pytest.raises(RecipeError, match="unknown key"):
            wp.Recipe(noise={key: 0.1})
    else:
        assert getattr(wp.Recipe(noise={key: 0.1}).noise, key) == 0.1


def test_the_documented_table_is_the_one_in_the_code() -> None:
    page = (ROOT / "docs" / "noise.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    found = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found[cells[0].strip("`")] = dict(zip(KINDS, cells[1:], strict=True))
    assert found.keys() == SUPPORT.keys()
    for method, row in SUPPORT.items():
        for kind, reason in row.items():
            assert found[method][kind] == ("yes" if not reason else f"refused: {reason}"), (method, kind)


def test_the_documented_code_runs() -> None:
    page = (ROOT / "docs" / "noise.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2
    assert names["loss"].isfinite()


def test_sparse_gradients_of_a_disturbed_embedding_are_those_of_a_dense_one() -> None:
    grads = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(6, 3, sparse=sparse))
        perturb(model, DropConnect(0.5).on(wp.embeddings))
        model(torch.tensor([1, 4, 1])).square().sum().backward()
        grads.append(model[0].weight.grad)
    assert grads[0].is_sparse
    torch.testing.assert_close(grads[0].to_dense(), grads[1])


def test_a_model_with_noise_is_saved_and_loaded_clean() -> None:
    model = network()
    perturb(model, EVERY[:1])
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded.eval()(rows()), model.eval()(rows()))
