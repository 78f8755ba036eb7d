"""`fit`: one recipe trained on one problem with one seed. The training loop, from top to bottom."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wellposed.core.checks import Count, Seed, checked
from wellposed.core.clock import TRAINING, spent_on
from wellposed.core.errors import ProblemError, RecipeError, TrainingError, WellposedError, first_line, guard_call
from wellposed.core.progress import emit
from wellposed.core.random import generator, reseed, seeded
from wellposed.data.arrays import Source, to_device
from wellposed.data.data import Prepared
from wellposed.losses.criterion import at_least_single
from wellposed.noise.activations import Streams, dropout_from_streams, set_dropout
from wellposed.noise.gradient_noise import disturb_gradients
from wellposed.noise.inputs import Weight
from wellposed.noise.labels import mixed_targets, smooth_classes
from wellposed.noise.noise import Noise
from wellposed.noise.perturb import Perturbed, perturb
from wellposed.ops.shards import unshard
from wellposed.optim.averaging import Average as WeightAverage
from wellposed.optim.averaging import batch_norms, redo_batch_norm
from wellposed.optim.lookahead import Lookahead
from wellposed.optim.regularize import Regularized, regularize
from wellposed.optim.schedules import Plateau, PlateauClock
from wellposed.optim.sharpness import SAM
from wellposed.optim.wrapper import find_wrapper, needs_its_optimizer
from wellposed.penalties.base import FunctionalPenalty
from wellposed.recipe.presets import as_recipe
from wellposed.recipe.recipe import Recipe
from wellposed.training.device import resolve_device
from wellposed.training.early_stopping import Patience, check_monitors, monitor_is_score
from wellposed.training.evaluate import Evaluation, Probe, evaluate, evaluating
from wellposed.training.history import History, Stopped
from wellposed.training.measures import like_for_like, term_facts, weight_facts
from wellposed.training.problem import Problem
from wellposed.training.resampling import Sample, with_sample
from wellposed.training.run import Run

Stop = Callable[[History], "str | None"]
MixingDraw = tuple[Tensor, Weight]
"""The permutation that examples were mixed with, and the weight that they kept: one for all, or one for each."""
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

TINY = torch.finfo(torch.float32).tiny
"""Avoids 0/0 where every target of a batch is masked; such a batch costs 0."""
REDONE_BATCHES = 50
"""Batches that redo batch-norm statistics: with 128 rows each, a mean over 6,400 rows is known to about 1 %."""


@checked
def fit(
    problem: Problem,
    recipe: Recipe | str | Path = "baseline",
    seed: Seed = 0,
    *,
    device: str | torch.device = "auto",
    deadline: float = math.inf,
    rows: Count | None = None,
    probe_rows: Count | None = None,
    optimizer: MakeOptimizer | None = None,
    stop: Stop | None = None,
) -> Run:
    """Train one recipe on one problem with one seed, and return the run.

    The best weights (by validation loss, unless ``[stopping]`` says otherwise) come back when training ends by itself, by patience,
    by the deadline, by Ctrl-C, or by an exception (then as ``error.run``). Equal seeds give equal runs, whatever torch's global
    random state.

    Args:
        recipe: a `Recipe`, a preset's name or a path to a TOML file.
        seed: of initialization, order and noise.
        device: ``auto`` takes CUDA, MPS or the CPU.
        deadline: a value of ``time.monotonic()`` after which training stops.
        rows: train on at most this many rows (stratified); None takes all.
        probe_rows: evaluate at most this many rows of either side at each epoch; None takes all validation rows.
        optimizer: makes an optimizer of any kind from the parameters, in place of the recipe's; the recipe's schedule scales
            its learning rates.
        stop: called with the history after each epoch; a word stops training and is kept as the reason.
    Raises:
        ProblemError, RecipeError, DataError: something given cannot be used.
        TrainingError: an exception in the middle of training; its ``run`` has the history and best weights.
    """
    recipe = as_recipe(recipe)
    with seeded(seed, "begin"):
        training = Training.begin(problem, recipe, seed, resolve_device(device), deadline, rows, probe_rows, optimizer)
    why: str = Stopped.EPOCHS
    try:
        for epoch in range(recipe.epochs):
            with seeded(seed, "begin", epoch):
                training.epoch(epoch)
            if ended := training.stopped or training.patience() or (stop(training.history) if stop else None):
                why = ended
                break
    except KeyboardInterrupt:
        why = Stopped.INTERRUPTED
    except Exception as error:
        if isinstance(error, WellposedError) and not training.history.rows:
            raise
        raise failure(error, training.finish(Stopped.FAILED)) from error
    return training.finish(why)


def failure(error: Exception, run: Run | None) -> WellposedError:
    """What `fit` raises for an exception in the middle of training, with what was reached; before the first epoch one of ours is
    told as it is."""
    if isinstance(error, WellposedError) and (run is None or not run.history.rows):
        return error
    said = str(error) if isinstance(error, WellposedError) else f"{type(error).__name__}: {first_line(error)}"
    return TrainingError(f"Training stopped by {said.rstrip('.')}.", run)


@dataclass
class Training:
    """Everything that changes while a run is trained."""

    problem: Problem
    recipe: Recipe
    seed: int
    device: torch.device
    deadline: float
    data: Prepared
    model: nn.Module
    optimizer: Regularized | Lookahead
    averager: WeightAverage | None
    probes: tuple[Probe, Probe]
    history: History
    streams: Streams
    scaler: torch.amp.GradScaler
    plateau: PlateauClock | None
    waiting: Patience
    perturbed: Perturbed | None
    needs: frozenset[str]
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    best_rows: Tensor | None = None
    stopped: Stopped | None = None
    sampler: Callable[[int], Tensor] | None = None

    @classmethod
    def begin(
        cls,
        problem: Problem,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        deadline: float,
        rows: int | None,
        probe_rows: int | None = None,
        make: MakeOptimizer | None = None,
        shared: Shared | None = None,
    ) -> Training:
        """Build everything that a run needs, and check that it fits together; ``shared`` is what runs on equal rows have in
        common.
        """
        shared = shared or Shared.of(problem, Sample(rows), probe_rows, device)
        data = shared.data
        model = problem.build(recipe.model, seed).to(device)
        if recipe.noise.dropout and set_dropout(model, recipe.noise.dropout) == 0:
            raise ProblemError(
                "The recipe sets dropout, but the model has no dropout layer. Add nn.Dropout to the model, "
                'or leave it out: recipe.replace(noise={"dropout": None}).'
            )
        if recipe.noise.dropout == 0:
            set_dropout(model, 0.0)
        check_noise(problem, recipe)
        check_monitors(problem, recipe)
        shared.check(problem, recipe, model, device)
        build = guard_call("optimizer=", make) if make else recipe.optimizer.build
        inner = build(list(model.parameters()))
        check_optimizer_in_loop(inner)
        steps = count_steps(rows_per_epoch(len(data.train), recipe.batch_size, model), recipe) * recipe.epochs
        terms = regularize(inner, model, recipe.build_terms(steps))
        needs_its_optimizer("fit", model, terms)
        terms.seed = seed
        terms.note_zeros()  # the compiled population steps without it
        optimizer: Regularized | Lookahead = terms
        if recipe.lookahead.every:
            optimizer = Lookahead(optimizer, recipe.lookahead.every, recipe.lookahead.share)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        functional = [
            t.charge for t in optimizer.terms if isinstance(t.charge, FunctionalPenalty) and t.charge.strength
        ]
        needs = frozenset(need for charge in functional for need in charge.needs)
        check_charges(problem, model, functional, device)
        batches = math.ceil(rows_per_epoch(len(data.train), recipe.batch_size, model) / recipe.batch_size)
        forwards = batches * recipe.epochs * (2 if "reference" in needs else 1)
        averaging = recipe.averaging
        averager = averaging.build(model)
        facts = {
            "like_for_like": True,
            "metric": problem.metric.name if problem.metric else None,
            "higher_is_better": problem.metric.higher_is_better if problem.metric else False,
            "epochs_planned": recipe.epochs,
            "train_rows": len(data.train),
            "task": data.task,
            "regularized": regularizers(recipe),
            **shared.constant,
            **shared.facts,
        }
        placed = [place.build(forwards) for place in recipe.noise.places]
        probes = shared.probes
        facts["valid_rows"] = len(probes[1])
        course = recipe.schedule.course
        scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16" and device.type == "cuda")
        return cls(
            problem, recipe, seed, device, deadline, data, model, optimizer, averager, probes,
            History(facts), Streams(seed), scaler,
            PlateauClock(course, monitor_is_score(problem, course.monitor)) if isinstance(course, Plateau) else None,
            Patience(recipe.stopping, monitor_is_score(problem, recipe.stopping.monitor)),
            perturb(model, placed, seed) if placed else None, needs,
        )  # fmt: skip

    @property
    def steps_per_epoch(self) -> int:
        return count_steps(self.rows_per_epoch, self.recipe)

    @property
    def rows_per_epoch(self) -> int:
        return rows_per_epoch(len(self.data.train), self.recipe.batch_size, self.model)

    @property
    def chosen(self) -> nn.Module:
        """The weights that would be used now: the average where there is one, else the current ones."""
        if self.averager is not None and self.averager.count:
            return self.averager.module
        return self.model

    def epoch(self, epoch: int) -> None:
        """Train for one epoch, evaluate, and keep the weights if they are the best."""
        began = time.perf_counter()
        self.model.train()
        costs, norms, steps = 0.0, 0.0, 0
        with spent_on(TRAINING, "trained alone"), dropout_from_streams(self.model, self.streams):
            for index in self.batches(epoch):
                cost, norm = self.step(epoch, index)
                costs, norms, steps = costs + cost, norms + norm, steps + 1
                if not math.isfinite(cost):
                    self.stop(Stopped.DIVERGED)
                elif time.monotonic() > self.deadline:
                    self.stop(Stopped.BUDGET)
                if self.stopped:
                    break
        if isinstance(self.optimizer, Lookahead):
            self.optimizer.synchronize()
        self.average_epoch(epoch)
        row = {"epoch": epoch, "cost": costs / steps, "grad_norm": norms / steps}
        self.record(row, began)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Row numbers for each optimizer step of an epoch: a permutation that depends on seed and epoch alone, or the draws of
        a loop's own sampler."""
        if self.sampler is None:
            order = torch.randperm(len(self.data.train), generator=generator(self.seed, "order", epoch))
        else:
            with seeded(self.seed, "order", epoch):
                order = self.sampler(epoch)
        rows = rows_per_epoch(len(order), self.recipe.batch_size, self.model)
        yield from torch.split(order[:rows], self.recipe.batch_size * self.recipe.accumulate)

    def step(self, epoch: int, index: Tensor) -> tuple[float, float]:
        """One optimizer step on these rows; the cost and the gradient's norm."""
        self.set_rate()
        self.optimizer.zero_grad()
        first = self.streams.step
        total = self.backward(index)
        if self.recipe.sharpness.radius:
            # The same batches with the same noise again, where the loss nearby is worst.
            self.streams.step = first
            with self.ascended():
                self.backward(index)
        return total, self.move(total)

    def ascended(self) -> contextlib.AbstractContextManager[None]:
        """Where the loss nearby is worst, for the second gradient of a step."""
        return SAM(self.model, self.recipe.sharpness.radius, self.recipe.sharpness.adaptive).ascended()

    def move(self, total: float) -> float:
        """Take the step by the gradients that there are, if the cost is finite; the gradient's norm before clipping."""
        streams, recipe = self.streams, self.recipe
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.model, recipe.clip)
        for noise in recipe.noise.acting("gradients"):
            taken = self.optimizer.steps
            disturb_gradients(self.model, noise, noise.at(taken), taken, self.seed)
        if math.isfinite(total):
            taken = self.optimizer.steps
            self.scaler.step(self.optimizer)
            self.scaler.update()
            # A step that the scaler skipped has no weights that an average could take in.
            if self.averager is not None and recipe.averaging.ema and self.optimizer.steps > taken:
                self.averager.update()
        streams.step += 1
        return norm

    def backward(self, index: Tensor) -> float:
        """Add up the gradients of the cost of these rows, batch by batch; the cost.

        Every noise is drawn anew from the streams' step on, so that a second call sees the same.
        """
        streams = self.streams
        reseed(self.seed, "global", streams.step)
        micro = torch.split(index, self.recipe.batch_size)
        total, size, charged = 0.0, 0.0, 0.0
        apart = ApartGradients(self.model)
        for i, part in enumerate(micro):
            streams.step += bool(i)
            cost, count, penalty = self.cost(part)
            # A mean has its own size at once; a step of several batches gets the size of all after the last one.
            cost = cost / (count.clamp_min(TINY) if len(micro) == 1 else len(index))
            penalty = penalty * (len(part) / len(index))
            if isinstance(penalty, Tensor):
                charged += float(penalty.detach())
                if len(micro) == 1:
                    cost = cost + penalty
                else:  # the size of all is not that of the penalty, which is a mean over rows
                    apart.add(self.scaler.scale(penalty))
            total, size = total + float(cost.detach()), size + float(count)
            self.scaler.scale(cost).backward()  # type: ignore[no-untyped-call]
        if len(micro) > 1:
            if size not in (0.0, len(index)):
                total *= len(index) / size
                scale_gradients(self.model, len(index) / size)
            apart.give()
            total += charged
        return total + self.charge_weights()

    def charge_weights(self) -> float:
        """Add the gradients of what weights are charged in the cost; the charge."""
        if not any(term.how == "loss" for term in self.optimizer.terms):
            return 0.0
        penalty = self.optimizer.weights_penalty()
        if penalty.requires_grad:  # terms of strength 0 are constant
            self.scaler.scale(penalty).backward()
        return float(penalty.detach())

    def cost(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """The (weighted) sum of these rows' losses with the noise of this step, the (weighted) number of units, and what
        the outputs are charged (a mean)."""
        if self.perturbed is not None:
            self.perturbed.step = self.streams.step * self.passes
        inputs, target = self.data.train.batch(index)
        inputs, target = to_device(inputs, self.device), to_device(target, self.device)
        weight = None if self.data.train.weight is None else self.data.train.weight[index].to(self.device)
        inputs, mixing = self.disturbed(inputs)
        differentiated = "inputs" in self.needs
        if differentiated:
            inputs = inputs.detach().requires_grad_()
        with self.autocast():
            outputs = self.problem.forward(self.model, inputs)
            penalty: Tensor | float = 0.0
            if self.needs:
                second = self.problem.forward(self.model, inputs) if "reference" in self.needs else None
                given = inputs if differentiated else None
                penalty = self.optimizer.outputs_penalty(outputs, inputs=given, reference=second)
            return *self.loss_sums(outputs, target, weight, mixing), penalty

    def disturbed(self, inputs: Any) -> tuple[Any, MixingDraw | None]:
        """Inputs with the noise of this step, and how examples were mixed, where they were."""
        mixing: MixingDraw | None = None
        for noise in self.recipe.noise.acting("inputs"):
            disturbed = noise.apply(inputs, noise.size, self.streams.at("input", noise.stream))
            if noise.mixes:
                inputs, *mixing = disturbed
            else:
                inputs = disturbed
        return inputs, mixing

    def told(
        self, outputs: Tensor, target: Any, weight: Tensor | None, mixing: MixingDraw | None
    ) -> tuple[Any, Tensor | None]:
        """Targets as training compares them with outputs: smoothed, and mixed as the inputs were; and how much rows count."""
        for noise in self.recipe.noise.acting("labels"):
            target = relabelled(self.problem, noise, outputs, target, self.streams.at("label", noise.stream))
        if mixing:
            if self.problem.loss.name == "binary_cross_entropy":
                target = target.to(at_least_single(outputs).dtype)
            elif not target.is_floating_point():
                target = smooth_classes(target, outputs.shape[1], 0.0, at_least_single(outputs).dtype)
            target = mixed_targets(target, *mixing)
            weight = None if weight is None else mixed_targets(weight, *mixing)
        return target, weight

    def loss_sums(
        self, outputs: Tensor, target: Any, weight: Tensor | None, mixing: MixingDraw | None
    ) -> tuple[Tensor, Tensor]:
        """The (weighted) sum of the rows' losses, which carries gradient, and the (weighted) number of units."""
        noise = self.recipe.noise
        target, weight = self.told(outputs, target, weight, mixing)
        softened = noise.label_smoothing if mixing or noise.acting("labels") else None
        return self.problem.loss.parts(outputs, target, weight is not None, softened).sums(weight)

    @property
    def passes(self) -> int:
        return 2 if "reference" in self.needs else 1

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.recipe.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.recipe.precision))

    def set_rate(self) -> None:
        for group in self.optimizer.param_groups:
            (group["lr"],) = self.rates(group["initial_lr"], [self.optimizer.steps])

    def rates(self, base: float, steps: Sequence[int]) -> list[float]:
        """The learning rates of steps of this epoch; ``base`` is the optimizer's own."""
        if self.plateau is not None:
            base = self.plateau.rate(base)
        each, rate = self.steps_per_epoch, self.recipe.schedule.rate
        total = each * self.recipe.epochs
        return [rate(base, min(step, total - 1), total, each) for step in steps]

    def average_epoch(self, epoch: int) -> None:
        """Equal averaging takes one look an epoch, over the last share of them."""
        swa = self.recipe.averaging.swa
        if self.averager is None or not swa or epoch < round((1.0 - swa) * self.recipe.epochs):
            return
        self.averager.update()
        module = self.averager.module
        if batch_norms(module):
            # In random order: batches of sorted rows would vary less than those that training sees.
            order = torch.randperm(len(self.data.train_clean), generator=generator(self.seed, "batch_norm"))
            rows = order[: REDONE_BATCHES * self.recipe.batch_size]
            parts = [p for p in torch.split(rows, max(self.recipe.batch_size, 2)) if len(p) > 1]
            clean = (to_device(self.data.train_clean.batch(part)[0], self.device) for part in parts)
            redo_batch_norm(module, (lambda x=x: self.problem.forward(module, x) for x in clean))  # type: ignore[misc]

    def record(self, row: dict[str, float], began: float) -> None:
        """Evaluate like for like, add the row to the history, and keep the weights if they are the best."""
        watching = time.perf_counter()
        train, valid = (self.measure(self.chosen, probe) for probe in self.probes)
        self.judge(row, train, valid)
        ended = time.perf_counter()
        self.enter(row | {"seconds": ended - began, "watch_seconds": ended - watching})

    def judge(self, row: dict[str, float], train: Evaluation, valid: Evaluation) -> None:
        """Put into the row what was measured of the chosen weights, and keep them if they are the best, or the last count."""
        chosen = self.chosen
        row |= like_for_like(train, valid, self.best_rows) | weight_facts(chosen) | term_facts(self.optimizer.values())
        row["lr"] = float(self.optimizer.param_groups[0]["lr"])
        if valid.loss.mean < self.best_loss:
            self.best_loss, self.best_rows = valid.loss.mean, valid.loss.rows
        check_monitors(self.problem, self.recipe, valid.metric_rows is not None)
        epoch, stopping = int(row["epoch"]), self.recipe.stopping
        if self.waiting.update(epoch, row[stopping.monitor]) or stopping.keep == "last":
            self.keep(chosen, epoch)
        if self.plateau is not None:
            self.plateau.update(row[self.plateau.settings.monitor])
        if math.isnan(train.loss.mean):
            self.stop(Stopped.DIVERGED)

    def enter(self, row: dict[str, float]) -> None:
        self.history.append(row)
        emit("epoch", row=row, of=self.recipe.epochs)

    def measure(self, model: nn.Module, probe: Probe) -> Any:
        return evaluate(
            model, probe.batches(), self.problem.loss, self.problem.metric,
            device=self.device, forward=self.problem.forward, weights=probe.weights,
        )  # fmt: skip

    def keep(self, model: nn.Module, epoch: int) -> None:
        """These weights shall come back, unless later ones are kept in their place."""
        self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.history.facts["chosen"] = epoch

    def patience(self) -> Stopped | None:
        return Stopped.PATIENCE if self.waiting.over else None

    def stop(self, why: Stopped) -> None:
        """Let training end after this epoch; the first reason stays."""
        self.stopped = self.stopped or why

    def finish(self, stopped: str) -> Run:
        if self.perturbed is not None:
            self.perturbed.remove()
        inner = find_wrapper(self.optimizer, Regularized)
        if inner is not None:  # an exception keeps the optimizer, and so its hooks
            inner.remove()
        if self.best:
            self.model.load_state_dict(self.best)
        if self.averager is not None:
            self.averager.remove()
        self.model.eval().cpu()
        self.history.facts["stopped"] = stopped
        return Run(self.model, self.history, self.recipe, self.seed, self.problem, stopped)


