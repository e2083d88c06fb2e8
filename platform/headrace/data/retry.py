"""Asking a storage again that failed for a moment, and giving up in time.

    attempt  --Transient-->  wait  -->  attempt  ...  until it succeeds, fails for good, or patience ends

The waits are exponential with full jitter: uniform between 0 and min(10 s, 0.1 s x 2^n), so that many readers which
failed together do not come back together (M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from headrace.errors import RunError

PATIENCE_SECONDS = 180.0
"""For how long a read is tried again: longer than a storage takes to move load or to restart a part of itself."""

START_PATIENCE_SECONDS = 8.0
"""The same before anything has started, when a person waits for the answer."""

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 10.0
_jitter = random.Random()  # its own: processes that seed the global one alike would wait alike

T = TypeVar("T")


class StorageError(OSError, RunError):
    """The storage failed, not the sample: for good, or for longer than it is waited for. Names the location."""


class Transient(Exception):
    """What went wrong may go well the next time. The message says what it was, without any credentials."""


def retry(attempt: Callable[[], T], location: str, patience_seconds: float) -> T:
    """Return what `attempt` returns, once it raises `Transient` no more.

    Args:
        attempt: called again after each `Transient`; other errors are not caught.
        location: what is asked for, for the error.
        patience_seconds: no attempt begins later than this.

    Raises:
        StorageError: patience ended; names the location and the last cause.
    """
    began, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            return attempt()
        except Transient as error:
            wait = _jitter.uniform(0, min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** min(tries, 20)))
            passed = time.monotonic() - began
            if passed + wait > patience_seconds:
                times = "once" if tries == 1 else f"{tries} times"
                raise StorageError(f"{location!r} could not be had, tried {times} in {passed:.0f} s: {error}") from None
        time.sleep(wait)
