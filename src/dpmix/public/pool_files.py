"""A public pool before decoding: any folder of class folders, or an `.npz` of JPEG bytes.

A pool without a manifest is as good as one with; it only says less of where it comes from.
"""

from dataclasses import dataclass
from pathlib import Path

from dpmix.data.decode import EncodedPart
from dpmix.data.encoded import EncodedImages
from dpmix.data.folder import class_folders
from dpmix.data.npz_archive import NpzArchive, is_npz
from dpmix.data.npz_encoded import encoded_part
from dpmix.data.source import check_labels
from dpmix.errors import DpmixError
from dpmix.public.manifest import Manifest

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
    part: EncodedPart
    manifest: Manifest | None

    @property
    def images(self) -> EncodedImages:
        """The encoded images."""
        return self.part.images


def open_pool(path: Path, *, verify: bool = True) -> PoolFiles:
    """List the pool at `path`, of an `.npz` the training split.

    Args:
        path: a folder or an `.npz` file.
        verify: check a folder against its manifest; only looking at a pool may go without.

    Raises:
        DpmixError: nothing there, an unfinished pool, files that do not match the manifest, and as
            `class_folders` and `encoded_part` raise.
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
        manifest.verify(root, part.images.names)
    return PoolFiles(root, names, part, manifest)


def _open_npz(path: Path) -> PoolFiles:
    with NpzArchive(path) as archive:
        if "train_jpeg" not in archive:
            raise DpmixError(
                f"{path.name} has no 'train_jpeg'; expected JPEG bytes end to end, or give a "
                "folder with one folder of images per class"
            )
        part = encoded_part(archive, "train")
        names = archive.class_names(part.labels)
        check_labels(part.labels, len(part.images), names)
        return PoolFiles(path, names, part, None)
