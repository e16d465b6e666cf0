"""Inputs that nobody should give, or that somebody gives on purpose; each builds itself on disk.

A case is a function of an empty folder that returns what to call: the call must refuse.
"""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from dpmix.data import load_splits
from dpmix.pool.load import open_pool
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.prior_releases import read_prior_releases
from dpmix.reports.statement import read_statement
from dpmix.runs.checkpoint import Checkpoint
from dpmix.runs.config import Config
from dpmix.runs.load import load_run
from pictures import chunk, raw_png

Call = Callable[[], object]
CASES: dict[str, Callable[[Path], Call]] = {}

EXECUTED = "executed"
"""What an input that is run leaves behind, in the folder that it was built in."""


def case(build):
    CASES[build.__name__] = build
    return build


class Trap:
    """Unpickled, it leaves a trace."""

    def __init__(self, folder):
        self.trace = str(folder / EXECUTED)

    def __reduce__(self):
        return (open, (self.trace, "w"))


def picture(form="PNG", mode="L", size=(8, 8)):
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, form)
    return stream.getvalue()


def raw_deflate(size):
    """Zeros, as DICOM's deflated transfer syntax packs them."""
    packer, part = zlib.compressobj(wbits=-15), bytes(1_000_000)
    return b"".join(packer.compress(part) for _ in range(size // len(part))) + packer.flush()


def folder(root, bad, name="bad.png", classes=("a", "b"), size=(8, 8)):
    """Two classes of five good images, and a bad one in the first."""
    for label in classes:
        (root / "data" / label).mkdir(parents=True)
        for index in range(5):
            (root / "data" / label / f"{index}.png").write_bytes(picture(size=size))
    if bad is not None:
        (root / "data" / classes[0] / name).write_bytes(bad)
    return lambda: load_splits(str(root / "data"), test_fraction=0.2)


def image_case(name, content, file="bad.png"):
    CASES[f"image_{name}"] = lambda root: folder(root, content, file)


image_case("empty", b"")
image_case("text", b"hello")
image_case("html_named_jpg", b"<html></html>", "bad.jpg")
image_case("elf_named_png", b"\x7fELF" + b"\0" * 100)
image_case("png_cut_in_its_header", picture()[:20])
image_case("png_cut_in_its_data", picture("PNG", "RGB", (64, 64))[:-30])
image_case("jpeg_cut", picture("JPEG", "RGB", (64, 64))[:300], "bad.jpg")
image_case("png_of_bad_checksum", picture()[:20] + b"\xff" + picture()[21:])
image_case("png_of_no_width", raw_png(width=0))
image_case("png_of_no_height", raw_png(height=0))
image_case("png_of_no_data", raw_png(data=b""))
image_case("png_of_too_little_data", raw_png(width=64, height=64))
image_case("png_of_unknown_colour", raw_png(colour=5))
image_case("png_bomb_of_ten_gigapixels", raw_png(width=100_000, height=100_000))
image_case("png_bomb_of_one_bit", raw_png(width=2**31 - 1, height=2**31 - 1, depth=1))
image_case("png_bomb_in_a_comment",
           raw_png(more=chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 200_000_000))))  # fmt: skip
image_case("tiff_that_points_at_itself",
           b"II*\0\x08\0\0\0\0\0" + struct.pack("<I", 8), "bad.tiff")  # fmt: skip
# Refused with pydicom and without it.
image_case("dicom_of_junk", bytes(128) + b"DICM" + b"junk" * 50, "bad.dcm")
image_case("dicom_that_is_cut", bytes(128) + b"DICM", "bad.dcm")
image_case("dicom_that_inflates_to_a_gigabyte",
           bytes(128) + b"DICM\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"
           + raw_deflate(1_000_000_000), "bad.dcm")  # fmt: skip
image_case("text_named_dcm", b"no DICOM file", "bad.dcm")
image_case("named_with_a_newline", b"no image", "one\ntwo.png")
image_case("named_as_markup", b"no image", "[bold red]x.png")
image_case("named_with_an_escape", b"no image", "\x1b[31mred.png")


def folder_case(name, change):
    """A good folder of data that `change` spoils."""

    def build(root):
        read = folder(root, None)
        change(root / "data")
        return read

    CASES[name] = build


def link(place, to):
    return lambda data: (data / place).symlink_to(to)


