"""What the context sees and what the predictor must guess: the multi-block masks of I-JEPA.

For each image (arXiv 2301.08243, section 3 and its code), on a grid of L patches:

    1. a size for the target blocks: area = scale * L, scale in (0.15, 0.2), height / width in (0.75, 1.5)
    2. `target_blocks` places for blocks of that size, each uniform over the grid, overlaps allowed
    3. a context block of the grid's shape, scale in (0.85, 1), at a uniform place, without what the targets
       cover

**Everything is a pure function of the image's own seed**: neither the other images of a micro-batch, nor
the rank, nor the attempt changes a mask, so the loss of a sample is the same however a global batch is
split, and a run that resumes on another number of workers goes on exactly. I-JEPA is different in two
places, because its tensors must be rectangular, and its masks depend on the batch there:

- It draws one block size per batch. Here each image has a size of its own, from the same distribution, and
  the targets are padded to the largest; padding is no key in attention and counts nothing in the loss.
- It cuts every context to the smallest one of its batch, and keeps the first tokens, which thins out the
  bottom of the image. Here every context has `context_tokens` tokens, a random subset of those it could
  have. That number is what 99 % of all draws reach (`context_quantile`), about the minimum of a batch of 100;
  a draw that does not reach it is thrown away for the next draw of the same seed. All shapes are constant during a run.

Two slips of the released code are not repeated: places include the last row and column, and a block may
be as large as the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace import keyed

_STRATA = 64
"""Scales and aspects are drawn from this many equally likely values each, so that all sizes are known."""

_CALIBRATION_DRAWS = 4096
_LARGEST_REJECTION = 0.5


class NoRoom(ValueError):
    """The targets leave too little of the grid for a context."""

    def __init__(self, tokens: int, share: float) -> None:
        super().__init__(f"only {share:.0%} of masks leave {tokens} tokens of context")
        self.tokens = tokens
        self.share = share


@dataclass(frozen=True)
class Masks:
    """Indices in the patch grid, row by row, for N images with J target blocks each.

    Attributes:
        context: [N, K] int64, ascending, never in a target.
        target: [N, J, P] int64, each block row by row, then padding (the block's first index again).
        is_target: [N, J, P] bool, False for padding.
    """

    context: NDArray[np.int64]
    target: NDArray[np.int64]
    is_target: NDArray[np.bool_]


class MaskSampler:
    """Draws the masks of images from their seeds.

    Args:
        grid: rows and columns of patches.
        target_blocks: J, blocks to predict in each image.
        target_scale, target_aspect: ranges of a block's share of the grid and of its height / width.
        context_scale: range of the context block's share; its shape is the grid's.
        min_context: the context has at least this many tokens.
        context_quantile: share of draws that leave as many tokens as the context has.

    Raises:
        NoRoom: more than half of all draws leave fewer than `min_context` tokens.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        *,
        target_blocks: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        min_context: int = 4,
        context_quantile: float = 0.99,
    ) -> None:
        self.grid = grid
        self.target_blocks = target_blocks
        self.target_sizes = block_sizes(grid, target_scale, target_aspect)
        self.context_sizes = block_sizes(grid, context_scale, (grid[0] / grid[1],) * 2)
        self.target_tokens = int(self.target_sizes.prod(axis=1).max())
        self.context_tokens = self._calibrate(min_context, context_quantile)

    def __call__(self, seeds: NDArray[np.integer]) -> Masks:
        """Return the masks of the images with these seeds [N]."""
        targets, visible = self._draw(seeds, attempt=0)
        attempt = 0
        while (short := visible.sum(axis=1) < self.context_tokens).any():
            attempt += 1
            redrawn, visible[short] = self._draw(seeds[short], attempt)
            targets.start[short], targets.size[short] = redrawn.start, redrawn.size
        target, is_target = targets.indices(self.target_tokens)
        return Masks(self._choose_context(visible, seeds), target, is_target)

    def _draw(self, seeds: NDArray[np.integer], attempt: int) -> tuple[_Blocks, NDArray[np.bool_]]:
        """Return the target blocks [N, J] and what a context may see beside them [N, L]."""
        keys = (seeds[:, None], attempt)
        target_size = _draw_size(self.target_sizes, *keys, "target size")
        targets = _Blocks.at_random(self.grid, target_size, *keys, "target", np.arange(self.target_blocks))
        context_size = _draw_size(self.context_sizes, *keys, "context size")
        context = _Blocks.at_random(self.grid, context_size, *keys, "context")
        return targets, context.cover()[:, 0] & ~targets.cover().any(axis=1)

    def _calibrate(self, min_context: int, reached_by: float) -> int:
        """Return how many context tokens nearly every draw leaves."""
        left = self._draw(np.arange(_CALIBRATION_DRAWS), attempt=0)[1].sum(axis=1)
        tokens = max(min_context, int(np.quantile(left, 1 - reached_by, method="lower")))
        share = float((left >= tokens).mean())
        if share < 1 - _LARGEST_REJECTION:
            raise NoRoom(tokens, share)
        return tokens

    def _choose_context(self, visible: NDArray[np.bool_], seeds: NDArray[np.integer]) -> NDArray[np.int64]:
        """Choose `context_tokens` of the visible positions [N, L], each equally likely."""
        ticket = keyed.uniform(seeds[:, None], "context subset", np.arange(visible.shape[1]))
        ticket[~visible] = 2.0
        chosen = np.argpartition(ticket, self.context_tokens - 1, axis=1)[:, : self.context_tokens]
        return np.sort(chosen, axis=1)


