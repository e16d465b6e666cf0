import pytest
import torch

from dpmix.data.source import Subset, TensorSource
from dpmix.errors import DpmixError

PIXELS = torch.arange(10, dtype=torch.uint8).repeat_interleave(6).reshape(10, 1, 2, 3)
LABELS = torch.arange(10) % 3


def source():
    return TensorSource(PIXELS, LABELS, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("pixels", "labels", "names", "said"),
    [
        (PIXELS.float(), LABELS, "abc", "float32"),
        (PIXELS[:, 0], LABELS, "abc", r"\(10, 2, 3\)"),
        (PIXELS, LABELS[:2], "abc", "for 10 images"),
        (PIXELS, LABELS, "ab", r"labels are 0\.\.2; expected 0\.\.1"),
        (PIXELS, -LABELS, "abc", "labels are -2"),
        (PIXELS, LABELS, "aba", "'a' is given twice"),
        (PIXELS[:0], LABELS[:0], "a", "an image or more"),
    ],
)
def test_what_is_no_labelled_image_is_refused(unchecked, pixels, labels, names, said):
    with pytest.raises(DpmixError, match=said):
        TensorSource(pixels, labels, tuple(names))


def test_no_pixel_and_no_label_is_in_the_repr():
    assert repr(source()) == "TensorSource(class_names=('a', 'b', 'c'))"


def test_a_part_of_a_part_is_a_part_of_the_whole():
    whole = source()
    part = Subset.of(Subset(whole, torch.tensor([0, 3, 6, 9]), ("a",)), torch.tensor([1, 3]))
    assert part.whole is whole
    assert (part.indices.tolist(), part.class_names) == ([3, 9], ("a",))


def test_images_that_are_left_out_are_never_read():
    asked = []

    class Watched(TensorSource):
        def images(self, indices):
            asked.extend(indices.tolist())
            return super().images(indices)

    some = Subset.of(Watched(PIXELS, LABELS, ("a", "b", "c")), torch.tensor([4, 8]))
    some.images(torch.arange(2))
    assert some.labels.tolist() == [1, 2]
    assert asked == [4, 8]
