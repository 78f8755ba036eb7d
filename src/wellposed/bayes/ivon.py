"""`IVON`: an optimizer that learns a Gaussian posterior at about the cost of AdamW.

    with optimizer.sampled():                    # weights drawn from q = N(mean, 1/(rows (h + d)))
        loss(net(x), y).backward()
    optimizer.step()                             # mean and curvature h move; the weights are the mean again

The curvature comes from the draws themselves (Stein's identity): gradient times draw over variance is a Hessian diagonal without
bias. So the posterior costs one more tensor of the weights' size than AdamW's state has, and no second backward pass.

A step walks through the weights in pieces that stay in the processor's cache, as none of its fifteen operations does much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from wellposed.core.checks import Positive, Seed, Within, checked
from wellposed.core.errors import InputError
from wellposed.core.random import stream_seed
from wellposed.penalties.divergence import GaussianPrior

PIECE = 2**17
"""Weights of a piece on the CPU: half a megabyte of float32, so that what an operation leaves is in the cache for the next."""
POOL = 2**20
"""Normal numbers that a step draws. They cost five times what any other pass over the weights does; of a larger network every
million weights takes them again with a random sign: each draw is exactly normal, and any two weights' are uncorrelated."""
Beta = Annotated[float, Within(0, 1, open="high")]


