"""One form for a class's name, so that names that look the same are the same."""

from unicodedata import normalize


def plain_name(name: str) -> str:
    """`name` in Unicode's form NFC.

    Some systems store an accented letter as one character and others as two, so that the folders
    of one class can have two names. Plain text stays as it is.
    """
    return normalize("NFC", name)
