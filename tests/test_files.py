"""The two doors for files: whatever is opened goes through one of them, nobody's links are followed, nothing hangs or swells."""

from __future__ import annotations

import ast
import errno
import gzip
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.forked import forked

import wellposed
from wellposed.cli import main
from wellposed.core import files
from wellposed.core.errors import DataError, FormatError, InputError, RecipeError
from wellposed.core.files import PARTIAL, open_for_appending, read_json, sweep, write_atomically
from wellposed.core.reading import (
    LIMIT,
    check_memory,
    format_bytes,
    open_regular,
    parse_bytes,
    read_bytes,
    reading_up_to,
)
from wellposed.data.images import read_npz
from wellposed.data.table_files import read_table
from wellposed.logs import read_all
from wellposed.recipe.recipe import Recipe
from wellposed.search import timing

SOURCE = Path(wellposed.__file__).parent
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ROOT = SOURCE.parent.parent
unix = pytest.mark.skipif(os.name == "nt", reason="links, pipes and modes of Unix")


# A law: every place that opens, makes or removes a file


DOORS = ("core/files.py", "core/reading.py")
OPENERS = {
    "open", "fdopen", "read_text", "read_bytes", "write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "rename",
    "renames", "symlink", "truncate", "mkfifo", "mknod", "unlink", "rmdir", "removedirs", "mkdir", "makedirs",
    "chmod", "chown", "mkstemp", "mkdtemp", "TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile",
    "copy2", "copyfile", "copytree", "copyfileobj", "rmtree", "make_archive", "unpack_archive", "extractall", "extract",
    "savefig", "save_file", "save_model", "safe_open", "load_file", "savez", "savez_compressed", "savetxt", "loadtxt", "genfromtxt",
    "fromfile", "tofile", "memmap", "open_memmap", "to_parquet", "to_json", "to_pickle", "to_excel", "to_feather", "to_hdf",
    "read_csv", "read_parquet", "read_json", "read_table", "read_pickle", "read_excel", "ParquetFile", "ParquetWriter",
    "write_table", "ZipFile", "TarFile", "GzipFile",
    "BZ2File", "LZMAFile", "FileHandler", "SummaryWriter", "JournalFileBackend", "FileIO",
    "memfd_create",
}  # fmt: skip
"""Names of what opens a path, makes or removes one, in Python and in the libraries that we use. `load`, `save`, `replace`, `copy`
and `to_csv` do so too, but are also the names of other things; `opens` looks closer at them."""
AMBIGUOUS = {
    "remove": ("os",),
    "move": ("shutil",),
    "link": ("os",),
    "copy": ("shutil",),
    "export": ("onnx",),
    "File": ("h5py",),
}
"""Names that are also those of other things: they count only as of these modules."""
ALLOWED = {
    ("data/images.py", "zipfile.ZipFile(content)"): "a file that the door opened",
    ("data/images.py", "archive.open(info)"): "a part of it",
    ("data/table_files.py", "pandas.read_csv"): "bytes in memory",
    ("data/table_files.py", "pandas.read_excel"): "bytes in memory",
    ("data/table_files.py", "zipfile.ZipFile(io.BytesIO(content))"): "bytes in memory",
    ("data/table_files.py", "parquet.ParquetFile(content)"): "a file that the door opened",
    ("data/table_files.py", "parquet.ParquetFile(content, read_dictionary=[name])"): "a file that the door opened",
    ("core/drawing.py", "figure.savefig(out, "): "memory",
    ("reporting/turning.py", "figure.savefig(out, "): "memory",
    ("reporting/pages.py", "importlib.resources."): "our own template",
    ("cli/terminal.py", "open(os.devnull"): "nothing",
    ("cli/terminal.py", "os.open(os.devnull"): "nothing",
    ("study/folder.py", "folder.mkdir(parents=True, exist_ok=True)"): "the folder that the user named",
    ("study/folder.py", "folder.rmdir()"): "an empty folder that this process made",
    ("study/folder.py", "os.unlink(folder / LOCK)"): "a name in the folder; what a link points to stays",
    ("search/optuna_journal.py", "stale.unlink()"): "a name in the folder; what a link points to stays",
    ("search/lots.py", "bench.journal.open("): "no file",
    ("training/checkpoint.py", "save(weights)"): "into bytes",
    ("sparsity/verify.py", "save(whole)"): "into bytes",
    ("sparsity/deploy.py", "torch.onnx.export(net, args, "): "no path is given: into memory",
    ("testing/rule_laws.py", "path.read_bytes()"): "a check that its user runs, on a file of the user's own",
    ("testing/rule_laws.py", "tempfile.TemporaryDirectory()"): "a folder that the check makes and takes away",
    ("testing/rule_laws.py", "part.write_bytes("): "in that folder",
    ("testing/rule_laws.py", "other.write_bytes("): "in that folder",
    ("testing/rule_laws.py", "foreign[0].mkdir()"): "in that folder",
    ("testing/rule_laws.py", "one.read_bytes()"): "in that folder",
    ("parallel/population/compiled.py", "Path('/proc/self/maps').read_text("): "of the system",
    ("parallel/population/compiled.py", "Path('/proc/cpuinfo').read_text("): "of the system",
    ("parallel/population/compiled.py", "Path(entry.path, 'stat').read_text("): "of the system",
    ("parallel/population/compiled.py", "(here / name).read_bytes()"): "our own source",
    ("parallel/population/compiled.py", "open(handle, 'wb', closefd=False)"): "memory",
    ("parallel/population/compiled.py", "os.memfd_create("): "memory",
    ("parallel/population/compiled.py", "folder.mkdir(parents=True, exist_ok=True, mode=448)"): "the cache",
    ("parallel/population/compiled.py", "path.unlink(missing_ok=True)"): "a name in the cache, which is ours",
}
"""Calls outside the doors, by how they begin, and why each may be there."""


