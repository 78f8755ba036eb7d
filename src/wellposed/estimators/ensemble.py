"""Networks that answer together, and the rows that were held out from each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wellposed.estimators.training import EncodedRows
from wellposed.losses.per_example import Loss
from wellposed.training.checkpoint import Saved
from wellposed.training.evaluate import BATCH, evaluating

PICKS = 20
"""Steps of the greedy choice of recipes; each adds one to the mean, again or anew."""


def outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    """``(rows, outputs)`` in double precision: the same for a row whatever rows come with it, up to 1e-12."""
    with evaluating(model):
        double = copy.deepcopy(model).double()
        return torch.cat([double(part.double()) for part in torch.split(x, BATCH)])


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows and what networks that have not learned from them say: one part for each set of rows held out together.

    Attributes:
        y: the targets as they were trained, ``(rows,)`` or ``(rows, targets)``.
        outputs: ``(networks, rows, outputs)`` of each part, and their weights, which sum to 1.
        counts: ``(rows,)`` how much each row counts, by the weights that `fit` was given.
        x: the encoded rows; not saved with a model.
    """

    y: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    counts: tuple[Tensor, ...]
    x: tuple[Tensor, ...] = field(repr=False)

    def each(self, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A function of outputs and weights, whose last axes but one are rows, of all parts one after the other."""
        return torch.cat([of(*part) for part in zip(self.outputs, self.weights, strict=True)], -2)


@dataclass(frozen=True, eq=False)
class Members:
    """Networks and their weights in the mean, which sum to 1.

    Attributes:
        parts: the number of the part of the rows that each network has not seen.
    """

    models: tuple[Saved, ...]
    weights: Tensor
    parts: tuple[int, ...]

    @classmethod
    def of(cls, trained: Sequence[Mapping[str, Sequence[Saved]]], shares: Mapping[str, float]) -> Members:
        """The networks, by part and recipe, of the recipes with a share above 0."""
        chosen = [
            (model, part, shares[recipe] / len(models))
            for part, by_recipe in enumerate(trained)
            for recipe, models in by_recipe.items()
            for model in models
            if shares.get(recipe, 0.0) > 0
        ]
        models, parts, weights = zip(*chosen, strict=True)
        found = torch.tensor(weights, dtype=torch.float64)
        return cls(models, found / found.sum(), parts)

    @property
    def loss(self) -> Loss:
        """The loss that they were trained with."""
        return self.models[0].loss

    def outputs(self, x: Tensor) -> Tensor:
        """``(networks, rows, outputs)`` for encoded rows."""
        return torch.stack([outputs_of(member.model, x) for member in self.models])

    def held_out(self, parts: Sequence[EncodedRows]) -> HeldOut:
        """What the networks say of the rows that they have not seen."""
        places = self._by_part()
        outputs = tuple(
            torch.stack([outputs_of(self.models[i].model, parts[k].x) for i in own]) for k, own in places.items()
        )
        y, counts, x = zip(*((parts[k].y, parts[k].counts, parts[k].x) for k in places), strict=True)
        return HeldOut(y, outputs, self.weights_by_part(), counts, x)

    def _by_part(self) -> dict[int, list[int]]:
        """The places of the networks that have not seen a part, for each part."""
        return {k: [i for i, part in enumerate(self.parts) if part == k] for k in sorted(set(self.parts))}

    def unseen_by(self) -> list[list[Saved]]:
        """The networks that have not seen a part, for each part."""
        return [[self.models[i] for i in own] for own in self._by_part().values()]

    def weights_by_part(self) -> tuple[Tensor, ...]:
        """The weights of the networks that have not seen a part, which sum to 1, for each part."""
        return tuple(self.weights[own] / self.weights[own].sum() for own in self._by_part().values())


class Joint(nn.Module):
    """The networks as one module, for other formats: probabilities of classes, or numbers in the target's units."""

    weights: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, members: Members, classifies: bool, shift: Tensor, scale: Tensor, power: float) -> None:
        super().__init__()
        self.nets = nn.ModuleList(copy.deepcopy(member.model).float() for member in members.models)
        self.classifies, self.power, self.loss = classifies, power, members.loss
        for name, value in {"weights": members.weights, "shift": shift, "scale": scale}.items():
            self.register_buffer(name, value.float())

    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.stack([net(x) for net in self.nets])
        if self.classifies:
            mean = torch.einsum("k,kro->ro", self.weights, outputs.softmax(-1))
            return (self.power * mean.clamp_min(1e-30).log()).softmax(-1)
        responses = torch.stack([self.loss.response(one) for one in outputs]).reshape(*outputs.shape[:2], -1)
        return torch.einsum("k,kro->ro", self.weights, responses) * self.scale + self.shift
