import pytest

from dpmix.reports.model_card import views_in_words
from dpmix.views import ViewSpec


@pytest.mark.parametrize(("spec", "said"), [
    (ViewSpec("none"), "the image as it is"),
    (ViewSpec("self-aug", k_base=8, extra_augment="blur"), "8 self-augmentations, each after blur"),
    (ViewSpec("mix-self", k_base=4, k_self=2), "4 self-augmentations, 2 mixtures"),
    (ViewSpec("mix-diff"), "16 self-augmentations, 2 public images, 18 mixtures"),
    (ViewSpec("mix-self", average="mixed-only"),
     "16 self-augmentations, 18 mixtures; of these the mixtures alone"),
])  # fmt: skip
def test_every_kind_of_view_is_counted(spec, said):
    assert views_in_words(spec) == said
