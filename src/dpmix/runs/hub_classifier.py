"""A trained classifier that `from_pretrained` loads, from a folder or from the hub.

Guarantees: no pickle is ever read, and a backbone's weights are fetched only where that is asked
for; they are those that the run was trained on, to the hash, or the model is refused.
"""

from jaxtyping import Float, UInt8
from torch import Tensor, nn
from dpmix.runs.load import SavedRun
from pathlib import Path
from typing import Any
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from dpmix.runs.config import Config
from dpmix.errors import DpmixError
from dpmix.runs.load import rebuild
from dpmix.runs.load import load_weights



# The whole network that is exported: from the pixels that `dpmix predict` decodes to logits.


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


_WEIGHTS = "model.safetensors"


class HubClassifier(ImageClassifier, PyTorchModelHubMixin):
    """Images uint8 [B, C, H, W] to logits [B, L]; `class_names` says which.

    `dpmix.data.decode_files(paths, model.image_shape, model.reading)` reads files as the run did.

    Args:
        settings: sections of a run's settings, from the folder's config.json.
        download: fetch the weights of a public backbone that are not on this machine.
        backbone_weights: a local file or folder of them.

    Raises:
        DpmixError: settings that no run wrote, or a backbone that is not the run's.
    """

    def __init__(
        self,
        settings: dict[str, dict[str, Any]],
        download: bool = False,
        backbone_weights: str | None = None,
    ) -> None:
        config = Config.from_tree(settings, download=download, backbone_weights=backbone_weights)
        super().__init__(rebuild(config, Path("config.json"), "cpu"))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        strict: bool = True,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **arguments: Any,
    ) -> "HubClassifier":
        """What `from_pretrained` calls once it has read config.json; `strict` is always so."""
        model = cls(**arguments)
        weights = Path(model_id, _WEIGHTS)
        if not weights.parent.is_dir():
            fetched = hf_hub_download(
                model_id,
                _WEIGHTS,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            weights = Path(fetched)
        load_weights(weights, model.network)
        return model.to(map_location)

    def _save_pretrained(self, save_directory: Path) -> None:
        raise DpmixError(
            "a private model goes with its statement: hand out the folder that dpmix export "
            "--format hub wrote (hf upload NAME FOLDER)"
        )
