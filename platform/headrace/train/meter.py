"""Numbers of the steps since the last record, added up over ranks when a record is due.

Nothing here waits for the device until then: losses stay tensors until `reduce`.
"""

from __future__ import annotations

import resource
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import torch

from headrace.batch import Failure
from headrace.errors import RunError
from headrace.train.parallel import sum_over_ranks
from headrace.train.step import StepResult

BUDGET_GRACE = 1000
"""The failure budget counts as if at least so many samples had been seen: one bad clip in the first ten is no 10 %."""

ACTORS_SEEN = 64
"""Micro-batches over which a rank counts who decoded them; each rank gets some from every actor."""


@dataclass
class Meter:
    """Adds up what the steps of one rank did since the last record."""

    device: torch.device
    results: list[StepResult] = field(default_factory=list)
    new_failures: list[Failure] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    actors: deque[str] = field(default_factory=lambda: deque(maxlen=ACTORS_SEEN))

    def add(self, result: StepResult) -> None:
        """Take note of one step."""
        self.results.append(result)
        for batch in result.batches:
            self.actors.append(batch.cost.actor)
            self.new_failures.extend(batch.failures)
            self.reasons.update(failure.reason for failure in batch.failures)

    def reduce(self, world_size: int, stop: bool) -> tuple[dict[str, Any], int, bool]:
        """Add up over ranks and start anew; waits for the device.

        Args:
            world_size: number of ranks.
            stop: whether this rank was asked to stop.

        Returns:
            The fields of a step record that are measured, the new failures of all ranks, and whether any rank was
            asked to stop.
        """
        results, steps = self.results, len(self.results)
        extra_names = sorted(results[0].extra)
        batches = [batch for result in results for batch in result.batches]
        clips = sum(len(batch) for batch in batches)
        on_device = [torch.stack([result.loss for result in results]).mean()]
        on_device += [torch.stack([result.extra[name] for result in results]).mean() for name in extra_names]
        on_host = [
            sum(result.wait_seconds for result in results) / steps,
            sum(result.step_seconds for result in results) / steps,
            sum(batch.cost.cpu_seconds for batch in batches) / clips,
            results[-1].ready,
            self._memory_bytes(),
        ]
        means = torch.cat([torch.stack(on_device).double().cpu(), torch.tensor(on_host, dtype=torch.float64)])
        sums = torch.tensor([clips, len(self.new_failures), int(stop)], dtype=torch.float64)
        total = sum_over_ranks(torch.cat([means / world_size, sums]).to(self.device)).tolist()

        names = [
            "loss",
            *extra_names,
            "wait",
            "step",
            "decode",
            "ready",
            "memory",
            "clips",
            "failures",
            "stop",
        ]
        mean = dict(zip(names, total, strict=True))
        record = {
            "loss": mean["loss"],
            "lr": results[-1].learning_rate,
            "grad_norm": float(results[-1].grad_norm),
            "clips_per_second": mean["clips"] / steps / max(mean["step"], 1e-9),
            "step_seconds": mean["step"],
            "wait_seconds": mean["wait"],
            "wait_share": mean["wait"] / max(mean["step"], 1e-9),
            "decode_cpu_seconds_per_clip": mean["decode"],
            "decode_actors": len(set(self.actors)),
            "queue": round(mean["ready"]),
            "memory_bytes": int(mean["memory"]),
            "extra": {name: mean[name] for name in extra_names},
        }
        self.results, self.new_failures = [], []
        return record, round(mean["failures"]), mean["stop"] > 0

    def check_budget(self, failures: int, samples: int, budget: float) -> None:
        """Check that not too many samples failed.

        Raises:
            RunError: more than the budget did; names the commonest reasons that this rank saw.
        """
        if failures <= budget * max(samples, BUDGET_GRACE):
            return
        reasons = ", ".join(f"{count} x {reason}" for reason, count in self.reasons.most_common(3))
        raise RunError(
            f"{failures} of {samples} samples could not be decoded, more than the budget of {budget:.2%} "
            f"({reasons or 'on another worker'}): see quarantine-*.jsonl in the run's folder; mend or remove them, or "
            f"raise --data.failures"
        )

    def _memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