@dataclass
class Shared:
    """What runs of one problem on equal rows have in common."""

    data: Prepared
    probes: tuple[Probe, Probe]
    constant: dict[str, float]
    facts: dict[str, int] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        problem: Problem,
        sample: Sample,
        probe_rows: int | None,
        device: torch.device,
        others: Iterable[Shared] = (),
    ) -> Shared:
        """The rows that are trained on and those that are evaluated, and what a constant prediction reaches. Of ``others`` that
        evaluate as many rows the validation rows are taken, which are the same.
        """
        data = with_sample(problem.prepared, sample)
        facts = {name: number for name, number in vars(sample).items() if name != "rows" and number is not None}
        probes = equal_probes(data.train_clean, data.valid, probe_rows, device, [other.probes[1] for other in others])
        return cls(data, probes, problem.constant(), facts)

    def check(self, problem: Problem, recipe: Recipe, model: nn.Module, device: torch.device) -> None:
        """Run a few rows through model and loss, once for each setting of the model."""
        settings = repr(sorted(recipe.model.items()))
        if settings not in self.checked:
            problem.check(model, device)
            self.checked.add(settings)


def rows_per_epoch(rows: int, batch_size: int, model: nn.Module) -> int:
    """All training rows, but for one that would be a batch alone where batches are normalized, and has no variance; it comes back
    later.
    """
    alone = batch_size > 1 and rows > batch_size and rows % batch_size == 1
    return rows - 1 if alone and any(isinstance(m, _BatchNorm) for m in model.modules()) else rows


