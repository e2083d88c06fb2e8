"""Contenders of a benchmark, each in a process of its own, measured in turn.

    this process            contender A        contender B
      measure(...) ------------> works
                   <------- CPU seconds
      measure(...) ------------------------------> works
                   <------------------------- CPU seconds

So their libraries, allocators and copies of FFmpeg do not disturb each other, one that crashes takes nothing with it,
and what else happens on the machine happens to all of them alike.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import RunError

_ROOT = Path(__file__).resolve().parent.parent
_SERVE = f"from {__name__} import serve; serve()"
_LIMIT_SECONDS = 300.0
QUIET, PATIENCE = 1.04, 2
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class ContenderError(RunError):
    """A contender could not do what it was asked; the message says why, in one line."""


@dataclass(frozen=True)
class _Reply:
    """What comes back: a result, unless it was measured or failed."""

    result: Any = None
    error: str | None = None
    cpu_seconds: float = 0.0


class ContenderProcess:
    """An object that lives in a process of its own. Use as a context manager."""

    def __init__(self, factory: str, *arguments: object) -> None:
        """Start it.

        Args:
            factory: `module:name` of what makes the object, called with `arguments`.

        Raises:
            ContenderError: it cannot be made, for instance because its library is not installed.
        """
        self._factory, self._arguments = factory, arguments
        self._start()

    def __enter__(self) -> ContenderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, *arguments: object) -> Any:
        """Return what the object's method returns.

        Raises:
            ContenderError: it raised an exception, took too long, or its process died. A process that died is
                started again by the next call.
        """
        return self._ask(method, arguments, measured=False).result

    def measure(self, method: str, *arguments: object) -> float:
        """Return the CPU seconds, of all threads of its process, that the object's method takes.

        Raises:
            ContenderError: see `call`.
        """
        return self._ask(method, arguments, measured=True).cpu_seconds

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        paths = [str(_ROOT / "platform"), str(_ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, self._factory, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,  # what libraries print is no part of a report
                stderr=self._stderr,
                env=environment,
            )
        try:
            self._ask("", self._arguments, measured=False)
        except ContenderError:
            self.close()
            raise

    def _ask(self, method: str, arguments: Sequence[object], *, measured: bool) -> _Reply:
        if self._process.poll() is not None:
            self.close()
            self._start()
        try:
            self._connection.send((method, arguments, measured))
            if not self._connection.poll(_LIMIT_SECONDS):
                self._process.kill()
                raise ContenderError(f"took longer than {_LIMIT_SECONDS:.0f} s")
            reply: _Reply = self._connection.recv()
        except (EOFError, OSError):
            raise ContenderError(self._death()) from None
        if reply.error is not None:
            raise ContenderError(reply.error)
        return reply

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"crashed ({signal.Signals(-code).name})"
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"ended with code {code}" + (f": {said[-1]}" if said else "")


def measure_in_turn(
    contenders: Mapping[str, ContenderProcess], method: str, argument: object, repeats: int
) -> dict[str, NDArray[np.float64]]:
    """Return the CPU seconds [repeats] of each contender for the same call.

    Each round asks every contender once, beginning with another one than the round before. What disturbs the machine
    meanwhile (neighbours that share its cores) can double a time, so rounds go on, up to `PATIENCE` times as many,
    until there are `repeats` quiet ones: those in which all contenders together took the least, within `QUIET` of
    each other. That choice looks at the round's total only, and so favours nobody.

    Raises:
        ContenderError: see `ContenderProcess.call`.
    """
    names = list(contenders)
    rounds: list[list[float]] = []
    while len(rounds) < PATIENCE * repeats:
        first = len(rounds) % max(len(names), 1)
        seconds = {name: contenders[name].measure(method, argument) for name in names[first:] + names[:first]}
        rounds.append([seconds[name] for name in names])
        quietest = sorted(rounds, key=sum)[:repeats]
        if len(rounds) >= repeats and sum(quietest[-1]) <= QUIET * sum(quietest[0]):
            break
    return {name: np.array([seconds[at] for seconds in quietest]) for at, name in enumerate(names)}


@contextlib.contextmanager
def one_core() -> Iterator[int | None]:
    """Keep this process, and those it starts meanwhile, on one core; gives its number, None where it cannot be."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    core = max(before)  # the first cores answer most interrupts
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)


def serve() -> None:
    """Be such a process: make the object and answer for it until the other end is closed."""
    factory, connection = sys.argv[1], Connection(int(sys.argv[2]))
    target: Any = None
    with contextlib.suppress(EOFError):
        while True:
            method, arguments, measured = connection.recv()
            try:
                if target is None:
                    module, _, name = factory.partition(":")
                    target = getattr(import_module(module), name)(*arguments)
                    gc.freeze()  # a collection between measurements need not look at the libraries
                    reply = _Reply()
                else:
                    reply = _timed(target, method, arguments, measured)
            except Exception as error:
                reply = _Reply(error=f"{type(error).__name__}: {error}".strip().partition("\n")[0])
            connection.send(reply)


def _timed(target: object, method: str, arguments: Sequence[object], measured: bool) -> _Reply:
    call = getattr(target, method)
    gc.collect()
    start = time.process_time()
    result = call(*arguments)
    cpu_seconds = time.process_time() - start
    return _Reply(None if measured else result, cpu_seconds=cpu_seconds)
