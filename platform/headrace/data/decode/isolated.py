"""Decoding in a process of its own, for the sample that kills the process that decodes it.

FFmpeg and its codecs are C: a hostile or broken file can end the process (a fault, an assertion, the system's
out-of-memory killer), and nothing in Python catches that. A decode actor therefore works in its own process as ever,
which costs the normal path nothing; only the actor that takes a dead one's place decodes its first micro-batches here.
The sample that kills is then known with certainty, and costs one sample, not the run.

    this process                          its child
    IsolatedDecoder  -- times, shape, index -->  the decoder
                     <-- wants bytes a ... b --  file
                     ---------- bytes -------->
                     <--- times, pixels -------  or the error, or nothing more: it died

The file stays in this process and is read on demand, so what the storage raises surfaces here as what it is, and an
index saves its reads here too. Both ends of the connection are anonymous: nothing in a file system or in shared memory
outlives a process. Messages are JSON and pixels, never pickles: a child whose memory a file may have broken is not
to be trusted with more.
"""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import weakref
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace.data.decode import Decoder
from headrace.data.decode.index import VideoIndex
from headrace.data.decode.limits import Limits
from headrace.data.decode.table import build_decoder, check_decoder
from headrace.data.failures import Crashed, SampleError, TooLarge, TooSlow
from headrace.errors import RunError, UserError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_START_SECONDS = 120.0
"""A child imports its decoder in 0.2 s; on a starved machine or a network disk it may take far longer."""

_ORPHAN_SECONDS = 10.0
"""How much longer than it may a child decodes whose parent was killed before it could end it."""

_READ_AHEAD_BYTES = 1 << 18


