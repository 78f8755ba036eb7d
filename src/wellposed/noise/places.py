"""Where noise is put: modules whose outputs, and the modules that hold the parameters."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from wellposed.core.errors import InputError, SelectorError
from wellposed.core.selectors import Leaf, modules


def places(model: nn.Module, where: object) -> dict[str, nn.Module]:
    """The modules that each part of ``where`` selects, by name; the model itself only by the name ``""``. Of what a glob matches,
    modules inside another one are left out.
    """
    parts = list(where) if isinstance(where, (list, tuple, set)) else [where]
    union: dict[str, nn.Module] = {}
    for part in parts or [parts]:
        found = {name: module for name, module in modules(model, part).items() if name or part == ""}
        if not found:
            raise SelectorError(f"{part!r} matches only the model itself; select modules inside it, or the name ''.")
        union |= outermost(found) if isinstance(part, str) else found
    return union


def outermost(found: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in found.items()
        if not any(name.startswith(f"{other}.") for other in found if other != name)
    }


def inside_attention(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """The output layers of torch's attentions, which read their weight without calling them, and the attention of each."""
    return {m.out_proj: m for m in model.modules() if isinstance(m, nn.MultiheadAttention)}


def owners(model: nn.Module, leaf: Leaf) -> list[tuple[str, nn.Module, str]]:
    """Every module that holds a parameter, with the parameter's name in the model and in the module."""
    found: dict[tuple[int, str], tuple[str, nn.Module, str]] = {}
    for alias in leaf.aliases:
        path, _, name = alias.rpartition(".")
        owner = model.get_submodule(path)
        if isinstance(owner, ParametrizationList):
            raise InputError(
                f"{leaf.name!r} is parametrized: noise on it would reach everything that reads the weight, also outside of "
                "a forward. Leave it out of the selector, or remove the parametrization."
            )
        found.setdefault((id(owner), name), (alias, owner, name))
    return list(found.values())


def refresh_recurrent(module: nn.Module) -> None:
    """A recurrent layer keeps its weights in a list, too; let it take them up again."""
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
