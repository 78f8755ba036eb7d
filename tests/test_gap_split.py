"""The visible gap: its parts add up, are exact where a formula is known, and each is charged to its own cause."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp
from wellposed.core.errors import InputError
from wellposed.decomposition import gap_split as module
from wellposed.decomposition.gap_split import GapSplit, Stage, _between
from wellposed.optim.averaging import batch_norms

DRAW = torch.Generator().manual_seed(5)
X = torch.randn(200, 6, generator=DRAW)
Y = X @ torch.tensor([[1.0], [-1.0], [2.0], [0.0], [0.5], [0.0]]) + 0.3 * torch.randn(200, 1, generator=DRAW)
LABEL = (X[:, 0] + X[:, 1] > 0).long() + (X[:, 2] > 1).long()


def total(split: GapSplit) -> float:
    return math.fsum(share.estimate for share in split.shares)


def names(split: GapSplit) -> list[str]:
    return [share.name for share in split.shares]


def dropped(rate: float = 0.4) -> nn.Module:
    return nn.Sequential(nn.Dropout(rate), nn.Linear(6, 1))


def run_of(model: Any, recipe: wp.Recipe, y: Tensor = Y, loss: str = "squared_error") -> wp.Run:
    problem = wp.Problem(model, loss, wp.Data(train=(X[:120], y[:120]), valid=(X[120:], y[120:])))
    return wp.fit(problem, recipe, device="cpu")


def recipe(**settings: Any) -> wp.Recipe:
    return wp.Recipe(**{"epochs": 6, "batch_size": 30, "optimizer": {"name": "adam", "lr": 0.03}, **settings})


class TestClosedForms:
    """What is known exactly is found exactly, or within the interval of the draws."""

    def test_dropout_of_the_inputs_of_a_linear_model(self) -> None:
        """``E (y - (m x) w)^2 = (y - x w)^2 + p/(1-p) sum x_j^2 w_j^2``."""
        run = run_of(dropped, recipe())
        w = run.model[1].weight.detach()  # type: ignore[index]
        shift = float((0.4 / 0.6 * (X[:120].square() * w.square()).sum(1)).mean())
        found = wp.gap_split(run, draws=300)["dropout"]
        assert found.low < -shift < found.high
        assert found.estimate == pytest.approx(-shift, rel=0.05)

    def test_smoothing_has_a_known_shift(self) -> None:
        """``(1 - s) CE(y) + s mean_k CE(k)``, less ``CE(y)``."""
        run = run_of(lambda: nn.Linear(6, 3), recipe(noise={"label_smoothing": 0.2}), LABEL, "cross_entropy")
        scores = run.outputs(run.problem.prepared.train_clean).log_softmax(1)
        shift = 0.2 * float((scores.gather(1, LABEL[:120, None])[:, 0] - scores.mean(1)).mean())
        found = wp.gap_split(run)
        assert found["smoothing"].estimate == pytest.approx(-shift, abs=1e-6)
        assert found["smoothing"].low < -shift < found["smoothing"].high

    def test_penalty_is_what_is_charged(self) -> None:
        run = run_of(lambda: nn.Linear(6, 1), recipe(terms=[{"penalty": "l2", "strength": 0.3, "how": "loss"}]))
        charge = 0.15 * float(run.model.weight.detach().square().sum())  # type: ignore[operator, union-attr]
        assert wp.gap_split(run)["penalty"].estimate == pytest.approx(-charge, rel=1e-5)

    def test_the_true_gap_and_what_moved(self) -> None:
        run = run_of(lambda: nn.Linear(6, 1), recipe())
        found = wp.gap_split(run)
        train, valid = run.evaluate("train").loss.mean, run.evaluate("valid").loss.mean
        assert names(found) == ["moving", "generalization"]
        assert found["generalization"].estimate == pytest.approx(valid - train, abs=1e-12)
        assert found.true == pytest.approx(valid - train, abs=1e-12)
        assert found["moving"].estimate == pytest.approx(train - run.history.rows[run.best_epoch]["cost"], abs=1e-6)
        assert found["moving"].estimate < 0  # an epoch that lowers the loss is better at its end than on average


def everything() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))


def busy() -> wp.Run:
    return run_of(
        everything,
        recipe(
            terms=[{"penalty": "l2", "strength": 0.02, "how": "loss"}],
            noise={"label_smoothing": 0.1, "mixup": 0.3, "input": 0.1},
            averaging={"ema": 0.9},
        ),
        LABEL,
        "cross_entropy",
    )


class TestRun:
    def test_everything_at_once_adds_up(self) -> None:
        run = busy()
        before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        state = torch.get_rng_state()
        found = wp.gap_split(run)
        assert names(found) == list(module.STEPS)
        assert total(found) == pytest.approx(found.visible, abs=1e-12)
        assert found.visible == pytest.approx(run.evaluate().loss.mean - run.history.rows[run.best_epoch]["cost"])
        assert all(found[name].estimate < 0 for name in ("penalty", "smoothing", "inputs", "dropout"))
        assert all(share.low <= share.estimate <= share.high for share in found.shares)
        assert all(torch.equal(before[name], tensor) for name, tensor in run.model.state_dict().items())
        assert torch.equal(state, torch.get_rng_state())
        assert not run.model.training
        assert json.loads(json.dumps(found.to_dict()))["shares"][1]["name"] == "penalty"
        assert "true gap" in str(found)
        assert wp.gap_split(run).to_dict() == found.to_dict()

    def test_what_is_not_there_has_no_share(self) -> None:
        run = run_of(dropped, recipe(noise={"dropout": 0.0}))
        assert names(wp.gap_split(run)) == ["moving", "generalization"]

    def test_decay_is_no_part_of_what_is_logged(self) -> None:
        run = run_of(lambda: nn.Linear(6, 1), recipe(terms=[{"penalty": "l2", "strength": 0.3}]))
        found = wp.gap_split(run)
        assert "penalty" not in names(found)
        assert "beside the cost" in " ".join(found.notes)


class TestFigure:
    def test_begins_with_the_true_gap_and_ends_with_the_visible_one(self) -> None:
        pytest.importorskip("matplotlib")
        from wellposed.decomposition.gap_split import NAMES

        split = wp.gap_split(busy())
        steps = split.bars()
        assert [step.name for step in steps] == [*reversed(module.STEPS), "visible"]
        assert (steps[0].start, steps[0].size) == (0.0, pytest.approx(split.true))
        assert steps[-2].end == pytest.approx(steps[-1].size) == pytest.approx(split.visible)
        svg = split.figure()
        assert all(f">{NAMES[step.name]}<" in svg for step in steps)
        assert svg in split._repr_html_() + "\n"
        assert "<pre>" in split._repr_html_()

    def test_a_loss_that_is_no_number_is_not_drawn(self) -> None:
        pytest.importorskip("matplotlib")
        lost = GapSplit(math.nan, 0.1, 0.2, (module.GapShare("moving", math.nan, math.nan, math.nan),))
        assert "<svg" not in lost._repr_html_()
        assert "nan" in lost._repr_html_()


class TestWatch:
    """A loop of somebody's own."""

    def loop(self, model: nn.Module, loss: Any, y: Tensor, terms: Any = (), epochs: int = 5) -> tuple[Any, float]:
        torch.manual_seed(0)
        bare = torch.optim.Adam(model.parameters(), lr=0.02)
        optimizer = wp.regularize(bare, model, list(terms)) if terms else bare
        watch = wp.watch(model, loss, train=(X[:120], y[:120]), valid=(X[120:], y[120:]), optimizer=optimizer, rows=80)
        logged = 0.0
        for _ in range(epochs):
            model.train()
            logged = 0.0
            for part in torch.randperm(120).split(30):
                optimizer.zero_grad()
                cost = loss(model(X[part]), y[part])
                if terms:
                    cost = cost + optimizer.penalty()  # type: ignore[union-attr]
                cost.backward()
                optimizer.step()
                logged += float(cost.detach()) / 4
            watch.epoch()
        return watch, logged

    def test_modes_penalty_and_smoothing(self) -> None:
        model = everything()
        watch, logged = self.loop(
            model, nn.CrossEntropyLoss(label_smoothing=0.1), LABEL, [wp.L2(0.05).on(wp.weights, how="loss")]
        )
        buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
        model.train()
        found = wp.gap_split(watch, logged=logged, batch_size=30)
        assert model.training
        assert all(torch.equal(buffers[name], tensor) for name, tensor in model.named_buffers())
        assert names(found) == ["unseen", "penalty", "smoothing", "dropout", "batch_norm", "generalization"]
        charge = sum(0.025 * float(layer.weight.detach().square().sum()) for layer in (model[0], model[4]))  # type: ignore[index]
        assert found["penalty"].estimate == pytest.approx(-charge, rel=1e-4)
        assert total(found) == pytest.approx(found.visible, abs=1e-12)
        assert found.visible == pytest.approx(found.valid - logged, abs=1e-12)
        assert found.true == pytest.approx(watch.history.rows[-1]["valid_loss"] - watch.history.rows[-1]["train_loss"])

    def test_without_the_logged_loss_nothing_is_unseen(self) -> None:
        watch, _ = self.loop(dropped(), nn.MSELoss(), Y)
        found = wp.gap_split(watch)
        assert names(found) == ["dropout", "generalization"]
        assert "not given" in " ".join(found.notes)

    def test_noise_by_hooks_is_seen_and_goes_on_as_if_nothing_was_asked(self) -> None:
        """``E (y - (m x) w)^2`` of Gaussian dropout on the inputs has dropout's shift."""
        model = nn.Sequential(nn.Identity(), nn.Linear(6, 1))
        with wp.perturb(model, [wp.GaussianDropout(0.4).on("0")]) as noise:
            watch, _ = self.loop(model, nn.MSELoss(), Y)
            step = noise.step
            found = wp.gap_split(watch, draws=200)
            assert noise.step == step
            model.train()
            after = model(X[:5])
            noise.step = step
            assert torch.equal(after, model(X[:5]))
        w = model[1].weight.detach()
        inputs = torch.cat([batch[0] for batch, _ in watch.batches("train")])
        shift = 0.4 / 0.6 * float((inputs.square() * w.square()).sum(1).mean())
        assert found["dropout"].low < -shift < found["dropout"].high
        assert found["dropout"].estimate == pytest.approx(-shift, rel=0.1)

    def test_mappings_and_pairs_are_split_alike(self) -> None:
        batch = {"x": X[:61], "y": (Y[:61], LABEL[:61])}
        parts = list(module._split(batch, 30))
        assert [len(part["x"]) for part in parts] == [30, 31]
        assert torch.equal(torch.cat([part["y"][1] for part in parts]), LABEL[:61])


