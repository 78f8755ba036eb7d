"""What a command prints reaches whoever can be reached, and never costs a result; signals end it and keep what there is."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import gc
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import unicodedata
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")
pytest.importorskip("jinja2")
typer = pytest.importorskip("typer")

from test_improve import SLOW, wait_for_trials  # noqa: E402
from wellposed.cli import interrupts, main, terminal  # noqa: E402 - needs the extras
from wellposed.cli.app import app  # noqa: E402
from wellposed.cli.interrupts import Interrupts  # noqa: E402
from wellposed.core.signs import HIDDEN, JOINERS, fitting, visible  # noqa: E402
from wellposed.search import timing  # noqa: E402
from wellposed.study.trials import State  # noqa: E402

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "wellposed").rglob("*.py"))
unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HIDDEN_SIGNS = "\x00\x07\x08\t\r\x1b[31m\x7f\x9b\u200b\u202e\u2028\u2066\ufeff\ud800"
NAMES = ("mínus − 1 → ≥ 2", "naïve · Ω")
"""Of classes: signs that neither ASCII nor, in part, latin-1 has."""


def hidden(text: str) -> set[str]:
    """The signs of a text that could steer a terminal."""
    return {sign for sign in text if unicodedata.category(sign) in HIDDEN and sign not in JOINERS} - {"\n"}


# --- commands in every setting -------------------------------------------------------------------------------------


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the application, with the words that call it."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))
EXAMPLES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("improve",): ("t.csv", "--target", "kind − é", "--budget", "0", "--out", "made"),
    ("predict",): ("run", "t.csv"),
    ("check",): ("t.csv", "--target", "kind − é"),
    ("diagnose",): ("c − é.csv",),
    ("report",): ("run",),
    ("recipe", "list"): (),
    ("recipe", "show"): ("baseline",),
    ("recipe", "check"): ("run/recipe.toml",),
    ("watch",): ("none − é", "--no-open"),
    ("compress",): ("none − é", "t.csv"),  # what it prints of a run has timings
    ("path",): ("t.csv", "--target", "kind − é", "--points", "2"),
}
WORDS = {
    **{" ".join(path): (*path, *rest) for path, rest in EXAMPLES.items()},
    **{" ".join((*path, "--help")): (*path, "--help") for path in COMMANDS},
    "improve --json": (*("improve", *EXAMPLES["improve",]), "--json"),
    "diagnose several": ("diagnose", "c − é.csv", "run"),
    "--help": ("--help",),
    "--version": ("--version",),
    "wrong usage": ("improve", "--no−such"),
    "missing": ("diagnose", "none − é.csv"),
}


def test_every_command_has_an_example() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


class Setting(NamedTuple):
    """Where the two streams of a command lead to: a file, nowhere, a full disk, a reader that left, or a terminal."""

    out: str = "file"
    err: str = "file"
    encoding: str = "utf-8"
    environment: dict[str, str] = {}  # noqa: RUF012 - never changed


SETTINGS = {
    "ascii": Setting(encoding="ascii"),
    "latin-1": Setting(encoding="latin-1"),
    "no stdout": Setting(out="closed"),
    "no stderr": Setting(err="closed"),
    "neither": Setting(out="closed", err="closed"),
    "full": Setting(out="full"),
    "both full": Setting(out="full", err="full"),
    "a reader that left": Setting(out="gone"),
    "readers that left": Setting(out="gone", err="gone"),
    "a closed terminal": Setting(out="hung up", err="hung up"),
    "terminal": Setting(out="terminal", err="terminal"),
    "terminal, ascii": Setting(out="terminal", err="terminal", encoding="ascii"),
    "dumb": Setting(out="terminal", err="terminal", environment={"TERM": "dumb"}),
    "no colour": Setting(out="terminal", err="terminal", environment={"NO_COLOR": "1", "TERM": "xterm"}),
    **{
        f"{wide} columns": Setting(out="terminal", err="terminal", environment={"COLUMNS": wide, "TERM": "xterm"})
        for wide in ("20", "1", "0", "x")
    },
}
LIKE_ANOTHER = ("0 columns", "20 columns", "both full", "no stderr")
"""Settings of which another one has each part, so that they are tried at night."""
FAILS = {"full": 1, "both full": 1}
"""The status of a command that did all and could not say it, to somebody who wanted it."""


class Ended(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a table, curves and a finished study."""
    folder = tmp_path_factory.mktemp("terminal")
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 60))
    kind = np.where(a + 0.4 * draw.normal(size=60) > 0, *NAMES)
    pd.DataFrame({"a": a, "b": b, "kind − é": kind}).to_csv(folder / "t.csv", index=False)
    curves = "epoch,train_loss,val_loss − é\n0,1,1\n1,.5,.7\n2,.3,.8\n3,.2,.9\n4,.1,1.1\n5,.05,1.3\n"
    (folder / "c − é.csv").write_text(curves.replace(" − é", ""), encoding="utf-8")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "PLAIN_EPOCHS", 3)
        patch.chdir(folder)
        found = call("improve", "t.csv", "--target", "kind − é", "--budget", "0", "--out", "run")
        assert found.status == 0, found.err
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain(place: Path) -> dict[str, Ended]:
    """Each command where nothing is in its way."""
    return {name: shell(place, Setting(), *words) for name, words in WORDS.items()}


