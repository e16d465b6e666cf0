"""A diffusers pipeline, from a local folder or the hub, with what identifies it.

Guarantees: nothing is downloaded unless asked for; no code from the model's folder is run; whatever
keeps a model from loading is one line with the remedy.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from dpmix.errors import DpmixError, one_line
from dpmix.extras import to_install
from dpmix.hub import hub_error
from dpmix.out_of_memory import is_out_of_memory
from dpmix.public.manifest import ModelRecord, file_hash

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
