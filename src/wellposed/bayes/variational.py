"""Networks whose weights are distributions, trained like any other network.

`bayesian` gives a copy of a network in which the selected weights have a spread beside them. A weight stays where it was, under
its own name: it is the mean now, and is used as it is in evaluation mode. In training mode, and for `predictive`, weights are
drawn. The layers themselves stay what they are: two hooks on each draw, and a `Posterior` inside it holds the spreads.

    Linear, Conv     local reparametrization: the outputs' mean and variance are computed, and the outputs are drawn
    anything else    the weights are drawn, once for each call

`mc_dropout` takes dropout for such a distribution, and `kl` is the divergence from the prior of all that a network draws.
"""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellposed.bayes.ivon import IVON
from wellposed.bayes.predictive import Predictive, PredictiveClasses, PredictiveNumbers, refuse_not_finite
from wellposed.core.checks import Count, Positive, Seed, checked
from wellposed.core.errors import InputError, guard_call
from wellposed.core.random import seeded, stream_seed
from wellposed.core.selectors import leaves, select, unwrap_model, weights
from wellposed.data.arrays import real_numbers
from wellposed.noise.activations import Draws, draws_of, dropped, move_noise, normal_like
from wellposed.noise.places import inside_attention, owners, refresh_recurrent
from wellposed.ops.norms import at_least_float32
from wellposed.penalties.divergence import (
    FAMILIES,
    GAUSSIAN,
    DropoutPosterior,
    GaussianPrior,
    Posterior,
    Prior,
    posterior_of,
)
from wellposed.training.evaluate import evaluating

