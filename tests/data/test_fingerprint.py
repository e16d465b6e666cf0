"""Any change of the data is another fingerprint; every repeated image is counted."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from dpmix.data import TensorSource, decode, load_splits
from dpmix.data.fingerprint import Repeats, find_repeats, fingerprint, refuse_repeats
from dpmix.data.source import Subset as Part
from dpmix.data.source import image_digests
from dpmix.data.splits import narrowed
from dpmix.data.torch_dataset import example_origins, read_images
from dpmix.errors import DpmixError

PIXELS = np.random.default_rng(3).integers(0, 256, (8, 3, 6, 6), dtype=np.uint8)
CHOSEN = st.lists(st.integers(0, 7), min_size=2, max_size=20)
few = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_pixels_labels_order_and_names_count():
    pixels = torch.from_numpy(PIXELS[:5])
    labels, names, index = torch.tensor([0, 1, 0, 1, 0]), ("a", "b"), torch.tensor([1, 0, 2, 3, 4])
    other = pixels.clone()
    other[4, 0, 3, 3] ^= 1
    whole = TensorSource(pixels, labels, names)
    sources = [
        whole,
        TensorSource(other, labels, names),
        TensorSource(pixels, 1 - labels, names),
        TensorSource(pixels, labels, ("a", "c")),
        TensorSource(pixels[index], labels[index], names),
        TensorSource(pixels[:4], labels[:4], names),
    ]
    found = [fingerprint(source) for source in sources]
    assert len(set(found)) == len(found)
    assert fingerprint(Part.of(whole, torch.arange(5))) == found[0]
    assert fingerprint(Part.of(whole, index)) == found[4]
    assert fingerprint(Part.of(whole, torch.arange(4))) == found[5]


def expected(chosen):
    """Of images at `chosen` in a set of different ones."""
    counts = Counter(chosen)
    return sum(count > 1 for count in counts.values()), max(counts.values())


def found(digests, origins=None):
    repeats = find_repeats(digests, origins)
    assert len(repeats.places) == repeats.most
    return repeats.images, repeats.most


def in_memory(chosen):
    # Labels differ between copies, which makes them no less equal.
    labels = torch.arange(len(chosen)) % 2
    return TensorSource(torch.from_numpy(PIXELS[chosen]), labels, ("a", "b"))


@few
@given(CHOSEN)
def test_repeats_of_tensors_and_of_parts_of_them(chosen):
    source = in_memory(chosen)
    assert found(image_digests(source)) == expected(chosen)
    part = Part.of(source, torch.arange(0, len(chosen), 2))
    assert found(image_digests(part)) == expected(chosen[::2])
    again = Part.of(source, torch.tensor([0, 1, 0]))
    assert found(image_digests(again)) == expected([chosen[0], chosen[1], chosen[0]])


def write_files(root, chosen):
    """A folder in which copies have other names, classes and compressions."""
    for side in ("train", "test"):
        for place, image in enumerate(chosen if side == "train" else (0, 1)):
            folder = root / side / "ab"[place % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(PIXELS[image].transpose(1, 2, 0)).save(
                folder / f"{place}.png", compress_level=place % 3
            )
    return root


@few
@given(CHOSEN)
def test_repeats_of_folders_in_memory_and_decoded_on_access(tmp_path_factory, chosen):
    root = write_files(tmp_path_factory.mktemp("folder"), chosen)
    splits = load_splits(str(root))
    assert found(splits.train_digests) == expected(chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "MAX_BYTES_IN_MEMORY", 1)
        encoded = load_splits(str(root))
        patch.delattr(decode, "decode_each")  # they are not decoded again
        assert np.array_equal(encoded.train_digests, splits.train_digests)
        kept = narrowed(encoded, None, None, len(chosen) - 1) if len(chosen) > 2 else encoded
        assert found(kept.train_digests) <= expected(chosen)


class Noisy(TensorDataset):
    """A dataset whose random transform makes copies of an example differ."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return torch.randint(0, 256, image.shape, dtype=torch.uint8), label


@few
@given(CHOSEN)
def test_subsets_and_concatenations_of_torch_are_seen_through(chosen):
    whole, other = (Noisy(torch.from_numpy(PIXELS), torch.arange(8) % 2) for _ in range(2))
    # The same places of another dataset, counted from its end, are other examples.
    half = len(chosen) // 2
    first, second = Subset(whole, chosen[:half]), Subset(whole, torch.tensor(chosen[half:]) - 8)
    joined = ConcatDataset(
        [first, Subset(ConcatDataset([other, second]), range(8, 8 + len(second)))]
    )
    for dataset in (joined, ConcatDataset([joined, other])):
        digests = image_digests(TensorSource(*read_images(dataset), ("a", "b")))
        assert found(digests, example_origins(dataset)) == expected(chosen)


def test_an_image_is_one_by_its_pixels_or_by_its_place():
    """Places 0 and 1 are one example, 1 and 2 are of one image: a random crop hid that of 0."""
    digests = image_digests(in_memory([0, 1, 1, 2]))
    assert find_repeats(digests, np.array([5, 5, 6, 7])) == Repeats(1, 3, (0, 1, 2))
    assert find_repeats(digests, np.array([5, 8, 6, 7])) == Repeats(1, 2, (1, 2))
    assert find_repeats(digests) == Repeats(1, 2, (1, 2))


def test_the_refusal_has_the_numbers_the_images_and_the_remedy():
    pixels = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1)
    source = TensorSource(pixels, torch.tensor([0, 1] * 3), ("a", "b"), tuple("abcdef"))
    message = (
        r"^4 images occur .* the most frequent one 5 times \('a', 'b', 'c', \.\.\.\): .* "
        r"epsilon is 15\.000, not 3\.000\. .*--allow-repeats \(allow_repeats=True\)"
    )
    with pytest.raises(DpmixError, match=message):
        refuse_repeats(Repeats(4, 5, (0, 1, 2, 3, 5)), source, lambda copies: 3.0 * copies)
    part = Part.of(source, torch.tensor([5, 4, 3]))
    with pytest.raises(DpmixError, match=r"^1 image occurs .* \('f', 'd'\)"):
        refuse_repeats(Repeats(1, 2, (0, 2)), part, float)
    refuse_repeats(Repeats(0, 1, (0,)), source, float)
