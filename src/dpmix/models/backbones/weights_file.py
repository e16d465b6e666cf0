"""Where a backbone's weights lie: given by the user, in a hub's local cache, or fetched if allowed.

Guarantees that nothing is downloaded unless asked for, and that no weights file can run code.
"""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dpmix.errors import DpmixError, hub_error, one_line

NAMES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)


"""What a hub calls weights, best first."""


SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def local_weights(path: Path) -> Path:
    """The weights file at `path`, or in the folder `path`.

    Raises:
        DpmixError: nothing there, or a folder with no file of a known name or with several others.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise DpmixError(
            f"no weights at '{path}'; expected a file or a folder with one: check the path"
        )
    named = [path / name for name in NAMES if (path / name).is_file()]
    others = sorted(
        p for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".pt", ".pth")
    )
    found = named[:1] or others
    if len(found) != 1:
        raise DpmixError(
            f"folder '{path}' has {len(found)} weights files; expected one of {', '.join(NAMES)}, "
            "or a single other: give the file itself"
        )
    return found[0]


def hub_weights(repository: str, names: Sequence[str], *, download: bool) -> Path:
    """The first of `names` in a hub repository, as the local cache of the hub holds it.

    Raises:
        DpmixError: it is not there and may not, or can't, be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    problem: Exception | None = None
    for local in (True, False) if download else (True,):
        for name in names:
            try:
                return Path(hf_hub_download(repository, name, local_files_only=local))
            except EntryNotFoundError as error:
                problem = problem or error
            # A hub that is not reached raises errors of many kinds.
            except Exception as error:
                problem = error
    assert problem is not None
    raise hub_error(
        repository, problem, download=download,
        elsewhere=f"fetch it on another machine (hf download {repository} --local-dir FOLDER) and "
        "give --backbone-weights FOLDER",
    ) from problem  # fmt: skip


def url_weights(name: str, url: str, *, download: bool) -> Path:
    """The file that torch keeps for `url`.

    Raises:
        DpmixError: it is not there and may not, or can't, be fetched.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    remedy = f"fetch {url} elsewhere and give --backbone-weights FILE"
    if not download:
        raise DpmixError(
            f"the weights of backbone '{name}' are not in '{folder}'; give --download, or {remedy}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except Exception as error:
        raise DpmixError(
            f"the weights of backbone '{name}' can't be fetched ({one_line(error)}); {remedy}"
        ) from error
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, safetensors or torch's own without code.

    Raises:
        DpmixError: the file is damaged or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise unfit(path, error) from None
    # Torch's unpickler raises nearly anything for a file that is no checkpoint.
    except Exception as error:
        raise unfit(path, error) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise unfit(path, TypeError("no mapping of names to tensors"))
    return state


def unfit(path: Path, error: BaseException) -> DpmixError:
    """The error for a weights file that is damaged, holds code, or is another network's."""
    # Torch advises to run the code.
    unread = "Weights only load failed" in str(error) or isinstance(error, UnpicklingError)
    reason = "more than tensors in it, or no weights at all" if unread else one_line(error)
    return DpmixError(
        f"weights '{path}' can't be used ({reason}); expected a whole file of this very network's "
        "state_dict, such as torch.save(model.state_dict(), FILE) writes"
    )
