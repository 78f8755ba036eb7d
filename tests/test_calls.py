"""What three lines in a loop do not say is found out on one batch: which loss a callable is, and how a model is called."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp
from wellposed.core.batches import tensors_in
from wellposed.core.errors import InputError
from wellposed.core.preserve import reach_kept
from wellposed.data.arrays import to_device
from wellposed.losses.per_example import Loss
from wellposed.losses.recognition import recognized
from wellposed.training import watch as watching

CLASSES, TOKENS = 5, 7


@pytest.fixture
def draw() -> torch.Generator:
    torch.manual_seed(0)
    return torch.Generator().manual_seed(0)


def scores(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw)


def by_hand(outputs: Tensor, target: Tensor) -> Tensor:
    return -outputs.log_softmax(1)[torch.arange(len(target)), target].mean()


SPELLED: dict[str, list[Callable[..., Tensor]]] = {
    "cross_entropy": [
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        lambda f, y: F.cross_entropy(f, y),
        lambda f, y: F.cross_entropy(f, y, reduction="sum"),
        lambda f, y: F.cross_entropy(f, y, label_smoothing=0.1),
        lambda f, y: F.nll_loss(f.log_softmax(1), y),
        by_hand,
    ],
    "binary_cross_entropy": [
        F.binary_cross_entropy_with_logits,
        lambda f, y: F.binary_cross_entropy_with_logits(f, y),
        lambda f, y: F.binary_cross_entropy(f.sigmoid(), y),
        lambda f, y: F.soft_margin_loss(f, 2 * y - 1),
    ],
    "mse": [F.mse_loss, lambda f, y: F.mse_loss(f, y), lambda f, y: (f - y).square().mean()],
    "squared_error": [lambda f, y: (f - y).square().sum(1).mean(), lambda f, y: F.mse_loss(f, y, reduction="sum")],
    "mae": [F.l1_loss, lambda f, y: (f - y).abs().mean()],
}


@pytest.mark.parametrize("name", SPELLED)
def test_a_loss_is_known_however_it_is_spelled(name: str, draw: torch.Generator) -> None:
    outputs, target = scores(draw, 40, CLASSES), torch.randint(CLASSES, (40,), generator=draw)
    if name == "binary_cross_entropy":
        outputs, target = scores(draw, 40, 1), torch.randint(2, (40, 1), generator=draw).float()
    elif name != "cross_entropy":
        target = scores(draw, 40, CLASSES)
    wanted = Loss(name).constant(target, target)
    assert wanted is not None
    for spelled in SPELLED[name]:
        found = recognized(Loss(spelled), outputs, target)
        assert found.name == name
        torch.testing.assert_close(found.constant(target, target), wanted)
        torch.testing.assert_close(found.per_example(outputs, target).mean(), Loss(name).mean(outputs, target))


def test_a_loss_of_probabilities_has_the_constant_in_probabilities(draw: torch.Generator) -> None:
    target = torch.randint(CLASSES, (60,), generator=draw)
    ours, theirs = Loss("cross_entropy").constant(target, target), Loss(nn.NLLLoss()).constant(target, target)
    assert ours is not None
    torch.testing.assert_close(theirs, ours.log_softmax(0))
    two = (target > 2).float()
    shares = Loss(nn.BCELoss()).constant(two, two)
    torch.testing.assert_close(shares, two.mean())
    assert wp.Problem(lambda: nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()), nn.BCELoss(),
                      wp.Data(train=(scores(draw, 60, 2), two[:, None]), valid=0.5)).metric.name == "accuracy"  # fmt: skip


BY_HAND = {
    "classes": [
        lambda p, y: -(y * p.log()).sum(1).mean(),
        lambda p, y: -(y * (p / p.sum(1, keepdim=True)).clamp(1e-7, 1).log()).sum(),
        lambda p, y: F.nll_loss((p + 1e-9).log(), y.argmax(1)),
    ],
    "binary": [
        lambda p, y: -(y * p.log() + (1 - y) * (1 - p).log()).mean(),
        lambda p, y: (-y * (p + 1e-8).log() - (1 - y) * (1 - p + 1e-8).log()).sum(1).mean(),
    ],
}


@pytest.mark.parametrize("ends", [torch.sigmoid, lambda f: f.softmax(1), lambda f: f])
@pytest.mark.parametrize("kind", BY_HAND)
def test_a_cross_entropy_of_probabilities_is_known_by_hand(kind: str, ends: Any, draw: torch.Generator) -> None:
    """Whatever the network ends in; its values stay those of the formula that was given."""
    outputs = ends(scores(draw, 60, CLASSES))
    target = F.one_hot(torch.randint(CLASSES, (60,), generator=draw), CLASSES).float()
    for own in BY_HAND[kind]:
        found = recognized(Loss(own), outputs, target)
        assert (found.of_shares, found.blind, found.classifies) == (kind, False, True)
        constant = found.constant(target, target)
        assert constant is not None
        torch.testing.assert_close(constant, target.mean(0), atol=0.02, rtol=0)
        many = constant.expand_as(outputs)
        torch.testing.assert_close(found.mean(many, target), Loss(found.given).mean(many, target))
    assert recognized(Loss(BY_HAND[kind][0]), outputs, target).breaks
    assert not recognized(Loss(BY_HAND[kind][1]), outputs, target).breaks


@pytest.mark.parametrize(
    "own",
    [
        lambda p, y: (p - y).square().mean(),
        lambda p, y: -(y * (1 - p).square() * p.log()).sum(1).mean(),  # focal
        lambda p, y: -(y * p.log() * torch.arange(1.0, CLASSES + 1)).sum(1).mean(),  # classes weigh differently
        lambda p, y: -(y * p.log()).sum(1).mean() + p.square().mean(),
        F.binary_cross_entropy_with_logits,
    ],
)
def test_other_losses_of_probabilities_are_none(own: Callable[..., Tensor], draw: torch.Generator) -> None:
    target = F.one_hot(torch.randint(CLASSES, (60,), generator=draw), CLASSES).float()
    found = recognized(Loss(own), scores(draw, 60, CLASSES).sigmoid(), target)
    assert (found.of_shares, found.blind) == (None, False)


def test_a_loss_that_outputs_do_not_change_is_blind(draw: torch.Generator) -> None:
    own = lambda p, y: -(y * (p / p.sum(1, keepdim=True)).log()).sum(1).mean()  # noqa: E731
    target = torch.randint(2, (40, 1), generator=draw).float()
    assert recognized(Loss(own), scores(draw, 40, 1).sigmoid(), target).blind


@pytest.mark.parametrize(
    ("own", "shift"),
    [(lambda p, y: (p - y).square().mean(), 1e8), (lambda p, y: (1 - (2 * y - 1) * p).relu().mean(), 0.0)],
)
def test_a_loss_that_rests_or_rounds_is_not_blind(
    own: Callable[..., Tensor], shift: float, draw: torch.Generator
) -> None:
    """Numbers beside which a change of one is lost, and margins that are all wide enough."""
    target = torch.randint(2, (40, 1), generator=draw).float()
    assert not recognized(Loss(own), 100 * (2 * target - 1), target + shift).blind


def refusing(p: Tensor, y: Tensor) -> Tensor:
    assert torch.allclose(p.sum(1), torch.ones(len(p)))
    return {0: (p - y).square().mean()}[int(p.min() < 0)]


@pytest.mark.parametrize(
    "target",
    [torch.zeros(0, dtype=torch.long), torch.zeros(60, dtype=torch.cfloat), torch.tensor(1.0), torch.zeros(60, 3)],
    ids=["none", "complex", "one", "zeros"],
)
@pytest.mark.parametrize("own", [refusing, lambda p, y: -(y * p.log()).sum(1).mean()])
def test_targets_and_losses_that_do_not_fit_what_is_tried_are_no_error(
    own: Callable[..., Tensor], target: Tensor, draw: torch.Generator
) -> None:
    assert recognized(Loss(own), scores(draw, 60, CLASSES).softmax(1), target).known is None


def test_counts_are_no_classes(draw: torch.Generator) -> None:
    """A multinomial likelihood, rows with weights of their own, an advantage for each action: their constant is another one."""
    one_hot = F.one_hot(torch.randint(CLASSES, (60,), generator=draw), CLASSES).float()
    for target in (torch.poisson(3 * torch.rand(60, CLASSES, generator=draw)), 2 * one_hot, -one_hot):
        found = recognized(Loss(BY_HAND["classes"][0]), scores(draw, 60, CLASSES).softmax(1), target)
        assert (found.of_shares, found.classifies) == ("classes", False)


@pytest.mark.parametrize(
    "own",
    [
        lambda f, y: F.cross_entropy(f, y, weight=torch.arange(1.0, CLASSES + 1)),
        lambda f, y: (F.cross_entropy(f, y, reduction="none") * (1 - f.softmax(1)[:, 0])).mean(),
        lambda f, y: F.cross_entropy(f, y) + 0.1 * f.square().mean(),
        lambda f, y: f.sum() * 0,
    ],
)
def test_a_loss_of_ones_own_is_taken_for_none_of_ours(own: Callable[..., Tensor], draw: torch.Generator) -> None:
    outputs, target = scores(draw, 40, CLASSES), torch.randint(CLASSES, (40,), generator=draw)
    found = recognized(Loss(own), outputs, target)
    assert found.given is own


def test_padding_that_a_loss_leaves_out_is_found(draw: torch.Generator) -> None:
    outputs, target = scores(draw, 8, TOKENS, CLASSES), torch.randint(1, CLASSES, (8, TOKENS), generator=draw)
    target[:, 4:] = 0
    own = lambda f, y: F.cross_entropy(f.flatten(0, 1), y.flatten(), ignore_index=0)  # noqa: E731
    found = recognized(Loss(own), outputs, target)
    assert found.ignored == 0
    constant = found.constant(target, target)
    assert constant is not None
    shares = torch.bincount(target[target != 0], minlength=CLASSES) + 0.5
    torch.testing.assert_close(constant.exp(), shares / shares.sum())


# --- models ---------------------------------------------------------------------------------------------------------


class Speaks(nn.Module):
    """A causal language model that takes its inputs as labels and shifts them itself."""

    def __init__(self, moved: int = 1) -> None:
        super().__init__()
        self.table, self.moved = nn.Embedding(CLASSES, CLASSES), moved

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
        logits, loss = self.table(input_ids), None
        if labels is not None:
            ahead = logits[:, : logits.shape[1] - self.moved]
            loss = F.cross_entropy(ahead.flatten(0, 1), labels[:, self.moved :].flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def sentences(draw: torch.Generator, count: int = 40) -> list[dict[str, Tensor]]:
    rows = torch.randint(CLASSES, (count, TOKENS), generator=draw)
    return [{"input_ids": row, "labels": row, "special": torch.tensor(1)} for row in rows]


@pytest.mark.parametrize("moved", [0, 1])
def test_labels_mean_what_the_models_own_loss_takes_them_for(moved: int, draw: torch.Generator) -> None:
    net, data = Speaks(moved), sentences(draw)
    watch = wp.watch(net, "cross_entropy", train=data, valid=data)
    whole = {key: torch.stack([row[key] for row in data]) for key in ("input_ids", "labels")}
    assert watch.epoch()["valid_loss"] == pytest.approx(float(net(**whole).loss.detach()), rel=1e-5)
    counts = torch.bincount(whole["labels"][:, moved:].flatten(), minlength=CLASSES) + 0.5
    shares = counts / counts.sum()
    expected = -(shares.log()[whole["labels"][:, moved:]]).mean()
    assert watch.history.facts["constant_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_a_model_whose_own_loss_is_another_is_refused(draw: torch.Generator) -> None:
    data = sentences(draw)
    net = Speaks(2)
    with pytest.raises(
        InputError, match=r"loss=lambda loss, target: loss, forward=lambda model, batch: model\(\*\*batch\)\.loss;"
    ):
        wp.watch(net, "cross_entropy", train=data, valid=data)
    for row in data:
        del row["special"]
    watch = wp.watch(net, lambda loss, target: loss, data, data, forward=lambda model, batch: model(**batch).loss)
    whole = {key: torch.stack([row[key] for row in data]) for key in data[0]}
    assert watch.epoch()["valid_loss"] == pytest.approx(float(net(**whole).loss.detach()), rel=1e-4)


@pytest.mark.parametrize("left_out", [-1, -7])
def test_padding_that_a_models_own_loss_leaves_out_is_left_out(left_out: int, draw: torch.Generator) -> None:
    class Pads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(CLASSES, CLASSES)

        def forward(self, idx: Tensor, targets: Tensor) -> Any:
            found = self.table(idx)
            return found, F.cross_entropy(found.flatten(0, 1), targets.flatten(), ignore_index=left_out)

    rows = torch.randint(CLASSES, (40, TOKENS), generator=draw)
    labels = rows.where(torch.arange(TOKENS) < 1 + torch.arange(40)[:, None] % TOKENS, left_out)
    net = Pads()
    row = wp.watch(net, "cross_entropy", (rows, labels), (rows, labels)).epoch()
    assert row["valid_loss"] == pytest.approx(float(net(rows, labels)[1].detach()), rel=1e-5)
    right = (net.table(rows).argmax(-1) == labels)[labels != left_out]
    assert row["valid_metric"] == pytest.approx(float(right.float().mean()), rel=1e-5)


@pytest.mark.parametrize("left_out", [255, -1, 0])
def test_labels_that_a_loss_leaves_out_are_left_out_of_the_metric(left_out: int, draw: torch.Generator) -> None:
    x, y = scores(draw, 40, 3, 4, 4), torch.randint(1, CLASSES, (40, 4, 4), generator=draw)
    net, y = nn.Conv2d(3, CLASSES, 1), y.where(y != 1, -100)
    rows = []
    for label in (-100, left_out):
        given = (x, y.where(y != -100, label))
        rows.append(wp.watch(net, nn.CrossEntropyLoss(ignore_index=label), given, given).epoch())
    for key in ("valid_loss", "valid_metric", "valid_gain"):
        assert rows[0][key] == pytest.approx(rows[1][key])


class Force(nn.Module):
    """The negative derivative of an energy, which no pass without gradients can give."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, place: Tensor) -> Tensor:
        place = place.detach().requires_grad_()
        return -torch.autograd.grad(self.energy(place).sum(), place, create_graph=self.training)[0]


