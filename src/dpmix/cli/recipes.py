"""`dpmix recipes`: the settings of the paper's experiments."""

from typing import Annotated

import typer
import yaml
from rich.table import Table

from dpmix.cli.console import stdout
from dpmix.runs.recipes import TEXT, read_recipe, recipe_names

recipes = typer.Typer(name="recipes", help="Show the recipes of the paper's experiments.")


@recipes.command(name="list")
def list_recipes() -> None:
    """List them; `dpmix train --config NAME --epsilon 1` runs one."""
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe: network, data, method", "trains"):
        table.add_column(heading, overflow="fold")
    for name in recipe_names():
        model = read_recipe(name)["model"]
        start = ", from the class names (not the paper's)" if f"-{TEXT}-" in name else ""
        table.add_row(name, f"{model.get('backbone') or model['model']}{start}")
    stdout().print(table)


@recipes.command()
def show(
    name: Annotated[str, typer.Argument(help="a name of `dpmix recipes list`, or a YAML file")],
) -> None:
    """Print every setting of a recipe."""
    stdout().print(yaml.safe_dump(read_recipe(name), sort_keys=False).rstrip())
