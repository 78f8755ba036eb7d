"""What wellposed changes for a while and gives back as it was: modes and buffers of a model, and global random states.

Each of these is a context manager that puts things back after an exception too, so that they can be combined in one ``with``.
"""

from __future__ import annotations

import copyreg
import functools
import inspect
import random
import re
import sys
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wellposed.core.batches import stored_numbers
from wellposed.core.shared import exclusively

MOST = 2**24
"""Numbers of a tensor among plain attributes that comes back: 64 MiB; a larger one is data."""
MOST_WEIGHTS = 2**30
"""Bytes of all weights that come back; larger networks have no average inside of their forward."""
DEEP, MANY, SEEN = 6, 100, 10_000
"""How far `reached` follows what holds what; containers of more than ``MANY`` things are data; where it gives up."""
OWN = frozenset(vars(nn.Module())) | {"training"}
"""What every module has, and has kept in other ways."""
KINDS = (nn.Module, torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""Networks and generators of random numbers."""
BUSY = frozenset({"threading", "_thread", "queue", "_queue", "multiprocessing", "concurrent", "asyncio"})
"""Libraries whose objects change while nobody looks, and what holds one (a lock, a thread) does too."""
HOLDERS = frozenset({"builtins", "types", "argparse", "collections", "functools"})
"""Libraries whose objects are a person's own."""
BYTES = (bytearray, array)
"""Arrays of plain Python."""
SMALL, LONG = 2**20, 10_000
"""Numbers of a tensor beside a network that comes back, and parts of a container; of a longer list or dict its length does."""


def reached(*given: object) -> list[Any]:
    """The networks and generators of random numbers that code may touch: itself one, in its closures, globals, defaults,
    and in the objects that lie there.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> reached(lambda model, batch: model(net(batch))) == [net]
        True
    """
    return [one for one in _all_reached(given) if isinstance(one, KINDS)]


def _all_reached(given: Iterable[object]) -> list[Any]:
    """All that code may touch, but numbers, texts, tensors and classes."""
    plain = (str, int, float, Tensor, np.ndarray, type, ModuleType, type(None))
    return list(_walked(given, lambda one: not isinstance(one, plain)))


def _own(one: Any) -> bool:
    """Whether it is a function or an object of a person's: no library's, and nothing that other threads work on."""
    if isinstance(one, FunctionType):
        return not _installed(one.__module__)
    held = {type(one), *map(type, _attributes(one).values())}
    return not _installed(type(one).__module__) and not any(map(_busy, held))


@functools.lru_cache(maxsize=1024)
def _busy(kind: type) -> bool:
    return any(str(cls.__module__).split(".")[0] in BUSY for cls in kind.__mro__)


@functools.lru_cache(maxsize=1024)
def _installed(module: str | None) -> bool:
    """Whether code is a library's, which may note that it was set up, and not a person's own."""
    top = str(module).split(".")[0]
    file = getattr(sys.modules.get(str(module)), "__file__", None) or ""
    library = top in sys.stdlib_module_names or top == "wellposed" or re.search("(site|dist)-packages", file)
    return bool(library) and top not in HOLDERS


def names_in(*code: object) -> set[str]:
    """The names that functions of a person use, and those that they call: of variables, attributes and what lies outside."""
    found: set[str] = set()
    for one in _walked(code, lambda one: isinstance(one, (FunctionType, MethodType, functools.partial))):
        if isinstance(one, FunctionType) and not one.__module__.startswith(("wellposed.", "torch.")):
            for part in _codes(one.__code__):
                found |= {*part.co_names, *part.co_varnames, *part.co_freevars}
    return found


def _walked(given: Iterable[object], enters: Callable[[object], bool]) -> Iterator[object]:
    """What is given and all that it holds, each once, nearest first: behind a long way one would be given up too early."""
    seen: set[int] = set()
    todo = deque((one, 0) for one in given)
    while todo and len(seen) < SEEN:
        one, depth = todo.popleft()
        if id(one) not in seen and depth <= DEEP and enters(one):
            seen.add(id(one))
            yield one
            todo.extend((held, depth + 1) for held in _held(one))


def _held(one: Any) -> Iterable[Any]:
    """What an object holds, as far as code may get at it."""
    if isinstance(one, nn.Module):  # what it hides from its parameters, such as a teacher in a list
        return [value for module in one.modules() for key, value in vars(module).items() if key not in OWN]
    if isinstance(one, FunctionType):
        cells = [held for cell in one.__closure__ or () for held in _contents(cell)]
        world = [one.__globals__[name] for name in _globals_of(one)]
        return [*cells, *world, *(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values(), *vars(one).values()]
    if isinstance(one, MethodType):
        return one.__self__, one.__func__
    if isinstance(one, functools.partial):
        return [one.func, *one.args, *one.keywords.values()]
    if isinstance(one, (list, tuple, set, dict)):
        return [] if len(one) > MANY else list(one.values()) if isinstance(one, dict) else list(one)
    return list(_attributes(one).values())


def _attributes(one: Any) -> dict[str, Any]:
    """What an object holds by name, in slots too."""
    return {**getattr(one, "__dict__", {}), **_slots(one)}


def _slots(one: Any) -> dict[str, Any]:
    kind = type(one)
    names = () if _installed(kind.__module__) else copyreg._slotnames(kind)  # type: ignore[attr-defined]
    return {name: getattr(one, name) for name in names if hasattr(one, name)}


def _globals_of(function: FunctionType) -> list[str]:
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    return [name for name in names if name in function.__globals__]


def _contents(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # a name that has no value yet
        return []


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _modules(models: Iterable[nn.Module]) -> list[nn.Module]:
    return list(dict.fromkeys(module for model in models for module in model.modules()))


def _parameters(models: Iterable[nn.Module]) -> list[nn.Parameter]:
    return list(dict.fromkeys(parameter for model in models for parameter in model.parameters()))


class OwnHook:
    """A hook that stays with its own model: in a copy, and in a pickled model, it does nothing.

    So the copy of a model is clean, and what it does never reaches what belongs to the original.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Takes any arguments and returns None; from the standard library, so that a pickle needs nothing of ours.
        return getattr, (nullcontext(), "__exit__")


@contextmanager
def reach_kept(*given: object, training: bool | None = None, weights: bool = True) -> Iterator[None]:
    """All that models and code reach comes back: modes, weights, buffers, gradients, plain attributes (a state that a recurrent
    network keeps, a meter that a loss adds to), names that functions bind outside of themselves, and generators. Inside, replicas
    do not talk to those of other processes, and all modules are in the mode ``training``. Without ``weights`` these stay as they
    were moved to, but for what a ``train`` of the network's own may do to them.
    """
    around = _all_reached(given)
    found = [one for one in around if isinstance(one, KINDS)]
    models = [one for one in found if isinstance(one, nn.Module)]
    with ExitStack() as stack:
        for kept in (
            modes_kept(*models, training=training),
            buffers_kept(*models),
            _weights_kept(*models if weights or (training is not None and _switching(models)) else ()),
            gradients_kept(_parameters(models)),
            attributes_kept(*_modules(models), *_parameters(models)),
        ):
            stack.enter_context(kept)
        if training is not None:
            switch_modes(models, training)
        _leave_other_processes(models)
        stack.enter_context(generators_kept(found))
        stack.enter_context(_surroundings_kept([one for one in around if not isinstance(one, KINDS) and _own(one)]))
        yield


@contextmanager
def gradients_kept(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Gradients come back: code may clear them, or add to them; inside there are none."""
    before = [(tensor, tensor.grad) for tensor in tensors]
    for tensor, _ in before:
        tensor.grad = None
    try:
        yield
    finally:
        for tensor, gradient in before:
            tensor.grad = gradient


@contextmanager
def _surroundings_kept(own: Sequence[Any]) -> Iterator[None]:
    """What a person's functions and objects hold comes back, where it was changed."""
    functions = [one for one in own if isinstance(one, FunctionType)]
    cells = [(cell, held) for one in functions for cell in one.__closure__ or () for held in _contents(cell)]
    world = [(one.__globals__, name, one.__globals__[name]) for one in functions for name in _globals_of(one)]
    owned = [getattr(one, "__dict__", None) for one in own]  # of a class, and of ``tuple[int, ...]``, it is a view
    names = [(attributes, dict(attributes)) for attributes in owned if isinstance(attributes, dict)]
    slots = [(one, name, held) for one in own for name, held in _slots(one).items()]
    parts = [held for one in own if not isinstance(one, (list, tuple, set, dict, deque)) for held in _held(one)]
    plain: list[Any] = list(
        _walked(parts, lambda one: isinstance(one, (list, tuple, set, dict, deque, *BYTES, np.ndarray, Tensor)))
    )
    leaves = [one for one in plain if isinstance(one, Tensor) and one.is_leaf and one.requires_grad]
    back, left = [], MOST
    for one in plain:
        size = _numbers(one)
        if size <= min(SMALL, left) and not _shared(one):
            left -= size  # of all together, as much as of one network
            back.append(_putting_in_place(one))
    with gradients_kept(leaves):
        try:
            yield
        finally:
            for cell, held in cells:
                cell.cell_contents = held
            for holder, name, held in world:
                holder[name] = held
            for attributes, before in names:
                for key in attributes.keys() - before.keys():
                    del attributes[key]
                attributes.update(before)
            for one, name, held in slots:
                object.__setattr__(one, name, held)
            for put in filter(None, back):
                put()


def keeping_reach(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, after which all that it reaches is as it was: a teacher in training mode counts no rows that are looked at."""

    def kept(*given: Any) -> Any:
        with reach_kept(call):
            return call(*given)

    return kept


def _leave_other_processes(models: Iterable[nn.Module]) -> None:
    """No replica waits for others, which may not be looking: buffers and gradients are not exchanged, and batch norms take
    the statistics of their own rows."""
    for module in _modules(models):
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module.require_forward_param_sync = module.require_backward_grad_sync = False
        elif isinstance(module, nn.SyncBatchNorm):
            vars(module)["forward"] = MethodType(_BatchNorm.forward, module)


@contextmanager
def generators_kept(found: Iterable[Any]) -> Iterator[None]:
    """The states of the random generators among what was `reached` come back."""
    with ExitStack() as stack:
        for one in found:
            if isinstance(one, np.random.Generator):
                stack.callback(setattr, one.bit_generator, "state", one.bit_generator.state)
            elif isinstance(one, random.Random):
                stack.callback(one.setstate, one.getstate())
            elif not isinstance(one, nn.Module):
                stack.callback(one.set_state, one.get_state())
        yield


@contextmanager
def attributes_kept(*objects: Any) -> Iterator[None]:
    """The plain attributes of objects come back, and what tensors and lists among them held: a loss that remembers every row, a
    network that keeps what it saw."""
    before = [(vars(one), {k: v for k, v in vars(one).items() if k not in OWN}) for one in objects]
    held = {id(value): value for _, kept in before for value in kept.values()}  # many layers may share one mask
    back = [_putting_in_place(one) for one in held.values() if _numbers(one) <= MOST]
    try:
        yield
    finally:
        for own, kept in before:
            for key in [key for key in own if key not in OWN and key not in kept]:
                del own[key]
            own.update(kept)
        for put in filter(None, back):
            put()


def _shared(value: Any) -> bool:
    """Whether other processes may write to a tensor; of those on a GPU torch says so of each."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    return plain and value.device.type == "cpu" and value.is_shared()


def _numbers(value: Any) -> int:
    if isinstance(value, BYTES):
        return len(value)
    return value.numel() if isinstance(value, Tensor) else value.size if isinstance(value, np.ndarray) else 0


def _putting_in_place(value: Any) -> Callable[[], object] | None:
    """What gives a tensor, an array or a container its contents of now, where they were changed; None for anything else."""
    if isinstance(value, Tensor):
        return None if value.is_meta or value.is_nested else functools.partial(_put, value, value.detach().clone())
    if isinstance(value, np.ndarray):
        fixed = value.dtype.hasobject or not value.flags.writeable
        return None if fixed else functools.partial(_put, value, value.copy())
    if isinstance(value, BYTES):
        return functools.partial(_put, value, value[:])
    kinds: tuple[Any, ...] = (list, OrderedDict, dict, deque, set)
    kind = next((kind for kind in kinds if isinstance(value, kind)), None)
    if kind is None:
        return None
    if len(value) > LONG:  # what was added is last
        return functools.partial(_shorten, value, len(value)) if isinstance(value, (list, dict)) else None
    parts, before = dict(value) if isinstance(value, dict) else list(value), _ids(value)

    def put() -> None:
        if _ids(value) != before:  # by what every container of the kind has: one of a person's may refuse to be changed
            kind.clear(value)
            (kind.update if hasattr(kind, "update") else kind.extend)(value, parts)

    return put


def _put(value: Any, then: Any) -> None:
    """Write only what was changed: an expanded tensor cannot be written to, and a graph of the user's may wait for one that did
    not change."""
    if isinstance(value, BYTES):
        if value != then:
            value[:] = then
    elif isinstance(value, np.ndarray):
        if not np.array_equal(value, then):
            np.copyto(value, then)
    elif value.layout != torch.strided:  # the numbers of a sparse tensor's `data` are its own
        if not torch.equal(stored_numbers(value), stored_numbers(then)):
            with torch.no_grad():
                value.copy_(then)
    elif (value.shape, value.dtype, value.device) != (then.shape, then.dtype, then.device):
        value.data = then
    elif not torch.equal(value, then):
        value.data.copy_(then)


def _shorten(value: Any, length: int) -> None:
    while len(value) > length:
        value.popitem() if isinstance(value, dict) else value.pop()


def _ids(value: Any) -> list[int]:
    """Which things a container holds; they are compared by what they are, since arrays compare by their numbers."""
    return [*map(id, value), *map(id, value.values() if isinstance(value, dict) else ())]


@contextmanager
def modes_kept(*models: nn.Module, training: bool | None = None) -> Iterator[None]:
    """Every module's mode comes back; inside, all modules are in the mode ``training``, or as they were with None."""
    modes = [(module, module.training) for module in _modules(models)]
    try:
        if training is not None:
            for module, _ in modes:
                module.training = training
        yield
    finally:
        for module, before in modes:
            module.training = before


def _switching(models: Iterable[nn.Module]) -> list[nn.Module]:
    """The outermost modules with a ``train(mode)`` of their own, which may do more than mark the mode: set a rate, add factors."""
    found: dict[nn.Module, set[nn.Module]] = {}
    for module in _modules(models):
        own = type(module).train
        named = not own.__module__.startswith("torch.") and [*inspect.signature(own).parameters][1:2] == ["mode"]
        if named and not any(module in inside for inside in found.values()):
            found[module] = set(module.modules())
    return list(found)


def switch_modes(models: Iterable[nn.Module], training: bool) -> None:
    """Let networks go to a mode by a ``train`` of their own; what it does to them is to be kept around this."""
    for module in _switching(models):
        module.train(training)


@contextmanager
def buffers_kept(*models: nn.Module) -> Iterator[None]:
    """Buffers come back: the tensors themselves, with what they held; those that a state_dict leaves out too."""
    kept = [
        (module, name, buffer, _putting_in_place(buffer))
        for module in _modules(models)
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        for module, name, buffer, put in kept:
            module._buffers[name] = buffer
            if put is not None:
                put()


@contextmanager
def _weights_kept(*models: nn.Module) -> Iterator[None]:
    """Weights come back that a forward writes to by itself: an average inside of a network, rows that are held to a norm.

    Weights of more than ``MOST_WEIGHTS`` bytes together are not copied; neither are sharded, gathered and quantized ones, nor
    those in shared memory, which other processes may be training.
    """
    weights = [
        (module, name, weight)
        for module in _modules(models)
        for name, weight in module._parameters.items()
        if type(weight) is nn.Parameter and weight.numel() and not weight.is_meta and not _shared(weight)
    ]
    each = {id(weight): weight for _, _, weight in weights}.values()  # tied ones once
    fit = sum(weight.nbytes for weight in each) <= MOST_WEIGHTS
    back = {id(weight): _putting_in_place(weight) for weight in each if fit}
    try:
        yield
    finally:
        for module, name, weight in weights:
            now = module._parameters.get(name)
            if now is None or type(now) is nn.Parameter:  # else it was sharded, and its memory is gone
                module._parameters[name] = weight
                if (put := back.pop(id(weight), None)) is not None:
                    put()


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Torch's (all devices), numpy's and Python's global random states come back. Other threads of wellposed wait."""
    with exclusively():
        cpu, python, legacy = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - kept, not used
        started = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if started else None
        try:
            yield
        finally:
            torch.set_rng_state(cpu)
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002 - the user's own state goes back
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)
