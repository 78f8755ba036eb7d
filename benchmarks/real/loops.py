"""Loops of public training scripts, rebuilt small: what watching says, what it changes and what it takes in each.

    python benchmarks/real/loops.py [NAME ...] [--seconds 2]

Each function has the structure of one script's loop (batches, model's call, loss, optimizers), written anew on random data of
the same shapes. How many lines are needed was written down before any was run. A loop is run alone, with the watch and
`regularize` (weights must be equal bit for bit, and the last ``valid_loss`` must be what the script's own evaluation gives), with
a term, and for some seconds to see which share of the time watching takes. ``docs/loops.md`` is the table.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, TensorDataset

import wellposed as wp
from wellposed.training import watch as watching

Own = Callable[[], float]
ROWS, VALID, EPOCHS = 512, 128, 3


@dataclass
class Look:
    """What a loop is given in place of the three lines: nothing, or the library.

    ``epoch = look(net, loss, train, valid)`` makes a watch, ``look.optimizer`` regularizes, ``look.on()`` says whether the loop
    goes on: for ``EPOCHS``, or for some seconds.
    """

    active: bool = False
    terms: tuple[Any, ...] = ()
    seconds: float = 0.0
    watch: Any = None
    began: float = 0.0

    def __call__(self, net: nn.Module, loss: Any, train: Any, valid: Any, **more: Any) -> Callable[[], Any]:
        if not self.active:
            return lambda: None
        self.watch = wp.watch(net, loss, train, valid, **{"share": 0.05 if self.seconds else 1.0} | more)
        return self.watch.epoch

    def optimizer(self, given: optim.Optimizer, net: nn.Module) -> optim.Optimizer:
        if not self.active:
            return given
        found = wp.regularize(given, net, self.terms)
        assert str(wp.audit(found, net))
        return found

    def on(self, epochs: int = EPOCHS) -> Iterator[int]:
        self.began = time.perf_counter()
        for epoch in itertools.count():
            if time.perf_counter() - self.began > self.seconds if self.seconds else epoch == epochs:
                return
            yield epoch


@dataclass(frozen=True)
class Script:
    """A public script: ``lines`` beside a watch, ``says`` what else is right; ``close`` how near the two losses must be."""

    repository: str
    file: str
    run: Callable[[Look], tuple[list[nn.Module], Own]]
    lines: str
    close: float


SCRIPTS: dict[str, Script] = {}


def script(repository: str, file: str, lines: str = "3", close: float = 1e-4) -> Callable[[Any], Any]:
    def add(run: Any) -> Any:
        SCRIPTS[run.__name__] = Script(repository, file, run, lines, close)
        return run

    return add


@torch.no_grad()
def own(
    nets: nn.Module | list[nn.Module], batches: Iterable[Any], of: Callable[[Any], Tensor], size: Any = None
) -> float:
    """The script's own evaluation: the mean of a loss in evaluation mode, over batches weighed by their rows."""
    nets = [nets] if isinstance(nets, nn.Module) else nets
    modes = [net.training for net in nets]
    for net in nets:
        net.eval()
    parts = [(float(of(batch)), size(batch) if size else len(batch[-1])) for batch in batches]
    for net, mode in zip(nets, modes, strict=True):
        net.train(mode)
    return math.fsum(value * count for value, count in parts) / sum(count for _, count in parts)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def descend(optimizer: optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# --- data ---------------------------------------------------------------------------------------------------------------


def images(rows: int, size: int = 12, channels: int = 1, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Noise with a class's own pattern."""
    draw = drawn(rows)
    patterns = torch.randn(classes, channels, size, size, generator=drawn(1))
    y = torch.randint(classes, (rows,), generator=draw)
    return (0.5 * patterns[y] + torch.randn(rows, channels, size, size, generator=draw)), y


def loaders(train: Any, valid: Any, batch: int = 32, **more: Any) -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(train, batch, shuffle=True, **more), DataLoader(valid, 64, **more)


def image_loaders(**more: Any) -> tuple[DataLoader[Any], DataLoader[Any]]:
    return loaders(TensorDataset(*images(ROWS, **more)), TensorDataset(*images(VALID, **more)))


WORDS, LONG = 17, 12


def text(length: int) -> Tensor:
    """A chain in which a word mostly says the next one."""
    draw = drawn(length)
    words = torch.randint(WORDS, (length,), generator=draw).tolist()
    for i in range(1, length):
        words[i] = (3 * words[i - 1] + 1) % WORDS if words[i] % 3 else words[i]
    return torch.tensor(words)


class Rows(Dataset[Any]):
    """A Dataset of whatever ``make`` gives for a number."""

    def __init__(self, rows: int, make: Callable[[int], Any]) -> None:
        self.rows, self.make = rows, make

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Any:
        return self.make(row)


# --- networks -----------------------------------------------------------------------------------------------------------


def convnet(channels: int = 1, classes: int = 10, norm: bool = False, log: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(32, classes), nn.LogSoftmax(1) if log else nn.Identity(),
    )  # fmt: skip


class Speaks(nn.Module):
    """A language model: a recurrent network with its state, time first or rows first."""

    def __init__(self, rows_first: bool, flat: bool, log: bool) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(WORDS, 16), nn.Linear(24, WORDS)
        self.rnn = nn.LSTM(16, 24, batch_first=rows_first)
        self.drop, self.flat, self.log = nn.Dropout(0.2), flat, log

    def start(self, rows: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, rows, 24), torch.zeros(1, rows, 24)

    def forward(self, words: Tensor, state: Any) -> Any:
        hidden, state = self.rnn(self.drop(self.table(words)), state)
        scores = self.out(self.drop(hidden))
        scores = scores.flatten(0, 1) if self.flat else scores
        return scores.log_softmax(-1) if self.log else scores, state


class Block(nn.Module):
    """A causal transformer in small; ``when`` says what comes with targets: scores and loss, or scores with ``last_loss``."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(WORDS, 16), nn.Parameter(torch.zeros(1, LONG, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
        self.out, self.when, self.last_loss = nn.Linear(16, WORDS), when, None

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Any:
        length = idx.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.layer(self.table(idx) + self.places[:, :length], mask, is_causal=True)
        if targets is None:  # as when text is written: the last place is enough
            scores, loss = self.out(hidden[:, [-1]]), None
        else:
            scores = self.out(hidden)
            loss = F.cross_entropy(scores.view(-1, WORDS), targets.reshape(-1), ignore_index=-1)
        self.last_loss = loss
        return scores if self.when == "last_loss" else (scores, loss)


def detached(state: Any) -> Any:
    return tuple(part.detach() for part in state)


# --- the scripts ----------------------------------------------------------------------------------------------------------


@script("pytorch/examples", "mnist/main.py")
def mnist(look: Look) -> Any:
    train, valid = image_loaders()
    net = convnet()
    optimizer = look.optimizer(optim.Adadelta(net.parameters(), lr=1.0), net)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, 0.7)
    epoch = look(net, F.nll_loss, train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        for x, y in train:
            descend(optimizer, F.nll_loss(net(x), y))
        scheduler.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: F.nll_loss(net(b[0]), b[1]))


@script("pytorch/examples", "mnist_rnn/main.py")
def mnist_rnn(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.norm = nn.LSTM(12, 16, batch_first=True), nn.BatchNorm1d(16)
            self.drop, self.out = nn.Dropout(0.25), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            seen, _ = self.rnn(x.reshape(-1, 12, 12))
            return F.log_softmax(self.out(self.drop(self.norm(seen[:, -1]))), dim=1)

    train, valid = image_loaders()
    net = Net()
    optimizer = look.optimizer(optim.Adadelta(net.parameters(), lr=0.1), net)
    epoch = look(net, F.nll_loss, train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        for x, y in train:
            descend(optimizer, F.nll_loss(net(x), y))
        epoch()
    return [net], lambda: own(net, valid, lambda b: F.nll_loss(net(b[0]), b[1]))


@script("pytorch/examples", "regression/main.py", "3: a batch is drawn by a function, so valid= is a list of batches")
def regression(look: Look) -> Any:
    weights = torch.randn(4, 1, generator=drawn(3)) * 5

    def batch(size: int = 32) -> tuple[Tensor, Tensor]:
        x = torch.randn(size)
        x = torch.cat([x.unsqueeze(1) ** i for i in range(1, 5)], 1)
        return x, x.mm(weights) + 2.0

    train, valid = [batch() for _ in range(8)], [batch() for _ in range(4)]
    net = nn.Linear(4, 1)
    epoch = look(net, F.smooth_l1_loss, train, valid)
    for _ in look.on(9):
        x, y = batch()
        net.zero_grad()
        F.smooth_l1_loss(net(x), y).backward()
        for p in net.parameters():
            p.data.add_(-0.1 * p.grad)
        epoch()
    return [net], lambda: own(net, valid, lambda b: F.smooth_l1_loss(net(b[0]), b[1]))


def vae_loss(outputs: Any, x: Tensor) -> Tensor:
    found, mean, log_var = outputs
    cross = F.binary_cross_entropy(found, x.view(-1, 144), reduction="sum")
    return cross - 0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())


@script("pytorch/examples", "vae/main.py", "3, forward=, target=; the loss is summed and draws", close=0.03)
def vae(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.mean, self.log_var = nn.Linear(144, 32), nn.Linear(32, 4), nn.Linear(32, 4)
            self.back, self.out = nn.Linear(4, 32), nn.Linear(32, 144)

        def forward(self, x: Tensor) -> Any:
            hidden = F.relu(self.inner(x.view(-1, 144)))
            mean, log_var = self.mean(hidden), self.log_var(hidden)
            drawn = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
            return torch.sigmoid(self.out(F.relu(self.back(drawn)))), mean, log_var

    train, valid = (
        DataLoader(TensorDataset(images(rows)[0].sigmoid(), images(rows)[1]), 32, shuffle=rows == ROWS)
        for rows in (ROWS, VALID)
    )
    net = Net()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-3), net)
    forward, target = lambda model, batch: model(batch[0]), lambda batch: batch[0]
    epoch = look(net, vae_loss, train, valid, optimizer=optimizer, forward=forward, target=target)
    for _ in look.on():
        net.train()
        for x, _y in train:
            descend(optimizer, vae_loss(net(x), x))
        epoch()
    return [net], lambda: own(net, valid, lambda b: vae_loss(net(b[0]), b[0]) / len(b[0]))


@script("pytorch/examples", "siamese_network/main.py", "3: the loss squeezes, as the loop does", close=0.4)
def siamese(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
            self.fc = nn.Sequential(nn.Linear(200, 16), nn.ReLU(inplace=True), nn.Linear(16, 1))

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return torch.sigmoid(self.fc(torch.cat((self.see(one), self.see(other)), 1)))

    def pairs(rows: int) -> Rows:
        x, y = images(rows)

        def make(row: int) -> Any:
            other = random.randrange(rows)  # drawn anew each time it is asked for
            return x[row], x[other], (y[row] == y[other]).float()

        return Rows(rows, make)

    train, valid = loaders(pairs(ROWS), pairs(VALID))
    net, criterion = Net(), nn.BCELoss()
    optimizer = look.optimizer(optim.Adadelta(net.parameters(), lr=1.0), net)
    loss = lambda f, y: criterion(f.squeeze(), y)  # noqa: E731
    epoch = look(net, loss, train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        for one, other, y in train:
            descend(optimizer, criterion(net(one, other).squeeze(), y))
        epoch()

    def evaluated() -> float:  # pairs are drawn anew, so that only the mean of many looks can be compared
        return math.fsum(own(net, valid, lambda b: criterion(net(b[0], b[1]).squeeze(), b[2])) for _ in range(9)) / 9

    return [net], evaluated


@script("pytorch/examples", "time_sequence_prediction/train.py", "3: doubles, LBFGS, the whole set is one batch")
def sequence(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.LSTMCell(1, 9), nn.Linear(9, 1)

        def forward(self, x: Tensor, future: int = 0) -> Tensor:
            state = (torch.zeros(len(x), 9, dtype=x.dtype),) * 2
            found = []
            for step in [*x.split(1, dim=1), *[None] * future]:
                state = self.cell(found[-1] if step is None else step, state)
                found.append(self.out(state[0]))
            return torch.cat(found, 1)

    waves = torch.sin(torch.arange(21, dtype=torch.float64) / 3 + torch.arange(160, dtype=torch.float64)[:, None])
    x, y, vx, vy = waves[32:, :-1], waves[32:, 1:], waves[:32, :-1], waves[:32, 1:]
    net, criterion = Net().double(), nn.MSELoss()
    optimizer = look.optimizer(optim.LBFGS(net.parameters(), lr=0.8, max_iter=4), net)
    epoch = look(net, criterion, (x, y), (vx, vy), optimizer=optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = criterion(net(x), y)
        loss.backward()
        return loss

    for _ in look.on():
        optimizer.step(closure)
        epoch()
    return [net], lambda: own(net, [(vx, vy)], lambda b: criterion(net(b[0]), b[1]))


@script(
    "pytorch/examples", "word_language_model/main.py (LSTM)", "3, forward=: the state; time first, targets flattened"
)
def words_lstm(look: Look) -> Any:
    def columns(words: Tensor, rows: int) -> Tensor:
        return words[: len(words) // rows * rows].view(rows, -1).t().contiguous()

    def batches(source: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = [(source[i : i + LONG], source[i + 1 : i + 1 + LONG]) for i in range(0, len(source) - 1, LONG)]
        return [(x[: len(y)], y.reshape(-1)) for x, y in found]

    train, valid = batches(columns(text(4000), 16)), batches(columns(text(900), 8))
    net, criterion = Speaks(rows_first=False, flat=True, log=True), nn.NLLLoss()
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0), net)
    forward = lambda model, batch: model(batch[0], model.start(batch[0].shape[1]))[0]  # noqa: E731
    epoch = look(net, criterion, train, valid, optimizer=optimizer, forward=forward)
    for _ in look.on():
        net.train()
        state = net.start(16)
        for x, y in train:
            optimizer.zero_grad()
            scores, state = net(x, detached(state))
            criterion(scores, y).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.25)
            optimizer.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: criterion(forward(net, b), b[1]))


@script(
    "pytorch/examples", "word_language_model/main.py (Transformer)", "3, forward=: scores are flattened; time first"
)
def words_transformer(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(WORDS, 16), nn.TransformerEncoderLayer(16, 2, 32, 0.2)
            self.out = nn.Linear(16, WORDS)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.full((len(x), len(x)), float("-inf")).triu(1)
            return F.log_softmax(self.out(self.layer(self.table(x), mask)), dim=-1)

    def batches(words: Tensor, rows: int) -> list[tuple[Tensor, Tensor]]:
        source = words[: len(words) // rows * rows].view(rows, -1).t().contiguous()
        return [
            (source[i : i + LONG], source[i + 1 : i + 1 + LONG].view(-1))
            for i in range(0, len(source) - 1 - LONG, LONG)
        ]

    train, valid = batches(text(4000), 16), batches(text(900), 8)
    net, criterion = Net(), nn.NLLLoss()
    epoch = look(net, criterion, train, valid, forward=lambda model, batch: model(batch[0]).view(-1, WORDS))
    for _ in look.on():
        net.train()
        for x, y in train:
            net.zero_grad()
            criterion(net(x).view(-1, WORDS), y).backward()
            for p in net.parameters():
                p.data.add_(p.grad, alpha=-0.5)
        epoch()
    return [net], lambda: own(net, valid, lambda b: criterion(net(b[0]).view(-1, WORDS), b[1]))


def windows(words: Tensor, rows: int, source: Any = None) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(words) - LONG - 1, (rows,), generator=source)
    return tuple(torch.stack([words[i + k : i + k + LONG] for i in starts]) for k in (0, 1))


@script("karpathy/nanoGPT", "train.py", "3: batches come from a function; compiled, autocast, accumulated, scaled")
def nanogpt(look: Look) -> Any:
    words, later = text(3000), text(800)
    net = Block("loss")
    bare = optim.AdamW([{"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 0.1},
                        {"params": [p for p in net.parameters() if p.ndim < 2], "weight_decay": 0.0}], lr=1e-2)  # fmt: skip
    optimizer = bare if look.terms else look.optimizer(bare, net)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    compiled: Any = torch.compile(net, backend="eager")
    draw = drawn(5)
    train, valid = ([windows(part, 16, draw) for _ in range(8)] for part in (words, later))
    epoch = look(compiled, "cross_entropy", train, valid, optimizer=optimizer)
    x, y = windows(words, 16)
    for step in look.on(12):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 4)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss = compiled(x, y)[1] / 2
            x, y = windows(words, 16)
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        epoch()
    return [net], lambda: own(net, valid, lambda b: net(*b)[1])


@script("karpathy/minGPT", "mingpt/trainer.py", "3, in the callback on_batch_end: a sampler of 1e10 draws")
def mingpt(look: Look) -> Any:
    def data(words: Tensor, rows: int) -> Rows:
        return Rows(rows, lambda i: (words[i : i + LONG], words[i + 1 : i + 1 + LONG]))

    train = DataLoader(
        data(text(3000), ROWS), 16, sampler=RandomSampler(range(ROWS), replacement=True, num_samples=int(1e10))
    )
    valid = DataLoader(data(text(800), VALID), 16)
    net = Block("loss")
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=5e-3, weight_decay=0), net)
    epoch = look(net, "cross_entropy", train, valid, optimizer=optimizer)
    net.train()
    batches = iter(train)
    for _ in look.on(12):
        loss = net(*next(batches))[1]
        net.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: net(*b)[1])


class Stream(IterableDataset[Any]):
    """Windows of a text without end, the same from the start each time it is begun."""

    def __init__(self, words: Tensor) -> None:
        self.words = words

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draw = random.Random(42)
        while True:
            i = draw.randrange(len(self.words) - LONG - 1)
            yield self.words[i : i + LONG], self.words[i + 1 : i + 1 + LONG]


@script("karpathy/llama2.c", "train.py", "3: an endless IterableDataset; the loss is left in model.last_loss")
def llama(look: Look) -> Any:
    train, valid = DataLoader(Stream(text(3000)), 16), DataLoader(Stream(text(800)), 16)
    net = Block("last_loss")
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=5e-3, weight_decay=0), net)
    epoch = look(net, "cross_entropy", train, valid, optimizer=optimizer)
    batches = iter(train)
    x, y = next(batches)
    for _ in look.on(12):
        for _ in range(2):
            net(x, y)
            x, y = next(batches)
            (net.last_loss / 2).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        epoch()
    few = itertools.islice(DataLoader(Stream(text(800)), 16), 8)
    return [net], lambda: own(net, few, lambda b: F.cross_entropy(net(*b).flatten(0, 1), b[1].flatten()))


def dice_loss(found: Tensor, target: Tensor) -> Tensor:
    overlap, sums = 2 * (found * target).sum((-1, -2, -3)), (found + target).sum((-1, -2, -3))
    return 1 - ((overlap + 1e-6) / (sums + 1e-6)).mean()


@script("milesial/Pytorch-UNet", "train.py", "3, forward=, target=: keys image and mask; dice; channels last")
def unet(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            step = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())  # noqa: E731
            self.down, self.low, self.up = step(3, 6), step(6, 8), nn.ConvTranspose2d(8, 6, 2, stride=2)
            self.last, self.out = step(12, 6), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            seen = self.down(x)
            return self.out(self.last(torch.cat([seen, self.up(self.low(F.max_pool2d(seen, 2)))], 1)))

    def data(rows: int) -> Rows:
        x, _ = images(rows, channels=3)
        return Rows(rows, lambda i: {"image": x[i], "mask": (x[i].mean(0) > 0).long()})

    def criterion(scores: Tensor, masks: Tensor) -> Tensor:
        shares = F.one_hot(masks, 2).permute(0, 3, 1, 2).float()
        return F.cross_entropy(scores, masks) + dice_loss(scores.softmax(1).float().flatten(0, 1), shares.flatten(0, 1))

    train, valid = loaders(data(ROWS // 2), data(VALID), 16)
    net = Net().to(memory_format=torch.channels_last)
    optimizer = look.optimizer(optim.RMSprop(net.parameters(), lr=1e-3, momentum=0.9, foreach=True), net)
    forward, target = lambda model, batch: model(batch["image"]), lambda batch: batch["mask"]
    epoch = look(net, criterion, train, valid, optimizer=optimizer, forward=forward, target=target)
    for _ in look.on():
        net.train()
        for batch in train:
            x = batch["image"].to(memory_format=torch.channels_last)
            loss = criterion(net(x), batch["mask"])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        epoch()
    whole = next(iter(DataLoader(data(VALID), VALID)))
    return [net], lambda: own(net, [whole], lambda b: criterion(net(b["image"]), b["mask"]), lambda b: 1)


class GraphLayer(nn.Module):
    """``A x W + b`` with the weight and the bias as the layer's own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) * 0.3), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        return torch.sparse.mm(links, x @ self.weight) + self.bias


def one_graph() -> tuple[Tensor, Tensor, Tensor]:
    draw = drawn(7)
    y = torch.randint(3, (400,), generator=draw)
    near = (torch.rand(400, 400, generator=draw) < torch.where(y[:, None] == y, 0.05, 0.005)).float() + torch.eye(400)
    x = torch.randn(400, 8, generator=draw) + F.one_hot(y, 8)
    return x, (near / near.sum(1, keepdim=True)).to_sparse(), y


@script("tkipf/pygcn", "pygcn/train.py", "3, forward=: one graph; the rows are numbers of nodes")
def pygcn(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = GraphLayer(8, 16), GraphLayer(16, 3)

        def forward(self, x: Tensor, links: Tensor) -> Tensor:
            hidden = F.dropout(F.relu(self.one(x, links)), 0.5, training=self.training)
            return F.log_softmax(self.two(hidden, links), dim=1)

    x, links, y = one_graph()
    train, valid = torch.arange(200), torch.arange(200, 400)
    net = Net()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=0.01), net)
    epoch = look(
        net, F.nll_loss, (train, y[train]), (valid, y[valid]), optimizer=optimizer, rows=200,
        forward=lambda model, batch: model(x, links)[batch[0]],
    )  # fmt: skip
    for _ in look.on(9):
        net.train()
        descend(optimizer, F.nll_loss(net(x, links)[train], y[train]))
        epoch()
    return [net], lambda: own(net, [(y[valid],)], lambda b: F.nll_loss(net(x, links)[valid], b[0]))


class Graph(SimpleNamespace):
    """An object with tensors, as libraries of graphs have; ``to`` moves it."""

    def to(self, device: Any) -> Graph:
        return Graph(**{key: value.to(device) for key, value in vars(self).items()})


def joined(graphs: list[Graph]) -> Graph:
    sizes = [len(g.x) for g in graphs]
    starts = [0, *itertools.accumulate(sizes)]
    return Graph(
        x=torch.cat([g.x for g in graphs]), y=torch.cat([g.y for g in graphs]),
        edge_index=torch.cat([g.edge_index + start for g, start in zip(graphs, starts, strict=False)], 1),
        batch=torch.repeat_interleave(torch.arange(len(graphs)), torch.tensor(sizes)),
    )  # fmt: skip


@script("pyg-team/pytorch_geometric", "examples/mutag_gin.py", "3, forward=, target=: batches are objects")
def gin(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.out = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU()), nn.Linear(16, 2)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
            near = torch.zeros_like(x).index_add_(0, edge_index[1], x[edge_index[0]])
            hidden = self.one(x + near)
            pooled = torch.zeros(int(batch.max()) + 1, 16).index_add_(0, batch, hidden)
            return self.out(self.drop(pooled))

    def data(rows: int) -> list[Graph]:
        draw = drawn(rows)
        sizes = torch.randint(4, 9, (rows,), generator=draw).tolist()
        return [
            Graph(x=torch.randn(n, 4, generator=draw) + n / 9, edge_index=torch.randint(n, (2, 2 * n), generator=draw),
                  y=torch.tensor([int(n > 6)])) for n in sizes
        ]  # fmt: skip

    train, valid = loaders(data(ROWS), data(VALID), collate_fn=joined)
    net = Net()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=0.01), net)
    epoch = look(
        net, F.cross_entropy, train, valid, optimizer=optimizer, target=lambda batch: batch.y,
        forward=lambda model, batch: model(batch.x, batch.edge_index, batch.batch),
    )  # fmt: skip
    for _ in look.on():
        net.train()
        for batch in train:
            descend(optimizer, F.cross_entropy(net(batch.x, batch.edge_index, batch.batch), batch.y))
        epoch()
    found = lambda b: F.cross_entropy(net(b.x, b.edge_index, b.batch), b.y)  # noqa: E731
    return [net], lambda: own(net, valid, found, lambda b: len(b.y))


