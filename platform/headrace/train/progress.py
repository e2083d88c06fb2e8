"""Where a run stands, read from its folder. Light: the driver and Ray's controller read it without loading torch.

<run>/checkpoints/step-00000100/progress.json     its presence makes a checkpoint complete
<run>/ELSEWHERE   a location, as s3://bucket/run, in which checkpoints/ lies instead
<run>/STOP        its presence asks the workers for a checkpoint and an end
<run>/FAILED      why the run cannot go on; starting the workers again would not help
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from headrace.data import storage
from headrace.errors import RunError, UserError
from headrace.train.config import EvaluateConfig

CHECKPOINTS = "checkpoints"
PROGRESS_FILE = "progress.json"
STOP_FILE = "STOP"
FAILED_FILE = "FAILED"
ELSEWHERE_FILE = "ELSEWHERE"
REFUSED_WINDOW = 1000
_NAME = re.compile(r"step-(\d{8,})")

CheckpointPath: TypeAlias = "Path | str"
"""Where a checkpoint lies: a folder on disk, or a location in object storage."""


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
        best: step and value of the best evaluations, the best one first.
        best_of: by what, and on which held-out samples, these were compared.
    """

    step: int = 0
    position: int = 0
    failures: int = 0
    manifest_digest: str = ""
    sequence: str = ""
    failure_reasons: dict[str, int] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    best: list[tuple[int, float]] = field(default_factory=list)
    best_of: str = ""

    def count_refused(self, steps: Iterable[int]) -> None:
        """Count steps that were left out, and forget those that are long past."""
        self.refused = [step for step in (*self.refused, *steps) if step > self.step - REFUSED_WINDOW]

    def count_failures(self, reasons: Iterable[str]) -> None:
        """Count samples that failed for these reasons."""
        new = Counter(reasons)
        self.failures += new.total()
        self.failure_reasons = dict(Counter(self.failure_reasons) + new)

    def rank(self, value: float, evaluate: EvaluateConfig, held_out_digest: str) -> bool:
        """Take note of an evaluation of the newest step, and say whether it is the best one so far.

        Args:
            value: of the metric.
            evaluate: how it is compared with others, and how many of them are remembered.
            held_out_digest: of the samples; what was found on others is forgotten.
        """
        best_of = f"{evaluate.metric} on {held_out_digest}"
        if best_of != self.best_of:
            self.best_of, self.best = best_of, []
        if math.isnan(value):
            return False
        place = next((at for at, (_, old) in enumerate(self.best) if evaluate.is_better(value, old)), len(self.best))
        self.best.insert(place, (self.step, value))
        del self.best[evaluate.keep_best :]
        return place == 0

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


def checkpoint_at(run: Path, step: int) -> CheckpointPath:
    """Return where the run's checkpoint of a step lies, or will lie."""
    name, elsewhere = f"step-{step:08d}", run / ELSEWHERE_FILE
    return f"{elsewhere.read_text()}/{CHECKPOINTS}/{name}" if elsewhere.exists() else run / CHECKPOINTS / name


def complete_checkpoints(run: Path) -> list[CheckpointPath]:
    """Return the run's complete checkpoints, the newest last.

    Raises:
        StorageError: the storage refuses, or does not answer for minutes.
    """
    names = _complete_names(checkpoint_at(run, 0))
    steps = sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)
    return [checkpoint_at(run, step) for step in steps]


def newest_checkpoint(run: Path) -> CheckpointPath | None:
    """Return the run's newest complete checkpoint; raises as `complete_checkpoints`."""
    found = complete_checkpoints(run)
    return found[-1] if found else None


def read_progress(checkpoint: CheckpointPath | None) -> Progress:
    """Return how far the run was at a checkpoint; at the start for None."""
    if checkpoint is None:
        return Progress()
    progress = Progress(**json.loads(storage.read_text(f"{checkpoint}/{PROGRESS_FILE}")))
    progress.best = [(step, value) for step, value in progress.best]
    return progress


def checkpoints_called(run: Path, which: str) -> dict[int, CheckpointPath]:
    """Return a run's checkpoints, by their steps, that go by a name.

    Args:
        run: its folder.
        which: "newest", "best", "all", or the number of a step.

    Raises:
        UserError: the run has no such checkpoint; the message says which it has.
    """
    found = {read_progress(path).step: path for path in complete_checkpoints(run)}
    if not found:
        raise UserError(f"{str(run)!r} holds no checkpoint")
    if which == "all":
        return found
    if which == "newest":
        return {max(found): found[max(found)]}
    best = [step for step, _ in read_progress(found[max(found)]).best if step in found]
    if which == "best" and not best:
        raise UserError(
            f"{str(run)!r} has no best checkpoint, as it never evaluated: take newest, or train with "
            f"--train.evaluate.every"
        )
    step = best[0] if which == "best" else int(which) if which.isdigit() else -1
    if step not in found:
        steps = ", ".join(map(str, sorted(found)))
        raise UserError(f"{str(run)!r} has no checkpoint {which!r}: there are newest, best, all, and steps {steps}")
    return {step: found[step]}


def name_of(checkpoint: CheckpointPath) -> str:
    """Return a checkpoint's own name."""
    return str(checkpoint).rpartition("/")[2]


def _complete_names(sibling: CheckpointPath) -> list[str]:
    """Return the names of the complete checkpoints beside one that need not exist."""
    folder = str(sibling).rpartition("/")[0]
    if not isinstance(sibling, str):
        return [path.parent.name for path in Path(folder).glob(f"step-*/{PROGRESS_FILE}")]
    files = (file.path.split("/") for file in storage.list_files(folder, missing=True, patient=True))
    return [parts[0] for parts in files if parts[1:] == [PROGRESS_FILE]]
