"""A page that follows trainings while they run: the logs in a folder, read again where they changed, judged, and shown.

A reader in the background keeps a number for each change. The page asks for what is newer than the number it has, so that an
update carries the runs that moved and nothing else: their rows of the table, and curves of those alone that are in view, which
are read and judged before all others. What reads and judges is imported by the reader, so that the page is there before it. The
server listens on this machine alone, answers requests that name it so (a page of somebody else's cannot reach it under another
name), serves one page and one list, and writes nothing.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlparse

from wellposed.core.errors import DataError, WellposedError
from wellposed.core.records import text
from wellposed.reporting.pages import page as make_page

if TYPE_CHECKING:
    from wellposed.logs import Table

POINTS = 160
"""Points of a curve on the page: of more the lowest and highest of each stretch are kept, so that no spike is lost."""
SECONDS_APART = 1.0
"""Seconds between two looks at the folder."""
MOST_SHOWN = 200
"""Runs that a page shows at once."""
MOST_FILES = 200_000
"""Files that are looked at: a home folder by mistake should end in a sentence, not in an hour of reading."""

Stamp = tuple[int, int, int]


@dataclass
class LiveRun:
    """One run as the page shows it; ``version`` is that of its last change. A run that is gone has an empty ``row``."""

    version: int
    row: dict[str, Any]
    curves: dict[str, Any] = field(default_factory=dict)


@dataclass
class Live:
    """The runs of a folder, as they are now.

    A run is listed as soon as its file is seen, has its curves once this is read, and its finding once these are judged. What the
    page shows comes first.

    Attributes:
        version: grows by one with each change.
        runs: by a number that stays.
        view: the numbers of the runs that the page shows.
        problem: why the folder cannot be looked at now; empty where it can.
    """

    folder: Path
    version: int = 0
    runs: dict[int, LiveRun] = field(default_factory=dict)
    view: frozenset[int] = frozenset()
    problem: str = ""
    _stamps: dict[Path, Stamp] = field(default_factory=dict)
    _of: dict[Path, list[int]] = field(default_factory=dict)
    _pending: dict[Path, list[Table] | None] = field(default_factory=dict)
    _scanned: bool = False
    _moved: threading.Condition = field(default_factory=threading.Condition)

    def scan(self) -> None:
        """List what is new or has changed since the last look, to be read, and forget what is gone."""
        now = dict(_sources(self.folder))
        for gone in {path for path, numbers in self._of.items() if numbers} - now.keys():
            self._replace(gone, [])
            self._pending.pop(gone, None)
            self._stamps.pop(gone, None)
        for path, stamp in now.items():
            if self._stamps.get(path) != stamp:
                self._stamps[path], self._pending[path] = stamp, None
                if path not in self._of:
                    self._replace(path, [({"name": text(path.name, 120)}, {})])
        self._scanned = True

    def step(self) -> bool:
        """Read one source, or judge its runs; False where nothing is left to do."""
        if not self._pending:
            return False
        of, pending = self._of, self._pending  # what the page shows comes first, what was not read before what was
        path = min(pending, key=lambda one: (self.view.isdisjoint(of.get(one, ())), pending[one] is not None))
        tables = self._pending.pop(path)
        if tables is not None:
            with suppress(WellposedError):  # curves that are no training are shown without a finding
                self._replace(path, [judged_run(table, path) for table in tables])
        elif tables := _read(path):
            self._pending[path] = tables
            known = [self.runs[number].row for number in self._of.get(path, [])]
            drawn = [drawn_run(table, path) for table in tables]
            before = itertools.chain(known, itertools.repeat({}))
            self._replace(path, [(old | row, curves) for old, (row, curves) in zip(before, drawn, strict=False)])
        elif path.exists():
            self._replace(path, [])
        else:  # away for a moment, or gone, which the next look tells
            self._stamps.pop(path, None)
        return True

    def look(self) -> None:
        """Read and judge all that is new or has changed."""
        self.scan()
        while self.step():
            pass

    def _replace(self, path: Path, shown: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        with self._moved:
            self.version += 1
            numbers = self._of.get(path, [])
            for gone in numbers[len(shown) :]:
                self.runs[gone] = LiveRun(self.version, {})  # so that pages that have it forget it
            numbers = [*numbers[: len(shown)], *range(len(self.runs), len(self.runs) + len(shown) - len(numbers))]
            for number, (row, curves) in zip(numbers, shown, strict=True):
                known = self.runs.get(number)
                if known is None or (known.row, known.curves) != (row, curves):
                    self.runs[number] = LiveRun(self.version, row, curves)
            self._of[path] = numbers
            self._moved.notify_all()

    def changes(
        self, since: int, view: Sequence[int] = (), lacking: Sequence[int] = (), wait: float = 0.0
    ) -> dict[str, Any]:
        """What is newer than a version: rows of the table, empty where a run is gone, and curves of what the page shows.

        Args:
            view: numbers of runs whose curves are told where they changed.
            lacking: of these, those that the page does not have yet.
            wait: seconds in which something may change before it is said that nothing did.
        """
        with self._moved:
            self.view = frozenset(view)
            if not any(number in self.runs and self.runs[number].curves for number in lacking):
                self._moved.wait_for(lambda: self.version > since, wait)
            newer = {number: run.row for number, run in self.runs.items() if run.version > since and (run.row or since)}
            wanted = {*(number for number in view if number in newer), *lacking}
            curves = {number: run.curves for number in wanted if (run := self.runs.get(number)) and run.curves}
            complete = self._scanned and not self._pending
            told = {"version": self.version, "complete": complete, "problem": self.problem}
            return told | {"runs": newer, "curves": curves}


def _sources(folder: Path) -> Iterator[tuple[Path, Stamp]]:
    """The files and folders right inside, each with what shows that it changed: its newest time, its bytes, its files."""
    seen = 0
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        newest, size, files = 0, 0, 0
        for found in _files(entry):
            try:
                stat = found.stat(follow_symlinks=False)
            except OSError:  # gone since it was listed, as what is written beside its place and renamed
                continue
            newest, size, files = max(newest, stat.st_mtime_ns), size + stat.st_size, files + 1
            seen += 1
            if seen > MOST_FILES:
                raise DataError(f"'{folder}' holds more than {MOST_FILES:,} files; give a folder of logs.")
        if files:
            yield Path(entry.path), (newest, size, files)


def _files(entry: os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    if entry.is_file(follow_symlinks=False):
        yield entry
    elif entry.is_dir(follow_symlinks=False):
        try:
            inside = list(os.scandir(entry.path))
        except OSError:  # gone, or not ours to read
            return
        for one in inside:
            yield from _files(one)


def _read(path: Path) -> list[Table]:
    """The runs of a source; none where there is no run, as in a file of settings."""
    from wellposed import logs

    try:
        return [table for table in logs.read_each(path) if isinstance(table, logs.Table)]
    except (WellposedError, OSError):
        return []


def drawn_run(table: Table, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """One run for the page: its row of the table, and its curves, thinned."""
    from wellposed.diagnosis.curves import Curves

    curves = Curves.of(table)
    sides = {side: thinned(curves.epoch, getattr(curves, f"{side}_loss")) for side in ("train", "valid")}
    levels = [level for _, level in sides["valid"] or sides["train"]]
    return {
        "name": text(path.name if table.name == str(path) else table.name, 120),
        "epochs": len(curves.epoch),
        "last": levels[-1] if levels else None,
        "lowest": min(levels, default=None),
        "stopped": text(table.facts.get("stopped"), 40),
    }, sides


def judged_run(table: Table, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same with the finding."""
    from wellposed.diagnosis.diagnose import diagnose

    row, curves = drawn_run(table, path)
    found = diagnose(table)
    first = found[0]
    row |= {"best": found.best_epoch, "finding": first.name, "confidence": round(float(first.confidence), 2)}
    return row, curves | {"lines": first.lines}


