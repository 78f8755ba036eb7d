"""Score against size: what leaves, what is picked, what is said where nothing can leave, and what the report shows of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("optuna")
pytest.importorskip("sklearn")

import wellposed as wp
from wellposed.core.files import read_json
from wellposed.search import timing
from wellposed.search.confirmation import Confirmed
from wellposed.search.holdout import with_test
from wellposed.search.runner import Bench
from wellposed.search.smaller import STRENGTHS, charged, smaller
from wellposed.study.budget import Account, Budget
from wellposed.study.trials import State

pytestmark = pytest.mark.usefixtures("own_clock")
BEST = wp.Recipe(batch_size=16, optimizer={"lr": 0.01})


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wellposed.sparsity.compress.SECONDS", 0.0)
        yield
    torch.set_num_threads(threads)


def rows(count: int = 200) -> tuple[Tensor, Tensor]:
    """Classes that the first of five numbers tells."""
    x = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def make_net(width: int = 12) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 2))


def normed() -> nn.Module:
    """Every layer of it reads what a norm made of all units."""
    return nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2))


class Branching(nn.Module):
    """Whose graph depends on its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x if float(x.sum()) > 0 else -x)
        return out


def traded(
    model: Any, best: wp.Recipe = BEST, epochs: int = 25, budget: str = "4 recipes", gone: float = 0.0
) -> tuple[dict[str, Any], Bench, wp.Problem]:
    """What a study with this best recipe finds after its confirmation."""
    problem = with_test(wp.Problem(model, "cross_entropy", wp.Data(train=rows())))
    account = Account(Budget.parse(budget), time.monotonic() - gone)
    bench = Bench(problem, account, State("d", "accuracy", 0, False), None, torch.device("cpu"), "inprocess")
    run = wp.fit(problem, best.replace(epochs=2), seed=1000)
    return smaller(bench, Confirmed(best, best, [(run, run)], looks=1, epochs=epochs)), bench, problem


def test_the_picked_model_is_small_as_good_and_made_again_by_its_recipe() -> None:
    found, bench, problem = traded(make_net)
    points = found["points"]
    sizes, scores = ([point[key] for point in points] for key in ("parameters", "valid"))
    assert sizes == sorted(sizes, reverse=True)
    for point in points:
        beaten = [
            size <= point["parameters"] and score >= point["valid"] and (size, score) != (point["parameters"], point["valid"])
            for size, score in zip(sizes, scores, strict=True)
        ]  # fmt: skip
        assert point["front"] is not any(beaten)
    [picked] = [point for point in points if point["picked"]]
    assert picked["front"]
    assert picked["parameters"] < 0.5 * picked["before"]
    assert picked["behind"] <= picked["behind_se"]
    assert all(p["behind"] > p["behind_se"] for p in points if p["parameters"] < picked["parameters"])
    again = wp.fit(problem, wp.Recipe.from_toml(found["recipe"]), seed=3000)
    small = wp.compress(again)
    assert small.after.parameters == picked["parameters"]
    assert small.difference <= small.tolerance
    assert again.score("test") == pytest.approx(found["test"])
    right = again.row_scores("valid")
    assert picked["valid_se"] == pytest.approx(right.std(ddof=1) / np.sqrt(len(right)))
    assert [trial.kind for trial in bench.state.trials] == ["small"] * (1 + len(STRENGTHS))
    assert not bench.state.pending


@pytest.mark.parametrize(
    ("model", "said", "trained"),
    [(normed, "No strength of the group penalty made the network smaller", True), (Branching, "cannot be", False)],
)
def test_where_nothing_can_leave_it_is_said(model: Any, said: str, trained: bool) -> None:
    found, bench, _ = traded(model, epochs=3)
    assert found["points"] == []
    assert said in found["said"]
    assert found["said"] in bench.notes
    assert bool(bench.state.trials) is trained


def test_terms_without_a_joint_step_are_left_out_and_named() -> None:
    bounded = BEST.replace(terms=[{"penalty": "max_norm", "bound": 1.0, "by": "unit"}])
    _, bench, _ = traded(make_net, bounded, epochs=1)
    assert "MaxNorm" in bench.notes[0]
    assert "without the recipe's own terms" in bench.notes[0]
    joined = BEST.replace(terms=[{"penalty": "l2", "strength": 0.01}, {"penalty": "l1", "strength": 1e-4}])
    assert len(charged(bench, joined)[0].terms) == 3
    assert len(bench.notes) == 2, "the other one is that nothing was zero after one epoch"


def test_a_study_shows_it_and_has_nothing_of_it_where_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(timing, "PLAIN_EPOCHS", 12)
    monkeypatch.setattr("wellposed.search.smaller.STRENGTHS", (0.03, 0.1))
    problem = wp.Problem(make_net, "cross_entropy", wp.Data(train=rows(150)), name="five")
    studies = [wp.improve(problem, "2 recipes", out=tmp_path / str(small), small=small) for small in (True, False)]
    records = [read_json(study.folder / "study.json", 1, "study") for study in studies if study.folder]
    assert "small" not in records[1]
    kinds = ("baseline", "search", "finalist", "confirmation")
    kept = [[(t.index, t.recipe, t.valid) for t in study.trials if t.kind in kinds] for study in studies]
    assert kept[0] == kept[1]
    [picked] = [point for point in records[0]["small"]["points"] if point["picked"]]
    left, before = (f"{picked[key]:,}" for key in ("parameters", "before"))
    assert f"with {left} of {before} parameters" in str(studies[0])
    page = wp.report(studies[0], tmp_path / "page.html").read_text()
    [section] = re.findall(r'<section id="small">(.*?)</section>', page, re.DOTALL)
    assert f'<td class="n">{left}</td>' in section
    assert "picked" in section
    assert '<section id="small">' not in wp.report(studies[1], tmp_path / "other.html").read_text()


def test_under_a_clock_it_has_the_epochs_that_fit_or_says_that_there_is_no_time() -> None:
    found, bench, _ = traded(make_net, budget="1000s", epochs=12)
    assert {trial.epochs for trial in bench.state.trials} == {12}
    assert found
    found, bench, _ = traded(make_net, budget="1000s", gone=900.0)
    assert "no time" in found["said"]
    assert not bench.state.trials
