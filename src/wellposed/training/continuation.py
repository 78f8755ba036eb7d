"""Trainings that go on from one state: the same weights, the same optimizer's memory, the same order of rows.

A run is a function of its seed, so that the state at any of its epochs is reached again by training up to it. A loop of one's own
is at its state already: its network and optimizer are copied, and nothing of them is touched.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from wellposed.core.errors import DataError, InputError, described
from wellposed.core.random import seeded
from wellposed.data.arrays import Items, rows_of
from wellposed.data.data import Data
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import find_wrapper, unwrap_optimizer
from wellposed.recipe.recipe import Recipe
from wellposed.training.device import resolve_device
from wellposed.training.evaluate import BATCH
from wellposed.training.history import History, Stopped
from wellposed.training.loop import MakeOptimizer, Training
from wellposed.training.problem import Problem
from wellposed.training.run import Run
from wellposed.training.sides import drawn_rows, watched_rows
from wellposed.training.watch import Watch

FINISHED = 0.1
"""A learning rate below this share of its largest is that of a schedule that has ended: training goes on at this share."""
CLOSE = 1e-3
"""Relative difference of two losses after which a run counts as trained in another way than its recipe says."""


@dataclass(frozen=True)
class TrainingState:
    """The state from which a training goes on: ``state_dict`` of the network, and of its `Regularized` or its bare optimizer of
    class ``kind``, after ``epoch`` epochs. ``rate`` is the learning rate to go on with, as a share of the recipe's.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    kind: type[torch.optim.Optimizer]
    epoch: int
    rate: float

    def enter(self, training: Training) -> None:
        """Bring a training that was just begun to this state; of an optimizer of another class the memory is left out."""
        training.model.load_state_dict(self.weights)
        optimizer = find_wrapper(training.optimizer, Regularized)
        assert optimizer is not None
        fresh = optimizer.state_dict()
        groups = [[len(group["params"]) for group in state["param_groups"]] for state in (self.optimizer, fresh)]
        fits = type(unwrap_optimizer(optimizer)) is self.kind and groups[0] == groups[1]
        own = self.optimizer.get("wellposed", {**fresh["wellposed"], "steps": self.epoch * training.steps_per_epoch})
        optimizer.load_state_dict({**fresh, "state": self.optimizer["state"] if fits else {}, "wellposed": own})


@dataclass(frozen=True)
class Continuation:
    """A state with what is needed to go on from it.

    Attributes:
        recipe: of what was trained so far.
        make: ``make(recipe)`` gives the maker of its optimizer; None: the recipe's own.
        sampler: the row numbers of an epoch, by the global generators; None: all rows, shuffled.
    """

    problem: Problem
    recipe: Recipe
    seed: int
    state: TrainingState
    make: Callable[[Recipe], MakeOptimizer | None] = lambda recipe: None
    sampler: Callable[[int], Tensor] | None = None

    def go_on(
        self, recipe: Recipe, epochs: int, seed: int, *, device: str | torch.device = "auto", deadline: float = math.inf
    ) -> Run:
        """Train on for so many epochs with a recipe; another seed than the start's draws another order and other noise.

        The learning rate is the state's share of the recipe's, constant: where a schedule had ended, a tenth of its largest.
        """
        rate = recipe.optimizer.lr * self.state.rate
        planned = recipe.replace(
            epochs=self.state.epoch + epochs, optimizer={"lr": rate}, schedule={"name": "constant", "warmup": 0.0}
        )
        with seeded(seed, "begin"):
            training = Training.begin(
                self.problem, planned, seed, resolve_device(device), deadline, None, None, self.make(planned)
            )
            self.state.enter(training)
        training.sampler = self.sampler
        why: str = Stopped.EPOCHS
        for epoch in range(self.state.epoch, planned.epochs):
            with seeded(seed, "begin", epoch):
                training.epoch(epoch)
            if training.stopped:
                why = training.stopped
                break
        return training.finish(why)

    @property
    def here(self) -> Run:
        """The network as it is at this state."""
        model = self.problem.build(self.recipe.model, self.seed)
        model.load_state_dict(self.state.weights)
        return Run(model.eval(), History(), self.recipe, self.seed, self.problem)

    def losses(self) -> np.ndarray:
        """``(rows,)``: the validation loss of each row at this state."""
        return self.here.losses(self.problem.prepared.valid).rows.double().numpy()