def thinned(x: Any, y: Any) -> list[list[float]]:
    """At most about `POINTS` points of a curve, with the lowest and the highest of each stretch; what is not finite is left out."""
    import numpy as np

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    kept = np.flatnonzero(np.isfinite(y) & np.isfinite(x))
    if len(kept) > POINTS:
        parts = np.array_split(kept, POINTS // 2)
        ends = {int(part[pick]) for part in parts for pick in (np.argmin(y[part]), np.argmax(y[part]))}
        kept = np.array(sorted(ends | {int(kept[0]), int(kept[-1])}))
    return [[float(f"{x[i]:.6g}"), float(f"{y[i]:.6g}")] for i in kept]


def page_server(folder: Path, port: int = 0) -> tuple[ThreadingHTTPServer, Live]:
    """A server on this machine alone, which is to be run by its ``serve_forever``, and what it shows.

    Args:
        port: 0 takes a free one.
    """
    if not folder.is_dir():
        raise DataError(f"'{folder}' is no folder. Give the folder in which trainings write their logs.")
    live = Live(folder)
    live.scan()
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(live))
    server.daemon_threads = True
    ended = threading.Event()

    def follow() -> None:
        while not ended.is_set():
            try:
                live.scan()
                live.problem = ""
            except (OSError, DataError) as error:  # it may be away for a moment; what was read stays
                live.problem = text(str(error), 300)
            again = time.monotonic() + SECONDS_APART
            while time.monotonic() < again and not ended.is_set() and live.step():
                pass
            ended.wait(again - time.monotonic())

    threading.Thread(target=follow, daemon=True, name="wellposed-watch").start()
    close = server.server_close

    def server_close() -> None:
        ended.set()
        close()

    server.server_close = server_close  # type: ignore[method-assign]
    return server, live


