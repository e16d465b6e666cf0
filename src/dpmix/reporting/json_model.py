"""How the JSON files of a run are read: every field of its type, and none that is not known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpmix.errors import DpmixError

Infinite = Literal["inf"]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


T = TypeVar("T", bound=Part)


def read_json(path: Path, kind: type[T], what: str) -> T:
    """Read the file at `path`, a run's `what`.

    Raises:
        DpmixError: unreadable, or something else.
    """
    try:
        text = path.read_bytes()
        said = kind.model_validate_json(text)
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected a run's {what}"
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise DpmixError(
            f"'{path}' is no {what} of this version of dpmix: {where}: "
            f"{problem['msg'].removeprefix('Value error, ')}; expected the file as it was written"
        ) from None
    json.loads(text, object_pairs_hook=_refuse_repeats(path))
    return said


def _refuse_repeats(path: Path) -> Callable[[list[tuple[str, Any]]], None]:
    """Of a name that is there twice, one reader takes the first value and another the last."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise DpmixError(f"'{path}' says '{name}' twice; expected the file as it was "
                                 "written")  # fmt: skip
            seen.add(name)

    return check