def shuffled(start: Continuation) -> Continuation:
    """The same with all rows in another order in each epoch."""
    return replace(start, sampler=None)


def begun_anew(start: Continuation) -> Continuation:
    """The same with weights as torch's layers draw them, and an optimizer that remembers nothing: from some states, such as units
    that are silent on every row, no step leads back.
    """
    with seeded(start.seed, "anew"):
        model = start.problem.build(start.recipe.model, start.seed)
        for module in model.modules():
            draw = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if draw is not None:
                draw()
            elif own := [name for name, _ in module.named_parameters(recurse=False)]:
                raise InputError(
                    f"{type(module).__name__} has no reset_parameters(), so that {own[0]!r} cannot be drawn anew."
                )
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    memory = {"state": {}, "param_groups": start.state.optimizer["param_groups"]}
    return replace(start, state=replace(start.state, weights=weights, optimizer=memory, rate=1.0))


def standardized(start: Continuation) -> Continuation:
    """The same begun anew, on inputs that are standardized by up to 1,024 training rows: each column, or a whole image."""
    source, plain = start.problem.prepared.train_clean, start.problem.forward
    inputs = source.batch(torch.arange(min(len(source), BATCH)))[0]
    x = inputs[0] if isinstance(inputs, (tuple, list)) else inputs
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(f"Inputs that can be standardized are a tensor of floating-point numbers, not {described(x)}.")
    columns = [0] if x.ndim == 2 else list(range(x.ndim))
    mean, spread = x.mean(columns, keepdim=True), x.std(columns, keepdim=True, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))

    def forward(model: nn.Module, batch: Any) -> Any:
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        scaled = (first - mean.to(first)) / spread.to(first)
        return plain(model, type(batch)([scaled, *batch[1:]]) if isinstance(batch, (tuple, list)) else scaled)

    return begun_anew(_with(start, forward=forward))


def rescored(start: Continuation) -> Continuation:
    """The same without the activation that the network ends in, so that the loss gets the scores that it takes."""
    shares = start.problem.loss.of_shares
    if start.problem.loss.name == "NLLLoss":
        raise InputError("Minus a probability and minus its logarithm cannot be compared: this change is not tried.")
    source, plain = start.problem.prepared.train_clean, start.problem.forward
    whole, bare = (start.problem.build(start.recipe.model, start.seed).eval() for _ in range(2))
    last = [name for name, module in bare.named_modules() if not any(True for _ in module.children())][-1]

    def without(model: nn.Module) -> nn.Module:
        if not last:
            raise InputError("A network of one module has no activation to leave out.")
        model.set_submodule(last, nn.Identity())
        return model

    some = source.batch(torch.arange(min(len(source), 8)))[0]
    without(bare)
    for model in (whole, bare):
        model.load_state_dict(start.state.weights)
    last_module: Any = whole.get_submodule(last)
    with torch.no_grad():
        scores, outputs = plain(bare, some), plain(whole, some)
        ends = isinstance(scores, Tensor) and torch.equal(last_module(scores), outputs)
    if not ends or any(True for _ in last_module.parameters()):
        raise InputError(f"The network does not end in {last!r}.")
    make = start.problem.model

    @wraps(make)
    def made(*given: Any, **settings: Any) -> nn.Module:
        return without(make(*given, **settings))

    def forward(model: nn.Module, batch: Any) -> Any:
        scores = plain(model, batch)
        return scores.sigmoid() if shares == "binary" else scores.softmax(-1) if shares == "classes" else scores

    return _with(start, forward=forward, model=made)


