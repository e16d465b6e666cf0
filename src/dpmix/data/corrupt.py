"""What is said of images that can't be decoded, in training and in prediction."""

from collections.abc import Mapping

from dpmix.errors import DpmixError

_REASONS_SHOWN = 10
_NAMES_SHOWN = 50


def corrupt_error(reasons: Mapping[str, str]) -> DpmixError:
    """The error for images that can't be decoded.

    Args:
        reasons: the name of each and why not; ten reasons and fifty names are shown.
    """
    return DpmixError(f"{counted(reasons)}; repair them, or leave them out with --skip-corrupt")


def nothing_left(reasons: Mapping[str, str]) -> DpmixError:
    """The error for images of which none can be decoded, where such are left out."""
    return DpmixError(f"{counted(reasons)}, and no other is there; expected an image to read")


def counted(reasons: Mapping[str, str]) -> str:
    """How many images can't be decoded, and which."""
    # Without how many there are in all: N can be private.
    named = ", ".join(
        f"'{name}'" + (f" ({reason})" if place < _REASONS_SHOWN else "")
        for place, (name, reason) in enumerate(reasons.items())
        if place < _NAMES_SHOWN
    )
    more = f" and {len(reasons) - _NAMES_SHOWN} more" if len(reasons) > _NAMES_SHOWN else ""
    return f"{len(reasons)} image(s) cannot be decoded: {named}{more}"
