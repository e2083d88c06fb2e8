"""One training step."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headrace import keyed
from headrace.augment import Augment
from headrace.batch import Batch, DeviceBatch
from headrace.models import Objective
from headrace.optim import Ema, OptimConfig, SophiaH, clip_gradients, set_schedule, step_unless
from headrace.train.config import TrainConfig
from headrace.train.curvature import estimate_curvature
from headrace.train.feed import Feed
from headrace.train.guard import Guard
from headrace.train.parallel import without_sync
from headrace.train.precision import autocast


@dataclass(frozen=True)
class StepResult:
    """What one step did on this rank. Tensors stay on the device: nobody has waited for them yet.

    Attributes:
        batches: the micro-batches that it consumed.
        number: of the step, from 1.
        refused: whether it was left out, bool.
        wait_seconds, step_seconds: time that it waited for them, and that it took in all.
        ready: micro-batches that stood ready behind the last one.
        age_seconds: mean time from when a micro-batch was decoded to when the step took it.
    """

    loss: Tensor
    grad_norm: Tensor
    learning_rate: float
    extra: dict[str, Tensor]
    batches: list[Batch] = field(default_factory=list)
    number: int = 0
    refused: Tensor = field(default_factory=lambda: torch.tensor(False))
    wait_seconds: float = 0.0
    step_seconds: float = 0.0
    ready: int = 0
    age_seconds: float = 0.0


@dataclass
class Trainable:
    """All that a step changes, and what it works with."""

    objective: Objective
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    augment: Augment
    device: torch.device
    guard: Guard
    ema: Ema | None = None


def train_step(
    trainable: Trainable, feed: Feed, step: int, seed: tuple[int, int], train: TrainConfig, optim: OptimConfig
) -> StepResult:
    """Take optimizer step number `step` (from 0) on the next micro-batches of the feed.

    Args:
        trainable: model, optimizer and augmentation; changed in place.
        feed: this rank's micro-batches.
        step: which step of the run.
        seed: the run's seed and this rank, from which dropout draws.
        train, optim: the recipe's settings.
    """
    start = time.perf_counter()
    torch.manual_seed(keyed.seed("step", *seed, step))
    losses, extras, batches = [], [], []
    optimizer = trainable.optimizer
    set_schedule(optimizer, step, train.steps, optim)
    sophia = optimizer if isinstance(optimizer, SophiaH) and step % optim.sophia.every == 0 else None
    wait, ready, age = 0.0, 0, 0.0

    # 1. Forward and backward over the micro-batches; ranks talk only in the last one.
    for micro in range(train.accumulate):
        fed = feed.next()
        wait, ready, age = wait + fed.wait_seconds, fed.ready, age + fed.age_seconds / train.accumulate
        batches.append(fed.batch)
        label = torch.from_numpy(fed.batch.label).to(trainable.device, non_blocking=True)
        batch = DeviceBatch(trainable.augment(fed.pixels, fed.batch.seed), fed.batch.seed, label)
        adding_up = micro < train.accumulate - 1
        if train.compile.replays_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # what the last one left in their memory is no longer needed
        with without_sync(trainable.parallel) if adding_up else nullcontext():
            with autocast(trainable.device, train.precision):
                loss, extra = trainable.parallel(batch)
            (loss / train.accumulate).backward()
        losses.append(loss.detach())
        extras.append(extra)
        if sophia is not None and micro == 0:
            first = batch

    # 2. Clip and step, unless it would do harm. Sophia-H looks at the curvature now and then.
    grad_norm = clip_gradients(trainable.objective, optim)
    loss = torch.stack(losses).mean()
    refused = trainable.guard.refuses(loss, grad_norm)
    if sophia is not None and not refused:
        estimate_curvature(trainable.objective, sophia, first, keyed.seed("step", *seed, step), train.precision)
    step_unless(refused, optimizer)
    optimizer.zero_grad(set_to_none=True)

    # 3. What follows a step; a JEPA's target moves here.
    trainable.objective.after_step(step, train.steps)
    if trainable.ema is not None:
        trainable.ema.update()

    return StepResult(
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=optimizer.param_groups[0]["lr"],
        extra={name: torch.stack([extra[name] for extra in extras]).mean() for name in extras[0]},
        batches=batches,
        number=step + 1,
        refused=refused,
        wait_seconds=wait,
        step_seconds=time.perf_counter() - start,
        ready=ready,
        age_seconds=age,
    )
