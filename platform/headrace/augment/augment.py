"""Augmentation on the training device: one warp, one colour pass, the same for all frames of a clip.

    pixels [B, T, H, W, C] uint8, seed [B]  ->  [B, T, C, h, w] float32, normalised

The draws are a pure function of each sample's seed, so a sample looks the same whatever batch, rank or attempt it
comes in; Kornia's own random modules draw from a generator shared by the batch, which cannot give that, so the
parameters are drawn here and Kornia does the pixels. Crop, resize and flip are one affine warp: one read and one
write of the frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
    normalize,
)
from kornia.geometry.transform import warp_affine
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from headrace import keyed
from headrace.errors import UserError


@dataclass(frozen=True)
class AugmentConfig:
    """Random resized crop, flip and colour, and the normalisation that ends them."""

    height: int = 96
    """Height of a frame as the model sees it, in pixels."""

    width: int = 96
    """Width of a frame as the model sees it, in pixels."""

    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Share of the frame's area that a random crop keeps, from and to; 1 1 keeps it whole."""

    crop_aspect: tuple[float, float] = (0.75, 1.3333)
    """Change of the aspect ratio by the crop, from and to, drawn on a log scale."""

    flip: float = 0.5
    """Probability of a horizontal flip."""

    brightness: float = 0.0
    """Largest factor by which brightness changes, up or down; 0.2 draws from 0.8 to 1.2."""

    contrast: float = 0.0
    """Largest factor by which contrast changes, up or down."""

    saturation: float = 0.0
    """Largest factor by which saturation changes, up or down."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue that is subtracted, in 0 to 1."""

    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue that is divided by, in 0 to 1."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UserError(f"--augment.height and --augment.width must be at least 1, got {self.height} {self.width}")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(f"--augment.crop-scale needs 0 < from <= to <= 1, got {low} {high}")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise UserError(f"--augment.crop-aspect needs 0 < from <= to, got {self.crop_aspect}")
        for name in ("flip", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--augment.{name} is between 0 and 1, got {getattr(self, name)}")
        if min(self.std) <= 0:
            raise UserError(f"--augment.std must be positive, got {self.std}")


class Augment:
    """Turns decoded pixels into what the model sees. Random in training, whole and plain in evaluation."""

    def __init__(self, config: AugmentConfig, device: torch.device, *, training: bool = True) -> None:
        self.config = config
        self.training = training
        self._device = device
        self._mean = torch.tensor(config.mean, device=device)
        self._std = torch.tensor(config.std, device=device)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, seed: NDArray[np.int64]) -> Tensor:
        """Return [B, T, C, h, w] float32 of pixels [B, T, H, W, C] uint8 on the same device."""
        samples, frames, height, width, channels = pixels.shape
        size = (self.config.height, self.config.width)
        clips = pixels.permute(0, 1, 4, 2, 3).reshape(samples, frames * channels, height, width)
        clips = clips.float().div_(255.0)
        if self.training:
            matrix = torch.from_numpy(self._crop(seed, height, width)).float().to(self._device, non_blocking=True)
            clips = warp_affine(clips, matrix, size, padding_mode="border", align_corners=False)
        elif (height, width) != size:
            clips = interpolate(clips, size, mode="bilinear", antialias=True)
        images = clips.reshape(samples * frames, channels, *size)
        if self.training:
            for name, adjust in _COLOUR.items():
                images = self._colour(images, frames, seed, name, adjust)
        return normalize(images, self._mean, self._std).reshape(samples, frames, channels, *size)

    def visible(self, pixels: Tensor) -> NDArray[np.uint8]:
        """Return [B, T, h, w, C] of what this returned, as people look at it."""
        colours = pixels.movedim(2, -1) * self._std + self._mean
        shown: NDArray[np.uint8] = (255 * colours).round().clamp(0, 255).byte().cpu().numpy()
        return shown

    def _crop(self, seed: NDArray[np.int64], height: int, width: int) -> NDArray[np.float64]:
        """Draw, for each sample, the 2x3 matrix that takes its crop to the output, maybe mirrored."""
        config = self.config

        def draw(name: str, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
            return low + (high - low) * keyed.uniform("augment", seed, name)

        area = draw("scale", *config.crop_scale)
        aspect = np.exp(draw("aspect", *map(math.log, config.crop_aspect)))
        crop_width = np.minimum(width * np.sqrt(area * aspect), width)
        crop_height = np.minimum(height * np.sqrt(area / aspect), height)
        left = draw("left") * (width - crop_width)
        top = draw("top") * (height - crop_height)
        mirror = draw("flip") < config.flip
        return _crop_matrix(left, top, crop_width, crop_height, mirror, (config.height, config.width))

    def _colour(
        self,
        images: Tensor,
        frames: int,
        seed: NDArray[np.int64],
        name: str,
        adjust: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        strength: float = getattr(self.config, name)
        if not strength:
            return images
        factor = 1.0 + strength * (2.0 * keyed.uniform("augment", seed, name) - 1.0)
        per_frame = torch.from_numpy(np.repeat(factor, frames)).float().to(self._device, non_blocking=True)
        return adjust(images, per_frame)


def _crop_matrix(
    left: NDArray[np.float64],
    top: NDArray[np.float64],
    crop_width: NDArray[np.float64],
    crop_height: NDArray[np.float64],
    mirror: NDArray[np.bool_],
    size: tuple[int, int],
) -> NDArray[np.float64]:
    """Return [B, 2, 3]: input pixel -> output pixel, pixel centres at whole numbers.

    Along one axis, crop [left, left + extent) to n pixels:  out = (in + 1/2 - left) * n / extent - 1/2
    and mirrored:                                            out' = n - 1 - out
    """
    height, width = size
    scale_x, scale_y = width / crop_width, height / crop_height
    shift_x, shift_y = (0.5 - left) * scale_x - 0.5, (0.5 - top) * scale_y - 0.5
    scale_x, shift_x = np.where(mirror, [-scale_x, width - 1 - shift_x], [scale_x, shift_x])
    zero = np.zeros_like(scale_x)
    rows = [np.stack([scale_x, zero, shift_x], -1), np.stack([zero, scale_y, shift_y], -1)]
    return np.stack(rows, axis=1)


_COLOUR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": adjust_brightness_accumulative,
    "contrast": adjust_contrast_with_mean_subtraction,
    "saturation": adjust_saturation_with_gray_subtraction,
}
"""Kornia's functions that blend as PIL and torchvision do; each takes images [N, C, H, W] and factors [N]."""
