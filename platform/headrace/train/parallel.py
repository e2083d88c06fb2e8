"""Many workers as one: sharing out the model, adding up gradients, adding up numbers.

ddp    every worker holds the whole model; gradients are averaged while backward runs
fsdp   every worker holds a share of each weight, gradient and optimizer state (FSDP2); a block's weights are
       gathered when it runs, in the arithmetic's precision, and its gradients are averaged in FP32
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from headrace.train.config import Parallel, Precision

T = TypeVar("T")


def distribute(
    objective: nn.Module,
    blocks: Sequence[nn.Module],
    device: torch.device,
    parallel: Parallel,
    precision: Precision,
) -> nn.Module:
    """Return the objective as all workers run it together: itself, where there is one worker.

    Args:
        objective: in place, for FSDP: its parameters become DTensors, of which each worker holds its share.
        blocks: modules of it that FSDP gathers one at a time, in the order in which they run.
        device: of this worker.
        parallel, precision: the recipe's.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return objective
    if parallel == "fsdp":
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        arithmetic = torch.bfloat16 if precision == "bf16" else None
        policy = MixedPrecisionPolicy(param_dtype=arithmetic, reduce_dtype=torch.float32)
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(objective, mesh=mesh, mp_policy=policy)
        for method in ("score", "features"):
            register_fsdp_forward_method(objective, method)
        return objective
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True)


@contextlib.contextmanager
def without_sync(module: nn.Module) -> Iterator[None]:
    """Let backward add to the local gradients only."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)
    else:
        yield


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add a tensor up over all ranks, in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def any_rank(flag: bool, device: torch.device) -> bool:
    """Say, on each rank, whether a flag is up on any of them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag), device=device)).item())


def gather_over_ranks(value: T, device: torch.device) -> list[T]:
    """Return the values of all ranks, on each of them, in the order of the ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    gathered: list[T] = [value] * dist.get_world_size()
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        dist.all_gather_object(gathered, value)  # NCCL sends it by way of the current device
    return gathered


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
