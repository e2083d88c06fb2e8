"""Axial RoPE against its definition, written as slowly and plainly as possible."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headrace.layers.rope import AxialRope, patch_angles, rotate


def naive_rotate(vector: list[float], y: float, x: float, base: float = 100.0) -> list[float]:
    """Turn one head's features of one token at (y, x): pair f of the first half holds features f, f + E/2."""
    size = len(vector)
    turned = list(vector)
    for pair in range(size // 2):
        axis, frequency = divmod(pair, size // 4)
        angle = 2 * math.pi * (y, x)[axis] / base ** (frequency / (size // 4))
        a, b = vector[pair], vector[pair + size // 2]
        turned[pair] = a * math.cos(angle) - b * math.sin(angle)
        turned[pair + size // 2] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def centre(index: int, count: int) -> float:
    """Return where patch `index` of `count` lies on an axis from -1 to 1."""
    return -1 + (2 * index + 1) / count


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (8, 8)])
@pytest.mark.parametrize("size", [4, 12, 32])
def test_equals_the_definition(grid: tuple[int, int], size: int) -> None:
    rows, columns = grid
    queries = torch.randn(2, 1, rows * columns, size)
    turned = rotate(queries, AxialRope(grid, size)())
    for token in range(rows * columns):
        row, column = divmod(token, columns)
        for image in range(2):
            expected = naive_rotate(queries[image, 0, token].tolist(), centre(row, rows), centre(column, columns))
            torch.testing.assert_close(turned[image, 0, token], torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_products_depend_on_the_offset_alone() -> None:
    rows, columns, size = 6, 7, 16
    query, key = torch.randn(size, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
    angles = patch_angles((rows, columns), size, base=100.0)
    rotation = angles.cos()[None, None], angles.sin()[None, None]

    def everywhere(vector: Tensor) -> Tensor:
        return rotate(vector.expand(1, 1, rows * columns, size), rotation)[0, 0]

    products = (everywhere(query) @ everywhere(key).T).view(rows, columns, rows, columns)
    torch.testing.assert_close(products[:-1, :-1, :-1, :-1], products[1:, 1:, 1:, 1:])
    assert (products[0, 0, 1, 2] - products[0, 0, 2, 1]).abs() > 1e-3, "rows and columns are told apart"


def test_keeps_lengths_and_types() -> None:
    rope = AxialRope((4, 4), 8)
    queries = torch.randn(3, 2, 16, 8)
    torch.testing.assert_close(rotate(queries, rope()).norm(dim=-1), queries.norm(dim=-1))
    assert rotate(queries.bfloat16(), rope()).dtype == torch.bfloat16


def test_dropped_tokens_keep_their_place() -> None:
    rope = AxialRope((5, 6), 8)
    index = torch.stack([torch.randperm(30)[:7] for _ in range(4)])
    queries = torch.randn(4, 2, 30, 8)
    kept = queries.gather(2, index[:, None, :, None].expand(-1, 2, -1, 8))
    everywhere = rotate(queries, rope())
    torch.testing.assert_close(
        rotate(kept, rope(index)), everywhere.gather(2, index[:, None, :, None].expand(-1, 2, -1, 8))
    )


@pytest.mark.slow  # importing transformers
def test_agrees_with_dinov3() -> None:
    dinov3 = pytest.importorskip("transformers.models.dinov3_vit.modeling_dinov3_vit")
    from transformers import DINOv3ViTConfig

    config = DINOv3ViTConfig(image_size=[32, 48], patch_size=8, hidden_size=64, num_attention_heads=2)
    theirs = dinov3.DINOv3ViTRopePositionEmbedding(config).eval()
    cos, sin = theirs(torch.zeros(1, 3, 32, 48))
    rotation = AxialRope((4, 6), 32)()
    torch.testing.assert_close(rotation[0][0, 0], cos, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rotation[1][0, 0], sin, atol=1e-5, rtol=1e-5)
    queries = torch.randn(1, 2, 24, 32)
    torch.testing.assert_close(
        rotate(queries, rotation),
        dinov3.apply_rotary_pos_emb(queries, queries, cos, sin)[0],
        atol=1e-5,
        rtol=1e-5,
    )


def test_head_of_odd_size_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4 features per head, got 6"):
        AxialRope((2, 2), 6)
