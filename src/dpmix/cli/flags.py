"""Command-line flags made from the settings: each setting is a flag, with its help."""

import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dpmix.runs.settings import SECTIONS

Command = Callable[..., None]


def setting_flags_but(*left_out: str) -> Callable[[Command], Command]:
    """Give a command, which takes `**settings`, one flag per setting.

    A flag that was not given arrives as None, so that the recipe's value or the default holds.
    """

    def flagged(command: Command) -> Command:
        own = [
            parameter
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        flags = [
            _flag(name, field, panel=section)
            for section, model in SECTIONS.items()
            for name, field in model.model_fields.items()
            if name not in left_out
        ]
        command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
        return command

    return flagged


def _flag(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    (kind, *_) = (part for part in _parts(field.annotation) if part is not NoneType)
    several = get_origin(kind) is tuple
    text: dict[str, Any] = {
        "rich_help_panel": f"Settings: {panel}",
        "show_default": False,
        "help": _help(field),
    }
    if several:  # one release for each --prior-release
        option = typer.Option(f"--{name.replace('_', '-').removesuffix('s')}", **text)
    else:
        option = typer.Option(**text)
    # Choices stay text, so that our own error names the nearest one.
    kind = list[str] if several else kind if kind in (int, float, bool) else str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _help(field: FieldInfo) -> str:
    """The description, the choices, and the default where it is a plain value."""
    choices = [
        choice
        for part in _parts(field.annotation)
        if get_origin(part) is Literal
        for choice in get_args(part)
    ]
    text = " ".join((field.description or "").split()).replace("[", "\\[")
    if choices:
        text = f"{', '.join(choices)}: {text}"
    if field.default in (None, (), PydanticUndefined):
        return text
    shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return f"{text} (default {shown})"


def _parts(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if union else (annotation,)
