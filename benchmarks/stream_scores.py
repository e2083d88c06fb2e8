"""From runs to the figures by which the stream is judged. Higher is better, but for the first batch.

    of_ceiling          ours / bare processes with our decoder, once running
    vs_best_peer        ours / the best other loader, once running
    first_batch_ratio   ours / the better of torch's DataLoaders, seconds from the start of the process

Round k of a corpus holds one run of each contender, one after the other: what slows the machine for a while slows a
round. So a ratio is the median of the rounds' ratios, with its quartiles; the best other has the highest median.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from benchmarks.scores import Spread
from benchmarks.stream_contender import Run

OURS = "headrace"
CEILING = "bare headrace"

Role = Literal["ours", "peer", "ceiling"]
Quantity: TypeAlias = Literal[
    "clips_per_second",
    "whole_clips_per_second",
    "first_batch_seconds",
    "first_batch_without_ray",
    "cpu_seconds_per_clip",
    "decode_cpu_share",
]


@dataclass(frozen=True)
class Measured:
    """A corpus, measured.

    Attributes:
        name: "long-gop", "real" or "images".
        roles: of the contenders.
        rounds: [repeats] of the contenders that deliver.
        memory: a run of each contender whose memory was watched, and whose frames were looked at.
        wrong: what is wrong with the frames of the others, or why they did not run.
        left_out: clips.
    """

    name: str
    clips: int
    batch: int
    roles: Mapping[str, Role]
    rounds: Mapping[str, Sequence[Run]]
    memory: Mapping[str, Run]
    wrong: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def names(self, role: Role) -> list[str]:
        """Return the contenders of a role that deliver, the fastest first."""
        able = [name for name in self.rounds if self.roles[name] == role]
        return sorted(able, key=lambda name: -self.spread(name, "clips_per_second").median)

    def spread(self, name: str, quantity: Quantity) -> Spread:
        """Return a quantity of a contender over the rounds."""
        return _spread([_value(run, quantity) for run in self.rounds[name]])

    def ratio(self, above: str, below: str, quantity: Quantity = "clips_per_second") -> Spread | None:
        """Return a quantity of one contender by that of another, None where one of them was not measured."""
        if above not in self.rounds or below not in self.rounds:
            return None
        pairs = zip(self.rounds[above], self.rounds[below], strict=True)
        return _spread([_value(one, quantity) / _value(other, quantity) for one, other in pairs])

    @property
    def best_peer(self) -> str | None:
        """The other loader that is the fastest once running."""
        return next(iter(self.names("peer")), None)

    @property
    def of_ceiling(self) -> Spread | None:
        """See the top of this file."""
        return self.ratio(OURS, CEILING)

    @property
    def vs_best_peer(self) -> Spread | None:
        """See the top of this file."""
        return self.ratio(OURS, self.best_peer) if self.best_peer else None

    def first_batch_ratio(self, *, ray_up: bool = False) -> Spread | None:
        """See the top of this file.

        Args:
            ray_up: without the seconds that starting Ray takes, as on a cluster.
        """
        loaders = [name for name in self.rounds if name.startswith("torch DataLoader")]
        if not loaders or OURS not in self.rounds:
            return None
        best = min(loaders, key=lambda name: self.spread(name, "first_batch_seconds").median)
        quantity: Quantity = "first_batch_without_ray" if ray_up else "first_batch_seconds"
        pairs = zip(self.rounds[OURS], self.rounds[best], strict=True)
        return _spread([_value(ours, quantity) / theirs.first_batch_seconds for ours, theirs in pairs])


AIMS = {
    "of_ceiling": ("at least", 0.95),
    "vs_best_peer_long_gop": ("at least", 1.6),
    "vs_best_peer_real": ("at least", 1.3),
    "first_batch_ratio": ("at most", 2.0),
}


def judged(corpora: Sequence[Measured]) -> dict[str, Spread | None]:
    """Return what is judged: of several corpora the worst. Images have no aims."""
    videos = [corpus for corpus in corpora if corpus.name != "images"]
    named = {corpus.name: corpus for corpus in videos}
    return {
        "of_ceiling": min(_known(corpus.of_ceiling for corpus in videos), key=_median, default=None),
        "vs_best_peer_long_gop": named["long-gop"].vs_best_peer if "long-gop" in named else None,
        "vs_best_peer_real": named["real"].vs_best_peer if "real" in named else None,
        "first_batch_ratio": max(_known(corpus.first_batch_ratio() for corpus in videos), key=_median, default=None),
    }


def is_met(name: str, spread: Spread | None) -> bool | None:
    """Say whether an aim is met, None where it was not measured."""
    bound, aim = AIMS[name]
    if spread is None:
        return None
    return spread.median <= aim if bound == "at most" else spread.median >= aim


def _value(run: Run, quantity: Quantity) -> float:
    if quantity == "first_batch_without_ray":
        return run.first_batch_seconds - run.ray_seconds
    return float(getattr(run, quantity))


def _known(spreads: Iterable[Spread | None]) -> list[Spread]:
    return [spread for spread in spreads if spread is not None]


def _median(spread: Spread) -> float:
    return spread.median


def _spread(values: Sequence[float]) -> Spread:
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(low), float(high))
