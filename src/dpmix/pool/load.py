"""A pool's files to the pool that a run draws from, and the facts that its statement gives."""

import warnings
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.folder import class_folders
from dpmix.data.image import ReadOptions
from dpmix.data.npz import NpzArchive, is_npz
from dpmix.data.source import check_labels
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.pool.class_map import LEFT_OUT, UNLABELLED, class_map
from dpmix.pool.manifest import FILE_NAME, Manifest, file_hash
from dpmix.pool.overlap import refuse_overlap, refuse_private_path
from dpmix.pool.pool import PublicPool, stored_pixels

# A public pool before decoding: any folder of class folders, or an `.npz` of JPEG bytes.
#
# A pool without a manifest is as good as one with; it only says less of where it comes from.


JOURNAL = "unfinished.jsonl"


"""What `dpmix synthesize` keeps while it is drawing; gone once the manifest is written."""


@dataclass(frozen=True, eq=False)
class PoolFiles:
    """The encoded images of a pool, labelled by its own classes.

    Attributes:
        path: the folder or the file.
        class_names: the pool's own, in label order.
        part: images and labels.
        manifest: where the pool has one.
    """

    path: Path
    class_names: tuple[str, ...]
    part: EncodedImages
    manifest: Manifest | None

    @property
    def images(self) -> EncodedImages:
        """The encoded images."""
        return self.part


def open_pool(path: Path, *, verify: bool = True) -> PoolFiles:
    """List the pool at `path`, of an `.npz` the training split.

    Args:
        path: a folder or an `.npz` file.
        verify: check a folder against its manifest; only looking at a pool may go without.

    Raises:
        DpmixError: nothing there, an unfinished pool, files that do not match the manifest, and as
            `class_folders` and `NpzArchive` raise.
    """
    if path.is_dir():
        return _open_folder(path, verify)
    if is_npz(path) and path.is_file():
        return _open_npz(path)
    raise DpmixError(
        f"no public pool '{path}'; expected a folder with one folder of images per class, or an "
        ".npz of JPEG bytes: check the path, or make one with dpmix synthesize"
    )


def _open_folder(root: Path, verify: bool) -> PoolFiles:
    manifest = Manifest.read(root)
    if manifest is None and (root / JOURNAL).is_file():
        raise DpmixError(
            f"the public pool '{root}' is not finished; run the same dpmix synthesize again to go "
            "on where it stopped"
        )
    names, part = class_folders(root)
    if manifest is not None and verify:
        manifest.verify(root, part.names)
    return PoolFiles(root, names, part, manifest)


def _open_npz(path: Path) -> PoolFiles:
    archive = NpzArchive(path)
    if "train_jpeg" not in archive.names:
        raise DpmixError(
            f"{path.name} has no 'train_jpeg'; expected JPEG bytes end to end, or give a "
            "folder with one folder of images per class"
        )
    part = archive.encoded("train")
    names = archive.class_names(part.labels)
    check_labels(part.labels, len(part), names)
    return PoolFiles(path, names, part, None)


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
    names = tuple(name for i, name in enumerate(part.names) if i not in corrupt)
    _warn_of_plain(path, pool, names)
    left_out = len(files.images) - len(part)
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


def _used(part: EncodedImages, targets: torch.Tensor) -> EncodedImages:
    """The images of classes that are not left out."""
    kept = (targets[part.labels] != LEFT_OUT).nonzero().flatten()
    return part.take(kept)


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