@script("adambielski/siamese-triplet", "trainer.py (TripletLoss)", "3, forward=: ((a, p, n), []) and no target")
def triplet(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Sequential(nn.Conv2d(1, 6, 5), nn.PReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 2))

        def forward(self, *several: Tensor) -> Any:
            return tuple(self.see(x) for x in several)

    def triplets(rows: int) -> Rows:
        x, y = images(rows)
        classes = [torch.nonzero(y == c)[:, 0] for c in range(10)]
        return Rows(rows, lambda i: ((x[i], x[classes[y[i]][0]], x[classes[(y[i] + 1) % 10][0]]), []))

    def criterion(anchor: Tensor, near: Tensor, far: Tensor) -> Tensor:
        return F.relu((anchor - near).pow(2).sum(1) - (anchor - far).pow(2).sum(1) + 1.0).mean()

    train, valid = loaders(triplets(ROWS), triplets(VALID))
    net = Net()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-3), net)
    loss, forward = lambda f, _: criterion(*f), lambda model, batch: model(*batch[0])
    epoch = look(net, loss, train, valid, optimizer=optimizer, forward=forward)
    for _ in look.on():
        net.train()
        for data, _target in train:
            descend(optimizer, criterion(*net(*data)))
        epoch()
    return [net], lambda: own(net, valid, lambda b: criterion(*net(*b[0])), lambda b: len(b[0][0]))


