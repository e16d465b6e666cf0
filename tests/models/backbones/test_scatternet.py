"""The scattering transform: recorded or not, the same numbers."""

import copy

import pytest
import torch

pytest.importorskip("kymatio", exc_type=ImportError)

from dpmix.models.backbones.scatternet import ScatterNet


@pytest.fixture(scope="module")
def net():
    return ScatterNet(16)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_recording_gives_the_same_numbers_for_any_count(net, count):
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
    images[0, :, :8] = 0
    with torch.enable_grad():
        plain = net(images)
    with torch.inference_mode():
        recorded = net(images)
    assert plain.shape == (count, 3888)
    assert net._recorded._transform is not None
    assert torch.equal(plain, recorded)


def test_recording_draws_no_coins():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with torch.no_grad():
        ScatterNet(16)(torch.zeros(1, 3, 16, 16))
    assert torch.rand(1) == expected


def test_a_copy_records_anew(net):
    other = copy.deepcopy(net)
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(other(images), net(images))
