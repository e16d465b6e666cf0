"""`synthesize`: class names in, a pool of drawn images out.

Guarantee: nothing is read but the class names, the settings and the model. The same call resumes a
run that stopped: it draws the images that are not there, and ends with the pool of an undisturbed
run, because an image's seed depends on the pool's seed, the class and the image's number alone.
Every PNG holds the record of how it was drawn, so that no other file is taken for a drawn image.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dpmix.errors import DISTRIBUTION, DpmixError
from dpmix.files import stage, write_text
from dpmix.pool.diffusion_model import DiffusionModel
from dpmix.pool.manifest import FILE_NAME, ImageRecord, Manifest, Session, file_hash
from dpmix.pool.prompts import PoolClass

ATTEMPTS = 10
_LIBRARIES = ("diffusers", "transformers", "torch")
_NOTE = "dpmix"


@dataclass(frozen=True)
class SynthesisSettings:
    """What decides how the images look; a pool is only resumed with the same settings.

    Attributes:
        template: the prompt, with `{class}`.
        draw_size: height and width to draw, in pixels; None: the model's own.
        image_size: height and width to save, in pixels; None: as drawn.
        steps: denoising steps; None: the model's own.
        guidance: classifier-free guidance scale; None: the model's own.
        seed: the pool's seed, from which every image's seed is made.
        dtype: number format of the model's weights.

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
        for name, least in (("draw_size", 1), ("image_size", 1), ("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DpmixError(f"{name} is {value}; expected {least} or more")

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the pipeline's call."""
        wanted = {
            "height": self.draw_size, "width": self.draw_size,
            "num_inference_steps": self.steps, "guidance_scale": self.guidance,
        }  # fmt: skip
        return {name: value for name, value in wanted.items() if value is not None}


def synthesize(
    root: Path,
    model: DiffusionModel,
    classes: tuple[PoolClass, ...],
    settings: SynthesisSettings,
    *,
    images_per_class: int,
    batch: int,
    progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Draw what the pool in `root` lacks, and write its manifest.

    The manifest is also written when the drawing is interrupted or fails, with what was drawn.

    Args:
        root: the pool's folder, which is made if it is not there.
        model: draws the images.
        classes: what to draw.
        settings: how to draw it.
        images_per_class: number of images of each class in all; a smaller number than last time
            removes nothing.
        batch: number of images to draw at a time.
        progress: called with (images there, images wanted).

    Returns:
        The number of images in the pool, and how many of them are new.

    Raises:
        DpmixError: a count below 1, a folder in use or with other contents, other settings than
            those the pool was begun with, another file in the place of an image, a safety checker
            that withholds every attempt, a full disk, and as `DiffusionModel.draw` raises.
    """
    for name, value in (("images-per-class", images_per_class), ("batch", batch)):
        if value < 1:
            raise DpmixError(f"{name} is {value}; expected 1 or more")
    wanted = {
        file: ImageRecord(
            file=file, class_name=one.name, prompt=one.prompt(settings.template), sha256="",
            seed=image_seed(settings.seed, one.name, number),
        )
        for one in classes
        for number in range(images_per_class)
        for file in [f"{one.name}/{number:05}.png"]
    }  # fmt: skip
    identity = asdict(settings) | {"model": model.record.identity, "licence": model.record.licence}
    with _locked(root):
        before = Manifest.read(root)
        listed = {image.file: image for image in before.images} if before else {}
        there = _drawn_before(root, before, listed)
        if before and there:
            _refuse_changes(root, before.settings, there, identity, wanted)
        missing = [file for file in wanted if file not in there]
        _refuse_other_files(root, [file for file in missing if file not in listed])
        if not missing and listed.keys() == there.keys():
            return len(there), 0
        sessions = before.sessions if before else ()
        if missing:
            sessions += (_session(model),)

        def publish() -> None:
            manifest = Manifest(
                model=model.record, settings=identity, sessions=sessions,
                images=tuple(there[file] for file in sorted(there)),
            )  # fmt: skip
            write_text(root / FILE_NAME, manifest.model_dump_json(indent=2) + "\n")

        publish()  # a process that is killed leaves a pool with its settings
        total = len(wanted.keys() | there.keys())
        try:
            progress(len(there), total)
            for begin in range(0, len(missing), batch):
                asked = [wanted[file] for file in missing[begin : begin + batch]]
                for image, record in _draw(model, asked, settings.arguments):
                    there[record.file] = _save(root, image, record, settings.image_size)
                progress(len(there), total)
        finally:
            publish()
        return len(there), len(missing)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """The pool's folder, made and locked; what the file system refuses becomes one line."""
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


def _drawn_before(
    root: Path, manifest: Manifest | None, listed: dict[str, ImageRecord]
) -> dict[str, ImageRecord]:
    """The drawn images in `root`, by file, without those that were changed since."""
    if manifest is None and any(not entry.name.startswith(".") for entry in root.iterdir()):
        raise DpmixError(
            f"folder '{root}' holds something other than a pool that dpmix synthesize made; give "
            "another --output"
        )
    for half_written in root.rglob(".*.part"):
        half_written.unlink(missing_ok=True)
    found = {}
    for path in root.glob("*/*.png"):
        file, digest = path.relative_to(root).as_posix(), file_hash(path)
        record = listed.get(file) or _note_in(path)
        if record and record.file == file and record.sha256 in ("", digest):
            found[file] = record.model_copy(update={"sha256": digest})
    return found


def _refuse_changes(
    root: Path,
    before: dict[str, Any],
    there: dict[str, ImageRecord],
    identity: dict[str, Any],
    wanted: dict[str, ImageRecord],
) -> None:
    """Refuse to mix images that were drawn in two ways."""
    prompts = {record.class_name: record.prompt for record in wanted.values()}
    pairs = [(name, before.get(name), value) for name, value in sorted(identity.items())]
    for image in there.values():
        name = f"the prompt of class '{image.class_name}'"
        pairs.append((name, image.prompt, prompts.get(image.class_name, image.prompt)))
    for name, old, new in pairs:
        if old != new:
            raise DpmixError(
                f"pool '{root}' was begun with {name} {old!r}, not {new!r}; give the same "
                "settings to resume it, or another --output"
            )


def _refuse_other_files(root: Path, new: list[str]) -> None:
    """Refuse to write over a file that dpmix did not make."""
    if others := [file for file in new if (root / file).exists()]:
        raise DpmixError(
            f"pool '{root}' holds {len(others)} files that dpmix synthesize did not make "
            f"({others[0]}), where images are to be drawn; move them elsewhere"
        )


def _session(model: DiffusionModel) -> Session:
    return Session(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device=str(model.pipe.device),
        versions={"dpmix": version(DISTRIBUTION)} | {name: version(name) for name in _LIBRARIES},
    )


def _draw(
    model: DiffusionModel, wanted: list[ImageRecord], arguments: dict[str, Any]
) -> list[tuple[Image.Image, ImageRecord]]:
    """Draw a batch; what the safety checker withholds is drawn again from another seed."""
    done: dict[str, tuple[Image.Image, ImageRecord]] = {}
    left = wanted
    for attempt in range(ATTEMPTS):
        images = model.draw([one.prompt for one in left], [one.seed for one in left], arguments)
        drawn = zip(images, left, strict=True)
        done |= {one.file: (image, one) for image, one in drawn if image is not None}
        left = [
            one.model_copy(update={"seed": image_seed(one.seed, one.class_name, attempt)})
            for one in left
            if one.file not in done
        ]
        if not left:
            return [done[one.file] for one in wanted]
    raise DpmixError(
        f"the model's safety checker withheld an image of class '{left[0].class_name}' {ATTEMPTS} "
        "times; what is drawn is kept: give another --template or phrase, and another --output"
    )


def image_seed(seed: int, class_name: str, number: int) -> int:
    """The seed of an image's noise, in [0, 2^32): all that torch's generator keeps on the CPU.

    Numbers within a class give distinct seeds. Other classes and numbers change none of them.
    """
    digest = sha256(f"{seed}/{class_name}".encode()).digest()
    return (int.from_bytes(digest[:4], "big") + number) % (1 << 32)


def _save(root: Path, image: Image.Image, record: ImageRecord, size: int | None) -> ImageRecord:
    """Write a PNG that holds its record; return the record with the file's hash."""
    path, note = root / record.file, PngInfo()
    note.add_text(_NOTE, record.model_dump_json())
    path.parent.mkdir(exist_ok=True)
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    stage(path, lambda aside: image.save(aside, format="PNG", pnginfo=note)).replace(path)
    return record.model_copy(update={"sha256": file_hash(path)})


def _note_in(path: Path) -> ImageRecord | None:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return ImageRecord.model_validate_json(image.info[_NOTE])
    # No PNG, a broken one, or one without a record.
    except (OSError, SyntaxError, KeyError, ValueError):
        return None
