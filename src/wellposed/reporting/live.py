"""A page that follows trainings while they run: the logs in a folder, read again where they changed, judged, and shown.

A reader in the background keeps a number for each change. The page asks for what is newer than the number it has, so that an
update carries the runs that moved and nothing else. The server listens on this machine alone, answers requests that name it
so (a page of somebody else's cannot reach it under another name), serves one page and one list, and writes nothing.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np

from wellposed import logs
from wellposed.core.errors import DataError, WellposedError
from wellposed.core.records import text
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.diagnose import diagnose
from wellposed.reporting.html import page as make_page

POINTS = 160
"""Points of a curve on the page: of more the lowest and highest of each stretch are kept, so that no spike is lost."""
SECONDS_APART = 1.0
"""Seconds between two looks at the folder."""
MOST_FILES = 200_000
"""Files that are looked at: a home folder by mistake should end in a sentence, not in an hour of reading."""

Stamp = tuple[int, int, int]


@dataclass
class LiveRun:
    """One run as the page shows it; ``version`` is that of its last change."""

    version: int
    shown: dict[str, Any]


@dataclass
class Live:
    """The runs of a folder, as they are now.

    Attributes:
        version: grows by one with each change.
        runs: by an id that stays.
        complete: whether all that was there at first has been read.
    """

    folder: Path
    version: int = 0
    runs: dict[str, LiveRun] = field(default_factory=dict)
    complete: bool = False
    _stamps: dict[Path, Stamp] = field(default_factory=dict)
    _of: dict[Path, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> None:
        """Read what is new or has changed since the last look, and forget what is gone."""
        now = dict(_sources(self.folder))
        for gone in self._stamps.keys() - now.keys():
            self._replace(gone, [])
            del self._stamps[gone]
        for path, stamp in now.items():
            if self._stamps.get(path) != stamp:
                self._replace(path, list(_read(path)))
                self._stamps[path] = stamp
        self.complete = True

    def _replace(self, path: Path, shown: Sequence[dict[str, Any]]) -> None:
        with self._lock:
            self.version += 1
            ids = [f"{path}#{number}" for number in range(len(shown))]
            for key in self._of.get(path, []):
                if key not in ids:
                    self.runs[key] = LiveRun(self.version, {})  # so that pages that have it forget it
            for key, one in zip(ids, shown, strict=True):
                known = self.runs.get(key)
                if known is None or known.shown != one:
                    self.runs[key] = LiveRun(self.version, one)
            self._of[path] = ids

    def changes(self, since: int) -> dict[str, Any]:
        """What is newer than a version: ``{"version", "complete", "runs": {id: run or {} where it is gone}}``."""
        with self._lock:
            newer = {key: run.shown for key, run in self.runs.items() if run.version > since}
            return {"version": self.version, "complete": self.complete, "runs": newer}


def _sources(folder: Path) -> Iterator[tuple[Path, Stamp]]:
    """The files and folders right inside, each with what shows that it changed: its newest time, its bytes, its files."""
    seen = 0
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        newest, size, files = 0, 0, 0
        for found in _files(entry):
            stat = found.stat(follow_symlinks=False)
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
        with os.scandir(entry.path) as inside:
            for one in inside:
                yield from _files(one)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """What the page shows of each run in a source; nothing where there is no run, as in a file of settings."""
    try:
        tables = logs.read_each(path)
    except (WellposedError, OSError):
        return
    for table in tables:
        if isinstance(table, logs.Table):
            yield shown(table, path)


def shown(table: logs.Table, path: Path) -> dict[str, Any]:
    """One run for the page: its curves thinned, its finding, where it stands."""
    curves = Curves.of(table)
    found = diagnose(table)
    first = found[0]
    return {
        "name": text(path.name if table.name == str(path) else table.name, 120),
        "epochs": len(curves.epoch),
        "axis": found.axis,
        "best": found.best_epoch,
        "train": thinned(curves.epoch, curves.train_loss),
        "valid": thinned(curves.epoch, curves.valid_loss),
        "finding": first.name,
        "confidence": round(float(first.confidence), 2),
        "lines": first.lines,
        "stopped": text(table.facts.get("stopped"), 40),
    }


def thinned(x: Any, y: Any) -> list[list[float]]:
    """At most about `POINTS` points of a curve, with the lowest and the highest of each stretch; what is not finite is left out."""
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
    Raises:
        DataError: the folder is none.
    """
    if not folder.is_dir():
        raise DataError(f"'{folder}' is no folder. Give the folder in which trainings write their logs.")
    live = Live(folder)
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(live))
    server.daemon_threads = True
    ended = threading.Event()

    def follow() -> None:
        while not ended.is_set():
            live.look()
            ended.wait(SECONDS_APART)

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
            url = urlparse(self.path)
            if url.path == "/":
                self._give(page, "text/html; charset=utf-8")
            elif url.path == "/changes":
                asked = parse_qs(url.query).get("since", ["0"])[0]
                since = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 16 else 0
                self._give(json.dumps(live.changes(since), default=_finite).encode(), "application/json")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _give(self, content: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            for name, value in (
                ("Content-Type", kind), ("Content-Length", str(len(content))), ("Content-Security-Policy", policy),
                ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"),
            ):  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not told."""

    return Handler


def _finite(value: Any) -> Any:
    number = float(value)
    return number if math.isfinite(number) else None
