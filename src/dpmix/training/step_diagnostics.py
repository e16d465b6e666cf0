"""What one step saw of the private data, which is private itself."""

from dataclasses import dataclass

import torch

from dpmix.privacy.clipping import ClippedSum


@dataclass(frozen=True)
class StepDiagnostics:
    """What a step saw of the private data, WITHOUT noise: never to leave `diagnostics/`.

    Attributes:
        drawn: examples that entered the step.
        loss: mean training loss over them, nan for an empty draw.
        clipped: share of gradients longer than C.
        median_norm: median gradient norm before clipping.
        dropped: gradients that were not finite and counted as zero.
    """

    drawn: int
    loss: float
    clipped: float
    median_norm: float
    dropped: int

    @classmethod
    def of(cls, parts: list[ClippedSum], drawn: int, max_grad_norm: float) -> "StepDiagnostics":
        """Summarise the parts of one step."""
        if not parts:
            return cls(drawn, float("nan"), float("nan"), float("nan"), 0)
        norms = torch.cat([part.norms for part in parts]).double().cpu()
        losses = torch.cat([part.losses for part in parts]).double().cpu()
        return cls(
            drawn=drawn,
            loss=losses.mean().item(),
            clipped=(norms > max_grad_norm).double().mean().item(),
            median_norm=norms.median().item(),
            dropped=int((~torch.isfinite(norms)).sum()),
        )
