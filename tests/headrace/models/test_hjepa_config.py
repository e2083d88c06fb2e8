"""The settings of H-JEPA: what cannot work is said before anything starts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from headrace.errors import UserError
from headrace.models.hjepa import HJepaConfig

TINY = HJepaConfig(patch_size=4, width=24, depth=2, heads=2, predictor_width=16, predictor_depth=1, predictor_heads=2)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("patch_size", 0, "patch_size must be at least 1, got 0"),
        ("width", 100, "width 100 does not give each of 2 heads a multiple of 4 features: use 96 or 104"),
        ("predictor_heads", 3, "predictor_width 16 .* use 12 or 24"),
        ("mlp_ratio", 0.0, "mlp_ratio must be above 0"),
        ("drop_path", 1.0, r"drop_path must be in \[0, 1\), got 1.0"),
        ("target_scale", (0.3, 0.2), "target_scale must be shares from low to high"),
        ("context_scale", (0.85, 1.1), "context_scale must be shares"),
        ("target_aspect", (0.0, 1.0), "target_aspect must be ratios"),
        ("momentum", (0.9, 1.1), "momentum must be two numbers"),
        ("target_blocks", 0, "target_blocks must be at least 1"),
    ],
)
def test_impossible_values(setting: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TINY, **{setting: value})


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (33, 32, "patch_size 4 does not divide a height of 33 pixels: use 32 or 36"),
        (32, 30, "patch_size 4 does not divide a width of 30 pixels: use 28 or 32"),
        (3, 32, "height of 3 pixels: use 4"),
        (
            8,
            8,
            "on a grid of 2x2 patches only .* of masks leave 4 patches of context: use a smaller patch_size",
        ),
    ],
)
def test_sizes_that_do_not_fit(height: int, width: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TINY.build(height, width)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (20, 36)])
def test_sizes_that_fit(size: tuple[int, int]) -> None:
    assert TINY.build(*size).encoder.image_size == size


def test_default_is_a_vit_small() -> None:
    model = HJepaConfig().build(224, 224)
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    blocks = 12 * (12 * 384**2 + 13 * 384)
    assert encoder == blocks + (3 * 16**2 + 1) * 384 + 2 * 384
    assert model.masks.grid == (14, 14)
