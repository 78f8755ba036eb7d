"""Look into a network: one forward and backward pass over fixed rows, after which everything is as it was.

The pass is taken in training mode, as training's own are, with its own random state. Buffers (running statistics),
modes, gradients and random states come back; gradients are taken beside the parameters' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wellposed.core.batches import count_numbers, examples_in, examples_of, tensors_in
from wellposed.core.errors import TargetError, WellposedError, first_line
from wellposed.core.preserve import attributes_kept, modes_kept, reach_kept, switch_modes
from wellposed.core.random import seeded
from wellposed.core.selectors import Leaf, leaves, unwrap_model
from wellposed.losses.per_example import Loss
from wellposed.noise.activations import draws_of
from wellposed.training.loop_activity import real

MOST_ROWS = (
    512  # one row in 512 is seen with a chance of 63 % if it is one in 512: a unit that never fires here is rare
)
MOST_NUMBERS = 2**22  # of all inputs together: 512 rows of 8,192 numbers; larger rows are fewer, at least `FEWEST_ROWS`
FEWEST_ROWS = 32
STILL = 1e-5  # of the size of what is seen: float32 differs by less where nothing varies
TAKEN = 1e-3  # of the variation of its inputs, what a layer that says nothing leaves: a sigmoid leaves a quarter

RowsWithTargets = tuple[Any, Any]
Predict = Callable[[nn.Module, Any], Any]


class Unseen(WellposedError):
    """The network could not be looked into: its own code raised, or its outputs are of a kind that is not known."""


@dataclass(frozen=True)
class Layer:
    """A trainable weight: its name, size, gradient (NaN where the loss does not depend on it), and ``outward``, the gradient times
    the weight: how fast the loss rises if the weight is made larger as a whole.
    """

    name: str
    module: str
    kind: str
    size: float
    gradient: float
    role: str
    outward: float = 0.0

    @property
    def relative(self) -> float:
        """Gradient norm over weight norm: how fast the loss falls for a change of the weights by their own size."""
        return self.gradient / self.size if self.size else math.nan


@dataclass(frozen=True)
class Units:
    """The units behind one ReLU: how many, and how many of them are 0 on every row."""

    place: str
    count: int
    dead: int


@dataclass(frozen=True)
class Columns:
    """Numbers that enter the first layer, a value a feature: root mean square, share not 0, whether only 0 and 1."""

    rms: np.ndarray
    spread: np.ndarray
    filled: np.ndarray
    binary: np.ndarray
    layer: str


@dataclass(frozen=True)
class Inspection:
    """What was seen in one pass over ``rows`` rows, of which ``loss`` is the mean. ``layers`` are in the order in which data reach
    them.

    Attributes:
        silent: modules whose outputs do not vary though their inputs do.
        copies: weights of several units, all of which have the same.
        made_by: the operation that made the outputs, where it is an activation (``softmax``, ``sigmoid``, ``relu``...).
        outputs: of all rows, or None where they are no tensor.
        entering: what enters the first layer; None behind an embedding.
        values: the fewest values that a batch norm took its statistics from; None without one.
    """

    layers: tuple[Layer, ...]
    units: tuple[Units, ...]
    silent: tuple[str, ...]
    copies: tuple[str, ...]
    made_by: str | None
    outputs: Tensor | None
    target: Tensor | None
    entering: Columns | None
    values: int | None
    loss: float
    rows: int


@dataclass
class _Range:
    """Smallest and largest value of each channel so far."""

    low: Tensor | None = None
    high: Tensor | None = None

    def add(self, x: Tensor, axis: int) -> None:
        other = [d for d in range(x.ndim) if d != axis % x.ndim]
        low, high = (x.amin(other), x.amax(other)) if other else (x, x)
        self.low = low if self.low is None or self.low.shape != low.shape else torch.minimum(self.low, low)
        self.high = high if self.high is None or self.high.shape != high.shape else torch.maximum(self.high, high)

    @property
    def variation(self) -> float:
        """The widest channel's range over the largest value; 1 where that is not known."""
        if self.low is None or self.high is None:
            return 1.0
        scale, wide = float(torch.maximum(self.low.abs(), self.high.abs()).max()), float((self.high - self.low).max())
        return wide / scale if math.isfinite(scale) and scale > 0 else 0.0 if scale == 0 else 1.0


