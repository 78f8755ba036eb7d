"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

RuleNames = Annotated[
    list[str] | None,
    typer.Option(
        "--rule", metavar="PACKAGE.MODULE:CLASS", help="A finding rule of your own; may be given several times."
    ),
]


def imported_types(names: list[str] | None, kind: str) -> list[Any]:
    """What the import names stand for."""
    from wellposed.core.registry import import_typed

    return [import_typed(name, kind) for name in names or []]


def _allowed(context: typer.Context, memory: str | None) -> None:
    if memory is not None:
        from wellposed.core.reading import reading_up_to

        context.with_resource(reading_up_to(memory))


MaxMemory = Annotated[
    str | None,
    typer.Option(
        callback=_allowed,
        is_eager=True,
        metavar="SIZE",
        help="About how much memory reading one file may take; 4GiB by default.",
    ),
]

Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="COLUMN=KIND",
        help="How a column is read: number, category, boolean, date, ignore; number:, for decimal commas, date:month where the "
        "month stands first. May be given several times.",
    ),
]


def kinds_by_column(given: list[str] | None) -> dict[str, Any]:
    """Kinds by column, of texts such as ``price=number``."""
    from wellposed.cli.terminal import decode_argument
    from wellposed.core.errors import InputError

    found = {}
    for text in given or []:
        name, sign, kind = (decode_argument(text) or text).rpartition("=")
        if not sign:
            raise InputError(f"--kind is COLUMN=KIND, such as price=number; it was given {text!r}.")
        found[name] = kind
    return found
