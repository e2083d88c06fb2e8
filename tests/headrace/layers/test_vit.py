"""The vision transformer over all patches and over some."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headrace.layers.patch_embed import PatchEmbed, take
from headrace.layers.vit import ViT


def small_vit(**settings: float) -> ViT:
    torch.manual_seed(0)
    return ViT(grid=(3, 4), patch_size=5, width=24, depth=3, heads=2, **settings)


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 15, 20, generator=torch.Generator().manual_seed(1))


def permutations(count: int, kept: int = 12) -> torch.Tensor:
    draws = torch.Generator().manual_seed(2)
    return torch.stack([torch.randperm(12, generator=draws)[:kept] for _ in range(count)])


def test_patch_embedding_is_a_strided_convolution() -> None:
    embed = PatchEmbed(5, 24)
    weight = embed.project.weight.view(24, 3, 5, 5)
    expected = F.conv2d(images(), weight, embed.project.bias, stride=5).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(images()), expected, atol=1e-5, rtol=1e-5)
    keep = permutations(2, kept=4)
    torch.testing.assert_close(embed(images(), keep), take(expected, keep), atol=1e-5, rtol=1e-5)


def test_tokens_may_come_in_any_order() -> None:
    vit, order = small_vit(), permutations(2)
    torch.testing.assert_close(vit(images(), order), take(vit(images()), order), atol=1e-5, rtol=1e-5)


def test_places_matter() -> None:
    """All patches alike: only where the kept ones stand could tell them apart from other kept ones."""
    vit = small_vit()
    with torch.no_grad():  # a fresh network is nearly linear in its tokens; sharpen its attention
        for part in vit.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(8)
    keep = permutations(1, kept=3)
    moved = (keep + 1) % 12
    patches = torch.randn(1, 3, 5, 5).repeat(1, 1, 3, 4)
    patches[:, :, :5, :5] = 0
    keep[0, 0], moved[0, 0] = 0, 0
    assert not torch.allclose(vit(patches, keep)[:, 0], vit(patches, moved)[:, 0], atol=1e-4)


def test_dropped_tokens_are_not_seen() -> None:
    vit, keep = small_vit(), torch.tensor([[0, 1, 5]])
    before, changed = vit(images(1), keep), images(1)
    changed[..., 10:, :] += 7.0  # the last row of patches, 8 to 11
    assert torch.equal(vit(changed, keep), before)


def test_another_size_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="images must be 15x20"):
        small_vit()(torch.zeros(1, 3, 20, 15))


def test_starts_from_small_weights_rescaled_by_depth() -> None:
    torch.manual_seed(0)
    vit = ViT(grid=(2, 2), patch_size=8, width=256, depth=4, heads=4)
    for number, block in enumerate(vit.blocks.blocks, start=1):
        assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
        for writes in (block.attention.out, block.mlp.out):
            assert writes.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * number), rel=0.02)
            assert not writes.bias.any()


def test_same_seed_same_weights() -> None:
    first, second = small_vit().state_dict(), small_vit().state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_residual_stream_keeps_full_precision_under_autocast() -> None:
    vit, streams = small_vit(layer_scale=0.1), []
    for block in vit.blocks.blocks:
        block.register_forward_hook(lambda _module, _inputs, out: streams.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = vit(images(), permutations(2, kept=5))
    assert set(streams) == {torch.float32}
    torch.testing.assert_close(out.float(), vit(images(), permutations(2, kept=5)), atol=0.1, rtol=0.1)


def test_compiles_whole() -> None:
    vit = ViT(grid=(3, 4), patch_size=5, width=24, depth=2, heads=2, drop_path=0.2, layer_scale=0.1)
    compiled = torch.compile(vit, backend="aot_eager", fullgraph=True)
    compiled(images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in vit.parameters())
    vit.eval()
    keep = permutations(2, kept=5)
    torch.testing.assert_close(compiled(images(), keep), vit(images(), keep), atol=1e-5, rtol=1e-5)
