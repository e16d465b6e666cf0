"""Model weights on disk, and rebuilding the model that they belong to."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpmix.errors import DpmixError
from dpmix.training.run_folder import write_aside


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}

    def write(aside: Path) -> None:
        try:
            save_file(on_cpu, aside, metadata={"format": "pt"})
        except SafetensorError as error:
            # The library reports a full disk as its own error; it is an OSError to everyone else.
            raise OSError(str(error)) from error

    write_aside(path, write)


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill `model` with the weights at `path`.

    Raises:
        DpmixError: no such file, not safetensors, or weights of another model.
    """
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise DpmixError(f"no weights at '{path}'; give the folder of a finished run") from None
    except (SafetensorError, OSError) as error:
        raise DpmixError(f"cannot read weights '{path}': {error}; the file is damaged") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DpmixError(f"weights '{path}' do not fit the model of the run: {reason}") from None
