"""`SkorchWatch`: terms, watch, diagnosis and stopping rule in a skorch net."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.checks import checked
from wellposed.core.errors import require
from wellposed.integrations.trainer_watch import PREFIX, TrainerWatch
from wellposed.optim.regularize import Regularized


@checked
class SkorchWatch(TrainerWatch):
    """A callback: ``NeuralNetClassifier(..., callbacks=[wp.SkorchWatch(terms=[...])])``.

    It puts the terms into the net's optimizers before the first step, takes loss and rows (those of ``train_split``) from the net,
    and looks at the end of each epoch. The two losses and the first finding are columns of ``net.history``.

    skorch makes a copy of a callback where it copies its net, as a grid search does: ``net.callbacks_`` holds the one that is used.
    ``net.save_params(f_optimizer=...)`` keeps the terms' state, which ``load_params`` brings back also before they are in place.

    Arguments, attributes and errors: see `TrainerWatch`.

    Raises:
        MissingExtra: by the call, where skorch is not installed.
    """

    library = "skorch"
    where = "get_loss of your net"

    @classmethod
    def base(cls) -> type:
        """The class that skorch wants callbacks to have: its own ``Callback``."""
        found: type = require("skorch.callbacks", "skorch").Callback
        return found

    def _get_param_names(self) -> list[str]:
        """What copies are made from: the settings."""
        return list(inspect.signature(TrainerWatch.__init__).parameters)[1:]

    def on_train_begin(self, net: Any, *args: Any, **keywords: Any) -> None:
        """Put the terms into the optimizers, which go on where they were."""
        self.optimizer = None
        for name in net._optimizers:
            setattr(net, f"{name}_", self.charge(getattr(net, f"{name}_"), net.module_))

    def on_train_end(self, net: Any, *args: Any, **keywords: Any) -> None:
        """Leave bare optimizers, which carry the terms' state, so that nets are saved and copied as usual."""
        for name in net._optimizers:
            if isinstance(optimizer := getattr(net, f"{name}_"), Regularized):
                setattr(net, f"{name}_", optimizer.bare())

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **keywords: Any) -> None:
        """Make the watch, once the net has split its rows."""
        if self.watch is None or self.watch.model is not net.module_:
            loss, optimizer = net.criterion_, getattr(net, "optimizer_", None)
            self.begin(
                net.module_,
                dataset_train,
                dataset_valid,
                optimizer,
                loss=loss,
                forward=_outputs(net),
                target=_target(net),
            )

    def on_epoch_end(self, net: Any, *args: Any, **keywords: Any) -> None:
        """Look at both sides, and stop the training where ``stop`` says so."""
        numbers = self.look()
        for side in ("train_loss", "valid_loss"):
            net.history.record(f"wp_{side}", numbers.get(PREFIX + side))
        net.history.record("wp_finding", self.diagnosis[0].name if self.diagnosis else "")
        if self.stopped is not None:
            raise KeyboardInterrupt


def _outputs(net: Any) -> Any:
    """The outputs that the criterion is given: of a classifier with ``NLLLoss`` skorch takes the logarithm."""
    logs = isinstance(net.criterion_, nn.NLLLoss) and hasattr(net, "predict_proba")

    def forward(model: nn.Module, batch: Any) -> Tensor:
        found = net.infer(batch[0])
        outputs: Tensor = found[0] if isinstance(found, tuple) else found
        return torch.log(outputs + torch.finfo(outputs.dtype).eps) if logs else outputs

    return forward


def _target(net: Any) -> Any:
    """The target that the criterion is given: shares of a class are no whole numbers."""
    shares = isinstance(net.criterion_, (nn.BCELoss, nn.BCEWithLogitsLoss))
    return lambda batch: batch[1].float() if shares else batch[1]
