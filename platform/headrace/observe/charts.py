"""Charts over the steps of a run, as HTML around inline SVG.

The picture is an SVG that stretches to any width with lines of constant thickness; its labels are HTML
beside it, so that they keep their size on a phone and on paper. A plotting library would bring megabytes of
script into each report, or pictures that cannot be pointed at; these are some 20 kB a chart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Literal

import numpy as np

from headrace.observe.curves import Curve, bounds, ticks
from headrace.observe.figures import figure, whole

WIDTH, HEIGHT = 1000.0, 240.0  # of the SVG's own coordinates
CHECKPOINTS_DRAWN = 40


@dataclass(frozen=True)
class Line:
    """A curve. With a `base` the area between them is filled.

    Attributes:
        colour: the name of a colour of the page's style.
        steps, values: [N]; a gap where a value is NaN.
        base: [N], the lower edge of an area.
        readout: what is read out under the pointer, at the steps of the chart's last line; `values` if None.
        ranged: the vertical axis makes room for all of it.
    """

    name: str
    colour: Literal["main", "second", "third", "faint", "compute", "wait"]
    steps: Curve
    values: Curve
    base: Curve | None = None
    readout: Curve | None = None
    ranged: bool = True
    dashed: bool = False

    def at(self, index: int) -> float:
        """Return what is read out at a point."""
        return float((self.values if self.readout is None else self.readout)[index])


@dataclass(frozen=True)
class Marks:
    """Steps at which something happened: a checkpoint, the start of a later session, a loss that is NaN."""

    checkpoints: Sequence[int] = ()
    restarts: Sequence[int] = ()
    lost: Sequence[int] = ()


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        unit: of the vertical axis, stands beside the title.
        extent: the steps at which the horizontal axis begins and ends.
        highest: the vertical axis goes no higher.
    """

    title: str
    lines: Sequence[Line]
    extent: tuple[int, int]
    unit: str = ""
    marks: Marks = field(default_factory=Marks)
    from_zero: bool = False
    log_scale: bool = False
    highest: float = math.inf
    small: bool = False


def chart_html(chart: Chart) -> str:
    """Return a chart as a <figure>."""
    lines = [_to_log(line) for line in chart.lines] if chart.log_scale else list(chart.lines)
    low, high = bounds([line.values for line in lines if line.ranged], chart.from_zero)
    high = min(high, chart.highest)
    plane = _Plane(*chart.extent, low, high)
    levels = _levels(low, high, chart)
    body = "".join(_line_svg(line, plane) for line in lines)
    grid = "".join(f'<path class="grid" d="M0 {plane.y(level):.1f}H{WIDTH:.0f}"/>' for level, _ in levels)
    unit = f" <small>{escape(chart.unit)}</small>" if chart.unit else ""
    return (
        f'<figure class="chart{" small" if chart.small else ""}"{_points(chart)}>'
        f"<figcaption><b>{escape(chart.title)}{unit}</b>{_legend(chart)}</figcaption>"
        f'<div class="plot"><div class="y">{_y_labels(levels, plane)}</div>'
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(_description(chart))}"><title>{escape(_description(chart))}</title>'
        f'{grid}<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" preserveAspectRatio="none">{body}</svg>'
        f"{_marks_svg(chart.marks, plane)}"
        f'<path class="hair" d="M0 0V{HEIGHT:.0f}"/></svg>'
        f'<div class="x">{_x_labels(plane, 3 if chart.small else 6)}</div></div></figure>'
    )


