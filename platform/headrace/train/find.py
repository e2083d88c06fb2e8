"""Finding settings by trying them: the learning rate by a range test, the micro-batch by what fits in memory."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.errors import RunError
from headrace.recipe import Recipe
from headrace.train.feed import Feed
from headrace.train.step import Trainable, train_step

SMOOTHING = 0.9
DIVERGED = 4.0
"""The test ends where the smoothed loss rose by so many times what it had fallen, and above where it began."""


@dataclass(frozen=True)
class RangeTest:
    """The loss while the learning rate grew (Smith, arXiv 1506.01186).

    Attributes:
        rates: [N] learning rates, an exact exponential grid, as far as the test went.
        losses: [N] loss of the step taken at each.
        smoothed: [N] their moving average, without the bias of its start.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]

    @property
    def highest(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return float(self.rates[np.argmin(self.smoothed)])

    @property
    def suggestion(self) -> float:
        """The rate at which the smoothed loss falls fastest, over half a decade; NaN where it never fell."""
        log = np.log10(self.rates)
        reach = max(1, round(0.25 / max(log[1] - log[0], 1e-9))) if len(log) > 1 else 1
        end = int(np.argmin(self.smoothed)) + 1
        if end <= 2 * reach:
            return math.nan
        slope = self.smoothed[2 * reach : end] - self.smoothed[: end - 2 * reach]
        best = int(np.argmin(slope))
        return float(self.rates[best + reach]) if slope[best] < 0 else math.nan


def range_test(
    trainable: Trainable, feed: Feed, recipe: Recipe, lowest: float, highest: float, steps: int
) -> RangeTest:
    """Take steps at growing learning rates, and leave model and optimizer as they were.

    Args:
        trainable: what is trained.
        feed: its micro-batches.
        recipe: whose optimizer, batch and precision are used; its warm-up and schedule are not.
        lowest, highest: the rates of the first and the last step, with exponential steps between.
        steps: how many at most; it ends earlier where the loss runs away.

    Raises:
        RunError: the loss was not finite from the start.
    """
    grid = lowest * (highest / lowest) ** (np.arange(steps) / (steps - 1))
    losses: list[float] = []
    smoothed: list[float] = []
    average, train = 0.0, replace(recipe.train, steps=steps)
    with _restored(trainable):
        for step, rate in enumerate(grid.tolist()):
            result = train_step(trainable, feed, step, (recipe.seed, 0), train, recipe.optim.at(rate))
            loss = float(result.loss)
            if not math.isfinite(loss):
                break
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            losses.append(loss)
            smoothed.append(average / (1 - SMOOTHING ** (step + 1)))
            fallen = max(smoothed) - min(smoothed)
            if len(losses) > steps // 10 and smoothed[-1] > min(smoothed) + DIVERGED * max(
                smoothed[0] - min(smoothed), 0.05 * fallen, 1e-12
            ):
                break
    if not losses:
        raise RunError(f"the loss is not finite at the first step, at a learning rate of {lowest:g}")
    return RangeTest(grid[: len(losses)], np.array(losses), np.array(smoothed))


@contextmanager
def _restored(trainable: Trainable) -> Iterator[None]:
    model = copy.deepcopy(trainable.objective.state_dict())
    optimizer = copy.deepcopy(trainable.optimizer.state_dict())
    average = copy.deepcopy(trainable.ema.state_dict()) if trainable.ema is not None else None
    try:
        yield
    finally:
        trainable.objective.load_state_dict(model)
        trainable.optimizer.load_state_dict(optimizer)
        trainable.optimizer.zero_grad(set_to_none=True)
        if trainable.ema is not None and average is not None:
            trainable.ema.load_state_dict(average)


def largest_that_runs(run: Callable[[int], None], most: int, near: float = 0.0) -> int:
    """Return the largest size, of those tried, that was really run: by doubling, then by halving the gap.

    Args:
        run: tries a size; raises torch.OutOfMemoryError where it does not fit.
        most: the largest that is tried.
        near: how near to one that does not fit is near enough, as a share; 0 goes to the next size.

    Raises:
        RunError: not even a size of 1 fits.
    """

    def runs(size: int) -> bool:
        try:
            run(size)
            ran = True
        except torch.OutOfMemoryError:
            ran = False
        gc.collect()  # outside of the handler, whose error holds the frames with all their tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return ran

    if not runs(1):
        raise RunError("not even a micro-batch of 1 fits: lower the frames, their size or the model")
    fits, too_large = 1, most + 1
    while fits < most:
        size = min(2 * fits, most) if too_large > most else (fits + too_large) // 2
        if size == fits or too_large - fits <= near * fits:
            break
        if runs(size):
            fits = size
        else:
            too_large = size
    return fits
