"""Other people's trainers: the same seed gives the same audit, first finding, losses and zeros as the plain loop."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, SequentialSampler, TensorDataset

import wellposed as wp
from wellposed.core.errors import CompositionError, InputError, MissingExtra
from wellposed.optim.wrapper import find_wrapper

os.environ.setdefault("KERAS_BACKEND", "torch")
pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS, BATCH, RATE = 8, 32, 0.05
ADAPTERS = {
    "lightning": "LightningWatch", "transformers": "TransformersWatch", "skorch": "SkorchWatch", "keras": "KerasWatch",
}  # fmt: skip
TERMS = (wp.L1(0.01).on(wp.weights), wp.L2(0.01).on(wp.weights), wp.MaxNorm(0.8, by="unit").on("*hidden*"))


def needs(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def rows(seed: int, size: int) -> tuple[Tensor, Tensor]:
    draw, truth = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(9)
    x, w = torch.randn(size, 12, generator=draw), torch.randn(12, 3, generator=truth)
    return x, (x @ w + torch.randn(size, 3, generator=draw)).argmax(1)


TRAIN, VALID = rows(1, 192), rows(2, 128)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.out = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(torch.relu(self.hidden(x)))
        return found


class Labelled(nn.Module):
    """As transformers calls networks, and what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Items(Dataset[Any]):
    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.x, self.y = data

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "labels": self.y[i]}


class Seen(NamedTuple):
    """What a training gave: the network, its callback or watch, the audit, and the diagnosis."""

    net: nn.Module
    by: Any
    audit: Any
    diagnosis: Any

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.net.parameters()]


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(TensorDataset(*TRAIN), BATCH), DataLoader(TensorDataset(*VALID), BATCH)


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9)


def step(net: nn.Module, optimizer: Any, x: Tensor, y: Tensor, backward: Any = None) -> None:
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    found = find_wrapper(optimizer, type(wp.regularize(sgd(net), net)))
    if found is not None and any(term.how == "loss" for term in found.terms):
        loss = loss + found.penalty()
    (backward or Tensor.backward)(loss)
    optimizer.step()


def plain(terms: Any = TERMS, epochs: int = EPOCHS) -> Seen:
    net = Net()
    optimizer = wp.regularize(sgd(net), net, terms)
    train, valid = loaders()
    watch = wp.watch(net, "cross_entropy", train, valid, optimizer=optimizer, share=1)
    for _ in range(epochs):
        for x, y in train:
            step(net, optimizer, x, y)
        watch.epoch()
    return Seen(net, watch, optimizer.audit(), wp.diagnose(watch))


def lightning_module(optimizer: Callable[[nn.Module], Any] = sgd, module: Any = None) -> Any:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.net(x)
            return found

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return optimizer(self)

    return Module()


def by_lightning(
    terms: Any = TERMS, epochs: int = EPOCHS, *, more: Any = (), module: Any = None, resume: Any = None, **given: Any
) -> Any:
    needs("lightning")
    import lightning.pytorch as pl

    watch, module = wp.LightningWatch(terms, share=1, **given), module or lightning_module()
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[watch, *more], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=1,
    )  # fmt: skip
    trainer.fit(module, *loaders(), ckpt_path=resume)
    return Seen(module.net, watch, watch.audit() if terms else None, watch.diagnosis), trainer


