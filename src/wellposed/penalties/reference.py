"""Penalties of the distance to a reference, in place of zero: fine-tuning that stays close to the pretrained weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from wellposed.core.checks import checked
from wellposed.core.errors import InputError, ShapeError, described, did_you_mean, listed
from wellposed.core.selectors import Leaf
from wellposed.ops.norms import at_least_float32, length
from wellposed.ops.prox import shrink_towards, soft_threshold_towards
from wellposed.ops.shards import unshard
from wellposed.penalties.base import Penalty, Summands, Traits, array, changed, setting_text, tensor_of
from wellposed.penalties.elementwise import L1, broadcasts

Reference = float | Tensor | Mapping[str, Tensor] | None


class Towards(Penalty):
    """``g(w - w0)``: what the penalties towards a reference ``w0`` have in common.

    Attributes:
        reference: a number; a tensor, an array or lists that broadcast to the parameter; a mapping of the model's parameter
            names to tensors, such as the ``state_dict`` of a pretrained model; or None, the weights at the moment of binding.
    """

    reference: Reference

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.reference
        if not isinstance(given, (Tensor, Mapping, nn.Module)):
            given = array(self, "reference")
        if isinstance(given, Tensor) and given.is_complex():
            raise InputError(f"{type(self).__name__} needs a reference of real numbers; it was given {given.dtype}.")
        number = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
        if not (given is None or number or isinstance(given, (Tensor, Mapping))):
            raise InputError(
                f"{type(self).__name__} needs a reference that is a finite number, a tensor, a state_dict or None; "
                f"it was given {described(given)}.{' Write model.state_dict().' if isinstance(given, nn.Module) else ''}"
            )

    def __str__(self) -> str:
        given = self.reference
        text = f"<{len(given)} tensors>" if isinstance(given, Mapping) else setting_text(given)
        return f"{type(self).__name__}(strength={self.strength!r}{'' if given is None else f', reference={text}'})"

    __repr__ = __str__

    def check(self, name: str, w: Tensor) -> None:
        if isinstance(self.reference, Tensor) and not broadcasts(self.reference, w):
            raise self._misshapen(name, w, self.reference)

    def at(self, leaf: Leaf) -> Self:
        """This penalty at one parameter, with a copy of its reference, in the parameter's type and on its device: a ``state_dict``
        shares memory with a model that trains on.

        Raises:
            InputError: a mapping has none of the parameter's names, or the reference is not finite.
            ShapeError: a mapping has a tensor of another shape, or a tensor does not broadcast.
        """
        found: object = unshard(leaf.tensor) if self.reference is None else self.reference
        if isinstance(found, Mapping):
            found = self._picked(found, leaf)
        if not isinstance(found, Tensor):
            return self
        if not broadcasts(found, leaf.tensor):
            raise self._misshapen(leaf.name, leaf.tensor, found)
        if not bool(torch.isfinite(found).all()):
            raise InputError(
                f"{type(self).__name__} needs a finite reference; that of {leaf.name!r} has NaN or infinity."
            )
        kept = found.detach().to(device=leaf.tensor.device, dtype=leaf.tensor.dtype, copy=True)
        return changed(self, reference=kept)

    def _picked(self, tensors: Mapping[str, Tensor], leaf: Leaf) -> Tensor:
        for name in (leaf.name, *leaf.aliases):
            given = tensors.get(name)
            try:
                found = given if isinstance(given, Tensor) else tensor_of(given)
            except (TypeError, ValueError, RuntimeError):
                found = None
            if given is not None and found is None:
                raise InputError(
                    f"{type(self).__name__} needs tensors in its reference; that of {name!r} is {described(given)}."
                )
            if isinstance(found, Tensor):
                if found.shape != leaf.tensor.shape:
                    raise self._misshapen(leaf.name, leaf.tensor, found)
                return found
        raise InputError(
            f"{type(self).__name__} needs a tensor for {leaf.name!r} in its reference, which has none."
            f"{did_you_mean(leaf.name, tensors)} It has: {listed(tensors)}. "
            "Charge what is new with wp.L2 or wp.L1, or subtract it from the selector."
        )

    def _misshapen(self, name: str, w: Tensor, found: Tensor) -> ShapeError:
        return ShapeError(
            f"{type(self).__name__} needs a reference of shape {tuple(w.shape)} for {name!r}; "
            f"it was given {tuple(found.shape)}. Subtract the parameter from the selector if it is new."
        )

    def origin(self, w: Tensor) -> float | Tensor:
        """The reference as it can be subtracted from ``w``: a number, or a tensor of its type on its device.

        Raises:
            InputError: it is known only when the penalty is bound to a model.
        """
        if isinstance(self.reference, Tensor):
            return self.reference.detach().to(w)
        if isinstance(self.reference, (int, float)):
            return self.reference
        what = "no reference" if self.reference is None else "references by name"
        raise InputError(
            f"This {type(self).__name__} has {what}: which tensor is meant is known once it is bound to a model, by "
            "wp.regularize. To use it alone, give reference= as a number or a tensor."
        )


@checked
@dataclass(frozen=True, repr=False)
class L2SP(Towards):
    """``strength/2 * sum_i (w_i - w0_i)^2``: weights are pulled to where they started, not to zero.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        reference: ``w0``: a number, a tensor that broadcasts to the parameter, a ``state_dict`` of the pretrained model, or
            None: the weights at the moment of binding. A run that is resumed binds anew; give it the ``state_dict``.
    Raises:
        InputError: the reference has no tensor of a parameter's name, or an unbound one is evaluated.
        ShapeError: a tensor of the reference does not fit the parameter.
    Source:
        Li, Grandvalet & Davoine (2018), ICML.
    Example:
        >>> import torch
        >>> L2SP(1.0, reference=torch.tensor([1.0, 0.0])).prox(torch.tensor([3.0, -2.0]), step=1.0)
        tensor([ 2., -1.])
    """

    strength: float
    reference: Reference = field(default=None, compare=False)
    traits: ClassVar[Traits] = Traits(symmetric=False, sparse=False)

    @property
    def center(self) -> float | Tensor:
        return self.reference if isinstance(self.reference, Tensor) else self.origin(torch.empty(0))

    def summands(self) -> Summands:
        return Summands(((self.strength, self.center),))

    def value(self, w: Tensor) -> Tensor:
        x = at_least_float32(w)
        return (0.5 * self.strength * (x - self.origin(x)).square().sum()).to(w.dtype)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """The minimizer ``(w + step*strength*w0)/(1 + step*strength)``, of ``w``'s shape."""
        return shrink_towards(w, step * self.strength, self.origin(w))

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        return length(grad + self.strength * (w - self.origin(w)))


