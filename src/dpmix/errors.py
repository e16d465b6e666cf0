"""The one error that a user can cause, and the nearest-name hint it carries."""

import difflib
import re
import textwrap
from collections.abc import Iterable

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
