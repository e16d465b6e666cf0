"""What identifies a data source: a hash of all that a run reads of it.

It is computed from private images, so it stays beside what was made of them and is never published.
"""

from hashlib import sha256

import PIL
import torch

from dpmix.data.encoded_source import EncodedSource
from dpmix.data.source import ImageSource
from dpmix.data.splits import Splits
from dpmix.data.subset import Subset

_BATCH = 1024


def data_hash(splits: Splits) -> str:
    """One line that tells the training and test images from any others."""
    return f"{fingerprint(splits.train)} {fingerprint(splits.test)}\n"


def fingerprint(source: ImageSource) -> str:
    """The sha256 of the images in order, their labels and the class names.

    Images that stay encoded are hashed as they lie on the disk, with the form they are decoded to.

    Raises:
        DpmixError: a file changed or vanished since it was checked.
    """
    digest = sha256(repr((source.class_names, source.image_shape, len(source))).encode())
    digest.update(source.labels.numpy().tobytes())
    indices = source.indices if isinstance(source, Subset) else torch.arange(len(source))
    whole = source.whole if isinstance(source, Subset) else source
    if isinstance(whole, EncodedSource):
        digest.update(repr((whole.form, PIL.__version__)).encode())
        for index in indices.tolist():
            with whole.encoded.open(index) as stream:
                content = stream.read()
            digest.update(len(content).to_bytes(8, "big") + content)
    else:
        for some in indices.split(_BATCH):
            digest.update(whole.images(some).numpy().tobytes())
    return digest.hexdigest()