class IsolatedDecoder:
    """Decodes with another decoder in a child process, which may die. One instance serves one thread.

    The child is started by the first call and kept for the next ones; it ends when this process does. A sample is
    blamed only for the death of a child that had decoded nothing before: what one sample broke in a child's memory
    may kill it at the next.
    """

    def __init__(self, name: str, limits: Limits | None = None, bytes_of_memory: int | None = None) -> None:
        """Remember what to start; nothing is started yet.

        Args:
            name: of a decoder in `headrace.data.decode.table`, or "module:function", which returns one.
            limits: `seconds_per_sample` is the time for one call. It is kept by force, also in the middle of a
                packet; waiting for the storage does not count.
            bytes_of_memory: the child's heap may not grow over this, where the system can hold it to that.

        Raises:
            UserError: there is no such decoder.
        """
        check_decoder(name)
        self.name = name
        self._seconds = (limits or Limits()).seconds_per_sample
        self._bytes_of_memory = bytes_of_memory
        self._child: _Child | None = None

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`.

        Raises:
            Crashed: the child died of this sample.
            TooSlow, TooLarge: it took more time or memory than it may.
            RunError: the child cannot be started.
            RuntimeError: the decoder raised what no decoder should; the message holds the child's traceback.
        """
        if self._child is not None:
            with suppress(_Died):
                return self._decode(self._child, file, times_seconds, out, index)
        self._child = _Child(self.name, self._bytes_of_memory, self._seconds)
        try:
            return self._decode(self._child, file, times_seconds, out, index)
        except _Died as death:
            raise death.meaning from None

    def close(self) -> None:
        """End the child, if there is one. The decoder can be used again, with another."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _decode(
        self,
        child: _Child,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None,
    ) -> NDArray[np.float64]:
        """Carry on one dialogue with the child; if it breaks off, for any reason, the child ends."""
        seconds = self._seconds
        request = {
            "times": times_seconds.tolist(),
            "shape": out.shape,
            "bytes": file.seek(0, os.SEEK_END),
            "index": None if index is None else base64.b64encode(index.to_bytes()).decode(),
        }
        try:
            child.send(json.dumps(request).encode())
            while True:
                asked = time.monotonic()
                answer = json.loads(child.receive(seconds))
                if "times" in answer:
                    out[:] = np.frombuffer(child.receive(seconds), np.uint8).reshape(out.shape)
                    return np.array(answer["times"], np.float64)
                if "read" not in answer:
                    break
                seconds -= time.monotonic() - asked
                offset, size = answer["read"]
                file.seek(offset)
                child.send(file.read(size))
            if "out of memory" in answer:
                limit = f" the {self._bytes_of_memory} bytes" if self._bytes_of_memory else ""
                raise _Died(TooLarge(f"decoding takes more memory than{limit} there may be"))
        except BaseException:
            self.close()
            raise
        raise _error_of(answer)


class _Died(Exception):
    """The child ended, or must end, in the middle of a sample."""

    def __init__(self, meaning: SampleError) -> None:
        super().__init__(str(meaning))
        self.meaning = meaning


class _Child:
    """The process and this end of the connection to it."""

    def __init__(self, name: str, bytes_of_memory: int | None, seconds: float) -> None:
        self._connection, theirs = Pipe()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
            "PYTHONSAFEPATH": "1",  # modules in the working directory are not ours
            "OPENBLAS_NUM_THREADS": "1",  # or numpy reserves a stack and an arena for each core
        }
        settings = json.dumps(
            {"name": name, "bytes_of_memory": bytes_of_memory, "alarm_seconds": seconds + _ORPHAN_SECONDS}
        )
        with theirs:
            # What libraries print goes to the log; only the child's end of the connection carries messages.
            command = [sys.executable, "-X", "faulthandler", "-m", __name__, settings]
            try:
                self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=2, env=environment)
            except OSError as error:
                raise RunError(f"the decoder {name!r} cannot be given a process of its own: {error}") from error
        self.close = weakref.finalize(self, _end, self._process, self._connection)
        try:
            answer = json.loads(self.receive(_START_SECONDS))
        except (_Died, TooSlow) as death:
            self.close()
            raise RunError(f"the decoder {name!r} cannot be started in its own process: {death}") from None
        if "ready" not in answer:
            self.close()
            raise _error_of(answer)

    def send(self, message: bytes) -> None:
        try:
            self._connection.send_bytes(message)
        except OSError:
            raise self._died() from None

    def receive(self, seconds: float) -> bytes:
        try:
            if not self._connection.poll(max(0.0, seconds)):
                raise TooSlow("not done in the time that it may take; its process is killed")
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._died() from None

    def _died(self) -> _Died:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return _Died(Crashed("the process that decodes it closed its connection"))
        if code >= 0:
            return _Died(Crashed(f"the process that decodes it exits with code {code}"))
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ", which is what the system sends when memory runs out" if -code == signal.SIGKILL else ""
        return _Died(Crashed(f"the process that decodes it is killed by {name}{hint}"))


def _end(process: subprocess.Popen[bytes], connection: Connection[Any, Any]) -> None:
    connection.close()
    process.kill()
    process.wait()


def _error_of(answer: dict[str, Any]) -> Exception:
    """Return the exception that a child described: the nearest of its classes that may cross."""
    may_cross: tuple[type[Exception], ...] = (*_sample_errors(SampleError), UserError, RunError)
    known = {kind.__name__: kind for kind in may_cross}
    for name in answer["error"]:
        if name in known:
            return known[name](answer["message"])
    return RuntimeError(f"a decoder failed in its own process:\n{answer['traceback']}")


def _sample_errors(kind: type[SampleError]) -> Iterator[type[SampleError]]:
    yield kind
    for derived in kind.__subclasses__():
        yield from _sample_errors(derived)


# The child


def serve(settings: dict[str, Any]) -> None:
    """Decode what the parent sends, until it hangs up."""
    connection: Connection[Any, Any] = Connection(os.dup(0))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its child
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with suppress(EOFError, ConnectionError):
        try:
            decoder = build_decoder(settings["name"])
            _limit_memory(settings["bytes_of_memory"])
        except Exception as error:
            connection.send_bytes(_describe(error))
            return
        connection.send_bytes(b'{"ready": true}')
        while True:
            _answer(
                connection, decoder, json.loads(_wait(connection, settings["alarm_seconds"])), settings["alarm_seconds"]
            )


def _answer(connection: Connection[Any, Any], decoder: Decoder, request: dict[str, Any], alarm_seconds: float) -> None:
    file = io.BufferedReader(_ServedFile(connection, request["bytes"], alarm_seconds), _READ_AHEAD_BYTES)
    try:
        index = VideoIndex.from_bytes(base64.b64decode(request["index"])) if request["index"] else None
        out = np.zeros(request["shape"], np.uint8)
        given = decoder.decode(file, np.array(request["times"], np.float64), out, index)
    except Exception as error:
        connection.send_bytes(_describe(error))
    else:
        connection.send_bytes(json.dumps({"times": given.tolist()}).encode())
        connection.send_bytes(out.reshape(-1).data)


def _wait(connection: Connection[Any, Any], alarm_seconds: float) -> bytes:
    """Return the parent's next message. This process is killed unless it waits again in time.

    It sees the end of its parent here; while it decodes, perhaps in an endless loop of C, only a signal reaches it.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    message = connection.recv_bytes()
    signal.setitimer(signal.ITIMER_REAL, alarm_seconds)
    return message


class _ServedFile(io.RawIOBase):
    """The parent's file."""

    def __init__(self, connection: Connection[Any, Any], size: int, alarm_seconds: float) -> None:
        self._connection, self._size, self._alarm_seconds, self._at = connection, size, alarm_seconds, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readall(self) -> bytes:
        return self._fetch(self._size - self._at)

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._fetch(min(len(view), self._size - self._at))
        view[: len(data)] = data
        return len(data)

    def _fetch(self, size: int) -> bytes:
        if size <= 0:
            return b""
        self._connection.send_bytes(json.dumps({"read": [self._at, size]}).encode())
        data = _wait(self._connection, self._alarm_seconds)
        self._at += len(data)
        return data


def _limit_memory(bytes_of_memory: int | None) -> None:
    """Hold this process to an amount of memory, and offer it to the system as the first to end where that runs out."""
    with suppress(OSError):  # Linux
        Path("/proc/self/oom_score_adj").write_text("1000")
    if bytes_of_memory is not None:
        import resource

        # What is written to: the heap and anonymous mappings, not the libraries nor address space merely reserved.
        resource.setrlimit(resource.RLIMIT_DATA, (bytes_of_memory, bytes_of_memory))


def _describe(error: Exception) -> bytes:
    if _is_out_of_memory(error):
        return b'{"out of memory": true}'
    kinds = [kind.__name__ for kind in type(error).__mro__]
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return json.dumps({"error": kinds, "message": str(error), "traceback": text}).encode()


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says so; FFmpeg and the system say it by number."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