@dataclass
class _Sums:
    """Running sums of what enters the first layer, a value a feature."""

    layer: str
    rows: int = 0
    first: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    filled: Tensor | float = 0.0
    binary: Tensor | bool = True

    def add(self, x: Tensor, axis: int) -> None:
        flat = x.detach().movedim(axis, -1).reshape(-1, x.shape[axis]).double()
        self.rows += len(flat)
        self.first = self.first + flat.sum(0)
        self.squares = self.squares + flat.square().sum(0)
        self.filled = self.filled + (flat != 0).sum(0)
        self.binary = ((flat == 0) | (flat == 1)).all(0) & self.binary

    def columns(self) -> Columns:
        mean, square, filled, binary = (
            torch.as_tensor(v).cpu().numpy() for v in (self.first, self.squares, self.filled, self.binary)
        )
        mean, square = mean / self.rows, square / self.rows
        spread = np.sqrt(np.maximum(square - mean**2, 0.0))
        return Columns(np.sqrt(square), spread, filled / self.rows, binary, self.layer)


RELUS = (
    "relu", "relu_", "relu6", "threshold", "threshold_", "clamp", "clamp_", "clamp_min", "clamp_min_", "hardtanh",
    "hardtanh_",
)  # fmt: skip
MAKERS = {
    "softmax": "softmax", "log_softmax": "log_softmax", "sigmoid": "sigmoid", "sigmoid_": "sigmoid",
    "logsigmoid": "log_sigmoid", "tanh": "tanh", "tanh_": "tanh", "relu": "relu", "relu_": "relu",
}  # fmt: skip
"""Activations whose outputs have a range of their own, by the function that computes them."""


class _Functions(TorchFunctionMode):
    """Sees every ReLU, whether module or function, and the last activation.

    Not a dispatch mode: the first one in a process imports torch's compiler, which takes more than a second.
    """

    def __init__(self, eye: _Eyes) -> None:
        super().__init__()
        self.eye = eye

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, name = func(*args, **kwargs), getattr(func, "__name__", "")
        if isinstance(out, Tensor):
            if name in RELUS and _floor(name, args, kwargs) == 0:
                self.eye.relu(out)
            if name in MAKERS:
                self.eye.last = MAKERS[name], out
        return out


