"""The report of a sweep: `<sweep>/report.html`, one file that needs nothing else.

header       what was tried, and what was best
trials       their values as they came, and the best so far
courses      the metric of each trial over its steps
settings     parallel coordinates: each trial a line through its settings to its value
importance   which settings make the difference
table        all trials
"""

from __future__ import annotations

import importlib.util
import math
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from headrace.observe.curves import bounds, ticks
from headrace.observe.figures import duration, figure, one_line, percent, plural
from headrace.observe.page import page_html

REPORT_FILE = "report.html"
LEAST_FOR_IMPORTANCE = 8
LOG_FROM_RATIO = 20.0

_WIDTH, _HEIGHT = 1000.0, 300.0
_EDGE = 70.0


@dataclass(frozen=True)
class Tried:
    """A trial of a sweep.

    Attributes:
        number: from 1, in the order in which they began.
        settings: by path.
        value: of the metric at its end; NaN where it was not measured.
        steps, seconds: how far it got, and how long it took.
        run: its newest folder.
        note: why it failed; "" where it did not.
        curve: the metric at each of its reports, by step.
    """

    number: int
    settings: Mapping[str, Any]
    value: float
    steps: int
    seconds: float
    run: str
    note: str = ""
    curve: Sequence[tuple[int, float]] = field(default_factory=list)


def write_sweep_report(sweep: Path, name: str, metric: str, tried: Sequence[Tried], lower: bool) -> Path:
    """Write the report of a sweep, over an earlier one, and return where it lies.

    Args:
        sweep: its folder.
        name: of its space.
        metric: by which trials are compared; `lower`: whether lower is better.
        tried: its trials.
    """
    known = ranked(tried, lower)
    sections = (
        _header(sweep, name, metric, tried, known),
        _trials(metric, known, lower),
        _courses(metric, known),
        _settings(metric, known, lower),
        _importance(known),
        _table(metric, tried, known),
    )
    path = sweep / REPORT_FILE
    path.write_text(page_html(f"{escape(name)} · headrace", "".join(sections)), encoding="utf-8", errors="replace")
    return path


def ranked(tried: Sequence[Tried], lower: bool) -> list[Tried]:
    """Return the trials that were measured, the best one first.

    Those that got furthest come first: what ended early was worse than others that had got as far, and its value there
    says nothing beside those of later steps.
    """
    known = [trial for trial in tried if math.isfinite(trial.value)]
    return sorted(known, key=lambda trial: (-trial.steps, trial.value if lower else -trial.value))


