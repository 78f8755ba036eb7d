"""Which weights keep exact zeros: those of parameters on which a term makes zeros, and no others.

A mean of weights along the path is never exactly zero where a weight came and went, so `Average` and `Lookahead` set it to
zero where the current weight is. That is right where a penalty or a constraint chose the zero (``traits.sparse``). Elsewhere
a zero is a number like others: the mean of 1, 0 and 1 is 2/3.

`Regularized` notes its parameters at its first step, so that an average needs the model alone. The note is kept by module
and name, not by tensor, which ``model.to(...)`` may replace, and goes with the module. A compiler of steps runs these
functions as they are: it would copy the whole note, of all networks of the process, while others may die.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

T = TypeVar("T")

_NAMES: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


def _uncompiled(function: T) -> T:
    """The function, which a compiler that is at work leaves as it is."""
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function  # type: ignore[no-untyped-call]


def note_zeros(model: nn.Module, held: Collection[int], sparse: Collection[int]) -> None:
    """Note which of a model's parameters keep zeros: of those that an optimizer holds, by ``id``, the ``sparse`` ones."""
    _uncompiled(_note)(model, held, sparse)


def _note(model: nn.Module, held: Collection[int], sparse: Collection[int]) -> None:
    for module in model.modules():
        mine = {name: id(p) for name, p in module._parameters.items() if p is not None and id(p) in held}
        if mine:
            others = _NAMES.get(module, frozenset()) - mine.keys()
            _NAMES[module] = others | {name for name, key in mine.items() if key in sparse}


def keeps_zeros(model: nn.Module) -> set[int]:
    """The parameters of a model that keep zeros, by ``id``."""
    return _uncompiled(_kept)(model)


def _kept(model: nn.Module) -> set[int]:
    return {id(module._parameters[name]) for module in model.modules() for name in _NAMES.get(module, ())}


@torch.no_grad()
def copy_zeros(average: nn.Module, model: nn.Module) -> None:
    """Set an average of a model to zero where the model's weight is, of those parameters that keep zeros."""
    sparse = keeps_zeros(model)
    weights = (average.module if isinstance(average, AveragedModel) else average).parameters()
    for mean, weight in zip(weights, model.parameters(), strict=True):
        if id(weight) in sparse:
            mean.masked_fill_((weight == 0).to(mean.device), 0.0)
