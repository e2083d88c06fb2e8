"""The run as lines of a log: for CI, `ray job logs`, files and pipes. No control characters."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from headrace.observe.figures import duration, figure, one_line, percent, plural, short_count, whole
from headrace.observe.history import History
from headrace.observe.pace import advice_now, seconds_left
from headrace.observe.pool import pool_text
from headrace.observe.records import EvaluationRecord, Record, RefusedRecord, StartRecord, StepRecord, number
from headrace.observe.summary import summary_lines

STEP_LINE_EVERY_SECONDS = 10.0
ADVICE_EVERY_SECONDS = 60.0
FAILURES_TOLD = 5
KEYS_TOLD = 8


class PlainConsole:
    """An observer that prints a line about every ten seconds and one for each event.

    Args:
        starting: what is being waited for at first.
        file: where to; standard output by default.
        clock: seconds, only ever growing.
    """

    def __init__(self, starting: str, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file if file is not None else sys.stdout
        self._clock = clock
        self._told_step_at = self._told_advice_at = -float("inf")
        self._told_step = -1
        self._failures_told = 0
        self._print(f"starting {starting}")

    def see(self, record: Record, history: History) -> None:
        """Tell of an event at once, of a step when it is time."""
        if record["kind"] == "start":
            self._print(_start_line(record))
            self._told_step_at = -float("inf")
        elif record["kind"] == "step":
            if history.compiled_again(record):
                self._print(compiled_again_text(record, history))
            if self._clock() - self._told_step_at >= STEP_LINE_EVERY_SECONDS:
                self._tell_step(record, history)
        elif record["kind"] == "evaluation":
            self._print(evaluation_text(record))
        elif record["kind"] == "checkpoint":
            self._print(f"checkpoint of step {record['step']:,}: {one_line(record.get('path', ''))}")
        elif record["kind"] == "restart":
            reason = one_line(record.get("reason", ""))
            self._print(f"restart {len(history.restarts)} from step {record['step']:,}: {reason}")
        elif record["kind"] == "refused":
            self._print(refused_step_text(record))
        elif record["kind"] == "pool" and record["from"]:
            self._print(f"decoders {pool_text(record, '->')}")
        elif record["kind"] == "failure":
            self._failures_told += 1
            if self._failures_told <= FAILURES_TOLD:
                what = f"{one_line(record.get('key', ''), 80)} in {one_line(record.get('shard', ''), 80)}"
                self._print(f"could not be decoded, replaced: {what}: {one_line(record.get('reason', ''))}")
            if self._failures_told == FAILURES_TOLD:
                self._print("further failures are only counted")

    def tick(self, history: History) -> None:
        """Do nothing: a log has no clock."""

    def close(self, history: History, where: Mapping[str, str] | None = None) -> None:
        """Print the last step and the summary."""
        if history.last and history.step != self._told_step:
            self._tell_step(history.last, history)
        for label, text in summary_lines(history, where or {}):
            self._print(f"{label:<10}  {text}")

    def _tell_step(self, step: StepRecord, history: History) -> None:
        self._told_step_at, self._told_step = self._clock(), step["step"]
        self._print(_step_line(step, history))
        advice = advice_now(history)
        if advice and advice.remedy and self._told_step_at - self._told_advice_at >= ADVICE_EVERY_SECONDS:
            self._told_advice_at = self._told_step_at
            self._print(advice.sentence)

    def _print(self, text: str) -> None:
        encoding = self._file.encoding or "utf-8"
        line = f"{time.strftime('%H:%M:%S')}  {text}"
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=self._file, flush=True)


def evaluation_text(record: EvaluationRecord) -> str:
    """Return what an evaluation said: step 50, held out: loss 0.41, knn 0.72 over 32 samples, the best so far."""
    scores = record.get("scores") or {}
    said = ", ".join(f"{one_line(name, 40)} {figure(number(scores, name))}" for name in scores)
    best = ", the best so far" if record.get("best") else ""
    samples = number(record, "samples")
    return f"step {record['step']:,}, held out: {said} over {whole(samples)} samples{best}"


def refused_step_text(refused: RefusedRecord) -> str:
    """Return what to say of a step that was left out: step 17 was left out: loss nan, gradient inf; samples a, b."""
    keys = [one_line(key, 80) for key in refused.get("keys") or []]
    more = f" and {len(keys) - KEYS_TOLD:,} more" if len(keys) > KEYS_TOLD else ""
    return (
        f"step {refused['step']:,} was left out: loss {figure(number(refused, 'loss'))}, gradient "
        f"{figure(number(refused, 'grad_norm'))}; samples {', '.join(keys[:KEYS_TOLD]) or 'unknown'}{more}"
    )


def compiled_again_text(step: StepRecord, history: History) -> str:
    """Return what to say where torch.compile compiled in the middle of a run."""
    graphs = plural(history.compiled_again(step), "graph")
    return f"torch.compile compiled {graphs} again by step {step['step']:,}: did the shape of batches change?"


def mfu_text(step: StepRecord) -> str:
    """Return the model FLOPs utilization as a further remark, or nothing where it is not known."""
    mfu = number(step, "mfu")
    return "" if math.isnan(mfu) else f", {percent(mfu)} MFU"


def _start_line(start: StartRecord) -> str:
    model = f"{short_count(number(start, 'parameters'))} parameters"
    return f"{workers_on(start)}, {model}, from step {start['step']:,} of {start['steps']:,}"


def workers_on(start: StartRecord) -> str:
    """Return who trains: 2 workers on cpu."""
    workers = number(start, "workers")
    return f"{plural(int(workers) if workers > 0 else 1, 'worker')} on {one_line(start.get('device', '?'), 20)}"


def _step_line(step: StepRecord, history: History) -> str:
    parts = [
        f"step {step['step']:,} of {step['steps']:,}",
        f"loss {figure(number(step, 'loss'))}",
        f"lr {figure(number(step, 'lr'))}",
        f"{figure(number(step, 'clips_per_second'))} clips/s{mfu_text(step)}",
        f"waiting {percent(number(step, 'wait_share'))}",
    ]
    if history.failed_samples:
        parts.append(plural(history.failed_samples, "failure"))
    left = seconds_left(history)
    if left > 0:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)
