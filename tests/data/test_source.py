import pytest
import torch

from dpmix.data.source import TensorSource, check_labels, check_pixels
from dpmix.errors import DpmixError

PIXELS = torch.arange(3 * 2 * 2, dtype=torch.uint8).reshape(3, 1, 2, 2)


def test_images_follow_the_indices_with_repeats():
    source = TensorSource(PIXELS, torch.tensor([0, 1, 0]), ("a", "b"))
    assert len(source) == 3
    assert source.image_shape == (1, 2, 2)
    assert torch.equal(source.images(torch.tensor([2, 0, 2])), PIXELS[[2, 0, 2]])


@pytest.mark.parametrize(
    ("pixels", "labels", "names", "said"),
    [
        (PIXELS.float(), [0, 1, 0], "ab", "float32"),
        (PIXELS[:, 0], [0, 1, 0], "ab", r"\(3, 2, 2\)"),
        (PIXELS.expand(3, 2, 2, 2), [0, 1, 0], "ab", "C 1 or 3"),
        (PIXELS[:, :, :0], [0, 1, 0], "ab", r"\(3, 1, 0, 2\)"),
        (PIXELS, [0, 1], "ab", "beside 3 images"),
        (PIXELS, [0.0, 1.0, 0.0], "ab", "float32"),
        (PIXELS, [0, 2, 0], "ab", r"label 2 .* 0\.\.1"),
        (PIXELS, [0, -1, 0], "ab", "label -1"),
        (PIXELS, [0, 1, 0], "aa", "'a' is given twice"),
    ],
)
def test_checks_refuse(pixels, labels, names, said):
    with pytest.raises(DpmixError, match=said):
        check_pixels(pixels)
        check_labels(torch.tensor(labels), len(pixels), tuple(names))


def test_a_source_runs_both_checks():
    with pytest.raises(DpmixError, match="C 1 or 3"):
        TensorSource(PIXELS.expand(3, 2, 2, 2), torch.tensor([0, 1, 0]), ("a", "b"))
    with pytest.raises(DpmixError, match="label 2"):
        TensorSource(PIXELS, torch.tensor([0, 2, 0]), ("a", "b"))


def test_refuses_no_images():
    with pytest.raises(DpmixError, match="no images"):
        TensorSource(PIXELS[:0], torch.zeros(0, dtype=torch.int64), ("a",))


def test_no_pixel_and_no_label_is_in_the_repr():
    assert repr(TensorSource(PIXELS, torch.tensor([0, 1, 0]), ("a", "b"))) == (
        "TensorSource(class_names=('a', 'b'))"
    )
