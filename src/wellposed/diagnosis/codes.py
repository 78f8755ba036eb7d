"""What an autoencoder's code says: how many nats each dimension holds, and whether the decoder listens.

A code is what a term `wellposed.KLToStandardNormal` charges. The loss is compared with that of the same rows when every row is
drawn from the code of another one: a decoder that uses its code cannot bear that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.random import seeded
from wellposed.core.selectors import modules, unwrap_model
from wellposed.losses.per_example import Loss
from wellposed.optim.schedules import factor_at
from wellposed.penalties.base import Term
from wellposed.penalties.divergence import KLToStandardNormal
from wellposed.training.evaluate import evaluating
from wellposed.training.inspection import Predict, RowsWithTargets

AHEAD = (1, 2, 5, 10, 100)
"""Multiples of the steps taken at which a schedule is asked what it will come to."""


@dataclass(frozen=True)
class Code:
    """One code, as it was seen on some training rows in evaluation mode.

    Attributes:
        place: the module's name.
        nats: of each dimension from the prior, a mean over rows.
        told: nats that each dimension says of which row it is, at most.
        rise: of the loss when codes are exchanged between rows, with its standard ``error``, and the ``loss`` before.
        charged: the share of the strength that the schedule will come to which is charged now, in [0, 1].
    """

    place: str
    nats: Tensor
    told: Tensor
    rise: float
    error: float
    loss: float
    charged: float


def codes_of(
    model: nn.Module,
    terms: Sequence[Term],
    steps: int,
    predict: Predict,
    loss: Loss,
    batches: Sequence[RowsWithTargets],
) -> tuple[Code, ...]:
    """The codes that terms charge; none where there is no such term.

    Args:
        steps: of the optimizer so far, by which schedules go.
    """
    charged = [term for term in terms if isinstance(term.charge, KLToStandardNormal) and term.charge.strength > 0]
    found = []
    for term in charged:
        charge, chosen = term.charge, modules(unwrap_model(model), term.where)
        assert isinstance(charge, KLToStandardNormal)
        for names in charge.places([*chosen]):
            place = [chosen[name] for name in names]
            seen: list[list[Tensor]] = [[] for _ in place]

            def exchange(module: nn.Module, args: object, output: Tensor, axis: int = charge.batch) -> Tensor:
                return output.roll(1, dims=axis)

            plain = _losses(model, [*zip(place, map(_keeping, seen), strict=True)], predict, loss, batches)
            mixed = _losses(model, [(module, exchange) for module in place], predict, loss, batches)
            codes = [charge.joined(*parts).float() for parts in zip(*seen, strict=True)]
            if len(plain) < 2 or min(map(len, codes), default=0) < 2:  # a row alone has no other to exchange with
                continue
            rises = (mixed - plain).double()
            nats = torch.cat([charge.of(code).flatten(1) for code in codes]).mean(0)
            error = float(rises.std()) / math.sqrt(len(rises))
            told, rise, share = charge.told(torch.cat(codes)), float(rises.mean()), _share(term, steps)
            found.append(Code(names[0], nats, told, rise, error, float(plain.mean()), share))
    return tuple(found)


def _losses(
    model: nn.Module,
    hooks: Sequence[tuple[nn.Module, Callable[..., Any]]],
    predict: Predict,
    loss: Loss,
    batches: Sequence[RowsWithTargets],
) -> Tensor:
    """The mean loss of each batch, under the same draws, with hooks behind modules."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        with seeded(0, "codes"), evaluating(model, predict, loss, weights=True):
            return torch.tensor([float(loss.mean(predict(model, batch), target)) for batch, target in batches])
    finally:
        for handle in handles:
            handle.remove()


def _keeping(seen: list[Tensor]) -> Callable[..., None]:
    return lambda module, args, output: seen.append(output.detach())


def _share(term: Term, steps: int) -> float:
    """Of a warm-up, how far it is: the factor now over the largest that is to come."""
    if term.schedule is None:
        return 1.0
    now = factor_at(term.schedule, steps)
    most = max(now, *(factor_at(term.schedule, ahead * max(steps, 1)) for ahead in AHEAD))
    return now / most if most else 0.0
