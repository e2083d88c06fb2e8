"""What is worth varying of H-JEPA: how fast it learns, what it hides, how slowly its target follows.

A collapsed encoder has a loss near 0, so trials are never compared by the loss. Nor by RankMe where training is short:
it is highest before the first step, and who learns least keeps most of it. A minute of training teaches neighbours
nothing about labels, but `explained`, the share of the targets' variance that is predicted, rises meanwhile.
"""

from __future__ import annotations

from ray import tune

from headrace.cluster.space import Space


def demo() -> Space:
    """Learning rate, decay, clipping and momentum of the demo, by what is explained of unseen clips; a minute each."""
    return Space(
        "demo",
        {
            "optim.lr": tune.loguniform(1e-4, 1e-2),
            "optim.weight_decay": tune.loguniform(1e-3, 2e-1),
            "optim.clip_norm": tune.choice([0.3, 1.0, 3.0]),
            "model.momentum": tune.choice([(0.98, 1.0), (0.99, 1.0), (0.996, 1.0)]),
        },
        "held_out/explained",
        {
            "data.source": "demo://street?clips=192",
            "train.steps": 90,
            "train.evaluate.every": 30,
            "train.checkpoint_every": 30,
        },
    )


def hjepa_vits() -> Space:
    """The recipe for a GPU: also its masks and its schedule."""
    return Space(
        "hjepa_vits",
        {
            "optim.lr": tune.loguniform(1e-4, 4e-3),
            "optim.weight_decay": tune.uniform(0.02, 0.2),
            "optim.warmup_steps": tune.choice([1000, 2000, 5000]),
            "model.momentum": tune.choice([(0.99, 1.0), (0.996, 1.0), (0.999, 1.0)]),
            "model.context_quantile": tune.choice([0.5, 0.8, 0.99]),
            "augment.crop_scale": tune.choice([(0.3, 1.0), (0.5, 1.0), (0.8, 1.0)]),
        },
        "held_out/knn",
        {"data.holdout": 0.05, "train.steps": 10_000, "train.evaluate.every": 1000, "train.checkpoint_every": 1000},
    )
