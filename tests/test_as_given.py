"""What a valid script gives is taken as it is: precision, losses that squeeze, huge Datasets, numbers of other libraries."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import wellposed as wp
from wellposed.data.splits import split
from wellposed.training.sides import FEW_TO_SHUFFLE, some_rows

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
WAYS = {
    "arrays": lambda x, y: (x, y),
    "Dataset": TensorDataset,
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), 20),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", WAYS)
def test_a_network_is_watched_in_its_own_precision(way: str, dtype: torch.dtype) -> None:
    side = WAYS[way](X.to(dtype), X[:, :1].to(dtype))
    watch = wp.watch(nn.Linear(3, 1).to(dtype), nn.MSELoss(), side, side)
    row = watch.epoch()
    assert row["train_loss"] > 0
    assert str(wp.diagnose(watch))


def test_doubles_are_not_rounded_for_a_network_of_doubles() -> None:
    net, fine = nn.Linear(3, 1).double(), X.double() + 1e-9
    with torch.no_grad():
        net.weight.fill_(1e9)
    exact = nn.functional.mse_loss(net(fine), fine[:, :1]).item()
    row = wp.watch(net, "squared_error", (fine, fine[:, :1]), (fine, fine[:, :1]), rows=60).epoch()
    assert row["train_loss"] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("loss", [nn.BCELoss(), nn.MSELoss(), nn.L1Loss()])
def test_a_loss_that_squeezes_takes_one_example(loss: nn.Module) -> None:
    net, y = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()), (X[:, 0] > 0).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of the shapes () and (1,)
        watch = wp.watch(net, lambda out, target: loss(out.squeeze(), target), (X, y), (X, y), rows=60)
        found = watch.epoch()["train_loss"]
    assert found == pytest.approx(loss(net(X).squeeze(), y).item(), rel=1e-5)


class Windows(Dataset):
    """As many examples as a long text has words."""

    def __len__(self) -> int:
        return 10**11

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return X[i % 60], i % 3


@pytest.mark.parametrize("way", [lambda data: data, DataLoader])
def test_a_dataset_of_any_length_is_watched_in_little_memory(way: object) -> None:
    watch = wp.watch(nn.Linear(3, 3), "cross_entropy", way(Windows()), way(Windows()))  # type: ignore[operator]
    watch.epoch()
    assert str(wp.diagnose(watch))


@pytest.mark.parametrize("size", [50, FEW_TO_SHUFFLE, FEW_TO_SHUFFLE + 1, 10**12])
def test_rows_of_a_probe_are_different_and_sorted(size: int) -> None:
    rows = some_rows(size, 50, torch.Generator().manual_seed(1))
    assert len(rows) == 50
    assert bool((rows.diff() > 0).all())
    assert 0 <= int(rows[0]) <= int(rows[-1]) < size


@pytest.mark.parametrize("share", [np.float32(0.25), torch.tensor(0.25), np.float64(0.25)])
@pytest.mark.parametrize("name", ["valid", "test"])
def test_a_share_may_be_a_number_of_another_library(share: object, name: str) -> None:
    prepared = wp.Data((X, X[:, :1]), **{name: share}).prepare()
    assert len(prepared.valid if name == "valid" else prepared.test or ()) == 15


def test_nothing_warns_of_what_is_only_read() -> None:
    x, y = X.numpy().copy(), X[:, :1].numpy().copy()
    x.flags.writeable = y.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wp.watch(nn.Linear(3, 1), "squared_error", (x, y), (x, y)).epoch()
        free = X.clone().requires_grad_(), X[:, :1].clone().requires_grad_()
        wp.watch(nn.Linear(3, 1), "squared_error", free, free).epoch()


class Broken(Dataset):
    """Fails as a disk does."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> object:
        raise OSError("the disk is gone")


class Backwards(Broken):
    """Of a length that no Dataset has."""

    def __len__(self) -> int:
        return -3


LINE, Y = nn.Linear(3, 1), X[:, :1]
LABELS, ORDER = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
MISUSE = {
    "one number": lambda: wp.watch(LINE, "squared_error", (X[0, 0], Y[0, 0]), (X, Y)),
    "targets of one number": lambda: wp.Data((X, Y[0, 0])).prepare(),
    "nested": lambda: wp.watch(LINE, "squared_error", (torch.nested.nested_tensor([X[0], X[1]]), Y[:2]), (X, Y)),
    "a Dataset that raises": lambda: wp.watch(LINE, "squared_error", Broken(), (X, Y)),
    "a Dataset of length -3": lambda: wp.watch(LINE, "squared_error", Backwards(), (X, Y)),
    "another model's optimizer": lambda: wp.fit(
        wp.Problem(lambda: nn.Linear(3, 1), "squared_error", wp.Data((X, Y))),
        wp.Recipe(epochs=1),
        optimizer=lambda _: torch.optim.SGD(LINE.parameters(), lr=0.1),
    ),
    "a model without numbers": lambda: wp.fit(
        wp.Problem(lambda: nn.Linear(3, 1, device="meta"), "squared_error", wp.Data((X, Y))), wp.Recipe(epochs=1)
    ),
    "a permutation of fractions": lambda: wp.mixed_targets(LABELS, ORDER.float(), 0.5, 3),
    "weights that are NaN": lambda: wp.mixed_targets(LABELS, ORDER, torch.full((3,), torch.nan), 3),
    "weights beyond 1": lambda: wp.mixed_targets(LABELS, ORDER, torch.full((3,), 2.0), 3),
    "images without rows": lambda: wp.cutmix(torch.zeros(2, 1, 0, 4), 1.0, torch.Generator()),
    "groups of several kinds": lambda: split(4, 0.5, seed=0, groups=np.array(["a", None, 1, "b"], dtype=object)),
    "times as text": lambda: split(4, 0.5, seed=0, time=np.array(["mon", "tue", "wed", "thu"])),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_answered_in_a_sentence(name: str) -> None:
    with pytest.raises(wp.WellposedError) as caught:
        MISUSE[name]()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
