"""What public training loops have beside plain batches: streams, samplers, objects, second networks, states, checkpoints."""

from __future__ import annotations

import array
import collections
import contextlib
import copy
import dataclasses
import functools
import io
import itertools
import math
import pickle
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset

import wellposed as wp
from wellposed.core.errors import CompositionError, DataError, FormatError, InputError, described
from wellposed.core.preserve import LONG, reach_kept, reached
from wellposed.core.selectors import leaves
from wellposed.losses.per_example import Loss
from wellposed.optim.kernels import soft_threshold_
from wellposed.training import inspection
from wellposed.training.sides import drawn_rows

ROWS = 24
X, Y = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0)), torch.arange(ROWS) % 3
PAIRS = TensorDataset(X, Y)


class Endless(IterableDataset[Any]):
    """Rows without end, the same from the start each time; or going on where they were left."""

    def __init__(self, goes_on: bool = False) -> None:
        self.goes_on, self.at = goes_on, itertools.count()

    def __iter__(self) -> Iterator[Any]:
        return ((X[i % ROWS], Y[i % ROWS]) for i in (self.at if self.goes_on else itertools.count()))


class Through:
    """A loader of somebody's own, which can only be gone through."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def __iter__(self) -> Iterator[Any]:
        start = 6 * self.random.randrange(2)
        return iter([(X[i : i + 6], Y[i : i + 6]) for i in range(start, ROWS, 6)])


class Shuffles(Sampler[Any]):
    """It shuffles a list of its own in place, counts, and has its generator."""

    def __init__(self, batches: bool = False) -> None:
        self.rows, self.passes, self.batches = list(range(0, ROWS, 2)), [0], batches
        self.source = torch.Generator()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        random.shuffle(self.rows)
        self.passes[0] += 1
        torch.rand(1, generator=self.source)
        return iter([self.rows[i : i + 4] for i in range(0, len(self.rows), 4)] if self.batches else self.rows)


STREAMS: dict[str, Callable[[], Any]] = {
    "iterable Dataset": Endless,
    "loader over it": lambda: DataLoader(Endless(), 6),
    "loader of whole batches": lambda: DataLoader([(X[:9], Y[:9]), (X[9:], Y[9:])], batch_size=None),
    "a loader of somebody's own": Through,
    "sampler": lambda: DataLoader(PAIRS, 6, sampler=Shuffles()),
    "sampler of batches": lambda: DataLoader(PAIRS, batch_sampler=Shuffles(batches=True)),
}


def drawn(given: Any) -> list[Any]:
    """What the next pass of a loop would see."""
    random.seed(1)
    torch.manual_seed(1)
    return [t.tolist() for part in itertools.islice(given, 4) for t in part]


@pytest.mark.parametrize("name", STREAMS)
def test_what_a_loop_draws_from_is_watched_and_left_as_it_was(name: str) -> None:
    given, twin = STREAMS[name](), STREAMS[name]()
    net = nn.Linear(4, 3)
    watch = wp.watch(net, "cross_entropy", train=given, valid=given)
    shown = watch.epoch()["valid_loss"]
    with torch.no_grad():
        parts = [F.cross_entropy(net(x), y, reduction="none") for x, y in watch.probes["valid"]()]
    assert shown == pytest.approx(float(torch.cat(parts).mean()), rel=1e-5)
    seen = {tuple(row) for x, _ in watch.probes["train"]() for row in x.tolist()}
    assert seen <= {tuple(row) for row in (X[::2] if "sampler" in name else X).tolist()}
    assert drawn(given) == drawn(twin)


class Graph(SimpleNamespace):
    """A batch that is an object."""


class Nodes(nn.Module):
    """The mean of what the nodes of each graph say."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor, of: Tensor) -> Tensor:
        return torch.zeros(int(of.max()) + 1, 3).index_add(0, of, self.inner(x))


