"""Posteriors at no extra training: an ensemble of runs that are there anyway, and the path of one run (SWAG).

Each network, or each draw of weights, is a component of the predictive mixture; where targets are numbers, its noise is measured on
validation rows, which no network was fitted to.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wellposed.bayes.laplace import class_shares
from wellposed.bayes.likelihood import Likelihood
from wellposed.bayes.predictive import Predictive, PredictiveClasses, PredictiveNumbers
from wellposed.bayes.trained import Trained
from wellposed.core.checks import Count, Positive, Seed, Within, checked
from wellposed.core.errors import DataError, InputError
from wellposed.core.random import generator, stream_seed
from wellposed.optim.averaging import redo_batch_norm
from wellposed.training.evaluate import batches_of, call
from wellposed.training.run import Run


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What `ensemble` gives: networks that answer together.

    Attributes:
        noise_std: of each run, in the units that it was trained in; empty for classes.
    """

    runs: tuple[Run, ...] = field(repr=False)
    noise_std: tuple[float, ...]
    members: tuple[Trained, ...] = field(repr=False)
    likelihood: Likelihood = field(repr=False)

    @checked
    def predict(self, X: Any) -> Predictive:
        """The mixture of the runs' answers; their disagreement is the epistemic part.

        Args:
            X: new rows: an array or a tensor as the network takes it; of runs on a frame, a frame with its columns.
        """
        outputs = torch.stack([member.outputs(X) for member in self.members])
        return mixed(outputs, self.likelihood, self.noise_std, self.members[0])


@checked
def ensemble(runs: Sequence[Run]) -> Ensemble:
    """A deep ensemble of runs on one problem, such as the seeds of `fit_many`: ``p(y|x) = 1/C sum_c p(y|x, w_c)``.

    Numbers get the noise ``v_c = mean squared error of run c on validation rows``, so that a network that
    fits its training rows too well does not call itself sure.

    Args:
        runs: two or more, of one problem; a run that failed is not one of them.
    Raises:
        InputError: fewer than two runs, or runs of several problems.
        ProblemError: a loss that is no likelihood.
    Source:
        Lakshminarayanan, Pritzel & Blundell (2017), NeurIPS.
    Example:
        >>> import torch, wellposed as wp
        >>> X = torch.randn(60, 2)
        >>> problem = wp.Problem(lambda: torch.nn.Linear(2, 1), "squared_error", wp.Data((X, X[:, :1] + torch.randn(60, 1))))
        >>> runs = wp.fit_many(problem, [wp.Recipe(epochs=2)], seeds=range(3))
        >>> len(wp.ensemble(runs).predict(X).means)
        3
    """
    if len(runs) < 2 or any(_asks(run) != _asks(runs[0]) for run in runs):
        raise InputError(
            "wp.ensemble needs two runs or more of one problem, such as wp.fit_many(problem, recipes, seeds=range(5)); it was "
            f"given {len(runs)}{' of several problems' if len(runs) > 1 else ''}."
        )
    problem = runs[0].problem
    members = tuple(Trained(run.model, problem.loss, (), (), problem.forward, problem) for run in runs)
    batches = tuple(batches_of(problem.prepared.valid))
    outputs = [torch.cat([member.outputs(x) for x, _ in batches]) for member in members]
    likelihood = Likelihood.of(problem.loss, len(problem.prepared.train), outputs[0].shape[1])
    noise: tuple[float, ...] = ()
    if likelihood.numbers:
        y = likelihood.targets(torch.cat([y.reshape(len(y), -1) for _, y in batches]), outputs[0])
        noise = tuple(float((f - y).square().mean().sqrt()) for f in outputs)
        if min(noise) == 0.0:
            raise DataError("A run makes no error at all on the validation rows: there is no noise to measure.")
    return Ensemble(tuple(runs), noise, members, likelihood)


def _asks(run: Run) -> tuple[str, list[float]]:
    """The loss and the validation targets, which runs of one problem share (also those that came from other processes)."""
    targets = [y for _, y in batches_of(run.problem.prepared.valid)]
    return str(run.problem.loss), torch.cat(targets).flatten().tolist()


def mixed(outputs: Tensor, likelihood: Likelihood, noise: Sequence[float], of: Trained) -> Predictive:
    """The mixture of components with outputs ``(components, rows, outputs)``."""
    if likelihood.numbers:
        return of.in_own_units(PredictiveNumbers.mixture(outputs, torch.tensor(noise)[:, None, None]))
    return PredictiveClasses(class_shares(outputs, likelihood))


