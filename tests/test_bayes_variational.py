"""Weights that are distributions: exact moments, exact posteriors, repeatable draws, and dropout taken for a posterior."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import wellposed as wp
from wellposed.bayes.variational import KEPT, LOCAL
from wellposed.core.errors import InputError, SelectorError
from wellposed.noise.activations import draws_of
from wellposed.training.checkpoint import load, save_run

PRIOR = wp.GaussianPrior(1.0)
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(90, 4, generator=DRAW)
Y = X @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]]) + 0.5 * torch.randn(90, 1, generator=DRAW)


def attend(net: nn.Module, x: Tensor) -> Tensor:
    return net(x, x, x)[0]  # type: ignore[no-any-return]


def first(net: nn.Module, x: Tensor) -> Tensor:
    found = net(x)
    return found[0] if isinstance(found, tuple) else found


KINDS: dict[str, tuple[Callable[[], nn.Module], Tensor, Any, Callable[[nn.Module, Tensor], Tensor]]] = {
    "linear": (lambda: nn.Linear(4, 3), X[:5], wp.weights, first),
    "conv1d": (lambda: nn.Conv1d(4, 3, 2, padding=1, groups=1), torch.randn(5, 4, 6, generator=DRAW), wp.weights, first),
    "conv2d": (
        lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2, padding=1, padding_mode="circular"),
        torch.randn(5, 4, 6, 6, generator=DRAW), wp.weights, first,
    ),
    "transposed": (lambda: nn.ConvTranspose2d(4, 2, 3), torch.randn(3, 4, 5, 5, generator=DRAW), wp.weights, first),
    "embedding": (lambda: nn.Embedding(7, 3, padding_idx=0), torch.tensor([[1, 2], [0, 6]]), wp.embeddings, first),
    "lstm": (lambda: nn.LSTM(4, 3, batch_first=True), torch.randn(2, 5, 4, generator=DRAW), wp.weights, first),
    "attention": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(2, 3, 4, generator=DRAW), wp.weights, attend),
    "norm": (lambda: nn.LayerNorm(4), X[:5], wp.norms, first),
    "network": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), X[:5], wp.weights | wp.biases, first),
}  # fmt: skip


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_layer(kind: str, family: Any) -> None:
    """Means in evaluation mode; other draws at each forward of training, the same again from the same seed, in a copy and a
    pickle; gradients for every parameter; everything is as it was afterwards, also after a forward that failed."""
    make, x, on, call = KINDS[kind]
    torch.manual_seed(0)
    plain = make()
    net = wp.bayesian(plain, PRIOR, family=family, on=on, spread=0.3, seed=5)
    names = {name for name, _ in plain.named_parameters()}
    assert names <= {name for name, _ in net.named_parameters()}
    assert torch.equal(call(net.eval(), x), call(plain.eval(), x))
    net.train()
    out = call(net, x)
    again = wp.bayesian(plain, PRIOR, family=family, on=on, spread=0.3, seed=5).train()
    assert torch.equal(call(again, x), out)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(call(twin, x), call(copy.deepcopy(net), x))
        assert not torch.equal(call(twin, x), out)
    (out.square().sum() + wp.kl(net)).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())
    with pytest.raises((RuntimeError, TypeError, AttributeError)):
        call(net, "no tensor")  # type: ignore[arg-type]
    assert torch.equal(call(net.eval(), x), call(plain.eval(), x))
    assert {name for name, _ in plain.named_parameters()} == names


def test_a_row_that_stands_for_nothing_stays_0() -> None:
    net = wp.bayesian(nn.Embedding(5, 3, padding_idx=2), PRIOR, on=wp.embeddings, spread=1.0).train()
    assert bool((net(torch.tensor([2, 2])) == 0).all())


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_outputs_have_the_moments_of_drawn_weights(kind: str) -> None:
    """Mean and variance of each output, against 1,500 networks with drawn weights; examples are independent of each other."""
    make, x, _, call = KINDS[kind]
    torch.manual_seed(0)
    plain, x = make(), x[:2]
    assert isinstance(plain, LOCAL)
    net = wp.bayesian(plain, PRIOR, spread=0.2).train()
    draw, n = torch.Generator().manual_seed(1), 1500
    drawn = plain.weight + 0.2 * torch.randn(n, *plain.weight.shape, generator=draw)
    with torch.no_grad():
        found = call(net, torch.cat(n * [x])).unflatten(0, (n, 2))  # each copy of a row has noise of its own
        wanted = torch.vmap(lambda w: functional_call(plain, {"weight": w}, (x,)))(drawn)
        mean = call(plain, x)
    std = wanted.std(0)
    assert bool(((found.mean(0) - mean).abs() < 5 * std / n**0.5).all())
    torch.testing.assert_close(found.std(0), std, rtol=0.12, atol=0.0)
    one, other = (found[:, i].flatten(1)[:, 0] for i in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.12


def test_the_posterior_of_a_linear_model_is_the_exact_one() -> None:
    """Squared error with known noise: the optimum of the bound has the exact mean, and spreads ``(X'X/s^2 + 1)_ii^(-1/2)``."""
    torch.manual_seed(0)
    rows, noise = len(X), 0.5
    net = wp.bayesian(nn.Linear(4, 1, bias=False), PRIOR, spread=0.1).double().train()
    x, y = X.double(), Y.double()
    copies = 20  # of each row, with noise of its own
    many, wanted = torch.cat(copies * [x]), torch.cat(copies * [y])
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 150)
        optimizer.zero_grad()
        nll = (net(many) - wanted).square().mean() / (2 * noise**2)
        (nll + wp.kl(net) / rows).backward()
        optimizer.step()
    precision = x.T @ x / noise**2 + torch.eye(4).double()
    mean = torch.linalg.solve(precision, x.T @ y / noise**2).T
    torch.testing.assert_close(net.get_parameter("weight").detach(), mean, rtol=0.02, atol=0.01)
    spread = net.get_parameter("posterior.weight").detach().exp()
    torch.testing.assert_close(spread, precision.diagonal()[None].rsqrt(), rtol=0.05, atol=0.0)


