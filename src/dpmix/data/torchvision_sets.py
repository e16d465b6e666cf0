"""The paper's data sets, where torchvision keeps them, split as the paper's authors did.

Guarantees: nothing is downloaded unless asked for, and nothing is made on disk otherwise; the same
split on every machine. The drawn splits place an example by its rank among all others, which is
fine for these public sets and would not be for private ones (`data/splits.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.decode_pool import EncodedImages
from dpmix.data.image import ReadOptions, fit_images
from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits, stratified_split
from dpmix.errors import DpmixError, one_line

# A public data set that is not on this machine, by its published numbers: for a dry run alone.
#
# Guarantee: its images are noise, and its name says that it is not there.


@dataclass(frozen=True)
class _Numbers:
    train: int
    test: int
    classes: int
    size: int | None


# Caltech256 and SUN397: one image in five of 30,607 and 108,754 is a test image.
KNOWN: dict[str, _Numbers] = {
    "cifar10": _Numbers(50_000, 10_000, 10, 32),
    "cifar100": _Numbers(50_000, 10_000, 100, 32),
    "eurosat": _Numbers(21_600, 5_400, 10, 64),
    "caltech256": _Numbers(24_486, 6_121, 257, None),
    "sun397": _Numbers(87_004, 21_750, 397, None),
    "pet": _Numbers(3_680, 3_669, 37, None),
}


@dataclass(frozen=True, eq=False)
class DescribedSource:
    """As many images of noise as there would be."""

    labels: Int64[Tensor, " N"]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """Noise."""
        return torch.randint(0, 256, (len(indices), *self.image_shape), dtype=torch.uint8)


def described_splits(name: str, image_size: int | None, channels: int | None) -> Splits:
    """The splits of one of `KNOWN`, without its images.

    Raises:
        DpmixError: a set whose images are of many sizes, and no `image_size`.
    """
    numbers = KNOWN[name]
    size = image_size or numbers.size
    if size is None:
        raise DpmixError(f"the images of '{name}' are of many sizes: give --image-size")
    classes = tuple(f"class {i}" for i in range(numbers.classes))
    train, test = (
        DescribedSource(torch.arange(count) % numbers.classes, classes, (channels or 3, size, size))
        for count in (numbers.train, numbers.test)
    )
    return Splits(
        f"{name} (not here: by its published numbers)",
        train,
        test,
        flip=True,
        held_out="as published",
    )


SPLIT_SEED = 42


TEST_SHARE = 5  # one in five


@dataclass(frozen=True)
class _Set:
    """How to fetch a set and how to read it.

    Attributes:
        kind: the class's name in `torchvision.datasets`.
        place: what torchvision leaves below the root; it is there or it is not.
        read: name, root and options to splits.
    """

    kind: str
    place: str
    read: Callable[[str, Path, ReadOptions], Splits]


def torchvision_splits(name: str, options: ReadOptions, root: Path, download: bool) -> Splits:
    """Load one of `TORCHVISION_SETS`.

    Args:
        name: of the set.
        options: how images are read.
        root: what torchvision calls `root`.
        download: fetch the set if it is not there.

    Raises:
        DpmixError: the set is not there, can't be fetched or is not whole, and as `decode_sources`
            raises.
    """
    entry = TORCHVISION_SETS[name]
    if not is_there(name, root):
        if not download:
            raise DpmixError(
                f"no data set '{name}' in '{root}' (it would be {root / entry.place}); give "
                "--data-root where torchvision keeps it, or --download to fetch it"
            )
        _fetch(name, entry.kind, root)
    return entry.read(name, root, options)


def is_there(name: str, root: Path) -> bool:
    """Whether one of `TORCHVISION_SETS` lies where torchvision keeps it."""
    return (root / TORCHVISION_SETS[name].place).exists()


def _fetch(name: str, kind: str, root: Path) -> None:
    from torchvision import datasets

    try:
        getattr(datasets, kind)(root, download=True)
    # Broken archives and networks raise errors of many kinds.
    except Exception as error:
        raise DpmixError(
            f"data set '{name}' can't be fetched ({one_line(error)}); download "
            "it elsewhere, in torchvision's layout, and give --data-root"
        ) from error


def _cifar(name: str, root: Path, options: ReadOptions) -> Splits:
    from torchvision import datasets

    if options.skip_corrupt:
        raise DpmixError(f"--skip-corrupt does not apply to data '{name}'; leave it out")
    kind = getattr(datasets, TORCHVISION_SETS[name].kind)
    try:
        # torchvision compares the files with its own hashes before it unpickles them.
        sides = [kind(root, train=train) for train in (True, False)]
    except RuntimeError as error:
        raise DpmixError(
            f"data set '{name}' in '{root}' is not whole ({error}); fetch it again"
        ) from None
    sources = []
    for side in sides:
        pixels = torch.from_numpy(side.data.transpose(0, 3, 1, 2).copy())
        labels = torch.tensor(side.targets)
        sources.append(TensorSource(fit_images(pixels, options), labels, tuple(side.classes)))
    return Splits(name, sources[0], sources[1], flip=True)


def _eurosat(name: str, root: Path, options: ReadOptions) -> Splits:
    """10 classes; 21,600 / 5,400, stratified (Bao and Bindschaedler, ACSAC 2024)."""
    names, whole = _class_folders(root / "eurosat" / "2750")
    train, test = stratified_split(whole.labels, len(whole.labels) // TEST_SHARE, SPLIT_SEED)
    return _decoded(name, names, whole, whole, train, test, options)


def _caltech256(name: str, root: Path, options: ReadOptions) -> Splits:
    """257 classes, clutter included; 80/20 at random."""
    names, whole = _class_folders(root / "caltech256" / "256_ObjectCategories")
    return _at_random(name, names, whole, options)


def _sun397(name: str, root: Path, options: ReadOptions) -> Splits:
    """397 classes such as `abbey` or `apse/indoor`; 80/20 at random."""
    folder = root / "SUN397"
    lines = _lines(folder / "ClassName.txt")
    paths = sorted(folder.rglob("sun_*.jpg"))
    # A line is /a/abbey: the first letter, then the name.
    names = tuple(line[3:] for line in lines)
    position = {name: label for label, name in enumerate(names)}
    classes = ["/".join(path.relative_to(folder).parts[1:-1]) for path in paths]
    if unknown := sorted(set(classes) - position.keys()):
        raise DpmixError(
            f"'{folder}' holds class '{unknown[0]}', which ClassName.txt does not list"
        )
    whole = _part(folder, paths, [position[one] for one in classes])
    return _at_random(name, names, whole, options)


def _pet(name: str, root: Path, options: ReadOptions) -> Splits:
    """37 breeds; the official trainval and test lists."""
    folder = root / "oxford-iiit-pet"
    parts: list[EncodedPart] = []
    names: dict[int, str] = {}
    for side in ("trainval", "test"):
        rows = [line.split() for line in _lines(folder / "annotations" / f"{side}.txt")]
        labels = [int(row[1]) - 1 for row in rows]
        names |= {label: row[0].rsplit("_", 1)[0] for row, label in zip(rows, labels, strict=True)}
        paths = [folder / "images" / f"{row[0]}.jpg" for row in rows]
        parts.append(_part(folder, paths, labels))
    classes = tuple(names[label].replace("_", " ") for label in sorted(names))
    train, test = (torch.arange(len(part.labels)) for part in parts)
    official = "the official list"
    return _decoded(name, classes, parts[0], parts[1], train, test, options, official)


TORCHVISION_SETS: dict[str, _Set] = {
    "cifar10": _Set("CIFAR10", "cifar-10-batches-py", _cifar),
    "cifar100": _Set("CIFAR100", "cifar-100-python", _cifar),
    "eurosat": _Set("EuroSAT", "eurosat/2750", _eurosat),
    "caltech256": _Set("Caltech256", "caltech256/256_ObjectCategories", _caltech256),
    "sun397": _Set("SUN397", "SUN397", _sun397),
    "pet": _Set("OxfordIIITPet", "oxford-iiit-pet/images", _pet),
}


"""name -> how it is fetched and read; a new set is one function and one entry."""


EQUAL_SIZES = frozenset({"cifar10", "cifar100", "eurosat"})


"""The sets whose images are all of one size."""


def _at_random(
    name: str, names: tuple[str, ...], whole: EncodedPart, options: ReadOptions
) -> Splits:
    # One stratum: a split at random.
    strata = torch.zeros_like(whole.labels)
    train, test = stratified_split(strata, len(strata) // TEST_SHARE, SPLIT_SEED)
    return _decoded(name, names, whole, whole, train, test, options)


def _decoded(
    name: str,
    names: tuple[str, ...],
    train_part: EncodedPart,
    test_part: EncodedPart,
    train: Tensor,
    test: Tensor,
    options: ReadOptions,
    held_out: str = "one in five, by a fixed rule",
) -> Splits:
    parts = [
        EncodedPart(part.images.take(index), part.labels[index])
        for part, index in ((train_part, train), (test_part, test))
    ]
    (train_source, test_source), _ = decode_sources(parts, names, options)
    return Splits(name, train_source, test_source, flip=True, held_out=held_out)


def _class_folders(folder: Path) -> tuple[tuple[str, ...], EncodedPart]:
    """`folder/<class>/*.jpg`; other things in a class folder (Caltech256 has some) do not count."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    listed = [sorted(entry.glob("*.jpg")) for entry in classes]
    labels = [label for label, paths in enumerate(listed) for _ in paths]
    whole = _part(folder, [path for paths in listed for path in paths], labels)
    return tuple(entry.name for entry in classes), whole


def _part(root: Path, paths: list[Path], labels: list[int]) -> EncodedPart:
    names = tuple(path.relative_to(root).as_posix() for path in paths)
    return EncodedPart(EncodedImages(names, tuple(paths)), torch.tensor(labels))


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected torchvision's layout: fetch the "
            "data set again"
        ) from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
