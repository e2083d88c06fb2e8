"""Steps that would do harm are left out: a loss or gradient that is not finite, or far above the recent ones.

    loss, gradient norm  ->  finite? as the recent ones?  ->  the optimizer steps, or it does not

So what comes of a broken clip, a wrong label or an accident of the arithmetic reaches neither the weights nor the
optimizer's averages. The loss is the mean over all ranks and the gradient's norm that of all, so all decide alike; the
answer stays on the device, where fused AdamW asks for it, and the host waits for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.train.config import GuardConfig
from headrace.train.parallel import sum_over_ranks, world_size

WARM_UP_STEPS = 100
"""Steps before a spike is looked for, and over which the recent past reaches."""


class Guard:
    """Says which steps are to be left out.

    The recent past of both numbers is a moving mean and variance over the steps that were taken.

    Args:
        config: the recipe's.
        device: where losses are.
    """

    def __init__(self, config: GuardConfig, device: torch.device) -> None:
        self._spike = config.spike
        self._mean = torch.zeros(2, device=device)
        self._variance = torch.zeros(2, device=device)
        self._taken = torch.zeros((), device=device)

    @torch.no_grad()
    def refuses(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Return whether a step is to be left out, and take note of it if not.

        Args:
            loss: of this rank, a scalar.
            grad_norm: over all parameters, before clipping.

        Returns:
            bool scalar on the device, the same on all ranks.
        """
        loss = sum_over_ranks(loss.detach().clone()) / world_size()
        seen = torch.stack([loss.float(), grad_norm.float()])
        refused = ~torch.isfinite(seen).all()
        if self._spike is not None:
            limit = self._mean + self._spike * self._variance.sqrt()
            refused = refused | ((seen > limit).any() & (self._taken >= WARM_UP_STEPS))
            share = torch.where(refused, 0.0, 1 / (self._taken + 1).clamp(max=WARM_UP_STEPS))
            step = torch.where(refused, 0.0, seen - self._mean)
            self._mean += share * step
            self._variance = (1 - share) * (self._variance + share * step.square())
            self._taken += ~refused
        return refused

    def state_dict(self) -> dict[str, Tensor]:
        """Return the recent past, for a checkpoint; nothing where nobody looks for spikes."""
        if self._spike is None:
            return {}
        return {"mean": self._mean, "variance": self._variance, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the recent past from a checkpoint; one that holds none begins a new one."""
        if state:
            self._mean, self._variance, self._taken = state["mean"], state["variance"], state["taken"]
