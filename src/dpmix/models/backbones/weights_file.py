"""A backbone's weights file: where it lies, how it is read, and that it fills the network.

Nothing is downloaded unless asked for, and no weights file can run code.

Guarantee: a backbone from a file holds no tensor that the file did not give, and the file holds no
tensor that the backbone did not take, except the classifier's. Libraries leave missing tensors at
random, with at most a line in the log: features would then be noise, and different in every run
(`tests/models/backbones/test_weights_file.py`).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dpmix.errors import DpmixError, hub_error, one_line
from dpmix.models.backbones.backbone import BackboneRequest

# Names of weights files on a hub, best first.
NAMES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_LISTED = 3


def find_weights(
    name: str,
    request: BackboneRequest,
    *,
    repository: str | None = None,
    files: Sequence[str] = NAMES,
    url: str | None = None,
) -> Path:
    """Return the weights file: the given one, or the published one from a local cache.

    Args:
        name: the backbone, for messages.
        request: may give a file or folder, and may allow a download.
        repository: hub repository of the published weights, OWNER/NAME.
        files: file names to look for in the repository, best first.
        url: address of the published weights, if they are in no repository.

    Raises:
        DpmixError: the file is not there and may not or cannot be fetched, a folder does not hold
            one weights file, or nothing was published.
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


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file, in safetensors or torch's own format.

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
    """The error for a weights file that is damaged, holds code, or belongs to another network."""
    # Torch's own message advises to run the code.
    unread = "Weights only load failed" in str(error) or isinstance(error, UnpicklingError)
    reason = "more than tensors in it, or no weights at all" if unread else one_line(error)
    return DpmixError(
        f"weights '{path}' can't be used ({reason}); expected a whole file of this very network's "
        "state_dict, such as torch.save(model.state_dict(), FILE) writes"
    )


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

    Libraries rename and resize tensors before they load them, so only their own call of
    `load_state_dict` shows which tensors matched.

    Args:
        path: the weights file.
        network: name of the network, for messages.
        request: what was asked for: a local file or published weights, and an image size.
        build: makes the network and loads the file into it, by the library's code.
        read: reads the file's tensors, by the library's code.
        head: prefixes of the classifier's tensor names, which the network is built without.

    Raises:
        DpmixError: the file cannot be read, lacks a tensor of the network, has one too many or one
            of another shape, or was not loaded at all.
    """
    try:
        with _checked_loading(path, network, published=request.weights is None, head=head):
            model = build()
        given = read()
    except DpmixError:
        raise
    # Libraries raise nearly anything for the file of another network.
    except Exception as error:
        raise unfit(path, error) from error
    _refuse_resized(path, network, given, model.state_dict(), request)
    return model


@contextmanager
def _checked_loading(
    path: Path, network: str, *, published: bool, head: tuple[str, ...]
) -> Iterator[None]:
    """Refuse, inside the block, any `load_state_dict` that leaves a tensor out, or none at all."""
    plain, calls = nn.Module.load_state_dict, 0

    def load(self: nn.Module, state: Any, strict: bool = True, assign: bool = False) -> Any:
        nonlocal calls
        calls += 1
        gaps = plain(self, state, strict=False, assign=assign)
        no_place = [key for key in gaps.unexpected_keys if not key.startswith(head)]
        check_filled(path, network, gaps.missing_keys, no_place, published=published)
        return gaps

    nn.Module.load_state_dict = load  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.load_state_dict = plain  # type: ignore[method-assign]
    if not calls:
        raise _other_network(path, network, "nothing of the file was loaded")


def check_filled(
    path: Path,
    network: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    *,
    published: bool = False,
) -> None:
    """Refuse a file that lacks tensors of the network (`missing`) or has others (`unexpected`).

    Raises:
        DpmixError: a tensor is missing or unexpected. Unexpected ones only warn if the weights are
            the library's own (`published`), some of which hold more, such as another head.
    """
    if published and unexpected and not missing:
        warnings.warn(f"weights of {network}: left out {_few(unexpected)} of them", stacklevel=2)
    elif missing or unexpected:
        reasons = [f"the file lacks {_few(missing)}"] if missing else []
        reasons += [f"the network lacks {_few(unexpected)}"] if unexpected else []
        raise _other_network(path, network, ", and ".join(reasons))


def _refuse_resized(
    path: Path,
    network: str,
    given: dict[str, Tensor],
    own: dict[str, Tensor],
    request: BackboneRequest,
) -> None:
    """Refuse tensors of another shape, which a library resamples where it can.

    Only position embeddings follow the image size. They may change, with a warning unless an image
    size was asked for.
    """
    other = [
        f"{name} {list(given[name].shape)} for {list(own[name].shape)}"
        for name in own.keys() & given.keys()
        if given[name].numel() != own[name].numel()
    ]
    positions = [line for line in other if "pos" in line.partition(" ")[0]]
    if len(positions) < len(other):
        raise _other_network(path, network, f"other shapes: {_few(sorted(other))}")
    if positions and request.input_size is None:
        warnings.warn(
            f"weights '{path}' are of another image size, and were resampled: "
            f"{_few(sorted(positions))}; --backbone-size chooses the size",
            stacklevel=2,
        )


def _few(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _LISTED else ""
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({', '.join(names[:_LISTED])}{more})"


def _other_network(path: Path, network: str, reason: str) -> DpmixError:
    return DpmixError(
        f"weights '{path}' do not fit {network}: {reason}; expected the names and shapes of the "
        "network's state_dict, as torch.save(model.state_dict(), FILE) writes them: name the "
        "network that the file is of, or rename its tensors"
    )
