"""The feed-forward half of a transformer block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    """Two linear maps with a GELU between them, applied to each token by itself."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        out: Tensor = self.out(F.gelu(self.expand(tokens)))
        return out
