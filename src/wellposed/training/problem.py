"""`Problem`: a model, a loss and data. What you have; fixed during a study."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.checks import checked
from wellposed.core.errors import ProblemError, TargetError, described, did_you_mean, listed
from wellposed.core.numbers import to_python
from wellposed.core.random import seeded
from wellposed.data.arrays import Source, to_device
from wellposed.data.data import Data, Prepared
from wellposed.data.target_columns import TargetColumns
from wellposed.losses.distributions import Density
from wellposed.losses.metrics import default_metric, in_own_terms, in_target_units
from wellposed.losses.metrics import metric as named_metric
from wellposed.losses.per_example import Loss
from wellposed.losses.proper_scores import OfDistribution
from wellposed.losses.score import Score
from wellposed.training.evaluate import Forward, call, evaluating
from wellposed.training.measures import constant_facts


@checked
class Problem:
    """What you have: a function that builds the model, a loss and data.

    Args:
        model: ``make_net(**settings)`` or ``make_net(data, **settings)``, giving an ``nn.Module``; ``data`` then has
            ``features``, ``shape`` and ``outputs``.
        loss: a name (``cross_entropy``, ``binary_cross_entropy``, ``squared_error``, ``absolute_error``, ``huber``,
            ``quantile``, ``poisson``, ``gaussian``, ``student_t``, ``gaussian_mixture``, ``quantiles``, ``ordinal``), with its
            number where it takes one (``"huber:0.5"``, ``wp.Quantile(0.9)``), or a callable;
            see `wellposed.losses.per_example.Loss`. Of a torch cross-entropy with class weights and label smoothing the
            smoothing is weighed by the class of the example, as the recipe's is.
        data: `Data`, or ``(X, y)`` of which a fifth is then held out for validation.
        space: settings of the model that a search may vary, ``{"width": [64, 128]}``; where the factory has no default of its
            own, the middle value is it.
        metric: a metric's name, with its number where it takes one (``"top_k_accuracy:5"``); see
            `wellposed.losses.metrics`. By default accuracy where the loss classifies, R2 where it is squared error, else none.
        forward: ``forward(model, inputs) -> outputs``, where a plain call is not right.
        name: what reports call it.
        warnings: sentences about the data that a report repeats.
        sha256: of the data, where it is known; else it is computed of their tensors.
    Raises:
        ProblemError, InputError: the parts cannot be used.
    """

    def __init__(
        self,
        model: Callable[..., nn.Module],
        loss: Any,
        data: Any,
        *,
        space: Mapping[str, Sequence[Any]] | None = None,
        metric: Any = None,
        forward: Forward = call,
        name: str = "problem",
        warnings: Sequence[str] = (),
        sha256: str | None = None,
    ) -> None:
        if isinstance(model, nn.Module) or not callable(model):
            raise ProblemError(
                "model= must be a factory, so that each run starts from its own seed: a function or class that returns "
                f"an nn.Module; it was given {type(model).__name__}. Write a function that builds it."
            )
        self.model, self.forward, self.name = model, forward, name
        self.warnings, self.sha256 = tuple(warnings), sha256
        self.loss = Loss(loss, by_example=True)
        self.data = data if isinstance(data, Data) else Data(train=data)
        self.space = {key: list(map(to_python, values)) for key, values in (space or {}).items()}
        self._metric = None if metric is None else named_metric(metric, self.loss)
        self._check_space()

    @staticmethod
    def refused(caller: str, given: object) -> ProblemError:
        """The error to raise where a problem is needed and a model or anything else is given."""
        return ProblemError(
            f"{caller} needs a wp.Problem; it was given {described(given)}. "
            "Write wp.Problem(model=make_net, loss=..., data=...), with a function make_net that builds the model."
        )

    @cached_property
    def prepared(self) -> Prepared:
        """The data, split and encoded when first asked for."""
        found = self.data.prepare(self.loss.affine, self.loss.task)
        return replace(found, outputs=self.loss.outputs_for(found.outputs))

    @property
    def measured_by(self) -> Any:
        """The metric's function where it is a user's own; else None."""
        return getattr(self._metric, "function", None)

    @cached_property
    def metric(self) -> Score | None:
        """The score that people read, in the target's own units; None where there is none."""
        found = default_metric(self.loss) if self._metric is None else self._metric
        target = self.prepared.target
        if found is None or target is None:
            return found
        if isinstance(target, TargetColumns) and isinstance(found, OfDistribution):
            if target.bent:
                raise ProblemError(
                    f"The metric {found.name!r} is of a distribution of the target itself, and here its logarithm or its levels "
                    "are trained. Leave link= and levels= out, or take a metric of the prediction, such as mae."
                )
            scale, mean = (torch.tensor([getattr(c, part) for c in target.columns]) for part in ("scale", "mean"))
            return in_own_terms(found, target.restored, partial(found.rescaled, scale=scale, shift=mean))
        if isinstance(target, TargetColumns):
            return in_own_terms(found, target.restored) if target.bent or found.in_units else found
        return in_target_units(found, target.scale, target.mean)

    def _check_space(self) -> None:
        parameters = _parameters(self.model)
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key, values in self.space.items():
            if not takes_all and key not in parameters:
                raise ProblemError(
                    f"space has {key!r}, which the model's factory does not take.{did_you_mean(key, parameters)}"
                )
            if not values:
                raise ProblemError(f"space[{key!r}] has no values; give a list such as [64, 128].")
            if unsaid := [value for value in values if isinstance(value, float) and not math.isfinite(value)]:
                raise ProblemError(
                    f"space[{key!r}] has {unsaid[0]}, which a study cannot keep; give finite numbers, or text."
                )

    def build(self, settings: Mapping[str, Any], seed: int) -> nn.Module:
        """A new model; its initialization is a function of the seed alone.

        Raises:
            ProblemError: the factory does not take a setting, raises, or returns no module.
        """
        parameters = _parameters(self.model)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for key in settings:
                if key not in parameters:
                    known = [p for p in parameters if p != "data"]
                    raise ProblemError(
                        f"[model] has {key!r}, which the model's factory does not take.{did_you_mean(key, known)} "
                        f"It takes: {listed(known) or 'nothing'}."
                    )
        bare = [p.name for p in parameters.values() if p.default is p.empty and p.name in self.space]
        settings = {name: self.space[name][len(self.space[name]) // 2] for name in bare} | dict(settings)
        arguments = (self.prepared,) if next(iter(parameters), None) == "data" else ()
        with seeded(seed, "init"):
            try:
                built = self.model(*arguments, **settings)
            except ProblemError:
                raise
            except Exception as error:
                raise ProblemError(
                    f"The model's factory raised {type(error).__name__}: {error} (settings: {dict(settings)})."
                ) from error
        if not isinstance(built, nn.Module):
            raise ProblemError(f"The model's factory must return an nn.Module; it returned {type(built).__name__}.")
        if any(parameter.is_meta for parameter in built.parameters()):
            raise ProblemError(
                "The model's factory must return weights with numbers; some are on the device meta. Make it without "
                "torch.device('meta')."
            )
        return built

    def check(self, model: nn.Module, device: torch.device) -> None:
        """Run a few rows through model and loss, so that a misfit is said before training.

        Raises:
            ProblemError: outputs and loss do not fit.
        """
        source = self.prepared.train_clean
        inputs, target = source.batch(torch.arange(min(4, len(source))))
        with evaluating(model):
            try:
                outputs = self.forward(model, to_device(inputs, device))
            except Exception as error:
                shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
                raise ProblemError(f"The model does not take the inputs ({shape}): {error}.") from error
            self._check_targets(outputs, target)
            self.loss.per_example(outputs, to_device(target, device))

    def _check_targets(self, outputs: Any, target: Any) -> None:
        """All targets at hand against the loss, the outputs and the metric, before anything is counted of them."""
        data = self.prepared
        for name, source in (("training", data.train_clean), ("validation", data.valid), ("test", data.test)):
            targets = None if source is None else source.targets()
            try:
                self.loss.check(outputs, target, targets)
                if name == "training" and targets is not None and isinstance(self.loss.distribution, Density):
                    self.loss.distribution.check_training(targets)
            except TargetError as error:
                shape = f" and outputs {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else ""
                raise TargetError(f"The loss {self.loss.name!r} does not fit the {name} rows{shape}: {error}") from None
            if self.metric is not None and targets is not None and name != "training":
                reason = self.metric.undefined(targets, None if source is None else source.weight)
                if reason:
                    raise ProblemError(f"Of the {name} rows: {reason}")

    def constant(self) -> dict[str, float]:
        """Validation loss and metric of the best constant prediction learned on training rows; empty where unknown."""
        return self.constant_on(self.prepared.valid)

    def constant_on(self, source: Source) -> dict[str, float]:
        """What `constant` gives, on other rows than those for validation."""
        return constant_facts(self.loss, self.metric, self.prepared.train_clean.targets(), source.targets())


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