def residual(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    place = batch[0].detach().clone().requires_grad_()
    return model(place), place


def smooth(outputs: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    slope = torch.autograd.grad(outputs[0].sum(), outputs[1], create_graph=True)[0]
    return ((slope - target) ** 2).mean()


@pytest.mark.parametrize(
    ("net", "loss", "more", "metric"),
    [
        (Force(), "mse", {}, True),
        (Force(), nn.MSELoss(), {"forward": lambda model, batch: model(batch[0])}, True),
        (nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), smooth, {"forward": residual}, False),
    ],
    ids=["in the model", "in the model, said", "in the loss"],
)
def test_derivatives_inside_of_a_pass(
    net: nn.Module, loss: Any, more: Any, metric: bool, draw: torch.Generator
) -> None:
    x = scores(draw, 48, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    watch = wp.watch(net, loss, (x, -x), (x, -x), optimizer=optimizer, **more)
    forward = more.get("forward", lambda model, batch: model(batch[0]))
    criterion = loss if callable(loss) else F.mse_loss
    for _ in range(5):
        optimizer.zero_grad()
        criterion(forward(net, (x, -x)), -x).backward()
        optimizer.step()
        row = watch.epoch()
    assert row["valid_loss"] == pytest.approx(float(criterion(forward(net, (x, -x)), -x).detach()), rel=1e-5)
    assert (row["valid_metric"] == row["valid_metric"]) is metric
    assert watch.first is not None
    assert watch.history["valid_loss"][-1] < watch.history["valid_loss"][0]
    assert wp.diagnose(watch)


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("kind", ["numbers", "probabilities", "labels", "centred"])
def test_targets_of_a_network_that_moves_are_no_level_to_fall_to(kind: str, moves: bool, draw: torch.Generator) -> None:
    """Probabilities have one sum wherever they move, centred numbers a sum of rounding alone; and the network is not touched."""
    x, other, net, inner = scores(draw, 64, 4), scores(draw, 64, 4), nn.Linear(4, 3), nn.Linear(4, 3)
    teacher, asked = nn.Sequential(inner, nn.BatchNorm1d(3)), [0]

    def target(batch: Any) -> Tensor:
        asked[0] += 1
        found = teacher(batch[0])
        if kind == "centred":  # by a machine that adds up in another order each time
            return (found - found.mean()) * (1 + 1e-6 * (asked[0] % 3))
        return found if kind == "numbers" else found.argmax(-1) if kind == "labels" else found.softmax(-1)

    watch = wp.watch(
        net,
        "cross_entropy" if kind == "labels" else "mse",
        (x, x),
        (other, x),
        forward=lambda model, batch: model(batch[0]),
        target=target,
    )
    for _ in range(6):
        watch.epoch()
        with torch.no_grad():
            inner.weight.add_(float(moves) * torch.arange(12.0).view(3, 4).cos())
    assert bool(watch.history.facts.get("moving_target")) is moves
    assert ("moving_target" in [one.name for one in wp.diagnose(watch)]) is moves
    assert teacher[1].num_batches_tracked == 0


@pytest.mark.parametrize(("parts", "moves"), [(("actor", "critic"), True), (("body", "head"), False)])
def test_a_policy_is_known_by_the_names_of_its_parts(parts: tuple[str, str], moves: bool) -> None:
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    net = nn.Module()
    for part in parts:
        net.add_module(part, nn.Linear(4, 3))
    forward = eval(f"lambda agent, batch: agent.{parts[0]}(batch[0]) + agent.{parts[1]}(batch[0])")
    watch = wp.watch(net, "cross_entropy", (x, y), (x + 0.1, y), forward=forward)
    for _ in range(6):
        watch.epoch()
    assert ("moving_target" in [one.name for one in wp.diagnose(watch)]) is moves


class Remembers(nn.Module):
    """A loss that keeps a running target of every row in a plain tensor, and what it saw in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.seen = torch.zeros(64, 3), [1]

    def forward(self, outputs: Tensor, rows: Tensor) -> Tensor:
        self.kept[rows] = 0.7 * self.kept[rows] + 0.3 * outputs.detach()
        self.seen.append(len(rows))
        return ((outputs - self.kept[rows]) ** 2).mean()


def test_what_a_loss_remembers_in_place_comes_back(draw: torch.Generator) -> None:
    loss, x = Remembers(), scores(draw, 64, 4)
    data = (x, torch.arange(64))
    watch = wp.watch(nn.Linear(4, 3), loss, data, data)
    watch.epoch()
    assert not loss.kept.any()
    assert loss.seen == [1]


def test_what_a_loss_keeps_of_its_values_stays_of_use(draw: torch.Generator) -> None:
    kept: list[Tensor] = []

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        kept.append(value := (outputs - target).abs().mean() ** 2)
        return value

    Loss(loss).per_example(scores(draw, 8, 3), scores(draw, 8, 3))
    assert torch.stack(kept).isfinite().all()


def test_a_sparse_buffer_comes_back() -> None:
    net = nn.Linear(1, 1)
    net.register_buffer("seen", torch.eye(2).to_sparse().coalesce())
    with reach_kept(net):
        net.seen.values().add_(1)
    assert torch.equal(net.seen.to_dense(), torch.eye(2))


def test_an_object_that_holds_itself_is_looked_at_once() -> None:
    batch = SimpleNamespace(x=torch.ones(3))
    batch.fields = {"batch": batch, "y": torch.zeros(2)}
    assert [len(one) for one in tensors_in(batch)] == [3, 2]


def test_objects_that_move_in_place_are_moved_and_stay() -> None:
    class Moves:
        device: Any = "cpu"

        def to(self, device: Any) -> None:
            self.device = device

    given = Moves()
    moved = to_device((given, torch.ones(1)), "meta")[0]
    assert (moved.device, given.device) == ("meta", "cpu")


class Shuffled:
    """Batches that are objects, of an iterator which keeps the state of its shuffle in an object of its own."""

    def __init__(self, draw: torch.Generator) -> None:
        self.batches = [
            SimpleNamespace(x=scores(draw, 5, 16), y=torch.randint(3, (16,), generator=draw), batch_size=16)
            for _ in range(8)
        ]
        self.order, self.library = SimpleNamespace(state=0), ModuleType("library")

    def __iter__(self) -> Any:
        self.order.state += 1
        self.library.loaded = True  # type: ignore[attr-defined]
        turn = self.order.state % len(self.batches)
        return iter(self.batches[turn:] + self.batches[:turn])


def test_an_iterators_own_state_and_batches_that_are_objects(draw: torch.Generator) -> None:
    net, data = nn.Linear(5, 3), Shuffled(draw)
    more = {"forward": lambda model, batch: model(batch.x.T), "target": lambda batch: batch.y}
    watch = wp.watch(net, nn.CrossEntropyLoss(), data, data, rows=128, **more)
    assert data.order.state == 0
    assert data.library.loaded, "a module is nobody's state"
    assert watch.history.facts["train_rows"] == 128
    expected = F.cross_entropy(torch.cat([net(b.x.T) for b in data.batches]), torch.cat([b.y for b in data.batches]))
    assert watch.epoch()["valid_loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


class GoesOn(Shuffled):
    """The same, whose state lies where it is not found."""

    def __iter__(self, place: list[int] = [0]) -> Any:  # noqa: B006 - on purpose
        place[0] += 1
        return iter(self.batches[place[0] % 8 :])


def test_an_iterator_of_objects_that_goes_on_is_refused(draw: torch.Generator) -> None:
    with pytest.raises(wp.DataError, match="goes on where it was left"):
        wp.watch(
            nn.Linear(5, 3),
            "mse",
            GoesOn(draw),
            GoesOn(draw),
            forward=lambda model, batch: batch.x,
            target=lambda b: b.x,
        )


def test_packed_sequences_are_one_input(draw: torch.Generator) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.out = nn.GRU(2, 4), nn.Linear(4, 3)

        def forward(self, packed: Any) -> Tensor:
            return self.out(self.gru(packed)[1][0])

    data = [(scores(draw, 1 + at % 5, 2), at % 3) for at in range(40)]

    def collate(rows: Any) -> Any:
        packed = nn.utils.rnn.pack_sequence([x for x, _ in rows], enforce_sorted=False)
        return packed, torch.tensor([y for _, y in rows])

    loader, net = torch.utils.data.DataLoader(data, 8, collate_fn=collate), Reads()
    expected = F.cross_entropy(net(collate(data)[0]), collate(data)[1])
    for given in (loader, list(loader)):
        assert wp.watch(net, "cross_entropy", loader, given).epoch()["valid_loss"] == pytest.approx(
            float(expected.detach()), rel=1e-5
        )


class Padded:
    """Images with their mask; moving goes by its own method."""

    def __init__(self, tensors: Tensor) -> None:
        self.tensors, self.moved = tensors, 0

    def to(self, device: Any) -> Padded:
        self.moved += 1
        return self


def test_objects_move_by_their_own_method_and_count_by_their_tensors() -> None:
    from wellposed.core.batches import bytes_in, examples_in
    from wellposed.data.arrays import to_device

    given = Padded(torch.zeros(6, 2))
    moved = to_device((given, [{"boxes": torch.zeros(3, 4)}]), "cpu")[0]
    assert (moved.moved, given.moved) == (1, 0)
    assert (examples_in((given, 1)), bytes_in(given), examples_in(SimpleNamespace(num_graphs=4, x=torch.zeros(9)))) == (
        6,
        48,
        4,
    )


class Returns(nn.Module):
    """Scores among other things, as a recurrent network gives its state."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x), x


IMAGES = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 3))


