"""Mixing inside the network: two examples are mixed at the output of a layer that is chosen anew at each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.checks import Seed, checked
from wellposed.core.errors import InputError
from wellposed.noise.hooks import Hooked, one_tensor
from wellposed.noise.inputs import blend, mixing_weight
from wellposed.noise.places import places


@checked
class ManifoldMixup(Hooked):
    """``weight * h + (1 - weight) * h[permutation]`` at one layer ``h``, chosen at random in each training forward.

    After ``net(x)``, ``permutation`` (``(N,)``, on the CPU) and ``weight`` say how the targets are to be mixed. In
    evaluation nothing is mixed, and the weight is 1. The first axis of what is mixed is the examples'.

    Args:
        model: the whole model, the one that is called.
        where: the modules whose outputs may be mixed, a glob, a module type, a predicate ``(name, module)`` or a list.
        concentration: >= 0, of ``weight ~ Beta(concentration, concentration)``. 0 mixes nothing.
        seed: of the draws.
    Raises:
        SelectorError: ``where`` matches nothing.
        InputError: in the forward: the chosen layer was not called, or returned no floating tensor.
    Source:
        Verma et al. (2019), ICML.
    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> with wp.ManifoldMixup(net, torch.nn.ReLU) as mix:
        ...     target = torch.nn.functional.cross_entropy(net(x), wp.mixed_targets(y, mix.permutation, mix.weight, classes=3))
    """

    def __init__(self, model: nn.Module, where: object, concentration: float = 2.0, *, seed: Seed = 0) -> None:
        super().__init__(model, seed)
        mixing_weight(concentration, torch.Generator().manual_seed(0))  # refuses what is no concentration
        self.concentration = concentration
        self.places = places(model, where)
        self.permutation, self.weight, self.place = torch.arange(0), 1.0, ""
        self._pending: nn.Module | None = None
        for name, module in self.places.items():
            self.after(module, self._mixing(name))
        self.before(model, self._choose)
        self.after(model, self._done)

    def _choose(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self.begin(model)
        self._pending, self.weight = None, 1.0
        if model.training:
            names = list(self.places)
            self.place = names[int(torch.randint(len(names), (), generator=self.draw("layer")))]
            self._pending = self.places[self.place]

    def _mixing(self, name: str) -> Any:
        def mix(module: nn.Module, args: object, output: object) -> Tensor | None:
            if module is not self._pending or output is None:
                return None
            self._pending = None
            h, source = one_tensor(name, module, output, "ManifoldMixup"), self.draw("mix")
            self.weight = mixing_weight(self.concentration, source)
            self.permutation = torch.randperm(len(h), generator=source) if self.weight < 1 else torch.arange(len(h))
            return blend(h, self.permutation, self.weight)

        return mix

    def _done(self, model: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """A layer that was chosen and never called would leave targets and inputs apart."""
        if output is None:  # the forward failed, and says so itself
            self._pending = None
        elif self._pending is not None:
            self._pending = None
            raise InputError(f"ManifoldMixup chose {self.place!r}, which this forward did not call. Leave it out.")
        if self.weight == 1 and args and isinstance(args[0], Tensor):
            self.permutation = torch.arange(len(args[0]))