def opens(call: ast.Call, imported: dict[str, str]) -> bool:
    """Whether a call looks as if it opened, made or removed a file."""
    of = call.func
    name = of.attr if isinstance(of, ast.Attribute) else of.id if isinstance(of, ast.Name) else ""
    if imported.get(name, "").startswith("wellposed."):
        return False
    module = (
        ast.unparse(of.value).split(".")[-1] if isinstance(of, ast.Attribute) else imported.get(name, "").split(".")[0]
    )
    if name in AMBIGUOUS:
        return module in AMBIGUOUS[name]
    if name == "replace":  # of os, or of a path; texts take two arguments, recipes and dataclasses none without a name
        return module == "os" or (isinstance(of, ast.Attribute) and len(call.args) == 1 and not call.keywords)
    if name in ("load", "save"):  # of torch, numpy, safetensors, ...
        return module in ("torch", "np", "numpy", "pickle", "joblib", "json", "tomllib", "onnx") or (
            imported.get(name, "").startswith("safetensors")
        )
    if name == "to_csv":
        return bool(call.args or call.keywords)
    return name in OPENERS


def outside(source: str, place: str) -> list[tuple[str, str, int]]:
    """The calls of a file that open paths."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return [
        (place, ast.unparse(node), node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and opens(node, imported)
    ]


def test_every_path_is_opened_by_a_door() -> None:
    found = [
        call
        for path in sorted(SOURCE.rglob("*.py"))
        if (place := path.relative_to(SOURCE).as_posix()) not in DOORS
        for call in outside(path.read_text(encoding="utf-8"), place)
    ]
    used = {
        (place, start)
        for place, call, _ in found
        for where, start in ALLOWED
        if where == place and call.startswith(start)
    }
    new = [
        f"{place}:{line}: {call}"
        for place, call, line in found
        if not any(where == place and call.startswith(start) for where, start in ALLOWED)
    ]
    assert not new, "go through core/files.py or core/reading.py"
    assert used == set(ALLOWED), "no longer there"


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'w')", "open(p)", "p.open('a')", "p.write_text('x')", "Path(p).write_bytes(b)", "os.open(p, os.O_WRONLY)",
        "os.replace(a, b)", "a.replace(b)", "a.rename(b)", "shutil.copy(a, b)", "shutil.move(a, b)", "tempfile.mkstemp()",
        "frame.to_csv(path)", "torch.save(x, p)", "np.savez(p, x)", "figure.savefig(p)", "np.load(p)", "pandas.read_csv(p)",
        "gzip.open(p)", "json.load(f)", "tomllib.load(f)", "JournalFileBackend(p)", "from safetensors.torch import save\nsave(x)",
        "from safetensors.torch import load_file\nload_file(x)", "io.open(p)", "zipfile.ZipFile(p)", "os.symlink(a, b)",
        "torch.load(p)", "from pandas import read_csv as r\npandas.read_parquet(p)",
        "torch.onnx.export(m, x, p)", "os.remove(p)", "from os import remove\nremove(p)",
        "from shutil import move\nmove(a, b)", "logging.FileHandler(p)",
    ],
)  # fmt: skip
def test_the_law_sees(line: str) -> None:
    assert outside(line, "x.py")


@pytest.mark.parametrize(
    "line", ["a.replace('x', 'y')", "recipe.replace(lr=1)", "replace(x, y=1)", "history.to_csv()", "x.copy()"]
)
def test_the_law_lets_pass(line: str) -> None:
    assert not outside(line, "x.py")


# What a study writes, and whether it goes through links


def nearest() -> str | None:
    """The file of ours that opens, or has a library open, a file right now."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(str(SOURCE)):
            return os.path.relpath(frame.f_code.co_filename, SOURCE)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def ran(
    folder: Path, *commands: str
) -> tuple[list[int], list[tuple[str, str | None]], list[tuple[str, str | None]], str]:
    """Commands in a process of their own: exit codes, files opened for writing with who did it, renames, what was said."""
    opened: list[tuple[str, str | None]] = []
    renamed: list[tuple[str, str | None]] = []

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(given[2], int) and given[2] & WRITES:
            path = os.fsdecode(given[0]) if isinstance(given[0], (str, bytes)) else ""
            if path.startswith(str(folder)) or (path and "/" not in path):
                opened.append((os.path.basename(path), nearest()))
        elif event in ("os.rename", "os.symlink", "os.link"):
            renamed.append((os.path.basename(os.fsdecode(given[1])), nearest()))

    with tempfile.TemporaryFile("w+") as found, tempfile.TemporaryFile("w+") as said:

        def run() -> None:
            sys.stdin, sys.stdout, sys.stderr = None, said, said  # type: ignore[assignment]
            os.chdir(folder)
            timing.PLAIN_EPOCHS = 2
            sys.addaudithook(hook)
            codes = []
            for command in commands:
                sys.argv = ["wellposed", *command.split()]
                try:
                    main.run()
                except SystemExit as ended:
                    codes.append(ended.code)
            json.dump([codes, opened, renamed], found)
            found.flush()

        status = forked(run)
        for file in (found, said):
            file.seek(0)
        text = said.read()
        assert status == 0, text
        codes, *files_ = ([tuple(one) if isinstance(one, list) else one for one in part] for part in json.load(found))
        return codes, *files_, text  # type: ignore[return-value]


