"""Making curves fit to draw: smoothing, thinning, ranges and ticks. Arrays are [N] float64, NaN for a gap."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

POINTS = 480
"""The most points a drawn curve has: about one for each two pixels of a wide page."""


def smoothed(values: Curve) -> Curve:
    """Return the centred mean over a thirtieth of the curve, gaps left out. No lag, unlike a running mean.

    At the beginning the window shrinks, so that a steep descent is not flattened; at the end its past half
    is left, so that the last value is not mere noise.
    """
    half = min(250, len(values) // 60)
    if half < 1:
        return np.array(values)
    known = np.isfinite(values)
    # By convolution, not by differences of running sums, in which one huge value drowns all later ones.
    window = np.ones(2 * half + 1)
    total = np.convolve(np.where(known, values, 0.0), window, mode="same")
    count = np.convolve(known.astype(np.float64), window, mode="same")
    for reach in range(half):
        near = slice(0, 2 * reach + 1)
        total[reach], count[reach] = values[near][known[near]].sum(), known[near].sum()
    return np.where(count > 0.5, total / np.maximum(count, 1.0), np.nan)


def thinned(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Return curves over a common axis with at most POINTS points, each the mean of its neighbours."""
    length = len(next(iter(curves.values())))
    if length <= POINTS:
        return curves
    edges = np.linspace(0, length, POINTS + 1).round().astype(np.int64)
    return {name: _bucket_means(curve, edges) for name, curve in curves.items()}


def envelope(axis: Curve, values: Curve) -> tuple[Curve, Curve]:
    """Return a curve as at most 2 * POINTS points that keep the extremes of each of POINTS stretches."""
    if len(values) <= 2 * POINTS:
        return axis, values
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(values)), POINTS):
        inside = values[stretch]
        if np.isfinite(inside).any():
            kept += sorted({int(stretch[np.nanargmin(inside)]), int(stretch[np.nanargmax(inside)])})
        else:
            kept.append(int(stretch[0]))
    return axis[kept], values[kept]


def bounds(curves: list[Curve], from_zero: bool = False) -> tuple[float, float]:
    """Return a range that holds all finite values, with a little air; (0, 1) where there are none."""
    finite = np.concatenate([curve[np.isfinite(curve)] for curve in curves]) if curves else np.empty(0)
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if from_zero:
        low = min(0.0, low)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        air = abs(high) / 2 or 0.5
        return (low if from_zero else low - air), high + air
    air = 0.06 * (high - low)
    return (low if from_zero or low == 0 else low - air), high + air


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) within a range."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    apart = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.999 * rough)
    first = math.ceil(low / apart - 1e-9)
    count = math.floor(high / apart + 1e-9) - first + 1
    return [(first + i) * apart for i in range(max(0, count))]


def _bucket_means(curve: Curve, edges: NDArray[np.int64]) -> Curve:
    known = np.isfinite(curve)
    total = np.add.reduceat(np.where(known, curve, 0.0), edges[:-1])
    count = np.add.reduceat(known.astype(np.float64), edges[:-1])
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)