def _with(start: Continuation, **parts: Any) -> Continuation:
    """The same with other parts of its problem; its data are those that were prepared."""
    problem = copy.copy(start.problem)
    vars(problem).update(parts)
    return replace(start, problem=problem)


def continue_from(source: Any, at: int | None = None) -> Continuation:
    """The start to go on from: a Run after ``at`` epochs (None for all), or the Watch of a loop of one's own, where it is now."""
    if isinstance(source, Run):
        return _of_run(source, len(source.history) if at is None else at)
    if isinstance(source, Watch):
        if at is not None:
            raise InputError("A watch can be continued only from where its loop is; leave at= out.")
        return _of_watch(source)
    raise InputError(f"A training goes on from a Run or a Watch; it was given {described(source)}.")


def _of_run(run: Run, at: int) -> Continuation:
    if not 1 <= at <= len(run.history):
        raise InputError(f"The run has {len(run.history)} epochs, so it cannot go on after {at}.")
    rows = run.history.facts.get("train_rows")
    known = len(run.problem.prepared.train)
    with seeded(run.seed, "begin"):
        training = Training.begin(
            run.problem, run.recipe, run.seed, torch.device("cpu"), math.inf, rows if rows and rows < known else None
        )
    for epoch in range(at):
        with seeded(run.seed, "begin", epoch):
            training.epoch(epoch)
    reached, was = (history["train_loss"][at - 1] for history in (training.history, run.history))
    if not abs(reached - was) <= CLOSE * max(abs(was), 1e-6):
        raise InputError(
            f"The run cannot be continued: its recipe leads to a training loss of {reached:.4g} after {at} epochs, and it had "
            f"{was:.4g}. It was trained in another way, such as with optimizer=; go on from a Watch of it instead."
        )
    optimizer = find_wrapper(training.optimizer, Regularized)
    assert optimizer is not None
    state = TrainingState(
        {name: value.detach().clone() for name, value in training.model.state_dict().items()},
        copy.deepcopy(optimizer.state_dict()),
        type(unwrap_optimizer(optimizer)),
        at,
        _share(training.optimizer.param_groups, run.recipe.optimizer.lr),
    )
    training.finish(Stopped.EPOCHS)
    return Continuation(run.problem, run.recipe, run.seed, state)


def _share(groups: Sequence[dict[str, Any]], largest: float) -> float:
    """The present learning rate as a share of the largest, but for that of a schedule that has ended."""
    return max(float(groups[0]["lr"]) / largest, FINISHED) if largest > 0 else 1.0


def _of_watch(watch: Watch) -> Continuation:
    if watch.optimizer is None:
        raise InputError(
            "A watch can be continued only if it knows its optimizer; write wp.watch(..., optimizer=optimizer)."
        )
    optimizer = watch.optimizer
    bare, regularized = unwrap_optimizer(optimizer), find_wrapper(optimizer, Regularized)
    said = [float(bare.param_groups[0].get(key, 0.0) or 0.0) for key in ("lr", "initial_lr", "max_lr")]
    # A schedule that a loop writes by hand leaves the rate at which it ended, and nothing else.
    largest = max(said + [float(rate) for rate in watch.history["lr"] if math.isfinite(rate)])
    parameters = inspect.signature(type(bare)).parameters
    group = {
        key: value
        for key, value in bare.param_groups[0].items()
        if key in parameters and key not in ("lr", "params") and value != parameters[key].default and value is not None
    }
    if "weight_decay" in parameters:  # a recipe's is 0 unless it says otherwise
        group["weight_decay"] = bare.param_groups[0].get("weight_decay", 0.0)
    given = watch.given["train"]
    sampler = _own_sampler(given)
    recipe = Recipe(
        optimizer={"name": type(bare), "lr": largest, **group},
        terms=list(regularized.terms) if regularized is not None else [],
        batch_size=_batch_size(given, watch.history.facts["train_rows"], sampler),
        schedule={"name": "constant"},
    )
    state = TrainingState(
        {name: value.detach().cpu().clone() for name, value in watch.model.state_dict().items()},
        copy.deepcopy((regularized or bare).state_dict()),
        type(bare),
        max(1, len(watch.history)),
        _share(bare.param_groups, largest),
    )
    return Continuation(watched_problem(watch), recipe, watch.seed, state, _maker(watch.model, bare, recipe), sampler)


