"""The network that the settings name, and the constants that its images are normalised by."""

from pathlib import Path

import torch
from torch import nn

from dpmix.config import Config
from dpmix.data import Normalization, normalization
from dpmix.errors import DpmixError
from dpmix.models import build_model
from dpmix.models.backbone import Backbone
from dpmix.models.backbones import load_backbone
from dpmix.models.classifier import BackboneClassifier
from dpmix.models.head import LinearHead
from dpmix.models.trainable import choose_trainable
from dpmix.public.pool import PublicPool

WHITENING_IMAGES = 5000


def load(config: Config, device: torch.device, *, pretrained: bool = True) -> Backbone | None:
    """The backbone that the settings name, if any; arguments as in `assemble`.

    Raises:
        DpmixError: as `load_backbone` raises.
    """
    chosen = config.model
    if chosen.backbone is None:
        return None
    return load_backbone(
        chosen.backbone,
        device,
        weights=Path(chosen.backbone_weights).expanduser() if chosen.backbone_weights else None,
        pretrained=pretrained,
        download=config.data.download,
        input_size=chosen.backbone_size,
    )


def build(
    config: Config,
    image_shape: tuple[int, int, int],
    num_classes: int,
    backbone: Backbone | None,
) -> nn.Module:
    """The model that the settings name, for images [C, H, W] and L classes."""
    chosen = config.model
    if backbone is None:
        assert chosen.model is not None
        return build_model(
            chosen.model,
            in_channels=image_shape[0],
            num_classes=num_classes,
            shortcut=chosen.shortcut,
        )
    head = LinearHead(
        backbone.embedding_size, num_classes, chosen.feature_norm, chosen.feature_length
    )
    model = BackboneClassifier(backbone.module, head)
    choose_trainable(
        model, chosen.trainable, last_blocks=chosen.last_blocks, lora_rank=chosen.lora_rank
    )
    return model


def constants_of(
    config: Config, image_shape: tuple[int, int, int], backbone: Backbone | None
) -> Normalization:
    """The public constants that images [C, H, W] are normalised by: the backbone's own, if any."""
    if backbone is not None:
        return backbone.normalization
    assert config.data.normalization is not None
    return normalization(config.data.normalization, image_shape[0])


def whitens(config: Config) -> bool:
    """Whether features are whitened by a public pool."""
    return config.model.backbone is not None and config.model.feature_norm == "whiten"


def set_statistics(model: nn.Module, backbone: Backbone | None, pool: PublicPool | None) -> None:
    """Whiten by the pool's features: by public images, never by private ones."""
    if pool is None:
        raise DpmixError(
            "feature_norm whiten needs public images to take means from; give --pool FOLDER, or "
            "use --feature-norm unit"
        )
    assert isinstance(model, BackboneClassifier) and backbone is not None
    device = next(model.parameters()).device
    chosen = torch.linspace(0, len(pool) - 1, min(len(pool), WHITENING_IMAGES)).long()
    parts = [backbone.features(pool.take(part.to(device))[0]) for part in chosen.split(64)]
    model.head.set_statistics(torch.cat(parts))
