"""A recipe that a test can run in a second, and a session that runs one without Ray."""

from __future__ import annotations

from pathlib import Path

import torch

from headrace.augment import AugmentConfig
from headrace.cluster.trainer import agenda_of, plan_of
from headrace.data.config import DataConfig
from headrace.data.manifest import Manifest
from headrace.data.sampling import SamplingConfig
from headrace.data.split import Split
from headrace.models.hjepa import HJepaConfig
from headrace.optim import OptimConfig
from headrace.recipe import Recipe
from headrace.train.config import CompileConfig, TrainConfig
from headrace.train.session import LocalSession

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


def session_of(
    recipe: Recipe, folder: Path, samples: Manifest | Split, rank: int = 0, ranks: int = 1, kind: type = LocalSession
) -> LocalSession:
    """Return the session of a worker in this process: all samples are trained on, unless they are split."""
    split = (samples if isinstance(samples, Split) else Split.whole(samples)).limited(recipe.train.evaluate.samples)
    plan, agenda = plan_of(recipe, split.training), agenda_of(recipe, len(split.held_out))
    session: LocalSession = kind(folder, split, plan, agenda, torch.device("cpu"), rank, ranks)
    return session
