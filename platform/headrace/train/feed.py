"""The last hop: batch -> pinned buffer -> side stream -> device, a few micro-batches ahead of the step.

A thread pulls batches while the step runs. On CUDA it stages each in a pinned buffer and copies it on a stream of its
own; the step's stream waits for that copy's event, never the host. The time the step spends waiting here is what
starves a GPU, so it is measured here, for every batch.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from headrace.batch import Batch, BatchStream
from headrace.errors import RunError


@dataclass(frozen=True)
class Fed:
    """A batch whose pixels have arrived.

    Attributes:
        batch: the batch on the host.
        pixels: [B, T, H, W, C] uint8 on the device.
        wait_seconds: how long the step waited for it.
        ready: batches that stood ready behind it.
        age_seconds: since it was decoded; NaN where the decoder did not say.
    """

    batch: Batch
    pixels: Tensor
    wait_seconds: float
    ready: int
    age_seconds: float


_Staged: TypeAlias = "tuple[Batch, Tensor, torch.cuda.Event | None]"


class Feed:
    """Hands out batches in order, and insists on the order.

    Args:
        stream: this rank's micro-batches.
        numbers: which they are, in order.
        device: where the pixels go.
        depth: batches kept ready.
    """

    def __init__(self, stream: BatchStream, numbers: Iterable[int], device: torch.device, depth: int) -> None:
        self._stream, self._expected = stream, iter(numbers)
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: queue.Queue[_Staged | BaseException | None] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._pull, name="headrace-feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()

    def next(self) -> Fed:
        """Return the next batch.

        Raises:
            RunError: the stream ended early or gave a batch out of order.
        """
        start = time.perf_counter()
        item = self._ready.get()
        wait = time.perf_counter() - start
        expected = next(self._expected, None)
        if item is None:
            raise RunError(f"the stream ended before micro-batch {expected}")
        if isinstance(item, BaseException):
            raise item
        batch, pixels, arrived = item
        if batch.number != expected:
            raise RunError(
                f"the stream gave micro-batch {batch.number} where {expected} was due: samples would be lost or "
                f"repeated"
            )
        if arrived is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(arrived)
            pixels.record_stream(current)
        return Fed(batch, pixels, wait, self._ready.qsize(), time.time() - batch.cost.finished)

    def _pull(self) -> None:
        try:
            for batch in self._stream:
                self._offer(self._stage(batch))
                if self._closed.is_set():
                    return
            self._offer(None)
        except BaseException as error:  # handed to the step, which raises it
            self._offer(error)

    def _offer(self, item: _Staged | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def _stage(self, batch: Batch) -> _Staged:
        host = _as_tensor(batch.pixels)
        if self._copies is None:
            return batch, host, None
        pinned = torch.empty(host.shape, dtype=host.dtype, pin_memory=True).copy_(host)
        with torch.cuda.stream(self._copies):
            pixels = pinned.to(self._device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._copies)
        return batch, pixels, arrived


def _as_tensor(pixels: np.ndarray) -> Tensor:
    """View an array that may lie in the object store's read-only memory; nobody writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)
