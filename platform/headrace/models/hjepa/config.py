"""The settings of H-JEPA."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import UserError
from headrace.layers.vit import ViT
from headrace.models import ModelConfig
from headrace.models.hjepa.masks import MaskSampler, NoRoom
from headrace.models.hjepa.objective import HJepa
from headrace.models.hjepa.predictor import Predictor

Range = tuple[float, float]


@dataclass(frozen=True)
class HJepaConfig(ModelConfig):
    """I-JEPA (arXiv 2301.08243) with rotary positions: the level 0 of H-JEPA. The defaults are a ViT-S/16."""

    patch_size: int = 16
    """Pixels on a side of a patch. It must divide the frames' height and width."""

    width: int = 384
    """Features of an encoder token."""

    depth: int = 12
    """Blocks of the encoder."""

    heads: int = 6
    """Attention heads of the encoder; each has width / heads features, a multiple of 4."""

    mlp_ratio: float = 4.0
    """Hidden features of an MLP for each feature of a token, in encoder and predictor."""

    drop_path: float = 0.0
    """Share of images for which the encoder's last block is skipped in training; earlier blocks less."""

    predictor_width: int = 192
    """Features of a predictor token. Narrower than the encoder: I-JEPA's has half of ViT-B's."""

    predictor_depth: int = 6
    """Blocks of the predictor."""

    predictor_heads: int = 6
    """Attention heads of the predictor."""

    target_blocks: int = 4
    """Blocks to be predicted in each image."""

    target_scale: Range = (0.15, 0.2)
    """Least and greatest share of the image that a target block covers."""

    target_aspect: Range = (0.75, 1.5)
    """Least and greatest height / width of a target block."""

    context_scale: Range = (0.85, 1.0)
    """Least and greatest share of the image that the context block covers, before targets are cut out."""

    min_context: int = 4
    """Patches that the context has at least. It matters on small grids; on others far more are left."""

    context_quantile: float = 0.99
    """Share of all draws of masks that leave as many patches as the context has; the others are drawn again.
    0.99 is about I-JEPA's minimum over a batch of 100; less lets the context see more."""

    momentum: Range = (0.996, 1.0)
    """Momentum of the target encoder at the first step and after the last, linear between."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "width", "depth", "heads", "target_blocks", "min_context"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("predictor_width", "predictor_depth", "predictor_heads"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        _check_heads("width", self.width, "heads", self.heads)
        _check_heads("predictor_width", self.predictor_width, "predictor_heads", self.predictor_heads)
        _require(self.mlp_ratio > 0, "mlp_ratio", self.mlp_ratio, "must be above 0")
        _require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "must be in [0, 1)")
        _require(0.5 <= self.context_quantile <= 1, "context_quantile", self.context_quantile, "must be in [0.5, 1]")
        for name in ("target_scale", "context_scale"):
            low, high = getattr(self, name)
            _require(0 < low <= high <= 1, name, (low, high), "must be shares from low to high, in (0, 1]")
        low, high = self.target_aspect
        _require(0 < low <= high, "target_aspect", (low, high), "must be ratios from low to high, above 0")
        ordered = all(0 <= momentum <= 1 for momentum in self.momentum)
        _require(ordered, "momentum", self.momentum, "must be two numbers in [0, 1]")

    def build(self, height: int, width: int) -> HJepa:
        """Return the objective for frames of height x width pixels. Weights come from torch's generator.

        Raises:
            UserError: patch_size does not divide the size, or the grid is too small for the masks.
        """
        grid = (self._patches("height", height), self._patches("width", width))
        encoder = ViT(
            grid,
            self.patch_size,
            self.width,
            self.depth,
            self.heads,
            self.mlp_ratio,
            drop_path=self.drop_path,
        )
        predictor = Predictor(
            grid,
            self.width,
            self.predictor_width,
            self.predictor_depth,
            self.predictor_heads,
            self.mlp_ratio,
        )
        return HJepa(encoder, predictor, self._mask_sampler(grid), self.momentum)

    def _patches(self, side: str, pixels: int) -> int:
        patches, rest = divmod(pixels, self.patch_size)
        if rest or not patches:
            above = (patches + 1) * self.patch_size
            fitting = f"{patches * self.patch_size} or {above}" if patches else f"{above}"
            raise UserError(f"patch_size {self.patch_size} does not divide a {side} of {pixels} pixels: use {fitting}")
        return patches

    def _mask_sampler(self, grid: tuple[int, int]) -> MaskSampler:
        try:
            return MaskSampler(
                grid,
                target_blocks=self.target_blocks,
                target_scale=self.target_scale,
                target_aspect=self.target_aspect,
                context_scale=self.context_scale,
                min_context=self.min_context,
                context_quantile=self.context_quantile,
            )
        except NoRoom as error:
            raise UserError(
                f"on a grid of {grid[0]}x{grid[1]} patches only {error.share:.0%} of masks leave "
                f"{error.tokens} patches of context: use a smaller patch_size ({self.patch_size}), larger "
                f"frames, fewer target_blocks ({self.target_blocks}) or a smaller min_context"
            ) from error


def _check_heads(width_name: str, width: int, heads_name: str, heads: int) -> None:
    if width % (4 * heads):
        below = width // (4 * heads) * (4 * heads)
        fitting = f"{below} or {below + 4 * heads}" if below else f"{4 * heads}"
        raise UserError(
            f"{width_name} {width} does not give each of {heads} {heads_name} a multiple of 4 features: use {fitting}"
        )


def _require(holds: bool, name: str, value: object, condition: str) -> None:
    if not holds:
        raise UserError(f"{name} {condition}, got {value}")
