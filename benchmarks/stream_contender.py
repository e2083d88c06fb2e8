"""A contender of the stream benchmark in a process of its own, seen from both sides.

    this process                              the contender's, and its children
      start ------------------------------->  import, build, loop over batches, touch each
            <-- marks, with the time --------
      look at all of its processes at the first mark of the window and at the last
      end all of them

The consumer keeps nothing and computes nothing: its batches would go to a GPU. Each run is of a fresh process, so
imports, workers and, where there is one, the cluster count towards the first batch.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loaders.contract import Pixels, Task

_ROOT = Path(__file__).resolve().parent.parent
_LIMIT_SECONDS = 600.0
_GRACE_SECONDS = 15.0
_LOOK_SECONDS = 0.2  # from one look at the memory to the next
_DECODE_ACTOR = "MapWorker(MapBatches(Decode))"  # as Ray titles its process
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}

FIRST, WARM, LAST, DONE = "first batch", "warm", "last batch", "done"


class StreamError(Exception):
    """A contender did not deliver; the message says why, in one line."""


@dataclass(frozen=True)
class Contender:
    """Who is measured.

    Attributes:
        loader: module of `benchmarks.loaders`.
        decoder: see `Task`.
        python: the interpreter of the environment in which it is installed.
    """

    name: str
    loader: str
    decoder: str
    python: str = sys.executable


@dataclass(frozen=True)
class Run:
    """What one run of a contender gave.

    Attributes:
        first_batch_seconds: from the start of the process to the first batch in the consumer's hands.
        ray_seconds: of these, until Ray was up; 0 for those without.
        clips_per_second: once running: between the last batch of the warm-up and the last batch.
        whole_clips_per_second: from the start of the process to the last batch.
        cpu_seconds_per_clip: once running, of all its processes but those that ended before the last batch.
        decode_cpu_share: of that, what headrace's decode actors take; NaN for the others. What the machine does
            beside it, which moves clips/s by a third, does not move this.
        memory_bytes: peak of the proportional set sizes of all its processes: what they share counts once.
        shared_bytes: the part of it that lies in shared memory.
    """

    first_batch_seconds: float
    ray_seconds: float
    clips_per_second: float
    whole_clips_per_second: float
    cpu_seconds_per_clip: float
    decode_cpu_share: float = math.nan
    memory_bytes: int = 0
    shared_bytes: int = 0


@dataclass(frozen=True)
class _Cpu:
    """What a process has taken, and whether it is a decode actor of headrace."""

    seconds: float
    decodes: bool


@dataclass
class _Watch:
    """The peak of a contender's memory, looked at in a thread."""

    process: int
    memory_bytes: int = 0
    shared_bytes: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            memory, shared = _memory(self.process)
            self.memory_bytes, self.shared_bytes = max(self.memory_bytes, memory), max(self.shared_bytes, shared)

    def stop(self) -> None:
        self._over.set()


def run(contender: Contender, task: Task, warm: int, *, memory: bool = False, keep: Path | None = None) -> Run:
    """Run a contender once.

    Args:
        contender: who.
        task: what.
        warm: batches that are not counted as "once running".
        memory: watch its memory. Looking at it costs CPU, so such a run gives no good timings.
        keep: folder into which each batch is written, to be looked at later.

    Raises:
        StreamError: it failed, or took too long.
    """
    settings = {"task": asdict(task), "warm": warm, "keep": None if keep is None else str(keep)}
    start = time.monotonic()
    with _started(contender, "consume", settings) as (process, marks, said):
        watch = _Watch(process.pid)
        watcher = threading.Thread(target=watch.run, daemon=True)
        if memory:
            watcher.start()
        times: dict[str, float] = {}
        cpu: dict[str, dict[int, _Cpu]] = {}
        for line in marks:
            name, at = json.loads(line)
            times[name] = at
            if name in (WARM, LAST):
                cpu[name] = _cpu_seconds(process.pid)
            if name == LAST:
                break
        watch.stop()
        if LAST not in times:
            raise StreamError(_last_words(process, said))
    clips, window = task.batches * task.batch, (task.batches - warm) * task.batch
    before = {number: process.seconds for number, process in cpu[WARM].items()}
    took = [(process.seconds - before.get(number, 0.0), process.decodes) for number, process in cpu[LAST].items()]
    used = sum(seconds for seconds, _ in took)
    decoding = sum(seconds for seconds, decodes in took if decodes)
    return Run(
        first_batch_seconds=times[FIRST] - start,
        ray_seconds=times.get("ray is up", 0.0) - times.get("ray starts", 0.0),
        clips_per_second=window / (times[LAST] - times[WARM]),
        whole_clips_per_second=clips / (times[LAST] - start),
        cpu_seconds_per_clip=used / window,
        decode_cpu_share=decoding / used if decoding else math.nan,
        memory_bytes=watch.memory_bytes,
        shared_bytes=watch.shared_bytes,
    )


def prepare(contender: Contender, task: Task) -> dict[str, str]:
    """Let a contender convert the corpus to its own format, and return the versions of its libraries.

    Raises:
        StreamError: it cannot, for instance because it is not installed.
    """
    with _started(contender, "prepare", {"task": asdict(task)}) as (process, marks, said):
        for line in marks:
            name, versions = json.loads(line)
            if name == DONE:
                return dict(versions)
        raise StreamError(_last_words(process, said))


