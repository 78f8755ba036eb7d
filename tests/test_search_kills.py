"""`kill -9` at random moments, then ``--resume``: nothing that had ended is lost, and the answer is the same.

`benchmarks/kills.py` does it a hundred times.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("pandas")
pytest.importorskip("jinja2")

import killing

KILLS = 8


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_studies_lose_nothing_and_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    found = killing.kill(tmp_path, KILLS, seed=0)
    assert found.kills == KILLS
    assert found.trials > 0, "some were killed after trials had ended"
    assert found.lost == 0
    assert found.broken == []


def test_what_would_be_lost_is_noticed(tmp_path: Path) -> None:
    """The mutant: a state that a resume wrote over without one of its trials."""
    trials = [{"index": 0, "kind": "search", "valid": 0.5}, {"index": 1, "kind": "search", "valid": 0.7}]
    (tmp_path / "state.json").write_text(json.dumps({"trials": trials}))
    before = killing.trials_of(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"trials": [{**trials[0], "valid": 0.6}]}))
    after = killing.trials_of(tmp_path)
    assert killing.missing(before, after) == 2
    assert killing.missing(before, before) == 0
