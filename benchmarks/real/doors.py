"""What public scripts set and publish, against what is computed here: schedules, averages, metrics. No network is needed.

    python benchmarks/real/doors.py

The right answer is torch's scheduler with the script's settings, the recursion that the script's average follows, or the
value that a library's documentation prints. ``doors.md`` lists where each comes from, with what needs the files themselves.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler as torchs

import wellposed as wp
from wellposed.losses.metrics import metric
from wellposed.recipe.recipe import ScheduleSpec


def swa_schedule(epoch: int) -> float:
    t = epoch / 161
    return 1.0 if t <= 0.5 else max(0.5, 1.0 - 0.5 * (t - 0.5) / 0.4)


def warm_then_cosine(epoch: int) -> float:
    return 0.01 + 0.99 * epoch / 5 if epoch < 5 else 0.5 * (1 + math.cos(math.pi * (epoch - 5) / 85))


def linear_after_warmup(step: int) -> float:
    return step / 100 if step < 100 else (1000 - step) / 900


SCHEDULES: dict[str, tuple[Callable[[Any], Any], dict[str, Any], float, int]] = {
    "pytorch/examples imagenet": (lambda o: torchs.StepLR(o, 30, 0.1), {"name": "step", "step_size": 30}, 0.1, 90),
    "pytorch/examples mnist": (lambda o: torchs.StepLR(o, 1, 0.7), {"name": "step", "step_size": 1, "gamma": 0.7}, 1.0, 14),
    "facebookresearch/detr": (lambda o: torchs.StepLR(o, 200), {"name": "step", "step_size": 200}, 1e-4, 300),
    "weiaicunzai/pytorch-cifar100": (
        lambda o: torchs.MultiStepLR(o, [60, 120, 160], 0.2),
        {"name": "multistep", "milestones": [60, 120, 160], "gamma": 0.2}, 0.1, 200,
    ),
    "kuangliu/pytorch-cifar": (
        lambda o: torchs.CosineAnnealingLR(o, 200), {"name": "cosine", "min_lr": 0, "per": "epoch"}, 0.1, 200,
    ),
    "ultralytics/yolov5 linear": (
        lambda o: torchs.LambdaLR(o, lambda e: (1 - e / 300) * 0.99 + 0.01),
        {"name": "linear", "end_factor": 0.01, "per": "epoch"}, 0.01, 300,
    ),
    "rmbl88/keras-plasticity": (
        lambda o: torchs.CosineAnnealingWarmRestarts(o, 3, 2, 0.001),
        {"name": "cosine_restarts", "T_0": 3, "T_mult": 2, "min_lr": 0.001}, 0.1, 185,
    ),
    "timgaripov/swa": (lambda o: torchs.LambdaLR(o, swa_schedule), {"name": swa_schedule}, 0.1, 300),
    "pytorch/vision warm-up, cosine": (
        lambda o: torchs.SequentialLR(
            o, [torchs.LinearLR(o, 0.01, total_iters=5), torchs.CosineAnnealingLR(o, 85)], [5]
        ),
        {"name": warm_then_cosine}, 0.5, 90,
    ),
    "huggingface/transformers linear": (
        lambda o: torchs.LambdaLR(o, linear_after_warmup), {"name": linear_after_warmup, "per": "step"}, 5e-5, 1000,
    ),
}  # fmt: skip

# Share kept at the script's update t (0 for the first), and the choice of ours; both begin at the model where said.
AVERAGES: dict[str, tuple[Callable[[int], float], dict[str, Any]]] = {
    "timm ModelEmaV2": (lambda t: 0.99, {"ema": 0.99, "warmup": "none", "start": "model"}),
    "timm ModelEmaV3, warm-up": (lambda t: min(0.99, 1 - (1 + t) ** (-2 / 3)), {"ema": 0.99, "warmup": "power"}),
    "diffusers EMAModel": (lambda t: min(0.999, (1 + t) / (10 + t)) if t else 0.0, {"ema": 0.999}),
    "yolov5 ModelEMA": (
        lambda t: 0.9999 * (1 - math.exp(-(t + 1) / 2000)),
        {"ema": 0.9999, "warmup": lambda t: 0.9999 * (1 - math.exp(-(t + 1) / 2000)), "start": "model"},
    ),
    "fadel/pytorch_ema": (
        lambda t: min(0.995, (2 + t) / (11 + t)),
        {"ema": 0.995, "warmup": lambda t: (2 + t) / (11 + t), "start": "model"},
    ),
    "mean teacher": (
        lambda t: min(1 - 1 / (t + 2), 0.99), {"ema": 0.99, "warmup": lambda t: 1 - 1 / (t + 2), "start": "model"},
    ),
    "timgaripov/swa": (lambda t: t / (t + 1), {}),
}  # fmt: skip

# name, outputs, targets, the value that scikit-learn's or torchmetrics' documentation prints
METRICS: list[tuple[str, Any, Any, float]] = [
    ("brier", torch.logit(torch.tensor([0.1, 0.9, 0.8, 0.3])), [0, 1, 1, 0], 0.0375),
    ("mape", [2.5, 0.0, 2.0, 8.0], [3.0, -0.5, 2.0, 7.0], 0.3273),
    ("pinball:0.1", [1.0, 2.0, 4.0], [1.0, 2.0, 3.0], 0.3),
    ("top_k_accuracy:2", [[0.5, 0.2, 0.2], [0.3, 0.4, 0.2], [0.2, 0.4, 0.3], [0.7, 0.2, 0.1]], [0, 1, 2, 2], 0.75),
    ("f1_macro", torch.eye(3)[[0, 2, 1, 0, 0, 1]], [0, 1, 2, 0, 1, 2], 0.2667),
    ("auc", [0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
    ("ece:2", torch.logit(torch.tensor([0.25, 0.25, 0.55, 0.75, 0.75])), [0, 0, 1, 1, 1], 0.29),
]


def schedule_error(make: Callable[[Any], Any], spec: dict[str, Any], base: float, count: int) -> float:
    """The largest difference of the rates, in units of the base rate."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler, ours, worst = make(optimizer), ScheduleSpec(**spec), 0.0
    for step in range(count):
        worst = max(worst, abs(optimizer.param_groups[0]["lr"] - ours.rate(base, step, count, 1)) / base)
        optimizer.step()
        scheduler.step()
    return worst


def average_error(kept: Callable[[int], float], choice: dict[str, Any]) -> float:
    """The largest difference of the averaged weights after 300 steps of training."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    theirs, ours = copy.deepcopy(net), wp.Average(net, **choice)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for t in range(300):
        optimizer.zero_grad()
        net(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        ours.update()
        with torch.no_grad():
            for mean, weight in zip(theirs.parameters(), net.parameters(), strict=True):
                mean.mul_(kept(t)).add_(weight, alpha=1 - kept(t))
    pairs = zip(theirs.parameters(), ours.module.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def main() -> None:
    for name, given in SCHEDULES.items():
        print(f"schedule  {name:34s} {schedule_error(*given):.0e}")
    for name, (kept, choice) in AVERAGES.items():
        print(f"average   {name:34s} {average_error(kept, choice):.0e}")
    for name, outputs, target, wanted in METRICS:
        score = metric(name).score(torch.as_tensor(outputs), torch.as_tensor(target))
        print(f"metric    {name:34s} {score:.4f}, published {wanted}")


if __name__ == "__main__":
    main()
