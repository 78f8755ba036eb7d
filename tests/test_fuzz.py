"""Damaged files of every kind that is read: a right result or one sentence, never a traceback or a warning.

The mutators and the kinds are those of ``benchmarks/fuzz.py``, which tries more; here a few hundred of each kind are tried, by a
fixed seed. A reader that no kind reaches fails.
"""

from __future__ import annotations

import ast
import random
import sys
from pathlib import Path
from typing import Any

import pytest

for module in ("pandas", "sklearn", "pyarrow", "optuna", "jinja2", "matplotlib", "tensorboard"):
    pytest.importorskip(module)

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import fuzz  # noqa: E402 - beside the package, not in it

MUTATIONS = 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind."""
    return {name: tmp_path_factory.mktemp("kind") for name in fuzz.KINDS}


@pytest.mark.parametrize("name", fuzz.KINDS)
def test_a_damaged_file_is_read_right_or_refused_in_a_sentence(name: str, whole: dict[str, Path]) -> None:
    found = fuzz.fuzz(name, MUTATIONS, seed=0, folder=whole[name])
    assert not found.failed, "\n".join(found.failed)
    assert found.tried == max(1, MUTATIONS // fuzz.KINDS[name].costs)


def readers() -> set[str]:
    """Files of the package that open a path for reading, or parse JSON, TOML, zip, Parquet or safetensors."""
    calls = {
        "read_text",
        "read_bytes",
        "open_regular",
        "open",
        "loads",
        "read_json",
        "load_file",
        "ParquetFile",
        "ZipFile",
    }
    found = set()
    for path in (ROOT / "src/wellposed").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in calls:
                    found.add(str(path.relative_to(ROOT / "src/wellposed")))
    return found


REACHED = {
    "cli/improve.py": "finished",
    "data/images.py": "images.npz",
    "data/table_files.py": "table.csv",
    "logs/documents.py": "curves.json",
    "logs/encodings.py": "dicts",
    "logs/folders.py": "trainer_state",
    "logs/shapes.py": "cells.csv",
    "logs/text.py": "dicts",
    "logs/event_files.py": "tensorboard",
    "core/csv.py": "curves.csv",
    "recipe/recipe.py": "recipe.toml",
    "reporting/html.py": "study.json",
    "search/optuna_journal.py": "journal",
    "estimators/saved.py": "estimator.json",
    "study/resume.py": "looked",
    "study/trials.py": "state.json",
    "training/checkpoint.py": "model.json",
    "sparsity/verify.py": "claims.json",
}
"""What reads -> a kind that goes through it."""
NO_READER = {
    "core/files.py", "core/reading.py",  # the doors that the others read through
    "study/folder.py",  # a lock, which is not read
    "parallel/population/compiled.py",  # our own source, the library made of it, whose digest is checked, and /proc
    "parallel/processes.py", "parallel/transfer.py",  # between our own processes
    "parallel/cluster.py",  # one line, the address that Ray has written, in `test_ray`
    "cli/terminal.py",  # the null device
    "reporting/pages.py",  # templates of our own
    "testing/rule_laws.py",  # a check that its user runs, on a file of the user's own
    "search/lots.py",  # opens the journal, in `search/optuna_journal.py`
}  # fmt: skip


def test_every_place_that_reads_is_reached_by_a_kind() -> None:
    assert readers() - NO_READER == REACHED.keys()
    assert set(REACHED.values()) <= fuzz.KINDS.keys()


def test_equal_seeds_give_equal_files_and_every_mutator_changes_something() -> None:
    table = fuzz.frame().to_csv(index=False).encode()
    one, other = (
        [fuzz.mutated(fuzz.KINDS["table.csv"], table, seed, "table.csv", i) for i in range(20)] for seed in (3, 3)
    )
    assert one == other
    assert one != [fuzz.mutated(fuzz.KINDS["table.csv"], table, 4, "table.csv", i) for i in range(20)]
    examples = {
        fuzz.of_json: b'{"a": [1, {"b": 2}]}',
        fuzz.of_json_lines: b'{"a": 1}\n{"a": 2}\n',
        fuzz.of_toml: b"a = 1\nb = 2\n",
    }
    for mutate in {*fuzz.PLAIN, *(m for kind in fuzz.KINDS.values() for m in kind.mutate)}:
        data = examples.get(mutate, table)
        if "zipped" not in getattr(mutate, "__qualname__", ""):
            assert any(mutate(data, random.Random(i)) != data for i in range(5)), mutate


def test_a_reader_that_raises_warns_or_rambles_has_failed(tmp_path: Path) -> None:
    """The judge itself: mutants of a reader."""
    import warnings

    from wellposed.core.errors import DataError

    def says(text: str) -> Any:
        def use(path: Path) -> None:
            raise DataError(text)

        return use

    assert "KeyError at" in fuzz.verdict(lambda path: {}[1], tmp_path)
    assert "RuntimeWarning" in fuzz.verdict(
        lambda path: warnings.warn("mean of empty slice", RuntimeWarning, 2), tmp_path
    )
    assert "AssertionError" in fuzz.verdict(lambda path: (_ for _ in ()).throw(AssertionError("wrong")), tmp_path)
    for text in ("no", "It is damaged\nand more.", "This one has no end that one could see", "xx " * 700 + "."):
        assert "no sentence" in fuzz.verdict(says(text), tmp_path), text
    assert fuzz.verdict(says("'a.csv' is empty. A table needs a header and at least one row."), tmp_path) == ""
    assert fuzz.verdict(lambda path: None, tmp_path) == ""
