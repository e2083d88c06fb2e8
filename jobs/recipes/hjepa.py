"""H-JEPA recipes: self-supervised on frames of video and on images. Level 0 of the hierarchy is I-JEPA."""

from __future__ import annotations

from dataclasses import replace

from headrace.augment import AugmentConfig
from headrace.data.config import DataConfig
from headrace.data.sampling import SamplingConfig
from headrace.models.hjepa import HJepaConfig
from headrace.optim import OptimConfig
from headrace.recipe import Recipe
from headrace.train.config import CompileConfig, EvaluateConfig, TrainConfig

TINY = HJepaConfig(patch_size=12, width=192, depth=6, heads=3, predictor_width=96, predictor_depth=3, predictor_heads=3)
"""An encoder of 2.7 million parameters."""


def hjepa_vits() -> Recipe:
    """ViT-S/16 at 224 pixels, compiled BF16: the recipe for a GPU and a folder of videos."""
    return Recipe(
        name="hjepa_vits",
        model=HJepaConfig(),
        data=DataConfig(height=256, width=256, sampling=SamplingConfig(frames=4)),
        augment=AugmentConfig(height=224, width=224),
        optim=OptimConfig(lr=1e-3, warmup_steps=2000),
        train=TrainConfig(
            steps=100_000, global_batch=256, micro_batch=64, workers=1, checkpoint_every=2000, log_every=20
        ),
    )


def hjepa_tiny() -> Recipe:
    """A 2.7-million-parameter encoder at 96 pixels that learns from any folder of videos on a laptop's CPU."""
    return Recipe(
        name="hjepa_tiny",
        model=HJepaConfig(
            patch_size=12,
            width=192,
            depth=6,
            heads=3,
            predictor_width=96,
            predictor_depth=3,
            predictor_heads=3,
        ),
        data=DataConfig(height=128, width=128, sampling=SamplingConfig(frames=2)),
        augment=AugmentConfig(height=96, width=96),
        optim=OptimConfig(lr=1e-3, warmup_steps=20),
        train=TrainConfig(
            steps=200, global_batch=16, micro_batch=8, precision="fp32", compile=CompileConfig(enabled=False)
        ),
    )


def demo() -> Recipe:
    """hjepa_tiny on street scenes that it makes: a few minutes on two cores."""
    base = hjepa_tiny()
    return replace(
        base,
        name="demo",
        data=replace(base.data, source="demo://street", holdout=0.25),
        train=replace(base.train, checkpoint_every=50, evaluate=EvaluateConfig(every=50)),
    )


def hjepa_cifar() -> Recipe:
    """CIFAR-10 at its native 32 pixels on a CPU: patch 8, small enough to learn in minutes. Needs --data.source."""
    base = hjepa_tiny()
    model = HJepaConfig(
        patch_size=8,
        width=128,
        depth=4,
        heads=4,
        predictor_width=96,
        predictor_depth=2,
        predictor_heads=4,
        context_quantile=0.8,
        momentum=(0.99, 1.0),
    )
    return replace(
        base,
        name="hjepa_cifar",
        model=model,
        data=replace(base.data, height=32, width=32, sampling=SamplingConfig(frames=1)),
        augment=replace(base.augment, height=32, width=32),
        optim=OptimConfig(lr=5e-4, warmup_steps=40, weight_decay=0.05, final_weight_decay=0.05, clip_norm=3.0),
        train=replace(
            base.train,
            steps=1000,
            global_batch=128,
            micro_batch=64,
            log_every=10,
            checkpoint_every=250,
            keep_checkpoints=9,
        ),
    )
