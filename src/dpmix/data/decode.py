"""Encoded images to sources: every image is decoded once, so that every corrupt one is found.

Guarantees: the sources hold only images that decode, in the order given, in one form. What fits in
`MAX_BYTES_IN_MEMORY` is kept decoded. A larger set is decoded again on access; the digests of its
pixels are kept.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.data.decode_pool import (
    MAX_BYTES_IN_FLIGHT,
    EncodedImages,
    corrupt_error,
    counted,
    decode_in_order,
    nothing_left,
)
from dpmix.data.encoded_source import EncodedSource
from dpmix.data.image import (
    READING,
    MemoryBudget,
    PixelForm,
    Reading,
    ReadOptions,
    UnreadableImageError,
    colour_refusal,
    decode_pixels,
    opened,
    plain_channels,
    turned_upright,
)
from dpmix.data.source import ImageSource, TensorSource
from dpmix.data.splits import pixel_digest
from dpmix.data.upright import Remarks

# Image files to predict on, streamed in a model's own form.
#
# Guarantees: batches come in the order of the paths and hold a bounded number of pixels, whatever
# the number of files; every file that cannot be read is found.


_MAX_BATCH = 256


_MAX_BATCH_BYTES = 64 * 2**20


def decode_files(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    reading: Reading = READING,
    workers: int | None = None,
    *,
    skipped: dict[Path, str] | None = None,
) -> Iterator[UInt8[Tensor, "B C H W"]]:
    """Yield the images at `paths` in batches, each upright, fitted and converted to `shape`.

    Args:
        paths: image files; the concatenated batches follow their order.
        shape: the model's (C, H, W).
        reading: the rule that the model was trained by, as its run's settings record it.
        workers: decoding threads; None: one per core.
        skipped: gets the files that cannot be read, each with the reason; the batches are without
            them. None refuses such files: all are named, once every file was tried.

    Warns, after the last batch, of files of several frames and of tags that can't be read.

    Raises:
        DpmixError: files that are missing, corrupt or of more than 8 bits a channel, unless
            `skipped` is given.
    """
    images = EncodedImages(tuple(map(str, paths)), tuple(paths))
    form = PixelForm(shape, convert=True, resize=True, example="the model's input", reading=reading)
    remarks = Remarks()
    size = max(1, min(_MAX_BATCH, _MAX_BATCH_BYTES // int(np.prod(shape))))
    bad: dict[Path, str] = {} if skipped is None else skipped
    for start in range(0, len(images), size):
        batch, good = range(start, min(start + size, len(images))), []
        groups = decode_in_order(images, batch, form, workers, remarks, refused_too=True)
        decoded = (one for group in groups for one in group)
        for index, pixels in zip(batch, decoded, strict=True):
            if isinstance(pixels, UnreadableImageError):
                bad[paths[index]] = _reason(pixels, paths[index])
            else:
                good.append(pixels)
        if good and (skipped is not None or not bad):
            yield torch.from_numpy(np.stack(good))
    remarks.warn()
    if bad and skipped is None:
        raise corrupt_error({str(path): reason for path, reason in bad.items()})


def _reason(error: UnreadableImageError, path: Path) -> str:
    """What is wrong, without the file's name and the remedy, which are said once for all."""
    return str(error).removeprefix(f"image '{path}' ").partition("; ")[0]


MAX_BYTES_IN_MEMORY = 4 * 2**30


@dataclass(frozen=True, eq=False)
class EncodedPart:
    """One split before decoding: N encoded images and int64 labels [N]."""

    images: EncodedImages
    labels: Int64[Tensor, " N"]


