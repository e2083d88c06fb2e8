"""What every order answers. See the table at the top of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from headrace import keyed


@dataclass(frozen=True)
class SampleOrder(ABC):
    """Which sample stands at each position of a run: a pure function of what it was made from and the position.

    It is immutable and pickles to a few hundred bytes; the weights of an order that has some stay with the manifest.

    Attributes:
        samples: rows of the manifest, among which it draws.
        seed: the run's seed.
    """

    samples: int
    seed: int

    @abstractmethod
    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the manifest's rows that stand at these positions (any shape, from 0 on)."""

    @abstractmethod
    def reserve(self, position: int, attempt: int) -> int:
        """Return the row that stands in for a failed sample, for attempt 1, 2, ..."""

    def seed_of(self, position: int, key: str) -> int:
        """Return the seed from which the sample at this position draws its times and its augmentation."""
        return keyed.seed("sample", self.seed, position, key)

    def with_weights(self, weights: NDArray[np.float64] | None) -> Self:
        """Return this order with the manifest's weights [samples] at hand, which it needs after it was pickled."""
        return self