@checked
@dataclass(frozen=True, repr=False)
class L1SP(Towards):
    """``strength * sum_i |w_i - w0_i|``: most weights stay exactly where they started, a few move.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        reference: ``w0``, as of `L2SP`, with its errors.
    Raises:
        InputError: the reference has no tensor of a parameter's name, or an unbound one is evaluated.
        ShapeError: a tensor of the reference does not fit the parameter.
    Source:
        Li, Grandvalet & Davoine (2018), ICML.
    Example:
        >>> import torch
        >>> L1SP(1.0, reference=torch.tensor([1.0, 0.0])).prox(torch.tensor([3.0, -0.5]), step=1.0)
        tensor([2., 0.])
    """

    strength: float
    reference: Reference = field(default=None, compare=False)

    @property
    def traits(self) -> Traits:
        """Sparse where the reference has zeros: weights become exactly what they are pulled to."""
        given = self.reference
        zero = bool((given == 0).any()) if isinstance(given, Tensor) else given == 0
        return Traits(symmetric=False, sparse=zero)

    def value(self, w: Tensor) -> Tensor:
        """``strength * |w - w0|_1``, 0-d; its gradient at the reference is 0."""
        x = at_least_float32(w)
        return (self.strength * (x - self.origin(x)).abs().sum()).to(w.dtype)

    def prox(self, w: Tensor, step: float | Tensor) -> Tensor:
        """``w0 + soft_threshold(w - w0, step*strength)``; what is near enough becomes exactly ``w0``."""
        return soft_threshold_towards(w, step * self.strength, self.origin(w))

    def violation(self, w: Tensor, grad: Tensor, step: float = 1.0) -> Tensor:
        """``|grad + strength*sign(w - w0)|`` off the reference, ``max(|grad| - strength, 0)`` at it; Euclidean."""
        return L1(self.strength).violation(w - self.origin(w), grad)
