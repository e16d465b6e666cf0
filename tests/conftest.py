"""Small real data that several tests train on."""

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from pictures import draw, noise_picture, write_class_folders


@pytest.fixture
def unchecked(monkeypatch):
    """Runs the package as users do, without checks of annotations.

    For tests that pass what the annotations forbid, and for those that watch the generators and the
    warnings, which the type checker uses too.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def image_root(tmp_path):
    """`images/{train,test}/{disc,stripes}/*.png`: 40 training and 10 test images of each class."""
    rng = np.random.default_rng(5)
    for side, count in (("train", 40), ("test", 10)):
        write_class_folders(tmp_path / "images" / side, count, rng)
    return tmp_path / "images"


@pytest.fixture
def digits_npz(tmp_path):
    """A tiny npz in the `x_train, y_train, x_test, y_test` layout, two classes, 12 x 12 grey."""
    rng = np.random.default_rng(6)

    def split(count):
        labels = np.arange(count) % 2
        return np.stack([draw(label, rng) for label in labels]), labels

    (x_train, y_train), (x_test, y_test) = split(60), split(16)
    path = tmp_path / "tiny.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture
def quick():
    """Settings of a run that takes a second."""
    return {
        "model": "cnn-small",
        "expected_batch_size": 10,
        "steps": 2,
        "k_base": 2,
        "k_self": 2,
        "epsilon": 2,
        "delta": 1e-3,
        "crop_padding": 2,
    }


@pytest.fixture
def plain_pages(monkeypatch):
    """Runs write their guarantee as their page, without charts, which take a second."""
    monkeypatch.setattr("dpmix.runs.record.report_page", lambda run: run.statement.guarantee)


@pytest.fixture
def class_folder(tmp_path) -> Callable[..., Path]:
    """class_folder("root", {"cat": 3, "dog": 2}): writes root/<class>/<i>.png, all different."""

    def build(name: str, counts: dict[str, int], seed=0, **kind) -> Path:
        for label, count in counts.items():
            (tmp_path / name / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                seed += 1
                image = noise_picture(
                    **({"mode": "RGB", "height": 8, "width": 8} | kind), seed=seed
                )
                image.save(tmp_path / name / label / f"{i}.png")
        return tmp_path / name

    return build


@pytest.fixture
def truncate() -> Callable[[Path], None]:
    """Cut a file in half."""
    return lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def public_root(tmp_path):
    """`public/{disc,stripes}/*.png`: 15 images of each class, none of them in `image_root`."""
    return write_class_folders(tmp_path / "public", 15, np.random.default_rng(99))


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with the text-to-image pipeline `sd`."""
    import tiny_diffusion

    folder = tmp_path_factory.mktemp("models")
    tiny_diffusion.stable_diffusion(folder)
    return folder


@pytest.fixture
def no_space():
    """No file of this process may grow beyond 4 KiB: the kernel's own way to fill a disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)
