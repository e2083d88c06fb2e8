"""Many workers as one: wrapping the objective, adding up gradients, adding up numbers."""

from __future__ import annotations

import contextlib
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


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


def gather_over_ranks(value: T, device: torch.device) -> list[T]:
    """Return the values of all ranks, on each of them, in the order of the ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    gathered: list[T] = [value] * dist.get_world_size()
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        dist.all_gather_object(gathered, value)  # NCCL sends it by way of the current device
    return gathered


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
