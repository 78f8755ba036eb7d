"""The active inputs: a network that reads few of its inputs is trained on their columns alone.

Where all that reads the inputs are matrices under the penalty, an input whose columns are zero takes no part in the outputs,
so that a step costs as much as there are inputs left. Which inputs must come back is seen from the gradient of the whole network,
whose certificate alone decides.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.selectors import select
from wellposed.optimality.objective import Cost
from wellposed.penalties.base import Term, changed
from wellposed.penalties.group import GroupPenalty
from wellposed.sparsity.droppable import Support

MOST_ACTIVE = 0.7
"""Share of the inputs above which nothing is gained."""
LEAST_NUMBERS = 50_000
"""Numbers in the inputs below which a step costs no less."""
TRIED_ROWS = 16


@dataclass(frozen=True)
class Narrowed:
    """A network on some of its inputs, with the terms that charge it and the columns that it reads."""

    net: nn.Module
    terms: list[Term]
    columns: Tensor
    readers: tuple[str, ...]

    def rows(self, batches: Sequence[tuple[Tensor, Any]]) -> list[tuple[Tensor, Any]]:
        """The same rows, with the columns that are left."""
        return [(x.index_select(1, self.columns), y) for x, y in batches]

    @torch.no_grad()
    def write_back(self, net: nn.Module) -> None:
        """Give the whole network the weights that were trained here."""
        held = net.state_dict()
        for name, values in self.net.state_dict().items():
            own = held[name]
            if name in self.readers:
                own[:, self.columns] = values
            else:
                own.copy_(values)


def narrowed(
    net: nn.Module, support: Support, terms: Sequence[Term], parts: Tensor, batches: Sequence[tuple[Any, Any]]
) -> Narrowed | None:
    """The network on the inputs of some parts; None where they are too many, or something else reads the inputs too.

    Args:
        terms: the last of them is the path's own.
        parts: ``(parts,)`` booleans; the others must be zero.
    """
    x = batches[0][0] if batches else None
    few = 0 < parts.sum() <= MOST_ACTIVE * len(parts)
    if support.noun != "inputs" or not isinstance(x, Tensor) or x.ndim != 2 or not few:
        return None
    if sum(given.numel() for given, _ in batches) < LEAST_NUMBERS:
        return None
    label = next(iter(support.labels.values()))[0]
    readers = support.charged
    owners = {name: net.get_submodule(name.rpartition(".")[0]) for name in readers}
    if not all(type(owner) is nn.Linear and name.endswith("weight") for name, owner in owners.items()):
        return None
    charges_them = [{leaf.name for leaf in select(net, term.where)} & set(readers) for term in terms[:-1]]
    shapes = {net.get_parameter(name).shape[1:] for name in readers} | {label.shape}
    if any(charges_them) or shapes != {x.shape[1:]}:
        return None
    own = terms[-1]
    charge = own.charge
    groups = charge.by if isinstance(charge, GroupPenalty) and isinstance(charge.by, Tensor) else None
    if isinstance(charge, GroupPenalty) and isinstance(charge.weights, Tensor):
        return None  # one for each group, of which some would be missing
    if groups is not None and bool((groups < 0).any()):
        return None  # what is in no group would be in one
    columns = parts[label].nonzero()[:, 0]
    made = copy.deepcopy(net)
    for name in readers:
        module: Any = made.get_submodule(name.rpartition(".")[0])
        module.weight = nn.Parameter(net.get_parameter(name).detach()[:, columns])
        module.in_features = len(columns)
    if groups is not None:
        own = changed(charge, by=torch.unique(groups[:, columns], return_inverse=True)[1]).on(own.where, "prox")
    some = x[:TRIED_ROWS]
    with torch.no_grad():
        try:
            same = torch.allclose(made(some.index_select(1, columns)), net(some), rtol=1e-9, atol=1e-9)
        except RuntimeError:  # something else reads the inputs
            return None
    return Narrowed(made, [*terms[:-1], own], columns, readers) if same else None


@torch.no_grad()
def reawakened(cost: Cost, support: Support) -> Tensor:
    """``(parts,)`` booleans: the parts that a proximal step of the whole network does not leave at zero; inside `Cost.frozen`."""
    point = cost.at()
    moved = cost.charges.prox([w - g for w, g in zip(cost.params, point.grads, strict=True)], 1.0)
    places = {id(p): i for i, p in enumerate(cost.params)}
    found = torch.zeros(len(support.names), dtype=torch.bool)
    for leaf in support.leaves(cost.net):
        if leaf.name in support.labels:
            alive = moved[places[id(leaf.tensor)]] != 0
            found[support.labels[leaf.name][alive]] = True
    return found