class TestRefused:
    @pytest.mark.parametrize("settings", [{"draws": 0}, {"level": 1.0}, {"batch_size": 1}, {"logged": 1.0}])
    def test_numbers(self, settings: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            wp.gap_split(run_of(dropped, recipe(epochs=1)), **settings)

    def test_anything_else(self) -> None:
        with pytest.raises(InputError, match="a Run or a Watch"):
            wp.gap_split(nn.Linear(1, 1))  # type: ignore[arg-type]


class TestMutants:
    """Wrong versions that the checks above are known to catch."""

    def test_sign_turned_around(self) -> None:
        a, b = Stage(np.full((3, 1), 2.0), np.zeros(1)), Stage(np.full((3, 1), 1.0), np.zeros(1))
        assert _between("penalty", a, b, 0.95).estimate == -1.0

    def test_draws_are_paired(self) -> None:
        """Equal noise on both sides cancels: unpaired, the interval would be that of the noise."""
        noise = np.random.default_rng(0).normal(size=(50, 4))
        a, b = Stage(noise, np.zeros(1)), Stage(noise + 0.1, np.zeros(1))
        found = _between("dropout", a, b, 0.95)
        assert found.high - found.low < 1e-9

    def test_batch_norm_in_evaluation_is_not_dropout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A split that switches batch norm off together with dropout leaves nothing for batch norm."""
        run = busy()
        honest = wp.gap_split(run)
        assert batch_norms(run.model)
        right = module.loss_as_trained

        def wrong(problem: Any, state: Any, view: Any, **settings: Any) -> Any:
            mode = "evaluation" if view.mode == "norms" else view.mode
            return right(problem, state, type(view)(view.recipe, mode, view.augmented, view.smooth), **settings)

        monkeypatch.setattr(module, "loss_as_trained", wrong)
        assert "batch_norm" not in names(wp.gap_split(run))
        assert honest["batch_norm"].estimate != 0.0


def test_smoothed_cross_entropy_formula() -> None:
    """The formula that the closed form above rests on is torch's."""
    scores = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    logs, y = scores.log_softmax(1), torch.tensor([0, 1, 2, 0, 1])
    by_hand = -(0.8 * logs.gather(1, y[:, None])[:, 0] + 0.2 * logs.mean(1)).mean()
    assert torch.allclose(by_hand, F.cross_entropy(scores, y, label_smoothing=0.2))
