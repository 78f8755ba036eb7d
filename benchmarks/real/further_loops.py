"""More loops of public training scripts: contrastive, reinforcement, translation, meta-learning, physics, sparse tables, ...

    python benchmarks/real/further_loops.py [NAME ...] [--seconds 2]

As `loops`, whose helpers and table these are. Each ``lines`` was written down before the first run, as somebody would type it
who knows the script and has read the first page of the documentation alone.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import loops
import numpy as np
import torch
from loops import (
    LONG,
    ROWS,
    VALID,
    WORDS,
    Block,
    Look,
    Rows,
    convnet,
    descend,
    drawn,
    image_loaders,
    images,
    loaders,
    own,
    script,
)  # fmt: skip
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)  # fmt: skip


@script("sthalles/SimCLR", "simclr.py", "3, forward=: two views in a list; a row's loss needs its batch")
def contrastive(look: Look) -> Any:
    def views(rows: int) -> Rows:
        x, y = images(rows)

        def make(row: int) -> Any:
            draw = drawn(row)
            return [x[row] + 0.3 * torch.randn(x[row].shape, generator=draw) for _ in range(2)], y[row]

        return Rows(rows, make)

    train, valid = (DataLoader(views(rows), 32, shuffle=rows == ROWS, drop_last=True) for rows in (ROWS, VALID))
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 32), nn.ReLU(), nn.Linear(32, 16)
    )
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=3e-4, weight_decay=1e-4), net)

    def info_nce(features: Tensor, _: Any = None) -> Tensor:
        features = F.normalize(features, dim=1)
        rows = len(features) // 2
        alike = features @ features.T / 0.07
        same = torch.arange(rows).repeat(2)
        pairs, self_ = same[:, None] == same[None], torch.eye(2 * rows, dtype=torch.bool)
        positives = alike[pairs & ~self_].view(2 * rows, 1)
        negatives = alike[~pairs].view(2 * rows, -1)
        return F.cross_entropy(torch.cat([positives, negatives], 1), torch.zeros(2 * rows, dtype=torch.long))

    epoch = look(
        net, info_nce, train, valid, optimizer=optimizer, forward=lambda model, batch: model(torch.cat(batch[0]))
    )
    for _ in look.on():
        for both, _labels in train:
            descend(optimizer, info_nce(net(torch.cat(both))))
        epoch()
    return [net], lambda: own(net, valid, lambda b: info_nce(net(torch.cat(b[0]))))


@script(
    "pytorch/examples", "reinforcement_learning/reinforce.py",
    "3, forward=: episodes that were played are the rows to look at; the policy keeps lists, acts with gradients, and has dropout",
)  # fmt: skip
def reinforce(look: Look) -> Any:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.affine1, self.dropout, self.affine2 = nn.Linear(4, 32), nn.Dropout(0.6), nn.Linear(32, 2)
            self.saved: list[Tensor] = []
            self.rewards: list[float] = []

        def forward(self, x: Tensor) -> Tensor:
            return self.affine2(F.relu(self.dropout(self.affine1(x)))).softmax(1)

    world = random.Random(0)

    def pole(state: list[float], push: int) -> tuple[list[float], bool]:
        """A pole that falls unless it is pushed the right way."""
        place, speed, angle, turning = state
        force = 1.0 if push else -1.0
        turning += 0.2 * (angle - 0.3 * force) + world.gauss(0, 0.02)
        speed += 0.1 * force
        state = [place + 0.1 * speed, speed, angle + 0.2 * turning, turning]
        return state, abs(state[2]) > 0.8

    def returns(rewards: list[float]) -> Tensor:
        total, found = 0.0, []
        for reward in reversed(rewards):
            total = reward + 0.99 * total
            found.append(total)
        values = torch.tensor(found[::-1])
        return (values - values.mean()) / (values.std() + 1e-6)

    def start() -> list[float]:
        return [world.gauss(0, 0.05) for _ in range(4)]

    def played(episodes: int) -> list[Any]:
        """Episodes of a policy that pushes at random: states, actions, returns."""
        found = []
        for _ in range(episodes):
            states, actions, rewards, state, done = [], [], [], start(), False
            while not done and len(states) < 40:
                states.append(state)
                actions.append(world.randrange(2))
                state, done = pole(state, actions[-1])
                rewards.append(1.0)
            found.append((torch.tensor(states), torch.tensor(actions), returns(rewards)))
        return found

    def loss(probabilities: Tensor, told: Any) -> Tensor:
        actions, worth = told
        return -(probabilities.gather(1, actions[:, None])[:, 0].log() * worth).sum()

    policy = Policy()
    optimizer = look.optimizer(optim.Adam(policy.parameters(), lr=1e-2), policy)
    valid = played(5)
    epoch = look(
        policy, loss, played(20), valid, optimizer=optimizer,
        forward=lambda model, batch: model(batch[0]), target=lambda batch: batch[1:],
    )  # fmt: skip
    for _ in look.on():
        for _episode in range(10):
            state, done, steps = start(), False, 0
            while not done and steps < 40:
                chances = torch.distributions.Categorical(policy(torch.tensor([state])))
                action = chances.sample()
                policy.saved.append(chances.log_prob(action))
                state, done = pole(state, int(action))
                policy.rewards.append(1.0)
                steps += 1
            worth = returns(policy.rewards)
            descend(optimizer, torch.cat([-log * r for log, r in zip(policy.saved, worth, strict=True)]).sum())
            del policy.rewards[:], policy.saved[:]
        epoch()
    return [policy], lambda: own(policy, valid, lambda b: loss(policy(b[0]), b[1:]) / len(b[0]))


@script(
    "eriklindernoren/PyTorch-YOLOv3", "pytorchyolo/train.py",
    "3, forward=, target=: (paths, images, boxes of all images in one list); other outputs in evaluation mode; accumulated",
    close=1e-3,
)  # fmt: skip
def yolo(look: Look) -> Any:
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.1))
            self.heads = nn.ModuleList([nn.Conv2d(8, 5, 1), nn.Conv2d(8, 5, 1, stride=2)])
            self.seen = 0

        def forward(self, x: Tensor) -> Any:
            maps = [head(self.see(x)).permute(0, 2, 3, 1) for head in self.heads]
            if self.training:
                return maps
            return torch.cat([m.sigmoid().flatten(1, 2) for m in maps], 1)  # boxes, decoded

    def compute_loss(maps: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        boxes = present = torch.zeros(())
        for grid in maps:
            wanted = torch.zeros(grid.shape[:3])
            size = grid.shape[1]
            image, y, x = targets[:, 0].long(), (targets[:, 2] * size).long(), (targets[:, 3] * size).long()
            wanted[image, y, x] = 1
            if len(targets):
                boxes = boxes + (grid[image, y, x, :4] - targets[:, 2:]).square().mean()
            present = present + F.binary_cross_entropy_with_logits(grid[..., 4], wanted)
        return boxes + present, torch.stack([boxes, present]).detach()

    def data(rows: int) -> Rows:
        x, y = images(rows)
        boxes = torch.rand(rows, 3, 6, generator=drawn(rows))
        return Rows(rows, lambda i: (f"{i}.jpg", x[i], boxes[i, : int(y[i]) % 4]))

    def collate(examples: list[Any]) -> Any:
        paths, pictures, boxes = zip(*examples, strict=True)
        for number, some in enumerate(boxes):
            some[:, 0] = number
        return paths, torch.stack(pictures), torch.cat(boxes)

    train, valid = (DataLoader(data(n), 16, shuffle=n == ROWS, collate_fn=collate) for n in (ROWS, VALID))
    net = Grid()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-3, weight_decay=5e-4), net)
    epoch = look(
        net, lambda maps, boxes: compute_loss(maps, boxes)[0], train, valid, optimizer=optimizer,
        forward=lambda model, batch: model.train()(batch[1]), target=lambda batch: batch[2],
    )  # fmt: skip
    done = 0
    for _ in look.on():
        net.train()
        for _paths, pictures, boxes in train:
            loss, _parts = compute_loss(net(pictures), boxes)
            loss.backward()
            if done % 2 == 0:
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * min(1, done / 10)
                optimizer.step()
                optimizer.zero_grad()
            net.seen += len(pictures)
            done += 1
        epoch()
    kept = copy.deepcopy(net)  # training mode moves its statistics
    return [net], lambda: own(kept, valid, lambda b: compute_loss(kept.train()(b[1]), b[2])[0], lambda b: len(b[1]))


@script(
    "jadore801120/attention-is-all-you-need-pytorch", "train.py",
    "3, forward=, target=: the target is cut twice; a sum over words, smoothed in training alone; a wrapper around Adam",
)  # fmt: skip
def translation(look: Look) -> Any:
    pad = 0

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList([nn.Embedding(WORDS, 16, pad) for _ in range(2)])
            self.core = nn.Transformer(16, 2, 1, 1, 32, dropout=0.1, batch_first=True)
            self.out = nn.Linear(16, WORDS, bias=False)
            self.out.weight = self.tables[1].weight

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
            seen = self.core(
                self.tables[0](source), self.tables[1](target), tgt_mask=mask,
                src_key_padding_mask=(source == pad).float().masked_fill(source == pad, -torch.inf),
            )  # fmt: skip
            return self.out(seen).flatten(0, 1)  # all places of all sentences

    class Warm:
        """Sets the rate before each step."""

        def __init__(self, inner: Any) -> None:
            self._optimizer, self.steps = inner, 0

        def zero_grad(self) -> None:
            self._optimizer.zero_grad()

        def step_and_update_lr(self) -> None:
            self.steps += 1
            for group in self._optimizer.param_groups:
                group["lr"] = 2 * 16**-0.5 * min(self.steps**-0.5, self.steps * 100**-1.5)
            self._optimizer.step()

    def sentences(rows: int) -> TensorDataset:
        draw = drawn(rows)
        source = torch.randint(3, WORDS, (rows, 8), generator=draw)
        source[torch.arange(8)[None] >= torch.randint(4, 9, (rows, 1), generator=draw)] = pad
        said = torch.where(source == pad, pad, (source + 1) % (WORDS - 3) + 3)
        return TensorDataset(source, torch.cat([torch.ones(rows, 1, dtype=torch.long), said], 1))

    train, valid = loaders(sentences(ROWS), sentences(VALID))
    net = Net()
    inner = look.optimizer(optim.Adam(net.parameters(), betas=(0.9, 0.98), eps=1e-9), net)
    optimizer = Warm(inner)
    gold = lambda batch: batch[1][:, 1:]  # noqa: E731
    epoch = look(
        net, nn.CrossEntropyLoss(ignore_index=pad, reduction="sum"), train, valid, optimizer=inner,
        forward=lambda model, batch: model(batch[0], batch[1][:, :-1]), target=gold,
    )  # fmt: skip
    for _ in look.on():
        net.train()
        for batch in train:
            optimizer.zero_grad()
            scores = net(batch[0], batch[1][:, :-1])
            F.cross_entropy(
                scores, gold(batch).flatten(), ignore_index=pad, reduction="sum", label_smoothing=0.1
            ).backward()
            optimizer.step_and_update_lr()
        epoch()

    def mean_of_words(batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0], batch[1][:, :-1]), gold(batch).flatten(), ignore_index=pad)

    return [net], lambda: own(net, valid, mean_of_words, lambda b: int((gold(b) != pad).sum()))


@script("guoyang9/NCF", "main.py", "3: (user, item, label); the rows change in each epoch: negatives are drawn anew")
def recommending(look: Look) -> Any:
    people, things = 60, 40

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item, self.out = nn.Embedding(people, 8), nn.Embedding(things, 8), nn.Linear(8, 1)

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return self.out(self.user(user) * self.item(item)).view(-1)

    class Clicks(Dataset[Any]):
        """Clicks, and four times as many pairs that were not clicked."""

        def __init__(self, rows: int) -> None:
            draw = drawn(rows)
            user = torch.randint(people, (rows,), generator=draw)
            self.clicked = list(
                zip(
                    user.tolist(),
                    ((3 * user + torch.randint(5, (rows,), generator=draw)) % things).tolist(),
                    strict=True,
                )
            )
            self.ng_sample()

        def ng_sample(self) -> None:
            known = set(self.clicked)
            unclicked = []
            for user, _ in self.clicked:
                for _ in range(4):
                    item = random.randrange(things)
                    while (user, item) in known:
                        item = random.randrange(things)
                    unclicked.append((user, item))
            self.rows = [(*pair, 1) for pair in self.clicked] + [(*pair, 0) for pair in unclicked]

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, row: int) -> Any:
            return self.rows[row]

    rows = Clicks(200)
    train, valid = loaders(rows, Clicks(25), batch=64)
    net, loss = Net(), nn.BCEWithLogitsLoss()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-2), net)
    epoch = look(net, loss, train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        rows.ng_sample()
        for user, item, label in train:
            net.zero_grad()
            loss(net(user, item), label.float()).backward()
            optimizer.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: loss(net(b[0], b[1]), b[2].float()))


@script(
    "dragen1860/MAML-Pytorch", "meta.py",
    "3, forward=, target=: a task is a row; steps of its own inside of the pass, which needs gradients",
)  # fmt: skip
def meta_learning(look: Look) -> Any:
    class Learner(nn.Module):
        """A network whose weights can be given with the call."""

        def __init__(self) -> None:
            super().__init__()
            shapes = ((32, 6), (32,), (3, 32), (3,))
            self.vars = nn.ParameterList([nn.Parameter(0.3 * torch.randn(shape)) for shape in shapes])

        def forward(self, x: Tensor, weights: Any = None) -> Tensor:
            a, b, c, d = weights or self.vars
            return F.linear(F.linear(x, a, b).relu(), c, d)

    def tasks(rows: int) -> TensorDataset:
        draw = drawn(rows)
        means = torch.randn(rows, 3, 6, generator=draw)
        y = torch.arange(30).remainder(3).expand(rows, 30)
        x = means[:, torch.arange(30) % 3] + 0.7 * torch.randn(rows, 30, 6, generator=draw)
        return TensorDataset(x[:, :15], y[:, :15], x[:, 15:], y[:, 15:])

    def adapted(model: nn.Module, batch: Any, further: bool = False) -> Tensor:
        """Scores of the query rows, by weights after two steps on the support rows: (tasks, rows, classes)."""
        scores = []
        with torch.enable_grad():
            for x, y, query in zip(*batch[:3], strict=True):
                weights = list(model.parameters())
                for _ in range(2):
                    grads = torch.autograd.grad(F.cross_entropy(model(x, weights), y), weights, create_graph=further)
                    weights = [w - 0.4 * g for w, g in zip(weights, grads, strict=True)]
                scores.append(model(query, weights))
        return torch.stack(scores)

    def loss(scores: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), target.flatten())

    train, valid = (DataLoader(tasks(rows), 4, shuffle=rows > 20) for rows in (64, 20))
    net = Learner()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-3), net)
    epoch = look(net, loss, train, valid, optimizer=optimizer, forward=adapted, target=lambda batch: batch[3])
    for _ in look.on():
        for batch in train:
            descend(optimizer, loss(adapted(net, batch, further=True), batch[3]))
        epoch()
    return [net], lambda: own(net, valid, lambda b: loss(adapted(net, b), b[3]))


@script(
    "pytorch/vision", "references/segmentation/train.py",
    "3: outputs are a mapping, a second head counts half; 255 is no class, and pads; a schedule by step, groups with other rates",
)  # fmt: skip
def segmentation(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.classifier = nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 4, 1)
            )
            self.aux_classifier = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            seen = self.backbone(x)
            return {"out": self.classifier(seen), "aux": self.aux_classifier(seen)}

    def criterion(inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        losses = {name: F.cross_entropy(x, target, ignore_index=255) for name, x in inputs.items()}
        return losses["out"] + 0.5 * losses["aux"]

    def data(rows: int) -> Rows:
        x, _ = images(rows)
        return Rows(
            rows,
            lambda i: (
                x[i, :, : 12 - i % 3],
                (x[i, 0, : 12 - i % 3] > 0).long() + 2 * (x[i, 0, : 12 - i % 3] > 1).long(),
            ),
        )

    def collate(examples: list[Any]) -> Any:
        found = []
        for parts, filler in zip(zip(*examples, strict=True), (0, 255), strict=True):
            whole = parts[0].new_full((len(parts), *parts[0].shape[:-2], 12, 12), filler)
            for place, part in zip(whole, parts, strict=True):
                place[..., : part.shape[-2], : part.shape[-1]] = part
            found.append(whole)
        return tuple(found)

    train, valid = loaders(data(ROWS), data(VALID), collate_fn=collate)
    net = Net()
    groups = [{"params": part.parameters()} for part in (net.backbone, net.classifier)]
    groups.append({"params": net.aux_classifier.parameters(), "lr": 0.1})
    optimizer = look.optimizer(optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=1e-4), net)
    clock = optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - min(step, 99) / 100) ** 0.9)
    epoch = look(net, criterion, train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        for x, target in train:
            descend(optimizer, criterion(net(x), target))
            clock.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: criterion(net(b[0]), b[1]))


@script(
    "facebookresearch/deit", "engine.py, losses.py",
    "3: a pair of outputs in training mode, their mean in evaluation; a teacher, mixed targets, an average of the weights",
)  # fmt: skip
def distilled_tokens(look: Look) -> Any:
    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, 16, 4, 4)
            self.tokens = nn.Parameter(0.02 * torch.randn(1, 2, 16))
            self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
            self.head, self.head_dist = nn.Linear(16, 10), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Any:
            seen = torch.cat([self.tokens.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
            seen = self.block(seen)
            one, other = self.head(seen[:, 0]), self.head_dist(seen[:, 1])
            return (one, other) if self.training else (one + other) / 2

    train, valid = image_loaders()
    net, teacher = Student(), convnet(norm=True, log=False).eval()
    average = optim.swa_utils.AveragedModel(net, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05), net)
    epoch = look(net, nn.CrossEntropyLoss(), train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        for x, y in train:
            share = float(torch.distributions.Beta(0.8, 0.8).sample())
            soft = F.one_hot(y, 10).float()
            x, soft = share * x + (1 - share) * x.flip(0), share * soft + (1 - share) * soft.flip(0)
            one, other = net(x)
            with torch.no_grad():
                taught = teacher(x)
            loss = 0.5 * F.cross_entropy(one, soft) + 0.5 * F.cross_entropy(other, taught.argmax(1))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(net)
        epoch()
    return [net, teacher, average], lambda: own(net, valid, lambda b: F.cross_entropy(net(b[0]), b[1]))


@script(
    "tugstugi/pytorch-speech-commands", "train_speech_commands.py",
    "3, forward=: the loop adds an axis; keys with paths; changed at random as they are read; a weighted sampler; DataParallel",
)  # fmt: skip
def speech(look: Look) -> Any:
    def data(rows: int, changed: bool) -> Rows:
        x, y = images(rows, classes=6)

        def make(row: int) -> dict[str, Any]:
            sound = x[row, 0] * (random.uniform(0.7, 1.1) if changed else 1.0)
            return {"input": sound, "target": int(y[row]), "path": f"{row}.wav", "sample_rate": 16000}

        return Rows(rows, make)

    weights = torch.ones(ROWS)
    train = DataLoader(data(ROWS, True), 32, sampler=WeightedRandomSampler(weights.tolist(), ROWS))
    valid = DataLoader(data(VALID, False), 64)
    net = nn.DataParallel(convnet(classes=6, norm=True, log=False))
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-2), net)
    clock = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.1)
    epoch = look(
        net, nn.CrossEntropyLoss(), train, valid, optimizer=optimizer,
        forward=lambda model, batch: model(batch["input"].unsqueeze(1)),
    )  # fmt: skip

    def valid_loss() -> float:
        return own(
            net, valid, lambda b: F.cross_entropy(net(b["input"].unsqueeze(1)), b["target"]), lambda b: len(b["target"])
        )

    for _ in look.on():
        net.train()
        for batch in train:
            x = batch["input"].unsqueeze(1).requires_grad_()
            descend(optimizer, F.cross_entropy(net(x), batch["target"]))
        clock.step(valid_loss())
        epoch()
    return [net], valid_loss


@script(
    "yandex-research/rtdl-revisiting-models", "bin/ft_transformer.py",
    "3: numbers and categories, two tensors; batches by numbers of rows; one logit, squeezed; biases and tokenizer without decay",
)  # fmt: skip
def tabular(look: Look) -> Any:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 16) / 4)
            self.bias = nn.Parameter(torch.randn(7, 16) / 4)
            self.category_embeddings = nn.Embedding(9, 16)
            self.register_buffer("category_offsets", torch.tensor([0, 4]))

        def forward(self, numbers: Tensor, classes: Tensor) -> Tensor:
            numbers = torch.cat([torch.ones(len(numbers), 1), numbers], 1)
            found = torch.cat(
                [self.weight * numbers[:, :, None], self.category_embeddings(classes + self.category_offsets)], 1
            )
            return found + torch.cat([torch.zeros(1, 16), self.bias])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = Tokens()
            self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True, norm_first=True)
            self.head = nn.Linear(16, 1)

        def forward(self, x_num: Tensor, x_cat: Tensor) -> Tensor:
            return self.head(self.block(self.tokenizer(x_num, x_cat))[:, 0].relu()).squeeze(-1)

    def data(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        draw = drawn(rows)
        numbers, classes = torch.randn(rows, 5, generator=draw), torch.randint(4, (rows, 2), generator=draw)
        return numbers, classes, (numbers[:, 0] + classes[:, 1] - 1.5 + torch.randn(rows, generator=draw) > 0).float()

    numbers, classes, y = data(ROWS)
    valid = data(VALID)
    net, loss = Net(), F.binary_cross_entropy_with_logits
    plain = {name for name, _ in net.named_parameters() if any(part in name for part in ("tokenizer", "norm", "bias"))}
    groups = [
        {"params": [p for name, p in net.named_parameters() if name not in plain]},
        {"params": [p for name, p in net.named_parameters() if name in plain], "weight_decay": 0.0},
    ]
    optimizer = look.optimizer(optim.AdamW(groups, lr=1e-3, weight_decay=1e-2), net)
    epoch = look(net, loss, TensorDataset(numbers, classes, y), TensorDataset(*valid), optimizer=optimizer)
    for _ in look.on():
        net.train()
        for rows in torch.randperm(ROWS).split(64):
            descend(optimizer, loss(net(numbers[rows], classes[rows]), y[rows]))
        epoch()
    return [net], lambda: own(net, [valid], lambda b: loss(net(b[0], b[1]), b[2]))


@script(
    "atong01/conditional-flow-matching", "examples/images/cifar10/train_cifar10.py",
    "3, forward=, target=: the loss is made of draws around the model's call; endless batches, warm-up, an average of the weights",
    close=0.05,
)  # fmt: skip
def flow_matching(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.time = (
                nn.Conv2d(1, 16, 3, padding=1),
                nn.Conv2d(16, 1, 3, padding=1),
                nn.Linear(1, 16),
            )
            self.drop = nn.Dropout(0.1)

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.last(self.drop(F.silu(self.first(x) + self.time(t[:, None])[:, :, None, None])))

    train, valid = image_loaders(size=8)
    net = Net()
    average = copy.deepcopy(net)
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=2e-3), net)
    clock = optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step, 8) / 8)

    def flow(model: nn.Module, batch: Any) -> Tensor:
        """Errors of the velocity, number by number."""
        there = batch[0]
        here, t = torch.randn_like(there), torch.rand(len(there))
        between = t[:, None, None, None]
        return (model(t, (1 - between) * here + between * there) - (there - here)) ** 2

    def endless() -> Iterator[Any]:
        while True:
            yield from train

    batches = endless()
    epoch = look(
        net, lambda errors, _: errors.mean((1, 2, 3)), train, valid, optimizer=optimizer, forward=flow,
        target=lambda batch: batch[0],
    )  # fmt: skip
    for _ in look.on():
        for _step in range(math.ceil(ROWS / 32)):
            optimizer.zero_grad()
            flow(net, next(batches)).mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            clock.step()
            with torch.no_grad():
                for p, q in zip(average.parameters(), net.parameters(), strict=True):
                    p.lerp_(q, 0.1)
        epoch()
    return [net, average], lambda: own(net, valid, lambda b: flow(net, b).mean())


@script(
    "karpathy/makemore", "makemore.py",
    "3, in `if step % 500 == 0`: Datasets; labels of -1 are padding; the model returns scores and loss; a sampler of 1e10 draws",
)  # fmt: skip
def makemore(look: Look) -> Any:
    def words(rows: int) -> Rows:
        def make(row: int) -> Any:
            draw = drawn(1000 * rows + row)
            size = int(torch.randint(3, LONG - 1, (), generator=draw))
            word = (int(torch.randint(WORDS, (), generator=draw)) + 3 * torch.arange(size)) % (WORDS - 1) + 1
            x, y = torch.zeros(LONG, dtype=torch.long), torch.full((LONG,), -1)
            x[1 : 1 + size], y[:size], y[size] = word, word, 0
            return x, y

        return Rows(rows, make)

    train, valid = words(ROWS), words(VALID)
    net = Block("loss")
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=3e-3, betas=(0.9, 0.99)), net)
    batches = iter(DataLoader(train, 32, sampler=RandomSampler(train, replacement=True, num_samples=int(1e10))))
    epoch = look(net, "cross_entropy", train, valid, optimizer=optimizer)
    for _ in look.on():
        for _step in range(12):
            _, loss = net(*next(batches))
            net.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        epoch()
    return [net], lambda: own(net, DataLoader(valid, VALID), lambda b: net(*b)[1])


@script(
    "facebookresearch/detr", "engine.py",
    "3: a criterion with a dict of losses, normalized by the boxes of a batch; padded images in an object of their own",
)  # fmt: skip
def detr(look: Look) -> Any:
    class Nested:
        def __init__(self, tensors: Tensor, mask: Tensor) -> None:
            self.tensors, self.mask = tensors, mask

        def to(self, device: Any) -> Nested:
            return Nested(self.tensors.to(device), self.mask.to(device))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.queries = nn.Conv2d(1, 16, 3, 2, 1), nn.Embedding(4, 16)
            self.decoder = nn.TransformerDecoderLayer(16, 2, 32, 0.1, batch_first=True)
            self.classes, self.boxes = nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, samples: Nested) -> dict[str, Tensor]:
            seen = self.backbone(samples.tensors).flatten(2).transpose(1, 2)
            hidden = self.decoder(
                self.queries.weight.expand(len(seen), -1, -1),
                seen,
                memory_key_padding_mask=samples.mask[:, ::2, ::2].flatten(1),
            )
            return {"pred_logits": self.classes(hidden), "pred_boxes": self.boxes(hidden).sigmoid()}

    class Criterion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight_dict = {"loss_ce": 1.0, "loss_bbox": 5.0}
            self.register_buffer("empty_weight", torch.tensor([1.0, 1.0, 1.0, 0.1]))

        def forward(self, outputs: dict[str, Tensor], targets: Any) -> dict[str, Tensor]:
            labels, rows, places, boxes = torch.full(outputs["pred_logits"].shape[:2], 3), [], [], []
            for row, told in enumerate(targets):
                far = torch.cdist(outputs["pred_boxes"][row].detach(), told["boxes"], p=1)
                free = list(range(len(far)))
                for at in range(len(told["boxes"])):
                    place = min(free, key=lambda i: float(far[i, at]))
                    free.remove(place)
                    labels[row, place] = told["labels"][at]
                    rows.append(row), places.append(place), boxes.append(told["boxes"][at])
            found = outputs["pred_boxes"][rows, places]
            return {
                "loss_ce": F.cross_entropy(outputs["pred_logits"].transpose(1, 2), labels, self.empty_weight),
                "loss_bbox": F.l1_loss(found, torch.stack(boxes), reduction="sum") / max(len(boxes), 1),
                "class_error": torch.tensor(0.0),
            }

    def data(rows: int) -> Rows:
        def make(row: int) -> Any:
            draw = drawn(1000 * rows + row)
            count, size = int(torch.randint(1, 4, (), generator=draw)), int(torch.randint(8, 13, (), generator=draw))
            told = {"labels": torch.randint(3, (count,), generator=draw), "boxes": torch.rand(count, 4, generator=draw)}
            return torch.randn(1, size, size, generator=draw) + told["labels"][0], told

        return Rows(rows, make)

    def collate(rows: Any) -> Any:
        pictures, targets = zip(*rows, strict=True)
        tensors, mask = torch.zeros(len(rows), 1, 12, 12), torch.ones(len(rows), 12, 12, dtype=torch.bool)
        for at, picture in enumerate(pictures):
            size = picture.shape[1]
            tensors[at, :, :size, :size], mask[at, :size, :size] = picture, False
        return Nested(tensors, mask), targets

    train, valid = (
        DataLoader(data(rows), 16, rows == ROWS, collate_fn=collate, drop_last=rows == ROWS) for rows in (ROWS, VALID)
    )
    net, criterion = Net(), Criterion()

    def total(outputs: Any, targets: Any) -> Tensor:
        losses = criterion(outputs, targets)
        return sum(losses[k] * criterion.weight_dict[k] for k in losses if k in criterion.weight_dict)

    groups = [
        {"params": [p for n, p in net.named_parameters() if "backbone" not in n]},
        {"params": net.backbone.parameters(), "lr": 1e-4},
    ]
    optimizer = look.optimizer(optim.AdamW(groups, lr=1e-3, weight_decay=1e-4), net)
    epoch = look(net, total, train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train(), criterion.train()
        for samples, targets in train:
            samples = samples.to("cpu")
            optimizer.zero_grad()
            total(net(samples), [{k: v.to("cpu") for k, v in told.items()} for told in targets]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: total(net(b[0]), b[1]))


@script(
    "pytorch/tutorials", "intermediate_source/seq2seq_translation_tutorial.py",
    "3, forward=, target=: sentence by sentence, two networks with an optimizer each; teachers are forced at random",
)  # fmt: skip
def translation_tutorial(look: Look) -> Any:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.gru = nn.Embedding(WORDS, 16), nn.GRU(16, 16)

        def forward(self, word: Tensor, hidden: Tensor) -> Any:
            return self.gru(self.embedding(word).view(1, 1, -1), hidden)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.gru, self.out = nn.Embedding(WORDS, 16), nn.GRU(16, 16), nn.Linear(16, WORDS)
            self.attn, self.drop = nn.Linear(32, 8), nn.Dropout(0.1)

        def forward(self, word: Tensor, hidden: Tensor, seen: Tensor) -> Any:
            word = self.drop(self.embedding(word).view(1, 1, -1))
            weights = self.attn(torch.cat((word[0], hidden[0]), 1)).softmax(1)
            output, hidden = self.gru(word + (weights @ seen)[None], hidden)
            return self.out(output[0]).log_softmax(1), hidden

    def pairs(count: int) -> list[Any]:
        draw, found = drawn(count), []
        for _ in range(count):
            words = torch.randint(1, WORDS, (int(torch.randint(2, 7, (), generator=draw)), 1), generator=draw)
            found.append(
                (
                    torch.cat([words, torch.zeros(1, 1, dtype=torch.long)]),
                    torch.cat([words.flip(0)[1:], torch.zeros(1, 1, dtype=torch.long)]),
                )
            )
        return found

    def scores(encoder: nn.Module, decoder: nn.Module, pair: Any, forced: bool = True) -> Tensor:
        hidden, seen, found = torch.zeros(1, 1, 16), torch.zeros(8, 16), []
        for at, word in enumerate(pair[0]):
            output, hidden = encoder(word, hidden)
            seen[at] = output[0, 0]
        word = torch.zeros(1, dtype=torch.long)
        for wanted in pair[1]:
            output, hidden = decoder(word, hidden, seen)
            found.append(output)
            word = wanted if forced else output.argmax(1)
        return torch.cat(found)

    def loss(found: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(found, target[:, 0], reduction="sum")

    train, valid = pairs(64), pairs(20)
    encoder, decoder = Encoder(), Decoder()
    both = nn.ModuleList([encoder, decoder])
    optimizers = [look.optimizer(optim.SGD(net.parameters(), lr=0.01), net) for net in both]
    epoch = look(
        both, loss, train, valid, forward=lambda nets, pair: scores(nets[0], nets[1], pair), target=lambda pair: pair[1]
    )
    for _ in look.on():
        for _step in range(32):
            pair = random.choice(train)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss(scores(encoder, decoder, pair, random.random() < 0.5), pair[1]).backward()
            for optimizer in optimizers:
                optimizer.step()
        epoch()
    return [both], lambda: own(
        [both], valid, lambda b: loss(scores(encoder, decoder, b), b[1]) / len(b[1]), lambda b: len(b[1])
    )


@script(
    "pytorch/tutorials", "beginner_source/chatbot_tutorial.py",
    "3, forward=, target=: batches are tuples with a mask and a number, time first, packed; an embedding in both networks",
)  # fmt: skip
def chatbot(look: Look) -> Any:
    class Encoder(nn.Module):
        def __init__(self, embedding: nn.Module) -> None:
            super().__init__()
            self.embedding, self.gru = embedding, nn.GRU(16, 16, 1, bidirectional=True)

        def forward(self, words: Tensor, lengths: Tensor) -> Any:
            outputs, hidden = self.gru(pack_padded_sequence(self.embedding(words), lengths))
            outputs, _ = pad_packed_sequence(outputs)
            return outputs[:, :, :16] + outputs[:, :, 16:], hidden

    class Decoder(nn.Module):
        def __init__(self, embedding: nn.Module) -> None:
            super().__init__()
            self.embedding, self.gru, self.out = embedding, nn.GRU(16, 16), nn.Linear(32, WORDS)
            self.drop = nn.Dropout(0.1)

        def forward(self, step: Tensor, hidden: Tensor, seen: Tensor) -> Any:
            output, hidden = self.gru(self.drop(self.embedding(step)), hidden)
            weights = (output * seen).sum(2).t().softmax(1)[:, None]
            context = weights.bmm(seen.transpose(0, 1))[:, 0]
            return self.out(torch.cat((output[0], context), 1)).softmax(1), hidden

    def batches(count: int, rows: int) -> list[Any]:
        draw, found = drawn(count), []
        for _ in range(count):
            lengths = torch.randint(2, 7, (rows,), generator=draw).sort(descending=True).values
            said = [torch.randint(1, WORDS, (int(n),), generator=draw) for n in lengths]
            words = pad_sequence(said)
            answer = pad_sequence([(3 * one[: 1 + len(one) // 2]) % (WORDS - 1) + 1 for one in said])
            found.append((words, lengths, answer, answer != 0, len(answer)))
        return found

    def replies(encoder: nn.Module, decoder: nn.Module, batch: Any) -> Tensor:
        words, lengths, answer, _, longest = batch
        seen, hidden = encoder(words, lengths)
        step, hidden, found = torch.zeros(1, words.shape[1], dtype=torch.long), hidden[:1], []
        for t in range(longest):
            output, hidden = decoder(step, hidden, seen)
            found.append(output)
            step = answer[t].view(1, -1)
        return torch.stack(found)

    def loss(found: Tensor, told: Any) -> Tensor:
        answer, mask = told
        total: Any = 0.0
        for t in range(len(answer)):
            total = total - found[t].gather(1, answer[t].view(-1, 1)).squeeze(1).log().masked_select(mask[t]).mean()
        return total

    embedding = nn.Embedding(WORDS, 16)
    encoder, decoder = Encoder(embedding), Decoder(embedding)
    both = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    train, valid = batches(16, 32), batches(4, 32)
    optimizers = [
        look.optimizer(optim.Adam(net.parameters(), lr=lr), net) for net, lr in ((encoder, 1e-3), (decoder, 5e-3))
    ]
    epoch = look(
        both, loss, train, valid, forward=lambda nets, batch: replies(nets["encoder"], nets["decoder"], batch),
        target=lambda batch: batch[2:4],
    )  # fmt: skip
    for _ in look.on():
        both.train()
        for batch in train:
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss(replies(encoder, decoder, batch), batch[2:4]).backward()
            for net in (encoder, decoder):
                nn.utils.clip_grad_norm_(net.parameters(), 50.0)
            for optimizer in optimizers:
                optimizer.step()
        epoch()
    return [both], lambda: own(both, valid, lambda b: loss(replies(encoder, decoder, b), b[2:4]) / b[4], lambda b: b[4])


@script(
    "facebookresearch/mae", "engine_pretrain.py",
    "3, forward=: the model returns (loss, pred, mask) and draws the mask; rate by step, accumulated", close=0.05,
)  # fmt: skip
def masked_autoencoder(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer = nn.Linear(16, 24), nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True)
            self.token, self.place, self.pred = (
                nn.Parameter(torch.zeros(24)),
                nn.Parameter(torch.zeros(9, 24)),
                nn.Linear(24, 16),
            )

        def forward(self, pictures: Tensor, mask_ratio: float = 0.75) -> Any:
            parts = pictures.unfold(2, 4, 4).unfold(3, 4, 4).reshape(len(pictures), 9, 16)
            order = torch.rand(len(parts), 9).argsort(1)
            mask = (order >= 9 * (1 - mask_ratio)).float()
            seen = self.embed(parts) * (1 - mask[..., None]) + self.token * mask[..., None]
            pred = self.pred(self.layer(seen + self.place))
            return ((pred - parts) ** 2).mean(-1).mul(mask).sum() / mask.sum(), pred, mask

    train, valid = image_loaders()
    net = Net()
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.95)), net)
    epoch = look(
        net,
        lambda loss, _: loss,
        train,
        valid,
        optimizer=optimizer,
        forward=lambda model, batch: model(batch[0], 0.75)[0],
    )
    for at in look.on():
        net.train()
        for step, (pictures, _) in enumerate(train):
            if step % 2 == 0:
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * min(1.0, (step / len(train) + at) / 2)
            loss, _, _ = net(pictures, mask_ratio=0.75)
            (loss / 2).backward()
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()
        epoch()
    return [net], lambda: own(net, valid, lambda b: net(b[0], mask_ratio=0.75)[0])


@script(
    "zhouhaoyi/Informer2020", "exp/exp_informer.py",
    "3, forward=, target=: four arrays of doubles, what the decoder gets is cut from the target",
)  # fmt: skip
def informer(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc, self.dec, self.mark = (
                nn.GRU(2, 16, batch_first=True),
                nn.GRU(2, 16, batch_first=True),
                nn.Linear(2, 2),
            )
            self.out, self.drop = nn.Linear(16, 2), nn.Dropout(0.05)

        def forward(self, x: Tensor, x_mark: Tensor, dec: Tensor, y_mark: Tensor) -> Tensor:
            _, state = self.enc(self.drop(x + self.mark(x_mark)))
            return self.out(self.dec(dec + self.mark(y_mark), state)[0])[:, -4:]

    series = np.stack([np.sin(np.arange(900) / 5), np.cos(np.arange(900) / 7)], 1) + 0.1 * np.random.default_rng(
        0
    ).normal(size=(900, 2))
    marks = np.stack([np.arange(900) % 24 / 23 - 0.5, np.arange(900) % 7 / 6 - 0.5], 1)

    def data(start: int, rows: int) -> Rows:
        def make(row: int) -> Any:
            at, to = slice(start + row, start + row + 8), slice(start + row + 4, start + row + 12)
            return series[at], series[to], marks[at], marks[to]

        return Rows(rows, make)

    def processed(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        x, y, x_mark, y_mark = (part.float() for part in batch)
        dec = torch.cat([y[:, :4], torch.zeros_like(y[:, -4:])], 1)
        return model(x, x_mark, dec, y_mark), y[:, -4:]

    train, valid = loaders(data(0, ROWS), data(700, VALID), drop_last=True)
    net, criterion = Net(), nn.MSELoss()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-3), net)
    epoch = look(
        net, criterion, train, valid, optimizer=optimizer, forward=lambda model, batch: processed(model, batch)[0],
        target=lambda batch: batch[1][:, -4:].float(),
    )  # fmt: skip
    for at in look.on():
        net.train()
        for batch in train:
            descend(optimizer, criterion(*processed(net, batch)))
        epoch()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5**at
    return [net], lambda: own(net, valid, lambda b: criterion(*processed(net, b)))


@script(
    "fxia22/pointnet.pytorch", "utils/train_classification.py",
    "3, forward=, target=: points are transposed, labels have an axis, outputs are a pair; evaluated within the epoch",
)  # fmt: skip
def pointnet(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stn, self.first = nn.Conv1d(3, 9, 1), nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
            self.last = nn.Sequential(
                nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)
            )

        def forward(self, x: Tensor) -> Any:
            turn = self.stn(x).amax(2).view(-1, 3, 3) + torch.eye(3)
            return self.last(self.first((x.transpose(2, 1) @ turn).transpose(2, 1)).amax(2)).log_softmax(1), turn

    def data(rows: int) -> Rows:
        y = torch.randint(4, (rows, 1), generator=drawn(rows))
        return Rows(
            rows,
            lambda i: (
                torch.randn(24, 3, generator=drawn(rows + i)) * (1 + y[i]) * torch.tensor([1.0, 0.5, 2.0]),
                y[i],
            ),
        )

    train, valid = loaders(data(ROWS), data(VALID))
    net = Net()
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=0.01, momentum=0.9), net)
    epoch = look(
        net, F.nll_loss, train, valid, optimizer=optimizer, forward=lambda model, batch: model(batch[0].transpose(2, 1))[0],
        target=lambda batch: batch[1][:, 0],
    )  # fmt: skip
    for _ in look.on():
        for step, (points, target) in enumerate(train):
            optimizer.zero_grad()
            net.train()
            pred, _ = net(points.transpose(2, 1))
            F.nll_loss(pred, target[:, 0]).backward()
            optimizer.step()
            if step % 10 == 0:
                points, target = next(iter(valid))
                net.eval()
                pred, _ = net(points.transpose(2, 1))
                F.nll_loss(pred, target[:, 0])
        epoch()
    return [net], lambda: own(net, valid, lambda b: F.nll_loss(net(b[0].transpose(2, 1))[0], b[1][:, 0]))


@script(
    "facebookresearch/simsiam", "main_simsiam.py",
    "3, forward=: two crops in a list, four outputs, a loss between -1 and 0 without a target; a group with a fixed rate",
)  # fmt: skip
def simsiam(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 16), nn.BatchNorm1d(16)
            )
            self.predictor = nn.Sequential(nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 16))

        def forward(self, x1: Tensor, x2: Tensor) -> Any:
            z1, z2 = self.encoder(x1), self.encoder(x2)
            return self.predictor(z1), self.predictor(z2), z1.detach(), z2.detach()

    def crops(rows: int) -> Rows:
        x, y = images(rows)
        return Rows(
            rows,
            lambda i: ([x[i] + 0.3 * torch.randn(x[i].shape, generator=drawn(2 * i + k)) for k in range(2)], int(y[i])),
        )

    criterion = nn.CosineSimilarity(dim=1)

    def loss(outputs: Any, _: Any = None) -> Tensor:
        p1, p2, z1, z2 = outputs
        return -(criterion(p1, z2).mean() + criterion(p2, z1).mean()) * 0.5

    train, valid = loaders(crops(ROWS), crops(VALID), drop_last=True)
    net = Net()
    groups = [
        {"params": net.encoder.parameters(), "fix_lr": False},
        {"params": net.predictor.parameters(), "fix_lr": True},
    ]
    optimizer = look.optimizer(optim.SGD(groups, 0.05, momentum=0.9, weight_decay=1e-4), net)
    epoch = look(
        net, loss, train, valid, optimizer=optimizer, forward=lambda model, batch: model(x1=batch[0][0], x2=batch[0][1])
    )
    for at in look.on():
        net.train()
        for group in optimizer.param_groups:
            group["lr"] = 0.05 if group.get("fix_lr") else 0.025 * (1 + math.cos(math.pi * min(at / 9, 1)))
        for both, _labels in train:
            descend(optimizer, loss(net(x1=both[0], x2=both[1])))
        epoch()
    return [net], lambda: own(net, valid, lambda b: loss(net(x1=b[0][0], x2=b[0][1])))


@script(
    "pyg-team/pytorch_geometric", "examples/link_pred.py",
    "3, forward=: the model has encode and decode and no forward; one graph; edges that are none are drawn in each epoch",
)  # fmt: skip
def link_prediction(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Linear(8, 16), nn.Linear(16, 8)

        def encode(self, x: Tensor, edges: Tensor) -> Tensor:
            near = torch.eye(len(x)).index_put((edges[0], edges[1]), torch.tensor(1.0))
            near = near / near.sum(1, keepdim=True)
            return near @ self.conv2((near @ self.conv1(x)).relu())

        def decode(self, z: Tensor, pairs: Tensor) -> Tensor:
            return (z[pairs[0]] * z[pairs[1]]).sum(-1)

    group = torch.arange(90) % 3
    x = F.one_hot(group, 8).float() + 0.5 * torch.randn(90, 8, generator=drawn(0))

    def graph(edges: int, seed: int) -> Any:
        pairs = torch.randint(90, (2, 8 * edges), generator=drawn(seed))
        same = group[pairs[0]] == group[pairs[1]]
        index = torch.cat([pairs[:, same][:, :edges], pairs[:, ~same][:, :edges]], 1)
        return SimpleNamespace(
            x=x, edge_index=known, edge_label_index=index, edge_label=torch.arange(2 * edges).lt(edges).float()
        )

    known = torch.randint(90, (2, 900), generator=drawn(1))
    known = known[:, group[known[0]] == group[known[1]]]
    train, valid = graph(100, 2), graph(40, 3)
    net, criterion = Net(), nn.BCEWithLogitsLoss()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=0.01), net)

    def scores(model: Any, data: Any) -> Tensor:
        return model.decode(model.encode(data.x, data.edge_index), data.edge_label_index).view(-1)

    epoch = look(
        net, criterion, [train], [valid], optimizer=optimizer, forward=scores, target=lambda data: data.edge_label
    )
    for _ in look.on():
        for _step in range(4):
            net.train()
            optimizer.zero_grad()
            wrong = torch.randint(90, (2, 100))
            pairs = torch.cat([train.edge_label_index[:, :100], wrong], 1)
            criterion(net.decode(net.encode(x, known), pairs).view(-1), train.edge_label).backward()
            optimizer.step()
        epoch()
    return [net], lambda: own(net, [valid], lambda g: criterion(scores(net, g), g.edge_label), lambda g: 1)


@script(
    "pytorch/tutorials", "intermediate_source/reinforcement_q_learning.py",
    "3, forward=, target=: batches of a replay memory that were drawn once; the target comes from a second network that moves",
)  # fmt: skip
def q_learning(look: Look) -> Any:
    policy, other = (nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)) for _ in range(2))
    other.load_state_dict(policy.state_dict())
    other.eval()
    memory: list[Any] = []

    def played(count: int) -> None:
        state = torch.zeros(1, 4)
        for _ in range(count):
            if random.random() < 0.3:
                action = random.randrange(2)
            else:
                with torch.no_grad():
                    action = int(policy(state).argmax())
            after = 0.9 * state + 0.3 * torch.randn(1, 4) + (0.2 if action else -0.2)
            done = float(after.abs().max()) > 1.5
            memory.append((state, torch.tensor([[action]]), None if done else after, torch.tensor([1.0])))
            state = torch.zeros(1, 4) if done else after

    def batch_of(transitions: Any) -> Any:
        return SimpleNamespace(
            **dict(zip(("state", "action", "next_state", "reward"), zip(*transitions, strict=True), strict=True))
        )

    def values(net: nn.Module, batch: Any) -> Tensor:
        return net(torch.cat(batch.state)).gather(1, torch.cat(batch.action))

    def expected(batch: Any) -> Tensor:
        goes_on = torch.tensor([after is not None for after in batch.next_state])
        following = torch.zeros(len(goes_on))
        with torch.no_grad():
            following[goes_on] = other(torch.cat([after for after in batch.next_state if after is not None])).max(1)[0]
        return (following * 0.99 + torch.cat(batch.reward))[:, None]

    played(300)
    held = [batch_of(random.sample(memory, 32)) for _ in range(6)]
    criterion = nn.SmoothL1Loss()
    optimizer = look.optimizer(optim.RMSprop(policy.parameters(), lr=1e-3), policy)
    epoch = look(policy, criterion, held[:4], held[4:], optimizer=optimizer, forward=values, target=expected)
    for at in look.on():
        for _step in range(20):
            played(1)
            batch = batch_of(random.sample(memory, 32))
            optimizer.zero_grad()
            criterion(values(policy, batch), expected(batch)).backward()
            for p in policy.parameters():
                p.grad.data.clamp_(-1, 1)
            optimizer.step()
        if at % 2 == 0:
            other.load_state_dict(policy.state_dict())
        epoch()
    return [policy, other], lambda: own(
        policy, held[4:], lambda b: criterion(values(policy, b), expected(b)), lambda b: 32
    )


@script(
    "shengliu66/ELR", "ELR/trainer/trainer.py",
    "3, forward=, target=: (x, y, index, true y); the training loss remembers every row, the validation loss is cross-entropy",
)  # fmt: skip
def early_learning(look: Look) -> Any:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.target = torch.zeros(ROWS, 10)

        def forward(self, index: list[int], output: Tensor, label: Tensor) -> Tensor:
            p = output.softmax(1).clamp(1e-4, 1 - 1e-4)
            self.target[index] = 0.7 * self.target[index] + 0.3 * (p.detach() / p.detach().sum(1, keepdim=True))
            return F.cross_entropy(output, label) + 3 * (1 - (self.target[index] * p).sum(1)).log().mean()

    def data(rows: int) -> Rows:
        x, y = images(rows)
        noisy = y.where(torch.rand(rows, generator=drawn(5)) > 0.3, torch.randint(10, (rows,), generator=drawn(6)))
        return Rows(rows, lambda i: (x[i], int(noisy[i] if rows == ROWS else y[i]), i, int(y[i])))

    train, valid = loaders(data(ROWS), data(VALID))
    net, criterion = convnet(log=False), Remembers()
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3), net)
    scheduler = optim.lr_scheduler.MultiStepLR(optimizer, [40, 80], 0.01)
    epoch = look(
        net,
        F.cross_entropy,
        train,
        valid,
        optimizer=optimizer,
        forward=lambda model, batch: model(batch[0]),
        target=lambda batch: batch[1],
    )
    for _ in look.on():
        net.train()
        for x, label, index, _true in train:
            descend(optimizer, criterion(index.tolist(), net(x), label.long()))
        scheduler.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: F.cross_entropy(net(b[0]), b[1]))


@script(
    "jayroxis/PINNs", "Burgers Equation/Burgers Inference (PyTorch).ipynb",
    "3, forward=, target=: derivatives by the inputs in the loss; one step of LBFGS is all; watched every 20 calls of its closure",
)  # fmt: skip
def physics(look: Look) -> Any:
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = look.optimizer(
        optim.LBFGS(
            net.parameters(), lr=1.0, max_iter=60, history_size=50, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
        ),
        net,
    )

    def points(count: int, seed: int) -> Any:
        place, time = (
            2 * torch.rand(count, 1, generator=drawn(seed)) - 1,
            torch.rand(count, 1, generator=drawn(seed + 1)),
        )
        start = torch.cat([place, torch.zeros_like(time)], 1)
        inner = [part.clone().double().requires_grad_().float() for part in (place, time)]
        return start, *inner, -torch.sin(math.pi * place)

    def predicted(model: nn.Module, batch: Any) -> Any:
        start, x, t, _ = batch
        u = model(torch.cat([x, t], 1))
        u_t = torch.autograd.grad(u, t, torch.ones_like(u), retain_graph=True, create_graph=True)[0]
        u_x = torch.autograd.grad(u, x, torch.ones_like(u), retain_graph=True, create_graph=True)[0]
        u_xx = torch.autograd.grad(u_x, x, torch.ones_like(u_x), retain_graph=True, create_graph=True)[0]
        return model(start), u_t + u * u_x - 0.01 / math.pi * u_xx

    def loss(outputs: Any, u: Tensor) -> Tensor:
        found, residual = outputs
        return torch.mean((u - found) ** 2) + torch.mean(residual**2)

    train, valid = points(60, 0), points(60, 7)
    epoch = look(net, loss, [train], [valid], optimizer=optimizer, forward=predicted, target=lambda batch: batch[3])
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        optimizer.zero_grad()
        value = loss(predicted(net, train), train[3])
        value.backward()
        calls += 1
        if calls % 20 == 0:
            epoch()
        return value

    for _ in look.on():
        net.train()
        optimizer.step(closure)
    epoch()

    def evaluated() -> float:
        return float(loss(predicted(net.eval(), valid), valid[3]).detach())

    return [net], evaluated


@script(
    "weiaicunzai/pytorch-cifar100", "train.py",
    "3, forward=, target=: a row is two images in a list and two labels, put together; warm-up by step, momentum",
)  # fmt: skip
def doubled(look: Look) -> Any:
    def data(rows: int) -> Rows:
        x, y = images(rows)
        return Rows(rows, lambda i: ([x[i], x[i].flip(-1)], [int(y[i])] * 2))

    train, valid = DataLoader(data(ROWS), 32, shuffle=True), DataLoader(TensorDataset(*images(VALID)), 32, shuffle=True)
    net, loss = convnet(norm=True, log=False), nn.CrossEntropyLoss()
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4), net)
    schedule = optim.lr_scheduler.MultiStepLR(optimizer, [60, 120], 0.2)
    warm = optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 16 + 1e-8))

    def put(part: Any) -> Tensor:
        return torch.cat(part) if isinstance(part, list) else part

    epoch = look(
        net,
        loss,
        train,
        valid,
        optimizer=optimizer,
        forward=lambda model, b: model(put(b[0])),
        target=lambda b: put(b[1]),
    )
    for at in look.on():
        if at >= 1:
            schedule.step()
        net.train()
        for both, labels in train:
            descend(optimizer, loss(net(torch.cat(both)), torch.cat(labels)))
            if at < 1:
                warm.step()
        epoch()
    return [net], lambda: own(net, valid, lambda b: loss(net(b[0]), b[1]))


@script(
    "junyanz/pytorch-CycleGAN-and-pix2pix", "models/pix2pix_model.py",
    "3, forward=, target=: keys A, B and paths; the networks are held by a class that is no module; the other network judges",
)  # fmt: skip
def pix2pix(look: Look) -> Any:
    class Model:
        def __init__(self) -> None:
            self.netG = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Conv2d(8, 1, 3, padding=1),
                nn.Tanh(),
            )
            self.netD = nn.Sequential(
                nn.Conv2d(2, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3)
            )
            self.bce = nn.BCEWithLogitsLoss()
            self.optimizer_G = look.optimizer(
                optim.Adam(self.netG.parameters(), lr=2e-4, betas=(0.5, 0.999)), self.netG
            )
            self.optimizer_D = look.optimizer(
                optim.Adam(self.netD.parameters(), lr=2e-4, betas=(0.5, 0.999)), self.netD
            )

        def judged(self, scores: Tensor, real: bool) -> Tensor:
            return self.bce(scores, torch.tensor(float(real)).expand_as(scores))

        def loss_G(self, outputs: Any, real_B: Tensor) -> Tensor:
            fake_B, scores = outputs
            return self.judged(scores, True) + 100.0 * F.l1_loss(fake_B, real_B)

        def outputs_G(self, net: nn.Module, batch: Any) -> Any:
            fake_B = net(batch["A"])
            return fake_B, self.netD(torch.cat((batch["A"], fake_B), 1))

        def optimize_parameters(self, batch: Any) -> None:
            fake_B = self.netG(batch["A"])
            self.netD.requires_grad_(True)
            self.optimizer_D.zero_grad()
            false = self.judged(self.netD(torch.cat((batch["A"], fake_B), 1).detach()), False)
            ((false + self.judged(self.netD(torch.cat((batch["A"], batch["B"]), 1)), True)) * 0.5).backward()
            self.optimizer_D.step()
            self.netD.requires_grad_(False)
            self.optimizer_G.zero_grad()
            self.loss_G((fake_B, self.netD(torch.cat((batch["A"], fake_B), 1))), batch["B"]).backward()
            self.optimizer_G.step()

    def data(rows: int) -> Rows:
        x = images(rows)[0].tanh()
        return Rows(rows, lambda i: {"A": x[i], "B": -x[i].flip(-1), "A_paths": f"a/{i}.png", "B_paths": f"b/{i}.png"})

    train, valid = loaders(data(128), data(64))
    model = Model()
    epoch = look(
        model.netG,
        model.loss_G,
        train,
        valid,
        optimizer=model.optimizer_G,
        forward=model.outputs_G,
        target=lambda batch: batch["B"],
    )
    for _ in look.on():
        for batch in train:
            model.optimize_parameters(batch)
        epoch()
    nets = [model.netG, model.netD]
    return nets, lambda: own(
        nets, valid, lambda b: model.loss_G(model.outputs_G(model.netG, b), b["B"]), lambda b: len(b["A"])
    )


@script(
    "KevinMusgrave/pytorch-metric-learning", "examples/notebooks/TripletMarginLossMNIST.ipynb",
    "3: triplets are mined from a batch, so that the loss of a row needs the others, and there may be none", close=0.15,
)  # fmt: skip
def mined_triplets(look: Look) -> Any:
    def mined(embeddings: Tensor, labels: Tensor) -> Any:
        with torch.no_grad():
            near = F.normalize(embeddings) @ F.normalize(embeddings).T
            same = labels[:, None] == labels[None]
            gap = near[:, :, None] - near[:, None, :]
            right = (same & ~torch.eye(len(labels), dtype=torch.bool))[:, :, None] & ~same[:, None, :]
            return torch.where(right & (gap > 0) & (gap < 0.2))

    def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        a, p, n = mined(embeddings, labels)
        near = F.normalize(embeddings) @ F.normalize(embeddings).T
        each = F.relu(near[a, n] - near[a, p] + 0.2)
        return each[each > 0].mean() if len(a) else embeddings.sum() * 0

    train, valid = image_loaders()
    net = convnet(log=False)
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=0.01), net)
    epoch = look(net, loss, train, valid, optimizer=optimizer)
    for _ in look.on():
        net.train()
        for x, y in train:
            descend(optimizer, loss(net(x), y))
        epoch()
    return [net], lambda: own(net, valid, lambda b: loss(net(b[0]), b[1]))


@script(
    "lucidrains/vector-quantize-pytorch", "examples/autoencoder.py",
    "3, forward=, target=: a pass in training mode fills a code book that no gradient reaches; three outputs",
)  # fmt: skip
def quantized(look: Look) -> Any:
    class Book(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.zeros(16, 4))
            self.register_buffer("sizes", torch.ones(16))
            self.register_buffer("begun", torch.tensor(False))

        def forward(self, x: Tensor) -> Any:
            flat = x.movedim(1, -1).reshape(-1, 4)
            if self.training and not self.begun:
                self.codes.copy_(flat[torch.randperm(len(flat))[:16]].detach())
                self.begun.fill_(True)
            index = torch.cdist(flat, self.codes).argmin(1)
            if self.training:
                which = F.one_hot(index, 16).float()
                self.sizes.mul_(0.8).add_(0.2 * which.sum(0))
                found = which.sum(0) > 0
                self.codes[found] += 0.2 * (
                    (which.T @ flat.detach())[found] / which.sum(0)[found, None] - self.codes[found]
                )
            quant = self.codes[index].view_as(x.movedim(1, -1)).movedim(-1, 1)
            return x + (quant - x).detach(), index, F.mse_loss(quant.detach(), x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.book, self.decoder = nn.Conv2d(1, 4, 3, 2, 1), Book(), nn.ConvTranspose2d(4, 1, 4, 2, 1)

        def forward(self, x: Tensor) -> Any:
            quant, index, commit = self.book(self.encoder(x))
            return self.decoder(quant).clamp(-1, 1), index, commit

    def loss(outputs: Any, x: Tensor) -> Tensor:
        out, _, commit = outputs
        return F.l1_loss(out, x) + 10 * commit

    train, valid = image_loaders()
    net = Net()
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=3e-3), net)
    epoch = look(
        net,
        loss,
        train,
        valid,
        optimizer=optimizer,
        forward=lambda model, batch: model(batch[0]),
        target=lambda batch: batch[0],
    )
    for _ in look.on():
        net.train()
        for x, _y in train:
            descend(optimizer, loss(net(x), x))
        epoch()
    return [net], lambda: own(net, valid, lambda b: loss(net(b[0]), b[0]))


@script(
    "lorenmt/mtan", "im2im_pred/utils.py",
    "3, forward=, target=: three tasks of which one is masked, outputs beside learned variances, weights that move with the epochs",
)  # fmt: skip
def three_tasks(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.semantic, self.depth, self.normal = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 3, 1)
            self.logsigma = nn.Parameter(torch.tensor([-0.5, -0.5, -0.5]))

        def forward(self, x: Tensor) -> Any:
            seen = self.body(x)
            return [self.semantic(seen).log_softmax(1), self.depth(seen), F.normalize(self.normal(seen))], self.logsigma

    def fit(pred: Tensor, told: Tensor, task: str) -> Tensor:
        if task == "semantic":
            return F.nll_loss(pred, told, ignore_index=-1)
        mask = (told.sum(1) != 0).float().unsqueeze(1)
        if task == "depth":
            return (pred - told).abs().mul(mask).sum() / mask.sum()
        return 1 - (pred * told).mul(mask).sum() / mask.sum()

    def loss(outputs: Any, told: Any) -> Tensor:
        preds, logsigma = outputs
        each = [fit(p, t, task) for p, t, task in zip(preds, told, ("semantic", "depth", "normal"), strict=True)]
        return sum(1 / (2 * torch.exp(logsigma[i])) * each[i] + logsigma[i] / 2 for i in range(3))

    def data(rows: int) -> TensorDataset:
        x, _ = images(rows, size=8)
        label = (x[:, 0] > 0).long() + (x[:, 0] > 1).long()
        label[:, 0] = -1
        depth = x.abs() * (x.abs() > 0.3)
        return TensorDataset(x, label, depth, F.normalize(torch.cat([x, 1 - x, x.flip(-1)], 1)))

    train, valid = loaders(data(ROWS), data(VALID))
    net = Net()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=1e-3), net)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 100, 0.5)
    epoch = look(
        net, loss, train, valid, optimizer=optimizer, forward=lambda model, b: model(b[0]), target=lambda b: b[1:]
    )
    for _ in look.on():
        net.train()
        for x, *told in train:
            outputs = net(x)
            descend(optimizer, loss(outputs, told))
        scheduler.step()
        epoch()
    return [net], lambda: own(net, DataLoader(valid.dataset, VALID), lambda b: loss(net(b[0]), b[1:]))


@script(
    "yenchenlin/nerf-pytorch", "run_nerf.py",
    "3, forward=: rays are rows of a tensor that the loop cuts; two networks in a dict; a jitter is drawn, rate by step", close=0.1,
)  # fmt: skip
def radiance(look: Look) -> Any:
    def field() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 4))

    kwargs = {"network_fn": field(), "network_fine": field(), "N_samples": 6, "perturb": 1.0}

    def render(rays: Tensor, network_fn: Any, network_fine: Any, N_samples: int, perturb: float) -> Any:
        start, way = rays[:, 0], rays[:, 1]
        depth = torch.linspace(0, 1, N_samples).expand(len(rays), N_samples)
        depth = depth + perturb * torch.rand(depth.shape) / N_samples
        places, found = start[:, None] + way[:, None] * depth[..., None], []
        for net in (network_fn, network_fine):
            raw = net(places)
            alpha = 1 - torch.exp(-raw[..., 3].relu())
            weights = alpha * torch.cumprod(torch.cat([torch.ones(len(rays), 1), 1 - alpha + 1e-10], 1), 1)[:, :-1]
            found.append((weights[..., None] * raw[..., :3].sigmoid()).sum(1))
        return found[1], {"rgb0": found[0]}

    def rays(count: int) -> Tensor:
        both = torch.randn(count, 2, 3, generator=drawn(count))
        return torch.cat([both, (both[:, :1] + 0.5 * both[:, 1:]).sigmoid()], 1)

    def loss(outputs: Any, target: Tensor) -> Tensor:
        rgb, extras = outputs
        return torch.mean((rgb - target) ** 2) + torch.mean((extras["rgb0"] - target) ** 2)

    train, valid = rays(ROWS), rays(VALID)
    coarse, fine = kwargs["network_fn"], kwargs["network_fine"]
    both = nn.ModuleList([coarse, fine])
    optimizer = look.optimizer(optim.Adam(both.parameters(), lr=5e-3, betas=(0.9, 0.999)), both)
    epoch = look(
        both, loss, (train[:, :2], train[:, 2]), (valid[:, :2], valid[:, 2]), optimizer=optimizer,
        forward=lambda _, batch: render(batch[0], **kwargs),
    )  # fmt: skip
    step = 0
    for _ in look.on():
        train = train[torch.randperm(len(train))]
        for at in range(0, len(train), 64):
            batch, target = train[at : at + 64, :2], train[at : at + 64, 2]
            descend(optimizer, loss(render(batch, **kwargs), target))
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = 5e-3 * 0.1 ** (step / 1000)
        epoch()
    return [both], lambda: own(both, [(valid[:, :2], valid[:, 2])], lambda b: loss(render(b[0], **kwargs), b[1]))


@script(
    "vwxyzjn/cleanrl", "cleanrl/ppo.py",
    "3, forward=, target=: an agent without forward; what was played before the first update is looked at",
)  # fmt: skip
def policy_optimization(look: Look) -> Any:
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critic = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
            self.actor = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))

        def get_value(self, x: Tensor) -> Tensor:
            return self.critic(x)

        def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
            chances = torch.distributions.Categorical(logits=self.actor(x))
            action = chances.sample() if action is None else action
            return action, chances.log_prob(action), chances.entropy(), self.critic(x)

    agent = Agent()
    optimizer = look.optimizer(optim.Adam(agent.parameters(), lr=2.5e-3, eps=1e-5), agent)

    @torch.no_grad()
    def played(steps: int) -> Any:
        state, kept = torch.zeros(8, 4), []
        for _ in range(steps):
            action, log, _, value = agent.get_action_and_value(state)
            kept.append((state, action, log, value[:, 0], 1.0 - state.abs().mean(1)))
            state = 0.9 * state + 0.2 * torch.randn(8, 4) + 0.2 * (2 * action[:, None] - 1)
        states, actions, logs, values, rewards = (torch.stack(part) for part in zip(*kept, strict=True))
        following, returns = agent.get_value(state)[:, 0], []
        for reward in reversed(rewards):
            following = reward + 0.9 * following
            returns.append(following)
        worth = torch.stack(returns[::-1])
        return tuple(part.flatten(0, 1) for part in (states, actions, logs, worth - values, worth))

    def loss(outputs: Any, told: Any) -> Tensor:
        (log, entropy, value), (before, advantage, worth) = outputs, told
        ratio = (log - before).exp()
        policy = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
        return policy - 0.01 * entropy.mean() + 0.5 * 0.5 * ((value.view(-1) - worth) ** 2).mean()

    first, valid = played(32), played(16)
    epoch = look(
        agent, loss, [first], [valid], optimizer=optimizer, target=lambda batch: batch[2:],
        forward=lambda agent, batch: agent.get_action_and_value(batch[0], batch[1])[1:],
    )  # fmt: skip
    for _ in look.on():
        batch = played(32)
        for _epoch in range(2):
            for rows in torch.randperm(256).split(64):
                some = [part[rows] for part in batch]
                optimizer.zero_grad()
                loss(agent.get_action_and_value(some[0], some[1])[1:], some[2:]).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        epoch()
    return [agent], lambda: own(agent, [valid], lambda b: loss(agent.get_action_and_value(b[0], b[1])[1:], b[2:]))


@script(
    "pytorch/examples", "snli/train.py",
    "3, forward=, target=: batches are objects of an iterator that keeps a random state of its own; evaluated with gradients",
)  # fmt: skip
def entailment(look: Look) -> Any:
    class Bucket:
        """An iterator with batches of like lengths, shuffled by a state that goes on."""

        def __init__(self, rows: int, train: bool) -> None:
            draw = drawn(rows)
            self.data = []
            for _ in range(rows):
                premise = torch.randint(1, WORDS, (int(torch.randint(3, 8, (), generator=draw)),), generator=draw)
                label = int(torch.randint(3, (), generator=draw))
                self.data.append((premise, (premise + label) % WORDS, label))
            self.batch_size, self.train, self.random_state = 32, train, random.Random(0).getstate()

        def __len__(self) -> int:
            return math.ceil(len(self.data) / self.batch_size)

        def __iter__(self) -> Iterator[Any]:
            parts = [
                sorted(self.data, key=lambda row: len(row[0]))[at : at + 32] for at in range(0, len(self.data), 32)
            ]
            if self.train:
                own_random = random.Random()
                own_random.setstate(self.random_state)
                own_random.shuffle(parts)
                self.random_state = own_random.getstate()
            for part in parts:
                premise, hypothesis, label = zip(*part, strict=True)
                yield SimpleNamespace(
                    premise=pad_sequence(premise),
                    hypothesis=pad_sequence(hypothesis),
                    label=torch.tensor(label),
                    batch_size=len(part),
                )

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encoder = nn.Embedding(WORDS, 16), nn.LSTM(16, 16)
            self.out = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

        def forward(self, batch: Any) -> Tensor:
            parts = [self.encoder(self.embed(words))[0][-1] for words in (batch.premise, batch.hypothesis)]
            return self.out(torch.cat(parts, 1))

    train, valid = Bucket(ROWS, True), Bucket(VALID, False)
    net, criterion = Net(), nn.CrossEntropyLoss()
    optimizer = look.optimizer(optim.Adam(net.parameters(), lr=3e-3), net)
    epoch = look(
        net,
        criterion,
        train,
        valid,
        optimizer=optimizer,
        forward=lambda model, batch: model(batch),
        target=lambda batch: batch.label,
    )
    for _ in look.on():
        for step, batch in enumerate(train):
            net.train()
            descend(optimizer, criterion(net(batch), batch.label))
            if step == 8:
                net.eval()
                for held in valid:
                    criterion(net(held), held.label)
        epoch()
    return [net], lambda: own(net, valid, lambda b: criterion(net(b), b.label), lambda b: b.batch_size)


@script(
    "facebookresearch/dlrm", "dlrm_s_pytorch.py",
    "3: numbers, offsets with tables first, a list of indices, labels with an axis; tables with sparse gradients",
)  # fmt: skip
def recommendation(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb_l = nn.ModuleList(nn.EmbeddingBag(size, 8, mode="sum", sparse=True) for size in (20, 30, 40))
            self.bot, self.top = (
                nn.Linear(5, 8),
                nn.Sequential(nn.Linear(14, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid()),
            )

        def forward(self, dense: Tensor, offsets: Tensor, indices: Any) -> Tensor:
            first = self.bot(dense).relu()
            parts = torch.stack(
                [first, *(table(i, o) for table, i, o in zip(self.emb_l, indices, offsets, strict=True))], 1
            )
            crossed = parts @ parts.transpose(1, 2)
            at = torch.tril_indices(4, 4, -1)
            return self.top(torch.cat([first, crossed[:, at[0], at[1]]], 1))

    def data(rows: int) -> Rows:
        def make(row: int) -> Any:
            draw = drawn(1000 * rows + row)
            dense = torch.randn(5, generator=draw)
            some = [
                torch.randint(size, (int(torch.randint(1, 4, (), generator=draw)),), generator=draw)
                for size in (20, 30, 40)
            ]
            return dense, some, float(dense[0] + (some[0][0] % 3) - 1 > 0)

        return Rows(rows, make)

    def collate(rows: Any) -> Any:
        dense, some, y = zip(*rows, strict=True)
        columns = list(zip(*some, strict=True))
        offsets = torch.stack([torch.tensor([0, *(len(one) for one in column[:-1])]).cumsum(0) for column in columns])
        return torch.stack(dense), offsets, [torch.cat(column) for column in columns], torch.tensor(y).view(-1, 1)

    train, valid = loaders(data(ROWS), data(VALID), collate_fn=collate)
    net, loss = Net(), nn.BCELoss()
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=0.1), net)
    epoch = look(net, loss, train, valid, optimizer=optimizer)
    for _ in look.on():
        for dense, offsets, indices, y in train:
            descend(optimizer, loss(net(dense, offsets, indices), y))
        epoch()
    return [net], lambda: own(net, valid, lambda b: loss(net(*b[:3]), b[3]))


@script(
    "cornellius-gp/gpytorch", "examples/06_PyTorch_NN_Integration_DKL/KISSGP_Deep_Kernel_Regression_CUDA.ipynb",
    "3: outputs are a distribution, and the loss is its likelihood; all rows are one batch; a group for each part",
)  # fmt: skip
def deep_kernel(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.feature_extractor = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
            self.inducing = nn.Parameter(torch.randn(8, 2, generator=drawn(0)))
            self.mean, self.covar = nn.Linear(8, 1), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Any:
            near = torch.exp(-torch.cdist(self.feature_extractor(x), self.inducing))
            return torch.distributions.Normal(self.mean(near)[:, 0], F.softplus(self.covar(near)[:, 0]) + 1e-3)

    def data(rows: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(rows, 4, generator=drawn(rows))
        return x, x[:, 0].sin() + 0.1 * torch.randn(rows, generator=drawn(rows + 1))

    (train_x, train_y), (test_x, test_y) = data(ROWS), data(VALID)
    net = Net()
    optimizer = look.optimizer(
        optim.Adam(
            [
                {"params": net.feature_extractor.parameters()},
                {"params": [net.inducing, *net.mean.parameters(), *net.covar.parameters()]},
            ],
            lr=0.01,
        ),
        net,
    )
    epoch = look(
        net, lambda output, y: -output.log_prob(y).mean(), (train_x, train_y), (test_x, test_y), optimizer=optimizer
    )
    for _ in look.on():
        for _step in range(8):
            descend(optimizer, -net(train_x).log_prob(train_y).mean())
        epoch()
    return [net], lambda: own(net, [(test_x, test_y)], lambda b: -net(b[0]).log_prob(b[1]).mean())


@script(
    "gpleiss/efficient_densenet_pytorch", "demo.py",
    "3: parts of the network are computed again on the way back; both loaders draw from one Dataset",
)  # fmt: skip
def checkpointed(look: Look) -> Any:
    class Dense(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            def bottleneck(x: Tensor) -> Tensor:
                return self.conv(self.norm(x).relu())

            return torch.cat(
                [x, checkpoint(bottleneck, x, use_reentrant=False) if x.requires_grad else bottleneck(x)], 1
            )

    x, y = images(ROWS + VALID)
    order = torch.randperm(len(x))
    train = DataLoader(TensorDataset(x, y), 64, sampler=SubsetRandomSampler(order[:ROWS].tolist()))
    valid = DataLoader(TensorDataset(x, y), 64, sampler=SubsetRandomSampler(order[ROWS:].tolist()))
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        Dense(4),
        Dense(8),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(108, 10),
    )
    optimizer = look.optimizer(optim.SGD(net.parameters(), lr=0.1, nesterov=True, momentum=0.9, weight_decay=1e-4), net)
    scheduler = optim.lr_scheduler.MultiStepLR(optimizer, [4, 6], 0.1)
    epoch = look(net, F.cross_entropy, train, valid, optimizer=optimizer)
    for _ in look.on():
        scheduler.step()
        net.train()
        for a, b in train:
            descend(optimizer, F.cross_entropy(net(a), b))
        epoch()
    return [net], lambda: own(net, [(x[order[ROWS:]], y[order[ROWS:]])], lambda b: F.cross_entropy(net(b[0]), b[1]))


@script(
    "facebookresearch/DiT", "train.py",
    "3, forward=: latents of a frozen network, times and noise are drawn around the call; labels are dropped", close=0.1,
)  # fmt: skip
def latent_diffusion(look: Look) -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.label, self.time = nn.Linear(16, 32), nn.Embedding(11, 32), nn.Linear(1, 32)
            self.last = nn.Linear(32, 16)

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            if self.training:
                y = torch.where(torch.rand(len(y)) < 0.1, 10, y)
            return self.last(F.silu(self.first(x) + self.label(y) + self.time(t[:, None])))

    vae = nn.Sequential(nn.Flatten(), nn.Linear(144, 16)).requires_grad_(False).eval()
    net = Net()
    ema = copy.deepcopy(net).requires_grad_(False).eval()

    def training_losses(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        with torch.no_grad():
            x = vae(x) + 0.1 * torch.randn(len(x), 16)
        t, noise = torch.rand(len(x)), torch.randn_like(x)
        found = model((1 - t[:, None]) * x + t[:, None] * noise, t, y=y)
        return {"loss": ((found - noise) ** 2).mean(1), "mse": ((found - noise) ** 2).mean(1)}

    train, valid = image_loaders()
    optimizer = look.optimizer(optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0), net)
    epoch = look(
        net, lambda losses, _: losses["loss"].mean(), train, valid, optimizer=optimizer, forward=training_losses
    )
    for _ in look.on():
        net.train()
        for batch in train:
            descend(optimizer, training_losses(net, batch)["loss"].mean())
            for p, q in zip(ema.parameters(), net.parameters(), strict=True):
                p.mul_(0.9).add_(q.data, alpha=0.1)
        epoch()
    return [net, ema], lambda: own(net, valid, lambda b: training_losses(net, b)["loss"].mean())


if __name__ == "__main__":
    loops.main()
