"""The plot of a learning-rate range test: loss over the learning rate, as one SVG file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.observe.curves import ticks
from headrace.observe.figures import figure

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 440, 70, 24, 64, 54
_STYLE = """
svg { --paper: #fdfdfc; --ink: #1b1f24; --soft: #626b76; --rule: #e4e6e8; --main: #0b6e8f; --faint: #0b6e8f66;
  --good: #2b7a4b; background: var(--paper);
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { svg { --paper: #14171a; --ink: #e6e8ea; --soft: #98a1ab; --rule: #2a2f35;
  --main: #55b4d4; --faint: #55b4d466; --good: #63b784; } }
text { fill: var(--soft); } .head { fill: var(--ink); font-size: 17px; font-weight: 620; }
path { fill: none; stroke: var(--rule); } .raw { stroke: var(--faint); }
.smooth { stroke: var(--main); stroke-width: 2.5; stroke-linejoin: round; }
.mark { stroke: var(--good); stroke-width: 1.5; stroke-dasharray: 4 4; } .good { fill: var(--good); }
.end { text-anchor: end; } .middle { text-anchor: middle; }
"""


def write_range_chart(
    rates: NDArray[np.float64],
    losses: NDArray[np.float64],
    smoothed: NDArray[np.float64],
    suggestion: float,
    path: Path,
) -> None:
    """Write the plot.

    Args:
        rates, losses, smoothed: [N] learning rates, ascending, the loss at each and its moving average.
        suggestion: the rate that is marked; NaN for none.
        path: the file; its folder is made.
    """
    left, right = math.log10(rates[0]), math.log10(rates[-1])
    low, high = float(smoothed.min()), float(np.percentile(losses, 95))
    spare = 0.06 * max(high - low, 1e-9)
    low, high = min(low, float(np.percentile(losses, 2))) - spare, high + spare

    def x(rate: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log10(rate) - left) / max(right - left, 1e-9)

    def y(loss: float) -> float:
        place = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - loss) / (high - low)
        return min(max(place, _TOP - 4), _HEIGHT - _BOTTOM + 4)

    def line(values: NDArray[np.float64], kind: str) -> str:
        points = "L".join(f"{x(rate):.1f} {y(loss):.1f}" for rate, loss in zip(rates, values, strict=True))
        return f'<path class="{kind}" d="M{points}"/>'

    drawn = [f'<text class="head" x="{_LEFT}" y="30">Loss over the learning rate</text>']
    for loss in ticks(low, high, 5):
        drawn.append(f'<path d="M{_LEFT} {y(loss):.1f}H{_WIDTH - _RIGHT}"/>')
        drawn.append(f'<text class="end" x="{_LEFT - 8}" y="{y(loss) + 4:.1f}">{loss:g}</text>')
    for decade in range(math.ceil(left - 1e-9), math.floor(right + 1e-9) + 1):
        place = x(10.0**decade)
        drawn.append(f'<path d="M{place:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        drawn.append(f'<text class="middle" x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 22}">1e{decade}</text>')
    drawn += [line(losses, "raw"), line(smoothed, "smooth")]
    if math.isfinite(suggestion):
        place = x(suggestion)
        side = "end" if place > _WIDTH / 2 else ""
        drawn.append(f'<path class="mark" d="M{place:.1f} {_TOP - 6}V{_HEIGHT - _BOTTOM}"/>')
        drawn.append(
            f'<text class="good {side}" x="{place + (-6 if side else 6):.1f}" y="{_TOP - 10}">'
            f"falls fastest at {figure(suggestion, 2)}</text>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="loss over the learning rate"><style>{_STYLE}</style>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" style="fill: var(--paper)"/>{"".join(drawn)}</svg>\n',
        encoding="utf-8",
    )
