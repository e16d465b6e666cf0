import torch

from dpmix.data import TensorSource
from dpmix.data.source import ImageSource
from dpmix.data.splits import Subset


def source():
    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 2, 3)
    return TensorSource(pixels, torch.arange(10) % 3, ("a", "b", "c"))


def test_it_holds_the_examples_at_its_places():
    whole, places = source(), torch.tensor([7, 2, 2, 9])
    some = Subset.of(whole, places)
    assert isinstance(some, ImageSource)
    index = torch.tensor([3, 0])
    assert torch.equal(some.images(index), whole.pixels[[9, 7]])
    assert some.labels.tolist() == [1, 2, 2, 0]
    assert (len(some), some.class_names, some.image_shape) == (4, ("a", "b", "c"), (1, 2, 3))


def test_a_part_of_a_part_is_a_part_of_the_whole():
    whole = source()
    part = Subset.of(Subset(whole, torch.tensor([0, 3, 6, 9]), ("a",)), torch.tensor([1, 3]))
    assert part.whole is whole
    assert part.indices.tolist() == [3, 9]
    assert part.class_names == ("a",)


def test_what_is_left_out_is_never_asked_for():
    asked = []

    class Watched(TensorSource):
        def images(self, indices):
            asked.extend(indices.tolist())
            return super().images(indices)

    whole = source()
    watched = Watched(whole.pixels, whole.labels, whole.class_names)
    some = Subset.of(watched, torch.tensor([4, 8]))
    some.images(torch.arange(2))
    assert some.labels.tolist() == [1, 2]
    assert asked == [4, 8]
