"""What a path can drop: inputs, units, heads or single weights, each with a name, and a norm that is zero when it is gone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.errors import InputError, described
from wellposed.core.random import generator
from wellposed.core.registry import classes_in, lookup
from wellposed.core.selectors import Leaf, inputs, leaves, select, selector
from wellposed.data.data import Prepared
from wellposed.optim.charges import Charges
from wellposed.penalties.base import Penalty, Term, changed
from wellposed.penalties.elementwise import WeightedL1
from wellposed.penalties.group import GroupPenalty
from wellposed.penalties.hierarchical import Hierarchical
from wellposed.training.evaluate import evaluating

SHORT = {"group": "group_l2", "lasso": "l1", "hierarchy": "hierarchical"}
HELD = 1e30
"""A rate that no gradient outweighs: a weight at zero with this charge stays there."""
PathPenalty = Penalty | Hierarchical


def penalty_of(given: object, where: object, prepared: Prepared) -> PathPenalty:
    """The penalty of a path, with strength 1: by name, or as given, whose strength is not used.

    Groups of inputs follow the columns of a table: the 0/1 features of one category are one group.

    Raises:
        InputError: it is none, or none that makes zeros.
    """
    on_inputs = selector(where) is inputs
    if isinstance(given, str):
        known: dict[str, Any] = {**classes_in("wellposed.penalties", Penalty), "hierarchical": Hierarchical}
        kind = lookup("penalty", given, known | {short: known[name] for short, name in SHORT.items()})
        by = {"by": "input"} if on_inputs and issubclass(kind, GroupPenalty) else {}
        try:
            given = kind(strength=1.0, **by)
        except TypeError:
            raise InputError(
                f"The penalty {given!r} needs more than a strength; give one that is made, with strength 1."
            ) from None
    if not isinstance(given, (Penalty, Hierarchical)) or not given.traits.sparse or "prox" not in given.hows:
        raise InputError(
            f"A path needs a penalty that makes exact zeros, such as 'l1', 'group' or wp.GroupL2(1.0, by='unit'); it was given "
            f"{described(given)}."
        )
    found: PathPenalty = changed(given, strength=1.0)
    by_input = isinstance(found, GroupPenalty) and isinstance(found.by, str) and found.by == "input"
    columns = input_columns(prepared)
    if on_inputs and by_input and len(set(columns)) < len(columns):
        found = changed(found, by=_numbered(columns)[None])
    return found


def input_columns(prepared: Prepared) -> list[str]:
    """The column of the table that each input comes from; ``x0, x1, ...`` where there is no table."""
    if prepared.encoder is None:
        return [f"x{i}" for i in range(prepared.shape[0] if prepared.shape else 0)]
    return [column.name for column in prepared.encoder.columns for _ in column.names]


def _numbered(columns: list[str]) -> Tensor:
    """``(features,)``: the number of each feature's column, in the order of appearance."""
    places = {name: i for i, name in enumerate(dict.fromkeys(columns))}
    return torch.tensor([places[name] for name in columns])


@dataclass(frozen=True)
class Support:
    """The parts that a penalty can drop from a model.

    Attributes:
        names: of the parts, in order; ``noun`` is what they are, in the plural.
        labels: for each parameter by name, the number of the part that each of its weights belongs to; -1 for none.
        charged: names of all parameters under the penalty.
    """

    names: tuple[str, ...]
    noun: str
    labels: dict[str, Tensor]
    charged: tuple[str, ...]

    @classmethod
    def of(cls, net: nn.Module, term: Term, prepared: Prepared) -> Support:
        """The parts under a term.

        Raises:
            SelectorError, ShapeError: the term cannot be bound to the model.
        """
        found = select(net, term.where)
        charged = tuple(leaf.name for leaf in found)
        penalty = term.charge
        if isinstance(penalty, Hierarchical):
            return cls._of_inputs(select(net, f"named:{penalty.skip}")[0], charged, input_columns(prepared))
        if term.where is inputs and _by_input(penalty):
            return cls._of_inputs(found[0], charged, input_columns(prepared))
        names: list[str] = []
        labels: dict[str, Tensor] = {}
        for leaf in found:
            bound = penalty.at(leaf)
            single = torch.arange(leaf.tensor.numel()).view_as(leaf.tensor)
            own = _grouped(bound, leaf) if isinstance(bound, GroupPenalty) else single
            count = int(own.max()) + 1
            labels[leaf.name] = torch.where(own >= 0, own + len(names), own)
            names += [f"{leaf.name}[{i}]" for i in range(count)]
        by = penalty.by if isinstance(penalty, GroupPenalty) else "weight"
        noun = f"{by.split('_')[0]}s" if isinstance(by, str) and " " not in by else "groups"
        return cls(tuple(names), noun, labels, charged)

    @classmethod
    def _of_inputs(cls, leaf: Leaf, charged: tuple[str, ...], columns: list[str]) -> Support:
        w = leaf.tensor
        if w.ndim < 2:
            raise InputError(
                f"{leaf.name!r} has no axis of inputs; its shape is {tuple(w.shape)}. Choose other parameters."
            )
        if len(columns) != w.shape[1]:  # flattened, or not the rows' own features
            columns = [f"x{i}" for i in range(w.shape[1])]
        number = _numbered(columns).view(1, -1, *[1] * (w.ndim - 2))
        return cls(tuple(dict.fromkeys(columns)), "inputs", {leaf.name: number.expand_as(w).contiguous()}, charged)

    def norms(self, net: nn.Module) -> Tensor:
        """The Euclidean norm of each part, ``(parts,)``; 0 exactly where a part is gone."""
        squares = torch.zeros(len(self.names), dtype=torch.float64)
        largest = torch.zeros_like(squares)
        for leaf in leaves(net):
            if leaf.name in self.labels:
                label = self.labels[leaf.name].reshape(-1)
                size, inside = leaf.tensor.detach().double().abs().reshape(-1), label >= 0
                squares.index_add_(0, label[inside], size[inside].square())
                largest.scatter_reduce_(0, label[inside], size[inside], "amax")
        return torch.maximum(squares.sqrt(), largest)  # a square may underflow

    def leaves(self, net: nn.Module) -> list[Leaf]:
        """The parameters under the penalty."""
        return [leaf for leaf in leaves(net) if leaf.name in self.charged]

    def holding(self, net: nn.Module) -> list[Term]:
        """Terms that hold the zeros of the charged parameters as they are and charge nothing else."""
        return [
            WeightedL1(1.0, HELD * (leaf.tensor.detach() == 0)).on(f"named:{leaf.name}") for leaf in self.leaves(net)
        ]


