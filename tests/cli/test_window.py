"""Deep images, as typed: a run on them is that on the 8-bit pictures that the window gives."""

import csv
import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file

pytestmark = pytest.mark.usefixtures("unchecked", "plain_pages")


def deep_png(path, pixels):
    Image.fromarray(pixels.astype(np.uint16) * 100 + 5000).save(path)


def dicom(path, pixels):
    from dicom_files import dicom_bytes

    stored = pixels.astype(np.uint16) + 24
    path.with_suffix(".dcm").write_bytes(
        dicom_bytes(stored, 12, RescaleSlope=1, RescaleIntercept=-1024,
                    WindowCenter=-872, WindowWidth=256)
    )  # fmt: skip
    path.unlink()


def ours(rows):
    """Class and probabilities of one image, without its name."""
    (row,) = csv.DictReader(io.StringIO(rows))
    return {key: value for key, value in row.items() if key != "image"}


# Each maps the deep values back to those of `image_root`.
@pytest.mark.parametrize(("convert", "window"), [
    (deep_png, "17750.5,25501"), (dicom, "dicom"),
    pytest.param(dicom, "-872,256", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_run_through_a_window_is_that_on_the_8_bit_pictures(
    dpmix, flags, image_root, tmp_path, convert, window
):
    if convert is dicom:
        pytest.importorskip("pydicom")
    train = ("train", "--data", image_root, *flags, "--seed", 1, "--device", "cpu")
    assert dpmix(*train, "--output", tmp_path / "eight")[::2] == (0, "")
    one = image_root / "test" / "disc" / "000.png"
    expected = dpmix("predict", tmp_path / "eight", one)[1]

    for path in image_root.rglob("*.png"):
        convert(path, np.asarray(Image.open(path)))
    status, _, err = dpmix(*train, "--output", tmp_path / "none")
    assert status == 2 and "--window CENTER,WIDTH" in err and not (tmp_path / "none").exists()
    run = tmp_path / "deep"
    status, out, err = dpmix(*train, "--window", window, "--dry-run")
    assert (status, err) == (0, "") and f"more than 8 bits through the window {window}" in out
    assert dpmix(*train, "--window", window, "--output", run)[::2] == (0, "")
    weights = [load_file(folder / "model.safetensors") for folder in (run, tmp_path / "eight")]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[1])

    one = one if convert is deep_png else one.with_suffix(".dcm")
    for source in (run, run / "model.safetensors"):
        status, rows, err = dpmix("predict", source, one)
        assert (status, err) == (0, "") and ours(rows) == ours(expected)
    measured = json.loads(dpmix("evaluate", run, "--json")[1])
    assert measured["images"] == 20
    assert dpmix("evaluate", run, "--data", image_root)[0] == 0
    said = json.loads((run / "privacy.json").read_text())["assumptions"]
    assumed = [text for text in said if "intensity window was chosen without looking" in text]
    assert len(assumed) == (window != "dicom")
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["window"] == window
    assert window in (run / "MODEL_CARD.md").read_text()
    status, out, _ = dpmix("verify", run)
    assert status == 0 and "holds" in out


def test_a_window_that_is_none_is_refused_before_an_image_is_read(dpmix, tmp_path):
    (tmp_path / "scans" / "a").mkdir(parents=True)
    status, _, err = dpmix("train", "--data", tmp_path / "scans", "--window", "40")
    assert status == 2 and "window is '40'; expected CENTER,WIDTH" in err
