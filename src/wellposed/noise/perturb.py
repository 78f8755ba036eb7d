"""`perturb`: noise on the activations, weights and depth of any model, in anybody's own loop.

Dropout, SpatialDropout, GaussianDropout, StochasticDepth disturb the outputs of modules; DropConnect and WeightNoise disturb
parameters for one forward. Each is bound to places with `wellposed.noise.noise.Noise.on`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from wellposed.core.checks import Seed, checked
from wellposed.core.errors import InputError, SelectorError, ShapeError
from wellposed.core.formats import table
from wellposed.core.selectors import Selector, select
from wellposed.noise.activations import draw_normal, dropout_mask, dropout_rates, move_noise, normal_like
from wellposed.noise.hooks import Hooked, one_tensor
from wellposed.noise.noise import Key, Noise, Placed
from wellposed.noise.places import inside_attention, owners, places, refresh_recurrent
from wellposed.penalties.base import Searched

NO_CHANNELS = "Spatial dropout needs channels with an axis beside them, such as (examples, channels, height, width)."
REPLACED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Layers that draw nothing themselves where noise is put on them: the noise takes their place."""


@checked
@dataclass(frozen=True)
class Dropout(Noise):
    """``m_i x_i`` with ``m_i in {0, 1/(1-p)}``, ``P(m_i = 0) = p``: each number is dropped by itself; the mean is kept.

    On a dropout layer it takes the place of the layer's own; on any other module it is put behind it. A recipe's key
    ``dropout`` needs no place: it is the rate of every dropout layer of the model, whose own is kept where it is left out.

    Args:
        rate: in [0, 1). 0 is off.
    Source:
        Srivastava et al. (2014), JMLR 15.
    """

    rate: float

    acts = "activations"
    order = 0
    keys = (
        Key(
            name="dropout", field="rate", off=None, title="dropout",
            searched=Searched(low=0.05, high=0.5, least=0.01, most=0.8, odds=0.5, log=False, rank=0),
            advised={"overfits": (0.0, 0.3, 0.5), "overconfident": (0.0, 0.3, 0.0), "label_noise": (0.0, 0.3, 0.0)},
        ),
    )  # fmt: skip

    @classmethod
    def own_size(cls, model: nn.Module, softens: bool) -> float | None:
        """The largest rate of the model's dropout layers and attentions; None where it has none."""
        return max(dropout_rates(model), default=None)

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        return x if size == 0 else x * move_noise(x, dropout_mask(x.shape, size, source))


@checked
@dataclass(frozen=True)
class SpatialDropout(Noise):
    """``m_nc x_nc...`` with ``m_nc in {0, 1/(1-p)}``: a channel of an example is dropped as a whole; the mean is kept.

    Args:
        rate: p in [0, 1), of channels. 0 is off.
        axis: of the channels: 1 for ``(N, C, *)``, -1 for sequences ``(N, places, features)``.
    Raises:
        ShapeError: in the forward: an output has no axis beside examples and channels.
    Source:
        Tompson et al. (2015), CVPR.
    """

    rate: float
    axis: int = 1

    acts = "activations"

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        if x.ndim < 3 or self.axis % x.ndim == 0:
            raise ShapeError(f"{NO_CHANNELS} It was given shape {tuple(x.shape)} and axis {self.axis}.")
        if size == 0:
            return x
        shape = tuple(count if i in (0, self.axis % x.ndim) else 1 for i, count in enumerate(x.shape))
        return x * move_noise(x, dropout_mask(shape, size, source))


@checked
@dataclass(frozen=True)
class GaussianDropout(Noise):
    """``x_i (1 + s e_i)`` with ``e_i`` standard normal and ``s^2 = p/(1-p)``: dropout's mean and variance, no zeros.

    Args:
        rate: p in [0, 1). 0 is off; 0.5 is noise as large as ``x``.
    Source:
        Srivastava et al. (2014), JMLR 15, section 10.
    """

    rate: float

    acts = "activations"

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        if size == 0:
            return x
        return x * move_noise(x, 1.0 + (size / (1.0 - size)) ** 0.5 * draw_normal(x.shape, source))


