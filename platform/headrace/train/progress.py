"""Where a run stands, read from its folder. Light: the driver and Ray's controller read it without loading torch.

<run>/checkpoints/step-00000100/progress.json
<run>/STOP        its presence asks the workers for a checkpoint and an end
<run>/FAILED      why the run cannot go on; starting the workers again would not help
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import RunError

CHECKPOINTS = "checkpoints"
PROGRESS_FILE = "progress.json"
STOP_FILE = "STOP"
FAILED_FILE = "FAILED"
REFUSED_WINDOW = 1000
_NAME = re.compile(r"step-(\d{8,})")


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps done.
        position: samples consumed, over all workers: where the order goes on.
        failures: samples that could not be decoded among them, each as often as it was met.
        failure_reasons: the same, by reason.
        refused: the steps that were left out, of the last REFUSED_WINDOW.
        manifest_digest, sequence: of the samples that `position` counts, and of the order in which it counts them.
    """

    step: int = 0
    position: int = 0
    failures: int = 0
    manifest_digest: str = ""
    sequence: str = ""
    failure_reasons: dict[str, int] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)

    def count_refused(self, steps: Iterable[int]) -> None:
        """Count steps that were left out, and forget those that are long past."""
        self.refused = [step for step in (*self.refused, *steps) if step > self.step - REFUSED_WINDOW]

    def count_failures(self, reasons: Iterable[str]) -> None:
        """Count samples that failed for these reasons."""
        new = Counter(reasons)
        self.failures += new.total()
        self.failure_reasons = dict(Counter(self.failure_reasons) + new)

    def check_same_samples(self, manifest_digest: str, sequence: str) -> None:
        """Check that `position` still counts the samples that it counted, in the order in which it counted them.

        Raises:
            RunError: it does not.
        """
        if self.manifest_digest not in ("", manifest_digest):
            raise RunError(
                "the source's samples changed since this run started, so its position means nothing in them: bring the "
                "old samples back (`python jobs/quarantine.py RUN --include`, if --exclude took them out), or start a "
                "new run"
            )
        if self.sequence not in ("", sequence):
            raise RunError(
                "the order of the samples changed since this run started (--seed, or one of --data.shuffle, "
                "chunk-samples, window-chunks, weights, without-replacement, source's weights, repeats, repeats-apart; "
                "with repeats also the batch), so its position means nothing in it: leave these as they were, or start "
                "a new run"
            )

    def micro_batch(self, samples: int) -> int:
        """Return the number of the micro-batch, of so many samples, that comes next.

        Raises:
            RunError: none starts here; the micro-batch was changed since the run started.
        """
        number, rest = divmod(self.position, samples)
        if rest:
            raise RunError(
                f"the run stands at sample {self.position}, which micro-batches of {samples} do not reach evenly: "
                f"use one that divides it"
            )
        return number


def complete_checkpoints(run: Path) -> list[Path]:
    """Return the run's complete checkpoints, the newest last."""
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def newest_checkpoint(run: Path) -> Path | None:
    """Return the run's newest complete checkpoint."""
    found = complete_checkpoints(run)
    return found[-1] if found else None


def read_progress(checkpoint: Path | None) -> Progress:
    """Return how far the run was at a checkpoint; at the start for None."""
    if checkpoint is None:
        return Progress()
    return Progress(**json.loads((checkpoint / PROGRESS_FILE).read_text()))