def call(*words: object) -> Ended:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wellposed", *map(str, words)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main.run()
    return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def shell(place: Path, setting: Setting, *words: str) -> Ended:
    """Run a command in a fork whose streams lead to where the setting says, as a shell would start it."""
    shutil.rmtree(place / "made", ignore_errors=True)
    ends = {1: ("out", setting.out), 2: ("err", setting.err)}
    shared = os.openpty() if "terminal" in setting else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        child = os.fork()
    if not child:
        try:
            os.environ.update(setting.environment)
            for number, (name, kind) in ends.items():
                lead(number, kind, place / name, shared[1] if shared else -1)
            sys.stdin = None  # type: ignore[assignment]
            sys.stdout, sys.stderr = (stream(number, kind, setting.encoding) for number, (_, kind) in ends.items())
            sys.argv = ["wellposed", *words]
            try:
                main.run()
            except SystemExit as ended:
                for one in filter(None, (sys.stdout, sys.stderr)):
                    one.flush()
                os._exit(int(ended.code or 0))
        except BaseException:
            (place / "raised").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(99)
    heard = b""
    if shared is not None:
        os.close(shared[1])
        heard = listened(shared[0])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status != 99, (place / "raised").read_text(encoding="utf-8")
    said = []
    for name, kind in ends.values():
        content = {"file": (place / name).read_bytes() if kind == "file" else b"", "terminal": heard}.get(kind, b"")
        said.append(content.decode(setting.encoding))
    return Ended(status, *said)


def lead(number: int, kind: str, file: Path, terminal: int) -> None:
    """Let a number of the system lead to where a shell would have it lead."""
    if kind == "closed":
        os.close(number)
        return
    if kind == "file":
        end = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    elif kind == "full":
        end = os.open("/dev/full", os.O_WRONLY)
    elif kind == "gone":
        reader, end = os.pipe()
        os.close(reader)
    elif kind == "hung up":
        master, end = os.openpty()
        os.close(master)
    else:
        end = terminal
    os.dup2(end, number)


def stream(number: int, kind: str, encoding: str) -> Any:
    """What Python makes of it when it starts."""
    if kind == "closed":
        return None
    file = open(number, "wb", closefd=False)  # noqa: SIM115 - as long as the process
    return io.TextIOWrapper(file, encoding, "strict" if number == 1 else "backslashreplace")


def listened(end: int) -> bytes:
    """All that a terminal is told, until everybody who could tell it something has gone."""
    heard = b""
    with contextlib.suppress(OSError):  # Linux says so by an error
        while part := os.read(end, 1 << 16):
            heard += part
    os.close(end)
    return heard


