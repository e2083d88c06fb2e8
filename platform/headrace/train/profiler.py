"""Profiling a few steps: a trace to look into, and the costliest kernels by name."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch.profiler import ProfilerActivity, profile

PROFILE_FOLDER = "profile"
KERNELS = 15


class Kernel(TypedDict):
    """What one kernel, or on a CPU one operator, took by itself in the steps that were profiled."""

    name: str
    calls: int
    seconds: float
    share: float


class StepProfiler:
    """Profiles the steps of a run from one to another, both counted from 1.

    Args:
        folder: where the trace is written.
        steps: first and last; None: nothing is profiled.
        device: where the model runs.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None, device: torch.device) -> None:
        self._folder, self._steps, self._device = folder, steps, device
        self._profile: Any = None

    def before(self, step: int) -> None:
        """Begin where this step is the first."""
        if self._steps is not None and self._profile is None and self._steps[0] <= step <= self._steps[1]:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device.type == "cuda" else [])]
            self._profile = profile(activities=activities)
            self._profile.start()

    def after(self, step: int) -> tuple[Path, list[Kernel]] | None:
        """End where this step is the last; return where the trace lies, and the costliest kernels."""
        if self._profile is None or self._steps is None or step < self._steps[1]:
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._profile.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        plain = self._folder / f"steps-{self._steps[0]}-{step}.json"
        self._profile.export_chrome_trace(str(plain))
        packed = plain.with_suffix(".json.gz")
        with plain.open("rb") as trace, gzip.open(packed, "wb", compresslevel=3) as file:
            shutil.copyfileobj(trace, file)
        plain.unlink()
        kernels = self._kernels()
        self._profile, self._steps = None, None
        return packed, kernels

    def _kernels(self) -> list[Kernel]:
        on_gpu = self._device.type == "cuda"
        rows = [
            (row.key, row.count, (row.self_device_time_total if on_gpu else row.self_cpu_time_total) / 1e6)
            for row in self._profile.key_averages()
        ]
        total = sum(seconds for _, _, seconds in rows) or 1.0
        rows.sort(key=lambda row: -row[2])
        return [
            Kernel(name=name, calls=calls, seconds=seconds, share=seconds / total)
            for name, calls, seconds in rows[:KERNELS]
        ]