def decode_sources(
    parts: Sequence[EncodedPart], class_names: tuple[str, ...], options: ReadOptions
) -> tuple[list[ImageSource], tuple[int, ...]]:
    """Decode `parts` together into one source each, all of one form; warn of what is not used.

    Returns:
        The sources, and which images were left out as corrupt (none unless `skip_corrupt`), counted
        over all parts.

    Raises:
        DpmixError: corrupt images without `skip_corrupt` (named); mixed sizes or colours that the
            options do not settle; more than 8 bits a channel; a part left without images.
    """
    images = sum((part.images for part in parts[1:]), parts[0].images)
    form = _common_form(images, options)
    pixels, digests, corrupt = _decode_all(images, form, options)
    if corrupt:
        reasons = {images.names[i]: reason for i, reason in corrupt.items()}
        if not options.skip_corrupt:
            raise corrupt_error(reasons)
        warnings.warn(f"left out: {counted(reasons)}", stacklevel=2)
    kept = torch.tensor([i not in corrupt for i in range(len(images))], dtype=torch.bool)
    sources: list[ImageSource] = []
    start = kept_start = 0
    for part in parts:
        mine = kept[start : start + len(part.images)]
        labels, count = part.labels[mine], int(mine.sum())
        encoded = part.images.take(mine.nonzero().flatten())
        here = slice(kept_start, kept_start + count)
        if pixels is None:
            sources.append(
                EncodedSource(encoded, labels, class_names, form, digests[here], options.workers)
            )
        else:
            sources.append(TensorSource(pixels[here], labels, class_names, encoded.names))
        start, kept_start = start + len(mine), kept_start + count
    return sources, tuple(corrupt)


def _common_form(images: EncodedImages, options: ReadOptions) -> PixelForm:
    """The form of the first image that decodes, as far as the options leave it open."""
    reasons: dict[str, str] = {}
    for index in range(len(images)):
        try:
            return _form_of(images, index, options)
        except UnreadableImageError as error:
            reasons[images.names[index]] = str(error)
    if options.skip_corrupt:
        raise nothing_left(reasons)
    raise corrupt_error(reasons)


def _form_of(images: EncodedImages, index: int, options: ReadOptions) -> PixelForm:
    name, size = images.names[index], options.image_size
    with images.open(index) as stream, opened(stream, name) as image:
        channels = options.channels or plain_channels(image)
        if channels is None:
            raise colour_refusal(image, name)
        width, height = (size, size) if size else turned_upright(image, name, options.reading).size
    form = PixelForm(
        (channels, height, width), convert=options.channels is not None, resize=size is not None,
        example=name, reading=options.reading,
    )  # fmt: skip
    with images.open(index) as stream:
        decode_pixels(stream, name, form, MemoryBudget(MAX_BYTES_IN_FLIGHT))
    return form


def _decode_all(
    images: EncodedImages, form: PixelForm, options: ReadOptions
) -> tuple[Tensor | None, UInt8[np.ndarray, "kept 32"], dict[int, str]]:
    """Return pixels [kept, C, H, W], or None and digests [kept, 32]; and the corrupt ones' reasons.

    Digests are those of `image_digests`; there are none of pixels that are returned.
    """
    count = len(images)
    fits = count * int(np.prod(form.shape)) <= MAX_BYTES_IN_MEMORY
    pixels = np.empty((count if fits else 0, *form.shape), dtype=np.uint8)
    digests = np.empty((0 if fits else count, 32), dtype=np.uint8)
    corrupt: dict[int, str] = {}
    remarks, done = Remarks(), 0
    for group in decode_in_order(images, range(count), form, options.workers, remarks):
        for decoded in group:
            if isinstance(decoded, UnreadableImageError):
                corrupt[done] = str(decoded)
            elif fits:
                pixels[done - len(corrupt)] = decoded
            else:
                digests[done - len(corrupt)] = np.frombuffer(pixel_digest(decoded), np.uint8)
            done += 1
        if options.progress is not None:
            options.progress(done, count)
    remarks.warn()
    kept = count - len(corrupt)
    return (torch.from_numpy(pixels[:kept]) if fits else None), digests[:kept], corrupt
