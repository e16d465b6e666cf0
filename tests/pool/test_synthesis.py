"""Drawing a pool with a real (tiny) model: whole, killed, continued."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock
from PIL import Image

from dpmix.cli import main
from dpmix.errors import DpmixError
from dpmix.pool.diffusion_model import ImageGenerator, image_generator, load_model
from dpmix.pool.generate import ATTEMPTS, SynthesisSettings, image_seed, synthesize
from dpmix.pool.load import JOURNAL, open_pool
from dpmix.pool.manifest import Manifest
from dpmix.pool.prompts import PoolClass, as_classes

CLASSES = as_classes(("cat", "dog"))
SETTINGS = SynthesisSettings("a photo of a {class}", None, None, 1, None, 0, "float32")


@pytest.fixture(scope="module")
def hand(models):
    model = load_model(
        str(models / "sd"), revision=None, download=False, licence=None,
        device=torch.device("cpu"), dtype=torch.float32, attention_slicing=False,
    )  # fmt: skip
    return image_generator(
        model, CLASSES, template=SETTINGS.template, size=None, steps=1, guidance=None
    )


def run(root, hand, classes=CLASSES, settings=SETTINGS, count=3, batch=2, report=None):
    return synthesize(
        root, hand, classes, settings, images_per_class=count, batch=batch,
        report=report or (lambda done, total: None),
    )  # fmt: skip


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.png")}


def test_a_pool_is_drawn_described_and_can_be_opened(tmp_path, hand):
    seen = []
    drawn = run(tmp_path / "pool", hand, report=lambda *step: seen.append(step))
    assert (drawn.images, drawn.fresh) == (6, 6)
    assert seen == [(0, 6), (2, 6), (4, 6), (6, 6)]
    names = [f"{name}/{i:05}.png" for name in ("cat", "dog") for i in range(3)]
    assert sorted(files(tmp_path / "pool")) == names
    pool = open_pool(tmp_path / "pool")
    assert pool.class_names == ("cat", "dog")
    manifest = pool.manifest
    assert [image.file for image in manifest.images] == names
    assert manifest.images[3].prompt == "a photo of a dog"
    assert manifest.images[4].seed == image_seed(0, "dog", 1)
    assert manifest.model.licence == "openrail"
    assert manifest.settings["template"] == SETTINGS.template
    assert manifest.sessions[0].versions["diffusers"]
    assert Image.open(tmp_path / "pool" / names[0]).size == (16, 16)


def test_images_are_saved_at_the_size_asked_for(tmp_path, hand):
    smaller = SynthesisSettings("a {class}", None, 6, 1, None, 0, "float32")
    run(tmp_path / "pool", hand, settings=smaller, count=1)
    assert Image.open(tmp_path / "pool" / "cat" / "00000.png").size == (6, 6)


def test_more_images_and_classes_leave_the_others_as_they_were(tmp_path, hand):
    run(tmp_path / "pool", hand, CLASSES[:1], count=2, batch=1)
    before = files(tmp_path / "pool")
    drawn = run(tmp_path / "pool", hand, count=3, batch=1)
    assert (drawn.images, drawn.fresh) == (6, 4)
    after = files(tmp_path / "pool")
    assert before.items() <= after.items()
    run(tmp_path / "whole", hand, count=3, batch=1)
    assert after == files(tmp_path / "whole")
    open_pool(tmp_path / "pool")


def test_fewer_images_remove_nothing(tmp_path, hand):
    run(tmp_path / "pool", hand)
    drawn = run(tmp_path / "pool", hand, count=1)
    assert (drawn.images, drawn.fresh) == (6, 0)
    assert len(open_pool(tmp_path / "pool").images) == 6


def test_a_file_that_was_changed_is_drawn_again(tmp_path, hand):
    run(tmp_path / "pool", hand, batch=1)
    whole = files(tmp_path / "pool")
    (tmp_path / "pool" / "dog" / "00001.png").write_bytes(whole["cat/00000.png"])
    assert run(tmp_path / "pool", hand, batch=1).fresh == 1
    assert files(tmp_path / "pool") == whole


def test_asking_for_nothing_new_leaves_the_manifest_as_it_is(tmp_path, hand):
    run(tmp_path / "pool", hand)
    before = (tmp_path / "pool" / "manifest.json").read_bytes()
    assert run(tmp_path / "pool", hand).fresh == 0
    assert run(tmp_path / "pool", hand, count=1).fresh == 0
    assert (tmp_path / "pool" / "manifest.json").read_bytes() == before


def test_every_image_says_which_call_drew_it(tmp_path, hand, monkeypatch):
    run(tmp_path / "pool", hand, count=1)
    monkeypatch.setattr("dpmix.pool.generate.version", lambda name: "99")
    run(tmp_path / "pool", hand, count=2)
    manifest = Manifest.read(tmp_path / "pool")
    assert len(manifest.sessions) == 2
    assert manifest.sessions[0].versions["torch"] != "99" == manifest.sessions[1].versions["torch"]
    assert [image.session for image in manifest.images] == [0, 1, 0, 1]


@pytest.mark.parametrize("file", ["cat/00003.png", "fox/00000.png"])
def test_a_file_that_dpmix_did_not_make_is_never_overwritten(tmp_path, hand, file):
    run(tmp_path / "pool", hand)
    mine = tmp_path / "pool" / file
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"mine")
    before = (tmp_path / "pool" / "manifest.json").read_bytes()
    with pytest.raises(DpmixError, match=rf"did not make \({file}\).*move them elsewhere"):
        run(tmp_path / "pool", hand, as_classes(("cat", "dog", "fox")), count=4)
    assert mine.read_bytes() == b"mine"
    assert (tmp_path / "pool" / "manifest.json").read_bytes() == before


def test_a_class_is_drawn_in_one_way(tmp_path, hand):
    run(tmp_path / "pool", hand, count=1)
    other = (PoolClass("cat", "big cat"), CLASSES[1])
    with pytest.raises(DpmixError, match="'cat' was drawn as 'a photo of a cat', not as 'a photo"):
        run(tmp_path / "pool", hand, other, count=2)


def test_an_extension_that_fails_at_once_leaves_the_pool_whole(tmp_path, hand):
    run(tmp_path / "pool", hand)

    def fail(self, sketches):
        raise DpmixError("too little memory")

    broken = type("Broken", (ImageGenerator,), {"draw": fail})(
        hand.model, hand.describe, hand.arguments
    )
    with pytest.raises(DpmixError, match="too little memory"):
        run(tmp_path / "pool", broken, count=9)
    assert len(open_pool(tmp_path / "pool").images) == 6
    assert run(tmp_path / "pool", hand, count=4).fresh == 2


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_run_that_stops_goes_on_to_the_pool_of_an_undisturbed_one(tmp_path, hand, after):
    run(tmp_path / "whole", hand, batch=1)

    def stop(done, total):
        if done == after:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "pool", hand, batch=1, report=stop)
    assert not (tmp_path / "pool" / "manifest.json").exists()
    with pytest.raises(DpmixError, match="is not finished"):
        open_pool(tmp_path / "pool")
    assert run(tmp_path / "pool", hand, batch=1).fresh == 6 - after
    assert files(tmp_path / "pool") == files(tmp_path / "whole")
    open_pool(tmp_path / "pool")


@pytest.mark.usefixtures("unchecked")
def test_a_process_that_is_killed_goes_on_where_it_stopped(tmp_path, models, monkeypatch, capsys):
    command = [
        "dpmix", "synthesize", "--model", str(models / "sd"), "--class", "cat", "--class", "dog",
        "--output", str(tmp_path / "pool"), "--images-per-class", "300", "--steps", "3",
        "--batch", "1",
    ]  # fmt: skip
    first = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "pool" / JOURNAL
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (
        journal.exists() and journal.read_text().count('"sha256"') > 5
    ):
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    there = len(files(tmp_path / "pool"))
    assert 5 <= there < 600
    command[command.index("300")] = str(there)
    monkeypatch.setattr(sys, "argv", command)
    main()
    pool = open_pool(tmp_path / "pool")
    assert len(pool.images) == 2 * there
    # One image may have been in place without being written down yet.
    fresh = int(capsys.readouterr().out.split(" images, ")[1].split()[0])
    assert fresh in (there, there + 1)


def test_withheld_images_are_drawn_again_from_another_seed(tmp_path, hand):
    asked = []

    def refusing(sketches):
        asked.append([sketch.seed for sketch in sketches])
        images = hand.draw(sketches)
        return [None, *images[1:]] if len(asked) == 1 else images

    shy = type("Shy", (ImageGenerator,), {"draw": lambda self, sketches: refusing(sketches)})
    run(tmp_path / "pool", shy(hand.model, hand.describe, hand.arguments), count=1)
    assert asked[1] == [image_seed(0, "cat", 0, attempt=1)]
    images = Manifest.read(tmp_path / "pool").images
    assert [image.seed for image in images] == [asked[1][0], asked[0][1]]


def test_an_image_that_is_always_withheld_stops_the_run_and_keeps_the_rest(tmp_path, hand):
    def prudish(self, sketches):
        return [None if s.drawn.name == "dog" else hand.draw([s])[0] for s in sketches]

    shy = type("Shy", (ImageGenerator,), {"draw": prudish})(
        hand.model, hand.describe, hand.arguments
    )
    with pytest.raises(DpmixError, match=f"withheld an image of class 'dog' {ATTEMPTS} times"):
        run(tmp_path / "pool", shy, count=2)
    assert sorted(files(tmp_path / "pool")) == ["cat/00000.png", "cat/00001.png"]


def test_seeds_differ_within_a_class_and_fit_in_32_bits():
    seeds = [image_seed(3, "cat", number) for number in range(5000)]
    assert len(set(seeds)) == 5000
    assert all(0 <= seed < 2**32 for seed in seeds)
    others = {image_seed(4, "cat", 0), image_seed(3, "dog", 0), image_seed(3, "cat", 0, 1)}
    assert len({*others, seeds[0]}) == 4


def test_a_folder_in_use_is_refused(tmp_path, hand):
    (tmp_path / "pool").mkdir()
    with (
        FileLock(tmp_path / "pool" / ".lock"),
        pytest.raises(DpmixError, match="is being drawn by another process"),
    ):
        run(tmp_path / "pool", hand)


def test_a_folder_that_holds_something_else_is_left_alone(class_folder, hand):
    root = class_folder("scans", {"cat": 2})
    before = files(root)
    with pytest.raises(DpmixError, match="holds something else"):
        run(root, hand)
    assert files(root) == before


def test_a_place_that_cannot_be_written_is_refused(tmp_path, hand):
    (tmp_path / "file").touch()
    with pytest.raises(DpmixError, match="cannot write the pool"):
        run(tmp_path / "file" / "pool", hand)


@pytest.mark.usefixtures("no_space")
def test_a_full_disk_is_said_and_what_is_drawn_is_kept(tmp_path, hand):
    run(tmp_path / "pool", hand, CLASSES[:1], count=2)  # small enough for the limit
    larger = image_generator(
        hand.model, CLASSES, template=SETTINGS.template, size=64, steps=1, guidance=None
    )
    with pytest.raises(DpmixError, match="cannot write"):
        run(tmp_path / "pool", larger, count=2)
    assert sorted(files(tmp_path / "pool")) == ["cat/00000.png", "cat/00001.png"]
    assert not list((tmp_path / "pool").rglob("*.part"))
    assert run(tmp_path / "pool", hand, count=2).fresh == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"count": 0}, "images-per-class is 0"), ({"batch": 0}, "batch is 0")],
)
def test_counts_below_one_are_refused(tmp_path, hand, changes, said):
    with pytest.raises(DpmixError, match=said):
        run(tmp_path / "pool", hand, **changes)
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("field", "value"), [("draw_size", 0), ("image_size", -1), ("steps", 0), ("seed", -1)]
)
def test_settings_out_of_range_are_refused(field, value):
    settings = {
        "template": "{class}", "draw_size": None, "image_size": None, "steps": None,
        "guidance": None, "seed": 0, "dtype": "float32",
    }  # fmt: skip
    with pytest.raises(DpmixError, match=f"{field} is {value}"):
        SynthesisSettings(**(settings | {field: value}))


def test_the_journal_is_readable_lines(tmp_path, hand):
    def stop(done, total):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "pool", hand, batch=1, report=stop)
    head, *lines = map(json.loads, (tmp_path / "pool" / JOURNAL).read_text().splitlines())
    assert head["settings"]["steps"] == 1
    assert [line["file"] for line in lines if "file" in line] == ["cat/00000.png", "cat/00001.png"]


class Overflowing(ImageGenerator):
    """Its model yields no finite number from the fourth image on."""

    def draw(self, sketches):
        if sketches[0].drawn.name == "dog":
            with torch.no_grad():
                next(self.model.pipe.unet.parameters()).fill_(float("nan"))
        return super().draw(sketches)


def test_a_batch_that_is_no_picture_is_not_written_and_what_was_drawn_is_kept(tmp_path, models):
    def make(kind):
        model = load_model(
            str(models / "sd"), revision=None, download=False, licence=None,
            device=torch.device("cpu"), dtype=torch.float32, attention_slicing=False,
        )  # fmt: skip
        good = image_generator(
            model, CLASSES, template=SETTINGS.template, size=None, steps=1, guidance=None
        )
        return kind(good.model, good.describe, good.arguments)

    with pytest.raises(DpmixError, match="not finite"):
        run(tmp_path / "pool", make(Overflowing), batch=3)
    kept = files(tmp_path / "pool")
    assert sorted(kept) == [f"cat/{i:05}.png" for i in range(3)]
    assert run(tmp_path / "pool", make(ImageGenerator), batch=3).fresh == 3
    assert kept.items() <= files(tmp_path / "pool").items()
