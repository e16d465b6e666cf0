"""Many encoded images to pixels: threads, in order, with bounded memory.

Every image is decoded once, so that every corrupt one is found. What fits in `MAX_BYTES_IN_MEMORY`
is kept; a larger set is decoded again on access, and the digests of its pixels are kept.
"""

import os
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BufferedReader, BytesIO
from itertools import chain
from math import prod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from dpmix.data.image import (
    MAX_BYTES_IN_FLIGHT,
    ReadOptions,
    UnreadableImageError,
    decode_pixels,
)
from dpmix.data.persons import Persons
from dpmix.data.source import ImageSource, TensorSource, check_labels, pixel_digest
from dpmix.data.window import parse_window
from dpmix.errors import DpmixError

MAX_BYTES_IN_MEMORY = 4 * 2**30
_MAX_WORKERS = 16
# Images are handed to threads in groups: a task for each costs as much as decoding a small one.
_MAX_GROUP = 64
_MAX_BATCH = 256
_MAX_BATCH_BYTES = 64 * 2**20
_SHOWN = 10

Shape = tuple[int, int, int]
"""(C, H, W) of every image of a set."""
Decoded = UInt8[np.ndarray, "C H W"] | DpmixError


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """N labelled images that are not decoded yet: on disk, or as bytes in memory."""

    # Not in the repr: file names and labels do not belong in a log or a traceback.
    # what error messages call each, such as `cats/1.png` or `train_jpeg[7]`
    names: tuple[str, ...] = field(repr=False)
    # a file's path, its bytes, or why the data set lacks an image that it names
    contents: tuple[Path | memoryview | UnreadableImageError, ...] = field(repr=False)
    labels: Int64[Tensor, "N *L"] = field(repr=False)  # int64 [N] in 0..L-1, or [N, L] in -1..1
    # the name of each image's person; None: not known
    owners: tuple[str, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> BufferedReader | BytesIO:
        """Open image `index`; a file that is gone is not called corrupt."""
        content = self.contents[index]
        if isinstance(content, UnreadableImageError):
            raise content
        if isinstance(content, memoryview):
            return BytesIO(content)
        try:
            return content.open("rb")
        except OSError as error:
            raise DpmixError(
                f"image '{self.names[index]}' cannot be read ({error.strerror}: '{content}'); "
                "expected a readable file: put it back, or check its permissions"
            ) from error

    def take(self, indices: Int64[Tensor, " B"]) -> "EncodedImages":
        """The images at `indices`, in that order."""
        at = indices.tolist()
        names, contents = (tuple(every[i] for i in at) for every in (self.names, self.contents))
        owners = None if self.owners is None else tuple(self.owners[i] for i in at)
        return EncodedImages(names, contents, self.labels[indices], owners)


@dataclass(frozen=True, eq=False)
class EncodedSource(EncodedImages):
    """An `ImageSource` whose images stay encoded; the pixels are those of a `TensorSource`."""

    class_names: tuple[str, ...] = field(kw_only=True)  # the L class names
    # how images are read; each was decoded without error once before
    options: ReadOptions = field(kw_only=True)
    image_shape: Shape = field(kw_only=True)  # (C, H, W) of every image
    # uint8 [N, 32], see `image_digests`
    digests: UInt8[np.ndarray, "N 32"] = field(repr=False, kw_only=True)

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self), self.class_names)

    @cached_property
    def persons(self) -> Persons | None:
        """Who each image belongs to."""
        return None if self.owners is None else Persons.named(self.owners)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """Decode the images at `indices`; a file that has changed since is refused."""
        pixels = np.empty((len(indices), *self.image_shape), dtype=np.uint8)
        at = indices.tolist()
        for row, decoded in enumerate(decode_each(self, at, self.options, self.image_shape)):
            if isinstance(decoded, UnreadableImageError):
                raise _corrupt_error({self.names[at[row]]: str(decoded)})
            if isinstance(decoded, DpmixError):
                raise decoded
            pixels[row] = decoded
        return torch.from_numpy(pixels)


def decode_sources(
    parts: Sequence[EncodedImages], class_names: tuple[str, ...], options: ReadOptions
) -> tuple[list[ImageSource], tuple[int, ...]]:
    """Decode `parts` together into one source each, of one shape; warn of what is left out.

    Returns:
        The sources, and the places of corrupt images, counted over all parts.

    Raises:
        DpmixError: corrupt images without `skip_corrupt`; images of several shapes; what else
            `decode_pixels` refuses; a part left without images.
    """
    images = EncodedImages(
        tuple(chain.from_iterable(part.names for part in parts)),
        tuple(chain.from_iterable(part.contents for part in parts)),
        torch.cat([part.labels for part in parts]),
    )
    shape, count = _first_shape(images, options), len(images)
    fits = count * prod(shape) <= MAX_BYTES_IN_MEMORY
    kept = np.empty((count, *shape) if fits else (count, 32), dtype=np.uint8)
    corrupt: dict[int, str] = {}
    for done, decoded in enumerate(decode_each(images, range(count), options, shape), 1):
        if isinstance(decoded, UnreadableImageError):
            corrupt[done - 1] = str(decoded)
        elif isinstance(decoded, DpmixError):
            raise decoded
        else:
            digest = None if fits else np.frombuffer(pixel_digest(decoded), dtype=np.uint8)
            kept[done - 1 - len(corrupt)] = decoded if digest is None else digest
        if options.progress is not None and (done % _MAX_GROUP == 0 or done == count):
            options.progress(done, count)
    if corrupt:
        reasons = {images.names[i]: reason for i, reason in corrupt.items()}
        if not options.skip_corrupt:
            raise _corrupt_error(reasons)
        warnings.warn(f"left out: {counted(reasons)}", stacklevel=2)
    options = replace(options, progress=None)
    sources: list[ImageSource] = []
    start = at = 0
    for part in parts:
        good = [i for i in range(len(part)) if start + i not in corrupt]
        left = part.take(torch.tensor(good, dtype=torch.int64))
        start, at, rows = start + len(part), at + len(left), kept[at : at + len(left)]
        if fits:
            persons = None if left.owners is None else Persons.named(left.owners)
            sources.append(
                TensorSource(torch.from_numpy(rows), left.labels, class_names, left.names, persons)
            )
        else:
            sources.append(
                EncodedSource(
                    left.names, left.contents, left.labels, left.owners, class_names=class_names,
                    options=options, image_shape=shape, digests=rows,
                )
            )  # fmt: skip
    return sources, tuple(corrupt)