def net_of(width: int = 8) -> nn.Module:
    return wp.bayesian(nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 1)), PRIOR)


RECIPE = wp.Recipe.from_toml("""
epochs = 3
batch_size = 16
[optimizer]
name = "adamw"
lr = 1e-2
[[terms]]
penalty = "kl"
rows = 67
warmup = 0.5
""")


def problem(model: Callable[..., nn.Module] = net_of) -> wp.Problem:
    return wp.Problem(model=model, loss="squared_error", data=wp.Data(train=(X, Y), valid=0.25))


def equal(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_fit_is_repeatable_alone_and_among_others(tmp_path: Path) -> None:
    """Bit for bit: a run and itself again, a run and its slot among three, a run and its model read back."""
    alone = wp.fit(problem(), RECIPE, seed=1)
    assert equal(alone.model, wp.fit(problem(), RECIPE, seed=1).model)
    slots = wp.fit_many(problem(), [RECIPE], seeds=[0, 1, 2])
    assert [equal(alone.model, slot.model) for slot in slots] == [False, True, False]
    (term,) = [name for name in alone.history.frame().columns if name.startswith("term:KL")]
    assert alone.history[term][-1] == pytest.approx(float(wp.kl(alone.model).detach()) / 67, rel=1e-5)
    back = load(save_run(alone, tmp_path / "run"), problem())
    assert torch.equal(back.outputs(X), alone.model(X).detach())
    wanted = wp.predictive(alone.model, X, samples=5, noise_std=0.5).nll(Y)
    assert wp.predictive(back.model, X, samples=5, noise_std=0.5).nll(Y) == wanted


def test_what_looks_at_a_network_draws_nothing_of_its_own_from_it() -> None:
    """A loop that is watched draws what it draws unwatched."""

    def train(watched: bool) -> nn.Module:
        torch.manual_seed(0)
        net = net_of()
        optimizer = wp.regularize(torch.optim.Adam(net.parameters(), 0.01), net, [wp.KL(rows=len(X)).on(wp.weights)])
        watch = wp.watch(net, "squared_error", (X, Y), (X, Y), optimizer=optimizer) if watched else None
        for _ in range(3):
            net.train()
            optimizer.zero_grad()
            ((net(X) - Y).square().mean() + optimizer.penalty()).backward()
            optimizer.step()
            if watch is not None:
                watch.epoch()
        if watch is not None:
            wp.diagnose(watch)
        (draws,) = draws_of(net)
        assert draws.step == 3
        return net

    assert equal(train(True), train(False))


def test_predictive_samples() -> None:
    """Equal seeds, equal answers; classes and numbers; modes and draws are left as they were."""
    torch.manual_seed(0)
    net = wp.bayesian(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), PRIOR, spread=0.5).train()
    found = wp.predictive(net, X, samples=40, seed=2)
    assert torch.equal(found.mean, wp.predictive(net, X.numpy(), samples=40, seed=2).mean)
    assert not torch.equal(found.mean, wp.predictive(net, X, samples=40, seed=3).mean)
    assert found.mean.shape == (90, 3)
    assert net.training
    assert draws_of(net)[0].step == 0
    # One linear layer of spread s: the answers' variance is s^2 |x|^2, and the noise is added to it.
    line = wp.bayesian(nn.Linear(4, 1), PRIOR, spread=0.5).eval()
    numbers = wp.predictive(line, X, samples=1000, noise_std=0.1)
    wanted = (0.25 * X.double().square().sum(1) + 0.01).sqrt()
    torch.testing.assert_close(numbers.std, wanted, rtol=0.12, atol=0.0)
    torch.testing.assert_close(numbers.mean, line(X).detach().double().squeeze(1), rtol=0, atol=0.2)
    both = wp.predictive(line, X, samples=3)
    assert both.mean.shape == (90, 2)


