"""Many encoded images to pixels: worker threads, in order, with bounded memory.

Guarantees: results come in the order asked for; at any time the workers hold at most
`MAX_BYTES_IN_FLIGHT` of pixels being decoded (one image larger than that is decoded alone) and as
much of decoded results that nobody has taken yet.
"""

import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from dpmix.data.encoded import EncodedImages
from dpmix.data.memory_budget import MemoryBudget
from dpmix.data.pixels import PixelForm, UnreadableImageError, decode_pixels
from dpmix.data.upright import Remarks
from dpmix.errors import DpmixError

MAX_BYTES_IN_FLIGHT = 512 * 2**20
_MAX_WORKERS = 16
# Small images are handed over in groups: a task of its own costs as much as decoding one.
_MAX_GROUP = 64

Decoded = UInt8[np.ndarray, "C H W"] | UnreadableImageError


def decode_in_order(
    images: EncodedImages,
    indices: Sequence[int],
    form: PixelForm,
    workers: int | None,
    remarks: Remarks | None = None,
    *,
    refused_too: bool = False,
) -> Iterator[list[Decoded]]:
    """Yield the pixels of `images` at `indices` in groups, in order; corrupt ones as their error.

    Pillow releases Python's lock while it decodes, so threads use all cores. To be iterated at
    once: Pillow's warning about decompression bombs counts as an error until it ends.

    Args:
        images: encoded.
        indices: which of them.
        form: what each is decoded to.
        workers: threads; None: one per core, 16 at most.
        remarks: is added to.
        refused_too: yield images that are refused for another reason as their error as well.

    Raises:
        DpmixError: as `decode_pixels` and `EncodedImages.open` raise, for the first such image,
            unless `refused_too`.
    """
    workers = workers or min(os.cpu_count() or 1, _MAX_WORKERS)
    results = max(1, MAX_BYTES_IN_FLIGHT // int(np.prod(form.shape)))
    window = min(2 * workers, results)
    group = min(_MAX_GROUP, results // window)
    budget = MemoryBudget(MAX_BYTES_IN_FLIGHT)

    def work(part: Sequence[int]) -> list[Decoded]:
        return [_decode(images, index, form, budget, remarks, refused_too) for index in part]

    pending: deque[Future[list[Decoded]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", "(possibly )?corrupt EXIF data")  # see `Remarks`
            for start in range(0, len(indices), group):
                if len(pending) == window:
                    yield pending.popleft().result()
                pending.append(pool.submit(work, indices[start : start + group]))
            while pending:
                yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def decode_batch(
    images: EncodedImages, indices: Sequence[int], form: PixelForm, workers: int | None
) -> UInt8[Tensor, "B C H W"]:
    """Decode all of `images` at `indices` into one tensor.

    Raises:
        DpmixError: one that cannot be decoded, and as `decode_in_order` raises.
    """
    pixels = np.empty((len(indices), *form.shape), dtype=np.uint8)
    row = 0
    for group in decode_in_order(images, indices, form, workers):
        for decoded in group:
            if isinstance(decoded, UnreadableImageError):
                raise DpmixError(
                    f"image '{images.names[indices[row]]}' cannot be decoded ({decoded}); "
                    "expected an intact image file: repair it or leave it out"
                ) from decoded
            pixels[row] = decoded
            row += 1
    return torch.from_numpy(pixels)


def _decode(
    images: EncodedImages,
    index: int,
    form: PixelForm,
    budget: MemoryBudget,
    remarks: Remarks | None,
    refused_too: bool,
) -> Decoded:
    try:
        with images.open(index) as stream:
            return decode_pixels(stream, images.names[index], form, budget, remarks)
    except UnreadableImageError as error:
        return error
    except DpmixError as error:
        if refused_too:
            return UnreadableImageError(str(error))
        raise
