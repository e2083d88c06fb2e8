"""Numbers of the steps since the last record, added up over ranks when a record is due.

Nothing here waits for the device until then: losses stay tensors until `reduce`.
"""

from __future__ import annotations

import math
import resource
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from headrace.batch import Failure
from headrace.data.quarantine import QUARANTINE_FILE
from headrace.train.parallel import gather_over_ranks, sum_over_ranks
from headrace.train.progress import REFUSED_WINDOW, Progress
from headrace.train.step import StepResult

BUDGET_GRACE = 1000
"""The failure budget counts as if at least so many samples had been seen: one bad clip in the first ten is no 10 %."""

NAMED_SAMPLES = 8

ACTORS_SEEN = 64
"""Micro-batches over which a rank counts who decoded them; each rank gets some from every actor."""


@dataclass(frozen=True)
class Refused:
    """A step that was left out, and the samples that it would have learnt from."""

    step: int
    loss: float
    grad_norm: float
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """What the ranks did together since the last record.

    Attributes:
        record: the fields of a step record that are measured.
        failures: new ones of all ranks, in the order of their positions.
        refused: steps that were left out.
        stop: whether any rank was asked to stop.
        written: whether all ranks have written their shares of a checkpoint.
        leaving: whether any rank's machine is about to be taken away.
    """

    record: dict[str, Any]
    failures: list[Failure]
    refused: list[Refused]
    stop: bool
    written: bool
    leaving: bool


@dataclass
class Meter:
    """Adds up what the steps of one rank did since the last record."""

    device: torch.device
    actors: deque[str] = field(default_factory=lambda: deque(maxlen=ACTORS_SEEN))
    steps: list[StepResult] = field(default_factory=list)
    keys: list[list[str]] = field(default_factory=list)
    new_failures: list[Failure] = field(default_factory=list)
    clips: int = 0
    pixel_bytes: int = 0
    decode_cpu_seconds: float = 0.0

    def add(self, result: StepResult) -> None:
        """Take note of one step. Its micro-batches are let go."""
        self.steps.append(replace(result, batches=[]))
        self.keys.append([key for batch in result.batches for key in batch.keys])
        for batch in result.batches:
            self.actors.append(batch.cost.actor)
            self.new_failures.extend(batch.failures)
            self.clips += len(batch)
            self.pixel_bytes += batch.pixels.nbytes
            self.decode_cpu_seconds += batch.cost.cpu_seconds

    def reduce(self, world_size: int, stop: bool, written: bool = True, leaving: bool = False) -> Measured:
        """Add up over ranks and start anew; waits for the device. Means of losses are over the steps that were taken.

        Args:
            world_size: number of ranks.
            stop: whether this rank was asked to stop.
            written: whether this rank has written its share of a checkpoint.
            leaving: whether the machine of this rank is about to be taken away.
        """
        results, steps = self.steps, len(self.steps)
        extra_names = sorted(results[0].extra)
        catching_up = self._catching_up_seconds()
        left_out = torch.stack([result.refused for result in results]).tolist()
        taken = [result for result, out in zip(results, left_out, strict=True) if not out] or results
        on_device = {"loss": torch.stack([result.loss for result in taken]).mean()}
        on_device |= {name: torch.stack([result.extra[name] for result in taken]).mean() for name in extra_names}
        step_seconds = (sum(result.step_seconds for result in results) + catching_up) / steps
        age_seconds = sum(result.age_seconds for result in results) / steps
        means = {
            "wait": sum(result.wait_seconds for result in results) / steps,
            "step": step_seconds,
            "decode": self.decode_cpu_seconds / self.clips,
            "ready": results[-1].ready,
            "memory": self._memory_bytes(),
        }
        sums = {
            "clips": self.clips,
            "in flight": age_seconds * self.pixel_bytes / steps / max(step_seconds, 1e-9),
            "failures": len(self.new_failures),
            "stop": int(stop),
            "written": int(written),
            "leaving": int(leaving),
        }
        of_rank = torch.cat([torch.stack(list(on_device.values())).double().cpu(), _tensor(means)]) / world_size
        total = sum_over_ranks(torch.cat([of_rank, _tensor(sums)]).to(self.device)).tolist()
        mean = dict(zip([*on_device, *means, *sums], total, strict=True))

        record = {
            "loss": mean["loss"],
            "lr": results[-1].learning_rate,
            "grad_norm": float(taken[-1].grad_norm),
            "clips_per_second": mean["clips"] / steps / max(mean["step"], 1e-9),
            "step_seconds": mean["step"],
            "wait_seconds": mean["wait"],
            "wait_share": mean["wait"] / max(mean["step"], 1e-9),
            "decode_cpu_seconds_per_clip": mean["decode"],
            "decode_actors": len(set(self.actors)),
            "queue": round(mean["ready"]),
            "in_flight_bytes": None if math.isnan(mean["in flight"]) else int(mean["in flight"]),
            "memory_bytes": int(mean["memory"]),
            "extra": {name: mean[name] for name in extra_names},
        }
        failures = self._failures_of_all_ranks() if mean["failures"] else []
        refused = self._refused(left_out) if any(left_out) else []
        self.steps, self.keys, self.new_failures = [], [], []
        self.clips, self.pixel_bytes, self.decode_cpu_seconds = 0, 0, 0.0
        return Measured(record, failures, refused, mean["stop"] > 0, mean["written"] == world_size, mean["leaving"] > 0)

    def _catching_up_seconds(self) -> float:
        """Wait for a GPU, and return how long: it is behind the host, which timed the steps."""
        if self.device.type != "cuda":
            return 0.0
        start = time.perf_counter()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def _refused(self, left_out: Sequence[bool]) -> list[Refused]:
        """Return the steps that were left out; the flags are alike on all ranks, so all of them gather."""
        own = [
            Refused(result.number, float(result.loss), float(result.grad_norm), tuple(keys))
            for result, keys, out in zip(self.steps, self.keys, left_out, strict=True)
            if out
        ]
        of_steps = zip(*gather_over_ranks(own, self.device), strict=True)
        return [
            replace(ranks[0], loss=_mean(ranks), keys=tuple(key for rank in ranks for key in rank.keys))
            for ranks in of_steps
        ]

    def _failures_of_all_ranks(self) -> list[Failure]:
        gathered = gather_over_ranks(self.new_failures, self.device)
        return sorted((failure for rank in gathered for failure in rank), key=lambda failure: failure.position)

    def _memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mean(ranks: Sequence[Refused]) -> float:
    return sum(rank.loss for rank in ranks) / len(ranks)


def _tensor(values: Mapping[str, float]) -> torch.Tensor:
    return torch.tensor(list(values.values()), dtype=torch.float64)


def refusals_exceeded(progress: Progress, budget: int, refused: Sequence[Refused]) -> str | None:
    """Return what to say if too many of the last steps were left out, `refused` the newest of them; else None."""
    if not refused or len(progress.refused) <= budget:
        return None
    newest = refused[-1]
    keys = ", ".join(newest.keys[:NAMED_SAMPLES]) or "unknown"
    more = f" and {len(newest.keys) - NAMED_SAMPLES:,} more" if len(newest.keys) > NAMED_SAMPLES else ""
    return (
        f"{len(progress.refused):,} of the last {REFUSED_WINDOW:,} steps were left out, as their loss or gradient was "
        f"not finite or spiked, more than the budget of {budget:,}; the newest was step {newest.step:,} (loss "
        f"{newest.loss:.4g}, gradient norm {newest.grad_norm:.4g}, samples {keys}{more}): look at these samples, lower "
        f"--optim.lr, or raise --train.guard.budget"
    )


def failures_exceeded(progress: Progress, budget: float) -> str | None:
    """Return what to say if too many samples failed, over all ranks and since the run began; else None."""
    if progress.failures <= budget * max(progress.position, BUDGET_GRACE):
        return None
    common = sorted(progress.failure_reasons.items(), key=lambda item: -item[1])[:3]
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in common)
    return (
        f"{progress.failures:,} of {progress.position:,} samples could not be decoded, more than the budget of "
        f"{budget:.2%} ({reasons}): `python jobs/quarantine.py RUN` lists them ({QUARANTINE_FILE}), tests them again "
        f"and leaves them out of later runs; or raise --data.failures"
    )