LOCAL = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose outputs are drawn in place of their weights."""
FLAT = 1e-16
"""Added to a variance: the root of 0 has no derivative."""
RELAXED = 0.1
"""The temperature at which concrete dropout relaxes 0 and 1, as its authors have it."""
STARTS = {"gaussian": 0.01, "laplace": 0.01, "dropout": 0.1}
"""The spread of each family at the start: small beside the usual weights, so that training begins as that of a point."""


@checked
def bayesian(
    net: nn.Module,
    prior: Prior,
    family: Literal["gaussian", "laplace", "dropout"] = "gaussian",
    on: Any = weights,
    *,
    spread: Positive | None = None,
    seed: Seed = 0,
) -> nn.Module:
    """A copy of a network whose selected weights are distributions ``q(w_i)`` with a mean and a scale, both trained.

    In training mode every forward is another draw; in evaluation mode the means are used. Train it by the mean negative
    log-likelihood plus ``wp.kl(net)/rows``, or with the term ``wp.KL(rows=m)``. Draws are functions of ``(seed, forward, place)``;
    in `wellposed.fit` of the run's seed and step.

    Outputs of linear and convolutional layers are drawn with the mean and the variance that Gaussian weights give them, for each
    example (and place of a picture) alone: less noise in the gradient than drawn weights have. Of other layers, and of another
    family, weights are drawn once for each call.

    Args:
        net: any module, before ``torch.compile``. It is not changed.
        prior: of each weight: ``wp.GaussianPrior(std)``, ``wp.LaplacePrior(scale)``, ``wp.ScaleMixturePrior(...)``.
        family: ``"gaussian"``, ``"laplace"``, or ``"dropout"``: the inputs of linear and convolutional layers are dropped at a
            rate that is learned, one for each layer (concrete dropout); a convolution loses whole channels.
        on: which weights, as selectors choose them; by default matrices and kernels.
        spread: > 0, the scale at the start, in the units of the weights; for ``"dropout"`` the rate, below 1. By default 0.01, and
            a rate of 0.1.
        seed: of the draws.
    Raises:
        SelectorError: nothing is selected.
        InputError: the network is Bayesian already, or a weight cannot be drawn.
    Source:
        Graves (2011), NeurIPS; Blundell et al. (2015), ICML; local reparametrization: Kingma, Salimans & Welling (2015), NeurIPS;
        of convolutions: Molchanov, Ashukha & Vetrov (2017), ICML; concrete dropout: Gal, Hron & Kendall (2017), NeurIPS.
    Example:
        >>> import torch, wellposed as wp
        >>> net = wp.bayesian(torch.nn.Linear(3, 1), prior=wp.GaussianPrior(1.0))
        >>> [name for name, _ in net.named_parameters()]
        ['weight', 'bias', 'posterior.weight']
    """
    _refuse_drawing(net)
    start = STARTS[family] if spread is None else spread
    if family == "dropout" and not (start < 1 and isinstance(prior, GaussianPrior)):
        raise InputError(
            f'family="dropout" needs a wp.GaussianPrior and a rate spread= below 1; it was given {prior} and {start:g}.'
        )
    net = copy.deepcopy(unwrap_model(net))
    draws, callers = Draws(seed), inside_attention(net)
    hooked: dict[nn.Module, None] = {}
    for leaf in select(net, on):
        if nn.parameter.is_lazy(leaf.tensor) or not leaf.tensor.is_floating_point():
            raise InputError(f"{leaf.name!r} cannot be a distribution: it needs a shape, and real numbers.")
        if family == "dropout":  # one rate for the whole layer, by its logit
            scale = leaf.tensor.new_full((), math.log(start) - math.log1p(-start))
        else:
            scale = torch.full_like(leaf.tensor, math.log(start))
        beside = nn.Parameter(scale.detach())
        for site, owner, name in owners(net, leaf):
            caller = callers.get(owner, owner)
            if family == "dropout" and not (isinstance(owner, LOCAL) and name == "weight" and caller is owner):
                raise InputError(
                    f'{site!r} has no inputs that could be dropped: family="dropout" is for weights of linear and '
                    'convolutional layers. Select those, on=nn.Linear, or take family="gaussian".'
                )
            posterior = _posterior(owner, prior, family, draws)
            posterior.register_parameter(name, beside)
            posterior.sites[name] = site
            hooked[caller] = None
    for caller in hooked:
        caller.register_forward_pre_hook(_before, with_kwargs=True)
        caller.register_forward_hook(_after, with_kwargs=True, always_call=True)
    _unfused(net)
    net.register_forward_pre_hook(draws.begin, prepend=True)
    return net


def _posterior(owner: nn.Module, prior: Prior, family: str, draws: Draws) -> Posterior:
    """What a layer keeps beside its weights; made at the first of them."""
    found = getattr(owner, "posterior", None)
    if found is None and family == "dropout":
        found = owner.posterior = DropoutPosterior(prior, GAUSSIAN, draws)
        found.inputs = int(getattr(owner, "in_features", 0) or getattr(owner, "in_channels", 0))
    elif found is None:
        found = owner.posterior = Posterior(prior, FAMILIES[family], draws)
    if not isinstance(found, Posterior):
        raise InputError(f"{type(owner).__name__} has a part of its own that is called posterior. Rename it.")
    return found


def _drawing(caller: nn.Module) -> list[tuple[nn.Module, Posterior]]:
    """The layers whose weights a module draws when it is called, each with its posterior: itself, or an attention's last."""
    owners = [caller, caller.out_proj] if isinstance(caller, nn.MultiheadAttention) else [caller]
    found = [(owner, getattr(owner, "posterior", None)) for owner in owners]
    return [
        (owner, posterior)
        for owner, posterior in found
        if isinstance(posterior, Posterior) and (caller.training or posterior.draws.sampling)
    ]


def _is_local(owner: nn.Module, posterior: Posterior, caller: nn.Module) -> bool:
    return caller is owner and isinstance(owner, LOCAL) and posterior.family.name == GAUSSIAN.name


