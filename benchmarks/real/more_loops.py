"""More loops of public training scripts, of other kinds: contrastive, reinforcement, translation, recommending, meta-learning, ...

    python benchmarks/real/more_loops.py [NAME ...] [--seconds 2]

As `loops`, whose helpers and table these are. Each ``lines`` was written down before the first run.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

import loops
import torch
from loops import ROWS, VALID, WORDS, Look, Rows, image_loaders, images, loaders, own, script
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler


@script("sthalles/SimCLR", "simclr.py", "3, forward=: two views in a list; a row's loss needs its batch")
def contrastive(look: Look) -> Any:
    def views(rows: int) -> Rows:
        x, y = images(rows)

        def make(row: int) -> Any:
            draw = torch.Generator().manual_seed(row)
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
            loss = info_nce(net(torch.cat(both)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
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
            optimizer.zero_grad()
            torch.cat([-log * r for log, r in zip(policy.saved, worth, strict=True)]).sum().backward()
            optimizer.step()
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
        boxes = torch.rand(rows, 3, 6, generator=torch.Generator().manual_seed(rows))
        return Rows(rows, lambda i: (f"{i}.jpg", x[i], boxes[i, : int(y[i]) % 4]))

    def collate(examples: list[Any]) -> Any:
        paths, pictures, boxes = zip(*examples, strict=True)
        for number, some in enumerate(boxes):
            some[:, 0] = number
        return paths, torch.stack(pictures), torch.cat(boxes)

    train, valid = loaders(data(ROWS), data(VALID), batch=16, collate_fn=collate)
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
        draw = torch.Generator().manual_seed(rows)
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
            draw = torch.Generator().manual_seed(rows)
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
        draw = torch.Generator().manual_seed(rows)
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
            optimizer.zero_grad()
            loss(adapted(net, batch, further=True), batch[3]).backward()
            optimizer.step()
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
            loss = criterion(net(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
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
    net, teacher = Student(), loops.convnet(norm=True, log=False).eval()
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
    net = nn.DataParallel(loops.convnet(classes=6, norm=True, log=False))
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
            loss = F.cross_entropy(net(x), batch["target"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
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
        draw = torch.Generator().manual_seed(rows)
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
            optimizer.zero_grad()
            loss(net(numbers[rows], classes[rows]), y[rows]).backward()
            optimizer.step()
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


if __name__ == "__main__":
    loops.main()
