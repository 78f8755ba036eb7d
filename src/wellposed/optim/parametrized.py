"""Layers whose weight is computed from other tensors: those are no weights, and what is done to them is not done to it.

Weight norm divides a direction by its norm, spectral norm a matrix by its largest singular value, and torch's orthogonal
map takes any matrix to one with orthonormal columns. Making such a tensor smaller changes nothing, or breaks the layer
where its norm is 0; keeping it in a set does not keep the weight there.
"""

from __future__ import annotations

import re

from torch import Tensor

from wellposed.core.errors import CompositionError
from wellposed.core.selectors import Leaf
from wellposed.penalties.base import How

ORIGINAL = re.compile(r"(?P<layer>.*?)\.?\bparametrizations\.(?P<weight>[^.]+)\.original\d*$")


def check_parametrized(leaf: Leaf, how: How) -> None:
    """Refuse proximal steps and projections of a tensor from which a parametrization computes a layer's weight.

    Decay and the loss are left: there it is the objective that is charged. So is the gain of weight norm, the norm of the
    weight's rows. A parametrization of a person's own is refused too: what it makes of zeros and bounds cannot be told from
    outside. A mask of ``torch.nn.utils.prune`` is none: it keeps zeros, and makes no norm larger.
    """
    weight = computed_from(leaf)
    if how not in ("prox", "project") or weight is None:
        return
    gain = _gain(leaf)
    raise CompositionError(
        f"{leaf.name!r} is what a parametrization computes {weight!r} from: zeros and bounds of the one are not those of "
        'the other. Enforce a penalty with how="loss", remove the parametrization, '
        + (f'or charge the gain, wp.named("{gain}").' if gain else "or choose other parameters.")
    )


def computed_from(leaf: Leaf) -> str | None:
    """The name of the weight that is computed from this tensor; None where it is a weight itself, or a gain."""
    layer, _, own = leaf.name.rpartition(".")
    found = ORIGINAL.fullmatch(leaf.name)
    if found:
        gain = leaf.role == "norm" and leaf.name.endswith(".original0")
        return None if gain else ".".join(part for part in found.groups() if part)
    # The older weight_norm and spectral_norm keep tensors in the layer itself, and compute the weight before each pass.
    for ending, beside in (("_v", "_g"), ("_orig", "_u")):
        base = own.removesuffix(ending)
        if base != own and hasattr(leaf.module, base + beside) and hasattr(leaf.module, base):
            return f"{layer}.{base}" if layer else base
    return None


def _gain(leaf: Leaf) -> str:
    """The name of the gain that weight norm keeps beside a direction, or nothing."""
    if leaf.name.endswith("_v"):
        return f"{leaf.name[:-1]}g"
    lists = getattr(leaf.module, "parametrizations", {})
    beside = [
        getattr(one, "original0", None) for one in lists.values() if getattr(one, "original1", None) is leaf.tensor
    ]
    long = [
        sum(size > 1 for size in one.shape)
        for one in beside
        if isinstance(one, Tensor) and one.ndim == leaf.tensor.ndim
    ]
    return f"{leaf.name[:-1]}0" if long and long[0] <= 1 else ""
