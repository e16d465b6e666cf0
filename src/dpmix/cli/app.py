"""The `dpmix` command, its subcommands, and what every error looks like."""

import os
import sys
import warnings
from collections.abc import Collection
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from dpmix.cli.console import USER_ERROR
from dpmix.errors import DISTRIBUTION, DpmixError, without_controls

INTERRUPTED = 130

# What a misspelt command, flag or value raises; typer names only its subclass.
_UsageError: Any = typer.BadParameter.__base__

# Command -> the module that has it, and the first line of its help. torch takes seconds to load, so
# only the module of the command that was asked for is imported.
COMMANDS = {
    "train": ("train", "Train a private image classifier."),
    "evaluate": ("use", "Measure a trained model on test images, with intervals."),
    "predict": (
        "use",
        "Classify images: one row per image, with its class and the probability of every class.",
    ),
    "report": ("reports", "Write a run's page, report.html, again from the files of its folder."),
    "compare": ("reports", "Show runs side by side, on a page and in a short table."),
    "verify": (
        "reports",
        "Check a trained model against its privacy statement, and its epsilon by other "
        "accountants.",
    ),
    "audit": (
        "audit",
        "Attack a run's privacy: train it with canaries, and bound its epsilon from below.",
    ),
    "export": (
        "use", "Write a trained model, with its backbone, in a form that other programs load.",
    ),
    "calibrate": (
        "calibrate",
        "Show the noise that an epsilon needs, or the epsilon that a noise gives; reads no data.",
    ),
    "synthesize": ("pool", "Draw a public pool with a diffusion model, from class names alone."),
    "sweep": (
        "sweep",
        "Run every combination of a sweep, in parallel, and collect the results in one CSV.",
    ),
    "table": (
        "sweep",
        "Print a sweep's results as the paper lays them out: mean and std, with paired tests.",
    ),
    "plot": (
        "sweep",
        "Draw a sweep's results: means, with bands or bars of one standard deviation over seeds.",
    ),
    "pool": ("score", "Look at a public pool."),
    "recipes": ("recipes", "Show the recipes of the paper's experiments."),
}  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dpmix {metadata.version(DISTRIBUTION)}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version and exit", callback=_print_version),
    ] = False,
) -> None: ...


def application(wanted: Collection[str]) -> typer.Typer:
    """The command line, in which the commands `wanted` can run and the others show their help."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        help="Train image classifiers on private images, with a differential-privacy guarantee.",
    )
    app.callback()(_options)
    for name, (module, text) in COMMANDS.items():
        if name not in wanted:
            app.command(name=name, help=text)(_nothing)
            continue
        found = getattr(import_module(f"dpmix.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name=name)(found)
    return app


def _nothing() -> None: ...


def _is_first_to_fail() -> bool:
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from dpmix.training.distributed import is_first_to_fail

    return is_first_to_fail()


def main() -> None:
    """Run the command line; a user's mistake is one line and exit status 2."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)

    def say(what: str, style: str, message: str) -> None:
        # As text: rich would read brackets and colons in a name as markup.
        console.print(Text.assemble((f"{what}:", style), " ", without_controls(message)))

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        say("warning", "bold yellow", str(message))

    warnings.showwarning = warn
    args = sys.argv[1:] or ["--help"]
    try:
        status = application(args)(args=args, standalone_mode=False)
    except (DpmixError, _UsageError) as error:
        if _is_first_to_fail():
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
