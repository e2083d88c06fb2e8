"""Optimizers and their schedules.

optimizer = build_optimizer(objective, config)
for step in range(steps):
    ...forward, backward...
    clip_gradients(objective, config)
    set_schedule(optimizer, step, steps, config)
    optimizer.step()
"""

from headrace.optim.adamw import OptimConfig, build_optimizer, clip_gradients
from headrace.optim.schedule import learning_rate, set_schedule, weight_decay

__all__ = [
    "OptimConfig",
    "build_optimizer",
    "clip_gradients",
    "learning_rate",
    "set_schedule",
    "weight_decay",
]