def table(folder: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(100, 3))
    rows = [f"{a},{b},{c},{'yes' if a > 0 else 'no'}" for a, b, c in x]
    (folder / "t.csv").write_text("\n".join(["a,b,c,kind", *rows]) + "\n")


IMPROVE = "improve t.csv --target kind --recipes 2 --out run --quiet"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A folder with a finished study, and the names of all files that it wrote or moved."""
    folder = tmp_path_factory.mktemp("finished")
    table(folder)
    codes, open_for_writing, renamed, said = ran(
        folder, IMPROVE, "predict run t.csv --out new.csv", "report run", "diagnose run --figure curves.svg"
    )
    assert codes == [0, 0, 0, 0], said
    strangers = {(name, who) for name, who in (*open_for_writing, *renamed) if who != "core/files.py"}
    assert not strangers, "written by somebody else than the door"
    return folder, {name for name, _ in (*open_for_writing, *renamed)}


def copied(finished: tuple[Path, set[str]], to: Path) -> Path:
    shutil.copytree(finished[0], to / "work")
    return to / "work"


def inside(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if not path.is_dir())


@unix
def test_what_a_study_leaves_was_seen_being_written(finished: tuple[Path, set[str]]) -> None:
    folder, names = finished
    left = {path.name for path in inside(folder / "run")}
    assert {"study.json", "state.json", "model.safetensors", "report.html"} <= left <= names
    assert ".lock" in names
    assert "new.csv" in names
    assert "curves.svg" in names


@unix
@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["links", "hard links"])
def test_no_file_of_a_stranger_s_run_is_written_through(
    link: Callable[[Path, Path], None], finished: tuple[Path, set[str]], tmp_path: Path
) -> None:
    """Each file is a link to one of the user's that has the same content, so that all else goes on as ever."""
    work = copied(finished, tmp_path)
    precious = tmp_path / "precious"
    precious.mkdir()
    for path in inside(work / "run"):
        mine = precious / path.name
        shutil.move(path, mine)
        link(mine, path)
    for name in sorted(finished[1]):  # those that are there only while it runs: not one may be written through
        if not (work / "run" / name).exists() and name not in (".lock", "new.csv", "curves.svg"):
            (precious / name).write_text("mine")
            link(precious / name, work / "run" / name)
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in precious.iterdir()}
    resumed = IMPROVE.replace("2", "3") + " --resume"
    codes, _, _, said = ran(work, resumed, "report run", "predict run t.csv --out new.csv")
    assert codes == [0, 0, 0], said
    assert {path: (path.read_bytes(), path.stat().st_mode) for path in precious.iterdir()} == before
    written = json.loads((work / "run" / "study.json").read_text())
    assert written["recipes_tried"] == 3


@unix
@pytest.mark.parametrize("name", [".lock", "model"])
def test_a_link_that_would_be_written_through_is_refused_before_any_work(
    name: str, finished: tuple[Path, set[str]], tmp_path: Path
) -> None:
    work = copied(finished, tmp_path)
    mine = tmp_path / "mine"
    if name == "model":
        shutil.move(work / "run" / "model", mine)
    else:
        mine.write_text("precious")
    (work / "run" / name).symlink_to(mine)
    before = {path: path.read_bytes() for path in (inside(mine) if mine.is_dir() else [mine])}
    codes, _, _, said = ran(work, IMPROVE.replace("2", "3") + " --resume", IMPROVE)
    assert codes == [1, 1]
    assert f"'run/{name}' is a link" in said
    assert {path: path.read_bytes() for path in (inside(mine) if mine.is_dir() else [mine])} == before


@unix
def test_an_empty_folder_with_a_link_as_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    table(tmp_path)
    (tmp_path / "run").mkdir()
    for kind in ("link", "hard link", "pipe", "folder"):
        lock = tmp_path / "run" / ".lock"
        {
            "link": lambda path: path.symlink_to(tmp_path / "mine"),
            "hard link": lambda path: path.hardlink_to(tmp_path / "mine"),
            "pipe": os.mkfifo,
            "folder": Path.mkdir,
        }[kind](lock)
        with pytest.raises(InputError, match=r"\.lock' is a link, a pipe or a folder"):
            open_for_appending(lock, tmp_path / "run")
        lock.rmdir() if kind == "folder" else lock.unlink()
    assert (tmp_path / "mine").read_text() == "precious"


