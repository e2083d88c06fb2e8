"""The run's figures beside Ray's own on the cluster's Prometheus endpoints: ray_headrace_<figure>, by run."""

from __future__ import annotations

from pathlib import Path

from headrace.observe.history import History
from headrace.observe.mirror import STEP_FIELDS
from headrace.observe.records import Record, StepRecord, number

_EVENTS = {
    "step": "optimizer steps done",
    "decoders": "decode actors that the run asks for",
    "quarantined": "samples in the quarantine table",
    "refused_steps": "optimizer steps that were left out",
    "restarts": "times that the workers were started again",
}


class PrometheusLog:
    """A mirror that sets Ray's gauges. They are exported by the node on which this process runs.

    Args:
        run: the run's folder, whose name tags each figure.
    """

    name = "Prometheus"
    resumed = True  # a gauge has no past

    def __init__(self, run: Path) -> None:
        from ray.util.metrics import Gauge

        figures = {**STEP_FIELDS, **_EVENTS}
        self._gauges = {name: Gauge(f"headrace_{name}", text, tag_keys=("run",)) for name, text in figures.items()}
        self._extra = Gauge("headrace_extra", "the objective's own scalars", tag_keys=("run", "name"))
        self._held_out = Gauge("headrace_held_out", "scores on held-out samples", tag_keys=("run", "name"))
        self._tags = {"run": run.name}

    def see(self, record: Record, history: History) -> None:
        """Set what a record says, and again what the newest of other kinds said: Ray forgets a gauge that rests."""
        if record["kind"] == "step":
            self._see_step(record)
        if history.newest_pool is not None:
            self._gauges["decoders"].set(history.newest_pool["to"], self._tags)
        if history.evaluations:
            scores = history.evaluations[-1].get("scores") or {}
            for name in scores:
                self._held_out.set(number(scores, name), {**self._tags, "name": name})
        counts = {
            "step": history.step,
            "quarantined": sum(history.failures.values()),
            "refused_steps": len(history.refused),
            "restarts": len(history.restarts),
        }
        for name, count in counts.items():
            self._gauges[name].set(count, self._tags)

    def close(self, history: History) -> str:
        """Leave the last figures: Ray forgets them with this process."""
        return ""

    def _see_step(self, record: StepRecord) -> None:
        for name in STEP_FIELDS:
            if name in record:
                self._gauges[name].set(number(record, name), self._tags)
        extra = record.get("extra") or {}
        for name in extra:
            self._extra.set(number(extra, name), {**self._tags, "name": name})
