"""How to feed a model: nothing here changes what is learnt but the micro-batch's rounding, so clips/s decide."""

from __future__ import annotations

from ray import tune

from headrace.cluster.space import Space


def feeding() -> Space:
    """Decoders, micro-batch and threads of hjepa_tiny on this machine, by clips/s."""
    return Space(
        "hjepa_tiny",
        {
            "data.decoders": tune.choice(["1", "2", "4"]),
            "data.read_ahead": tune.choice([4, 16, 64]),
            "train.micro_batch": tune.choice([2, 4, 8, 16]),
            "train.queue": tune.choice([1, 2, 4]),
        },
        "clips_per_second",
        {"train.steps": 60, "train.checkpoint_every": 20, "data.source": "demo://street"},
    )