class Blocks(Sampler[int]):
    """Runs of neighbouring rows from random starts: a sampler of the script's own."""

    def __init__(self, rows: int, size: int) -> None:
        self.rows, self.size = rows, size

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.rows // self.size):
            start = random.randrange(self.rows - self.size)
            yield from range(start, start + self.size)


@script("meijieru/crnn.pytorch", "train.py", "3: CTC, texts as targets, time first, a sampler of its own")
def ctc(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Sequential(nn.Conv2d(1, 8, (12, 3), padding=(0, 1)), nn.BatchNorm2d(8), nn.ReLU())
            self.rnn, self.out = nn.LSTM(8, 12, bidirectional=True), nn.Linear(24, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(self.see(x).squeeze(2).permute(2, 0, 1))[0])

    def data(rows: int) -> Rows:
        x, y = images(rows)
        return Rows(rows, lambda i: (x[i], "abcd"[int(y[i]) % 4] * (1 + int(y[i]) % 2)))

    def criterion(scores: Tensor, texts: Any) -> Tensor:
        letters = torch.tensor([" abcd".index(c) for c in "".join(texts)])
        sizes = torch.tensor([len(t) for t in texts])
        return F.ctc_loss(
            scores.log_softmax(2), letters, torch.full((len(texts),), len(scores)), sizes, reduction="sum"
        ) / len(texts)

    train = DataLoader(data(ROWS), 32, sampler=Blocks(ROWS, 32))
    valid = DataLoader(data(VALID), 32)
    net = Net()
    optimizer = look.optimizer(optim.RMSprop(net.parameters(), lr=1e-3), net)
    epoch = look(net, criterion, train, valid, optimizer=optimizer)
    for _ in look.on():
        for p in net.parameters():
            p.requires_grad = True
        net.train()
        for x, texts in train:
            net.zero_grad()
            criterion(net(x), texts).backward()
            optimizer.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: criterion(net(b[0]), b[1]))


