"""Loading pipelines from folders and from a hub, and what is said when that fails."""

import json
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.pool.diffusion_model import default_dtype, load_model

CPU = torch.device("cpu")


def load(model, **settings):
    chosen = {
        "revision": None, "download": False, "licence": None, "device": CPU,
        "dtype": torch.float32, "attention_slicing": False,
    }  # fmt: skip
    return load_model(str(model), **(chosen | settings))


def test_a_folder_is_recorded_by_the_hash_of_every_file(models, tmp_path):
    folder = shutil.copytree(models / "sd", tmp_path / "sd")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").write_text("not part of the model")
    record = load(folder).record
    assert (record.name, record.pipeline) == ("sd", "StableDiffusionPipeline")
    assert (record.scheduler, record.revision) == ("DDIMScheduler", None)
    assert "unet/diffusion_pytorch_model.safetensors" in record.files
    assert not any(name.startswith(".") for name in record.files)
    assert record == load(models / "sd").record
    (folder / "README.md").write_text("changed")
    assert load(folder).record.identity != record.identity


@pytest.mark.parametrize(
    ("readme", "given", "licence"),
    [
        ("---\nlicense: openrail\n---\nx", None, "openrail"),
        ("---\nlicense: openrail\n---\nx", "MIT", "MIT"),
        ("---\nlanguage: en\n---\nx", None, None),
        ("no front matter", None, None),
        ("---\n: [\n---\n", None, None),
        (None, None, None),
    ],
)
def test_the_licence_is_the_readmes_unless_given(models, tmp_path, readme, given, licence):
    folder = shutil.copytree(models / "dit", tmp_path / "dit")
    if readme is not None:
        (folder / "README.md").write_text(readme)
    assert load(folder, licence=given).record.licence == licence


def test_the_dtype_and_attention_slicing_reach_the_weights(models):
    model = load(models / "sd", dtype=torch.bfloat16, attention_slicing=True)
    assert model.pipe.unet.dtype == torch.bfloat16
    sizes = [module.slice_size for module in _sliceable(model.pipe.unet)]
    assert sizes and all(size is not None for size in sizes)


def _sliceable(unet):
    for module in unet.modules():
        if type(getattr(module, "processor", None)).__name__.startswith("Sliced"):
            yield module.processor


def test_half_precision_is_for_cuda_alone():
    assert default_dtype(CPU) == default_dtype(torch.device("mps")) == "float32"


def test_a_folder_that_is_no_pipeline_or_is_damaged_is_refused(models, tmp_path):
    with pytest.raises(DpmixError, match=r"has no model_index\.json"):
        load(tmp_path)
    folder = shutil.copytree(models / "sd", tmp_path / "sd")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    with pytest.raises(DpmixError, match="can't be loaded as a diffusers pipeline"):
        load(folder)


def test_a_model_with_code_of_its_own_is_refused(models, tmp_path):
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


@pytest.mark.parametrize("model", ["/nowhere/model", "./gone", "gone", "a/b/c"])
def test_a_path_that_is_not_there_is_refused(model):
    with pytest.raises(DpmixError, match=f"no model folder '{model}'"):
        load(model)


def test_nothing_is_downloaded_unless_asked_for():
    with pytest.raises(DpmixError, match=r"give --download .*hf download no-such/model"):
        load("no-such/model")


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for models that can't be had."""

    ANSWERS = {  # noqa: RUF012
        "gated": (403, "GatedRepo"),
        "missing": (401, "RepoNotFound"),
        "old": (404, "RevisionNotFound"),
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


def test_what_the_hub_answers_becomes_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    # The address of the hub is read when its library is imported: hence a process of its own.
    script = """
import sys, torch
from dpmix.errors import DpmixError
from dpmix.pool.diffusion_model import load_model
for name in sys.argv[1:]:
    try:
        load_model(name, revision=None, download=True, licence=None, device=torch.device("cpu"),
                   dtype=torch.float32, attention_slicing=False)
    except DpmixError as error:
        print(error)
"""
    names = ["who/gated", "who/missing", "who/old"]
    done = subprocess.run(
        [sys.executable, "-c", script, *names], capture_output=True, text=True, timeout=120
    )
    gated, missing, old = done.stdout.splitlines()
    assert "model 'who/gated' is gated: accept its licence" in gated
    assert "hf download who/gated --local-dir FOLDER" in gated
    assert "no model 'who/missing' on the hub" in missing
    assert "model 'who/old' has no such revision; check --revision" in old


def test_no_network_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-m", "dpmix", "synthesize", "--model", "who/what", "--download",
         "--class", "cat", "--output", str(tmp_path / "pool")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "model 'who/what' can't be fetched" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "pool").exists()
