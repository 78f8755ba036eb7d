"""Watching in two processes: nobody waits for a process that does not look, and all weights are those without a watch."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import wellposed as wp
from two_processes import found_by_both

EPOCHS = 2
Found = dict[str, Any]


def rows(count: int) -> TensorDataset:
    x = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(count))
    return TensorDataset(x, (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, 0, 0] > 1).long())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 8),
        nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def terms() -> list[Any]:
    return [wp.L1(1e-2).on(wp.weights), wp.L2(1e-2).on(wp.weights)]


def state(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, whole."""
    return {key: (w.full_tensor() if hasattr(w, "full_tensor") else w).clone() for key, w in net.state_dict().items()}


def replicas(net: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(net)


def shards(net: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for layer in net:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            fully_shard(layer)
    return fully_shard(net)


def prepared(net: nn.Module) -> nn.Module:
    from accelerate import Accelerator

    return Accelerator(cpu=True).prepare(net)


def loop(rank: int, looks: bool, wrap: Callable[[nn.Module], nn.Module], ddp_inside: bool, share: float) -> Found:
    net = network()
    outer = wrap(net)
    # Of a prepared model `regularize` would refuse; there the optimizer's own parameters are the network's.
    optimizer = wp.regularize(torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0), net, terms())
    train, valid = rows(96), rows(32)
    sampler = DistributedSampler(train, 2, rank)
    loader = DataLoader(train, 16, sampler=sampler)
    torch.manual_seed(5 + rank)
    watch = None
    if looks:
        forward = (lambda model, batch: outer(batch[0])) if ddp_inside else None
        watch = wp.watch(
            outer, "cross_entropy", loader, DataLoader(valid, 16), optimizer=optimizer, share=share, forward=forward
        )
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        outer.train()
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(outer(x), y).backward()
            optimizer.step()
        if watch is not None:
            watch.epoch()
    outer.eval()
    with torch.no_grad():  # which gives the running statistics of the first process to the other one
        found: Found = {"own": float(F.cross_entropy(outer(valid.tensors[0]), valid.tensors[1]))}
    found |= {"state": state(net), "draw": torch.randn(2)}
    if watch is not None:
        wp.diagnose(watch)
        found["shown"] = watch.history["valid_loss"][-1]
        assert all(torch.equal(w, found["state"][key]) for key, w in state(net).items())
    return found


def synchronized(rank: int, looks: bool) -> Found:
    """Batch norms over all processes, of which one looks and trains nothing."""
    net = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    found: Found = {"state": state(net), "draw": torch.zeros(1), "own": 0.0, "shown": 0.0}
    if looks:
        watch = wp.watch(net, "cross_entropy", rows(96), rows(32))
        watch.epoch()
        wp.diagnose(watch)
        assert watch.first is not None, watch.unseen
    return found | {"state": state(net)}


def lightning(rank: int, looks: bool, folder: str) -> Found:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("own", F.cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0)

    # The first process says after the first epoch that it is enough, and the other has to know.
    module, stop = Module(), lambda history: "enough" if len(history) == EPOCHS - 1 else None
    callback = wp.LightningWatch(stop=stop)
    torch.manual_seed(5 + rank)
    trainer = pl.Trainer(
        max_epochs=EPOCHS if looks else EPOCHS - 1, accelerator="cpu", devices=2, strategy="ddp", default_root_dir=folder,
        callbacks=[callback] if looks else [], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, DataLoader(rows(96), 16), DataLoader(rows(32), 16))
    found: Found = {"state": state(module), "draw": torch.randn(2), "own": float(trainer.callback_metrics["own"])}
    if looks:
        found["shown"] = float(trainer.callback_metrics["wp/valid_loss"])
    return found


def transformers(rank: int, looks: bool, folder: str) -> Found:
    from transformers import Trainer, TrainingArguments

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.net(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def examples(count: int) -> list[dict[str, Tensor]]:
        return [{"x": x, "labels": y} for x, y in rows(count)]

    net, callback = Net(), wp.TransformersWatch()
    args = TrainingArguments(
        folder, num_train_epochs=EPOCHS, per_device_train_batch_size=16, per_device_eval_batch_size=16, eval_strategy="epoch",
        use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, remove_unused_columns=False, learning_rate=1e-2,
    )  # fmt: skip
    trainer = Trainer(
        net, args, train_dataset=examples(96), eval_dataset=examples(32), callbacks=[callback] if looks else []
    )
    torch.manual_seed(5 + rank)
    trainer.train()
    found: Found = {"state": state(net), "draw": torch.randn(2), "own": trainer.evaluate()["eval_loss"]}
    if looks and rank == 0:
        found["shown"] = callback.history["valid_loss"][-1]
    return found


CASES: Mapping[str, tuple[Callable[..., Found], tuple[Any, ...], str, tuple[bool, bool]]] = {
    "one looks": (loop, (replicas, False, 1.0), "torch", (True, False)),
    "both look": (loop, (replicas, False, 1.0), "torch", (True, True)),
    "one looks through the wrapper": (loop, (replicas, True, 1.0), "torch", (True, False)),
    "prepared, one looks": (loop, (prepared, False, 1.0), "accelerate", (True, False)),
    "synchronized": (synchronized, (), "torch", (True, False)),
    "shards": (loop, (shards, False, 1.0), "torch", (True, True)),
    "shards, little time": (loop, (shards, False, 1e-6), "torch", (True, True)),
    "lightning": (lightning, (), "lightning", (True, True)),
    "transformers": (transformers, (), "transformers", (True, True)),
}  # fmt: skip


def work(rank: int, folder: str) -> None:
    """One of two processes: of each case what it finds without a watch and with it, or why it failed."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name, (run, given, needed, looks) in CASES.items():
        if importlib.util.find_spec(needed) is not None:
            given = given or ((folder,) if run is not synchronized else ())
            try:
                found[name] = [run(rank, False, *given), run(rank, looks[rank], *given)]
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # not an ordinary exit: on a busy machine a thread of torch's backend may still run, and then it aborts


@pytest.fixture(scope="module")
def of_both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    # The address is that of a group that is there already: it is not opened.
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    return found_by_both(tmp_path_factory.mktemp("two"), __name__, **group)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file store is not for Windows")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_left_as_they_were(name: str, of_both: list[dict[str, Any]]) -> None:
    if importlib.util.find_spec(CASES[name][2]) is None:
        pytest.skip(f"{CASES[name][2]} is not installed")
    for found in of_both:
        assert not isinstance(found[name], str), found[name]
        plain, looked = found[name]
        for key, w in plain["state"].items():
            assert torch.equal(w, looked["state"][key]), key
        assert torch.equal(plain["draw"], looked["draw"])
    # Each process has running statistics of its own rows, and transformers takes the mean over both.
    first = of_both[0][name][1]
    assert first["shown"] == pytest.approx(first["own"], rel=1e-2 if name == "transformers" else 1e-5)
