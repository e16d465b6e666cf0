"""`dpmix recipes`."""

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("unchecked")


def test_they_are_listed_with_their_network(dpmix):
    status, out, _ = dpmix("recipes", "list")
    assert status == 0
    assert len(out.splitlines()) == 46
    assert "scratch-eurosat-mix-diff" in out and "open_clip:ViT-B-16/laion2b_s34b_b88k" in out


def test_one_is_shown_with_all_that_it_inherits(dpmix):
    status, out, _ = dpmix("recipes", "show", "convnext-sun397-mix-diff")
    shown = yaml.safe_load(out)
    assert status == 0
    assert shown["data"] == {"image_size": 256, "data": "sun397"}
    assert shown["privacy"]["expected_batch_size"] == 1000
    assert "base" not in shown


def test_an_unknown_one_is_one_line(dpmix):
    status, _, err = dpmix("train", "--config", "convnext-sun397")
    assert status == 2
    assert "no recipe 'convnext-sun397'" in err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scratch-cifar10-mix-self", ["wrn-16-4, 2,7", "139264 forward and backward", "q 0.08192"]),
        ("vit-b-16-cifar10-mix-diff", ["head: 5,130 of", "1,800,000 views", "36000 forward"]),
    ],
)
def test_a_recipe_runs_dry_without_its_data_weights_and_pool(dpmix, tmp_path, name, said):
    if name.startswith("vit"):
        pytest.importorskip("open_clip")
    status, out, _ = dpmix(
        "train", "--config", name, "--epsilon", 8, "--dry-run", "--data-root", tmp_path
    )
    assert status == 0
    for part in [*said, "not here: by its published numbers", "MiB", "epsilon 8.000"]:
        assert part in out
