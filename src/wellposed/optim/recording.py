"""What modules put out, kept for penalties on activations from a forward pass until the penalty is asked for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wellposed.core.errors import InputError


class Recorder:
    """Forward hooks that keep the outputs of modules in training mode, with their graph."""

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        self.kept: dict[str, list[Tensor]] = {}
        self._handles: list[RemovableHandle] = []
        for name, module in modules:
            self._handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
        def keep(module: nn.Module, given: object, output: object) -> None:
            if not module.training or not torch.is_grad_enabled():
                return
            if not isinstance(output, Tensor):
                raise InputError(
                    f"The module {name!r} gives {type(output).__name__}, not a tensor, so it has no charge."
                )
            self.kept.setdefault(name, []).append(output)

        return keep

    def taken(self, names: Iterable[str]) -> dict[str, Tensor]:
        """What these modules put out since the last `clear`; several passes stand one after the other."""
        return {name: torch.cat(self.kept[name]) for name in names if name in self.kept}

    def clear(self) -> None:
        """Forget everything."""
        self.kept.clear()

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()
