"""A network as a function of its weights, ``f(x; w) ~ f(x; w0) + J(x) (w - w0)``, and its curvature.

`Linearized` holds a copy of the network in double precision, so that the model that was given stays as it is and linear models
are solved to rounding. Its curvature is the generalized Gauss-Newton matrix ``H = sum_i J_i^T L_i J_i`` with ``L_i`` the Hessian
of ``-log p(y_i|f_i)`` by the outputs: the Fisher information of the likelihoods that are known here, never negative.

Curvature
├── Full               the whole matrix
├── DiagonalCurvature  its diagonal
└── Kronecker          ``A (x) B`` for each weight of a linear layer or a convolution (KFAC, in its exact form for the outputs)
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from wellposed.bayes.likelihood import Likelihood
from wellposed.core.errors import DataError, InputError, described, first_line, guard_call, listed
from wellposed.core.selectors import Leaf, leaves
from wellposed.training.evaluate import Forward, evaluating

BLOCK = 2**23
"""Numbers of Jacobians that are held at once: 64 MB."""
Rows = Iterable[tuple[Any, Any]]


class Linearized:
    """``f(x; w)`` of the chosen weights, as ``(rows, outputs)``, with its Jacobian by them; all else is fixed.

    Args:
        net: copied, in double precision and evaluation mode.
        forward: ``forward(model, inputs)``.
        last: only the parameters of the layer that holds the last weight.
    Attributes:
        leaves: the chosen parameters; weights are one vector in their order, ``(P,)``.
    """

    def __init__(self, net: nn.Module, forward: Forward, last: bool = False) -> None:
        self.net, self.forward = copy.deepcopy(net).double().eval(), forward
        trained = {leaf.name for leaf in leaves(net) if leaf.tensor.requires_grad}
        found = [leaf for leaf in leaves(self.net) if leaf.name in trained]
        if last:
            owners = [leaf.module for leaf in found if leaf.role == "weight"]
            found = [leaf for leaf in found if owners and leaf.module is owners[-1]]
        if not found:
            raise InputError("The model has no trained weight to put a posterior on: none requires a gradient.")
        self.leaves = found
        self.sizes = [leaf.tensor.numel() for leaf in found]

    @property
    def size(self) -> int:
        """How many weights there are."""
        return sum(self.sizes)

    @property
    def weights(self) -> Tensor:
        return torch.cat([leaf.tensor.detach().flatten() for leaf in self.leaves])

    @weights.setter
    def weights(self, vector: Tensor) -> None:
        for leaf, part in zip(self.leaves, torch.split(vector, self.sizes), strict=True):
            leaf.tensor.data.copy_(part.reshape(leaf.tensor.shape))

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of ``(..., P)`` by the parameters' names."""
        parts = torch.split(vector, self.sizes, -1)
        return {leaf.name: part for leaf, part in zip(self.leaves, parts, strict=True)}

    def outputs(self, x: Any) -> Tensor:
        """``(n, outputs)`` of a batch."""
        found = guard_call("The model", self.forward)(self.net, as_double(x))
        if not isinstance(found, Tensor) or found.ndim not in (1, 2) or len(found) != len(x) or not found.numel():
            raise DataError(
                f"A posterior needs outputs of shape (rows, outputs); the model gives {described(found)} for inputs "
                f"{described(x)}."
            )
        return found.reshape(len(found), -1)

    def jacobian(self, x: Any) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Blocks of rows with their outputs ``(n, outputs)`` and Jacobian ``(n, outputs, P)``."""
        if not isinstance(x, Tensor):
            raise InputError(
                f"The Jacobian of each row needs inputs in one tensor; the model was given {described(x)}."
            )

        def row(values: dict[str, Tensor], one: Tensor) -> Tensor:
            found: Tensor = self.forward(_Called(self.net, values), one[None]).reshape(-1)
            return found

        with evaluating(self.net):
            step = max(1, BLOCK // (self.size * self.outputs(x[:1]).shape[1]))
            for start in range(0, len(x), step):
                part = slice(start, start + step)
                given = as_double(x[part])
                # A copy of the weights for each row, so that one backward pass of a sum gives the gradient of every row. This takes
                # vmap alone: torch.func.grad imports a compiler, for 5 to 20 seconds.
                each = {
                    leaf.name: leaf.tensor.detach().expand(len(given), *leaf.tensor.shape).requires_grad_()
                    for leaf in self.leaves
                }
                try:
                    with torch.enable_grad():
                        outputs: Tensor = vmap(row)(each, given)
                except RuntimeError as error:
                    raise InputError(
                        f"The Jacobian of each row could not be taken by torch.func.vmap: {first_line(error)}. Use "
                        "curvature='kronecker', and wp.SWAG or wp.ensemble for predictions."
                    ) from error
                yield part, outputs.detach(), _by_row(outputs, list(each.values()))


def _by_row(outputs: Tensor, each: Sequence[Tensor]) -> Tensor:
    """``(n, outputs, P)`` from outputs ``(n, outputs)`` of weights that every row has a copy of."""
    if not outputs.requires_grad:
        raise InputError("The outputs do not depend on the model's weights; there is nothing to put a posterior on.")
    with torch.enable_grad():
        sums = outputs.sum(0).unbind()
    columns = []
    for column in sums:
        grads = torch.autograd.grad(column, each, retain_graph=True, materialize_grads=True)
        columns.append(torch.cat([grad.flatten(1) for grad in grads], 1))
    return torch.stack(columns, 1)


class _Called(nn.Module):
    """A network that is called with other values of some parameters, as ``forward=`` may do in its own way."""

    def __init__(self, net: nn.Module, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.__dict__["given"] = (net, values)

    def forward(self, *args: Any, **keywords: Any) -> Any:
        net, values = self.__dict__["given"]
        return functional_call(net, values, args, keywords, tie_weights=True)


def as_double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


class Curvature(ABC):
    """``H`` in nats at unit noise; `at` adds a diagonal of prior precisions."""

    @abstractmethod
    def at(self, precision: Tensor, factor: float = 1.0) -> WeightPosterior:
        """The Gaussian of precision matrix ``factor*H + diag(precision)``.

        Args:
            precision: ``(P,)``, >= 0.
        Raises:
            InputError: the matrix is singular.
        """


class WeightPosterior(ABC):
    """A Gaussian of weights by its precision matrix ``M = factor*H + diag(precision)``.

    Attributes:
        log_det: of ``M``. ``variances``: the diagonal of its inverse, ``(P,)``.
    """

    log_det: float
    variances: Tensor

    @abstractmethod
    def solve(self, vector: Tensor) -> Tensor:
        """``M^-1 v``, ``(P,)``."""

    @abstractmethod
    def covariance(self, jacobian: Tensor) -> Tensor:
        """``J M^-1 J^T`` of each row, ``(n, outputs, P)`` to ``(n, outputs, outputs)``."""


@dataclass(frozen=True)
class Full(Curvature):
    """The whole matrix, ``(P, P)``."""

    matrix: Tensor

    def at(self, precision: Tensor, factor: float = 1.0) -> WeightPosterior:
        whole = factor * self.matrix + precision.diag()
        lower, bad = torch.linalg.cholesky_ex(whole)
        if bad or bool((lower.diagonal().square() <= _lost(whole.diagonal())).any()):
            raise _singular(whole.diagonal() <= 0, len(whole))
        return FullPosterior(lower)


class FullPosterior(WeightPosterior):
    """By the Cholesky factor of its precision matrix."""

    def __init__(self, lower: Tensor) -> None:
        self.lower = lower
        self.log_det = 2 * float(lower.diagonal().log().sum())

    @property
    def variances(self) -> Tensor:  # type: ignore[override]
        return torch.cholesky_inverse(self.lower).diagonal()

    def solve(self, vector: Tensor) -> Tensor:
        return torch.cholesky_solve(vector[:, None], self.lower).flatten()

    def covariance(self, jacobian: Tensor) -> Tensor:
        n, outputs, size = jacobian.shape
        halves = torch.linalg.solve_triangular(self.lower, jacobian.reshape(-1, size).T, upper=False)
        halves = halves.T.reshape(n, outputs, size)
        found: Tensor = halves @ halves.mT
        return found


@dataclass(frozen=True)
class DiagonalCurvature(Curvature):
    """The diagonal alone, ``(P,)``."""

    values: Tensor

    def at(self, precision: Tensor, factor: float = 1.0) -> WeightPosterior:
        return DiagonalPosterior(factor * self.values + precision)


class DiagonalPosterior(WeightPosterior):
    """Independent weights."""

    def __init__(self, precision: Tensor) -> None:
        if bool((precision <= 0).any()):
            raise _singular(precision <= 0, len(precision))
        self.variances, self.log_det = 1 / precision, float(precision.log().sum())

    def solve(self, vector: Tensor) -> Tensor:
        return vector * self.variances

    def covariance(self, jacobian: Tensor) -> Tensor:
        return (jacobian * self.variances) @ jacobian.mT


@dataclass(frozen=True)
class Kronecker(Curvature):
    """``B (x) A`` for each parameter, ``(out, out)`` and ``(in, in)``; weights and biases are blocks of their own.

    Source:
        Martens & Grosse (2015), ICML; Botev, Ritter & Barber (2017), ICML, for the curvature of the outputs; convolutions:
        Grosse & Martens (2016), ICML.
    """

    blocks: tuple[tuple[Tensor, Tensor], ...]

    @cached_property
    def frames(self) -> list[tuple[tuple[Tensor, Tensor], ...]]:
        """Eigenvalues and eigenvectors of the two factors of each block."""
        return [tuple(torch.linalg.eigh(factor) for factor in block) for block in self.blocks]

    def at(self, precision: Tensor, factor: float = 1.0) -> WeightPosterior:
        return KroneckerPosterior(self.frames, precision, factor)


class KroneckerPosterior(WeightPosterior):
    """Diagonal in the eigenvectors of the factors, since each parameter has one prior precision."""

    def __init__(self, frames: Sequence[tuple[tuple[Tensor, Tensor], ...]], precision: Tensor, factor: float) -> None:
        self.frames = [(u, v) for (_, u), (_, v) in frames]
        self.sizes = [len(u) * len(v) for u, v in self.frames]
        values = []
        for ((b, _), (a, _)), own in zip(frames, torch.split(precision, self.sizes), strict=True):
            if bool((own != own[0]).any()):
                raise InputError(
                    "Kronecker factors need one strength for each parameter; the terms have several in one. Use "
                    "curvature='full' or 'diagonal'."
                )
            values.append((factor * b.clamp_min(0)[:, None] * a.clamp_min(0) + own[0]).flatten())
        self.values = torch.cat(values)
        lost = self.values <= _lost(self.values.max())
        if bool(lost.any()):
            raise _singular(lost, len(self.values))
        self.log_det = float(self.values.log().sum())
        spread = zip(self.frames, torch.split(1 / self.values, self.sizes), strict=True)
        self.variances = torch.cat(
            [(u.square() @ own.reshape(len(u), len(v)) @ v.square().T).flatten() for (u, v), own in spread]
        )

    def _turned(self, vectors: Tensor, back: bool = False) -> Tensor:
        """``(..., P)`` in the eigenvectors, or back."""
        parts = []
        for (u, v), part in zip(self.frames, torch.split(vectors, self.sizes, -1), strict=True):
            block = part.reshape(*part.shape[:-1], len(u), len(v))
            parts.append((u @ block @ v.T if back else u.T @ block @ v).flatten(-2))
        return torch.cat(parts, -1)

    def solve(self, vector: Tensor) -> Tensor:
        return self._turned(self._turned(vector) / self.values, back=True)

    def covariance(self, jacobian: Tensor) -> Tensor:
        turned = self._turned(jacobian)
        return (turned / self.values) @ turned.mT


def _lost(largest: Tensor) -> Tensor:
    """What is rounding beside the largest: a pivot of this size is none."""
    return largest.abs() * 64 * torch.finfo(torch.float64).eps


def _singular(flat: Tensor, size: int) -> InputError:
    some = f" {int(flat.sum())} of {size} weights change no output." if bool(flat.any()) else ""
    return InputError(
        f"The curvature is singular: the data and the terms leave some of the {size} weights undecided.{some} Charge every weight "
        "with wp.L2, or give a smaller prior_std= for those that no term charges."
    )


def full_parts(
    net: Linearized, rows: Rows, likelihood: Likelihood, diagonal: bool = False
) -> tuple[Full | DiagonalCurvature, Tensor, float]:
    """The curvature, whole or its diagonal, the gradient ``(P,)`` and the value of the misfit, in nats."""
    matrix = torch.zeros(net.size, *(() if diagonal else (net.size,)), dtype=torch.float64, device=net.weights.device)
    slope, total = torch.zeros(net.size).to(matrix), 0.0
    for x, y in rows:
        for part, f, jacobian in net.jacobian(x):
            target = likelihood.targets(y[part], f)
            total += float(likelihood.misfit(f, target))
            slope += torch.einsum("nk,nkp->p", likelihood.slope(f, target), jacobian)
            root = likelihood.root(f)
            seen = jacobian if likelihood.numbers else root.mT @ jacobian
            seen = seen.flatten(0, 1) * (likelihood.noise_var**-0.5 if likelihood.numbers else 1.0)
            matrix += seen.square().sum(0) if diagonal else seen.T @ seen
    return (DiagonalCurvature(matrix) if diagonal else Full(matrix)), slope, total


def kronecker(net: Linearized, rows: Rows, likelihood: Likelihood) -> tuple[Kronecker, Tensor, float]:
    """Kronecker factors, the gradient and the value of the misfit, in nats.

    Raises:
        InputError: a parameter that belongs to no linear layer or convolution.
    """
    if odd := [leaf.name for leaf in net.leaves if not kronecker_fits(leaf)]:
        raise InputError(
            f"Kronecker factors are known for nn.Linear and convolutions without groups; {listed(odd)} is of another layer. Use "
            "curvature='diagonal', or 'full' for few weights."
        )
    modules = list(dict.fromkeys(leaf.module for leaf in net.leaves))
    inner: dict[nn.Module, Any] = dict.fromkeys(modules, 0)
    outer, places = inner.copy(), inner.copy()
    parameters = [leaf.tensor for leaf in net.leaves]
    slope, total = [torch.zeros_like(p) for p in parameters], 0.0
    for x, y in rows:
        seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {module: [] for module in modules}

        def keep(module: nn.Module, given: Any, found: Tensor, seen: Any = seen) -> None:
            seen[module].append((given[0].detach(), found))

        with evaluating(net.net), torch.enable_grad():
            with ExitStack() as hooks:
                for module in modules:
                    hooks.callback(module.register_forward_hook(keep).remove)
                f = net.outputs(x)
            target = likelihood.targets(y, f)
            value = likelihood.misfit(f, target)
            for mine, found in zip(slope, torch.autograd.grad(value, parameters, retain_graph=True), strict=True):
                mine += found
            total += float(value.detach())
            root = likelihood.root(f.detach())
            calls = [(module, a, z) for module in modules for a, z in seen[module]]
            for column in range(f.shape[1]):
                slopes = torch.autograd.grad(
                    (root[:, :, column] * f).sum(), [z for _, _, z in calls], retain_graph=True
                )
                for (module, _, _), g in zip(calls, slopes, strict=True):
                    flat = _outputs_of(module, g)
                    outer[module] = outer[module] + flat.T @ flat
            for module, a, _ in calls:
                flat = _inputs_of(module, a)
                inner[module] = inner[module] + flat.T @ flat
                places[module] += len(flat)
    blocks = []
    for leaf in net.leaves:
        a, b, n = inner[leaf.module], outer[leaf.module], places[leaf.module]
        a = torch.full((1, 1), float(n)).to(leaf.tensor) if leaf.role == "bias" else a
        blocks.append((b / n, a))
    return Kronecker(tuple(blocks)), torch.cat([part.flatten() for part in slope]).detach(), total


def kronecker_fits(leaf: Leaf) -> bool:
    """Whether the parameter is the weight or the bias of a linear layer or a convolution without groups."""
    module = leaf.module
    known = type(module) is nn.Linear or (isinstance(module, _ConvNd) and module.groups == 1 and not module.transposed)
    return known and not is_parametrized(module) and len(leaf.aliases) == 1 and leaf.role in ("weight", "bias")


def _outputs_of(module: nn.Module, g: Tensor) -> Tensor:
    """``(places, out)`` of the gradient by a layer's outputs."""
    return g.movedim(1, -1).flatten(0, -2) if isinstance(module, _ConvNd) else g.flatten(0, -2)


def _inputs_of(module: nn.Module, a: Tensor) -> Tensor:
    """``(places, in)``: what each place of a layer's output was multiplied from."""
    if not isinstance(module, _ConvNd):
        return a.flatten(0, -2)
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise InputError("Kronecker factors of a convolution need a padding of zeros, given as numbers.")
    # Unfolding by a convolution with the identity works for any number of axes.
    size = math.prod(module.kernel_size) * a.shape[1]
    identity = torch.eye(size).to(a).reshape(size, a.shape[1], *module.kernel_size)
    convolve: Any = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[a.ndim - 3]
    patches = convolve(a, identity, None, module.stride, module.padding, module.dilation)
    places: Tensor = patches.movedim(1, -1).flatten(0, -2)
    return places
