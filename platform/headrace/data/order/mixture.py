"""Several sources in one stream, by weight, in constant memory.

The stream is cut into blocks of Q = 4096 slots. Each block holds exactly its quota of each source, in another random
order; here Q = 8, quotas 5 and 3 of the sources a and b:

    position   0  1  2  3  4  5  6  7 |  8  9 10 11 12 13 14 15
    source     a  b  a  a  b  a  b  a |  b  a  a  a  b  b  a  a
    index      0  0  1  2  1  3  2  4 |  3  5  6  7  4  5  8  9      block * quota + slots of the source before

What one source gives to the stream is, in this order, exactly what it would give alone: its own epochs, its own
shuffle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from headrace import keyed
from headrace.data.order.contract import SampleOrder

BLOCK_SLOTS = 4096


@dataclass(frozen=True)
class Mixture(SampleOrder):
    """The orders of several sources, mixed.

    Attributes:
        parts: the order of each source; its rows follow those of the one before in the manifest.
        quotas: slots of each source in a block, together `BLOCK_SLOTS`.
    """

    parts: tuple[SampleOrder, ...]
    quotas: tuple[int, ...]

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `SampleOrder.rows`. Costs a permutation of the slots of each block that they touch."""
        source, index = self._places(positions)
        rows = np.empty_like(index)
        for number, (part, first) in enumerate(zip(self.parts, self._firsts, strict=True)):
            here = source == number
            rows[here] = first + part.rows(index[here])
        return rows

    def reserve(self, position: int, attempt: int) -> int:
        """See `SampleOrder.reserve`: a sample of the same source."""
        source, index = (int(place) for place in self._places(np.array(position)))
        return int(self._firsts[source]) + self.parts[source].reserve(index, attempt)

    def with_weights(self, weights: NDArray[np.float64] | None) -> Self:
        """See `SampleOrder.with_weights`."""
        if weights is None:
            return self
        pieces = np.split(weights, self._firsts[1:])
        parts = (part.with_weights(piece) for part, piece in zip(self.parts, pieces, strict=True))
        return replace(self, parts=tuple(parts))

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        """Return the first row of each source."""
        return np.cumsum([0] + [part.samples for part in self.parts[:-1]])

    def _places(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return of which source the sample at each position is, and at which index of that source's own order."""
        blocks, slot = np.divmod(positions, BLOCK_SLOTS)
        source, rank = np.empty_like(slot), np.empty_like(slot)
        for block in np.unique(blocks):
            here = blocks == block
            sources, ranks = _block(self.quotas, self.seed, int(block))
            source[here], rank[here] = sources[slot[here]], ranks[slot[here]]
        return source, blocks * np.array(self.quotas)[source] + rank


@lru_cache(maxsize=8)
def _block(quotas: tuple[int, ...], seed: int, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the source of each slot of a block, and how many slots before it are of the same source."""
    ends: NDArray[np.int64] = np.cumsum(np.array(quotas))
    drawn = keyed.permute(np.arange(BLOCK_SLOTS), BLOCK_SLOTS, "mixture", seed, block)
    source = np.searchsorted(ends, drawn, side="right")
    rank = np.empty_like(source)
    rank[np.argsort(source, kind="stable")] = np.arange(BLOCK_SLOTS)
    return source, rank - (ends - quotas)[source]


def quotas_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Return how many slots of a block each source gets: by largest remainder, and at least one each.

    Args:
        weights: positive, at most `BLOCK_SLOTS` of them.
    """
    total = math.fsum(weights)
    ideal = np.array([weight / total * BLOCK_SLOTS for weight in weights])
    quotas = np.maximum(np.floor(ideal).astype(np.int64), 1)
    while (short := BLOCK_SLOTS - int(quotas.sum())) != 0:
        step = 1 if short > 0 else -1
        gain = np.where((quotas == 1) & (step < 0), -np.inf, step * (ideal - quotas))
        quotas[np.argmax(gain)] += step
    return tuple(quotas.tolist())
