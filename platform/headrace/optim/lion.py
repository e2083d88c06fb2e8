"""Lion: the sign of an average of gradients (Chen et al., arXiv 2302.06675, algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Every coordinate moves by the learning rate, in the direction of c, and decays:

        c = beta1 m + (1 - beta1) g
        p = p - lr (sign(c) + weight_decay p)
        m = beta2 m + (1 - beta2) g

    Args:
        params: parameters, or groups of them.
        lr, betas, weight_decay: as above.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step. A parameter without a gradient stays. There is no use for a closure."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            for p in moved:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
            gradients = [p.grad for p in moved]
            averages = [self.state[p]["exp_avg"] for p in moved]
            beta1, beta2 = group["betas"]
            direction = torch._foreach_lerp(averages, gradients, 1 - beta1)
            torch._foreach_sign_(direction)
            torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(moved, direction, alpha=-group["lr"])
            torch._foreach_lerp_(averages, gradients, 1 - beta2)
