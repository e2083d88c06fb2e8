"""Optimizers, their schedules, and the average of the weights.

optimizer = build_optimizer(objective, config)
for step in range(steps):
    ...forward, backward...
    clip_gradients(objective, config)
    set_schedule(optimizer, step, steps, config)
    step_unless(refused, optimizer)
with eval_mode(optimizer):
    ...evaluate or save...
"""

from headrace.optim.build import build_optimizer, clip_gradients, eval_mode, step_unless, train_mode
from headrace.optim.config import OptimConfig, SophiaConfig
from headrace.optim.ema import Ema
from headrace.optim.lion import Lion
from headrace.optim.schedule import learning_rate, set_schedule, weight_decay
from headrace.optim.sophia import SophiaH, hutchinson

__all__ = [
    "Ema",
    "Lion",
    "OptimConfig",
    "SophiaConfig",
    "SophiaH",
    "build_optimizer",
    "clip_gradients",
    "eval_mode",
    "hutchinson",
    "learning_rate",
    "set_schedule",
    "step_unless",
    "train_mode",
    "weight_decay",
]
