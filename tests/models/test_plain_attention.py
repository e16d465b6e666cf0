"""Attention with layers that adapters can be put on."""

import pytest
import torch
from torch import nn

from dpmix.errors import DpmixError
from dpmix.models.finetune import PlainAttention, open_attention


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_it_gives_what_torchs_layer_gives(batch_first, bias, masked):
    torch.manual_seed(0)
    holder = nn.ModuleDict(
        {"attn": nn.MultiheadAttention(16, 4, 0.0, bias, batch_first=batch_first)}
    )
    for parameter in holder.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(5, 5, 16)
    mask = torch.full((5, 5), float("-inf")).triu(1) if masked else None
    expected = holder["attn"](x, x, x, need_weights=False, attn_mask=mask)[0]
    open_attention(holder)
    assert isinstance(holder["attn"], PlainAttention)
    got = holder["attn"](x, x, x, need_weights=False, attn_mask=mask)[0]
    assert torch.allclose(got, expected, atol=1e-5)


def test_options_that_it_does_not_have_are_refused():
    with pytest.raises(DpmixError, match=r"layer 'a\.b' .*norm-and-bias"):
        PlainAttention(nn.MultiheadAttention(8, 2, add_zero_attn=True), "a.b")
