"""Alarms on healthy trainings of many kinds, through `wp.watch` and `wp.fit`.

    python benchmarks/healthy.py [--seeds 4] [--kinds gru,transformer] [--least 0.5]

Each kind is a sane training of its own: another network, loss, kind of rows, optimizer, schedule or way of regularizing. A run is
healthy if rows that no watch sees say so: 30 % or more of the constant prediction's loss is gone, the fresh loss ends at most 3 %
above its lowest (or 1 % of the constant prediction's above it), the gap is at most a tenth of the constant prediction's loss,
and training fell by less than 3 % of its gain over the last quarter. Runs that are not are dropped and counted. A finding
with a confidence of `--least` or more is an alarm, `healthy` apart, and what a kind has by construction (one decay for every
parameter charges its norms).
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from benchmarks.planted.score import wilson
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp

Rows = tuple[Tensor, Tensor]
TRAIN, VALID, FRESH = 1500, 500, 1500
END = 3


# Data


def drawn(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def clouds(seed: int, rows: int, classes: int = 4, features: int = 12, apart: float = 1.1) -> Rows:
    """Normal clouds, one a class, that overlap a little."""
    g = drawn(seed)
    centers = apart * torch.randn(classes, features, generator=drawn(seed // 10))
    y = torch.randint(classes, (rows,), generator=g)
    return centers[y] + torch.randn(rows, features, generator=g), y


def hills(seed: int, rows: int, noise: float = 0.2, features: int = 6) -> Rows:
    """A smooth function with noise."""
    g = drawn(seed)
    along = torch.randn(features, 2, generator=drawn(seed // 10)) / math.sqrt(features)
    x = torch.randn(rows, features, generator=g)
    y = torch.sin(2 * x @ along).sum(1) + x[:, 0]
    return x, (y + noise * torch.randn(rows, generator=g))[:, None]


def pictures(seed: int, rows: int) -> Rows:
    """One noisy pattern a class, shifted by a pixel."""
    g = drawn(seed)
    patterns = torch.randn(4, 1, 8, 8, generator=drawn(seed // 10))
    y = torch.randint(4, (rows,), generator=g)
    x = patterns[y] + 1.2 * torch.randn(rows, 1, 8, 8, generator=g)
    return torch.stack(
        [torch.roll(one, int(s), 2) for one, s in zip(x, torch.randint(2, (rows,), generator=g), strict=True)]
    ), y


def pictures_flat(seed: int, rows: int) -> Rows:
    """The pictures as rows of numbers."""
    x, y = pictures(seed, rows)
    return x.flatten(1), y


def waves(seed: int, rows: int) -> Rows:
    """Sequences of one of three frequencies."""
    g = drawn(seed)
    y = torch.randint(3, (rows,), generator=g)
    phase, time = 2 * torch.rand(rows, 1, generator=g), 0.4 * torch.arange(12)
    return (torch.sin(phase + time * (1 + y[:, None])) + 0.4 * torch.randn(rows, 12, generator=g))[..., None], y


def texts(seed: int, rows: int) -> Rows:
    """Bags of ten words; every class has words of its own."""
    g = drawn(seed)
    y = torch.randint(3, (rows,), generator=g)
    own = 10 * y[:, None] + torch.randint(10, (rows, 10), generator=g)
    return torch.where(torch.rand(rows, 10, generator=g) < 0.5, own, torch.randint(60, (rows, 10), generator=g)), y


def chains(seed: int, rows: int) -> Rows:
    """Sequences whose next letter depends on the last one; the target is the sequence moved by one."""
    g = drawn(seed)
    table = torch.softmax(2.5 * torch.randn(8, 8, generator=drawn(seed // 10)), 1)
    letters = [torch.randint(8, (rows,), generator=g)]
    for _ in range(12):
        letters.append(torch.multinomial(table[letters[-1]], 1, generator=g)[:, 0])
    whole = torch.stack(letters, 1)
    return whole[:, :-1], whole[:, 1:]


def mixed(seed: int, rows: int) -> Rows:
    """Five numbers and two columns of category codes."""
    g = drawn(seed)
    numbers, codes = torch.randn(rows, 5, generator=g), torch.randint(6, (rows, 2), generator=g)
    effect = 2 * torch.randn(6, 2, generator=drawn(seed // 10))
    score = 1.5 * (numbers[:, 0] - numbers[:, 1]) + effect[codes[:, 0], 0] + effect[codes[:, 1], 1]
    return torch.cat([numbers, codes.float()], 1), (score + 0.5 * torch.randn(rows, generator=g) > 0).long()


def rare(seed: int, rows: int) -> Rows:
    """One row in twenty is of the second class."""
    g = drawn(seed)
    y = (torch.rand(rows, generator=g) < 0.05).long()
    return torch.randn(rows, 8, generator=g) + 1.3 * y[:, None], y


def tags(seed: int, rows: int) -> Rows:
    """Five tags a row, each told by a direction."""
    g = drawn(seed)
    x = torch.randn(rows, 10, generator=g)
    scores = 3 * x @ torch.randn(10, 5, generator=drawn(seed // 10)) / math.sqrt(10) - 1
    return x, torch.bernoulli(torch.sigmoid(2 * scores), generator=g)


def factors(seed: int, rows: int) -> Rows:
    """Rows near a plane, which are their own targets."""
    g = drawn(seed)
    x = torch.randn(rows, 3, generator=g) @ torch.randn(3, 10, generator=drawn(seed // 10))
    x = (x + 0.3 * torch.randn(rows, 10, generator=g)) / 2
    return x, x.clone()


# Networks


def mlp(inputs: int = 12, outputs: int = 4, width: int = 32, depth: int = 2, act: Callable[[], nn.Module] = nn.ReLU,
        norm: Callable[[int], nn.Module] | None = None, dropout: float = 0.0) -> nn.Sequential:  # fmt: skip
    """A perceptron."""
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Linear(inputs if i == 0 else width, width), *([norm(width)] if norm else []), act()]
        parts += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*parts, nn.Linear(width if depth else inputs, outputs))


class Recurrent(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the sequence."""
        return self.head(self.layer(x)[0][:, -1])


