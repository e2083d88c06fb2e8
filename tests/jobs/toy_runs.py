"""Runs for sweeps that take no time: what they learn depends on the learning rate, and on when it is which."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.observe.records import METRICS_FILE, MetricsWriter
from headrace.recipe import Recipe
from headrace.train.progress import (
    PROGRESS_FILE,
    STOP_FILE,
    Progress,
    checkpoint_at,
    complete_checkpoints,
    newest_checkpoint,
    read_progress,
)

LEARNT = "learnt"


def prepare(recipe: Recipe, run: Path, *_: Any) -> Callable[[], None]:
    """Return a run that gains most with a rate of 0.2 in its first half, and of 0.8 in its second."""
    steps, every = recipe.train.steps, recipe.train.checkpoint_every

    def fit() -> None:
        newest = newest_checkpoint(run)
        progress = read_progress(newest)
        learnt = json.loads((Path(newest) / LEARNT).read_text()) if newest is not None else 0.0
        with MetricsWriter(run / METRICS_FILE) as metrics:
            while progress.step < steps and not (run / STOP_FILE).exists():
                time.sleep(0.02)
                best = 0.2 if progress.step < steps // 2 else 0.8
                progress.step += 1
                learnt += 1 - abs(recipe.optim.lr - best)
                now = {"time": time.time(), "step": progress.step, "steps": steps}
                metrics.write({"kind": "step", **now, "loss": -learnt, "clips_per_second": 1.0})  # type: ignore[typeddict-item]
                if progress.step % every == 0:
                    path = _save(run, progress, learnt)
                    metrics.write({"kind": "checkpoint", **now, "path": str(path)})  # type: ignore[typeddict-item]

    return fit


def _save(run: Path, progress: Progress, learnt: float) -> Path:
    path = Path(checkpoint_at(run, progress.step))
    path.mkdir(parents=True)
    (path / LEARNT).write_text(json.dumps(learnt))
    (path / PROGRESS_FILE).write_text(json.dumps({"step": progress.step}))
    assert path in complete_checkpoints(run)
    return path
