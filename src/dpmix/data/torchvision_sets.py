"""The sets that torchvision keeps, split as the paper's authors did.

An example's place depends on the others, which is fine for these public sets and would not be for
private ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.image import ReadOptions, fit_images
from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits, stratified_split
from dpmix.errors import DpmixError, one_line


def refuse_skipping(name: str, options: ReadOptions) -> None:
    """Refuse to leave out images of a set that is stored whole."""
    if options.skip_corrupt:
        raise DpmixError(f"--skip-corrupt does not apply to data '{name}'; leave it out")


class _Set(NamedTuple):
    kind: str  # the class's name in `torchvision.datasets`
    place: str  # what torchvision leaves below its root
    read: Callable[[str, Path, ReadOptions], Splits]  # of the set's name, its `place` and options


def torchvision_splits(name: str, options: ReadOptions, root: Path, download: bool) -> Splits:
    """Load the set `name` of `TORCHVISION_SETS` from `root`, where `download` fetches it."""
    entry = TORCHVISION_SETS[name]
    place = root / entry.place
    if not place.exists():
        if not download:
            raise DpmixError(
                f"no data set '{name}' in '{root}' (it would be {place}); give --data-root where "
                "torchvision keeps it, or --download to fetch it"
            )
        try:
            _torchvision_class(name)(root, download=True)
        # Broken archives and networks raise errors of many kinds.
        except Exception as error:
            raise DpmixError(
                f"data set '{name}' can't be fetched ({one_line(error)}); download it elsewhere, "
                "in torchvision's layout, and give --data-root"
            ) from error
    try:
        return entry.read(name, place, options)
    # torchvision refuses files of other hashes; lists of files can be missing or name others.
    except (RuntimeError, OSError, KeyError) as error:
        raise DpmixError(
            f"data set '{name}' in '{place}' is not whole ({one_line(error)}); fetch it again"
        ) from None


def _torchvision_class(name: str) -> Any:
    # Imported here: torchvision takes a second to load, and most runs do without.
    from torchvision import datasets

    return getattr(datasets, TORCHVISION_SETS[name].kind)


def _cifar(name: str, folder: Path, options: ReadOptions) -> Splits:
    refuse_skipping(name, options)
    kind = _torchvision_class(name)
    # torchvision compares the files with its own hashes before it unpickles them.
    sides = [kind(folder.parent, train=train) for train in (True, False)]
    train, test = (
        TensorSource(
            fit_images(torch.from_numpy(side.data.transpose(0, 3, 1, 2).copy()), options),
            torch.tensor(side.targets),
            tuple(side.classes),
        )
        for side in sides
    )
    return Splits(name, train, test, flip=True)


def _class_folders(name: str, folder: Path, options: ReadOptions) -> Splits:
    """EuroSAT, stratified (Bao and Bindschaedler, ACSAC 2024); Caltech256, at random."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    listed = [sorted(entry.glob("*.jpg")) for entry in classes]
    labels = [label for label, paths in enumerate(listed) for _ in paths]
    whole = _images(folder, [path for paths in listed for path in paths], labels)
    names = tuple(entry.name for entry in classes)
    return _one_in_five(name, names, whole, options, stratified=name == "eurosat")


def _sun397(name: str, folder: Path, options: ReadOptions) -> Splits:
    """397 classes such as `abbey` or `apse/indoor`; 80/20 at random."""
    # A line is /a/abbey: the first letter, then the name.
    names = tuple(line[3:] for line in (folder / "ClassName.txt").read_text().split())
    position = {one: label for label, one in enumerate(names)}
    paths = sorted(folder.rglob("sun_*.jpg"))
    classes = ["/".join(path.relative_to(folder).parts[1:-1]) for path in paths]
    whole = _images(folder, paths, [position[one] for one in classes])
    return _one_in_five(name, names, whole, options, stratified=False)


def _pet(name: str, folder: Path, options: ReadOptions) -> Splits:
    """37 breeds; the official trainval and test lists."""
    parts: list[EncodedImages] = []
    names: dict[int, str] = {}
    for side in ("trainval", "test"):
        listed = (folder.parent / "annotations" / f"{side}.txt").read_text().splitlines()
        rows = [line.split() for line in listed if not line.startswith("#")]
        labels = [int(row[1]) - 1 for row in rows]
        names |= {label: row[0].rsplit("_", 1)[0] for row, label in zip(rows, labels, strict=True)}
        paths = [folder / f"{row[0]}.jpg" for row in rows]
        parts.append(_images(folder.parent, paths, labels))
    classes = tuple(names[label].replace("_", " ") for label in sorted(names))
    (train, test), _ = decode_sources(parts, classes, options)
    return Splits(name, train, test, flip=True, held_out="the official list")


def _one_in_five(
    name: str, names: tuple[str, ...], whole: EncodedImages, options: ReadOptions, stratified: bool
) -> Splits:
    # One stratum: a split at random.
    strata = whole.labels if stratified else torch.zeros_like(whole.labels)
    sides = stratified_split(strata, test_count=len(strata) // 5, seed=42)
    (train, test), _ = decode_sources([whole.take(side) for side in sides], names, options)
    return Splits(name, train, test, flip=True, held_out="one in five, by a fixed rule")


def _images(root: Path, paths: list[Path], labels: list[int]) -> EncodedImages:
    names = tuple(path.relative_to(root).as_posix() for path in paths)
    return EncodedImages(names, tuple(paths), torch.tensor(labels))


TORCHVISION_SETS: dict[str, _Set] = {
    "cifar10": _Set("CIFAR10", "cifar-10-batches-py", _cifar),
    "cifar100": _Set("CIFAR100", "cifar-100-python", _cifar),
    "eurosat": _Set("EuroSAT", "eurosat/2750", _class_folders),
    "caltech256": _Set("Caltech256", "caltech256/256_ObjectCategories", _class_folders),
    "sun397": _Set("SUN397", "SUN397", _sun397),
    "pet": _Set("OxfordIIITPet", "oxford-iiit-pet/images", _pet),
}
"""name -> how it is fetched and read; a new set is one function and one entry."""
