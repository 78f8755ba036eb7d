"""Noise that a model carries as hooks: a new draw at each training forward, and everything taken away again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from wellposed.core.errors import CompositionError, InputError
from wellposed.core.preserve import OwnHook
from wellposed.noise.activations import Streams, refuse_recomputed


class Hook(OwnHook):
    """A hook of an owner's."""

    def __init__(self, owner: Hooked, call: Callable[..., Any]) -> None:
        self.owner, self.call = owner, call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


class Hooked:
    """A model with hooks, the count of its training forwards, and the streams that its noise is drawn from.

    Every forward of the (whole) model in training mode is a new draw; a module that is called several times in one forward
    draws each time. A context manager, too: the hooks are gone after the block.

    Raises:
        InputError: ``model`` is no module, or is compiled or scripted already.
        CompositionError: it carries hooks of this kind already.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        name = type(self).__name__
        if not isinstance(model, nn.Module):
            raise InputError(f"Noise is put on a torch.nn.Module; it was given {type(model).__name__}.")
        if hasattr(model, "_orig_mod") or isinstance(model, torch.jit.ScriptModule):
            raise InputError(f"{name} needs the model as it was before torch.compile or scripting; give it that one.")
        if any(type(owner) is type(self) for owner in hooked(model)):
            raise CompositionError(f"This model is {name} already. Call remove() first, or give all noise in one call.")
        self.model = model
        self._streams = Streams(seed)
        self._step = 0
        self._handles: list[Any] = []

    @property
    def step(self) -> int:
        """How many training forwards there were; the draws of the next are those of ``step``. Set it to resume or redo."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = self._streams.step = int(step)

    @contextmanager
    def ahead(self, steps: int) -> Iterator[None]:
        """Inside, the draws are those of so many steps later; afterwards the next draws are those that were next before."""
        before = self._step
        self.step = before + steps
        try:
            yield
        finally:
            self.step = before

    def before(self, module: nn.Module, call: Callable[..., Any]) -> None:
        """Call before a module's forward, and before other people's hooks."""
        self._handles.append(module.register_forward_pre_hook(Hook(self, call), prepend=True))

    def after(self, module: nn.Module, call: Callable[..., Any]) -> None:
        """Call after a module's forward, also if that fails; what it returns takes the place of the output."""
        self._handles.append(module.register_forward_hook(Hook(self, call), always_call=True))

    def begin(self, model: nn.Module, args: object = ()) -> None:
        if model.training:
            self._streams.step = self._step
            self._step += 1

    def draw(self, site: str) -> torch.Generator:
        refuse_recomputed(site)
        return self._streams.next("perturb", site)

    def remove(self) -> None:
        """Take all hooks away: the model is as it was before. A second time it does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


def hooked(model: nn.Module) -> list[Hooked]:
    """What `perturb` and `ManifoldMixup` have put on the model, each once."""
    hooks = [h for m in model.modules() for h in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
    return list({id(hook.owner): hook.owner for hook in hooks if isinstance(hook, Hook)}.values())


def one_tensor(place: str, module: nn.Module, output: object, method: str) -> Tensor:
    """The output of a module, refused where it is not one floating tensor."""
    if isinstance(output, Tensor) and output.is_floating_point():
        return output
    given = f"a tensor of {output.dtype}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise InputError(
        f"{method} needs a module that returns one floating tensor; {place!r} ({type(module).__name__}) returns {given}. "
        "Select a module inside it, or after it."
    )
