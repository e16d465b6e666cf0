"""Standard output of the command line."""

from rich.console import Console

NEVER_FOLDED = 10_000
USER_ERROR = 2  # exit status


def stdout(quiet: bool = False) -> Console:
    """Prints text as it is: a class or a folder may be named like markup.

    Lines are folded on a terminal alone: in a file or a pipe a path is to stay in one piece.
    """
    console = Console(markup=False, emoji=False, highlight=False, quiet=quiet)
    if not console.is_terminal:
        console.width = NEVER_FOLDED
    return console
