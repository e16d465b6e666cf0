"""Standard output of the command line."""

from rich.console import Console


def stdout(quiet: bool = False) -> Console:
    """Prints text as it is: a class or a folder may be named like markup."""
    return Console(markup=False, highlight=False, quiet=quiet)
