"""The application: every command in its own file."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wellposed._version import __version__
from wellposed.cli import check, compress, diagnose, improve, live_page, path, predict, recipe, report
from wellposed.cli.failures import Interrupted
from wellposed.cli.terminal import say


class Commands(TyperGroup):
    """The commands; Ctrl-C is handed on, which the versions of typer take for different exit statuses."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted from interrupt


app = typer.Typer(
    name="wellposed",
    cls=Commands,
    help="Find out what holds a model back, search for a better recipe, and prove or deny that it is better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"wellposed {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before a command; --debug anywhere shows a traceback with an error."""


app.command()(improve.improve)
app.command()(predict.predict)
app.command("check")(check.check_table)
app.command()(diagnose.diagnose)
app.command()(compress.compress)
app.command()(path.path)
app.command()(report.report)
app.command("watch")(live_page.watch_folder)
app.add_typer(recipe.app, name="recipe", help="List, show and check recipes.")
