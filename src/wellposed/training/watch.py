"""`watch`: like-for-like curves in anybody's own training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from typing_extensions import TypedDict

from wellposed.core.batches import bytes_in, examples_in, stored_numbers, tensors_in
from wellposed.core.checks import Seed, Within, checked
from wellposed.core.errors import DataError, InputError, TargetError, WellposedError, guard_call
from wellposed.core.files import check_schema
from wellposed.core.preserve import keeping_reach
from wellposed.core.random import generator, seeded
from wellposed.core.schemas import Finite, Whole, validate_state
from wellposed.core.selectors import refuse_scripted, unwrap_model
from wellposed.data.arrays import to_device
from wellposed.losses.metrics import default_metric
from wellposed.losses.metrics import metric as named_metric
from wellposed.losses.per_example import Loss, PerExample
from wellposed.losses.recognition import recognized
from wellposed.losses.score import Score
from wellposed.losses.targets import joined_targets
from wellposed.noise.hooks import Hook
from wellposed.ops.shards import least_of_all
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import evaluation_weights, find_wrapper, needs_its_optimizer
from wellposed.training.calls import Calls, Target, checked_calls, find_calls, plain_call, target_shown
from wellposed.training.evaluate import Evaluation, Forward, evaluate, evaluating
from wellposed.training.history import History
from wellposed.training.inspection import Inspection, Unseen, inspect_network
from wellposed.training.loop import gradient_norm
from wellposed.training.loop_activity import Notes, NotesState, note_forwards
from wellposed.training.measures import ConstantPrediction, gain_over, like_for_like, term_facts, weight_facts
from wellposed.training.sides import Side, in_batches, rows_stand_alone, sides_of, sliced

SHARE = 0.1
"""A forward pass costs about a third of a training step, and there are two sides: a probe of this share of the training
rows on each side costs about 7 % of an epoch."""
FEWEST, MOST = 128, 4096
"""Rows of a probe: below 128 a standard error says little; beyond 4096 it hardly falls."""
FEW_ROWS = 64
"""Rows of the pass at the first weights: a usual batch, so that it costs what one step of training does."""
FEWEST_KEPT = 32
"""Rows of a probe that was made smaller so as not to slow a loop: fewer show nothing."""
FEWEST_BATCHES = 4
"""Batches of a probe where each is one whole: from fewer no standard error can be told."""
FREE = 2.0
"""Seconds that watching may take whatever its share is: loops that are over in seconds are looked at in every epoch."""
MOVED, SKETCHED = 1e-3, 2**20
"""Difference of the same rows' targets, as a share of their length, after which they are no data: a network that learns gave
them; and how many numbers of a batch's targets are looked at."""
FEWEST_SHOWN = 8
"""Rows that show how the model is called: outputs of a language model are megabytes each."""
SCHEMA = 2
KEPT_BYTES = 2**28
"""Probe rows are kept in memory up to 256 MiB; larger ones are fetched at each epoch."""