class Takes(nn.Module):
    """A model that takes a batch whole, by place or by name, and returns its loss; or two heads."""

    def __init__(self, heads: int = 0) -> None:
        super().__init__()
        self.inner, self.heads = nn.Linear(4, 2 * max(1, heads)), heads

    def forward(self, first: Any, second: Any = None) -> Any:
        x = first["image"] if isinstance(first, dict) else first
        found = self.inner(x.float() if second is not None else x)
        return (found.square() + 0.1).chunk(self.heads, -1) if self.heads else found.square().mean()


def one_loss(loss: Any, _: Any) -> Any:
    return loss


def three(risk: Tensor, time: Tensor, seen: Tensor) -> Tensor:
    return ((risk[:, 0] - time) * seen).square().mean()


def strict(outputs: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy(outputs.sigmoid(), target)


def rebuilt(outputs: Tensor, inputs: Tensor) -> Tensor:
    return F.mse_loss(outputs, inputs.clamp(-1, 1))


def alone(outputs: Tensor) -> Tensor:
    return outputs.square().mean()


def fused(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy(first.sigmoid(), target) + second.square().mean()


@pytest.mark.parametrize(
    ("net", "loss", "example", "line"),
    [
        (Takes(), one_loss, lambda: {"image": torch.randn(4), "text": "a cat"}, "forward=lambda model, batch: model(batch)"),
        (Takes(), one_loss, lambda: (torch.arange(4), torch.tensor(2)), "forward=lambda model, batch: model(*batch)"),
        (Takes(), one_loss, lambda: ({"image": torch.randn(4)}, {"image": 1}), "forward=lambda model, batch: model(batch[0])"),
        (Takes(2), nn.GaussianNLLLoss(), lambda: (torch.randn(4), torch.randn(2)), "target: loss(outputs[0], target,"),
        (Takes(2), fused, lambda: (torch.randn(4), torch.rand(2)), "loss=lambda outputs, target: fused(*outputs, target)"),
        (nn.Linear(4, 1), three, lambda: (torch.randn(4), torch.tensor(2.0), torch.tensor(1.0)), "batch: batch[1:], loss="),
        (nn.Linear(4, 2), strict,
         lambda: {"image": torch.randn(4).double(), "mask": torch.ones(2).double()},
         "model(batch['image'].to(torch.float32)), target=lambda batch: batch['mask'].to(torch.float32)"),
        (nn.Linear(4, 3).bfloat16(), F.cross_entropy, lambda: (torch.randn(4), torch.tensor(2)), "batch[0].to(torch.bfloat16))"),
        (nn.Linear(4, 4), rebuilt, lambda: (torch.randn(4), torch.tensor(2)), "model(batch[0]), target=lambda batch: batch[0]"),
        (nn.Linear(4, 4), alone, lambda: (torch.randn(4), torch.tensor(2)), "loss=lambda outputs, target: alone(outputs)"),
    ],
)  # fmt: skip
def test_a_line_is_found_for_losses_of_several_parts_and_models_that_return_one(
    net: nn.Module, loss: Any, example: Any, line: str
) -> None:
    data = DataLoader([example() for _ in range(20)], 5)  # type: ignore[arg-type,var-annotated]
    with pytest.raises(InputError, match="This works on the first batch: ") as refused:
        wp.watch(net, loss, train=data, valid=data)
    said = str(refused.value).split("first batch: ")[1].removesuffix(".")
    assert line in said
    given = {"loss": loss} | eval(f"dict({said})", {**globals(), "loss": loss})
    assert len(wp.watch(net, train=data, valid=data, **given).epoch()) > 3


def test_of_a_graph_the_line_names_its_masks() -> None:
    class Graph:
        x, edge_index, y, train_mask = (
            torch.randn(9, 4),
            torch.zeros(2, 0).long(),
            torch.arange(9) % 3,
            torch.arange(9) < 5,
        )

    for given in (Graph(), [Graph()]):
        with pytest.raises(InputError, match=r"train=\[\(data, data.train_mask\)\], valid="):
            wp.watch(nn.Linear(4, 3), "cross_entropy", train=given, valid=given)


def test_a_batch_without_a_target_is_its_own(draw: torch.Generator) -> None:
    x = scores(draw, 40, 4)
    net = nn.Linear(4, 4)
    for given, forward in (
        (x, lambda model, b: model(b)),
        (DataLoader(TensorDataset(x), 8), lambda model, b: model(b[0])),
    ):
        watch = wp.watch(net, nn.MSELoss(), train=given, valid=given, forward=forward)
        assert watch.epoch()["valid_loss"] == pytest.approx(F.mse_loss(net(x), x).item(), rel=1e-5)
    with pytest.raises(InputError, match="shows no target: say which part it is with target="):
        wp.watch(
            net,
            "cross_entropy",
            train=[{"a": row} for row in x],
            valid=[{"a": row} for row in x],
            forward=lambda m, b: m(b["a"]),
        )


@pytest.mark.parametrize(
    ("net", "example"),
    [
        (Returns(), lambda: (torch.randn(4), torch.tensor(1))),
        (nn.Linear(4, 3), lambda: (torch.randn(4), torch.tensor(1), torch.tensor(7))),
        (nn.Linear(4, 3), lambda: {"features": torch.randn(4), "kind": torch.tensor(1)}),
        (IMAGES, lambda: (torch.randint(255, (3, 8, 8), dtype=torch.uint8), torch.tensor(1))),
        (nn.Bilinear(4, 2, 3), lambda: (torch.randn(4), torch.randn(2), torch.tensor(1), torch.tensor(7))),
    ],
)
def test_what_three_lines_do_not_say_is_asked_for_with_a_line_that_works(net: nn.Module, example: Any) -> None:
    data = [example() for _ in range(20)]
    with pytest.raises(InputError, match="This works on the first batch: forward=") as refused:
        wp.watch(net, "cross_entropy", train=data, valid=data)
    line = str(refused.value).split("first batch: ")[1].removesuffix(".")
    given = eval(f"dict({line})")
    assert len(wp.watch(net, "cross_entropy", train=data, valid=data, **given).epoch()) > 3


def test_entries_that_a_model_does_not_take_are_left_out() -> None:
    data = [{"input": torch.randn(4), "labels": torch.tensor(1), "row": torch.tensor(7)} for _ in range(20)]
    assert wp.watch(nn.Linear(4, 3), "cross_entropy", train=data, valid=data).epoch()["valid_loss"] > 0


# --- constants ------------------------------------------------------------------------------------------------------


def test_a_network_of_zeros_gains_nothing_over_the_constant(draw: torch.Generator) -> None:
    x, y = scores(draw, 3000, 4), torch.randint(3, (3000,), generator=draw)
    net = nn.Linear(4, 3)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    row = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y)).epoch()
    assert row["valid_gain"] <= 0 < row["valid_gain_se"]
    shares = (torch.bincount(y) + 0.5) / 3001.5
    assert wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y)).history.facts["constant_loss"] == pytest.approx(
        float(-shares.log()[y].mean()), abs=0.02
    )


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 4), (30, 3, 2)])
def test_the_constant_of_numbers_is_that_of_each_output(shape: tuple[int, ...], draw: torch.Generator) -> None:
    y, x = scores(draw, *shape), scores(draw, 30, 2)
    size = y[0].numel() if y.ndim > 1 else 1
    net = nn.Sequential(nn.Linear(2, size), nn.Unflatten(1, shape[1:]) if len(shape) > 1 else nn.Flatten(0))
    facts = wp.watch(net, "mse", train=(x, y), valid=(x, y)).history.facts
    assert facts["constant_loss"] == pytest.approx(float((y - y.mean(0)).square().mean()), rel=1e-5)


