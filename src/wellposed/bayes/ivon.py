"""`IVON`: an optimizer that learns a Gaussian posterior at about the cost of AdamW.

    with optimizer.sampled():                    # weights drawn from q = N(mean, 1/(rows (h + d)))
        loss(net(x), y).backward()
    optimizer.step()                             # mean and curvature h move; the weights are the mean again

The curvature comes from the draws themselves (Stein's identity): gradient times draw over variance is a Hessian diagonal without
bias. So the posterior costs one more tensor of the weights' size than AdamW's state has, and no second backward pass.

A step walks through the weights in pieces that stay in the processor's cache, as none of its ten operations does much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from wellposed.core.checks import Positive, Seed, Within, checked
from wellposed.core.errors import InputError, did_you_mean, guard_call
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
        params: as of any torch optimizer; all of them become distributions. A group may have ``lr``, ``rows``, ``prior``,
            ``start`` and ``betas`` of its own.
        lr: > 0, at the start about that of SGD: the curvature is ``start`` there.
        rows: training rows; the loss is the mean negative log-likelihood of a row.
        prior: of each weight.
        start: > 0, of h: the spread at first is ``1/sqrt(rows (start + d))``.
        betas: of gradient and curvature, in [0, 1).
        seed: of the draws, which are functions of ``(seed, draw)``.
    Raises:
        InputError: a step without a draw, whose gradients say nothing of the curvature; a step or a draw inside of a draw.
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
        settings = {"lr": lr, "rows": rows, "prior": prior, "start": start, "betas": betas}
        counts = {"seed": seed, "steps": 0, "draws": 0}
        guard_call("IVON with these params", super().__init__)(params, settings | counts)
        self._begin()

    def _begin(self) -> None:
        self._inside = False
        """Whether the weights are a draw now."""
        self._means: dict[Tensor, Tensor] = {}
        """Where the means are meanwhile: memory that is used again at every step."""
        self._away: dict[Tensor, Tensor] = {}
        """How far the last draw was from the means, times ``sqrt(rows)``."""
        self._noise = _Noise()
        self._forget()

    def _forget(self) -> None:
        self._draws = 0
        """How many draws have left gradients since the last step; their sum is in ``grad``, as anywhere in torch."""
        self._sum: dict[Tensor, Tensor] = {}
        """Where more than one draw is asked for: those gradients as they were after the last draw, and"""
        self._products: dict[Tensor, Tensor] = {}
        """the sum over draws of gradient times distance."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of any torch optimizer; the group may have ``lr``, ``rows``, ``prior``, ``start`` and ``betas`` of its own."""
        own = {key: value for key, value in param_group.items() if key not in ("params", "param_names")}
        for unknown in own.keys() - set(SETTINGS):
            raise InputError(
                f"A group of parameters has no {unknown!r} in IVON. It may have lr, rows, prior, start and betas."
                f"{did_you_mean(unknown, SETTINGS)}"
            )
        ivon_group(**{key: own.get(key, self.defaults[key]) for key in SETTINGS})
        super().add_param_group(dict(param_group))
        group = self.param_groups[-1]
        group["weight_decay"] = 1.0 / (group["rows"] * group.pop("prior").std ** 2)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Take the gradients away, and with them the draws that they belong to."""
        super().zero_grad(set_to_none)
        self._forget()

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

        Several draws before one step are averaged: call ``backward`` inside of each. A draw that leaves no gradient does not
        count, nor one whose block raises: gradients are then what they were before it.

        Args:
            seed: draws from this seed, for a prediction: nothing is noted for `step`.
        """
        self._refuse_inside()
        if seed is None and self._draws:
            self._fold_or_forget()
        with torch.inference_mode(False), torch.no_grad():
            self._draw(seed)
        marks = {w: (w.grad, -1 if w.grad is None else w.grad._version) for _, w in self._weights()}
        self._inside = True
        try:
            yield
        except BaseException:
            if seed is None:
                for w in _touched(marks):
                    w.grad = self._sum[w].clone() if w in self._sum else None
            raise
        finally:
            self._inside = False
            with torch.no_grad():
                for w in marks:
                    w.copy_(self._means[w])
        touched = _touched(marks) if seed is None else []
        if touched:
            if any(marks[w][0] is not None and marks[w][0] is not w.grad for w in touched):  # net.zero_grad() inside
                self._forget()
            if self._sum:
                self._fold()
            self._draws += 1

    def _refuse_inside(self) -> None:
        if self._inside:
            raise InputError(
                "The weights are a draw of IVON now, and it steps, or draws, from their means. Leave the block of "
                "optimizer.sampled() first: step, predict and draw again after it."
            )

    def _draw(self, seed: int | None) -> None:
        """Keep the means, and put a draw in their place."""
        first = self.param_groups[0]
        if seed is None:
            first["draws"] += 1
        keys = (first["seed"], "ivon", first["draws"]) if seed is None else (seed, "ivon")
        noise = self._noise
        noise.begin(stream_seed(*keys), sum(w.numel() for _, w in self._weights()))
        for group, w in self._weights():
            if w not in self._means:
                self._means[w] = torch.empty_like(w)
            if seed is None and w not in self._away:
                self._away[w] = torch.empty_like(w)
            away = self._away[w] if seed is None else torch.empty_like(w)
            for mine, mean, apart, h in _pieces(w, self._means[w], away, self.state[w]["curvature"]):
                mean.copy_(mine)
                torch.add(h, group["weight_decay"], out=apart).rsqrt_().mul_(noise.like(apart))
                mine.add_(apart, alpha=group["rows"] ** -0.5)

    def _fold_or_forget(self) -> None:
        """Before another draw that adds its gradients: keep what the last one left, if it was not taken away since."""
        if not any(w.grad is not None and bool(w.grad.any()) for _, w in self._weights()):
            self._forget()
        elif not self._sum:
            self._fold()

    @torch.no_grad()
    def _fold(self) -> None:
        """Add the last draw's own gradients, times its distances, to the products."""
        for w, away in self._away.items():
            if w.grad is None:
                continue
            if w in self._sum:
                self._products[w].addcmul_(away, w.grad - self._sum[w])
            else:
                self._products[w] = away * w.grad
            self._sum[w] = w.grad.clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move mean and curvature by the gradients of the draws since the last step. A closure is called under one draw."""
        self._refuse_inside()
        loss = None
        if closure is not None:
            with self.sampled(), torch.enable_grad():
                loss = closure()
        if not self._draws:
            raise InputError(
                "IVON learns the curvature from gradients at drawn weights, and none were drawn since its last step. Write: "
                "with optimizer.sampled(): loss(net(x), y).backward()."
            )
        for group in self.param_groups:
            group["steps"] += 1
        for group, w in self._weights():
            if w.grad is None:
                continue
            products, gradient = self._products.get(w), w.grad
            if products is not None:
                # Unscaled or clipped since, the gradients are those of the draws times a factor, and so are the products.
                now, then = (torch.linalg.vector_norm(x, torch.inf) for x in (gradient, self._sum[w]))
                products.mul_(now / (self._draws * then.clamp_min(torch.finfo(w.dtype).tiny)))
                gradient = gradient / self._draws
            _move(w, gradient, self._away[w], products, self.state[w], group)
        self._forget()
        return loss


SETTINGS = ("lr", "rows", "prior", "start", "betas")
"""What a group of parameters may have of its own."""


@checked
def ivon_group(lr: Positive, rows: Positive, prior: GaussianPrior, start: Positive, betas: tuple[Beta, Beta]) -> None:
    """Refuse settings of a group that the constructor would refuse."""


def _touched(marks: Mapping[Tensor, tuple[Tensor | None, int]]) -> list[Tensor]:
    """The weights whose gradients are others than they were, by the tensor and its version."""
    return [
        w for w, (gradient, version) in marks.items()
        if w.grad is not None and (w.grad is not gradient or w.grad._version != version)
    ]  # fmt: skip


class _Noise:
    """Standard normal numbers for all weights of a draw, one piece after the other."""

    def __init__(self) -> None:
        self.pool = torch.empty(0)

    def begin(self, seed: int, total: int) -> None:
        """Another draw of so many numbers, in the memory of the last."""
        self.source, self.size = torch.Generator().manual_seed(seed), min(total, POOL)
        self.at = -1

    def like(self, x: Tensor) -> Tensor:
        if x.numel() > self.size:  # on an accelerator, which draws as fast as it adds
            source = torch.Generator(x.device).manual_seed(int(torch.randint(2**62, (), generator=self.source)))
            return torch.empty_like(x).normal_(generator=source)
        if self.at < 0:
            self.pool = self.pool if len(self.pool) == self.size else torch.empty(self.size)
            self.pool.normal_(generator=self.source)
            self.at = 0
        if self.at + x.numel() > self.size:
            self.at = 0
            if torch.randint(2, (), generator=self.source):
                self.pool.neg_()
        self.at += x.numel()
        return self.pool[self.at - x.numel() : self.at].view(x.shape).to(x)


def _move(
    w: Tensor, gradient: Tensor, away: Tensor, products: Tensor | None, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    """One step of mean, momentum and curvature from the mean gradient of the draws, and the mean of gradient times distance; None
    is their product, as of a single draw. Distances are times ``sqrt(rows)``; they are overwritten."""
    (beta1, beta2), decay = group["betas"], group["weight_decay"]
    debias = 1.0 - beta1 ** group["steps"]
    rate = group["lr"] * (group["start"] + decay) / debias
    less = away if products is None else products
    precision: Tensor | None = None
    for m, grad, f, g, h in _pieces(w, gradient, less, state["momentum"], state["curvature"]):
        if products is None:
            f.mul_(grad)
        memory = precision if precision is not None and precision.shape == h.shape else None
        precision = torch.add(h, decay, out=memory)
        torch.addcmul(h, f, precision, value=-(group["rows"] ** 0.5), out=f)  # h - f
        h.add_(f, alpha=beta2 - 1.0).addcmul_(f, torch.div(f, precision, out=precision), value=0.5 * (1.0 - beta2) ** 2)
        g.lerp_(grad, 1.0 - beta1)
        m.addcdiv_(torch.add(g, m, alpha=decay * debias, out=f), torch.add(h, decay, out=precision), value=-rate)


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Equal pieces of tensors of one shape, where they lie in memory in one order; else, and on accelerators, all at once."""
    whole = tensors[0].device.type != "cpu" or not all(x.is_contiguous() for x in tensors)
    if whole or tensors[0].numel() <= PIECE:
        return iter([tensors])
    return zip(*(torch.split(x.view(-1), PIECE) for x in tensors), strict=True)