class _State(TypedDict):
    """What `Watch.state_dict` gives."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # type: ignore[misc]
    history: dict[str, Any]
    calls: Whole
    spent: Finite
    made: Finite
    best: tuple[float, Tensor | None]
    rows: Annotated[Whole, Field(ge=1)]
    notes: NotesState


@checked
class Watch:
    """Watches a model in your own loop: call ``epoch()`` once an epoch.

    Train and validation losses come from the same weights, in evaluation mode, from equally many fixed rows, without
    penalty or label smoothing. A Dataset that augments should be given without augmentation here.

    Args:
        model: any ``nn.Module``; a compiled one too.
        loss: a name, a torch loss, or a callable ``loss(outputs, target)``: values for each example, ``(values, mask)``
            for tokens, or a mean.
        train, valid: DataLoaders, Datasets (a list of examples is one), ``(X, y)``, or lists of batches: tuples, mappings, or
            whatever ``forward`` takes. Of a stream that begins anew each time the first rows are kept.
        optimizer: shows the learning rate and, from `regularize`, what each term charges.
        metric: a metric's name, with its number where it takes one (``"top_k_accuracy:5"``); by default accuracy for class
            labels and R2 for squared error.
        forward: ``forward(model, batch) -> outputs``, where the model is not called as ``model(inputs)``.
        target: ``target(batch)``, where the target is not the last of a tuple or ``labels``/``target``/``y``. With ``forward``,
            a batch without any is its own target.
        rows: of each probe; by default 10 % of the training rows, at least 128 and at most 4096.
        seed: which rows are drawn.
        share: in (0, 1]: watching, all of it, may take this share of the wall-clock beyond its first two seconds. Where a call
            of `epoch` would take more, the probes are made smaller at the first call, and later calls are passed over; 1 looks
            at every call.
    Attributes:
        history: a row for each call of `epoch`.
        first: what was seen in a pass at the first weights, for a diagnosis; None where ``unseen`` says why.
        notes: what the loop did: its forwards by mode, the gradients it left, which weights moved.
        close: call it to stop noting the model's forwards, for example before ``torch.jit.script(model)``.
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
        made = time.perf_counter()
        refuse_scripted("watch", model)
        self.model, self.loss, self.optimizer = unwrap_model(model), Loss(loss), optimizer
        if optimizer is not None:
            needs_its_optimizer("watch", model, optimizer)
        self.given, self.seed, self.share = {"train": train, "valid": valid}, seed, share
        self.code = forward, target, loss
        double = any(p.dtype == torch.float64 for p in model.parameters())
        readings = {name: sides_of(side, double, name, rows) for name, side in self.given.items()}
        self._at_once = 1
        calls = self._read(readings, rows, forward, target)
        self.loss = calls.loss or self.loss
        sizes = self._sides["train"].size, self._sides["valid"].size
        self.forward: Forward = guard_call("The model" if forward is None else "forward=", calls.forward)
        aim = guard_call("target=", calls.target)
        self.target_of: Target = aim if target is None else keeping_reach(aim)
        self.plain = forward is None and target is None and not calls.says
        self._next = 0.0
        self.first, self.unseen = self._look()
        plainly = target is None and not calls.says
        self._whole = [side.targets(self.loss.ignored_index) if plainly else None for side in self._sides.values()]
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
        self._aimed, self._aims = target is not None, dict[tuple[str, int], np.ndarray]()
        self.notes = Notes.of(model)
        self.close = note_forwards(model, self.notes, self)
        self._best_loss = math.inf
        self._best_rows: Tensor | None = None
        self._calls_seen = 0
        self._made, self._began = made, time.perf_counter()
        self._spent = self._began - made  # reading the data and the first look are watching too

    def _read(
        self, readings: Mapping[str, list[Side]], rows: int | None, forward: Forward | None, target: Target | None
    ) -> Calls:
        """The first of the ways to read the data in which the model and the loss take them; if none is, the first error."""
        refused: WellposedError | None = None
        for way in range(max(map(len, readings.values()))):
            self._sides = {name: sides[min(way, len(sides) - 1)] for name, sides in readings.items()}
            try:
                self._probe(self._wanted(rows))
                calls = self._calls(forward, target)
                if calls.whole:
                    self._sides, self._at_once = in_batches(self._sides)
                    self._probe(self._wanted(rows))
            except TargetError:  # the data are read, and one of the labels is wrong
                raise
            except WellposedError as error:
                if refused is None or (isinstance(refused, DataError) and not isinstance(error, DataError)):
                    refused = error
                # A list of examples that can be put together is one of batches only where somebody says how one is read.
                if forward is None and not isinstance(error, DataError) and not any(map(sliced, self._sides.values())):
                    break
            else:
                each_of, told = partial(self._each, calls), forward is not None and self.loss.criterion is None
                if all(rows_stand_alone(side, each_of, told) for side in self._sides.values()):
                    return calls
        assert refused is not None
        raise refused

    def _each(self, calls: Calls, batch: Any) -> PerExample | None:
        """Each row's part of the loss; None where the network has no weights yet."""
        if any(is_lazy(p) for p in self.model.parameters()):
            return None
        batch = to_device(batch, self.device, copied=True)
        with seeded(0, "watch"), evaluating(self.model, calls.forward, self.loss, weights=True):
            return self.loss.per_example(calls.forward(self.model, batch), calls.target(batch))

    def _wanted(self, rows: int | None) -> int:
        return probe_rows(self._sides["train"].size, self._sides["valid"].size, rows)

    def _probe(self, rows: int) -> None:
        """Draw the rows that are looked at: whole batches, and a few of them, where a loss needs them."""
        size, most = self._at_once, min(side.size for side in self._sides.values())
        if size > 1:
            rows = max(rows, min(FEWEST_BATCHES * size, MOST))
        self.rows = min(-(-rows // size), most // size) * size or most
        with seeded(self.seed, "watch"):
            self._picked = {
                name: side.pick(self.rows, generator(self.seed, "probe", name)) for name, side in self._sides.items()
            }
            self.probes = {name: cache_batches(self._fetching(name)) for name in self._sides}

    def _fetching(self, name: str, few: int | None = None) -> Batches:
        side, index = self._sides[name], self._picked[name]
        return lambda: side.batches(index if few is None else side.few(index, few))

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
        allowed = (
            math.inf if self.share == 1 else FREE + self.share * (began - self._made) - self._spent - self.notes.seconds
        )
        affordable = least_of_all(allowed / self._next if self._next else math.inf, self.model)
        if affordable < 1:
            if len(self.history):
                return dict(self.history.rows[-1])
            self._shrink(max(0.0, affordable))
        self.notes.end_epoch(self.model)
        self.history.facts["regularized"] = regularizing(self.model, self.optimizer)  # a checkpoint may have changed it
        # A player in a game may be frozen for some steps.
        follows = self.history.facts.get("averaged", True) and follows_another(self.model, self.optimizer)
        self.history.facts["averaged"] = follows
        with evaluation_weights(self.optimizer):
            train, valid = map(self._measure, self.probes)
            seen = {**like_for_like(train, valid, self._best_rows), **weight_facts(self.model)}
        left = any(p.grad is not None for p in self.model.parameters())  # by the loop
        norm = gradient_norm(self.model) if left else math.nan
        row = {"epoch": self._calls_seen - 1, **seen, "grad_norm": norm}
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
        self._next = ended - began
        row |= {"seconds": ended - self._began, "watch_seconds": self._next + self.notes.seconds}
        self._spent += row["watch_seconds"]
        self._began, self.notes.seconds = ended, 0.0
        self.history.append(row)
        return row

    def state_dict(self) -> dict[str, Any]:
        """The history and what was noted of the loop, for a checkpoint: numbers, lists and tensors alone."""
        seconds = time.perf_counter()
        return {
            "schema": SCHEMA,
            "history": self.history.to_dict(),
            "calls": self._calls_seen,
            "spent": self._spent + self.notes.seconds,
            "made": seconds - self._made,
            "best": (self._best_loss, self._best_rows),
            "rows": self.rows,
            "notes": self.notes.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the history of a run that is resumed; the weights are loaded by you.

        Raises:
            FormatError: what is given is of another schema, or damaged.
            InputError: it was saved of a watch that looked at other rows.
        """
        check_schema(state.get("schema"), SCHEMA, "the state", "watch")
        saved = validate_state(_State, dict(state), "The state of the watch")
        history, rows = History.from_dict(saved["history"], "the state"), self.history.facts["train_rows"]
        if (had := history.facts.get("train_rows")) != rows:
            raise InputError(
                f"This watch has {rows} training rows, and the one that was saved had {had}. "
                "Make it with the same train= and valid=, or begin a new history."
            )
        if saved["rows"] != self.rows:
            self._probe(saved["rows"])
            self._learn_constant([self._targets(side) for side in self.probes])
        self.history, self._calls_seen, self._spent = history, saved["calls"], saved["spent"]
        self._best_loss, self._best_rows = saved["best"]
        self._began = time.perf_counter()
        self._made = self._began - saved["made"]
        self.notes.load_state_dict(saved["notes"])
        self.first, self.unseen = None, "This run was resumed, so that its first weights cannot be looked at."

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "A Watch is neither pickled nor copied, since it holds your model and data. Save watch.state_dict(), make a new one "
            "and call its load_state_dict(state)."
        )

    @property
    def cost(self) -> float:
        """Share of the epochs' wall-clock that watching took, in [0, 1]; NaN before the first epoch."""
        total = math.fsum(self.history["seconds"])
        return math.fsum(self.history["watch_seconds"]) / total if total else math.nan

    def _calls(self, forward: Forward | None, target: Target | None) -> Calls:
        """How the model is called, found out on a few rows; where it was said, whether the loss takes what that gives."""
        said = Calls(forward or plain_call, target or target_shown)
        if any(is_lazy(p) for p in self.model.parameters()):
            return said
        given = forward is not None or target is not None
        with seeded(0, "watch"):
            # A state that somebody made for a whole batch fits no smaller one.
            some = next(iter(self._fetching("train", None if given else FEWEST_SHOWN)()))

        def found() -> Calls:
            few = to_device(some, self.device, copied=True)
            return checked_calls(self.model, self.loss, few, said) if given else find_calls(self.model, self.loss, few)

        try:
            return found()
        except WellposedError as error:
            self.loss.derived = not isinstance(error, TargetError)
            with suppress(WellposedError):  # forces are derivatives of an energy, and need gradients in evaluation too
                if self.loss.derived:
                    return found()
            self.loss.derived = False
            raise

    def _recognized(self, targets: Sequence[Tensor | None]) -> Loss:
        """The known loss that a callable is; itself where it takes targets that the known one does not."""
        outputs, target = self._shown()
        found = recognized(self.loss, outputs, target)
        found.derived = self.loss.derived
        with suppress(TargetError):
            for known in targets if found is not self.loss else ():
                found.check(outputs, target, known)
            return found
        return self.loss

    def _look(self) -> tuple[Inspection | None, str]:
        """A pass at the first weights, which are gone when a diagnosis is asked for; or why there is none."""
        seen, passes, began = 0, 0.0, time.perf_counter()
        if any(is_lazy(p) for p in self.model.parameters()):
            return None, "The first weights could not be looked at: the network makes them at its first batch."

        def few() -> Iterator[tuple[Any, Any]]:
            nonlocal seen, passes
            started = time.perf_counter()
            for batch in self._fetching("train", FEW_ROWS)():
                mine = to_device(batch, self.device, copied=True)
                seen += max(1, examples_in(batch))
                try:
                    yield mine, self.target_of(mine)
                finally:  # a look may have seen enough
                    passes = time.perf_counter() - started

        try:
            return inspect_network(self.model, self.forward, self.loss, few()), ""
        except Unseen as unseen:
            return None, str(unseen)
        finally:
            # A call evaluates the rows of both sides, each a third of a step of training, and twice copies what is to come back.
            around = time.perf_counter() - began - passes
            self._next = 2 * (around + passes / 3 * self.rows / max(seen, 1))

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def batches(self, side: str) -> Iterator[tuple[Any, Any]]:
        """``(batch, target)`` of the fixed rows of ``train`` or ``valid``; the batch goes to `forward` whole."""
        for batch in self.probes[side]():
            mine = to_device(batch, self.device, copied=True)
            yield mine, self.target_of(mine)

    def _measure(self, side: str) -> Evaluation:
        aims: list[tuple[float, float]] = []

        def batches() -> Iterator[tuple[Any, Any]]:
            for batch, target in self.batches(side):
                if self._aimed:  # target= may ask a network, which moves while it is trained
                    aims.extend(_sketch(part) for part in tensors_in(target) if not part.is_complex())
                yield batch, target

        with seeded(0, "watch"), self.notes.blind():
            found = evaluate(
                self.model, batches(), self.loss, self.metric, device=self.device, forward=self.forward, restores=True
            )
        now = np.array(aims).reshape(-1, 2)
        first = self._aims.setdefault((side, self.rows), now)
        if first.shape != now.shape or (np.abs(first - now)[:, 0] > MOVED * first[:, 1]).any():
            self.history.facts["moving_target"] = True
        return found

    def _check(self, targets: Sequence[Tensor | None], whole: Sequence[Tensor | None]) -> None:
        """Targets of both sides (of the probes, and ``whole`` where all rows lie in memory) against loss, outputs and metric,
        before anything is counted of them; of others the loop's own loss sees what no probe has.
        """
        outputs, target = self._shown()
        for known in (*targets, *whole):
            self.loss.check(outputs, target, known)
        if self.metric is not None and targets[-1] is not None:
            self.metric.require(self.loss.marked(targets[-1]))

    def _shown(self) -> tuple[Any, Any]:
        """Outputs and target of a few rows: of the pass at the first weights, or where that failed in evaluation mode, since
        batch norm refuses a single row in training mode."""
        if self.first is not None:
            return self.first.outputs, self.first.target
        if any(is_lazy(p) for p in self.model.parameters()):
            return None, None
        with suppress(InputError), seeded(0, "watch"), evaluating(self.model, self.forward, self.loss, weights=True):
            for batch, target in self.batches("train"):
                return self.forward(self.model, batch), target
        return None, None

    def _targets(self, side: str) -> Tensor | None:
        """The targets of a probe, where they are one tensor a batch."""
        with seeded(self.seed, "watch"), torch.no_grad():
            found = [self.target_of(batch) for batch in self.probes[side]()]
        known = bool(found) and all(isinstance(t, Tensor) and t.ndim for t in found)
        return joined_targets([t.cpu() for t in found], self.loss.ignored_index) if known else None

    def __str__(self) -> str:
        if not len(self.history):
            return "Watch: no epoch yet; call watch.epoch() at the end of each."
        took = math.fsum(self.history["watch_seconds"]) / len(self.history)
        passed = self._calls_seen - len(self.history)
        return (
            f"{self.history}\nwatching {self.rows} train and {self.rows} validation rows took {took:.3g} s an epoch, "
            f"{100 * self.cost:.1f} % of the time"
            + (f"; {passed} calls were skipped, to keep it below {self.share:.0%}" if passed else "")
        )


watch = Watch


def regularizing(model: nn.Module, optimizer: Optimizer | None) -> dict[str, float]:
    """What regularizes, as far as model and optimizer show: terms, the largest weight decay and dropout, noise of `perturb`."""
    terms = find_wrapper(optimizer, Regularized)
    found = {str(term): 1.0 for term in terms.terms} if terms else {}
    decays = [float(group.get("weight_decay") or 0.0) for group in (optimizer.param_groups if optimizer else ())]
    rates = [float(rate) for m in model.modules() if isinstance(rate := _dropout_of(m), (int, float))]
    hooks = [h for m in model.modules() for h in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
    found |= {"weight_decay": max(decays, default=0.0), "dropout": max(rates, default=0.0)}
    found["noise"] = float(any(isinstance(hook, Hook) for hook in hooks))
    return {name: strength for name, strength in found.items() if strength > 0}


def follows_another(model: nn.Module, optimizer: Optimizer | None) -> bool:
    """Whether no gradient moves any weight of a network: one that moves all the same is an average of another."""
    weights, groups = list(model.parameters()), optimizer.param_groups if optimizer else ()
    held = {id(p) for group in groups for p in group["params"]}
    own = any(p.requires_grad or p.grad is not None or id(p) in held for p in weights)
    return isinstance(model, AveragedModel) or (not own and bool(weights))


def _dropout_of(module: nn.Module) -> object:
    """The rate of a dropout layer, or of the dropout inside an attention or a recurrent layer."""
    if isinstance(module, (nn.modules.dropout._DropoutNd, nn.AlphaDropout)):
        return module.p
    return module.dropout if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) else None


def probe_rows(train: int, valid: int, wanted: int | None) -> int:
    size = wanted if wanted is not None else min(max(round(SHARE * train), FEWEST), MOST)
    return max(1, min(size, train, valid))


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


def _sketch(target: Tensor) -> tuple[float, float]:
    """A number that changes with every number of a target, also where their sum is that of probabilities; and their length."""
    numbers = torch.nan_to_num(stored_numbers(target)[:SKETCHED].float())
    return float(numbers @ torch.arange(len(numbers), device=numbers.device).float().cos()), float(numbers.norm())
