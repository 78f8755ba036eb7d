"""`watch`: like-for-like curves in anybody's own training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from wellposed.core.batches import bytes_in, examples_in, examples_of
from wellposed.core.checks import Seed, Within, checked
from wellposed.core.errors import DataError, InputError, TargetError, guard_call
from wellposed.core.files import check_schema
from wellposed.core.random import generator, seeded
from wellposed.core.selectors import refuse_scripted, unwrap_parallel
from wellposed.data.arrays import Items, rows_of, source_of, split_batch, to_device
from wellposed.losses.metrics import default_metric
from wellposed.losses.metrics import metric as named_metric
from wellposed.losses.per_example import Loss
from wellposed.losses.recognition import recognized
from wellposed.losses.score import Score
from wellposed.losses.targets import joined_targets
from wellposed.noise.hooks import Hook
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import evaluation_weights, find_wrapper, needs_its_optimizer
from wellposed.training.calls import Calls, Target, find_calls, plain_call
from wellposed.training.evaluate import BATCH, Evaluation, Forward, evaluate, evaluating
from wellposed.training.history import History
from wellposed.training.inspection import Inspection, Unseen, inspect_network, rebatch
from wellposed.training.loop import gradient_norm
from wellposed.training.loop_activity import Notes, note_forwards
from wellposed.training.measures import ConstantPrediction, gain_over, like_for_like, term_facts, weight_facts

SHARE = 0.1
"""A forward pass costs about a third of a training step, and there are two sides: a probe of this share of the training
rows on each side costs about 7 % of an epoch."""
FEWEST, MOST = 128, 4096
"""Rows of a probe: below 128 a standard error says little; beyond 4096 it hardly falls."""
FEW_ROWS = 64
"""Rows of the pass at the first weights: a usual batch, so that it costs what one step of training does."""
FEWEST_KEPT = 32
"""Rows of a probe that was made smaller so as not to slow a loop: fewer show nothing."""
FREE = 2.0
"""Seconds that watching may take whatever its share is: loops that are over in seconds are looked at in every epoch."""
FEWEST_SHOWN = 8
"""Rows that show how the model is called: outputs of a language model are megabytes each."""
FEW_TO_SHUFFLE = 2**24
"""Of more rows a probe is drawn number by number: their permutation would take more than 128 MiB."""
KEPT_BYTES = 2**28
"""Probe rows are kept in memory up to 256 MiB; larger ones are fetched at each epoch."""

ANY_ORDER = (WeightedRandomSampler, DistributedSampler)
"""Samplers over all rows of a Dataset: how they draw does not matter to a probe."""


@checked
class Watch:
    """Watches a model in your own loop: call ``epoch()`` once an epoch.

    Train and validation losses come from the same weights, in evaluation mode, from equally many fixed rows, without
    penalty or label smoothing. A Dataset that augments should be given without augmentation here.

    Args:
        model: any ``nn.Module``; a compiled one too.
        loss: a name, a torch loss, or a callable ``loss(outputs, target)``: values for each example, ``(values, mask)``
            for tokens, or a mean.
        train, valid: DataLoaders, Datasets (a list of examples is one), ``(X, y)``, or lists of batches. Batches are
            tuples or mappings.
        optimizer: shows the learning rate and, from `regularize`, what each term charges.
        metric: a metric's name, with its number where it takes one (``"top_k_accuracy:5"``); by default accuracy for class
            labels and R2 for squared error.
        forward: ``forward(model, batch) -> outputs``, where the model is not called as ``model(inputs)``.
        target: ``target(batch)``, where the target is not the last of a tuple or ``labels``/``target``/``y``.
        rows: of each probe; by default 10 % of the training rows, at least 128 and at most 4096.
        seed: which rows are drawn.
        share: in (0, 1]: watching may take this share of the wall-clock, beyond its first two seconds. Where a call of `epoch`
            would take more, the probes are made smaller at the first call, and later calls are passed over; 1 looks at every
            call, whatever it takes.
    Attributes:
        history: a row for each call of `epoch`.
        first: what was seen in a pass at the first weights, for a diagnosis; None where ``unseen`` says why.
        notes: what the loop did: its forwards by mode, the gradients it left, which weights moved.
        close: call it to stop noting the model's forwards, for example before ``torch.jit.script(model)``; the history
            stays. It is called when the watch is gone.
    Raises:
        InputError, DataError: something given cannot be watched.
    Example:
        >>> import torch, wellposed as wp
        >>> net, x = torch.nn.Linear(3, 1), torch.randn(20, 3)
        >>> watch = wp.watch(net, "squared_error", train=(x, x[:, :1]), valid=(x, x[:, :1]))
        >>> sorted(watch.epoch())[:3]
        ['epoch', 'grad_norm', 'seconds']
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        train: Any,
        valid: Any,
        *,
        optimizer: Optimizer | None = None,
        metric: Any = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        target: Target | None = None,
        rows: Annotated[int, Within(2)] | None = None,
        seed: Seed = 0,
        share: Annotated[float, Within(0, 1, open="low")] = 0.05,
    ) -> None:
        refuse_scripted("watch", model)
        self.model, self.loss, self.optimizer = unwrap_parallel(model), Loss(loss), optimizer
        if optimizer is not None:
            needs_its_optimizer("watch", model, optimizer)
        self.given, self.seed, self.share = {"train": train, "valid": valid}, seed, share
        double = any(p.dtype == torch.float64 for p in model.parameters())
        self._sides = {name: side_of(side, double) for name, side in self.given.items()}
        sizes = self._sides["train"].size, self._sides["valid"].size
        self._probe(probe_rows(*sizes, rows))
        calls = self._calls(forward, target)
        self.forward: Forward = guard_call("The model" if forward is None else "forward=", calls.forward)
        self.target_of: Target = guard_call("target=", calls.target)
        self.plain = forward is None and target is None and not calls.says
        began = time.perf_counter()
        self.first, self.unseen = self._look()
        looked = time.perf_counter() - began
        plainly = target is None and not calls.says
        self._whole = [side.targets() if plainly else None for side in self._sides.values()]
        targets = [self._targets(side) for side in self.probes]
        self.loss = self._recognized([*targets, *self._whole])
        self.metric: Score | None = named_metric(metric, self.loss) if metric is not None else default_metric(self.loss)
        self._check(targets, self._whole)
        self.history = History(
            {
                "like_for_like": True,
                "metric": self.metric.name if self.metric else None,
                "higher_is_better": self.metric.higher_is_better if self.metric else False,
                "train_rows": sizes[0],
                "valid_rows": self.rows,
                "task": "classification" if self.loss.classifies else "regression",
                "regularized": regularizing(model, optimizer),
            }
        )
        self._learn_constant(targets)
        self.notes = Notes.of(model)
        self.close = note_forwards(model, self.notes, self)
        self._best_loss = math.inf
        self._best_rows: Tensor | None = None
        self._calls_seen, self._spent = 0, 0.0
        # A step of training costs about three forward passes, and a call evaluates the rows of both sides.
        self._next = looked / 3 * 2 * self.rows / min(FEW_ROWS, self.rows)
        self._made = self._began = time.perf_counter()

    def _probe(self, rows: int) -> None:
        """Draw the rows that are looked at."""
        self.rows = rows
        with seeded(self.seed, "watch"):
            self.probes = {name: _Probe(side, rows, name, self.seed) for name, side in self._sides.items()}

    def _learn_constant(self, targets: Sequence[Tensor | None]) -> None:
        """What the best constant prediction, learned from all targets at hand, costs each row of the probes."""
        known = [every if every is not None else some for every, some in zip(self._whole, targets, strict=True)]
        constant = ConstantPrediction.learned(self.loss, *known)
        self._constant = [
            None if constant is None or side is None else constant.evaluate(side, self.metric) for side in targets
        ]
        if (best := self._constant[-1]) is not None:
            self.history.facts |= {"constant_loss": best.loss.mean, "chance_metric": best.metric}

    def _shrink(self, to: float) -> None:
        """Look at this share of the rows from now on."""
        self._probe(max(min(FEWEST_KEPT, self.rows), int(to * self.rows)))
        self.history.facts["valid_rows"] = self.rows
        self._learn_constant([self._targets(side) for side in self.probes])

    def epoch(self) -> dict[str, float]:
        """Evaluate both sides now and add a row to the history; call it once an epoch. Returns the row.

        Model modes, gradients, random states and loaders are left as they were. A call that would take more than ``share``
        of the time is passed over and returns the row before it.
        """
        began = time.perf_counter()
        self._calls_seen += 1
        allowed = math.inf if self.share == 1 else FREE + self.share * (began - self._made) - self._spent
        if self._next > allowed:
            if len(self.history):
                return dict(self.history.rows[-1])
            self._shrink(max(0.0, allowed) / self._next)
        self.notes.end_epoch(self.model)
        with evaluation_weights(self.optimizer):
            train, valid = map(self._measure, self.probes)
            seen = {**like_for_like(train, valid, self._best_rows), **weight_facts(self.model)}
        row = {"epoch": self._calls_seen - 1, **seen, "grad_norm": self._grad_norm()}
        for side, now, constant in zip(("train", "valid"), (train, valid), self._constant, strict=True):
            row |= gain_over(constant, now, side)
        if valid.loss.mean < self._best_loss:
            self._best_loss, self._best_rows = valid.loss.mean, valid.loss.rows
        if self.optimizer is not None:
            row["lr"] = float(self.optimizer.param_groups[0]["lr"])
        regularized = find_wrapper(self.optimizer, Regularized)
        if regularized is not None:
            row |= term_facts(regularized.values())
        ended = time.perf_counter()
        row |= {"seconds": ended - self._began, "watch_seconds": ended - began}
        self._next = ended - began
        self._spent += self._next
        self._began = ended
        self.history.append(row)
        return row

    def state_dict(self) -> dict[str, Any]:
        """The history, and the rows of its best epoch, for a checkpoint."""
        return {"schema": 1, "history": self.history.to_dict(), "calls": self._calls_seen, "best_rows": self._best_rows}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on after the rows that `state_dict` gave; what was given to this watch stays.

        Raises:
            FormatError: the state was saved in another schema.
        """
        check_schema(state_dict.get("schema"), 1, "state_dict", "watch")
        self.history.rows = History.from_dict(state_dict["history"]).rows
        self._calls_seen = int(state_dict["calls"])
        self._best_rows = state_dict["best_rows"]
        self._best_loss = min((row["valid_loss"] for row in self.history), default=math.inf)
        self.first, self.unseen = None, "The first weights could not be looked at: the run was resumed."

    @property
    def cost(self) -> float:
        """Share of the epochs' wall-clock that watching took, in [0, 1]; NaN before the first epoch."""
        total = math.fsum(self.history["seconds"])
        return math.fsum(self.history["watch_seconds"]) / total if total else math.nan

    def _calls(self, forward: Forward | None, target: Target | None) -> Calls:
        """How the model is called, found out on a few rows where nothing was said of it."""
        if forward is not None or target is not None or any(is_lazy(p) for p in self.model.parameters()):
            return Calls(forward or plain_call, target or (lambda batch: split_batch(batch)[1]))
        with seeded(0, "watch"):
            batch = next(iter(self.probes["train"].batches()))
        few = examples_of(batch, slice(0, FEWEST_SHOWN), examples_in(batch))
        return find_calls(self.model, self.loss, to_device(few, self.device))

    def _recognized(self, targets: Sequence[Tensor | None]) -> Loss:
        """The known loss that a callable is; itself where it takes targets that the known one does not."""
        outputs, target = self._shown()
        found = recognized(self.loss, outputs, target)
        with suppress(TargetError):
            for known in targets if found is not self.loss else ():
                found.check(outputs, target, known)
            return found
        return self.loss

    def _look(self) -> tuple[Inspection | None, str]:
        """A pass at the first weights, which are gone when a diagnosis is asked for; or why there is none."""
        if any(is_lazy(p) for p in self.model.parameters()):
            return None, "The first weights could not be looked at: the network makes them at its first batch."
        try:
            return inspect_network(
                self.model, self.forward, self.loss, rebatch(self.batches("train"), FEW_ROWS, FEW_ROWS)
            ), ""
        except Unseen as unseen:
            return None, str(unseen)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def batches(self, side: str) -> Iterator[tuple[Any, Any]]:
        """``(batch, target)`` of the fixed rows of ``train`` or ``valid``; the batch goes to `forward` whole."""
        for batch in self.probes[side].batches():
            yield to_device(batch, self.device), self.target_of(batch)

    def _measure(self, side: str) -> Evaluation:
        with seeded(0, "watch"), self.notes.blind():
            batches = self.batches(side)
            return evaluate(self.model, batches, self.loss, self.metric, device=self.device, forward=self.forward)

    def _check(self, targets: Sequence[Tensor | None], whole: Sequence[Tensor | None]) -> None:
        """Targets of both sides against loss, outputs and metric, before anything is counted of them.

        Args:
            targets: of the probes.
            whole: of all rows, where they lie in memory; of others the loop's own loss sees what no probe has.

        Raises:
            TargetError: a target that the loss does not take, or a label without an output.
            InputError: the metric is not defined on the validation rows.
        """
        outputs, target = self._shown()
        for known in (*targets, *whole):
            self.loss.check(outputs, target, known)
        if self.metric is not None and targets[-1] is not None:
            self.metric.require(targets[-1])

    def _shown(self) -> tuple[Any, Any]:
        """Outputs and target of a few rows: of the pass at the first weights, or where that failed in evaluation mode, since
        batch norm refuses a single row in training mode."""
        if self.first is not None:
            return self.first.outputs, self.first.target
        if any(is_lazy(p) for p in self.model.parameters()):
            return None, None
        with suppress(InputError), seeded(0, "watch"), evaluating(self.model):
            for batch, target in self.batches("train"):
                return self.forward(self.model, batch), target
        return None, None

    def _targets(self, side: str) -> Tensor | None:
        """The targets of a probe, where they are one tensor a batch."""
        with seeded(self.seed, "watch"):
            found = [self.target_of(batch) for batch in self.probes[side].batches()]
        known = bool(found) and all(isinstance(t, Tensor) and t.ndim for t in found)
        return joined_targets([t.cpu() for t in found], self.loss.ignored_index) if known else None

    def _grad_norm(self) -> float:
        """Norm of the gradients as the loop left them; NaN where it left none."""
        left = any(p.grad is not None for p in self.model.parameters())
        return gradient_norm(self.model) if left else math.nan

    def __str__(self) -> str:
        if not len(self.history):
            return "Watch: no epoch yet; call watch.epoch() at the end of each."
        took = math.fsum(self.history["watch_seconds"]) / len(self.history)
        passed = self._calls_seen - len(self.history)
        return (
            f"{self.history}\nwatching {self.rows} train and {self.rows} validation rows took {took:.3g} s an epoch, "
            f"{100 * self.cost:.1f} % of the time"
            + (
                f"; {passed} calls were passed over, which would have made it more than {self.share:.0%}"
                if passed
                else ""
            )
        )


