"""Wakes consumers of a stream when there is a block for them.

Ray's look for it a hundred times a second, each in a thread of the process that executes the stream. Of some hundred
ranks that wait, these looks take a core, and that process has only one, in which it should hand out blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

LOOK_SECONDS = 1.0
"""After so long a consumer looks by itself, whoever should have woken it."""


class Handover:
    """Stands before the methods by which consumers get a stream's blocks, and by which it ends.

    Args:
        state: of its last operator.

    Raises:
        AttributeError: this Ray's have not what is used of them.
    """

    def __init__(self, state: Any) -> None:
        self._state, self._get, self._mark_finished = state, state.get_output_blocking, state.mark_finished
        self._has_next: Callable[[int | None], bool] = state.output_queue.has_next
        self._counter: threading.Lock = state._waiting_consumers_lock
        self._bells: dict[int | None, threading.Event] = {}
        self._is_over()
        state.get_output_blocking, state.mark_finished = self.get_output_blocking, self.mark_finished

    def get_output_blocking(self, split: int | None) -> Any:
        """Return the next block of a consumer; see Ray's own."""
        if not self._is_over() and not self._has_next(split):
            self._wait(split)
        return self._get(split)

    def mark_finished(self, exception: Exception | None = None) -> None:
        """Wake all who wait: nothing comes any more; see Ray's own."""
        self._mark_finished(exception)
        for bell in list(self._bells.values()):
            bell.set()

    def wake(self) -> None:
        """Wake those who wait for what is there now. Called by the executor's thread, each time it has looked."""
        for split, bell in list(self._bells.items()):
            if self._has_next(split):
                bell.set()

    def _wait(self, split: int | None) -> None:
        bell = self._bells.setdefault(split, threading.Event())
        self._count(1)  # Ray lets a block through that its limits would hold back where somebody waits
        try:
            while not self._is_over() and not self._has_next(split):
                bell.wait(LOOK_SECONDS)
                bell.clear()
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._counter:
            self._state._num_waiting_consumers += change

    def _is_over(self) -> bool:
        return bool(self._state._finished or self._state._exception is not None)