def test_mc_dropout_is_dropout_in_evaluation_too() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 1)).eval()
    net = wp.mc_dropout(plain, seed=1)
    assert isinstance(net[1], KEPT[nn.Dropout])
    assert type(plain[1]) is nn.Dropout
    assert not net.training
    assert not torch.equal(net(X), net(X))
    assert torch.equal(wp.mc_dropout(plain, seed=1)(X), wp.mc_dropout(plain, seed=1)(X))
    found = wp.predictive(net, X, samples=800, noise_std=0.1)
    hidden, out = plain[0](X).detach().double(), plain[2].weight.detach().double()
    wanted = (
        (hidden * out).square().sum(1) + 0.01
    ).sqrt()  # a unit that is 0 or doubled has the variance of its square
    torch.testing.assert_close(found.std, wanted, rtol=0.15, atol=0.0)
    torch.testing.assert_close(found.mean, plain(X).detach().double().squeeze(1), rtol=0, atol=0.2)


def _encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True), 1)


INSIDE: dict[str, Callable[[], nn.Module]] = {
    "encoder": _encoder,
    "attention": lambda: nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True),
    "lstm": lambda: nn.LSTM(4, 3, 2, dropout=0.3, batch_first=True),
    "gru": lambda: nn.GRU(4, 3, 2, dropout=0.3, batch_first=True),
    "rnn": lambda: nn.RNN(4, 3, 2, dropout=0.3, batch_first=True),
    "alpha": lambda: nn.AlphaDropout(0.3),
    "channels": lambda: nn.FeatureAlphaDropout(0.3),
}


