"""The one error that a user can cause, hints for its message, and what other errors mean.

Nothing here reads or fetches anything.
"""

import difflib
import re
import textwrap
from collections.abc import Iterable

from pydantic import ValidationError

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# All but the line feed, which separates our own lines.
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_NAMES_SHOWN = 20
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class DpmixError(ValueError):
    r"""A mistake in what the user gave, explained in one or two lines.

    Any function may raise it. The message names the thing, its value, what was expected and a
    remedy. The command line prints it without a traceback and exits with status 2. Control
    characters are shown as escapes (`\x1b`), so that no terminal obeys them.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_controls(message))


def without_controls(message: str) -> str:
    """Return `message` with control characters written as escapes."""
    return _CONTROLS.sub(lambda found: ascii(found.group())[1:-1], message)


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return the text of another library's error as one line."""
    text = _ESCAPES.sub("", str(error)).strip()
    if len(text.split()) < 2:
        text = f"{type(error).__name__} {text}"
    return textwrap.shorten(text, limit, placeholder=" ...")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a misspelt name: `did you mean 'mix-self'? known: mix-self, none`."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    many = len(names) > _NAMES_SHOWN
    return hint + (f"expected one of {len(names)}" if many else f"known: {', '.join(names)}")


# On PyPI the name dpmix belongs to another project.
DISTRIBUTION = "dp-mix-images"


def to_install(extra: str) -> str:
    """Return the command that adds the optional packages `extra` to an installed dpmix."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is a failed allocation, on the CPU or on any other device."""
    import torch  # here: it takes a second to load, and many commands do without

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in _OUT_OF_MEMORY)


def hub_error(model: str, error: Exception, *, download: bool, elsewhere: str) -> DpmixError:
    """Return the error for a model that neither the hub nor its local cache gave.

    `elsewhere` says how to provide the model by hand, as the end of a sentence.
    """
    if not download:
        return DpmixError(
            f"no folder '{model}', and no model of that name in the hub's local cache; give "
            f"--download to fetch it, or {elsewhere}"
        )
    first: BaseException = error
    while cause := first.__cause__ or first.__context__:
        first = cause
    return DpmixError(
        f"model '{model}' can't be fetched ({one_line(first)}); check its name, --revision and "
        f"the network, log in (hf auth login) if it is private or gated, or {elsewhere}"
    )


# What pydantic's errors mean, in the form of our own messages.
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
    """Return the first problem in one line: the setting, its value, what was expected."""
    problem = error.errors()[0]
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    name = str(problem["loc"][-1]) if problem["loc"] else ""
    expected = _EXPECTED.get(kind, "").format(**context)
    if kind == "literal_error":
        choices = re.findall("'(.*?)'", context["expected"])
        expected = nearest(str(value), choices) if choices[1:] else f"expected '{choices[0]}'"
    return (
        f"{name} is {value!r}{where}: {expected or problem['msg'][0].lower() + problem['msg'][1:]}"
    )
