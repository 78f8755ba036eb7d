"""`TransformersWatch`: terms, watch, diagnosis and stopping rule in a transformers ``Trainer``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader

from wellposed.core.checks import checked
from wellposed.core.errors import InputError, require
from wellposed.integrations.trainer_watch import PREFIX, TrainerWatch, loss_in


@checked
class TransformersWatch(TrainerWatch):
    """A callback: ``Trainer(..., callbacks=[wp.TransformersWatch(terms=[...])])``.

    It puts the terms into the optimizer that the Trainer is given or creates, takes datasets, collator and loss from the
    Trainer (labels of causal language models are shifted, as the model's own loss has them), and looks at the end of each
    evaluation, or of each epoch where there is none. Its numbers go to the Trainer's log, under ``wp/``; there they are kept in
    checkpoints, from which the history goes on. The optimizer's file keeps the terms.

    Arguments, attributes and errors: see `TrainerWatch`.

    Raises:
        MissingExtra: by the call, where transformers is not installed.
    """

    library = "transformers"
    where = "compute_loss of your Trainer"
    _training = False
    _looked = -1

    @classmethod
    def base(cls) -> type:
        """The class that transformers wants callbacks to have: its own ``TrainerCallback``."""
        found: type = require("transformers", "transformers").TrainerCallback
        return found

    def on_init_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Have the Trainer regularize its optimizer where it makes it: before it is prepared, and before its state is loaded."""
        trainer = _caller()
        made = trainer.create_optimizer

        def create_optimizer(*given: Any, **named: Any) -> Any:
            made(*given, **named)
            trainer.optimizer = self.charge(trainer.optimizer, trainer.model)
            return trainer.optimizer

        trainer.create_optimizer = create_optimizer

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Make the watch, in the first process."""
        trainer, self._training = _caller(), True
        if state.global_step and self.terms and self.optimizer is None:
            raise InputError(
                "A run that is resumed needs its terms before its optimizer's state is loaded: give the callback in "
                "Trainer(callbacks=[...]), not by add_callback."
            )
        trainer.optimizer = self.charge(trainer.optimizer, trainer.model)
        if not state.is_world_process_zero or (self.watch is not None and self.watch.model is trainer.model):
            return
        valid = trainer.eval_dataset
        if isinstance(valid, Mapping) and not isinstance(valid, type(trainer.train_dataset)):
            valid = next(iter(valid.values()))
        valid = None if valid is None else _plain(trainer.get_eval_dataloader(valid), args.eval_batch_size)
        own = _own_loss(trainer)
        self.begin(
            trainer.model,
            _plain(trainer.get_train_dataloader(), args.train_batch_size),
            valid,
            trainer.optimizer,
            own=own,
        )
        rows = [_ours(entry) for entry in state.log_history]
        if self.watch is not None and (rows := [row for row in rows if row]):
            history = {**self.watch.history.to_dict(), "rows": rows}
            self.watch.load_state_dict({**self.watch.state_dict(), "history": history, "calls": rows[-1]["epoch"] + 1})

    def on_evaluate(self, args: Any, state: Any, control: Any, **keywords: Any) -> Any:
        """Look at both sides after each evaluation that happens during training."""
        return self._report(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> Any:
        """Look at both sides here where the Trainer does not evaluate."""
        return self._report(state, control) if args.eval_strategy == "no" else control

    def on_train_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Stop counting: evaluations after training are no epochs."""
        self._training = False

    def _report(self, state: Any, control: Any) -> Any:
        fresh = self._training and state.global_step != self._looked  # several evaluation sets are one evaluation
        self._looked = state.global_step
        if fresh and (numbers := self.look()):
            _caller().log(numbers)
        control.should_training_stop = control.should_training_stop or self.stopped is not None
        return control


def _ours(entry: Mapping[str, Any]) -> dict[str, float]:
    """A row of the history from an entry of the Trainer's log; empty for entries of others."""
    ours = {key.removeprefix(PREFIX): value for key, value in entry.items() if key.startswith(PREFIX)}
    return {key: value for key, value in ours.items() if not key.startswith("finding/")}


def _caller() -> Any:
    """The Trainer: events do not bring it, but it is what called."""
    trainer, frame = require("transformers", "transformers").Trainer, inspect.currentframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), trainer):
        frame = frame.f_back
    if frame is None:
        raise InputError("TransformersWatch is called by a transformers Trainer: give it in Trainer(callbacks=[...]).")
    return frame.f_locals["self"]


def _plain(loader: Any, size: int) -> DataLoader[Any]:
    """A loader over the same dataset, whose rows can be asked for by number."""
    return DataLoader(loader.dataset, batch_size=size, collate_fn=loader.collate_fn)


def _own_loss(trainer: Any) -> Any:
    """The loss of the Trainer's step, without label smoothing where that is the model's own."""
    plain = type(trainer).compute_loss is require("transformers", "transformers").Trainer.compute_loss
    if plain and trainer.compute_loss_func is None:
        return lambda model, batch: loss_in(model(**batch))
    return lambda model, batch: loss_in(trainer.compute_loss(model, dict(batch)))