def count_steps(rows: int, recipe: Recipe) -> int:
    return math.ceil(rows / (recipe.batch_size * recipe.accumulate))


def gradient_norm(model: nn.Module, clip: float = 0.0) -> float:
    """Euclidean norm of the gradient before it is clipped to ``clip``; 0 does not clip."""
    if clip:
        return float(nn.utils.clip_grad_norm_(model.parameters(), clip))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return float(unshard(nn.utils.get_total_norm([g.coalesce().values() if g.is_sparse else g for g in gradients])))


class ApartGradients:
    """Gradients that are kept apart from those of ``backward`` until these have been scaled."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[nn.Parameter, Tensor] = {}

    def add(self, cost: Tensor) -> None:
        """Add the gradients of ``cost``; its graph stays, so that others can be taken from it."""
        if not cost.requires_grad:
            return
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        found = torch.autograd.grad(cost, parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                kept = self._kept.get(parameter)
                self._kept[parameter] = gradient if kept is None else kept + gradient

    def give(self) -> None:
        for parameter, gradient in self._kept.items():
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


@torch.no_grad()
def scale_gradients(model: nn.Module, scale: float) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(scale)


def equal_probes(
    train: Source, valid: Source, most: int | None, device: torch.device, known: Sequence[Probe] = ()
) -> tuple[Probe, Probe]:
    """Fixed rows of both sides, equally many, so that their losses and errors compare: all validation rows, unless there are fewer
    training rows, or ``most`` is less. They are the same for every seed; a fitting one of the ``known`` probes is taken.
    """
    size = min(len(train), len(valid), most or len(valid))

    def some(source: Source, name: str) -> Tensor:
        return torch.randperm(len(source), generator=generator(0, "probe", name))[:size].sort().values

    same = next((probe for probe in known if probe.source is valid and len(probe) == size), None)
    return Probe(train, some(train, "train"), device), same or Probe(valid, some(valid, "valid"), device)


def regularizers(recipe: Recipe) -> dict[str, float]:
    """What of the recipe regularizes, with its strength; empty for plain training."""
    found = {f"{t.name} on {t.on}": 1.0 if t.strength is t.bound is None else t.amount for t in recipe.terms}
    found |= recipe.noise.sizes
    found |= {f"{place.kind} on {place.on}": place.amount for place in recipe.noise.places}
    found |= {"sharpness": recipe.sharpness.radius}
    if recipe.optimizer.settings.get("weight_decay"):
        found["weight_decay"] = float(recipe.optimizer.settings["weight_decay"])
    return {name: value for name, value in found.items() if value}


def check_noise(problem: Problem, recipe: Recipe) -> None:
    inputs, target = problem.prepared.train_clean.batch(torch.arange(1))
    floating = isinstance(inputs, Tensor) and inputs.is_floating_point()
    softens = mixes = False
    for noise in recipe.noise.active:
        names = noise.called
        softens, mixes = softens or noise.acts == "labels", mixes or noise.mixes
        if noise.of_classes and not problem.loss.softens:
            raise ProblemError(
                f"{names[0].replace('_', ' ').capitalize()} needs the loss cross_entropy or binary_cross_entropy; this is "
                f"{problem.loss.name!r}. Leave {names[0]} out of the recipe."
            )
        if noise.acts == "inputs" and not floating:
            raise ProblemError(
                f"Noise {names[0]!r} needs inputs that are one floating tensor. Leave [noise] {names[0]} out."
            )
        if noise.images and inputs.ndim != 4:
            raise ProblemError(
                f"Noise {names[-1]!r} needs images (rows, channels, height, width); one input has shape "
                f"{tuple(inputs.shape[1:])}. Leave [noise] {names[-1]} out."
            )
    # Targets can be averaged that are numbers, 0 and 1, or one class index for each row.
    loss, indices = problem.loss, isinstance(target, Tensor) and not target.is_floating_point()
    single = loss.name == "binary_cross_entropy" or (loss.name == "cross_entropy" and indices and target.ndim == 1)
    if mixes and not (isinstance(target, Tensor) and (not indices or single)):
        raise ProblemError(
            "Mixed examples need targets that can be mixed: numbers, probabilities, or one class index for each row under "
            "cross_entropy. Leave mixup and cutmix out of the recipe."
        )
    known = problem.prepared.train_clean.targets() if mixes or softens else None
    classes = loss.name == "cross_entropy" and known is not None and not known.is_floating_point() and known.ndim == 1
    if known is not None and classes and bool((known == loss.ignored_index).any()):
        raise ProblemError(
            "Rows that the loss ignores (class -100, or its ignore_index) have no probabilities that could be mixed or "
            "smoothed. Leave those rows, or mixup, cutmix and label_smoothing, out."
        )


def check_charges(
    problem: Problem, model: nn.Module, charges: Sequence[FunctionalPenalty], device: torch.device
) -> None:
    """Refuse penalties of outputs that this problem's outputs have no meaning for."""
    if not charges:
        return
    inputs, target = problem.prepared.train_clean.batch(torch.arange(1))
    differentiates = next((charge for charge in charges if "inputs" in charge.needs), None)
    if differentiates is not None and not (isinstance(inputs, Tensor) and inputs.is_floating_point()):
        raise ProblemError(
            f"The penalty {differentiates.name} needs inputs that are one floating tensor. Leave it out, or give the "
            "model embeddings."
        )
    of_classes = [charge for charge in charges if charge.of_classes]
    if not of_classes:
        return
    loss = problem.loss.name
    if problem.loss.criterion is not None and not problem.loss.classifies:
        way = ', or set of = "values"' if hasattr(of_classes[0], "of") else ""
        raise ProblemError(
            f"The penalty {of_classes[0].name} compares predicted classes, and the loss is {loss!r}. Leave it out{way}."
        )
    with evaluating(model):
        outputs = problem.forward(model, to_device(inputs, device))
    for charge in of_classes:
        check_axis(loss, outputs, target, charge)


