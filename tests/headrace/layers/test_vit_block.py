"""Attention, block, LayerScale and DropPath: what each must and must not change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrace.layers.attention import Attention
from headrace.layers.block import Block
from headrace.layers.drop_path import DropPath
from headrace.layers.layer_scale import LayerScale
from headrace.layers.rope import AxialRope, Rotation, rotate


def naive_attention(module: Attention, tokens: Tensor, rotation: Rotation, readable: Tensor) -> Tensor:
    """The formula, in the tokens' own precision, one head of one image at a time."""
    images, _, width = tokens.shape
    size = width // module.heads
    out = torch.zeros_like(tokens)
    query, key, value = module.qkv(tokens).chunk(3, dim=-1)
    for image in range(images):
        for head in range(module.heads):
            part = slice(head * size, (head + 1) * size)
            q = rotate(query[image, None, None, :, part], rotation)[0, 0]
            k = rotate(key[image, None, None, :, part], rotation)[0, 0]
            scores = q @ k.T / size**0.5
            scores[:, ~readable[image]] = -torch.inf
            out[image, :, part] = scores.softmax(dim=-1) @ value[image, :, part]
    return module.out(out)


@pytest.mark.parametrize(("width", "heads", "grid"), [(12, 1, (3, 3)), (24, 3, (1, 7)), (40, 5, (4, 5))])
def test_attention_equals_the_formula_with_its_gradients(width: int, heads: int, grid: tuple[int, int]) -> None:
    module = Attention(width, heads).double()
    rope = AxialRope(grid, width // heads).double()
    tokens = torch.randn(3, grid[0] * grid[1], width, dtype=torch.float64, requires_grad=True)
    readable = torch.rand(tokens.shape[:2]) < 0.7
    readable[:, 0] = True

    fused, naive = module(tokens, rope(), readable), naive_attention(module, tokens, rope(), readable)
    torch.testing.assert_close(fused, naive, atol=1e-12, rtol=1e-12)
    direction = torch.randn_like(fused)
    gradients = [torch.autograd.grad((out * direction).sum(), tokens)[0] for out in (fused, naive)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)


def test_what_is_not_readable_is_not_read() -> None:
    module, rope = Attention(16, 2), AxialRope((2, 3), 8)
    tokens, readable = torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool)
    readable[:, 4:] = False
    before = module(tokens, rope(), readable)
    tokens[:, 4:] = 1e3
    torch.testing.assert_close(module(tokens, rope(), readable)[:, :4], before[:, :4])
    assert not torch.allclose(module(tokens, rope())[:, :4], before[:, :4]), "without a mask it is read"


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="width 10 does not divide into 3 heads"):
        Attention(10, 3)


def test_layer_scale_of_zero_makes_a_block_the_identity() -> None:
    tokens, rotation = torch.randn(2, 6, 16), AxialRope((2, 3), 8)()
    assert torch.equal(Block(16, 2, layer_scale=0.0)(tokens, rotation), tokens)
    assert not torch.allclose(Block(16, 2, layer_scale=1e-1)(tokens, rotation), tokens)


def test_layer_scale_scales_each_feature() -> None:
    scale = LayerScale(3, 0.5)
    with torch.no_grad():
        scale.gamma[1] = 2.0
    assert scale(torch.ones(1, 3)).tolist() == [[0.5, 2.0, 0.5]]


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.3)(torch.ones(20_000, 2, 3))
    per_image = dropped.flatten(1)
    assert (per_image == per_image[:, :1]).all()
    assert sorted(set(per_image[:, 0].tolist())) == pytest.approx([0.0, 1 / 0.7])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)


def test_drop_path_rests_in_evaluation() -> None:
    branch = torch.randn(8, 3)
    assert torch.equal(DropPath(0.9).eval()(branch), branch)
    assert torch.equal(DropPath(0.0)(branch), branch)
    with pytest.raises(ValueError, match="must be in"):
        DropPath(1.0)
