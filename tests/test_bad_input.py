"""Bad input through the command line: one sentence on stderr, nothing on stdout, no traceback, nothing lost."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")
pytest.importorskip("typer")
pytest.importorskip("jinja2")
threadpool_limits = pytest.importorskip("threadpoolctl").threadpool_limits

from wellposed.cli import main  # noqa: E402 - needs the extras
from wellposed.search import improve as searching  # noqa: E402
from wellposed.search import timing  # noqa: E402


class Result(NamedTuple):
    status: int
    out: str
    err: str


def call(*words: object) -> Result:
    """Run a command in this process, as a terminal would."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wellposed", *map(str, words)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main.run()
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def refused(*words: object, says: str = "", status: int = 1) -> str:
    """The one sentence with which a command is refused."""
    found = call(*words)
    assert found.status == status, found
    assert found.out == ""
    assert "Traceback" not in found.err
    if status == 1:
        assert found.err.startswith("Error: ")
        assert found.err.count("\n") == 1, found.err
        assert "Unexpected" not in found.err, found.err
    assert re.search(says, found.err), found.err
    return found.err


@pytest.fixture(autouse=True)
def _short_runs_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three epochs a run and one thread; relative paths, so that messages can be compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "PLAIN_EPOCHS", 3)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def table(rows: int = 60, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(2, rows))
    return pd.DataFrame({"a": a, "b": b, "kind": np.where(a + 0.4 * draw.normal(size=rows) > 0, "yes", "no")})


def saved(frame: Any, name: str = "t.csv") -> str:
    frame.to_csv(name, index=False)
    return name


QUICK = ("--target", "kind", "--budget", "0", "--out", "run")


# --- data that cannot be used --------------------------------------------------------------------------------------