class Attending(nn.Module):
    """Letters or waves through one layer of attention."""

    def __init__(self, outputs: int, vocabulary: int = 0, dropout: float = 0.1) -> None:
        super().__init__()
        self.inner = nn.Embedding(vocabulary, 24) if vocabulary else nn.Linear(1, 24)
        self.place = nn.Parameter(0.1 * torch.randn(12, 24))
        self.layer = nn.TransformerEncoderLayer(24, 4, 48, dropout, batch_first=True, norm_first=True)
        self.head, self.tokens = nn.Linear(24, outputs), bool(vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the sequence, or of each next letter (classes second)."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.tokens else None
        h = self.layer(self.inner(x) + self.place, src_mask=mask)
        return self.head(h).movedim(-1, 1) if self.tokens else self.head(h.mean(1))


class Bag(nn.Module):
    """The mean of the words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(60, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the text."""
        return self.head(self.words(x).mean(1))


class Tabular(nn.Module):
    """Vectors of the categories beside the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.codes, self.rest = nn.ModuleList([nn.Embedding(6, 4), nn.Embedding(6, 4)]), mlp(13, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the row."""
        vectors = [table(x[:, 5 + i].long()) for i, table in enumerate(self.codes)]
        return self.rest(torch.cat([x[:, :5], *vectors], 1))


class Block(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The input and what the convolutions add."""
        return F.relu(x + self.inner(x))


class Scaled(nn.Module):
    """A network whose outputs are brought to the scale of its targets."""

    def __init__(self, net: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.net, self.scale, self.shift = net, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        """Amounts."""
        return self.shift + self.scale * self.net(x)


def residual() -> nn.Module:
    """A small residual network."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Block(8), Block(8),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


# Trainings


def constant(t: float) -> float:
    """No schedule."""
    return 1.0


def cosine(t: float) -> float:
    """Down to zero."""
    return 0.5 * (1 + math.cos(math.pi * t))


def restarts(t: float) -> float:
    """Three cosines, each of a third."""
    return cosine((3 * t) % 1.0)


def warm(t: float) -> float:
    """Up for a tenth, then a cosine."""
    return t / 0.1 if t < 0.1 else cosine((t - 0.1) / 0.9)


def steps(t: float) -> float:
    """A tenth of the rate after two thirds."""
    return 1.0 if t < 0.66 else 0.1


Optimizer = Callable[[nn.Module], torch.optim.Optimizer]


def adam(lr: float) -> Optimizer:
    """Adam without decay."""
    return lambda net: torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr)


def adamw(lr: float, decay: float) -> Optimizer:
    """AdamW as it comes: one decay for every parameter."""
    return lambda net: torch.optim.AdamW(net.parameters(), lr, weight_decay=decay)


def sgd(lr: float, **settings: Any) -> Optimizer:
    """SGD with momentum."""
    return lambda net: torch.optim.SGD(net.parameters(), lr, momentum=0.9, **settings)


@dataclass(frozen=True)
class Kind:
    """One way to train. ``cost`` is what the loop minimizes where it is more than the loss."""

    data: Callable[[int, int], Rows]
    net: Callable[[], nn.Module]
    optimizer: Optimizer
    loss: Any = field(default_factory=nn.CrossEntropyLoss)
    epochs: int = 24
    batch: int = 64
    schedule: Callable[[float], float] = cosine
    cost: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    clip: float = 0.0
    rows: int = TRAIN
    prepare: Callable[[nn.Module, int], None] | None = None
    allowed: frozenset[str] = frozenset()
    watched: dict[str, Any] = field(default_factory=dict)

    def sides(self, seed: int) -> list[Rows]:
        """Training, validation and fresh rows."""
        return [self.data(10 * seed + i, n) for i, n in enumerate((self.rows, VALID, FRESH))]


def smoothed(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of smoothed labels."""
    return F.cross_entropy(net(x), y, label_smoothing=0.1)


def mixup(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of mixed pairs of rows."""
    share, other = float(torch.distributions.Beta(0.2, 0.2).sample()), torch.randperm(len(x))
    out = net(share * x + (1 - share) * x[other])
    return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[other])


def jittered(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of noisy inputs."""
    return F.cross_entropy(net(x + 0.3 * torch.randn_like(x)), y)


def trained_before(net: nn.Module, seed: int) -> None:
    """The network learned rows of the same kind before; its rows are others."""
    before = replace(KINDS["momentum_and_cosine"], optimizer=adam(3e-3), epochs=6)
    x, y = before.data(10 * seed + 7, TRAIN)
    optimizer = before.optimizer(net)
    for _ in range(before.epochs):
        for part in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()


def frozen_but_the_head(net: nn.Module, seed: int) -> None:
    """All layers but the last one are as they were before."""
    trained_before(net, seed)
    for p in list(net.parameters())[:-2]:
        p.requires_grad_(False)
    nn.init.zeros_(list(net.parameters())[-2])


def group_norm(width: int) -> nn.Module:
    """Four groups."""
    return nn.GroupNorm(4, width)


KINDS: dict[str, Kind] = {
    "bag_of_words": Kind(texts, Bag, adam(1e-2)),
    "gru": Kind(waves, lambda: Recurrent(nn.GRU(1, 24, batch_first=True), 24), adam(5e-3), clip=1.0),
    "lstm_of_two_layers": Kind(
        waves, lambda: Recurrent(nn.LSTM(1, 20, 2, batch_first=True, dropout=0.1), 20), adam(1e-2), clip=1.0
    ),
    "transformer": Kind(waves, lambda: Attending(3), adam(3e-3), schedule=warm),
    "next_letter": Kind(chains, lambda: Attending(8, 8), adam(3e-3), schedule=warm, rows=800),
    "residual_images": Kind(pictures, residual, sgd(0.05, weight_decay=5e-4), epochs=12, allowed=frozenset({"decayed_norms"})),
    "table_with_categories": Kind(mixed, Tabular, adam(3e-3), epochs=16),
    "amounts_in_thousands": Kind(
        lambda s, n: (lambda x, y: (x, 2e4 + 8e3 * y))(*hills(s, n)), lambda: Scaled(mlp(6, 1), 8e3, 2e4),
        adam(5e-3), nn.MSELoss(), epochs=30,
    ),
    "one_in_twenty": Kind(rare, lambda: mlp(8, 2, 16, 1), adam(3e-3), epochs=16),
    "fine_tuning": Kind(clouds, mlp, adam(1e-4), epochs=12, prepare=trained_before),
    "huge_batch": Kind(clouds, mlp, adam(1e-2), batch=1500, epochs=80),
    "momentum_and_cosine": Kind(clouds, mlp, sgd(0.03)),
    "restarts": Kind(clouds, mlp, adam(3e-3), schedule=restarts, epochs=30),
    "one_decay_for_all": Kind(
        clouds, lambda: mlp(norm=nn.LayerNorm), adamw(3e-3, 0.05), allowed=frozenset({"decayed_norms"})
    ),
    "decay_as_it_comes": Kind(hills, lambda: mlp(6, 1, 48), adamw(3e-3, 0.01), nn.MSELoss(), epochs=30),
    "label_smoothing": Kind(clouds, mlp, adam(3e-3), cost=smoothed),
    "mixup": Kind(clouds, mlp, adam(3e-3), cost=mixup),
    "noise_on_inputs": Kind(clouds, mlp, adam(3e-3), cost=jittered),
    "frozen_backbone": Kind(clouds, mlp, adam(1e-2), epochs=16, prepare=frozen_but_the_head),
    "several_tags": Kind(tags, lambda: mlp(10, 5), adam(3e-3), nn.BCEWithLogitsLoss()),
    "weighted_classes": Kind(
        rare, lambda: mlp(8, 2, 16, 1), adam(3e-3), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 10.0])), epochs=16
    ),
    "wide_with_half_dropped": Kind(clouds, lambda: mlp(width=128, dropout=0.5), adam(2e-3)),
    "group_norm_and_silu": Kind(pictures_flat, lambda: mlp(64, norm=group_norm, act=nn.SiLU), adam(1e-3), clip=1.0, epochs=8),
    "deep_and_normed": Kind(
        hills, lambda: mlp(6, 1, depth=8, norm=nn.LayerNorm, act=nn.GELU), adam(1e-3), nn.MSELoss(), schedule=warm, rows=3000,
    ),
    "linear_regression": Kind(
        lambda s, n: (lambda x, _: (x, x @ torch.ones(6, 1) + 0.5 * torch.randn(n, 1, generator=drawn(s))))(*hills(s, n)),
        lambda: nn.Linear(6, 1), sgd(0.01), nn.MSELoss(), schedule=constant,
    ),
    "autoencoder": Kind(factors, lambda: nn.Sequential(nn.Linear(10, 3), nn.Linear(3, 10)), adam(1e-2), nn.MSELoss()),
    "robust_regression": Kind(
        lambda s, n: (lambda x, y: (x, y + 0.1 * torch.distributions.StudentT(2.0).sample((n, 1)).clamp(-20, 20)))(*hills(s, n)),
        lambda: mlp(6, 1, 48), adam(5e-3), nn.HuberLoss(), epochs=30,
    ),
    "batch_norm_and_steps": Kind(clouds, lambda: mlp(norm=nn.BatchNorm1d), adam(5e-3), schedule=steps),
    "regularized_by_terms": Kind(
        clouds, lambda: mlp(width=64, dropout=0.2),
        lambda net: wp.regularize(torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0), net, [wp.L2(1e-2).on(wp.weights)]),
    ),
}  # fmt: skip
RECIPES: dict[str, tuple[Callable[[int, int], Rows], Callable[[], nn.Module], str, dict[str, Any], int]] = {
    "fit_few_rows_with_patience": (
        clouds, mlp, "cross_entropy",
        {"epochs": 100, "batch_size": 16, "optimizer": {"name": "adamw", "lr": 1e-3}, "stopping": {"patience": 8}}, 200,
    ),
    "fit_with_dropout_and_decay": (
        clouds, lambda: mlp(width=64, dropout=0.1), "cross_entropy",
        {"epochs": 25, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 3e-3}, "schedule": {"name": "cosine"},
         "noise": {"dropout": 0.2}, "terms": [{"penalty": "l2", "strength": 1e-2}], "stopping": {"patience": 0}}, TRAIN,
    ),
    "fit_a_regression_with_averaging": (
        hills, lambda: mlp(6, 1, 48), "squared_error",
        {"epochs": 30, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 3e-3}, "schedule": {"name": "one_cycle"},
         "averaging": {"ema": 0.98}, "stopping": {"patience": 0}}, TRAIN,
    ),
}  # fmt: skip


@torch.no_grad()
def measured(net: nn.Module, loss: Any, rows: Rows) -> float:
    """The loss in evaluation mode."""
    training = net.training
    net.eval()
    value = float(loss(net(rows[0]), rows[1]))
    net.train(training)
    return value


def guess(loss: Any, train: Rows, fresh: Rows) -> float:
    """What the best constant prediction costs on fresh rows, by training it."""
    target = train[1]
    classes = int(target.max()) + 1 if not target.is_floating_point() else 0
    shape = (classes, *target.shape[1:]) if classes else target.shape[1:]
    start = torch.zeros(shape) if classes else target.mean(0)
    w = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = loss(w.expand(len(target), *shape), target)
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        return float(loss(w.expand(len(fresh[1]), *shape), fresh[1]))


def told(train: list[float], fresh: list[float], best: float, early: bool = False) -> str:
    """Why a training is not healthy; empty if it is."""
    end, low, last = (sum(values[-END:]) / END for values in (fresh, sorted(fresh, reverse=True), train))
    part = max(2, len(train) // 8)
    before, after = sum(train[-2 * part : -part]) / part, sum(train[-part:]) / part
    said = {
        "hardly anything was learned": end > 0.7 * best,
        "the fresh loss rises": end - low > max(0.03 * low, 0.01 * best),
        "there is a gap": end - last > 0.1 * best,
        "it is not at rest": not early and before - after > 0.03 * max(best - after, 1e-9),
    }
    return next((why for why, holds in said.items() if holds), "")


def watched(kind: Kind, seed: int) -> tuple[wp.Watch, str]:
    """Train: the loop; and why it is not healthy."""
    torch.manual_seed(seed)
    train, valid, fresh = kind.sides(seed)
    net = kind.net()
    if kind.prepare is not None:
        kind.prepare(net, seed)
    optimizer = kind.optimizer(net)
    rate = optimizer.param_groups[0]["lr"]
    loader = DataLoader(TensorDataset(*train), batch_size=kind.batch, shuffle=True)
    watch = wp.watch(
        net, kind.loss, train=loader, valid=DataLoader(TensorDataset(*valid), 256), optimizer=optimizer, rows=VALID
    )
    curves: tuple[list[float], list[float]] = ([], [])
    step, total = 0, kind.epochs * len(loader)
    for _ in range(kind.epochs):
        net.train()
        for x, y in loader:
            optimizer.param_groups[0]["lr"] = rate * kind.schedule(step / total)
            optimizer.zero_grad()
            cost = kind.cost(net, x, y) if kind.cost else kind.loss(net(x), y)
            cost.backward()
            if kind.clip:
                nn.utils.clip_grad_norm_(net.parameters(), kind.clip)
            optimizer.step()
            step += 1
        for curve, rows in zip(curves, (train, fresh), strict=True):
            curve.append(measured(net, kind.loss, rows))
        watch.epoch()
    begun = "fine" if kind.prepare is not None else ""
    return watch, told(*curves, guess(kind.loss, train, fresh), early=bool(begun))


def fitted(name: str, seed: int) -> tuple[wp.Run, str]:
    """`wp.fit`, whose chosen weights must be fine on fresh rows."""
    data, net, loss, recipe, count = RECIPES[name]
    train, valid, fresh = (data(10 * seed + i, n) for i, n in enumerate((count, VALID, FRESH)))
    problem = wp.Problem(net, loss, wp.Data(train=train, valid=valid, test=fresh), name=name)
    run = wp.fit(problem, wp.Recipe(**recipe), seed=seed)
    measure = nn.CrossEntropyLoss() if loss == "cross_entropy" else nn.MSELoss()
    ends = [measured(run.model, measure, rows) for rows in (train, fresh)]
    return run, told([ends[0]] * END, [ends[1]] * END, guess(measure, train, fresh), early=True)


def cases(only: set[str], seeds: int) -> Iterator[tuple[str, int, Any, str, frozenset[str]]]:
    """Kind, seed, what to diagnose, why it is no healthy training, and what is allowed."""
    for name, kind in KINDS.items():
        for seed in range(seeds):
            if not only or name in only:
                yield (name, seed, *watched(kind, seed), kind.allowed)
    for name in RECIPES:
        for seed in range(seeds):
            if not only or name in only:
                yield (name, seed, *fitted(name, seed), frozenset())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--kinds", default="", help="names, separated by commas")
    parser.add_argument("--least", type=float, default=0.5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[tuple[str, ...]]] = {}
    dropped: dict[str, Counter[str]] = {}
    for name, _, source, why, allowed in cases(set(filter(None, given.kinds.split(","))), given.seeds):
        runs.setdefault(name, []), dropped.setdefault(name, Counter())
        if why:
            dropped[name][why] += 1
            continue
        found = wp.diagnose(source)
        sure = [f.name for f in found if f.confidence >= given.least]
        runs[name].append(tuple(n for n in sure if n != "healthy" and n not in allowed))
    print("| kind | runs | with an alarm | alarms | dropped |\n|---|---|---|---|---|")
    for name, mine in runs.items():
        alarms = Counter(alarm for one in mine for alarm in one)
        print(f"| {name} | {len(mine)} | {sum(map(bool, mine))} | {listed(alarms)} | {listed(dropped[name])} |")
    every = [one for mine in runs.values() for one in mine]
    hits = sum(map(bool, every))
    low, high = wilson(hits, len(every))
    print(
        f"\n{hits} of {len(every)} runs with an alarm: {hits / max(len(every), 1):.1%}, 95 % {low:.1%} to {high:.1%}."
    )


def listed(counts: Counter[str]) -> str:
    """``name 3, other 1``."""
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "-"


if __name__ == "__main__":
    main()
