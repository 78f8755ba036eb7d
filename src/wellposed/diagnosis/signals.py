"""What is seen inside a Watch or a Run: gradients, units, outputs, inputs, labels, modes; measured, not guessed.

    signals = passes through the network at the first and the last weights + what the loop did + what the rows say

Nothing is disturbed: modes, buffers, gradients, hooks, loaders and random states are as before. Where a part cannot be
seen it is None, and `Signals.missing` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellposed.core.batches import count_numbers
from wellposed.core.preserve import names_in
from wellposed.core.random import generator, seeded
from wellposed.core.selectors import leaves, unwrap_model
from wellposed.data.arrays import Source, to_device
from wellposed.diagnosis import row_checks as measure
from wellposed.diagnosis.codes import Code, codes_of
from wellposed.diagnosis.row_checks import Copies, Giveaway, Order, Wrong
from wellposed.losses.per_example import Loss
from wellposed.optim.audit import COUPLED
from wellposed.optim.optimizer_metrics import decays_by_its_step
from wellposed.optim.regularize import Regularized, regularize
from wellposed.optim.wrapper import find_wrapper, unwrap_optimizer
from wellposed.penalties.base import Term
from wellposed.training.evaluate import batches_of, evaluating
from wellposed.training.inspection import (
    FEWEST_ROWS,
    MOST_NUMBERS,
    MOST_ROWS,
    Inspection,
    Predict,
    RowsWithTargets,
    Unseen,
    inspect_network,
    mode_gap,
    rebatch,
)
from wellposed.training.loop_activity import Forwards, distances, marks_of, real, samples
from wellposed.training.run import Run
from wellposed.training.watch import Watch

T = TypeVar("T")
USUAL_BATCH = 64  # where the loop's own is not known
MOST_ANSWERS = 4096  # validation rows whose answers are compared with their labels: as many as a probe has at most
LEAST_MOMENT = 1e-3  # gradients of gains fall no further before a network is fitted
SMALL_BATCH = 16  # rows; above it the statistics of a batch norm are those of training in general
FEWEST_LABELS = 16  # rows; fewer may well be of one class
MOODY = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.AlphaDropout)
"""Modules that do something else in training mode than in evaluation mode."""


@dataclass(frozen=True)
class Targets:
    """What the training targets are: ``one_hot`` rows are all 0 but a 1, of ``several`` labels some have more than one 1; ``codes``
    are whole numbers without a gap."""

    columns: int
    whole: bool
    integer: bool
    distinct: int
    low: float
    high: float
    spread: float
    one_hot: bool
    several: bool
    codes: bool
    shares: bool
    values: Tensor

    @classmethod
    def of(cls, target: Tensor) -> Self | None:
        """From the targets of some rows; None where there are none, or not all are finite."""
        flat = target.detach().cpu().double()
        if flat.ndim == 0 or not flat.numel() or not bool(torch.isfinite(flat).all()):
            return None
        columns = flat[0].numel()
        values = torch.unique(flat.flatten())
        whole = bool((values == values.round()).all())
        rows = flat.flatten(1) if flat.ndim > 1 else flat[:, None]
        ones = bool((rows.sum(1) - 1).abs().max() < 1e-4)
        labels = columns > 1 and whole and values.tolist() == [0.0, 1.0]
        return cls(
            columns=columns,
            whole=whole,
            integer=not target.is_floating_point(),
            distinct=len(values),
            low=float(values[0]),
            high=float(values[-1]),
            spread=float(flat.std(correction=0)),
            one_hot=labels and ones,
            several=labels
            and bool((flat.sum(1) > 1).any() and (flat.sum(-1) > 1).any()),  # classes are the second axis or the last
            codes=whole and len(values) == int(values[-1] - values[0]) + 1 and float(values[0]) in (0.0, 1.0),
            shares=columns > 1 and ones and float(values[0]) >= 0,
            values=flat,
        )


@dataclass(frozen=True)
class NormDecay:
    """Norm parameters that a decay charges, and how much of them it took over the run: ``1 - prod(1 - lr * decay)``."""

    names: tuple[str, ...]
    strength: float
    pulled: float


@dataclass(frozen=True)
class Toll:
    """What regularization adds to the loss of some training rows at the last weights: ``noise`` what the model draws in
    training mode, with its standard error; ``decay`` what a weight decay costs at rest; ``loss`` that of the rows in
    evaluation mode."""

    noise: float
    error: float
    decay: float
    loss: float


@dataclass(frozen=True)
class Signals:
    """What was seen inside one network and its training; a part is None or empty where it could not be seen.

    Attributes:
        loop: whether it is somebody's own loop (a Watch), as opposed to a Run of ours.
        loss: what training minimizes.
        first, last: a pass at the first weights and at the last ones (of a Run: the chosen ones).
        left: of each weight, gradient over size as the loop left it at the end of its first epoch.
        moved: how far each parameter moved, relative to its size.
        unheld: trainable weights that the optimizer does not hold.
        targets: of training rows.
        wrong: how labels contradict the surest answers, by side.
        gain: hit rates of classes and of rounded class numbers, see `rows.code_gain`.
        forwards: of the loop, an entry an epoch. moody: whether some module minds the mode.
        steps: passes with gradients in all, also since the last look.
        learns: whether a step of the loop moves this network, as far as one can see: it left gradients, or has an optimizer.
        unlearned: the share of some rows of each side that went through without gradients in training mode.
        batch: rows of a training batch. norms: names of batch norms.
        disagreement: of the loss between batch norms in training and evaluation mode: difference, its standard error, loss.
        leftover: how surely what is left of the targets is shared by rows that lie close, see `row_checks.leftover`.
        toll: what regularization adds to the loss; None where the pass failed.
        codes: of variational autoencoders, what each dimension holds and whether the decoder listens.
        one_label: whether all training rows have one label, and validation rows do not.
        times: the root mean square of a usual row of validation inputs over that of training inputs.
        names: of the network's parts, and those that ``forward=``, ``target=`` and the loss use.
        missing: what could not be seen, a sentence each.
    """

    loop: bool
    loss: Loss
    first: Inspection | None = None
    last: Inspection | None = None
    left: Mapping[str, float] = field(default_factory=dict)
    moved: Mapping[str, float] = field(default_factory=dict)
    unheld: tuple[str, ...] = ()
    targets: Targets | None = None
    wrong: Mapping[str, Wrong | None] = field(default_factory=dict)
    copies: Copies | None = None
    giveaway: Giveaway | None = None
    order: Order | None = None
    gain: tuple[float, float, float] | None = None
    forwards: tuple[Forwards, ...] = ()
    moody: bool = False
    steps: int = 0
    learns: bool = True
    unlearned: Mapping[str, float] = field(default_factory=dict)
    batch: int | None = None
    norms: tuple[str, ...] = ()
    disagreement: tuple[float, float, float] | None = None
    charges: NormDecay | None = None
    leftover: float | None = None
    toll: Toll | None = None
    codes: tuple[Code, ...] = ()
    one_label: bool = False
    times: float | None = None
    names: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()

    @staticmethod
    def of(source: Any) -> Signals | None:
        """The signals of a Watch or a Run; None for anything else."""
        if isinstance(source, Run):
            return _of_run(source)
        if isinstance(source, Watch):
            with source.notes.blind():
                return _of_watch(source)
        return None


def _of_run(run: Run) -> Signals:
    problem, data = run.problem, run.problem.prepared
    device = next((p.device for p in run.model.parameters()), torch.device("cpu"))
    size = max(run.recipe.batch_size, 2)

    def predict(model: nn.Module, batch: Any) -> Any:
        return problem.forward(model, to_device(batch, device))

    some = torch.randperm(len(data.train_clean), generator=generator(0, "look"))
    rows = min(MOST_ROWS, max(FEWEST_ROWS, MOST_NUMBERS // max(_row_numbers(data.train_clean), 1)))
    kept = list(_moved(batches_of(data.train_clean, some[:rows], min(size, rows)), device))
    seen = _Seen(problem.loss, predict, rows)
    fresh = problem.build(run.recipe.model, run.seed).to(device)
    lazy = any(nn.parameter.is_lazy(p) for p in fresh.parameters())
    began = samples(fresh)
    batches = {
        "valid": _moved(batches_of(data.valid, torch.arange(min(len(data.valid), MOST_ANSWERS))), device),
        "train": _moved(batches_of(data.train_clean, some[:MOST_ANSWERS]), device),
    }
    answers = {side: seen.answers(run.model, mine) for side, mine in batches.items()}
    steps = math.ceil(len(data.train) / (run.recipe.batch_size * run.recipe.accumulate))
    last = seen.inspect(run.model, kept)
    found = Signals(
        loop=False,
        loss=problem.loss,
        first=None if lazy else seen.inspect(fresh, kept),
        last=last,
        moved=distances(began, samples(run.model)),
        wrong={side: seen.wrong(found) for side, found in answers.items()},
        leftover=seen.leftover(answers),
    )
    found = _with_network(found, run.model, seen, kept, size)
    # What gives a target away is a number, and not each of its pieces.
    columns = None if data.encoder is None else torch.from_numpy(data.encoder.whole)
    found = _with_rows(found, data.train_clean, data.valid, seen, kept, columns=columns)
    optimizer = run.recipe.optimizer.build(run.model.parameters())
    with_terms = regularize(optimizer, run.model, run.recipe.build_terms(total_steps=1))
    taken = [steps * lr for lr in run.history["lr"]]
    return replace(
        found,
        charges=_charges_of(run.model, with_terms, taken, {}),
        toll=seen.toll(run.model, kept, _decay_of(run.model, last, optimizer, taken)),
        codes=seen.codes(run.model, run.recipe.build_terms(steps * run.recipe.epochs), steps * len(run.history), kept),
        missing=tuple(seen.missing),
    )


def _of_watch(watch: Watch) -> Signals:
    notes = watch.notes
    trained, rows = sum(f.trained for f in notes.forwards), sum(f.rows for f in notes.forwards)
    loader = watch.given["train"]
    size = max(round(rows / trained) if rows else getattr(loader, "batch_size", None) or USUAL_BATCH, 2)
    with seeded(0, "look"):  # Datasets that draw do so under a state of their own
        first = list(_answers(watch, "train", MOST_ROWS))
    numbers = 0
    for batch, target in first[:1]:
        numbers = count_numbers(batch) // max(len(target) if isinstance(target, Tensor) and target.ndim else 1, 1)
    limit = min(MOST_ROWS, max(FEWEST_ROWS, MOST_NUMBERS // max(numbers, 1)))
    kept = list(rebatch(first, min(size, limit), limit))
    seen = _Seen(watch.loss, watch.forward, limit, [watch.unseen] if watch.unseen else [])
    sizes = {leaf.name: float(real(leaf.tensor).norm()) for leaf in leaves(watch.model)}
    left = notes.gradients[0] if notes.gradients else {}
    held = {id(p) for group in watch.optimizer.param_groups for p in group["params"]} if watch.optimizer else None
    steps = [f.trained + f.trained_evaluating for f in notes.forwards]
    rates = watch.history["lr"] if watch.optimizer is not None and len(watch.history) else []
    last = seen.inspect(watch.model, kept)
    answers = {side: seen.answers(watch.model, _answers(watch, side)) for side in ("valid", "train")}
    trainable = [leaf for leaf in leaves(watch.model) if leaf.tensor.requires_grad]
    found = Signals(
        loop=True,
        loss=watch.loss,
        first=watch.first,
        last=last,
        left={name: norm / sizes[name] for name, norm in left.items() if sizes.get(name)},
        moved=notes.moved(watch.model),
        unheld=tuple(leaf.name for leaf in trainable if held is not None and id(leaf.tensor) not in held),
        wrong={side: seen.wrong(found) for side, found in answers.items()},
        leftover=seen.leftover(answers),
        forwards=tuple(notes.forwards),
        steps=notes.steps,
        learns=watch.optimizer is not None or any(notes.gradients),
        unlearned=_unlearned(watch),
        order=measure.row_order(loader, watch.target_of),
        names=frozenset({name for name, _ in watch.model.named_children()} | names_in(*watch.code)),
    )
    found = _with_network(found, watch.model, seen, kept, size)
    found = _with_rows(found, loader, watch.given["valid"], seen, kept, watch)
    taken = [n * lr for n, lr in zip(steps, rates, strict=False)]
    wrapper = find_wrapper(watch.optimizer, Regularized)
    return replace(
        found,
        charges=_charges_of(watch.model, watch.optimizer, taken, left),
        toll=seen.toll(watch.model, kept, _decay_of(watch.model, last, watch.optimizer, taken)),
        codes=() if wrapper is None else seen.codes(watch.model, wrapper.terms, wrapper.steps, kept),
        missing=tuple(seen.missing),
    )


def _answers(watch: Watch, side: str, most: int = MOST_ANSWERS) -> Iterator[RowsWithTargets]:
    """At most so many rows of a side: of all its rows where they are at hand, else the probe's."""
    double = any(p.dtype == torch.float64 for p in watch.model.parameters())
    source = measure.array_source(watch.given[side], double)
    if source is None or not watch.plain:
        return watch.batches(side)
    some = torch.randperm(len(source), generator=generator(0, "look", side))[:most]
    return (((x, y), y) for x, y in _moved(batches_of(source, some), watch.device))


