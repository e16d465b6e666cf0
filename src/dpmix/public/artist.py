"""Asks a pipeline for images: text-to-image by prompt, class-conditional by label.

Guarantees: each image starts from noise of its own seed, drawn on the CPU, so neither the batch nor
the device decides what it shows; an image that the pipeline's safety checker blacked out comes back
as None, never as an image; and one that is not finite or of one colour, as half precision makes
them where it overflows, is an error (`tests/public/test_artist.py`).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from dpmix.errors import DpmixError, nearest, one_line
from dpmix.out_of_memory import is_out_of_memory
from dpmix.public.diffusion_model import DiffusionModel, out_of_memory
from dpmix.public.prompts import PoolClass, prompt


@dataclass(frozen=True)
class Sketch:
    """One image to draw."""

    drawn: PoolClass
    seed: int


@dataclass(frozen=True, eq=False)
class Artist:
    """Draws with one pipeline and one set of its arguments; make it with `artist`."""

    model: DiffusionModel
    describe: Callable[[PoolClass], str]
    arguments: Callable[[list[Sketch]], dict[str, Any]]

    def draw(self, sketches: list[Sketch]) -> list[Image.Image | None]:
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

    def _picture(self, pixels: Float[np.ndarray, "H W C"], sketch: Sketch) -> Image.Image:
        if not np.isfinite(pixels).all():
            raise self._no_picture(sketch, "is not finite")
        levels = (pixels * 255).round().astype(np.uint8)
        if (levels == levels[:1, :1]).all():
            raise self._no_picture(sketch, "is of one colour")
        return Image.fromarray(levels.squeeze()).convert("RGB")

    def _no_picture(self, sketch: Sketch, fault: str) -> DpmixError:
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


def artist(
    model: DiffusionModel,
    classes: tuple[PoolClass, ...],
    *,
    template: str,
    size: int | None,
    steps: int | None,
    guidance: float | None,
) -> Artist:
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
        return Artist(
            model,
            lambda drawn: prompt(template, drawn),
            lambda batch: common | {"prompt": [prompt(template, one.drawn) for one in batch]},
        )
    if "class_labels" in accepted and needed <= {"class_labels"}:
        ids = {drawn: _label(model.pipe, drawn) for drawn in classes}
        return Artist(
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
