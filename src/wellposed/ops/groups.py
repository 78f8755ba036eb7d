"""Groups of numbers: which coordinates of a tensor belong together.

A grouping splits a tensor so that the numbers of a group can be summed, and joins it again. Numbers per group (a norm, a
strength, a radius) are kept compact and are spread over the coordinates where they meet them. Groups along axes are views:
nothing is copied.

Groups
├── Tiled     the indices along some axes of a reshaped tensor: units, inputs, heads, tiles of a matrix
└── Labelled  a group number for each coordinate, or none: groups of any shape and of different sizes
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.core.errors import InputError, ShapeError

AXES = {"unit": 0, "filter": 0, "input": 1, "channel": 1, "axis 0": 0, "axis 1": 1}
"""Groups that are the indices of one axis, in torch's layouts (of transposed kernels, whose inputs are axis 0, by number)."""
HEADS = ("head", "head_rows", "head_input")
"""Groups of attention heads: rows (of queries, keys and values where they are packed), rows in any case, columns."""
WAYS = (*AXES, *HEADS, "block")


class Groups(ABC):
    """The groups of the tensors of one shape."""

    @property
    @abstractmethod
    def sizes(self) -> float | Tensor:
        """How many numbers a group holds; compact where groups differ."""

    @abstractmethod
    def split(self, x: Tensor) -> Tensor:
        """The grouped numbers of ``x``, in the layout that the other operators take."""

    @abstractmethod
    def join(self, x: Tensor, w: Tensor) -> Tensor:
        """A tensor of ``w``'s shape from a split one; numbers in no group are ``w``'s."""

    @abstractmethod
    def sum(self, x: Tensor) -> Tensor:
        """The sum of each group of a split tensor, compact."""

    @abstractmethod
    def amax(self, x: Tensor) -> Tensor:
        """The largest number of each group of a split tensor, compact."""

    @abstractmethod
    def norms(self, x: Tensor) -> Tensor:
        """``|x_g|_2`` of a split tensor, compact; its gradient at a zero group is 0."""

    def spread(self, compact: Tensor) -> Tensor:
        """A number per group, such that it broadcasts against a split tensor."""
        return compact

    def rest(self, w: Tensor) -> Tensor | None:
        """The numbers of ``w`` that are in no group, or None if there are none."""
        return None


@dataclass(frozen=True)
class Tiled(Groups):
    """A group is one index along the axes ``counted`` of the tensor seen in ``shape``."""

    shape: tuple[int, ...]
    counted: tuple[int, ...]

    @property
    def within(self) -> tuple[int, ...]:
        """The axes that run inside of a group."""
        return tuple(i for i in range(len(self.shape)) if i not in self.counted)

    @property
    def sizes(self) -> float:
        """The same for all."""
        return float(math.prod(self.shape[i] for i in self.within))

    def split(self, x: Tensor) -> Tensor:
        """A view where memory allows it."""
        return x.reshape(self.shape)

    def join(self, x: Tensor, w: Tensor) -> Tensor:
        """The other way."""
        return x.reshape(w.shape)

    def sum(self, x: Tensor) -> Tensor:
        """Axes are kept with length 1."""
        return x.sum(dim=self.within, keepdim=True) if self.within else x

    def amax(self, x: Tensor) -> Tensor:
        """Axes are kept with length 1."""
        return x.amax(dim=self.within, keepdim=True) if self.within else x

    def norms(self, x: Tensor) -> Tensor:
        """Axes are kept with length 1."""
        norms: Tensor = torch.linalg.vector_norm(x, dim=self.within, keepdim=True) if self.within else x.abs()
        return norms


@dataclass(frozen=True, eq=False)
class Labelled(Groups):
    """Groups by number: ``members`` are the flat positions that belong to a group, ``of`` the group of each of them."""

    members: Tensor
    of: Tensor
    counts: Tensor

    @property
    def sizes(self) -> Tensor:
        """``(groups,)``."""
        return self.counts

    def split(self, x: Tensor) -> Tensor:
        """``(members,)``."""
        return x.reshape(-1)[self.members]

    def join(self, x: Tensor, w: Tensor) -> Tensor:
        """What is in no group comes from ``w``."""
        return w.reshape(-1).index_copy(0, self.members, x).view(w.shape)

    def sum(self, x: Tensor) -> Tensor:
        """``(groups,)``."""
        return x.new_zeros(len(self.counts)).index_add(0, self.of, x)

    def amax(self, x: Tensor) -> Tensor:
        """``(groups,)``."""
        return x.new_full((len(self.counts),), -math.inf).scatter_reduce(0, self.of, x, "amax")

    def norms(self, x: Tensor) -> Tensor:
        """``(groups,)``."""
        squares = self.sum(x.square())
        some = squares > 0
        # The root has no gradient at 0: it is taken of 1 there.
        return squares.where(some, torch.ones_like(squares)).sqrt() * some

    def spread(self, compact: Tensor) -> Tensor:
        """``(members,)``."""
        return compact[self.of]

    def rest(self, w: Tensor) -> Tensor | None:
        """All that is no member."""
        if len(self.members) == w.numel():
            return None
        return w.reshape(-1).index_fill(0, self.members, 0.0)