def _size(x: Tensor) -> float:
    """The median over rows of their root mean square; 0 for what is no floating number."""
    return float(x.flatten(1).square().mean(1).sqrt().median()) if x.is_floating_point() and x.ndim > 1 else 0.0


def _varies(targets: Tensor) -> bool:
    return bool((targets != targets[0]).any())


Answers = tuple[Tensor, Tensor, Tensor | None]
"""Outputs, targets and inputs of rows; no inputs where they are not of one shape."""


def _unlearned(watch: Watch) -> dict[str, float]:
    """How many of the rows of each side's probe the loop sent through without gradients in training mode, as a share."""
    found: dict[str, float] = {}
    if not watch.notes.unlearned:
        return found
    with seeded(0, "look"), evaluating(watch.model, watch.forward, watch.loss, weights=True):
        for side in watch.probes:
            marks = marks_of(watch.model, watch.forward, (batch for batch, _ in watch.batches(side)))
            found[side] = len(marks & watch.notes.unlearned) / max(len(marks), 1)
    return found


@dataclass
class _Seen:
    """Passes through the network, with what could not be seen."""

    loss: Loss
    predict: Predict
    rows: int
    missing: list[str] = field(default_factory=list)

    def passed(self, look: Callable[..., T], model: nn.Module, batches: list[RowsWithTargets], *more: Any) -> T | None:
        """What a pass sees; None where it sees nothing, which is noted."""
        try:
            return look(model, self.predict, self.loss, batches, *more)
        except Unseen as unseen:
            if str(unseen) not in self.missing:
                self.missing.append(str(unseen))
            return None

    def inspect(self, model: nn.Module, batches: list[RowsWithTargets]) -> Inspection | None:
        return self.passed(inspect_network, model, batches, self.rows)

    def toll(self, model: nn.Module, batches: list[RowsWithTargets], decay: float) -> Toll | None:
        """The toll; ``decay`` is what a weight decay costs."""
        seen = self.passed(mode_gap, model, batches, False)
        return None if seen is None else Toll(seen[0], seen[1], decay, seen[2])

    def codes(
        self, model: nn.Module, terms: Sequence[Term], steps: int, batches: list[RowsWithTargets]
    ) -> tuple[Code, ...]:
        return codes_of(model, terms, steps, self.predict, self.loss, batches)

    def answers(self, model: nn.Module, batches: Iterator[RowsWithTargets]) -> Answers | None:
        """Outputs, targets and inputs of rows; None for losses that are neither of classes nor of numbers, and for other shapes."""
        if not self.loss.classifies and not self.loss.numeric:
            return None
        outputs: list[Any] = []
        targets: list[Any] = []
        inputs: list[Any] = []
        with seeded(0, "look"), evaluating(model, self.predict, self.loss, weights=True):
            for batch, target in batches:
                outputs.append(self.predict(model, batch))
                targets.append(target)
                inputs.append(measure.inputs_of(batch))
        if not outputs or not all(isinstance(t, Tensor) and 0 < t.ndim <= 2 for t in [*outputs, *targets]):
            return None
        if len({(out.shape[1:], y.shape[1:]) for out, y in zip(outputs, targets, strict=True)}) > 1:
            return None
        alike = all(isinstance(x, Tensor) and x.shape[1:] == inputs[0].shape[1:] for x in inputs)
        return torch.cat(outputs).detach().cpu(), torch.cat(targets).cpu(), torch.cat(inputs) if alike else None

    def wrong(self, found: Answers | None) -> Wrong | None:
        """Of scores of classes; None for other losses, and for rows whose outputs are no such scores."""
        return measure.wrong_labels(*found) if found is not None and self.loss.classifies else None

    def leftover(self, found: Mapping[str, Answers | None]) -> float | None:
        """Whether what is left of the targets is shared by neighbours; None where inputs cannot be compared."""
        train, valid = found["train"], found["valid"]
        if train is None or valid is None or train[2] is None or valid[2] is None:
            return None
        exclusive = self.loss.name == "cross_entropy"
        return measure.leftover((*train[:2], train[2]), (*valid[:2], valid[2]), self.loss.classifies, exclusive)