watch = Watch


def regularizing(model: nn.Module, optimizer: Optimizer | None) -> dict[str, float]:
    """What regularizes, as far as a model and its optimizer show: terms, weight decay, dropout, noise of `perturb`.

    Of several dropout rates or decays the largest is said.
    """
    terms = find_wrapper(optimizer, Regularized)
    found = {str(term): 1.0 for term in terms.terms} if terms else {}
    decays = [float(group.get("weight_decay") or 0.0) for group in (optimizer.param_groups if optimizer else ())]
    rates = [float(rate) for m in model.modules() if isinstance(rate := _dropout_of(m), (int, float))]
    hooks = [h for m in model.modules() for h in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
    found |= {"weight_decay": max(decays, default=0.0), "dropout": max(rates, default=0.0)}
    found["noise"] = float(any(isinstance(hook, Hook) for hook in hooks))
    return {name: strength for name, strength in found.items() if strength > 0}


def _dropout_of(module: nn.Module) -> object:
    """The rate of a dropout layer, or of the dropout inside an attention or a recurrent layer."""
    if isinstance(module, (nn.modules.dropout._DropoutNd, nn.AlphaDropout)):
        return module.p
    return module.dropout if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) else None


def probe_rows(train: int, valid: int, wanted: int | None) -> int:
    """Rows of each probe: the same on both sides."""
    size = wanted if wanted is not None else min(max(round(SHARE * train), FEWEST), MOST)
    return max(1, min(size, train, valid))


