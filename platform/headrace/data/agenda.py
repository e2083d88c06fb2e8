"""What a run asks of its stream, in order: the micro-batches of its steps and, now and then, those held out.

A micro-batch is known by its number. Those of training are 0, 1, 2, ...; those of the held-out samples are
~0, ~1, ~2, ..., that is -1, -2, -3, ..., and the same ones come again with each evaluation:

    step          1        2        3        4
    numbers      0 1      2 3      4 5      6 7          2 micro-batches a step, an evaluation every 2 steps
                              -1 -2             -1 -2

One stream carries both. So evaluations are decoded ahead by the pool that decodes for training, no actor waits for the
next one, and no step waits for decoders that were busy with something else.

With n workers, worker r takes every n-th number from the r-th on. Steps and evaluations are whole rounds of all
workers, so each worker knows what comes next. Several streams share an agenda likewise: the s-th of m carries what the
s-th of m workers would take. Where m divides n, that is what the workers s, s + m, s + 2 m, ... take, in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True)
class Agenda:
    """Which micro-batches a run consumes, and when.

    Attributes:
        steps: of the whole run.
        lanes: micro-batches of a step, over all workers.
        every: steps between two evaluations; the last step is followed by one, too.
        held_out: micro-batches of an evaluation, over all workers; 0: there are none.
    """

    steps: int
    lanes: int = 1
    every: int = 1
    held_out: int = 0

    def is_evaluated(self, step: int) -> bool:
        """Say whether an evaluation follows after so many completed steps."""
        return self.held_out > 0 and step > 0 and (step % self.every == 0 or step == self.steps)

    def numbers(self, step: int, first: int, stop: int | None = None) -> Iterator[int]:
        """Yield what a run consumes from one step to another.

        Args:
            step: completed steps.
            first: the next micro-batch of training.
            stop: the last step, and what follows it; that of the run if not given.
        """
        for done in range(step + 1, (self.steps if stop is None else stop) + 1):
            yield from range(first, first + self.lanes)
            first += self.lanes
            if self.is_evaluated(done):
                yield from (~number for number in range(self.held_out))

    def numbers_of(self, rank: int, ranks: int, step: int, first: int, stop: int | None = None) -> Iterator[int]:
        """Yield the share of one worker, or stream, of `ranks`; see `numbers`."""
        return islice(self.numbers(step, first, stop), rank, None, ranks)


def is_held_out(number: int) -> bool:
    """Say whether a micro-batch is of held-out samples; its place among them is then `~number`."""
    return number < 0
