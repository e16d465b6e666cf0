"""A run is judged and predicted with on pictures that are read as those that it was trained on."""

import numpy as np
import pytest
import torch
from PIL import Image

import dpmix
from dpmix.data import decode_files, load_splits
from dpmix.runs.load import evaluation_images, load_run
from dpmix.runs.predict import predictions
from dpmix.training.evaluate import evaluate
from pictures import CLASSES, draw


@pytest.fixture
def photos(tmp_path):
    """Wide pictures that lie on their side, by a tag that says so."""
    rng = np.random.default_rng(3)
    for side, count in (("train", 12), ("test", 6)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "photos" / side / name
            folder.mkdir(parents=True)
            for i in range(count):
                wide = np.hstack([draw(label, rng), rng.integers(0, 256, (12, 9), dtype=np.uint8)])
                tags = Image.Exif()
                tags[0x0112] = 6
                Image.fromarray(wide).save(folder / f"{i}.png", exif=tags)
    return tmp_path / "photos"


def test_a_run_is_judged_and_predicted_with_as_it_was_trained(photos, quick, tmp_path):
    result = dpmix.fit(
        data=str(photos), image_size=12, device="cpu", output=str(tmp_path / "run"), **quick
    )
    saved = load_run(tmp_path / "run", "cpu")
    expected = load_splits(str(photos), image_size=12).test.pixels
    for data in (None, str(photos)):
        source = evaluation_images(saved, data, None, None, False)
        assert torch.equal(source.pixels, expected)
        again = evaluate(saved.model, source, saved.normalization, torch.device("cpu"))
        assert again.loss == pytest.approx(result.evaluation.loss)
    files = sorted((photos / "test").rglob("*.png"))
    (pixels,) = decode_files(files, (1, 12, 12))
    assert torch.equal(pixels, expected)
    with torch.inference_mode():
        scores = saved.model(saved.normalization(pixels)).softmax(dim=1)
    given = [one.probabilities for one in predictions(saved, files, torch.device("cpu"))]
    np.testing.assert_allclose(given, scores, atol=1e-6)


def test_other_folders_without_training_images_are_measured_whole(photos, quick, tmp_path):
    run = tmp_path / "run"
    dpmix.fit(data=str(photos), image_size=12, device="cpu", output=str(run), **quick)
    saved, expected = load_run(run, "cpu"), 6 * len(CLASSES)
    lone = tmp_path / "lone"
    (photos / "test").rename(lone)
    assert len(evaluation_images(saved, str(lone), None, None, False)) == expected
    (tmp_path / "around").mkdir()
    lone.rename(tmp_path / "around" / "test")
    assert len(evaluation_images(saved, str(tmp_path / "around"), None, None, False)) == expected


@pytest.mark.filterwarnings("ignore:.*look like several images")
def test_the_own_data_again_are_split_as_in_the_training(photos, quick, tmp_path):
    run, whole = tmp_path / "run", photos / "train"
    dpmix.fit(
        data=str(whole), test_fraction=0.6, image_size=12, device="cpu", output=str(run), **quick
    )
    saved = load_run(run, "cpu")
    own = evaluation_images(saved, None, None, None, False)
    again = evaluation_images(saved, f"{whole}/", None, None, False)
    assert own.names == again.names
    assert len(own) < 12 * len(CLASSES)