@dataclass(frozen=True)
class Side:
    """How many examples there are, and batches of some of them by number, so that a loader itself is never touched.

    Batches are as large as the loader's, since a larger one may not fit into memory.
    """

    size: int
    batches: Callable[[Tensor], Iterator[Any]]
    targets: Callable[[], Tensor | None]
    """All of them where they lie in memory: they are looked at without a pass over the rows."""


def side_of(given: Any, double: bool = False) -> Side:
    """A side from what a person gave.

    Args:
        double: whether the network reckons in doubles, so that arrays of them stay what they are.
    Raises:
        DataError: it cannot be read again and again, or its rows cannot be told.
    """
    inner = getattr(given, "_dataloader", None)  # of Fabric, which moves batches to a device
    given = inner if isinstance(inner, DataLoader) else given
    if isinstance(given, DataLoader):
        kept, items = rows_of(given, ANY_ORDER), Items(given.dataset, given.collate_fn)
        fetch = guard_call("The Dataset", items.raw)
        at_once = min(BATCH, getattr(given.batch_sampler, "batch_size", None) or BATCH)
        if kept is None:
            return Side(len(items), lambda index: map(fetch, torch.split(index, at_once)), lambda: _targets_in(given))
        return Side(
            len(kept), lambda index: map(fetch, torch.split(kept[index], at_once)), lambda: _targets_in(given, kept)
        )
    if _is_batches(given):
        size = sum(examples_in(batch) for batch in given)
        return Side(size, lambda index: _picked(given, index), lambda: _targets_among(given))
    if hasattr(given, "__next__"):
        raise DataError("An iterator would be used up by watching; give a DataLoader, a Dataset or a list of batches.")
    source = source_of(given, double=double)
    fetch = guard_call("The Dataset", source.raw) if isinstance(source, Items) else source.batch
    return Side(len(source), lambda index: map(fetch, torch.split(index, BATCH)), source.targets)


