"""Optional parts of dpmix, and the command that installs one which is missing."""


def to_install(extra: str) -> str:
    """The command, from the source: on PyPI the name dpmix belongs to another project."""
    return f"pip install '.[{extra}]' in dpmix's source folder"