class Reads(nn.Module):
    """Sentences with time first: the scores of each place, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn = nn.Embedding(5, 4), nn.RNN(4, 5)

    def forward(self, words: Tensor, state: Tensor) -> Tensor:
        return self.rnn(self.table(words), state)[0].flatten(0, 1)  # type: ignore[no-any-return]


def graphs() -> Iterator[Any]:
    for size in itertools.cycle((2, 3)):
        of = torch.repeat_interleave(torch.arange(size), 2)
        yield Graph(x=torch.randn(len(of), 4), of=of, y=torch.arange(size) % 3)


def sentences() -> Iterator[Any]:
    while True:
        words = torch.randint(5, (7, 3))
        yield words, words.flip(0).reshape(-1)


def packed() -> Iterator[Any]:
    while True:
        rows = [torch.randn(n, 4) for n in (3, 2, 1)]
        yield nn.utils.rnn.pack_sequence(rows), torch.tensor([0, 1, 2])


def lists() -> Iterator[Any]:
    while True:
        yield [torch.randn(1, n, 4) for n in (2, 3)], [{"labels": torch.tensor([n])} for n in (0, 2)]


BATCHES: dict[str, tuple[Callable[[], Iterator[Any]], Callable[[], nn.Module], dict[str, Any]]] = {
    "pairs": (lambda: iter(DataLoader(Endless(), 6)), lambda: nn.Linear(4, 3), {}),
    "objects": (graphs, Nodes, {"forward": lambda model, b: model(b.x, b.of), "target": lambda b: b.y}),
    "time first": (sentences, Reads, {"forward": lambda model, b: model(b[0], torch.zeros(1, b[0].shape[1], 5))}),
    "a state of one batch": (sentences, Reads, {"forward": lambda model, b: model(b[0], torch.zeros(1, 3, 5))}),
    "packed": (packed, lambda: nn.RNN(4, 3), {"forward": lambda model, b: model(b[0])[1][0]}),
    "lists of images": (
        lists, lambda: nn.Linear(4, 3),
        {
            "forward": lambda model, b: torch.stack([model(x).mean((0, 1)) for x in b[0]]),
            "target": lambda b: torch.cat([one["labels"] for one in b[1]]),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BATCHES)
def test_of_an_iterator_the_line_that_is_said_works_for_any_kind_of_batch(name: str) -> None:
    make, network, more = BATCHES[name]
    it, net = make(), network()
    with pytest.raises(DataError, match="used up by watching") as refused:
        wp.watch(net, "cross_entropy", train=it, valid=it, **more)
    line = str(refused.value).split("import itertools; train=")[1].rstrip(".")
    batches = eval(line, {"itertools": itertools, "it": it})
    assert len(batches) == 8
    shown = wp.watch(net, F.cross_entropy, train=batches, valid=batches, **more).epoch()["valid_loss"]
    forward, target = more.get("forward", lambda model, b: model(b[0])), more.get("target", lambda b: b[1])
    with torch.no_grad():
        parts = [F.cross_entropy(forward(net, b), target(b), reduction="none") for b in batches]
    assert shown == pytest.approx(float(torch.cat(parts).mean()), rel=1e-5)


def test_a_stream_that_goes_on_where_it_was_left_is_refused() -> None:
    with pytest.raises(DataError, match=r"goes on where it was left.*islice"):
        wp.watch(nn.Linear(4, 3), "cross_entropy", train=PAIRS, valid=DataLoader(Endless(goes_on=True), 6))


def test_what_forward_or_the_loss_do_not_take_is_said_when_the_watch_is_made() -> None:
    with pytest.raises(InputError, match="forward= raised"):
        wp.watch(nn.Linear(4, 3), "cross_entropy", train=PAIRS, valid=PAIRS, forward=lambda model, batch: model(batch))
    with pytest.raises(wp.ProblemError, match="does not fit the model"):
        wp.watch(nn.Linear(4, 3), "cross_entropy", train=PAIRS, valid=PAIRS, forward=lambda model, b: model(b[0])[:5])


LAYOUTS = [torch.sparse_coo, torch.sparse_csr]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_batch_may_hold_a_sparse_matrix(layout: torch.layout) -> None:
    draw = torch.Generator().manual_seed(0)
    edges, net = (torch.rand(ROWS, ROWS, generator=draw) < 0.3).float(), nn.Linear(4, 3)
    batch = (edges.to_sparse(layout=layout), X, Y)

    def forward(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0] @ batch[1])  # type: ignore[no-any-return]

    class Stream:
        def __iter__(self) -> Iterator[Any]:
            return iter([batch, batch])

    expected = F.cross_entropy(net(edges @ X), Y).item()
    for given in ([batch], Stream()):
        assert wp.watch(net, F.cross_entropy, given, given, forward=forward).epoch()["valid_loss"] == pytest.approx(
            expected
        )
    rebuilt = wp.watch(
        net, lambda o, t: ((o @ o.T - t.to_dense()) ** 2).mean(), [batch], [batch],
        forward=forward, target=lambda batch: batch[0],
    )  # fmt: skip
    rebuilt.epoch()
    rebuilt.epoch()
    assert not rebuilt.history.facts.get("moving_target")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_rows_of_a_sparse_batch_stand_alone(layout: torch.layout) -> None:
    draw = torch.Generator().manual_seed(0)
    words, net = (torch.rand(200, 9, generator=draw) < 0.2).float(), nn.Linear(9, 3)
    y = torch.arange(200) % 3
    given = [(words.to_sparse(layout=layout), y)]
    forward = lambda model, batch: batch[0] @ model.weight.T + model.bias  # noqa: E731
    watch = wp.watch(net, F.cross_entropy, given, given, forward=forward, rows=200)
    assert watch.epoch()["valid_loss"] == pytest.approx(F.cross_entropy(net(words), y).item())
    assert watch.epoch()["valid_loss_se"] > 0


def test_an_object_that_holds_an_optimizer_is_answered_with_where_it_is() -> None:
    net = nn.Linear(4, 3)
    clipping: Any = SimpleNamespace(inner=torch.optim.SGD(net.parameters(), lr=0.1))
    for call in (
        lambda: wp.watch(net, F.cross_entropy, PAIRS, PAIRS, optimizer=clipping),
        lambda: wp.regularize(clipping, net),
    ):
        with pytest.raises(InputError, match="It holds one: its attribute 'inner'"):
            call()


def test_nested_inputs_are_asked_for_with_a_line_that_works() -> None:
    data = [((torch.randn(4), torch.randn(2)), torch.tensor(1)) for _ in range(20)]
    with pytest.raises(
        InputError, match=r"works on the first batch: forward=lambda model, batch: model\(\*batch\[0\]\)"
    ):
        wp.watch(nn.Bilinear(4, 2, 3), "cross_entropy", train=data, valid=data)


def test_of_a_batch_with_weights_and_names_the_line_for_the_loss_is_found() -> None:
    def collate(rows: list[Any]) -> Any:
        x, y, w, name = zip(*rows, strict=True)
        return torch.stack(x), torch.stack(y), torch.stack(w), {"name": list(name)}

    data = [(X[i], X[i], torch.rand(()), str(i)) for i in range(ROWS)]
    given = DataLoader(data, 6, collate_fn=collate)  # type: ignore[arg-type]

    def weighed(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return ((outputs - target).square().mean(1) * weight).mean()

    line = "target=lambda batch: batch[1:3], loss=lambda outputs, target: weighed(outputs, *target)"
    for more in ({}, {"forward": lambda model, batch: model(batch[0])}):
        with pytest.raises(InputError, match=re.escape(line)):
            wp.watch(nn.Linear(4, 4), weighed, given, given, **more)


def test_a_nested_input_may_hold_a_list() -> None:
    def collate(rows: list[Any]) -> Any:
        return (
            (torch.cat(rows), list(torch.arange(2 * len(rows)).split(2))),
            torch.zeros(len(rows), 4),
            ["name"] * len(rows),
        )

    class Pools(nn.Linear):
        def forward(self, x: Tensor, of: list[Tensor]) -> Tensor:  # type: ignore[override]
            return torch.stack([super(Pools, self).forward(x[rows]).mean(0) for rows in of])

    given = DataLoader(list(X.view(12, 2, 4)), 4, collate_fn=collate)  # type: ignore[arg-type]
    line = "forward=lambda model, batch: model(*batch[0]), target=lambda batch: batch[1]"
    with pytest.raises(InputError, match=re.escape(line)):
        wp.watch(Pools(4, 4), "squared_error", given, given)


def contrasted(features: Tensor, _: Any) -> Tensor:
    """Each row against all others of its batch."""
    features = F.normalize(features, dim=1)
    return F.cross_entropy(features @ features.T / 0.1, torch.arange(len(features)))


class Episodes(Sampler[list[int]]):
    """So many rows of two classes, drawn anew for each batch."""

    def __init__(self) -> None:
        self.by = [torch.nonzero(label == Y)[:, 0] for label in range(3)]

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(30):
            chosen = torch.randperm(3)[:2].tolist()
            yield [int(row) for label in chosen for row in self.by[label][torch.randperm(8)[:3]]]

    def __len__(self) -> int:
        return 30


def test_a_loss_that_needs_its_batch_is_seen_in_batches_of_training() -> None:
    net, other = nn.Linear(4, 3), torch.randn(40, 4)
    train = DataLoader(PAIRS, 10, shuffle=True)
    valid = DataLoader(TensorDataset(other, torch.zeros(40)), 40)
    watch = wp.watch(net, contrasted, train=train, valid=valid)
    assert watch.rows == 20
    assert [len(x) for (x, _), _ in watch.batches("valid")] == [10, 10]
    sizes: queue.SimpleQueue[int] = queue.SimpleQueue()  # a list would come back as it was

    def forward(model: nn.Module, batch: Any) -> Tensor:
        sizes.put(len(batch[0]))
        return contrasted(model(batch[0]), None)

    episodes = DataLoader(PAIRS, batch_sampler=Episodes())
    before = torch.random.get_rng_state()
    watch = wp.watch(net, lambda loss, _: loss, train=episodes, valid=episodes, forward=forward)
    watch.epoch()
    assert torch.equal(before, torch.random.get_rng_state())
    assert {sizes.get() for _ in range(sizes.qsize())} == {6}
    assert all(len(y.unique()) == 2 for (_, y), _ in watch.batches("train"))
    scored = wp.watch(net, F.cross_entropy, train=episodes, valid=episodes)
    assert max(len(x) for (x, _), _ in scored.batches("train")) == 6, "no batch is larger than the loop's"


def test_a_list_of_batches_that_examples_would_fit_is_one_of_batches() -> None:
    """Time comes first, and numbers of several axes go through whatever axes are put before them."""
    net = nn.Linear(2, 2)
    batches = [(torch.randn(5, 2), torch.linspace(0, 1, 4), torch.randn(4, 5, 2)) for _ in range(3)]

    def rolled(model: nn.Module, batch: Any) -> Tensor:
        y, steps, _ = batch
        found = [y]
        for before, after in itertools.pairwise(steps):
            found.append(found[-1] + (after - before) * model(found[-1]))
        return torch.stack(found)

    def error(found: Tensor, wanted: Tensor) -> Tensor:
        return (found - wanted).abs().mean()

    shown = wp.watch(net, error, batches, batches[:1], forward=rolled).epoch()["valid_loss"]
    assert shown == pytest.approx(error(rolled(net, batches[0]), batches[0][-1]).item(), rel=1e-5)


def test_a_batch_that_forward_writes_into_stays_as_it_was() -> None:
    def filled(model: nn.Module, batch: Any) -> Any:
        x, _ = batch
        x[x == 0] = float(model.weight.sum())
        return model(x)

    net, holes = nn.Linear(4, 3), X * (X > 0)
    batches = [(holes.clone(), Y)]
    watch = wp.watch(net, "cross_entropy", batches, batches, forward=filled)
    for _ in range(2):
        wanted = float(F.cross_entropy(filled(net, (holes.clone(), Y)), Y))
        assert watch.epoch()["valid_loss"] == pytest.approx(wanted, rel=1e-5)
        assert torch.equal(batches[0][0], holes)
        nn.init.normal_(net.weight)


class Last(nn.Module):
    """A language model that gives all places where targets are given, and the last one where they are not."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 5)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Tensor:
        return self.table(idx if targets is not None else idx[:, -1:])  # type: ignore[no-any-return]