# The door for writing


@unix
def test_a_link_in_a_folder_s_place_is_refused_and_one_in_a_file_s_place_is_replaced(tmp_path: Path) -> None:
    mine, run = tmp_path / "mine", tmp_path / "run"
    mine.mkdir()
    (mine / "file").write_text("precious")
    run.mkdir()
    (run / "link").symlink_to(mine)
    for path in (run / "link" / "file", run / "link" / "new" / "file"):
        with pytest.raises(InputError, match=r"'.*link' is a link or a file where a run has a folder"):
            write_atomically(path, "x", run)
    (run / "file").symlink_to(mine / "file")
    write_atomically(run / "file", "new", run)
    assert (run / "file").read_text() == "new"
    assert not (run / "file").is_symlink()
    (run / "a").write_text("a file")
    with pytest.raises(InputError, match="is a link or a file"):
        write_atomically(run / "a" / "b", "x", run)
    (run / "c").mkdir()
    with pytest.raises(InputError, match=r"'.*c' is a folder where a file is to be written"):
        write_atomically(run / "c", "x", run)
    assert (mine / "file").read_text() == "precious"
    assert os.listdir(mine) == ["file"]
    outer = tmp_path / "outer"  # the run folder itself was named by the user
    outer.symlink_to(run)
    write_atomically(outer / "d" / "e", "x", outer)
    assert (run / "d" / "e").read_text() == "x"
    assert not [path for path in inside(tmp_path) if path.name.startswith(PARTIAL)]


@unix
def test_links_that_the_user_named_are_resolved_and_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("old")
    (tmp_path / "link").symlink_to("there/file")
    (tmp_path / "second").symlink_to("link")
    (tmp_path / "dead").symlink_to("there/new")
    for name in ("link", "second", "dead"):
        write_atomically(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == name
    assert sorted(os.listdir(tmp_path / "there")) == ["file", "new"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        write_atomically(tmp_path / "loop", "x")


@unix
@pytest.mark.parametrize("within", [False, True])
def test_modes_are_kept_and_new_files_get_what_the_umask_leaves(within: bool, tmp_path: Path) -> None:
    folder = tmp_path if within else None
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new", "x", folder)
        os.umask(0o002)
        write_atomically(tmp_path / "open", "x", folder)
        write_atomically(tmp_path / "private", "x", folder, mode=0o600)
        for mode in (0o600, 0o644, 0o666, 0o640):
            path = tmp_path / f"{mode:o}"
            path.write_text("old")
            path.chmod(mode)
            write_atomically(path, "new", folder)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(old)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "open", "private")]
    assert modes == [0o640, 0o664, 0o600]


@unix
def test_a_private_file_is_private_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o600)
    modes: list[tuple[int, int]] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (modes.append(seen(handle)), fsync(handle))[1])

    def seen(handle: int) -> tuple[int, int]:
        found = os.fstat(handle)
        return stat.S_IMODE(found.st_mode), found.st_size

    write_atomically(path, "new")
    assert modes[0] == (0o600, 3)


@unix
def test_a_file_that_is_protected_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anything
    with pytest.raises(PermissionError):
        write_atomically(path, "new")
    assert path.read_text() == "old"


