"""The `dpmix` command, its subcommands, and what every error looks like."""

import sys
import warnings
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from dpmix.cli.pool import pool, synthesize
from dpmix.cli.privacy import audit, calibrate
from dpmix.cli.progress import USER_ERROR
from dpmix.cli.reports import compare, report, verify
from dpmix.cli.score import score
from dpmix.cli.sweep import plot, sweep, table
from dpmix.cli.train import recipes, train
from dpmix.cli.use import evaluate, export, predict
from dpmix.errors import DISTRIBUTION, DpmixError, without_controls
from dpmix.training.distributed import is_first_to_fail

INTERRUPTED = 130

# What a misspelt command, flag or value raises; typer names only its subclass.
_UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train image classifiers on private images, with a differential-privacy guarantee.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dpmix {metadata.version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version and exit", callback=_print_version),
    ] = False,
) -> None: ...


for _command in (
    train, evaluate, predict, report, compare, verify, audit, export, calibrate, synthesize, sweep,
    table, plot,
):  # fmt: skip
    app.command()(_command)
pool.command()(score)
app.add_typer(pool)
app.add_typer(recipes)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit status 2."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)

    def say(what: str, style: str, message: str) -> None:
        # As text: rich would read brackets and colons in a name as markup.
        console.print(Text.assemble((f"{what}:", style), " ", without_controls(message)))

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        say("warning", "bold yellow", str(message))

    warnings.showwarning = warn
    try:
        status = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except (DpmixError, _UsageError) as error:
        if is_first_to_fail():
            text = str(error)
            if not isinstance(error, DpmixError):
                text = f"{error.format_message().rstrip('.')}; see --help"
            say("error", "bold red", text)
        sys.exit(USER_ERROR)
    # Typer turns Ctrl-C into this status, whatever the mode.
    if status == INTERRUPTED:
        console.print("interrupted")
    if status:
        sys.exit(status)