def _handler(live: Live) -> type[BaseHTTPRequestHandler]:
    nonce = secrets.token_urlsafe(16)
    page = make_page("live.html.j2", {"title": text(live.folder.resolve().name, 120), "nonce": nonce}).encode()
    policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'"

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version, protocol_version = "wellposed", "", "HTTP/1.1"

        def do_GET(self) -> None:
            host = self.headers.get("Host", "")
            port = self.connection.getsockname()[1]
            if host not in (f"127.0.0.1:{port}", f"localhost:{port}"):
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            try:
                url = urlparse(self.path)
            except ValueError:
                self.send_error(HTTPStatus.BAD_REQUEST)
                return
            if url.path == "/":
                self._give(page, "text/html; charset=utf-8")
            elif url.path == "/changes":
                asked = parse_qs(url.query)
                since, view, lacking = (_numbers(asked, name) for name in ("since", "view", "lacking"))
                found = live.changes(max(since, default=0), view, lacking, SECONDS_APART)
                self._give(json.dumps(found, default=_finite).encode(), "application/json")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _give(self, content: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            for name, value in (
                ("Content-Type", kind), ("Content-Length", str(len(content))), ("Content-Security-Policy", policy),
                ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"),
            ):  # fmt: skip
                self.send_header(name, value)
            with suppress(ConnectionError):  # a page that was scrolled on asks anew and hears no more of this
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not told."""

    return Handler


def _numbers(asked: dict[str, list[str]], name: str) -> list[int]:
    """Whole numbers that a page asks for, separated by commas; anything else is passed over."""
    parts = asked.get(name, [""])[0].split(",")
    return [int(part) for part in parts[:MOST_SHOWN] if part.isascii() and part.isdigit() and len(part) < 16]


def _finite(value: Any) -> Any:
    number = float(value)
    return number if math.isfinite(number) else None