@unix
@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "fdopen"])
def test_what_cannot_be_written_is_said_by_the_name_that_people_know(
    call: str, within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partial file is ours: "Permission denied: .wellposed-83736cda8708f307" tells nobody what to do."""
    path, whole = tmp_path / "folder" / "predictions.csv", getattr(os, call)
    path.parent.mkdir()

    def refuse(*given: Any, **more: Any) -> Any:
        if call in ("fsync", "fdopen") or PARTIAL in str(given[0]):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), *given[:1])
        return whole(*given, **more)

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(PermissionError) as refused:
        write_atomically(path, "new", tmp_path if within else None)
    assert refused.value.filename == str(path)
    assert PARTIAL not in str(refused.value)


@unix
@pytest.mark.parametrize("path", ["/dev/fd/77", "/dev/full"])
def test_what_fails_in_place_is_said_by_its_name(path: str) -> None:
    if path == "/dev/fd/77" or os.path.exists(path):
        with pytest.raises(OSError) as refused:
            write_atomically(path, "new")
        assert refused.value.filename == path


@unix
def test_pipes_and_devices_are_written_in_place(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        got: list[bytes] = []
        reader = threading.Thread(target=lambda got=got: got.append(pipe.read_bytes()))
        reader.start()
        write_atomically(path, "through")
        reader.join(300)
        assert got == [b"through"]
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)
    assert link.is_symlink()
    master, slave = os.openpty()
    try:
        node = os.ttyname(slave)
        before = os.stat(node)
        write_atomically(node, "device")
        assert os.read(master, 100) == b"device"
        assert (os.stat(node).st_ino, os.stat(node).st_mode) == (before.st_ino, before.st_mode)
    finally:
        os.close(master)
        os.close(slave)


@unix
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_written_on_and_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = f"from wellposed.core.files import write_atomically as w; w({name!r}, 'a'); w({name!r}, 'b')"
    call = f'(echo head; {sys.executable} -c "{code}"; echo foot)'
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    for how, expected in ((call, "head\nabfoot\n"), (f"echo old > f; {call} >> f; cat f", "old\nhead\nabfoot\n")):
        done = subprocess.run(
            how, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
        )
        assert done.stdout == expected, done.stderr


def test_long_names_can_be_written(tmp_path: Path) -> None:
    name = "x" * 251 + ".csv"
    write_atomically(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


def test_what_a_killed_process_was_writing_is_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in (f"{PARTIAL}1", "other", "model/kept", f"model/{PARTIAL}2"):
        write_atomically(tmp_path / name, "x")
    (tmp_path / f"{PARTIAL}folder").mkdir()
    for folder in (tmp_path, tmp_path / "model", tmp_path / "nothing"):
        sweep(folder, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [f"{PARTIAL}folder", "model", "other"]
    assert os.listdir(tmp_path / "model") == ["kept"]


def test_files_makes_partial_names_that_sweep_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "replace", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(files.os, "unlink", lambda *_, **__: None)  # it was killed there
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "study.json", "x")
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 1
    sweep(tmp_path, tmp_path)
    assert os.listdir(tmp_path) == []


# The door for reading


@pytest.mark.parametrize(
    ("given", "bytes_"),
    [(1, 1), ("1", 1), ("4GiB", LIMIT), ("4 gb", LIMIT), ("500M", 500 * 2**20), ("1.5k", 1536), ("2T", 2 * 2**40)],
)
def test_sizes(given: int | str, bytes_: int) -> None:
    assert parse_bytes(given) == bytes_


@pytest.mark.parametrize("given", [0, -1, "", "x", "4X", "GiB", "nan", "1e9", "9" * 400, None, 1.5e-9])
def test_no_sizes(given: Any) -> None:
    with pytest.raises(InputError, match="is no amount of memory"):
        parse_bytes(given)


def test_the_limit_holds_in_its_block_and_says_what_would_do() -> None:
    with pytest.raises(
        DataError, match=r"x: reading takes about 5 GiB of memory, and may take 4 GiB.*--max-memory 8GiB"
    ):
        check_memory("x", 5 * 2**30, DataError)
    with reading_up_to("8GiB"):
        check_memory("x", 5 * 2**30, DataError)
        with reading_up_to("1K"), pytest.raises(DataError, match="may take 1 KiB"):
            check_memory("x", 2000, DataError)
        check_memory("x", 5 * 2**30, DataError)
    with pytest.raises(DataError):
        check_memory("x", float("inf"), DataError)
    assert [format_bytes(n) for n in (5, 2048, 3 * 2**20, 2**30 * 3 // 2, 2**50)] == [
        "5 bytes", "2 KiB", "3 MiB", "1.5 GiB", "1,048,576 GiB"
    ]  # fmt: skip


ODD: dict[str, Callable[[Path], object]] = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "dead link": lambda path: path.symlink_to("nothing"),
}


@unix
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    ODD[kind](path)
    with pytest.raises(DataError, match=r"pipe or a device|is a folder|cannot be read|There is no file"):
        open_regular(path, DataError)


def test_reading_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("x")
    with pytest.raises(DataError, match=r"There is no file '.*trian.csv'. Did you mean 'train.csv'\? Check"):
        read_bytes(tmp_path / "trian.csv", "table", DataError)
    for name in ("a\0b", "x" * 300):
        with pytest.raises(RecipeError, match="cannot be read"):
            read_bytes(name, "recipe", RecipeError)


READERS = """
import json, os, signal, sys, time
import torch, pandas, pyarrow.parquet
torch.set_num_threads(1)
from wellposed.cli.failures import run_command
from wellposed.cli.app import app
from wellposed.search import improve as _, proposals as __
from wellposed.reporting import html as ___
from wellposed.training import checkpoint as ____
class Late(BaseException):
    pass
def late(*_):
    raise Late
signal.signal(signal.SIGALRM, late)
def used(what):  # ru_maxrss would be that of the process which started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) / 1024
for words in json.load(sys.stdin):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before, began = used("VmRSS"), time.process_time()
    sys.argv = ["wellposed", *words]
    signal.alarm(120)  # of a busy machine: what is too slow is seen by the seconds of work
    try:
        code = run_command(lambda: app(prog_name="wellposed", standalone_mode=False), False)
    except Late:
        code = "late"
    signal.alarm(0)
    print(json.dumps([words, code, used("VmHWM") - before, time.process_time() - began]), file=sys.__stdout__)
    print("---", file=sys.stderr, flush=True)
"""


def attacked(folder: Path, commands: list[list[str]]) -> Iterator[tuple[list[str], int | str, float, float, str]]:
    """Commands in one process: exit status, MiB that it grew by, seconds of work, and what was said."""
    done = subprocess.run(
        [sys.executable, "-c", READERS], input=json.dumps(commands), cwd=folder, capture_output=True, text=True, timeout=580,
        check=False, env={**os.environ, "PYTHONPATH": str(SOURCE.parent), "MPLCONFIGDIR": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    assert len(results) == len(commands), done.stderr
    for (words, code, grown, seconds), said in zip(results, done.stderr.split("---\n"), strict=False):
        yield words, code, grown, seconds, said


COMMANDS = ("report run", "predict run t.csv --out new.csv", "diagnose run", f"{IMPROVE} --resume")


@unix
def test_no_command_waits_for_a_pipe_or_reads_a_device(finished: tuple[Path, set[str]], tmp_path: Path) -> None:
    """Each file of a run in turn, and each kind of file that a user gives."""
    work = copied(finished, tmp_path)
    shutil.copy(work / "run" / "recipe.toml", work / "own.toml")
    runs, commands = [path.relative_to(work) for path in inside(work / "run")], []
    for kind in ("pipe", "device"):
        for i, path in enumerate(runs):  # each file before each command: a pipe or a device by turns
            place = work / f"{kind}-{path.name}"
            shutil.copytree(work / "run", place / "run")
            (place / path).unlink()
            ODD[kind](place / path)
            commands += [
                [f"{place.name}/run" if word == "run" else word for word in command.split()]
                for j, command in enumerate(COMMANDS)
                if (i + j) % 2 == (kind == "pipe")
            ]
        for ending in ("csv", "tsv.gz", "parquet", "parquet.gz", "npz", "toml", "json", "jsonl", "log", "py"):
            name = f"{kind}.{ending}"
            ODD[kind](work / name)
            commands += {
                "toml": [["improve", "t.csv", "--target", "kind", "--recipe", name], ["recipe", "check", name]],
                "json": [["diagnose", name]],
                "jsonl": [["diagnose", name]],
                "log": [["diagnose", name, "--json"]],
                "py": [["improve", f"{name}:problem"]],
            }.get(ending, [["improve", name, "--target", "kind"], ["predict", "run", name], ["diagnose", name],
                           ["improve", "t.csv", "--target", "kind", "--test", name]])  # fmt: skip
        ODD[kind](work / f"{kind}.tfevents.1")
        commands.append(["diagnose", f"{kind}.tfevents.1"])
    refused = 0
    for words, code, grown, seconds, said in attacked(work, commands):
        assert code in (0, 1), (words, said)
        assert grown < 200, (words, grown)
        assert seconds < 30, (words, seconds)
        assert "Unexpected" not in said, (words, said)
        refused += "is a pipe or a device" in said
    assert refused > 40


# What swells


def members(path: Path, once: bytes, times: int, head: bytes = b"") -> None:
    """A gzip file of many equal members, made quickly."""
    packed = gzip.compress(once, 6)
    with path.open("wb") as file:
        file.write(gzip.compress(head))
        for _ in range(times):
            file.write(packed)


def npz(path: Path, **arrays: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)


def npy(array: Any, shape: tuple[int, ...] | None = None, kind: str | None = None) -> bytes:
    """An array as it is saved; its header may lie."""
    out = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    header.update({"shape": shape or array.shape, "descr": kind or header["descr"]})
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + array.tobytes()


def parquet(path: Path, columns: dict[str, Any], groups: int) -> None:
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    part = arrow.table(columns)
    with writer.ParquetWriter(path, part.schema) as out:
        for _ in range(groups):
            out.write_table(part)


def test_texts_are_not_unpacked_only_to_find_that_they_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "text.parquet", {"kind": ["x" * 2**21] * 2}, 1)
    monkeypatch.setattr("wellposed.data.table_files._text_bytes", lambda *_: pytest.fail("it was unpacked"))
    with reading_up_to("3MiB"), pytest.raises(DataError, match="max-memory"):
        read_table(tmp_path / "text.parquet")


def event(length: int) -> bytes:
    """The head of a record that says it is as long as that."""
    from wellposed.core.tfrecord import checksum

    head = struct.pack("<Q", length)
    return head + struct.pack("<I", checksum(head))


SMALL = "200MiB"


def swollen(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Files that unpack, or are built, to far more than they are; the command for each, and what it says. What is too large is so
    for `SMALL`, a twentieth of what commands may take where nothing is said."""
    table(folder)
    found: dict[str, tuple[list[str], str]] = {}

    def add(name: str, says: str, *words: str) -> Path:
        commands = list(words) or ["improve", name, "--target", "kind"]
        found[name] = commands + (["--max-memory", SMALL] if says == too_large and "recipe" not in words else []), says
        return folder / name

    too_large = "--max-memory"
    members(add("bomb.csv.gz", too_large), b"0,1\n" * 2**22, 10, b"a,kind\n")  # 170 MB
    members(add("wide.tsv.gz", too_large, "improve", "wide.tsv.gz", "--target", "kind"), b"0\t" * 2**22, 10)
    members(add("log.csv.gz", too_large, "diagnose", "log.csv.gz"), b"0,1\n" * 2**20, 12, b"epoch,loss\n")
    members(add("log.json.gz", too_large, "diagnose", "log.json.gz"), b"[" * 2**22, 12)
    members(add("line.jsonl.gz", too_large, "diagnose", "line.jsonl.gz"), b" " * 2**22, 12, b'{"loss": 1}')
    parquet(add("rows.parquet", too_large), {"a": np.ones(10**6), "kind": np.ones(10**6)}, 8)
    # The same few texts in every row, written once a group: 300 kB, 600 MB in rows.
    parquet(add("texts.parquet", too_large), {"kind": ["x" * 10**5] * 2000}, 3)
    pixels, labels = np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64)
    npz(add("lies.npz", "damaged", "improve", "lies.npz"), X_train=npy(pixels, (10**9, 4, 4)), y_train=npy(labels))
    npz(
        add("lies2.npz", "damaged", "improve", "lies2.npz"),
        X_train=npy(pixels),
        y_train=npy(labels, kind="<U900000000"),
    )
    npz(
        add("lies3.npz", "damaged", "improve", "lies3.npz"),
        X_train=npy(pixels, (-(2**40), -(2**40))),
        y_train=npy(labels),
    )
    with zipfile.ZipFile(
        add("zeros.npz", too_large, "improve", "zeros.npz"), "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as zeros:
        with zeros.open("X_train.npy", "w", force_zip64=True) as out:
            out.write(npy(pixels, (7 * 2**20, 4, 4))[: -pixels.nbytes])
            for _ in range(7):
                out.write(bytes(2**24))
        zeros.writestr("y_train.npy", npy(labels))
    short = b"c\n" * 60_000  # 60,000 rows of one cell under 6,000 names
    add("ragged.csv", too_large, "diagnose", "ragged.csv").write_bytes(
        b",".join(b"c%d" % i for i in range(6_000)) + b"\n" + short
    )
    add("ragged.tsv", too_large).write_bytes(b"\t".join(b"c%d" % i for i in range(6_000)) + b"\tkind\n" + short)
    keys = "".join(json.dumps({f"k{i}": i, "loss": 1.0}) + "\n" for i in range(7_000))
    add("keys.jsonl", too_large, "diagnose", "keys.jsonl").write_text(keys)
    add("deep.json", "nested too deeply", "diagnose", "deep.json").write_text("[" * 10**6)
    add("deep.jsonl", "", "diagnose", "deep.jsonl").write_text('{"a":' * 10**6 + "\n")
    add("deep.toml", "nested too deeply", "recipe", "check", "deep.toml").write_text("a = " + "[" * 10**5)
    add("dots.toml", too_large, "recipe", "check", "dots.toml").write_text("a." * 100_000 + "a = 1")
    add("dotted.toml", "unknown key", "recipe", "check", "dotted.toml").write_text("a." * 5_000 + "a = 1")
    add("large.toml", too_large, "recipe", "check", "large.toml").write_text("a = 1\n" * 10**6)
    columns = 100_000
    names = ["epoch", *(f"{side}_loss_{i}" for side in ("train", "valid") for i in range(columns // 2))]
    rows = [",".join(map(str, [epoch, *[1 / (epoch + 1)] * columns])) for epoch in range(3)]
    add("curves.csv", "", "diagnose", "curves.csv", "--json").write_text("\n".join([",".join(names), *rows]) + "\n")
    runs = [
        f"run{i} - {name}{end}" for i in range(3000) for name in ("loss", "val_loss") for end in ("", "__MIN", "__MAX")
    ]
    rows = [",".join(map(str, [epoch, *[1 / (epoch + 1)] * len(runs)])) for epoch in range(2)]
    add("chart.csv", "", "diagnose", "chart.csv", "--json").write_text(
        "\n".join([",".join(["Step", *runs]), *rows]) + "\n"
    )
    same = ",".join(["loss"] * columns)
    add("same.csv", "more than one column", "diagnose", "same.csv").write_text(f"{same}\n{same.replace('loss', '1')}\n")
    many = "run,epoch,loss\n" + "".join(f"r{i},{e},1\n" for i in range(3000) for e in range(2))
    add("many.csv", "", "diagnose", "many.csv", "--json").write_text(many)
    add("blank.log", "", "diagnose", "blank.log").write_text(("epoch 1 loss" + " " * 4900 + "\n") * 300)
    add("x.tfevents.1", "", "diagnose", "x.tfevents.1").write_bytes(event(2**63) + event(2**64 - 1))
    return found


@unix
def test_what_swells_is_refused_before_it_does(finished: tuple[Path, set[str]], tmp_path: Path) -> None:
    work = copied(finished, tmp_path)
    attacks = swollen(work)
    says = {" ".join(words): said for words, said in attacks.values()}
    for words, code, grown, seconds, said in attacked(work, [words for words, _ in attacks.values()]):
        assert code in (0, 1), (words, said)
        assert grown < 1000, (words, grown)
        assert seconds < 60, (words, seconds)
        assert says[" ".join(words)] in said, (words, said)
        assert "Unexpected" not in said, (words, said)


def test_an_array_that_lies_about_its_size_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before memory is taken for it: a system that promises memory lets that pass, one that does not fails."""
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was read"))
    for shape, kind in (((10**9, 4, 4), "|u1"), ((1, 4, 4), "|u1"), ((2, 4, 4), "<f8"), ((2, 4, 4), "<U900000000")):
        npz(tmp_path / "i.npz", X_train=npy(np.zeros((2, 4, 4), np.uint8), shape, kind))
        with pytest.raises(DataError, match=r"X_train in .* is damaged"):
            read_npz(tmp_path / "i.npz")


MODELS: dict[str, Callable[[dict[str, Any]], object]] = {
    "depth": lambda settings: settings.update(depth=10**6),
    "width": lambda settings: settings.update(width=10**9),
    "inputs": lambda settings: settings.update(inputs=10**12),
    "outputs": lambda settings: settings.update(outputs=10**7),
    "all": lambda settings: settings.update(depth=10**6, width=0),
}


@unix
def test_a_model_that_asks_for_more_than_its_weights_is_not_built(
    finished: tuple[Path, set[str]], tmp_path: Path
) -> None:
    work, commands = copied(finished, tmp_path), []
    for name, change in MODELS.items():
        shutil.copytree(work / "run", work / name)
        path = work / name / "model" / "model.json"
        description = json.loads(path.read_text())
        change(description["settings"])
        path.write_text(json.dumps(description))
        commands.append(["predict", name, "t.csv"])
    shutil.copytree(work / "run", work / "deep")
    (work / "deep" / "model" / "model.json").write_text('{"settings":' * 10**6)
    commands.append(["predict", "deep", "t.csv"])
    shutil.copytree(work / "run", work / "header")
    with (work / "header" / "model" / "model.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", 2**40))
    commands.append(["predict", "header", "t.csv"])
    for words, code, grown, seconds, said in attacked(work, commands):
        assert code == 1, (words, said)
        assert grown < 100, (words, grown)
        assert seconds < 10, (words, seconds)
        assert "Unexpected" not in said, (words, said)
        if words[1] in MODELS:
            assert "do not fit the model" in said or "do not build a mlp" in said, (words, said)


def test_the_limit_can_be_raised_and_lowered_from_the_command_line(
    finished: tuple[Path, set[str]], tmp_path: Path
) -> None:
    work = copied(finished, tmp_path)
    commands = [
        ["predict", "run", "t.csv", "--out", "new.csv", "--max-memory", "10K"],
        ["predict", "run", "t.csv", "--out", "new.csv", "--max-memory", "1GiB"],
        ["predict", "run", "t.csv", "--out", "new.csv"],
        ["improve", "t.csv", "--target", "kind", "--max-memory", "1K"],
        ["diagnose", "run", "--max-memory", "1K"],
        ["report", "run", "--max-memory", "1K"],
        ["report", "run", "--max-memory", "much"],
    ]
    results = list(attacked(work, commands))
    assert [code for _, code, _, _, _ in results] == [1, 0, 0, 1, 1, 1, 1]
    assert "--max-memory" in results[0][4]
    assert "no amount of memory" in results[-1][4]


def test_equal_tables_are_read_equal_whatever_the_limit(tmp_path: Path) -> None:
    """The text of a parquet file is measured first where it may be much; what is read is the same."""
    path = tmp_path / "t.parquet"
    parquet(
        path,
        {"a": [1, 2, 3], "s": ["x", None, "yy"], "l": [["a"], [], ["b", "c"]], "d": [{"k": "v"}, None, {"k": "w"}]},
        2,
    )
    wide = read_table(path)
    with reading_up_to("20K"):
        narrow = read_table(path)
    assert repr(wide) == repr(narrow)
    assert len(wide) == 6
    with reading_up_to("1K"), pytest.raises(DataError, match="6 rows and 4 columns"):
        read_table(path)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "\n\na,b\n1,2\n", 'a,"b\nc"\n1,2\n3,4', "a,b\r\n1,2\r\n", "a,b\n1,2"])
def test_lines_are_found_as_the_csv_module_finds_them(text: str, tmp_path: Path) -> None:
    import csv

    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    wanted = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    found = read_table(path)
    assert [list(found.columns), *found.astype(str).to_numpy().tolist()] == wanted


def test_large_integers_and_deep_json_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    for text in ("9" * 5000, "[" * 10**5, '{"schema": ' + "9" * 5000 + "}"):
        path.write_text(text)
        with pytest.raises(FormatError, match="is not a readable study"):
            read_json(path, 1, "study")


def test_images_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "i.npz"
    arrays = {
        "X_train": np.asfortranarray(np.arange(48, dtype=np.uint8).reshape(3, 4, 4)),
        "y_train": np.array([0, 1, 0]),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        found = read_npz(path)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


def test_runs_and_columns_are_found_as_before(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("run,epoch,loss,val_loss\n" + "".join(f"r{i % 3},{i // 3},{i},{i + 1}\n" for i in range(9)))
    found = read_all(path)
    assert [one.name.rpartition(": ")[2] for one in found] == ["r0", "r1", "r2"]
    assert [one.columns["train_loss"].tolist() for one in found] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert Recipe.from_toml("") == Recipe()


def test_zeros_behind_a_gzip_file_are_not_passed_over_one_by_one(tmp_path: Path) -> None:
    """A few are padding, as tapes have it."""
    whole = gzip.compress(b"a,b\n1,2\n", mtime=0)
    padded = tmp_path / "padded.csv.gz"
    padded.write_bytes(whole + bytes(1000))
    assert read_bytes(padded, "table", DataError, packed=True) == b"a,b\n1,2\n"
    with open(padded, "r+b") as file:
        file.truncate(2**30)
    with pytest.raises(DataError, match="of zeros, which no gzip file has"):
        read_bytes(padded, "table", DataError, packed=True)
