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
_LOG_2 = 0.6931471805599453
_ROUNDS = 8
"""With 4, permutations of 5 elements favour some places by a third, and neighbours stay neighbours too often."""


def hash64(*keys: Key) -> NDArray[np.uint64]:
    """Return 64 well-mixed bits for each element of the broadcast keys. Strings name a purpose."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            state = _absorb(state, _as_uint64(key))
    return state


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


def exponential(*keys: Key) -> NDArray[np.float64]:
    """Return draws of the unit exponential distribution, one for each element of the broadcast keys.

    Minus the logarithm of a uniform draw, taken by additions, multiplications and divisions only. The last bit of
    `np.log` differs between processors and versions of NumPy, and what is sorted by these draws would show it.
    """
    mantissa, exponent = np.frexp(1.0 - uniform(*keys))  # 1 - u is in (0, 1]; both parts are exact
    low = mantissa < np.sqrt(0.5)
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    ratio = (mantissa - 1) / (mantissa + 1)  # log m = 2 artanh((m - 1) / (m + 1)), |ratio| < 0.172
    square = ratio * ratio
    series = np.zeros_like(ratio)
    for power in range(21, 0, -2):
        series = series * square + 1 / power
    drawn: NDArray[np.float64] = -(exponent * _LOG_2 + 2 * ratio * series)
    return drawn


def permute(index: NDArray[np.integer], size: int | NDArray[np.integer], *keys: Key) -> NDArray[np.int64]:
    """Return where a keyed pseudo-random permutation of range(size) sends each index.

    An eight-round Feistel network over the smallest even number of bits that holds `size`, cycle-walked
    back into the range (Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002): constant
    memory and time for any size up to 2**62.

    Args:
        index: int, any shape, values in [0, size).
        size: number of elements permuted, at least 1; an array broadcasts with `index`.
        keys: scalars or arrays that broadcast with `index`; each combination is another permutation.

    Returns:
        int64, the broadcast shape of index, size and keys, values in [0, size).
    """
    key = hash64("permute", *keys)
    value, limit, _ = np.broadcast_arrays(np.asarray(index).astype(np.uint64), np.asarray(size).astype(np.uint64), key)
    if (value >= limit).any():  # no walk would lead from there into the range
        raise ValueError(f"there are indices outside of the range of {np.asarray(size).max()} that is permuted")
    value, half = value.copy(), _half_bits(limit)
    mask = (np.uint64(1) << half) - np.uint64(1)
    states = hash64(key, np.arange(_ROUNDS).reshape(-1, *(1 for _ in key.shape)))
    rounds = [np.broadcast_to(state, value.shape) for state in states]

    walking = np.ones(value.shape, dtype=bool)
    with np.errstate(over="ignore"):
        while walking.any():  # the domain is less than 4 times the range: about 4 walks on the worst size
            bits, low = half[walking], mask[walking]
            left, right = value[walking] >> bits, value[walking] & low
            for state in rounds:
                left, right = right, left ^ (_absorb(state[walking], right) & low)
            value[walking] = (left << bits) | right
            walking &= value >= limit
    permuted: NDArray[np.int64] = value.astype(np.int64)
    return permuted


def _half_bits(size: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return half of the smallest even number of bits that holds `size` values, at least 1."""
    powers = np.uint64(1) << np.arange(2, 63, 2, dtype=np.uint64)
    return (np.searchsorted(powers, size) + 1).astype(np.uint64)


def _absorb(state: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix a key into a state. Wraps around, of which NumPy warns for scalars only, so callers silence it."""
    bits = (state ^ key) + _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return np.asarray(bits ^ (bits >> np.uint64(31)))


def _as_uint64(key: Key) -> NDArray[np.uint64]:
    if isinstance(key, str):
        return np.asarray(zlib.crc32(key.encode()), dtype=np.uint64)
    return np.asarray(key).astype(np.uint64)
