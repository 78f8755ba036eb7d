"""``wellposed recipe``: list, show and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wellposed.cli.terminal import hand_over, say

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_presets() -> None:
    """The presets, and when to use each."""
    from wellposed.recipe.presets import PRESETS

    width = max(map(len, PRESETS))
    for name, preset in PRESETS.items():
        say(f"{name:<{width}}  {preset.says}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A preset's name, or a .toml file.")]) -> None:
    """Print a recipe as TOML."""
    from wellposed.recipe.presets import as_recipe

    hand_over(as_recipe(name).to_toml())


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A .toml file.")]) -> None:
    """Whether a recipe can be used, and what it says."""
    from wellposed.recipe.recipe import Recipe

    say(f"{file} is a valid recipe: {Recipe.from_toml(file).describe()}")
