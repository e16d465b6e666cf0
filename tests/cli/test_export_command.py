"""`dpmix export`: the files answer as the run does, carry its statement, and name no place."""

import json
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from dpmix.runs.hub_classifier import HubClassifier
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image, ImageOps

import dpmix as package
from dpmix.data import decode_files, load_splits
from pictures import noise_picture

pytestmark = pytest.mark.usefixtures("unchecked")

SETTINGS = {"epsilon": 30, "delta": 1e-3, "steps": 2, "k_base": 1, "k_self": 1, "device": "cpu"}
RUNS = {
    "from-scratch": {"model": "cnn-small", "expected_batch_size": 40},
    "on-scatternet": {"backbone": "scatternet", "method": "none", "cache_views": 1},
}
FORMATS = ("onnx", "torch-export", "hub")
STATEMENT, CARD = "privacy.json", "MODEL_CARD.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two complete runs on the built-in digits, in a folder with a name to look for."""
    root = tmp_path_factory.mktemp("place-of-a-study")
    digits = load_splits("mnist5k")
    sides = {"train": (digits.train, 20), "test": (digits.test, 10)}
    arrays = {
        f"{kind}_{side}": tensor[::every].numpy()
        for side, (source, every) in sides.items()
        for kind, tensor in (("x", source.pixels[:, 0]), ("y", source.labels))
    }
    np.savez(root / "place-of-a-study.npz", **arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, settings in RUNS.items():
            cache = {"cache_dir": str(root / "cache")} if "backbone" in settings else {}
            package.fit(
                data=str(root / "place-of-a-study.npz"),
                output=str(root / name),
                **SETTINGS,
                **settings,
                **cache,
            )
    return root


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Twenty real digits as files."""
    folder = tmp_path_factory.mktemp("digits")
    for index, pixels in enumerate(load_splits("mnist5k").test.pixels[::50]):
        Image.fromarray(pixels[0].numpy()).save(folder / f"{index:02}.png")
    return folder


@pytest.fixture
def exported(dpmix, runs, tmp_path):
    def export(run, form, *more):
        output = tmp_path / f"{run}-{form}"
        done = dpmix("export", runs / run, "--format", form, "--output", output, *more)
        assert (done[0], done[2]) == (0, ""), done
        return output, done[1]

    return export


def loaded(folder, form):
    """What answers in the place of the run, by another library where there is one."""
    if form == "onnx":
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    if form == "torch-export":
        return torch.export.load(folder / "model.pt2").module()
    return HubClassifier.from_pretrained(folder)


def contents(folder):
    """Every file, and every file inside of one."""
    for path in folder.iterdir():
        yield path.name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("form", FORMATS)
def test_it_answers_as_predict_does_and_names_no_place(dpmix, exported, runs, digits, run, form):
    folder, printed = exported(run, form)
    dpmix("predict", runs / run, digits, "--output", folder.parent / "p.json")
    rows = json.loads((folder.parent / "p.json").read_text())
    channels = 1 if run == "from-scratch" else 3
    (images,) = decode_files(sorted(digits.iterdir()), (channels, 28, 28))
    answer = loaded(folder, form)
    for part in (slice(0, 20), slice(7, 8)):  # any number of images, one among them
        with torch.no_grad():
            logits = answer(images[part])
        expected = np.array([list(row["probabilities"].values()) for row in rows[part]])
        assert logits.dtype == torch.float32
        assert np.allclose(logits.softmax(1).numpy(), expected, atol=1e-5)
        names = [str(digit) for digit in range(10)]
        assert [names[i] for i in logits.argmax(1)] == [row["prediction"] for row in rows[part]]
    sure = {round(max(row["probabilities"].values()), 3) for row in rows}
    assert len(sure) > 1, "a constant answer would show nothing"

    guarantee = json.loads((runs / run / STATEMENT).read_text())["guarantee"]
    assert " ".join(printed.split()).endswith(guarantee)
    assert (folder / STATEMENT).read_bytes() == (runs / run / STATEMENT).read_bytes()
    for name, content in contents(folder):
        for place in (str(runs.parent), "place-of-a-study", str(package.__path__[0]), "-packages"):
            assert place.encode() not in content, (name, place)


def test_an_onnx_model_says_what_it_is(exported, runs):
    folder, _ = exported("from-scratch", "onnx")
    assert sorted(path.name for path in folder.iterdir()) == [CARD, "model.onnx", STATEMENT]
    assert (folder / CARD).read_bytes() == (runs / "from-scratch" / CARD).read_bytes()
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["class_names"]) == [str(digit) for digit in range(10)]
    assert said[STATEMENT] == (folder / STATEMENT).read_text()
    assert "uint8 [batch, 1, 28, 28], grey, 0..255, not normalised" in model.doc_string
    assert said["guarantee"] in model.doc_string and "no softmax" in said["output"]
    (given,), (returned,) = model.graph.input, model.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert [returned.name, returned.type.tensor_type.shape.dim[0].dim_param] == ["logits", "batch"]


def test_a_torch_export_holds_its_statement(exported):
    folder, _ = exported("on-scatternet", "torch-export")
    assert sorted(path.name for path in folder.iterdir()) == [CARD, "model.pt2", STATEMENT]
    held = {STATEMENT: "", "class_names.json": "", "README.txt": ""}
    torch.export.load(folder / "model.pt2", extra_files=held)
    assert held[STATEMENT] == (folder / STATEMENT).read_text()
    assert json.loads(held["class_names.json"])[3] == "3"
    assert "uint8 [batch, 3, 28, 28], RGB" in held["README.txt"]


def test_a_hub_folder_is_the_runs_own_weights_and_its_card(exported, runs):
    folder, _ = exported("on-scatternet", "hub")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", STATEMENT,
    ]  # fmt: skip
    stated = json.loads((folder / STATEMENT).read_text())
    assert (
        sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        == (stated["weights_sha256"])
    )
    _, header, card = (folder / "README.md").read_text().split("---\n", 2)
    assert "library_name: dpmix" in header and "- differential-privacy" in header
    assert (runs / "on-scatternet" / CARD).read_text() in card
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert set(settings) == {"data", "model", "input"}
    assert not any("cache" in name or "weights" in name for name in settings["model"])


def test_an_output_is_taken_once_and_replaced_when_asked(dpmix, exported, runs, tmp_path):
    folder, _ = exported("from-scratch", "hub")
    call = ("export", runs / "from-scratch", "--format", "onnx", "--output", folder)
    status, _, err = dpmix(*call)
    assert status == 2 and "is there already; give another --output, or --overwrite" in err
    assert dpmix(*call, "--overwrite")[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == [CARD, "model.onnx", STATEMENT]
    run = shutil.copytree(runs / "from-scratch", tmp_path / "copy")
    before = sorted(path.name for path in run.rglob("*"))
    status, _, err = dpmix(*call[:-1], run, "--overwrite")
    assert status == 2 and "holds something else" in err
    assert sorted(path.name for path in run.rglob("*")) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("arguments", "said"), [
    (["nowhere"], "'nowhere' is no run folder"),
    (["{run}", "--format", "torchscript"], "format is 'torchscript': "),
    (["{run}", "--format", "onxx"], "did you mean 'onnx'?"),
])  # fmt: skip
def test_a_mistake_is_a_line_and_leaves_nothing(dpmix, runs, tmp_path, arguments, said):
    arguments = [part.format(run=runs / "from-scratch") for part in arguments]
    status, _, err = dpmix("export", *arguments, "--output", tmp_path / "e")
    assert status == 2 and said in err and len(err.strip().splitlines()) <= 2
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "said"), [
    ("model.safetensors", "'model.safetensors' has sha256"),
    ("config.yaml", "'config.yaml' has sha256"),
    (STATEMENT, "is no privacy statement"),
    (CARD, "does not hold the guarantee"),
])  # fmt: skip
def test_a_statement_of_other_files_is_refused(dpmix, runs, tmp_path, name, said):
    run = shutil.copytree(runs / "from-scratch", tmp_path / "copy")
    (run / name).write_text("{}")
    status, _, err = dpmix("export", run, "--output", tmp_path / "e")
    assert status == 2 and said in err
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(("missing", "form"), [("onnx", "onnx"), ("onnxscript", "onnx"),
                                               ("huggingface_hub", "hub")])  # fmt: skip
def test_a_missing_package_is_named_with_its_extra(
    dpmix, runs, tmp_path, monkeypatch, missing, form
):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "dpmix.runs.hub_classifier", raising=False)
    call = ("export", runs / "from-scratch", "--format", form, "--output", tmp_path / "e")
    status, _, err = dpmix(*call)
    assert (
        status == 2 and f"needs the package {missing}: pip install 'dp-mix-images[export]'" in err
    )


def test_an_incomplete_run_says_so_and_so_does_its_statement(dpmix, image_root, tmp_path, quick):
    class StoppedError(Exception):
        pass

    def stop(now):
        if now.step == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        package.fit(
            data=str(image_root), output=str(tmp_path / "run"), report=stop,
            **quick | {"steps": 4, "eval_every": 2},
        )  # fmt: skip
    call = ("export", tmp_path / "run", "--format", "hub", "--output", tmp_path / "e")
    status, out, err = dpmix(*call)
    assert status == 0
    assert "is not complete: this is its model after 2 of 4 steps" in " ".join(err.split())
    said = json.loads((tmp_path / "e" / STATEMENT).read_text())
    assert not said["complete"] and said["guarantee"] in " ".join(out.split())
    assert "its epsilon is 2.000 (" in " ".join(err.split())


def test_a_run_without_privacy_says_so(dpmix, image_root, tmp_path, quick):
    package.fit(data=str(image_root), output=str(tmp_path / "run"), **quick | {"epsilon": "inf"})
    call = ("export", tmp_path / "run", "--format", "torch-export", "--output", tmp_path / "e")
    status, out, _ = dpmix(*call)
    assert status == 0 and "NOT PRIVATE" in out
    assert "NOT PRIVATE" in (tmp_path / "e" / STATEMENT).read_text()


def code_of_the_docs():
    page = (Path(__file__).parents[2] / "docs/using.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]  # the second: see `loaded`


def test_the_code_of_the_docs_runs_where_it_is_used(exported, tmp_path, monkeypatch, capsys):
    folder, _ = exported("from-scratch", "onnx")
    folder.rename(tmp_path / "model")
    middle = load_splits("mnist5k").test.pixels[0, 0].numpy()
    wide = np.hstack([np.full_like(middle, 255), middle, np.zeros_like(middle)])
    Image.fromarray(wide).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code_of_the_docs(), "using.md", "exec"), names)
    (expected,) = decode_files([tmp_path / "photo.png"], (1, 28, 28))
    np.testing.assert_array_equal(names["pixels"], expected[0])
    guarantee = json.loads((tmp_path / "model" / STATEMENT).read_text())["guarantee"]
    assert re.fullmatch(r"\d \| " + re.escape(guarantee) + "\n", capsys.readouterr().out)


def test_the_code_of_a_hub_folder_runs(exported, tmp_path, monkeypatch, capsys):
    folder, _ = exported("from-scratch", "hub")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    noise_picture("RGB", 31, 50, 0).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace("NAME_OR_FOLDER", str(folder)), names)
    (expected,) = decode_files([tmp_path / "photo.png"], (1, 28, 28))
    assert torch.equal(names["images"], expected)
    assert re.fullmatch(r"\['\d'\]\n", capsys.readouterr().out)


@limits(deadline=None, max_examples=200)
@given(
    *[st.integers(1, 70)] * 2, *[st.integers(8, 40)] * 2, st.sampled_from(["L", "RGB"]),
    st.sampled_from([None, *range(9)]),
)  # fmt: skip
def test_the_code_of_the_docs_makes_the_pixels_that_predict_makes(
    height, width, new_height, new_width, mode, tag
):
    code = code_of_the_docs()
    reading = code[code.index("photo = ") : code.index("(logits,)")]
    tags = Image.Exif()
    if tag is not None:
        tags[0x0112] = tag
    names = {"np": np, "Image": Image, "ImageOps": ImageOps, "channels": 1 if mode == "L" else 3}
    names |= {"height": new_height, "width": new_width}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photo.png")
        noise_picture(mode, height, width, 0).save(path, exif=tags)
        exec(reading.replace("photo.png", str(path)), names)
        (expected,) = decode_files([path], (names["channels"], new_height, new_width))
    np.testing.assert_array_equal(names["pixels"], expected[0])
