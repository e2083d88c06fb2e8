"""A model is a room: `models/<family>/` holds its config, its network, its objective and its own metrics.

The training loop knows only the two contracts of this file. It never asks which model it trains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from headrace.batch import DeviceBatch


class Objective(nn.Module, ABC):
    """A model together with what it learns by.

    Attributes:
        scores: names of what `judge` returns. Of what ends in "loss" the lowest is best, of others the highest.
    """

    scores: ClassVar[tuple[str, ...]] = ("loss",)

    @abstractmethod
    def forward(self, batch: DeviceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the batch (a scalar) and further scalars worth a curve, detached."""

    @abstractmethod
    def score(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """Return how well the model does on each sample of a held-out batch, [B] or [B, ...] each: of `forward` the
        loss, sample by sample, and what else `judge` wants to know the mean of."""

    def judge(self, means: dict[str, Tensor]) -> dict[str, float]:
        """Return the scores of all held-out samples from the means of what `score` returned, [] or [...] each, float64.

        By default the means are the scores. One that is no mean over samples, such as a share of a variance, is
        made of several means here; then it depends neither on the micro-batch nor on the number of workers.
        """
        return {name: float(mean) for name, mean in means.items()}

    def after_step(self, step: int, steps: int) -> None:
        """Do what follows the optimizer's step number `step` (from 0) of `steps`; nothing by default."""

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """Return the representation [B, D] of normalised pixels [B, T, C, H, W], for probes."""

    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """Return the modules that repeat and hold most of the arithmetic, in the order in which they run.

        Each may be compiled, recomputed in backward and shared out by itself; none has data-dependent control flow.
        """

    @abstractmethod
    def networks(self) -> Sequence[nn.Module]:
        """Return the modules that together hold all arithmetic worth compiling whole."""


@dataclass(frozen=True)
class ModelConfig(ABC):
    """What every model's config can do: build its objective for frames of a given size."""

    @abstractmethod
    def build(self, height: int, width: int) -> Objective:
        """Return the objective for frames of height x width pixels.

        Raises:
            UserError: the size does not fit the model; the message says what does.
        """