@script(
    "yunjey/pytorch-tutorial", "03-advanced/image_captioning/train.py", "3, forward=, target=: packed; two networks"
)
def captions(look: Look) -> Any:
    class Tells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.rnn, self.out = (
                nn.Embedding(WORDS, 8),
                nn.LSTM(8, 16, batch_first=True),
                nn.Linear(16, WORDS),
            )

        def forward(self, seen: Tensor, words: Tensor, lengths: list[int]) -> Tensor:
            inputs = torch.cat((seen.unsqueeze(1), self.table(words)), 1)
            return self.out(self.rnn(pack_padded_sequence(inputs, lengths, batch_first=True))[0].data)

    def data(rows: int) -> Rows:
        x, y = images(rows)
        return Rows(rows, lambda i: (x[i], text(99)[: 3 + int(y[i]) % 4] + 0))

    def collate(examples: list[Any]) -> Any:
        examples = sorted(examples, key=lambda e: -len(e[1]))
        lengths = [len(words) for _, words in examples]
        return (
            torch.stack([x for x, _ in examples]),
            nn.utils.rnn.pad_sequence([w for _, w in examples], batch_first=True),
            lengths,
        )

    train, valid = loaders(data(ROWS), data(VALID), collate_fn=collate)
    see = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.BatchNorm1d(8, momentum=0.01))
    tell, criterion = Tells(), nn.CrossEntropyLoss()
    optimizer = look.optimizer(optim.Adam([*tell.parameters(), *see.parameters()], lr=1e-2), tell)
    packed = lambda batch: pack_padded_sequence(batch[1], batch[2], batch_first=True)[0]  # noqa: E731
    forward = lambda model, batch: model(see(batch[0]), batch[1], batch[2])  # noqa: E731
    epoch = look(tell, criterion, train, valid, optimizer=optimizer, forward=forward, target=packed)
    for _ in look.on():
        for batch in train:
            loss = criterion(tell(see(batch[0]), batch[1], batch[2]), packed(batch))
            tell.zero_grad()
            see.zero_grad()
            loss.backward()
            optimizer.step()
        epoch()
    return [tell, see], lambda: own(
        [tell, see], valid, lambda b: criterion(forward(tell, b), packed(b)), lambda b: sum(b[2])
    )


