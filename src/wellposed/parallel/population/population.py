"""A population: jobs of one shape in the places of one program, each with settings, streams and an end of its own."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.core.clock import BATCHES, EVALUATION, TRAINING, spent_on
from wellposed.core.errors import listed
from wellposed.core.random import seeded, stream_seed
from wellposed.core.shared import threads_of
from wellposed.optim.lookahead import Lookahead
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import find_wrapper
from wellposed.parallel.jobs import Job, NotBegun, Outcome
from wellposed.parallel.population.batch_rows import Feed
from wellposed.parallel.population.eager import Eager
from wellposed.parallel.population.native import Program
from wellposed.parallel.population.stacks import Stacks, give_own_memory
from wellposed.parallel.population.update_rules import NO_UPDATE, Rules, ascends_itself, rates
from wellposed.training.evaluate import Evaluation, Probe, evaluations
from wellposed.training.history import Stopped
from wellposed.training.loop import Training, failure
from wellposed.training.problem import Problem
from wellposed.training.run import Run

AT_ONCE = 0.05, 2**22
"""Seconds and numbers of steps that the kernel takes in one call: a deadline is kept, and they stay in the cache."""


@dataclass
class Slot:
    """A job in a place.

    Attributes:
        number: of the job.
        reattached: parameters with the views that their gradients are; None where no gradient comes.
        error: what went wrong with this run alone.
        alone: seconds of the epoch that runs in which nothing was done for others.
        costs, norms: added up over the steps of the epoch that runs.
    """

    number: int
    place: int
    training: Training
    reattached: list[tuple[nn.Parameter, Tensor | None]] = field(default_factory=list)
    epoch: int = 0
    costs: float = 0.0
    norms: float = 0.0
    steps: int = 0
    rates: np.ndarray = field(default_factory=lambda: np.ones(0))
    error: Exception | None = None
    alone: float = 0.0

    @contextlib.contextmanager
    def by_itself(self) -> Iterator[None]:
        """What goes wrong inside ends this run and no other; see `Population.lose`."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            self.error = error
            self.training.stop(Stopped.FAILED)
        finally:
            self.alone += time.perf_counter() - began


