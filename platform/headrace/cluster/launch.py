"""Starting Ray, and seeing a run through: a display in front, the trainer behind, Ctrl-C in between."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import ray
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from headrace.cluster import EMBEDDED
from headrace.cluster.embedded import small_ray
from headrace.errors import RunError, final_sentence
from headrace.observe.records import METRICS_FILE, MetricsWriter
from headrace.train.progress import FAILED_FILE, STOP_FILE, newest_checkpoint, read_progress

ERROR_FILE = "error.txt"
_READER = "iter_threaded"
"""Name of the threads in which Ray Data's iterators wait for blocks."""

_THREADS_END_SECONDS = 0.5
START_TRIES = 2
_STATE_TRACKING = "RAY_TRAIN_ENABLE_STATE_TRACKING"
"""Shows training runs on the dashboard."""

_HEALTH_CHECK = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
"""Seconds after which workers' reports are taken; a worker that has reported waits for it."""


@contextlib.contextmanager
def ray_cluster(cpus: int, dashboard: bool, resource: str = "") -> Iterator[dict[str, float]]:
    """Join the cluster that RAY_ADDRESS names, or start one in this process; yield its resources.

    Args:
        cpus: CPUs that an embedded cluster counts, at least; they may be more than the machine has.
        dashboard: whether an embedded cluster serves Ray's dashboard.
        resource: custom resource of which an embedded cluster has as many as CPUs; none if not given.

    Raises:
        RunError: an embedded one does not start.
    """
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    embedded = "RAY_ADDRESS" not in os.environ
    small = embedded and not dashboard
    variables = {
        EMBEDDED: "1" if small else None,
        _STATE_TRACKING: None if small else os.environ.get(_STATE_TRACKING, "1"),
        _HEALTH_CHECK: os.environ.get(_HEALTH_CHECK, "0.5"),
    }
    with _environment(variables), small_ray() if small else contextlib.nullcontext():
        if embedded:
            cpus = max(cpus, os.cpu_count() or 1)
            _start_ray(num_cpus=cpus, resources={resource: cpus} if resource else None, include_dashboard=dashboard)
        else:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield {name: float(value) for name, value in ray.cluster_resources().items()}
        finally:
            _end_streams()
            ray.shutdown()


def _end_streams() -> None:
    """End what Ray Data still executes in this process: a thread of its that meets a Ray which is gone ends us."""
    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor):
            thread.shutdown(force=False)
    until = time.monotonic() + _THREADS_END_SECONDS
    for thread in threading.enumerate():
        if thread.name == _READER:
            thread.join(max(0.0, until - time.monotonic()))


@contextlib.contextmanager
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set these variables of the environment, unset those that are None, and let them be as before at the end."""

    def assign(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    before = {name: os.environ.get(name) for name in variables}
    assign(variables)
    try:
        yield
    finally:
        assign(before)


def _start_ray(**settings: Any) -> None:
    """Start Ray in this process; once more if the machine was so busy that its first start took Ray's 30 seconds.

    Raises:
        RunError: Ray did not come up.
    """
    for left in range(START_TRIES - 1, -1, -1):
        try:
            ray.init("local", log_to_driver=False, logging_level=logging.ERROR, **settings)
        except Exception as error:  # Ray raises no class of its own
            ray.shutdown()
            if left == 0 or "timed out" not in str(error):
                raise RunError(
                    f"Ray did not start on this machine: {_last_line(error)} Its logs are in "
                    f"session_latest/logs of its folder, /tmp/ray; a machine that is busy or full is the usual reason"
                ) from error
        else:
            return


def serves_dashboard() -> bool:
    """Say whether the cluster that `ray_cluster` joined or started has a dashboard, and with it Ray's state API."""
    return _STATE_TRACKING in os.environ


@dataclass(frozen=True)
class Outcome:
    """How a run ended: "finished" did all its steps, "stopped" was asked to end, "failed" says why."""

    outcome: Literal["finished", "stopped", "failed"]
    step: int
    message: str = ""


def see_through(
    fit: Callable[[], object], run: Path, steps: int, watch: Callable[[Callable[[], bool]], object]
) -> Outcome:
    """Run `fit` in the background while `watch` displays it; write down how it ended.

    Ctrl-C and SIGTERM ask the workers for a checkpoint and an end; a second Ctrl-C leaves at once.

    Args:
        fit: trains to the end, or raises.
        run: the run's folder.
        steps: of the whole run.
        watch: displays the run until the function it is given says that it is over.
    """
    behind = Behind(fit, run, steps)
    with _stop_on_signal(run / STOP_FILE):
        behind.start()
        watch(lambda: behind.outcome is not None)
    assert behind.outcome is not None
    return behind.outcome


class Behind:
    """A run that goes on in a thread of its own, and writes down how it ended.

    Args:
        fit, run, steps: as of `see_through`.

    Attributes:
        outcome: None while it runs.
    """

    def __init__(self, fit: Callable[[], object], run: Path, steps: int) -> None:
        self._fit, self._run, self._steps = fit, run, steps
        self.outcome: Outcome | None = None

    def start(self) -> None:
        """Begin; what stopped the run before counts no longer."""
        for name in (STOP_FILE, FAILED_FILE):
            (self._run / name).unlink(missing_ok=True)
        threading.Thread(target=self._work, name="headrace-trainer", daemon=True).start()

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            self._fit()
        except BaseException as raised:  # whatever ended the run is written down and returned
            error = raised
        self.outcome = _write_end(self._run, self._steps, error)


def _write_end(run: Path, steps: int, error: BaseException | None) -> Outcome:
    step = read_progress(newest_checkpoint(run)).step
    outcome = Outcome("finished" if step >= steps else "stopped", step)
    if error is not None:
        (run / ERROR_FILE).write_text("".join(traceback.format_exception(error)))
        outcome = Outcome("failed", step, final_sentence(error) or _last_line(error))
    elif (run / FAILED_FILE).exists():
        outcome = Outcome("failed", step, (run / FAILED_FILE).read_text())
    with MetricsWriter(run / METRICS_FILE) as metrics:
        metrics.write(
            {
                "kind": "end",
                "time": time.time(),
                "step": step,
                "outcome": outcome.outcome,
                "message": outcome.message,
            }
        )
    return outcome


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _stop_on_signal(stop: Path) -> Iterator[None]:
    def ask(number: int, _: FrameType | None) -> None:
        if stop.exists() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.touch()
        print("\nstopping after this step: writing a checkpoint and the report", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.unlink(missing_ok=True)
