"""`dpmix synthesize` and `dpmix pool`, as typed."""

import json

import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("unchecked", "plain_pages")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Commands run in this folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def draw(dpmix, models, here):
    """draw(...): `dpmix synthesize` with the tiny model, two images a class, one step."""

    def call(*arguments, output="pool"):
        return dpmix(
            "synthesize", "--model", models / "sd", "--output", output, "--images-per-class", 2,
            "--steps", 1, *arguments,
        )  # fmt: skip

    return call


def test_class_names_become_a_pool_that_trains(dpmix, draw, here, image_root, flags):
    status, out, err = draw("--data", image_root, "--image-size", 12)
    assert (status, err) == (0, "")
    assert out.startswith("drawing: a photo of a disc, a photo of a stripes\n")
    assert (
        "pool: 4 images, 4 of them new" in out
        and "a local StableDiffusionPipeline with files" in out
    )
    assert sorted(p.name for p in (here / "pool").iterdir() if p.is_dir()) == ["disc", "stripes"]
    assert Image.open(here / "pool" / "disc" / "00001.png").size == (12, 12)
    train = ("train", "--data", image_root, "--method", "mix-diff", "--pool", "pool", *flags)
    status, out, err = dpmix(*train, "--output", "run")
    assert (status, err) == (0, "")
    statement = json.loads((here / "run" / "privacy.json").read_text())
    pool = statement["public_inputs"]["pool"]
    assert (
        pool["model"].startswith("a local StableDiffusionPipeline with files")
        and pool["licence"] == "openrail"
    )
    assert len(pool["manifest_sha256"]) == 64
    status, out, _ = dpmix(*train, "--dry-run")
    assert status == 0 and "pool: 4 images, role mix" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected exactly one of --class"),
        (("--class", "cat", "--data", "mnist5k"), "expected exactly one of --class"),
        (("--class", "cat", "--dtype", "float8"), "unknown dtype 'float8'"),
        (("--class", "cat", "--draw-size", "13"), "fails to draw"),
        (("--class", "cat", "--model", "gone"), "no model folder 'gone'"),
    ],
)
def test_a_mistake_is_one_line(draw, arguments, said):
    status, out, err = draw(*arguments)
    assert status == 2
    # Only what is about to be drawn may stand before it.
    assert out == "" or (out.startswith("drawing: ") and out.count("\n") == 1)
    assert said in err and err.startswith("error:") and err.count("\n") == 1


def test_a_pool_is_not_drawn_into_the_private_folder(draw, image_root):
    status, _, err = draw("--data", image_root, output=image_root / "pool")
    assert status == 2 and "overlaps the private data" in err
    assert not (image_root / "pool").exists()


def test_inspect_shows_what_is_there_draws_sheets_and_checks_the_manifest(dpmix, draw, here):
    draw("--class", "cat", "--class", "dog")
    status, out, err = dpmix("pool", "inspect", "pool")
    assert (status, err) == (0, "")
    for said in ("4 in 2 classes", "16x16: 4", "matches all 4 files", "No private image was read",
                 "openrail", "pool-sheets: 2 files", "a photo of a {class}"):  # fmt: skip
        assert said in out
    assert Image.open(here / "pool-sheets" / "sheet-000-cat.png").size == (204, 104)
    (here / "pool" / "cat" / "00001.png").unlink()
    status, out, _ = dpmix("pool", "inspect", "pool")
    assert status == 0 and "files missing: 1 (cat/00001.png)" in out
    assert "4 images, 1 of them new" in draw("--class", "cat", "--class", "dog")[1]


def test_a_run_says_what_of_its_pool_it_uses(dpmix, here, image_root, public_root, flags):
    (public_root / "disc").rename(public_root / "round")
    train = ("train", "--data", image_root, "--method", "mix-diff", "--pool", public_root, *flags)
    status, out, err = dpmix(*train, "--pool-unmapped", "leave-out", "--dry-run")
    assert status == 0 and "15 images, role mix; 15 left out; none of class disc" in out
    assert "warning: the public pool" in err and "some classes and none of class disc" in err
    status, out, _ = dpmix(*train, "--pool-unmapped", "unlabelled", "--dry-run")
    assert "30 images, role mix; 15 without a label" in out
    same = ("--pool-unmapped", "leave-out", "--pool-draw", "same-class")
    status, _, err = dpmix(*train, *same)
    assert status == 2 and "has no image of class disc" in err
    pretrain = [part if part != "mix-diff" else "mix-self" for part in train]
    status, out, _ = dpmix(*pretrain, *same[:2], "--pool-role", "pretrain", "--dry-run")
    assert status == 0 and "20 epochs, 20 steps; not in the time below" in out


def test_inspect_keeps_private_images_out_of_sheets_and_sheets_out_of_private_images(
    dpmix, here, public_root, image_root
):
    status, _, err = dpmix("pool", "inspect", image_root / "train", "--data", image_root)
    assert status == 2 and "overlaps the private data" in err
    sheets = image_root / "sheets"
    status, _, err = dpmix("pool", "inspect", public_root, "--data", image_root, "--sheets", sheets)
    assert status == 2 and "the folder of contact sheets" in err
    assert not sheets.exists() and not list(here.iterdir())
