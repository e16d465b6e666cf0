"""Any change of the data is another fingerprint."""

import torch
from PIL import Image

from dpmix.data import TensorSource, load_splits
from dpmix.data import decode as module
from dpmix.data.encoded_source import EncodedSource
from dpmix.data.fingerprint import fingerprint
from dpmix.data.splits import Subset


def test_pixels_labels_order_and_names_count():
    pixels = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    labels, names = torch.tensor([0, 1, 0, 1, 0]), ("a", "b")
    other = pixels.clone()
    other[4, 0, 3, 3] ^= 1
    order = torch.tensor([1, 0, 2, 3, 4])
    sources = [
        TensorSource(pixels, labels, names),
        TensorSource(other, labels, names),
        TensorSource(pixels, 1 - labels, names),
        TensorSource(pixels, labels, ("a", "c")),
        TensorSource(pixels[order], labels[order], names),
        TensorSource(pixels[:4], labels[:4], names),
    ]
    found = [fingerprint(source) for source in sources]
    assert len(set(found)) == len(found)
    assert fingerprint(TensorSource(pixels.clone(), labels, names)) == found[0]


def test_a_subset_is_told_by_what_it_holds():
    pixels = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    labels, names = torch.tensor([0, 1, 0, 1, 0]), ("a", "b")
    whole, index = TensorSource(pixels, labels, names), torch.tensor([3, 0, 4])
    alone = fingerprint(TensorSource(pixels[index], labels[index], names))
    assert fingerprint(Subset.of(whole, index)) == alone
    assert fingerprint(Subset.of(whole, index.flip(0))) != alone
    assert fingerprint(Subset.of(whole, torch.arange(5))) == fingerprint(whole)


def test_images_that_stay_encoded_are_told_by_their_pixels(image_root, monkeypatch):
    in_memory = fingerprint(load_splits(str(image_root)).train)
    monkeypatch.setattr(module, "MAX_BYTES_IN_MEMORY", 1)

    def found(**settings):
        train = load_splits(str(image_root), **settings).train
        assert isinstance(train, EncodedSource)
        return fingerprint(train)

    first = found()
    assert found() == first == in_memory != found(image_size=5)
    monkeypatch.delattr("dpmix.data.encoded_source.decode_batch")  # nothing is decoded from here
    train = load_splits(str(image_root)).train
    part = fingerprint(Subset.of(train, torch.arange(40)))
    assert part == fingerprint(Subset.of(Subset.of(train, torch.arange(60)), torch.arange(40)))
    assert part != first == fingerprint(Subset.of(train, torch.arange(80)))
    path = next(iter(sorted((image_root / "train" / "disc").iterdir())))
    again = Image.open(path)
    again.save(path.with_suffix(".png"), compress_level=0)
    assert found() == first
    again.point(lambda value: 255 - value).save(path)
    assert found() != first
