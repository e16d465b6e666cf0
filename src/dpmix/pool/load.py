"""A pool's files to the pool that a run draws from, and the facts that its statement gives.

A pool that holds a private image is refused where that can be known: pixels are compared in the
private data's own form. A copy that was compressed again, cropped, mirrored or resized otherwise is
not found.
"""

import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.folder import class_folders
from dpmix.data.image import ReadOptions
from dpmix.data.npz import NpzArchive, is_npz
from dpmix.data.source import ImageSource, TensorSource, check_labels, image_digests
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.pool.class_map import LEFT_OUT, UNLABELLED, class_map
from dpmix.pool.manifest import FILE_NAME, Manifest, few_names, file_hash
from dpmix.pool.pool import PublicPool

_BATCH = 1024


@dataclass(frozen=True, eq=False)
class PoolFiles:
    """The encoded images of a pool, labelled by its own classes."""

    path: Path  # the folder or the file
    class_names: tuple[str, ...]  # the pool's own, in label order
    images: EncodedImages  # not decoded yet, with labels
    manifest: Manifest | None  # where the pool has one


@dataclass(frozen=True)
class PoolFacts:
    """What a run states about its pool; none of it is private."""

    name: str  # the last part of its path, for the terminal alone
    images: int  # how many are used
    contents_sha256: str  # hash of the pixels and labels that are used
    manifest_sha256: str | None  # hash of the manifest, where there is one
    model: str | None  # what drew the images, and its revision, where the manifest names it
    licence: str | None  # licence of that model, where known
    left_out: int = 0  # number of images of pool classes that stand for no class
    unlabelled: int = 0  # number of images with a uniform soft label, of those used
    classes_without: tuple[str, ...] = ()  # private classes that no image of the pool has

    def as_dict(self) -> dict[str, Any]:
        """For JSON that is published: a folder's name can tell a study or a diagnosis."""
        return {field: value for field, value in asdict(self).items() if field != "name"}


@dataclass(frozen=True, eq=False)
class LoadedPool:
    """A pool, and what is stated about it."""

    pool: PublicPool
    facts: PoolFacts


def open_pool(path: Path, *, verify: bool = True) -> PoolFiles:
    """List the images of the pool at `path`, a folder of class folders or an `.npz` of JPEG bytes.

    With `verify`, a folder has to match its manifest, if it has one.
    """
    if path.is_dir():
        manifest = Manifest.read(path)
        names, images = class_folders(path)
        if manifest is not None and verify:
            manifest.verify(path, images.names)
        return PoolFiles(path, names, images, manifest)
    if not (is_npz(path) and path.is_file()):
        raise DpmixError(
            f"no public pool '{path}'; expected a folder with one folder of images per class, or "
            "an .npz of JPEG bytes: check the path, or make one with dpmix synthesize"
        )
    archive = NpzArchive(path)
    if "train_jpeg" not in archive.names:
        raise DpmixError(
            f"{path.name} has no 'train_jpeg'; expected JPEG bytes end to end, or give a "
            "folder with one folder of images per class"
        )
    images = archive.encoded("train")
    names = archive.class_names(images.labels)
    check_labels(images.labels, len(images), names)
    return PoolFiles(path, names, images, None)


