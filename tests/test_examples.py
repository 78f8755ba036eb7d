"""The examples run as they are, stay short, and show what they say they show."""

from __future__ import annotations

import math
import runpy
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

import wellposed as wp

EXAMPLES = Path(__file__).parent.parent / "examples"
LONGEST = 80


def example(name: str) -> dict[str, Any]:
    """What an example defines, without running its last lines."""
    return runpy.run_path(str(EXAMPLES / name), run_name="example")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("own_loop_*.py")), ids=lambda path: path.name)
def test_examples_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < LONGEST


@pytest.fixture(scope="module")
def as_printed() -> tuple[dict[str, Any], str]:
    """What the example of convolutions made, run as a program, and what it printed."""
    pytest.importorskip("sklearn")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr("sys.argv", ["own_loop_cnn.py"])
        patch.setattr("wellposed.training.watch.FREE", math.inf)
        return runpy.run_path(str(EXAMPLES / "own_loop_cnn.py"), run_name="__main__"), printed.getvalue()


@pytest.mark.parametrize("regularized", [False, True])
def test_the_planted_overfit_is_found_and_mended(regularized: bool, as_printed: tuple[dict[str, Any], str]) -> None:
    made = as_printed[0]
    watch, optimizer = made["train"](regularized) if regularized else (made["watch"], made["optimizer"])
    names = [finding.name for finding in wp.diagnose(watch)]
    assert ("overfits" in names) is not regularized
    row = watch.history.rows[-1]
    gap = row["valid_loss"] - row["train_loss"]
    assert (gap > 0.3) is not regularized
    audit = str(optimizer.audit())
    if regularized:
        assert "prox" in audit
        assert "project" in audit
        assert row["zeros"] > 0.5
        assert row["penalty"] > 0
    else:
        assert audit.count("not charged") == 8
        assert row["zeros"] == 0


def test_the_transformer_is_watched_by_tokens() -> None:
    found = example("own_loop_transformer.py")
    watch, optimizer = found["train"](epochs=2, rows=128)
    losses = watch.history["valid_loss"]
    assert losses[1] < losses[0] < 4.0
    assert 0 < watch.history["valid_loss_se"][1] < 0.2
    assert watch.metric is not None
    assert watch.metric.name == "accuracy"
    assert "layers.layers.0" in str(optimizer.audit())
    # Padding is left out: the loss is the mean over the tokens that count.
    batch = torch.utils.data.default_collate(found["texts"](watch.rows, seed=2)[:4])
    assert (batch["labels"] == found["PAD"]).any()


def test_an_example_prints_audit_curves_and_findings(as_printed: tuple[dict[str, Any], str]) -> None:
    for part in ("0.weight", "train_loss", "% of the time", "overfits"):
        assert part in as_printed[1]


def test_a_problem_in_a_file_can_be_trained() -> None:
    from wellposed.training.ready_problems import file_problem

    problem = file_problem(f"{EXAMPLES / 'problem.py'}:problem")
    run = wp.fit(problem, wp.Recipe(epochs=1), deadline=0.0, device="cpu")
    assert len(run.history) == 1


@pytest.mark.parametrize("name", ["unet", "vae", "gan", "graph"])
def test_the_loops_of_other_kinds_are_watched_as_they_are(name: str) -> None:
    """Losses that fall, on a scale that is the loop's own, and weights that are those without the watch."""
    found = example(f"own_loop_{name}.py")
    epochs = {"unet": 2, "vae": 3, "gan": 4, "graph": 60}[name]
    watch, made = found["train"](epochs=epochs)
    losses = watch.history["valid_loss"]
    assert len(losses) == epochs
    if name == "unet":
        image, mask = (torch.stack([row[key] for row in found["discs"](128, 1)]) for key in ("image", "mask"))
        with torch.no_grad():
            assert losses[-1] == pytest.approx(float(found["dice"](made.eval()(image), mask).mean()), rel=1e-4)
        assert losses[-1] < losses[0]
        assert "not_learning" not in [one.name for one in wp.diagnose(watch)]
    elif name == "vae":
        assert 20 < losses[-1] < losses[0] < 60  # nats a row, though the loss is a sum
    elif name == "gan":
        again = found["train"](epochs=epochs, terms=(wp.SpectralBall(1.0).on(wp.weights),))[0]
        assert all(
            float(torch.linalg.matrix_norm(p, 2)) < 1.0001 for p in again.model.state_dict().values() if p.ndim == 2
        )
    else:
        assert wp.diagnose(watch)[0].name == "overfits"
        terms = (wp.GroupL2(3e-3, by="input").on("first.*"), wp.L2(3e-2).on(wp.weights))
        assert found["train"](terms, epochs=epochs)[0].history["valid_loss"][-1] < losses[-1]
