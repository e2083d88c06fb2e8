from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from headrace.augment import Augment, AugmentConfig
from headrace.errors import UserError

CPU = torch.device("cpu")
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
STRONG = AugmentConfig(24, 32, brightness=0.4, contrast=0.4, saturation=0.4)


def noise(samples: int = 6, frames: int = 3, height: int = 40, width: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (samples, frames, height, width, 3), dtype=torch.uint8, generator=generator)


def test_shape_type_and_normalisation() -> None:
    config = AugmentConfig(40, 48, crop_scale=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0.0)
    pixels = noise()
    out = Augment(config, CPU)(pixels, np.arange(6))
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    expected = ((pixels.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    assert out.shape == (6, 3, 3, 40, 48)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    pixels, seeds, augment = noise(), np.arange(6) + 100, Augment(STRONG, CPU)
    whole = augment(pixels, seeds)
    apart = torch.cat([augment(pixels[:1], seeds[:1]), augment(pixels[1:], seeds[1:])])
    torch.testing.assert_close(whole, apart)
    torch.manual_seed(99)
    torch.testing.assert_close(whole, augment(pixels, seeds), atol=0, rtol=0)


def test_all_frames_of_a_clip_get_the_same() -> None:
    still = noise(frames=1).expand(-1, 4, -1, -1, -1)
    out = Augment(STRONG, CPU)(still, np.arange(6))
    assert torch.equal(out, out[:, :1].expand_as(out))


def test_other_seeds_look_different() -> None:
    same = noise(samples=1).expand(8, -1, -1, -1, -1)
    out = Augment(STRONG, CPU)(same, np.arange(8))
    assert all((out[0] - out[other]).abs().mean() > 0.05 for other in range(1, 8))


def test_half_of_the_clips_are_flipped() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).expand(400, 1, 8, 32)[..., None].expand(-1, -1, -1, -1, 3)
    out = Augment(AugmentConfig(8, 32, crop_scale=(1.0, 1.0), **PLAIN), CPU)(ramp, np.arange(400))
    flipped = (out[..., 0] > out[..., -1]).float().mean()
    assert 0.4 < flipped < 0.6


def test_crops_cover_the_frame_and_keep_to_the_scale() -> None:
    """On a picture of its own coordinates the corners of the output tell where the crop was."""
    y, x = torch.meshgrid(torch.arange(200), torch.arange(250), indexing="ij")
    picture = torch.stack([x, y, torch.zeros_like(x)], -1).to(torch.uint8)
    config = AugmentConfig(100, 100, crop_scale=(0.2, 0.5), flip=0.0, **PLAIN)
    out = 255 * Augment(config, CPU)(picture.expand(500, 1, -1, -1, -1), np.arange(500))[:, 0]
    left, right = out[:, 0, 0, 0], out[:, 0, 0, -1]
    top, bottom = out[:, 1, 0, 0], out[:, 1, -1, 0]
    area = (right - left) * (bottom - top) / (99 / 100) ** 2 / (200 * 250)
    assert area.min() > 0.19
    assert area.max() < 0.51
    assert left.min() < 5
    assert right.max() > 244
    assert top.min() < 5
    assert bottom.max() > 194


def test_evaluation_is_plain() -> None:
    pixels = noise()
    augment = Augment(AugmentConfig(20, 24, brightness=0.5, **PLAIN), CPU, training=False)
    frames = pixels.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    expected = interpolate(frames, (20, 24), mode="bilinear", antialias=True).unflatten(0, (6, 3))
    torch.testing.assert_close(augment(pixels, np.arange(6)), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.5)},
        {"flip": 1.5},
        {"std": (1.0, 0.0, 1.0)},
        {"height": 0},
    ],
)
def test_impossible_settings(settings: dict[str, object]) -> None:
    with pytest.raises(UserError):
        AugmentConfig(**settings)  # type: ignore[arg-type]