def test_a_model_that_needs_its_targets_gets_them() -> None:
    idx = torch.randint(5, (ROWS, 7))
    net = Last()
    batches = [(idx[:12], idx[12:]), (idx[12:], idx[:12])]
    shown = wp.watch(net, "cross_entropy", train=batches, valid=batches).epoch()["valid_loss"]
    with torch.no_grad():
        wanted = sum(float(F.cross_entropy(net(x, y).flatten(0, 1), y.flatten())) for x, y in batches) / 2
    assert shown == pytest.approx(wanted, rel=1e-5)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_a_sum_over_rows_is_known_as_one_for_outputs_of_any_shape() -> None:
    pair = (X, {"scale": X.square()})
    summed = Loss(lambda f, y: (f[0] - y).square().sum() + f[1]["scale"].sum())
    wanted = (X - X.roll(1, 0)).square().sum(1) + X.square().sum(1)
    torch.testing.assert_close(summed.per_example(pair, X.roll(1, 0)).total, wanted)
    torch.testing.assert_close(summed.mean(pair, X.roll(1, 0)), wanted.mean())


@pytest.mark.parametrize("boxes", [3, 4, 9])
def test_targets_may_be_as_many_as_examples_by_chance(boxes: int) -> None:
    """Boxes of all images in one list, each with its image's number: what one image alone has is no batch."""
    number = torch.randint(4, (boxes,), generator=torch.Generator().manual_seed(boxes))
    number[-1] = 3

    def of_boxes(outputs: list[Tensor], target: Tensor) -> Tensor:
        return (outputs[0][target.long()] ** 2).mean()

    outputs = [torch.arange(4.0)[:, None]]
    part = Loss(of_boxes).per_example(outputs, number.float()).of_examples(4)
    assert part.count.tolist() == [4.0]  # a batch counts by its images
    assert float(part.mean()) == pytest.approx(float(of_boxes(outputs, number)))


