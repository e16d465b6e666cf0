"""`manifest.json`: how a pool was made, and the hash of every file in it.

Guarantee of `Manifest.verify`: the folder holds the files that the manifest names, with the
contents that were written, and no other image.
"""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, ValidationError

from dpmix.errors import DpmixError

FILE_NAME = "manifest.json"


STATEMENT = (
    "No private image was read to make this pool: the model was given class names and prompts only."
)


_SHOWN = 3


class Part(BaseModel):
    """A frozen part of the manifest that knows all its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecord(Part):
    """Which model drew: the hub's `revision`, or the sha256 of every file of a local folder."""

    name: str
    pipeline: str
    scheduler: str
    revision: str | None
    files: dict[str, str] | None
    licence: str | None

    @property
    def identity(self) -> str:
        """Name and revision; of a local folder, not its name but the hash of its files' hashes."""
        if self.revision is not None:
            return f"{self.name} at {self.revision}"
        files = sorted((self.files or {}).items())
        listed = "".join(f"{file} {digest}\n" for file, digest in files)
        return f"a local {self.pipeline} with files {sha256(listed.encode()).hexdigest()[:16]}"


class Session(Part):
    """One call that drew images: when, on what, with which library versions."""

    date: str
    device: str
    versions: dict[str, str]


class ImageRecord(Part):
    """One drawn file, by its posix path in the pool; `session` counts from 0."""

    file: str
    class_name: str
    prompt: str
    seed: int
    sha256: str
    session: int


class Manifest(Part):
    """Provenance of a pool."""

    format: Literal["dpmix-pool-1"] = "dpmix-pool-1"
    statement: str = STATEMENT
    model: ModelRecord
    settings: dict[str, Any]
    sessions: tuple[Session, ...]
    # Not an error for each of a million images.
    images: Annotated[tuple[ImageRecord, ...], FailFast()]

    @classmethod
    def read(cls, root: Path) -> "Manifest | None":
        """The manifest of the pool in `root`; None where there is none.

        Raises:
            DpmixError: a file of that name that is no manifest.
        """
        path = root / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise DpmixError(
                f"'{path}' is no manifest of a pool ({reason}); expected one that dpmix "
                "synthesize wrote: remove it to use the folder without provenance"
            ) from None

    def verify(self, root: Path, present: tuple[str, ...]) -> None:
        """Check the pool's images `present` (posix paths relative to `root`) against the manifest.

        Raises:
            DpmixError: a file that is missing, was changed, or is not in the manifest.
        """
        expected = {image.file: image.sha256 for image in self.images}
        if missing := sorted(expected.keys() - set(present)):
            raise _mismatch(root, f"files missing: {len(missing)}", missing)
        if unknown := sorted(set(present) - expected.keys()):
            raise _mismatch(root, f"files not in it: {len(unknown)}", unknown)
        changed = [name for name in sorted(expected) if file_hash(root / name) != expected[name]]
        if changed:
            raise _mismatch(root, f"files changed (sha256): {len(changed)}", changed)


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal.

    Raises:
        DpmixError: the file can't be read.
    """
    digest = sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected a readable file"
        ) from None
    return digest.hexdigest()


def _mismatch(root: Path, what: str, names: list[str]) -> DpmixError:
    more = ", ..." if len(names) > _SHOWN else ""
    return DpmixError(
        f"the public pool '{root}' does not match its {FILE_NAME}: {what} "
        f"({', '.join(names[:_SHOWN])}{more}); expected the pool as it was made: the same dpmix "
        "synthesize command draws missing and changed files anew; take others out, or remove "
        f"{FILE_NAME} to use it without provenance"
    )
