"""A head that starts at the words of its classes, by a text tower that was trained for it."""

import numpy as np
import pytest
import torch

import dpmix
from dpmix.data import load_splits
from dpmix.errors import DpmixError

tiny_clip = pytest.importorskip("tiny_clip")


@pytest.fixture
def settings(tmp_path):
    tiny_clip.register(tmp_path)
    return {
        "backbone": f"open_clip:{tiny_clip.NAME}", "backbone_weights": str(tmp_path),
        "cache_dir": str(tmp_path / "features"), "output": str(tmp_path / "run"), "steps": 2,
        "method": "none", "cache_views": 1, "seed": 1, "data": str(tmp_path / "digits.npz"),
    }  # fmt: skip


def write_digits(path, names):
    """Public digits [N, 3, 28, 28] in 0..1 and their labels; the others become private data."""
    train = load_splits("mnist5k", channels=3).train
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    pixels, labels = train.images(order), train.labels[order]
    grey = pixels[:, 0].numpy()
    np.savez(
        path, x_train=grey[3000:3400], y_train=labels[3000:3400], x_test=grey[3400:],
        y_test=labels[3400:], class_names=np.array(names),
    )  # fmt: skip
    return pixels[:3000].float() / 255, labels[:3000]


@pytest.mark.slow
def test_a_trained_text_tower_knows_the_classes_before_any_private_image(settings, tmp_path):
    tiny_clip.train_and_save(tmp_path, *write_digits(tmp_path / "digits.npz", tiny_clip.WORDS))
    result = dpmix.fit(**settings)
    assert result.config.model.head_start == "text" and result.start_score > 0.6
    assert abs(result.evaluation.accuracy - result.start_score) < 0.2


def test_the_start_is_the_cosine_of_image_and_words_at_the_towers_own_scale(settings, tmp_path):
    write_digits(tmp_path / "digits.npz", tiny_clip.WORDS)
    tiny_clip.train_and_save(tmp_path, torch.rand(8, 3, 28, 28), torch.arange(8), steps=1)
    result = dpmix.fit(**settings | {"learning_rate": 1e-12})
    model = tiny_clip.open_clip.create_model(
        tiny_clip.NAME, pretrained=str(tmp_path / "open_clip_pytorch_model.bin")
    ).eval()
    images = torch.rand(5, 3, 28, 28)
    words = tiny_clip.open_clip.get_tokenizer(tiny_clip.NAME)(
        [f"a photo of a {word}" for word in tiny_clip.WORDS]
    )
    with torch.inference_mode():
        seen, read, scale = model(images, words)
        assert torch.allclose(result.model(images), scale * seen @ read.T, atol=1e-3)


def test_numbers_are_no_words(settings, tmp_path):
    write_digits(tmp_path / "digits.npz", [str(number) for number in range(10)])
    tiny_clip.train_and_save(tmp_path, torch.rand(8, 3, 28, 28), torch.arange(8), steps=1)
    with pytest.raises(DpmixError, match=r"class '0' is no word; .*--head-start zero"):
        dpmix.fit(**settings | {"head_start": "text"})
    assert dpmix.fit(**settings).config.model.head_start == "zero"