def _floor(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if name.startswith("relu"):
        return 0
    at, key = (2, "value") if name.startswith("threshold") else (1, "min_val" if name.startswith("hardtanh") else "min")
    return kwargs.get(key, args[at] if len(args) > at else None)


@dataclass
class _Eyes:
    """What the hooks see, over several batches."""

    names: dict[int, str]
    kinds: dict[int, nn.Module]
    called: list[str] = field(default_factory=list)
    inputs: dict[str, _Range] = field(default_factory=dict)
    outputs: dict[str, _Range] = field(default_factory=dict)
    relus: dict[str, Tensor] = field(default_factory=dict)
    entering: _Sums | None = None
    values: int | None = None
    last: tuple[str, Tensor] | None = None
    embedded: bool = False
    _channels: int = -1
    _place: str = "input"
    _relu: int = 0
    _entered: bool = False

    def begin(self) -> None:
        self._relu, self._place, self._entered, self._channels, self.last = 0, "input", False, -1, None

    def relu(self, x: Tensor) -> None:
        axis = self._channels if x.ndim > 2 else -1
        self._relu += 1
        if x.ndim < 2 or not x.is_floating_point():
            return
        other = [d for d in range(x.ndim) if d != axis % x.ndim]
        place, high = f"ReLU {self._relu} after {self._place}", x.detach().amax(other)
        seen = self.relus.get(place)
        self.relus[place] = high if seen is None or seen.shape != high.shape else torch.maximum(seen, high)

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = next((a for a in args if isinstance(a, Tensor)), None)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            self.embedded = True
        if x is None or not x.is_floating_point() or x.ndim < 2:
            return
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            values = x.numel() // max(x.shape[1], 1)
            self.values = values if self.values is None else min(self.values, values)
            if x.ndim == 3:
                self._channels = 1
            return
        name, axis = self.names[id(module)], channels(module, x)
        self.inputs.setdefault(name, _Range()).add(x.detach(), axis)
        if not self._entered and not self.embedded:
            self.entering = self.entering or _Sums(name)
            self.entering.add(x, axis)
        self._entered = True

    def after(self, module: nn.Module, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) and output else output
        name = self.names[id(module)]
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or not isinstance(out, Tensor) or out.ndim < 2:
            return
        if name not in self.called:
            self.called.append(name)
        self._place, self._channels = name, channels(module, out)
        if out.is_floating_point():
            self.outputs.setdefault(name, _Range()).add(out.detach(), self._channels)


def channels(module: nn.Module, x: Tensor) -> int:
    """The axis of units: 1 for convolutions of batches, else the last."""
    dims = getattr(module, "kernel_size", None)
    convolves = isinstance(module, nn.modules.conv._ConvNd) and isinstance(dims, tuple)
    return 1 if convolves and x.ndim == len(dims or ()) + 2 else -1


@contextmanager
def as_training(model: nn.Module, *code: object) -> Iterator[None]:
    """Training mode and random state of our own; all that model and code reach comes back."""
    with ExitStack() as stack:
        for draws in draws_of(model):
            stack.enter_context(draws.apart(0, sampling=draws.sampling))
        for kept in (reach_kept(model, *code), modes_kept(model, training=True), seeded(0, "look")):
            stack.enter_context(kept)
        switch_modes([model], True)
        yield


@contextmanager
def _hooked(eyes: _Eyes) -> Iterator[None]:
    handles = []
    for module in eyes.kinds.values():
        handles.append(module.register_forward_pre_hook(lambda m, args: eyes.before(m, args)))
        handles.append(module.register_forward_hook(lambda m, _, out: eyes.after(m, out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def inspect_network(
    model: nn.Module, predict: Predict, loss: Loss, batches: Iterable[RowsWithTargets], rows: int | None = None
) -> Inspection:
    """One forward and backward pass in training mode, over at most 512 rows (or ``rows``) of ``(batch, target)``, in batches of
    the size that training has.

    Raises:
        Unseen: the model's own code raised, or the loss does not take its outputs.
    """
    inner = unwrap_model(model)
    found = [leaf for leaf in leaves(inner) if leaf.role in ("weight", "embedding") and leaf.tensor.is_floating_point()]
    eyes = _Eyes(*_watched(inner, found))
    trained = [leaf for leaf in found if leaf.tensor.requires_grad]
    sums: list[Tensor | None] = [None] * len(trained)
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    made: str | None = None
    seen, total = 0, 0.0
    with as_training(inner, predict, loss.given), _hooked(eyes), torch.enable_grad():
        for batch, target in batches:
            size = _rows(target)
            if size < 2 and seen:
                continue  # a batch norm cannot take statistics of one row
            eyes.begin()
            with attributes_kept(*inner.parameters()):  # hooks of a backward may leave something there, and only once
                out, mean = _forward(inner, predict, loss, batch, target, eyes)
                weights = [leaf.tensor for leaf in trained] if mean.requires_grad else []
                with _unseen():
                    grads = torch.autograd.grad(mean, weights, allow_unused=True) if weights else ()
            if isinstance(out, Tensor):
                made = _maker(out, eyes.last)
                outputs.append(out.detach())
            if isinstance(target, Tensor):
                targets.append(target.detach())
            eyes.last = None
            for i, grad in enumerate(grads):
                if grad is not None:
                    grad = (grad.to_dense() if grad.is_sparse else grad).float() * size
                    sums[i] = grad if (before := sums[i]) is None else before + grad
            total, seen = total + size * float(mean.detach()), seen + size
            if seen >= (rows or MOST_ROWS) or seen * count_numbers(batch) // max(size, 1) >= MOST_NUMBERS:
                break
    if not seen:
        raise Unseen("There were no rows to look at.")
    layers = [_layer(leaf, grad, seen, eyes) for leaf, grad in zip(trained, sums, strict=True)]
    return Inspection(
        layers=tuple(_ordered(layers, eyes)) if any(grad is not None for grad in sums) else (),
        units=tuple(Units(place, high.numel(), int((high <= 0).sum())) for place, high in eyes.relus.items()),
        silent=tuple(name for name in eyes.called if _silent(eyes, name)),
        copies=tuple(leaf.name for leaf in trained if leaf.role == "weight" and _copies(leaf.tensor)),
        made_by=made,
        outputs=_joined(outputs),
        target=_joined(targets),
        entering=eyes.entering.columns() if eyes.entering is not None and not eyes.embedded else None,
        values=eyes.values,
        loss=total / seen,
        rows=seen,
    )


def _forward(
    model: nn.Module, predict: Predict, loss: Loss, batch: Any, target: Any, eyes: _Eyes
) -> tuple[Any, Tensor]:
    with _unseen():
        with _Functions(eyes):
            out = predict(model, batch)
        return out, loss.mean(out, target)


@contextmanager
def _unseen() -> Iterator[None]:
    """Any error of other people's code is told, and what the curves say stays."""
    try:
        yield
    except TargetError:
        raise
    except Exception as error:
        raise Unseen(
            f"The network could not be looked into: in training mode it raised {type(error).__name__}: "
            f"{first_line(error).rstrip('.')}."
        ) from error


def _watched(model: nn.Module, found: Sequence[Leaf]) -> tuple[dict[int, str], dict[int, nn.Module]]:
    """The modules that own weights, embeddings and batch norms, by name and by id."""
    owners = {id(leaf.module) for leaf in found}
    names, kinds = {}, {}
    for name, module in model.named_modules():
        if id(module) in owners or isinstance(module, nn.modules.batchnorm._BatchNorm):
            names[id(module)], kinds[id(module)] = name or "model", module
    return names, kinds


def _layer(leaf: Leaf, grad: Tensor | None, rows: int, eyes: _Eyes) -> Layer:
    size = float(real(leaf.tensor).norm())
    gradient = math.nan if grad is None else float(grad.norm()) / rows
    module = eyes.names.get(id(leaf.module), "")
    outward = 0.0 if grad is None else float((grad * leaf.tensor.detach()).sum()) / rows
    return Layer(leaf.name, module, type(leaf.module).__name__, size, gradient, leaf.role, outward)


def _ordered(layers: Iterable[Layer], eyes: _Eyes) -> list[Layer]:
    """In the order of the first call; one that is used without being called stays behind the one registered before."""
    place = {name: i for i, name in enumerate(eyes.called)}
    ordered, last = [], -1
    for layer in layers:
        last = place.get(layer.module, last)
        ordered.append((last, layer))
    return [layer for _, layer in sorted(ordered, key=lambda pair: pair[0])]


def _silent(eyes: _Eyes, name: str) -> bool:
    """Whether a layer takes away what its inputs vary: signals that fade over many layers are not one layer's doing."""
    if name not in eyes.inputs or name not in eyes.outputs:
        return False
    before, after = eyes.inputs[name].variation, eyes.outputs[name].variation
    return before > STILL >= after and after <= TAKEN * before


def _copies(weight: Tensor) -> bool:
    return weight.ndim > 1 and len(weight) > 1 and bool((weight == weight[:1]).all())


def _maker(out: Tensor, last: tuple[str, Tensor] | None) -> str | None:
    """The activation that made the outputs, if they are its own memory."""
    if last is None or last[1].numel() != out.numel():
        return None
    return last[0] if last[1].untyped_storage().data_ptr() == out.untyped_storage().data_ptr() else None


def _joined(parts: list[Tensor]) -> Tensor | None:
    dense = all(part.layout == torch.strided for part in parts)
    if not parts or not dense or any(part.shape[1:] != parts[0].shape[1:] or part.ndim == 0 for part in parts):
        return None
    return torch.cat([part.float() if part.is_floating_point() else part for part in parts]).cpu()


def _rows(target: Any) -> int:
    return len(target) if isinstance(target, Tensor) and target.ndim else 1


def rebatch(batches: Iterable[RowsWithTargets], size: int, rows: int = MOST_ROWS) -> Iterator[RowsWithTargets]:
    """The first rows in batches of ``size``, where batch and target have as many; else as they are."""
    left = rows
    for batch, target in batches:
        count = _rows(target)
        one = max(1, count) if examples_in(batch) != count else size  # a sentence has as many targets as words
        for start in range(0, min(count, left), one):
            yield examples_of((batch, target), slice(start, start + one), count)
        left -= count
        if left <= 0:
            return


def mode_gap(
    model: nn.Module, predict: Predict, loss: Loss, batches: Sequence[RowsWithTargets], norms: bool
) -> tuple[float, float, float]:
    """How much the loss of the same rows differs in training mode from that in evaluation mode: with batch norms alone in training
    mode (``norms``), or with all but them, so that only dropout and other noise differ.

    Without norms a difference that does not change when it is drawn again is no noise, but a loss that training mode alone has, of
    further heads or of the network's own: it is 0; and NaN where the outputs of both modes are not of the same shapes.

    Returns:
        The mean paired difference, its standard error over batches, and the loss in evaluation mode.
    """
    inner = unwrap_model(model)
    kept = [(batch, target) for batch, target in batches if _rows(target) >= 2]
    if len(kept) < 2:
        return math.nan, math.inf, math.nan

    def looked(pair: RowsWithTargets) -> tuple[float, list[torch.Size]]:
        out, mean = _forward(inner, predict, loss, *pair, _Eyes({}, {}))
        return float(mean.detach()), [tensor.shape for tensor in tensors_in(out)]

    passes = []
    with as_training(inner, predict, loss.given), torch.set_grad_enabled(loss.derived):
        for training in (False, True):  # evaluation first: training mode moves the running statistics
            switch_modes([inner], training and not norms)
            for module in inner.modules():
                module.training = training and isinstance(module, nn.modules.batchnorm._BatchNorm) == norms
            passes.append(list(map(looked, kept)))
        drawn = norms or passes[1][0] != looked(kept[0])
    losses = [[value for value, _ in each] for each in (passes if drawn else [passes[0]] * 2)]
    if not np.isfinite(losses).all() or (drawn and passes[0][0][1] != passes[1][0][1]):
        return math.nan, math.inf, math.nan
    difference = np.subtract(losses[1], losses[0])
    error = float(difference.std(ddof=1) / math.sqrt(len(difference)))
    return float(difference.mean()), error, float(np.mean(losses[0]))