# --- what watching takes ----------------------------------------------------------------------------------------------


FREE = watching.FREE
"""As it is outside of tests."""


class Timed(nn.Module):
    """A network whose rows take a set time each, by a clock of the test's own."""

    clock = 0.0  # of the class, since what an object holds comes back as it was

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.inner, self.seconds = nn.Linear(4, 3), seconds

    def forward(self, x: Tensor) -> Tensor:
        Timed.clock += self.seconds * len(x)
        return self.inner(x)  # type: ignore[no-any-return]


def timed(
    monkeypatch: pytest.MonkeyPatch, draw: torch.Generator, seconds: float, calls: int, **given: Any
) -> tuple[wp.Watch, float]:
    """A watch that is called after each training of a second; and the share of the time that it took."""
    net = Timed(seconds)
    monkeypatch.setattr("wellposed.training.watch.time", SimpleNamespace(perf_counter=lambda: Timed.clock))
    monkeypatch.setattr("wellposed.training.watch.FREE", FREE)
    x, y = scores(draw, 4000, 4), torch.randint(3, (4000,), generator=draw)
    watch = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y), **given)
    made = Timed.clock
    for _ in range(calls):
        Timed.clock += 1.0
        watch.epoch()
    return watch, (Timed.clock - made - calls) / (Timed.clock - made)


