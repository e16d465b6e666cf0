"""Which views of an example were averaged, in a few words."""

from dpmix.views.spec import ViewSpec


def views_in_words(spec: ViewSpec) -> str:
    """Such as "16 self-augmentations, 18 mixtures"."""
    if spec.method == "none":
        return "the image as it is"
    said = f"{spec.k_base} self-augmentations"
    if spec.extra_augment != "none":
        said += f", each after {spec.extra_augment}"
    if spec.public_views:
        said += f", {spec.public_views} public images"
    if spec.mixed_views:
        said += f", {spec.mixed_views} mixtures"
    return said if spec.average == "all" else f"{said}; of these the mixtures alone"
