"""Learning rate and weight decay as functions of the step: no scheduler whose state could be lost.

    step             0          warmup_steps          steps
    learning rate    start_lr   lr                    min_lr                linear, then by the schedule
    weight decay     weight_decay                     final_weight_decay    cosine

    cosine     half a cosine                 constant   lr throughout
    linear     a straight line               wsd        lr, and in the last decay_share of the run a straight line

The last step that is taken is steps - 1, a hair before the end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from headrace.optim.config import OptimConfig


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Return the learning rate of step number `step` (from 0) of `steps`.

    Raises:
        UserError: the warm-up does not fit the run.
    """
    config.check_steps(steps)
    if step < config.warmup_steps:
        return config.start_lr + (config.lr - config.start_lr) * step / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    begin = float(config.warmup_steps)
    if config.schedule == "wsd":
        begin = max(begin, steps - config.decay_share * steps)
    progress = min(1.0, max(0.0, (step - begin) / (steps - begin)))
    if config.schedule == "cosine":
        return _cosine(config.lr, config.min_lr, progress)
    return config.lr + (config.min_lr - config.lr) * progress


def weight_decay(step: int, steps: int, config: OptimConfig) -> float:
    """Return the weight decay of step number `step` (from 0) of `steps`."""
    config.check_steps(steps)
    return _cosine(config.weight_decay, config.final_weight_decay, step / steps)


def set_schedule(optimizer: torch.optim.Optimizer, step: int, steps: int, config: OptimConfig) -> None:
    """Give an optimizer of `build_optimizer` the rates of step number `step` (from 0) of `steps`."""
    rate, decay = learning_rate(step, steps, config), weight_decay(step, steps, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
        group["weight_decay"] = decay if group["decays"] else 0.0


def _cosine(start: float, end: float, progress: float) -> float:
    """Go from start to end along half a cosine; past the end stay there."""
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
