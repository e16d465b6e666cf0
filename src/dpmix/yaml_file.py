"""A YAML file of the user's, as a mapping: nothing in it is executed, however it is written."""

from pathlib import Path
from typing import Any

import yaml

from dpmix.errors import DpmixError, one_line


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read the mapping in a YAML file; an empty file is an empty one.

    Args:
        path: of the file.
        what: it is, for errors.

    Raises:
        DpmixError: the file can't be read, is not YAML or is no mapping from names.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DpmixError(f"cannot read {what} '{path}': {error}; check the path") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a number, or a tree, too large
        raise DpmixError(f"{what} '{path}' is not valid YAML: {one_line(error)}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        raise DpmixError(f"{what} '{path}' must map names to values, such as 'name: value'")
    return tree
