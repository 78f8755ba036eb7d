"""The suite itself: what a test is called and whether it passes must not depend on the process, the clock or the machine."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def test_names_are_the_same_in_every_process(request: pytest.FixtureRequest) -> None:
    """Collected a second time, later, with other hashes, in another time zone, language and folder. Two workers that disagree
    about a name end the whole run before its first test."""
    mine: dict[str, list[str]] = {}
    lines: dict[str, list[int]] = {}
    for item in request.session.items:
        file, _, name = item.nodeid.partition("::")
        mine.setdefault(file.rpartition("/")[2], []).append(name)
        lines.setdefault(file.rpartition("/")[2], []).append(item.reportinfo()[1] or 0)
    elsewhere = {"PYTHONHASHSEED": "7", "TZ": "Pacific/Chatham", "LC_ALL": "C"}
    # A relative path would lead elsewhere from another folder: to the package that happens to be installed.
    elsewhere["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
    found = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-o", "addopts=", "--collect-only", "-q"),
            *("-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(TESTS.parent)),
            *(str(TESTS / file) for file in mine),
        ],
        env={**os.environ, **elsewhere}, cwd="/", capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    theirs: dict[str, list[str]] = {file: [] for file in mine}
    for line in found.stdout.splitlines():
        file, sign, name = line.partition("::")
        if sign:
            theirs[file.rpartition("/")[2]].append(name)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    shuffled = any(each != sorted(each) for each in lines.values())  # by a plugin
    for file, names in mine.items():
        selected = [name for name in theirs[file] if name in set(names)]
        if shuffled:
            names, selected = sorted(names), sorted(selected)
        assert names == selected, f"{file} names its tests anew in every process"


WAITS = ("wait", "join", "result")
LEAST = 100
"""Seconds below which a limit fails on a busy machine what would have ended."""


def short_limits(source: str) -> Iterator[int]:
    """Lines that wait for another process or thread for so few seconds; not where the test is that it does not end."""
    tree = ast.parse(source)
    meant = {
        id(inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "TimeoutExpired" in ast.dump(node.items[0])
        for inside in ast.walk(node)
    }
    for node in ast.walk(tree):
        limits: list[ast.expr | None] = []
        if isinstance(node, ast.Call) and id(node) not in meant:
            limits = [word.value for word in node.keywords if word.arg == "timeout"]
            if isinstance(node.func, ast.Attribute) and node.func.attr in WAITS and len(node.args) == 1:
                limits += node.args
        elif isinstance(node, ast.arguments):
            named = [*node.posonlyargs, *node.args][::-1]
            given = [
                *zip(named, node.defaults[::-1], strict=False),
                *zip(node.kwonlyargs, node.kw_defaults, strict=True),
            ]
            limits = [value for name, value in given if name.arg == "timeout"]
        for limit in limits:
            if isinstance(limit, ast.Constant) and isinstance(limit.value, int | float) and 0 < limit.value < LEAST:
                yield limit.lineno


def test_no_limit_of_a_test_is_a_matter_of_load() -> None:
    found = [
        f"{file.name}:{line}" for file in sorted(TESTS.glob("*.py")) for line in short_limits(file.read_text("utf-8"))
    ]
    assert not found, f"on a busy machine these may end too early; {LEAST} seconds are the least: {found}"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def run(code, *, timeout=60): ...", 1),
        ("def run(code, timeout: float = 9.5, more=1): ...", 1),
        ("subprocess.run(words, timeout=20)", 1),
        ("thread.join(10)", 1),
        ("event.wait(timeout=10)", 1),
        ("thread.join(300)", 0),
        ("event.wait(0)", 0),
        ("' '.join(words)", 0),
        ("with pytest.raises(subprocess.TimeoutExpired):\n    run(code, timeout=10)", 0),
    ],
)
def test_the_law_of_limits_sees_its_mutants(source: str, count: int) -> None:
    assert len(list(short_limits(source))) == count