def _moved(batches: Iterator[RowsWithTargets], device: torch.device) -> Iterator[RowsWithTargets]:
    for batch, target in batches:
        yield to_device(batch, device), to_device(target, device)


def _with_network(found: Signals, model: nn.Module, seen: _Seen, kept: list[RowsWithTargets], size: int) -> Signals:
    modules = list(unwrap_model(model).named_modules())
    norms = tuple(name for name, m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm))
    close = bool(norms) and size <= SMALL_BATCH
    moody = any(isinstance(m, MOODY) and getattr(m, "p", 1) != 0 for _, m in modules)
    apart = seen.passed(mode_gap, model, kept, True) if close else None
    return replace(found, batch=size, norms=norms, moody=moody, disagreement=apart)


def _with_rows(
    found: Signals,
    train: Any,
    valid: Any,
    seen: _Seen,
    kept: list[RowsWithTargets],
    watch: Watch | None = None,
    columns: Tensor | None = None,
) -> Signals:
    """What the rows say: of all of them where they are at hand, else of the probes' rows; of some columns (None: all)."""
    share = 1.0
    ours, theirs = (_whole(measure.array_source(side), columns) for side in (train, valid))
    one_label = False
    if ours is not None and theirs is not None and seen.loss.classifies:
        one_label = len(ours[1]) >= FEWEST_LABELS and not _varies(ours[1]) and _varies(theirs[1])
    if watch is not None and (ours is None or theirs is None):
        ours, theirs = (_probe_table(watch, side) for side in ("train", "valid"))
        share = watch.rows / max(watch.history.facts["train_rows"], 1)
    looked = [target for _, target in kept if isinstance(target, Tensor)]
    if len({target.shape[1:] for target in looked}) > 1:
        looked = [target.flatten() for target in looked]  # tokens of batches that are padded to different lengths
    targets = Targets.of(torch.cat(looked)) if len(looked) == len(kept) and looked else None
    same = measure.same_rows(train, valid)
    if ours is None or theirs is None:
        return replace(found, targets=targets, copies=same)
    few = []
    for x, y in (ours, theirs):  # evenly spaced rows
        index = torch.linspace(0, len(x) - 1, min(len(x), measure.MOST_JUDGED)).long()
        few.append((x[index], y[index]) if len(x) > measure.MOST_JUDGED else (x, y))
    sizes = [_size(x) for x, _ in few]
    coded = targets is not None and targets.codes and not seen.loss.classifies and 3 <= targets.distinct <= 100
    return replace(
        found,
        targets=targets,
        copies=same if same is not None and same.valid > 0 else measure.exact_copies(ours, theirs, share),
        giveaway=measure.giveaway(*few),
        one_label=one_label,
        times=sizes[1] / sizes[0] if min(sizes) > 0 and all(map(math.isfinite, sizes)) else None,
        gain=measure.code_gain(*few) if coded else None,
    )


