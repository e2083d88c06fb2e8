"""Thousands of damaged videos through `probe` and `decode`: frames or a typed error, in time, and nothing else.

    python benchmarks/fuzz_decode.py --mutants 10000

Mutants (tests/headrace/data/mutants.py) are examined (examine_mutants.py beside it) in child processes, one at a time,
a few hundred in each. When a child dies or hangs, the mutant that it was at is the culprit, and another child goes on
behind it. Every mutant with a problem is written to a folder.

Prints each problem, a table of outcomes, how the memory of the children grew, and as the last line JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMINE = ROOT / "tests" / "headrace" / "data" / "examine_mutants.py"
HANG_SECONDS = 90.0
"""A mutant that takes longer hangs; it is examined in up to five calls."""


@dataclass
class Report:
    """What became of all mutants.

    Attributes:
        outcomes: how often each thing that was tried ended how.
        problems: (mutant, what must not be).
        growth_mib: of each child: memory in use at its end less that after a quarter of its mutants.
        peak_mib: the most that a child held.
        slowest_seconds: the slowest call.
    """

    mutants: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[int, str]] = field(default_factory=list)
    growth_mib: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    slowest_seconds: float = 0.0


def fuzz(numbers: range, seed: int = 0, batch: int = 500, real_data: Path | None = None) -> Report:
    """Examine the mutants of these numbers, in child processes of `batch` each."""
    report = Report()
    start = numbers.start
    while start < numbers.stop:
        start = _run_child(report, seed, range(start, min(start + batch, numbers.stop)), real_data)
        print(f"... up to mutant {start}: {len(report.problems)} problems", file=sys.stderr, flush=True)
    return report


def _run_child(report: Report, seed: int, numbers: range, real_data: Path | None) -> int:
    """Examine mutants in a child; return the first number that is not done, behind one that kills or hangs."""
    command = _command(seed, numbers, real_data)
    at, resident = numbers.start, list[float]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment()) as child:
        try:
            for line in _lines(child):
                if "begins" in line:
                    at = line["begins"]
                    continue
                _take(report, line)
                if "resident_mib" in line:
                    resident.append(line["resident_mib"])
        except TimeoutError:
            report.problems.append((at, f"hangs: more than {HANG_SECONDS:.0f} s"))
            child.kill()
            return at + 1
    if len(resident) >= 4:
        report.growth_mib.append(resident[-1] - resident[len(resident) // 4])
    if child.returncode:
        report.problems.append((at, f"kills its process: exit code {child.returncode}"))
        return at + 1
    return numbers.stop


def _command(seed: int, numbers: range, real_data: Path | None) -> list[str]:
    real = ["--real-data", str(real_data)] if real_data else []
    return [sys.executable, "-X", "faulthandler", str(EXAMINE), str(seed), str(numbers.start), str(numbers.stop), *real]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), *filter(None, sys.path)])}


def _lines(child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a child until it ends.

    Raises:
        TimeoutError: none came for too long.
    """
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        pending = b""
        while True:
            if not selector.select(HANG_SECONDS):
                raise TimeoutError
            received = os.read(child.stdout.fileno(), 1 << 16)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            yield from map(json.loads, lines)


def _take(report: Report, line: dict[str, Any]) -> None:
    report.mutants += 1
    report.outcomes.update(f"{name}: {outcome}" for name, outcome in line["outcomes"].items())
    report.problems += [(line["number"], f"{line['source']} {line['story']}: {text}") for text in line["problems"]]
    report.slowest_seconds = max(report.slowest_seconds, line["seconds"])
    report.peak_mib = max(report.peak_mib, line["peak_mib"])


def main() -> int:
    """Fuzz; return the exit code: 1 if there is a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=500, help="mutants in one process")
    parser.add_argument("--real-data", type=Path, default=_real_data(), help="folder with small real videos to damage")
    parser.add_argument("--keep", type=Path, default=ROOT / "runs" / "fuzz", help="folder for mutants with problems")
    arguments = parser.parse_args()

    began = time.monotonic()
    numbers = range(arguments.first, arguments.first + arguments.mutants)
    report = fuzz(numbers, arguments.seed, arguments.batch, arguments.real_data)
    for number, problem in report.problems:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        kept = arguments.keep / f"seed{arguments.seed}_mutant{number}.bin"
        command = _command(arguments.seed, range(number, number + 1), arguments.real_data)
        subprocess.run([*command, "--save", str(kept)], env=_environment(), stdout=subprocess.DEVNULL, check=True)
        print(f"mutant {number} of seed {arguments.seed}: {problem}\n    {kept}")
    for outcome, count in sorted(report.outcomes.items()):
        print(f"{count:7d}  {outcome}")
    print(
        json.dumps(
            {
                "mutants": report.mutants,
                "seed": arguments.seed,
                "problems": len(report.problems),
                "slowest_seconds": round(report.slowest_seconds, 2),
                "peak_mib": round(report.peak_mib),
                "growth_mib": [round(growth, 1) for growth in report.growth_mib],
                "minutes": round((time.monotonic() - began) / 60, 1),
            }
        )
    )
    return 1 if report.problems else 0


def _real_data() -> Path | None:
    folder = Path(os.environ.get("HEADRACE_DATA", ROOT.parent / "shared" / "data"))
    return folder if (folder / "videos").is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
