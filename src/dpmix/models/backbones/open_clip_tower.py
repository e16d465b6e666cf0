"""`open_clip:MODEL/WEIGHTS`: the image tower of any CLIP model of open_clip."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpmix.data.normalization import Normalization
from dpmix.errors import DpmixError, nearest, to_install
from dpmix.models.backbones.backbone import OWN_WEIGHTS, RANDOM, Backbone, BackboneRequest, Embedder
from dpmix.models.backbones.filled import filled, refuse_resized
from dpmix.models.backbones.weights_file import (
    NAMES,
    hub_weights,
    local_weights,
    unfit,
    url_weights,
)


def open_clip_tower(request: BackboneRequest) -> Backbone:
    """Load the image tower, such as `ViT-B-16/laion2b_s34b_b88k`; its features are not normalised.

    Raises:
        DpmixError: open_clip is missing, no such model or weights of it, or they are missing or do
            not fit.
    """
    open_clip = _open_clip()
    name, _, tag = request.model.partition("/")
    if name not in open_clip.list_models():
        raise DpmixError(
            f"unknown open_clip model '{name}': {nearest(name, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    config = open_clip.get_pretrained_cfg(name, tag) if tag in tags else None
    if config is None and (tag or request.weights is None) and request.pretrained:
        raise DpmixError(
            f"backbone 'open_clip:{request.model}' names no weights of {name}: expected "
            f"open_clip:{name}/WEIGHTS: {nearest(tag, tags)}"
        )
    path = _weights(request, config) if request.pretrained else None
    model = _made(open_clip, name, path, request)
    constants = config or open_clip.get_model_preprocess_cfg(model)
    size = model.visual.image_size
    return Backbone(
        name=f"open_clip:{request.model}",
        module=Embedder(model.visual, size[0] if isinstance(size, tuple) else size),
        normalization=Normalization(tuple(constants["mean"]), tuple(constants["std"])),
        provenance=_provenance(request, config, path),
        licence="as stated on the weights' page (LAION's: MIT)",
    )


def _made(open_clip: Any, name: str, path: Path | None, request: BackboneRequest) -> Any:
    def make(**options: Any) -> Any:
        with _quiet():
            return open_clip.create_model(name, force_image_size=request.input_size, **options)

    if path is None:
        return make(load_weights=False)
    network = f"open_clip:{name}"
    try:
        with filled(path, network, published=request.weights is None):
            model = make(pretrained=str(path))
        given = open_clip.factory.load_state_dict(str(path))
    except DpmixError:
        raise
    # open_clip's loaders raise nearly anything for a file of another network.
    except Exception as error:
        raise unfit(path, error) from error
    # The text tower is not used.
    image = {key: value for key, value in given.items() if key.startswith("visual.")}
    refuse_resized(path, network, image, model, resized=request.input_size is not None)
    return model


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise DpmixError(
            f"backbones 'open_clip:...' need the package open_clip_torch: {to_install('backbones')}"
        ) from None
    return open_clip


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what open_clip says through the root logger: weights are random where that was asked."""
    root = logging.getLogger()

    def serious(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addFilter(serious)
    try:
        yield
    finally:
        root.removeFilter(serious)


def _weights(request: BackboneRequest, config: Any) -> Path:
    if request.weights is not None:
        return local_weights(request.weights)
    repository = str(config.get("hf_hub", ""))
    if repository:
        owner, name, file = [*repository.split("/"), ""][:3]
        names = [file] if file else [NAMES[1], NAMES[3], NAMES[0], NAMES[2]]
        return hub_weights(f"{owner}/{name}", names, download=request.download)
    return url_weights(f"open_clip:{request.model}", config["url"], download=request.download)


def _provenance(request: BackboneRequest, config: Any, path: Path | None) -> str:
    if path is None:
        return RANDOM
    if request.weights is not None:
        return f"open_clip {request.model}, {OWN_WEIGHTS}"
    return f"open_clip {request.model}, {config.get('hf_hub') or config.get('url')}"