def load_pool_for(
    data: str,
    splits: Splits,
    path: Path,
    *,
    labels_csv: Path | None = None,
    unmapped: str = "refuse",
    options: ReadOptions,
) -> LoadedPool:
    """Read a pool in the form of private images, and check it against them.

    The pool is resized to the size of square private images; channels are always converted.

    Args:
        data: path or name that the private data were read from.
        splits: the private data.
        path: the pool.
        labels_csv: file that maps pool classes to private ones, see `class_map`.
        unmapped: what happens to pool classes that match none, see `class_map`.
        options: how to read; its `image_size` and `channels` are not used.

    Raises:
        DpmixError: a pool that lies in the private data or holds one of their images, or images of
            another shape; and as `open_pool`, `class_map` and `decode_sources` raise.
    """
    refuse_private_path(path, Path(data).expanduser())
    files, private = open_pool(path), splits.train
    class_names, (channels, height, width) = private.class_names, private.image_shape
    targets = torch.tensor(
        class_map(files.class_names, class_names, labels_csv=labels_csv, unmapped=unmapped)
    )
    used = files.images.take((targets[files.images.labels] != LEFT_OUT).nonzero().flatten())
    options = replace(options, image_size=height if height == width else None, channels=channels)
    (source,), corrupt = decode_sources([used], files.class_names, options)
    if source.image_shape != private.image_shape:
        raise DpmixError(
            f"the public pool '{path}' has images {source.image_shape} (C, H, W) but the "
            f"private ones are {private.image_shape}; resize the pool's images"
        )
    pool = PublicPool(stored_pixels(source), targets[source.labels])
    names = tuple(name for i, name in enumerate(used.names) if i not in corrupt)
    refuse_overlap(source, names, splits)
    contents = pool.labels.numpy().tobytes() + image_digests(source).tobytes()
    manifest = files.manifest
    facts = PoolFacts(
        # As it was called: a link's target can have a name that says more.
        name=path.absolute().name,
        images=len(pool),
        contents_sha256=sha256(contents).hexdigest(),
        manifest_sha256=file_hash(path / FILE_NAME) if manifest else None,
        model=manifest.model.identity if manifest else None,
        licence=manifest.model.licence if manifest else None,
        left_out=len(files.images) - len(used),
        unlabelled=int((pool.labels == UNLABELLED).sum()),
        classes_without=tuple(
            name for label, name in enumerate(class_names) if not (pool.labels == label).any()
        ),
    )
    return LoadedPool(pool, facts)


def stored_pixels(source: ImageSource) -> UInt8[Tensor, "P C H W"]:
    """All images of `source`; if they don't fit in memory, from a file that has no name."""
    if isinstance(source, TensorSource):
        return source.pixels
    shape = (len(source), *source.image_shape)
    # Written, not assigned through the map: a full disk is then an error and not a crash.
    try:
        with tempfile.TemporaryFile() as file:
            for index in torch.arange(len(source)).split(_BATCH):
                file.write(source.images(index).numpy().tobytes())
            file.flush()
            # Copy-on-write: torch has no read-only tensors.
            return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c", shape=shape))
    except OSError as error:
        raise DpmixError(
            f"the public pool's {np.prod(shape) / 2**30:.1f} GiB of pixels do not fit in "
            f"'{tempfile.gettempdir()}' ({error.strerror}); free some space, or set TMPDIR"
        ) from None


def refuse_private_path(pool: Path, private: Path, what: str = "the public pool") -> None:
    """Refuse a path that is the private data, or lies in or around them; `what` names it."""
    if not private.exists():
        return
    inner, outer = pool.resolve(), private.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise DpmixError(
            f"{what} '{pool}' overlaps the private data '{private}'; expected public "
            "images only: give a folder apart from them"
        )


def refuse_overlap(pool: ImageSource, names: tuple[str, ...], splits: Splits) -> None:
    """Refuse a pool that shares an image with the private data; no part of the guarantee.

    `pool` has the private images' shape. Test images count too: they would teach the answers.
    """
    held = defaultdict(list)
    for place, digest in enumerate(image_digests(pool)):
        held[digest.tobytes()].append(names[place])
    private = {"training": splits.train_digests, splits.judged_on: image_digests(splits.test)}
    for side, digests in private.items():
        shared = {name for digest in digests for name in held.get(digest.tobytes(), ())}
        if shared:
            raise DpmixError(
                f"the public pool is not public: {len(shared)} of its images are private {side} "
                f"images ({few_names(sorted(shared))}); expected none: remove them from the pool"
            )
