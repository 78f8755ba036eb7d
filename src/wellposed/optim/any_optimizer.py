"""The audit of any optimizer, ours or not, with how long its decay remembers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Annotated

from torch import nn
from torch.optim import Optimizer

from wellposed.core.checks import Positive, Within, checked
from wellposed.core.selectors import unwrap_model
from wellposed.optim.audit import Audit
from wellposed.optim.binding import Binding, bind
from wellposed.optim.own_decay import try_decay
from wellposed.optim.regularize import Regularized, first_rates
from wellposed.optim.wrapper import find_wrapper, needs_its_optimizer, unwrap_optimizer
from wellposed.penalties.elementwise import L2


@checked
def audit(
    optimizer: Optimizer,
    model: nn.Module,
    *,
    steps_per_epoch: Annotated[int, Within(1)] | None = None,
    epochs: Positive | None = None,
) -> Audit:
    """Who is charged what by any optimizer, ours or not: which parameters decay, how, which objective is solved.

    What an optimizer's own ``weight_decay`` does is found by a trial of a copy of it, so that its name does not matter.

    Args:
        optimizer: any ``torch.optim`` optimizer over the model's parameters, also inside a trainer's wrapper.
        model: names the parameters.
        steps_per_epoch: shows the memory of decay in epochs too: with a share ``lr * weight_decay`` taken off in each step
            the weights are an average over the last ``1 / (lr * weight_decay)`` steps.
        epochs: of the run; a memory that is shorter than an epoch or longer than the run is warned of.
    Raises:
        InputError: the optimizer holds no parameter of the model.
    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Linear(3, 2)
        >>> print(wp.audit(torch.optim.AdamW(net.parameters(), lr=1e-3), net, steps_per_epoch=500).notes[-1])
        note: decay averages the weights of 2 parameters over about 100,000 steps, which are 200 epochs.
    Source:
        Wang & Aitchison (2024), How to set AdamW's weight decay as you scale model and dataset size.
    """
    needs_its_optimizer("audit", model, optimizer)
    regularized, bare = find_wrapper(optimizer, Regularized), unwrap_optimizer(optimizer)
    binding = bind(model, bare, ()) if regularized is None else regularized.binding
    found = Audit.of(unwrap_model(model), bare, binding)
    return replace(found, notes=(*found.notes, *_notes_of_memory(bare, binding, steps_per_epoch, epochs)))


def _notes_of_memory(
    optimizer: Optimizer, binding: Binding, steps_per_epoch: int | None, epochs: float | None
) -> list[str]:
    """Over how many steps, and epochs, decay averages the weights; shortest first."""
    memories: Counter[float] = Counter()
    bounds = {id(one.leaf.tensor): one.bounds for one in binding.charged}
    for group in optimizer.param_groups:
        own = try_decay(optimizer, group)
        rates = first_rates(group)
        for p in group["params"]:
            decays = [b.charge for b in bounds.get(id(p), ()) if b.how == "decay" and isinstance(b.charge, L2)]
            shares = [1.0 - charge.decay_factor(rates[0], *rates) for charge in decays]
            shares += [own.share] if own.share > 0 else []
            if shares:
                memories[1.0 / math.fsum(shares)] += 1
    return [_note_of_memory(steps, count, steps_per_epoch, epochs) for steps, count in sorted(memories.items())]


def _note_of_memory(steps: float, parameters: int, steps_per_epoch: int | None, epochs: float | None) -> str:
    whose = f"{parameters} parameters" if parameters > 1 else "one parameter"
    says = f"note: decay averages the weights of {whose} over about {steps:,.0f} steps"
    if steps_per_epoch is None:
        return says + "; give steps_per_epoch= to see it in epochs."
    lasts = steps / steps_per_epoch
    says += f", which are {lasts:.3g} epochs"
    if lasts < 1:
        return says + ". That is less than an epoch: rows are forgotten before they come again; take a smaller decay."
    if epochs is not None and lasts > epochs:
        return says + f". That is longer than the run of {epochs:g} epochs, in which such a decay hardly acts."
    return says + "."
