"""Randomness as a pure function of keys, so that a retry and a resume draw the same numbers.

No generator state is carried anywhere: whoever needs a random number names it by integer keys (the
run's seed, a position, the index of the draw) and gets the same number on every machine. All functions
are vectorised over NumPy arrays and broadcast their keys.

The mixer is the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), absorbed once per key.
"""

from __future__ import annotations

import zlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Key: TypeAlias = "int | str | NDArray[np.integer]"

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash64(*keys: Key) -> NDArray[np.uint64]:
    """Return 64 well-mixed bits for each element of the broadcast keys. Strings name a purpose."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        for key in keys:
            state = _mix((state ^ _as_uint64(key)) + _GOLDEN)
    return np.asarray(state)


def uniform(*keys: Key) -> NDArray[np.float64]:
    """Return numbers in [0, 1) with 53 random bits, one for each element of the broadcast keys."""
    bits: NDArray[np.uint64] = hash64(*keys) >> np.uint64(11)
    return np.multiply(bits, 2.0**-53, dtype=np.float64)


def integers(below: int | NDArray[np.integer], *keys: Key) -> NDArray[np.int64]:
    """Return integers in [0, below), one for each element of the broadcast keys."""
    return np.floor(uniform(*keys) * below).astype(np.int64)


def seed(*keys: int | str) -> int:
    """Return a seed in [0, 2**63) for whoever wants one integer: another generator, or further keys."""
    return int(hash64(*keys) >> np.uint64(1))


def permute(index: NDArray[np.integer], size: int, *keys: Key) -> NDArray[np.int64]:
    """Return where a keyed pseudo-random permutation of range(size) sends each index.

    A four-round Feistel network over the smallest even number of bits that holds `size`, cycle-walked
    back into the range (Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002): constant
    memory and time for any size up to 2**62.

    Args:
        index: int, any shape, values in [0, size).
        size: number of elements permuted.
        keys: scalars or arrays that broadcast with `index`; each combination is another permutation.

    Returns:
        int64, the broadcast shape of index and keys, values in [0, size).
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    half, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    key = hash64("permute", *keys)
    value, key = np.broadcast_arrays(np.asarray(index).astype(np.uint64), key)
    value = value.copy()

    walking = np.ones(value.shape, dtype=bool)
    while walking.any():  # the domain is less than 4 times the range: about 4 walks on the worst size
        left, right = value[walking] >> half, value[walking] & mask
        for round_ in range(4):
            left, right = right, left ^ (hash64(key[walking], round_, right) & mask)
        value[walking] = (left << half) | right
        walking &= value >= np.uint64(size)
    permuted: NDArray[np.int64] = value.astype(np.int64)
    return permuted


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    mixed: NDArray[np.uint64] = bits ^ (bits >> np.uint64(31))
    return mixed


def _as_uint64(key: Key) -> NDArray[np.uint64]:
    if isinstance(key, str):
        return np.asarray(zlib.crc32(key.encode()), dtype=np.uint64)
    return np.asarray(key).astype(np.uint64)
