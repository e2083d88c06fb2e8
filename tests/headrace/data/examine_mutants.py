"""What must hold of each damaged video: frames or a typed error, in time, and nothing else.

A mutant is probed and decoded: without an index; with the one that the probe gives, as it is and packed and unpacked,
which must give the same frames; and with a wrong one, that of the file before it was damaged or a damaged one.

As a program it examines mutants in its own process, so that whoever runs it survives them:

    python examine_mutants.py SEED START STOP [--real-data FOLDER] [--save PATH]
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import resource
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from mutants import Mutant, corpus, index_of, mutant, source
from numpy.typing import NDArray

from headrace.data.decode.index import VideoIndex
from headrace.data.decode.limits import Limits
from headrace.data.decode.probe import probe
from headrace.data.decode.table import build_decoder
from headrace.data.failures import SampleError

SLOW_SECONDS = 15.0
"""No call on files so small may take longer, on a busy machine either."""

Result = TypeVar("Result")
Frames = tuple[NDArray[np.uint8], NDArray[np.float64]]


@dataclass
class Finding:
    """What became of a mutant.

    Attributes:
        outcomes: of each thing that was tried, "frames" or the name of the typed error.
        problems: what must not be: an error that is not typed, too much time, other frames with an index than without.
        seconds: of the slowest call.
    """

    number: int
    source: str
    story: tuple[str, ...]
    outcomes: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def examine(case: Mutant) -> Finding:
    """Probe and decode a mutant in every way that a run would: frames or a typed error, in time, and nothing else."""
    finding = Finding(case.number, case.source, case.story)
    info = _attempt(finding, "probe", lambda: probe(io.BytesIO(case.data), Limits(seconds_per_sample=SLOW_SECONDS)))
    length = info.seconds if info is not None and np.isfinite(info.seconds) else 1.0
    times = np.random.default_rng([case.seed, case.number, 1]).uniform(0, min(max(length, 0.1), 1e4), 3)
    plain = _attempt(finding, "decode", lambda: _decode(case.data, times, None))
    if info is not None and info.index is not None:
        own = info.index
        indexed = _attempt(finding, "own index", lambda: _decode(case.data, times, own))
        packed = _attempt(finding, "packed index", lambda: _decode(case.data, times, _repacked(own)))
        for name, other in (("own", indexed), ("packed", packed)):
            if not _same(plain, other):
                finding.problems.append(f"other frames with the {name} index than without: {times.tolist()}")
    if case.index is not None:
        _attempt(finding, "given index", lambda: _decode(case.data, times, case.index))
    if finding.seconds > SLOW_SECONDS:
        finding.problems.append(f"{finding.seconds:.1f} s")
    return finding


def _attempt(finding: Finding, name: str, action: Callable[[], Result]) -> Result | None:
    began = time.perf_counter()
    try:
        result = action()
    except SampleError as error:
        finding.outcomes[name] = type(error).__name__
        return None
    except Exception as error:
        finding.outcomes[name] = "escaped"
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        finding.problems.append(f"{name}: {error!r} from {' > '.join(where[-4:])}")
        return None
    finally:
        finding.seconds = max(finding.seconds, time.perf_counter() - began)
    finding.outcomes[name] = "frames"
    return result


def _decode(data: bytes, times: NDArray[np.float64], index: VideoIndex | None) -> Frames:
    out = np.zeros((len(times), 24, 32, 3), np.uint8)
    given = build_decoder("auto").decode(io.BufferedReader(io.BytesIO(data)), times, out, index)
    if given.shape != times.shape or not np.isfinite(given).all():
        raise ValueError(f"times of frames that are none: {given}")
    return out, given


def _repacked(index: VideoIndex) -> VideoIndex:
    return VideoIndex.from_bytes(index.to_bytes())


def _same(one: Frames | None, other: Frames | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def examine_all(seed: int, numbers: range, real_data: Path | None) -> None:
    """Examine mutants in this process: a line of JSON before each, one after, and how much memory it holds."""
    names = corpus(real_data)
    for name in names:  # encoded and probed now, so that what grows later grows with the mutants
        source(name), index_of(name)
    for number in numbers:
        print(json.dumps({"begins": number}), flush=True)
        finding = examine(mutant(names, seed, number))
        memory = {"peak_mib": peak_mib()} | ({"resident_mib": resident_mib()} if number % 25 == 0 else {})
        print(json.dumps(asdict(finding) | memory), flush=True)


def resident_mib() -> float:
    """Return how much memory is in use in this process now (its peak where the system does not say)."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_mib()
    with suppress(OSError, AttributeError):  # glibc keeps what was freed, up to 200 MiB here; others do not
        ctypes.CDLL(None).malloc_trim(0)
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_mib() -> float:
    """Return the most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20


def main() -> None:
    """Examine a range of mutants, or save the first of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("seed", "start", "stop"):
        parser.add_argument(name, type=int)
    parser.add_argument("--real-data", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    if arguments.save:
        case = mutant(corpus(arguments.real_data), arguments.seed, arguments.start)
        arguments.save.write_bytes(case.data)
        print(f"{case.source}: {', '.join(case.story)}: {len(case.data)} bytes")
    else:
        examine_all(arguments.seed, range(arguments.start, arguments.stop), arguments.real_data)


if __name__ == "__main__":
    main()
