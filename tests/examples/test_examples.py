"""The examples, run as scripts at a miniature size."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

EXAMPLES = Path(__file__).parents[2] / "examples"
OFFLINE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def script(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | OFFLINE, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_lightning_trains_saves_and_goes_on(tmp_path):
    size = ("--images", 60, "--steps", 3, "--validate-every", 2, "--folder", tmp_path)
    assert "after 3 steps" in script("lightning_digits.py", *size)
    (early,) = tmp_path.glob("*step=2.ckpt")
    saved = torch.load(early, weights_only=True)
    assert saved["private_steps"]["steps_done"] == 2
    assert "after 3 steps" in script("lightning_digits.py", *size, "--resume", early)


@pytest.mark.slow
def test_a_transformers_model_is_saved_and_loaded_as_a_pipeline(tmp_path):
    out = script("hugging_face_vit.py", "--images", 40, "--steps", 2, "--folder", tmp_path)
    # The search for sigma stops a little below the target.
    assert "of 40 images" in out and re.search(r"epsilon (2\.99\d|3\.000), delta 1e-05", out)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert model.config.id2label[7] == "7"


GALLERY = {
    "views_of_one_image": (),
    "how_far_one_example_moves_the_sum": ("--examples", 12),
    "noise_that_an_epsilon_costs": ("--epsilons", 8),
    "accuracy_that_an_epsilon_buys": ("--steps", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GALLERY)
def test_a_script_of_the_gallery_draws_its_picture(name, tmp_path):
    picture = tmp_path / "picture.png"
    out = script(f"gallery/{name}.py", *GALLERY[name], "--output", picture)
    assert len(Image.open(picture).convert("L").getcolors()) > 20
    if "farthest" in out:
        ours, theirs = (float(part.split()[-2]) for part in out.split(", "))
        assert ours <= 1 + 1e-5 < theirs <= 2 + 1e-5


def test_every_example_is_run_here():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {"lightning_digits.py", "hugging_face_vit.py"}
    assert {path.stem for path in EXAMPLES.glob("gallery/*.py")} == GALLERY.keys()


def test_the_gallery_shows_every_script_and_its_picture():
    docs = EXAMPLES.parent / "docs"
    page = (docs / "gallery.md").read_text()
    for name in GALLERY:
        # Written otherwise the line is shown as it stands, and a strict build does not mind.
        assert f'    --8<-- "examples/gallery/{name}.py"\n' in page
        assert f"gallery/{name}.png" in page
        assert (docs / "gallery" / f"{name}.png").exists()
