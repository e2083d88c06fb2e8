"""A recipe that a test can run in a second."""

from __future__ import annotations

from headrace.augment import AugmentConfig
from headrace.data.config import DataConfig
from headrace.data.sampling import SamplingConfig
from headrace.models.hjepa import HJepaConfig
from headrace.optim import OptimConfig
from headrace.recipe import Recipe
from headrace.train.config import CompileConfig, TrainConfig

TINY = Recipe(
    name="tiny",
    model=HJepaConfig(
        patch_size=8, width=16, depth=1, heads=2, predictor_width=16, predictor_depth=1, predictor_heads=2
    ),
    data=DataConfig(height=40, width=40, sampling=SamplingConfig(frames=1)),
    augment=AugmentConfig(height=32, width=32),
    optim=OptimConfig(lr=3e-3, warmup_steps=2),
    train=TrainConfig(
        steps=6,
        global_batch=4,
        micro_batch=2,
        precision="fp32",
        compile=CompileConfig(enabled=False),
        checkpoint_every=3,
        ledger=True,
    ),
)
