"""Problems and data: every form of data is taken, no row is on two sides, and what cannot work is said in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import wellposed as wp
from wellposed.core.errors import DataError, InputError, ProblemError
from wellposed.data.arrays import Arrays, Source
from wellposed.data.encoding import TableEncoder

N, FEATURES, CLASSES = 60, 4, 3
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(N, FEATURES, generator=DRAW)
Y = torch.randint(CLASSES, (N,), generator=DRAW)
SHORT = wp.Recipe(epochs=2, batch_size=16)


def net(data: Any) -> nn.Module:
    return nn.Linear(data.features, data.outputs)


def fit(problem: wp.Problem, recipe: wp.Recipe = SHORT, seed: int = 0) -> wp.Run:
    return wp.fit(problem, recipe, seed, device="cpu")


def inputs_of(source: Source) -> Tensor:
    """All rows of a source."""
    inputs, _ = source.batch(torch.arange(len(source)))
    rows: Tensor = inputs
    return rows


def numbers(source: Source) -> set[float]:
    """The first column, which numbers the rows in the tests of splits."""
    return set(inputs_of(source)[:, 0].tolist())


def stack(items: list[Any]) -> Any:
    return tuple(torch.stack(part) for part in zip(*items, strict=True))


# Forms of data

FORMS: dict[str, Any] = {
    "tensors": lambda: wp.Data(train=(X, Y)),
    "arrays": lambda: wp.Data(train=(X.numpy().astype(np.float64), Y.numpy().astype(np.int32))),
    "lists": lambda: wp.Data(train=(X.tolist(), Y.tolist())),
    "a pair in a list": lambda: wp.Data(train=[X, Y]),
    "TensorDataset": lambda: wp.Data(train=TensorDataset(X, Y)),
    "part of a TensorDataset": lambda: wp.Data(train=Subset(TensorDataset(X, Y), list(range(N)))),
    "items": lambda: wp.Data(train=list(zip(X, Y, strict=True))),
    "loader": lambda: wp.Data(train=DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True)),
    "loader with collate_fn": lambda: wp.Data(train=DataLoader(list(zip(X, Y, strict=True)), collate_fn=stack)),
    "items with collate_fn": lambda: wp.Data(train=list(zip(X, Y, strict=True)), collate_fn=stack),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_run(form: str) -> None:
    ours, wanted = (FORMS[key]().prepare() for key in (form, "tensors"))
    assert (ours.task, ours.shape) == ("classification", (FEATURES,))
    if isinstance(ours.train.targets(), Tensor):  # then classes are stratified, and the split is the same
        assert torch.equal(inputs_of(ours.train), inputs_of(wanted.train))
        assert torch.equal(inputs_of(ours.valid), inputs_of(wanted.valid))
        assert ours.outputs == CLASSES
    assert len(ours.train) + len(ours.valid) == N
    run = fit(wp.Problem(lambda: nn.Linear(FEATURES, CLASSES), "cross_entropy", FORMS[form]()))
    assert run.stopped == "epochs"
    assert run.outputs(ours.valid).shape == (len(ours.valid), CLASSES)


def test_frames_of_pandas_and_polars_are_encoded_alike() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    columns = {"a": X[:, 0].tolist(), "town": [["Rome", "Oslo", None][i % 3] for i in range(N)]}
    target = [["no", "yes"][int(v > 0)] for v in X[:, 1]]
    runs = []
    for frames in (pandas, polars):
        data = wp.Data(train=(frames.DataFrame(columns), frames.Series("y", target) if frames is polars else target))
        prepared = data.prepare()
        assert prepared.target is not None
        assert prepared.target.classes == ["no", "yes"]
        assert prepared.outputs == 2
        runs.append(fit(wp.Problem(net, "cross_entropy", data)))
    assert runs[0].history["valid_loss"] == runs[1].history["valid_loss"]


def test_a_frame_is_encoded_by_training_rows_only() -> None:
    pandas = pytest.importorskip("pandas")
    town = [["Rome", "Oslo"][i % 2] if i < 40 else "Bern" for i in range(50)]
    frame = pandas.DataFrame({"a": [*range(40), *[10**6] * 10], "t": range(50), "town": town})
    target = frame["t"] * 2.0 + np.arange(50) % 7
    prepared = wp.Data(train=(frame, target), valid=0.2, time=frame["t"].to_numpy()).prepare()
    seen = inputs_of(prepared.train)
    assert len(prepared.train) == 40
    assert seen[:, 0].abs().max() < 3  # the huge later values moved nothing
    assert prepared.encoder is not None
    assert not [name for name in prepared.encoder.names if "Bern" in name]
    assert [name for name in prepared.encoder.names if "Oslo" in name]
    assert prepared.target is not None
    assert prepared.target.scale == pytest.approx(target[:40].std(ddof=0), rel=0.02)
    training = prepared.train.targets()
    assert training is not None
    assert float(training.mean()) == pytest.approx(0.0, abs=1e-5)


def test_several_inputs_and_named_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(FEATURES, CLASSES)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            out: Tensor = self.head(x) * scale[:, None]
            return out

    one = torch.ones(N)
    runs = [
        fit(wp.Problem(Two, "cross_entropy", wp.Data(train=(given, Y))))
        for given in ((X, one), {"x": X, "scale": one}, {"scale": one, "x": X})
    ]
    assert runs[0].history["valid_loss"] == runs[1].history["valid_loss"] == runs[2].history["valid_loss"]


def test_types_of_inputs_and_targets() -> None:
    data = wp.Data(train=(np.zeros((20, 2, 3, 3), dtype=np.uint8) + np.arange(20)[:, None, None, None].astype(np.uint8),
                          np.arange(20) % 2 == 0)).prepare()  # fmt: skip
    assert inputs_of(data.train).dtype == torch.uint8  # images stay small
    assert data.shape == (2, 3, 3)
    assert (data.task, data.outputs) == ("classification", 2)
    both = wp.Data(train=(X.double(), torch.randn(N, 5).double())).prepare()
    assert (both.task, both.outputs) == ("regression", 5)
    targets = both.train.targets()
    assert targets is not None
    assert targets.dtype == inputs_of(both.train).dtype == torch.float32
    assert wp.Data(train=(X, Y.float()), task="classification").prepare().task == "classification"


# Splits: no row is on two sides

ROWS = torch.arange(100.0)[:, None] + torch.zeros(1, 3)
LABEL = torch.arange(100) % 2


def test_shares_are_apart_and_together_all() -> None:
    prepared = wp.Data(train=(ROWS, LABEL), valid=0.25, test=0.2).prepare()
    parts = [numbers(source) for source in (prepared.train, prepared.valid, prepared.test) if source is not None]
    assert [len(part) for part in parts] == [60, 20, 20]
    assert set.union(*parts) == set(range(100))
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    valid = prepared.valid.targets()
    assert valid is not None
    assert int(valid.sum()) == 10  # stratified
    again = wp.Data(train=(ROWS, LABEL), valid=0.1, test=0.2).prepare()
    assert again.test is not None
    assert numbers(again.test) == parts[2]  # whatever the share for validation
    assert numbers(wp.Data(train=(ROWS, LABEL), split_seed=1).prepare().valid) != numbers(
        wp.Data(train=(ROWS, LABEL)).prepare().valid
    )


@pytest.mark.parametrize("frame", [False, True])
def test_groups_never_straddle(frame: bool) -> None:
    groups = np.arange(100) // 7
    x: Any = pytest.importorskip("pandas").DataFrame({"row": np.arange(100.0)}) if frame else ROWS
    prepared = wp.Data(train=(x, LABEL.numpy()), test=0.2, groups=groups).prepare()
    assert prepared.test is not None
    sources = (prepared.train, prepared.valid, prepared.test)
    if frame:  # the scaled column is still in the order of the rows
        values = torch.cat([inputs_of(s)[:, 0] for s in sources]).sort().values
        rows = [torch.searchsorted(values, inputs_of(s)[:, 0].contiguous()).numpy() for s in sources]
    else:
        rows = [inputs_of(s)[:, 0].long().numpy() for s in sources]
    found = [set(groups[r].tolist()) for r in rows]
    assert not found[0] & found[1] | found[0] & found[2] | found[1] & found[2]
    assert sum(map(len, rows)) == 100


def test_time_holds_out_the_latest() -> None:
    time = np.random.default_rng(0).permutation(100)
    prepared = wp.Data(train=(ROWS, LABEL), valid=0.25, test=0.2, time=time).prepare()
    assert prepared.test is not None
    when = [time[inputs_of(s)[:, 0].long().numpy()] for s in (prepared.train, prepared.valid, prepared.test)]
    assert when[0].max() < when[1].min() <= when[1].max() < when[2].min()


@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("form", ["tensors", "TensorDataset", "loader", "frame"])
def test_copies_never_straddle(form: str, outputs: int | None) -> None:
    x = (ROWS // 4).repeat(1, 1)  # each row four times
    y = (x[:, 0] % 2).long() if outputs is None else (x[:, :1] * torch.arange(1, 4))
    if form == "frame":
        if outputs is not None:
            pytest.skip("a frame has one target")
        pandas = pytest.importorskip("pandas")
        given: Any = (pandas.DataFrame(x.numpy(), columns=list("abc")), y.numpy())
    else:
        rows = TensorDataset(x, y)
        given = {"tensors": (x, y), "TensorDataset": rows, "loader": DataLoader(rows, shuffle=True)}[form]
    prepared = wp.Data(train=given, valid=0.3, test=0.2).prepare()
    assert prepared.test is not None
    parts = [numbers(s) for s in (prepared.train, prepared.valid, prepared.test)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert sum(len(s) for s in (prepared.train, prepared.valid, prepared.test)) == 100


@pytest.mark.parametrize("frame", [False, True])
def test_weights_go_with_their_rows(frame: bool) -> None:
    weight = np.arange(100) + 1.0
    x: Any = pytest.importorskip("pandas").DataFrame({"row": np.arange(100.0)}) if frame else ROWS
    prepared = wp.Data(train=(x, np.arange(100.0)), weight=weight, test=0.2).prepare()
    assert prepared.test is not None
    for source in (prepared.train, prepared.train_clean, prepared.valid, prepared.test):
        targets = source.targets()
        assert targets is not None
        assert source.weight is not None
        raw = torch.from_numpy(prepared.target.inverse(targets.numpy())) if prepared.target else targets
        torch.testing.assert_close(source.weight.double(), raw.double() + 1, rtol=1e-5, atol=1e-4)
    fewer = prepared.limited(30, seed=0).train
    chosen = fewer.targets()
    assert chosen is not None
    assert fewer.weight is not None
    assert len(fewer) == 30
    own = wp.Data(train=(ROWS, LABEL), valid=(ROWS, LABEL), weight=weight).prepare()
    assert own.valid.weight is None


def test_clean_rows_are_the_same_rows() -> None:
    noisy = ROWS + torch.tensor([0.0, 0.5, 0.5])
    prepared = wp.Data(train=(noisy, LABEL), train_clean=(ROWS, LABEL), valid=0.2).prepare()
    assert torch.equal(inputs_of(prepared.train)[:, 0], inputs_of(prepared.train_clean)[:, 0])
    assert torch.equal(inputs_of(prepared.train_clean)[:, 1], inputs_of(prepared.train_clean)[:, 0])
    clean = inputs_of(prepared.valid)
    assert torch.equal(clean[:, 1], clean[:, 0])  # validation rows are never augmented
    with pytest.raises(DataError, match="99 rows and train 100"):
        wp.Data(train=(noisy, LABEL), train_clean=(ROWS[:99], LABEL[:99])).prepare()


def test_a_loader_over_a_part_keeps_to_it() -> None:
    rows = TensorDataset(ROWS, LABEL)
    part = [*range(10, 30)]
    for loader in (
        DataLoader(rows, sampler=SubsetRandomSampler(part)),
        DataLoader(rows, batch_sampler=BatchSampler(SubsetRandomSampler(part), 4, drop_last=False)),
        DataLoader(Subset(rows, part), batch_size=4),
    ):
        prepared = wp.Data(train=loader, valid=(ROWS, LABEL), weight=np.arange(20) + 1.0).prepare()
        assert inputs_of(prepared.train)[:, 0].tolist() == part
        assert prepared.train.weight is not None
        assert prepared.train.weight.tolist() == [*range(1, 21)]


# Refused data


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield torch.zeros(2)


class Sizeless(Dataset[Tensor]):
    def __getitem__(self, i: int) -> Tensor:
        return torch.zeros(2)


ROWWISE = TensorDataset(X, Y)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "empty arrays": ({"train": (X[:0], Y[:0])}, "empty"),
    "empty Dataset": ({"train": Subset(ROWWISE, [])}, "empty"),
    "one row": ({"train": (X[:1], Y[:1])}, "at least 2 rows"),
    "unequal lengths": ({"train": (X, Y[:-3])}, r"equally many rows; they have \[57, 60\]"),
    "unequal inputs": ({"train": ((X, X[:9]), Y)}, r"equally many rows; they have \[9, 60\]"),
    "weighted sampler": (
        {"train": DataLoader(ROWWISE, sampler=WeightedRandomSampler(torch.ones(N), N))},
        r"draws with WeightedRandomSampler.*wp\.Data\(weight=\)",
    ),
    "own batches": ({"train": DataLoader(ROWWISE, batch_sampler=[[1, 2], [3]])}, "draws with list"),
    "iterable loader": ({"train": DataLoader(Endless())}, "iterable Dataset"),
    "iterable Dataset": ({"train": Endless()}, "iterable Dataset"),
    "no length": ({"train": Sizeless()}, "must have a length"),
    "texts": ({"train": (np.array([["a"], ["b"]]), Y[:2])}, "Inputs must be numbers"),
    "texts as targets": ({"train": (X[:2], ["a", "b"])}, "Targets must be numbers.*Encode labels"),
    "an unknown task": ({"train": (X, Y), "task": "clasification"}, "Did you mean 'classification'"),
    "nothing": ({"train": None}, "NoneType is none of them"),
    "a path": ({"train": "table.csv"}, "str is none of them"),
    "a share of everything": ({"train": (X, Y), "valid": 1.5}, "between 0 and 1; it was given 1.5"),
    "no validation": ({"train": (X, Y), "valid": None}, "valid= is needed"),
    "groups too few": ({"train": (X, Y), "groups": [1, 2]}, "groups= needs one value for each of the 60"),
    "time too short": ({"train": (X, Y), "time": [1, 2]}, "time= needs one value for each of the 60"),
    "negative weights": ({"train": (X, Y), "weight": -np.ones(N)}, "60 finite numbers >= 0"),
    "weights not finite": ({"train": (X, Y), "weight": np.full(N, np.nan)}, "60 finite numbers >= 0"),
    "weights all 0": ({"train": (X, Y), "weight": np.zeros(N)}, "not all 0"),
    "too few weights": ({"train": (X, Y), "weight": np.ones(3)}, r"needs 60 .*shape \(3,\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_used_are_refused_in_a_sentence(name: str) -> None:
    settings, sentence = REFUSED[name]
    with pytest.raises(DataError, match=sentence) as caught:
        wp.Data(**settings).prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", [[-1.0] * 20, [float("nan")] * 20, [0.0] * 20, [1.0] * 3])
def test_weights_of_a_frame_are_checked_too(weight: list[float]) -> None:
    frame = pytest.importorskip("pandas").DataFrame({"a": np.arange(20.0)})
    with pytest.raises(DataError, match="weight= needs 20 finite numbers"):
        wp.Data(train=(frame, np.arange(20.0) ** 2), weight=weight).prepare()


def test_arrays_of_a_source_are_given_by_number() -> None:
    source = Arrays(X, Y).subset(torch.tensor([5, 3]))
    x, y = source.batch(torch.tensor([1]))
    assert torch.equal(x, X[3:4])
    assert y.item() == Y[3]


# Problems


def problem(model: Any = net, loss: Any = "cross_entropy", **settings: Any) -> wp.Problem:
    return wp.Problem(model, loss, settings.pop("data", (X, Y)), **settings)


def test_a_pair_is_data_with_a_fifth_held_out() -> None:
    assert len(problem().prepared.valid) == N // 5
    assert problem().metric is not None
    assert problem().metric.name == "accuracy"
    assert problem(data=(X, X[:, 0]), loss="mse").metric.name == "r2"
    assert problem(loss=lambda f, y: f.sum()).metric is None


def test_factories_with_and_without_data_and_settings() -> None:
    def own(width: int = 3) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, width), nn.Linear(width, CLASSES))

    built = problem(own).build({"width": 9}, seed=0)
    assert built[0].out_features == 9
    assert problem(net).build({}, seed=0).out_features == CLASSES
    anything = problem(lambda **settings: own(**settings))
    assert anything.build({"width": 4}, seed=0)[0].out_features == 4
    run = fit(problem(own), SHORT.replace(model={"width": 7}))
    assert run.model[0].out_features == 7


def test_initialization_is_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    one = problem().build({}, seed=3).weight
    torch.manual_seed(2)
    assert torch.equal(problem().build({}, seed=3).weight, one)
    assert not torch.equal(problem().build({}, seed=4).weight, one)


def raising(error: Exception) -> Any:
    def model() -> nn.Module:
        raise error

    return model


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        raise KeyError("token")


MISFITS: dict[str, tuple[Any, str]] = {
    "a module": (lambda: problem(nn.Linear(FEATURES, CLASSES)), "model= must be a factory.*given Linear"),
    "no module": (lambda: problem(lambda: 3), "must return an nn.Module; it returned int"),
    "a factory that raises": (lambda: problem(raising(ZeroDivisionError("by zero"))), "raised ZeroDivisionError: by zero"),
    "a missing package": (lambda: problem(raising(ImportError("no flash"))), "raised ImportError: no flash"),
    "wrong inputs": (lambda: problem(lambda: nn.Linear(9, CLASSES)), r"does not take the inputs \(\(4, 4\)\)"),
    "a forward that raises": (lambda: problem(Deaf), "does not take the inputs.*token"),
    "too few outputs": (lambda: problem(lambda: nn.Linear(FEATURES, 2)), "label 2 needs 3 outputs, there are 2"),
    "two outputs for one number": (
        lambda: problem(lambda: nn.Linear(FEATURES, 2), "squared_error", data=(X, X[:, 0])),
        r"outputs are \(4, 2\) float32, targets are \(4,\)",
    ),
    "a loss that raises": (
        lambda: problem(loss=lambda f, y: f.nonsense()), "does not fit the model.*no attribute 'nonsense'"
    ),
    "a loss that compares all with all": (
        lambda: problem(lambda: nn.Linear(FEATURES, 1), lambda f, y: ((f - y) ** 2).mean(), data=(X, X[:, 0])),
        "compares all rows with all",
    ),
    "an unknown setting": (
        lambda: problem(lambda width=3: nn.Linear(FEATURES, CLASSES)), "'widht'.*Did you mean 'width'.*It takes: width"
    ),
    "a space of another model": (
        lambda: problem(lambda width=3: nn.Linear(FEATURES, CLASSES), space={"widht": [1]}), "Did you mean 'width'"
    ),
    "an empty space": (
        lambda: problem(lambda width=3: nn.Linear(FEATURES, CLASSES), space={"width": []}), "has no values"
    ),
    "a weighted mean": (
        lambda: problem(loss=lambda f, y: nn.functional.cross_entropy(f, y), data=wp.Data((X, Y), weight=[1.0] * N)),
        "reduction='none'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_parts_that_do_not_fit_are_named_before_training(name: str) -> None:
    make, sentence = MISFITS[name]
    recipe = SHORT.replace(model={"widht": 3}) if name == "an unknown setting" else SHORT
    with pytest.raises(ProblemError, match=sentence) as caught:
        fit(make(), recipe)
    assert "\n" not in str(caught.value)


def test_a_label_beyond_the_outputs_in_a_later_row() -> None:
    late = Y.clamp_max(1)
    late[-20:] = 2
    with pytest.raises(ProblemError, match="label 2 needs 3 outputs, there are 2"):
        fit(problem(lambda: nn.Linear(FEATURES, 2), data=wp.Data(train=(X, late), valid=(X, late))))


def test_an_unknown_metric_or_loss() -> None:
    with pytest.raises(InputError, match="Did you mean 'accuracy'"):
        fit(problem(metric="acuracy"))
    with pytest.raises(InputError, match="Did you mean 'cross_entropy'"):
        problem(loss="cross-entropy")


def test_outputs_with_logits_and_a_forward_of_ones_own() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(FEATURES, CLASSES)

        def forward(self, x: Tensor, shift: float = 0.0) -> Any:
            return type("Output", (), {"logits": self.head(x) + shift})()

    plain = fit(problem(lambda: nn.Sequential(nn.Linear(FEATURES, CLASSES))))
    assert fit(problem(Wrapped)).history["valid_loss"] == pytest.approx(plain.history["valid_loss"])
    own = fit(problem(Wrapped, forward=lambda model, x: model(x, shift=1.0).logits))
    assert own.history["valid_loss"] == pytest.approx(plain.history["valid_loss"])  # a shift of all scores is nothing


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(InputError, match="There is no device 'gpu'"):
        wp.fit(problem(), SHORT, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"The device 'cuda' cannot be used: .* Give cpu, or auto"):
            wp.fit(problem(), SHORT, device="cuda")


AMOUNTS = [
    "poisson", "huber", "quantile:0.9", "mse", "mae", "squared_error", "absolute_error", wp.Huber(0.5), nn.MSELoss(), nn.L1Loss(),
    nn.HuberLoss(), nn.SmoothL1Loss(), nn.PoissonNLLLoss(), nn.functional.mse_loss,
]  # fmt: skip


@pytest.mark.parametrize("loss", AMOUNTS, ids=lambda loss: getattr(loss, "__name__", str(loss)))
@pytest.mark.parametrize("of", ["frame", "array"])
def test_counts_are_amounts_where_the_loss_says_so(loss: Any, of: str) -> None:
    """Whole numbers of few values are taken for classes, unless the loss compares amounts."""
    counts = np.arange(120) % 6
    x = pd.DataFrame({"a": np.linspace(0, 1, 120)}) if of == "frame" else np.linspace(0, 1, 120)[:, None]
    problem = wp.Problem(lambda data: nn.Linear(data.features, data.outputs), loss, (x, counts))
    assert (problem.prepared.task, problem.prepared.outputs) == ("regression", 1)
    assert np.isfinite(wp.fit(problem, wp.Recipe(epochs=1)).history["valid_loss"][-1])


@pytest.mark.parametrize("of", ["frame", "array"])
def test_a_loss_that_leaves_a_doubt_lets_the_target_decide(of: str) -> None:
    counts = np.arange(120) % 6
    x = pd.DataFrame({"a": np.linspace(0, 1, 120)}) if of == "frame" else np.linspace(0, 1, 120)[:, None]
    for loss in ("cross_entropy", nn.CrossEntropyLoss(), lambda outputs, target: (outputs.sum(1) - target) ** 2):
        assert wp.Problem(lambda data: nn.Linear(1, data.outputs), loss, (x, counts)).prepared.task == "classification"
    named = wp.Problem(lambda data: nn.Linear(1, 6), "mse", wp.Data((x, counts), task="classification"))
    assert named.prepared.task == "classification"
    words = wp.Problem(lambda data: nn.Linear(1, 1), "mse", (pd.DataFrame({"a": counts}), ["p", "q"] * 60))
    assert words.prepared.task == "classification"


def test_what_would_be_ignored_is_refused() -> None:
    x, y = np.linspace(0, 1, 40)[:, None], np.arange(40) % 2
    frame = pd.DataFrame(x, columns=["a"])
    with pytest.raises(DataError, match=r"kinds= names the kinds of a frame's columns.*Give X as a frame"):
        wp.Data((x, y), kinds={"x0": "category"}).prepare()
    for given in ({"train_clean": (x, y)}, {"collate_fn": list}):
        with pytest.raises(DataError, match=f"{next(iter(given))}= is for arrays and Datasets"):
            wp.Data((frame, y), **given).prepare()  # type: ignore[arg-type]
    assert wp.Data((frame, y), kinds={"a": "number"}).prepare().features == 1


def test_a_space_holds_what_a_study_can_keep() -> None:
    for factory in (lambda data, **settings: nn.Linear(1, 1), lambda data, clip=1.0: nn.Linear(1, 1)):
        with pytest.raises(ProblemError, match=r"clip.* has inf, which a study cannot keep"):
            wp.Problem(factory, "mse", (X, Y), space={"clip": [1.0, np.inf]})
        with pytest.raises(ProblemError, match="no values"):
            wp.Problem(factory, "mse", (X, Y), space={"clip": []})


def columns() -> dict[str, Any]:
    """One column of each kind that a frame may hold."""
    numbers, days = np.arange(60) % 7, pd.date_range("2024-01-01", periods=60)
    words = np.array(["x", "y", "z"])[np.arange(60) % 3]
    return {
        "number": numbers * 1.5, "whole": numbers, "small": numbers.astype("uint8"), "half": numbers.astype("float16"),
        "nullable whole": pd.Series(numbers, dtype="Int64").where(numbers > 1), "boolean": numbers > 3,
        "nullable number": pd.Series(numbers, dtype="Float64").where(numbers > 1),
        "nullable boolean": pd.Series(numbers > 3, dtype="boolean").where(numbers > 1),
        "category": pd.Categorical(words), "ordered": pd.Categorical(words, ordered=True), "intervals": pd.cut(numbers, 3),
        "text": words, "string": pd.Series(words, dtype="string").where(numbers > 1), "objects": pd.Series([1, "x", None] * 20),
        "date": days, "zoned": days.tz_localize("Europe/Berlin"), "no date": pd.Series(days).where(numbers > 1),
        "duration": pd.to_timedelta(numbers, unit="h"), "month": pd.period_range("2020-01", periods=60, freq="M"),
        "written": days.strftime("%Y-%m-%d"), "sparse": pd.arrays.SparseArray(numbers * 1.0), "empty": np.full(60, np.nan),
        "infinite": np.where(numbers > 5, np.inf, numbers), "nested": pd.Series([[1, 2]] * 60),
    }  # fmt: skip


KINDS = {"month": "date", "duration": "number", "date": "date", "zoned": "date", "nullable boolean": "boolean"}


@pytest.mark.parametrize("kind", columns())
def test_a_column_of_every_kind_is_trained_on(kind: str) -> None:
    frame = pd.DataFrame({"a": np.linspace(0, 1, 60), "b": columns()[kind]}, index=np.arange(60)[::-1])
    problem = wp.Problem(
        lambda data: nn.Linear(data.features, data.outputs), "mse", wp.Data((frame, frame["a"] * 2), test=0.2)
    )
    for run in (
        wp.fit(problem, wp.Recipe(epochs=1)),
        *wp.fit_many(problem, wp.Recipe(epochs=1), [0, 1], engine="inprocess"),
    ):
        assert np.isfinite(run.history["valid_loss"][-1])
    assert problem.prepared.encoder is not None
    if kind in KINDS:
        assert type(problem.prepared.encoder.columns[1]).__name__.lower().startswith(KINDS[kind])


def test_durations_of_arrow_are_numbers() -> None:
    pytest.importorskip("pyarrow")
    hours = pd.Series(pd.to_timedelta(np.arange(40) % 5, unit="h"))
    plain, arrow = (
        TableEncoder.fit(pd.DataFrame({"a": c})).transform({"a": c})
        for c in (hours, hours.astype("duration[ns][pyarrow]"))
    )
    np.testing.assert_array_equal(plain, arrow)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda f, y: {"train": f}, r"a frame alone has no target\. Write \(frame\.drop"),
        (lambda f, y: {"train": (f, np.zeros((40, 2)))}, r"one value for each row; this one has shape \(40, 2\)"),
        (lambda f, y: {"train": (f, y), "valid": f}, r"valid= is a share .*, or \(X, y\) with a frame X"),
        (lambda f, y: {"train": (f, y), "valid": True}, r"valid= is a share .* it was given True"),
        (lambda f, y: {"train": (f, y), "test": (f,)}, r"test= is a share"),
        (lambda f, y: {"train": (f, pd.date_range("2024", periods=40))}, r"The target 'y' holds dates"),
    ],
)
def test_frames_that_are_no_data_are_refused_in_a_sentence(data: Any, says: str) -> None:
    frame = pd.DataFrame({"a": np.arange(40.0)})
    with pytest.raises(DataError, match=says):
        wp.Data(**data(frame, frame["a"])).prepare()


def test_the_target_of_a_frame_may_be_a_column_of_an_array() -> None:
    frame, y = pd.DataFrame({"a": np.arange(40.0)}), np.arange(40.0)
    column, flat = (wp.Data((frame, target)).prepare().train.targets() for target in (y[:, None], y))
    assert column is not None
    assert flat is not None
    torch.testing.assert_close(column, flat)