def test_watching_takes_at_most_its_share_of_a_long_loop(
    monkeypatch: pytest.MonkeyPatch, draw: torch.Generator
) -> None:
    watch, took = timed(monkeypatch, draw, 0.01, calls=400)
    assert took < 0.07
    assert 1 < len(watch.history) < 400
    assert watch.rows < 400
    assert [row["epoch"] for row in watch.history] == sorted({row["epoch"] for row in watch.history})
    assert "calls were skipped" in str(watch)
    whole, took = timed(monkeypatch, draw, 0.01, calls=5, share=1.0)
    assert len(whole.history) == 5
    assert took > 0.8


def test_a_loop_of_seconds_is_watched_in_every_epoch(monkeypatch: pytest.MonkeyPatch, draw: torch.Generator) -> None:
    watch, _ = timed(monkeypatch, draw, 1e-5, calls=30)
    assert len(watch.history) == 30
    assert watch.rows == 400


def test_no_batch_is_larger_than_the_loaders(draw: torch.Generator) -> None:
    class Sees(nn.Linear):
        largest = 0

        def forward(self, x: Tensor) -> Tensor:
            Sees.largest = max(Sees.largest, len(x))
            return super().forward(x)

    data = torch.utils.data.TensorDataset(scores(draw, 600, 4), torch.randint(3, (600,), generator=draw))
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    wp.watch(Sees(4, 3), "cross_entropy", train=loader, valid=loader).epoch()
    assert Sees.largest == 16


