"""The device and the network that the settings name, and how its images are normalised."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dpmix.data.normalization import Normalization, normalization
from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import Backbone
from dpmix.models.backbones.load import load_backbone
from dpmix.models.finetune import choose_trainable
from dpmix.models.head import BackboneClassifier, LinearHead
from dpmix.models.registry import build_model
from dpmix.models.scatter_cnn import SCATTER_CNN, ScatterCNN
from dpmix.pool.pool import PublicPool
from dpmix.runs.config import Config
from dpmix.runs.start import embedded

WHITENING_IMAGES = 5000


def choose_device(name: str) -> torch.device:
    """The device of that name, or a DpmixError; `auto` is CUDA, else Apple's mps, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DpmixError(
            f"device '{name}' cannot be used: {str(error).splitlines()[0]}; use --device cpu"
        ) from None
    return device


def load_backbone_of(
    config: Config, device: torch.device, *, pretrained: bool = True
) -> Backbone | None:
    """The backbone that the settings name, if any; arguments and errors as of `load_backbone`."""
    chosen = config.model
    if chosen.backbone is None:
        return None
    backbone = load_backbone(
        chosen.backbone,
        device,
        weights=Path(chosen.backbone_weights).expanduser() if chosen.backbone_weights else None,
        pretrained=pretrained,
        download=config.data.download,
        input_size=chosen.backbone_size,
    )
    if config.data.normalization is None:
        return backbone
    constants = normalization(config.data.normalization, 3)
    return replace(backbone, normalization=constants)


def build_network(
    config: Config, image_shape: tuple[int, int, int], num_classes: int, backbone: Backbone | None
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
    numbers = backbone.embedding_size
    head: LinearHead | ScatterCNN
    if chosen.model == SCATTER_CNN:
        head = ScatterCNN(numbers, num_classes)
    else:
        head = LinearHead(numbers, num_classes, chosen.feature_norm, chosen.feature_length)
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


def whiten(model: nn.Module, backbone: Backbone | None, pool: PublicPool | None) -> None:
    """Whiten by the features of the pool: of public images, never of private ones."""
    assert isinstance(model, BackboneClassifier) and isinstance(model.head, LinearHead)
    assert backbone is not None and pool is not None
    chosen = torch.linspace(0, len(pool) - 1, min(len(pool), WHITENING_IMAGES)).long()
    model.head.set_statistics(embedded(backbone, model, pool, chosen))
