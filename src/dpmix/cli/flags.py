"""Command-line flags made from the settings: every leaf of the tree is a flag, with its help."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dpmix.runs.config import SECTIONS


def setting_flags_but(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, which takes `**settings`, one flag per setting.

    A flag that was not given arrives as None, so that the recipe's value or the default holds.

    Args:
        left_out: settings that mean nothing to the command.
    """

    def flagged(command: Callable[..., None]) -> Callable[..., None]:
        return _with_flags(command, left_out)

    return flagged


def _with_flags(command: Callable[..., None], left_out: tuple[str, ...]) -> Callable[..., None]:
    own = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    flags = [
        _flag(leaf, field, panel=section)
        for section, model in SECTIONS.items()
        for leaf, field in model.model_fields.items()
        if leaf not in left_out
    ]
    command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
    return command


def _flag(leaf: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    option = typer.Option(
        help=_help(field), rich_help_panel=f"Settings: {panel}", show_default=False
    )
    return inspect.Parameter(
        leaf,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_flag_type(field.annotation) | None, option],
    )


def _help(field: FieldInfo) -> str:
    """The description, and the default where it is a plain value."""
    said = (field.description or "").replace("[", "\\[")
    if field.default in (None, (), PydanticUndefined):
        return said
    shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return f"{said} (default {shown})"


def _flag_type(annotation: Any) -> Any:
    """What typer is to parse; choices stay text, so that our own error names the nearest one."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is Literal or annotation is Path:
        return str
    if get_origin(annotation) is tuple:
        return list[str]
    return annotation if annotation in (int, float, bool) else str
