"""The page on the search: its code runs, and what it counts is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("sklearn")

from wellposed.search import timing
from wellposed.search.ingredients import ingredients

PAGE = (Path(__file__).parents[1] / "docs" / "search.md").read_text()


def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PLAIN_EPOCHS", 3)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    said = capsys.readouterr().out
    assert "{'name': 'l2.size', 'kind': 'size'" in said
    assert "on untouched rows" in said


def test_the_page_names_as_many_ingredients_as_there_are() -> None:
    words = {19: "nineteen", 20: "twenty"}
    assert f"{words[len(ingredients())]} ingredients" in re.sub(r"\s+", " ", PAGE)


# --- the report ----------------------------------------------------------------------------------------------------


def shown(**record: object) -> str:
    from wellposed.reporting.html import render

    page = render({"schema": 1, "metric": {"name": "accuracy", "higher_is_better": True}, **record})
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))


def test_the_report_shows_what_each_ingredient_is_worth() -> None:
    pytest.importorskip("jinja2")
    worths = [
        {"ingredient": "label_smoothing", "estimate": 0.0213, "low": 0.0101, "high": 0.0325, "pairs": 5},
        {"ingredient": "clip", "estimate": 0.0, "low": -0.01, "high": 0.01, "pairs": 5},
    ]
    simplest = {"recipe": 'x = "<b>"', "describe": "adamw lr 0.1", "without": ["clip"], "difference": 0.001,
                "standard_error": 0.002, "pairs": 5}  # fmt: skip
    ends = {"estimate": 0.011, "low": -0.02, "high": 0.042, "level": 0.95}
    cocktail = {"alone": "label_smoothing", "others": ["clip"], **ends}
    page = shown(ablation=worths, simplest=simplest, cocktail=cocktail)
    assert "What each ingredient is worth" in page
    assert "label smoothing" in page
    assert "+0.021" in page
    assert "without clip: adamw lr 0.1" in page
    assert (
        "label smoothing with clip is worth +0.011 accuracy more than label smoothing alone (95 % interval \u22120.020 to +0.042)"
        in page
    )
    assert "5 pairs" in page
    assert "&lt;b&gt;" in page
    assert "No simpler recipe" in shown(ablation=worths, simplest=None)
    for damaged in (None, 7, {}, {"alone": 3, "others": 4}, {"alone": "clip", "others": []}):
        assert "The cocktail" not in shown(ablation=worths, simplest=None, cocktail=damaged)


@pytest.mark.parametrize("ablation", [None, [], 7, [3], [{"ingredient": None, "estimate": "x"}], [{}]])
def test_a_report_without_an_ablation_has_no_such_section(ablation: object) -> None:
    pytest.importorskip("jinja2")
    assert "each ingredient is worth" not in shown(ablation=ablation)