def along(w: Tensor, axis: int) -> Tiled:
    """A group is one index along ``axis``."""
    return Tiled(tuple(w.shape), (axis % w.ndim,))


def outlasting(u: Tensor, moving: Tensor, groups: Groups) -> Tensor:
    """Which coordinates are in no group, or in one that a step from ``moving`` to ``u`` has not brought to zero."""
    gone = (groups.norms(groups.split(u)) == 0) & (groups.norms(groups.split(moving)) > 0)
    stays = groups.spread((~gone).to(u.dtype)) * torch.ones_like(groups.split(u))
    return groups.join(stays, torch.ones_like(u)) > 0


def labelled(labels: Tensor, w: Tensor) -> Labelled:
    """Groups of ``w`` by the numbers in ``labels``, of its shape or broadcast to it; negative is no group.

    Raises:
        ShapeError: the labels do not broadcast to the shape of ``w``.
    """
    try:
        flat = labels.to(w.device).broadcast_to(w.shape).reshape(-1)
    except RuntimeError:
        raise ShapeError(
            f"group numbers of shape {tuple(labels.shape)} do not broadcast to {tuple(w.shape)}; give one for each weight."
        ) from None
    members = (flat >= 0).nonzero().squeeze(1)
    _, of, counts = torch.unique(flat[members], return_inverse=True, return_counts=True)
    return Labelled(members, of, counts.to(w.dtype))


def groups_of(w: Tensor, by: str | Tensor, heads: int | None = None, block: tuple[int, int] | None = None) -> Groups:
    """The groups of ``w``.

    Args:
        w: at least two axes, but for group numbers.
        by: ``"unit"`` = ``"filter"`` = ``"axis 0"``, an index of axis 0; ``"input"`` = ``"channel"`` = ``"axis 1"``, of
            axis 1; ``"head"``, the rows of one attention head, taken from each third of a matrix ``(3E, E)`` (queries,
            keys, values packed), else consecutive; ``"head_rows"``, consecutive rows in any case; ``"head_input"``, the
            columns of one head; ``"block"``, a tile of a matrix; or integers that broadcast to ``w``, a group number for
            each weight, negative for none.
        heads: their number.
        block: rows and columns of a tile.
    Raises:
        ShapeError: ``w`` cannot be grouped so.
        InputError: ``heads`` or ``block`` is missing.
    """
    if isinstance(by, Tensor):
        return labelled(by, w)
    shape = tuple(w.shape)
    if len(shape) < 2:
        raise ShapeError(f"groups by {by} need >= 2 axes; the shape is {shape}.")
    if by in AXES:
        return along(w, AXES[by])
    if by == "block":
        if block is None:
            raise InputError('by="block" needs block=(rows, columns).')
        (r, c), (rows, columns) = block, (shape[0], math.prod(shape[1:]))
        if len(shape) != 2 or rows % r or columns % c:
            raise ShapeError(f"blocks of {r}x{c} need a matrix of a multiple of {r} rows and {c} columns, not {shape}.")
        return Tiled((rows // r, r, columns // c, c), (0, 2))
    if heads is None:
        raise InputError(
            f'by="{by}" needs heads=, their number, which only the in_proj of nn.MultiheadAttention knows by itself. '
            'Of an out_proj the columns belong to heads: by="head_input", heads=...'
        )
    packed = by == "head" and len(shape) == 2 and shape[0] == 3 * shape[1]
    axis = 1 if by == "head_input" else 0
    owned = shape[axis] // 3 if packed else shape[axis]
    if owned % heads:
        raise ShapeError(f"{heads} heads do not divide axis {axis} of {shape}, which holds {owned}.")
    if axis == 1:
        return Tiled((shape[0], heads, owned // heads, *shape[2:]), (1,))
    return Tiled(((3,) if packed else ()) + (heads, owned // heads, *shape[1:]), (1,) if packed else (0,))