def _first_shape(images: EncodedImages, options: ReadOptions) -> Shape:
    reasons: dict[str, str] = {}
    for index, name in enumerate(images.names):
        try:
            with images.open(index) as stream:
                channels, height, width = decode_pixels(stream, name, options).shape
            return channels, height, width
        except UnreadableImageError as error:
            reasons[name] = str(error)
    raise nothing_left(reasons) if options.skip_corrupt else _corrupt_error(reasons)


def decode_files(
    paths: Sequence[Path],
    shape: Shape,
    workers: int | None = None,
    *,
    skipped: dict[Path, str] | None = None,
    window: str | None = None,
) -> Iterator[UInt8[Tensor, "B C H W"]]:
    """Yield the images at `paths` in bounded batches, upright and fitted to `shape`, in order.

    Args:
        paths: image files.
        shape: the model's (C, H, W).
        workers: decoding threads; None: one per core.
        skipped: gets the files that cannot be read, each with the reason.
        window: the model's `--window`: `CENTER,WIDTH` or `dicom`, see `parse_window`.

    Raises:
        DpmixError: names all files that cannot be read, unless `skipped` is given.
    """
    unlabelled = torch.zeros(len(paths), dtype=torch.int64)
    images = EncodedImages(tuple(map(str, paths)), tuple(paths), unlabelled)
    options = ReadOptions(shape[1:], shape[0], workers=workers, window=parse_window(window))
    bad: dict[Path, str] = {} if skipped is None else skipped
    size = max(1, min(_MAX_BATCH, _MAX_BATCH_BYTES // prod(shape)))
    for start in range(0, len(images), size):
        batch = range(start, min(start + size, len(images)))
        good: list[UInt8[np.ndarray, "C H W"]] = []
        for index, decoded in zip(batch, decode_each(images, batch, options, shape), strict=True):
            if isinstance(decoded, DpmixError):
                # Without the file's name and the remedy, which one message gives for all.
                reason = str(decoded).removeprefix(f"image '{paths[index]}' ")
                bad[paths[index]] = reason.partition("; ")[0]
            else:
                good.append(decoded)
        if good and (skipped is not None or not bad):
            yield torch.from_numpy(np.stack(good))
    if bad and skipped is None:
        raise _corrupt_error({str(path): reason for path, reason in bad.items()})


def decode_each(
    images: EncodedImages, indices: Sequence[int], options: ReadOptions, shape: Shape
) -> Iterator[Decoded]:
    """Yield the pixels of the images at `indices`, in order, each of `shape` or the error.

    They are decoded on threads: Pillow releases Python's lock while it decodes.
    """
    workers = options.workers or min(os.cpu_count() or 1, _MAX_WORKERS)
    results = max(1, MAX_BYTES_IN_FLIGHT // prod(shape))
    window = min(2 * workers, results)
    group = min(_MAX_GROUP, results // window)

    def decoded(part: Sequence[int]) -> list[Decoded]:
        return [_decoded(images, index, options, shape) for index in part]

    pending: deque[Future[list[Decoded]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for start in range(0, len(indices), group):
                if len(pending) == window:
                    yield from pending.popleft().result()
                pending.append(pool.submit(decoded, indices[start : start + group]))
            while pending:
                yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decoded(images: EncodedImages, index: int, options: ReadOptions, shape: Shape) -> Decoded:
    name = images.names[index]
    try:
        with images.open(index) as stream:
            pixels = decode_pixels(stream, name, options)
    except DpmixError as error:
        return error
    if pixels.shape == shape:
        return pixels
    ours, others = ("x".join(map(str, size)) for size in (pixels.shape, shape))
    return DpmixError(
        f"image '{name}' is {ours} and the others are {others} (C x H x W); expected one shape: "
        "give --channels 3 (or 1) to convert, and --image-size 32 to fit, every image"
    )


def _corrupt_error(reasons: Mapping[str, str]) -> DpmixError:
    return DpmixError(f"{counted(reasons)}; repair them, or leave them out with --skip-corrupt")


def nothing_left(reasons: Mapping[str, str]) -> DpmixError:
    """Return the error where no image can be decoded, and such are left out."""
    return DpmixError(f"{counted(reasons)}, and no other is there; expected an image to read")


def counted(reasons: Mapping[str, str]) -> str:
    """Return how many images can't be decoded, and the first ten with the reason."""
    # Without how many there are in all: N can be private.
    named = [f"'{name}' ({reason})" for name, reason in reasons.items()]
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return f"{len(named)} image(s) cannot be decoded: {', '.join(named[:_SHOWN])}{more}"
