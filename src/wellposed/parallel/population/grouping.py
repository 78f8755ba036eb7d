"""Which jobs can be trained together, by which program, and which alone; and the order in which epochs are trained."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from wellposed.core.errors import WellposedError
from wellposed.core.preserve import random_states_kept
from wellposed.core.progress import emit
from wellposed.core.random import seeded
from wellposed.losses.per_example import Loss
from wellposed.optim.averaging import batch_norms
from wellposed.optim.schedules import Custom
from wellposed.parallel.jobs import Conditions, Job, NotBegun, Outcome, Outcomes, Standing
from wellposed.parallel.population.compiled import Kernel, kernel, load_kernel
from wellposed.parallel.population.eager import Eager
from wellposed.parallel.population.lowering import Lowered, lower
from wellposed.parallel.population.native import Program
from wellposed.parallel.population.population import Population
from wellposed.parallel.population.stacks import Stacks
from wellposed.parallel.population.tracing import NotStackable, node_shape, trace
from wellposed.parallel.population.update_rules import confidence
from wellposed.penalties.base import Term
from wellposed.recipe.recipe import Recipe
from wellposed.training.device import resolve_device
from wellposed.training.evaluate import call
from wellposed.training.history import Stopped
from wellposed.training.loop import Shared, Training, failure
from wellposed.training.problem import Problem
from wellposed.training.resampling import Sample

BYTES = 2**31
"""Memory for the stacks of one population; more jobs wait for a place."""
COPIES = 6
"""Of the weights of a slot: they, gradients, two moments, an average, the best."""
SMALL_CONVOLUTIONS = 50_000
"""Multiplications of all convolutions for an example, below which they gain from being stacked on a CPU: measured 2.3 times as
fast together with 23,000, 1.2 and 1.0 with 83,000 and 85,000, 0.6 with 282,000."""


@dataclass(frozen=True)
class Shape:
    """What jobs of one population have in common: settings of the model, batch size, how many rows, whether each has rows of
    its own, and whether all look for a worst point nearby by themselves."""

    settings: str
    batch_size: int
    rows: int | None
    own_rows: bool
    sharpness: bool
    eager: bool
    why: str
    """What keeps them from the compiled kernel; empty where nothing does."""


@dataclass
class SingleJob:
    """A job that is trained by itself, an epoch at a time; the same interface as `Population`."""

    number: int
    job: Job
    begin: Any
    ended: Any
    says: str
    training: Training | None = None
    epoch: int = 0
    over: bool = False

    @property
    def progress(self) -> float:
        return self.epoch / self.job.recipe.epochs

    @property
    def slots(self) -> list[Any]:
        """Those that are in training."""
        return [] if self.over or self.training is None else [self]

    def advance(self, late: bool) -> None:
        """One epoch, under random state of its own; ``late``: what has not begun does not begin any more."""
        if late and self.training is None:
            self.over = True
            self.ended(self.number, NotBegun())
            return
        with seeded(self.job.seed, "begin", self.epoch):
            try:
                training = self.training = self.training or self.begin(self.job)
            except WellposedError as error:
                self.over = True
                self.ended(self.number, error)
                return
            training.epoch(self.epoch)
        self.epoch += 1
        stopped = training.stopped or training.patience()
        if stopped or self.epoch >= self.job.recipe.epochs:
            self.end(self, stopped or Stopped.EPOCHS)

    def end(self, slot: Any, stopped: str) -> None:
        """It has ended by itself, or was stopped."""
        assert self.training is not None
        self.over = True
        run = self.training.finish(stopped)
        run.engine = self.says
        self.ended(self.number, run)

    def fail(self, error: Exception) -> None:
        """It ended by an exception, which keeps what was reached."""
        self.over = True
        run = None if self.training is None else self.training.finish(Stopped.FAILED)
        self.ended(self.number, failure(error, run))


def train_population(
    problem: Problem, jobs: Sequence[Job], conditions: Conditions, compiled: bool = True
) -> list[Outcome]:
    """Train every job in this process; those that allow it together.

    Jobs of equal model settings, batch size and rows share one program; where a program has no place left, jobs wait for
    one. Programs take turns, the one that is furthest behind first, so that all jobs come on alike. What cannot be stacked is
    trained alone; ``run.engine`` says how, and why.

    Args:
        compiled: whether the compiled kernel may be used; False is torch's own operations.
    Returns:
        The outcomes in the order of ``jobs``; after Ctrl-C those of the jobs that had begun.
    Raises:
        KeyboardInterrupt: Ctrl-C came when all jobs had ended and been told; no run could say ``interrupted``.
    """
    return PopulationTrainer(problem, jobs, conditions, compiled).run()


def why_alone(problem: Problem, jobs: Sequence[Job], device: torch.device) -> dict[int, str]:
    """The jobs that cannot be trained together with others, by number, and why."""
    together = PopulationTrainer(problem, jobs, Conditions(device))
    return {group.number: group.says for group in together.groups if isinstance(group, SingleJob)}


class PopulationTrainer:
    """All jobs, sorted into populations."""

    def __init__(self, problem: Problem, jobs: Sequence[Job], conditions: Conditions, compiled: bool = True) -> None:
        self.compiled = compiled
        self.problem, self.jobs, self.conditions = problem, jobs, conditions
        self.device = resolve_device(conditions.device)
        self.told = Outcomes(len(jobs), conditions.done)
        self.untold: list[int] = []
        self.shared: dict[Sample, Shared] = {}
        self.models: dict[str, Template | str] = {}
        self.groups: list[Population | SingleJob] = self.sorted_out()

    def run(self) -> list[Outcome]:
        """Advance the group that is furthest behind, until nothing is left."""
        begun = interrupted = False
        try:
            while waiting := [group for group in self.groups if not group.over]:
                group = min(waiting, key=lambda g: g.progress)
                try:
                    with random_states_kept():
                        group.advance(late=begun and time.monotonic() > self.conditions.deadline)
                    begun = True
                except Exception as error:
                    group.fail(error)
                self.tell()
                self.judge()
        except KeyboardInterrupt:
            for group in self.groups:
                for slot in list(group.slots):
                    group.end(slot, Stopped.INTERRUPTED)
            interrupted = True
        self.tell()
        return self.told.so_far(interrupted)

    def judge(self) -> None:
        """Ask which of those that are in training shall stop."""
        running = {s.number: (group, s) for group in self.groups for s in group.slots if s.training.history.rows}
        emit("population", training=len(running), done=len(self.told.outcomes), of=len(self.jobs))
        if self.conditions.cull is None or not running:
            return
        standings = [Standing(n, s.training.history, s.training.recipe.epochs) for n, (_, s) in sorted(running.items())]
        for number in self.conditions.cull(standings):
            if number in running:
                group, slot = running[number]
                group.end(slot, Stopped.CULLED)
        self.tell()

    def ended(self, number: int, outcome: Outcome) -> None:
        self.told.outcomes[number] = outcome
        self.untold.append(number)

    def tell(self) -> None:
        """Say which jobs have ended: not in the middle of a group's work, whose failure an error there is not."""
        while self.untold:
            number = self.untold.pop(0)
            self.told.finish_job(number, self.told.outcomes[number])

    def rows(self, sample: Sample) -> Shared:
        """What jobs on equal rows share."""
        if sample not in self.shared:
            others = self.shared.values()
            self.shared[sample] = Shared.of(self.problem, sample, self.conditions.probe_rows, self.device, others)
        return self.shared[sample]

    def begin(self, job: Job) -> Training:
        asked, shared = self.conditions, self.rows(job.sample)
        return Training.begin(
            self.problem, job.recipe, job.seed, self.device, asked.deadline, job.rows, asked.probe_rows, shared=shared
        )

    def sorted_out(self) -> list[Population | SingleJob]:
        """A population for each shape, in the order of the first job of each; and those that are trained alone."""
        shapes: dict[Shape, list[tuple[int, Job]]] = defaultdict(list)
        groups: list[SingleJob] = []
        for number, job in enumerate(self.jobs):
            try:
                shapes[self.shape(job)].append((number, job))
            except NotStackable as reason:
                groups.append(SingleJob(number, job, self.begin, self.ended, f"alone: {reason}"))
            except WellposedError:  # it cannot be trained: it says why when it begins
                groups.append(SingleJob(number, job, self.begin, self.ended, "alone"))
        return [*(self.population(shape, members) for shape, members in shapes.items()), *groups]

    def shape(self, job: Job) -> Shape:
        """Which population a job belongs to.

        Raises:
            NotStackable: to none.
        """
        recipe = job.recipe
        check_recipe(recipe)
        check_problem(self.problem, self.rows(job.sample))
        settings = repr(sorted(recipe.model.items()))
        if settings not in self.models:
            try:
                self.models[settings] = Template.of(self.problem, recipe, self.device)
            except NotStackable as reason:
                self.models[settings] = str(reason)
            except WellposedError:
                self.models[settings] = "its model cannot be built"
        template = self.models[settings]
        if isinstance(template, str):
            raise NotStackable(template)
        if recipe.batch_size == 1 and batch_norms(template.model):
            raise NotStackable("a batch of one cannot be normalized")
        terms = recipe.build_terms(total_steps=1)  # with their schedules
        found = template.found
        classes = self.problem.loss.name == "cross_entropy" and found is not None and found.outputs > 1
        others = [term for term in terms if not (classes and confidence(term))]
        by_torch = next((why for noise in recipe.noise.active if (why := noise.uncompiled(classes))), "")
        why = template.why or by_torch or ("a penalty looks at outputs" if any(map(needs, others)) else "")
        eager = template.found is None or not self.compiled or bool(why)
        by_hand = eager or bool(recipe.noise.places) or any(term.how == "loss" for term in others)
        together = bool(recipe.sharpness.radius) and by_hand
        return Shape(settings, recipe.batch_size, job.rows, job.sample.own, together, eager, why)

    def population(self, shape: Shape, members: list[tuple[int, Job]]) -> Population:
        template = self.models[shape.settings]
        assert isinstance(template, Template)
        weights = sum(p.numel() * p.element_size() for p in template.model.parameters())
        places = max(1, min(len(members), BYTES // max(1, COPIES * weights)))
        largest = min(shape.batch_size, len(self.rows(members[0][1].sample).data.train))

        def engine(stacks: Stacks, model: nn.Module) -> Program | Eager:
            if shape.eager or template.found is None or template.kernel is None:
                return Eager(template.module, stacks, self.device)
            threads = torch.get_num_threads()
            loss = self.problem.loss.compiled()
            assert loss is not None  # else there is no template with a kernel
            return Program(template.kernel, template.found, stacks, model, loss, largest, threads)

        how = "torch" if shape.eager else "compiled"
        why = f": {shape.why}" if shape.why and self.compiled else ""
        return Population(
            self.problem, members, places, self.begin, engine, self.ended, self.conditions.deadline,
            f"{how} population of {places}{why}",
        )  # fmt: skip


@dataclass
class Template:
    """A model of some settings as a graph, and as operations of the kernel where it has a place for them."""

    model: nn.Module
    module: fx.GraphModule
    found: Lowered | None
    kernel: Kernel | None
    why: str = ""

    @classmethod
    def of(cls, problem: Problem, recipe: Recipe, device: torch.device) -> Template:
        model = problem.build(recipe.model, seed=0).to(device)
        inputs, target = problem.prepared.train_clean.batch(torch.arange(min(2, len(problem.prepared.train_clean))))
        if not isinstance(inputs, Tensor) or len(inputs) < 2:
            raise NotStackable("its inputs are not one tensor")
        module = trace(model, inputs.to(device))
        types = {p.dtype for p in model.parameters()} | {b.dtype for b in model.buffers() if b.is_floating_point()}
        if len(types) != 1:
            raise NotStackable("its weights have several types")
        known = problem.prepared.train.targets()  # the kernel looks up what they point to: all of them are checked
        try:
            built = native(problem.loss, inputs, target if known is None else known, module, types.pop(), device)
        except NotStackable as reason:
            if device.type == "cpu" and convolution_work(module) > SMALL_CONVOLUTIONS:
                raise NotStackable("its convolutions fill a CPU alone") from reason
            return cls(model, module, None, None, str(reason))
        return cls(model, module, *built)


def convolution_work(module: fx.GraphModule) -> int:
    """Multiplications of a traced model's convolutions for one example."""
    work = 0
    for node in module.graph.nodes:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            work += math.prod((node_shape(node) or ())[1:]) * layer.weight[0].numel()
    return work


def native(
    loss: Loss, inputs: Tensor, target: Any, module: fx.GraphModule, dtype: torch.dtype, device: torch.device
) -> tuple[Lowered, Kernel]:
    """The operations and the kernel for them.

    Raises:
        NotStackable: the kernel has no place for the model, the loss or the machine.
    """
    built = kernel() if device.type == "cpu" else None
    if built is None:
        why = f": {load_kernel()}" if device.type == "cpu" else ""
        raise NotStackable(f"there is no compiled kernel for {device.type}{why}")
    if dtype not in built.gemm or not inputs.is_floating_point():
        raise NotStackable(f"weights are {dtype}, inputs {inputs.dtype}")
    if loss.compiled() is None:
        known = loss.criterion is not None
        raise NotStackable(f"the kernel has no loss {loss!s}" if known else "the loss is a function of your own")
    found = lower(module)
    classes = loss.name == "cross_entropy"
    if not isinstance(target, Tensor) or (classes and (target.is_floating_point() or target.ndim != 1)):
        raise NotStackable("the targets are not one class index a row")
    if classes and target.numel() and int(target.max()) >= found.outputs:
        raise NotStackable("a class has no output")
    if not classes and target[0].numel() != found.outputs:
        raise NotStackable("targets and outputs have different shapes")
    return found, built


def needs(term: Term) -> tuple[str, ...]:
    """What of a forward pass a term looks at."""
    return tuple(getattr(term.charge, "needs", ()))


def check_recipe(recipe: Recipe) -> None:
    """Refuse what only a training loop of its own can do.

    Raises:
        NotStackable: with the reason.
    """
    if recipe.accumulate > 1:
        raise NotStackable("it accumulates gradients")
    if recipe.precision != "float32":
        raise NotStackable(f"it trains in {recipe.precision}")
    if isinstance(recipe.schedule.name, Custom):
        raise NotStackable("its schedule is a function of your own")
    for place in recipe.noise.places:
        if place.build().noise.acts != "weights":
            raise NotStackable(f"{place.kind} is drawn inside the model")
    for term in recipe.build_terms():
        looked = sorted(set(needs(term)) - {"outputs"})
        if looked:
            raise NotStackable(f"the penalty {term.charge.name} looks at {' and '.join(looked)}")


def check_problem(problem: Problem, shared: Shared) -> None:
    """Refuse data that are not at hand, and a forward of somebody's own.

    Raises:
        NotStackable: with the reason.
    """
    if problem.forward is not call:
        raise NotStackable("the problem has a forward of its own")
    for source in (shared.data.train, shared.data.train_clean, shared.data.valid):
        if source.arrays is None or not isinstance(source.arrays.inputs, Tensor):
            raise NotStackable("its rows are fetched one by one")
    if problem.loss.name == "cross_entropy":
        targets = shared.data.train.targets()
        if targets is not None and not targets.is_floating_point() and targets.numel() and int(targets.min()) < 0:
            raise NotStackable("some rows do not count")