@dataclass(frozen=True)
class _Plane:
    """Steps and values to the SVG's coordinates."""

    left: float
    right: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return WIDTH * (step - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        # Far outside the picture all places are alike, and a short number will do.
        place = HEIGHT * (self.high - value) / (self.high - self.low)
        return min(max(place, -9 * HEIGHT), 9 * HEIGHT)


def _to_log(line: Line) -> Line:
    """Return a line whose height is the logarithm of its value, and which still reads out the value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(line.values > 0, np.log10(line.values), np.nan)
    return replace(line, values=values, readout=line.values if line.readout is None else line.readout)


def _levels(low: float, high: float, chart: Chart) -> list[tuple[float, str]]:
    """Return the heights of the grid lines with their labels."""
    if not chart.log_scale:
        return [(value, _label(value)) for value in ticks(low, high, 3 if chart.small else 4)]
    decades = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2 else (1,)
    values = [factor * 10.0**decade for decade in decades for factor in factors]
    return [(math.log10(value), _label(value)) for value in values if low <= math.log10(value) <= high]


def _label(value: float) -> str:
    """Return a tick's number without the zeros that only precision needs: 0.5, 20, 3e-4."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{round(value, 9):,.10g}"


def _line_svg(line: Line, plane: _Plane) -> str:
    parts = []
    for low, high in _stretches(line):
        if line.base is not None and high - low == 1:
            x, top, foot = plane.x(line.steps[low]), plane.y(line.values[low]), plane.y(line.base[low])
            parts.append(f'<path class="bar {line.colour}" d="M{x:.1f} {foot:.1f}V{top:.1f}"/>')
            continue
        points = [f"{plane.x(line.steps[i]):.1f} {plane.y(line.values[i]):.1f}" for i in range(low, high)]
        if line.base is not None:
            back = [f"{plane.x(line.steps[i]):.1f} {plane.y(line.base[i]):.1f}" for i in reversed(range(low, high))]
            parts.append(f'<path class="area {line.colour}" d="M{"L".join(points + back)}Z"/>')
        elif len(points) == 1:
            parts.append(f'<path class="dot {line.colour}" d="M{points[0]}h0"/>')
        else:
            dashes = " dashed" if line.dashed else ""
            parts.append(f'<path class="line {line.colour}{dashes}" d="M{"L".join(points)}"/>')
    return "".join(parts)


def _stretches(line: Line) -> list[tuple[int, int]]:
    """Return the ranges of indices without a gap."""
    known = np.isfinite(line.values)
    changes = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    return [(int(low), int(high)) for low, high in zip(changes[::2], changes[1::2], strict=True)]


def _marks_svg(marks: Marks, plane: _Plane) -> str:
    apart = -(-len(marks.checkpoints) // CHECKPOINTS_DRAWN) or 1
    saved = [
        f'<path class="checkpoint" d="M{plane.x(step):.1f} {HEIGHT - 3:.0f}h0">'
        f"<title>checkpoint, step {step:,}</title></path>"
        for step in marks.checkpoints[::apart]
    ]
    again = [
        f'<path class="restart" d="M{plane.x(step):.1f} 0V{HEIGHT:.0f}">'
        f"<title>went on from step {step:,}</title></path>"
        for step in marks.restarts[:100]
    ]
    lost = [f'<path class="lost" d="M{plane.x(step):.1f} 4h0"/>' for step in marks.lost[:200]]
    return "".join(saved + again + lost)


def _legend(chart: Chart) -> str:
    keys = [
        f'<span class="key">{_swatch(line)}<output>{escape(_read(line.at(-1)))}</output></span>'
        for line in chart.lines
        if len(line.values)
    ]
    if not keys:
        return ""
    at = f'<span class="key">step <output>{round(float(chart.lines[-1].steps[-1])):,}</output></span>'
    return f'<span class="keys">{at}{"".join(keys)}</span>'


def _swatch(line: Line) -> str:
    """Return the colour and the name of a line; nothing for one that goes by the chart's title."""
    if not line.name:
        return ""
    return f'<i class="{line.colour}{" dashed" if line.dashed else ""}"></i>{escape(line.name)} '


def _points(chart: Chart) -> str:
    """Return what the page's script reads out under the pointer, as an attribute."""
    shown = [line for line in chart.lines if len(line.values)]
    if not shown:
        return ""
    axis = shown[-1].steps
    points = {
        "from": chart.extent[0],
        "to": chart.extent[1],
        "steps": [round(float(step)) for step in axis],
        "values": [[_read(line.at(i)) for i in range(len(axis))] for line in shown],
    }
    return f' data-points="{escape(json.dumps(points, separators=(",", ":")))}"'


def _read(value: float) -> str:
    return "NaN" if math.isnan(value) else figure(value)


def _y_labels(levels: list[tuple[float, str]], plane: _Plane) -> str:
    return "".join(
        f'<span style="top:{100 * plane.y(level) / HEIGHT:.2f}%">{escape(text)}</span>' for level, text in levels
    )


def _x_labels(plane: _Plane, about: int) -> str:
    labels = []
    for step in ticks(plane.left, plane.right, about):
        place = plane.x(step) / WIDTH
        end = ' class="end"' if place > 0.97 else ""
        if step == round(step):
            labels.append(f'<span{end} style="left:{place:.2%}">{whole(step)}</span>')
    return "".join(labels)


def _description(chart: Chart) -> str:
    names = ", ".join(line.name for line in chart.lines if line.name)
    return f"{chart.title} over the steps" + (f": {names}" if names else "")