folder_case("folder_that_is_empty", lambda data: data.rename(data.with_name("x")) and data.mkdir())
folder_case("folder_of_empty_classes", lambda data: [p.unlink() for p in data.glob("*/*")])
folder_case("folder_of_one_class", lambda data: (data / "b").rename(data.with_name("b")))
folder_case("folder_that_is_a_file", lambda data: data.rename(data.with_name("x")) and data.touch())
folder_case("link_out_of_the_folder", link("a/link.png", __file__))
folder_case("link_to_a_device", link("a/link.png", "/dev/zero"))
folder_case("link_to_itself", link("a/link.png", "link.png"))
folder_case("link_to_nothing", link("a/link.png", "nothing.png"))
folder_case("class_that_is_a_link_to_its_parent", link("c", "."))
folder_case("pipe_named_as_an_image", lambda data: os.mkfifo(data / "a" / "pipe.png"))
folder_case("folder_named_as_an_image", lambda data: (data / "a" / "x.png").mkdir())


def npz(root, **changed):
    arrays = {
        "x_train": np.zeros((6, 8, 8, 1), np.uint8), "y_train": np.arange(6) % 2,
        "x_test": np.zeros((2, 8, 8, 1), np.uint8), "y_test": np.arange(2),
    }  # fmt: skip
    np.savez(root / "data.npz", **(arrays | changed))
    return lambda: load_splits(str(root / "data.npz"))


def npz_case(name, **changed):
    CASES[f"npz_{name}"] = lambda root: npz(root, **changed)


npz_case("of_nan_labels", y_train=np.full(6, np.nan))
npz_case("of_negative_labels", y_train=np.array([0, 1, -1, 0, 1, 0]))
npz_case("of_too_few_labels", y_train=np.zeros(5, int))
npz_case("of_labels_beyond_the_classes", y_train=np.arange(6) * 2**60)
npz_case("of_complex_images", x_train=np.zeros((6, 8, 8, 1), np.complex64))
npz_case("of_images_of_five_dimensions", x_train=np.zeros((6, 8, 8, 1, 1), np.uint8))
npz_case("of_images_of_no_size", x_train=np.zeros((6, 0, 8, 1), np.uint8))
npz_case("of_no_images", x_train=np.zeros((0, 8, 8, 1), np.uint8), y_train=np.zeros(0, int))
npz_case("of_two_channels", x_train=np.zeros((6, 8, 8, 2), np.uint8))
npz_case("of_a_hundred_thousand_classes",
         y_train=np.array([0, 1, 2, 3, 4, 100_000]), y_test=np.array([0, 1]))  # fmt: skip


def npz_bytes_case(name, content):
    def build(root):
        (root / "data.npz").write_bytes(content(root))
        return lambda: load_splits(str(root / "data.npz"))

    CASES[f"npz_{name}"] = build


npz_bytes_case("that_is_a_pickle", lambda root: pickle.dumps(Trap(root)))
npz_bytes_case("that_is_empty", lambda root: b"")


@case
def npz_of_pickled_images(root):
    return npz(root, x_train=np.array([Trap(root)] * 6, dtype=object))


@case
def npz_of_pickled_names(root):
    return npz(root, class_names=np.array([Trap(root)] * 2, dtype=object))


@case
def npz_that_was_cut(root):
    read = npz(root)
    path = root / "data.npz"
    path.write_bytes(path.read_bytes()[:-100])
    return read