@script("yunjey/pytorch-tutorial", "02-intermediate/language_model/main.py", "3, forward=: the state; scores flattened")
def tutorial_words(look: Look) -> Any:
    def batches(words: Tensor, rows: int) -> list[tuple[Tensor, Tensor]]:
        ids = words[: len(words) // rows * rows].view(rows, -1)
        return [(ids[:, i : i + LONG], ids[:, i + 1 : i + 1 + LONG]) for i in range(0, ids.shape[1] - LONG, LONG)]

    train, valid = batches(text(4000), 16), batches(text(900), 16)
    net, criterion = Speaks(rows_first=True, flat=True, log=False), nn.CrossEntropyLoss()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-2), net)
    forward = lambda model, batch: model(batch[0], model.start(len(batch[0])))[0]  # noqa: E731
    epoch = look(net, criterion, train, valid, optimizer=optimizer, forward=forward)
    for _ in look.on():
        state = net.start(16)
        for x, y in train:
            scores, state = net(x, detached(state))
            loss = criterion(scores, y.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: criterion(forward(net, b), b[1].reshape(-1)))


@script("yunjey/pytorch-tutorial", "01-basics/logistic_regression/main.py", "3, forward=: the loop reshapes the images")
def logistic(look: Look) -> Any:
    train, valid = image_loaders()
    net, criterion = nn.Linear(144, 10), nn.CrossEntropyLoss()
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=1e-2), net)
    forward = lambda model, batch: model(batch[0].reshape(-1, 144))  # noqa: E731
    epoch = look(net, criterion, train, valid, optimizer=optimizer, forward=forward)
    for _ in look.on():
        for x, y in train:
            descend(optimizer, criterion(net(x.reshape(-1, 144)), y))
        epoch()
    return [net], lambda: own(net, valid, lambda b: criterion(forward(net, b), b[1]))


@script("kuangliu/pytorch-cifar", "main.py", "3: rows are augmented as they are read; momentum, decay, cosine")
def cifar(look: Look) -> Any:
    def data(rows: int, flip: bool) -> Rows:
        x, y = images(rows, channels=3)
        return Rows(rows, lambda i: (x[i].flip(-1) if flip and torch.rand(()) < 0.5 else x[i], int(y[i])))

    train, valid = loaders(data(ROWS, True), data(VALID, False))
    net = convnet(3, norm=True, log=False)
    bare = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0 if look.terms else 5e-4)
    optimizer = look.optimizer(bare, net)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    epoch = look(net, nn.CrossEntropyLoss(), train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        for x, y in train:
            descend(optimizer, F.cross_entropy(net(x), y))
        epoch()
        net.eval()
        scheduler.step()
    return [net], lambda: own(net, valid, lambda b: F.cross_entropy(net(b[0]), b[1]))


@script(
    "yaringal/multi-task-learning-example", "...-pytorch.ipynb", "3, forward=: two heads, weighed by learned variances"
)
def multitask(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.one, self.two = nn.Linear(1, 32), nn.Linear(32, 1), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Any:
            hidden = F.relu(self.inner(x))
            return self.one(hidden), self.two(hidden)

    draw = drawn(4)

    def data(rows: int) -> Any:
        x = torch.randn(rows, 1, generator=draw)
        return x, 2 * x + 8 + torch.randn(rows, 1, generator=draw), 3 * x + 3 + torch.randn(rows, 1, generator=draw)

    spreads = [torch.zeros(1, requires_grad=True) for _ in range(2)]

    def criterion(found: Any, wanted: Any) -> Tensor:
        parts = [(torch.exp(-s) * (y - f) ** 2 + s).sum(1) for f, y, s in zip(found, wanted, spreads, strict=True)]
        return sum(parts).mean()

    (x, a, b), held = data(256), data(VALID)
    net = Net()
    optimizer = look.optimizer(optim.Adam([*net.parameters(), *spreads], lr=1e-2), net)
    batches = [(x[i : i + 32], (a[i : i + 32], b[i : i + 32])) for i in range(0, 256, 32)]
    epoch = look(net, criterion, batches, [(held[0], held[1:])], optimizer=optimizer)
    for _ in look.on():
        for one, wanted in batches:
            descend(optimizer, criterion(net(one), wanted))
        epoch()
    return [net], lambda: own(net, [held], lambda e: criterion(net(e[0]), e[1:]))


@script("peterliht/knowledge-distillation-pytorch", "train.py", "3: a teacher in the loop's own loss")
def distilled(look: Look) -> Any:
    train, valid = image_loaders()
    net, teacher = convnet(log=False), convnet(norm=True, log=False)
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-3), net)
    epoch = look(net, nn.CrossEntropyLoss(), train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        teacher.eval()
        for x, y in train:
            found = net(x)
            with torch.no_grad():
                taught = teacher(x)
            soft = F.kl_div(F.log_softmax(found / 6, 1), F.softmax(taught / 6, 1), reduction="batchmean") * 0.9 * 36
            descend(optimizer, soft + 0.1 * F.cross_entropy(found, y))
        epoch()
    return [net, teacher], lambda: own(net, valid, lambda b: F.cross_entropy(net(b[0]), b[1]))


@script("timgaripov/swa", "train.py", "3: the average is a second network, watched like any")
def averaged(look: Look) -> Any:
    train, valid = image_loaders()
    net = convnet(norm=True, log=False)
    mean = copy.deepcopy(net)
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=0.05, momentum=0.9), net)
    epoch = look(mean, F.cross_entropy, train, valid)
    for epochs in look.on():
        net.train()
        for x, y in train:
            descend(optimizer, F.cross_entropy(net(x), y))
        for p, q in zip(mean.parameters(), net.parameters(), strict=True):
            p.data.mul_(epochs / (epochs + 1)).add_(q.data / (epochs + 1))
        mean.train()
        with torch.no_grad():
            for x, _ in train:
                mean(x)
        epoch()
    return [net, mean], lambda: own(mean, valid, lambda b: F.cross_entropy(mean(b[0]), b[1]))


