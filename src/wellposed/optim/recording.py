"""What modules put out, kept for penalties on activations from a forward pass until the penalty is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wellposed.core.errors import InputError
from wellposed.core.preserve import OwnHook


class Recorder:
    """Forward hooks that keep the outputs of modules in training mode, with their graph, until it is differentiated: ``kept`` by
    the module's name, then by a running number of its uses, each with its version, which changes in place.

    Until `clear` are kept outputs of a pass in training mode that is never differentiated and not under ``torch.no_grad()``,
    and those of a compiled model: what watches them would break its graph.
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        self.kept: dict[str, dict[int, tuple[Tensor, int | None]]] = {}
        self._numbers = count()
        self._handles: list[RemovableHandle] = []
        for name, module in modules:
            self._handles.append(module.register_forward_hook(Keep(self, name)))

    def keep(self, name: str, output: Tensor) -> None:
        """Keep an output until `clear`, or until its gradient has come: its graph is gone with that."""
        number = next(self._numbers)
        watched = not torch.compiler.is_compiling()
        self.kept.setdefault(name, {})[number] = (output, output._version if watched else None)
        if watched and output.requires_grad:
            output.register_hook(lambda _: self._drop(name, number))  # type: ignore[no-untyped-call]

    def _drop(self, name: str, number: int) -> None:
        uses = self.kept.get(name, {})
        uses.pop(number, None)
        if not uses:
            self.kept.pop(name, None)

    def taken(self, names: Iterable[str]) -> dict[str, Tensor]:
        """What these modules put out since the last `clear`: ``name`` of the first use, ``name#1`` of the second."""
        found: dict[str, Tensor] = {}
        for name in names:
            for use, (output, version) in enumerate(self.kept.get(name, {}).values()):
                if version is not None and output._version != version:
                    raise InputError(
                        f"The output of {name!r} was changed in place after it (by an activation with inplace=True?), so "
                        "it cannot be charged. Use inplace=False there, or charge the module that changes it."
                    )
                found[f"{name}#{use}" if use else name] = output
        return found

    def clear(self) -> None:
        self.kept.clear()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()


class Keep(OwnHook):
    """The hook of one module, not of its copies (a teacher, an average, a file)."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder, self.name = recorder, name

    def __call__(self, module: nn.Module, given: object, output: object) -> None:
        if not module.training or not torch.is_grad_enabled():
            return
        # Where the autograd engine runs, a forward pass is a checkpoint's, which computes again what was kept.
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return
        if not isinstance(output, Tensor):
            raise InputError(
                f"The module {self.name!r} gives {type(output).__name__}, not a tensor, so it has no charge."
            )
        self.recorder.keep(self.name, output)
