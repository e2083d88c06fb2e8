"""Sophia-H's look at the curvature: one sample of the Hessian's diagonal, on a micro-batch that was just trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from headrace.batch import DeviceBatch
from headrace.optim import SophiaH, hutchinson
from headrace.train.config import Precision
from headrace.train.parallel import sum_over_ranks, world_size
from headrace.train.precision import autocast

if TYPE_CHECKING:
    from headrace.train.step import Trainable


def estimate_curvature(trainable: Trainable, batch: DeviceBatch, seed: int, precision: Precision) -> None:
    """Give the optimizer an estimate, the mean over ranks.

    The forward pass is that of training, with its dropout, but eager and with attention by SDPA's math backend: the
    fused kernels and what was compiled cannot be differentiated twice.

    Args:
        trainable: with Sophia-H for its optimizer.
        batch: on the device, augmented.
        seed: what dropout drew from.
        precision: of the forward pass.
    """
    optimizer = trainable.optimizer
    assert isinstance(optimizer, SophiaH)
    torch.manual_seed(seed)
    with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
        with autocast(trainable.device, precision):
            loss, _ = trainable.objective(batch)
        diagonals = hutchinson(loss, optimizer.parameters)
    for diagonal in diagonals:
        if diagonal is not None:
            sum_over_ranks(diagonal).div_(world_size())
    optimizer.estimate(diagonals)