@checked
class IVON(Optimizer):
    """Improved variational online Newton: mean and diagonal precision of a Gaussian posterior, one gradient a step.

    With ``d = 1/(rows std^2)`` of the prior, momentum g and curvature h, a draw ``w = m + s e`` of ``s^2 = 1/(rows (h + d))`` and
    the gradient G of the mean loss there::

        f  = G (w - m)/s^2
        g <- beta1 g + (1 - beta1) G
        h <- beta2 h + (1 - beta2) f + (1 - beta2)^2 (h - f)^2/(2 (h + d))
        m <- m - lr (start + d) (g/(1 - beta1^t) + d m)/(h + d)

    The prior is in the step: add neither ``wp.kl`` nor L2, and no weight decay. Where the posterior of a `bayesian` network needs
    two tensors and its gradients, here any network is trained as it is.

    Args:
        params: as of any torch optimizer; all of them become distributions.
        lr: > 0, at the start about that of SGD: the curvature is ``start`` there.
        rows: training rows; the loss is the mean negative log-likelihood of a row.
        prior: of each weight.
        start: > 0, of h: the spread at first is ``1/sqrt(rows (start + d))``.
        betas: of gradient and curvature, in [0, 1).
        seed: of the draws, which are functions of ``(seed, step, draw)``.
    Raises:
        InputError: a step without a draw, whose gradients say nothing of the curvature.
    Source:
        Shen, Daheim, Cong, Nickl, Marconi, Bazan, Yokota, Gurevych, Cremers, Khan & Moellenhoff (2024), ICML, algorithm 1.
    Example:
        >>> import torch, wellposed as wp
        >>> net, x = torch.nn.Linear(2, 1), torch.randn(50, 2)
        >>> optimizer = wp.IVON(net.parameters(), lr=0.1, rows=50, prior=wp.GaussianPrior(1.0))
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     with optimizer.sampled():
        ...         net(x).square().mean().backward()
        ...     optimizer.step()
        >>> wp.predictive(net, x, samples=10, noise_std=0.1, drawn_by=optimizer).mean.shape
        torch.Size([50])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Positive = 0.1,
        *,
        rows: Positive,
        prior: GaussianPrior,
        start: Positive = 1.0,
        betas: tuple[Beta, Beta] = (0.9, 0.99999),
        seed: Seed = 0,
    ) -> None:
        decay = 1.0 / (rows * prior.std**2)
        super().__init__(
            params, {"lr": lr, "rows": rows, "weight_decay": decay, "start": start, "betas": betas, "steps": 0}
        )
        self.seed = seed
        self._room: dict[Tensor, Tensor] = {}
        """Where the means are while the weights are a draw: memory that is used again at every step."""
        self._free: list[dict[Tensor, Tensor]] = []
        self._draws: list[dict[Tensor, Tensor]] = []
        """Of each draw since the last step, its distance from the mean; all but the last times their gradients."""
        self._earlier: dict[Tensor, Tensor] = {}
        """The gradients of all draws but the last, added up."""

    def _weights(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Every trained weight with its group; states are made at the first call."""
        for group in self.param_groups:
            for w in group["params"]:
                if w.requires_grad:
                    if not self.state[w]:
                        self.state[w] = {
                            "momentum": torch.zeros_like(w),
                            "curvature": torch.full_like(w, group["start"]),
                        }
                    yield group, w

    @contextmanager
    def sampled(self, seed: Seed | None = None) -> Iterator[None]:
        """Inside, the weights are a draw; afterwards they are the mean again, and `step` knows where gradients were taken.

        Several draws before one step are averaged: call ``backward`` inside of each.

        Args:
            seed: draws from this seed, for a prediction: nothing is noted for `step`.
        """
        if self._draws and seed is None:
            self._fold()
        means, apart = self._room, self._free.pop() if self._free else {}
        keys = (self.seed, "ivon", self.param_groups[0]["steps"], len(self._draws)) if seed is None else (seed, "ivon")
        noise = _Noise(stream_seed(*keys), sum(w.numel() for _, w in self._weights()))
        with torch.no_grad():
            for group, w in self._weights():
                for held in (means, apart):
                    if w not in held:
                        held[w] = torch.empty_like(w)
                for mine, mean, away, h in _pieces(w, means[w], apart[w], self.state[w]["curvature"]):
                    mean.copy_(mine)
                    spread = (h + group["weight_decay"]).mul_(group["rows"]).rsqrt_()
                    mine.add_(torch.mul(noise.like(away), spread, out=away))
        try:
            yield
        finally:
            with torch.no_grad():
                for _, w in self._weights():
                    w.copy_(means[w])
            (self._free if seed is not None else self._draws).append(apart)

    @torch.no_grad()
    def _fold(self) -> None:
        """Before another draw: keep what the last one's gradients say, and take them away."""
        for w, away in self._draws[-1].items():
            if w.grad is not None:
                away.mul_(w.grad)
                self._earlier[w] = self._earlier[w].add_(w.grad) if w in self._earlier else w.grad.clone()
                w.grad = None
            else:
                away.zero_()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move mean and curvature by the gradients of the draws since the last step. A closure is called under one draw."""
        loss = None
        if closure is not None:
            with self.sampled(), torch.enable_grad():
                loss = closure()
        if not self._draws:
            raise InputError(
                "IVON learns the curvature from gradients at drawn weights, and none were drawn since its last step. Write: "
                "with optimizer.sampled(): loss(net(x), y).backward()."
            )
        draws, self._draws = self._draws, []
        earlier, self._earlier = self._earlier, {}
        for group in self.param_groups:
            group["steps"] += 1
        for group, w in self._weights():
            if w.grad is None and w not in earlier:
                continue
            gradient = torch.zeros_like(w) if w.grad is None else w.grad
            products = draws[-1][w].mul_(gradient)
            for other in draws[:-1]:
                products.add_(other[w])
            if w in earlier:
                gradient = gradient + earlier[w]
            _move(w, gradient, products, self.state[w], group, len(draws))
        self._free = draws[:1]
        return loss


class _Noise:
    """Standard normal numbers for all weights of a draw, one piece after the other."""

    def __init__(self, seed: int, total: int) -> None:
        self.source, self.size = torch.Generator().manual_seed(seed), min(total, POOL)
        self.pool = torch.empty(0)
        self.at, self.sign = 0, 1.0

    def like(self, x: Tensor) -> Tensor:
        if x.numel() > self.size:  # on an accelerator, which draws as fast as it adds
            source = torch.Generator(x.device).manual_seed(int(torch.randint(2**62, (), generator=self.source)))
            return torch.empty_like(x).normal_(generator=source)
        if not len(self.pool):
            self.pool = torch.empty(self.size).normal_(generator=self.source)
        if self.at + x.numel() > self.size:
            self.at, self.sign = 0, 1.0 - 2.0 * int(torch.randint(2, (), generator=self.source))
        found = self.pool[self.at : self.at + x.numel()].view(x.shape).to(x)
        self.at += x.numel()
        return found if self.sign > 0 else -found


def _move(
    w: Tensor, gradient: Tensor, products: Tensor, state: dict[str, Tensor], group: dict[str, Any], count: int
) -> None:
    """One step of mean, momentum and curvature from sums over ``count`` draws of gradients, and of gradients times distances."""
    (beta1, beta2), decay = group["betas"], group["weight_decay"]
    debias = 1.0 - beta1 ** group["steps"]
    rate = group["lr"] * (group["start"] + decay) / debias
    for m, grad, f, g, h in _pieces(w, gradient, products, state["momentum"], state["curvature"]):
        g.mul_(beta1).add_(grad, alpha=(1.0 - beta1) / count)
        precision = h + decay
        less = f.mul_(precision).mul_(-group["rows"] / count).add_(h)  # h - f
        bend = (less / precision).mul_(0.5 * (1.0 - beta2)).sub_(1.0)
        h.addcmul_(less, bend, value=1.0 - beta2)
        m.addcdiv_(torch.add(g, m, alpha=decay * debias), torch.add(h, decay, out=precision), value=-rate)


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Equal pieces of tensors of one shape, where they lie in memory in one order; else, and on accelerators, all at once."""
    whole = tensors[0].device.type != "cpu" or not all(x.is_contiguous() for x in tensors)
    if whole or tensors[0].numel() <= PIECE:
        return iter([tensors])
    return zip(*(x.view(-1).split(PIECE) for x in tensors), strict=True)