@contextlib.contextmanager
def _started(contender: Contender, what: str, settings: dict[str, Any]) -> Iterator[tuple[Any, Iterator[str], Any]]:
    reading, writing = os.pipe()
    paths = [str(_ROOT / "platform"), str(_ROOT)]
    environment = os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(paths)}
    module = f"benchmarks.loaders.{contender.loader}"
    settings = settings | {"task": settings["task"] | {"decoder": contender.decoder}}
    with os.fdopen(reading) as marks, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [contender.python, "-m", __name__, what, module, str(writing), json.dumps(settings)],
            pass_fds=[writing],
            stdin=subprocess.PIPE,  # closed when the contender has been looked at and may leave
            stdout=said,  # what libraries print is no part of a report
            stderr=said,
            cwd=_ROOT,
            env=environment,
            start_new_session=True,  # by which what it left behind is found
        )
        os.close(writing)
        alarm = threading.Timer(_LIMIT_SECONDS, _kill, [process, ()])
        alarm.start()
        try:
            yield process, iter(marks), said
        finally:
            alarm.cancel()
            assert process.stdin is not None
            process.stdin.close()
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the process, which may leave now, do so; then end what is left of it and of its children."""
    family = _family(process.pid)  # while it is there to tell who descends from it
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    _kill(process, family)
    process.wait()


def _kill(process: subprocess.Popen[bytes], family: Sequence[Any]) -> None:
    for member in [*family, *_family(process.pid), *_session(process.pid)]:
        with contextlib.suppress(_psutil().NoSuchProcess):
            member.kill()


def _last_words(process: subprocess.Popen[bytes], said: Any) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return f"ended with code {process.poll()}" + (f": {lines[-1].strip()}" if lines else "")


def _family(process: int) -> list[Any]:
    """Return a process and all that descend from it."""
    try:
        root = _psutil().Process(process)
        return [root, *root.children(recursive=True)]
    except _psutil().NoSuchProcess:
        return []


def _session(leader: int) -> list[Any]:
    """Return the processes of a session, also those whose parents died."""
    found = []
    for member in _psutil().process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(member.pid) == leader:
                found.append(member)
    return found


def _cpu_seconds(process: int) -> dict[int, _Cpu]:
    """Return what a process and each of its descendants have taken, by their numbers."""
    found = {}
    for member in _family(process):
        with contextlib.suppress(_psutil().NoSuchProcess):
            times, title = member.cpu_times(), " ".join(member.cmdline())
            found[member.pid] = _Cpu(times.user + times.system, _DECODE_ACTOR in title)
    return found


def _memory(process: int) -> tuple[int, int]:
    """Return the proportional set size of a process and its descendants, and its part in shared memory, in bytes."""
    total = shared = 0
    for member in _family(process):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{member.pid}/smaps_rollup").read_text(encoding="ascii")
            sizes = {
                name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in text.splitlines()[1:])
            }
            total += 1024 * sizes["Pss"]
            shared += 1024 * sizes["Pss_Shmem"]
    return total, shared


def _psutil() -> Any:
    """Return psutil, which the contenders' environments need not have."""
    return import_module("psutil")


def serve() -> None:
    """Be the contender."""
    what, module, descriptor, text = sys.argv[1:]
    settings = json.loads(text)
    task = Task(**settings["task"])
    with os.fdopen(int(descriptor), "w", buffering=1) as marks:
        loader = import_module(module)
        if what == "prepare":
            if hasattr(loader, "prepare"):
                loader.prepare(task)
            marks.write(json.dumps([DONE, _versions()]) + "\n")
            return

        def mark(name: str) -> None:
            marks.write(json.dumps([name, time.monotonic()]) + "\n")

        keep = None if settings["keep"] is None else Path(settings["keep"])
        places = {FIRST: 0, WARM: settings["warm"] - 1, LAST: task.batches - 1}  # one batch may be two of them
        stream, number = loader.batches(task), 0
        while number < task.batches:
            item = next(stream)
            if isinstance(item, str):
                mark(item)
                continue
            pixels, samples = item
            _touch(pixels)
            for name in (name for name, place in places.items() if place == number):
                mark(name)
            if keep is not None and pixels is not None:
                np.savez(keep / f"{number}.npz", pixels=pixels, samples=samples)
            number += 1
        sys.stdin.read()  # its workers must be there until their CPU time was read
        stream.close()


def _touch(pixels: Pixels | None) -> int:
    """Read a few bytes of each sample: whoever has not delivered them yet must do so now."""
    return 0 if pixels is None else int(pixels[:, :, ::64, ::64, 0].sum())


def _versions() -> dict[str, str]:
    """Return the versions of the libraries that were loaded and matter."""
    names = ("torch", "torchcodec", "decord", "PIL", "webdataset", "spdl", "litdata", "streaming", "ray", "av", "numpy")
    modules = {name: sys.modules[name] for name in names if name in sys.modules}
    return {name: str(module.__version__) for name, module in modules.items() if hasattr(module, "__version__")}


if __name__ == "__main__":
    serve()
