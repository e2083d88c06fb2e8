"""Sophia-H: a clipped step along an estimate of the Hessian's diagonal (Liu et al., arXiv 2305.14342, algorithms 1, 3).

    every few steps    h = beta2 h + (1 - beta2) u * (H u),    u ~ N(0, I)           E[u * (H u)] = diag H
    each step          m = beta1 m + (1 - beta1) g
                       p = p - lr weight_decay p
                       p = p - lr clip(m / max(gamma h, eps), -1, 1)

Where the curvature is low or negative, that is a step of the learning rate in the direction of the sign, as Lion's.
The authors' own repository holds only their other estimator, Sophia-G.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class SophiaH(torch.optim.Optimizer):
    """The update above. The estimates come from outside: `estimate(hutchinson(...))` before a step.

    Args:
        params: parameters, or groups of them.
        lr, betas, weight_decay, gamma, eps: as above.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.96, 0.99),
        weight_decay: float = 0.0,
        gamma: float = 0.01,
        eps: float = 1e-12,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "gamma": gamma, "eps": eps}
        super().__init__(params, defaults)

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, in the order in which `estimate` wants their estimates."""
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def estimate(self, diagonals: Sequence[Tensor | None]) -> None:
        """Average a new estimate of the Hessian's diagonal into the old.

        Args:
            diagonals: for each of `parameters`, of its shape; None leaves its average as it is.
        """
        found = {p: one for p, one in zip(self.parameters, diagonals, strict=True) if one is not None}
        for group in self.param_groups:
            known = [p for p in group["params"] if p in found]
            if known:
                averages = [self._state(p)["hessian"] for p in known]
                torch._foreach_lerp_(averages, [found[p] for p in known], 1 - group["betas"][1])

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step. A parameter without a gradient stays. There is no use for a closure."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            averages = [self._state(p)["exp_avg"] for p in moved]
            torch._foreach_lerp_(averages, [p.grad for p in moved], 1 - group["betas"][0])
            scale = torch._foreach_mul([self._state(p)["hessian"] for p in moved], group["gamma"])
            torch._foreach_clamp_min_(scale, group["eps"])
            move = torch._foreach_div(averages, scale)
            torch._foreach_clamp_min_(move, -1.0)
            torch._foreach_clamp_max_(move, 1.0)
            torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(moved, move, alpha=-group["lr"])

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["exp_avg"], state["hessian"] = torch.zeros_like(p), torch.zeros_like(p)
        return state


def hutchinson(
    loss: Tensor, parameters: Sequence[Tensor], generator: torch.Generator | None = None
) -> list[Tensor | None]:
    """Return one sample of u * (H u) for each parameter, whose mean is the diagonal of the Hessian of the loss.

    It differentiates twice, so the loss must come from kernels that can be: attention by SDPA's math backend,
    nothing compiled.

    Args:
        loss: a scalar with its graph.
        parameters: those that want a gradient.
        generator: draws u; the default one of each device if not given.

    Returns:
        Tensors of the parameters' shapes, None for those that the loss does not depend on.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad]
    draws = [torch.randn(p.shape, dtype=p.dtype, device=p.device, generator=generator) for p, _ in used]
    products = torch.autograd.grad([g for _, g in used], [p for p, _ in used], draws, allow_unused=True)
    found: dict[Tensor, Tensor] = {}
    for (p, _), u, product in zip(used, draws, products, strict=True):
        found[p] = torch.zeros_like(u) if product is None else u * product
    nothing = {p: torch.zeros_like(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
    return [(nothing | found).get(p) for p in parameters]
