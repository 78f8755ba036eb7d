"""Where a layer's kernel has its units and its inputs."""

from __future__ import annotations

from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from wellposed.core.errors import ShapeError
from wellposed.core.selectors import Leaf
from wellposed.ops.groups import AXES

NUMBERED = ("axis 0", "axis 1")
"""Groups that say their axis: the same in every layer."""


def laid_out(owner: object, by: str, leaf: Leaf) -> str:
    """``by`` as it is at one parameter: units of a transposed kernel ``(in, out/groups, k...)`` are ``"axis 1"``.

    Refused is the kernel of a grouped convolution that has no axis of its own for these groups: axis 1 counts the inputs
    (transposed: the outputs) inside of each of the convolution's groups, and an index of it is one of each.
    """
    layer = leaf.module
    if by in NUMBERED or by not in AXES or not isinstance(layer, _ConvNd) or leaf.tensor.ndim < 3:
        return by
    transposed = isinstance(layer, _ConvTransposeNd)
    axis = 1 - AXES[by] if transposed else AXES[by]
    if axis == 1 and layer.groups > 1:
        raise ShapeError(
            f"{type(owner).__name__} by {by} cannot charge {leaf.name!r}: a convolution with groups={layer.groups} has "
            f"different {'outputs' if transposed else 'inputs'} in each group, and its kernel {tuple(leaf.tensor.shape)} "
            f'has no axis for them. Use by="{"input" if transposed else "unit"}", or choose other parameters.'
        )
    return NUMBERED[axis] if transposed else by
