"""One's own weights see images by the constants that they were trained with."""

import pytest
import torch

from dpmix.data.normalization import normalization
from dpmix.errors import DpmixError
from dpmix.runs.config import Config
from dpmix.runs.defaults import choose_model
from dpmix.runs.network import load_backbone_of

timm = pytest.importorskip("timm")
CPU = torch.device("cpu")


@torch.inference_mode()
def test_grey_pixels_give_the_features_of_the_network_for_grey(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("test_vit", num_classes=5, in_chans=1).eval()
    torch.save({"model": source.state_dict()}, tmp_path / "grey.pth")
    named = {"backbone": "timm:test_vit", "backbone_weights": str(tmp_path / "grey.pth")}
    size = source.patch_embed.img_size
    pixels = torch.randint(0, 256, (3, 1, *size), dtype=torch.uint8)
    expected = source.forward_head(
        source.forward_features(normalization("unit", 1)(pixels)), pre_logits=True
    )
    backbone = load_backbone_of(Config.load(normalization="unit", **named), CPU)
    torch.testing.assert_close(backbone.features(pixels), expected, rtol=1e-4, atol=1e-5)
    # The library's own constants are other ones, and another hash.
    other = load_backbone_of(Config.load(**named), CPU)
    assert not torch.allclose(other.features(pixels), expected, rtol=1e-2)
    assert other.weights_sha256 != backbone.weights_sha256


def test_constants_for_a_published_backbone_are_refused():
    with pytest.raises(DpmixError, match=r"own constants.*or give --backbone-weights"):
        choose_model(Config.load(backbone="timm:test_vit", normalization="half"))
    chosen = choose_model(
        Config.load(backbone="timm:test_vit", normalization="half", backbone_weights="w.pth")
    )
    assert (chosen.data.normalization, chosen.data.channels) == ("half", 3)
