"""The one error that a user can cause, and the nearest-name hint it carries."""

import difflib
from collections.abc import Iterable


class DpmixError(ValueError):
    """A mistake in what the user gave, said in one or two lines.

    The message names the thing, its value, what was expected and the remedy. The command line
    prints it without a traceback and exits with status 2.
    """


def one_line(error: BaseException, limit: int = 200) -> str:
    """What another library's error says, as a part of one of our lines."""
    return " ".join(str(error).split())[:limit]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'mix-self'?`` and the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"
