"""Sophia-H's look at the curvature: one sample of the Hessian's diagonal, on a micro-batch that was just trained on."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from headrace.batch import DeviceBatch
from headrace.models import Objective
from headrace.optim import SophiaH, hutchinson
from headrace.train.config import Precision
from headrace.train.parallel import sum_over_ranks, world_size
from headrace.train.precision import autocast


def estimate_curvature(
    objective: Objective, optimizer: SophiaH, batch: DeviceBatch, seed: int, precision: Precision
) -> None:
    """Give the optimizer an estimate, the mean over ranks.

    The forward pass is that of training, with its dropout, but eager and with attention by SDPA's math backend: the
    fused kernels and what was compiled cannot be differentiated twice.

    Args:
        objective: not wrapped for several workers.
        optimizer: of its parameters.
        batch: on the device, augmented.
        seed: what dropout drew from.
        precision: of the forward pass.
    """
    torch.manual_seed(seed)
    with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
        with autocast(batch.pixels.device, precision):
            loss, _ = objective(batch)
        diagonals = hutchinson(loss, optimizer.parameters)
    for diagonal in diagonals:
        if diagonal is not None:
            sum_over_ranks(diagonal).div_(world_size())
    optimizer.estimate(diagonals)
