"""A path: one file of whatever format, or a folder whose logs are found and sorted by run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from wellposed.core.csv import SEPARATORS, strip_comments
from wellposed.core.errors import DataError, listed
from wellposed.core.reading import TIMES, check_memory, format_bytes, open_regular
from wellposed.logs import event_files
from wellposed.logs.column_names import EPOCHS, SIDES, STEPS, boosted_name, guess, name_words, parse_name
from wellposed.logs.delimited import read_delimited
from wellposed.logs.documents import DEEPEST, flattened, is_lines, logs_from_json, read_lines
from wellposed.logs.encodings import log_text
from wellposed.logs.log import KERAS, TENSORBOARD, Log, columns_of, cut_name, normalize_name
from wellposed.logs.shapes import one_side_a_column
from wellposed.logs.text import NUMBER, parse_text

OWN = ("history.json", "history.csv")
STATE = "trainer_state.json"
EVENTS = "tfevents"
LEARNED, TESTED = "learn_error.tsv", re.compile(r"test(\d*)_error\.tsv")  # of CatBoost, in one folder
TEXTS = (".log", ".txt", ".out", ".ipynb", ".log.gz", ".txt.gz")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".json.gz")
HEAD = re.compile(r"^[^\s,]*,\S*loss\S*\r?$", re.IGNORECASE | re.MULTILINE)  # of a table of commas
MOST_FILES = 20_000  # that are looked at in a folder: a sweep has thousands, a whole disk millions


def read_path(path: Path) -> list[Log]:
    """The runs of a file or a folder.

    Raises:
        DataError: there is no such path, or nothing in it that is a log of training.
    """
    if path.is_dir():
        return _folder(path)
    return _file(path)


def _file(path: Path) -> list[Log]:
    if EVENTS in path.name:
        return [_events({"": [path]}, str(path))]
    text, guessed = log_text(path)
    found = _read(path, text)
    return [replace(log, notes=(*log.notes, guessed)) for log in found] if guessed else found


def _read(path: Path, text: str) -> list[Log]:
    if one := _one_column(text):
        return [Log(one, str(path))]
    if path.suffix.lower() == ".ipynb":
        text = "\n".join(_printed(_json(path)))
        return parse_text(path, text) or logs_from_json(path, "{}")
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    as_json = re.match(r'\s*(\{\s*["}]|\[\s*[{\[\]])', text) is not None  # a line of text may begin with a bracket too
    if as_json or suffix in (".json", ".jsonl", ".ndjson"):
        check_memory(f"'{path}' has {format_bytes(len(text))} of JSON", TIMES["JSON"] * len(text), DataError)
    if suffix in (".jsonl", ".ndjson") or (as_json and is_lines(text)):
        return read_lines(path, text)
    if suffix == ".json" or as_json:
        return logs_from_json(path, text)
    table = _is_table(text)
    if not table and (said := parse_text(path, text)):
        return said
    if not table and (head := HEAD.search(text)) and _is_table(text[head.start() :]):  # between what a script printed
        cells = head[0].count(",")
        text = "\n".join(line for line in text[head.start() :].split("\n") if line.count(",") == cells)
        table = True
    if not table and suffix not in (".csv", ".tsv") and not _in_columns(text):
        lines = [line for line in text.split("\n") if line.strip()]
        raise DataError(
            f"'{path}' has no curves: fewer than two of its lines (of {len(lines):,}) say what a loss was. Lines such as "
            f"'epoch 3: loss 0.52, val_loss 0.61' are read, and so are tables with a header. It begins with '{cut_name(lines[0])}'."
        )
    try:
        return read_delimited(path, text)
    except DataError:  # its rows may have remarks behind them
        if table and '"' not in text and (said := parse_text(path, text)):
            return said
        raise


def _printed(value: Any, depth: int = 0) -> Iterator[str]:
    """What the cells of a notebook printed: plain text, and tables of HTML as rows of tabs."""
    if isinstance(value, dict) and depth < DEEPEST:
        for key in ("cells", "outputs", "data", "text", "text/plain", "text/html"):
            inside = value.get(key)
            if isinstance(inside, list) and all(isinstance(line, str) for line in inside):
                inside = "".join(inside)
            if isinstance(inside, str):
                rows = re.sub(r"\s*</t[dh]>\s*<t[dh][^>]*>\s*", "\t", re.sub(r"</tr>", "\n", inside))
                yield (
                    re.sub(r"^\s+", "", re.sub(r"<[^<>]*>", "", rows), flags=re.MULTILINE)
                    if key == "text/html"
                    else inside
                )
            else:
                for one in inside if isinstance(inside, list) else [inside]:
                    yield from _printed(one, depth + 1)


def _one_column(text: str) -> dict[str, list[Any]]:
    """A name on the first line and one number on each after it, as Torch7 writes; empty for anything else."""
    name, *cells = [line.strip() for line in text.strip().split("\n")] if text[:100].strip()[:1].isalpha() else [""]
    known = parse_name(name).what and len(name) < 40 and len(cells) >= 2
    if not known or not all(NUMBER.fullmatch(cell) for cell in cells):
        return {}
    return {"step": [*range(1, len(cells) + 1)], name if parse_name(name).is_loss else f"{name} loss": cells}


def _is_table(text: str) -> bool:
    """Whether text begins with a header, names one of which is known, and a row of as many cells, few of them words."""
    lines = [line for line in strip_comments(text.lstrip("\ufeff")).split("\n", 50)[:50] if line.strip()]
    first, second = [*lines, "", ""][:2]
    for separator in (*SEPARATORS, None):
        names, cells = ([cell.strip(" \r\"'") for cell in line.split(separator)] for line in (first, second))
        numbers = sum(NUMBER.fullmatch(cell) is not None for cell in cells)
        if (
            len(names) > 1
            and len(cells) >= len(names) - 1
            and (numbers if separator else numbers == len(cells) == len(names))
        ):
            known = any(parse_name(name).what or parse_name(name).side for name in names) and names[0] + names[-1] != ""
            return known and not any(re.search(r"[:=(\[]\s*[-+\w]*\d|^[-+.\d]+$", name) for name in names)
    return False


def _in_columns(text: str) -> bool:
    """Whether the first two lines have as many cells, more than one, by some sign between them."""
    lines = [line for line in strip_comments(text.lstrip("\ufeff")).split("\n", 50)[:50] if line.strip()][:2]
    each = ([line.count(separator) for line in lines] for separator in SEPARATORS)
    return not lines or any(len(set(counts)) == 1 < len(counts) and counts[0] for counts in each)


# Folders


def _folder(path: Path) -> list[Log]:
    for name in OWN:
        if (path / name).is_file():
            return [replace(log, name=str(path)) if i == 0 else log for i, log in enumerate(_file(path / name))]
    files = list(_walk(path))
    named = [file for file in files if file.name in (*OWN, "metrics.csv")]
    states = _latest([file for file in files if file.name == STATE])
    inside = {file.parent for file in states}
    inside |= {file.parent for file in files if file.name == LEARNED}
    events = [file for file in files if EVENTS in file.name and not any(file.is_relative_to(top) for top in inside)]
    known: list[tuple[str, Callable[[], list[Log]]]] = [
        (file.relative_to(path).as_posix(), partial(_file, file)) for file in [*_first_of_folder(named), *states]
    ]
    known += [
        (run.relative_to(path).as_posix(), partial(_run, parts, run)) for run, parts in _by_run(events, path).items()
    ]
    known += [(where.relative_to(path).as_posix(), read) for where, read in _several_files(files)]
    found = _with_losses(known)
    for kinds in (TABLES, TEXTS):
        tables = [file for file in files if file.name.lower().endswith(kinds)]
        found = found or _with_losses([(file.relative_to(path).as_posix(), partial(_file, file)) for file in tables])
    if not found:
        raise DataError(
            f"'{path}' is a folder without history.csv or any other log of training that is known; "
            "give a run folder or a CSV file of curves."
        )
    return found


# Runs that are kept in several files


def _several_files(files: Sequence[Path]) -> Iterator[tuple[Path, Callable[[], list[Log]]]]:
    """Runs with a file for each epoch (AllenNLP), each metric (MLflow) or each side, and what reads them."""
    by_metric: dict[Path, list[Path]] = {}
    by_name: dict[Path, list[Path]] = {}
    by_number: dict[Path, list[tuple[int, Path]]] = {}
    by_side: dict[Path, dict[str, Path]] = {}
    boosted = {file.parent for file in files if file.name == LEARNED}
    for file in files:
        if file.parent in boosted:
            continue
        if file.suffix == ".tsv" and _header(file)[1:] == [file.stem]:
            by_name.setdefault(_top(file), []).append(file)
        elif (top := next((folder for folder in file.parents if folder.name == "metrics"), None)) is not None:
            by_metric.setdefault(top, []).append(file)
        elif (number := re.fullmatch(r"(.*?)(\d{1,9})\.json", file.name)) is not None:
            by_number.setdefault(file.with_name(f"{number[1]}N.json"), []).append((int(number[2]), file))
        elif file.name.lower().endswith((*TABLES, ".log", ".log.gz")):
            words = name_words(file.name.partition(".")[0])
            if side := next((word for word in words if word in SIDES), ""):
                rest = "_".join(word for word in words if word != side)
                by_side.setdefault(file.with_name(f"{rest}{''.join(file.suffixes)}"), {}).setdefault(SIDES[side], file)
    yield from ((top, partial(_boosted, top)) for top in sorted(boosted))
    yield from ((top, partial(_metrics, top, mine)) for top, mine in by_metric.items())
    yield from ((top, partial(_named, top, mine)) for top, mine in by_name.items())
    yield from ((name, partial(_epochs, name, sorted(mine))) for name, mine in by_number.items() if len(mine) > 1)
    yield from (
        (name, partial(_sides, name, mine)) for name, mine in by_side.items() if "train" in mine and len(mine) > 1
    )


def _boosted(top: Path) -> list[Log]:
    """A run of CatBoost: a table of iterations for each set of rows, a column for each metric, by whatever name."""
    found = {"learn": top / LEARNED} | {
        f"test{number[1]}": file for file in sorted(top.iterdir()) if (number := TESTED.fullmatch(file.name))
    }
    rows: list[dict[str, Any]] = []
    for side, file in found.items():
        names, *lines = [line.split("\t") for line in log_text(file)[0].splitlines() if line.strip()] or [[]]
        named = [boosted_name(side, name) for name in names[1:]]
        rows += [{"iter": line[0], **dict(zip(named, line[1:], strict=False))} for line in lines]
    return [Log(columns_of(rows), str(top))]


def _metrics(top: Path, files: Sequence[Path]) -> list[Log]:
    """A run of MLflow: lines of ``time value step`` in a file of the metric's name."""
    columns: dict[str, list[tuple[int, float]]] = {}
    for file in files:
        found = [re.fullmatch(r"\d+ (\S+) (\d{1,15})", line) for line in log_text(file)[0].splitlines()]
        if all(found):
            columns[file.relative_to(top).as_posix()] = [(int(one[2]), float(one[1])) for one in found if one]
    return [Log(_rows("step", columns), str(top))]