@pytest.mark.parametrize("kind", sorted(INSIDE))
@torch.no_grad()
def test_what_torch_drops_inside_of_a_layer_is_drawn_too(kind: str) -> None:
    """In evaluation mode without gradients, where torch's fast path calls no layer: repeatable, and torch's own draws go on."""
    torch.manual_seed(0)
    plain, x = INSIDE[kind]().eval(), X.reshape(9, 10, 4)
    call = attend if kind == "attention" else first
    net, state = wp.mc_dropout(plain, seed=1), torch.get_rng_state()
    draws = [call(net, x) for _ in range(2)]
    assert not torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in net.modules())
    assert torch.equal(call(pickle.loads(pickle.dumps(wp.mc_dropout(plain, seed=1))), x), draws[0])


@pytest.mark.parametrize("net", [wp.mc_dropout(_encoder()), wp.bayesian(_encoder(), PRIOR, spread=0.3)])
@torch.no_grad()
def test_encoders_with_padding_are_drawn_without_nested_tensors(net: nn.Module) -> None:
    x, padded = X.reshape(9, 10, 4), torch.arange(10).expand(9, 10) > 7
    (draws,) = draws_of(net.eval())
    with draws.apart(0, sampling=True):
        one, other = (net(x, src_key_padding_mask=padded) for _ in range(2))
    assert bool(((one != other).any(-1) | padded).all())


@pytest.mark.parametrize("value", [0.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_variances_of_outputs_are_those_of_float32(value: float, dtype: torch.dtype) -> None:
    """float16 has neither the square of 300 nor the small number that keeps the root of 0 from an infinite slope."""
    net = wp.bayesian(nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten(), nn.Linear(6, 1)), PRIOR).train()
    with torch.autocast("cpu", dtype=dtype):
        out = net(torch.full((5, 1, 3), value))
    out.float().square().mean().backward()
    assert out.dtype == dtype
    assert bool(torch.isfinite(out).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)


def test_a_run_with_kept_dropout_is_the_run_without() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))

    recipe = RECIPE.replace(terms=[], stopping={"keep": "last"})
    plain = wp.fit(problem(make), recipe, seed=1).model
    kept = wp.fit(problem(lambda: wp.mc_dropout(make())), recipe, seed=1).model
    assert equal(plain, kept)


