"""Model FLOPs utilization: the share of a device's arithmetic that the model's own operations are.

    operations of the model for a clip (forward and backward)  x  clips/s  /  what the device can do at most

As defined by Chowdhery et al. (PaLM, arXiv 2204.02311, appendix B): what activation checkpointing computes twice counts
once. Operations are counted, not estimated: matrix products, convolutions and attention of one clip, run on PyTorch's
meta device, where nothing is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from headrace.batch import DeviceBatch
from headrace.recipe import Recipe
from headrace.train.config import Precision

_PEAK_TERAFLOPS = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.5,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "RTX 6000 Ada": 364.2,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense BF16 with FP32 accumulation, from NVIDIA's data sheets; a name that holds another stands before it."""


@dataclass(frozen=True)
class Usage:
    """How much arithmetic a run asks of each device.

    Attributes:
        flops_per_clip: of the model; None where it cannot run without values, and so cannot be counted.
        peak: operations a second that the device can do at most, where that is known.
    """

    flops_per_clip: int | None
    peak: float | None

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device) -> Usage:
        """Return that of a recipe on a device."""
        try:
            counted = flops_per_clip(recipe)
        except (NotImplementedError, RuntimeError):  # an operator or a branch that wants values
            counted = None
        return cls(counted, peak_flops(device, recipe.train.precision, recipe.train.peak_teraflops))

    def at(self, clips_per_second: float) -> dict[str, float | None]:
        """Return the fields of a step record for a worker's speed."""
        if self.flops_per_clip is None:
            return {"flops_per_second": None, "mfu": None}
        per_second = self.flops_per_clip * clips_per_second
        return {"flops_per_second": per_second, "mfu": None if self.peak is None else per_second / self.peak}


def flops_per_clip(recipe: Recipe) -> int:
    """Return the floating-point operations of a forward and backward pass for one clip."""
    height, width = recipe.augment.height, recipe.augment.width
    with torch.device("meta"):
        objective = recipe.model.build(height, width)
        pixels = torch.zeros(1, recipe.data.sampling.frames, 3, height, width)
        batch = DeviceBatch(pixels, np.zeros(1, np.int64), torch.zeros(1, dtype=torch.int64))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # whose products are all counted
        loss, _ = objective(batch)
        loss.backward()
    return int(counter.get_total_flops())


def peak_flops(device: torch.device, precision: Precision, peak_teraflops: float | None) -> float | None:
    """Return how many operations a second a device can do at most, None where that is not known.

    Args:
        device: where the model runs.
        precision: of its arithmetic.
        peak_teraflops: what the user knows of it.
    """
    if peak_teraflops is not None:
        return peak_teraflops * 1e12
    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for known, peak in _PEAK_TERAFLOPS.items() if known in name), None)
