"""`--compile`: the same clipped sum, the same bound, and an error that names what is missing."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from dpmix.clipping.engine import clipped_gradient_sum, compiled_way
from dpmix.clipping.loss import soft_cross_entropy
from dpmix.errors import DpmixError
from dpmix.models import build_model

SHAPE, C = (1, 12, 12), 0.1
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def network():
    torch.manual_seed(0)
    return build_model("cnn-small", in_channels=1, num_classes=3)


def total(model, views, labels):
    part = clipped_gradient_sum(model, soft_cross_entropy, views, labels, C, engine="examplewise")
    return torch.cat([g.flatten() for g in part.gradients])


@needs_compiler
def test_compiled_passes_give_the_same_sum_and_keep_the_bound():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    way = compiled_way("auto", model, soft_cross_entropy, SHAPE, 4, None)
    assert way.reason.startswith("compiled in ") and "an example takes" in way.reason
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    called = way.prepare(model)
    views, labels = torch.rand(5, 4, *SHAPE), torch.rand(5, 4, 3).softmax(dim=-1)
    whole, expected = total(called, views, labels), total(model, views, labels)
    assert (whole - expected).norm() < 1e-5 * expected.norm()
    for left_out in range(5):
        rest = [index for index in range(5) if index != left_out]
        assert (whole - total(called, views[rest], labels[rest])).norm() <= C * (1 + 1e-6)


def test_other_engines_are_refused():
    with pytest.raises(DpmixError, match="compile was given with engine vectorized"):
        compiled_way("vectorized", network(), soft_cross_entropy, SHAPE, 4, None)


def test_a_machine_without_a_compiler_says_so(tmp_path):
    command = [sys.executable, "-m", "dpmix", "train", "--dry-run", "--compile"]
    environment = os.environ | {
        "CXX": "no-such-compiler", "CUDA_VISIBLE_DEVICES": "",  # a GPU's compiler needs none
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert "can't be compiled here" in said and "leave out compile" in said
    assert "Traceback" not in said
