"""Real streams beside simulated ones, as `simulate.py --validate` found them; kept in `validation.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

VALIDATION_FILE = Path(__file__).with_name("validation.json")

STREAMS = ("decoding", "waiting", "training", "nothing")
"""Which are compared, by what is their limit: the machine's cores; the decoders, each of which mostly waits; a consumer
that is 1.4 times as fast as one decoder; the coordinator, as decoding costs nothing."""

EMPTY = "nothing"
"""The stream that nobody would train on. It asks for what the model simplifies most: how Ray's calls follow each other
within the hundredths of a second from one look to the next. So it is judged apart."""


@dataclass(frozen=True)
class Compared:
    """A stream with so many decoders, measured and simulated; medians over rounds.

    Attributes:
        measured, simulated: clips/s.
        measured_wait, simulated_wait: share of its time for which the consumer waited.
        rounds: clips/s of each round, measured and simulated.
    """

    workload: str
    decoders: int
    measured: float
    simulated: float
    measured_wait: float
    simulated_wait: float
    rounds: list[tuple[float, float]]

    @property
    def error(self) -> float:
        """How far the simulator is off, as a share of what was measured."""
        return self.simulated / self.measured - 1


def save(rows: Sequence[Compared]) -> None:
    """Write what `load` reads."""
    VALIDATION_FILE.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def load() -> list[Compared]:
    """Return what `validate` kept; nothing where it never ran."""
    if not VALIDATION_FILE.is_file():
        return []
    return [Compared(**row) for row in json.loads(VALIDATION_FILE.read_text(encoding="utf-8"))]
