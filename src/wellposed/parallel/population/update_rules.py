"""How each slot is updated: its optimizer and terms as the numbers that the kernel reads, or the word that it cannot.

    decay, the optimizer's step, one joint proximal step in its metric, projection, average

as in `wellposed.optim.regularize.Regularized.step`, with the formulas of torch's SGD, Adam, AdamW and RMSprop and the metrics of
`wellposed.optim.optimizer_metrics`. Everything else is done by a slot's own optimizer, on the gradients that the kernel leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from wellposed.constraints.balls import MaxNorm
from wellposed.optim.batch import axis_groups
from wellposed.optim.binding import Charged, StepPlan
from wellposed.optim.optimizer_metrics import RAMP_STEPS
from wellposed.optim.proximal import JointProx
from wellposed.optim.regularize import Regularized
from wellposed.optim.sharpness import ETA
from wellposed.parallel.population.native import CHARGE, RULE
from wellposed.penalties.base import Term
from wellposed.penalties.elementwise import L2
from wellposed.penalties.functional import Confidence
from wellposed.training.loop import Training

NO_UPDATE, ADAM, RMSPROP, SGD = 0, 1, 2, 3
KINDS: dict[type[torch.optim.Optimizer], int] = {
    torch.optim.Adam: ADAM, torch.optim.AdamW: ADAM, torch.optim.RMSprop: RMSPROP, torch.optim.SGD: SGD,
}  # fmt: skip
UNKNOWN = ("amsgrad", "maximize", "differentiable", "capturable", "centered")
"""Settings of these optimizers that the kernel does not know; it takes them only where they are off."""


def confidence(term: Term) -> float:
    """The strength of a penalty on outputs that the kernel adds to cross-entropy; 0 for any other term."""
    charge = term.charge
    plain = type(charge) is Confidence and not charge.binary and charge.axis in (1, -1) and term.schedule is None
    return float(charge.strength) if plain and isinstance(charge, Confidence) else 0.0


def ascends_itself(training: Training) -> bool:
    """Whether a sharpness-aware run needs more than the kernel's gradient at both points."""
    charged = any(term.how == "loss" and not confidence(term) for term in training.optimizer.terms)
    return bool(training.recipe.sharpness.radius) and (charged or training.perturbed is not None)


def kernel_can_step(training: Training) -> bool:
    """Whether the kernel can do the whole step of this run."""
    optimizer, recipe = training.optimizer, training.recipe
    if not isinstance(optimizer, Regularized) or type(optimizer.optimizer) not in KINDS:
        return False
    if ascends_itself(training) or training.perturbed is not None:
        return False
    groups = optimizer.param_groups
    binding = optimizer.binding
    if len(groups) != 1 or any(groups[0].get(setting) for setting in UNKNOWN) or recipe.noise.acting("gradients"):
        return False
    if binding.coupled or any(term.how == "loss" and not confidence(term) for term in optimizer.terms):
        return False
    if any(bound.term.schedule for one in binding.charged for bound in one.bounds):
        return False
    return all(_known_plan(one.plan(0), one.leaf.tensor) for one in binding.charged)


def _known_prox(prox: JointProx, w: Tensor) -> bool:
    """Absolute values and squares; or absolute values and then groups along an axis of a matrix."""
    if not prox.plain:
        return False
    return prox.core is None or (w.ndim == 2 and not prox.l2 and axis_groups(prox.core, w) is not None)


def _known_plan(plan: StepPlan, w: Tensor) -> bool:
    if plan.multiplier is not None or any(type(p) is not L2 or p.scaling != "torch" for p in plan.decays):
        return False
    if plan.prox is not None and not _known_prox(plan.prox, w):
        return False
    bounds = plan.constraints
    return not bounds or (len(bounds) == 1 and type(bounds[0]) is MaxNorm and bounds[0].axis in (0, 1))


