"""`open_clip:MODEL/WEIGHTS`: the image tower of any CLIP model of open_clip."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dpmix.data.normalization import Normalization
from dpmix.errors import DpmixError, nearest, to_install
from dpmix.models.backbones.backbone import Backbone, BackboneRequest, Embedder
from dpmix.models.backbones.weights_file import NAMES, find_weights, load_filled


def open_clip_tower(request: BackboneRequest) -> Backbone:
    """Load the image tower, such as `ViT-B-16/laion2b_s34b_b88k`; its features are not normalised.

    Raises:
        DpmixError: open_clip is missing or has no such model, or weights are missing or do not fit.
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
    published = config or {}
    model = _loaded(open_clip, name, request, published)
    constants = config or open_clip.get_model_preprocess_cfg(model)
    size = model.visual.image_size
    return Backbone(
        name=f"open_clip:{request.model}",
        module=Embedder(model.visual, size[0] if isinstance(size, tuple) else size),
        normalization=Normalization(tuple(constants["mean"]), tuple(constants["std"])),
        provenance=request.provenance("open_clip", published.get("hf_hub") or published.get("url")),
        licence="as stated on the weights' page (LAION's: MIT)",
    )


def _loaded(open_clip: Any, name: str, request: BackboneRequest, published: Any) -> Any:
    def make(**options: Any) -> Any:
        with _quiet():
            return open_clip.create_model(name, force_image_size=request.input_size, **options)

    if not request.pretrained:
        return make(load_weights=False)
    owner, repository, file = [*published.get("hf_hub", "").split("/"), "", ""][:3]
    path = find_weights(
        f"open_clip:{request.model}",
        request,
        repository=f"{owner}/{repository}" if repository else None,
        files=[file] if file else [NAMES[1], NAMES[3], NAMES[0], NAMES[2]],
        url=published.get("url"),
    )

    def read() -> dict[str, Any]:  # the text tower is not used
        given = open_clip.factory.load_state_dict(str(path))
        return {key: value for key, value in given.items() if key.startswith("visual.")}

    return load_filled(path, f"open_clip:{name}", request, lambda: make(pretrained=str(path)), read)


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
    """Drop open_clip's warnings on the root logger; random weights were asked for."""
    root = logging.getLogger()

    def serious(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addFilter(serious)
    try:
        yield
    finally:
        root.removeFilter(serious)