GZ = gzip.compress(b"a,kind\n1,x\n" * 200)
FILES: dict[str, tuple[str, bytes, str]] = {
    "unknown extension": ("t.doc", b"x", "'t.doc' is not a kind of table.* Give one of .csv"),
    "no extension": ("table", b"x", "'table' is not a kind of table"),
    "damaged UTF-8": ("t.csv", "a,kind\nü,é\n".encode() * 20 + b"\xe9,1\n", "not UTF-8.*iconv"),
    "binary": ("t.csv", b"a,kind\n\0,1\n" * 20, "binary"),
    "cut gz": ("t.csv.gz", GZ[:-12], "not a whole gzip file"),
    "no gz": ("t.csv.gz", b"a,kind\n1,2\n", "not a whole gzip file.*rename"),
    "cut parquet": ("t.parquet", b"PAR1abcPAR1", "cannot be read as a Parquet file"),
    "empty parquet": ("t.parquet", b"", "empty"),
    "cut npz": ("t.npz", b"PK\x03\x04abc", "not a whole .npz"),
    "empty": ("t.csv", b"", "'t.csv' is empty. A table needs"),
    "blank": ("t.csv", b" \n\n", "'t.csv' is empty"),
    "header only": ("t.csv", b"a,b,kind\n", "a header and no rows. Give"),
    "same name twice": ("t.csv", b"a,a,kind\n" + b"1,2,x\n" * 20, "more than one column named 'a'"),
    "long row": ("t.csv", b"a,kind\n1,x\n1,2,3\n", "3 cells on line 3"),
    "open quote": ("t.csv", b'a,kind\n"1,x\n' + b"2,y\n" * 20, "quotes|no rows|cells"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_read(case: str) -> None:
    name, content, says = FILES[case]
    Path(name).write_bytes(content)
    words = ("--budget", "0", "--out", "run") if name.endswith("npz") else QUICK
    refused("improve", name, *words, says=says)
    assert not Path("run").exists()
    assert Path(name).read_bytes() == content


def test_a_file_that_is_not_there_or_no_file() -> None:
    saved(table(), "wine.csv")
    refused("improve", "wines.csv", *QUICK, says="no file 'wines.csv'. Did you mean 'wine.csv'")
    Path("d.csv").mkdir()
    refused("improve", "d.csv", *QUICK, says="'d.csv' is a folder; a file is needed")
    refused("improve", "x.npz", "--budget", "0", says="no file 'x.npz'")
    assert not Path("run").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions bind nobody here")
def test_a_file_that_may_not_be_read() -> None:
    Path(saved(table())).chmod(0)
    refused("improve", "t.csv", *QUICK, says="Permission denied")


def with_kind(values: Any) -> Any:
    return table().assign(kind=values)


TABLES: dict[str, tuple[Callable[[], Any], str]] = {
    "target all missing": (lambda: with_kind(None), "target 'kind' is missing in all 60 rows"),
    "one class": (lambda: with_kind("yes"), r"one value only \('yes'\)"),
    "too few rows": (lambda: table(6), "Only 6 rows with a target; at least 10"),
    "target never repeats": (lambda: with_kind([f"w{i}" for i in range(60)]), "60 distinct values in 60 rows"),
    "infinite target": (lambda: with_kind(np.where(np.arange(60) == 3, np.inf, np.arange(60.0))), "infinite in 1 rows"),
    "only a constant": (lambda: table()[["kind"]].assign(k=7), "no usable feature column.*one value only: 'k'"),
    "only the target": (lambda: table()[["kind"]], "no usable feature column"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_cannot_be_learned_from(case: str) -> None:
    make, says = TABLES[case]
    refused("improve", saved(make()), *QUICK, says=says)
    assert not Path("run").exists()


def test_the_fewest_rows_are_enough() -> None:
    """Ten rows are split, trained on and judged without an error."""
    for rows in (10, 11, 13):
        found = call("improve", saved(table(rows, seed=3)), "--target", "kind", "--budget", "0", "--out", f"r{rows}")
        assert found.status == 0, found.err


WARNED: dict[str, tuple[Callable[[], Any], str]] = {
    "all-missing column": (lambda: table().assign(e=None), "missing in all rows: 'e'"),
    "constant column": (lambda: table().assign(k=7), "one value only: 'k'"),
    "infinite values": (lambda: table().assign(b=[np.inf, *range(59)]), r"Infinite values .* missing: 'b' \(1 rows\)"),
    "mixed types": (lambda: table().assign(b=["oops", *range(59)]), "'b' mixes numbers and texts"),
    "leak": (lambda: table().assign(l=lambda t: (t.kind == "yes") * 1), "predicts the target 'kind' almost.*'l'"),
    "row names with a gap": (
        lambda: table().assign(**{"row.names": [*range(1, 30), *range(31, 62)]}),
        "ids that name rows: 'row.names'",
    ),
    "id": (lambda: table().assign(who=[f"u{i}" for i in range(60)]), "ids that name rows: 'who'"),
    "copies": (lambda: pd.concat([table(), table().head(20)]), "20 of 80 rows are exact copies"),
    "target missing in some": (lambda: with_kind([None, *["yes", "no"] * 29, "no"]), "missing in 1 of 60 rows"),
    "rare class": (lambda: with_kind([*["x"] * 2, *["yes", "no"] * 29]), "fewer than 5 rows"),
}


@pytest.mark.parametrize("case", WARNED)
def test_a_table_that_is_suspicious_is_used_and_said(case: str) -> None:
    make, says = WARNED[case]
    found = call("improve", saved(make()), *QUICK)
    assert found.status == 0, found.err
    assert re.search(f"warning: .*{says}", found.err), found.err
    record = json.loads(Path("run/study.json").read_text())
    assert any(re.search(says, warning) for warning in record["warnings"])
    assert re.search("warning|suspicious|Warnings", Path("run/report.html").read_text())


# --- what is asked for ---------------------------------------------------------------------------------------------

ASKED: dict[str, tuple[tuple[str, ...], str]] = {
    "target": (("--target", "kin"), "no column 'kin'.*Did you mean 'kind'"),
    "group": (("--group", "z"), "no column 'z' to group by. Columns: a, b, kind"),
    "group is target": (("--group", "kind"), "'kind' is the target"),
    "time of texts": (("--target", "a", "--time", "kind"), "neither numbers nor dates"),
    "drop": (("--drop", "z"), "no column 'z' to drop"),
    "metric": (("--metric", "acuracy"), "Did you mean 'accuracy'"),
    "metric of the other task": (("--metric", "rmse"), "'rmse' is not for classification. .*Use one of accuracy"),
    "task": (("--task", "clasification"), "Did you mean 'classification'"),
    "task does not fit": (("--task", "regression"), "regression needs numbers"),
    "device": (("--device", "gpu"), "no device 'gpu'; use auto"),
    "engine": (("--engine", "rya"), "no engine 'rya'. Did you mean 'ray'?"),
    "budget without unit": (("--budget", "5"), "no unit; write 5s, 5m or '5 recipes'"),
    "budget in words": (("--budget", "a while"), "'a while' is not understood; write 90s"),
    "budget below zero": (("--budget=-5m",), "'-5m' is not understood"),
    "recipe": (("--recipe", "none.toml"), "no recipe file 'none.toml'"),
    "test": (("--test", "none.csv"), "no file 'none.csv'"),
    "resume nowhere": (("--resume",), "give --out"),
}


@pytest.mark.parametrize("case", ASKED)
def test_an_option_that_cannot_be_met(case: str) -> None:
    words, says = ASKED[case]
    target = () if "--target" in words else ("--target", "kind")
    budget = () if any(word.startswith("--budget") for word in words) else ("--budget", "0")
    refused("improve", saved(table()), *target, *budget, *words, says=says)
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "no command": ((), "Usage"),
    "unknown command": (("imrpove",), "No such command"),
    "unknown option": (("improve", "--bugdet", "5m"), "No such option"),
    "seed below zero": (("improve", "--seed", "-1"), "--seed"),
    "seed is no number": (("improve", "--seed", "x"), "--seed"),
    "no recipes": (("improve", "--recipes", "0"), "--recipes"),
    "two budgets": (("improve", "--budget", "5m", "--recipes", "3"), "--budget or --recipes, not both"),
    "two tables": (("improve", "a.csv", "b.csv"), "b.csv"),
    "predict without data": (("predict", "run"), "data"),
    "diagnose nothing": (("diagnose",), "sources"),
    "recipe alone": (("recipe",), "Usage"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_has_status_2(case: str) -> None:
    words, says = USAGE[case]
    refused(*words, says=says, status=2)


def test_test_rows_that_do_not_fit() -> None:
    data = saved(table())
    words = ("improve", data, *QUICK, "--test", "test.csv")
    saved(table(20).drop(columns="kind"), "test.csv")
    refused(*words, says="no column 'kind'")
    saved(table(20).drop(columns="a"), "test.csv")
    refused(*words, says="misses 1 of the 2 columns.*'a'")
    saved(table(20).assign(kind="maybe"), "test.csv")
    refused(*words, says="'maybe', which no training row had. Known classes: no, yes")
    saved(table(20).assign(kind=None), "test.csv")
    refused(*words, says="0 rows with a target")
    assert not Path("run").exists()


RECIPES = {
    "epochs = 3\n[optimiser]\nlr = 1\n": "unknown key 'optimiser'. Did you mean 'optimizer'",
    "epochs = 3\nbatchsize = 2\n": "Did you mean 'batch_size'",
    "epochs = 0\n": "epochs = 0 is not possible",
    "epochs = = 3": "not valid TOML",
    "schema = 9\n": "schema 9; this wellposed reads schema 1. Update",
    '[optimizer]\nname = "adamv"\n': "Did you mean 'adam",
    '[[terms]]\npenalty = "l3"\nstrength = 1\n': "no penalty 'l3'",
    '[optimizer]\nname = "sgd"\nlr = 0.1\nmomentun = 0.9\n': "Did you mean 'momentum'",
}


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_that_cannot_be_used(text: str) -> None:
    Path("r.toml").write_text(text)
    for words in (("recipe", "check", "r.toml"), ("recipe", "show", "r.toml"),
                  ("improve", saved(table()), *QUICK, "--recipe", "r.toml")):  # fmt: skip
        refused(*words, says=RECIPES[text])
    assert not Path("run").exists()


def test_a_recipe_whose_model_settings_are_unknown_is_refused_before_anything_is_trained() -> None:
    Path("r.toml").write_text("[model]\nwidht = 3\n")
    words = ("improve", saved(table()), "--target", "kind", "--recipe", "r.toml", "--out", "run", "--budget")
    for budget in ("0", "4 recipes", "5s"):
        refused(*words, budget, says="'widht', which the model's factory does not take. Did you mean 'width'")
    assert not Path("run").exists()


def test_other_recipe_commands() -> None:
    refused("recipe", "show", "stedy", says="Did you mean 'steady'")
    refused("recipe", "check", "none.toml", says="no recipe file 'none.toml'")
    refused("recipe", "check", ".", says="is a folder")


# --- where to write ------------------------------------------------------------------------------------------------


def test_a_folder_in_use_is_left_alone() -> None:
    data = saved(table())
    Path("used").mkdir()
    Path("used/notes.txt").write_text("mine")
    words = ("improve", data, "--target", "kind", "--budget", "0", "--out", "used")
    refused(*words, says="'used' is in use; give another --out, or --resume")
    refused(*words, "--resume", says="holds no study to resume; give another --out")
    assert [path.name for path in Path("used").iterdir()] == ["notes.txt"]
    assert Path("used/notes.txt").read_text() == "mine"


def test_a_finished_study_is_not_overwritten() -> None:
    words = ("improve", saved(table()), *QUICK)
    assert call(*words).status == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    refused(*words, says="'run' is in use")
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_an_output_that_cannot_be_a_folder() -> None:
    data = saved(table())
    Path("file").write_text("x")
    words = ("improve", data, "--target", "kind", "--budget", "0", "--out")
    refused(*words, "file", says="'file' is a file; give a folder with --out")
    refused(*words, "file/run", says="'file/run' cannot be written")
    assert Path("file").read_text() == "x"
    if sys.platform == "linux":
        refused(*words, "/proc/run", says="'/proc/run' cannot be written")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions bind nobody here")
def test_an_output_folder_that_may_not_be_written() -> None:
    Path("closed").mkdir(mode=0o500)
    refused("improve", saved(table()), "--target", "kind", "--budget", "0", "--out", "closed", says="cannot be written")
    refused("improve", "t.csv", "--target", "kind", "--budget", "0", "--out", "closed/x", says="cannot be written")


@pytest.mark.parametrize("after", [0, 1, 5, 15])
def test_a_full_disk_loses_nothing_and_resume_goes_on(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("improve", saved(table()), *QUICK)
    synced = os.fsync
    count = 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(*words, says=r"The disk is full .*goes on with improve --resume")
    left = {path.name for path in Path("run").rglob("*")} if Path("run").exists() else set()
    assert not [name for name in left if name.startswith(".")], "half-written files are taken away"
    for name in left & {"state.json", "study.json"}:
        json.loads(Path("run", name).read_text())
    found = call(*words, "--resume")
    assert found.status == 0, found.err
    assert json.loads(Path("run/study.json").read_text())["improvement"]["pairs"] == 5


def test_predictions_that_cannot_be_written(study: Path) -> None:
    saved(table(5).drop(columns="kind"), "new.csv")
    refused("predict", study, "new.csv", "--out", ".", says="'.' is a folder; give the name of a .csv")
    Path("file").write_text("x")
    refused("predict", study, "new.csv", "--out", "file/p.csv", says="file")
    assert Path("file").read_text() == "x"


# --- problems of somebody's own ------------------------------------------------------------------------------------

HEAD = """
import torch
import wellposed as wp
from torch import nn

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
y = (X[:, 0] > 0).long()

def net(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

def problem_of(model=net, loss="cross_entropy", data=(X, y), **more):
    return wp.Problem(model, loss, data, **more)

class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.layer, self.factor = nn.Linear(3, 2), factor
    def forward(self, x):
        return self.layer(x) * (self.factor if self.training else 1.0)
"""


def problem(body: str) -> str:
    Path("p.py").write_text(HEAD + body)
    return "p.py:problem"


PROBLEMS: dict[str, tuple[str, str]] = {
    "raises": ("1 / 0", "'p.py' raised ZeroDivisionError: division by zero"),
    "syntax": ("problem = (", r"'p.py' raised SyntaxError.*line"),
    "no such module": ("import nosuchmodule", "nosuchmodule"),
    "no such name": ("problm = problem_of()", "no 'problem'. Did you mean 'problm'"),
    "none": ("problem = None", "no 'problem'.*Its problems: none"),
    "not a problem": ("problem = 3", "is int; it must be a wp.Problem"),
    "function gives none": ("def problem(): return net()", "is Sequential; it must be a wp.Problem"),
    "ends the program": ("import sys; sys.exit(0)", "ended the program by itself"),
    "ends it in a function": ("def problem(): raise SystemExit('bye')", "ended the program.*'bye'"),
    "model is no factory": ("problem = problem_of(net())", "must be a factory"),
    "space is unknown": ("problem = problem_of(space={'widht': [1]})", "Did you mean 'width'"),
    "space is empty": ("problem = problem_of(space={'width': []})", "has no values"),
    "space cannot be written": ("problem = problem_of(space={'width': [4, None]})", "model.width.* is not possible"),
    "loss": ("problem = problem_of(loss='crossentropy')", "Did you mean 'cross_entropy'"),
    "metric": ("problem = problem_of(metric='acc')", "metric"),
    "outputs do not fit": ("problem = problem_of(lambda: nn.Linear(3, 1))", r"does not fit.*\(4, 1\).*needs 2 outputs"),
    "outputs do not fit numbers": (
        "problem = problem_of(lambda: nn.Linear(3, 2), 'squared_error', (X, X[:, 0]))",
        r"does not fit.*\(4, 2\) and \(4,\) differ",
    ),
    "outputs do not fit torch's loss": ("problem = problem_of(lambda: nn.Linear(3, 1), nn.CrossEntropyLoss())",
                                        "does not fit"),
    "inputs do not fit": ("problem = problem_of(lambda: nn.Linear(5, 2))", "does not take the inputs"),
    "factory raises": ("def bad(): raise OSError('no weights')\nproblem = problem_of(bad)", "no weights"),
    "factory divides by zero": ("problem = problem_of(lambda: 1 / 0)", "ZeroDivisionError"),
    "factory gives none": ("problem = problem_of(lambda: None)", "must return an nn.Module"),
    "loss raises": ("def bad(o, t): raise KeyError('x')\nproblem = problem_of(loss=bad)", "KeyError"),
    "data set raises": (
        "class Rows(torch.utils.data.Dataset):\n    def __len__(self): return 50\n"
        "    def __getitem__(self, i): raise ZeroDivisionError('boo')\nproblem = problem_of(data=wp.Data(train=Rows()))",
        "cannot be prepared: ZeroDivisionError: boo",
    ),
    "lengths differ": ("problem = problem_of(data=(X, y[:9]))", "60.*9|9.*60"),
    "NaN in step one": ("problem = problem_of(lambda: Times(float('nan')))", "diverged in its first epoch.*Look for NaN"),
    "infinite in step one": ("problem = problem_of(lambda: Times(float('inf')))", "diverged in its first epoch"),
    "NaN everywhere": ("X[:, 0] = float('nan')\nproblem = problem_of(data=(X, y))", "diverged in its first epoch"),
    "NaN targets": ("problem = problem_of(lambda: nn.Linear(3, 1), 'squared_error', (X, X[:, :1] * float('nan')))",
                    "NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_problem_that_cannot_be_trained(case: str) -> None:
    body, says = PROBLEMS[case]
    refused("improve", problem(body), "--budget", "0", "--out", "run", says=says)
    if "NaN" not in says and "diverged" not in says:
        assert not Path("run").exists()


@pytest.mark.usefixtures("own_clock")
@pytest.mark.parametrize("budget", ["4 recipes", "60 epochs", "2s"])
def test_a_baseline_that_diverges_at_once_is_said_whatever_the_budget(budget: str) -> None:
    words = (
        "improve",
        problem("problem = problem_of(lambda: Times(float('nan')))"),
        "--budget",
        budget,
        "--out",
        "run",
    )
    refused(*words, says=r"diverged in its first epoch, at every learning rate tried \(0.001, ")


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("own_clock")
@pytest.mark.parametrize("budget", ["9 recipes", "60 epochs", "3s"])
def test_settings_that_cannot_be_built_are_passed_over_and_said(budget: str) -> None:
    """Neither an error in the middle of a search, nor a search without end, nor silence."""
    body = (
        "def picky(width=4):\n    if width > 4: raise ValueError('too wide')\n    return net()\n"
        "problem = problem_of(picky, space={'width': [8, 16]})"
    )
    found = call("improve", problem(body), "--budget", budget, "--out", "run")
    assert found.status == 0, found.err
    assert "could not be trained" in found.err
    assert "too wide" in found.err
    assert any("too wide" in note for note in json.loads(Path("run/study.json").read_text())["notes"])


def test_references_that_cannot_take_the_data_are_left_out_and_said() -> None:
    body = (
        "X[3, 1] = float('nan')\nclass Filled(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Linear(3, 2)\n    def forward(self, x): return self.layer(x.nan_to_num())\n"
        "problem = problem_of(Filled)"
    )
    found = call("improve", problem(body), "--budget", "0", "--out", "run", "--json")
    assert found.status == 0, found.err
    assert "linear reference" in found.err
    assert set(json.loads(found.out)["references"]) == {"constant", "boosting"}


def test_a_data_set_has_no_table_references() -> None:
    body = (
        "class Rows(torch.utils.data.Dataset):\n    def __len__(self): return 60\n"
        "    def __getitem__(self, i): return X[i], y[i]\nproblem = problem_of(data=wp.Data(train=Rows()))"
    )
    found = call("improve", problem(body), "--budget", "0", "--out", "run", "--json")
    assert found.status == 0, found.err
    assert json.loads(found.out)["references"] == {}


def test_a_python_file_needs_a_name() -> None:
    Path("p.py").write_text("")
    refused("improve", "p.py", says="'p.py' is a Python file; say which problem in it, as p.py:NAME")
    refused("improve", "p.py:", says="as p.py:NAME")
    refused("improve", "none.py:problem", says="no file 'none.py'")
    refused("improve", problem("problem = problem_of()"), "--target", "y", says="--target is for tables")
    refused("improve", "p.py:problem", "--metric", "accuracy", says="--metric is for tables")


def test_debug_shows_the_traceback_and_the_sentence() -> None:
    reference = problem("def bad(): raise KeyError('deep inside')\nproblem = problem_of(bad)")
    for words in (("--debug", "improve", reference), ("improve", reference, "--debug")):
        found = call(*words, "--budget", "0", "--out", "run")
        assert found.status == 1
        assert "Traceback" in found.err
        assert "deep inside" in found.err
        assert found.err.splitlines()[-1].startswith("Error: ")


def test_our_own_mistakes_are_said_in_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(searching, "improve", broken)
    found = call("improve", saved(table()), *QUICK)
    assert (found.status, found.out) == (1, "")
    assert re.fullmatch("Error: Unexpected ZeroDivisionError: a b. Run again with --debug .*\n", found.err)


# --- what a study left ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    table().to_csv(folder / "t.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "PLAIN_EPOCHS", 2)
        found = call("improve", folder / "t.csv", "--target", "kind", "--budget", "0", "--out", folder / "run")
    assert found.status == 0, found.err
    return folder / "run"


@pytest.fixture
def study(finished: Path) -> Path:
    """A finished study that may be damaged."""
    shutil.copytree(finished, "study")
    return Path("study")


def test_rows_that_cannot_be_predicted(study: Path) -> None:
    saved(table(5).drop(columns="b"), "new.csv")
    refused("predict", study, "new.csv", says="misses 1 of the 2 columns.*'b'. Give")
    refused("predict", study, "none.csv", says="no file 'none.csv'")
    Path("new.doc").write_text("a,b\n1,2\n")
    refused("predict", study, "new.doc", says="not a kind of table")
    Path("new.csv").write_text("a,b\n")
    refused("predict", study, "new.csv", says="no rows")
    np.savez("new.npz", X_test=np.zeros((3, 6, 6), np.uint8))
    refused("predict", study, "new.npz", says="give a table with its columns")
    refused("predict", study, problem("problem = problem_of()"), says=r"does not take these rows.*12x3 and \d+x128")
    saved(table(5), "new.csv")
    refused("predict", "nowhere", "new.csv", says="'nowhere' holds no model")
    refused("predict", "new.csv", "new.csv", says="'new.csv' holds no model")
    Path("empty").mkdir()
    refused("predict", "empty", "new.csv", says="'empty' holds no model")


def test_images_that_do_not_fit() -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (60, 6, 6)).astype(np.uint8)
    np.savez("i.npz", X_train=images, y_train=np.arange(60) % 2)
    assert call("improve", "i.npz", "--budget", "0", "--out", "run").status == 0
    np.savez("colour.npz", X_test=np.zeros((3, 6, 6, 3), np.uint8))
    refused("predict", "run", "colour.npz", says=r"\(3, 3, 6, 6\)|3 channels")
    np.savez("other.npz", pictures=images)
    refused("predict", "run", "other.npz", says="has pictures; images to predict are an array called X_test")
    Path("cut.npz").write_bytes(b"PK")
    refused("predict", "run", "cut.npz", says="not a whole .npz")
    refused("predict", "run", "none.npz", says="no file 'none.npz'")
    refused("predict", "run", saved(table()), says="give an .npz")
    refused("improve", "i.npz", "--target", "y", says="--target is for tables")
    refused("improve", "i.npz", "--metric", "r2", says="not for classification")


def edited(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "no file of weights"),
    "cut weights": (
        lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:200]),
        "weights at .* do not fit",
    ),
    "empty weights": (lambda p: (p / "model.safetensors").write_bytes(b""), "weights at .* do not fit"),
    "no description": (lambda p: (p / "model.json").unlink(), "no model at"),
    "cut description": (lambda p: (p / "model.json").write_text('{"schema": 1,'), "not a readable model"),
    "no schema": (lambda p: (p / "model.json").write_text("{}"), "no 'schema'"),
    "newer": (
        lambda p: edited(p / "model.json", schema=2),
        "schema 2; this wellposed reads schema 1. Update wellposed",
    ),
    "older": (lambda p: edited(p / "model.json", schema=0), "schema 0; this wellposed reads schema 1 only"),
    "unknown model": (
        lambda p: edited(p / "model.json", architecture="resnext"),
        "kind 'resnext'; this wellposed builds",
    ),
    "settings": (lambda p: edited(p / "model.json", settings={"inputs": 3}), "do not build"),
    "no settings": (lambda p: edited(p / "model.json", settings=None), "settings is None; input should be an object"),
    "columns": (lambda p: edited(p / "model.json", encoder={"schema": 1}), "columns is damaged"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_model_that_is_damaged(case: str, study: Path) -> None:
    damage, says = DAMAGE[case]
    damage(study / "model")
    refused("predict", study, saved(table(5)), says=says)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"schema": 2}', "\0\xff"])
def test_a_record_that_is_damaged_gives_no_page(content: str, study: Path) -> None:
    (study / "study.json").write_text(content, encoding="latin1")
    before = (study / "report.html").read_bytes()
    refused("report", study, says="study.json")
    assert (study / "report.html").read_bytes() == before


def test_a_record_with_odd_parts_still_gives_a_page(study: Path) -> None:
    edited(study / "study.json", improvement=3, trials=7, baseline=[], best="x", metric=1, histories=None)
    assert call("report", study).status == 0


def test_reports_of_what_is_no_study() -> None:
    refused("report", "nowhere", says="no study at 'nowhere/study.json'")
    refused("report", saved(table()), says="'t.csv' is a file; give a folder")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a readable state"),
        ('{"schema": 9}', "schema 9.*Update wellposed"),
        ('{"schema": 1}', "damaged"),
        ('{"schema":1,"trials":[{"valid":"x"}],"data":"","metric":"","seed":0,"own_test":false}', "damaged"),
    ],
)
def test_a_state_that_is_damaged_is_not_resumed_and_kept(content: str, says: str, study: Path) -> None:
    (study / "state.json").write_text(content)
    words = ("improve", saved(table()), "--target", "kind", "--budget", "0", "--out", study, "--resume")
    refused(*words, says=says)
    assert (study / "state.json").read_text() == content


def test_sources_that_cannot_be_diagnosed(study: Path) -> None:
    refused("diagnose", "none.csv", says="no file 'none.csv'")
    refused("diagnose", saved(table()), says="no column of losses. Found: a, b, kind")
    Path("empty").mkdir()
    refused("diagnose", "empty", says="'empty'")
    Path("h.csv").write_text("epoch,train_loss,val_loss\n")
    found = call("diagnose", study, "h.csv", "--json")  # what can be read is judged
    assert (found.status, found.err.count("\n")) == (1, 1)
    assert "no rows" in found.err
    assert [one["source"] for one in json.loads(found.out)] == [str(study)]
    Path("x.csv").write_text("epoch,train_loss,val_loss\n0,1,oops\n")
    refused("diagnose", "x.csv", says="'oops' in row 1; a number is needed")


# --- hostile names and cells ---------------------------------------------------------------------------------------

SCRIPT = "<script>alert(1)</script>"
ANSI = "\x1b[31mred\x1b]0;title\x07"
HOSTILE = [
    SCRIPT,
    "=cmd|' /C calc'!A0",
    ANSI,
    "two\nlines",
    "x" * 10_000,
    "'; DROP TABLE",
    "{{ 7*7 }}",
    "\u202egnp.exe",
]


def hostile_table() -> Any:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({name: draw.normal(size=80) for name in HOSTILE})
    frame["cells"] = draw.choice(HOSTILE, 80)
    classes = np.array([SCRIPT, "=1+cmd|' /C calc'!A0", ANSI])
    frame["\x1b[2Jtarget"] = classes[np.digitize(frame[HOSTILE[0]], [-0.5, 0.5])]
    return frame


def assert_harmless(text: str) -> None:
    assert "\x1b" not in text
    assert "\x07" not in text
    assert len(max(text.splitlines(), key=len)) < 5000


def test_hostile_names_and_cells_do_no_harm() -> None:
    frame = hostile_table().assign(constant=1, **{f"{ANSI}constant": 2})
    saved(frame)
    found = call("improve", "t.csv", "--target", "\x1b[2Jtarget", "--budget", "0", "--out", "run")
    assert found.status == 0, found.err
    assert "one value only" in found.err
    assert_harmless(found.out)
    assert_harmless(found.err)
    page = Path("run/report.html").read_text()
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert len(page) < 2 * 2**20

    predicted = call("predict", "run", "t.csv", "--out", "p.csv")
    assert predicted.status == 0, predicted.err
    cells = pd.read_csv("p.csv", dtype=str, keep_default_na=False)
    assert len(cells) == 80
    texts = [*cells.columns, *cells.astype(str).to_numpy().ravel()]
    assert not [text for text in texts if text.startswith(("=", "@", "\t", "\r"))]
    assert set(cells["prediction"]) <= {SCRIPT, "'=1+cmd|' /C calc'!A0", ANSI}


def test_hostile_names_in_errors_do_not_steer_the_terminal() -> None:
    saved(hostile_table())
    for words in (("--target", "nope"), ("--target", f"{ANSI}{'y' * 9000}"), ("--drop", ANSI + "\n\n"), ()):
        found = call(
            "improve", "t.csv", "--budget", "0", "--out", ANSI if not words else "run", "--metric", "r2", *words
        )
        assert found.status == 1
        assert_harmless(found.err)
        assert found.err.count("\n") == 1


def test_a_terminal_is_not_steered_by_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    from wellposed.cli import predict

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(predict, "prediction_columns", lambda run, data: {"prediction": np.array([ANSI], object)})
    monkeypatch.setattr(sys, "stdout", Terminal())
    predict.predict(Path("run"), "t.csv", None)
    assert_harmless(sys.stdout.getvalue())  # type: ignore[attr-defined]
    assert "red" in sys.stdout.getvalue()  # type: ignore[attr-defined]
