"""What a training step costs, measured on this machine with noise for data: no step waits for a clip."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from headrace.batch import Batch, fake_batch
from headrace.recipe import Recipe
from headrace.train.feed import Feed
from headrace.train.kernels import attention_kernels
from headrace.train.loop import build_trainable
from headrace.train.step import train_step

WARM_UP_STEPS = 2


@dataclass(frozen=True)
class StepCost:
    """A step of one worker.

    Attributes:
        seconds: median over the measured steps.
        spread: of the middle half of them, as a share of the median.
        clips: of one worker in a step.
        first_seconds: the first step, which compiles.
    """

    seconds: float
    spread: float
    clips: int
    first_seconds: float

    @property
    def clips_per_second(self) -> float:
        """What one worker takes when it never waits."""
        return self.clips / self.seconds


def measure_steps(recipe: Recipe, device: torch.device, steps: int) -> StepCost:
    """Take steps of a recipe as one of its workers does, and return what they cost.

    Talk between workers is not in it.
    """
    train = recipe.train
    torch.set_num_threads(train.threads)
    seconds = []
    # The feed comes first: a thread that begins where memory has run out would never say so.
    with attention_kernels(train.attention, train.flash), noise_feed(recipe, device) as feed:
        trainable = build_trainable(recipe, device)
        for step in range(WARM_UP_STEPS + steps):
            start = time.perf_counter()
            result = train_step(trainable, feed, step, (recipe.seed, 0), train, recipe.optim)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start - result.wait_seconds)
    low, median, high = np.percentile(seconds[WARM_UP_STEPS:], [25, 50, 75]).tolist()
    return StepCost(median, (high - low) / median, train.accumulate * train.micro_batch, seconds[0])


def try_steps(recipe: Recipe, device: torch.device) -> None:
    """Take a few steps of a recipe, in the last of which the optimizer's state is in memory too.

    Raises:
        torch.OutOfMemoryError: they do not fit. On a CPU it is what its allocator and Python say of that.
    """
    try:
        measure_steps(recipe, device, steps=1)
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error
    except MemoryError as error:
        raise torch.OutOfMemoryError(str(error)) from error


def noise_feed(recipe: Recipe, device: torch.device) -> Feed:
    """Return a feed of noise of a recipe's shapes, without end."""
    return Feed(_noise(recipe), itertools.count(), device, recipe.train.queue)


def _noise(recipe: Recipe) -> Iterator[Batch]:
    data = recipe.data
    batch = fake_batch(recipe.train.micro_batch, data.sampling.frames, data.height, data.width)
    return (replace(batch, number=number) for number in itertools.count())