def test_of_masked_places_the_loss_is_the_batchs_own_mean() -> None:
    """In a mapping of outputs nothing is known of the mask; rows still have their own parts, and so a standard error."""
    scores = torch.randn(6, 3, 200, generator=torch.Generator().manual_seed(0))
    target = torch.arange(200).remainder(3).repeat(6, 1)
    for row in range(6):
        target[row, 200 - row :] = 255

    def both_heads(outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        return sum(F.cross_entropy(x, target, ignore_index=255) for x in outputs.values())  # type: ignore[return-value]

    outputs = {"out": scores, "aux": scores.flip(0)}
    part = Loss(both_heads).per_example(outputs, target)
    assert len(part.total) == 6
    assert float(part.mean()) == pytest.approx(float(both_heads(outputs, target)), rel=1e-6)


def test_scores_of_all_places_may_be_flat() -> None:
    scores, labels = torch.randn(6, 7, 5), torch.randint(5, (6, 7))
    for given in ("cross_entropy", nn.CrossEntropyLoss()):
        flat, whole = (Loss(given).per_example(f, labels) for f in (scores.flatten(0, 1), scores))
        torch.testing.assert_close(flat.total, whole.total)
        torch.testing.assert_close(flat.count, whole.count)


# --- what a probe reaches ------------------------------------------------------------------------------------------------


OTHER: Any = None


class Held(nn.Module):
    """A network that hides another one from its parameters."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.inner, self.hidden = nn.Linear(4, 3), [other]

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.hidden[0](x))  # type: ignore[no-any-return]


def ways(other: nn.Module) -> dict[str, Callable[[nn.Module, Any], Tensor]]:
    """Every way to have a second network inside of forward=."""
    global OTHER
    OTHER = other

    class Trainer:
        def __init__(self) -> None:
            self.nets = {"other": other}

        def forward(self, model: nn.Module, batch: Any) -> Tensor:
            return model(self.nets["other"](batch[0]))  # type: ignore[no-any-return]

    return {
        "closure": lambda model, b: model(other(b[0])),
        "global": lambda model, b: model(OTHER(b[0])),
        "inner function": lambda model, b: model((lambda x: OTHER(x))(b[0])),
        "method": Trainer().forward,
        "partial": functools.partial(lambda net, model, b: model(net(b[0])), other),
        "default": lambda model, b, net=other: model(net(b[0])),
        "turned off": lambda model, b: model(other.eval()(b[0])),
        "turned on": lambda model, b: model.train()(other.train()(b[0])),
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", [*ways(nn.Identity()), "hidden in the model"])
def test_a_second_network_is_left_as_it_was_and_seen_in_evaluation_mode(way: str, training: bool) -> None:
    other = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train(training)
    net: nn.Module = Held(other) if way == "hidden in the model" else nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before = copy.deepcopy([other.state_dict(), net.state_dict()])
    more = {} if way == "hidden in the model" else {"forward": ways(other)[way]}
    watch = wp.watch(net, "cross_entropy", train=PAIRS, valid=PAIRS, **more)
    shown = watch.epoch()["valid_loss"]
    for kept, now in zip(before, [other.state_dict(), net.state_dict()], strict=True):
        assert all(torch.equal(kept[key], now[key]) for key in kept)
    assert other.training == other[1].training == training
    assert net.training
    if way != "turned on":
        body = net.inner if isinstance(net, Held) else net.eval()
        assert shown == pytest.approx(float(F.cross_entropy(body(other.eval()(X)), Y).detach()), rel=1e-5)


@pytest.mark.parametrize("make", [lambda: torch.Generator().manual_seed(1), lambda: np.random.default_rng(1),
                                  lambda: np.random.RandomState(1), lambda: random.Random(1)])  # fmt: skip
def test_generators_of_the_users_own_are_left_as_they_were(make: Callable[[], Any]) -> None:
    def draw(source: Any) -> float:
        return float(torch.rand(1, generator=source)) if isinstance(source, torch.Generator) else float(source.random())

    source, twin = make(), make()
    if isinstance(source, np.random.RandomState):
        draw = lambda source: float(source.random_sample())  # noqa: E731
    forward = lambda model, b: model(b[0]) + draw(source)  # noqa: E731
    wp.watch(nn.Linear(4, 3), "cross_entropy", train=PAIRS, valid=PAIRS, forward=forward).epoch()
    assert draw(source) == draw(twin)


class Remembers(nn.Module):
    """A recurrent network that keeps its state between batches, and makes it at the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.RNNCell(4, 3), nn.Linear(3, 3)
        self.state: Any = None

    def forward(self, x: Tensor) -> Tensor:
        before = self.state if self.state is not None and len(self.state) == len(x) else None
        self.state = self.rnn(x, before).detach()
        return self.out(self.rnn(x, before))  # type: ignore[no-any-return]


def test_a_state_that_a_model_keeps_is_left_as_it_was() -> None:
    net = Remembers()
    net(X[:5])
    state = net.state
    wp.watch(net, "cross_entropy", train=PAIRS, valid=PAIRS).epoch()
    assert net.state is state


CALLS = 0


@dataclasses.dataclass(slots=True)
class Slotted:
    total: int = 0


def changes(kind: str, net: nn.Module) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What code of a person changes beside its network, and a look at it."""
    meter, sums = SimpleNamespace(total=0.0, seen=[]), collections.defaultdict(float)
    parts, recent, centre, calls = {"loss": [1.0]}, collections.deque([0.0], maxlen=3), torch.zeros(2), 0
    confusion, classes, slotted, leaf = np.zeros(2), {0}, Slotted(), torch.zeros(2, requires_grad=True)
    marks, rates = bytearray(2), array.array("d", [0.0])
    order, sizes, by_number = collections.OrderedDict(a=1, b=2), torch.zeros(2), {i: i for i in range(LONG + 1)}

    def count() -> None:
        nonlocal calls
        calls += 1

    def count_in_module() -> None:
        global CALLS
        CALLS += 1

    def count_on_itself() -> None:
        count_on_itself.calls += 1  # type: ignore[attr-defined]

    count_on_itself.calls = 0  # type: ignore[attr-defined]

    def remember(seen: list[int] = []) -> None:  # noqa: B006
        seen.append(1)

    def backward_to_leaf() -> None:
        with torch.enable_grad():
            leaf.sum().backward()

    def backward() -> None:
        with torch.enable_grad():
            net(X).sum().backward()

    def shown(tensor: Tensor | None) -> list[float]:
        return [] if tensor is None else tensor.flatten().tolist()

    found: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "a sum in a dict": (lambda: sums.update(loss=sums["loss"] + 1), lambda: dict(sums)),
        "an object's number": (lambda: setattr(meter, "total", meter.total + 1), lambda: meter.total),
        "an object's list": (lambda: meter.seen.append(1), lambda: list(meter.seen)),
        "a list in a dict": (lambda: parts["loss"].append(2.0), lambda: list(parts["loss"])),
        "the last few": (lambda: recent.append(1.0), lambda: list(recent)),
        "a tensor": (lambda: centre.add_(1), lambda: shown(centre)),
        "a name of the function around": (count, lambda: calls),
        "a name of the module": (count_in_module, lambda: CALLS),
        "an array": (lambda: confusion.__iadd__(1), confusion.tolist),
        "bytes": (lambda: marks.append(1), lambda: bytes(marks)),
        "an array of plain Python": (lambda: rates.append(1.0), rates.tolist),
        "a set": (lambda: classes.add(len(classes)), lambda: set(classes)),
        "a slot": (lambda: setattr(slotted, "total", slotted.total + 1), lambda: slotted.total),
        "an order": (lambda: order.move_to_end(next(iter(order))), lambda: list(order)),
        "a size": (lambda: sizes.resize_(len(sizes) + 1), lambda: len(sizes)),
        "a long dict": (lambda: by_number.update({len(by_number): 0}), lambda: len(by_number)),
        "a name of the function itself": (count_on_itself, lambda: count_on_itself.calls),  # type: ignore[attr-defined]
        "a default": (remember, lambda: str(remember.__defaults__)),
        "a partial's argument": (functools.partial(remember, meter.seen), lambda: list(meter.seen)),
        "gradients of a tensor": (backward_to_leaf, lambda: shown(leaf.grad)),
        "gradients that are cleared": (net.zero_grad, lambda: shown(next(net.parameters()).grad)),
        "gradients that are added to": (backward, lambda: shown(next(net.parameters()).grad)),
    }
    return found[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "a sum in a dict", "an object's number", "an object's list", "a list in a dict", "the last few", "a tensor",
        "a name of the function around", "a name of the module", "an array", "bytes",
        "an array of plain Python", "a set", "a slot", "an order", "a size",
        "a long dict", "a name of the function itself", "a default", "a partial's argument", "gradients of a tensor",
        "gradients that are cleared",
        "gradients that are added to",
    ],
)  # fmt: skip
def test_what_code_changes_around_it_comes_back(kind: str) -> None:
    net = nn.Linear(4, 3)
    net(X).sum().backward()
    change, look = changes(kind, net)

    def forward(model: nn.Module, batch: Any) -> Any:
        change()
        return model(batch[0])

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        change()
        return F.cross_entropy(outputs, target)

    before = look()
    watch = wp.watch(net, loss, PAIRS, PAIRS, forward=forward)
    watch.epoch()
    assert look() == before
    change()
    assert look() != before


class Waiting:
    """What a thread of the loop's own fills."""

    def __init__(self) -> None:
        self.lock, self.ready = threading.Lock(), collections.deque[int]()


def test_what_other_threads_and_processes_work_on_is_left_alone() -> None:
    waiting: queue.Queue[int] = queue.Queue()
    shared, mine, net = torch.zeros(1).share_memory_(), Waiting(), nn.Linear(1, 1).share_memory()
    nn.init.zeros_(net.weight)
    with reach_kept(lambda: (waiting, shared, mine, net)):
        waiting.put(1)
        shared.add_(1)
        nn.init.ones_(net.weight)
        mine.ready.append(1)
    assert (waiting.qsize(), shared.item(), net.weight.item(), len(mine.ready)) == (1, 1, 1, 1)


class Working(threading.Thread):
    """A thread that has a network of its own, as players that run side by side do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.BatchNorm1d(4)

    def forward(self) -> None:
        self.net(X)


def test_networks_of_a_thread_come_back() -> None:
    working = Working()
    with reach_kept(working.forward):
        working.forward()
    assert working.net.num_batches_tracked == 0


class Closed(collections.OrderedDict[str, int]):
    """A dict that is not to be changed, as the outputs of some models."""

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError


class Averages(nn.Module):
    """A forward that moves a network inside of it, as contrastive learning with a queue does."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for mine, its in zip(self.query.parameters(), self.key.parameters(), strict=True):
                its.mul_(0.9).add_(mine, alpha=0.1)
        return self.query(x) + self.key(x)  # type: ignore[no-any-return]


class Shortens(nn.Module):
    """A layer whose weights are put on a ball before each use: their numbers, memory, precision or the parameter itself are new."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        shorter = torch.renorm(self.layer.weight.detach(), 2, 0, 0.1)
        if self.way == "numbers":
            self.layer.weight.data.copy_(shorter)
        elif self.way == "memory":
            self.layer.weight.data = shorter
        elif self.way == "precision":
            return self.layer.half()(x.half()).float()  # type: ignore[no-any-return]
        else:
            self.layer.weight = nn.Parameter(shorter)
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    "make", [Averages, *(functools.partial(Shortens, way) for way in ("numbers", "memory", "precision", "parameter"))]
)
def test_weights_that_a_forward_moves_come_back(make: Callable[[], nn.Module], inside: bool) -> None:
    net = make()
    before, given = copy.deepcopy(net.state_dict()), list(net.parameters())
    watched, forward = (net, None) if inside else (nn.Linear(3, 3), lambda model, batch: model(net(batch[0])))
    watch = wp.watch(watched, "cross_entropy", PAIRS, PAIRS, forward=forward)
    watch.epoch()
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())
    assert all(one is other and one.dtype == torch.float32 for one, other in zip(net.parameters(), given, strict=True))


class Shard(nn.Parameter):
    """What a process holds of a weight."""


def test_a_weight_that_was_gathered_and_is_sharded_meanwhile_is_left_to_its_library() -> None:
    net, part = nn.Linear(2, 1, bias=False), Shard(torch.zeros(1, 1))
    with reach_kept(net):
        net._parameters["weight"] = part  # and the memory of the gathered one is freed
    assert net.weight is part


@pytest.mark.parametrize("most", [16, 15])
def test_weights_come_back_up_to_a_number_of_bytes_tied_ones_once(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    net = nn.ModuleList([nn.Linear(2, 1, bias=False, dtype=torch.float64), nn.Linear(2, 1, bias=False)])
    net[1].weight = net[0].weight
    monkeypatch.setattr("wellposed.core.preserve.MOST_WEIGHTS", most)
    nn.init.zeros_(net[0].weight)
    with reach_kept(net):
        nn.init.ones_(net[0].weight)
    assert net[1].weight.sum() == (0 if most == 16 else 2)


@pytest.mark.parametrize(
    "way", ["frozen copy", "AveragedModel", "frozen now and then", "frozen at first", "its gradients", "its optimizer"]
)
def test_an_average_that_no_gradient_moves_is_told_apart_from_one_that_is_undertrained(way: str) -> None:
    torch.manual_seed(0)
    x, other = torch.randn(256, 4), torch.randn(256, 4)
    student, aim = nn.Linear(4, 1), x @ torch.ones(4, 1)
    wrap = torch.optim.swa_utils.AveragedModel(student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    teacher = wrap if way == "AveragedModel" else copy.deepcopy(student).requires_grad_(False)
    own = torch.optim.SGD(teacher.parameters(), lr=0.01) if way == "its optimizer" else None
    watch = wp.watch(teacher, "squared_error", (x, aim), (other, other @ torch.ones(4, 1)), optimizer=own)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    for epoch in range(12):
        F.mse_loss(student(x), aim).backward()
        optimizer.step()
        optimizer.zero_grad()
        wrap.update_parameters(student)
        if way != "AveragedModel":
            teacher.load_state_dict(wrap.module.state_dict())
            teacher.requires_grad_(way == ("frozen at first" if epoch % 2 else "frozen now and then"))
        if way == "its gradients":  # of a step before the one in which a player is frozen
            for weight in teacher.parameters():
                weight.grad = torch.ones_like(weight)
        watch.epoch()
    said = {one.name: one for one in wp.diagnose(watch)}
    found, average = said["undertrained"], way in ("frozen copy", "AveragedModel")
    assert ("rate_too_low" in said) != average
    assert ("No gradient moves this network" in found.says) == average
    assert ("wp.watch(trained" in found.code) == average


def test_inputs_that_require_gradients_do_so_in_the_watch() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    x = X.clone().requires_grad_()

    def forward(model: nn.Module, batch: Any) -> Tensor:
        return torch.autograd.grad(model(batch[0]).sum(), batch[0], create_graph=True)[0]

    row = wp.watch(net, nn.MSELoss(), (x, X), (x, X), forward=forward, rows=ROWS).epoch()
    assert row["valid_loss"] == pytest.approx(F.mse_loss(forward(net, (x,)), X).item(), rel=1e-5)
    assert x.grad is None


@pytest.mark.parametrize(("batch", "passes"), [(2, 8), (32, 2)])
def test_the_first_look_takes_few_batches(batch: int, passes: int) -> None:
    seen: list[int] = []

    class Counts(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x) if self.training else 0)
            return super().forward(x)

    data = TensorDataset(torch.randn(128, 4), torch.arange(128) % 3)
    wp.watch(Counts(4, 3), "cross_entropy", DataLoader(data, batch), DataLoader(data, batch))
    assert [size for size in seen if size] == [batch] * passes


def test_what_a_look_will_take_is_told_by_the_rows_that_were_seen() -> None:
    class Slow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.02)
            return super().forward(x)

    data = TensorDataset(torch.randn(128, 4), torch.arange(128) % 3)
    watch = wp.watch(Slow(4, 3), "cross_entropy", DataLoader(data, 2), DataLoader(data, 2))
    assert watch._next > 2 * 64 * 0.02 / 3


def test_copies_of_weights_are_no_part_of_what_a_row_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def slow(*_: nn.Module) -> Iterator[None]:
        time.sleep(0.3)
        yield

    monkeypatch.setattr("wellposed.core.preserve._weights_kept", slow)
    data = torch.randn(2048, 4), torch.arange(2048) % 3
    assert 0.6 < wp.watch(nn.Linear(4, 3), "cross_entropy", data, data, rows=2048)._next < 4


@pytest.mark.parametrize("sums", [True, False])
def test_a_loss_of_one_number_in_an_axis_is_a_mean_or_a_sum(sums: bool) -> None:
    net = nn.Linear(4, 4)

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        rows = (outputs - target).abs().mean(1)
        return rows.sum(0, keepdim=True) if sums else rows.mean(0, keepdim=True)

    row = wp.watch(net, loss, (X, X), (X, X), rows=ROWS).epoch()
    assert row["valid_loss"] == pytest.approx((net(X) - X).abs().mean().item(), rel=1e-5)
    assert row["valid_loss_se"] > 0


def test_a_network_that_is_a_function_is_answered_with_lines_that_work() -> None:
    given = {"w": torch.randn(3, 4).requires_grad_()}

    def net(x: Tensor, params: Any) -> Tensor:
        return F.linear(x, params["w"])

    for call in (
        lambda: wp.watch(net, "cross_entropy", PAIRS, PAIRS),
        lambda: wp.audit(torch.optim.SGD([X], 0.1), given),
    ):
        with pytest.raises(InputError, match=r"write params = nn\.ParameterDict\(params\)"):
            call()
    for other in (nn.Linear, {"net": nn.Linear(4, 3)}):
        with pytest.raises(InputError, match=r"to be an nn\.Module") as refused:
            wp.watch(other, "cross_entropy", PAIRS, PAIRS)  # type: ignore[arg-type]
        assert "ParameterDict" not in str(refused.value)
    params = nn.ParameterDict(given)
    optimizer = wp.regularize(torch.optim.SGD(params.parameters(), lr=0.1), params, wp.L1(1e3).on(wp.named("w")))
    watch = wp.watch(
        params, "cross_entropy", PAIRS, PAIRS, optimizer=optimizer, forward=lambda params, batch: net(batch[0], params)
    )
    assert watch.epoch()["valid_loss"] == pytest.approx(F.cross_entropy(net(X, params), Y).item(), rel=1e-5)
    F.cross_entropy(net(X, params), Y).backward()
    optimizer.step()
    assert not params["w"].any()


def test_batches_are_not_written_out_for_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def written(*_: object, **__: object) -> str:
        raise AssertionError("a tensor was written out")

    monkeypatch.setattr(Tensor, "__repr__", written)
    assert described([torch.zeros(100), 1]) == "list"
    assert described([[torch.zeros(4)] * 30]) == "list"
    assert described([1, "two", {"three": 4}]) == "[1, 'two', {'three': 4}]"


SEVERAL = tuple[Tensor, ...]


class Named(type):
    """A class of classes."""


class Settings(metaclass=Named):
    scale = 2.0


def test_names_of_types_in_what_code_uses_harm_nothing() -> None:
    """Their attributes are a view, which takes no change: a network that torch has compiled holds some too."""

    def used(x: Tensor) -> SEVERAL:
        return cast("SEVERAL", (x * Settings.scale, SEVERAL)[:1])

    with reach_kept(used):
        assert used(torch.ones(1))[0] == 2.0


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested", "ignore:Sparse CSR")
def test_what_did_not_change_is_not_written() -> None:
    closed, nowhere = Closed(a=1), torch.zeros(2, device="meta")
    parts = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    edges = [torch.eye(3).to_sparse(layout=layout) for layout in LAYOUTS]
    weight = torch.ones(3, 3, requires_grad=True)
    cost = sum((one @ weight).sum() for one in edges)
    with reach_kept(lambda: (closed, nowhere, parts, edges)):
        pass
    assert dict(closed) == {"a": 1}
    cost.backward()  # what the graph waits for is as it was
    many = [torch.zeros(2**20) for _ in range(20)]
    with reach_kept(lambda: many):
        many[0].add_(1)
        many[-1].add_(1)
    assert many[0][0] == 0, "all together are kept up to a limit"
    assert many[-1][0] == 1


def test_a_loss_that_writes_into_its_arguments_is_seen_row_by_row() -> None:
    net, x = nn.Linear(4, 4), torch.randn(ROWS, 4)

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(outputs.div_(2.0), target.sub_(1.0)) ** 1 + outputs.abs().mean()

    expected = loss(net(x).detach(), x.clone()).item()
    watch = wp.watch(net, loss, (x, x), (x, x), rows=ROWS)
    row = watch.epoch()
    assert row["valid_loss"] == pytest.approx(expected)
    assert row["valid_loss_se"] > 0
    assert watch.rows == ROWS


PARTS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any]]] = {
    "parts": ("sum(loss(outputs, target))", lambda parts: tuple(parts.values())),
    "parts by name": ("sum(loss(outputs, target).values())", lambda parts: parts),
    "their sum, and they": ("loss(outputs, target)[0]", lambda parts: (sum(parts.values()), *parts.values())),
    "their sum by name": (
        "loss(outputs, target)['loss']",
        lambda parts: {"loss": sum(parts.values()), **parts},
    ),
    "numbers for a log": (
        "loss(outputs, target)[0]",
        lambda parts: (sum(parts.values()), {key: value.item() for key, value in parts.items()}),
    ),
    "a list with numbers for a log": ("loss(outputs, target)[0]", lambda parts: [sum(parts.values()), {"lr": 0.1}]),
    "a total of what is weighed": (
        "loss(outputs, target)[0]",
        lambda parts: (parts["classes"] + 2 * (half := parts["size"] / 2), parts["classes"], half),
    ),
    "a total at the end": ("loss(outputs, target)['all']", lambda parts: {**parts, "all": sum(parts.values())}),
    "a share of right ones": (
        "loss(outputs, target)[0]",
        lambda parts: (sum(parts.values()), (parts["size"] > 0).float()),
    ),
    "parts, and a number for a log": (
        "sum(map(loss(outputs, target).__getitem__, ['classes', 'size']))",
        lambda parts: {"classes": parts["classes"], "right": torch.tensor(0.5), "size": parts["size"]},
    ),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_loss_with_parts_is_answered_with_the_line_for_their_sum(kind: str) -> None:
    line, returned = PARTS[kind]

    class Criterion(nn.Module):
        def forward(self, outputs: Tensor, target: Tensor) -> Any:
            return returned({"classes": F.cross_entropy(outputs, target), "size": outputs.square().mean()})

    net, loss = nn.Linear(4, 3), Criterion()
    with pytest.raises(InputError, match=re.escape(f"loss=lambda outputs, target: {line}")):
        wp.watch(net, loss, PAIRS, PAIRS)
    said = eval(f"lambda outputs, target: {line}", {"loss": loss})
    expected = F.cross_entropy(net(X), Y) + net(X).square().mean()
    assert wp.watch(net, said, PAIRS, PAIRS).epoch()["valid_loss"] == pytest.approx(expected.item())


@pytest.mark.parametrize("total", [True, False])
def test_parts_of_each_row_are_answered_with_the_line_for_their_sum(total: bool) -> None:
    def loss(outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        parts = {"classes": F.cross_entropy(outputs, target, reduction="none"), "size": outputs.square().mean(1)}
        return {"all": parts["classes"] + parts["size"], **parts} if total else parts

    line = "loss(outputs, target)['all']" if total else "sum(loss(outputs, target).values())"
    with pytest.raises(InputError, match=re.escape(f"loss=lambda outputs, target: {line}")):
        wp.watch(nn.Linear(4, 3), loss, PAIRS, PAIRS)


def test_a_batch_with_more_targets_than_examples_is_looked_into_whole() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, sentence: Tensor) -> Tensor:
            return self.inner(sentence)[0]  # type: ignore[no-any-return]

    net, batch = Words(), (X[None, :5], Y[None, :5])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = wp.watch(
        net, F.cross_entropy, [batch], [batch], optimizer=optimizer,
        forward=lambda model, batch: model(batch[0]), target=lambda batch: batch[1][0],
    )  # fmt: skip
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(net(batch[0]), batch[1][0]).backward()
        optimizer.step()
        watch.epoch()
    assert "could not be looked into" not in str(wp.diagnose(watch))


def test_data_and_large_containers_are_not_walked_through() -> None:
    net, many = nn.Linear(2, 2), [nn.Linear(1, 1) for _ in range(200)]
    assert reached(lambda batch: (net, many, late)) == [net]
    late = 3


def test_a_compiled_network_is_not_compiled_anew_for_a_probe() -> None:
    made: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(1)
        return graph.forward

    net = torch.compile(nn.Linear(4, 3), backend=backend)
    wp.watch(net, "cross_entropy", train=PAIRS, valid=PAIRS).epoch()
    assert made == []


# --- proximal steps and roles --------------------------------------------------------------------------------------------


def laid_out(w: Tensor) -> dict[str, Tensor]:
    """A tensor in every layout of memory that a parameter has."""
    found = {
        "plain": w,
        "turned": w.transpose(0, 1).contiguous().transpose(0, 1),
        "strided": w.repeat_interleave(2, 1)[:, ::2],
    }
    if w.ndim == 4:
        found["channels last"] = w.contiguous(memory_format=torch.channels_last)
    if w.ndim == 5:
        found["channels last"] = w.contiguous(memory_format=torch.channels_last_3d)
    return {name: one.clone(memory_format=torch.preserve_format) for name, one in found.items()}


SHAPES = [
    (6, 5), (6, 5, 1), (6, 5, 3), (6, 5, 1, 1),
    (6, 1, 3, 3), (1, 5, 1, 1), (6, 5, 3, 3), (6, 5, 1, 1, 1), (4, 3, 2, 2, 2), (600, 50, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_proximal_step_is_the_same_in_every_layout_of_memory(shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    for name, one in laid_out(w).items():
        for term, wanted in (
            (wp.L1(1.0), w - w.clamp(-0.1, 0.1)),
            (wp.GroupL2(1.0, by="unit"), None),
        ):
            net = nn.Module()
            net.weight = nn.Parameter(one.clone(memory_format=torch.preserve_format))
            optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.1), net, [term.on(wp.named("weight"))])
            net.weight.grad = torch.zeros_like(net.weight)
            optimizer.step()
            if wanted is None:
                flat = w.flatten(1)
                shrunk = (1 - 0.1 * flat[0].numel() ** 0.5 / flat.norm(dim=1)).clamp_min(0)
                wanted = w * shrunk.view(-1, *[1] * (w.ndim - 1))
            torch.testing.assert_close(net.weight.detach(), wanted, msg=name)
            assert net.weight.stride() == one.stride()


def test_several_weights_in_a_pass_and_one_alone_are_moved_alike() -> None:
    alone = torch.randn(6, 5, 1, 1).contiguous(memory_format=torch.channels_last)
    together = [alone.clone(memory_format=torch.preserve_format), torch.randn(4, 4)]
    soft_threshold_([alone], [0.1], [1.0], [0.0])
    soft_threshold_(together, [0.1, 0.1], [1.0, 1.0], [0.0, 0.0])
    assert torch.equal(alone, together[0])


class GraphLayer(nn.Module):
    """As graph libraries have it: a matrix inside, a bias of its own."""

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(4, 3, bias=False), nn.Parameter(torch.zeros(3))
        if more:
            self.att = nn.Parameter(torch.zeros(1, 1, 3))


class Shifts(nn.Module):
    """A layer that only adds."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))


class Norm(nn.Module):
    """A norm of somebody's own."""

    def __init__(self, shape: tuple[int, ...] = (3,), bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        if bias:
            self.bias = nn.Parameter(torch.zeros(shape))


@pytest.mark.parametrize(
    ("module", "roles"),
    [
        (GraphLayer(more=False), {"lin.weight": "weight", "bias": "bias"}),
        (GraphLayer(more=True), {"lin.weight": "weight", "bias": "bias"}),
        (Shifts(), {"bias": "bias"}),
        (Norm(), {"weight": "norm", "bias": "norm"}),
        (Norm((1, 3, 1, 1)), {"weight": "norm", "bias": "norm"}),
        (Norm(bias=False), {"weight": "norm"}),
    ],
)
def test_a_bias_is_no_norm_in_layers_of_other_libraries(module: nn.Module, roles: dict[str, str]) -> None:
    found = {leaf.name: leaf.role for leaf in leaves(module)}
    assert {name: found[name] for name in roles} == roles


# --- checkpoints ---------------------------------------------------------------------------------------------------------


def trained(net: nn.Module, optimizer: Any, watch: wp.Watch, epochs: int) -> None:
    for _ in range(epochs):
        for x, y in DataLoader(PAIRS, 8):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        watch.epoch()


def watched(net: nn.Module, **more: Any) -> tuple[Any, wp.Watch]:
    optimizer = wp.regularize(torch.optim.AdamW(net.parameters(), weight_decay=0), net, [wp.L1(1e-3).on(wp.weights)])
    return optimizer, wp.watch(net, "cross_entropy", train=PAIRS, valid=PAIRS, optimizer=optimizer, **more)


TIMES = ("seconds", "watch_seconds")


def test_a_run_that_is_resumed_keeps_its_history() -> None:
    torch.manual_seed(0)
    whole, net = nn.Linear(4, 3), nn.Linear(4, 3)
    net.load_state_dict(whole.state_dict())
    trained(whole, *(together := watched(whole)), 4)
    trained(net, *(first := watched(net)), 2)
    held = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": first[0].state_dict(), "watch": first[1].state_dict()}, held)
    held.seek(0)
    saved = torch.load(held, weights_only=True)
    again = nn.Linear(4, 3)
    again.load_state_dict(saved["net"])
    optimizer, watch = watched(again)
    optimizer.load_state_dict(saved["optimizer"])
    watch.load_state_dict(saved["watch"])
    trained(again, optimizer, watch, 2)
    alike = [{k: v for k, v in row.items() if k not in TIMES} for row in watch.history]
    assert alike == [{k: v for k, v in row.items() if k not in TIMES} for row in together[1].history]
    assert watch.notes.forwards == together[1].notes.forwards
    assert watch.notes.moved(again) == together[1].notes.moved(whole)
    assert len(wp.diagnose(watch)) > 0


def test_a_history_of_other_rows_is_not_gone_on_with() -> None:
    net = nn.Linear(4, 3)
    state = watched(net)[1].state_dict()
    other = wp.watch(net, "cross_entropy", train=(X[:9], Y[:9]), valid=PAIRS)
    with pytest.raises(InputError, match="9 training rows, and the one that was saved had 24"):
        other.load_state_dict(state)
    with pytest.raises(FormatError, match="schema 3"):
        other.load_state_dict(state | {"schema": 3})


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_watch_and_a_regularized_optimizer_say_what_to_save_instead(act: Callable[[Any], Any]) -> None:
    optimizer, watch = watched(nn.Linear(4, 3))
    with pytest.raises(TypeError, match=r"save optimizer.state_dict\(\) and wrap again"):
        act(optimizer)
    with pytest.raises(TypeError, match=r"Save watch.state_dict\(\)"):
        act(watch)


def test_a_checkpoint_with_another_decay_is_answered_for_the_checkpoint() -> None:
    net = nn.Linear(4, 3)
    saved = torch.optim.AdamW(net.parameters(), weight_decay=0.05).state_dict()
    bare = torch.optim.AdamW(net.parameters(), weight_decay=0)
    optimizer = wp.regularize(bare, net, [wp.L2(0.01).on(wp.weights)])
    with pytest.raises(CompositionError, match=r"state was saved.*weight_decay=0.05.*before it is loaded") as refused:
        optimizer.load_state_dict(saved)
    exec(str(refused.value).split("such as: ")[1].removesuffix("."), {"state": saved})
    optimizer.load_state_dict(saved)
    assert bare.param_groups[0]["weight_decay"] == 0


def test_what_regularizes_is_that_of_the_optimizer_as_it_is_now() -> None:
    net = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0)
    watch = wp.watch(net, "cross_entropy", train=PAIRS, valid=PAIRS, optimizer=optimizer)
    optimizer.load_state_dict(torch.optim.AdamW(net.parameters(), weight_decay=0.05).state_dict())
    watch.epoch()
    assert watch.history.facts["regularized"] == {"weight_decay": 0.05}


def passes(net: nn.Module, how: str) -> None:
    """What a loop sends through a network beside its steps, in training mode and without gradients."""
    if how == "statistics anew":
        torch.optim.swa_utils.update_bn(DataLoader(PAIRS, 6), net)
    elif how == "statistics anew, momentum as it was":
        net.train()
        with torch.no_grad():
            net(X)
    elif how == "rows of its own":
        with torch.no_grad():
            net(torch.randn(ROWS, 4))
    elif how != "evaluated with gradients":
        with torch.no_grad():
            for x in (X, X + 1) if how == "both sides" else (X + 1,):
                net(x)
    else:
        net.eval()
        net(X + 1)
        net.train()


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("how", ["statistics anew", "statistics anew, momentum as it was", "rows of its own",
                                 "evaluated with gradients", "both sides", "validation"])  # fmt: skip
def test_only_rows_of_validation_in_training_mode_are_a_forgotten_mode(how: str, trains: bool) -> None:
    """SWA's second network has no steps; its batch norms are estimated anew by training rows."""
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    watch = wp.watch(net, "cross_entropy", train=PAIRS, valid=TensorDataset(X + 1, Y), share=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        if trains:
            optimizer.zero_grad()
            F.cross_entropy(net(X), Y).backward()
            optimizer.step()
        passes(net, how)
        watch.epoch()
    said = [found.name for found in wp.diagnose(watch)]
    assert ("forgotten_mode" in said) == (how in ("both sides", "validation"))


@pytest.mark.parametrize(("rows", "targets", "sizes"), [(4, 4, [2, 2]), (5, 3, [3]), (3, 0, [])])
def test_a_batch_is_cut_only_where_its_target_has_as_many_rows(rows: int, targets: int, sizes: list[int]) -> None:
    """A sentence may have another number of targets, and a batch may have none at all."""
    found = [*inspection.rebatch([(torch.zeros(rows, 2), torch.zeros(targets))], 2)]
    assert [len(target) for _, target in found] == sizes


# What else public loops have: loaders that never end, hooks of a backward, a train() of one's own


class Again:
    """A sampler of batches that begins anew when it is over, and never ends."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self.sampler


class Lasting(DataLoader[Any]):
    """A loader whose workers stay from epoch to epoch: one iterator without an end, of which an epoch is as long as one was."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        object.__setattr__(self, "batch_sampler", Again(self.batch_sampler))
        self.endless = super().__iter__()

    def __len__(self) -> int:
        return len(cast(Any, self.batch_sampler).sampler)

    def __iter__(self) -> Any:
        return (next(self.endless) for _ in range(len(self)))


@pytest.mark.parametrize("rows", [list(range(ROWS)), list(range(0, ROWS, 2))])
def test_a_loader_that_never_ends_has_the_rows_that_it_goes_through(rows: list[int]) -> None:
    states, began = [], time.perf_counter()
    for watched in (False, True):
        torch.manual_seed(0)
        net = nn.Linear(4, 3)
        order = torch.utils.data.SubsetRandomSampler(rows, generator=torch.Generator().manual_seed(1))
        train, optimizer = Lasting(PAIRS, batch_size=5, sampler=order), torch.optim.SGD(net.parameters(), lr=0.1)
        watch = wp.watch(net, "cross_entropy", train, (X, Y), rows=ROWS, share=1) if watched else None
        for _ in range(2):
            for x, y in train:
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
            if watch is not None:
                row = watch.epoch()
                assert row["train_loss"] == pytest.approx(
                    float(F.cross_entropy(net(X[rows]), Y[rows]).detach()), rel=1e-5
                )
        states.append([*net.parameters(), torch.rand(1)])
    assert all(map(torch.equal, *states))
    assert time.perf_counter() - began < 20
    assert sorted(drawn_rows(train, "train").tolist()) == rows  # an epoch is as long as the loader says


class Hooked(nn.Module):
    """A network whose layers keep each row's gradient on their weights as the backward passes, once for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.layer, self.seen = nn.Linear(4, 4), nn.Linear(4, 3), None
        self.layer.register_forward_hook(self.before)
        self.layer.register_full_backward_hook(self.passed)

    def before(self, layer: nn.Module, given: Any, out: Any) -> None:
        if layer.training and torch.is_grad_enabled():
            self.seen = given[0].detach()

    def passed(self, layer: nn.Module, _: Any, given: Any) -> None:
        if hasattr(self.layer.weight, "each"):
            raise ValueError("the gradients of the step before are still there")
        assert self.seen is not None
        self.layer.weight.each = torch.einsum("no,ni->noi", given[0], self.seen)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(self.below(x))
        return found


def test_what_hooks_of_a_backward_leave_on_weights_is_as_it_was() -> None:
    """The look at the first weights goes back through the network too, several times; then the loop's own step does."""
    ends = []
    for watched in (False, True):
        torch.manual_seed(0)
        net = Hooked()
        train, optimizer = DataLoader(PAIRS, 6, shuffle=True), torch.optim.SGD(net.parameters(), lr=0.1)
        watch = wp.watch(net, "cross_entropy", train, (X, Y), share=1) if watched else None
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            with torch.no_grad():
                net.layer.weight.grad = net.layer.weight.each.sum(0)  # type: ignore[operator]
            del net.layer.weight.each
            optimizer.step()
        if watch is not None:
            assert watch.first is not None, watch.unseen
            watch.epoch()
            wp.diagnose(watch)
            assert not hasattr(net.layer.weight, "each")
        ends.append([*net.parameters(), torch.rand(1)])
    assert all(map(torch.equal, *ends))


def test_an_error_of_a_hook_on_the_way_back_is_said_and_not_raised() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))

    def fails(*_: Any) -> None:
        raise KeyError("no such step")

    net[1].register_full_backward_hook(fails)
    watch = wp.watch(net, "cross_entropy", (X, Y), (X, Y))
    assert watch.first is None
    assert "KeyError" in watch.unseen
    assert math.isfinite(watch.epoch()["valid_loss"])


