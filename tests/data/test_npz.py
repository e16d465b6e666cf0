import numpy as np
import pytest
import torch

from dpmix.data.image import ReadOptions
from dpmix.data.named import load_splits, public_name
from dpmix.data.npz import npz_splits
from dpmix.data.window import Window
from dpmix.errors import DpmixError

PLAIN = ReadOptions()
FOUR = torch.arange(4)


def arrays(shape=(6, 5), count=4):
    generator = np.random.default_rng(0)
    images = {f"x_{side}": generator.integers(0, 256, (count, *shape), dtype=np.uint8)
              for side in ("train", "test")}  # fmt: skip
    return images | {f"y_{side}": np.arange(count) % 2 for side in ("train", "test")}


def joined(side, files, labels):
    return {
        f"{side}_jpeg": np.frombuffer(b"".join(files), dtype=np.uint8),
        f"{side}_end": np.cumsum([len(file) for file in files]),
        f"{side}_label": np.array(labels, dtype=np.uint8),
    }


@pytest.fixture
def save(tmp_path):
    def write(**content):
        np.savez_compressed(tmp_path / "set.npz", **content)
        return tmp_path / "set.npz"

    return write


@pytest.fixture
def encoded_arrays(png):
    train = joined("train", [png(seed=seed) for seed in range(4)], [0, 1, 0, 1])
    return train | joined("test", [png(seed=seed) for seed in (8, 9)], [1, 0])


@pytest.mark.parametrize(("shape", "order"), [
    ((6, 5), None), ((6, 5, 3), (0, 3, 1, 2)), ((6, 5, 1), (0, 3, 1, 2)), ((3, 6, 5), (0, 1, 2, 3)),
])  # fmt: skip
def test_every_layout_becomes_channels_first(save, shape, order):
    content = arrays(shape)
    path = save(**content)
    splits = npz_splits(path, PLAIN)
    expected = content["x_test"][:, None] if order is None else content["x_test"].transpose(order)
    assert torch.equal(splits.test.images(FOUR), torch.from_numpy(expected.copy()))
    assert splits.test.labels.tolist() == [0, 1, 0, 1]
    assert (splits.name, splits.flip, splits.train.class_names) == ("set", True, ("0", "1"))
    assert npz_splits(path, ReadOptions(3, 3)).train.image_shape == (3, 3, 3)
    with pytest.raises(DpmixError, match="--skip-corrupt does not apply"):
        npz_splits(path, ReadOptions(skip_corrupt=True))


def test_a_fixed_window_maps_deep_grey_arrays(save):
    deep = {"x_train": np.arange(96, dtype=np.int16).reshape(4, 4, 6) * 10 - 480}
    path = save(**arrays((4, 6)) | deep)
    window = Window(0, 511)  # black at -255.5, white at 254.5
    seen = npz_splits(path, ReadOptions(window=window)).train.images(FOUR)
    expected = np.floor(np.interp(deep["x_train"], (-255.5, 254.5), (0, 255)) + 0.5)
    assert np.array_equal(seen[:, 0], expected)
    for options in (PLAIN, ReadOptions(window="dicom")):
        with pytest.raises(DpmixError, match=r"'x_train' is int16 .*expected uint8"):
            npz_splits(path, options)
    colours = save(**arrays((4, 6, 3)) | {"x_train": np.zeros((4, 4, 6, 3), np.uint16)})
    with pytest.raises(DpmixError, match="grey images, or colours of uint8"):
        npz_splits(colours, ReadOptions(window=window))


@pytest.mark.parametrize("key", ["class_names", "classes"])
def test_class_names_are_read(save, key):
    path = save(**arrays(), **{key: np.array(["cat", "dog"])})
    large = path.rename(path.with_suffix(".NPZ"))
    assert load_splits(str(large)).train.class_names == ("cat", "dog")
    assert public_name(str(large)) == public_name(str(path)) == "images in an .npz file"


BOTH = {"y_train", "y_test"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"x_train": np.zeros((4, 6, 5), dtype=np.float32)}, "float32.*; expected uint8"),
        ({"x_train": np.zeros((4, 3, 5, 3), dtype=np.uint8)}, r"\[4, 3, 5, 3\]"),
        ({"x_test": np.zeros((4, 6, 6), dtype=np.uint8)}, "one shape"),
        ({"y_train": np.array([0, None, 1, 1], dtype=object)}, "nothing is unpickled"),
        ({"y_train": np.array([0.0, 1, 0.5, 1])}, r"the label 0\.5 in row 2; expected classes"),
        ({"y_train": np.zeros((4, 2), int)}, r"\[4, 2\]; .*of one-hot rows"),
        ({"y_train": np.array(["a", "b", "a", "b"])}, "'y_train' is <U1 .*of text"),
        (dict.fromkeys(BOTH, np.array([0, 2, 0, 2])), "the labels are 2 of 0..2; expected 0..1"),
        ({"classes": np.array(["only"])}, "the labels are 2 of 0..1; expected 0..0"),
        ({"classes": np.array([7, 8])}, "list of text"),
    ],
)
def test_refuses_arrays_of_another_kind(save, changed, said):
    with pytest.raises(DpmixError, match=said):
        npz_splits(save(**arrays() | changed), PLAIN)


