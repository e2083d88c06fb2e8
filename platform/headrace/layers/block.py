"""One pre-norm block of a vision transformer (Dosovitskiy et al., arXiv 2010.11929)."""

from __future__ import annotations

from torch import Tensor, nn

from headrace.layers.attention import Attention
from headrace.layers.drop_path import DropPath
from headrace.layers.layer_scale import LayerScale
from headrace.layers.mlp import Mlp
from headrace.layers.rope import Rotation

NORM_EPSILON = 1e-6
"""What is added to a variance in every LayerNorm of an encoder: ViT's and I-JEPA's value."""


class Block(nn.Module):
    """x + branch(attention(norm(x))), then x + branch(mlp(norm(x))).

    A branch is scaled by LayerScale where `layer_scale` gives the factor it starts from, and dropped for
    a share `drop_path` of the images while training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = Attention(width, heads)
        self.attention_branch = _branch(width, drop_path, layer_scale)
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = Mlp(width, round(width * mlp_ratio))
        self.mlp_branch = _branch(width, drop_path, layer_scale)

    def forward(self, tokens: Tensor, rotation: Rotation, readable: Tensor | None = None) -> Tensor:
        """Map tokens [N, K, D] to [N, K, D]. See `Attention` for the other arguments."""
        read = self.attention(self.attention_norm(tokens), rotation, readable)
        tokens = tokens + self.attention_branch(read)
        out: Tensor = tokens + self.mlp_branch(self.mlp(self.mlp_norm(tokens)))
        return out


def _branch(width: int, drop_path: float, layer_scale: float | None) -> nn.Sequential:
    scale = [] if layer_scale is None else [LayerScale(width, layer_scale)]
    drop = [DropPath(drop_path)] if drop_path else []
    return nn.Sequential(*scale, *drop)
