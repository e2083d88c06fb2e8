"""From CPU seconds to the figures by which the decoders are judged.

    real_cpu_ratio       ours / best other, CPU over all real clips                       lower is better
    long_gop_ratio       ours / best other, over sparse frames of H.264 with B-frames, GOP 250
    worst_family_ratio   best other / ours, of the generated family where that is lowest  higher is better
    of_floor             floor / ours, over all real clips; 1 is the floor itself

The best other is the contender with the lowest total over the same clips: one library for all of them, as a user
would have to choose it. Round k holds the k-th quietest measurement of each contender on each clip, taken one after the
other (`contender.measure_in_turn`): what slows the machine for a while slows all of a round. So a total is the median
of the rounds' totals and a ratio that of the rounds' ratios, each with its quartiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

OURS, UNINDEXED, FLOOR = "headrace", "headrace, no index", "floor"


@dataclass(frozen=True)
class Case:
    """One video and the frames wanted of it, measured.

    Attributes:
        family: whether it is a generated family; else a real clip.
        long_gop: whether it is one of those for which long groups of pictures with B-frames are judged.
        cpu_seconds: [repeats] of each contender that gave the right frames, and of the floor.
        wrong: what the other contenders did instead.
    """

    name: str
    family: bool
    long_gop: bool
    cpu_seconds: Mapping[str, NDArray[np.float64]]
    wrong: Mapping[str, str] = field(default_factory=dict)

    @property
    def best_other(self) -> str | None:
        """The contender that is the fastest but ours."""
        return min(others_of([self]), key=lambda name: float(np.median(self.cpu_seconds[name])), default=None)


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles beside it."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """What is judged; None where it was not measured."""

    real_cpu_ratio: Spread | None
    long_gop_ratio: Spread | None
    worst_family_ratio: Spread | None
    of_floor: Spread | None
    worst_family: str | None
    frames_identical: bool


AIMS = {
    "real_cpu_ratio": ("at most", 0.62),
    "long_gop_ratio": ("at most", 0.5),
    "worst_family_ratio": ("at least", 0.97),
    "of_floor": ("at least", 0.93),
}


def scores_of(cases: Sequence[Case]) -> Scores:
    """Return what is judged."""
    real = [case for case in cases if not case.family and OURS in case.cpu_seconds]
    families = [case for case in cases if case.family and OURS in case.cpu_seconds]
    floored = [case for case in real if FLOOR in case.cpu_seconds]
    against_best = {case.name: ratio([case], best, OURS) for case in families if (best := case.best_other)}
    worst = min(against_best, key=lambda name: against_best[name].median, default=None)
    wrong = any(name in case.wrong for case in cases for name in (OURS, UNINDEXED))
    return Scores(
        real_cpu_ratio=_against_best(real),
        long_gop_ratio=_against_best([case for case in families if case.long_gop]),
        worst_family_ratio=against_best[worst] if worst else None,
        of_floor=ratio(floored, FLOOR, OURS) if floored else None,
        worst_family=worst,
        frames_identical=bool(real or families) and not wrong,
    )


def total(cases: Sequence[Case], contender: str) -> Spread:
    """Return a contender's CPU seconds over all these cases, each of which it must have."""
    return _spread(_rounds(cases, contender))


def others_of(cases: Sequence[Case]) -> list[str]:
    """Return the contenders besides ours that all these cases have."""
    first, *rest = [set(case.cpu_seconds) for case in cases] or [set()]
    return sorted(first.intersection(*rest) - {OURS, UNINDEXED, FLOOR})


def best_other(cases: Sequence[Case]) -> str | None:
    """Return the contender besides ours with the lowest total over all these cases."""
    return min(others_of(cases), key=lambda name: total(cases, name).median, default=None)


def _against_best(cases: Sequence[Case]) -> Spread | None:
    best = best_other(cases)
    return None if best is None else ratio(cases, OURS, best)


def ratio(cases: Sequence[Case], above: str, below: str) -> Spread:
    """Return the total of one contender by that of another."""
    return _spread(_rounds(cases, above) / _rounds(cases, below))


def _rounds(cases: Sequence[Case], contender: str) -> NDArray[np.float64]:
    """Return the CPU seconds [repeats] over all cases."""
    seconds: NDArray[np.float64] = np.sum([case.cpu_seconds[contender] for case in cases], axis=0)
    return seconds


def _spread(values: NDArray[np.float64]) -> Spread:
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(low), float(high))
