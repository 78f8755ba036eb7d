"""The suite itself: what a test is called and whether it passes must not depend on the process, the clock or the machine."""

from __future__ import annotations

import os
import subprocess
import sys
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
    for file, names in mine.items():
        selected = [name for name in theirs[file] if name in set(names)]
        if lines[file] != sorted(lines[file]):  # a plugin has shuffled them
            names, selected = sorted(names), sorted(selected)
        assert names == selected, f"{file} names its tests anew in every process"
