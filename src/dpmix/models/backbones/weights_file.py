"""A backbone's weights file: where it lies, how it is read, and that it fills the network.

Nothing is downloaded unless asked for. A backbone from a file holds no tensor that the file did not
give, and takes all of its network but the heads, which are counted. Libraries leave missing tensors
at random: features would then be noise, and different in every run.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from dpmix.errors import DpmixError, hub_error, one_line
from dpmix.models.backbones.backbone import BackboneRequest

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# Heads of classifiers and of pretraining, which no network needs for its features.
_OF_TRAINING = re.compile(
    r"(head|heads|\w+_head|fc|classifier|last_linear|projector|projection\w*|predictor\w*|"
    r"decoder\w*|mask_token|prototypes|queue\w*|logit_scale)(\.|$)"
)
# Names of weights files on a hub, best first.
NAMES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)


def find_weights(
    name: str,
    request: BackboneRequest,
    *,
    repository: str | None = None,
    files: Sequence[str] = NAMES,
    url: str | None = None,
) -> Path:
    """Return the weights file: the given one, or the published one from a local cache or the net.

    Args:
        name: the backbone's name, for messages.
        request: may give a file or folder, and may allow a download.
        repository: hub repository of the published weights, OWNER/NAME.
        files: file names to look for in the repository, best first.
        url: address of the published weights, if they are in no repository.
    """
    if request.weights is not None:
        return _local(request.weights)
    if repository:
        return _from_hub(repository, files, download=request.download)
    if url:
        return _from_url(name, url, download=request.download)
    raise DpmixError(f"backbone '{name}' has no published weights; give --backbone-weights FILE")


def _local(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DpmixError(
            f"no weights at '{path}'; expected a file or a folder with one: check the path"
        )
    named = [path / name for name in NAMES if (path / name).is_file()]
    found = named[:1] or sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
    if len(found) != 1:
        raise DpmixError(
            f"folder '{path}' has {len(found)} weights files; expected one of {', '.join(NAMES)}, "
            "or a single other: give the file itself"
        )
    return found[0]


def _from_hub(repository: str, names: Sequence[str], *, download: bool) -> Path:
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


def _from_url(name: str, url: str, *, download: bool) -> Path:
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


def load_filled(
    path: Path,
    network: str,
    request: BackboneRequest,
    build: Callable[[], Any],
    read: Callable[[], dict[str, Tensor]],
    *,
    head: tuple[str, ...] = (),
) -> Any:
    """Return `build()`, and check that it filled the whole network from the file.

    Libraries rename and resize tensors before they load them, so only their own calls of
    `load_state_dict` show which tensors matched: these are watched.

    Args:
        path: the weights file.
        network: name of the network, for messages.
        request: published weights, unlike a local file, may hold more than the network takes.
        build: makes the network and loads the file into it, by the library's code.
        read: reads the file's tensors, by the library's code.
        head: prefixes of the classifier's tensor names, which the network is built without.
    """
    plain, calls = nn.Module.load_state_dict, 0

    def watched(self: nn.Module, state: Any, strict: bool = True, assign: bool = False) -> Any:
        nonlocal calls
        calls += 1
        gaps = plain(self, state, strict=False, assign=assign)
        if gaps.missing_keys:
            raise unfit(path, f"{network} has {few(gaps.missing_keys)} that the file lacks")
        unexpected = [key for key in gaps.unexpected_keys if not key.startswith(head)]
        if request.weights is not None:
            _refuse_more(path, network, unexpected)
        return gaps

    nn.Module.load_state_dict = watched  # type: ignore[method-assign, assignment]
    try:
        model = build()
        given = read()
    except DpmixError:
        raise
    # Libraries raise nearly anything for the file of another network.
    except Exception as error:
        raise unfit(path, why_unread(error)) from error
    finally:
        nn.Module.load_state_dict = plain  # type: ignore[method-assign]
    if not calls:
        raise unfit(path, f"nothing of it was loaded into {network}")
    own = model.state_dict()
    # Libraries resample what they can: positions may be, for the image size that was asked for.
    resampled = request.input_size or request.weights is None
    other = [
        f"{name} {list(given[name].shape)} for {list(own[name].shape)}"
        for name in sorted(own.keys() & given.keys())
        if given[name].numel() != own[name].numel() and not (resampled and "pos" in name)
    ]
    if other:
        raise unfit(path, f"other shapes, perhaps of another --backbone-size: {few(other)}")
    return model


def _refuse_more(path: Path, network: str, unexpected: Sequence[str]) -> None:
    """Refuse tensors of a larger network; those that serve training alone are left out."""
    more = [key for key in unexpected if not _OF_TRAINING.match(key)]
    if more:
        raise unfit(path, f"it has {few(more)} that {network} lacks")
    if unexpected:
        warnings.warn(f"weights '{path}': {few(unexpected)} left out", stacklevel=4)


def few(names: Sequence[str]) -> str:
    """How many tensors, and the first names."""
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} tensor(s) ({', '.join(names[:3])}{more})"


def why_unread(error: BaseException) -> str:
    """Why a file could not be read, in one line."""
    # Torch's own message advises to run the code.
    unread = "Weights only load failed" in str(error) or isinstance(error, UnpicklingError)
    return "more than tensors in it, or no weights at all" if unread else one_line(error)


def unfit(path: Path, reason: str) -> DpmixError:
    """The refusal of a weights file."""
    return DpmixError(
        f"weights '{path}' can't be used ({reason}); expected a whole file of this very network's "
        "state_dict, such as torch.save(model.state_dict(), FILE) writes"
    )