def kept(place: Path, name: str) -> Any:
    """What a study left on disk, less what a clock says."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if "seconds" not in k and k != "clock"}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    folder = place / name
    record = timeless(json.loads((folder / "study.json").read_text(encoding="utf-8")))
    assert (folder / "report.html").stat().st_size > 10_000
    return {key: value for key, value in record.items() if key != "command"}, (
        folder / "model/model.safetensors"
    ).read_bytes()


STUDIES = [(where, "improve") for where in SETTINGS] + [
    (where, "improve --json") for where in ("ascii", "full", "neither")
]


@unix
@pytest.mark.parametrize(("where", "name"), STUDIES)
def test_a_study_is_whole_whatever_listens(place: Path, plain: dict[str, Ended], where: str, name: str) -> None:
    found = shell(place, SETTINGS[where], *WORDS[name])
    assert found.status == FAILS.get(where, 0), found
    assert kept(place, "made") == kept(place, "run")
    if "--json" in name and found.out and SETTINGS[where].out == "file":
        assert json.loads(found.out) == json.loads((place / "made" / "study.json").read_text(encoding="utf-8"))
    else:
        check(found, plain[name], SETTINGS[where], where)


@unix
@pytest.mark.parametrize(
    "where", [pytest.param(where, marks=pytest.mark.nightly if where in LIKE_ANOTHER else ()) for where in SETTINGS]
)
def test_every_command_ends_well_whatever_listens(place: Path, plain: dict[str, Ended], where: str) -> None:
    for name, words in WORDS.items():
        if "made" not in words:
            found = shell(place, SETTINGS[where], *words)
            want = plain[name].status or (FAILS.get(where, 0) if plain[name].out else 0)
            assert found.status == want, (name, found)
            check(found, plain[name], SETTINGS[where], where)


def check(found: Ended, plain: Ended, setting: Setting, where: str) -> None:
    """What is heard is what was said, in signs that the setting has."""
    for said, wanted, kind in zip(found[1:], plain[1:], setting[:2], strict=True):
        assert "Traceback" not in said
        assert "Exception ignored" not in said
        if kind == "file" and said != wanted and "full" not in where:
            lines = said.splitlines()
            if lines and lines[-1].startswith("note: the output's encoding"):
                lines.pop()
            forms = [fitting(wanted, setting.encoding, lossless).splitlines() for lossless in (False, True)]
            assert lines in forms, (said, wanted)
        if kind == "terminal":
            assert "\x1b" not in said or setting.environment.get("TERM") != "dumb"
            assert not re.search(r"\x1b\[[\d;]*3\dm", said) or "NO_COLOR" not in setting.environment
    if setting.out == "full" and setting.err == "file" and plain.out and not plain.status:
        assert found.err.endswith(
            "Error: Standard output could not be written (No space left on device). What was written to files is whole.\n"
        )


@unix
@pytest.mark.parametrize("where", ["ascii", "no stdout", "neither", "both full", "readers that left"])
def test_predictions_of_a_file_are_the_same_whatever_listens(place: Path, plain: dict[str, Ended], where: str) -> None:
    found = shell(place, SETTINGS[where], "predict", "run", "t.csv", "--out", "p.csv")
    assert found.status == 0
    assert (place / "p.csv").read_text(encoding="utf-8") == plain["predict"].out
    (place / "p.csv").unlink()


@unix
def test_a_pipe_that_is_full_for_now_is_waited_for() -> None:
    """Of a program that made it non-blocking: nothing is dropped, nothing raised."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    heard: list[bytes] = []
    with open(writer, "w", encoding="utf-8") as stream, open(reader, "rb") as end:
        thread = threading.Thread(target=lambda: heard.append(end.read()))
        out = terminal.harmless(stream, False)
        pending = out.buffer.raw.write(b"x" * (1 << 20))
        thread.start()
        out.write("y" * (1 << 20))
        out.flush()
        stream.close()
        thread.join()
    assert len(heard[0]) == pending + (1 << 20)


@unix
def test_no_two_labels_become_one_where_the_output_lacks_their_signs(place: Path) -> None:
    found = shell(place, SETTINGS["ascii"], "predict", "run", "t.csv")
    assert found.err.startswith("note: the output's encoding (ascii) lacks some signs")
    frame = pd.read_csv(io.StringIO(found.out))
    assert set(frame["prediction"]) <= {fitting(name, "ascii", lossless=True) for name in NAMES}
    assert "?" not in found.out