def _header(file: Path) -> list[str]:
    with open_regular(file, DataError) as lines:
        return lines.readline(1000).decode("utf-8", "replace").strip().split("\t")


def _top(file: Path) -> Path:
    """The folder above the one that is called by a side, if there is one."""
    return next((folder.parent for folder in file.parents if normalize_name(folder.name) in SIDES), file.parent)


def _named(top: Path, files: Sequence[Path]) -> list[Log]:
    """A run of DVCLive: a table of steps and values in a file of the metric's name, in a folder of the side's."""
    columns: dict[str, list[tuple[int, float]]] = {}
    for file in files:
        rows = [line.split("\t") for line in log_text(file)[0].splitlines()[1:]]
        columns[file.relative_to(top).with_suffix("").as_posix()] = [
            (int(row[0]), float(row[-1]))
            for row in rows
            if len(row) > 1 and row[0].isdecimal() and NUMBER.fullmatch(row[-1])
        ]
    return [Log(_rows("step", columns), str(top))]


def _epochs(name: Path, files: Sequence[tuple[int, Path]]) -> list[Log]:
    """A run with a JSON file for each epoch."""
    rows = [{"epoch": number, **flattened(value)} for number, file in files if isinstance(value := _json(file), dict)]
    return [Log(columns_of(rows), str(name))]


