"""An optimizer around another one, which shares its parameter groups, state and defaults."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from wellposed.core.errors import InputError

W = TypeVar("W", bound="Wrapper")


class Wrapper(Optimizer):
    """A torch optimizer that passes on to the one it wraps all that it does not do itself.

    Groups, state and defaults are the wrapped optimizer's own objects, so that schedulers, gradient scalers and
    checkpoints work as with the bare one. Hooks that are registered here before a step are called by the wrapped step, those
    after a step by this one, when all that it does is done.
    """

    # A gradient scaler must look for infinities itself and skip our whole step, not only a fused inner one.
    _step_supports_amp_scaling = False
    refusal: ClassVar[str] = "This optimizer is wrapped already. Give regularize the bare one."
    """Why `regularize` cannot take this wrapper, and what to do."""

    def __init__(self, optimizer: Optimizer) -> None:
        # Not Optimizer.__init__: it would make groups and state of its own.
        self.optimizer = optimizer
        self._after_step: OrderedDict[int, Callable[..., None]] = OrderedDict()

    def register_step_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step, when every term has been enforced."""
        handle = RemovableHandle(self._after_step)
        self._after_step[handle.id] = hook
        return handle

    def _call_hooks(self) -> None:
        for hook in list(self._after_step.values()):
            hook(self, (), {})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.optimizer.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def __getattr__(self, name: str) -> Any:
        # Only reached for what the wrapper does not have itself: torch's hooks and an optimizer's own methods.
        if name == "optimizer":
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            f"{type(self).__name__} is neither pickled nor copied; save optimizer.state_dict() and wrap again."
        )


def held_optimizer(optimizer: Any) -> tuple[str, Optimizer | None]:
    """The optimizer that a wrapper holds, ours, a trainer's (accelerate, Fabric, Lightning) or a script's own, and the name of the
    attribute; None of a bare one, which may hold another for other parameters."""
    held = {"optimizer": getattr(optimizer, "optimizer", None), **getattr(optimizer, "__dict__", {})}
    for name, one in held.items():
        if isinstance(one, Optimizer) and one is not optimizer and (name == "optimizer" or _moves_all(one, optimizer)):
            return name, one
    return "", None


def _moves_all(inner: Optimizer, outer: Any) -> bool:
    """Whether an optimizer moves all the parameters of the one that holds it."""
    inside, own = (
        {id(p) for group in getattr(one, "param_groups", ()) for p in group["params"]} for one in (inner, outer)
    )
    return own <= inside


def inner_optimizer(optimizer: Any) -> Optimizer | None:
    """The optimizer that a wrapper holds; None of a bare one."""
    return held_optimizer(optimizer)[1]


def unwrap_optimizer(optimizer: Optimizer) -> Optimizer:
    inner = inner_optimizer(optimizer)
    return optimizer if inner is None else unwrap_optimizer(inner)


def find_wrapper(optimizer: Optimizer | None, cls: type[W]) -> W | None:
    """The wrapper of this class in a chain of wrappers, or None: ``find_wrapper(Lookahead(regularize(...)), Regularized)``."""
    if optimizer is None or isinstance(optimizer, cls):
        return optimizer
    return find_wrapper(inner_optimizer(optimizer), cls)


@contextmanager
def evaluation_weights(optimizer: Optimizer | None) -> Iterator[None]:
    """The weights that an optimizer with two sets of them evaluates, such as a schedule-free one; then those it trains.

    Going there and back by its own ``eval()`` and ``train()`` rounds, so that the trained weights are put back as they were.
    """
    bare: Any = None if optimizer is None else unwrap_optimizer(optimizer)
    if not (callable(getattr(bare, "eval", None)) and callable(getattr(bare, "train", None))):
        yield
        return
    if not all(group.get("train_mode", True) for group in bare.param_groups):
        yield
        return
    parameters = [p for group in bare.param_groups for p in group["params"]]
    trained = [p.detach().clone() for p in parameters]
    bare.eval()
    try:
        yield
    finally:
        bare.train()
        with torch.no_grad():
            for p, before in zip(parameters, trained, strict=True):
                p.copy_(before)


def needs_its_optimizer(caller: str, model: nn.Module, optimizer: Optimizer) -> None:
    """Refuse an optimizer that moves no parameter of the model."""
    mine = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"]):
        raise InputError(
            f"{caller} was given an optimizer that holds no parameter of this model, as if it were another model's. "
            "Give the one that was made with this model's parameters, or leave optimizer= out where it can be."
        )


@contextmanager
def compiler_spared() -> Iterator[None]:
    """Inside, torch's optimizers do without its compiler, which they import (a second of work) only to be left alone by it.

    They step as before. A step that is compiled inside would be looked into.
    """
    methods: list[Any] = [
        inspect.unwrap(method)
        for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict)
    ]
    methods = [method for method in methods if not hasattr(method, "__dynamo_disable")]
    ours = [kind for kind in Optimizer.__subclasses__() if kind.__module__.startswith("torch.optim.")]
    steps = {kind: kind.step for kind in ours if "step" in vars(kind) and not hasattr(kind.step, "spared")}
    try:
        for method in methods:
            method.__dynamo_disable = method
        for kind, step in steps.items():
            kind.step = _uncompiled_step(step)  # type: ignore[method-assign]
        yield
    finally:
        for method in methods:
            del method.__dynamo_disable
        for kind, step in steps.items():
            kind.step = step  # type: ignore[method-assign]
        for kind in _kinds_below(Optimizer):
            if hasattr(vars(kind).get("step"), "spared"):
                del kind.step  # torch gave a class without a step of its own that of its base, at its first instance


def _kinds_below(kind: type[Optimizer]) -> Iterator[type[Optimizer]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds_below(below)


def _uncompiled_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Torch's step without the breaks that it makes for a compiler."""
    bare = inspect.unwrap(step)

    def spared(self: Optimizer, *given: Any, **named: Any) -> Any:
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            return bare(self, *given, **named)

    spared.spared = True  # type: ignore[attr-defined]
    return functools.wraps(bare)(spared)