@unix
@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": ":/no/such"},
        {"PYTHONIOENCODING": "ascii", "HOME": "/dev/null/home", "TMPDIR": "/no/such", "TZ": "Asia/Kathmandu"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"},
    ],
    ids=["C", "no home", "latin-1"],
)
def test_a_process_of_its_own_in_a_poor_environment(place: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """Nothing is taken over from the tests: no home, no language, no folder for temporary files."""
    given = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "error", "-c", QUICK, *WORDS["improve"][:-1], str(tmp_path / "run")]
    found = subprocess.run(command, cwd=place, env=given, capture_output=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.decode("latin-1").isascii()
    assert b"?" not in found.stdout
    assert found.stdout.count(b"+/-") == found.stdout.decode("latin-1").count("+/-")
    assert [line for line in found.stderr.splitlines() if not line.startswith((b"warning: ", b"note: "))] == []
    predict = [sys.executable, "-c", QUICK, "predict", str(tmp_path / "run"), "t.csv"]
    found = subprocess.run(predict, cwd=place, env=given, capture_output=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(b"prediction,p_m")


QUICK = """
import torch
from wellposed.search import timing
timing.PLAIN_EPOCHS = 3
torch.set_num_threads(1)
from wellposed.cli.main import run
run()
"""


@unix
def test_what_a_problem_file_prints_ends_no_study(place: Path) -> None:
    """In ASCII, into a full disk, and to a reader that left."""
    text = (
        (ROOT / "examples" / "problem.py").read_text(encoding="utf-8").replace("from __future__ import annotations", "")
    )
    (place / "loud.py").write_text(
        f"import sys\nprint('−' * 9999, flush=True)\nprint('−', file=sys.stderr)\n{text}", encoding="utf-8"
    )
    for where in ("ascii", "both full"):
        found = shell(
            place, SETTINGS[where], "improve", "loud.py:problem", "--budget", "2 epochs", "--out", "made", "--quiet"
        )
        assert found.status == FAILS.get(where, 0), found
        assert (place / "made" / "report.html").exists()


# --- signs ---------------------------------------------------------------------------------------------------------


def test_signs_of_ours_have_a_readable_form_in_ascii() -> None:
    """Every sign beyond ASCII in a string of the source, but for those that are named by their number."""
    odd: dict[str, str] = {}
    for path in SOURCES:
        if path.name in (
            "readings.py",
            "text.py",
            "encodings.py",
        ):  # words of many languages that are looked for, and never printed
            continue
        for node in strings(ast.parse(path.read_text(encoding="utf-8"))):
            for sign in set(node.value):
                form = fitting(sign, "ascii")
                if (
                    not sign.isascii()
                    and (form.startswith("\\") or "?" in form)
                    and unicodedata.category(sign) not in ("Cf", "Cs")
                ):
                    odd[sign] = path.name
    assert odd == {}


def strings(tree: ast.AST) -> Iterator[Any]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("−0.5 ± 0.1", "-0.5 +/- 0.1"), ("a → b ≥ c", "a -> b >= c"), ("12 recipes · best", "12 recipes | best"),
        ("w², λ, χ…", "w^2, lambda, chi..."), ("Müller naïve", "Muller naive"), ("漢", "\\u6f22"), ("😀", "\\U0001f600"),
        ("“x” – y", '"x" - y'), ("½", "1/2"), ("Ωm⁵ ﬁn", "Omegam^5 fin"), ("µs", "us"), ("x₂", "x2"),
    ],
)  # fmt: skip
def test_what_ascii_lacks_is_written_as_people_do(given: str, plain: str) -> None:
    assert fitting(given, "ascii") == plain
    assert fitting(given, "utf-8") == given


def test_data_keep_apart_what_they_kept_apart() -> None:
    assert fitting("é", "ascii", lossless=True) != fitting("e", "ascii", lossless=True)
    assert json.loads(f'"{fitting("é − 😀"[:4], "ascii", lossless=True)}"') == "é − "
    assert fitting("é", "latin-1", lossless=True) == "é"


def test_all_that_steers_is_visible() -> None:
    for sign in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(sign) in HIDDEN and sign not in JOINERS:
            assert visible(sign).isascii()
            assert visible(sign).isprintable()
    assert visible("漢字 é\u00a0x 👩\u200d🔬") == "漢字 é\u00a0x 👩\u200d🔬"
    assert visible("a\nb\tc\x1b") == "a\\nb\\tc\\x1b"
    assert visible("a\nb", keep="\n") == "a\nb"


