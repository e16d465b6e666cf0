"""What a model hub's failures mean, each in one line with its remedy.

Guarantee: nothing here fetches anything.
"""

import difflib
import re
import textwrap
from collections.abc import Iterable

import torch
from pydantic import ValidationError

# The one error that a user can cause, and the nearest-name hint it carries.


_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


# All but the line feed, which our own lines end in.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


_MANY = 20


class DpmixError(ValueError):
    """A mistake in what the user gave, said in one or two lines.

    The message names the thing, its value, what was expected and the remedy. The command line
    prints it without a traceback and exits with status 2. What a terminal would obey, such as the
    escape in a file's name, is spelt out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_controls(message))


def without_controls(message: str) -> str:
    """What a terminal would obey, spelt out."""
    return _CONTROLS.sub(lambda found: ascii(found.group())[1:-1], message)


def one_line(error: BaseException, limit: int = 200) -> str:
    """What another library's error says, to be a part of one of our lines."""
    said = _ESCAPES.sub("", str(error)).strip()
    if len(said.split()) < 2:
        said = f"{type(error).__name__} {said}"
    return textwrap.shorten(said, limit, placeholder=" ...")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'mix-self'?`` and the known names, or their number."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else ""
    known_names = f"known: {', '.join(names)}"
    if len(names) > _MANY:
        known_names = f"expected one of {len(names)}"
    return f"{hint} {known_names}".strip()


# Optional parts of dpmix, and the command that installs one which is missing.


def to_install(extra: str) -> str:
    """The command, from the source: on PyPI the name dpmix belongs to another project."""
    return f"pip install '.[{extra}]' in dpmix's source folder"


# Telling an allocation that failed from every other error.


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )


def hub_error(model: str, error: Exception, *, download: bool, elsewhere: str) -> DpmixError:
    """The error for `model` that could not be had from the hub or its local cache.

    Args:
        model: its hub name.
        error: what huggingface_hub, or a library on top of it, raised.
        download: whether fetching was allowed.
        elsewhere: how to bring the model by hand.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain = _chain(error)
    if any(isinstance(cause, GatedRepoError) for cause in chain):
        return DpmixError(
            f"model '{model}' is gated: accept its licence on its page and log in (hf auth login), "
            f"or {elsewhere}"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in chain):
        return DpmixError(f"model '{model}' has no such revision; check --revision")
    if any(isinstance(cause, RepositoryNotFoundError) for cause in chain):
        return DpmixError(
            f"no model '{model}' on the hub, or it is private and you are not logged in; check the "
            f"name, log in (hf auth login), or {elsewhere}"
        )
    if not download:
        return DpmixError(
            f"no folder '{model}', and no model of that name in the hub's local cache; give "
            f"--download to fetch it, or {elsewhere}"
        )
    reason = one_line(chain[-1])
    return DpmixError(f"model '{model}' can't be fetched ({reason}); no network? {elsewhere}")


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, outermost first."""
    causes, current = [], error
    while current is not None and current not in causes:
        causes.append(current)
        current = current.__cause__ or current.__context__  # type: ignore[assignment]
    return causes


# What pydantic found wrong with a value, in the form of our own messages.


_EXPECTED = {
    "greater_than_equal": "expected {ge} or more",
    "greater_than": "expected more than {gt}",
    "less_than_equal": "expected {le} or less",
    "less_than": "expected less than {lt}",
    "finite_number": "expected a finite number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_parsing": "expected a number",
    "bool_parsing": "expected true or false",
}


def explain(error: ValidationError, where: str = "") -> str:
    """The first problem in one line: the setting, its value, what was expected.

    Args:
        error: what pydantic raised.
        where: more about the place of the value, such as " in recipe 'a.yaml'".
    """
    problem = error.errors()[0]
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    name = str(problem["loc"][-1]) if problem["loc"] else ""
    expected = _EXPECTED.get(kind, problem["msg"][0].lower() + problem["msg"][1:])
    if kind == "union_tag_invalid":
        name, value, where = str(context["discriminator"]).strip("'"), context["tag"], ""
        expected = nearest(value, re.findall("'(.*?)'", context["expected_tags"]))
    elif kind == "literal_error":
        choices = re.findall("'(.*?)'", context["expected"])
        expected = nearest(str(value), choices) if choices[1:] else f"expected '{choices[0]}'"
    return f"{name} is {value!r}{where}: {expected.format(**context)}"