@script("bhanML/Co-teaching", "main.py", "3, forward=, target=: (x, y, number); two networks, two optimizers")
def coteaching(look: Look) -> Any:
    def data(rows: int) -> Rows:
        x, y = images(rows)
        return Rows(rows, lambda i: (x[i], y[i], i))

    train, valid = loaders(data(ROWS), data(VALID), drop_last=True)
    nets = [convnet(norm=True, log=False) for _ in range(2)]
    optimizers = [look.optimizer(optim.Adam(net.parameters(), lr=1e-3), net) for net in nets]
    forward, target = lambda model, batch: model(batch[0]), lambda batch: batch[1]
    epochs = [
        look(net, F.cross_entropy, train, valid, optimizer=optimizer, forward=forward, target=target)
        for net, optimizer in zip(nets, optimizers, strict=True)
    ]
    for _ in look.on():
        for net in nets:
            net.train()
        for x, y, _numbers in train:
            losses = [F.cross_entropy(net(x), y, reduction="none") for net in nets]
            easy = [loss.detach().argsort()[:24] for loss in losses]
            for optimizer, loss, kept in zip(optimizers, losses, reversed(easy), strict=True):
                descend(optimizer, loss[kept].mean())
        for epoch in epochs:
            epoch()
    return nets, lambda: own(nets[1], valid, lambda b: F.cross_entropy(nets[1](b[0]), b[1]))


class Balanced(Sampler[int]):
    """Each class as often as any other, with a weight for each row."""

    def __init__(self, labels: Tensor) -> None:
        self.indices, self.weights = list(range(len(labels))), (1.0 / torch.bincount(labels).double())[labels]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return (self.indices[i] for i in torch.multinomial(self.weights, len(self.indices), replacement=True))


@script("ufoym/imbalanced-dataset-sampler", "README: ImbalancedDatasetSampler", "3: a sampler of its own")
def imbalanced(look: Look) -> Any:
    x, y = images(ROWS)
    train = DataLoader(TensorDataset(x, y), 32, sampler=Balanced(y))
    valid = DataLoader(TensorDataset(*images(VALID)), 64)
    net = convnet(log=False)
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=0.05, momentum=0.9), net)
    epoch = look(net, nn.CrossEntropyLoss(), train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        for inputs, labels in train:
            descend(optimizer, F.cross_entropy(net(inputs), labels))
        epoch()
    return [net], lambda: own(net, valid, lambda b: F.cross_entropy(net(b[0]), b[1]))


@script("salesforce/awd-lstm-lm", "main.py", "3, forward=: the loss owns nothing and takes the decoder; time first")
def awd(look: Look) -> Any:
    def batches(words: Tensor, rows: int) -> list[tuple[Tensor, Tensor]]:
        source = words[: len(words) // rows * rows].view(rows, -1).t().contiguous()
        return [
            (source[i : i + LONG], source[i + 1 : i + 1 + LONG].view(-1))
            for i in range(0, len(source) - 1 - LONG, LONG)
        ]

    train, valid = batches(text(4000), 16), batches(text(900), 8)
    net = Speaks(rows_first=False, flat=True, log=False)
    bare = optim.SGD(net.parameters(), lr=1.0, weight_decay=0 if look.terms else 1.2e-6)
    optimizer = look.optimizer(bare, net)
    forward = lambda model, batch: model(batch[0], model.start(batch[0].shape[1]))[0]  # noqa: E731
    epoch = look(net, F.cross_entropy, train, valid, optimizer=optimizer, forward=forward)
    for _ in look.on():
        state = net.start(16)
        net.train()
        for x, y in train:
            rate = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] = rate * len(x) / LONG
            optimizer.zero_grad()
            scores, state = net(x, detached(state))
            (F.cross_entropy(scores, y) + 1e-3 * scores.pow(2).mean()).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.25)
            optimizer.step()
            optimizer.param_groups[0]["lr"] = rate
        epoch()
    return [net], lambda: own(net, valid, lambda b: F.cross_entropy(forward(net, b), b[1]))


def generator_of() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 64),
        nn.BatchNorm1d(64, 0.8),
        nn.LeakyReLU(0.2),
        nn.Linear(64, 144),
        nn.Tanh(),
        nn.Unflatten(1, (1, 12, 12)),
    )


@script("eriklindernoren/PyTorch-GAN", "dcgan/dcgan.py", "3, forward=, target=: the other network is inside", close=0.1)
def gan(look: Look) -> Any:
    judge = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.BatchNorm2d(8, 0.8),
        nn.Flatten(),
        nn.Linear(288, 1),
        nn.Sigmoid(),
    )
    make, criterion = generator_of(), nn.BCELoss()
    train, valid = image_loaders()
    first = look.optimizer(optim.Adam(make.parameters(), lr=2e-4, betas=(0.5, 0.999)), make)
    second = look.optimizer(optim.Adam(judge.parameters(), lr=2e-4, betas=(0.5, 0.999)), judge)

    def forward(model: nn.Module, batch: Any) -> Tensor:
        return torch.cat([model(batch[0]), model(make(torch.randn(len(batch[0]), 8)))], 1)

    target = lambda batch: torch.tensor([[1.0, 0.0]]).expand(len(batch[0]), 2)  # noqa: E731
    epoch = look(judge, criterion, train, valid, optimizer=second, forward=forward, target=target)
    for _ in look.on():
        for x, _y in train:
            true, false = torch.ones(len(x), 1), torch.zeros(len(x), 1)
            first.zero_grad()
            made = make(torch.randn(len(x), 8))
            criterion(judge(made), true).backward()
            first.step()
            second.zero_grad()
            ((criterion(judge(x), true) + criterion(judge(made.detach()), false)) / 2).backward()
            second.step()
        epoch()
    return [make, judge], lambda: own([make, judge], valid, lambda b: criterion(forward(judge, b), target(b)))


