"""The quarantine table of a run: each sample that could not be decoded, once, in the order they were met.

    <run>/quarantine.jsonl     {"time": ..., "position": ..., "key": ..., "shard": ..., "offset": ..., "reason": ...,
                                "message": ...}

Rank 0 writes what all ranks met. A run that restarts, or is resumed, meets the samples behind its checkpoint again, and
every epoch meets all of them: a sample that stands in the table is not written again. A line that a dying process left
torn is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from headrace.batch import Failure
from headrace.errors import UserError

QUARANTINE_FILE = "quarantine.jsonl"
EXPORTS = (".csv", ".parquet", ".jsonl")


@dataclass(frozen=True)
class Quarantined:
    """A row of the table.

    Attributes:
        time: when it was met first, in seconds since 1970.
        position: where it stood in the run's order then.
        key, shard, offset: which sample it is, as the manifest says.
        reason, message: why it could not be decoded: a few stable words, and a sentence.
    """

    time: float
    position: int
    key: str
    shard: str
    offset: int
    reason: str
    message: str


class Quarantine:
    """The table of one run, to be added to. One writer a run.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        path = run / QUARANTINE_FILE
        self._known = {row.key for row in read_quarantine(run)}
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")  # close the line that an earlier process left torn

    def add(self, failures: Iterable[Failure], time: float) -> list[Failure]:
        """Write the samples that are not yet in the table, and return them."""
        new = []
        for failure in failures:
            if failure.key not in self._known:
                self._known.add(failure.key)
                new.append(failure)
        lines = [json.dumps(asdict(Quarantined(time=time, **asdict(failure)))) + "\n" for failure in new]
        if lines:
            self._file.write("".join(lines).encode())
        return new

    def close(self) -> None:
        self._file.close()


def read_quarantine(run: Path) -> list[Quarantined]:
    """Return the table of a run; empty where nothing failed."""
    path = run / QUARANTINE_FILE
    if not path.is_file():
        return []
    rows = dict[str, Quarantined]()
    for line in path.read_bytes().splitlines():
        row = _parse(line)
        if row is not None:
            rows.setdefault(row.key, row)
    return list(rows.values())


def check_export(path: Path) -> None:
    """Check that `export` knows what the file's name asks for.

    Raises:
        UserError: it does not.
    """
    if path.suffix not in EXPORTS:
        raise UserError(f"--export writes {', '.join(EXPORTS)}, got {str(path)!r}")


def export(path: Path, rows: Sequence[Quarantined], verdicts: Mapping[str, str]) -> None:
    """Write rows as a table of another format; with the verdict on each, where samples were tested again.

    Raises:
        UserError: the file's name asks for no known format, or it cannot be written.
    """
    check_export(path)
    more = {"verdict": [verdicts.get(row.key, "") for row in rows]} if verdicts else {}
    columns = [item.name for item in fields(Quarantined)]
    table = pa.table({name: [getattr(row, name) for row in rows] for name in columns} | more)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            pyarrow.csv.write_csv(table, path)
        elif path.suffix == ".parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error}") from error


def _parse(line: bytes) -> Quarantined | None:
    try:
        return Quarantined(**json.loads(line))
    except (ValueError, TypeError):  # torn, or no row
        return None
