"""Penalties of what a model computes: its activations, its outputs, and how its outputs change with its inputs.

Each is a mean over the examples of a batch, so that its strength does not change with the batch size, and the mean over
equal parts of a batch is the value of the whole. They are enforced in the loss: add ``optimizer.penalty(outputs, ...)``
to the cost before ``backward``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from wellposed.core.checks import Positive, Within, checked
from wellposed.core.errors import InputError, ShapeError
from wellposed.core.random import generator
from wellposed.penalties.base import Context, FunctionalPenalty, Searched, Traits

Of = Literal["logits", "values"]

OF_A_NETWORK = Traits(convex=False, weak_convexity=math.inf, symmetric=False, diagonal=False)
"""A convex charge of outputs is no convex function of the weights."""


def _wide(x: Tensor) -> Tensor:
    return x if x.is_floating_point() and x.element_size() >= 4 else x.float()


def _given(owner: FunctionalPenalty, context: Context) -> list[Tensor]:
    """The tensors that a penalty needs, each with a first axis of examples."""
    context.needs(owner)
    tensors: list[Tensor] = [getattr(context, name) for name in owner.needs]
    for name, tensor in zip(owner.needs, tensors, strict=True):
        if tensor.ndim == 0:
            raise ShapeError(
                f"{type(owner).__name__} needs {name} with a first axis of examples; they are a single number."
            )
    return tensors


def _along(owner: object, outputs: Tensor, axis: int) -> Tensor:
    """Outputs ``(batch, ..., classes)`` from those with their classes on ``axis``; ``(batch,)`` is one output each."""
    outputs = _wide(outputs.unsqueeze(1) if outputs.ndim == 1 else outputs)
    if not -outputs.ndim < axis < outputs.ndim or axis == 0:
        raise ShapeError(
            f"{type(owner).__name__} looks for classes on axis {axis}; the outputs have shape {tuple(outputs.shape)}, "
            "whose axis 0 is the batch. Give axis=1 for (batch, classes, ...) and axis=-1 for (batch, ..., classes)."
        )
    return outputs.movedim(axis, -1)


def _log_probabilities(owner: object, outputs: Tensor, axis: int, binary: bool, temperature: float = 1.0) -> Tensor:
    """``(batch, ..., variables, values)``: one variable of several classes, or variables of two values each."""
    scores = _along(owner, outputs, axis) / temperature
    if binary or scores.shape[-1] == 1:
        return torch.stack([F.logsigmoid(scores), F.logsigmoid(-scores)], dim=-1)
    return F.log_softmax(scores, dim=-1).unsqueeze(-2)


def _divergence(log_p: Tensor, log_q: Tensor | float) -> Tensor:
    """``KL(p || q)`` in nats, a mean over the units; a value of probability 0 (a masked class) adds 0."""
    surplus = (log_p - log_q).masked_fill(log_p == -math.inf, 0.0)
    return (log_p.exp() * surplus).sum((-2, -1)).mean()


class _OfClasses(FunctionalPenalty):
    """A charge of outputs that have their classes along ``axis``."""

    axis: int
    traits: ClassVar[Traits] = OF_A_NETWORK

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis == 0:
            raise InputError(f"{type(self).__name__} needs the axis of the classes, which is not 0; it was given 0.")

    def value(self, context: Context) -> Tensor:
        given = _given(self, context)
        charge = self.mean(*given)
        return self.strength * charge if self.strength else charge.new_zeros(())

    @abstractmethod
    def mean(self, *given: Tensor) -> Tensor:
        """The charge at strength 1 of the tensors that it `needs`: a mean over examples, 0-d."""


class OfActivations(FunctionalPenalty):
    """A charge of the outputs of single modules: a mean over examples, a sum over coordinates, modules and their uses.

    A module that is used several times in a forward pass is charged for each use; so are several passes before one `penalty`,
    each of which is a mean over its own examples.
    """

    needs: ClassVar[tuple[str, ...]] = ("activations",)
    traits: ClassVar[Traits] = OF_A_NETWORK

    @abstractmethod
    def of(self, activation: Tensor) -> Tensor:
        """The charge of each coordinate at strength 1."""

    def mean(self, activation: Tensor) -> Tensor:
        """The charge of one module's outputs at strength 1: a mean over examples, 0-d."""
        return self.of(activation).sum() / activation.shape[0]

    def value(self, context: Context) -> Tensor:
        context.needs(self)
        charges = []
        for name, a in context.activations.items():
            if not isinstance(a, Tensor) or a.ndim == 0:
                raise InputError(
                    f"{type(self).__name__} charges tensors of examples; the module {name!r} gave "
                    f"{type(a).__name__ if not isinstance(a, Tensor) else 'a single number'}. Choose a module inside or after it."
                )
            charges.append(self.mean(_wide(a)))
        total = charges[0].new_zeros(())
        for charge in charges if self.strength else ():
            total = total + self.strength * charge.to(total.device)
        return total