@script("eriklindernoren/PyTorch-GAN", "acgan/acgan.py", "3, forward=: of a pair of outputs the labels' scores")
def acgan(look: Look) -> Any:
    class Judge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.LeakyReLU(0.2), nn.BatchNorm2d(8, 0.8), nn.Flatten())
            self.true, self.kind = nn.Sequential(nn.Linear(288, 1), nn.Sigmoid()), nn.Linear(288, 10)

        def forward(self, x: Tensor) -> Any:
            seen = self.see(x)
            return self.true(seen), self.kind(seen)

    judge, make = Judge(), generator_of()
    train, valid = image_loaders()
    first = look.optimizer(optim.Adam(make.parameters(), lr=1e-3), make)
    second = look.optimizer(optim.Adam(judge.parameters(), lr=1e-3), judge)
    epoch = look(
        judge, "cross_entropy", train, valid, optimizer=second, forward=lambda model, batch: model(batch[0])[1]
    )
    for _ in look.on():
        for x, y in train:
            true, false = torch.ones(len(x), 1), torch.zeros(len(x), 1)
            first.zero_grad()
            made = make(torch.randn(len(x), 8))
            valid_of, kinds = judge(made)
            (F.binary_cross_entropy(valid_of, true) + F.cross_entropy(kinds, y)).backward()
            first.step()
            second.zero_grad()
            (real, kinds), (fake, _) = judge(x), judge(made.detach())
            loss = F.binary_cross_entropy(real, true) + F.binary_cross_entropy(fake, false) + F.cross_entropy(kinds, y)
            loss.backward()
            second.step()
        epoch()
    return [make, judge], lambda: own(judge, valid, lambda b: F.cross_entropy(judge(b[0])[1], b[1]))


def cycle(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


@script(
    "lucidrains/denoising-diffusion-pytorch", "denoising_diffusion_pytorch.py",
    "3, forward=, target=: images alone, the model returns its loss, which draws; endless; EMA", close=0.1,
)  # fmt: skip
def diffusion(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1)
            )

        def forward(self, x: Tensor) -> Tensor:
            t, noise = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
            return F.mse_loss(self.inner((1 - t) * x + t * noise), noise)

    class Images(Dataset[Tensor]):
        def __init__(self, rows: int) -> None:
            self.x = images(rows)[0]

        def __len__(self) -> int:
            return len(self.x)

        def __getitem__(self, i: int) -> Tensor:
            return self.x[i]

    train = cycle(DataLoader(Images(ROWS), 32, shuffle=True))
    net = Net()
    mean = torch.optim.swa_utils.AveragedModel(net)
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.99)), net)
    valid = DataLoader(Images(VALID), 64)
    as_is = lambda model, batch: model(batch)  # noqa: E731
    rows, itself = Images(ROWS), lambda batch: batch
    epoch = look(net, lambda f, _: f, rows, valid, optimizer=optimizer, forward=as_is, target=itself)
    for _ in look.on(12):
        net.train()
        for _ in range(2):
            (net(next(train)) / 2).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean.update_parameters(net)
        epoch()
    return [net, mean], lambda: own(net, valid, net)


@script(
    "pytorch/vision",
    "references/detection/engine.py",
    "3, forward=: losses exist in training mode alone; lists of images",
)
def detection(look: Look) -> Any:
    class Finds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
            )
            self.box, self.kind = nn.Linear(32, 4), nn.Linear(32, 3)

        def forward(self, given: list[Tensor], targets: Any = None) -> Any:
            seen = torch.cat([self.see(x[None]) for x in given]) if not self.training else self.see(torch.stack(given))
            boxes, kinds = self.box(seen), self.kind(seen)
            if not self.training:
                return [{"boxes": b[None], "labels": k.argmax()[None]} for b, k in zip(boxes, kinds, strict=True)]
            if targets is None:
                raise ValueError("In training mode targets are needed.")
            wanted, labels = torch.cat([t["boxes"] for t in targets]), torch.cat([t["labels"] for t in targets])
            return {"box": F.smooth_l1_loss(boxes, wanted), "kind": F.cross_entropy(kinds, labels)}

    def data(rows: int) -> Rows:
        x, y = images(rows)
        return Rows(rows, lambda i: (x[i], {"boxes": x[i, 0, :4, :1].T.abs(), "labels": y[i, None] % 3}))

    def collate(examples: list[Any]) -> Any:
        return tuple(zip(*examples, strict=True))

    train, valid = loaders(data(ROWS), data(VALID), collate_fn=collate)
    net = Finds()
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=0.02, momentum=0.9), net)

    def forward(model: nn.Module, batch: Any) -> Tensor:
        return sum(model.train()(list(batch[0]), batch[1]).values())

    epoch = look(net, lambda f, _: f, train, valid, optimizer=optimizer, forward=forward)
    for _ in look.on():
        net.train()
        for given, targets in train:
            descend(optimizer, sum(net(list(given), targets).values()))
        epoch()
    kept = copy.deepcopy(net)  # training mode moves its statistics
    return [net], lambda: own(kept, valid, lambda b: forward(kept, b))


@script(
    "bentrevett/pytorch-sentiment-analysis", "2 - Recurrent Neural Networks.ipynb", "3: keys ids, length, label; packed"
)
def sentiment(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.rnn, self.out = (
                nn.Embedding(WORDS, 8, 0),
                nn.LSTM(8, 16, batch_first=True),
                nn.Linear(16, 2),
            )

        def forward(self, ids: Tensor, length: Tensor) -> Tensor:
            packed = pack_padded_sequence(self.table(ids), length.cpu(), batch_first=True, enforce_sorted=False)
            return self.out(self.rnn(packed)[1][0][-1])

    def data(rows: int) -> Rows:
        words = text(rows + 20)
        return Rows(rows, lambda i: {"ids": words[i : i + 4 + i % 7], "length": 4 + i % 7, "label": int(words[i] > 8)})

    def collate(examples: list[Any]) -> Any:
        ids = nn.utils.rnn.pad_sequence([e["ids"] for e in examples], batch_first=True)
        return {"ids": ids, **{key: torch.tensor([e[key] for e in examples]) for key in ("length", "label")}}

    train, valid = loaders(data(ROWS), data(VALID), collate_fn=collate)
    net, criterion = Net(), nn.CrossEntropyLoss()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=5e-3), net)
    epoch = look(net, criterion, train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        for batch in train:
            descend(optimizer, criterion(net(batch["ids"], batch["length"]), batch["label"]))
        epoch()
    found = lambda b: criterion(net(b["ids"], b["length"]), b["label"])  # noqa: E731
    return [net], lambda: own(net, valid, found, lambda b: len(b["label"]))


@script(
    "spro/practical-pytorch",
    "char-rnn-generation",
    "3, forward=: letter by letter with a state, chunks drawn at random",
)
def letters(look: Look) -> Any:
    words = text(2000)

    def chunk(source: Any = None) -> tuple[Tensor, Tensor]:
        return tuple(part[0] for part in windows(words, 1, source))

    draw = drawn(6)
    train, valid = [chunk(draw) for _ in range(40)], [chunk(draw) for _ in range(40)]
    net, criterion = Speaks(rows_first=True, flat=False, log=False), nn.CrossEntropyLoss()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-2), net)

    def forward(model: Any, batch: Any) -> Tensor:
        state, found = model.start(1), []
        for letter in batch[0]:
            scores, state = model(letter.view(1, 1), state)
            found.append(scores[0])
        return torch.cat(found)

    epoch = look(net, criterion, train, valid, optimizer=optimizer, forward=forward, rows=480)
    for _ in look.on(9):
        x, y = chunk()
        state, loss = net.start(1), torch.zeros(())
        net.zero_grad()
        for i in range(LONG):
            scores, state = net(x[i].view(1, 1), state)
            loss = loss + criterion(scores[0], y[i].view(1))
        loss.backward()
        optimizer.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: criterion(forward(net, b), b[1]))


