"""Guesses the target encoder's tokens at places that the context does not see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headrace.layers.initialise import WEIGHT_STD, initialise
from headrace.layers.rope import AxialRope
from headrace.layers.vit import Blocks


class Predictor(nn.Module):
    """A narrow transformer over context tokens and one learned mask token per place (arXiv 2301.08243).

    Each target block is predicted in a pass of its own: its mask tokens read the context and one another,
    never those of another block. Mask tokens differ by nothing but their place, which RoPE supplies.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.rope = AxialRope(grid, width // heads)
        self.blocks = Blocks(width, depth, heads, mlp_ratio)
        self.project = nn.Linear(width, encoder_width)
        initialise(self.embed)
        initialise(self.project)
        nn.init.trunc_normal_(self.mask_token, std=WEIGHT_STD)

    def forward(self, context: Tensor, keep: Tensor, target: Tensor, is_target: Tensor) -> Tensor:
        """Return predictions [N, J, P, D] for J blocks of P places each.

        Args:
            context: [N, K, D] tokens of the context encoder.
            keep: [N, K] int64, where in the grid they stand.
            target: [N, J, P] int64, where in the grid to predict.
            is_target: [N, J, P] bool, False for padding, whose predictions have no meaning.
        """
        images, blocks, places = target.shape
        seen = self.embed(context)[:, None].expand(-1, blocks, -1, -1)
        asked = self.mask_token.expand(images, blocks, places, -1)
        seen_index = keep[:, None].expand(-1, blocks, -1)

        tokens = torch.cat([seen, asked], dim=2).flatten(0, 1)
        index = torch.cat([seen_index, target], dim=2).flatten(0, 1)
        readable = torch.cat([torch.ones_like(seen_index, dtype=torch.bool), is_target], dim=2).flatten(0, 1)
        tokens = self.blocks(tokens, self.rope(index), readable)
        predictions: Tensor = self.project(tokens[:, keep.shape[1] :])
        return predictions.view(images, blocks, places, -1)