def _sides(name: Path, files: Mapping[str, Path]) -> list[Log]:
    """A run with a table for each side, all with the same columns, one below the other."""
    rows: list[dict[str, Any]] = []
    read = {side: _file(file) for side, file in files.items()}
    if any({"train_loss", "valid_loss"} <= guess(log.columns).taken.keys() for log in read["train"]):
        return read["train"]  # what the other file says stands there, too
    for side, logs in read.items():
        for log in logs:
            names = {
                one: one if normalize_name(one) in (*EPOCHS, *STEPS) or parse_name(one).side else f"{side} {one}"
                for one in log.columns
            }
            rows += [dict(zip(names.values(), cells, strict=True)) for cells in zip(*log.columns.values(), strict=True)]
    return [Log(columns_of(rows), str(name))]


def _json(file: Path) -> Any:
    try:
        return json.loads(log_text(file)[0])
    except (DataError, ValueError, RecursionError):
        return None


def _run(parts: dict[str, list[Path]], run: Path) -> list[Log]:
    return [_events(parts, str(run))]


def _with_losses(sources: Sequence[tuple[str, Callable[[], list[Log]]]]) -> list[Log]:
    """The logs that have losses. What has none, or cannot be read, is named: it may have been meant."""
    found: list[Log] = []
    left: list[str] = []
    for name, read in sources:
        try:
            mine = [
                log for log in read() if {"train_loss", "valid_loss"} & set(guess(one_side_a_column(log).columns).taken)
            ]
        except DataError:
            mine = []
        found += mine
        left += [] if mine else [name]
    note = (f"In the folder, but without losses: {listed(left, 4)}.",) if left else ()
    return [replace(log, notes=(*log.notes, *note)) for log in found]