def npy_header(shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


@case
def npz_that_claims_a_terabyte(root):
    with zipfile.ZipFile(root / "data.npz", "w") as archive:
        archive.writestr("x_train.npy", npy_header((10**6, 1000, 1000, 1)) + b"\0" * 100)
        archive.writestr("y_train.npy", npy_header((10**6,)))
        archive.writestr("x_test.npy", npy_header((1, 1, 1, 1)) + b"\0")
    return lambda: load_splits(str(root / "data.npz"))


@case
def npz_of_a_member_outside(root):
    with zipfile.ZipFile(root / "data.npz", "w") as archive:
        archive.writestr("../../x_train.npy", npy_header((1, 1, 1, 1)) + b"\0")
    return lambda: load_splits(str(root / "data.npz"))


def yaml_case(name, text):
    def build(root):
        path = root / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return lambda: Config.load(path)

    CASES[f"yaml_{name}"] = build


_LAUGHS = "\n".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
yaml_case("of_a_billion_laughs", f"a: &a [x]\n{_LAUGHS}\n")
yaml_case("of_a_python_object", "privacy: !!python/object/apply:os.system ['touch executed']")
yaml_case("of_a_python_name", "privacy: {epsilon: !!python/name:os.system }")
yaml_case("of_a_list", "- 1\n- 2")
yaml_case("of_bytes", b"\xff\xfe\x00\x01")
yaml_case("of_nulls", b"privacy:\0 {}")
yaml_case("of_deep_nesting", "privacy: " + "[" * 3_000)
yaml_case("of_a_huge_number", "privacy: {steps: " + "9" * 5000 + "}")
yaml_case("that_ends_early", "privacy: {epsilon: 1")
yaml_case("that_inherits_from_itself", "base: recipe.yaml")
yaml_case("that_inherits_from_a_list", "base: [a, b]")


def plan_case(name, **numbers):
    plan = {"epsilon": 3.0, "delta": 1e-5, "n": 100, "expected_batch_size": 10, "steps": 3}
    CASES[f"plan_of_{name}"] = lambda root: lambda: PrivacyPlan.calibrate(**plan | numbers)


plan_case("epsilon_nan", epsilon=float("nan"))
plan_case("delta_nan", delta=float("nan"))


def statement_case(name, text):
    def build(root):
        path = root / "privacy.json"
        path.write_bytes(text)
        return lambda: read_statement(path)

    CASES[f"statement_{name}"] = build


statement_case("that_is_empty", b"")
statement_case("of_deep_nesting", b"[" * 100_000)
statement_case("of_a_number", b"3")
statement_case("of_bytes", b"\xff\xfe")
statement_case("of_huge_numbers", b'{"epsilon": ' + b"9" * 10_000 + b"}")


@case
def prior_release_that_is_no_json(root):
    (root / "prior.json").write_bytes(b"{" * 1000)
    return lambda: read_prior_releases((str(root / "prior.json"),), "image")


def saved(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def checkpoint_case(name, content):
    """A checkpoint of the right hash, made by `content` of the folder."""

    def build(root):
        body = content(root)
        (root / "step.pt").write_bytes(sha256(body).digest() + body)
        return lambda: Checkpoint.read(root / "step.pt")

    CASES[f"checkpoint_{name}"] = build


checkpoint_case("that_is_a_pickle", lambda root: pickle.dumps(Trap(root)))
checkpoint_case("that_holds_an_object", lambda root: saved({"format": 1, "plan": Trap(root)}))
checkpoint_case("that_is_empty", lambda root: b"")
checkpoint_case("of_another_program", lambda root: saved({"weights": torch.zeros(3)}))


def run_folder(root, weights):
    """A run of a small network whose weights are what `weights` makes of the right ones."""
    from dpmix.models import build_model

    right = build_model("cnn-small", in_channels=1, num_classes=2).state_dict()
    (root / "config.yaml").write_text(
        "model: {model: cnn-small}\n"
        "input: {image_shape: [1, 8, 8], class_names: [a, b]}\n"
        "data: {normalization: half}\n"
    )
    weights(root / "model.safetensors", right)
    return lambda: load_run(root, "cpu")


def weights_case(name, write):
    CASES[f"weights_{name}"] = lambda root: run_folder(root, write)


weights_case("that_are_missing", lambda path, right: None)
weights_case("that_are_empty", lambda path, right: path.touch())
weights_case("that_are_a_pickle", lambda path, right: torch.save(Trap(path.parent), path))
weights_case("of_a_huge_header", lambda path, right: path.write_bytes(struct.pack("<Q", 2**62)))
weights_case("of_other_shapes", lambda path, right: save_file(
    {name: torch.zeros(3) for name in right}, path))  # fmt: skip
weights_case("of_other_names", lambda path, right: save_file({"x": torch.zeros(3)}, path))
weights_case("of_nan", lambda path, right: save_file(
    {name: value * torch.nan for name, value in right.items()}, path))  # fmt: skip
weights_case("of_infinity", lambda path, right: save_file(
    {name: torch.full_like(value, torch.inf) for name, value in right.items()}, path))  # fmt: skip


def manifest_case(name, text):
    def build(root):
        (root / "pool" / "a").mkdir(parents=True)
        (root / "pool" / "a" / "0.png").write_bytes(picture())
        (root / "pool" / "manifest.json").write_bytes(text)
        return lambda: open_pool(root / "pool")

    CASES[f"manifest_{name}"] = build


manifest_case("of_no_json", b"{")
manifest_case("of_deep_nesting", b"[" * 100_000)
manifest_case("of_a_list", b"[]")
manifest_case("of_a_million_entries", json.dumps({"images": ["x"] * 1_000_000}).encode())
