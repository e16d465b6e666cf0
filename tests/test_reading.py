"""A run is judged, predicted with and resumed by the rule by which its own pictures were read."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dpmix
from dpmix.data import decode_files, load_splits
from dpmix.data.image import READING
from dpmix.runs import build
from dpmix.runs.export import export_run
from dpmix.runs.fit import train_run
from dpmix.runs.load import evaluation_images, load_run
from dpmix.runs.predict import predictions
from dpmix.runs.resume import rebuild_run
from dpmix.training.evaluate import evaluate
from pictures import CLASSES, draw

RULES = pytest.mark.parametrize("reading", [1, 2])


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


@pytest.fixture
def settings(photos, quick):
    return quick | {
        "data": str(photos), "image_size": 12, "steps": 4, "eval_every": 2, "checkpoint_every": 1,
        "device": "cpu", "seed": 7,
    }  # fmt: skip


@RULES
def test_a_run_is_judged_predicted_with_and_exported_as_it_was_trained(
    photos, settings, tmp_path, monkeypatch, reading
):
    monkeypatch.setattr(build, "READING", reading)
    result = dpmix.fit(output=str(tmp_path / "run"), **settings)
    config = tmp_path / "run" / "config.yaml"
    if reading == 1:  # as runs were written when there was one rule
        assert "  reading: 1\n" in config.read_text()
        config.write_text(config.read_text().replace("  reading: 1\n", ""))
    saved = load_run(tmp_path / "run", "cpu")
    assert saved.input.reading == reading
    expected = load_splits(str(photos), image_size=12, reading=reading).test.pixels
    for data in (None, str(photos)):
        source = evaluation_images(saved, data, None, False)
        assert torch.equal(source.pixels, expected)
        again = evaluate(saved.model, source, saved.normalization, torch.device("cpu"))
        assert again.loss == pytest.approx(result.evaluation.loss)
    files = sorted((photos / "test").rglob("*.png"))
    (pixels,) = decode_files(files, (1, 12, 12), reading)
    (others,) = decode_files(files, (1, 12, 12), 3 - reading)
    assert not torch.equal(pixels, others)
    with torch.inference_mode():
        scores = saved.model(saved.normalization(pixels)).softmax(dim=1)
    given = [one.probabilities for one in predictions(saved, files, torch.device("cpu"))]
    np.testing.assert_allclose(given, scores, atol=1e-6)
    if reading == READING:
        export_run(tmp_path / "run", "hub", tmp_path / "hub")
        assert "turned upright" in (tmp_path / "hub" / "README.md").read_text()


@RULES
def test_a_stopped_run_reads_its_pictures_as_it_began(settings, tmp_path, monkeypatch, reading):
    class StoppedError(Exception):
        pass

    def stop(now):
        if now.step == 2:
            raise StoppedError

    monkeypatch.setattr(build, "READING", reading)
    dpmix.fit(output=str(tmp_path / "whole"), **settings)
    with pytest.raises(StoppedError):
        dpmix.fit(output=str(tmp_path / "run"), report=stop, **settings)
    monkeypatch.setattr(build, "READING", READING)
    parts, checkpoint = rebuild_run(tmp_path / "run")
    assert parts.config.input.reading == reading
    train_run(parts, checkpoint=checkpoint)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    if reading == 1:  # a new run from its settings reads by the new rule
        new = dpmix.fit(tmp_path / "whole" / "config.yaml", output=str(tmp_path / "new"))
        assert new.config.input.reading == READING