def _by_input(penalty: object) -> bool:
    """Whether what a penalty drops from a matrix are whole columns, or single weights that are told by column."""
    if not isinstance(penalty, GroupPenalty):
        return True
    return penalty.by.shape[0] == 1 if isinstance(penalty.by, Tensor) else penalty.by in ("input", "channel")


def _grouped(penalty: GroupPenalty, leaf: Leaf) -> Tensor:
    """The group of each weight, counted from 0; -1 for none."""
    groups, w = penalty.groups(leaf.tensor.detach()), leaf.tensor.detach().double()
    parts = groups.split(w)
    numbers = groups.listed(torch.arange(groups.norms(parts).numel(), dtype=torch.float64))
    return groups.join(groups.spread(numbers).expand_as(parts), torch.full_like(w, -1.0)).long()


@torch.no_grad()
def enters_linearly(net: nn.Module, support: Support, call: Callable[[nn.Module], Any]) -> bool:
    """Whether outputs are linear in the charged weights, with a slope that no other weight changes: then the strength that
    empties the selection is known from the gradient at zero. Found by trial, at random weights.
    """
    trial, source = copy.deepcopy(net), generator(0, "linear")
    inside = {id(leaf.tensor) for leaf in support.leaves(trial)}
    draws = {id(p): torch.randn(p.shape, generator=source, dtype=torch.float64).to(p) for p in trial.parameters()}

    def outputs(scale: float) -> Any:
        for p in trial.parameters():
            if id(p) in inside:
                p.copy_(scale * draws[id(p)])
        return call(trial)

    effects = []
    with evaluating(trial):
        for _ in range(2):
            zero, one, three = (outputs(scale) for scale in (0.0, 1.0, -3.0))
            if not all(isinstance(found, Tensor) for found in (zero, one, three)):
                return False
            effects.append(one - zero)
            if not torch.allclose(three - zero, -3.0 * effects[0], rtol=1e-8, atol=1e-10):
                return False
            for p in trial.parameters():
                if id(p) not in inside:
                    p.add_(draws[id(p)])
    return torch.allclose(effects[0], effects[1], rtol=1e-8, atol=1e-10)


def emptying_strength(at: Callable[[float], Charges], gradients: dict[int, Tensor], support: Support) -> float:
    """The smallest strength at which the charged weights, now zero, are stationary: by bisection to the last digit.

    Args:
        at: the charges of a strength.
        gradients: of the loss, by ``id`` of the parameter.
    Raises:
        InputError: no gradient reaches them.
    """

    def holds(strength: float) -> bool:
        charges = at(strength)
        judged = charges.judged([gradients[id(p)] for p in charges.params])
        return all(
            found.violation == 0.0
            for part, found in judged
            if any(leaf.name in support.charged for leaf in part.leaves)
        )

    if holds(0.0):
        raise InputError(
            f"No gradient reaches the {support.noun} when all of them are zero, so no strength can be found. Choose other "
            "parameters, or check that the model uses them."
        )
    high = 1.0
    while not holds(high):
        high *= 2.0
    low = high / 2.0
    while high <= 1.0 and holds(low):
        low, high = low / 2.0, low
    for _ in range(52):
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