class Rules:
    """The numbers of several slots, by place; one row a place.

    Args:
        places: >= 1.
        leaves: names of the parameters, in the kernel's order.
    """

    def __init__(self, places: int, leaves: Sequence[str]) -> None:
        self.leaves = {name: i for i, name in enumerate(leaves)}
        self.rule = np.zeros(places, RULE)
        self.charge = np.zeros((places, len(leaves)), CHARGE)
        self.strength = np.zeros((places, len(leaves)))
        self.own_decay = np.zeros(places)
        self.share: list[Callable[[float], float] | None] = [None] * places
        """Of the current weights in the average of each place, by the number of updates before."""
        self.steps = np.zeros(places, np.int64)
        self.adaptive = np.zeros(places, bool)
        self.last = np.zeros(places)

    def adopt(self, place: int, training: Training) -> None:
        """Read a run's optimizer and terms; one that is not `kernel_can_step` gets kind 0."""
        self.rule[place] = 0
        self.charge[place] = 0
        self.charge["decay"][place], self.charge["bound"][place] = 1.0, -1.0
        self.strength[place], self.steps[place], self.share[place] = 0.0, 0, None
        row = self.rule[place]
        row["decay"] = row["correction1"] = row["root2"] = row["ramp"] = 1.0
        row["confidence"] = sum(map(confidence, training.optimizer.terms))
        sharpness = training.recipe.sharpness
        if sharpness.radius and not ascends_itself(training):
            row["radius"], row["adaptive"], row["eta"] = sharpness.radius, sharpness.adaptive, ETA
        if not kernel_can_step(training):
            return
        group = training.optimizer.param_groups[0]
        inner = type(training.optimizer.optimizer)
        row["kind"] = KINDS[inner]
        self.adaptive[place] = inner is not torch.optim.SGD
        row["beta1"], row["beta2"] = group.get("betas", (0.0, group.get("alpha", 0.0)))
        row["eps"], row["momentum"] = group.get("eps", 0.0), group.get("momentum", 0.0)
        row["dampening"], row["nesterov"] = group.get("dampening", 0.0), bool(group.get("nesterov"))
        row["clip"] = training.recipe.clip
        decays = float(group.get("weight_decay", 0.0))
        decoupled = inner is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))
        self.own_decay[place], row["coupled"] = (decays, 0.0) if decoupled else (0.0, decays)
        if training.averager is not None and training.recipe.averaging.ema:
            self.share[place] = training.averager.share
            row["buffers"] = training.averager.buffers == "average"
        for one in training.optimizer.binding.charged:
            self._charge(place, one)

    def _charge(self, place: int, one: Charged) -> None:
        plan, leaf = one.plan(0), self.leaves[one.leaf.name]
        self.strength[place, leaf] = sum(float(p.strength) for p in plan.decays)
        cell = self.charge[place, leaf]
        cell["sparse"] = any(bound.sparse for bound in one.bounds)
        if plan.prox is not None:
            cell["l1"], cell["l2"] = plan.prox.l1, plan.prox.l2
            groups = axis_groups(plan.prox.core, one.leaf.tensor)
            if groups is not None:
                cell["group"], cell["group_axis"] = groups.strength, groups.axis
        for bound in plan.constraints:
            assert isinstance(bound, MaxNorm)
            cell["bound"], cell["bound_axis"] = bound.bound, bound.axis

    def now(self, places: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rules and charges of the next steps of these places by these learning rates ``(steps, places)``, one row a step.

        The steps count as taken; see `back` for those that were not.
        """
        count = self.steps[places] + np.arange(1, len(rates) + 1)[:, None]
        self.steps[places], self.last[places] = count[-1], rates[-1]
        rule, charge = (np.repeat(part[places][None], len(rates), axis=0) for part in (self.rule, self.charge))
        rule["lr"] = rates
        adam = rule["kind"] == ADAM
        rule["correction1"] = np.where(adam, 1.0 - rule["beta1"] ** count, 1.0)
        rule["root2"] = np.where(adam, np.sqrt(1.0 - rule["beta2"] ** count), 1.0)
        rule["decay"] = 1.0 - rates * self.own_decay[places]
        rule["first"] = count == 1
        rule["ramp"] = np.where(self.adaptive[places], np.minimum(1.0, count / RAMP_STEPS), 1.0)
        for j, share in enumerate(self.share[place] for place in places):
            rule["average"][:, j] = [0.0 if share is None else share(n - 1.0) for n in count[:, j].tolist()]
        charge["decay"] = np.maximum(0.0, 1.0 - rates[..., None] * self.strength[places])
        return rule, charge

    def back(self, place: int, count: int, rate: float) -> None:
        """So many of the last steps were not taken: the cost of the first of them, at this rate, was not finite."""
        self.steps[place] -= count
        self.last[place] = rate


def rates(training: Training, first: int, count: int) -> np.ndarray:
    """The learning rates of ``count`` steps from ``first`` on, as `Training.set_rate` sets them."""
    base = training.optimizer.param_groups[0]["initial_lr"]
    return np.array(training.rates(base, range(first, first + count)))
