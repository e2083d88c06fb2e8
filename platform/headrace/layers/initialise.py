"""The weights that a vision transformer's training starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from headrace.layers.block import Block

WEIGHT_STD = 0.02


def initialise(module: nn.Module) -> None:
    """Draw linear weights from a truncated normal of standard deviation 0.02, and set biases to 0.

    As in ViT, MAE and I-JEPA. Norms and LayerScale keep the values they are built with.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=WEIGHT_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def rescale_by_depth(blocks: Iterable[nn.Module]) -> None:
    """Divide what block number n = 1, 2, ... writes into the residual stream by sqrt(2 n).

    This keeps the stream's variance from growing with depth (BEiT, arXiv 2106.08254). I-JEPA's and
    V-JEPA 2's networks do it; I-JEPA's launcher then draws all weights anew and so undoes it, V-JEPA 2's
    does not. Follows V-JEPA 2.
    """
    with torch.no_grad():
        for number, block in enumerate(blocks, start=1):
            assert isinstance(block, Block)
            block.attention.out.weight /= math.sqrt(2 * number)
            block.mlp.out.weight /= math.sqrt(2 * number)
