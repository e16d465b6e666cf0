"""`dpmix recipes`: the settings of the paper's experiments."""

from typing import Annotated

import typer
import yaml
from rich.syntax import Syntax
from rich.table import Table

from dpmix.cli.console import stdout
from dpmix.experiments.recipes import network, recipe_names, recipe_path
from dpmix.recipe_file import read_recipe

recipes = typer.Typer(name="recipes", help="Show the recipes that come with the package.")


@recipes.command(name="list")
def list_recipes() -> None:
    """List them; `dpmix train --config NAME --epsilon 1` runs one."""
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe: network, data, method", "trains"):
        table.add_column(heading, overflow="fold")
    for name in recipe_names():
        table.add_row(name, network(name))
    stdout().print(table)


@recipes.command()
def show(
    name: Annotated[str, typer.Argument(help="a name of `dpmix recipes list`, or a YAML file")],
) -> None:
    """Print every setting of a recipe, those that it inherits included."""
    text = yaml.safe_dump(read_recipe(recipe_path(name)), sort_keys=False)
    console, text = stdout(), text.rstrip()
    coloured = Syntax(text, "yaml", background_color="default")
    console.print(coloured if console.is_terminal else text)
