"""Passes of a frozen backbone over a fixed number of views, and whether they may be of many units.

A backbone is slow on one view at a time. But a row of the feature cache has to be a function of one
unit to the bit, and the last bits of one image's features can depend on the others in its pass.

Guarantee: views of several units share a pass only if a probe saw each view get the same bits in
every place of a pass and among other neighbours: noise, black, white and extreme images. Passes
always have the same shape, and are filled up with zeros. A processor's routines add in an order
that depends on shapes, addresses and threads, and not on the numbers that they add, so random
public images show how private ones are computed. Where the probe fails, each unit is embedded
alone. `tests/training/test_passes.py` plants dependences.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Most views of a pass, and on a CPU the pixels of one: what they become has to stay in its caches.
# On a core of an AMD EPYC, EfficientNet-Lite0 is fastest with 8 views of 96 pixels, 4 of 160 and 2
# of 224, by 2.2, 1.6 and 1.2 times over one view.
CPU_PASS, CPU_PIXELS, DEVICE_PASS = 8, 100_000, 64
_TRIES = 6


class Passes:
    """Embeds views in passes of one shape.

    Args:
        module: maps views [V, C, H, W] to features [V, D]; frozen.
        view_shape: (C, H, W) of every view.
        device: where `module` is.
        views: K, the views of a unit.
        most: most views in a pass; None: a number that is fast.

    Attributes:
        size: P, the views of a pass.
        shared: whether views of several units may be in one pass.
        units: how many units fill a pass; 1 where they must be apart.
    """

    def __init__(
        self,
        module: nn.Module,
        view_shape: tuple[int, ...],
        device: torch.device,
        views: int,
        most: int | None = None,
    ) -> None:
        fast = DEVICE_PASS
        if device.type == "cpu":
            fast = min(CPU_PASS, max(1, round(CPU_PIXELS / math.prod(view_shape[1:]))))
        fast = fast if most is None else min(fast, most)
        # Whole units, or equal parts of one, so that few zeros are needed.
        self.size = (
            -(-views // max(1, round(views / fast))) if views > fast else fast // views * views
        )
        if most is not None:
            self.size = min(self.size, most)
        self._module, self._shape, self._device = module, view_shape, device
        self.shared = self._is_apart()
        self.units = max(1, self.size // views) if self.shared else 1

    @torch.inference_mode()
    def embed(self, views: Float[Tensor, "V C H W"]) -> Float[Tensor, "V D"]:
        """The features of views of one unit or, where `shared`, of several."""
        if not self.shared:
            return torch.cat([self._module(some) for some in views.split(self.size)])
        return torch.cat([self._filled(some) for some in views.split(self.size)])

    def _filled(self, views: Float[Tensor, "V C H W"]) -> Float[Tensor, "V D"]:
        full = views.new_zeros(self.size, *self._shape)
        full[: len(views)] = views
        features: Tensor = self._module(full)
        return features[: len(views)]

    @torch.inference_mode()
    def _is_apart(self) -> bool:
        generator = torch.Generator().manual_seed(0)
        shape = (self.size, *self._shape)
        for attempt in range(_TRIES if self.size > 1 else 0):
            noise = torch.randn(shape, generator=generator).to(self._device)
            order = torch.randperm(self.size, generator=generator).to(self._device)
            others = torch.randn(shape, generator=generator).to(self._device)
            others = (others, others * 0, others * 0 + 1, others * 1e3)[attempt % 4]
            kept = torch.rand(self.size, generator=generator) < 0.5
            mixed = torch.where(kept.to(self._device)[:, None, None, None], noise, others)
            here, there, among = map(self._filled, (noise, noise[order], mixed))
            if not (
                bool(here.isfinite().all())
                and torch.equal(here[order], there)
                and torch.equal(here[kept], among[kept])
            ):
                return False
        return True
