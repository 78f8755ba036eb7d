"""`KerasWatch`: watch, diagnosis, stopping rule, penalties and constraints in Keras 3 on torch.

Keras' optimizers are no torch optimizers: they take the step, and nothing can be joined to it. So penalties go into the loss and
constraints after each step; proximal steps and decay, which are parts of a step, are refused.

Terms see the network as torch would have it (`Mirror`): layers by name, kernels with outputs first, in the same memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.checks import checked
from wellposed.core.errors import CompositionError, InputError, require
from wellposed.data.arrays import split_batch
from wellposed.integrations.trainer_watch import TrainerWatch
from wellposed.optim.regularize import checked_terms
from wellposed.penalties.base import Term
from wellposed.training.evaluate import Forward
from wellposed.training.measures import term_facts
from wellposed.training.watch import regularizing


class Mirror(nn.Module):
    """A Keras network's trained weights with torch's shapes: ``dense.kernel`` is ``(units, inputs)``. They share memory."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.pairs = []
        for layer in model._flatten_layers(include_self=False, recursive=True):
            part = _Table() if type(layer).__name__ == "Embedding" else nn.Module()
            for variable in layer._trainable_variables:
                weight = nn.Parameter(_as_torch(variable).detach())
                part.register_parameter(variable.name, weight)
                self.pairs.append((variable, weight))
            if len(list(part.parameters())):
                self.add_module(layer.path.removeprefix(f"{model.name}/").replace("/", "_").replace(".", "_"), part)


class _Table(nn.Embedding):
    """An embedding's place, by which its table is known for one."""

    def __init__(self) -> None:
        nn.Module.__init__(self)


def _as_torch(variable: Any) -> Tensor:
    """A kernel with outputs first, then inputs; other variables as they are."""
    value: Tensor = variable.value
    return value.permute(-1, -2, *range(value.ndim - 2)) if value.ndim > 1 and variable.name == "kernel" else value


@checked
class KerasWatch(TrainerWatch):
    """A callback: ``model.fit(x, y, callbacks=[wp.KerasWatch(terms=[...], train=(x, y), valid=(xv, yv))])``.

    Keras hands its data to no callback, so they are given here: ``(x, y)``, Datasets or DataLoaders. Penalties are added to the
    loss (``how="loss"``), constraints are projected on after each step, and the watch looks at the end of each epoch. Terms
    select by the names of layers. Its numbers are in Keras' ``logs``.

    Arguments and attributes: see `TrainerWatch`.

    Raises:
        CompositionError: a term is enforced by a proximal step or by decay.
        InputError: Keras does not run on torch.
        MissingExtra: by the call, where Keras is not installed.
    """

    library = "Keras"
    where = "compute_loss of your model"

    @classmethod
    def base(cls) -> type:
        """The class that Keras wants callbacks to have: its own ``Callback``; Keras must run on torch.

        Raises:
            InputError: Keras does not run on torch.
        """
        keras = require("keras", "keras")
        if (backend := keras.backend.backend()) != "torch":
            raise InputError(f"Keras runs on {backend} here. Set KERAS_BACKEND=torch before keras is imported.")
        found: type = keras.callbacks.Callback
        return found

    def check_term(self, term: Term) -> None:
        """Refuse a term that is a part of the optimizer's step, which Keras' optimizers take alone."""
        super().check_term(term)
        if term.how in ("prox", "decay"):
            raise CompositionError(
                f"{term} is a part of the optimizer's step, which Keras does not let others change. Give how='loss' to .on(...), "
                "which makes weights small, but none exactly zero; or train the network with torch's optimizers."
            )

    def on_train_begin(self, logs: Any = None) -> None:
        """Put the terms into the loss, and make the watch."""
        model: Any = self.model  # type: ignore[attr-defined]
        if checked_terms(self.terms):
            mirror = Mirror(model)
            # It takes no step, but holds the weights that are charged.
            held = torch.optim.SGD(mirror.parameters(), lr=1.0)
            self.optimizer = None
            self.charge(held, mirror)
            first = mirror.pairs[0][0]
            self._charged = first, first.regularizer
            first.regularizer = self._cost(mirror, first.regularizer)
        if self.watch is None or self.watch.model is not model:
            loss, forward = _compiled(model)
            self.begin(model, self.train, self.valid, None, loss=loss, forward=forward)
            self.history.facts["regularized"] = regularizing(model, self.optimizer)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Project the weights on their constraints, and move the schedules of terms on by a step."""
        if self.optimizer is not None:
            self.optimizer.project()
            self.optimizer.steps += 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at both sides, and hand the numbers to the callbacks that come later."""
        numbers = self.look(term_facts(self.optimizer.values()) if self.optimizer is not None else None)
        if logs is not None:
            logs.update(numbers)
        if self.stopped is not None:
            self.model.stop_training = True  # type: ignore[attr-defined]

    def on_train_end(self, logs: Any = None) -> None:
        """Give the loss back as it was."""
        if self.optimizer is not None:
            variable, before = self._charged
            variable.regularizer = before

    def _cost(self, mirror: Mirror, before: Any) -> Any:
        """What Keras adds to the loss: the value of all penalties, with their gradients for Keras' own variables."""

        def cost(variable: Any) -> Tensor:
            assert self.optimizer is not None
            total: Tensor = self.optimizer.weights_penalty()
            weights = [weight for _, weight in mirror.pairs]
            gradients = torch.autograd.grad(total, weights, allow_unused=True) if total.requires_grad else ()
            total = total.detach()
            for (ours, _), gradient in zip(mirror.pairs, gradients, strict=False):
                if gradient is not None:
                    seen = _as_torch(ours)
                    total = total + (gradient * (seen - seen.detach())).sum()
            return total if before is None else total + before(variable)

        return cost


KNOWN: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "sparsecategoricalcrossentropy": ("cross_entropy", torch.log),
    "categoricalcrossentropy": ("cross_entropy", torch.log),
    "binarycrossentropy": (nn.BCEWithLogitsLoss(), torch.logit),
    "meansquarederror": ("mse", lambda outputs: outputs),
    "meanabsoluteerror": ("mae", lambda outputs: outputs),
}
"""Keras' losses: ours, and what makes scores of outputs that are shares."""


def _compiled(model: Any) -> tuple[Any, Forward]:
    """The compiled loss, and the outputs that it takes: scores where Keras' has probabilities of classes."""
    keras = require("keras", "keras")
    loss = keras.losses.get(model.loss) if isinstance(model.loss, str) else model.loss
    name = str(getattr(loss, "name", None) or getattr(loss, "__name__", "")).replace("_", "").lower()
    if name in KNOWN and type(loss).__module__.startswith(("keras.", "builtins")):
        ours, link = KNOWN[name]
        scores = getattr(loss, "_fn_kwargs", {}).get("from_logits", False)
        return (
            ours,
            lambda model, batch: _outputs(model, batch) if scores else link(_shares(_outputs(model, batch), link)),
        )
    values = loss.call if isinstance(loss, keras.losses.Loss) else loss
    return (lambda outputs, target: values(target, outputs)) if callable(values) else None, _outputs


def _shares(outputs: Tensor, link: Any) -> Tensor:
    """Shares of classes away from 0 and 1, as Keras has them in its own losses."""
    return outputs if link not in (torch.log, torch.logit) else outputs.clamp(1e-7, 1 - 1e-7)


def _outputs(model: Any, batch: Any) -> Any:
    """In evaluation mode, which Keras is told by an argument."""
    return model(split_batch(batch)[0], training=False)
