"""More clips from each decode: a video is opened once, several clips are taken from it, and they meet far apart.

Decoding one frame of a video decodes all frames that it refers to, and so most of what other clips of the same video
need. With R repeats each video gives R clips (other times, other crops) for little more than the cost of one: data
echoing (Choi et al., "Faster neural network training with data echoing", arXiv:1907.05550) before augmentation, with
a fixed distance in place of a shuffle buffer.

A *strip* is what is decoded in one go: the clips of the B videos of one micro-batch. Step k of a run draws from strips
of R ages, in turn; here R = 2, D = 3, and "4a", "4b" are the first and second clips of strip 4:

    step k     0    1    2    3    4    5    6    7    8    9
    clips      3a   0b   4a   1b   5a   2b   6a   3b   7a   4b
    decoded    3    0    4    1    5    2    6         7            0, 1 and 2 for their second clips only

So two clips of a video stand D R + 1 steps apart, and once the first (R - 1) D R steps are over, one strip is decoded
in R steps. Strips decoded for later clips are held by the worker that will train on them, which is the same whatever
the number of workers: each of the G micro-batches of a step (its *lane*) draws from strips of its own.

All is a function of the number of the micro-batch. What a worker holds is a cache: a run that goes on from step k
decodes the strips again that it finds open there, as it needs them, and its samples are those of an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headrace.batch import Batch, BatchStream, Strip
from headrace.data.agenda import is_held_out


@dataclass(frozen=True)
class Echo:
    """How often, and how far apart, a sample is seen again for one decode.

    Attributes:
        repeats: R, clips from each decode; 1: every micro-batch is decoded for itself.
        apart: D; two clips of a video stand D R + 1 steps apart.
        lanes: G, micro-batches of a step over all workers.
    """

    repeats: int = 1
    apart: int = 0
    lanes: int = 1

    def strip(self, number: int) -> int:
        """Return from which strip the clips of a micro-batch are; strip s holds the samples at s B ... s B + B - 1."""
        step, lane = divmod(number, self.lanes)
        turn, age = divmod(step, self.repeats)
        return (turn + (self.repeats - 1 - age) * self.apart) * self.lanes + lane

    def age(self, number: int) -> int:
        """Return which clip of its strip a micro-batch holds, from 0."""
        return number // self.lanes % self.repeats

    def later(self, number: int) -> list[int]:
        """Return this micro-batch and those that hold the later clips of its strip."""
        stride = (self.apart * self.repeats + 1) * self.lanes
        return [number + again * stride for again in range(self.repeats - self.age(number))]

    def is_decoded(self, number: int, first: int) -> bool:
        """Say whether a run that begins at micro-batch `first` decodes a strip for this one; else it holds it."""
        before = number - (self.apart * self.repeats + 1) * self.lanes
        return self.age(number) == 0 or before < first

    def is_first_clip(self, number: int) -> bool:
        """Say whether no micro-batch of the whole run holds an earlier clip of the strip."""
        return self.is_decoded(number, first=0)

    @classmethod
    def of(cls, repeats: int, least_steps: int, lanes: int) -> Echo:
        """Return the echo whose clips of a sample stand at least so many steps apart."""
        return cls(repeats, -(-(least_steps - 1) // repeats) if repeats > 1 else 0, lanes)

    @property
    def held_micro_batches(self) -> int:
        """Micro-batches that all workers together hold for later, at most."""
        strips = (self.repeats - 1) * self.apart + min(1, self.repeats - 1)
        return strips * self.repeats * self.lanes

    def decoded(self, numbers: Iterable[int], first: int) -> Iterator[int]:
        """Yield those of a run's numbers for which a strip is decoded, if it begins at micro-batch `first`.

        Held-out samples are seen once in an evaluation, so each strip of them holds one clip.
        """
        return (number for number in numbers if is_held_out(number) or self.is_decoded(number, first))


def unfold(strips: Iterable[Strip], numbers: Iterable[int]) -> BatchStream:
    """Yield a worker's micro-batches in order, and hold what strips bring for later. Ends where either ends.

    Args:
        strips: in the order in which their first micro-batches are due.
        numbers: of the worker's micro-batches, in the order in which they are due.
    """
    coming = iter(strips)
    held: dict[int, Batch] = {}
    for number in numbers:
        if number in held:
            yield held.pop(number)
            continue
        strip = next(coming, None)
        if strip is None:
            return
        due, *later = strip.batches()
        held |= {batch.number: batch for batch in later}
        yield due