def _before(caller: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
    """Drop inputs, or let drawn weights hide the means for one call; they stay where they are, in ``parameters()``."""
    for owner, posterior in _drawing(caller):
        if isinstance(posterior, DropoutPosterior):
            return (_concrete(owner, posterior, args[0] if args else named["input"]),), {}
        for name, site in posterior.sites.items():
            if name == "weight" and _is_local(owner, posterior, caller):
                continue
            mean: Tensor = owner.get_parameter(name)
            noise = move_noise(mean, posterior.family.noise(mean.shape, posterior.draws.source("weights", site)))
            if isinstance(owner, nn.Embedding) and owner.padding_idx is not None:
                noise[owner.padding_idx] = 0.0  # a row that stands for nothing stays what it is
            owner.__dict__[name] = mean + torch.exp(posterior.get_parameter(name)) * noise
        refresh_recurrent(owner)
    return None


def _concrete(owner: nn.Module, posterior: DropoutPosterior, x: Tensor) -> Tensor:
    """``x_j (1 - z_j)/(1 - p)``, ``z = sigmoid((logit p + logit u)/0.1)``, u uniform: dropout with a gradient for p."""
    logit, site = posterior.get_parameter("weight"), posterior.sites["weight"]
    places = owner.get_parameter("weight").ndim - 2  # axes of a picture, along which a channel is dropped as a whole
    shape = (*x.shape[: x.ndim - places], *[1] * places)
    u = torch.rand(shape, generator=posterior.draws.source("dropout", site), dtype=torch.float64).clamp(1e-7, 1 - 1e-7)
    z = torch.sigmoid((logit + move_noise(x, torch.logit(u))) / RELAXED)
    return x * (1.0 - z) / torch.sigmoid(-logit)


def _after(caller: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
    """Uncover the means; add the outputs' own noise where weights are integrated out."""
    for owner, posterior in _drawing(caller):
        hid = [name for name in posterior.sites if owner.__dict__.pop(name, None) is not None]
        if hid:
            refresh_recurrent(owner)
        local = _is_local(owner, posterior, caller) and not isinstance(posterior, DropoutPosterior)
        if output is not None and "weight" in posterior.sites and local:
            with torch.autocast(output.device.type, enabled=False):  # float16 has neither the square of 300 nor FLAT
                square = at_least_float32(args[0] if args else named["input"]).square()
                spread = torch.exp(2.0 * at_least_float32(posterior.get_parameter("weight"))).to(square)
                convolve: Any = None if isinstance(owner, nn.Linear) else owner._conv_forward
                variance = F.linear(square, spread) if convolve is None else convolve(square, spread, None)
                std = (variance + FLAT).sqrt()
                noise = normal_like(std, posterior.draws.source("weights", posterior.sites["weight"]))
                output = output + (std * noise).to(output)
    return output


@checked
def kl(net: nn.Module, samples: Count = 1) -> Tensor:
    """``KL(q || p)`` of all weights of a `bayesian` network from their priors, in nats: 0-d, carries gradient.

    Add ``kl(net)/rows`` to the mean negative log-likelihood of a row.

    Args:
        samples: >= 1, pairs of draws for priors without a closed form (`wellposed.ScaleMixturePrior`).
    Raises:
        InputError: the network has no distribution.
    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> wp.kl(wp.bayesian(net, prior=wp.GaussianPrior(1.0), spread=1.0)).item()     # q is p
        0.0
    """
    found = [(leaf, posterior_of(leaf, samples)) for leaf in leaves(net)]
    parts = [q.divergence(leaf.tensor).sum() for leaf, q in found if q is not None]
    if not parts:
        raise InputError(
            "The weights of this network are numbers, which have no divergence from a prior. "
            "Make it Bayesian first: net = wp.bayesian(net, prior=wp.GaussianPrior(1.0))."
        )
    return torch.stack(parts).sum()


class _Kept:
    """A dropout layer that drops in evaluation mode too, from streams."""

    draws: Draws
    site: str
    p: float
    training: bool

    def forward(self, x: Tensor) -> Tensor:
        drops = self.p and (self.training or self.draws.sampling)
        return dropped(self, x, self.draws.source("dropout", self.site)) if drops else x  # type: ignore[arg-type]


class _KeptInside:
    """A layer of torch's whose own code drops: in evaluation mode too, where the global generators are set to a stream."""

    draws: Draws
    site: str
    training: bool

    def forward(self, *args: Any, **named: Any) -> Any:
        inherited: Any = super()
        if self.training or not self.draws.sampling:
            return inherited.forward(*args, **named)
        with seeded(self.draws.source("dropout", self.site).initial_seed()):
            self.training = True
            try:
                return inherited.forward(*args, **named)
            finally:
                self.training = False


KEPT: dict[type[nn.Module], type[nn.Module]] = {
    layer: type(f"Kept{layer.__name__}", (mixin, layer), {"__module__": __name__})
    for mixin, layers in {
        _Kept: (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
        _KeptInside: (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.MultiheadAttention, nn.RNN, nn.LSTM, nn.GRU),
    }.items()
    for layer in layers
}
globals().update({kept.__name__: kept for kept in KEPT.values()})  # where pickle looks for them


def _drops(layer: nn.Module) -> bool:
    """Whether a dropout layer, an attention, or a recurrent layer drops anything: the last, between two of its layers."""
    rate: float = getattr(layer, "p", 0.0) or getattr(layer, "dropout", 0.0)
    return rate > 0 and getattr(layer, "num_layers", 2) > 1


def _unfused(net: nn.Module) -> None:
    """Let torch's transformers call their parts in evaluation mode, where they are otherwise one operator that draws nothing."""
    for module in net.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0


@checked
def mc_dropout(net: nn.Module, seed: Seed = 0) -> nn.Module:
    """A copy of a network whose dropout layers drop in evaluation mode too: each forward is a draw of an approximate posterior.

    `predictive` takes the mean of such draws. They are functions of ``(seed, forward, place)``; trained by `wellposed.fit` the copy
    is what the network itself would be. Dropout inside of torch's attention and recurrent layers is drawn, too.

    Args:
        net: with dropout layers. It is not changed, and may be trained already.
        seed: of the draws.
    Raises:
        InputError: it has no dropout layer with a rate above 0, or draws of itself already.
    Source:
        Gal & Ghahramani (2016), ICML.
    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        >>> wp.predictive(wp.mc_dropout(net), torch.ones(5, 2), samples=20, noise_std=0.1).mean.shape
        torch.Size([5])
    """
    _refuse_drawing(net)
    net = copy.deepcopy(unwrap_model(net))
    draws = Draws(seed, sampling=True)
    found = [(name, layer) for name, layer in net.named_modules() if type(layer) in KEPT]
    if not any(_drops(layer) for _, layer in found):
        raise InputError(
            "The network has no dropout layer that drops anything, so that all draws would be one. Add nn.Dropout(0.1), or "
            "make its weights distributions: wp.bayesian."
        )
    for name, layer in found:
        layer.__class__ = KEPT[type(layer)]
        layer.draws, layer.site = draws, name
    _unfused(net)
    net.register_forward_pre_hook(draws.begin, prepend=True)
    return net


def _refuse_drawing(net: nn.Module) -> None:
    if draws_of(net):
        raise InputError(
            "This network is Bayesian already: it draws its weights, or its dropout. Give the one that it was made from."
        )


@checked
def predictive(
    net: nn.Module, X: Any, samples: Count = 30, seed: Seed = 0, *, noise_std: Any = None, drawn_by: IVON | None = None
) -> Predictive:
    """What a network whose weights or dropout are drawn answers for new rows: the mixture over draws.

    All else is in evaluation mode, and everything is left as it was. Equal seeds give equal answers.

    Args:
        X: what the network is called with, a tensor or an array.
        samples: >= 1, draws.
        noise_std: of numbers, the standard deviation of the targets around the network's output, in the targets' units: a number
            or one for each output. None: outputs are logits of classes; a single one is that of class 1 of two.
        drawn_by: the optimizer that learned the posterior of the weights, if one did; else the network is one of `bayesian` or
            `mc_dropout`.
    Raises:
        InputError: the network draws nothing.
    Example:
        >>> import torch, wellposed as wp
        >>> net = wp.bayesian(torch.nn.Linear(2, 1), prior=wp.GaussianPrior(1.0))
        >>> found = wp.predictive(net, torch.ones(3, 2), samples=50, noise_std=0.1)
        >>> found.mean.shape, bool((found.std > 0.1).all())
        (torch.Size([3]), True)
    """
    sources = draws_of(net)
    if not sources and drawn_by is None:
        raise InputError(
            "This network draws nothing, so that all samples would be one. Train net = wp.bayesian(net, prior=...), give "
            "wp.mc_dropout(net), or drawn_by= the optimizer wp.IVON that trained it."
        )
    weight = next(net.parameters())
    rows = real_numbers(X, "X", "Give an array or a tensor.").to(weight.device)
    rows = rows if isinstance(X, Tensor) else rows.to(weight.dtype)
    call = guard_call("The network", net)
    with evaluating(net), ExitStack() as stack:
        for draws in sources:
            stack.enter_context(draws.apart(seed, sampling=True))
        found = []
        for i in range(samples):
            with nullcontext() if drawn_by is None else drawn_by.sampled(stream_seed(seed, i)):
                found.append(call(rows))
    outputs = torch.stack([refuse_not_finite(one) for one in found]).double().cpu()
    if noise_std is not None:
        return PredictiveNumbers.mixture(outputs, noise_std)
    outputs = outputs[..., None] if outputs.ndim == 2 else outputs
    if outputs.shape[-1] == 1:
        outputs = torch.cat([torch.zeros_like(outputs), outputs], dim=-1)
    return PredictiveClasses(outputs.softmax(-1))
