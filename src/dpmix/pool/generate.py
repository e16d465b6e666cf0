"""`synthesize`: class names in, a pool of drawn images out.

Nothing is read but the class names, the settings and the model. The same call resumes a run that
stopped, and ends with the pool of an undisturbed run: a seed depends on the pool's seed, the class
and the image's number alone. Every PNG holds its record, so that no other file is taken for one.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dpmix.errors import DISTRIBUTION, DpmixError
from dpmix.files import lock, stage, write_text
from dpmix.pool.diffusion_model import DiffusionModel
from dpmix.pool.manifest import FILE_NAME, ImageRecord, Manifest, file_hash
from dpmix.pool.prompts import PoolClass

ATTEMPTS = 10
_LIBRARIES = ("diffusers", "transformers", "torch")
_NOTE = "dpmix"


@dataclass(frozen=True)
class SynthesisSettings:
    """What decides how the images look; a pool is only resumed with the same settings."""

    template: str  # the prompt, with `{class}`
    draw_size: int | None  # height and width to draw, in pixels; None: the model's own
    image_size: int | None  # height and width to save, in pixels; None: as drawn
    steps: int | None  # denoising steps; None: the model's own
    guidance: float | None  # classifier-free guidance scale; None: the model's own
    seed: int  # the pool's seed, 0 or more, from which every image's seed is made
    dtype: str  # number format of the model's weights

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
        images_per_class: images of each class in all; a smaller number removes nothing.
        batch: number of images to draw at a time.
        progress: called with (images there, images wanted).

    Returns:
        The number of images in the pool, and how many of them are new.

    Raises:
        DpmixError: a folder in use or with other contents, other settings than the pool was begun
            with, every attempt withheld, a full disk, and as `DiffusionModel.draw` raises.
    """
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
    for one in classes:
        identity[f"the prompt of class '{one.name}'"] = one.prompt(settings.template)
    with ExitStack() as stack:
        stack.callback(lock(root / ".lock", f"pool '{root}'").release)
        before = Manifest.read(root)
        listed = {image.file: image for image in before.images} if before else {}
        there = _drawn_before(root, before, listed)
        if before and there:
            identity = _same(root, before.settings, identity)
        missing = [file for file in wanted if file not in there]
        if others := [file for file in missing if file not in listed and (root / file).exists()]:
            raise DpmixError(
                f"pool '{root}' holds {len(others)} files that dpmix synthesize did not make "
                f"({others[0]}), where images are to be drawn; move them elsewhere"
            )
        versions = {"dpmix": version(DISTRIBUTION)} | {name: version(name) for name in _LIBRARIES}

        def publish() -> None:
            manifest = Manifest(
                model=model.record, settings=identity, versions=versions,
                date=datetime.now(UTC).isoformat(timespec="seconds"),
                device=str(model.pipe.device),
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


def _same(root: Path, before: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """Both settings together; images that were drawn in two ways are not mixed."""
    for name in sorted(before.keys() & identity.keys()):
        if before[name] != identity[name]:
            raise DpmixError(
                f"pool '{root}' was begun with {name} {before[name]!r}, not {identity[name]!r}; "
                "give the same settings to resume it, or another --output"
            )
    return before | identity


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
    """The seed of an image's noise, in [0, 2^32); numbers within a class give distinct seeds."""
    digest = sha256(f"{seed}/{class_name}".encode()).digest()
    return (int.from_bytes(digest[:4], "big") + number) % (1 << 32)


def _save(root: Path, image: Image.Image, record: ImageRecord, size: int | None) -> ImageRecord:
    """Write a PNG that holds its record; return the record with the file's hash."""
    path, note = root / record.file, PngInfo()
    note.add_text(_NOTE, record.model_dump_json())
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BICUBIC)

    def write(aside: Path) -> None:
        aside.parent.mkdir(exist_ok=True)
        image.save(aside, format="PNG", pnginfo=note)

    stage(path, write).replace(path)
    return record.model_copy(update={"sha256": file_hash(path)})


def _note_in(path: Path) -> ImageRecord | None:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return ImageRecord.model_validate_json(image.info[_NOTE])
    # No PNG, a broken one, or one without a record.
    except (OSError, SyntaxError, KeyError, ValueError):
        return None
