"""Samples drawn by weight, with replacement or without.

The weights are a column of the manifest, which every decode actor maps; an order is pickled without them and gets them
back from `with_weights`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from headrace import keyed
from headrace.data.order.contract import SampleOrder
from headrace.errors import UserError

MOST_WITHOUT_REPLACEMENT = 20_000_000
"""Samples of an order without replacement: more would take too long at the start of each epoch."""

_SLICE = 1 << 20


@dataclass(frozen=True)
class WithReplacement(SampleOrder):
    """At each position any sample, with a probability in proportion to its weight.

    Inverse-CDF sampling: O(log samples) a draw, 8 bytes a sample in each process that draws. No position depends on
    another, so there are no epochs.

    Attributes:
        weights: [samples] float64, not negative, not all zero; left out when it is pickled.
    """

    weights: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `SampleOrder.rows`."""
        return self._draw("weighted", self.seed, positions)

    def reserve(self, position: int, attempt: int) -> int:
        """See `SampleOrder.reserve`: any sample, by its weight."""
        return int(self._draw("reserve", self.seed, position, attempt))

    def with_weights(self, weights: NDArray[np.float64] | None) -> Self:
        """See `SampleOrder.with_weights`."""
        return replace(self, weights=weights)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "weights"}

    def _draw(self, *keys: keyed.Key) -> NDArray[np.int64]:
        cumulative = self._cumulative
        # A row of weight 0 ends where it begins, so nothing falls on it. `min`: u * total may round up to the total.
        rows = np.searchsorted(cumulative, keyed.uniform(*keys) * cumulative[-1], side="right")
        drawn: NDArray[np.int64] = np.minimum(rows, self._last)
        return drawn

    @cached_property
    def _cumulative(self) -> NDArray[np.float64]:
        return np.cumsum(self._weights)  # one addition after the other, so the same everywhere

    @cached_property
    def _last(self) -> int:
        return int(np.flatnonzero(self._weights)[-1])

    @property
    def _weights(self) -> NDArray[np.float64]:
        assert self.weights is not None, "this order was pickled: give it the manifest's weights by with_weights()"
        assert len(self.weights) == self.samples, f"{len(self.weights)} weights for {self.samples} samples"
        return self.weights


@dataclass(frozen=True)
class WithoutReplacement(WithReplacement):
    """Each epoch a weighted draw of a share of the samples, none of them twice, in random order.

    Exponential keys (Efraimidis & Spirakis, "Weighted random sampling with a reservoir", IPL 2006): sample i gets
    the key e_i / w_i, e_i exponential, and the smallest keys are the draw. Every epoch costs a pass over all
    samples, in each process that draws: 0.2 CPU seconds and 30 MB for a million samples, of which 8 bytes for each that
    is drawn stay.

    Attributes:
        share: of the samples whose weight is not zero that an epoch draws, in (0, 1).
    """

    share: float = 0.5
    _epochs: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.samples > MOST_WITHOUT_REPLACEMENT:
            raise UserError(
                f"{self.samples:,} samples are too many to be drawn by weight without replacement (at most "
                f"{MOST_WITHOUT_REPLACEMENT:,}): leave --data.without-replacement 0, which draws with replacement"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_epochs": {}}

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `SampleOrder.rows`."""
        epochs, index = np.divmod(positions, self.epoch_samples)
        rows = keyed.permute(index, self.epoch_samples, self.seed, epochs)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._drawn(int(epoch))[rows[here]]
        return rows

    @cached_property
    def epoch_samples(self) -> int:
        """Samples that an epoch draws."""
        return max(1, round(self.share * np.count_nonzero(self._weights)))

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows that an epoch draws, ascending."""
        if epoch not in self._epochs:
            while len(self._epochs) > 1:  # a micro-batch can reach from one epoch into the next
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = self._draw_epoch(epoch)
        return self._epochs[epoch]

    def _draw_epoch(self, epoch: int) -> NDArray[np.int64]:
        rows = np.flatnonzero(self._weights)
        keys = np.empty(len(rows))
        for first in range(0, len(rows), _SLICE):
            some = slice(first, first + _SLICE)
            draws = keyed.exponential("without replacement", self.seed, epoch, rows[some])
            with np.errstate(over="ignore"):  # of weights that are all but 0; infinity sorts them as well
                keys[some] = draws / self._weights[rows[some]]
        largest = np.partition(keys, self.epoch_samples - 1)[self.epoch_samples - 1]
        drawn: NDArray[np.int64] = rows[keys <= largest][: self.epoch_samples]
        return drawn
