"""`synthesize`: class names in, a pool of drawn images out.

Guarantee: nothing is read but the class names, the settings and the model. A run that is killed
goes on where it stopped and ends with the images that an undisturbed one would have drawn: every
image has a seed of its own, made from the pool's seed, its class and its number.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from dpmix.errors import DISTRIBUTION, DpmixError
from dpmix.files import remove_all, stage, write_text
from dpmix.pool.diffusion_model import ImageGenerator, ImageRequest
from dpmix.pool.load import JOURNAL
from dpmix.pool.manifest import FILE_NAME, ImageRecord, Manifest, Part, Session, file_hash
from dpmix.pool.prompts import PoolClass

# What a pool under construction holds: kept on disk a line an image, so that nothing is lost.
#
# Guarantees: an image counts as drawn only if its file holds the bytes whose hash was written
# down, so a run that is killed anywhere goes on where it stopped; and a file's name is written
# down before the file is, so that a file which dpmix did not make can be told from one that it
# did.


class _Head(Part):
    """The first line: what the pool was begun with, and the calls that drew it."""

    settings: dict[str, Any]
    sessions: tuple[Session, ...]


class _Intent(Part):
    """Files that are about to be made."""

    drawing: tuple[str, ...]


_LINE: TypeAdapter[ImageRecord | _Intent] = TypeAdapter(ImageRecord | _Intent)


@dataclass(frozen=True)
class Begun:
    """What is known of a pool.

    Attributes:
        sessions: the calls that drew it.
        images: those that are there and intact, by file.
        own: every file that dpmix made, or was about to make.
    """

    sessions: tuple[Session, ...]
    images: dict[str, ImageRecord]
    own: frozenset[str]


class SynthesisJournal:
    """The settings and the images of one pool folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / JOURNAL

    def read(self, settings: dict[str, Any]) -> Begun:
        """What is there so far; nothing is changed but for half-written files, which go.

        Raises:
            DpmixError: a folder that holds something else, or images drawn with other settings.
        """
        remove_all([*self.root.glob(".*.part"), *self.root.glob("*/.*.part")])
        before, images, own = self._recorded()
        if before is not None and (images or own):
            self._check_same(before.settings, settings)
        return Begun(
            sessions=before.sessions if before else (),
            images={
                image.file: image
                for image in images
                if (self.root / image.file).is_file()
                and file_hash(self.root / image.file) == image.sha256
            },
            own=frozenset(own) | {image.file for image in images},
        )

    def start(self, settings: dict[str, Any], sessions: tuple[Session, ...], begun: Begun) -> None:
        """Write down anew what is there, in front of what is to come.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        lines = [
            _Head(settings=settings, sessions=sessions),
            _Intent(drawing=tuple(sorted(begun.own))),
            *begun.images.values(),
        ]
        write_text(self.path, "".join(f"{line.model_dump_json()}\n" for line in lines))

    def intend(self, files: list[str]) -> None:
        """Write down the names of files before they are made.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        self._append([_Intent(drawing=tuple(files))])

    def add(self, images: Iterable[ImageRecord]) -> None:
        """Write down images whose files are in place.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        self._append(images)

    def finish(self, manifest: Manifest) -> None:
        """Put the manifest in place of the journal.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        write_text(self.root / FILE_NAME, manifest.model_dump_json(indent=2) + "\n")
        self.path.unlink(missing_ok=True)

    def _append(self, lines: Iterable[Part]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as journal:
                journal.writelines(f"{line.model_dump_json()}\n" for line in lines)
        except OSError as error:
            raise DpmixError(
                f"cannot write '{self.path}': {error.strerror}; what is drawn is kept: free some "
                "space and run the same command again"
            ) from None

    def _recorded(self) -> tuple[_Head | None, list[ImageRecord], set[str]]:
        """What is written down; the journal goes before the manifest, which it includes."""
        if self.path.is_file():
            return _parse(self.path)
        manifest = Manifest.read(self.root)
        if manifest is not None:
            head = _Head(settings=manifest.settings, sessions=manifest.sessions)
            return head, list(manifest.images), set()
        if any(not entry.name.startswith(".") for entry in self.root.iterdir()):
            raise DpmixError(
                f"folder '{self.root}' holds something else than a pool that dpmix synthesize "
                "made; give another --output"
            )
        return None, [], set()

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new:
                raise DpmixError(
                    f"pool '{self.root}' was begun with {name} {old!r}, not {new!r}; give the same "
                    "settings to go on with it, or another --output"
                )


def _parse(path: Path) -> tuple[_Head, list[ImageRecord], set[str]]:
    """Read the journal up to a last line that a killed process left unfinished."""
    first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    try:
        head = _Head.model_validate(json.loads(first))
    except (json.JSONDecodeError, ValidationError):
        raise DpmixError(
            f"'{path}' is damaged; expected what dpmix synthesize wrote: give another --output"
        ) from None
    images: list[ImageRecord] = []
    own: set[str] = set()
    for line in lines:
        try:
            entry = _LINE.validate_json(line)
        except ValidationError:
            break
        if isinstance(entry, ImageRecord):
            images.append(entry)
        else:
            own.update(entry.drawing)
    return head, images, own


ATTEMPTS = 10


_LIBRARIES = ("diffusers", "transformers", "torch")


_SEEDS = 1 << 32


@dataclass(frozen=True)
class SynthesisSettings:
    """What decides how the images look; a pool can only be continued with the same.

    Attributes:
        template: the prompt, with `{class}`.
        draw_size: height and width drawn, in pixels; None, as below: the pipeline's own.
        image_size: height and width saved, in pixels; None: as drawn.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        seed: from which every image's seed is made.
        dtype: of the model's weights.

    Raises:
        DpmixError: a number out of range.
    """

    template: str
    draw_size: int | None
    image_size: int | None
    steps: int | None
    guidance: float | None
    seed: int
    dtype: str

    def __post_init__(self) -> None:
        for name in ("draw_size", "image_size", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DpmixError(f"{name} is {value}; expected 1 or more")
        if self.seed < 0:
            raise DpmixError(f"seed is {self.seed}; expected 0 or more")


@dataclass(frozen=True)
class Drawn:
    """What a call of `synthesize` did.

    Attributes:
        images: in the pool now.
        fresh: drawn by this call.
        seconds: that they took.
    """

    images: int
    fresh: int
    seconds: float


def synthesize(
    root: Path,
    image_generator: ImageGenerator,
    classes: tuple[PoolClass, ...],
    settings: SynthesisSettings,
    *,
    images_per_class: int,
    batch: int,
    report: Callable[[int, int], None],
) -> Drawn:
    """Draw what the pool in `root` lacks, and write its manifest.

    Args:
        root: the pool's folder; made if need be.
        image_generator: draws `classes`.
        classes: what to draw.
        settings: how.
        images_per_class: wanted in all; more than last time goes on, fewer removes nothing.
        batch: images drawn at a time.
        report: told (images there, images wanted).

    Raises:
        DpmixError: a count below 1, a folder in use or holding something else, other settings than
            the pool was begun with, a file in the way that dpmix did not make, a safety checker
            that withholds every attempt, a full disk, and as `ImageGenerator.draw` raises.
    """
    for name, value in (("images-per-class", images_per_class), ("batch", batch)):
        if value < 1:
            raise DpmixError(f"{name} is {value}; expected 1 or more")
    with _held(root):
        journal = SynthesisJournal(root)
        record = image_generator.model.record
        identity = asdict(settings) | {"model": record.identity, "licence": record.licence}
        begun = journal.read(identity)
        wanted = {
            f"{drawn.name}/{number:05}.png": (drawn, number)
            for drawn in classes
            for number in range(images_per_class)
        }
        missing = [file for file in wanted if file not in begun.images]
        _check(root, begun, missing, image_generator, classes)
        if not missing and (root / FILE_NAME).is_file():
            return Drawn(len(begun.images), 0, 0.0)
        sessions = (*begun.sessions, *([_session(image_generator)] if missing else []))
        journal.start(identity, sessions, begun)
        there = dict(begun.images)
        total, start = len(wanted.keys() | there.keys()), time.perf_counter()
        report(len(there), total)
        for begin in range(0, len(missing), batch):
            files = missing[begin : begin + batch]
            made = _draw(image_generator, [wanted[file] for file in files], settings)
            journal.intend(files)
            # From here on the folder holds files that an older manifest does not name.
            (root / FILE_NAME).unlink(missing_ok=True)
            records = [
                _save(
                    root,
                    file,
                    image,
                    sketch,
                    image_generator,
                    settings.image_size,
                    len(sessions) - 1,
                )
                for file, (image, sketch) in zip(files, made, strict=True)
            ]
            journal.add(records)
            there |= {record.file: record for record in records}
            report(len(there), total)
        seconds = time.perf_counter() - start
        images = tuple(there[file] for file in sorted(there))
        journal.finish(
            Manifest(model=record, settings=identity, sessions=sessions, images=images)
        )  # fmt: skip
        return Drawn(len(there), len(missing), seconds)


def _check(
    root: Path,
    begun: Begun,
    missing: list[str],
    image_generator: ImageGenerator,
    classes: tuple[PoolClass, ...],
) -> None:
    """Refuse to write over a file that dpmix did not make, or to draw a class in two ways."""
    strange = [file for file in missing if file not in begun.own and (root / file).exists()]
    if strange:
        raise DpmixError(
            f"pool '{root}' holds {len(strange)} files that dpmix synthesize did not make "
            f"({strange[0]}), where images are to be drawn; move them elsewhere"
        )
    now = {drawn.name: image_generator.describe(drawn) for drawn in classes}
    for image in begun.images.values():
        if (prompt := now.get(image.class_name, image.prompt)) != image.prompt:
            raise DpmixError(
                f"pool '{root}': class '{image.class_name}' was drawn as '{image.prompt}', not as "
                f"'{prompt}'; give the same phrase to go on with it, or another --output"
            )


def _session(image_generator: ImageGenerator) -> Session:
    return Session(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device=str(image_generator.model.pipe.device),
        versions={"dpmix": version(DISTRIBUTION)} | {name: version(name) for name in _LIBRARIES},
    )


@contextmanager
def _held(root: Path) -> Iterator[None]:
    """The pool's folder, made and locked; what the file system refuses is said in one line."""
    if root.exists() and not root.is_dir():
        raise DpmixError(
            f"'{root}' is a file; expected a folder for the pool: give another --output"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock", timeout=0):
            yield
    except Timeout:
        raise DpmixError(
            f"pool '{root}' is being drawn by another process; wait for it, or give another "
            "--output"
        ) from None
    except OSError as error:
        raise DpmixError(
            f"cannot write the pool '{root}': {error.strerror or error}; what is drawn is kept: "
            "run the same command again"
        ) from None


def _draw(
    image_generator: ImageGenerator,
    wanted: list[tuple[PoolClass, int]],
    settings: SynthesisSettings,
) -> list[tuple[Image.Image, ImageRequest]]:
    """One batch; what the safety checker withholds is drawn again from another seed."""
    done: dict[int, tuple[Image.Image, ImageRequest]] = {}
    for attempt in range(ATTEMPTS):
        left = [place for place in range(len(wanted)) if place not in done]
        if not left:
            break
        sketches = [
            ImageRequest(drawn, image_seed(settings.seed, drawn.name, number, attempt))
            for drawn, number in (wanted[place] for place in left)
        ]
        for place, sketch, image in zip(
            left, sketches, image_generator.draw(sketches), strict=True
        ):
            if image is not None:
                done[place] = (image, sketch)
    withheld = [wanted[place][0] for place in range(len(wanted)) if place not in done]
    if withheld:
        raise DpmixError(
            f"the model's safety checker withheld an image of class '{withheld[0].name}' "
            f"{ATTEMPTS} times; what is drawn is kept: give another --template or phrase, and "
            "another --output"
        )
    return [done[place] for place in range(len(wanted))]


def image_seed(seed: int, class_name: str, number: int, attempt: int = 0) -> int:
    """The seed of an image's noise, in [0, 2^32): all that torch's generator keeps on the CPU.

    Within a class, numbers give distinct seeds; what other classes or numbers are drawn changes
    none of them.
    """
    digest = sha256(f"{seed}/{attempt}/{class_name}".encode()).digest()
    return (int.from_bytes(digest[:4], "big") + number) % _SEEDS


def _save(
    root: Path,
    file: str,
    image: Image.Image,
    sketch: ImageRequest,
    image_generator: ImageGenerator,
    image_size: int | None,
    session: int,
) -> ImageRecord:
    path = root / file
    path.parent.mkdir(exist_ok=True)
    if image_size is not None:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    stage(path, lambda aside: image.save(aside, format="PNG")).replace(path)
    return ImageRecord(
        file=file,
        class_name=sketch.drawn.name,
        prompt=image_generator.describe(sketch.drawn),
        seed=sketch.seed,
        sha256=file_hash(path),
        session=session,
    )