@checked
@dataclass(frozen=True)
class StochasticDepth(Noise):
    """``m_n x_n`` with ``m_n in {0, 1/(1-p)}``, ``P(m_n = 0) = p``: a residual branch is dropped for an example; the mean is kept.

    Args:
        rate: p in [0, 1), of the last selected module. 0 is off.
        linear: the ``l``-th of L selected modules has ``rate * l/L``; else all have ``rate``.
        of: what the selected modules are: ``branch``, whose output is added to the skip outside; or ``block``, which
            adds its own input: ``x + m (block(x) - x)``, so that a dropped block is the identity.
        by: ``example``, each by itself along the first axis; or ``batch``, all together.
    Raises:
        ShapeError: in the forward: an output has no axis, or a block's output another shape than its input.
    Source:
        Huang et al. (2016), ECCV; there branches are scaled at test time, here in training.
    """

    rate: float
    linear: bool = True
    of: Literal["branch", "block"] = "branch"
    by: Literal["example", "batch"] = "example"

    acts = "depth"

    def sizes(self, count: int) -> list[float]:
        """The rate at each of ``count`` places: rising linearly, so that the first is hardly ever dropped, or constant."""
        return [self.rate * (place + 1) / count if self.linear else self.rate for place in range(count)]

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        return self.behind(x, size, source, None)

    def behind(self, x: Tensor, size: float, source: torch.Generator, entered: Tensor | None) -> Tensor:
        """``m_n x_n`` of a branch, ``entered + m_n (x_n - entered)`` of a block."""
        if self.of == "block" and entered is None:
            raise InputError("StochasticDepth(of='block') needs a block whose first input is a tensor; it is none.")
        if x.ndim == 0:
            raise ShapeError("Stochastic depth needs an axis of examples; it was given a single number.")
        skip = entered if self.of == "block" else None
        if skip is not None and skip.shape != x.shape:
            raise ShapeError(
                f"Stochastic depth of a whole block needs an output of its input's shape {tuple(skip.shape)}; "
                f"it was given {tuple(x.shape)}. Select the branch before the addition, with of='branch'."
            )
        if size == 0:
            return x
        mask = dropout_mask((x.shape[0] if self.by == "example" else 1, *[1] * (x.ndim - 1)), size, source)
        return x * move_noise(x, mask) if skip is None else skip + (x - skip) * move_noise(x, mask)


@checked
@dataclass(frozen=True)
class DropConnect(Noise):
    """``m_i w_i`` with ``m_i in {0, 1/(1-p)}``, ``P(m_i = 0) = p``, for one forward: each weight is dropped by itself.

    The mean is kept, the stored weight stays clean, and the gradient goes to it.

    Args:
        rate: p in [0, 1). 0 is off.
    Source:
        Wan et al. (2013), ICML. One mask serves a whole batch here, where they draw one for each example.
    """

    rate: float

    acts = "weights"
    searched = Searched(low=0.02, high=0.3, least=0.005, most=0.6, odds=0.04, rank=7)

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        return x if size == 0 else x * move_noise(x, dropout_mask(x.shape, size, source))


@checked
@dataclass(frozen=True)
class WeightNoise(Noise):
    """``w_i + std * e_i`` with ``e_i`` standard normal, for one forward; relative: ``w_i + std * |w_i| * e_i``. The mean is kept.

    Args:
        std: >= 0, in the units of the weights; relative: a share of each weight. 0 is off.
        relative: whether ``std`` is times ``|w_i|``.
    Source:
        An (1996), Neural Computation 8(3).
    """

    std: float
    relative: bool = False

    acts = "weights"
    size_field, share = "std", False
    searched = Searched(low=1e-3, high=0.1, least=1e-4, most=0.5, odds=0.04, rank=8)

    def apply(self, x: Tensor, size: float, source: torch.Generator) -> Tensor:
        if size == 0:
            return x
        noise = normal_like(x, source)
        # e and e * sign(w) have one law; without the modulus the gradient is smooth at zero.
        return x * (1.0 + size * noise) if self.relative else x + size * noise


@dataclass
class Site:
    """One kind of noise at one place (a module's or a parameter's name), the ``key`` of its stream, and how often it was drawn."""

    placed: Placed
    place: str
    key: str
    base: float
    drawn: int = 0


