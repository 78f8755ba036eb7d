"""What a posterior is put around: a run, or a network with its loss, its rows and its terms, in one form.

It also takes a run's rows into the units that the network was trained in, and answers back into those of the target.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellposed.bayes.likelihood import Likelihood
from wellposed.bayes.predictive import Predictive, PredictiveNumbers, refuse_not_finite
from wellposed.core.errors import DataError, InputError, ProblemError, described, guard_call, listed
from wellposed.data.arrays import split_batch, tensors, to_device
from wellposed.data.target_columns import TargetColumns
from wellposed.optim.charges import ChargedParameter, Charges
from wellposed.optim.regularize import Regularized, checked_terms
from wellposed.optim.wrapper import find_wrapper
from wellposed.optimality.objective import all_rows
from wellposed.penalties.base import Penalty, Term
from wellposed.penalties.elementwise import WeightedL2
from wellposed.recipe.recipe import Recipe
from wellposed.training.device import device_of
from wellposed.training.evaluate import BATCH, Forward, batches_of, call, evaluating
from wellposed.training.problem import Problem
from wellposed.training.run import Run

P = TypeVar("P", bound=Predictive)


@dataclass(frozen=True)
class Trained:
    """A network with what it was trained on.

    Attributes:
        net: itself, not a copy.
        loss: as it was given.
        batches: all training rows, as ``(inputs, targets)`` on the network's device.
        terms: what charged its weights, with ``how="loss"``.
        problem: of a run; None of a network alone.
    """

    net: nn.Module
    loss: Any
    batches: tuple[tuple[Any, Any], ...]
    terms: tuple[Term, ...]
    forward: Forward
    problem: Problem | None = None

    @classmethod
    def of(cls, given: Any, data: Any, loss: Any, terms: Any, forward: Forward | None, caller: str) -> Trained:
        """A run alone, or a network with data and loss.

        Raises:
            InputError, ProblemError: something is missing, or given twice.
        """
        if isinstance(given, Run):
            if data is not None or loss is not None or forward is not None:
                raise InputError(f"{caller} of a run takes data, loss and forward from its problem; leave them out.")
            found = given.recipe.build_terms() if terms is None else terms
            return of_problem(given.problem, given.model, found, given.recipe)
        if not isinstance(given, nn.Module):
            raise InputError(f"{caller} needs a wp.Run or an nn.Module; it was given {described(given)}.")
        if data is None or loss is None:
            raise InputError(
                f"{caller} of a network needs the training rows and the loss: {caller}(net, (X, y), 'squared_error', terms)."
            )
        rows = all_rows(data, torch.float64)()
        batches = _on_device(map(split_batch, rows), device_of(given))
        return cls(given, loss, batches, _of_terms(() if terms is None else terms), forward or call)

    @property
    def rows(self) -> int:
        return sum(len(y) for _, y in self.batches)

    def likelihood(self, outputs: int) -> Likelihood:
        """The likelihood that the loss is, of these rows.

        Raises:
            ProblemError: the loss is none.
            DataError: one row, or targets that are all alike: nothing is learned from them.
        """
        found = Likelihood.of(self.loss, self.rows, outputs)
        targets = torch.cat([y.reshape(len(y), -1) for _, y in self.batches])
        if len(targets) < 2:
            raise DataError("A posterior needs two training rows or more; there is one.")
        if bool((targets == targets[0]).all()):
            raise DataError(
                f"The targets of all {len(targets)} training rows are alike ({described(targets[0].tolist())}): no weight matters "
                "to them, and neither noise nor strengths can be estimated."
            )
        varies = float(targets.double().var(0, correction=0).mean()) if found.numbers else 1.0
        return replace(found, target_var=varies)

    def inputs(self, X: Any) -> list[Any]:
        """New rows as batches that the network takes: a frame is encoded as the training rows were."""
        encoder = None if self.problem is None else self.problem.prepared.encoder
        if encoder is not None and hasattr(X, "columns"):
            X = encoder.transform(X)
        found = tensors(X, double=True)
        if not isinstance(found, Tensor) or not len(found):
            raise DataError(f"predict needs new rows as one array or tensor, not empty; it was given {described(X)}.")
        return [to_device(part, device_of(self.net)) for part in torch.split(found, BATCH)]

    def outputs(self, X: Any) -> Tensor:
        """``(rows, outputs)`` of new rows, in double precision on the CPU."""
        with evaluating(self.net, self.forward):
            kind = next(self.net.parameters()).dtype
            parts = [part.to(kind) if part.is_floating_point() else part for part in self.inputs(X)]
            found = [guard_call("The model", self.forward)(self.net, part) for part in parts]
        return refuse_not_finite(torch.cat([part.reshape(len(part), -1).double().cpu() for part in found]))

    def in_own_units(self, found: PredictiveNumbers) -> PredictiveNumbers:
        """Back from the scale that the target was trained in.

        Raises:
            ProblemError: the target was trained as a logarithm or as levels, so that its distribution is not a Gaussian.
        """
        target = None if self.problem is None else self.problem.prepared.target
        if target is None:
            return found
        if not isinstance(target, TargetColumns):
            return found.rescaled(target.scale, target.mean)
        if target.bent:
            raise ProblemError(
                "The target was trained as a logarithm or as levels: a Gaussian learned there is not one in the target's own "
                "units. Train on the amounts themselves."
            )
        scale, shift = ([getattr(column, name) for column in target.columns] for name in ("scale", "mean"))
        return found.rescaled(torch.tensor(scale).double(), torch.tensor(shift).double())


def of_problem(problem: Problem, model: nn.Module, terms: Iterable[Term], recipe: Recipe) -> Trained:
    """A model that was trained on a problem by a recipe."""
    source = problem.prepared.train_clean
    if source.weight is not None:
        raise ProblemError("Rows with weights have no likelihood of their own; give each row once, without weight=.")
    refuse_unlike(recipe)
    batches = _on_device(batches_of(source), device_of(model))
    return Trained(model, problem.loss, batches, _of_terms(terms), problem.forward, problem)


def refuse_unlike(recipe: Recipe) -> None:
    """Refuse a recipe whose cost is no likelihood with a Gaussian prior.

    Raises:
        ProblemError: its optimizer decays weights by itself, or it smooths or mixes labels.
    """
    _refuse_decay([recipe.optimizer.settings])
    noise = [one for one in recipe.noise.acting("inputs", "labels") if one.mixes or one.acts == "labels"]
    if noise:
        raise ProblemError(
            f"The recipe trains on labels that are disturbed ({listed(str(one) for one in noise)}), whose cost is no likelihood of "
            "the labels themselves. Leave that noise out of the recipe."
        )


def _refuse_decay(groups: Iterable[Mapping[str, Any]]) -> None:
    own = next((group["weight_decay"] for group in groups if group.get("weight_decay")), None)
    if own is not None:
        raise ProblemError(
            f"The optimizer decays weights by itself (weight_decay={own}). Write it as a term, wp.L2({own}).on(), so that it is a "
            "prior with a name."
        )


def _on_device(rows: Iterable[tuple[Any, Any]], device: torch.device) -> tuple[tuple[Any, Any], ...]:
    found = tuple((to_device(x, device), to_device(y, device)) for x, y in rows)
    if not sum(len(y) for _, y in found if isinstance(y, Tensor)) or not all(isinstance(y, Tensor) for _, y in found):
        raise DataError("A posterior needs training rows with targets in tensors; there are none.")
    return found


def _of_terms(terms: Any) -> tuple[Term, ...]:
    """Terms by how="loss": a prior is a part of the cost, whatever way it was enforced."""
    if isinstance(terms, Optimizer):
        wrapper = find_wrapper(terms, Regularized)
        if wrapper is None:
            raise InputError("terms= is a list of terms or a regularized optimizer; this optimizer has no terms.")
        _refuse_decay(terms.param_groups)
        terms = wrapper.terms
    given = checked_terms(terms)
    return tuple(replace(term, how="loss") if isinstance(term.charge, Penalty) else term for term in given)


def strengths_of(net: nn.Module, names: Iterable[str], terms: Iterable[Term]) -> tuple[Tensor, Tensor]:
    """What the terms charge each weight of the parameters ``names``, in their order: ``strength_i/2 (w_i - center_i)^2``.

    Returns:
        ``strength``, 0 where no term charges, and ``center``, each ``(P,)``.

    Raises:
        InputError: a term that is no Gaussian prior of weights: an absolute value, a group norm, a constraint, a charge of
            outputs.
    """
    charges = Charges.of(net, list(terms), None)
    if charges.functional:
        raise _no_prior(str(charges.functional[0]))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for part in charges.parts:
        if not isinstance(part, ChargedParameter) or part.constraints:
            raise _no_prior(", ".join(part.terms))
        total = pull = torch.zeros_like(part.leaf.tensor.detach(), dtype=torch.float64)
        for strength, center in itertools.chain.from_iterable(map(_squares, part.penalties)):
            total = total + strength
            pull = pull + (0.0 if center is None else strength * center)
        found[part.leaf.name] = total.flatten(), torch.where(total > 0, pull / total, 0.0).flatten()
    strengths, centers = zip(*(found[name] for name in names), strict=True)
    return torch.cat(strengths), torch.cat(centers)


def _squares(penalty: Penalty) -> Iterator[tuple[float | Tensor, float | Tensor | None]]:
    if isinstance(penalty, WeightedL2):
        weights = penalty.weights
        yield penalty.strength * (weights.double() if isinstance(weights, Tensor) else weights), None
        return
    parts = penalty.summands()
    if parts.core is not None or isinstance(parts.l1, Tensor) or parts.l1:
        raise _no_prior(str(penalty))
    yield from parts.squares


def _no_prior(charge: str) -> InputError:
    return InputError(
        f"{charge} is no Gaussian prior of weights: Laplace's approximation needs a logarithm with a second derivative. Use wp.L2, "
        "wp.L2SP or wp.WeightedL2; an L1 is a Laplace prior, whose posterior is no Gaussian where weights are zero."
    )
