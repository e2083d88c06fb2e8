"""Multi-head self-attention with rotated queries and keys."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from headrace.layers.rope import Rotation, rotate


class Attention(nn.Module):
    """softmax(q k^T / sqrt(E)) v for each head, then a projection (Vaswani et al., arXiv 1706.03762).

    The kernel is PyTorch's fused one; which one it picks changes the speed, not the result.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: Rotation, readable: Tensor | None = None) -> Tensor:
        """Let tokens [N, K, D] read one another.

        Args:
            tokens: [N, K, D].
            rotation: of the K tokens, from `AxialRope`.
            readable: [N, K] bool, False for padding that no token may read; None: all may be read.

        Returns:
            [N, K, D]. What padding itself receives has no meaning.
        """
        images, count, width = tokens.shape
        qkv = self.qkv(tokens).view(images, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if readable is None else readable[:, None, None, :]
        read = F.scaled_dot_product_attention(rotate(query, rotation), rotate(key, rotation), value, attn_mask=mask)
        out: Tensor = self.out(read.transpose(1, 2).reshape(images, count, width))
        return out
