"""Loading pipelines from folders and from a hub, and asking real (tiny) ones for images."""

import json
import shutil
from operator import attrgetter

import diffusers
import numpy as np
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError

from dpmix.errors import DpmixError

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


@pytest.mark.parametrize("kind", [RepositoryNotFoundError, OSError])
def test_what_the_hub_answers_becomes_one_line(load, monkeypatch, kind):
    def download(model, **_):
        raise kind.__new__(kind)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    with pytest.raises(DpmixError, match=r"'who/what' can't be fetched .*gated.*--local-dir"):
        load("who/what", download=True)


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