def _whole(source: Source | None, columns: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """All rows, with some columns of their inputs; None where they are too many, or no two tensors."""
    wide = 0 if source is None else _row_numbers(source) if columns is None else len(columns)
    if source is None or len(source) * wide > measure.MOST_HASHED:
        return None
    x, y = source.batch(torch.arange(len(source)))
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return None
    return x if columns is None else x[:, columns], y


def _probe_table(watch: Watch, side: str) -> tuple[Tensor, Tensor] | None:
    parts = [(measure.inputs_of(batch), target) for batch, target in watch.batches(side)]
    if not parts or not all(isinstance(x, Tensor) and isinstance(y, Tensor) for x, y in parts):
        return None
    if len({(x.shape[1:], y.shape[1:]) for x, y in parts}) > 1 or any(len(x) != len(y) for x, y in parts):
        return None
    return torch.cat([x for x, _ in parts]).cpu(), torch.cat([y for _, y in parts]).cpu()


def _row_numbers(source: Source) -> int:
    """Numbers in the inputs of one row."""
    inputs, _ = source.batch(torch.arange(1))
    return count_numbers(inputs)


def _decay_of(
    model: nn.Module, seen: Inspection | None, optimizer: Optimizer | None, lengths: Iterable[float]
) -> float:
    """What an optimizer's own weight decay costs at rest: half of how fast the loss would fall if what it charges grew.

    Where ``loss + strength / 2 * |w|^2`` is least, the gradient times ``w`` is ``-strength * |w|^2``. Of a decoupled decay
    under normalized steps, whose strength has another unit, it says the same without one. Before it is at rest, a decay has not
    taken more than its share of the weights.
    """
    if seen is None or optimizer is None:
        return 0.0
    bare = unwrap_optimizer(optimizer)
    length = math.fsum(length for length in lengths if math.isfinite(length)) or math.inf  # not known
    shares: dict[int, float] = {}
    for group in bare.param_groups:
        if strength := float(group.get("weight_decay") or 0.0):
            momentum = float(group.get("momentum") or 0.0) if decays_by_its_step(bare) else 0.0
            share = 1.0 if _divided(bare) else 1 - math.exp(-strength * length / max(1 - momentum, 1e-3))
            shares |= {id(p): min(share, 0.5) for p in group["params"]}
    names = {leaf.name: shares.get(id(leaf.tensor), 0.0) for leaf in leaves(unwrap_model(model))}
    outward = [names.get(layer.name, 0.0) * layer.outward for layer in seen.layers if math.isfinite(layer.outward)]
    return max(-math.fsum(outward), 0.0)


def _divided(optimizer: Optimizer) -> bool:
    """Whether a decay inside of the gradient is divided by the root of its second moment, as the gradient itself is."""
    coupled = isinstance(optimizer, COUPLED) and not isinstance(optimizer, torch.optim.SGD)
    return coupled and not optimizer.defaults.get("decoupled_weight_decay")


def _charges_of(
    model: nn.Module, optimizer: Optimizer | None, lengths: list[float], left: Mapping[str, float]
) -> NormDecay | None:
    """Of an optimizer: its own weight decay, and the terms of `regularize` around it.

    Args:
        lengths: of each epoch, its steps times its learning rate.
        left: norms of the gradients as the first epoch left them, by parameter.
    """
    if optimizer is None:
        return None
    decays = {
        id(p): float(group.get("weight_decay") or 0.0) for group in optimizer.param_groups for p in group["params"]
    }
    regularized = find_wrapper(optimizer, Regularized)
    for one in regularized.binding.charged if regularized is not None else ():
        strengths = [float(getattr(bound.charge, "strength", 0.0)) for bound in one.bounds]
        decays[id(one.leaf.tensor)] = max([decays.get(id(one.leaf.tensor), 0.0), *strengths])
    norms = [leaf for leaf in leaves(model) if leaf.role == "norm"]
    found = {leaf.name: strength for leaf in norms if (strength := decays.get(id(leaf.tensor), 0.0)) > 0}
    if not found:
        return None
    metric = 1.0  # the step of a coordinate over its learning rate
    if regularized is None and _divided(optimizer):
        sizes = [left[leaf.name] / math.sqrt(leaf.tensor.numel()) for leaf in norms if left.get(leaf.name)]
        metric = 1 / max(sum(sizes) / len(sizes), LEAST_MOMENT) if sizes else 1.0
    strength = max(found.values())
    length = math.fsum(length for length in lengths if math.isfinite(length))
    return NormDecay(tuple(found), strength, 1 - math.exp(-strength * length * metric))
