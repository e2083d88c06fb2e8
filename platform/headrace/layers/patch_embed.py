"""Pixels to tokens."""

from __future__ import annotations

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Cuts images into patches of patch_size x patch_size pixels and maps each linearly to a token.

    The same function as a convolution whose stride is its kernel; its weight is [D, C, p, p] flattened
    to [D, C * p * p]. Written as a matrix product so that patches nobody looks at are never embedded.
    """

    def __init__(self, patch_size: int, width: int, channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Linear(channels * patch_size**2, width)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the tokens [N, K, D] of images [N, C, height, width] at grid indices keep [N, K], or all."""
        patches = patchify(images, self.patch_size)
        if keep is not None:
            patches = take(patches, keep)
        tokens: Tensor = self.project(patches)
        return tokens


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images [N, C, height, width] into patches [N, L, C * p * p], row by row over the grid."""
    count, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    patches = images.view(count, channels, rows, patch_size, columns, patch_size)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, channels * patch_size**2)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Return the tokens [N, K, D] that stand at `index` [N, K] in tokens [N, L, D]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
