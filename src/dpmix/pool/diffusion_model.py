"""Asks a pipeline for images: text-to-image by prompt, class-conditional by label.

Guarantees: each image starts from noise of its own seed, drawn on the CPU, so neither the batch nor
the device decides what it shows; an image that the pipeline's safety checker blacked out comes back
as None, never as an image; and one that is not finite or of one colour, as half precision makes
them where it overflows, is an error (`tests/public/test_artist.py`).
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from PIL import Image

from dpmix.errors import DpmixError, hub_error, is_out_of_memory, nearest, one_line, to_install
from dpmix.pool.manifest import ModelRecord, file_hash
from dpmix.pool.prompts import PoolClass, prompt

# A diffusers pipeline, from a local folder or the hub, with what identifies it.
#
# Guarantees: nothing is downloaded unless asked for; no code from the model's folder is run;
# whatever keeps a model from loading is one line with the remedy.


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


_ELSEWHERE = (
    "download the model on another machine (hf download {model} --local-dir FOLDER) and give "
    "--model FOLDER"
)


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A loaded pipeline.

    Attributes:
        pipe: a diffusers `DiffusionPipeline`, on its device.
        record: for the manifest.
    """

    pipe: Any
    record: ModelRecord


def load_model(
    model: str,
    *,
    revision: str | None,
    download: bool,
    licence: str | None,
    device: torch.device,
    dtype: torch.dtype,
    attention_slicing: bool,
) -> DiffusionModel:
    """Load `model` in eval mode.

    Args:
        model: a folder that a diffusers pipeline was saved to, or a hub name.
        revision: branch, tag or commit, for a hub name.
        download: fetch what the local cache of the hub lacks.
        licence: of the model; None reads it from the model's README, where there is one.
        device: where it runs.
        dtype: of its weights.
        attention_slicing: less memory, slower.

    Raises:
        DpmixError: diffusers is missing, the model is not there, can't be fetched, is gated, or is
            no pipeline, or it does not fit in memory.
    """
    pipeline_class = _diffusers().DiffusionPipeline
    local = Path(model).expanduser()
    if local.is_dir():
        folder, commit = local, None
    else:
        folder = _from_hub(pipeline_class, model, revision, download)
        commit = folder.name
    pipe = _loaded(pipeline_class, folder, model, device, dtype)
    pipe.set_progress_bar_config(disable=True)
    if attention_slicing:
        pipe.enable_attention_slicing()
    record = ModelRecord(
        name=model if commit else local.resolve().name,
        pipeline=type(pipe).__name__,
        scheduler=type(pipe.scheduler).__name__,
        revision=commit,
        files=None if commit else _hashes(folder),
        licence=licence or _licence(folder),
    )
    return DiffusionModel(pipe, record)


def default_dtype(device: torch.device) -> str:
    """Half precision on CUDA (bfloat16 where the card has it), float32 elsewhere."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def out_of_memory(device: torch.device) -> DpmixError:
    """The error for a model or a batch that does not fit."""
    return DpmixError(
        f"too little memory on {device} to draw (what is drawn is kept); give a smaller --batch or "
        "--attention-slicing; or, with another --output, a smaller --draw-size or model, or "
        "--dtype bfloat16"
    )


def _diffusers() -> Any:
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise DpmixError(
            f"drawing images needs the package {error.name or 'diffusers'}: "
            f"{to_install('diffusion')}"
        ) from None
    quiet: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    for logging in quiet:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return diffusers


def _from_hub(pipeline_class: Any, model: str, revision: str | None, download: bool) -> Path:
    """The folder of the hub's local cache that holds `model`; its name is the commit."""
    if not re.fullmatch(r"[\w.\-]+/[\w.\-]+", model) or model.startswith("."):
        raise DpmixError(
            f"no model folder '{model}'; expected a folder that a diffusers pipeline was saved to, "
            "or a hub name such as owner/name: check the path"
        )
    try:
        folder = pipeline_class.download(model, revision=revision, local_files_only=not download)
    except Exception as error:
        elsewhere = _ELSEWHERE.format(model=model)
        raise hub_error(model, error, download=download, elsewhere=elsewhere) from error
    return Path(folder)


def _loaded(
    pipeline_class: Any, folder: Path, model: str, device: torch.device, dtype: torch.dtype
) -> Any:
    if not (folder / "model_index.json").is_file():
        raise DpmixError(
            f"model folder '{folder}' has no model_index.json; expected a folder that a diffusers "
            "pipeline was saved to (save_pretrained)"
        )
    try:
        pipe = pipeline_class.from_pretrained(folder, dtype=dtype, local_files_only=True)
        return pipe.to(device)
    # A damaged or foreign folder makes the loaders raise nearly anything.
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(device) from None
        raise DpmixError(
            f"model '{model}' can't be loaded as a diffusers pipeline ({one_line(error)}); "
            "expected a whole folder written by save_pretrained"
        ) from error


