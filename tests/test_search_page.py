"""The page on the search: its code runs, and what it counts is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("sklearn")

from wellposed.search import pace
from wellposed.search.ingredients import INGREDIENTS

PAGE = (Path(__file__).parents[1] / "docs" / "search.md").read_text()


def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PLAIN_EPOCHS", 3)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    said = capsys.readouterr().out
    assert "{'name': 'l2.size', 'kind': 'size'" in said
    assert "on untouched rows" in said


def test_the_page_names_as_many_ingredients_as_there_are() -> None:
    words = {19: "nineteen", 20: "twenty"}
    assert f"{words[len(INGREDIENTS)]} ingredients" in re.sub(r"\s+", " ", PAGE)
