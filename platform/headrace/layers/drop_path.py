"""Stochastic depth (Huang et al., arXiv 1603.09382)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch for whole images at random while training, and keeps its mean.

    Draws from torch's global generator, which training seeds anew for each step. The share that is kept is a tensor: as
    a number it would be a constant of what torch.compile makes of a block, and each rate would be compiled apart.
    """

    kept_share: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"the rate of DropPath must be in [0, 1), got {rate}")
        self.rate = rate
        self.register_buffer("kept_share", torch.tensor(1 - rate), persistent=False)

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch [N, ...], 0 for a share `rate` of the images, the others scaled up."""
        if not self.training:
            return branch
        kept = torch.rand((len(branch),) + (1,) * (branch.ndim - 1), device=branch.device) < self.kept_share
        return branch * (kept / self.kept_share).to(branch.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
