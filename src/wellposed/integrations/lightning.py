"""`LightningWatch`: terms, watch, diagnosis and stopping rule in a Lightning ``Trainer``."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from wellposed.core.checks import checked
from wellposed.core.errors import require
from wellposed.integrations.trainer_watch import TrainerWatch, loss_in
from wellposed.optim.regularize import Regularized
from wellposed.optim.zeros import copy_zeros


@checked
class LightningWatch(TrainerWatch):
    """A callback: ``L.Trainer(callbacks=[wp.LightningWatch(terms=[...])])``.

    It puts the terms into the module's optimizers, takes the data from the trainer, and finds out which loss ``training_step``
    computes. It looks at the end of each validation, at the weights that are validated (averaged ones, where a callback
    averages), else at the end of each epoch. Its numbers go to the logger and can be monitored, as ``wp/valid_loss``. History and
    terms are kept in checkpoints. Averages of Lightning's own callbacks keep exact zeros.

    Arguments, attributes and errors: see `TrainerWatch`.

    Raises:
        MissingExtra: by the call, where Lightning is not installed.
    """

    library = "Lightning"
    where = "training_step"

    @classmethod
    def _module(cls) -> str:
        """The package by the name under which it is used: two of the same kind may be installed."""
        return (
            "pytorch_lightning"
            if "lightning" not in sys.modules and "pytorch_lightning" in sys.modules
            else "lightning.pytorch"
        )

    @classmethod
    def base(cls) -> type:
        """The class that Lightning wants callbacks to have: its own ``Callback``."""
        found: type = require(f"{cls._module()}.callbacks", "lightning").Callback
        return found

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the terms into the optimizers before their states are restored, and move behind callbacks that average."""
        self.optimizer = None
        trainer.strategy.optimizers = [self.charge(optimizer, pl_module) for optimizer in trainer.strategy.optimizers]
        for optimizer in trainer.strategy.optimizers:
            if isinstance(optimizer, Regularized):
                optimizer.note_zeros()
        saving = require(f"{self._module()}.callbacks", "lightning").Checkpoint
        others = [one for one in trainer.callbacks if one is not self]
        last = [one for one in others if isinstance(one, saving)]
        trainer.callbacks = [*(one for one in others if one not in last), self, *last]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the watch: in the first process, or in all of them where each holds a part of the weights."""
        alone = not any(isinstance(p, DTensor) for p in pl_module.parameters())
        if (alone and not trainer.is_global_zero) or (self.watch is not None and self.watch.model is pl_module):
            return
        optimizer = next(iter(trainer.strategy.optimizers), None)
        own = _own_step if pl_module.automatic_optimization else None
        self.begin(pl_module, _first(trainer.train_dataloader), _first(trainer.val_dataloaders), optimizer, own=own)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Look at both sides after the last validation batch, while the weights that are validated are in place."""
        if not trainer.sanity_checking and trainer.fit_loop.epoch_loop.val_loop.batch_progress.is_last_batch:
            self._report(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Do as after a batch: this is where Lightning updates equal averages, which must keep zeros."""
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Set Lightning's averages to zero where a term made the weights zero."""
        for one in trainer.callbacks if self.optimizer is not None else ():
            if (average := getattr(one, "_average_model", None)) is not None:
                copy_zeros(average, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at both sides here where the trainer does not validate."""
        self.on_train_batch_end(trainer, pl_module)
        if not sum(trainer.num_val_batches):
            self._report(trainer, pl_module)

    def _report(self, trainer: Any, pl_module: Any) -> None:
        numbers = self.look()
        if trainer.world_size > 1:
            numbers, self.stopped = trainer.strategy.broadcast((numbers, self.stopped))
        pl_module.log_dict(numbers, on_step=False, on_epoch=True, batch_size=1, add_dataloader_idx=False)
        trainer.should_stop = trainer.should_stop or self.stopped is not None


def _first(loaders: Any) -> Any:
    several = loaders.values() if isinstance(loaders, Mapping) else loaders if isinstance(loaders, list) else [loaders]
    return next(iter(several), None)


def _own_step(module: Any, batch: Any) -> Tensor:
    """The loss of ``training_step``, which logs nothing and leaves nothing behind in the module."""
    shadow = object.__new__(type(module))
    held = {key: copy.copy(value) if type(value) in (list, dict, set) else value for key, value in vars(module).items()}
    parts = module._modules.items()
    # Metrics gather what they are given; they have no parameters, and neither has a loss.
    held["_modules"] = {
        name: part if part is None or next(part.parameters(), None) is not None else copy.deepcopy(part)
        for name, part in parts
    }
    shadow.__dict__ = held | dict.fromkeys(("log", "log_dict"), lambda *args, **keywords: None)
    return loss_in(shadow.training_step(batch, 0))
