import pytest
import torch
from dpmix.runs.graph_files import traced
from torch import nn

from dpmix.data import normalization
from dpmix.errors import DpmixError
from dpmix.models import build_model
from dpmix.models.backbones import load_backbone

pytestmark = pytest.mark.usefixtures("unchecked")


class Pixels(nn.Module):
    def __init__(self, network, constants):
        super().__init__()
        self.network, self.constants = network, constants

    def forward(self, images):
        return self.network(self.constants(images))


def images(count, shape):
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8)


def agree(model, shape):
    program = traced(model.eval(), shape).module()
    for count in (1, 5):
        given = images(count, shape)
        with torch.no_grad():
            assert torch.equal(program(given), model(given))


@pytest.mark.parametrize("name", ["cnn-small", "wrn-16-4"])
def test_models_of_the_registry_take_any_number_of_images(name):
    network = build_model(name, in_channels=3, num_classes=4)
    agree(Pixels(network, normalization("half", 3)), (3, 16, 16))


@pytest.mark.parametrize("size", [28, 48])  # enlarged, and made smaller without aliases
def test_a_backbone_takes_its_own_resizing_along(size):
    backbone = load_backbone("scatternet", torch.device("cpu"))
    agree(Pixels(backbone.module, backbone.normalization), (3, size, size))


class Undecided(nn.Module):
    def forward(self, images):
        return images.float() if images.sum() > 7 else -images.float()


def test_what_no_graph_can_hold_is_refused_with_a_way_out():
    with pytest.raises(DpmixError, match=r"can't be exported .*; use --format hub"):
        traced(Undecided(), (1, 4, 4))