def importances(known: Sequence[Tried]) -> dict[str, float]:
    """Return how much each setting matters for being among the better trials, as shares; {} where it cannot be said.

    PED-ANOVA (Watanabe et al., arXiv 2304.10255) as Optuna has it.

    Args:
        known: the best one first.
    """
    paths = [path for path in (known[0].settings if known else {}) if len({str(t.settings[path]) for t in known}) > 1]
    if len(known) < LEAST_FOR_IMPORTANCE or not paths or importlib.util.find_spec("optuna") is None:
        return {}
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    axes = {path: _Axis.of([trial.settings[path] for trial in known]) for path in paths}
    distributions = {path: optuna.distributions.FloatDistribution(0.0, 1.0) for path in paths}
    study = optuna.create_study(direction="minimize")
    for place, trial in enumerate(known):
        params = {path: axes[path].place(trial.settings[path]) for path in paths}
        study.add_trial(optuna.create_trial(params=params, distributions=dict(distributions), value=float(place)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        except (ValueError, RuntimeError):  # too much alike
            return {}
    return {path: float(share) for path, share in found.items() if math.isfinite(share)}


@dataclass(frozen=True)
class _Axis:
    """The values of one setting on a line from 0 to 1."""

    labels: tuple[tuple[float, str], ...]
    place: Callable[[Any], float]

    @classmethod
    def of(cls, values: Sequence[Any]) -> _Axis:
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(numbers) == len(values) and len(set(numbers)) > 1:
            low, high = float(min(numbers)), float(max(numbers))
            if low > 0 and high / low > LOG_FROM_RATIO:
                span = math.log(high / low)
                middle = math.sqrt(low * high)
                marks = ((0.0, figure(low)), (0.5, figure(middle)), (1.0, figure(high)))
                return cls(marks, lambda value: math.log(value / low) / span)
            marks = ((0.0, figure(low)), (0.5, figure((low + high) / 2)), (1.0, figure(high)))
            return cls(marks, lambda value: (float(value) - low) / (high - low))
        names = sorted({str(value) for value in values})
        places = {name: (at + 0.5) / len(names) for at, name in enumerate(names)}
        return cls(
            tuple((place, one_line(name, 14)) for name, place in places.items()), lambda value: places[str(value)]
        )


def _header(sweep: Path, name: str, metric: str, tried: Sequence[Tried], known: Sequence[Tried]) -> str:
    failed = len(tried) - len(known)
    text = f"{plural(len(tried), 'trial')}"
    if failed:
        text += f", {failed} of which {'were' if failed > 1 else 'was'} not measured"
    if known:
        best = known[0]
        settings = ", ".join(f"{escape(path)} {escape(_value(value))}" for path, value in best.settings.items())
        text = f"<b>{escape(metric)} {figure(best.value)}</b> in trial {best.number} of {text}: {settings}."
    command = f"python jobs/train.py --from-run {shlex.quote(one_line(sweep / 'best', 1000))}"
    return (
        f'<header><p class="brand">headrace · sweep · {escape(one_line(sweep.name))}</p><h1>{escape(name)}</h1>'
        f'<p class="lead finished">{text}</p></header>'
        + (f"<section><pre>{escape(command)}</pre></section>" if known else "")
    )


def _trials(metric: str, known: Sequence[Tried], lower: bool) -> str:
    if not known:
        return ""
    in_order = sorted(known, key=lambda trial: trial.number)
    values = np.array([trial.value for trial in in_order])
    best = np.minimum.accumulate(values) if lower else np.maximum.accumulate(values)
    low, high = bounds([values])
    last = max(trial.number for trial in in_order)

    def x(number: float) -> float:
        return _EDGE + (_WIDTH - _EDGE - 20) * (number - 1) / max(1, last - 1)

    y = _scale(low, high)
    dots = "".join(
        f'<circle cx="{x(trial.number):.1f}" cy="{y(trial.value):.1f}" r="4" class="trial">'
        f"<title>trial {trial.number}: {figure(trial.value)}</title></circle>"
        for trial in in_order
    )
    points = " ".join(f"{x(t.number):.1f},{y(float(b)):.1f}" for t, b in zip(in_order, best, strict=True))
    body = f'{_grid(low, high, y)}<polyline class="course best" points="{points}"/>{dots}'
    return _figure("Trials", f"{metric} of each trial, and the best so far", body)


def _courses(metric: str, known: Sequence[Tried]) -> str:
    curves = [(trial, [point for point in trial.curve if math.isfinite(point[1])]) for trial in known]
    curves = [(trial, curve) for trial, curve in curves if curve]
    if not curves:
        return ""
    values = np.array([value for _, curve in curves for _, value in curve])
    steps = [step for _, curve in curves for step, _ in curve]
    low, high = bounds([values])
    first, last = min(steps), max(steps)
    y = _scale(low, high)

    def x(step: float) -> float:
        return _EDGE + (_WIDTH - _EDGE - 20) * ((step - first) / (last - first) if last > first else 0.5)

    lines = ""
    for rank, (trial, curve) in reversed(list(enumerate(curves))):
        points = [(x(step), y(value)) for step, value in curve]
        lines += _course(points, f"trial {trial.number}", rank, len(curves))
        lines += f'<circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="2.5" class="trial"/>'
    return _figure(
        "Courses", f"{metric} by step, {first:,} to {last:,}; the better, the darker", _grid(low, high, y) + lines
    )


def _settings(metric: str, known: Sequence[Tried], lower: bool) -> str:
    if len(known) < 2:
        return ""
    paths = list(known[0].settings)
    axes = {path: _Axis.of([trial.settings[path] for trial in known]) for path in paths}
    values = _Axis.of([trial.value for trial in known])
    step = (_WIDTH - 2 * _EDGE) / len(paths)

    def y(place: float) -> float:
        return 20 + (_HEIGHT - 60) * (1 - place)

    lines = ""
    for rank, trial in reversed(list(enumerate(known))):
        places = [axes[path].place(trial.settings[path]) for path in paths] + [values.place(trial.value)]
        points = [(_EDGE + step * column, y(place)) for column, place in enumerate(places)]
        lines += _course(points, f"trial {trial.number}: {figure(trial.value)}", rank, len(known))
    columns = ""
    for column, (path, axis) in enumerate([*axes.items(), (metric, values)]):
        x = _EDGE + step * column
        columns += f'<path class="axis" d="M{x:.1f} {y(1):.1f}V{y(0):.1f}"/>'
        columns += f'<text class="name" x="{x:.1f}" y="{_HEIGHT - 14:.0f}">{escape(path.rpartition(".")[2])}</text>'
        columns += "".join(
            f'<text class="mark" x="{x - 6:.1f}" y="{y(place) + 4:.1f}">{escape(text)}</text>'
            for place, text in axis.labels
        )
    better = "down" if lower else "up"
    return _figure(
        "Settings", f"each line a trial; the better, the darker; {metric} is better further {better}", columns + lines
    )


def _importance(known: Sequence[Tried]) -> str:
    found = importances(known)
    if not found:
        return ""
    rows = "".join(
        f'<tr><td>{escape(path)}</td><td class="number">{percent(share)}</td>'
        f'<td class="wide"><i class="share" style="width:{100 * share:.0f}%"></i></td></tr>'
        for path, share in found.items()
    )
    return (
        '<section><h2>Importance</h2><p class="note">Of a setting for being among the better trials (PED-ANOVA). '
        'Of few trials it is a hint.</p><div class="scroll"><table class="shares">'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _table(metric: str, tried: Sequence[Tried], known: Sequence[Tried]) -> str:
    if not tried:
        return ""
    paths = list(tried[0].settings)
    head = ["Trial", *(path.rpartition(".")[2] for path in paths), metric, "Steps", "Time", "Folder", ""]
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    rows = ""
    for trial in [*known, *(trial for trial in tried if trial not in known)]:
        cells = [
            str(trial.number),
            *(_value(trial.settings.get(path, "")) for path in paths),
            figure(trial.value),
            f"{trial.steps:,}",
            duration(trial.seconds) if math.isfinite(trial.seconds) else "",
            "/".join(Path(trial.run).parts[-2:]) if trial.run else "",
            one_line(trial.note, 200),
        ]
        rows += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    return (
        f'<section><h2>All trials</h2><div class="scroll"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _figure(title: str, note: str, body: str) -> str:
    return (
        f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p>'
        f'<svg class="sweep" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(title)}">'
        f"{body}</svg></section>"
    )


def _scale(low: float, high: float) -> Callable[[float], float]:
    return lambda value: 12 + (_HEIGHT - 24) * (high - value) / (high - low)


def _grid(low: float, high: float, y: Callable[[float], float]) -> str:
    return "".join(
        f'<path class="grid" d="M{_EDGE:.0f} {y(level):.1f}H{_WIDTH:.0f}"/>'
        f'<text class="mark" x="{_EDGE - 8:.0f}" y="{y(level) + 4:.1f}">{escape(figure(level))}</text>'
        for level in ticks(low, high, 4)
    )


def _course(points: Sequence[tuple[float, float]], title: str, rank: int, count: int) -> str:
    """Return a line; that of the best of so many trials, of rank 0, stands out."""
    opacity = 1.0 if rank == 0 else 0.75 - 0.6 * rank / max(1, count - 1)
    return (
        f'<polyline class="course{" best" if rank == 0 else ""}" style="opacity:{opacity:.2f}" '
        f'points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"><title>{escape(title)}</title></polyline>'
    )


def _value(value: Any) -> str:
    return figure(value) if isinstance(value, float) else one_line(value, 60)
