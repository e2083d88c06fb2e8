"""A short trial of a recipe on all of its workers at once: does it fit their memory?

Each trial starts workers of its own. A rank that runs out of memory leaves the others in the middle of a collective,
and what is left of a failed attempt on a device counts in no later one.
"""

from __future__ import annotations

import resource
import tempfile
from functools import partial
from pathlib import Path

import torch
from ray.exceptions import RayActorError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig

from headrace.cluster.trainer import Resources, Trainer
from headrace.recipe import Recipe

_STATM = Path("/proc/self/statm")


def try_on_workers(recipe: Recipe, resources: Resources, limit_gigabytes: float | None) -> None:
    """Take two steps of a recipe on all of its workers, on noise.

    Args:
        recipe: whose workers, micro-batch and sharing count.
        resources: what each worker gets.
        limit_gigabytes: memory that training may take of each worker, on a CPU.

    Raises:
        torch.OutOfMemoryError: on one of them at least it does not fit, or a worker died of it.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-trial-") as folder:
        trainer = Trainer(
            partial(_work, recipe, limit_gigabytes),
            torch_config=TorchConfig(backend="nccl" if resources.device == "cuda" else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=recipe.train.workers,
                use_gpu=resources.device == "cuda",
                resources_per_worker=resources.worker,
            ),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=0)),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            if any(_is_of_memory(failure) for failure in error.worker_failures.values()):
                raise torch.OutOfMemoryError(str(error)) from error
            raise
        except ControllerError as error:
            if isinstance(error.controller_failure, RayActorError):
                raise torch.OutOfMemoryError(str(error)) from error
            raise


def _is_of_memory(failure: BaseException | None) -> bool:
    while failure is not None:
        if isinstance(failure, (torch.OutOfMemoryError, RayActorError)) or "OutOfMemoryError" in str(failure):
            return True
        failure = failure.__cause__ or getattr(failure, "cause", None)
    return False


def _work(recipe: Recipe, limit_gigabytes: float | None) -> None:
    import ray.train.torch

    from headrace.train.step_cost import try_steps

    if limit_gigabytes is not None:
        limit_memory(limit_gigabytes)
    try_steps(recipe, ray.train.torch.get_device())


def limit_memory(gigabytes: float) -> None:
    """Let this process take no more memory than that beyond what it holds: threads of Ray alone hold a gigabyte of it.

    Linux keeps the limit; other systems may not.
    """
    data_pages = int(_STATM.read_text().split()[5]) if _STATM.exists() else 0
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data_pages * resource.getpagesize() + int(gigabytes * 1e9), hard))