@pytest.mark.parametrize("missing", ["x_train", "x_test", "y_test"])
def test_a_missing_array_is_named(save, missing):
    content = arrays()
    del content[missing]
    with pytest.raises(DpmixError, match=f"no (array )?'{missing}'|holds x_test"):
        npz_splits(save(**content), PLAIN)


KEYS = [("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_images", "{}_labels")]
KINDS = [
    lambda y: y[:, None].astype(np.uint8),  # as MedMNIST has them
    lambda y: y.astype(np.float32),
    lambda y: y.astype(bool),
]


@pytest.mark.parametrize(("keys", "kind"), list(zip(KEYS, KINDS, strict=True)))
def test_every_name_and_kind_of_array_reads_the_same(save, keys, kind):
    content = arrays()
    splits = npz_splits(save(**{
        key.format(side): kind(content[f"y_{side}"]) if place else content[f"x_{side}"]
        for side in ("train", "test") for place, key in enumerate(keys)
    }), PLAIN)  # fmt: skip
    for side, source in (("train", splits.train), ("test", splits.test)):
        assert source.labels.tolist() == content[f"y_{side}"].tolist()
        assert np.array_equal(source.images(FOUR)[:, 0].numpy(), content[f"x_{side}"])


@pytest.mark.parametrize("test", ["test", None])
def test_validation_images_are_judged_on_only_without_test_images(save, unchecked, test):
    (images, labels), content = KEYS[-1], {}
    for grey, side in enumerate(filter(None, ("train", test, "valid"))):
        content[images.format(side)] = np.full((4, 6, 5), grey, dtype=np.uint8)
        content[labels.format(side)] = np.arange(4) % 2
    if test:  # what is not used is not looked at
        content[labels.format("valid")] = np.array([object()])
    said = "'valid' is not used" if test else "is judged on 'valid'"
    with pytest.warns(UserWarning, match=said):
        splits = npz_splits(save(**content), PLAIN)
    for grey, source in enumerate((splits.train, splits.test)):
        assert (source.images(FOUR) == grey).all()


def test_two_layouts_in_one_file_are_refused(save):
    content = arrays()
    with pytest.raises(DpmixError, match="expected the arrays of one layout"):
        npz_splits(save(**content, train_images=content["x_train"]), PLAIN)


def test_a_file_that_is_no_npz_and_a_damaged_array(save):
    path = save(**arrays())
    data = bytearray(path.read_bytes())
    start = data.index(b"x_train.npy") + 60
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(DpmixError, match="'x_train' cannot be read"):
        npz_splits(path, PLAIN)
    path.write_bytes(b"not a zip")
    with pytest.raises(DpmixError, match=r"set\.npz' cannot be read as an \.npz file"):
        npz_splits(path, PLAIN)


@pytest.mark.parametrize("test", ["test", "val"])
def test_encoded_images_are_decoded(save, encoded_arrays, picture, test):
    content = {key.replace("test", test): value for key, value in encoded_arrays.items()}
    splits = npz_splits(save(**content, wnids=np.array(["n1", "n2"]), names=np.array(["a", "b"])),
                        PLAIN)  # fmt: skip
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.test.labels.tolist() == [1, 0]
    assert splits.train.class_names == ("a", "b")
    for side, index, seed in ((splits.train, 3, 3), (splits.test, 1, 9)):
        expected = torch.from_numpy(np.array(picture(seed=seed)).transpose(2, 0, 1))
        assert torch.equal(side.images(torch.tensor([index]))[0], expected)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train_end": np.array([5, 3, 9, 12])}, "expected ascending end offsets"),
        ({"train_jpeg": np.zeros(5)}, "uint8 bytes in one row"),
    ],
)
def test_refuses_encoded_arrays_of_another_kind(save, encoded_arrays, changed, said):
    with pytest.raises(DpmixError, match=said):
        npz_splits(save(**encoded_arrays | changed), PLAIN)