def _walk(path: Path) -> Iterator[Path]:
    """The files of a folder and of those inside, in order; hidden ones, pipes and links to folders are passed by."""
    count = 0
    for folder, inside, names in os.walk(path):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(names):
            count += 1
            if count > MOST_FILES:
                raise DataError(f"'{path}' has more than {MOST_FILES} files; give a folder that holds the logs.")
            if not name.startswith(".") and os.path.isfile(file := os.path.join(folder, name)):
                yield Path(file)


def _first_of_folder(files: list[Path]) -> list[Path]:
    """One file of a folder: a run of ours has its history twice."""
    first: dict[Path, Path] = {}
    for file in sorted(files, key=lambda file: (file.name != OWN[0], file)):
        first.setdefault(file.parent, file)
    return sorted(first.values())


def _latest(states: list[Path]) -> list[Path]:
    """Of a run's checkpoints the one that got furthest: its log holds those of all before."""
    by_run: dict[Path, list[Path]] = {}
    for state in states:
        folder = state.parent
        by_run.setdefault(folder.parent if folder.name.startswith("checkpoint-") else folder, []).append(state)
    return [max(mine, key=_reached) for mine in by_run.values()]


def _reached(state: Path) -> tuple[int, str]:
    value = _json(state)
    history = value.get("log_history") if isinstance(value, dict) else None
    return len(history) if isinstance(history, list) else -1, str(state)