def _hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every visible file, by posix path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(folder) for path in files}
    return {
        name.as_posix(): file_hash(path)
        for path, name in names.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def _licence(folder: Path) -> str | None:
    """`license` in the front matter of the model's README, as the hub keeps it."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return None
    value = front.get("license") if isinstance(front, dict) else None
    return str(value) if value else None


@dataclass(frozen=True)
class ImageRequest:
    """One image to draw."""

    drawn: PoolClass
    seed: int


@dataclass(frozen=True, eq=False)
class ImageGenerator:
    """Draws with one pipeline and one set of its arguments; make it with `artist`."""

    model: DiffusionModel
    describe: Callable[[PoolClass], str]
    arguments: Callable[[list[ImageRequest]], dict[str, Any]]

    def draw(self, sketches: list[ImageRequest]) -> list[Image.Image | None]:
        """Draw a batch, in order; None for an image that the safety checker withheld.

        Raises:
            DpmixError: too little memory, a pipeline that refuses or fails, or an image that is not
                finite or of one colour.
        """
        pipe = self.model.pipe
        seeds = [torch.Generator("cpu").manual_seed(sketch.seed) for sketch in sketches]
        try:
            made = pipe(**self.arguments(sketches), generator=seeds)
        # A pipeline that can't do what it is asked, or is broken, raises nearly anything.
        except Exception as error:
            if is_out_of_memory(error):
                raise out_of_memory(pipe.device) from None
            raise DpmixError(
                f"{type(pipe).__name__} fails to draw with these settings: "
                f"{one_line(error, 300)}; check sizes, steps and guidance, or try another model"
            ) from error
        withheld = getattr(made, "nsfw_content_detected", None) or [False] * len(made.images)
        return [
            None if hidden else self._picture(pixels, sketch)
            for pixels, hidden, sketch in zip(made.images, withheld, sketches, strict=True)
        ]

    def _picture(self, pixels: Float[np.ndarray, "H W C"], sketch: ImageRequest) -> Image.Image:
        if not np.isfinite(pixels).all():
            raise self._no_picture(sketch, "is not finite")
        levels = (pixels * 255).round().astype(np.uint8)
        if (levels == levels[:1, :1]).all():
            raise self._no_picture(sketch, "is of one colour")
        return Image.fromarray(levels.squeeze()).convert("RGB")

    def _no_picture(self, sketch: ImageRequest, fault: str) -> DpmixError:
        dtype = str(self.model.pipe.dtype).removeprefix("torch.")
        remedy = (
            "try other --steps, --guidance or --draw-size, or another --model"
            if dtype == "float32"
            else f"{dtype} overflows in some models: give --dtype float32"
        )
        return DpmixError(
            f"an image of class '{sketch.drawn.name}' that {self.model.record.pipeline} drew in "
            f"{dtype} {fault}, so it was not written; {remedy}, with another --output if images "
            "were drawn before (they are kept)"
        )


def image_generator(
    model: DiffusionModel,
    classes: tuple[PoolClass, ...],
    *,
    template: str,
    size: int | None,
    steps: int | None,
    guidance: float | None,
) -> ImageGenerator:
    """Choose how to ask `model` for `classes`, by what its call accepts.

    Args:
        model: the pipeline.
        classes: every class that will be asked for.
        template: the prompt, with `{class}`.
        size: height and width drawn, in pixels; None, as below: the pipeline's own.
        steps: denoising steps.
        guidance: classifier-free guidance scale.

    Raises:
        DpmixError: a pipeline that takes neither prompts nor class labels, needs an image, has no
            such setting, or lacks a class.
    """
    accepted = inspect.signature(type(model.pipe).__call__).parameters
    needed = {
        name
        for name, one in accepted.items()
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD
    } - {"self"}
    wanted = {
        "height": size, "width": size, "num_inference_steps": steps, "guidance_scale": guidance,
    }  # fmt: skip
    common: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if missing := common.keys() - accepted.keys():
        raise DpmixError(
            f"{model.record.pipeline} has no {', '.join(sorted(missing))}; leave that setting out"
        )
    common["output_type"] = "np"  # as 8 bits, a NaN would be black
    if "prompt" in accepted and needed <= {"prompt"}:
        return ImageGenerator(
            model,
            lambda drawn: prompt(template, drawn),
            lambda batch: common | {"prompt": [prompt(template, one.drawn) for one in batch]},
        )
    if "class_labels" in accepted and needed <= {"class_labels"}:
        ids = {drawn: _label(model.pipe, drawn) for drawn in classes}
        return ImageGenerator(
            model,
            lambda drawn: f"class label {ids[drawn]}",
            lambda batch: common | {"class_labels": [ids[one.drawn] for one in batch]},
        )
    raise DpmixError(
        f"{model.record.pipeline} draws neither from a prompt nor from a class label alone; "
        "expected a text-to-image or class-conditional pipeline"
    )


def _label(pipe: Any, drawn: PoolClass) -> int:
    """The pipeline's number for a class: by its own names, or written as `#281`.

    A bare number is a name like any other: a class called 0 need not be the model's number 0.
    """
    labels: dict[str, int] = {
        name.lower(): number for name, number in (getattr(pipe, "labels", None) or {}).items()
    }
    if (number := labels.get(drawn.phrase.lower())) is not None:
        return number
    given = drawn.phrase.removeprefix("#")
    if given != drawn.phrase and given.isdecimal():
        number = int(given)
        if not labels or number in labels.values():
            return number
    hint = nearest(drawn.phrase.lower(), labels) if labels else "its labels are numbers alone"
    raise DpmixError(
        f"{type(pipe).__name__} has no class '{drawn.phrase}': {hint}; write '{drawn.name}: LABEL' "
        f"or '{drawn.name}: #NUMBER' in a --classes-file"
    )
