"""AdamW, its settings, and which parameters decay."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headrace.errors import UserError

_FUSED_ON = {"cuda", "cpu", "xpu", "mps"}


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) with warm-up and cosine decay.

    The rates are I-JEPA's (arXiv 2301.08243), for a global batch of 2,048 images.
    """

    lr: float = 1e-3
    """Learning rate at the end of the warm-up, the highest of the run."""

    start_lr: float = 2e-4
    """Learning rate at the first step."""

    min_lr: float = 1e-6
    """Learning rate that the cosine reaches at the end of the run."""

    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from start_lr to lr. Fewer than the run's steps."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square."""

    weight_decay: float = 0.04
    """Weight decay at the first step. Biases, norms and other vectors never decay."""

    final_weight_decay: float = 0.4
    """Weight decay at the end of the run, reached along a cosine."""

    clip_norm: float | None = None
    """Gradients of a greater total norm are scaled down to it. None: never."""

    def __post_init__(self) -> None:
        for name in ("lr", "start_lr", "min_lr", "weight_decay", "final_weight_decay"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, name, value, "must be 0 or more")
        _require(self.lr > 0, "lr", self.lr, "must be above 0")
        _require(self.min_lr <= self.lr, "min_lr", self.min_lr, f"must be at most lr, {self.lr}")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "must be 0 or more")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "must be in [0, 1)")
        _require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "must be above 0")

    def check_steps(self, steps: int) -> None:
        """Raise a UserError if a run of this many steps has no room for the warm-up."""
        _require(steps >= 1, "the run's number of steps", steps, "must be at least 1")
        _require(
            self.warmup_steps < steps,
            "warmup_steps",
            self.warmup_steps,
            f"must be fewer than the run's {steps} steps",
        )


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over the module's trainable parameters, on the device where they are now.

    Two groups: matrices, which decay, and everything of fewer than two dimensions (biases, norms,
    LayerScale, mask tokens), which does not. Fused kernels are used where PyTorch has them.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for parameter in trainable if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay, "decays": True},
        {"params": vectors, "weight_decay": 0.0, "decays": False},
    ]
    fused = {parameter.device.type for parameter in trainable} <= _FUSED_ON
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)


def clip_gradients(module: nn.Module, config: OptimConfig) -> Tensor:
    """Scale the gradients down to `clip_norm` where they exceed it; return their total norm before."""
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    if config.clip_norm is None:
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return nn.utils.clip_grad_norm_(parameters, config.clip_norm)


def _require(holds: bool, name: str, value: object, condition: str) -> None:
    if not holds:
        raise UserError(f"{name} {condition}, got {value}")
