"""Drawing a pool with a real (tiny) model: whole, stopped, resumed."""

import os
import shutil
import signal
import threading
import time
import warnings
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from dpmix.errors import DpmixError
from dpmix.pool.diffusion_model import DiffusionModel
from dpmix.pool.generate import ATTEMPTS, SynthesisSettings, image_seed, synthesize
from dpmix.pool.load import open_pool
from dpmix.pool.manifest import Manifest
from dpmix.pool.prompts import PoolClass, as_classes

CLASSES = as_classes(("cat", "dog"))
SETTINGS = SynthesisSettings("a photo of a {class}", None, None, 1, None, 0, "float32")


@pytest.fixture(scope="module")
def model(load):
    return load()


def run(root, model, classes=CLASSES, settings=SETTINGS, count=3, batch=2, progress=None):
    return synthesize(
        root, model, classes, settings, images_per_class=count, batch=batch,
        progress=progress or (lambda done, total: None),
    )  # fmt: skip


def drawing(model, draw):
    """The model, with another way to draw."""
    kind = type("Other", (DiffusionModel,), {"draw": lambda self, *asked: draw(*asked)})
    return kind(model.pipe, model.record)


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.png")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model):
    """An undisturbed pool of three images of each class, drawn one at a time; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "pool"
    seen = []
    assert run(root, model, batch=1, progress=lambda *step: seen.append(step)) == (6, 6)
    assert seen == [(done, 6) for done in range(7)]
    return root


@pytest.fixture
def pool(whole, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "pool")


def test_a_pool_is_drawn_described_and_can_be_opened(whole):
    names = [f"{name}/{i:05}.png" for name in ("cat", "dog") for i in range(3)]
    assert sorted(files(whole)) == names
    opened = open_pool(whole)
    assert opened.class_names == ("cat", "dog")
    manifest = opened.manifest
    assert [image.file for image in manifest.images] == names
    assert manifest.images[3].prompt == "a photo of a dog"
    assert manifest.images[4].seed == image_seed(0, "dog", 1)
    assert manifest.model.licence == "openrail"
    assert manifest.settings["template"] == SETTINGS.template
    assert manifest.versions.keys() == {"dpmix", "diffusers", "transformers", "torch"}
    assert Image.open(whole / names[0]).size == (16, 16)


def test_more_images_and_classes_leave_the_others_as_they_were(tmp_path, model, whole):
    root = tmp_path / "pool"
    run(root, model, CLASSES[:1], count=2, batch=1)
    before = files(root)
    assert run(root, model, batch=1) == (6, 4)
    assert before.items() <= files(root).items()
    assert files(root) == files(whole)


def test_only_what_is_missing_or_was_changed_is_drawn(pool, model, whole):
    assert run(pool, model) == run(pool, model, count=1) == (6, 0)
    shutil.copy(pool / "cat" / "00000.png", pool / "dog" / "00001.png")
    assert run(pool, model, batch=1) == (6, 1)
    assert files(pool) == files(whole)
    open_pool(pool)


@pytest.mark.parametrize(("file", "content"), [("cat/00003.png", b"mine"), ("fox/00000.png", None)])
def test_a_file_that_dpmix_did_not_make_is_never_overwritten(pool, model, file, content):
    mine = pool / file
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(content or (pool / "cat" / "00000.png").read_bytes())
    before = files(pool), (pool / "manifest.json").read_bytes()
    with pytest.raises(DpmixError, match=rf"did not make \({file}\).*move them elsewhere"):
        run(pool, model, as_classes(("cat", "dog", "fox")), count=4)
    assert before == (files(pool), (pool / "manifest.json").read_bytes())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": replace(SETTINGS, steps=2)}, "steps 1, not 2; give the same settings"),
        (
            {"classes": (PoolClass("cat", "big cat"), CLASSES[1])},
            "the prompt of class 'cat' 'a photo of a cat', not 'a photo of a big cat'",
        ),
    ],
)
def test_images_are_not_mixed_with_those_of_other_settings(pool, model, changes, said):
    with pytest.raises(DpmixError, match=f"was begun with {said}"):
        run(pool, model, count=4, **changes)
    assert len(files(pool)) == 6
    (pool / "manifest.json").write_text(  # as of a process that was killed before it drew any
        Manifest.read(pool).model_copy(update={"images": ()}).model_dump_json()
    )
    with pytest.raises(DpmixError, match=f"was begun with {said}"):
        run(pool, model, count=4, **changes)


def test_a_run_that_stops_resumes_to_the_pool_of_an_undisturbed_one(tmp_path, model, whole):
    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "pool", model, batch=1, progress=stop)
    assert len(open_pool(tmp_path / "pool").manifest.images) == 4
    assert run(tmp_path / "pool", model, batch=1) == (6, 2)
    assert files(tmp_path / "pool") == files(whole)


def test_a_process_that_is_killed_resumes_where_it_stopped(tmp_path, model):
    root = tmp_path / "pool"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the child has the parent's threads: it needs none
        child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            # tqdm's own is shared by processes: a child that is killed would keep it for ever.
            tqdm.set_lock(threading.RLock())
            run(root, model, count=1000, batch=1)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(files(root)) <= 5:
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    there = files(root)
    assert 5 <= len(there) < 1000
    with pytest.raises(DpmixError, match="files not in it"):
        open_pool(root)
    assert run(root, model, count=len(there), batch=1) == (2 * len(there), len(there))
    assert len(open_pool(root).images) == 2 * len(there)
    assert there.items() <= files(root).items()
    assert not list(root.rglob("*.part"))


def test_withheld_images_are_drawn_again_from_another_seed_and_not_for_ever(tmp_path, model):
    asked = []

    def refusing(prompts, seeds, arguments):
        asked.append(seeds)
        images = model.draw(prompts, seeds, arguments)
        withheld = "dog" in prompts[0] or len(asked) == 1
        return [None, *images[1:]] if withheld else images

    with pytest.raises(DpmixError, match=f"withheld an image of class 'dog' {ATTEMPTS} times"):
        run(tmp_path / "pool", drawing(model, refusing), count=2)
    assert asked[1] == [image_seed(image_seed(0, "cat", 0), "cat", 0)]
    images = open_pool(tmp_path / "pool").manifest.images
    assert [image.file for image in images] == ["cat/00000.png", "cat/00001.png"]
    assert [image.seed for image in images] == [asked[1][0], asked[0][1]]


def test_a_folder_in_use_with_other_contents_or_that_cannot_be_made_is_refused(
    tmp_path, class_folder, model
):
    (tmp_path / "pool").mkdir()
    (tmp_path / "file").touch()
    root = class_folder("scans", {"cat": 2})
    before = files(root)
    with (
        FileLock(tmp_path / "pool" / ".lock"),
        pytest.raises(DpmixError, match="is in use by another process"),
    ):
        run(tmp_path / "pool", model)
    with pytest.raises(DpmixError, match="holds something other than a pool"):
        run(root, model)
    assert files(root) == before
    for place in ("file", "file/pool"):
        with pytest.raises(DpmixError, match="cannot make pool"):
            run(tmp_path / place, model)
