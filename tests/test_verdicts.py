"""Laws of the verdicts on curves: what can never be printed, what can never be said together, and what practitioners say."""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wellposed as wp
from wellposed.diagnosis.diagnose import rules
from wellposed.diagnosis.finding import Finding, evidence_rows, moved

NEVER = re.compile(
    r"\bnan\b|\binf\b|(rose|fell|fall|rise|risen|fallen|by|below) (by )?-|± 0\b|\b1 epochs|\+-|--", re.IGNORECASE
)
"""What no sentence may hold: no number, an infinite one, or a sign that contradicts its verb."""

LEVEL = st.floats(-3, 3) | st.sampled_from([0.0, 0.6931, float("nan")])


@st.composite
def random_curves(draw: st.DrawFn) -> dict[str, Any]:
    """Curves of any shape: levels, progress, turns, noise and gaps in both sides, with and without metrics."""
    count = draw(st.integers(2, 40))
    rng, epochs = np.random.default_rng(draw(st.integers(0, 2**16))), np.arange(count)
    found: dict[str, Any] = {}
    for side in draw(st.sampled_from([("loss",), ("val_loss",), ("loss", "val_loss"), ("loss", "val_loss")])):
        start, level = draw(LEVEL), draw(LEVEL)
        y = level + (start - level) * np.exp(-epochs / draw(st.sampled_from([0.3, 3.0, 30.0])))
        y = y + draw(st.sampled_from([0.0, 0.0, 0.01, 0.1])) * np.maximum(epochs - count // 2, 0)
        found[side] = y + draw(st.sampled_from([0.0, 0.003, 0.1, 1.0])) * rng.normal(size=count)
        if draw(st.booleans()):
            found[side][rng.integers(count)] = np.nan
        if draw(st.booleans()):
            found[side.replace("loss", "accuracy")] = np.clip(
                draw(st.floats(0, 1)) + 0.05 * rng.normal(size=count), 0, 1
            )
    if not any(np.isfinite(y).any() for name, y in found.items() if "loss" in name):
        found["loss"] = np.zeros(count)
    if draw(st.booleans()):
        found["lr"] = 0.1 * (1.0001 - epochs / count)
    return found


@given(random_curves())
@settings(max_examples=150, deadline=None)
def test_no_sentence_holds_what_is_no_number_or_a_sign_against_its_verb(curves: dict[str, Any]) -> None:
    found = wp.diagnose(curves)
    for finding in found:
        said = "\n".join(finding.lines)
        assert not NEVER.search(said), said
        assert finding.says[0].isupper() or finding.says[0].isdigit(), said
        assert finding.says.endswith((".", ")")), said
    assert "nan" not in str(found.turn and found.turn.says())


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_what_to_do_first_is_code(rule: Any) -> None:
    """It can be parsed, and what it takes of wellposed is there; only where nothing needs mending there is none."""
    assert bool(rule.code) == (rule.name != "healthy")
    for node in ast.walk(ast.parse(rule.code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "wp":
            assert hasattr(wp, node.attr), node.attr


def test_the_evidence_is_an_aligned_table_without_what_is_not_known() -> None:
    evidence = {"measured": "rise", "estimate": 0.5, "low": 0.25, "high": 0.75, "gap": float("nan"), "epochs": 12,
                "error_rise": -0.125, "error_low": float("-inf"), "error_high": float("inf")}  # fmt: skip
    assert evidence_rows(evidence) == [
        ("rise", "0.5", "0.25 to 0.75"), ("over how many epochs", "12", ""), ("change of the validation error", "−0.125", ""),
    ]  # fmt: skip
    lines = Finding("one", 0.9, evidence, "go on", "It is so.").lines
    assert (
        len({line.index(value) + len(value) for line, value in zip(lines[1:4], ("0.5", "12", "−0.125"), strict=True)})
        == 1
    )
    assert [moved(0.3), moved(-0.02), moved(0.0)] == ["rose by 0.3", "fell by 0.02", "stayed the same"]