@dataclass(frozen=True)
class _Blocks:
    """Rectangles of patches, J in each of N images; `start` and `size` are (rows, columns) [N, J, 2]."""

    grid: tuple[int, int]
    start: NDArray[np.int64]
    size: NDArray[np.int64]

    @classmethod
    def at_random(cls, grid: tuple[int, int], size: NDArray[np.int64], *keys: keyed.Key) -> _Blocks:
        """Put blocks of `size` [N, 1, 2] at uniform places, the last row and column included."""
        row, column = (
            keyed.integers(grid[axis] - size[..., axis] + 1, *keys, name) for axis, name in enumerate(("row", "column"))
        )
        start = np.stack([row, column], axis=-1)
        return cls(grid, start, np.broadcast_to(size, start.shape).copy())

    def cover(self) -> NDArray[np.bool_]:
        """Return which positions of the grid lie in each block: [N, J, L]."""
        rows, columns = (
            (np.arange(self.grid[axis]) >= self.start[..., axis, None])
            & (np.arange(self.grid[axis]) < (self.start + self.size)[..., axis, None])
            for axis in (0, 1)
        )
        return (rows[..., :, None] & columns[..., None, :]).reshape(*self.start.shape[:2], -1)

    def indices(self, tokens: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the positions in each block, row by row, padded to [N, J, tokens], and which are real."""
        number = np.arange(tokens)
        is_target = number < self.size.prod(axis=-1, keepdims=True)
        row, column = np.divmod(np.where(is_target, number, 0), self.size[..., 1:])
        return (self.start[..., :1] + row) * self.grid[1] + self.start[..., 1:] + column, is_target


def block_sizes(grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]) -> NDArray[np.int64]:
    """Return the equally likely sizes of a block, (rows, columns) [S, 2]: I-JEPA's rounding, within the grid.

    Scale and aspect are taken at the middles of equal parts of their ranges.
    """
    middles = (np.arange(_STRATA) + 0.5) / _STRATA
    area = np.floor(grid[0] * grid[1] * (scale[0] + (scale[1] - scale[0]) * middles))[:, None]
    ratio = (aspect[0] + (aspect[1] - aspect[0]) * middles)[None, :]
    sides = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=-1).round().reshape(-1, 2)
    sizes: NDArray[np.int64] = np.clip(sides, 1, grid).astype(np.int64)
    return sizes


def _draw_size(sizes: NDArray[np.int64], *keys: keyed.Key) -> NDArray[np.int64]:
    return sizes[keyed.integers(len(sizes), *keys)]
