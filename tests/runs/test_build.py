"""From settings to a run, before anything is trained or written."""

import shutil

import pytest

from dpmix.errors import DpmixError
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.training.distributed import Ranks


@pytest.fixture
def build(image_root, quick):
    def run(ranks=None, **settings):
        config = Config.load(**{"data": str(image_root), **quick, **settings})
        return build_run(config, **({"ranks": ranks} if ranks else {}))

    return run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k_base": -1, "data": "EMPTY"}, "k_base is -1"),
        ({"pool": "PUBLIC", "data": "EMPTY"}, "method mix-self reads no public pool"),
        (
            {"model": None, "backbone": "scatternet", "feature_norm": "whiten", "data": "EMPTY"},
            "feature_norm whiten needs public images.*--pool",
        ),
        ({"model": "wrn-16-5"}, "unknown model 'wrn-16-5': did you mean 'wrn-16-4'"),
    ],
)
def test_a_mistake_in_the_settings_comes_before_one_in_the_data(
    build, public_root, tmp_path, settings, message
):
    (tmp_path / "EMPTY" / "a").mkdir(parents=True)
    places = {"EMPTY": str(tmp_path / "EMPTY"), "PUBLIC": str(public_root)}
    with pytest.raises(DpmixError, match=message):
        build(**{name: places.get(value, value) for name, value in settings.items()})


@pytest.mark.parametrize(
    ("pool", "home"), [("images", "data"), ("images/train/../test", "pool"), (".", "pool")]
)
def test_a_pool_that_overlaps_the_private_images_is_refused(
    build, image_root, tmp_path, pool, home, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = "~/images" if home == "data" else str(image_root)
    place = f"~/{pool}" if home == "pool" else str(tmp_path / pool)
    with pytest.raises(DpmixError, match="overlaps the private data"):
        build(data=data, method="mix-diff", pool=place)


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_pool_with_a_copy_of_a_private_image_is_refused(build, image_root, public_root, side):
    shutil.copy(image_root / side / "disc" / "003.png", public_root / "stripes" / "x.png")
    kind = {"train": "training", "test": "test"}[side]
    with pytest.raises(DpmixError, match=rf"not public: 1 .*private {kind} .*stripes/x\.png"):
        build(method="mix-diff", pool=str(public_root))


def test_processes_compare_what_must_be_equal_and_not_where_it_is(build, image_root, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(image_root, moved)
    here = build().fixed()
    assert here == build(workers=1, output="a", device="cpu", data=str(moved)).fixed()
    for changes in ({"max_grad_norm": 2.0}, {"k_base": 3}, {"seed": 1}, {"learning_rate": 0.2}):
        assert here != build(**changes).fixed()
    shutil.copy(moved / "test" / "disc" / "000.png", moved / "train" / "disc" / "000.png")
    assert here != build(data=str(moved)).fixed()


def test_copies_of_an_image_are_found_in_all_processes_images(build, image_root):
    """Where an image occurs more than once, whatever its class and whoever trains on it."""
    discs, stripes = (image_root / "train" / name for name in ("disc", "stripes"))
    for place in range(2):
        shutil.copy(stripes / "001.png", discs / f"10{place}.png")
    wanted = "more than once in the training set, the most frequent one 3 times"
    for given in ({}, {"ranks": Ranks(0, 2)}, {"ranks": Ranks(1, 2)}, {"expected_runs": 5.0}):
        with pytest.raises(DpmixError, match=wanted):
            build(**given)
    assert build(allow_repeats=True).copies == 3
    assert build(epsilon=float("inf")).copies == 1, "nothing is claimed, so nothing is counted"
