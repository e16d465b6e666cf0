"""The device that a run computes on."""

import torch

from dpmix.errors import DpmixError


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's mps, else the CPU.

    Raises:
        DpmixError: a device that torch does not know or this machine does not have.
    """
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
