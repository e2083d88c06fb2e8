"""Settings -> optimizer: which parameters decay, and how the modes of Schedule-Free are kept straight."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from headrace.optim.config import OptimConfig
from headrace.optim.lion import Lion
from headrace.optim.sophia import SophiaH

_FUSED_ON = {"cuda", "cpu", "xpu", "mps"}


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the module's trainable parameters, on the device where they are now.

    Two groups: matrices, which decay, and everything of fewer than two dimensions (biases, norms,
    LayerScale, mask tokens), which does not. Fused kernels are used where PyTorch has them.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for parameter in trainable if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay, "decays": True},
        {"params": vectors, "weight_decay": 0.0, "decays": False},
    ]
    if config.name == "lion":
        return Lion(groups, lr=config.lr, betas=config.averages)
    if config.name == "sophia-h":
        sophia = config.sophia
        return SophiaH(groups, lr=config.lr, betas=config.averages, gamma=sophia.gamma, eps=sophia.eps)
    if config.name == "schedule-free":
        from schedulefree import AdamWScheduleFree

        optimizer: torch.optim.Optimizer = AdamWScheduleFree(groups, lr=config.lr, betas=config.averages)
        train_mode(optimizer)
        return optimizer
    fused = {parameter.device.type for parameter in trainable} <= _FUSED_ON
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.averages, fused=fused)


def train_mode(optimizer: torch.optim.Optimizer) -> None:
    """Let the parameters be those at which gradients are taken; only Schedule-Free knows a difference."""
    if not hasattr(optimizer, "train"):
        return
    optimizer.train()
    # It leaves empty entries, for which a checkpoint would take the state of an optimizer that never stepped.
    for p in [p for p, state in optimizer.state.items() if not state]:
        del optimizer.state[p]


@contextlib.contextmanager
def eval_mode(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let the parameters be those that are evaluated and saved: of Schedule-Free the average, else the same."""
    if not hasattr(optimizer, "eval"):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        train_mode(optimizer)


def step_unless(refused: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer step, unless `refused` [bool scalar] is true: then weights and averages stay as they are.

    Fused AdamW asks the device itself; for the others the host waits for the answer.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = refused.float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
        optimizer.step()
    elif not refused:
        optimizer.step()


def clip_gradients(module: nn.Module, config: OptimConfig) -> Tensor:
    """Scale the gradients down to `clip_norm` where they exceed it; return their total norm before."""
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    if config.clip_norm is None:
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    else:
        norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
