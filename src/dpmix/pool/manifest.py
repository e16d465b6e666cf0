"""`manifest.json`: how a pool was drawn, and the hash of every file in it."""

from collections.abc import Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, ValidationError

from dpmix.errors import DpmixError

FILE_NAME = "manifest.json"
STATEMENT = (
    "No private image was read to make this pool: the model was given class names and prompts only."
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecord(_Part):
    """Which model drew: the hub's `revision`, or the sha256 of every file of a local folder."""

    name: str
    pipeline: str
    scheduler: str
    revision: str | None
    files: dict[str, str] | None
    licence: str | None

    @property
    def identity(self) -> str:
        """Name and revision; of a local folder the hash of its files' hashes, without its name."""
        if self.revision is not None:
            return f"{self.name} at {self.revision}"
        files = sorted((self.files or {}).items())
        listed = "".join(f"{file} {digest}\n" for file, digest in files)
        return f"a local {self.pipeline} with files {sha256(listed.encode()).hexdigest()[:16]}"


class ImageRecord(_Part):
    """One drawn file, by its posix path in the pool."""

    file: str
    class_name: str
    prompt: str
    seed: int
    sha256: str


class Manifest(_Part):
    """Where a pool comes from; date, device and versions are those of the last drawing."""

    format: Literal["dpmix-pool-1"] = "dpmix-pool-1"
    statement: str = STATEMENT
    model: ModelRecord
    settings: dict[str, Any]
    date: str
    device: str
    versions: dict[str, str]
    # One error, not one for each of a million images.
    images: Annotated[tuple[ImageRecord, ...], FailFast()]

    @classmethod
    def read(cls, root: Path) -> "Manifest | None":
        """The manifest of the pool in `root`; None where there is none."""
        path = root / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise DpmixError(
                f"'{path}' is not a manifest of a pool ({reason}); expected one that dpmix "
                "synthesize wrote: remove it to use the folder without provenance"
            ) from None

    def verify(self, root: Path, present: tuple[str, ...]) -> None:
        """Refuse a folder `root` whose images `present` (posix paths) are not the manifest's."""
        expected, there = {image.file: image.sha256 for image in self.images}, set(present)
        same = {
            name for name in there & expected.keys() if file_hash(root / name) == expected[name]
        }
        faults = {
            "files missing": expected.keys() - there,
            "files not in it": there - expected.keys(),
            "files changed (sha256)": there & expected.keys() - same,
        }
        for what, files in faults.items():
            if files:
                raise DpmixError(
                    f"the public pool '{root}' does not match its {FILE_NAME}: {what}: "
                    f"{len(files)} ({few_names(sorted(files))}); the same dpmix synthesize command "
                    f"draws them again; take others out, or remove {FILE_NAME}"
                )


def few_names(names: Sequence[str]) -> str:
    """The first three, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected a readable file"
        ) from None