def _targets_in(loader: DataLoader[Any], rows: Tensor | None = None) -> Tensor | None:
    """The targets of a loader over these rows of a TensorDataset, or of a part of one."""
    data: Any = loader.dataset
    if type(data) is Subset:
        part = torch.as_tensor(data.indices, dtype=torch.long)
        data, rows = data.dataset, part if rows is None else part[rows]
    if type(data) is not TensorDataset or len(data.tensors) < 2 or loader.collate_fn is not default_collate:
        return None
    found: Tensor = data.tensors[-1]
    return found if rows is None else found[rows.to(found.device)]


def _targets_among(batches: list[Any]) -> Tensor | None:
    """The targets of a list of batches."""
    found = [split_batch(batch)[1] for batch in batches]
    return joined_targets([t.cpu() for t in found]) if all(isinstance(t, Tensor) and t.ndim for t in found) else None


def _is_batches(side: Any) -> bool:
    """A list of batches, not of examples: all tensors have the same first axis, and one has another axis beside it."""
    if not (isinstance(side, list) and side and isinstance(side[0], (tuple, list, Mapping))):
        return False
    parts = list(side[0].values()) if isinstance(side[0], Mapping) else list(side[0])
    if not all(isinstance(part, Tensor) and part.ndim for part in parts):
        return False
    return len({len(part) for part in parts}) == 1 and any(part.ndim > 1 for part in parts)


