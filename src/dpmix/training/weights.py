"""Model weights on disk, and rebuilding the model that they belong to."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dpmix.errors import DpmixError
from dpmix.models.classifier import public_names


def weight_bytes(weights: dict[str, Tensor]) -> bytes:
    """A state dict as the bytes of a safetensors file."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return save(on_cpu, metadata={"format": "pt"})


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill `model` with the weights at `path`; a public backbone keeps its own.

    Raises:
        DpmixError: no such file, not safetensors, or weights of another model, or some that
            are not finite.
    """
    try:
        own = {name: model.state_dict()[name] for name in public_names(model)}
        weights = load_file(path)
        model.load_state_dict(weights | own)
    except FileNotFoundError:
        raise DpmixError(f"no weights at '{path}'; give the folder of a finished run") from None
    except (SafetensorError, OSError) as error:
        raise DpmixError(f"cannot read weights '{path}': {error}; the file is damaged") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DpmixError(f"weights '{path}' do not fit the model of the run: {reason}") from None
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise DpmixError(
                f"weights '{path}' are not finite ('{name}'): the training diverged, and the model "
                "would answer at random; train again with a lower learning rate"
            )
