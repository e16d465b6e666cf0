"""Weights as trainings of one's own domain write them give the features of their network."""

import warnings
from argparse import Namespace
from functools import cache

import pytest
import torch
from torch import nn

from dpmix.errors import DpmixError
from dpmix.models.backbones import load_backbone

timm = pytest.importorskip("timm")
CPU = torch.device("cpu")
NAMES = ("test_vit", "test_convnext", "test_resnet")


@cache
def network(name, channels=3, seed=0):
    """A network with a classifier, nothing of it at its first value."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=5, in_chans=channels)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.01 * torch.rand(tensor.shape))
    return model.eval()


def plain(name, **which):
    return dict(network(name, **which).state_dict())


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


@torch.inference_mode()
def features(name, images, **which):
    source = network(name, **which)
    return source.forward_head(source.forward_features(images), pre_logits=True)


def images(backbone, channels=3):
    torch.manual_seed(1)
    return torch.randn(2, channels, *2 * (backbone.module.input_size,))


def loaded(name, held, folder):
    path = folder / "weights.pth"
    torch.save(held, path)
    return load_backbone(f"timm:{name}", CPU, weights=path)


@torch.inference_mode()
def require_features_of(backbone, name, **which):
    x = images(backbone)
    expected = features(name, x, **which)
    assert expected.std() > 1e-3  # a network that gives nothing would pass
    torch.testing.assert_close(backbone.module(x), expected, rtol=1e-4, atol=1e-5)


def contrastive(name):
    """MoCo's: the query, the key that follows it, projections and a queue."""
    return {"epoch": 200, "arch": name, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
            "state_dict": prefixed("module.encoder_q.", plain(name))
            | prefixed("module.encoder_k.", plain(name, seed=1))
            | {"module.queue": torch.zeros(4, 4)}}  # fmt: skip


def masked(name):
    """A masked autoencoder's, with what rebuilds the image."""
    more = {"mask_token": torch.zeros(1, 1, 3), "decoder_blocks.0.norm1.weight": torch.ones(3)}
    return {"model": plain(name) | more, "args": Namespace(lr=1e-4), "epoch": 799}


WRAPPED = {
    "plain": plain,
    "DataParallel": lambda name: prefixed("module.", plain(name)),
    "compiled": lambda name: {"model": prefixed("_orig_mod.module.", plain(name))},
    "Lightning": lambda name: {"pytorch-lightning_version": "2.1", "hyper_parameters": {"lr": 1.0},
                               "state_dict": prefixed("model.encoder.", plain(name))},
    "net": lambda name: {"net": prefixed("backbone.", plain(name)), "best_acc": 0.9},
    "average": lambda name: {"model": plain(name, seed=1), "model_ema": plain(name)},
    "contrastive": contrastive,
    "masked autoencoder": masked,
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:weights '")
def test_every_wrapping_gives_the_features_of_the_network(name, kind, tmp_path):
    backbone = loaded(name, WRAPPED[kind](name), tmp_path)
    require_features_of(backbone, name)
    # To the bit: the weights of the file without its wrapping.
    assert backbone.weights_sha256 == loaded(name, plain(name), tmp_path).weights_sha256


def test_of_a_self_distillation_the_teacher_is_taken_and_named(tmp_path):
    held = {
        "student": prefixed("module.backbone.", plain("test_vit", seed=1)),
        "teacher": prefixed("backbone.", plain("test_vit"))
        | {f"head.mlp.{i}.weight": torch.ones(2) for i in range(4)},
        "args": Namespace(arch="vit_small", patch_size=16),
    }
    with pytest.warns(
        UserWarning,
        match=r"weights of 'teacher\.backbone\.' are taken, the average .* not those of "
        r"'student\.module\.backbone\.'; 4 tensor\(s\) \(head\.mlp\.0\.weight, .*\) outside",
    ):
        backbone = loaded("test_vit", held, tmp_path)
    require_features_of(backbone, "test_vit")


def test_a_network_that_is_in_a_file_twice_is_refused(tmp_path):
    twice = {"one": plain("test_vit"), "two": plain("test_vit", seed=1)}
    with pytest.raises(DpmixError, match=r"more than once: 'one\.', 'two\.'\)"):
        loaded("test_vit", twice, tmp_path)


def test_a_checkpoint_that_holds_itself_is_read(tmp_path):
    held = {"model": plain("test_vit")}
    held["again"] = held
    require_features_of(loaded("test_vit", held, tmp_path), "test_vit")


@pytest.mark.parametrize("name", NAMES)
def test_a_network_for_grey_images_gives_its_features_for_grey_in_three_channels(name, tmp_path):
    backbone = loaded(name, {"model": plain(name, channels=1)}, tmp_path)
    x = images(backbone, channels=1)
    with torch.inference_mode():
        found, expected = backbone.module(x.expand(-1, 3, -1, -1)), features(name, x, channels=1)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_missing_tensor_is_an_error_in_every_wrapping(tmp_path):
    lacking = plain("test_vit")
    del lacking["blocks.1.norm2.bias"]
    for held in (prefixed("module.", lacking), {"teacher": prefixed("backbone.", lacking)}):
        with pytest.raises(DpmixError, match=r"1 tensor\(s\) \(blocks\.1\.norm2\.bias\)"):
            loaded("test_vit", held, tmp_path)


def test_heads_of_pretraining_are_counted_and_other_tensors_are_refused(tmp_path):
    with pytest.warns(UserWarning, match=r"1 tensor\(s\) \(decoder_blocks.*\) left out"):
        loaded("test_vit", masked("test_vit"), tmp_path)
    # A layer that the network lacks changes its features.
    with pytest.raises(DpmixError, match=r"has 1 tensor\(s\) \(norm_pre\.weight\) that"):
        loaded("test_vit", plain("test_vit") | {"norm_pre.weight": torch.ones(3)}, tmp_path)


def test_a_plain_file_says_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded("test_vit", plain("test_vit"), tmp_path)


@pytest.mark.parametrize("prefix", ["", "module.", "model.encoder."])
def test_torchvision_reads_the_same_files(prefix, tmp_path):
    from torchvision.models import get_model

    torch.manual_seed(0)
    source = get_model("shufflenet_v2_x0_5", weights=None).eval()
    torch.save({"state_dict": prefixed(prefix, source.state_dict())}, tmp_path / "weights.pth")
    backbone = load_backbone(
        "torchvision:shufflenet_v2_x0_5", CPU, weights=tmp_path / "weights.pth"
    )
    source.fc = nn.Identity()
    x = images(backbone)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(x), source(x), rtol=1e-4, atol=1e-5)
