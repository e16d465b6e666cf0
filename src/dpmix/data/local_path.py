"""The path that a text on the command line means."""

from pathlib import Path

from dpmix.errors import DpmixError


def local_path(text: str) -> Path:
    """`text` as a path, its ~ expanded; whether anything is there can be asked without an error.

    Raises:
        DpmixError: the home folder of no user, or a place that may not be looked at.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except RuntimeError:
        raise DpmixError(
            f"'{text}' begins with the home folder of no known user; expected ~/ or a whole path"
        ) from None
    except OSError as error:
        raise DpmixError(
            f"'{text}' cannot be looked at ({error.strerror}); expected a path: check it, and the "
            "permissions of the folders around it"
        ) from None
    return path