# --- with other libraries: skipped where they are not installed --------------------------------------------------------------


@script("facebookresearch/schedule_free", "examples/mnist/main.py")
def schedule_free(look: Look) -> Any:
    import schedulefree

    train, valid = image_loaders()
    net = convnet()
    bare = schedulefree.AdamWScheduleFree(net.parameters(), lr=0.01)
    optimizer: Any = look.optimizer(bare, net)
    epoch = look(net, F.nll_loss, train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        optimizer.train()
        for x, y in train:
            descend(optimizer, F.nll_loss(net(x), y))
        epoch()
        net.eval()
        optimizer.eval()
    return [net], lambda: own(net, valid, lambda b: F.nll_loss(net(b[0]), b[1]))


def tokens(rows: int, causal: bool) -> Rows:
    words = text(rows + 20)

    def make(i: int) -> Any:
        length = LONG - (0 if causal else i % 5)
        ids = words[i : i + LONG] * (torch.arange(LONG) < length)
        shown = {"input_ids": ids, "attention_mask": (torch.arange(LONG) < length).long()}
        return shown | {"labels": ids.clone() if causal else int(words[i] > 8)}

    return Rows(rows, make)


@script("huggingface/accelerate", "examples/nlp_example.py", "3: BERT; model, optimizer and loaders are prepared")
def bert(look: Look) -> Any:
    from accelerate import Accelerator
    from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    net = BertForSequenceClassification(BertConfig(vocab_size=WORDS, **sizes))
    accelerator = Accelerator(cpu=True)
    train, valid = loaders(tokens(ROWS, False), tokens(VALID, False))
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0), net)
    scheduler = get_linear_schedule_with_warmup(optimizer, 4, 48)
    model, optimizer, train, valid, scheduler = accelerator.prepare(net, optimizer, train, valid, scheduler)
    epoch = look(model, "cross_entropy", train, valid, optimizer=optimizer)
    for _ in look.on():
        model.train()
        for step, batch in enumerate(train):
            loss = model(**batch).loss / 2
            accelerator.backward(loss)
            if step % 2 == 0:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        epoch()
    return [net], lambda: own(net, valid, lambda b: net(**b).loss, lambda b: len(b["labels"]))


@script(
    "huggingface/accelerate",
    "by_feature/gradient_accumulation_for_autoregressive_models.py",
    "3: GPT-2; labels shifted",
)
def gpt2(look: Look) -> Any:
    from accelerate import Accelerator
    from transformers import GPT2Config, GPT2LMHeadModel

    net = GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_positions=LONG, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    )
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    train, valid = loaders(tokens(ROWS, True), tokens(VALID, True))
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0), net)
    model, optimizer, train, valid = accelerator.prepare(net, optimizer, train, valid)
    epoch = look(model, "cross_entropy", train, valid, optimizer=optimizer)
    for _ in look.on():
        model.train()
        batches = iter(train)
        for _ in range(8):
            several = [next(batches) for _ in range(2)]
            count = sum(int(b["labels"].ne(-100).sum()) for b in several)
            for batch in several:
                loss = model(**batch, use_cache=False, num_items_in_batch=count).loss * 2
                accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        epoch()
    return [net], lambda: own(net, valid, lambda b: net(**b).loss, lambda b: len(b["labels"]))


@script(
    "Lightning-AI/pytorch-lightning", "examples/fabric/image_classifier/train_fabric.py", "3: loaders and model set up"
)
def fabric(look: Look) -> Any:
    from lightning.fabric import Fabric

    made = Fabric(accelerator="cpu", devices=1)
    train, valid = made.setup_dataloaders(*image_loaders())
    net = convnet()
    optimizer = look.optimizer(optim.Adadelta(net.parameters(), lr=1.0), net)
    model, optimizer = made.setup(net, optimizer)
    epoch = look(model, F.nll_loss, train, valid, optimizer=optimizer)
    for _ in look.on():
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            made.backward(F.nll_loss(model(x), y))
            optimizer.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: F.nll_loss(net(b[0]), b[1]))


# --- what is looked at ---------------------------------------------------------------------------------------------------------


def run(one: Script, look: Look) -> tuple[list[Tensor], float]:
    """All parameters and buffers at the end, the next draw of each generator, and the script's own validation loss."""
    torch.manual_seed(0)
    random.seed(0)
    nets, evaluated = one.run(look)
    state = [t.detach().clone() for net in nets for t in (*net.parameters(), *net.buffers())]
    state += [torch.tensor([net.training for net in nets]), torch.rand(1), torch.tensor(random.random())]
    return state, evaluated()


def row_of(name: str, seconds: float) -> str:
    """A row of the table."""
    one = SCRIPTS[name]
    run(one, Look(seconds=1e-9))  # libraries draw when they are first imported
    plain, wanted = run(one, Look())
    look = Look(active=True)
    watched, _ = run(one, look)
    equal = all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    shown = look.watch.history["valid_loss"][-1]
    right = abs(shown - wanted) <= one.close * max(abs(wanted), 1e-6)
    termed = Look(active=True, terms=(wp.L1(1e-5).on(wp.weights),))
    try:
        charged = "yes" if torch.isfinite(torch.tensor(run(one, termed)[1])) else "diverged"
    except wp.CompositionError as refused:
        charged = f"refused: {str(refused).split('. ')[0]}"
    # Of the long loop the process's own time counts, which others on the machine do not stretch.
    watching.FREE, wall, time.perf_counter = 0.0, time.perf_counter, time.process_time
    long = Look(active=True, seconds=seconds)
    run(one, long)
    took = 100 * long.watch._spent / (time.perf_counter() - long.watch._made)
    watching.FREE, time.perf_counter = 2.0, wall
    verdict = ", ".join(str(found.name) for found in wp.diagnose(look.watch))
    return (
        f"| {one.repository} | {one.file} | {one.lines} | {'yes' if equal else 'NO'} | {wanted:.4f} | {shown:.4f}"
        f"{'' if right else ' WRONG'} | {charged} | {took:.1f} | {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    print(
        "| repository | file | lines needed | equal bit for bit | own loss | shown | with L1 | time taken, % | findings |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in given.names or SCRIPTS:
        try:
            print(row_of(name, given.seconds), flush=True)
        except ImportError as missing:
            print(f"| {SCRIPTS[name].repository} | {SCRIPTS[name].file} | not tried: {missing} ||||||", flush=True)


if __name__ == "__main__":
    main()
