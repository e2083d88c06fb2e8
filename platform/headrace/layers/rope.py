"""Axial rotary position embedding in two dimensions, as in DINOv3 (arXiv 2508.10104).

A head's E features are E/2 pairs; each pair is a plane that is turned by an angle proportional to one
coordinate of the token, the first E/4 planes by the row y, the next E/4 by the column x:

    angle[f] = 2 pi * coordinate / base ** (f / (E/4))      f = 0 ... E/4 - 1,  coordinate in (-1, 1)

The coordinates are those of the patch centres on a grid that spans [-1, 1] on both axes, whatever its
size. The dot product of a turned query and a turned key then depends on their offset alone (Su et al.,
"RoFormer", arXiv 2104.09864). The pairs are features (f, f + E/2), the "rotate half" layout.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor, nn

Rotation: TypeAlias = tuple[Tensor, Tensor]
"""cos and sin of the angles of some tokens, each [1 or N, 1, K, E] float32; broadcasts over heads."""


class AxialRope(nn.Module):
    """Gives the rotation of tokens named by their index in a fixed grid, row by row.

    Indices are those of the original grid: a token keeps its place when others are dropped.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, grid: tuple[int, int], head_features: int, base: float = 100.0) -> None:
        super().__init__()
        angles = patch_angles(grid, head_features, base)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, index: Tensor | None = None) -> Rotation:
        """Return the rotation of the tokens at `index` [N, K] int64, or of the whole grid."""
        if index is None:
            return self.cos[None, None], self.sin[None, None]
        return self.cos[index].unsqueeze(1), self.sin[index].unsqueeze(1)


def patch_angles(grid: tuple[int, int], head_features: int, base: float) -> Tensor:
    """Return the angles in radians by which each position's features turn: [rows * columns, E] float64."""
    if head_features % 4:
        raise ValueError(f"axial RoPE needs a multiple of 4 features per head, got {head_features}")
    rows, columns = (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1 for n in grid)
    centres = torch.cartesian_prod(rows, columns)
    frequencies = base ** -(torch.arange(head_features // 4, dtype=torch.float64) / (head_features // 4))
    planes = 2 * math.pi * centres[:, :, None] * frequencies
    return planes.flatten(1).tile(2)


def rotate(features: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys [N, H, K, E] by their tokens' angles, in float32; the type is kept."""
    cos, sin = rotation
    left, right = features.chunk(2, dim=-1)
    quarter_turn = torch.cat((-right, left), dim=-1)
    return (features * cos + quarter_turn * sin).to(features.dtype)
