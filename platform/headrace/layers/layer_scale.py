"""LayerScale (Touvron et al., "Going deeper with image transformers", arXiv 2103.17239)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiplies each feature of a residual branch by a learned factor that starts small."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, branch: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return branch * self.gamma
