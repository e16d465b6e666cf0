"""A diffusers text-to-image pipeline, from a local folder or the hub.

Nothing is downloaded unless asked for, and no code from the model's folder is run. Each image's
noise is drawn on the CPU from its seed, so neither the batch nor the device decides what it shows.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from PIL import Image

from dpmix.errors import DpmixError, hub_error, is_out_of_memory, one_line, to_install
from dpmix.pool.manifest import ModelRecord, file_hash

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A loaded pipeline."""

    pipe: Any  # a diffusers `DiffusionPipeline`, on its device
    record: ModelRecord  # what identifies it, for the manifest

    def draw(
        self, prompts: list[str], seeds: list[int], arguments: dict[str, Any]
    ) -> list[Image.Image | None]:
        """Draw one batch, in order; None for an image that the safety checker withheld.

        `seeds` are 0 to 2^32 - 1. An image that is not finite or of one colour, as half precision
        makes them where it overflows, is refused.
        """
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        try:
            # As 8-bit images, a NaN would be black.
            made = self.pipe(prompt=prompts, generator=generators, output_type="np", **arguments)
        # A pipeline that can't do what it is asked, or is broken, raises nearly anything.
        except Exception as error:
            if is_out_of_memory(error):
                raise _out_of_memory(self.pipe.device) from None
            raise DpmixError(
                f"{self.record.pipeline} fails to draw with these settings: "
                f"{one_line(error, 300)}; check sizes, steps and guidance, or give another "
                "text-to-image --model"
            ) from error
        withheld = getattr(made, "nsfw_content_detected", None) or [False] * len(made.images)
        return [
            None if hidden else self._image(pixels, prompt)
            for pixels, hidden, prompt in zip(made.images, withheld, prompts, strict=True)
        ]

    def _image(self, pixels: Float[np.ndarray, "H W C"], prompt: str) -> Image.Image:
        if not np.isfinite(pixels).all():
            fault = "is not finite"
        else:
            levels = (pixels * 255).round().astype(np.uint8)
            if (levels != levels[:1, :1]).any():
                return Image.fromarray(levels.squeeze()).convert("RGB")
            fault = "is of one colour"
        dtype = str(self.pipe.dtype).removeprefix("torch.")
        remedy = f"{dtype} overflows in some models: give --dtype float32"
        if dtype == "float32":
            remedy = "try other --steps, --guidance or --draw-size, or another --model"
        raise DpmixError(
            f"an image of '{prompt}' that {self.record.pipeline} drew in {dtype} {fault}, so it "
            f"was not written; {remedy}, with another --output if images were drawn before (they "
            "are kept)"
        )


def load_model(
    model: str,
    *,
    revision: str | None,
    download: bool,
    licence: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> DiffusionModel:
    """Load `model`, a folder that a diffusers pipeline was saved to, or a hub name, in eval mode.

    Args:
        model: the folder or the name.
        revision: branch, tag or commit, for a hub name.
        download: fetch what the local cache of the hub lacks.
        licence: the model's licence; None reads it from the model's README, where there is one.
        device: where the model runs.
        dtype: number format of its weights.
    """
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
    kind: Any = diffusers.DiffusionPipeline
    local = Path(model).expanduser()
    on_hub = not local.is_dir()
    folder = _from_hub(kind, model, revision, download) if on_hub else local
    if not (folder / "model_index.json").is_file():
        raise DpmixError(
            f"model folder '{folder}' has no model_index.json; expected a folder that a diffusers "
            "pipeline was saved to (save_pretrained)"
        )
    try:
        pipe = kind.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device)
    # A damaged or foreign folder makes the loaders raise nearly anything.
    except Exception as error:
        if is_out_of_memory(error):
            raise _out_of_memory(device) from None
        raise DpmixError(
            f"model '{model}' can't be loaded as a diffusers pipeline ({one_line(error)}); "
            "expected a whole folder written by save_pretrained"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    visible = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    record = ModelRecord(
        name=model if on_hub else local.resolve().name,
        pipeline=type(pipe).__name__,
        scheduler=type(pipe.scheduler).__name__,
        # The hub's cache names a folder by its commit.
        revision=folder.name if on_hub else None,
        files=None if on_hub else {file.as_posix(): file_hash(folder / file) for file in visible},
        licence=licence or _licence(folder),
    )
    return DiffusionModel(pipe, record)


def default_dtype(device: torch.device) -> str:
    """Half precision on CUDA (bfloat16 where the card has it), float32 elsewhere."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _out_of_memory(device: torch.device) -> DpmixError:
    return DpmixError(
        f"too little memory on {device} to draw (what is drawn is kept); give a smaller --batch; "
        "or, with another --output, a smaller --draw-size or model, or --dtype bfloat16"
    )


def _from_hub(kind: Any, model: str, revision: str | None, download: bool) -> Path:
    """The folder of the hub's local cache that holds `model`."""
    if not re.fullmatch(r"[\w.\-]+/[\w.\-]+", model) or model.startswith("."):
        raise DpmixError(
            f"no model folder '{model}'; expected a folder that a diffusers pipeline was saved to, "
            "or a hub name such as owner/name: check the path"
        )
    try:
        return Path(kind.download(model, revision=revision, local_files_only=not download))
    except Exception as error:
        elsewhere = (
            f"download the model on another machine (hf download {model} --local-dir FOLDER) and "
            "give --model FOLDER"
        )
        raise hub_error(model, error, download=download, elsewhere=elsewhere) from error


def _licence(folder: Path) -> str | None:
    from huggingface_hub import metadata_load

    try:
        value = (metadata_load(folder / "README.md") or {}).get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return str(value) if value else None