@checked
@dataclass(frozen=True)
class ActivationL1(OfActivations):
    """``strength * mean_i sum_j |a_ij|`` over the outputs ``a`` of the selected modules: sparse activations.

    Activations are ``(batch, ...)``; the sum runs over every axis but the first, positions included, over modules, and over
    all uses of one.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
    Source:
        Glorot, Bordes & Bengio (2011), AISTATS (sparse rectifiers).
    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> terms = [wp.ActivationL1(0.5).on(torch.nn.ReLU)]
        >>> optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, terms)
        >>> outputs = net(torch.tensor([[1.0, -3.0], [0.0, 2.0]]))
        >>> float(optimizer.penalty(outputs))            # to be added to the loss before backward
        0.75
    """

    strength: float

    def of(self, activation: Tensor) -> Tensor:
        return activation.abs()


@checked
@dataclass(frozen=True)
class ActivationL2(OfActivations):
    """``strength/2 * mean_i sum_j a_ij^2`` over the outputs ``a`` of the selected modules, summed as by `ActivationL1`: small
    activations.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
    Source:
        Merity, McCann & Socher (2017), arXiv:1708.01009 (activation regularization, there with other scales).
    """

    strength: float

    def of(self, activation: Tensor) -> Tensor:
        return 0.5 * activation.square()


@checked
@dataclass(frozen=True)
class Confidence(_OfClasses):
    """``strength * mean_i (log(classes) - H(p_i))``: entropy is rewarded, so that predictions are not too sure.

    With ``p = softmax(outputs)`` this is ``KL(p || uniform)``: between 0 (all classes alike) and ``log(classes)`` (sure).
    It has the gradient of minus the entropy. With one output, or ``binary``, each output is the logit of a variable of
    its own with two values, ``p = sigmoid(output)``; variables are summed.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        binary: each output is a logit of its own (several labels at once). One output is always taken so.
        axis: of the classes; 1 as in torch's ``cross_entropy``: ``(batch, classes, ...)``. -1 for ``(batch, ..., classes)``.
            Positions are averaged.
    Source:
        Pereyra, Tucker, Chorowski, Kaiser & Hinton (2017), ICLR workshop.
    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Linear(4, 3)
        >>> optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.Confidence(0.1).on()])
        >>> float(optimizer.penalty(torch.zeros(8, 3)))  # all classes alike; of outputs = net(x) in a loop
        0.0
    """

    strength: float
    binary: bool = False
    axis: int = 1
    searched: ClassVar[Searched] = Searched(low=1e-3, high=0.3, least=1e-4, most=1.0, odds=0.05)

    @property
    def of_classes(self) -> bool:
        return True

    def mean(self, *given: Tensor) -> Tensor:
        log_p = _log_probabilities(self, given[0], self.axis, self.binary)
        return _divergence(log_p, -math.log(log_p.shape[-1]))


@checked
@dataclass(frozen=True)
class LogitL2(_OfClasses):
    """``strength/2 * mean_i |outputs_i|_2^2``: small logits, which cannot be sure of anything.

    Unlike `Confidence` it also fixes the constant that softmax does not see.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        axis: of the classes, which are summed; positions are averaged. See `Confidence`.
    Source:
        Kannan, Kurakin & Goodfellow (2018), arXiv:1803.06373 (logit squeezing).
    """

    strength: float
    axis: int = 1

    def mean(self, *given: Tensor) -> Tensor:
        return 0.5 * _along(self, given[0], self.axis).square().sum(-1).mean()


@checked
@dataclass(frozen=True)
class Consistency(_OfClasses):
    """``strength * temperature^2 * mean_i KL``: outputs stay close to a reference, ``p = softmax(outputs/temperature)``.

    With ``r = softmax(reference/temperature)``:

    - ``both=True``: ``1/2 KL(p || r) + 1/2 KL(r || p)``, and both carry gradient. Two passes under other dropout (R-Drop).
    - ``both=False``: ``KL(r || p)``, and the reference is a target that gets no gradient. A teacher (distillation).

    The factor ``temperature^2`` keeps the size of gradients: at large temperatures the charge tends to
    ``1/(2 classes) |z - y|^2`` of the centered logits, whatever the temperature. ``of="values"`` is for outputs that are
    no logits: ``strength * mean_i |outputs_i - reference_i|_2^2``.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing.
        temperature: > 0; 1 compares the predicted distributions themselves. Of values it is 1.
        both: symmetric, or towards a fixed reference.
        of: ``"logits"`` or ``"values"``.
        binary: each output is a logit of its own; one output is always taken so. See `Confidence`.
        axis: of the classes; see `Confidence`. Positions are averaged.
    Source:
        Liang et al. (2021), NeurIPS (R-Drop); Hinton, Vinyals & Dean (2015), arXiv:1503.02531 (distillation).
    """

    strength: float
    temperature: Positive = 1.0
    both: bool = True
    of: Of = "logits"
    binary: bool = False
    axis: int = 1
    needs: ClassVar[tuple[str, ...]] = ("outputs", "reference")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of == "values" and (self.temperature != 1 or self.binary):
            raise InputError('Consistency of="values" has no temperature and no binary; leave them out.')

    @property
    def of_classes(self) -> bool:
        return self.of != "values"

    def mean(self, *given: Tensor) -> Tensor:
        outputs, reference = given
        if outputs.shape != reference.shape:
            raise ShapeError(
                f"Consistency compares outputs of one shape; outputs have {tuple(outputs.shape)} and the reference has "
                f"{tuple(reference.shape)}. Run both models on the same batch."
            )
        reference = reference if self.both else reference.detach()
        if self.of == "values":
            gap = _along(self, outputs, self.axis) - _along(self, reference, self.axis)
            return gap.square().sum(-1).mean()
        log_p, log_r = (
            _log_probabilities(self, x, self.axis, self.binary, self.temperature) for x in (outputs, reference)
        )
        there = _divergence(log_r, log_p)
        return self.temperature**2 * (0.5 * (there + _divergence(log_p, log_r)) if self.both else there)