class Rated(nn.Module):
    """A network that is told its mode by a ``train`` of its own: a rate, or factors that are added to the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rate, self.added = nn.Linear(4, 3), 0.5, False
        self.register_buffer("extra", torch.full((3, 4), 1 / 3))

    def train(self, mode: bool = True) -> Rated:
        super().train(mode)
        self.rate = 0.5 if mode else 0.0
        if self.added == mode:
            self.layer.weight.data += cast(Tensor, self.extra) * (-1 if mode else 1)
            self.added = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.dropout(self.layer(x), self.rate)
        return out if self.added else out + x @ cast(Tensor, self.extra).T


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("evaluated", [False, True])
def test_a_train_of_the_networks_own_says_its_mode(inside: bool, evaluated: bool) -> None:
    """Marking the mode alone leaves the rate of training on; what it did to the weights comes back bit for bit."""
    ends = []
    for watched in (False, True):
        torch.manual_seed(0)
        own = Rated()
        net = nn.Sequential(own) if inside else own
        watch = wp.watch(net, "cross_entropy", DataLoader(PAIRS, 6), (X, Y), share=1) if watched else None
        net.train(not evaluated)
        if watch is not None:
            shown = watch.epoch()["valid_loss"]
            assert own.rate == (0.0 if evaluated else 0.5)
            assert own.added == evaluated
        ends.append([p.detach().clone() for p in net.parameters()])
    assert all(map(torch.equal, *ends))
    assert shown == pytest.approx(float(F.cross_entropy(net.eval()(X), Y).detach()), rel=1e-5)


def test_a_train_that_is_something_else_is_not_called() -> None:
    class Trains(nn.Linear):
        def train(self, rows: Any = ()) -> Any:  # type: ignore[override]
            raise AssertionError(f"called with {rows}")

    assert math.isfinite(wp.watch(Trains(4, 3), "cross_entropy", (X, Y), (X, Y)).epoch()["valid_loss"])


def test_several_optimizers_are_refused_with_what_to_give() -> None:
    net = nn.Linear(4, 3)
    both = [torch.optim.SGD([p], lr=0.1) for p in net.parameters()]
    for given in (both, tuple(both), dict(enumerate(both))):
        with pytest.raises(InputError, match="Give one of those in it"):
            wp.watch(net, "cross_entropy", (X, Y), (X, Y), optimizer=cast(Any, given))
    with pytest.raises(InputError) as refused:
        wp.watch(net, "cross_entropy", (X, Y), (X, Y), optimizer=cast(Any, [1]))
    assert "Give one" not in str(refused.value)


def test_lines_for_lists_of_targets_in_a_mapping_and_for_a_model_that_returns_its_loss() -> None:
    def two(outputs: list[Tensor], target: list[Tensor]) -> Tensor:
        return torch.stack([F.cross_entropy(o, t) for o, t in zip(outputs, target, strict=True)]).sum()

    class Heads(nn.Linear):
        def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
            return [super().forward(x), super().forward(-x)]

    class Own(nn.Linear):
        def forward(self, rows: list[Tensor], wanted: Tensor) -> Tensor:  # type: ignore[override]
            return F.cross_entropy(super().forward(rows[0] + rows[1]), wanted)

    batches: list[Any] = [{"data": X, "labels": [Y, Y], "names": ["a"] * ROWS} for _ in range(4)]
    with pytest.raises(InputError) as refused:
        wp.watch(Heads(4, 3), two, batches, batches)
    assert "forward=lambda model, batch: model(batch['data']), target=lambda batch: batch['labels']" in str(
        refused.value
    )
    pairs: list[Any] = [([X, X], Y) for _ in range(4)]
    with pytest.raises(InputError) as refused:
        wp.watch(Own(4, 3), "squared_error", pairs, pairs)
    assert "loss=lambda loss, target: loss, forward=lambda model, batch: model(*batch)." in str(refused.value)
    net = Own(4, 3)
    watch = wp.watch(net, lambda loss, target: loss, pairs, pairs, forward=lambda model, batch: model(*batch))
    assert watch.epoch()["valid_loss"] == pytest.approx(float(net([X, X], Y).detach()), rel=1e-5)