class Perturbed(Hooked):
    """What `perturb` gives: the count of training forwards, a table of what is disturbed, and the way back."""

    def __init__(self, model: nn.Module, noises: Sequence[Placed], seed: int) -> None:
        super().__init__(model, seed)
        self.sites: list[Site] = []
        self._shadows: list[tuple[nn.Module, str]] = []
        self._silenced: list[nn.Module] = []
        on_outputs: dict[nn.Module, list[Site]] = {}
        on_weights: dict[nn.Module, list[tuple[nn.Module, str, Site]]] = {}
        for index, placed in enumerate(noises):
            if placed.noise.acts == "weights":
                for caller, owner, name, site in self._parameters(index, placed):
                    on_weights.setdefault(caller, []).append((owner, name, site))
            else:
                for module, site in self._modules(index, placed):
                    on_outputs.setdefault(module, []).append(site)
        for module, sites in on_outputs.items():
            if isinstance(module, REPLACED):
                self.before(module, self._silence)
            self.after(module, self._disturb(sites))
        for caller, found in on_weights.items():
            self.before(caller, self._shadow(found))
            self.after(caller, self._uncover(found))
        # Registered last and called first: a forward that was interrupted from outside leaves nothing behind.
        self.before(model, self.begin)

    def _site(self, index: int, placed: Placed, place: str, base: float) -> Site:
        site = Site(placed, place, f"{index}:{placed.noise.name}:{place}", base)
        self.sites.append(site)
        return site

    def _modules(self, index: int, placed: Placed) -> Iterable[tuple[nn.Module, Site]]:
        chosen = chosen_modules(self.model, placed)
        for (name, module), base in zip(chosen.items(), placed.noise.sizes(len(chosen)), strict=True):
            yield module, self._site(index, placed, name, base)

    def _parameters(self, index: int, placed: Placed) -> Iterable[tuple[nn.Module, nn.Module, str, Site]]:
        callers = inside_attention(self.model)
        chosen = select(self.model, placed.where)
        for leaf, base in zip(chosen, placed.noise.sizes(len(chosen)), strict=True):
            for alias, owner, name in owners(self.model, leaf):
                yield callers.get(owner, owner), owner, name, self._site(index, placed, alias, base)

    def begin(self, model: nn.Module, args: object = ()) -> None:
        self._clean()
        super().begin(model)

    def _clean(self) -> None:
        """Take what a forward has left on the model, if it could not end."""
        self._take(self._shadows)
        for module in self._silenced:
            module.training = self.model.training
        self._shadows.clear()
        self._silenced.clear()

    @staticmethod
    def _take(shadows: Iterable[tuple[nn.Module, str]]) -> None:
        taken = [owner for owner, name in shadows if owner.__dict__.pop(name, None) is not None]
        for owner in dict.fromkeys(taken):
            refresh_recurrent(owner)

    def _size(self, site: Site) -> float:
        return site.placed.size(site.base, self._streams.step)

    def _source(self, site: Site) -> torch.Generator:
        source = self.draw(site.key)
        site.drawn += 1
        return source

    def _silence(self, module: nn.Module, args: object) -> None:
        """A dropout layer draws nothing itself: what is put behind it takes its place."""
        if module.training:
            self._silenced.append(module)
            module.training = False

    def _disturb(self, sites: list[Site]) -> Callable[..., Tensor | None]:
        def disturb(module: nn.Module, args: tuple[Any, ...], output: object) -> Tensor | None:
            if module in self._silenced:
                self._silenced.remove(module)
                module.training = True
            if output is None or not module.training:
                return None
            entered = args[0] if args and isinstance(args[0], Tensor) else None
            changed = None
            for site in sites:
                size, noise = self._size(site), site.placed.noise
                if size:
                    x = one_tensor(site.place, module, output, type(noise).__name__)
                    output = changed = noise.behind(x, size, self._source(site), entered)
            return changed

        return disturb

    def _shadow(self, found: list[tuple[nn.Module, str, Site]]) -> Callable[..., None]:
        """Let an attribute of the module hide its parameter, which stays where it is: in ``parameters()``, in the state."""

        def shadow(caller: nn.Module, args: object) -> None:
            if not caller.training:
                return
            for owner, name, site in found:
                size, noise = self._size(site), site.placed.noise
                if size:
                    noised = noise.apply(getattr(owner, name), size, self._source(site))
                    self._shadows.append((owner, name))
                    owner.__dict__[name] = noised
            for owner in dict.fromkeys(owner for owner, _, _ in found):
                refresh_recurrent(owner)

        return shadow

    def weights(self) -> dict[str, Tensor]:
        """The weights that the next training forward would compute with, by name, where there is noise on them; they carry
        gradient to the parameters. Counts as that forward: for whoever computes without calling the model."""
        self.begin(self.model)
        found: dict[str, Tensor] = {}
        for site in self.sites:
            size, noise = self._size(site), site.placed.noise
            if size and noise.acts == "weights":
                w = found.get(site.place, self.model.get_parameter(site.place))
                found[site.place] = noise.apply(w, size, self._source(site))
        return found

    def _uncover(self, found: list[tuple[nn.Module, str, Site]]) -> Callable[..., None]:
        mine = {(owner, name) for owner, name, _ in found}

        def uncover(caller: nn.Module, args: object, output: object) -> None:
            if not self._shadows:
                return
            self._take(mine)
            self._shadows = [shadow for shadow in self._shadows if shadow not in mine]

        return uncover

    def remove(self) -> None:
        self._clean()
        super().remove()

    def table(self) -> list[dict[str, object]]:
        """A row for each noise at each place: ``place``, ``noise``, ``size`` at the next forward, how often ``drawn``.

        A place that is never drawn after some forwards is not called by the model, or is called in evaluation mode.
        """
        return [
            {
                "place": site.place or "(the model)",
                "noise": str(site.placed.noise),
                "size": site.placed.size(site.base, self._step),
                "drawn": site.drawn,
            }
            for site in self.sites
        ]

    def __str__(self) -> str:
        rows = [("place", "noise", "size", "drawn")]
        rows += [(str(r["place"]), str(r["noise"]), f"{r['size']:.4g}", str(r["drawn"])) for r in self.table()]
        return "\n".join([*table(rows), f"{self._step} training forwards"])


