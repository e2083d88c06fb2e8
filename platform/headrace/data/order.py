"""Position in the run -> sample. A pure function, so that a run can stop and go on anywhere.

All epochs stand in one line: position p is in epoch p // samples. Nothing is stored but three numbers, whatever
the number of samples, and any position costs the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headrace import keyed

Shuffle = Literal["full", "none"]


@dataclass(frozen=True)
class Order:
    """The order in which a run sees its samples.

    Attributes:
        samples: rows of the manifest that can be drawn.
        seed: the run's seed.
        shuffle: "full" draws another permutation of all samples each epoch; "none" keeps the manifest's order.
    """

    samples: int
    seed: int
    shuffle: Shuffle = "full"

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the manifest's rows that stand at these positions (any shape)."""
        epoch, index = np.divmod(positions, self.samples)
        if self.shuffle == "none":
            return index
        return keyed.permute(index, self.samples, self.seed, epoch)

    def reserve(self, position: int, attempt: int) -> int:
        """Return the row that stands in for a failed sample, for attempt 1, 2, ..."""
        return int(keyed.integers(self.samples, "reserve", self.seed, position, attempt))

    def seed_of(self, position: int, key: str) -> int:
        """Return the seed from which the sample at this position draws its times and its augmentation."""
        return keyed.seed("sample", self.seed, position, key)
