"""Stochastic depth (Huang et al., arXiv 1603.09382)."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch for whole images at random while training, and keeps its mean.

    Draws from torch's global generator: with a rate above 0 a run is reproducible only if the state of
    that generator is part of its checkpoints.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"the rate of DropPath must be in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch [N, ...], 0 for a share `rate` of the images, the others scaled up."""
        if not self.training or self.rate == 0:
            return branch
        kept = branch.new_empty((len(branch),) + (1,) * (branch.ndim - 1)).bernoulli_(1 - self.rate)
        return branch * (kept / (1 - self.rate))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
