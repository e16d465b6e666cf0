"""Asking real (tiny) pipelines for images."""

from operator import attrgetter

import numpy as np
import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.pool.diffusion_model import DiffusionModel, ImageRequest, image_generator, load_model
from dpmix.pool.prompts import PoolClass

CAT, DOG = PoolClass("cat", "cat"), PoolClass("dog", "dog")


@pytest.fixture
def hand(models):
    """hand("sd", (CAT,), steps=1): an artist of one of the tiny pipelines."""

    def make(name, classes=(CAT, DOG), **settings):
        model = load_model(
            str(models / name), revision=None, download=False, licence=None,
            device=torch.device("cpu"), dtype=torch.float32, attention_slicing=False,
        )  # fmt: skip
        chosen = {"template": "a photo of a {class}", "size": None, "steps": 2, "guidance": None}
        return image_generator(model, classes, **(chosen | settings))

    return make


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["sd", "dit"])
def test_an_image_depends_on_its_seed_and_class_and_not_on_its_batch(hand, name):
    draw = hand(name).draw
    together = draw([ImageRequest(CAT, 1), ImageRequest(CAT, 2), ImageRequest(DOG, 1)])
    alone = [draw([ImageRequest(*sketch)])[0] for sketch in ((CAT, 1), (CAT, 2), (DOG, 1))]
    for one, other in zip(together, alone, strict=True):
        assert one.mode == "RGB" and one.size == (16, 16)
        # Sums of another batch size round otherwise, by a grey level at most.
        assert abs(pixels(one) - pixels(other)).max() <= 1
    assert abs(pixels(together[0]) - pixels(together[1])).mean() > 5
    assert (pixels(together[0]) != pixels(together[2])).any()


def test_size_steps_and_guidance_reach_the_pipeline(hand):
    plain = hand("sd").draw([ImageRequest(CAT, 1)])[0]
    wide = hand("sd", size=32).draw([ImageRequest(CAT, 1)])[0]
    assert wide.size == (32, 32)
    for changed in ({"steps": 4}, {"guidance": 1.0}, {"template": "{class}"}):
        assert (
            pixels(hand("sd", **changed).draw([ImageRequest(CAT, 1)])[0]) != pixels(plain)
        ).any()


def test_what_the_manifest_says_of_a_class(hand):
    assert hand("sd").describe(DOG) == "a photo of a dog"
    assert hand("dit").describe(DOG) == "class label 1"


@pytest.mark.parametrize("phrase", ["Tabby", "cat", "#0"])
def test_a_class_label_is_found_by_any_of_its_names_or_its_number(hand, phrase):
    assert hand("dit", (PoolClass("x", phrase),)).describe(PoolClass("x", phrase)) == (
        "class label 0"
    )


@pytest.mark.parametrize("phrase", ["wolf", "7", "0", "#7"])
def test_a_class_that_the_model_lacks_is_refused(hand, phrase):
    said = f"has no class '{phrase}': .*fox.*; write 'x: LABEL' or 'x: #NUMBER'"
    with pytest.raises(DpmixError, match=said):
        hand("dit", (PoolClass("x", phrase),))


def test_a_setting_that_the_pipeline_lacks_is_refused(hand):
    with pytest.raises(DpmixError, match="DiTPipeline has no height, width; leave"):
        hand("dit", size=32)


def test_settings_that_the_pipeline_refuses_are_one_line(hand):
    with pytest.raises(DpmixError, match=r"fails to draw with these settings: .*divisible by 8"):
        hand("sd", size=13).draw([ImageRequest(CAT, 1)])


def test_what_the_safety_checker_withheld_is_no_image(hand, monkeypatch):
    drawer = hand("sd")
    real = type(drawer.model.pipe).__call__

    def checked(self, *args, **kwargs):
        made = real(self, *args, **kwargs)
        made.nsfw_content_detected = [False, True]
        return made

    monkeypatch.setattr(type(drawer.model.pipe), "__call__", checked)
    first, second = drawer.draw([ImageRequest(CAT, 1), ImageRequest(CAT, 2)])
    assert first is not None and second is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_too_little_memory_is_said_with_the_remedies(hand, monkeypatch, error):
    drawer = hand("sd")

    def fail(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(type(drawer.model.pipe), "__call__", fail)
    with pytest.raises(DpmixError, match=r"too little memory on cpu .*--attention-slicing"):
        drawer.draw([ImageRequest(CAT, 1)])


@pytest.fixture
def unconditional():
    """A real pipeline that draws without being asked for anything."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    return DDPMPipeline(unet, DDPMScheduler())


def test_a_pipeline_that_can_be_asked_for_no_class_is_refused(hand, unconditional):
    record = hand("sd").model.record.model_copy(update={"pipeline": "DDPMPipeline"})
    chosen = {"template": "{class}", "size": None, "steps": None, "guidance": None}
    with pytest.raises(DpmixError, match="DDPMPipeline draws neither from a prompt nor"):
        image_generator(DiffusionModel(unconditional, record), (CAT,), **chosen)


@pytest.mark.parametrize("part", ["unet", "vae.decoder"])
@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [(torch.float32, "another --model"), (torch.bfloat16, "give --dtype float32, with another")],
)
def test_what_is_not_finite_is_no_image(hand, part, dtype, remedy):
    broken = hand("sd")
    broken.model.pipe.to(dtype)
    with torch.no_grad():
        next(attrgetter(part)(broken.model.pipe).parameters()).fill_(float("nan"))
    with pytest.raises(DpmixError, match=f"of class 'dog' .* is not finite, .*{remedy}"):
        broken.draw([ImageRequest(DOG, 1), ImageRequest(CAT, 2)])


@pytest.mark.parametrize("name", ["sd", "dit"])
@pytest.mark.parametrize("level", [0.0, -9.0, 9.0])
def test_an_image_of_one_colour_is_no_image(hand, name, level):
    broken = hand(name)
    with torch.no_grad():
        last = broken.model.pipe.vae.decoder.conv_out
        last.weight.zero_()
        last.bias.fill_(level)
    with pytest.raises(DpmixError, match=r"of class 'cat' .* in float32 is of one colour, so"):
        broken.draw([ImageRequest(CAT, 1)])


def test_pixels_are_those_that_the_pipeline_would_save(hand):
    one = hand("sd")
    seed = torch.Generator("cpu").manual_seed(1)
    asked = one.arguments([ImageRequest(CAT, 1)]) | {"output_type": "pil"}
    expected = one.model.pipe(**asked, generator=[seed]).images[0]
    assert (pixels(one.draw([ImageRequest(CAT, 1)])[0]) == pixels(expected)).all()