def _picked(batches: list[Any], index: Tensor) -> Iterator[Any]:
    """The examples of these numbers, those of a batch together."""
    start = 0
    for batch in batches:
        size = examples_in(batch)
        local = index[(index >= start) & (index < start + size)] - start
        if len(local):
            yield examples_of(batch, local, size)
        start += size


class _Probe:
    """Fixed rows of one side, kept where they are small, else fetched at each epoch."""

    def __init__(self, side: Side, rows: int, name: str, seed: int) -> None:
        index = some_rows(side.size, rows, generator(seed, "probe", name))
        self.batches = cache_batches(lambda: side.batches(index))


def some_rows(size: int, rows: int, source: torch.Generator) -> Tensor:
    """``rows`` different numbers below ``size``, sorted, in memory that many millions of rows do not swell.

    A Dataset of windows over a text has as many rows as the text has words.
    """
    if size <= FEW_TO_SHUFFLE:
        return torch.randperm(size, generator=source)[:rows].sort().values
    found = torch.empty(0, dtype=torch.long)
    while len(found) < rows:
        found = torch.unique(torch.cat([found, torch.randint(size, (rows,), generator=source)]))
    return found[torch.randperm(len(found), generator=source)[:rows]].sort().values


Batches = Callable[[], Iterable[Any]]


def cache_batches(batches: Batches) -> Batches:
    """A way to go through batches again and again: held in memory up to `KEPT_BYTES`, fetched each time beyond."""
    held, size = [], 0
    for batch in batches():
        held.append(batch)
        size += bytes_in(batch)
        if size > KEPT_BYTES:
            return batches
    return lambda: held