class Population:
    """Trains jobs of equal shape, batch size and rows, an epoch of all of them at a time.

    A slot that ends frees its place for the next job that waits.

    Args:
        jobs: with their numbers.
        places: >= 1, how many are trained at once.
        begin: makes the `Training` of a job.
        engine: makes the program from the stacks.
        ended: called with each job's number and outcome.
    """

    def __init__(
        self, problem: Problem, jobs: Sequence[tuple[int, Job]], places: int,
        begin: Callable[[Job], Training], engine: Callable[[Stacks, nn.Module], Program | Eager],
        ended: Callable[[int, Outcome], None], deadline: float, says: str,
    ) -> None:  # fmt: skip
        self.problem, self.waiting, self.begin = problem, deque(jobs), begin
        self.make_engine, self.ended, self.deadline, self.says = engine, ended, deadline, says
        self.places = min(places, len(jobs))
        self.averaged = any(job.recipe.averaging.ema or job.recipe.averaging.swa for _, job in jobs)
        self.disturbed = any(job.recipe.noise.places or job.recipe.sharpness.radius for _, job in jobs)
        self.ascending = False
        self.slots: list[Slot] = []
        self.free = list(range(self.places))[::-1]
        self.total = len(jobs)
        recipe = jobs[0][1].recipe
        settings = [*sorted(recipe.model.items()), ("batch", recipe.batch_size)]
        self.shape = ", ".join(f"{name} {value}" for name, value in settings)
        self.stacks: Stacks | None = None
        self.each = math.inf
        """Seconds of a step, by the last ones."""

    # --- places

    @property
    def over(self) -> bool:
        return not self.slots and not self.waiting

    @property
    def progress(self) -> float:
        """Mean share of the epochs that is done, over all jobs."""
        done = self.total - len(self.slots) - len(self.waiting)
        return (done + sum(s.epoch / s.training.recipe.epochs for s in self.slots)) / self.total

    def fill(self, late: bool = False) -> None:
        """Let jobs that wait take free places, or none of them where it is too ``late``."""
        while self.free and self.waiting:
            number, job = self.waiting.popleft()
            if late:
                self.ended(number, NotBegun())
                continue
            try:
                with seeded(job.seed, "begin"):
                    training = self.begin(job)
                self.move_in(Slot(number, self.free[-1], training))
            except Exception as error:
                self.ended(number, failure(error, None))
                continue
            self.free.pop()

    def move_in(self, slot: Slot) -> None:
        training = slot.training
        if self.stacks is None:
            stacks = Stacks(training.model, self.places, self.averaged, self.disturbed)
            self.engine = self.make_engine(stacks, training.model)
            self.rules = Rules(self.places, list(stacks.weights))
            self.stacks = stacks
        average = None if training.averager is None else training.averager.module
        self.stacks.adopt(training.model, slot.place, average)
        training.model.train()
        self.rules.adopt(slot.place, training)
        self.ascending = self.ascending or ascends_itself(training)
        if isinstance(self.engine, Eager):
            self.rules.rule["kind"][slot.place] = NO_UPDATE
            self.ascending = self.ascending or bool(training.recipe.sharpness.radius)
        moves = dict(zip(self.engine.leaves, self.engine.moves, strict=True))
        for name, parameter in training.model.named_parameters():
            if not moves[name]:
                parameter.grad = None
            slot.reattached.append((parameter, parameter.grad))
        if isinstance(self.engine, Program):
            slot.rates = self.engine.rates(training.model)
        self.slots.append(slot)

    def remove(self, slot: Slot, stopped: str) -> Run:
        """Take a run out, with its best weights."""
        training = slot.training
        run = training.finish(stopped)
        give_own_memory(training.model)
        own = [cls.__name__ for cls in training.recipe.classes] if isinstance(self.engine, Program) else []
        run.engine = f"{self.says}, {listed(own)} by torch" if own else self.says
        self.slots.remove(slot)
        self.free.append(slot.place)
        return run

    def end(self, slot: Slot, stopped: str) -> None:
        """A run has ended by itself, or was stopped."""
        self.ended(slot.number, self.remove(slot, stopped))

    def fail(self, error: Exception) -> None:
        """What happens in a shared step happens to all of its slots."""
        for slot in list(self.slots):
            self.lose(slot, error)

    def lose(self, slot: Slot, error: Exception) -> None:
        """A run ended by an exception, which keeps what was reached."""
        self.ended(slot.number, failure(error, self.remove(slot, Stopped.FAILED)))

    # --- an epoch

    def advance(self, late: bool) -> None:
        """One epoch of every slot, evaluated; those that have ended free their places. ``late``: nothing begins any more."""
        self.fill(late)
        if not self.slots:
            return
        # Beside the kernel, which has threads of its own, torch only does small things: several threads would wait for each other.
        with threads_of(1 if isinstance(self.engine, Program) else torch.get_num_threads()):
            self.epoch(list(self.slots))

    def epoch(self, slots: list[Slot]) -> None:
        began = time.perf_counter()
        self.train(slots)
        trained = time.perf_counter()
        slots = self.unharmed(slots)
        if not slots:
            return
        with spent_on(EVALUATION):
            sides = self.measured(slots)
        watched = time.perf_counter()
        shared = (watched - began - sum(slot.alone for slot in slots)) / len(slots)
        for slot, train, valid in zip(slots, *sides, strict=True):
            training = slot.training
            row = {"epoch": slot.epoch, "cost": slot.costs / slot.steps, "grad_norm": slot.norms / slot.steps}
            with slot.by_itself():
                training.judge(row, train, valid)
            if not self.unharmed([slot]):
                continue
            # What one of them costs: its share of what was done for all of them, and what was done for it.
            row["seconds"] = shared + slot.alone
            row["watch_seconds"] = (watched - trained) / len(slots)
            training.enter(row)
            slot.epoch += 1
            stopped = training.stopped or training.patience()
            if stopped or slot.epoch >= training.recipe.epochs:
                self.end(slot, stopped or Stopped.EPOCHS)

    def unharmed(self, slots: list[Slot]) -> list[Slot]:
        """Those that go on; the others are taken out."""
        for slot in slots:
            if slot.error is not None:
                self.lose(slot, slot.error)
        return [slot for slot in slots if slot.error is None]

    def train(self, slots: list[Slot]) -> None:
        first = slots[0].training
        one = all(slot.training.data.train is first.data.train for slot in slots)
        source = first.data.train if one else self.problem.prepared.train
        feed = Feed(source, [(s.training, s.epoch) for s in slots], first.rows_per_epoch)
        lrs = np.stack([rates(s.training, s.training.optimizer.steps, feed.steps) for s in slots])
        for slot in slots:
            slot.costs, slot.norms, slot.steps, slot.alone = 0.0, 0.0, 0, 0.0
        live, step = np.arange(len(slots)), 0
        while step < feed.steps and len(live):
            chosen, began = [slots[i] for i in live], time.monotonic()
            ends = step + self.at_once(chosen, feed, step)
            with spent_on(BATCHES):
                self.step(chosen, feed, step, live, lrs[live, step:ends].T)
            now = time.monotonic()
            self.each, step = (now - began) / (ends - step), ends
            for slot in chosen if now > self.deadline else []:
                slot.training.stop(Stopped.BUDGET)
            live = np.array([i for i in live if slots[i].training.stopped is None], np.int64)
        for slot in slots:
            self.hand_back_steps(slot)
            with slot.by_itself():
                if isinstance(slot.training.optimizer, Lookahead):
                    slot.training.optimizer.synchronize()
                slot.training.average_epoch(slot.epoch)

    def at_once(self, slots: list[Slot], feed: Feed, step: int) -> int:
        """How many steps the kernel takes in one call: as many as take no longer than `AT_ONCE` seconds and numbers allow, and one
        where some slot does a part of its step itself."""
        engine = self.engine
        if not isinstance(engine, Program) or not all(self.rules.rule["kind"][slot.place] for slot in slots):
            return 1
        own = sum(bool(slot.training.recipe.noise.acting("inputs")) for slot in slots)
        numbers = feed.size * (feed.width * (len(feed.lanes) + own) + len(feed.lanes) * engine.bits_per_row)
        seconds, most = self.each, min(self.deadline - time.monotonic(), AT_ONCE[0])
        whole = feed.orders.shape[1] // feed.size - step  # the last batch may be smaller
        return max(1, min(AT_ONCE[1] // numbers, whole, int(most / seconds) if seconds > 0 else 1))

    def step(self, slots: list[Slot], feed: Feed, first: int, live: np.ndarray, lrs: np.ndarray) -> None:
        """As many steps of these slots as ``lrs`` has rows: together what can be, the rest by each one's own optimizer."""
        places = np.array([s.place for s in slots], np.int64)
        trainings = [s.training for s in slots]
        rule, charge = self.rules.now(places, lrs)
        batches, keys = [], []
        for number in range(len(lrs)):
            for training in trainings if number else []:
                training.streams.step += 1
            keys += [(t.seed, t.streams.step) for t in trainings]
            batches.append(self.engine.prepared(feed.batch(first + number, live, trainings), trainings))
        costs, norms = self.gradients(slots, places, batches, keys, rule, charge)
        together = isinstance(self.engine, Eager) and trainings[0].recipe.sharpness.radius
        if together or any(map(ascends_itself, trainings)):
            # The same batch with the same noise again, where the loss nearby is worst.
            with contextlib.ExitStack() as stack:
                for slot in slots:
                    stack.enter_context(slot.training.ascended())
                self.gradients(slots, places, batches, keys, rule, charge)
        own = rule["kind"][0] == NO_UPDATE
        for j, slot in enumerate(slots):
            training = slot.training
            if slot.error is not None:
                continue
            if own[j]:
                with slot.by_itself():
                    training.set_rate()
                    with spent_on(TRAINING, self.shape):
                        norms[0, j] = training.move(float(costs[0, j]))
            else:
                training.streams.step += 1
            for number, (total, norm) in enumerate(zip(costs[:, j].tolist(), norms[:, j].tolist(), strict=True)):
                slot.costs, slot.norms, slot.steps = slot.costs + total, slot.norms + norm, slot.steps + 1
                if not math.isfinite(total):
                    training.stop(Stopped.DIVERGED)
                    self.rules.back(slot.place, len(lrs) - number, lrs[number, j])
                    break

    def gradients(
        self, slots: list[Slot], places: np.ndarray, batches: list[Any], keys: list[tuple[int, int]], rule: np.ndarray,
        charge: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Costs and gradient norms of each step. Slots with a rule have moved; others have gradients, of their charges too."""
        trainings = [slot.training for slot in slots]
        noised: dict[int, dict[str, Tensor]] = {
            j: self.noised(slot) for j, slot in enumerate(slots) if slot.training.perturbed is not None
        }
        noisy = np.array([j in noised for j in range(len(slots))])
        if isinstance(self.engine, Eager):
            with spent_on(TRAINING, self.shape):
                costs = self.engine.step(places, trainings, batches[0], noisy)[None]
                norms = np.zeros_like(costs)
        else:
            rates = np.stack([slot.rates for slot in slots])
            bits = self.bits(keys, len(slots), batches[0].rows) if rates.any() else None
            with spent_on(TRAINING, self.shape):
                costs, norms = self.engine.step(places, trainings, batches, rule, charge, rates, bits, noisy)
        for j in map(int, np.flatnonzero(rule["kind"][0] == NO_UPDATE)):
            for parameter, gradient in slots[j].reattached:  # noise and ascents put others in their place
                parameter.grad = gradient
            if j in noised:
                through(trainings[j].model, noised[j])
            with slots[j].by_itself():
                costs[0, j] += trainings[j].charge_weights()
        return costs, norms

    def noised(self, slot: Slot) -> dict[str, Tensor]:
        """The weights that a run with noise on them computes with, laid where the program finds them."""
        training, stacks = slot.training, self.stacks
        assert training.perturbed is not None
        assert stacks is not None
        training.perturbed.step = training.streams.step
        found = training.perturbed.weights()
        with torch.no_grad():
            for name, parameter in training.model.named_parameters():
                stacks.noisy[name].at(slot.place).copy_(found.get(name, parameter))
        return found

    def bits(self, keys: list[tuple[int, int]], slots: int, rows: int) -> np.ndarray:
        """Random bits for dropout, by step and slot: once for all slots that share seed and step."""
        assert isinstance(self.engine, Program)
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        names = [name for name, _, _ in self.engine.found.sites]
        found = self.engine.bits(
            [[stream_seed(seed, "dropout", step, name) for name in names] for seed, step in number], rows
        )
        return found[[number[key] for key in keys]].reshape(-1, slots, len(names))

    def hand_back_steps(self, slot: Slot) -> None:
        """Let a run's own objects know what the kernel did in their place."""
        training, place = slot.training, slot.place
        for name, count in training.model.named_buffers():
            if name.endswith("num_batches_tracked"):
                count += slot.steps * self.engine.calls[name.rpartition(".")[0]]
                if training.averager is not None and training.recipe.averaging.ema:
                    training.averager.module.get_buffer(name).copy_(count)
        if self.rules.rule["kind"][place] == NO_UPDATE:
            return
        terms = find_wrapper(training.optimizer, Regularized)
        assert terms is not None
        steps = int(self.rules.steps[place])
        taken = steps - terms.steps
        terms.steps = steps
        training.optimizer.param_groups[0]["lr"] = float(self.rules.last[place])
        if training.averager is not None and training.recipe.averaging.ema:
            training.averager.count += taken

    def measured(self, slots: list[Slot]) -> tuple[list[Evaluation], list[Evaluation]]:
        """Both sides of every slot, by the weights that would be used."""
        places = np.array([s.place for s in slots], np.int64)
        averaged = np.array([s.training.chosen is not s.training.model for s in slots])
        sides: tuple[list[Evaluation], list[Evaluation]] = ([], [])
        for side, found in enumerate(sides):
            measured: dict[int, Evaluation] = {}
            for probe in {id(s.training.probes[side]): s.training.probes[side] for s in slots}.values():
                mine = np.array([j for j, s in enumerate(slots) if s.training.probes[side] is probe], np.int64)
                measured.update(zip(mine.tolist(), self.evaluated(probe, places[mine], averaged[mine]), strict=True))
            found += [measured[j] for j in range(len(slots))]
        return sides

    def evaluated(self, probe: Probe, places: np.ndarray, averaged: np.ndarray) -> list[Evaluation]:
        """The slots in these places on the rows of a probe."""
        parts = list(probe.batches())
        inputs = torch.cat([x for x, _ in parts]) if len(parts) > 1 else parts[0][0]
        target = torch.cat([y for _, y in parts]) if len(parts) > 1 else parts[0][1]
        outputs = self.engine.outputs(places, averaged, inputs)
        return evaluations(outputs, target, self.problem.loss, self.problem.metric, probe.weights)


def through(model: nn.Module, noised: dict[str, Tensor]) -> None:
    """Turn gradients by disturbed weights into those by the weights themselves."""
    grads = {name: grad for name in noised if (grad := model.get_parameter(name).grad) is not None}
    # Sums of products have the very gradients that torch could be handed; handed them, it imports an algebra for their shapes.
    products = [(noised[name] * grad).sum() for name, grad in grads.items()]
    found = (
        torch.autograd.grad(products, [model.get_parameter(name) for name in grads], allow_unused=True) if grads else ()
    )
    for grad, gradient in zip(grads.values(), found, strict=True):
        if gradient is not None:
            grad.copy_(gradient)