@checked
class SWAG:
    """A Gaussian of weights from the path of one training: the mean of late iterates, their variances and last deviations.

    ``w ~ N(mean, (diag(var) + D D^T/(K - 1))/2)`` with the ``K`` last deviations ``D`` from the running mean. This is how the
    optimizer wanders, which is like the posterior only at a constant rate that is right for it: a rate that falls to 0 gives a
    spread of 0.

    Args:
        net: whose weights are collected, by `update` once an epoch, late in training at a constant rate.
        rank: >= 2, ``K``.
    Raises:
        InputError: by `sample` and `predict`, where fewer than two iterates were collected.
    Source:
        Maddox et al. (2019), NeurIPS.
    Example:
        >>> import torch, wellposed as wp
        >>> net, x = torch.nn.Linear(2, 1), torch.randn(32, 2)
        >>> optimizer, swag = torch.optim.SGD(net.parameters(), lr=0.1), wp.SWAG(net)
        >>> for _ in range(5):
        ...     net(x[torch.randperm(32)[:8]]).square().mean().backward()
        ...     optimizer.step()
        ...     swag.update()
        >>> swag.predict(x, "squared_error", noise_std=0.1).std.shape
        torch.Size([32])
    """

    def __init__(self, net: nn.Module, rank: Annotated[int, Within(2)] = 20) -> None:
        self.net, self.count = net, 0
        self._parameters = [p for p in net.parameters() if p.requires_grad]
        if not self._parameters:
            raise InputError("SWAG needs a model with trained weights; none requires a gradient.")
        self.mean = torch.zeros_like(self._now())
        self.squares = torch.zeros_like(self.mean)
        self.deviations: deque[Tensor] = deque(maxlen=rank)

    def _now(self) -> Tensor:
        return torch.cat([p.detach().double().flatten() for p in self._parameters])

    def update(self) -> None:
        """Take the model's weights of this moment."""
        now = self._now()
        self.count += 1
        self.mean += (now - self.mean) / self.count
        self.squares += (now.square() - self.squares) / self.count
        self.deviations.append(now - self.mean)

    def sample(self, seed: Seed = 0, batches: Iterable[Any] | None = None) -> nn.Module:
        """A copy of the model with weights that are drawn; batch norm needs ``batches``, as in `Average.redo_batch_norm`."""
        if self.count < 2:
            raise InputError(
                f"SWAG needs two iterates or more to see their spread; update() was called {self.count} times."
            )
        draws = generator(seed, "swag")
        diagonal = (self.squares - self.mean.square()).clamp_min(0).sqrt()
        low = torch.stack(list(self.deviations), 1)
        noise, few = (torch.randn(n, generator=draws, dtype=torch.float64).to(self.mean) for n in low.shape)
        drawn = self.mean + (diagonal * noise + low @ few / max(1, low.shape[1] - 1) ** 0.5) / 2**0.5
        model = copy.deepcopy(self.net).eval()
        parameters = [p for p in model.parameters() if p.requires_grad]
        for p, part in zip(parameters, drawn.split([p.numel() for p in parameters]), strict=True):
            p.data.copy_(part.reshape(p.shape))
        if batches is not None:
            redo_batch_norm(model, ((lambda b=batch: model(b)) for batch in batches))  # type: ignore[misc]
        return model

    @checked
    def predict(
        self,
        X: Any,
        loss: Any,
        samples: Count = 30,
        noise_std: Positive | None = None,
        *,
        seed: Seed = 0,
        batches: Sequence[Any] | None = None,
        forward: Callable[[nn.Module, Any], Any] = call,
    ) -> Predictive:
        """The mixture over drawn weights.

        Args:
            X: new rows, an array or a tensor.
            loss: ``"squared_error"``, ``"mse"``, ``"cross_entropy"`` or ``"binary_cross_entropy"``.
            noise_std: > 0, of the targets where they are numbers: the root mean squared error on validation rows, say.
            batches: of training inputs, where the model has batch norm.
        Raises:
            InputError: numbers without ``noise_std``.
        """
        drawn = [self.sample(stream_seed(seed, number), batches) for number in range(samples)]
        members = [Trained(model, loss, (), (), forward) for model in drawn]
        outputs = torch.stack([member.outputs(X) for member in members])
        likelihood = Likelihood.of(loss, 1, outputs.shape[2])
        if likelihood.numbers and noise_std is None:
            raise InputError(
                "SWAG needs noise_std= where targets are numbers: their root mean squared error on validation rows."
            )
        return mixed(outputs, likelihood, [noise_std or 1.0] * samples, members[0])
