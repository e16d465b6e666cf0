"""What commands print on, and their exit status for a user's mistake."""

from rich.console import Console

USER_ERROR = 2  # exit status
NEVER_FOLDED = 10_000  # columns


def stdout(quiet: bool = False) -> Console:
    """Prints text as it is: a class or a folder may be named like markup.

    Lines are folded only on a terminal: in a file or a pipe a path stays in one piece.
    """
    console = Console(markup=False, emoji=False, highlight=False, quiet=quiet)
    if not console.is_terminal:
        console.width = NEVER_FOLDED
    return console