def check_axis(loss: str, outputs: Any, target: Any, charge: FunctionalPenalty) -> None:
    """Refuse a penalty of classes that looks for them where the loss does not."""
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        return
    binary, along = getattr(charge, "binary", False), getattr(charge, "axis", 1)
    if loss == "binary_cross_entropy" and not binary and outputs.shape[1:].numel() > 1:
        raise ProblemError(
            f"The penalty {charge.name} takes the {outputs.shape[1:].numel()} outputs as one distribution, and the loss "
            "binary_cross_entropy as a label each. Set binary = true."
        )
    if loss != "cross_entropy" or binary or not isinstance(target, Tensor) or target.shape == outputs.shape:
        return
    by_torch = outputs.shape[:1] + outputs.shape[2:] == target.shape
    axis = outputs.ndim - 1 if not by_torch and outputs.shape[:-1] == target.shape else 1
    if along % outputs.ndim != axis:
        raise ProblemError(
            f"The penalty {charge.name} looks for classes on axis {along}, and the loss finds them on axis {axis} of "
            f"outputs of shape {tuple(outputs.shape)}. Set axis = {1 if axis == 1 else -1}."
        )


UNFIT: dict[type[torch.optim.Optimizer], str] = {
    torch.optim.LBFGS: "it evaluates the cost of the same rows several times in a step",
    torch.optim.SparseAdam: "it takes sparse gradients only",
}
"""Optimizers of torch that the training loop cannot use, and why."""


def check_optimizer_in_loop(optimizer: torch.optim.Optimizer) -> None:
    for cls, reason in UNFIT.items():
        if isinstance(optimizer, cls):
            raise RecipeError(f"{cls.__name__} does not work in fit: {reason}. Use adamw, adam or sgd.")


def relabelled(problem: Problem, noise: Noise, outputs: Tensor, target: Tensor, source: torch.Generator) -> Tensor:
    dtype, indices = at_least_single(outputs).dtype, not target.is_floating_point()
    if problem.loss.name == "binary_cross_entropy":
        return noise.labels(target, None, dtype, source)
    if (indices or noise.of_classes) and (outputs.ndim != 2 or target.ndim != 1 or not indices):
        raise ProblemError(
            f"{noise.called[0].replace('_', ' ').capitalize()} needs one class index for each row; leave {noise.called[0]} out of "
            "the recipe."
        )
    return noise.labels(target, outputs.shape[1] if indices else None, dtype, source)
