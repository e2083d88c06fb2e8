"""Samples that a person has taken out of a source: they stay where they are, and `Manifest.usable` leaves them out.

A small file beside the manifest, `manifest.exclusions.jsonl`, a JSON object a line. It is apart from the manifest
because it holds decisions, not findings: indexing anew keeps it, and taking a sample back
(`jobs/quarantine.py RUN --include`) deletes a line. An excluded sample whose key the source no longer has is no error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.errors import UserError

_SUFFIX = ".exclusions.jsonl"


@dataclass(frozen=True)
class Exclusion:
    """A sample that is left out: its key in the manifest, why, and the run that found it."""

    key: str
    reason: str
    run: str


class Exclusions:
    """The exclusions of one source.

    Args:
        places: where its manifest may lie, the preferred place first.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self._paths = [place.with_name(place.name.removesuffix(".parquet") + _SUFFIX) for place in places]

    def read(self) -> dict[str, Exclusion]:
        """Return what is excluded, by key.

        Raises:
            UserError: the file is damaged: to go on without it would bring back what somebody took out.
        """
        for path in self._paths:
            if path.is_file():
                return _read(path)
        return {}

    def add(self, exclusions: Iterable[Exclusion]) -> int:
        """Exclude samples; return how many were not excluded before."""
        before = self.read()
        after = {exclusion.key: exclusion for exclusion in exclusions} | before
        self._write(after)
        return len(after) - len(before)

    def remove(self, keys: Collection[str]) -> int:
        """Take samples back; return how many were excluded."""
        before = self.read()
        after = {key: exclusion for key, exclusion in before.items() if key not in keys}
        if len(after) < len(before):
            self._write(after)
        return len(before) - len(after)

    def _write(self, exclusions: dict[str, Exclusion]) -> None:
        """Write the file anew, atomically, where it is or else at the first place that takes it."""
        text = "".join(json.dumps(asdict(exclusion)) + "\n" for exclusion in exclusions.values())
        last: OSError | None = None
        for path in [path for path in self._paths if path.is_file()] or self._paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(f".{os.getpid()}.partial")
                partial.write_text(text)
                partial.replace(path)
                return
            except OSError as error:
                last = error
        raise UserError(f"cannot write the exclusions {str(self._paths[0])!r}: {last}")


def _read(path: Path) -> dict[str, Exclusion]:
    try:
        rows = [Exclusion(**json.loads(line)) for line in path.read_text().splitlines()]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{str(path)!r} does not say which samples are left out ({error}): mend or remove it"
        ) from error
    return {row.key: row for row in rows}
