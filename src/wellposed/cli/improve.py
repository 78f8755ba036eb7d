"""``wellposed improve``: from data to a report."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
import time as clock
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wellposed.cli.options import Kinds, MaxMemory, RuleNames, imported_types, kinds_by_column
from wellposed.cli.terminal import complain, decode_argument, hand_over, say, stdout_to_stderr
from wellposed.core.signs import fitting

if TYPE_CHECKING:
    from wellposed.data.tables import TableData
    from wellposed.training.problem import Problem

DEFAULT_BUDGET = "5m"
ENGINES = ("auto", "inprocess", "processes", "ray")
"""As in `wellposed.parallel.executors`, which imports torch."""
PROBLEM_FILE = re.compile(r"\.py:[A-Za-z_]\w*$")


def improve(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help=".csv .tsv .parquet (also .gz), .xlsx, .npz, or FILE.py:NAME. "
            "Without it: handwritten digits with noise, which ship with scikit-learn."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The column to predict; for several columns of numbers a,b.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, regression, or ordinal (levels); by default the target decides.")
    ] = None,
    levels: Annotated[
        str | None, typer.Option(help="Levels of an ordinal target, from the lowest to the highest: low,medium,high.")
    ] = None,
    target_transform: Annotated[
        str | None,
        typer.Option(
            help="Train on the target's logarithm: log or none. By default log where the target is clearly long-tailed."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="A metric's name: accuracy, f1_macro, auc, top_k_accuracy:5, ...; r2, mae, pinball:0.9, ..."),
    ] = None,
    kind: Kinds = None,
    drop: Annotated[list[str] | None, typer.Option(help="A column to leave out; may be given several times.")] = None,
    group: Annotated[
        str | None,
        typer.Option(help="A column such as a patient's number: rows with equal values are never split apart."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="A column of times, or 'rows' for their order; the latest rows are held out.")
    ] = None,
    weight: Annotated[
        str | None, typer.Option(help="A column of numbers >= 0 that say how much each row counts.")
    ] = None,
    class_weight: Annotated[str | None, typer.Option(help="balanced: every class counts alike in training.")] = None,
    test: Annotated[
        str | None,
        typer.Option(help="A table of rows for the final comparison. By default a fifth of DATA is held out for it."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2, help="Run K studies that hold every row out once. For tables of less than a few hundred rows."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="How long to search: 90s, 5m (the default), '30 recipes', '200 epochs'; 0 only compares the default recipe."
        ),
    ] = None,
    recipes: Annotated[int | None, typer.Option(min=1, help="Instead of --budget: how many recipes to try.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe of your own (.toml), tried first.")] = None,
    rule: RuleNames = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; by default runs/NAME.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the search and of all trainings.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, mps.")] = "auto",
    engine: Annotated[str, typer.Option(help="Where recipes are trained: auto, inprocess, processes, ray.")] = "auto",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the study in --out. The budget is then the total, with what was spent before."
        ),
    ] = False,
    small: Annotated[
        bool,
        typer.Option(
            "--small", help="Train smaller networks too, and show score against size. Takes time of the budget."
        ),
    ] = False,
    details: Annotated[bool, typer.Option("--details", help="Say where the time went.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print study.json, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    max_memory: MaxMemory = None,
) -> None:
    """Train, diagnose, search, confirm on untouched rows, and write a report."""
    # Imports take seconds, and count: `wellposed.cli.main.run` hands over when the process began.
    began = clock.monotonic() if context.obj is None else float(context.obj)
    from wellposed.core.clock import IMPORTS, WRITING, clock_open, enter_stage, spent_on
    from wellposed.core.errors import InputError, StudyFinished, did_you_mean, listed
    from wellposed.core.files import read_json
    from wellposed.search.progress_bar import show_progress
    from wellposed.study.budget import Budget

    if engine not in ENGINES:
        raise InputError(f"There is no engine {engine!r}.{did_you_mean(engine, ENGINES)} Use {listed(ENGINES)}.")
    if budget is not None and recipes is not None:
        raise typer.BadParameter("give --budget or --recipes, not both")
    spent = Budget.parse(f"{recipes} recipes" if recipes is not None else DEFAULT_BUDGET if budget is None else budget)
    # What somebody's problem file prints is no result: stdout is kept for ours.
    with (
        clock_open(began) as running,
        show_progress(spent, complain, quiet or as_json),
        stdout_to_stderr(),
        contextlib.ExitStack() as spared,
    ):
        with spent_on(IMPORTS):
            from wellposed.core.drawing import left_out
            from wellposed.core.records import texts
            from wellposed.optim.wrapper import compiler_spared
            from wellposed.recipe.presets import as_recipe
            from wellposed.reporting.html import report, same_page
            from wellposed.search.fold_studies import improve_in_folds
            from wellposed.search.improve import improve as search
            from wellposed.study.study import STUDY, summary
            from wellposed.study.time_spent import TimeSpent
            from wellposed.study.trials import SCHEMA

        own = None if recipe is None else as_recipe(recipe)
        if resume and out is None:
            raise InputError("--resume needs the folder of the study: give --out.")
        asked = Asked(
            decode_argument(target), task, [decode_argument(name) or name for name in drop or []], decode_argument(group),
            decode_argument(time), test, decode_argument(weight), class_weight, decode_argument(levels), target_transform,
            kinds_by_column(kind),
        )  # fmt: skip
        enter_stage("reading")
        problem, table, found = problem_of(data, metric, asked, not small)
        if "torch._dynamo" not in sys.modules:  # else a problem file has it, and may compile steps of its own
            spared.enter_context(compiler_spared())
        if folds is not None and (table is None or asked.test or resume or small):
            raise InputError(
                "--folds holds out each part of one table in turn. Leave out --resume, --small and --test, and give a table, not a "
                "problem file or images."
            )
        name = re.sub(r"[^\w.-]+", "-", fitting(problem.name, sys.getfilesystemencoding())).strip("-.") or "study"
        folder = out or free_folder(Path("runs") / name)
        command = shlex.join(["wellposed", *sys.argv[1:]])
        try:
            options: dict[str, Any] = {
                "recipe": own, "device": device, "engine": engine, "command": command, "rules": imported_types(rule, "rule"),
                "began": began, "verbose": False,
            }  # fmt: skip
            if folds is not None and table is not None:
                options |= {"metric": metric, "class_weight": asked.class_weight, "warnings": found}
                study = improve_in_folds(table, folds, spent, seed, folder, **options)
            else:
                study = search(problem, spent, seed, folder, resume=resume, small=small, **options)
        except KeyboardInterrupt:
            kept = f"; go on with --out {shlex.quote(str(folder))} --resume" if folder.exists() else ""
            complain(f"Interrupted{kept}.")
            raise typer.Exit(130) from None
        except StudyFinished:
            # A process that was killed, or found the disk full, before its page was written: the page is all that is missing.
            if same_page(folder):
                raise
            study = None
        late = study is not None and study.late
        with spent_on(WRITING), left_out() if late else contextlib.nullcontext():
            page = report(study or folder)
        record = read_json(folder / STUDY, SCHEMA, "study")
    for weight in ("warning", "note"):
        for said in texts(record.get(f"{weight}s"), most=2000):
            complain(f"{weight}: {said}")
    if late:
        complain(
            f"note: There was no time to draw the figures of the page; wellposed report {shlex.quote(str(folder))} draws them."
        )
    if as_json:
        hand_over(json.dumps(record) + "\n")
    else:
        say(summary(record))
        say(f"report: {page}")
        if details and (time_spent := TimeSpent.of({"clock": running.told()})) is not None:
            say(f"\n{time_spent}")
    if study is not None and study.interrupted:
        raise typer.Exit(130)


@dataclass(frozen=True)
class Asked:
    """What the command line says of a table; each field is the option of its name."""

    target: str | None = None
    task: str | None = None
    drop: list[str] = field(default_factory=list)
    group: str | None = None
    time: str | None = None
    test: str | None = None
    weight: str | None = None
    class_weight: str | None = None
    levels: str | None = None
    target_transform: str | None = None
    kind: dict[str, Any] = field(default_factory=dict)

    def given(self) -> list[str]:
        """The options that were given, as they are typed."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value]