def _batch_size(given: Any, rows: int, sampler: Callable[[int], Tensor] | None) -> int:
    """Rows of a loader's batch: said, or those of an epoch by its batches; where nothing is known a tenth of the rows."""
    if size := getattr(given, "batch_size", None):
        return int(size)
    if sampler is not None:
        with seeded(0, "watch"), suppress(TypeError):  # some have no length
            return math.ceil(len(sampler(0)) / len(given))
    return min(128, max(1, rows // 10))


def _own_sampler(given: Any) -> Callable[[int], Tensor] | None:
    """What draws the rows of a loader: rows that are repeated, left out or weighted are so in a continuation too."""
    if not isinstance(given, DataLoader):
        return None
    if not isinstance(getattr(given.batch_sampler, "sampler", None), SequentialSampler):
        with suppress(DataError):
            rows_of(given, (DistributedSampler,))
            return None
    return lambda epoch: drawn_rows(given, "train", epoch)


def _maker(model: nn.Module, bare: torch.optim.Optimizer, base: Recipe) -> Callable[[Recipe], MakeOptimizer | None]:
    """Makers of the loop's own optimizer, with its parameter groups; of another class, or settings, the recipe's."""
    if [[*map(id, group["params"])] for group in bare.param_groups] == [[*map(id, model.parameters())]]:
        return lambda recipe: None  # as a recipe builds it, one group in the network's order
    places = {id(p): at for at, p in enumerate(model.parameters())}
    known = inspect.signature(type(bare)).parameters
    groups = [
        (
            {key: value for key, value in group.items() if key in known},
            [places[id(p)] for p in group["params"] if id(p) in places],
        )
        for group in bare.param_groups
    ]

    def make_for(recipe: Recipe) -> MakeOptimizer | None:
        if recipe.replace(optimizer={"lr": base.optimizer.lr}).optimizer != base.optimizer:
            return None
        scale = recipe.optimizer.lr / base.optimizer.lr

        def make(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
            kind: Any = type(bare)
            rate = scale * base.optimizer.lr
            return kind([{**group, "lr": rate, "params": [parameters[at] for at in held]} for group, held in groups])  # type: ignore[no-any-return]

        return make

    return make_for


def watched_problem(watch: Watch) -> Problem:
    """The problem that a watched loop solves: copies of its network as it is now, its loss, its data."""
    model = watch.model

    def make() -> nn.Module:
        return copy.deepcopy(model).cpu()

    train, valid = (_pairs(watch, name) for name in watch.given)
    metric = None if watch.metric is None else watch.metric
    return Problem(
        make, watch.loss, Data(train=train, valid=valid), metric=metric, forward=watch.forward, name="watched"
    )


def _pairs(watch: Watch, name: str) -> Any:
    """Rows as (whole batch, target), so that the watch's own forward reads them; of training rows that a sampler of somebody's
    own draws all, since it gives their numbers."""
    given = watch.given[name]
    if isinstance(given, DataLoader):
        kept = None if name == "train" and _own_sampler(given) else watched_rows(given, name)
        data = given.dataset if kept is None else torch.utils.data.Subset(given.dataset, kept.tolist())
        items = Items(data, given.collate_fn)
    elif isinstance(given, (tuple, list)) and len(given) == 2 and all(hasattr(part, "shape") for part in given):
        items = Items(torch.utils.data.TensorDataset(*map(torch.as_tensor, given)))
    else:
        items = Items(given)

    def collate(examples: list[Any]) -> tuple[Any, Any]:
        batch = items.collate(examples)
        return batch, watch.target_of(batch)

    return DataLoader(items.dataset, collate_fn=collate)
