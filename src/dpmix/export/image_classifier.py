"""The whole network that is exported: from the pixels that `dpmix predict` decodes to logits."""

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dpmix.saved import SavedRun


class ImageClassifier(nn.Module):
    """Images uint8 [B, C, H, W] to logits [B, L]: the run's constants, backbone and head."""

    def __init__(self, saved: SavedRun) -> None:
        super().__init__()
        self.network = saved.model
        self.normalization = saved.normalization
        self.image_shape = saved.input.image_shape
        self.reading = saved.input.reading
        self.class_names = saved.input.class_names
        self.eval()

    def forward(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """Return the logits."""
        logits: Tensor = self.network(self.normalization(images))
        return logits
