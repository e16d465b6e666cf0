"""Loading pipelines from folders and from a hub, and asking real (tiny) ones for images."""

import json
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import attrgetter
from threading import Thread

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.pool.diffusion_model import default_dtype

CAT, DOG = "a photo of a cat", "a photo of a dog"
STEPS = {"num_inference_steps": 2}


def pixels(image):
    return np.asarray(image).astype(int)


def test_a_folder_is_recorded_by_the_hash_of_every_file(load, models, tmp_path):
    folder = shutil.copytree(models / "sd", tmp_path / "sd")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").write_text("not part of the model")
    record = load(folder).record
    assert (record.name, record.pipeline) == ("sd", "StableDiffusionPipeline")
    assert (record.scheduler, record.revision) == ("DDIMScheduler", None)
    assert "unet/diffusion_pytorch_model.safetensors" in record.files
    assert not any(name.startswith(".") for name in record.files)
    assert record == load().record
    (folder / "README.md").write_text("changed")
    assert load(folder).record.identity != record.identity


@pytest.mark.parametrize(
    ("readme", "given", "licence"),
    [("---\nlicense: openrail\n---\nx", "MIT", "MIT"), ("---\n: [\n---\n", None, None)],
)
def test_the_licence_is_the_readmes_unless_given(load, models, tmp_path, readme, given, licence):
    assert load().record.licence == "openrail"
    folder = shutil.copytree(models / "sd", tmp_path / "sd")
    (folder / "README.md").write_text(readme)
    assert load(folder, licence=given).record.licence == licence


def test_the_dtype_reaches_the_weights(load):
    assert load(dtype=torch.bfloat16).pipe.unet.dtype == torch.bfloat16
    assert default_dtype(torch.device("cpu")) == default_dtype(torch.device("mps")) == "float32"


def test_a_folder_that_is_no_pipeline_or_is_damaged_is_refused(load, models, tmp_path):
    with pytest.raises(DpmixError, match=r"has no model_index\.json"):
        load(tmp_path)
    folder = shutil.copytree(models / "sd", tmp_path / "sd")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    with pytest.raises(DpmixError, match="can't be loaded as a diffusers pipeline"):
        load(folder)


def test_a_model_that_brings_code_is_refused(load, models, tmp_path):
    folder = shutil.copytree(models / "sd", tmp_path / "sd")
    index = folder / "model_index.json"
    content = json.loads(index.read_text()) | {"_class_name": ["evil", "Evil"]}
    index.write_text(json.dumps(content))
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom diffusers import DiffusionPipeline\n"
        "class Evil(DiffusionPipeline): pass\n"
    )
    with pytest.raises(DpmixError, match="can't be loaded"):
        load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        *((name, f"no model folder '{name}'") for name in ("/nowhere/model", "./gone", "gone")),
        ("no-such/model", r"give --download .*hf download no-such/model"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_is_downloaded_unasked(load, model, said):
    with pytest.raises(DpmixError, match=said):
        load(model)


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for models that can't be had."""

    ANSWERS = {  # noqa: RUF012
        "gated": (403, "GatedRepo"),
        "missing": (401, "RepoNotFound"),
        "old": (404, "RevisionNotFound"),
        "down": (500, "Down"),
    }

    def do_GET(self):
        name = self.path.split("/")[4] if self.path.startswith("/api/") else "missing"
        status, code = self.ANSWERS.get(name, self.ANSWERS["missing"])
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("name", ["who/gated", "who/missing", "who/old", "who/down"])
def test_what_the_hub_answers_becomes_one_line(hub, load, tmp_path, monkeypatch, name):
    def download(model, **_):
        return huggingface_hub.snapshot_download(model, endpoint=hub, cache_dir=tmp_path)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    with pytest.raises(DpmixError, match=rf"'{name}' can't be fetched .* gated, .*--local-dir"):
        load(name, download=True)


def test_an_image_depends_on_its_seed_and_prompt_and_not_on_its_batch(load):
    model, asked = load(), [(CAT, 1), (CAT, 2), (DOG, 1)]
    together = model.draw([prompt for prompt, _ in asked], [seed for _, seed in asked], STEPS)
    alone = [model.draw([prompt], [seed], STEPS)[0] for prompt, seed in asked]
    for one, other in zip(together, alone, strict=True):
        assert one.mode == "RGB" and one.size == (16, 16)
        # Sums of another batch size round otherwise, by a grey level at most.
        assert abs(pixels(one) - pixels(other)).max() <= 1
    assert abs(pixels(together[0]) - pixels(together[1])).mean() > 5
    assert (pixels(together[0]) != pixels(together[2])).any()


def test_pixels_are_those_that_the_pipeline_would_save(load):
    model, wide = load(), STEPS | {"height": 32, "width": 32}
    seed = torch.Generator("cpu").manual_seed(1)
    expected = model.pipe(prompt=[CAT], generator=[seed], **wide).images[0]
    drawn = model.draw([CAT], [1], wide)[0]
    assert drawn.size == (32, 32) and (pixels(drawn) == pixels(expected)).all()


def test_settings_that_the_pipeline_refuses_are_one_line(load):
    with pytest.raises(DpmixError, match=r"fails to draw with these settings: .*divisible by 8"):
        load().draw([CAT], [1], {"height": 13, "width": 13})


def test_what_the_safety_checker_withheld_is_no_image(load, monkeypatch):
    model = load()
    real = type(model.pipe).__call__

    def checked(self, *args, **kwargs):
        made = real(self, *args, **kwargs)
        made.nsfw_content_detected = [False, True]
        return made

    monkeypatch.setattr(type(model.pipe), "__call__", checked)
    first, second = model.draw([CAT, CAT], [1, 2], STEPS)
    assert first is not None and second is None


def test_too_little_memory_is_refused_with_the_remedies(load, monkeypatch):
    model = load()

    def fail(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(model.pipe), "__call__", fail)
    with pytest.raises(DpmixError, match=r"too little memory on cpu .*--batch"):
        model.draw([CAT], [1], STEPS)


@pytest.mark.parametrize(("part", "dtype", "remedy"), [
    ("unet", torch.float32, "another --model"),
    ("vae.decoder", torch.bfloat16, "give --dtype float32, with another"),
])  # fmt: skip
def test_what_is_not_finite_is_no_image(load, part, dtype, remedy):
    broken = load(dtype=dtype)
    with torch.no_grad():
        next(attrgetter(part)(broken.pipe).parameters()).fill_(float("nan"))
    with pytest.raises(DpmixError, match=f"of '{DOG}' .* is not finite, .*{remedy}"):
        broken.draw([DOG, CAT], [1, 2], STEPS)


@pytest.mark.parametrize("level", [-9.0, 0.0])
def test_an_image_of_one_colour_is_no_image(load, level):
    broken = load()
    with torch.no_grad():
        last = broken.pipe.vae.decoder.conv_out
        last.weight.zero_()
        last.bias.fill_(level)
    with pytest.raises(DpmixError, match=rf"of '{CAT}' .* in float32 is of one colour, so"):
        broken.draw([CAT], [1], STEPS)