def chosen_modules(model: nn.Module, placed: Placed) -> dict[str, nn.Module]:
    where = placed.where
    if isinstance(where, Selector):
        raise SelectorError(
            f"{type(placed.noise).__name__} is put on modules, and {where} selects parameters. "
            "Give a glob over module names, a module type or a predicate (name, module)."
        )
    union = places(model, where)
    hidden = inside_attention(model)
    chosen = {name: m for name, m in model.named_modules() if name in union and m not in hidden}
    if not chosen:
        raise InputError(
            f"{', '.join(union)} is computed inside its attention without being called, so its output cannot be disturbed. "
            "Select a module after the attention."
        )
    for name, module in chosen.items():
        if isinstance(module, _DropoutNd) and not isinstance(module, REPLACED):
            raise InputError(
                f"{name!r} is {type(module).__name__}, which keeps mean and variance by a formula of its own. "
                "Set its rate instead, or leave it out of the selector."
            )
    return chosen


@checked
def perturb(model: nn.Module, noises: Sequence[Placed] | Placed, seed: Seed = 0) -> Perturbed:
    """Put noise into a model: at each forward in training mode a new draw, in evaluation none.

    Draws are functions of ``(seed, step, place)`` and leave torch's global random state alone. Parameters, state and
    copies of the model stay clean. Several noises at one place act in the order given.

    Args:
        model: the whole model, the one that is called, before ``torch.compile``.
        noises: such as ``Dropout(0.3).on("encoder.*")``, ``DropConnect(0.2).on(nn.Linear)``.
        seed: of the draws.
    Returns:
        A handle with ``step``, ``table()`` and ``remove()``; ``print(handle)`` shows who is disturbed. As a context manager
        it removes the noise after the block.
    Raises:
        SelectorError: a selector matches nothing.
        InputError: what is selected cannot be disturbed.
        CompositionError: the model carries noise already.
    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> noise = perturb(net, [Dropout(0.5).on(torch.nn.ReLU), DropConnect(0.1).on("2")])
        >>> print(noise)
        place     noise                  size  drawn
        1         Dropout(rate=0.5)      0.5   0
        2.weight  DropConnect(rate=0.1)  0.1   0
        0 training forwards
        >>> noise.remove()
    """
    return Perturbed(model, [noises] if isinstance(noises, Placed) else noises, seed)
