"""A pool's files to the pool that a run draws from, and the facts that its statement gives."""

import warnings
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.options import ReadOptions
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.public.class_map import LEFT_OUT, UNLABELLED, class_map
from dpmix.public.manifest import FILE_NAME, file_hash
from dpmix.public.overlap import refuse_overlap, refuse_private_path
from dpmix.public.pixel_store import stored_pixels
from dpmix.public.pool import PublicPool
from dpmix.public.pool_files import PoolFiles, open_pool

_BATCH = 1024
_SHOWN = 3


@dataclass(frozen=True)
class PoolFacts:
    """What a run says of its pool; nothing of it is private.

    Attributes:
        name: the last part of its path, for the terminal alone.
        images: how many were used.
        contents_sha256: of the pixels and labels as they were used.
        manifest_sha256: of the manifest, where there is one.
        model: what drew the images, and its revision, where the manifest says it.
        licence: of that model, where known.
        left_out: images of pool classes that stand for none.
        unlabelled: images with a uniform soft label, of those used.
        classes_without: classes that no image of the pool has.
    """

    name: str
    images: int
    contents_sha256: str
    manifest_sha256: str | None
    model: str | None
    licence: str | None
    left_out: int = 0
    unlabelled: int = 0
    classes_without: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON that is published: a folder's name can tell a study or a diagnosis."""
        return {field: value for field, value in asdict(self).items() if field != "name"}


@dataclass(frozen=True, eq=False)
class LoadedPool:
    """A pool with what is known of it.

    Attributes:
        pool: images and labels.
        names: of the images, for messages.
        facts: for the statement.
    """

    pool: PublicPool
    names: tuple[str, ...]
    facts: PoolFacts


def load_pool(
    path: Path,
    class_names: tuple[str, ...],
    image_shape: tuple[int, int, int],
    *,
    labels_csv: Path | None = None,
    unmapped: str = "refuse",
    options: ReadOptions,
) -> LoadedPool:
    """Read the pool at `path` for private images of shape [C, H, W] and these classes.

    Square private images have the pool resized to their size; channels are always converted.

    Args:
        path: as in `open_pool`.
        class_names: of the private data.
        image_shape: of the private images.
        labels_csv: as in `class_map`.
        unmapped: as in `class_map`.
        options: all but `image_size` and `channels` of them are heeded.

    Raises:
        DpmixError: pool images of another shape than the private ones, and as `open_pool`,
            `class_map` and `decode_sources` raise.
    """
    files = open_pool(path)
    targets = class_map(files.class_names, class_names, labels_csv=labels_csv, unmapped=unmapped)
    part = _used(files.part, torch.tensor(targets))
    channels, height, width = image_shape
    options = replace(options, image_size=height if height == width else None, channels=channels)
    (source,), corrupt = decode_sources([part], files.class_names, options)
    if source.image_shape != image_shape:
        raise DpmixError(
            f"the public pool '{path}' has images {source.image_shape} (C, H, W) but the "
            f"private ones are {image_shape}; resize the pool's images"
        )
    pool = PublicPool(stored_pixels(source), torch.tensor(targets)[source.labels])
    names = tuple(name for i, name in enumerate(part.images.names) if i not in corrupt)
    _warn_of_plain(path, pool, names)
    left_out = len(files.images) - len(part.images)
    return LoadedPool(pool, names, _facts(files, pool, class_names, left_out))


def load_pool_for(
    data: str,
    splits: Splits,
    path: Path,
    *,
    labels_csv: Path | None,
    unmapped: str,
    options: ReadOptions,
) -> LoadedPool:
    """`load_pool` for the private data `splits`, read from `data`, with every check against them.

    Raises:
        DpmixError: a pool that lies in the private data or holds one of their images, and as
            `load_pool` raises.
    """
    refuse_private_path(path, Path(data).expanduser())
    train = splits.train
    loaded = load_pool(
        path, train.class_names, train.image_shape, labels_csv=labels_csv, unmapped=unmapped,
        options=options,
    )  # fmt: skip
    refuse_overlap(loaded.pool, loaded.names, splits)
    return loaded


def _warn_of_plain(path: Path, pool: PublicPool, names: tuple[str, ...]) -> None:
    """Images of one colour are what a diffusion model draws where its numbers overflow."""
    flat = torch.cat([
        (batch == batch[:, :, :1, :1]).flatten(1).all(dim=1) for batch in pool.images.split(_BATCH)
    ])  # fmt: skip
    plain = [names[place] for place in flat.nonzero().flatten().tolist()]
    if plain:
        more = ", ..." if len(plain) > _SHOWN else ""
        warnings.warn(
            f"{len(plain)} of {len(names)} images of the public pool '{path}' are of one colour "
            f"({', '.join(plain[:_SHOWN])}{more}); look with dpmix pool inspect '{path}', and "
            "remove what shows nothing, or draw the pool again with --dtype float32",
            stacklevel=2,
        )


def _used(part: EncodedPart, targets: torch.Tensor) -> EncodedPart:
    """The images of classes that are not left out."""
    kept = (targets[part.labels] != LEFT_OUT).nonzero().flatten()
    return EncodedPart(part.images.take(kept), part.labels[kept])


def _facts(
    files: PoolFiles, pool: PublicPool, class_names: tuple[str, ...], left_out: int
) -> PoolFacts:
    digest = sha256(pool.labels.numpy().tobytes())
    for batch in pool.images.split(_BATCH):
        digest.update(batch.numpy().tobytes())
    manifest = files.manifest
    return PoolFacts(
        # As it was called: a link's target can have a name that says more.
        name=files.path.absolute().name,
        images=len(pool),
        contents_sha256=digest.hexdigest(),
        manifest_sha256=file_hash(files.path / FILE_NAME) if manifest else None,
        model=manifest.model.identity if manifest else None,
        licence=manifest.model.licence if manifest else None,
        left_out=left_out,
        unlabelled=int((pool.labels == UNLABELLED).sum()),
        classes_without=tuple(
            name for label, name in enumerate(class_names) if not (pool.labels == label).any()
        ),
    )