class TwoSets(torch.optim.SGD):
    """An optimizer with two sets of weights, as a schedule-free one has them: those of evaluation are half the others."""

    def eval(self) -> None:
        for group in self.param_groups:
            group["train_mode"] = False
            for p in group["params"]:
                p.data.mul_(1 / 3)

    def train(self) -> None:
        for group in self.param_groups:
            group["train_mode"] = True
            for p in group["params"]:
                p.data.mul_(3)


def test_the_weights_that_evaluation_uses_are_watched(draw: torch.Generator) -> None:
    x, y = scores(draw, 200, 4), torch.randint(3, (200,), generator=draw)
    net = nn.Linear(4, 3)
    optimizer = TwoSets(net.parameters(), lr=0.1)
    watch = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y), optimizer=optimizer, rows=200)
    before = [p.detach().clone() for p in net.parameters()]
    seen = watch.epoch()["valid_loss"]
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    assert seen == pytest.approx(float(F.cross_entropy(net(x) / 3, y).detach()), rel=1e-5)


class Prepared(torch.optim.Optimizer):
    """An optimizer around another, as a trainer makes it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, optimizer.defaults


def test_terms_behind_a_trainers_wrapper_are_seen_and_those_after_it_refused(draw: torch.Generator) -> None:
    x, y = scores(draw, 200, 4), torch.randint(3, (200,), generator=draw)
    net = nn.Linear(4, 3)
    term = wp.L1(1e-2).on(wp.weights)
    prepared = Prepared(wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [term]))
    row = wp.watch(net, "cross_entropy", train=(x, y), valid=(x, y), optimizer=prepared).epoch()
    assert row["penalty"] == pytest.approx(0.01 * float(net.weight.detach().abs().sum()), rel=1e-5)
    with pytest.raises(wp.CompositionError, match="Regularize the bare optimizer first"):
        wp.regularize(Prepared(torch.optim.SGD(net.parameters(), lr=0.1)), net, [term])
