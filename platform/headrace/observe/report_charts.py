"""Which charts a report has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headrace.observe.charts import Chart, Line, Marks, chart_html
from headrace.observe.curves import Curve, bounds, envelope, smoothed, thinned
from headrace.observe.figures import one_line
from headrace.observe.history import History
from headrace.observe.records import number

SMALL_CHARTS = 12
SMOOTHED_FROM = 90  # records; fewer need no smoothing
LOG_FROM_RATIO = 100.0  # positive values that span more than this are drawn on a log scale


def feeding_charts(history: History) -> str:
    """Return where the time of each step went, and clips/s given, demanded and supplied."""
    steps = _column(history, "step")
    seconds, wait = _column(history, "step_seconds"), np.nan_to_num(_column(history, "wait_seconds"))
    seconds = np.where(seconds > 0, seconds, np.nan)
    clips = _column(history, "clips_per_second") * seconds
    supply = _supply(history)
    with np.errstate(divide="ignore", invalid="ignore"):
        demand = np.where(seconds > wait, clips / (seconds - wait), np.nan)
    curves = thinned(
        {"step": steps, "seconds": seconds, "wait": wait, "clips": clips, "demand": demand, "supply": supply}
    )
    axis, busy = curves["step"], 1000 * (curves["seconds"] - curves["wait"])
    waiting, given = 1000 * curves["wait"], curves["clips"] / curves["seconds"]
    time_lines = [
        Line("training", "compute", axis, busy, base=np.zeros_like(busy)),
        Line("waiting for data", "wait", axis, busy + waiting, base=busy, readout=waiting),
    ]
    rate_lines = [
        Line("supply at most", "third", axis, curves["supply"], ranged=False),
        Line("demand", "second", axis, curves["demand"], dashed=True),
        Line("given", "main", axis, given),
    ]
    rate_lines = [line for line in rate_lines if np.isfinite(line.values).any()]
    # The first step compiles and waits for the first batch: it would flatten all that follows.
    steady = {step["step"] for step in history.steady()}
    usual = np.isin(steps, list(steady))
    time_top = _top([seconds[usual] * 1000])
    rate_top = _top([demand[usual], clips[usual] / seconds[usual]])
    marks, extent = _marks(history), _extent(history)
    return _group(
        "two",
        Chart("Time of a step", time_lines, extent, "ms", marks, from_zero=True, highest=time_top),
        Chart("Clips per second", rate_lines, extent, "", marks, from_zero=True, highest=rate_top),
    ) + (_pool_charts(history, marks, extent) + _queue_charts(history, extent))


def _pool_charts(history: History, marks: Marks, extent: tuple[int, int]) -> str:
    """Return the share of time waited beside the size that the decode pool was given."""
    if not history.pool:
        return ""
    steps, shares = _column(history, "step"), 100 * _column(history, "wait_share")
    times = _column(history, "time")
    asked_at = [change["time"] for change in history.pool]
    asked = np.array([np.nan, *(change["to"] for change in history.pool)])
    pool = asked[np.searchsorted(asked_at, times, side="right")]
    curves = thinned({"step": steps, "share": shares, "pool": np.where(pool > 0, pool, np.nan)})
    return _group(
        "two",
        Chart(
            "Waiting for data", [Line("", "wait", curves["step"], curves["share"])], extent, "%", marks, from_zero=True
        ),
        Chart("Decoders", [Line("", "main", curves["step"], curves["pool"])], extent, "", marks, from_zero=True),
    )


def _queue_charts(history: History, extent: tuple[int, int]) -> str:
    """Return what stood ready for the next step, beside all that was decoded and not yet consumed."""
    steps = _column(history, "step")
    in_flight = _column(history, "in_flight_bytes") / 1e6
    if not np.isfinite(in_flight).any():
        return ""
    return _group(
        "two",
        replace(
            _small("Micro-batches ready for the next step", steps, _column(history, "queue"), extent), from_zero=True
        ),
        replace(_small("Decoded and not yet consumed", steps, in_flight, extent, "MB"), from_zero=True),
    )


def learning_charts(history: History) -> str:
    """Return the loss, large; learning rate and gradient; and the objective's own scalars, small."""
    marks, extent = _marks(history), _extent(history)
    steps, loss = _column(history, "step"), _column(history, "loss")
    marks = replace(marks, lost=[int(step) for step in steps[np.isnan(loss)]])
    held_out = _held_out_charts(history, extent)
    names = sorted({name for step in history.steps for name in step.get("extra") or {}})[:SMALL_CHARTS]
    small = [_small(one_line(name, 40), steps, _extra(history, name), extent) for name in names]
    memory = _column(history, "memory_bytes") / 1e9
    if np.isfinite(memory).any():
        small.append(_small("Memory", steps, memory, extent, "GB"))
    utilization = 100 * _column(history, "mfu")
    if np.isfinite(utilization).any():
        small.append(replace(_small("Model FLOPs utilization", steps, utilization, extent, "%"), from_zero=True))
    log_scale = _spans_magnitudes(loss)
    unit = "log scale" if log_scale else ""
    return (
        _group("one", Chart("Loss", _loss_lines(history, steps, loss), extent, unit, marks, log_scale=log_scale))
        + _marks_key(marks)
        + _group("three", *held_out)
        + _group(
            "two",
            _small("Learning rate", steps, _column(history, "lr"), extent),
            _small("Gradient norm", steps, _column(history, "grad_norm"), extent),
        )
        + _group("three", *small)
    )


