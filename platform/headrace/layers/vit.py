"""A vision transformer over the patches of an image, or over some of them."""

from __future__ import annotations

from torch import Tensor, nn

from headrace.layers.block import NORM_EPSILON, Block
from headrace.layers.initialise import initialise, rescale_by_depth
from headrace.layers.patch_embed import PatchEmbed
from headrace.layers.rope import AxialRope, Rotation


class Blocks(nn.Module):
    """A stack of blocks and the norm after the last. DropPath rises linearly from 0 to its full rate."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        rates = [drop_path * block / max(depth - 1, 1) for block in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, drop_path=rate, layer_scale=layer_scale) for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        initialise(self)
        rescale_by_depth(self.blocks)

    def forward(self, tokens: Tensor, rotation: Rotation, readable: Tensor | None = None) -> Tensor:
        """Map tokens [N, K, D] to normed tokens [N, K, D]. See `Attention` for the other arguments."""
        tokens = tokens.to(self.norm.weight.dtype)  # under autocast the residual stream keeps full precision
        for block in self.blocks:
            tokens = block(tokens, rotation, readable)
        normed: Tensor = self.norm(tokens)
        return normed


class ViT(nn.Module):
    """Patches, blocks, norm (arXiv 2010.11929), with positions through axial RoPE and no class token.

    Args:
        grid: rows and columns of patches; images are (rows * patch_size) x (columns * patch_size) pixels.
        drop_path: rate of the last block; see `Blocks`.
        layer_scale: what LayerScale starts from; None leaves it out.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.image_size = (grid[0] * patch_size, grid[1] * patch_size)
        self.patch_embed = PatchEmbed(patch_size, width)
        self.rope = AxialRope(grid, width // heads)
        self.blocks = Blocks(width, depth, heads, mlp_ratio, drop_path=drop_path, layer_scale=layer_scale)
        initialise(self.patch_embed)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return a token for each patch of the images, or for some.

        Args:
            images: [N, 3, height, width] float, the size that the grid and patch_size say.
            keep: [N, K] int64, indices in the grid, row by row, of the patches that the encoder sees.

        Returns:
            [N, K, D], or [N, L, D] without `keep`: after the last norm, in the order of `keep`.
        """
        if images.shape[-2:] != self.image_size:
            raise ValueError(
                f"images must be {self.image_size[0]}x{self.image_size[1]}, got shape {tuple(images.shape)}"
            )
        tokens: Tensor = self.blocks(self.patch_embed(images, keep), self.rope(keep))
        return tokens
