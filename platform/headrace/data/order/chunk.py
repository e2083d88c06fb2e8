"""A shuffle in constant memory that reads neighbours in a shard at about the same time. A closed form:

    rows           0 1 2 | 3 4 5 | 6 7 8 | 9 10      chunks of C = 3 neighbours; the last may be short
    chunks         3 4 5 | 9 10 | 0 1 2 | 6 7 8      permuted: which stands in which slot
    windows        3 4 5   9 10 | 0 1 2   6 7 8      G = 2 slots each, the first cut off at another place each epoch
    stream         9 4 3 10 5   | 7 0 2 6 1 8        the samples of each window, permuted

Each epoch is a permutation of all rows, for any number of them. G decides how well they are mixed, C how much is read
in one go, and G C how much must be kept to read each chunk only once. On samples sorted into 1,000 classes
(`benchmarks/order.py`), micro-batches of 64 with the defaults, 16 x 256, hold 90 % of the classes that a full shuffle
gives, those of a shuffle buffer of as many samples, 4,096, over permuted shards 57 %; read 4,096 at a time, 100 samples
take 12 contiguous reads, and 98 in a full shuffle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace import keyed


def shuffle_chunks(
    index: NDArray[np.int64],
    samples: int,
    chunk_samples: int,
    window_chunks: int,
    seed: int,
    epoch: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the row that stands at each index of an epoch.

    Args:
        index: place in the epoch, any shape, values in [0, samples).
        samples: rows in all.
        chunk_samples: C, neighbouring rows that stay in one window.
        window_chunks: G, chunks whose samples are mixed.
        seed: the run's seed.
        epoch: of each index, broadcasts with it.
    """
    chunks = -(-samples // chunk_samples)
    missing = chunks * chunk_samples - samples  # of the last chunk
    short = keyed.integers(chunks, "short chunk", seed, epoch)  # the slot where it stands

    def start_of(slot: NDArray[np.int64]) -> NDArray[np.int64]:
        return slot * chunk_samples - np.where(slot > short, missing, 0)

    def slot_of(place: NDArray[np.int64]) -> NDArray[np.int64]:
        return (place + np.where(place >= start_of(short + 1), missing, 0)) // chunk_samples

    # 1. Which window, and where in it: a first window of `phase` chunks, if any, then windows of G.
    phase = keyed.integers(window_chunks, "phase", seed, epoch) if chunks > window_chunks else np.int64(0)
    window = (slot_of(index) - phase) // window_chunks
    first = np.maximum(phase + window * window_chunks, 0)
    last = np.minimum(phase + (window + 1) * window_chunks, chunks)
    start = start_of(first)
    place = start + keyed.permute(index - start, start_of(last) - start, "window", seed, epoch, window + 1)

    # 2. Which chunk stands there: the short one, or one of the others, permuted.
    slot = slot_of(place)
    others = max(chunks - 1, 1)
    other = keyed.permute(np.minimum(slot - (slot > short), others - 1), others, "chunk", seed, epoch)
    chunk = np.where(slot == short, chunks - 1, other)
    rows: NDArray[np.int64] = chunk * chunk_samples + place - start_of(slot)
    return rows
