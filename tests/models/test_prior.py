"""A head starts where a public one ends, or at the words of its classes."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from dpmix.errors import DpmixError
from dpmix.models.head import LinearHead
from dpmix.models.prior import start_from_pool, start_from_text


def clusters(count, classes=4, features=16, seed=0):
    """`count` features of each class around the class's own direction."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(count)
    noise = torch.randn(len(labels), features, generator=generator)
    return 3 * torch.eye(features)[labels] + noise, labels


def accuracy(head, x, labels):
    with torch.no_grad():
        return float((head(x).argmax(dim=1) == labels).float().mean())


@pytest.mark.parametrize(("norm", "length"), [("none", 1.0), ("unit", 1.0), ("unit", 10.0)])
def test_a_pool_teaches_the_head_its_classes(norm, length):
    head = LinearHead(16, 4, norm, length)
    fit = start_from_pool(head, *clusters(40))
    assert accuracy(head, *clusters(50, seed=1)) > 0.85
    assert fit.images == 160 and fit.without == () and fit.accuracy > 0.8


def test_it_stops_before_it_knows_a_noisy_pool_by_heart():
    x, labels = torch.randn(100, 64), torch.randint(0, 2, (100,))
    head = LinearHead(64, 2, "unit", 10.0)
    start_from_pool(head, x, labels)
    assert accuracy(head, x, labels) < 0.95  # 64 weights separate 100 random points


def test_classes_without_images_start_at_the_mean_of_the_others():
    x, labels = clusters(20)
    labels[labels == 2] = -1  # without a label
    head = LinearHead(16, 5, "unit", 10.0)
    fit = start_from_pool(head, x, labels)
    weight, bias = head.linear.weight, head.linear.bias
    assert fit.without == (2, 4) and fit.images == 60
    for absent in fit.without:
        assert torch.allclose(weight[absent], weight[[0, 1, 3]].mean(dim=0), atol=1e-6)
        assert torch.allclose(bias[absent], bias[[0, 1, 3]].mean(), atol=1e-6)


def test_one_class_is_no_start():
    x, labels = clusters(5)
    with pytest.raises(DpmixError, match=r"labelled images of 1 class.*--head-start zero"):
        start_from_pool(LinearHead(16, 4), x, torch.where(labels == 0, 0, -1))


def test_the_start_is_the_same_again():
    one, other = LinearHead(16, 4, "unit"), LinearHead(16, 4, "unit")
    for head in (one, other):
        start_from_pool(head, *clusters(10))
    assert torch.equal(one.linear.weight, other.linear.weight)


def test_text_logits_are_the_scaled_cosine_of_image_and_mean_prompt():
    head = LinearHead(8, 3, "unit", 10.0)
    table = {f"{kind} {name}": torch.randn(8) for kind in "ab" for name in "xyz"}
    prompts = [[f"a {name}", f"b {name}"] for name in "xyz"]
    start_from_text(head, prompts, lambda texts: torch.stack([table[t] for t in texts]), 25.0)
    x = torch.randn(5, 8)
    for label, texts in enumerate(prompts):
        mean = sum(F.normalize(table[text], dim=0) for text in texts)
        expected = 25 * F.cosine_similarity(x, mean[None])
        assert torch.allclose(head(x)[:, label], expected, atol=1e-4)


def test_text_needs_directions():
    with pytest.raises(DpmixError, match=r"feature_norm none.*leave out --feature-norm"):
        start_from_text(LinearHead(8, 3), [["x"]] * 3, lambda texts: torch.zeros(1, 8), 1.0)