def _loss_lines(history: History, steps: Curve, loss: Curve) -> list[Line]:
    """Return the loss, smoothed where it is long, under that of held-out samples."""
    if len(loss) < SMOOTHED_FROM:
        return [*_held_out_line(history, steps), Line("loss", "main", steps, loss)]
    curves = thinned({"step": steps, "loss": loss, "smooth": smoothed(loss)})
    raw_steps, raw = envelope(steps, loss)
    return [
        Line("loss", "faint", raw_steps, raw, readout=curves["loss"]),
        *_held_out_line(history, curves["step"]),
        Line("smoothed", "main", curves["step"], curves["smooth"]),
    ]


def _held_out_line(history: History, axis: Curve) -> list[Line]:
    """Return the loss on held-out samples, if there is one; between two evaluations the earlier one is read out."""
    steps, values = _held_out(history, "loss")
    if not np.isfinite(values).any():
        return []
    newest = np.searchsorted(steps, axis, side="right")
    return [Line("held out", "second", steps, values, readout=np.concatenate([[np.nan], values])[newest])]


def _held_out_charts(history: History, extent: tuple[int, int]) -> list[Chart]:
    """Return the other scores on held-out samples."""
    names = {name for evaluation in history.evaluations for name in evaluation.get("scores") or {}} - {"loss"}
    return [
        _small(f"{one_line(name, 40)}, held out", *_held_out(history, name), extent)
        for name in sorted(names)[:SMALL_CHARTS]
    ]


def _held_out(history: History, name: str) -> tuple[Curve, Curve]:
    """Return the steps that were evaluated, and a score."""
    steps = [evaluation["step"] for evaluation in history.evaluations]
    values = [number(evaluation.get("scores") or {}, name) for evaluation in history.evaluations]
    return np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)


def _small(title: str, steps: Curve, values: Curve, extent: tuple[int, int], unit: str = "") -> Chart:
    curves = thinned({"step": steps, "values": values})
    line = Line("", "main", curves["step"], curves["values"])
    log_scale = _spans_magnitudes(values)
    return Chart(title, [line], extent, "log scale" if log_scale else unit, log_scale=log_scale, small=True)


def _spans_magnitudes(values: Curve) -> bool:
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > LOG_FROM_RATIO * finite.min())


def _supply(history: History) -> Curve:
    """Return the clips/s the decoders could give at most, at each record."""
    cost, actors = _column(history, "decode_cpu_seconds_per_clip"), _column(history, "decode_actors")
    if not actors.size:
        return actors
    # A record that covers one batch saw one actor; the pool is what was seen so far.
    pool = np.maximum.accumulate(np.nan_to_num(actors))
    if history.cores is not None:
        pool = np.minimum(pool, history.cores)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((cost > 0) & (pool > 0), pool / cost, np.nan)


def _top(curves: list[Curve]) -> float:
    """Return the height that shows nearly all of the curves: what is rare may stick out."""
    finite = [curve[np.isfinite(curve)] for curve in curves]
    if not any(curve.size for curve in finite):
        return float("inf")
    usual = max(float(np.percentile(curve, 99)) for curve in finite if curve.size)
    highest = bounds(finite, from_zero=True)[1]
    return min(highest, 1.6 * usual) if usual > 0 else highest


def _marks(history: History) -> Marks:
    again = [record["step"] for record in (*history.restarts, *history.resumes)]
    return Marks([saved["step"] for saved in history.checkpoints], again)


def _marks_key(marks: Marks) -> str:
    keys = {
        '<i class="saved"></i>checkpoint': marks.checkpoints,
        '<i class="gone"></i>went on from here': marks.restarts,
        '<i class="nan"></i>not a number': marks.lost,
    }
    shown = "".join(f"<span>{key}</span>" for key, steps in keys.items() if steps)
    return f'<p class="marks">{shown}</p>' if shown else ""


def _extent(history: History) -> tuple[int, int]:
    """Return the steps between which the charts lie: from 0, unless the records begin much later."""
    first, last = history.steps[0]["step"], max(history.step, 1)
    return (first, last) if 2 * first > last > first else (0, last)


def _column(history: History, name: str) -> Curve:
    return np.array([number(step, name) for step in history.steps], dtype=np.float64)


def _extra(history: History, name: str) -> Curve:
    return np.array([number(step.get("extra") or {}, name) for step in history.steps], dtype=np.float64)


def _group(columns: str, *charts: Chart) -> str:
    return f'<div class="charts {columns}">{"".join(map(chart_html, charts))}</div>' if charts else ""
