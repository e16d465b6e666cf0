"""What a forward pass keeps for the backward, in bytes."""

import torch
from torch import Tensor, nn


def activation_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that a pass over `images` keeps, the model's own parameters not counted."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for where, size in kept.items() if where not in own)