def problem_of(
    data: str | None, metric: str | None, asked: Asked, pieces: bool = True
) -> tuple[Problem, TableData | None, tuple[str, ...]]:
    """The problem that the arguments describe, the table that it is of, and what was found of its rows.

    In a terminal, how a table was read is told first.
    """
    from wellposed.core.errors import InputError
    from wellposed.core.progress import emit
    from wellposed.data.example import ABOUT, VALID, noisy_digits
    from wellposed.data.table_files import open_table
    from wellposed.data.tables import prepare_table
    from wellposed.search.dependence import dependence
    from wellposed.training import ready_problems as ready

    given = asked.given()
    if data is not None and PROBLEM_FILE.search(data):
        if given or metric:
            raise InputError(
                f"{', '.join(given or ['--metric'])} is for tables; write it into the problem in {data!r}."
            )
        return ready.file_problem(data), None, ()
    if data is not None and re.search(r"\.py:?$", data):
        raise InputError(f"{data!r} is a Python file; say which problem in it, as {data.rstrip(':')}:NAME.")
    if data is not None and data.lower().endswith(".npz"):
        if given:
            raise InputError(f"{', '.join(given)} is for tables; {data!r} is a set of images.")
        return ready.image_problem(data, metric=metric), None, ()
    held: Any = None
    notes: tuple[str, ...] = ()
    readings: dict[str, Any] = {}
    if data is None:
        (frame, held), name, valid, notes = noisy_digits(), "noisy-digits", VALID, (ABOUT,)
        asked = replace(asked, target=asked.target or "target")
    else:
        read = open_table(data, asked.kind)
        ending = r"(\.(csv|tsv|txt|parquet|xlsx|xlsm|xls|ods))?(\.gz)?$"
        name = re.sub(ending, "", Path(data).name, flags=re.IGNORECASE) or "table"
        frame, notes, readings, valid = read.frame, read.notes, read.readings, 0.2
        emit("reading", text=f"reading: {read.summary()}")
    target: str | list[str] | None = asked.target
    if asked.target is not None and "," in asked.target and asked.target not in map(str, frame.columns):
        target = [one.strip() for one in asked.target.split(",")]  # several
    table = prepare_table(
        frame, target, task=asked.task, drop=asked.drop, group=asked.group, time=asked.time, weight=asked.weight,
        link=asked.target_transform, levels=asked.levels.split(",") if asked.levels else (), name=name, readings=readings,
    )  # fmt: skip
    table = replace(table, warnings=(*notes, *table.warnings))
    held = held if asked.test is None else open_table(asked.test, readings).frame
    rows = None if held is None else ready.labelled_rows(held, table, asked.weight)
    problem = ready.table_problem(
        table, metric=metric, test=rows, valid=valid, class_weight=asked.class_weight, pieces=pieces
    )
    measured_by = metric or ready.table_metric(table, asked.class_weight)[0]
    found = tuple(one.sentence for one in dependence(table, measured_by))
    problem.warnings = (*problem.warnings, *found)
    return problem, table if held is None else None, found


def free_folder(wanted: Path) -> Path:
    """The folder, or the same with the next free number."""
    folder, number = wanted, 2
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder
