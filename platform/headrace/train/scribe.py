"""Writes down what a run does, in the run's folder, where the driver and the user read it."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, cast

import torch
from typing_extensions import Self

from headrace.augment import Augment
from headrace.batch import Failure
from headrace.data.quarantine import Quarantine
from headrace.observe.records import METRICS_FILE, MetricsWriter, Record, read_records
from headrace.observe.sheet import CLIPS, write_sheet
from headrace.recipe import Recipe
from headrace.train.checkpoint import Saved
from headrace.train.evaluation import Evaluation
from headrace.train.flops import Usage
from headrace.train.hang import stacks_of
from headrace.train.meter import Measured
from headrace.train.profiler import Kernel
from headrace.train.progress import Progress
from headrace.train.session import Session
from headrace.train.step import StepResult


class Scribe:
    """One rank's pen. Rank 0 writes the metrics and the quarantine table; each rank the ledger of its own samples."""

    def __init__(self, recipe: Recipe, session: Session) -> None:
        self._recipe, self._session = recipe, session
        self._metrics = MetricsWriter(session.run / METRICS_FILE) if session.rank == 0 else None
        self._quarantine = Quarantine(session.run) if session.rank == 0 else None
        self._ledger = _append(session.run / f"ledger-{session.rank}.jsonl") if recipe.train.ledger else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._metrics, self._quarantine, self._ledger):
            if file is not None:
                file.close()

    def start(self, progress: Progress, parameters: int, usage: Usage) -> None:
        """Say what begins, and whether it begins again because a worker was lost."""
        train, attempt = self._recipe.train, _attempt(self._session.run)
        if attempt:
            hung = ", ".join(file.name for file in stacks_of(self._session.run))
            lost = f"workers hung ({hung} in the run's folder say where)" if hung else "a worker was lost"
            reason = f"{lost}; the run goes on from its newest checkpoint"
            self._write({"kind": "restart", "attempt": attempt, "step": progress.step, "reason": reason})
        self._write(
            {
                "kind": "start",
                "recipe": self._recipe.name,
                "workers": self._session.world_size,
                "device": self._session.device.type,
                "global_batch": train.global_batch,
                "micro_batch": train.micro_batch,
                "accumulate": train.accumulate,
                "steps": train.steps,
                "step": progress.step,
                "position": progress.position,
                "attempt": attempt,
                "parameters": parameters,
                "flops_per_clip": usage.flops_per_clip,
                "peak_flops": usage.peak,
                "world": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "cores": self._session.cores,
                },
            }
        )

    def measured(self, progress: Progress, measured: Measured, further: dict[str, Any]) -> None:
        """Write down what was measured since the last record.

        Args:
            progress: of the run.
            measured: of all ranks.
            further: fields of the step record.
        """
        self._failures(measured.failures)
        self._write(
            {
                "kind": "step",
                "step": progress.step,
                "steps": self._recipe.train.steps,
                "position": progress.position,
                "failures": progress.failures,
                "failure_share": progress.failures / max(progress.position, 1),
                **measured.record,
                **further,
            }
        )
        for refused in measured.refused:
            self._write({"kind": "refused", **asdict(refused)})

    def evaluated(self, step: int, evaluation: Evaluation, *, best: bool, compiles: int) -> None:
        """Write down what an evaluation said, and whether it is the best one so far."""
        self._failures(evaluation.failures)
        facts = {name: getattr(evaluation, name) for name in ("samples", "seconds", "wait_seconds", "scores")}
        self._write({"kind": "evaluation", "step": step, **facts, "best": best, "compiles": compiles})

    def checkpoint(self, saved: Saved) -> None:
        """Say that a checkpoint is complete."""
        took = {"seconds": saved.seconds, "blocked_seconds": saved.blocked_seconds}
        path = saved.path if isinstance(saved.path, str) else str(saved.path.relative_to(self._session.run))
        self._write({"kind": "checkpoint", "step": saved.progress.step, "path": path, **took})

    def profile(self, step: int, found: tuple[Path, list[Kernel]] | None) -> None:
        """Say what profiling found, if it did."""
        if found is not None:
            trace, kernels = found
            path = str(trace.relative_to(self._session.run))
            self._write({"kind": "profile", "step": step, "path": path, "kernels": kernels})

    def sheet(self, augment: Augment, result: StepResult) -> None:
        """Let people see the first samples of a step as the model saw them."""
        if self._session.rank == 0:
            batch = result.batches[0]
            few = torch.tensor(batch.pixels[:CLIPS], device=self._session.device)
            write_sheet(self._session.run, augment.visible(augment(few, batch.seed[:CLIPS])))

    def ledger(self, step: int, result: StepResult) -> None:
        """Write down which samples this rank consumed in a step."""
        if self._ledger is None:
            return
        for batch in result.batches:
            line = {
                "step": step,
                "rank": self._session.rank,
                "micro_batch": batch.number,
                "positions": list(batch.positions),
                "samples": batch.sample.tolist(),
                "loss": float(result.loss),
            }
            self._ledger.write(json.dumps(line) + "\n")

    def _failures(self, failures: list[Failure]) -> None:
        """Put samples that could not be decoded, on any rank, into the quarantine table; new ones into the metrics."""
        if self._quarantine is None:
            return
        for failure in self._quarantine.add(failures, time.time()):
            fields = ("key", "shard", "reason", "message")
            self._write({"kind": "failure", **{name: getattr(failure, name) for name in fields}})

    def _write(self, record: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write(cast("Record", {"time": time.time(), **record}))


def _attempt(run: Path) -> int:
    """Count how often the workers started since the run was last brought to an end."""
    kinds = [record["kind"] for record in read_records(run / METRICS_FILE)]
    since = len(kinds) - kinds[::-1].index("end") if "end" in kinds else 0
    return kinds[since:].count("start")


def _append(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", buffering=1)
