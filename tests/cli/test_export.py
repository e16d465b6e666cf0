"""`dpmix export`: the files answer as the run does, carry its statement, and name no place."""

import ast
import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image, ImageOps

import dpmix as package
from dpmix.data import decode_files, load_splits
from dpmix.errors import DpmixError
from dpmix.runs.export import HubClassifier, export_run
from pictures import noise_picture

pytestmark = pytest.mark.usefixtures("unchecked")

SETTINGS = {"epsilon": 30, "delta": 1e-3, "steps": 2, "k_base": 1, "k_self": 1, "device": "cpu"}
RUNS = {
    "from-scratch": {"model": "cnn-small", "expected_batch_size": 40},
    "on-scatternet": {
        "backbone": "scatternet",
        "backbone_size": 16,
        "method": "none",
        "cache_views": 1,
    },
    "on-maps": {"model": "scatter-cnn", "method": "none", "cache_views": 1},
}
STATEMENT, CARD, MODEL = "privacy.json", "MODEL_CARD.md", "model.safetensors"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A complete run of each kind on the built-in digits, in a folder with a name to look for."""
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
            package.fit(
                data=str(root / "place-of-a-study.npz"), output=str(root / name),
                cache_dir=str(root / "cache"), **SETTINGS, **settings,
            )  # fmt: skip
    return root


def loaded(folder, form):
    """What answers in the place of the run, by another library if there is one."""
    if form == "hub":
        return HubClassifier.from_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize(
    ("run", "form"),
    [("from-scratch", "hub"), ("from-scratch", "onnx"), ("on-scatternet", "onnx"),
     ("on-maps", "hub"), ("on-maps", "onnx")],
)  # fmt: skip
def test_it_answers_as_predict_does_and_names_no_place(dpmix, runs, tmp_path, run, form):
    for index, pixels in enumerate(load_splits("mnist5k").test.pixels[::50]):
        (tmp_path / "digits").mkdir(exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(tmp_path / "digits" / f"{index:02}.png")
    folder = tmp_path / "model"
    done = dpmix("export", runs / run, "--format", form, "--output", folder)
    assert (done[0], done[2]) == (0, ""), done
    dpmix("predict", runs / run, tmp_path / "digits", "--output", tmp_path / "p.json")
    rows = json.loads((tmp_path / "p.json").read_text())
    channels = 1 if run == "from-scratch" else 3
    (images,) = decode_files(sorted((tmp_path / "digits").iterdir()), (channels, 28, 28))
    answer = loaded(folder, form)
    for part in (slice(0, 20), slice(7, 8)):  # any number of images, one among them
        with torch.no_grad():
            logits = answer(images[part])
        expected = np.array([list(row["probabilities"].values()) for row in rows[part]])
        assert logits.dtype == torch.float32
        assert np.allclose(logits.softmax(1).numpy(), expected, atol=1e-5)
    assert len({row["probabilities"]["3"] for row in rows}) > 1, "a constant would show nothing"

    guarantee = json.loads((runs / run / STATEMENT).read_text())["guarantee"]
    assert " ".join(done[1].split()).endswith(guarantee)
    assert (folder / STATEMENT).read_bytes() == (runs / run / STATEMENT).read_bytes()
    for path in folder.iterdir():
        for place in (str(runs.parent), "place-of-a-study", str(package.__path__[0]), "-packages"):
            assert place.encode() not in path.read_bytes(), (path.name, place)


def test_an_onnx_model_says_what_it_is(runs, tmp_path):
    folder = tmp_path / "model"
    export_run(runs / "from-scratch", "onnx", folder)
    assert sorted(path.name for path in folder.iterdir()) == [CARD, "model.onnx", STATEMENT]
    assert (folder / CARD).read_bytes() == (runs / "from-scratch" / CARD).read_bytes()
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["class_names"]) == [str(digit) for digit in range(10)]
    assert told[STATEMENT] == (folder / STATEMENT).read_text()
    assert "uint8 [batch, 1, 28, 28], grey, 0..255, not normalised" in model.doc_string
    assert told["guarantee"] in model.doc_string and "no softmax" in told["output"]
    (given,), (returned,) = model.graph.input, model.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert [returned.name, returned.type.tensor_type.shape.dim[0].dim_param] == ["logits", "batch"]


def test_a_hub_folder_on_another_backbone_or_with_a_pickle_is_refused(runs, tmp_path, monkeypatch):
    export_run(runs / "on-scatternet", "hub", tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr("dpmix.models.backbones.backbone.Backbone.weights_sha256", "0" * 64)
        with pytest.raises(DpmixError, match="backbone 'scatternet' here are not those that the"):
            HubClassifier.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / MODEL).unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DpmixError, match=r"no weights at .*model.safetensors"):
        HubClassifier.from_pretrained(tmp_path / "model")


def test_an_output_is_taken_once_and_replaced_when_asked(dpmix, runs, tmp_path):
    folder = tmp_path / "model"
    export_run(runs / "from-scratch", "hub", folder)
    call = ("export", runs / "from-scratch", "--format", "onnx", "--output", folder)
    status, _, err = dpmix(*call)
    assert status == 2 and "exists; give another --output, or --overwrite" in err
    assert dpmix(*call, "--overwrite")[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == [CARD, "model.onnx", STATEMENT]
    run = shutil.copytree(runs / "from-scratch", tmp_path / "copy")
    before = sorted(path.name for path in run.rglob("*"))
    status, _, err = dpmix(*call[:-1], run, "--overwrite")
    assert status == 2 and "holds something else" in err
    assert sorted(path.name for path in run.rglob("*")) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_fails_leaves_the_earlier_export(runs, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "full")

    folder = tmp_path / "model"
    export_run(runs / "from-scratch", "hub", folder)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", fails)
        with pytest.raises(DpmixError):
            export_run(runs / "from-scratch", "hub", folder, overwrite=True)
    assert list(tmp_path.iterdir()) == [folder] and (folder / MODEL).is_file()


def test_a_run_with_another_card_is_refused(runs, tmp_path):
    run = shutil.copytree(runs / "from-scratch", tmp_path / "copy")
    (run / CARD).write_text("{}")
    with pytest.raises(DpmixError, match="does not hold the guarantee"):
        export_run(run, "onnx", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_other_answers_are_refused(runs, tmp_path, monkeypatch):
    real = onnxruntime.InferenceSession.run
    wrong = lambda *arguments: [real(*arguments)[0] + 1e-2]  # noqa: E731
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", wrong)
    with pytest.raises(DpmixError, match=r"logits differ by 0\.01 from the run's"):
        export_run(runs / "from-scratch", "onnx", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def code_of_the_docs():
    page = (Path(__file__).parents[2] / "docs/using.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]


def test_the_code_of_a_hub_folder_runs(runs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    export_run(runs / "from-scratch", "hub", folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    noise_picture("RGB", 31, 50, 0).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace("NAME_OR_FOLDER", str(folder)), names)
    (expected,) = decode_files([tmp_path / "photo.png"], (1, 28, 28))
    assert torch.equal(names["images"], expected)
    (found,) = ast.literal_eval(capsys.readouterr().out)
    assert [*found] == [*"0123456789"] and sum(found.values()) == pytest.approx(1)


@limits(deadline=None, max_examples=20)
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
