"""The `dpmix` command, its subcommands, and what every error looks like."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from dpmix.cli.calibrate import calibrate
from dpmix.cli.evaluate import evaluate
from dpmix.cli.predict import predict
from dpmix.cli.train import train
from dpmix.errors import DpmixError

USER_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train image classifiers on private images, with a differential-privacy guarantee.",
)

for _command in (train, evaluate, predict, calibrate):
    app.command()(_command)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit status 2."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    warnings.showwarning = _warn(console)
    try:
        app()
    except DpmixError as error:
        console.print(f"[bold red]error:[/] {_plain(error)}")
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        console.print("interrupted; what the run had saved is in its folder")
        sys.exit(INTERRUPTED)


def _plain(message: object) -> str:
    """The message with its brackets escaped: rich would read them as markup."""
    return str(message).replace("[", "\\[")


def _warn(console: Console) -> Callable[..., None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        console.print(f"[bold yellow]warning:[/] {_plain(message)}")

    return show