# --- names of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_argument_steers_the_terminal(place: Path, path: tuple[str, ...]) -> None:
    """Each argument and option of each command, with a name of control characters."""
    name = HIDDEN_SIGNS.replace("\x00", "")  # which no argument can hold
    example = list(EXAMPLES[path])
    tries = [[*example[:i], name, *example[i + 1 :]] for i in range(len(example))]
    tries += [[*example, param.opts[-1], name] for param in COMMANDS[path].params if param.opts[-1].startswith("--")]
    tries += [[*example, f"--{name}"], [*example, name]]
    for words in tries:
        shutil.rmtree("made", ignore_errors=True)
        found = call(*path, *words)
        assert found.status in (0, 1, 2)
        assert not hidden(found.out + found.err), words
    for left in Path().iterdir():
        if hidden(left.name):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def test_no_name_in_a_table_steers_the_terminal_or_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns, classes, recipes, curves and paths, through every command that shows them."""
    monkeypatch.chdir(tmp_path)
    name = HIDDEN_SIGNS.replace("\ud800", "").replace("\x00", "").replace("\r", "")
    draw = np.random.default_rng(0)
    a = draw.normal(size=60)
    pd.DataFrame({f"a{name}": a, "constant" + name: 1, f"y{name}": np.where(a > 0, f"1{name}", "2")}).to_csv(
        f"t{name}.csv", index=False
    )
    found = call("improve", f"t{name}.csv", "--target", f"y{name}", "--budget", "0", "--out", f"run{name}")
    assert found.status == 0, found.err
    said = [
        found.out,
        found.err,
        (tmp_path / f"run{name}" / "report.html").read_text(encoding="utf-8").replace("\t", ""),
    ]
    assert "\\x1b[31m" in said[1]
    Path(f"c{name}.csv").write_text(f"epoch,loss{name},val_loss\n0,1,1\n1,.5,.6\n2,.4,.9\n", encoding="utf-8")
    for words in (
        ("diagnose", f"c{name}.csv", f"run{name}", "--details", "--figure", "f.html"),
        ("diagnose", f"c{name}.csv"), ("report", f"run{name}"), ("predict", f"run{name}", f"c{name}.csv"),
        ("recipe", "check", f"run{name}/recipe.toml"), ("recipe", "show", f"run{name}/recipe.toml"),
        ("diagnose", f"c{name}.csv", "--json"),
    ):  # fmt: skip
        found = call(*words)
        assert found.status == (words[0] == "predict"), found.err
        said += [found.out, found.err]
    said.append(Path("f.html").read_text(encoding="utf-8").replace("\t", ""))
    for text in said:
        assert not hidden(text), text[:1000]
    assert "\\x1b[31m" in "".join(said[2:])


def test_a_line_of_a_name_is_no_line_of_ours() -> None:
    assert "\n" not in visible("x\nError: forged")
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        terminal.complain("There is no file 'a\nb\r\x1b'.\n   Look again.")
    assert err.getvalue() == "There is no file 'a b\\r\\x1b'. Look again.\n"


# --- laws of the source --------------------------------------------------------------------------------------------

MOUTHS = {
    "cli/terminal.py": "the one place that prints",
    "search/progress_bar.py": "the bar, which a notebook shows without the command line",
    "parallel/cluster.py": "hands on stdout without what Ray's threads print there",
}


def printing(tree: ast.AST) -> list[str]:
    """What prints, or could: print, echo, the streams of the process, a console of rich's, a traceback."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("print", "breakpoint"):
            found.append(f"{node.lineno}: {node.id}")
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name in ("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "os.write") or node.attr in (
                "echo", "secho", "print_exc", "print_exception", "print_stack", "pprint", "prompt", "confirm",
            ):  # fmt: skip
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} & {
            "print",
            "echo",
            "stdout",
            "stderr",
            "pprint",
        }:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_everything_is_printed_in_one_place() -> None:
    found = {
        path.relative_to(ROOT / "src/wellposed").as_posix(): printing(ast.parse(path.read_text(encoding="utf-8")))
        for path in SOURCES
    }
    assert {path: lines for path, lines in found.items() if lines and path not in MOUTHS} == {}
    assert all(found[path] for path in MOUTHS)


def test_names_go_into_pages_in_one_place() -> None:
    """Which escapes the page's own language and what steers; the report's template gets what `cleaned` has made visible."""
    escapes = re.compile(r"\bhtml\.escape|import escape\b")
    assert [path.name for path in SOURCES if escapes.search(path.read_text(encoding="utf-8"))] == ["signs.py"]


TEXTUAL = {
    "open": 1,
    "read_text": 0,
    "write_text": 1,
    "fdopen": 1,
    "TextIOWrapper": 1,
    "NamedTemporaryFile": 0,
    "TemporaryFile": 0,
}
"""Calls that read or write text, with the place of the mode or of the encoding among their arguments."""


