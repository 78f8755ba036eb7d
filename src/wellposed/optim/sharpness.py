"""Sharpness-aware minimization in anybody's loop: the gradient is taken where the loss nearby is worst."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.checks import checked
from wellposed.core.errors import InputError
from wellposed.core.preserve import buffers_kept
from wellposed.core.selectors import leaves
from wellposed.penalties.base import at_least_zero

ETA = 0.01
"""The published value; what it does, see `SAM`."""


@checked
class SAM:
    """Descend with the gradient at ``w + e(w)`` in place of that at ``w``:

        e(w) = radius * g/|g|                        SAM:  argmax over |e| <= radius of the linearized loss
        e(w) = radius * T^2 g/|T g|, T = |w| + eta   ASAM: the same over |e/T| <= radius

    ``g`` is the gradient at ``w`` and the norm is over all parameters together. Only the direction of ``g`` counts, so
    a gradient scaler's factor, a mean or a sum over micro-batches, and the size of the loss change nothing.

    Args:
        model: its parameters ascend. What else the optimizer trains (a loss with weights) belongs in it too.
        radius: >= 0. 0 is plain training, with a second pass for nothing. Usual: 0.05 for SAM, 0.5 to 2 for ASAM.
        adaptive: ASAM. With ``eta`` 0 it does not depend on how a ReLU network's scale is spread over its layers. All
            parameters are scaled by their size, biases too.
        eta: >= 0; keeps weights near 0 moving. Only with ``adaptive``.
    Raises:
        InputError: a setting is impossible.
    Sources:
        Foret et al. (2021), ICLR, 2010.01412; Kwon et al. (2021), ICML, 2102.11600.
    Example:
        >>> import torch, wellposed as wp
        >>> net, x, y = torch.nn.Linear(3, 1), torch.randn(8, 3), torch.randn(8, 1)
        >>> optimizer, sam = torch.optim.SGD(net.parameters(), lr=0.1), wp.SAM(net)
        >>> optimizer.zero_grad()
        >>> (net(x) - y).square().mean().backward()      # the gradient at w
        >>> with sam.ascended():                         # the gradient at w + e(w), of the same batch
        ...     (net(x) - y).square().mean().backward()
        >>> _ = optimizer.step()                         # from w; clip the gradient before it, if at all

    With ``torch.amp.GradScaler``, scale both losses, and unscale, clip and step after the block. Terms of `regularize`
    act once, in the step. Dropout draws a new mask in the second pass.
    """

    def __init__(self, model: nn.Module, radius: float = 0.05, adaptive: bool = False, eta: float = ETA) -> None:
        at_least_zero(self, radius=radius, eta=eta)
        self.model, self.radius, self.adaptive, self.eta = model, float(radius), bool(adaptive), float(eta)

    def __repr__(self) -> str:
        return f"SAM(radius={self.radius}, adaptive={self.adaptive}, eta={self.eta})"

    @contextmanager
    def ascended(self) -> Iterator[None]:
        """Inside, the weights are ``w + e(w)`` and the gradients are cleared; run the same batches again.

        After it the weights are ``w`` and the buffers (batch-norm statistics) are those of the first pass, bit for bit,
        also after an exception; the gradients are those at ``w + e(w)``. Where the gradient at ``w`` is zero or not finite
        (a gradient scaler's overflow) nothing moves: the second pass runs at ``w``.

        Raises:
            InputError: no gradient, a sparse gradient, or weights that were changed inside.
        """
        moving = self._moving()
        weights = [w.detach().clone() for w in moving]
        with buffers_kept(self.model):
            try:
                self._ascend(moving)
                self.model.zero_grad(set_to_none=True)
                witness = self._witness(moving)
                ascended: Any = None if witness is None else witness.detach().clone()
                yield
                changed = witness is not None and not torch.allclose(witness, ascended, 0.0, 0.0, equal_nan=True)
            finally:
                with torch.no_grad():
                    for w, kept in zip(moving, weights, strict=True):
                        w.copy_(kept)
        if changed:
            raise InputError(
                "The weights were changed inside `with sam.ascended():`, and went back to where they were before it. "
                "Call optimizer.step() after the block."
            )

    def _moving(self) -> list[nn.Parameter]:
        """The parameters that have a gradient, without frozen ones on which an old one is left."""
        found = []
        for leaf in leaves(self.model):
            gradient = leaf.tensor.grad
            if gradient is None or not leaf.tensor.requires_grad:
                continue
            if gradient.layout != torch.strided:
                raise InputError(
                    f"{leaf.name!r} of shape {tuple(leaf.tensor.shape)} has a sparse gradient; SAM needs dense ones. "
                    "Build the layer with sparse=False."
                )
            found.append(leaf.tensor)
        if not found:
            raise InputError("No parameter has a gradient. Call loss.backward() before `with sam.ascended():`.")
        return found

    def _witness(self, moving: list[nn.Parameter]) -> nn.Parameter | None:
        """The smallest parameter, which an optimizer's step would change too."""
        # An Embedding with max_norm changes its own weight when it looks up.
        own = {
            id(m.weight) for m in self.model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.max_norm
        }
        return min((w for w in moving if id(w) not in own), key=lambda w: w.numel(), default=None)

    @torch.no_grad()
    def _ascend(self, moving: list[nn.Parameter]) -> None:
        """``w += e(w)``, or nothing where that is not finite."""
        if not self.radius:
            return
        gradients = [w.grad for w in moving if w.grad is not None]
        scales: list[Tensor | float] = [w.abs() + self.eta for w in moving] if self.adaptive else [1.0] * len(moving)
        directions = [scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]
        # Divided by its largest entry first: squares of a scaler's gradients may overflow, small ones vanish.
        device = directions[0].device
        top = torch.stack([_largest(direction).to(device) for direction in directions]).max()
        if not bool(torch.isfinite(top) & (top > 0)):
            return
        norms = [torch.linalg.vector_norm(d.to(top.dtype) / top.to(d.device)).to(device) for d in directions]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        for w, scale, direction in zip(moving, scales, directions, strict=True):
            unit = direction.to(top.dtype) / top.to(w.device) / norm.to(w.device)
            w.add_((scale * unit).to(w.dtype), alpha=self.radius)


def _largest(values: Tensor) -> Tensor:
    """The largest absolute value in at least single precision; NaN where there is one."""
    if not values.numel():
        return torch.zeros((), device=values.device)
    return values.abs().max().to(torch.promote_types(values.dtype, torch.float32))