# TensorBoard


def _by_run(events: list[Path], top: Path) -> dict[Path, dict[str, list[Path]]]:
    """Event files by run and part: ``train`` and ``validation`` beside one another are parts of the folder above.

    ``add_scalars`` makes a folder for each of its curves, ``TAG_CURVE``; those are parts too.
    """
    folders: dict[Path, list[Path]] = {}
    for file in events:
        folders.setdefault(file.parent, []).append(file)
    runs: dict[Path, dict[str, list[Path]]] = {}
    for folder, files in folders.items():
        part = normalize_name(folder.name)
        inside = folder != top and (part in SIDES or part.rsplit("_", 1)[-1] in SIDES)
        home, name = (folder.parent, folder.name) if inside else (folder, "")
        runs.setdefault(home, {})[name] = files
    return runs


def _events(parts: dict[str, list[Path]], name: str) -> Log:
    """One log of the event files of a run; each tag a column, in the order of writing."""
    columns: dict[str, list[tuple[int, float]]] = {}
    notes: list[str] = []
    for part, files in parts.items():
        for file in files:
            found, whole = event_files.scalars(file)
            if not whole:
                notes.append(f"'{file.name}' breaks off and was read up to there.")
            for tag, entries in found.items():
                columns.setdefault(_column(part, tag), []).extend(entries)
    if not columns:
        raise DataError(f"'{name}' has no scalars, only other events of TensorBoard.")
    if any(_of_epochs(tag) for tag in columns):  # Keras: its curves of epochs count epochs, those of batches do not
        columns = {tag: entries for tag, entries in columns.items() if _of_epochs(tag)}
        return Log(_rows("epoch", columns), name, KERAS, {}, tuple(notes))
    losses = [tag for ours, tag in guess(columns).taken.items() if ours in ("train_loss", "valid_loss")]
    steps = [step for step, _ in columns[losses[0]]] if len(losses) == 2 else []
    each = (
        [*range(steps[0], steps[0] + len(steps))] if steps else []
    )  # nobody evaluates after each step: they are epochs
    counted = len(steps) > 2 and all([step for step, _ in columns[tag]] == each for tag in losses)
    return Log(_rows("epoch" if counted else "step", columns), name, TENSORBOARD, {}, tuple(notes))


def _column(part: str, tag: str) -> str:
    """``train`` and ``loss`` are ``train/loss``; of ``Loss_train`` with the tag ``Loss`` it is ``Loss/train``."""
    if not part:
        return tag
    curve = part.rsplit("_", 1)[-1]
    return f"{tag}/{curve}" if part == f"{tag.replace('/', '_')}_{curve}" else f"{part}/{tag}"


def _of_epochs(tag: str) -> bool:
    return tag.rsplit("/", 1)[-1].startswith("epoch_")


def _rows(key: str, columns: dict[str, list[tuple[int, float]]]) -> dict[str, list[Any]]:
    """Columns of equal length: the curves one after another, each value in a row of its own with its step.

    Tags that will not be used, of which there may be hundreds, share one empty column.
    """
    taken = set(guess(columns).taken.values())
    used = {tag: entries for tag, entries in columns.items() if tag in taken and tag != key}
    total = sum(len(entries) for entries in used.values())
    rows: dict[str, list[Any]] = {key: [step for entries in used.values() for step, _ in entries]}
    at, empty = 0, [None] * total
    for tag, entries in columns.items():  # in their order, by which the same ones are taken when it is asked again
        if tag in used:
            rows[tag] = [None] * at + [value for _, value in entries] + [None] * (total - at - len(entries))
            at += len(entries)
        elif tag != key:
            rows[tag] = empty
    return rows