def guessing(tree: ast.AST) -> list[str]:
    """Calls whose encoding depends on the machine: of files opened as text, and of pipes to other programs."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        if (
            name in ("run", "Popen", "check_output")
            and given & {"text", "universal_newlines"}
            and "encoding" not in given
        ):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if ast.unparse(node.func) == "archive.open":  # a part of an archive has bytes
            continue
        if name not in TEXTUAL or "encoding" in given or None in given:
            continue
        if ast.unparse(node.func) in ("os.open", "bench.journal.open"):
            continue  # no text
        if name == "open" and isinstance(node.func, ast.Attribute) and not is_module(node.func.value):
            modes = node.args[:1]  # a method of a path
        else:
            modes = node.args[1:2] if name in ("open", "fdopen") else []
        modes = [*modes, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        if name in ("TemporaryFile", "NamedTemporaryFile") and not modes:
            continue  # bytes by default
        if any("b" in str(getattr(mode, "value", "")) for one in modes for mode in ast.walk(one)):
            continue
        if name == "TextIOWrapper" and len(node.args) > 1:
            continue
        found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def is_module(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in (
        "gzip",
        "bz2",
        "lzma",
        "io",
        "codecs",
        "tarfile",
        "zipfile",
        "builtins",
    )


def test_no_encoding_is_left_to_the_machine() -> None:
    found = {path.name: guessing(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("open('x')", 1), ("open('x', 'w')", 1), ("open('x', 'rb')", 0), ("open('x', encoding='utf-8')", 0),
        ("Path('x').read_text()", 1), ("p.open()", 1), ("p.open('rb')", 0), ("p.write_text(t)", 1),
        ("gzip.open(p, 'rt')", 1), ("gzip.open(p, 'rb')", 0), ("os.fdopen(f, 'w')", 1), ("os.fdopen(f, 'wb')", 0),
        ("run(c, text=True)", 1), ("run(c, text=True, encoding='utf-8')", 0), ("os.open(p, os.O_RDWR)", 0),
        ("open('x', 'r' if a else 'rb')", 0), ("io.TextIOWrapper(b)", 1), ("p.open(mode='w')", 1),
    ],
)  # fmt: skip
def test_the_law_of_encodings_sees_its_mutants(code: str, caught: int) -> None:
    assert len(guessing(ast.parse(code))) == caught


@pytest.mark.parametrize(
    "code", ["print(1)", "f = print", "typer.echo(1)", "sys.stdout.write(x)", "print(1, file=sys.stderr)",
             "from click import echo", "traceback.print_exc()", "rich.print(1)", "os.write(2, b'')"],
)  # fmt: skip
def test_the_law_of_printing_sees_its_mutants(code: str) -> None:
    assert printing(ast.parse(code)) or code == "rich.print(1)"


def test_no_number_and_no_date_depends_on_the_machine() -> None:
    """No part asks the locale, the time zone, or writes a number by the locale's rules."""
    asks = re.compile(
        r"\blocale\.|\bimport locale\b|strftime|localtime|mktime|fromtimestamp|\btzset\b|datetime\.now|date\.today|:n\}"
    )
    assert [path.name for path in SOURCES if asks.search(path.read_text(encoding="utf-8"))] == []


# --- signals -------------------------------------------------------------------------------------------------------


def test_only_the_command_line_and_workers_take_signals() -> None:
    takers = {
        path.relative_to(ROOT / "src/wellposed").as_posix()
        for path in SOURCES
        if "signal.signal(" in path.read_text(encoding="utf-8")
    }
    assert takers == {
        "cli/interrupts.py",
        "parallel/cluster.py",  # puts back what Ray took
        "parallel/processes.py",  # in a worker
    }


