"""Settings of the optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from headrace.errors import UserError, did_you_mean

OptimizerName = Literal["adamw", "schedule-free", "lion", "sophia-h"]
ScheduleName = Literal["cosine", "linear", "constant", "wsd"]

BETAS: dict[OptimizerName, tuple[float, float]] = {
    "adamw": (0.9, 0.999),
    "schedule-free": (0.9, 0.999),
    "lion": (0.9, 0.99),
    "sophia-h": (0.96, 0.99),
}


@dataclass(frozen=True)
class SophiaConfig:
    """What only Sophia-H has (Liu et al., arXiv 2305.14342)."""

    every: int = 10
    """Steps from one estimate of the Hessian's diagonal to the next; each costs about two backward passes."""

    gamma: float = 0.01
    """Scale of the estimate: the lower it is, the more coordinates take a full step of the learning rate."""

    eps: float = 1e-12
    """Least value of the scaled estimate; where the curvature is lower or negative, the step is the sign's."""

    def __post_init__(self) -> None:
        require(self.every >= 1, "sophia.every", self.every, "must be at least 1")
        require(self.gamma > 0, "sophia.gamma", self.gamma, "must be above 0")
        require(self.eps > 0, "sophia.eps", self.eps, "must be above 0")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, how its rates go over the run, and the average of the weights.

    The rates are I-JEPA's (arXiv 2301.08243), for AdamW and a global batch of 2,048 images. Lion wants a learning rate
    3 to 10 times lower and a weight decay as much higher; Schedule-Free one 1 to 10 times higher.
    """

    name: OptimizerName = "adamw"
    """adamw (Loshchilov & Hutter, arXiv 1711.05101), schedule-free (AdamW with averaging in place of a schedule,
    Defazio et al., arXiv 2405.15682), lion (Chen et al., arXiv 2302.06675), sophia-h (Liu et al., arXiv 2305.14342)."""

    lr: float = 1e-3
    """Learning rate at the end of the warm-up, the highest of the run."""

    start_lr: float = 2e-4
    """Learning rate at the first step of a warm-up."""

    min_lr: float = 1e-6
    """Learning rate at the end of the run, where the schedule decays."""

    schedule: ScheduleName = "cosine"
    """Learning rate after the warm-up: cosine or linear down to min_lr, constant, or wsd: constant, then linear down to
    min_lr in the last decay_share of the run."""

    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from start_lr to lr. Fewer than the run's steps."""

    decay_share: float = 0.2
    """Of schedule wsd: share of the run in which the learning rate decays."""

    betas: tuple[float, float] | None = None
    """Decay of the optimizer's averages: of the gradient, and of its square (AdamW), of the gradient again (Lion) or of
    the curvature (Sophia). None: 0.9 0.999 for AdamW and Schedule-Free, 0.9 0.99 for Lion, 0.96 0.99 for Sophia-H."""

    weight_decay: float = 0.04
    """Weight decay at the first step. Biases, norms and other vectors never decay."""

    final_weight_decay: float = 0.4
    """Weight decay at the end of the run, reached along a cosine."""

    clip_norm: float | None = None
    """Gradients of a greater total norm are scaled down to it. None: never."""

    ema: float | None = None
    """Keep an average of the trained weights in FP32, of which each step changes 1 - ema: for instance 0.999.
    Checkpoints hold it, and evaluation and export take it. None: no average."""

    sophia: SophiaConfig = field(default_factory=SophiaConfig)
    """Of Sophia-H."""

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimizerName):
            raise UserError(f"there is no optimizer {self.name!r}: {did_you_mean(self.name, get_args(OptimizerName))}")
        for name in ("lr", "start_lr", "min_lr", "weight_decay", "final_weight_decay"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, name, value, "must be 0 or more")
        require(self.lr > 0, "lr", self.lr, "must be above 0")
        if self.schedule != "constant":
            require(self.min_lr <= self.lr, "min_lr", self.min_lr, f"must be at most lr, {self.lr}")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "must be 0 or more")
        require(0 < self.decay_share <= 1, "decay_share", self.decay_share, "must be above 0 and at most 1")
        betas = self.averages
        require(len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "betas", betas, "must be in [0, 1)")
        require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "must be above 0")
        require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "must be between 0 and 1, or None")
        if self.name == "schedule-free":
            require(self.ema is None, "ema", self.ema, "must be None for schedule-free, which averages by itself")
            require(self.schedule == "constant", "schedule", self.schedule, "must be constant for schedule-free")
            require(betas[0] > 0, "betas", betas, "must begin above 0 for schedule-free")
        for name, why in self._dead():
            default = SophiaConfig() if name == "sophia" else getattr(OptimConfig, name)
            if getattr(self, name) != default:
                raise UserError(f"--optim.{name.replace('_', '-')} means nothing {why}: leave it at {default}")

    @property
    def averages(self) -> tuple[float, float]:
        """The betas, the optimizer's own where none were given."""
        return BETAS[self.name] if self.betas is None else self.betas

    def at(self, rate: float) -> OptimConfig:
        """Return the same optimizer at one learning rate throughout."""
        plain = {name: getattr(OptimConfig, name) for name in ("min_lr", "decay_share", "warmup_steps")}
        return replace(self, lr=rate, schedule="constant", **plain)

    def check_steps(self, steps: int) -> None:
        """Raise a UserError if a run of this many steps has no room for the warm-up."""
        require(steps >= 1, "the run's number of steps", steps, "must be at least 1")
        require(
            self.warmup_steps < steps,
            "warmup_steps",
            self.warmup_steps,
            f"must be fewer than the run's {steps} steps",
        )

    def _dead(self) -> Iterator[tuple[str, str]]:
        """Yield the settings that nothing would read, with the reason."""
        if self.schedule != "wsd":
            yield "decay_share", f"for the schedule {self.schedule}"
        if self.schedule == "constant":
            yield "min_lr", "for a constant schedule"
        if self.name != "sophia-h":
            yield "sophia", f"for {self.name}"


def require(holds: bool, name: str, value: object, condition: str) -> None:
    """Raise a UserError that names a setting, unless a condition holds."""
    if not holds:
        raise UserError(f"{name} {condition}, got {value}")