def by_transformers(
    terms: Any = TERMS,
    epochs: int = EPOCHS,
    *,
    folder: Any,
    given: bool = True,
    resume: Any = None,
    sets: Any = None,
    **settings: Any,
) -> Seen:
    needs("transformers")
    import transformers

    transformers.logging.set_verbosity_error()

    class InOrder(transformers.Trainer):  # type: ignore[misc,name-defined]
        def _get_train_sampler(self, *args: Any, **keywords: Any) -> Any:
            return SequentialSampler(TensorDataset(*TRAIN))

        def create_optimizer(self, *args: Any) -> Any:
            self.optimizer = self.optimizer or sgd(self.model)
            return self.optimizer

    net, watch = Labelled(), wp.TransformersWatch(terms, share=1, **settings)
    arguments = transformers.TrainingArguments(
        str(folder), num_train_epochs=epochs, per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH,
        max_grad_norm=0.0, lr_scheduler_type="constant", use_cpu=True, report_to=[], disable_tqdm=True, eval_strategy="epoch",
        save_strategy="epoch", logging_strategy="no", learning_rate=RATE,
    )  # fmt: skip
    trainer = InOrder(
        net, arguments, train_dataset=Items(TRAIN), eval_dataset=sets or Items(VALID), callbacks=[watch],
        optimizers=(sgd(net) if given else None, None),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return Seen(net.net, watch, watch.audit() if terms else None, watch.diagnosis)


def by_skorch(terms: Any = TERMS, epochs: int = EPOCHS, *, net: Any = None, **given: Any) -> Any:
    needs("skorch")
    import skorch
    from skorch.helper import predefined_split

    net = net or skorch.NeuralNet(
        Net, nn.CrossEntropyLoss, lr=RATE, optimizer__momentum=0.9, batch_size=BATCH, max_epochs=epochs, verbose=0,
        train_split=predefined_split(TensorDataset(*VALID)), callbacks=[wp.SkorchWatch(terms, share=1, **given)],
    )  # fmt: skip
    net.partial_fit(TensorDataset(*TRAIN), None)
    watch = next(callback for _, callback in net.callbacks_ if isinstance(callback, wp.SkorchWatch))
    return Seen(net.module_, watch, watch.audit() if terms else None, watch.diagnosis), net


def by_accelerate(terms: Any = TERMS, epochs: int = EPOCHS, *, fabric: bool = False) -> Seen:
    needs("lightning" if fabric else "accelerate")
    net = Net()
    ours = wp.regularize(sgd(net), net, terms)
    train, valid = loaders()
    if fabric:
        import lightning.fabric as lf

        trainer: Any = lf.Fabric(accelerator="cpu")
        prepared, optimizer = trainer.setup(net, ours)
        train, valid = trainer.setup_dataloaders(train, valid)
    else:
        from accelerate import Accelerator

        trainer = Accelerator(cpu=True)
        prepared, optimizer, train, valid = trainer.prepare(net, ours, train, valid)
    watch = wp.watch(prepared, "cross_entropy", train, valid, optimizer=optimizer, share=1)
    for _ in range(epochs):
        for x, y in train:
            step(prepared, optimizer, x, y, trainer.backward)
        watch.epoch()
    return Seen(net, watch, ours.audit(), wp.diagnose(watch))


TRAINERS: dict[str, Callable[[Path], Seen]] = {
    "lightning": lambda folder: by_lightning()[0],
    "transformers": lambda folder: by_transformers(folder=folder),
    "transformers, create_optimizer": lambda folder: by_transformers(folder=folder, given=False),
    "skorch": lambda folder: by_skorch()[0],
    "accelerate": lambda folder: by_accelerate(),
    "fabric": lambda folder: by_accelerate(fabric=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_gives_what_the_plain_loop_gives(name: str, tmp_path: Path) -> None:
    wanted, found = plain(), TRAINERS[name](tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(wanted.weights(), found.weights(), strict=True))
    assert sum(int((w == 0).sum()) for w in found.weights()) > 10
    assert audited(found.audit) == audited(wanted.audit)
    assert found.audit.notes == wanted.audit.notes
    assert found.by.history["valid_loss"] == pytest.approx(wanted.by.history["valid_loss"], rel=1e-6)
    assert found.by.history["zeros"] == wanted.by.history["zeros"]
    assert found.diagnosis[0].name == wanted.diagnosis[0].name
    assert found.diagnosis[0].confidence == pytest.approx(wanted.diagnosis[0].confidence, abs=1e-3)


def audited(audit: Any) -> list[tuple[str, ...]]:
    """Rows of an audit, with the names of the network alone."""
    return [(row.parameter.removeprefix("net."), *map(str, astuple(row)[1:])) for row in audit.rows]


def by_keras(terms: Any = TERMS, epochs: int = EPOCHS, **given: Any) -> Any:
    needs("keras")
    import keras

    net = Net()
    layers = [keras.layers.Dense(16, activation="relu", name="hidden"), keras.layers.Dense(3, name="out")]
    model = keras.Sequential([keras.Input((12,)), *layers])
    for layer, ours in zip(layers, (net.hidden, net.out), strict=True):
        layer.set_weights([ours.weight.detach().numpy().T, ours.bias.detach().numpy()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(RATE, momentum=0.9), loss=loss)
    watch = wp.KerasWatch(terms, train=TRAIN, valid=VALID, share=1, **given)
    x, y = (part.numpy() for part in TRAIN)
    seen = model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=[watch])
    with torch.no_grad():
        for layer, ours in zip(layers, (net.hidden, net.out), strict=True):
            ours.weight.copy_(layer.kernel.value.T)
            ours.bias.copy_(layer.bias.value)
    return Seen(net, watch, watch.audit() if terms else None, watch.diagnosis), seen


IN_LOSS = (
    wp.L1(0.01).on(wp.weights, how="loss"), wp.GroupL2(0.003, by="unit").on("*hidden*", how="loss"),
    wp.MaxNorm(0.8, by="unit").on("*hidden*"),
)  # fmt: skip


@pytest.mark.slow
def test_keras_adds_penalties_to_its_loss_and_projects() -> None:
    (found, logs), wanted = by_keras(IN_LOSS), plain(IN_LOSS)
    for a, b in zip(wanted.weights(), found.weights(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert [(row.term, row.how, row.shape) for row in found.audit.rows] == [
        (row.term, row.how, row.shape) for row in wanted.audit.rows
    ]
    assert found.by.history["valid_loss"] == pytest.approx(wanted.by.history["valid_loss"], rel=1e-4)
    assert logs.history["wp/penalty"] == pytest.approx(wanted.by.history["penalty"], rel=1e-4)
    assert found.diagnosis[0].name == wanted.diagnosis[0].name
    assert float(found.net.hidden.weight.norm(dim=1).max()) <= 0.8 * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightning", "transformers", "skorch"])
def test_terms_by_loss_are_added_where_nobody_can_add_to_the_loss(name: str, tmp_path: Path) -> None:
    found = {
        "lightning": lambda: by_lightning(IN_LOSS, 3)[0],
        "transformers": lambda: by_transformers(IN_LOSS, 3, folder=tmp_path),
        "skorch": lambda: by_skorch(IN_LOSS, 3)[0],
    }[name]()
    for a, b in zip(plain(IN_LOSS, 3).weights(), found.weights(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert not any("added to the cost" in note for note in found.audit.notes)


KEPT = (wp.L1(0.02).on("*hidden*"), wp.L2SP(0.1).on("*out*"), wp.NonNegative().on(wp.named("*hidden.bias")))
"""Zeros, weights at the start that are pulled to, and a constraint."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightning", "transformers", "skorch"])
def test_a_run_that_is_resumed_equals_one_that_was_not_interrupted(name: str, tmp_path: Path) -> None:
    wanted = plain(KEPT)
    if name == "lightning":
        trainer = by_lightning(KEPT, EPOCHS // 2)[1]
        trainer.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
        found = by_lightning(KEPT, resume=str(tmp_path / "half.ckpt"))[0]
    elif name == "transformers":
        by_transformers(KEPT, EPOCHS // 2, folder=tmp_path)
        steps = len(loaders()[0]) * EPOCHS // 2
        found = by_transformers(KEPT, folder=tmp_path, resume=str(tmp_path / f"checkpoint-{steps}"))
    else:
        from sklearn.base import clone

        first = by_skorch(KEPT, EPOCHS // 2)[1]
        first.save_params(f_params=tmp_path / "p", f_optimizer=tmp_path / "o")
        second = clone(first)
        second.initialize().load_params(f_params=tmp_path / "p", f_optimizer=tmp_path / "o")
        found = by_skorch(net=second)[0]
    assert all(torch.equal(a, b) for a, b in zip(wanted.weights(), found.weights(), strict=True))
    assert bool((found.net.hidden.weight == 0).any())
    if name != "skorch":  # it saves no callbacks
        assert found.by.history["valid_loss"] == pytest.approx(wanted.by.history["valid_loss"], rel=1e-6)
        assert found.diagnosis[0].name == wanted.diagnosis[0].name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averages_of_lightning_keep_zeros_and_are_what_is_watched(kind: str) -> None:
    needs("lightning")
    from lightning.pytorch import callbacks

    if not hasattr(callbacks, "WeightAveraging"):
        pytest.skip("this lightning has no WeightAveraging")
    average = (
        callbacks.WeightAveraging(avg_fn=torch.optim.swa_utils.get_ema_avg_fn(0.9))
        if kind == "ema"
        else callbacks.StochasticWeightAveraging(RATE, swa_epoch_start=3)
    )
    found, trainer = by_lightning(more=[average])
    weights = found.net.hidden.weight
    assert int((weights == 0).sum()) > 10
    assert float(trainer.callback_metrics["wp/valid_loss"]) == pytest.approx(
        float(trainer.callback_metrics["val_loss"]), rel=1e-5
    )
    last = plain().weights()
    assert not torch.equal(last[0], weights)  # it is an average


STOPS: dict[str, Callable[[Path, Any], Any]] = {
    "lightning": lambda folder, stop: by_lightning(stop=stop)[0],
    "transformers": lambda folder, stop: by_transformers(folder=folder, stop=stop),
    "skorch": lambda folder, stop: by_skorch(stop=stop)[0],
    "keras": lambda folder, stop: by_keras((), stop=stop)[0],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPS)
def test_a_stopping_rule_ends_training(name: str, tmp_path: Path) -> None:
    found = STOPS[name](tmp_path, lambda history: "turned" if len(history) == 3 else None)
    assert len(found.by.history) == 3
    assert found.by.stopped == "turned"


def test_a_loss_that_nobody_knows_is_asked_of_the_step_which_leaves_nothing_behind() -> None:
    needs("lightning")
    module = lightning_module()
    module.gathered, module.counted = [], nn.Module()

    def training_step(self: Any, batch: Any, index: int) -> Tensor:
        self.gathered.append(index)
        found = F.cross_entropy(self(batch[0]), batch[1]) + self(batch[0]).square().mean()
        self.log("train_loss", found)
        return found

    type(module).training_step = training_step
    (found, _), steps = by_lightning((), 2, module=module), len(loaders()[0])
    assert len(module.gathered) == 2 * steps
    outputs = module.net(VALID[0])
    own = F.cross_entropy(outputs, VALID[1]) + outputs.square().mean()
    assert found.by.history["valid_loss"][-1] == pytest.approx(float(own.detach()), rel=1e-5)


@pytest.mark.parametrize("library", ADAPTERS)
def test_what_no_trainer_can_enforce_is_refused_when_the_callback_is_made(library: str) -> None:
    with pytest.raises(CompositionError, match=r"looks at each batch's outputs.*Add optimizer.penalty\(outputs\)"):
        getattr(wp, ADAPTERS[library])(terms=[wp.Confidence(0.1).on()])


@pytest.mark.parametrize("term", [wp.L1(0.1).on(), wp.L2(0.1).on()], ids=["prox", "decay"])
def test_keras_refuses_what_is_part_of_a_step(term: Any) -> None:
    with pytest.raises(CompositionError, match=r"part of the optimizer's step.*how='loss'"):
        wp.KerasWatch(term)


def test_a_trainer_without_validation_rows_is_told_what_to_give() -> None:
    needs("lightning")
    import lightning.pytorch as pl

    trainer = pl.Trainer(
        max_epochs=1, callbacks=[wp.LightningWatch()], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"LightningWatch found no validation data.*Give valid="):
        trainer.fit(lightning_module(), loaders()[0])


def test_terms_given_twice_are_refused() -> None:
    needs("lightning")
    module = lightning_module(lambda net: wp.regularize(sgd(net), net, [wp.L1(0.1).on()]))
    with pytest.raises(CompositionError, match="regularized already"):
        by_lightning(module=module)


@pytest.mark.parametrize("library", ADAPTERS)
def test_a_library_that_is_missing_is_told_and_a_name_costs_nothing(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = getattr(wp, ADAPTERS[library])

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name=name.split(".")[0])

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match=rf"needs '{library}'.*pip install 'wellposed\[{library}\]'"):
        type("Fresh", (made,), {})()


def test_names_of_callbacks_import_no_library() -> None:
    names = ", ".join(f"wp.{name}" for name in ADAPTERS.values())
    code = f"import sys, wellposed as wp; {names}; print(*sorted({set(ADAPTERS)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_several_evaluation_sets_are_one_look(tmp_path: Path) -> None:
    needs("transformers")
    found = by_transformers((), 2, folder=tmp_path, sets={"a": Items(VALID), "b": Items(VALID)})
    assert len(found.by.history) == 2


def test_a_trainers_own_call_that_fails_is_not_told_as_the_users() -> None:
    needs("skorch")
    import skorch

    class Two(Net):
        def forward(self, x: Tensor, scale: float) -> Tensor:  # type: ignore[override]
            return scale * super().forward(x)

    class Scaled(skorch.NeuralNet):  # type: ignore[misc]
        def train_step_single(self, batch: Any, **given: Any) -> Any:
            loss = F.cross_entropy(self.module_(batch[0], 2.0), batch[1])
            loss.backward()
            return {"loss": loss, "y_pred": loss}

        def validation_step(self, batch: Any, **given: Any) -> Any:
            return self.train_step_single(batch)

    net = Scaled(Two, nn.CrossEntropyLoss, callbacks=[wp.SkorchWatch()], verbose=0)
    with pytest.raises(InputError, match="The model, called as skorch calls it"):
        net.fit(*TRAIN)
    own = wp.SkorchWatch(forward=lambda model, batch: model(batch[0], 2.0))
    net.set_params(callbacks=[own], max_epochs=1, callbacks__print_log=None).fit(*TRAIN)
    assert len(own.history) == 1


def test_a_fitted_net_is_pickled_and_goes_on() -> None:
    _, net = by_skorch(epochs=1)
    again = pickle.loads(pickle.dumps(net))
    assert type(again.optimizer_) is torch.optim.SGD
    assert by_skorch(net=again)[0].by.optimizer.steps == 2 * len(loaders()[0])
