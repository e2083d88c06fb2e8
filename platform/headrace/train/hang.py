"""Ending a worker that hangs, and saying where it hung.

A collective that one rank never joins holds all others for ever; so do a driver's bug or a dead mount. The watch is a
thread of Python's own fault handler, which needs neither the interpreter's lock nor its cooperation. Each rank's stacks
lie in the run's folder afterwards, and the run goes on from its newest checkpoint.
"""

from __future__ import annotations

import faulthandler
import math
import time
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

STACKS = "stacks-{rank}.txt"
RECENT_SECONDS = 600.0


def stacks_of(run: Path) -> list[Path]:
    """Return the files in which ranks of a run wrote, lately, where they hung."""
    files = sorted(run.glob(STACKS.format(rank="*")))
    lately = time.time() - RECENT_SECONDS
    return [file for file in files if file.stat().st_size and file.stat().st_mtime > lately]


class HangWatch:
    """Ends this process, with the stacks of all its threads on file, unless `alive` is called in time.

    Args:
        run: in whose folder the stacks are written, after those of earlier hangs.
        rank: of this process.
        minutes: from one sign of life to the next, at most.
    """

    def __init__(self, run: Path, rank: int, minutes: float) -> None:
        self._path, self._seconds = run / STACKS.format(rank=rank), 60 * minutes
        self._begun = -math.inf

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a")
        self.alive()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        if self._path.stat().st_size == 0:
            self._path.unlink()

    def alive(self) -> None:
        """Begin to wait anew; calls that follow each other closely are one, as each begins a thread."""
        now = time.monotonic()
        if now - self._begun < self._seconds / 100:
            return
        self._begun = now
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)
