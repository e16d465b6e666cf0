"""What an error advises helps: each is followed to the letter, as the message gives it."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dpmix
from dpmix.data import load_splits
from dpmix.data.torch_dataset import read_images
from dpmix.errors import DpmixError
from pictures import noise_picture

pytestmark = pytest.mark.usefixtures("unchecked")


def said_by(attempt):
    with pytest.raises(DpmixError) as refused:
        attempt()
    message = str(refused.value)
    assert message.count("\n") <= 1
    return message


def found(pattern, message):
    match = re.search(pattern, message)
    assert match, f"{pattern} is not in: {message}"
    return match[1]


# Flags


def flags_in(message):
    """The flags that the last part of a message names, as settings."""
    advice = message.split("; ", 1)[1]
    settings = {}
    for name, value in re.findall(r"--([a-z-]+)(?: ([^\s,:;)(]+))?", advice):
        key = name.replace("-", "_")
        kinds = {"image_size": int, "channels": int, "test_fraction": float, "data": str}
        if key == "skip_corrupt":
            settings[key] = True
        elif value and key not in settings:
            settings[key] = kinds[key](value)
    return settings


def write(root, *places, mode="RGB", size=(8, 8)):
    for seed, place in enumerate(places):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        noise_picture(mode, *size, seed=len(place) * 100 + seed).save(root / place)


def many(*folders, count=20):
    return [f"{folder}/{i}.png" for folder in folders for i in range(count)]


SPLIT = ("train/a", "train/b", "test/a", "test/b")

FOLDERS = {
    "several sizes": lambda root: (
        write(root, *many(*SPLIT, count=2)),
        write(root, "train/a/large.png", size=(40, 50)),
    ),
    "several colours": lambda root: (
        write(root, *many(*SPLIT, count=2)),
        write(root, "train/a/grey.png", mode="L"),
    ),
    "corrupt": lambda root: (
        write(root, *many(*SPLIT, count=2)),
        (root / "train/a/bad.png").write_bytes(b"junk"),
    ),
}


@pytest.mark.parametrize("build", FOLDERS.values(), ids=FOLDERS)
def test_flags_help(tmp_path, build):
    root = tmp_path / "data"
    build(root)
    message = said_by(lambda: load_splits(str(root)))
    settings = {"data": str(root)} | flags_in(message)
    assert settings != {"data": str(root)}
    assert len(load_splits(**settings).train) > 1


# Arrays


def save(path, x, y):
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return lambda: load_splits(str(path))


X = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
Y = np.arange(6) % 2

ARRAYS = {
    "labels from 1": (X, Y + 1, r"save (np.searchsorted\(USED, y\))", "y"),
    "text": (X, np.array(["cat", "dog"])[Y], r"(np\.array\(.*?\]\)), where", "y"),
    "16 bits": (X.astype(np.uint16) * 257, Y, r"such as (np.*?) where", "x"),
    "floats": (X / 255, Y, r"such as (np.*?) where", "x"),
}


@pytest.mark.parametrize(("x", "y", "pattern", "changed"), ARRAYS.values(), ids=ARRAYS)
def test_python_for_arrays_helps(tmp_path, x, y, pattern, changed):
    message = said_by(save(tmp_path / "set.npz", x, y))
    names = {"np": np, "x": x, "y": y, "USED": sorted(set(y.flat)), "CLASSES": ["cat", "dog"]}
    names[changed] = eval(found(pattern, message), names)
    splits = save(tmp_path / "set.npz", names["x"], names["y"])()
    assert splits.train.labels.tolist() == Y.tolist()
    if changed == "x":
        off = splits.train.images(torch.arange(6))[:, 0].numpy().astype(int) - X
        assert np.abs(off).max() <= 1


# Datasets of torch


MODES = ("CMYK", "I;16", "F")


@pytest.mark.parametrize("mode", MODES)
def test_python_for_pil_images_helps(mode):
    if mode in ("I;16", "F"):
        ramp = np.linspace(0, 65535, 64).reshape(8, 8)
        kind = {"I;16": np.uint16, "F": np.float32}[mode]
        image = Image.fromarray(ramp.astype(kind))
    else:
        image = noise_picture("RGB", 8, 8, 0).convert(mode)
    assert image.mode == mode
    message = said_by(lambda: read_images([(image, 0)]))
    code = found(r"give (.*?\)), or", message)
    mended = eval(code, {"image": image, "Image": Image, "np": np})
    pixels, _ = read_images([(mended, 0)])
    assert len(pixels.unique()) > 50  # not made white


# Models


class OneOutput(nn.Module):
    """As for `BCEWithLogitsLoss`; `answer` is Python of its output z."""

    def __init__(self, answer="z", outputs=1):
        super().__init__()
        self.layer = nn.Linear(64, outputs)
        self.answer = answer

    def forward(self, x):
        return eval(self.answer, {"torch": torch, "z": self.layer(x.flatten(1))})


def private(model, labels, kind="pairs"):
    pixels = torch.from_numpy(X)[:, None]
    data = torch.utils.data.TensorDataset(pixels, labels)
    if kind == "source":
        data = dpmix.data.TensorSource(pixels, labels, ("cat", "dog"))
    plan = dpmix.PrivacyPlan.calibrate(
        n=6, epsilon=3, delta=1e-2, steps=1, expected_batch_size=2
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    views = dpmix.ViewSpec("none")
    return dpmix.make_private(model, optimizer, data, plan=plan, views=views)


@pytest.mark.parametrize("kind", ["pairs", "source"])
def test_a_model_with_one_output_gets_two(kind):
    labels = torch.from_numpy(Y)
    message = said_by(lambda: private(OneOutput(), labels, kind))
    assert "the model has one output and the labels are 0 and 1: give it two outputs" in message
    outputs = int(found(r"nn\.Linear\(D, (\d)\)", message))
    private(OneOutput(outputs=outputs), labels, kind).step()
    private(OneOutput(found(r"or return (torch\.cat\(.*\))$", message)), labels, kind).step()