@checked
@dataclass(frozen=True)
class Jacobian(FunctionalPenalty):
    """``strength/2 * mean_i |d outputs_i / d inputs_i|_F^2``: outputs that change little with the inputs.

    Outputs are ``(batch, ...)`` and flattened to ``K`` an example. ``projections=0`` is exact and takes ``K`` backward
    passes. ``projections=n < K`` takes ``n``: for each example ``n`` orthonormal directions ``v`` of the outputs, uniform,
    and ``K/n * sum_v |v^T J|^2``, which has the right mean. They are drawn from the stream
    ``(context.seed, "jacobian", context.step)``, so that other steps have other directions; parts of one batch that is taken
    apart share theirs, and only the mean over draws is then that of the whole.

    The inputs' gradient is that of the batch's total: exact where an example's outputs depend on its own inputs only,
    which batch norm in training mode breaks. It is differentiated again in ``backward``: every operation of the model
    must have a second derivative.

    Args:
        strength: >= 0, per mean loss. 0 charges nothing and takes no pass.
        projections: >= 0, random directions for each example; 0, or as many as there are outputs, is exact.
    Source:
        Drucker & LeCun (1992), IEEE Transactions on Neural Networks 3(6); Hoffman, Roberts & Yaida (2019), arXiv:1908.02729.
    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.ones_(net.weight)
        >>> optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [wp.Jacobian(1.0).on()])
        >>> x = torch.ones(4, 2).requires_grad_()
        >>> float(optimizer.penalty(net(x), inputs=x).detach())
        1.0
    """

    strength: float
    projections: Annotated[int, Within(0)] = 0
    needs: ClassVar[tuple[str, ...]] = ("outputs", "inputs")
    traits: ClassVar[Traits] = OF_A_NETWORK

    def value(self, context: Context) -> Tensor:
        """The charge of this batch, 0-d; its gradient flows to the weights.

        Raises:
            InputError: a piece is missing, the inputs do not require gradients, or the outputs do not depend on them.
        """
        outputs, inputs = _given(self, context)
        if outputs.shape[0] != inputs.shape[0]:
            raise ShapeError(
                f"Jacobian needs outputs and inputs of the same examples; there are {outputs.shape[0]} and {inputs.shape[0]}."
            )
        if not self.strength:
            return _wide(outputs).new_zeros(())
        flat = outputs.reshape(outputs.shape[0], -1)
        squares = [_wide(_pulled(flat, v, inputs)).square().sum() for v in self._directions(flat, context)]
        scale = flat.shape[1] / (len(squares) * flat.shape[0])
        return 0.5 * self.strength * scale * torch.stack(squares).sum()

    def _directions(self, flat: Tensor, context: Context) -> Tensor:
        """``(directions, batch, K)``: orthonormal in the last axis for each example; all axes where it is exact."""
        batch, outputs = flat.shape
        if not 0 < self.projections < outputs:
            every = torch.eye(outputs, dtype=flat.dtype, device=flat.device)
            return every.unsqueeze(1).expand(outputs, batch, outputs)
        source = generator(context.seed, "jacobian", context.step)
        normal = torch.randn(batch, outputs, self.projections, generator=source, dtype=torch.float64)
        orthonormal: Tensor = torch.linalg.qr(normal).Q
        return orthonormal.movedim(-1, 0).to(flat)


def _pulled(flat: Tensor, direction: Tensor, inputs: Tensor) -> Tensor:
    """``v_i^T J_i`` for each example, itself differentiable."""
    pulled: Tensor | None = None
    if flat.requires_grad:
        pulled = torch.autograd.grad(flat, inputs, direction, create_graph=True, allow_unused=True)[0]
    if pulled is None:
        raise InputError(
            "Jacobian's outputs do not depend on the inputs that it was given; give optimizer.penalty(outputs, inputs=x) "
            "the x that went into the model, outside of torch.no_grad()."
        )
    return pulled