def test_concrete_dropout_learns_how_much_to_drop() -> None:
    """The relaxed mask has mean 1; where inputs say little the rate rises, where they say all it falls; eval keeps the mean."""
    torch.manual_seed(0)
    layer = nn.Linear(400, 1, bias=False)
    net = wp.bayesian(layer, PRIOR, family="dropout", spread=0.3).train()
    nn.init.constant_(net.get_parameter("weight"), 1.0)
    with torch.no_grad():
        outs = torch.stack([net(torch.ones(50, 400)) for _ in range(20)])
    assert float(outs.mean()) == pytest.approx(400, rel=0.01)
    # Each input is 0 or 1/(1-p): a variance of p/(1-p), a little less as the mask is relaxed.
    assert 0.75 * 400 * 3 / 7 < float(outs.var()) < 1.05 * 400 * 3 / 7
    rates = {}
    for name, target in (
        ("of use", Y),
        ("of none", 0.5 * torch.randn(90, 1, generator=torch.Generator().manual_seed(3))),
    ):
        torch.manual_seed(0)
        net = wp.bayesian(nn.Linear(4, 1), wp.GaussianPrior(1.0), family="dropout", spread=0.2).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            ((net(X) - target).square().mean() / (2 * 0.5**2) + wp.kl(net) / len(X)).backward()
            optimizer.step()
        rates[name] = float(net.get_parameter("posterior.weight").detach().sigmoid())
    assert rates["of use"] < 0.05 < 0.2 < rates["of none"]


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2))


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: wp.bayesian(_net(), PRIOR, on="no.such"), SelectorError, "matches no parameter"),
        (lambda: wp.bayesian(wp.bayesian(_net(), PRIOR), PRIOR), InputError, "Bayesian already"),
        (lambda: wp.mc_dropout(wp.bayesian(_net(), PRIOR)), InputError, "Bayesian already"),
        (lambda: wp.bayesian(nn.LazyLinear(2), PRIOR), InputError, "needs a shape"),
        (
            lambda: wp.bayesian(_net(), PRIOR, family="dropout", on=wp.norms),
            InputError,
            "no inputs that could be dropped",
        ),
        (lambda: wp.bayesian(_net(), wp.LaplacePrior(1.0), family="dropout"), InputError, "needs a wp.GaussianPrior"),
        (lambda: wp.bayesian(_net(), PRIOR, family="cauchy"), InputError, "family"),  # type: ignore[arg-type]
        (lambda: wp.kl(_net()), InputError, "no divergence from a prior"),
        (lambda: wp.mc_dropout(_net()), InputError, "no dropout layer that drops"),
        (lambda: wp.predictive(_net(), X), InputError, "draws nothing"),
        (
            lambda: wp.bayesian(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), PRIOR),
            InputError,
            "parametrized",
        ),
    ],
)
def test_what_is_refused(wrong: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        wrong()


def test_ivon_takes_the_step_of_the_paper() -> None:
    """Three steps of two draws each, by the equations as they are printed, in float64."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 1, bias=False).double()
    x, y, rows, std, lr, start, (b1, b2) = X.double(), Y.double(), 90, 0.7, 0.2, 0.5, (0.8, 0.9)
    d = 1 / (rows * std**2)
    optimizer = wp.IVON(layer.parameters(), lr, rows=rows, prior=wp.GaussianPrior(std), start=start, betas=(b1, b2))
    m, g, h = layer.weight.detach().clone(), torch.zeros(1, 4).double(), torch.full((1, 4), start).double()
    for t in range(1, 4):
        spread, gradients, hessians = (rows * (h + d)).rsqrt(), [], []
        optimizer.zero_grad()
        for _ in range(2):
            with optimizer.sampled():
                w = layer.weight.detach().clone()
                (layer(x) - y).square().mean().backward()
            grad = 2 * ((x @ w.T - y) * x).mean(0, keepdim=True)
            gradients.append(grad)
            hessians.append(grad * (w - m) / spread**2)
            assert torch.equal(layer.weight.detach(), m)
        optimizer.step()
        grad, f = sum(gradients) / 2, sum(hessians) / 2
        g = b1 * g + (1 - b1) * grad
        h = b2 * h + (1 - b2) * f + 0.5 * (1 - b2) ** 2 * (h - f) ** 2 / (h + d)
        m = m - lr * (start + d) * (g / (1 - b1**t) + d * m) / (h + d)
        torch.testing.assert_close(layer.weight.detach(), m, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(optimizer.state[layer.weight]["curvature"], h, rtol=1e-12, atol=1e-14)
        m = layer.weight.detach().clone()


def test_ivon_finds_the_exact_posterior_and_goes_on_from_a_checkpoint() -> None:
    """Of the linear model above; a training that is saved half-way and loaded ends with the same bits."""

    def train(steps: tuple[int, ...]) -> tuple[nn.Linear, wp.IVON]:
        torch.manual_seed(0)
        kept: Any = None
        for part in steps:
            net = nn.Linear(4, 1, bias=False)
            prior = wp.GaussianPrior(1.0)
            optimizer = wp.IVON(net.parameters(), 0.05, rows=90, prior=prior, betas=(0.9, 0.995))
            if kept:
                net.load_state_dict(kept[0])
                optimizer.load_state_dict(kept[1])
            for _ in range(part):
                for group in optimizer.param_groups:
                    group["lr"] = 0.05 * (1 - group["steps"] / 500)
                optimizer.zero_grad()
                with optimizer.sampled():
                    ((net(X) - Y).square().mean() / (2 * 0.5**2)).backward()
                optimizer.step()
            kept = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        return net, optimizer

    net, optimizer = train((500,))
    again, _ = train((200, 300))
    assert equal(net, again)
    x, y = X.double(), Y.double()
    precision = x.T @ x / 0.5**2 + torch.eye(4).double()
    mean = torch.linalg.solve(precision, x.T @ y / 0.5**2).T
    torch.testing.assert_close(net.weight.detach().double(), mean, rtol=0.02, atol=0.02)
    spread = (90 * (optimizer.state[net.weight]["curvature"] + 1 / 90)).rsqrt()
    torch.testing.assert_close(spread[0].double(), precision.diagonal().rsqrt(), rtol=0.1, atol=0.0)
    found = wp.predictive(net, X, samples=300, noise_std=0.5, drawn_by=optimizer)
    wanted = ((x.square() @ spread[0].double().square()) + 0.25).sqrt()
    torch.testing.assert_close(found.std, wanted, rtol=0.05, atol=0.0)


def test_ivon_draws_normal_numbers_for_networks_larger_than_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that take the pool again are normal and uncorrelated with those before, over steps."""
    from wellposed.bayes import ivon

    monkeypatch.setattr(ivon, "POOL", 64)
    monkeypatch.setattr(ivon, "PIECE", 32)
    w = nn.Parameter(torch.zeros(150))
    optimizer = wp.IVON([w], rows=1, prior=wp.GaussianPrior(1.0), start=1e-6)
    draws = []
    for seed in range(3000):
        with optimizer.sampled(seed):
            draws.append(w.detach().clone())
    z = torch.stack(draws)
    assert float(z.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(z.std()) == pytest.approx(1.0, rel=0.01)
    assert float((torch.corrcoef(z.T) - torch.eye(150)).abs().max()) < 0.1


def test_ivon_needs_a_draw() -> None:
    net = nn.Linear(4, 1)
    optimizer = wp.IVON(net.parameters(), rows=9, prior=wp.GaussianPrior(1.0))
    net(X).sum().backward()
    with pytest.raises(InputError, match="none were drawn"):
        optimizer.step()
    with pytest.raises(wp.CompositionError, match="decayed twice"):
        wp.regularize(optimizer, net, [wp.L2(0.1).on()])


def _ivon(*layers: nn.Module, **settings: Any) -> tuple[nn.Module, wp.IVON]:
    torch.manual_seed(0)
    net = nn.Sequential(*layers) if layers else nn.Sequential(nn.Linear(4, 1, bias=False))
    return net, wp.IVON(net.parameters(), 0.05, **{"rows": 90, "prior": PRIOR, "betas": (0.9, 0.9)} | settings)


def _backward(net: nn.Module, scale: float = 1.0) -> None:
    (scale * (net(X) - Y).square().mean()).backward()


def _state(net: nn.Module, optimizer: wp.IVON) -> list[Tensor]:
    return [*net.parameters(), *(x for state in optimizer.state.values() for x in state.values())]


def _breaks(net: nn.Module) -> None:
    _backward(net)
    raise ZeroDivisionError


def _fails(net: nn.Module, optimizer: wp.IVON) -> None:
    with pytest.raises(ZeroDivisionError), optimizer.sampled():
        _breaks(net)


def _validates(net: nn.Module, optimizer: wp.IVON) -> None:
    with optimizer.sampled(), torch.no_grad():
        net(X)


def _begins_anew(net: nn.Module, optimizer: wp.IVON) -> None:
    with optimizer.sampled():
        _backward(net)
    net.zero_grad()


def _is_skipped(net: nn.Module, optimizer: wp.IVON) -> None:
    """As a gradient scaler skips a step."""
    with optimizer.sampled():
        _backward(net, float("inf"))
    optimizer.zero_grad(set_to_none=False)


def _is_skipped_late(net: nn.Module, optimizer: wp.IVON) -> None:
    """The gradients are taken away inside of the next block alone."""
    with optimizer.sampled():
        _backward(net, float("inf"))
    with optimizer.sampled():
        net.zero_grad()
        _backward(net)
    net.zero_grad()


@pytest.mark.parametrize("lost", [_fails, _validates, _begins_anew, _is_skipped, _is_skipped_late])
@pytest.mark.parametrize("count", [1, 2])
def test_ivon_counts_draws_that_left_a_gradient(lost: Callable[[nn.Module, wp.IVON], None], count: int) -> None:
    """A step with lost draws before, between and after is one without, but for the numbers of its draws."""
    found = []
    for between in (lost, lambda net, optimizer: None):
        net, optimizer = _ivon()
        for step in range(2):
            optimizer.zero_grad()
            for draw in range(count):
                if draw == 0 or lost in (_fails, _validates):
                    between(net, optimizer)
                optimizer.param_groups[0]["draws"] = 10 * step + draw
                with optimizer.sampled():
                    _backward(net)
            if lost in (_fails, _validates):
                between(net, optimizer)
            optimizer.step()
        found.append(_state(net, optimizer))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ivon_draws_under_a_gradient_scaler(count: int) -> None:
    """Gradients are scaled until the step: several draws see the same scale, and one that is clipped, too, is."""
    found = []
    for scale in (1.0, 2.0**16):
        net, optimizer = _ivon()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(count):
                with optimizer.sampled():
                    scaler.scale((net(X) - Y).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        found.append(_state(net, optimizer))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_ivon_has_one_draw_at_a_time() -> None:
    """Nested ones are refused, and leave the means; so is a step from a draw."""
    net, optimizer = _ivon()
    means = copy.deepcopy(net)
    for nested in (
        lambda: optimizer.sampled(3).__enter__(),
        lambda: wp.predictive(net, X, noise_std=0.1, drawn_by=optimizer),
        optimizer.step,
    ):
        with pytest.raises(InputError, match="are a draw of IVON now"), optimizer.sampled():
            nested()
        assert equal(net, means)


def test_ivon_groups_have_settings_of_their_own() -> None:
    rows, priors = (90, 4000), (PRIOR, wp.GaussianPrior(0.1))
    net, optimizer = _ivon()
    for group in ({"rows": rows[1]}, {"prior": priors[1]}, {"rows": rows[1], "prior": priors[1], "lr": 0.3}):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))], **group})
    found = [(group["rows"], group["weight_decay"]) for group in optimizer.param_groups]
    wanted = [(rows[i], 1 / (rows[i] * priors[j].std ** 2)) for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert found == [pytest.approx(pair) for pair in wanted]
    for wrong, says in (
        ({"weight_decay": 0.1}, "no 'weight_decay' in IVON"),
        ({"rows": -1}, "rows"),
        ({"prior": 1.0}, "prior"),
    ):
        with pytest.raises(InputError, match=says):
            wp.IVON([{"params": list(net.parameters()), **wrong}], rows=9, prior=PRIOR)


def test_ivon_predicts_in_inference_mode_before_it_trains() -> None:
    net, optimizer = _ivon()
    with torch.inference_mode():
        wp.predictive(net, X, samples=2, noise_std=0.1, drawn_by=optimizer)
    with optimizer.sampled():
        _backward(net)
    optimizer.step()


def test_ivon_copies_and_read_back_states_go_on_as_they_were(tmp_path: Path) -> None:
    """Bit for bit, also where a draw was asked for since the last step, and with another seed in the constructor."""
    net, optimizer = _ivon(nn.Linear(4, 2), nn.Linear(2, 1), seed=3)

    def steps(net: nn.Module, optimizer: wp.IVON) -> list[Tensor]:
        for _ in range(3):
            optimizer.zero_grad()
            with optimizer.sampled():
                _backward(net)
            optimizer.step()
        _validates(net, optimizer)
        return [x.clone() for x in _state(net, optimizer)]

    steps(net, optimizer)
    torch.save((net.state_dict(), optimizer.state_dict()), tmp_path / "kept.pt")
    copies = [copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))]
    back = _ivon(nn.Linear(4, 2), nn.Linear(2, 1), seed=4)
    for part, kept in zip(back, torch.load(tmp_path / "kept.pt", weights_only=True), strict=True):
        part.load_state_dict(kept)
    wanted = steps(net, optimizer)
    for pair in (*copies, back):
        assert all(torch.equal(one, other) for one, other in zip(steps(*pair), wanted, strict=True))
