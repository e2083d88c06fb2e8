"""The run in TensorBoard: `tensorboard --logdir runs`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.observe.history import History
from headrace.observe.mirror import held_out_values, step_values
from headrace.observe.records import Record
from headrace.observe.redact import redacted

FOLDER = "tensorboard"


class TensorBoardLog:
    """A mirror that writes event files beside the run's own records, with tensorboardX, which Ray brings.

    Args:
        run: the run's folder.
        recipe: the resolved recipe; becomes a text.
    """

    name = "TensorBoard"

    def __init__(self, run: Path, recipe: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        folder = run / FOLDER
        self.resumed = folder.is_dir()
        self._run = run
        self._writer = SummaryWriter(str(folder), filename_suffix=f".{time.time_ns()}")
        if not self.resumed:
            text = json.dumps(redacted(dict(recipe)), indent=2, default=str)
            self._writer.add_text("recipe", f"```\n{text}\n```")

    def see(self, record: Record, history: History) -> None:
        """Write down a step, or an evaluation."""
        if record["kind"] == "step":
            values = step_values(record)
        elif record["kind"] == "evaluation":
            values = held_out_values(record)
        else:
            return
        for name, value in values.items():
            if math.isfinite(value):
                tag = name if "/" in name else f"run/{name}"
                self._writer.add_scalar(tag, value, record["step"], walltime=record["time"])

    def close(self, history: History) -> str:
        """Flush, and say how to look at it."""
        self._writer.close()
        return f"tensorboard --logdir {self._run / FOLDER}"
