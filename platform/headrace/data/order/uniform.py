"""Each sample once an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headrace import keyed
from headrace.data.order.chunk import shuffle_chunks
from headrace.data.order.contract import SampleOrder

Shuffle = Literal["full", "chunk", "none"]

CHUNK_SAMPLES = 16
WINDOW_CHUNKS = 256


@dataclass(frozen=True)
class Order(SampleOrder):
    """Each sample once an epoch; nothing is stored but these numbers, and any position costs the same.

    Attributes:
        shuffle: "full" draws another permutation of all samples each epoch; "chunk" one that keeps neighbours near
            each other (`order.chunk`); "none" keeps the manifest's order.
        chunk_samples: of "chunk": neighbours in the manifest that are read at about the same time.
        window_chunks: of "chunk": chunks that are mixed with each other.
    """

    shuffle: Shuffle = "full"
    chunk_samples: int = CHUNK_SAMPLES
    window_chunks: int = WINDOW_CHUNKS

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `SampleOrder.rows`."""
        epoch, index = np.divmod(positions, self.samples)
        if self.shuffle == "none":
            return index
        if self.shuffle == "full":
            return keyed.permute(index, self.samples, self.seed, epoch)
        return shuffle_chunks(index, self.samples, self.chunk_samples, self.window_chunks, self.seed, epoch)

    def reserve(self, position: int, attempt: int) -> int:
        """See `SampleOrder.reserve`: any other sample, another one at each attempt as long as there are some."""
        others = max(self.samples - 1, 1)
        step = keyed.permute(np.array((attempt - 1) % others), others, "reserve", self.seed, position)
        return (int(self.rows(np.array(position))) + 1 + int(step)) % self.samples