@pytest.fixture
def restored() -> Iterator[None]:
    """The signals as they were: a command that was ended leaves them ignored, since its process ends."""
    before = {number: signal.getsignal(number) for number in interrupts.ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def sent(number: int) -> None:
    """Send a signal to this process, and wait until it is taken."""
    os.kill(os.getpid(), number)
    time.sleep(60)


@unix
@pytest.mark.parametrize("number", interrupts.ENDING)
def test_the_first_signal_interrupts_and_the_others_of_its_burst_do_not(restored: None, number: signal.Signals) -> None:
    with Interrupts() as found:
        with pytest.raises(KeyboardInterrupt):
            sent(number)
        for other in interrupts.ENDING * 10:
            os.kill(os.getpid(), other)
        assert (found.came, found.status) == (number, 128 + number)
        found._until = 0.0  # later
        with pytest.raises(KeyboardInterrupt):
            sent(signal.SIGINT)
        assert found.status == 128 + number
    for other in interrupts.ENDING:  # while the process ends
        os.kill(os.getpid(), other)


@unix
def test_what_is_ignored_stays_ignored(restored: None) -> None:
    """Of `nohup`, and of jobs that a shell started with &."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts() as found:
        os.kill(os.getpid(), signal.SIGHUP)
        assert found.came is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_signals_are_left_as_they_were() -> None:
    """By a command that nobody ended, by the library, and in a thread that may not take any."""
    import wellposed as wp

    before = {number: signal.getsignal(number) for number in interrupts.ENDING}
    assert call("--version").status == 0
    x = torch.randn(30, 2)
    problem = wp.Problem(lambda: torch.nn.Linear(2, 2), "cross_entropy", (x, (x[:, 0] > 0).long()))
    recipe = wp.Recipe(epochs=1)
    wp.fit(problem, recipe)
    wp.fit_many(problem, recipe, seeds=range(2), engine="processes", device="cpu")
    wp.improve(problem, "0")
    assert {number: signal.getsignal(number) for number in interrupts.ENDING} == before
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(call("recipe", "list").status))
    thread.start()
    thread.join()
    assert statuses == [0]


def in_a_destructor() -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    Dying()


def in_a_weak_callback() -> None:
    class Dying:
        pass

    dying = Dying()
    kept = weakref.ref(dying, lambda _: signal.raise_signal(signal.SIGINT))
    del dying
    assert kept() is None


def in_a_callback_of_the_collector() -> None:
    def called(phase: str, info: dict[str, int]) -> None:
        gc.callbacks.remove(called)
        signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(called)
    gc.collect()


def in_a_call_from_c() -> None:
    signalled = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
    signalled()


@unix
@pytest.mark.parametrize(
    "place", [in_a_destructor, in_a_weak_callback, in_a_callback_of_the_collector, in_a_call_from_c]
)
def test_an_interrupt_that_python_cannot_hand_on_comes_a_moment_later(
    restored: None, place: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Python would write it on stderr with a traceback, and go on as if nobody had asked to end."""

    def placed() -> None:
        place()
        time.sleep(60)

    with Interrupts() as found:
        with pytest.raises(KeyboardInterrupt):
            placed()
        assert found.came is signal.SIGINT
    assert capsys.readouterr().err == ""


@unix
def test_what_else_python_cannot_hand_on_is_told_as_ever(restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        def __del__(self) -> None:
            raise ValueError

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))
    before = sys.unraisablehook
    with Interrupts():
        Dying()
    assert told == [ValueError]
    assert sys.unraisablehook is before


@unix
@pytest.mark.parametrize("when", [2, 4, 7])
def test_a_burst_of_signals_while_a_trial_is_written_keeps_the_study(
    place: Path, when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten at a time, at that trial and at every write that follows."""
    pytest.importorskip("optuna")
    wrote, calls = State.save, []

    def save(state: Any, folder: Path) -> None:
        calls.append(1)
        for _ in range(10 * (len(calls) >= when)):
            os.kill(os.getpid(), signal.SIGTERM)
        wrote(state, folder)
        for _ in range(10 * (len(calls) > when)):
            os.kill(os.getpid(), signal.SIGTERM)

    words = ["improve", "t.csv", "--target", "kind − é", "--recipes", "4", "--out", "made"]
    monkeypatch.setattr(State, "save", save)
    found = shell(place, Setting(), *words)
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert found.status == 128 + signal.SIGTERM
    assert "nterrupted" in found.err
    assert "--resume" in found.err
    assert "Traceback" not in found.err
    assert State.load(place / "made").planned > 0
    shutil.rmtree("cut", ignore_errors=True)
    Path("made").rename("cut")
    found = shell(place, Setting(), *words[:-1], "cut", "--resume")
    assert found.status == 0, found.err
    assert json.loads(Path("cut/study.json").read_text(encoding="utf-8"))["recipes_tried"] == 4
    shutil.rmtree("cut")


@unix
def test_a_signal_while_the_results_are_written_loses_none_of_them(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wellposed.study import study

    wrote = study.write_json

    def write(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        return wrote(*given)

    monkeypatch.setattr(study, "write_json", write)
    found = shell(place, Setting(), *WORDS["improve"])
    monkeypatch.undo()
    assert found.status == 128 + signal.SIGHUP
    assert found.err.splitlines()[-1] == "Interrupted; go on with --out made --resume."
    (place / "made").rename(place / "cut")
    found = shell(place, Setting(), *WORDS["improve"][:-1], "cut", "--resume")
    assert found.status == 0, found.err
    assert kept(place, "cut")[0]["best"] == kept(place, "run")[0]["best"]
    shutil.rmtree(place / "cut")


def begun(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A study in a process and a group of its own, which waits as soon as two trials are on disk; resumed, it does not."""
    (folder / "slow.py").write_text(SLOW, encoding="utf-8")
    (folder / "hold").write_text("99" if "--resume" in words else "2", encoding="utf-8")
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", QUICK, "improve", "slow.py:problem", "--recipes", "5", "--out", "run", *words],
        cwd=folder, text=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@unix
def test_a_signal_inside_of_exec_keeps_its_status(tmp_path: Path) -> None:
    """As while a module is imported: `python -m` would say that it was ended by Ctrl-C."""
    text = "import os, signal, time\nos.kill(os.getpid(), signal.SIGHUP)\ntime.sleep(9)"
    code = f"import sys\nfrom wellposed.cli.failures import run_command\nsys.exit(run_command(lambda: exec({text!r}), False))"
    (tmp_path / "command.py").write_text(code, encoding="utf-8")
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run([sys.executable, "-m", "command"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    assert found.returncode == 128 + signal.SIGHUP


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()]


def alive(process: int) -> bool:
    try:
        return (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
            not in "ZX"
        )
    except FileNotFoundError:
        return False


def gone(processes: Sequence[int]) -> bool:
    """Whether all end; waited for as long as a loaded machine may take."""
    until = time.monotonic() + 300
    while any(map(alive, processes)) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(map(alive, processes))


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "name"),
    [
        *itertools.product(["inprocess"], ["SIGINT", "SIGTERM", "SIGHUP"]), ("processes", "SIGTERM"), ("ray", "SIGTERM"),
        *(pytest.param("processes", name, marks=pytest.mark.nightly) for name in ("SIGINT", "SIGHUP")),
    ],
)  # fmt: skip
def test_a_signal_to_all_ends_a_study_like_ctrl_c(tmp_path: Path, name: str, engine: str) -> None:
    """As a terminal or a cluster sends it: ten times, to the command and its workers; on Ray to the command alone."""
    pytest.importorskip("optuna")
    if engine == "ray":
        pytest.importorskip("ray")
        if not os.access(Path.home(), os.W_OK):
            pytest.skip("Ray keeps a token in the home folder, which cannot be written")
    number = getattr(signal, name)
    with begun(tmp_path, "--engine", engine, "--device", "cpu") as process:
        wait_for_trials(tmp_path, process, 2)
        workers = children(process.pid) if engine == "processes" else []
        for _ in range(10):
            if engine == "ray":
                process.send_signal(number)
            else:
                os.killpg(process.pid, number)
        (tmp_path / "hold").unlink()  # what an interrupted study still does makes networks too
        out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert "nterrupted" in err
    assert "--resume" in err
    assert gone(workers)
    assert len(State.load(tmp_path / "run").trials) >= 2
    if name == "SIGTERM":
        with begun(tmp_path, "--resume", "--engine", engine, "--device", "cpu") as process:
            out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "report: run/report.html" in out


