"""The few lines that remain on the console when a run is over."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.observe.advice import feeding_advice
from headrace.observe.figures import duration, figure, one_line, percent, plural, whole
from headrace.observe.history import History
from headrace.observe.records import number

OUTCOMES = ("finished", "stopped", "failed")


def outcome(history: History) -> str:
    """Return in a few words how the run ended: finished, stopped, failed, or cut off."""
    if history.end is None:
        return "cut off"
    said = history.end.get("outcome")
    return said if said in OUTCOMES else "stopped"


def summary_lines(history: History, where: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """Return the summary of a run as pairs of a label and a text in plain ASCII, but for foreign text.

    Args:
        where: lines that say where else the run can be looked at, by the place; some may be empty.
    """
    lines = [(outcome(history), _extent(history))]
    if history.end and history.end.get("message"):
        lines.append(("reason", one_line(history.end["message"])))
    if history.first and history.last:
        lines.append(("loss", _loss(number(history.first, "loss"), number(history.last, "loss"))))
        advice = feeding_advice(history.steady(), history.cores, history.newest_pool)
        speed, waits = figure(advice.feeding.given), percent(advice.feeding.wait_share)
        lines.append(("feeding", f"{speed} clips/s, {waits} of the time waiting for data"))
        lines.append(("", advice.sentence))
    if history.evaluations:
        lines.append(("held out", held_out_text(history)))
    if history.failed_samples:
        lines.append(("failures", failures_text(history)))
    if history.refused:
        lines.append(("left out", refused_text(history)))
    if history.restarts:
        lines.append(("restarts", f"{len(history.restarts)}, the last from step {history.restarts[-1]['step']:,}"))
    if history.checkpoints:
        lines.append(("checkpoint", one_line(history.checkpoints[-1].get("path", ""))))
    return lines + [(place, line) for place, line in (where or {}).items() if line]


def failures_text(history: History) -> str:
    """Return how many samples failed and of what: 3 samples (0.1 %): 2 x no frames, 1 x encrypted."""
    text = plural(history.failed_samples, "sample")
    samples = number(history.last or {}, "position")
    if samples > 0:
        text += f" ({percent(history.failed_samples / samples)})"
    reasons = ", ".join(f"{count} x {one_line(reason, 60)}" for reason, count in history.failures.most_common(3))
    return f"{text}: {reasons}" if reasons else text


def held_out_text(history: History) -> str:
    """Return the newest scores on held-out samples, and at which step they were best."""
    scores = history.evaluations[-1].get("scores") or {}
    text = ", ".join(f"{one_line(name, 40)} {figure(number(scores, name))}" for name in scores)
    return f"{text}, best at step {history.best['step']:,}" if history.best else text


def refused_text(history: History) -> str:
    """Return how many steps were left out: 2 steps, whose loss or gradient was not finite or spiked, the last 17."""
    return (
        f"{plural(len(history.refused), 'step')}, as the loss or gradient was not finite or spiked, the last "
        f"{history.refused[-1]['step']:,}"
    )


def _extent(history: History) -> str:
    text = f"{history.step:,} of {plural(history.total_steps, 'step')} in {duration(history.elapsed_seconds)}"
    return f"{text}, {whole(number(history.last, 'position'))} clips" if history.last else text


def _loss(first: float, last: float) -> str:
    return f"{figure(first)} to {figure(last)}"
