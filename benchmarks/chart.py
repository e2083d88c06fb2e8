"""Charts of a benchmark as one SVG file, in the look of the run report. It follows the reader's light or dark mode.

Drawn by hand: a plotting library would be a dependency of tens of megabytes for a few lines and words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, TypeAlias

Colour = Literal["main", "faint", "third", "poor"]

_WIDTH, _ROW, _MARGIN, _HEAD = 1080, 22, 24, 78
_STYLE = """
svg { --paper: #fdfdfc; --ink: #1b1f24; --soft: #626b76; --rule: #e4e6e8;
  --main: #0b6e8f; --faint: #c9ced3; --third: #8a8f98; --poor: #b3372f;
  background: var(--paper); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) { svg { --paper: #14171a; --ink: #e6e8ea; --soft: #98a1ab; --rule: #2a2f35;
  --main: #55b4d4; --faint: #3a4149; --third: #868e98; --poor: #e57b73; } }
text { fill: var(--ink); } .soft { fill: var(--soft); font-size: 12px; } .title { font-size: 15px; font-weight: 620; }
.head { font-size: 19px; font-weight: 640; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--rule); } .even { stroke: var(--soft); stroke-dasharray: 2 3; }
.spread { stroke: var(--ink); stroke-width: 1.5; }
.bar { stroke-width: 3; } .dot { stroke-width: 9; stroke-linecap: round; } .tick { stroke-width: 2; }
.fill-main { fill: var(--main); } .fill-faint { fill: var(--faint); }
.fill-third { fill: var(--third); } .fill-poor { fill: var(--poor); }
.main { stroke: var(--main); } .faint { stroke: var(--faint); }
.third { stroke: var(--third); } .poor { stroke: var(--poor); }
"""


@dataclass(frozen=True)
class Bar:
    """A quantity, with the spread of its measurements."""

    label: str
    value: float
    low: float
    high: float
    colour: Colour = "faint"


@dataclass(frozen=True)
class Bars:
    """Quantities from 0, one a row.

    Attributes:
        note: says what is measured, in which unit.
        form: how a value is written, a format specification such as ".1f".
    """

    title: str
    note: str
    rows: Sequence[Bar]
    form: str = ".1f"


@dataclass(frozen=True)
class Dot:
    """A ratio to something that counts as 1; `mark` is another such ratio, drawn as a tick."""

    label: str
    value: float
    mark: float | None = None
    colour: Colour = "main"


@dataclass(frozen=True)
class Dots:
    """Ratios around 1, one a row; what is left of 1 is cheaper."""

    title: str
    note: str
    rows: Sequence[Dot]


@dataclass(frozen=True)
class Line:
    """A quantity over another, both from 0; drawn in 12 rows' height.

    Attributes:
        points: (x, y), by ascending x.
        unit: of x, written at its end.
    """

    title: str
    note: str
    points: Sequence[tuple[float, float]]
    unit: str

    @property
    def rows(self) -> range:
        """The height of the panel, in rows."""
        return range(12 if self.points else 0)


Panel: TypeAlias = "Bars | Dots | Line"


def chart_svg(head: str, note: str, panels: Sequence[Panel]) -> str:
    """Return panels beside each other as an SVG document.

    Args:
        head, note: stand above all panels.
        panels: one to three; those without rows are left out.
    """
    shown = [panel for panel in panels if panel.rows]
    height = _HEAD + 62 + _ROW * max((len(panel.rows) for panel in shown), default=0) + _MARGIN
    width = (_WIDTH - _MARGIN * (len(shown) + 1)) / max(len(shown), 1)
    drawn = "".join(
        f'<g transform="translate({_MARGIN + number * (width + _MARGIN):.1f} {_HEAD})">{_draw(panel, width)}</g>'
        for number, panel in enumerate(shown)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(head)}"><style>{_STYLE}</style>'
        f'<rect width="{_WIDTH}" height="{height}" style="fill: var(--paper)"/>'
        f"{_text(_MARGIN, 34, head, 'head')}{_text(_MARGIN, 54, note, 'soft')}{drawn}</svg>\n"
    )


def _draw(panel: Panel, width: float) -> str:
    if isinstance(panel, Bars):
        return _bars(panel, width)
    return _dots(panel, width) if isinstance(panel, Dots) else _line(panel, width)


def _line(panel: Line, width: float) -> str:
    left, bottom, height = 46, 44 + _ROW * len(panel.rows), _ROW * len(panel.rows) - 10
    most_x, most_y = panel.points[-1][0], max(y for _, y in panel.points) or 1.0
    step = 10 ** math.floor(math.log10(most_y))
    step = next(part for part in (step, step / 2, step / 5) if most_y / part >= 4)
    top = step * math.ceil(most_y / step)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (width - left) * x / most_x, bottom - height * y / top

    drawn = [_heading(panel)]
    for number in range(round(top / step) + 1):
        y = place(0, number * step)[1]
        drawn += [
            f'<path class="grid" d="M{left} {y:.1f}H{width:.1f}"/>',
            _text(left - 8, y + 4, f"{number * step:g}", "soft end"),
        ]
    for part in range(5):
        x, value = left + (width - left) * part / 4, most_x * part / 4
        drawn.append(
            _text(
                x,
                bottom + 18,
                f"{value:,.0f}" + (f" {panel.unit}" if part == 4 else ""),
                "soft " + ("end" if part == 4 else "middle"),
            )
        )
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in panel.points))
    return "".join([*drawn, f'<path class="tick main" style="fill: none" d="M{path}"/>'])


def _bars(panel: Bars, width: float) -> str:
    left = _label_width(panel.rows)
    scale = (width - left - 54) / max(max(row.high, row.value) for row in panel.rows)
    drawn = [_heading(panel)]
    for y, row in zip(_rows(len(panel.rows)), panel.rows, strict=True):
        end, low, high = (left + scale * value for value in (row.value, row.low, row.high))
        drawn += [
            _text(left - 10, y + 4, row.label, "end"),
            f'<rect class="fill-{row.colour}" x="{left:.1f}" y="{y - 6}" width="{end - left:.1f}" height="12"/>',
            f'<path class="spread" d="M{low:.1f} {y}H{high:.1f}"/>',
            _text(max(end, high) + 8, y + 4, f"{row.value:{panel.form}}", ""),
        ]
    return "".join(drawn)


def _dots(panel: Dots, width: float) -> str:
    left, right = _label_width(panel.rows), width - 46
    most = max(1.2, *(row.value for row in panel.rows))
    scale = (right - left) / most
    rows = _rows(len(panel.rows))
    bottom, even = rows[-1] + 12, left + scale
    drawn = [_heading(panel)]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + scale * tick
        kind = "even" if tick == 1 else "grid"
        drawn.append(
            f'<path class="{kind}" d="M{x:.1f} 44V{bottom}"/>{_text(x, bottom + 14, f"{tick:g}", "soft middle")}'
        )
    for y, row in zip(rows, panel.rows, strict=True):
        x = left + scale * row.value
        drawn += [
            _text(left - 10, y + 4, row.label, "end"),
            f'<path class="bar {row.colour}" d="M{even:.1f} {y}H{x:.1f}"/>',
            f'<path class="dot {row.colour}" d="M{x:.1f} {y}h0"/>',
            _text(width, y + 4, f"{row.value:.2f}", "end"),
        ]
        if row.mark is not None:
            drawn.append(f'<path class="tick third" d="M{left + scale * row.mark:.1f} {y - 7}v14"/>')
    return "".join(drawn)


def _heading(panel: Panel) -> str:
    return _text(0, 14, panel.title, "title") + _text(0, 33, panel.note, "soft")


def _rows(count: int) -> list[int]:
    """Return the height at which each row lies."""
    return [56 + _ROW * number for number in range(count)]


def _label_width(rows: Sequence[Bar] | Sequence[Dot]) -> float:
    return 16 + 6.9 * max(len(row.label) for row in rows)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'