HOLDING = """
import os, sys, time
from pathlib import Path
import torch, wellposed as wp
from wellposed.parallel import processes
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Conditions, Job

way, folder = sys.argv[1], Path(sys.argv[2])
if way == "number":
    processes.die_with = lambda parent: None
if way == "system":
    processes.WorkerInterrupts._wait = lambda self: None
torch.set_num_threads(1)
parent = os.getpid()

class Net(torch.nn.Linear):
    def forward(self, x):
        if os.getpid() != parent and self.training:
            (folder / f"w{os.getpid()}").touch()
        return super().forward(x)

def fork_holder(start):
    def started(*given):
        worker = start(*given)
        if not os.fork():  # holds all lines open, as a child of somebody's own does
            (folder / f"h{os.getpid()}").touch()
            time.sleep(600)
            os._exit(0)
        return worker
    return started

processes.fork_worker = fork_holder(processes.fork_worker)
problem = wp.Problem(lambda: Net(2, 2), "cross_entropy", (torch.randn(20, 2), torch.arange(20) % 2))
recipe = wp.Recipe(epochs=10**9, batch_size=8, stopping={"patience": 0})
processes.train_in_processes(problem, [Job(recipe, seed) for seed in range(2)], Conditions("cpu"), workers=2, fork=True)
"""


@linux
@pytest.mark.parametrize("way", ["both", "number", "system"])
def test_no_worker_outlives_a_parent_whose_lines_others_hold(tmp_path: Path, way: str) -> None:
    """By Linux's own signal, and by the parent's number, each alone."""
    program = subprocess.Popen([sys.executable, "-c", HOLDING, way, str(tmp_path)], stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("w*"))) < 2 or len(list(tmp_path.glob("h*"))) < 2:
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    workers, holders = ([int(mark.name[1:]) for mark in tmp_path.glob(kind)] for kind in ("w*", "h*"))
    try:
        assert all(map(alive, [*workers, *holders]))
        program.kill()
        program.wait()
        assert gone(workers)
        assert all(map(alive, holders))
    finally:
        for holder in holders:
            os.kill(holder, signal.SIGKILL)
        program.stderr.close()  # type: ignore[union-attr]
