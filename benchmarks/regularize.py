"""What regularization costs: a full training step (forward, backward, optimizer) with terms, beside the same step without.

    python benchmarks/regularize.py [--models mlp,resnet,many] [--repeats 20] [--threads 2] [--device cuda]

All ways train copies of one model on one batch, in turn, in one process; the minimum of the repeats is compared. Memory is
the most that tensors made inside a step hold at once, above that of the plain step, over the size of the weights.
Rows of torch-pruning and pytorch-optimizer appear where they are installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import wellposed as wp

Step = Callable[[], object]
Cost = Callable[[], Tensor]


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def mlp() -> tuple[nn.Module, tuple[int, ...]]:
    """784-2048-2048-2048-10: 10.0 M parameters."""
    return nn.Sequential(
        nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(),
        nn.Linear(2048, 10),
    ), (784,)  # fmt: skip


def resnet() -> tuple[nn.Module, tuple[int, ...]]:
    """Five residual blocks of 64 to 512 channels on 32 x 32 images, at strides 2 to 16: 9.6 M parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        Residual(64, 64, 1), Residual(64, 128, 2), Residual(128, 256, 2), Residual(256, 512, 2), Residual(512, 512, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    ), (3, 32, 32)  # fmt: skip


def many() -> tuple[nn.Module, tuple[int, ...]]:
    """400 layers of 16 x 16."""
    return nn.Sequential(*(layer for _ in range(400) for layer in (nn.Linear(16, 16), nn.ReLU()))), (16,)


MODELS = {"mlp": mlp, "resnet": resnet, "many": many}


def plain(net: nn.Module, cost: Cost) -> Step:
    """AdamW alone."""
    return stepped(adamw(net), cost)


def l1(net: nn.Module, cost: Cost) -> Step:
    """L1 on all weights, proximal."""
    return stepped(wp.regularize(adamw(net), net, [wp.L1(1e-5).on(wp.weights)]), cost)


def group(net: nn.Module, cost: Cost) -> Step:
    """GroupL2 by unit on all weights, proximal."""
    return stepped(wp.regularize(adamw(net), net, [wp.GroupL2(1e-5, by="unit").on(wp.weights)]), cost)


def in_loss(net: nn.Module, cost: Cost) -> Step:
    """`loss + 1e-5 * sum |w|`, written by hand: no exact zeros."""
    ws = [p for p in net.parameters() if p.ndim > 1]
    return stepped(adamw(net), lambda: cost() + 1e-5 * sum(w.abs().sum() for w in ws))


def ftrl(net: nn.Module, cost: Cost) -> Step:
    """pytorch-optimizer's FTRL with an L1 term, its nearest: it takes AdamW's place."""
    from pytorch_optimizer import FTRL

    return stepped(FTRL(net.parameters(), lr=1e-3, lambda_1=1e-5), cost)


def pruner(net: nn.Module, cost: Cost, example: Tensor) -> Step:
    """torch-pruning's GroupNormPruner: shrinks groups by adding to gradients, no exact zeros."""
    import torch_pruning as tp

    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    tool = tp.pruner.GroupNormPruner(net, example, tp.importance.GroupMagnitudeImportance(), ignored_layers=[last])
    tool.update_regularizer()
    return stepped(adamw(net), cost, lambda: tool.regularize(net))


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0, fused=True)


def stepped(optimizer: torch.optim.Optimizer, cost: Cost, between: Step | None = None) -> Step:
    """One training step."""

    def step() -> None:
        optimizer.zero_grad()
        cost().backward()
        if between is not None:
            between()
        optimizer.step()

    return step


def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(x), y)


def sides(name: str, batch: int, device: str) -> dict[str, Step]:
    """The step of each way, on its own copy of the model."""
    torch.manual_seed(0)
    net, shape = MODELS[name]()
    x, y = torch.randn(batch, *shape, device=device), torch.randint(10, (batch,), device=device)
    ways: dict[str, Callable[..., Step]] = {
        "AdamW": plain,
        "+ L1, prox": l1,
        "+ GroupL2 by unit, prox": group,
        "+ L1 in the loss, by hand": in_loss,
    }
    if importlib.util.find_spec("torch_pruning"):
        ways["+ torch-pruning GroupNormPruner"] = pruner
    if importlib.util.find_spec("pytorch_optimizer"):
        ways["pytorch-optimizer FTRL with L1"] = ftrl
    steps = {}
    for way, make in ways.items():
        own = copy.deepcopy(net).to(device)
        cost = partial(loss, own, x, y)
        steps[way] = make(own, cost, x[:2]) if make is pruner else make(own, cost)
    return steps


def seconds(step: Step, device: str) -> float:
    """The time of one step."""
    if device != "cuda":
        began = time.perf_counter()
        step()
        return time.perf_counter() - began
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    step()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1e3


class Allocated(TorchDispatchMode):
    """The most bytes at once in storages that were made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in known:
                storage = x.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result


def peak(step: Step) -> int:
    """Bytes that a step needs at once."""
    with Allocated() as memory:
        step()
    return memory.most


def measured(name: str, batch: int, repeats: int, device: str) -> None:
    """The rows of one model."""
    steps = sides(name, batch, device)
    for step in steps.values():
        for _ in range(3):
            step()
    peaks = {way: peak(step) for way, step in steps.items()}
    times: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(repeats):
        for way, step in steps.items():
            times[way].append(seconds(step, device))
    weights = sum(p.numel() * p.element_size() for p in MODELS[name]()[0].parameters() if p.ndim > 1)
    best = {way: min(found) for way, found in times.items()}
    for way, found in times.items():
        middle = sorted(found)[len(found) // 2]
        ratio, extra = best[way] / best["AdamW"], (peaks[way] - peaks["AdamW"]) / weights
        print(
            f"| {name} | {way} | {1e3 * best[way]:.1f} | {1e3 * middle:.1f} | {ratio:.2f} | {extra:.2f} |", flush=True
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"batch {arguments.batch}, {arguments.device}, {arguments.threads} threads, torch {torch.__version__}")
    for package in ("torch_pruning", "pytorch_optimizer"):
        if not importlib.util.find_spec(package):
            print(f"{package} is not installed; its row is left out.")
    print(
        "| model | way | ms, minimum | ms, median | times AdamW | extra memory, times weights |\n|---|---|---|---|---|---|"
    )
    for name in arguments.models.split(","):
        measured(name, arguments.batch, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
