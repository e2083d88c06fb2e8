"""Strip <-> Ray's block. A row is a strip, which mostly is one micro-batch, and a block is a row, so Ray counts what
the run counts.

The pixels are one C-contiguous tensor: they are copied once, into the object store, and read as a view of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.batch import DecodeCost, Failure, Strip

_ARRAYS = ("numbers", "pixels", "seed", "label", "seconds", "sample", "valid")


def to_row(strip: Strip) -> dict[str, NDArray[Any]]:
    """Return a strip as the columns of a block of one row."""
    row: dict[str, NDArray[Any]] = {name: getattr(strip, name)[None] for name in _ARRAYS}
    failures = [asdict(failure) for failure in strip.failures]
    notes = {"keys": strip.keys, "failures": failures, "cost": asdict(strip.cost)}
    return {"notes": np.array([json.dumps(notes)]), **row}


def from_row(row: dict[str, NDArray[Any]]) -> Strip:
    """Return the strip of a block of one row, as views of the block's memory."""
    notes = json.loads(str(row["notes"][0]))
    return Strip(
        keys=tuple(notes["keys"]),
        failures=tuple(Failure(**failure) for failure in notes["failures"]),
        cost=DecodeCost(**notes["cost"]),
        **{name: np.asarray(row[name][0]) for name in _ARRAYS},
    )
