"""A decoder for tests in which each sample says what it does to its decoder, as hostile files do to FFmpeg."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace.data.decode.index import VideoIndex
from headrace.data.failures import Truncated, UnsupportedCodec
from headrace.errors import UserError


class OddlyTruncated(Truncated):
    """An error that only the child's side knows."""


class HostileDecoder:
    """Fills the frames with the process's number of calls so far, once it has done what the file says."""

    name = "hostile"

    def __init__(self) -> None:
        self._calls = 0
        self._leak: list[bytearray] = []
        self._doomed = False

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        del index
        if self._doomed:
            os.kill(os.getpid(), signal.SIGBUS)
        self._calls += 1
        command, _, value = file.read(64).strip(b"\0").decode().partition(" ")
        self._obey(command, value)
        out[:] = self._calls
        return times_seconds * 0.1

    def _obey(self, command: str, value: str) -> None:
        match command:
            case "signal":
                os.kill(os.getpid(), signal.Signals[value])
            case "exit":
                sys.exit(int(value))
            case "sleep":
                time.sleep(float(value))
            case "deaf":  # to every signal that a process can refuse
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                time.sleep(float(value))
            case "leak":
                self._leak.append(bytearray(int(value)))
            case "raise out of memory":
                raise MemoryError
            case "doom":
                self._doomed = True
            case "print":
                print("rubbish", flush=True)
                os.write(1, bytes(range(256)) * 1000)
            case "close":
                os.closerange(0, 256)
                time.sleep(10)
            case "truncated":
                raise Truncated(value)
            case "oddly":
                raise OddlyTruncated(value)
            case "unsupported":
                raise UnsupportedCodec(value)
            case "bug":
                raise ZeroDivisionError(value)


def build() -> HostileDecoder:
    """Return the decoder."""
    return HostileDecoder()


def build_refused() -> HostileDecoder:
    """Raise what a decoder raises whose library is not installed."""
    raise UserError("the decoder needs a library: install it")


def build_dead() -> HostileDecoder:
    """End the process before a decoder is there."""
    os._exit(7)
