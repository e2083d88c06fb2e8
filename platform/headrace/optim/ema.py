"""An average of the trained weights, in FP32: each step it moves by 1 - decay towards them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """The exponential moving average of a module's trainable parameters; frozen ones need none.

        average = decay average + (1 - decay) weights        the first update copies

    Args:
        module: whose parameters; they may be sharded.
        decay: share of the average that a step keeps.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().float().clone() for name, p in self._weights.items()}
        self._move = get_ema_multi_avg_fn(decay)
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        average = list(self._average.values())
        weights = [p.detach().to(a.dtype) for p, a in zip(self._weights.values(), average, strict=True)]
        if self._updates == 0:
            for mine, theirs in zip(average, weights, strict=True):
                mine.copy_(theirs)
        else:
            self._move(average, weights, self._updates)
        self._updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module have the average as its weights meanwhile."""
        trained = {name: p.detach().clone() for name, p in self._weights.items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(trained)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, by the module's own names, and how often it was updated."""
        return {"average": dict(self._average), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, average in self._average.items():
            average.copy_(state["average"][name])
        self._updates = int(state["updates"])

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, p in self._weights.items():
            p.copy_(values[name])
