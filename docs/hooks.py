"""Fills docs/settings.md with the flags of every command, as the commands themselves list them."""

import inspect
import re
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from dpmix.cli.app import COMMANDS, application

PLACE = "<!-- settings -->"
PANEL = "Settings: "


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page."""
    return markdown.replace(PLACE, reference()) if PLACE in markdown else markdown


def reference() -> str:
    """Every setting by section, then every command with its other flags, as Markdown."""
    commands = dict(every_command(typer.main.get_command(application(COMMANDS))))
    settings: dict[str, list[Any]] = {}
    for parameter in commands["dpmix train"].params:
        if (panel := _panel(parameter)).startswith(PANEL):
            settings.setdefault(panel.removeprefix(PANEL), []).append(parameter)
    train = commands["dpmix train"]
    parts = [f"## Settings: {name}\n\n{_table(train, own)}" for name, own in settings.items()]
    for name, command in commands.items():
        flags = [one for one in command.params if not _panel(one).startswith(PANEL)]
        more = len(flags) < len(command.params)
        parts.append(f"## `{name}`\n\n{_plain(command.help or '')}")
        parts.append("It also takes the settings above." if more and name != "dpmix train" else "")
        parts.append(_table(command, flags))
    return "\n\n".join(part for part in parts if part)


def every_command(command: Any, name: str = "dpmix") -> Iterator[tuple[str, Any]]:
    """Name and command of each, those of groups too."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, below in command.commands.items():
        yield from every_command(below, f"{name} {part}")


def _panel(parameter: Any) -> str:
    return getattr(parameter, "rich_help_panel", None) or ""


def _table(command: Any, parameters: Iterable[Any]) -> str:
    types = inspect.signature(command.callback).parameters
    rows = [_row(one, _kind(types[one.name].annotation)) for one in parameters if one.name in types]
    head = ["| | type | default | |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else ""


def _row(parameter: Any, kind: str) -> str:
    # The default is what the help states last, in brackets or after a semicolon.
    stated = re.fullmatch(
        r"(.*?)(?: \(default (.+)\)|[;,] default:? ([^;]+))?", _plain(parameter.help or ""), re.S
    )
    text, *defaults = stated.groups() if stated else ("", "")
    flags = " ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
    return f"| {flags} | {kind} | {' '.join(filter(None, defaults))} | {text} |"


def _kind(annotation: Any) -> str:
    """How a table names the type of a flag; text needs no name."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = set(get_args(annotation)) - {NoneType}
    several = "repeatable" if get_origin(annotation) in (list, tuple) else ""
    return {bool: "switch", int: "integer", float: "number"}.get(annotation, several)


def _plain(text: str) -> str:
    """A help text as one line of a table."""
    return " ".join(text.split()).replace("\\[", "[").replace("|", "\\|").replace("*", "\\*")
