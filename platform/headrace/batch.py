"""What flows: one micro-batch, from the decode actor that fills it to the objective that learns from it.

    name       on the host                 on the device                meaning
    pixels     [B, T, H, W, C] uint8       [B, T, C, H, W] float32      RGB; normalised by `augment`
    seed       [B] int64                   [B] int64 (stays on host)    of the sample's own random draws
    label      [B] int64                   [B] int64                    class, -1 where there is none
    seconds    [B, T] float64              -                            times of the frames, from the first
    sample     [B] int64                   -                            rows of the manifest
    valid      [B] bool                    -                            False: could not be decoded, or not there at
                                                                        all (evaluation)

    keys       of the samples, as the manifest names them; empty where nobody gave them names
    number     which micro-batch of the run this is; its samples stand at the positions
               number * B ... number * B + B - 1 of the order. ~k, which is negative: the k-th
               of the held-out samples (`headrace.data.agenda`)
    failures   samples that could not be decoded and were replaced

B samples, T frames, H x W pixels, C = 3 channels. An image is a clip of one frame, T = 1. The shapes are the
same in every batch of a run, so nothing downstream recompiles. Micro-batches cross the object store in strips, whose
arrays are C-contiguous and so need no copy. Augmentation (`headrace.augment`) is the only place where uint8 becomes
float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Failure:
    """A sample that could not be decoded, as the quarantine table keeps it."""

    position: int
    key: str
    shard: str
    offset: int
    reason: str
    message: str


@dataclass(frozen=True)
class DecodeCost:
    """What a micro-batch cost the decode pool.

    Attributes:
        actor: who decoded it.
        cpu_seconds, wall_seconds: what it took.
        finished: when it was done, in seconds since 1970; NaN where nobody looked at the clock.
    """

    actor: str
    cpu_seconds: float
    wall_seconds: float
    finished: float = math.nan


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the host. See the table at the top of this file."""

    number: int
    pixels: NDArray[np.uint8]
    seed: NDArray[np.int64]
    label: NDArray[np.int64]
    seconds: NDArray[np.float64]
    sample: NDArray[np.int64]
    valid: NDArray[np.bool_]
    keys: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    cost: DecodeCost = field(default_factory=lambda: DecodeCost("", 0.0, 0.0))

    def __post_init__(self) -> None:
        if self.pixels.ndim != 5 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 [B, T, H, W, C], got {self.pixels.dtype} {self.pixels.shape}")
        samples, frames = self.pixels.shape[:2]
        expected = {
            "seed": (samples,),
            "label": (samples,),
            "seconds": (samples, frames),
            "sample": (samples,),
            "valid": (samples,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {getattr(self, name).shape}")

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def positions(self) -> range:
        """The positions at which these samples stand in the run's order, or among the held-out ones."""
        number = max(self.number, ~self.number)
        return range(number * len(self), (number + 1) * len(self))


@dataclass(frozen=True)
class Strip:
    """What a decode actor hands on: the micro-batches that it decoded in one go, from the same B samples.

    There are R of them, one unless a recipe asks for `repeats` (`headrace.data.echo`).

    Attributes:
        numbers: of the micro-batches [R].
        pixels: [B, R, T, H, W, C] uint8, C-contiguous.
        seed: [B, R] int64.
        seconds: [B, R, T] float64.
        label, sample, valid, keys, failures, cost: as of a `Batch`.
    """

    numbers: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    seed: NDArray[np.int64]
    label: NDArray[np.int64]
    seconds: NDArray[np.float64]
    sample: NDArray[np.int64]
    valid: NDArray[np.bool_]
    keys: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    cost: DecodeCost = field(default_factory=lambda: DecodeCost("", 0.0, 0.0))

    def batches(self) -> list[Batch]:
        """Return its micro-batches, as views. They share the cost; the failures come with the first."""
        again = len(self.numbers)
        cost = replace(
            self.cost, cpu_seconds=self.cost.cpu_seconds / again, wall_seconds=self.cost.wall_seconds / again
        )
        return [
            Batch(
                number=int(number),
                pixels=self.pixels[:, at],
                seed=self.seed[:, at],
                label=self.label,
                seconds=self.seconds[:, at],
                sample=self.sample,
                valid=self.valid,
                keys=self.keys,
                failures=() if at else self.failures,
                cost=cost,
            )
            for at, number in enumerate(self.numbers)
        ]


@dataclass(frozen=True)
class DeviceBatch:
    """One micro-batch as the objective sees it. See the table at the top of this file."""

    pixels: Tensor
    seed: NDArray[np.int64]
    label: Tensor

    def __len__(self) -> int:
        return len(self.seed)


def fake_batch(samples: int, frames: int, height: int, width: int, *, number: int = 0, classes: int = 2) -> Batch:
    """Return a batch of noise of the true shapes, so that any model can be tested with no data."""
    draws = np.random.default_rng(number)
    return Batch(
        number=number,
        pixels=draws.integers(0, 256, (samples, frames, height, width, 3), dtype=np.uint8),
        seed=draws.integers(0, 2**62, samples),
        label=draws.integers(0, classes, samples),
        seconds=np.tile(np.arange(frames, dtype=np.float64), (samples, 1)),
        sample=np.arange(samples),
        valid=np.ones(samples, dtype=bool),
    )


BatchStream = Iterator[Batch]
"""Micro-batches in the order of their numbers, as one rank receives them."""
