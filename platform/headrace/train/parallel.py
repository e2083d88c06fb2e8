"""Many workers as one: wrapping the objective, adding up gradients, adding up numbers."""

from __future__ import annotations

import contextlib

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def distribute(objective: nn.Module, device: torch.device) -> nn.Module:
    """Return the objective as all workers run it together: DDP, or itself where there is one worker."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return objective
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


def without_sync(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context in which backward adds to the local gradients only."""
    if isinstance(module, DistributedDataParallel):
        no_sync: contextlib.AbstractContextManager[None] = module.no_sync()
        return no_sync
    return contextlib.nullcontext()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add a tensor up over all ranks, in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
