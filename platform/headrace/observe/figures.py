"""How figures and foreign text are written for a person, the same on the console and in the report."""

from __future__ import annotations

import math


def figure(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits: 0.412, 52.1, 12,345, 3.00e-4, 1.2e9."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))  # after rounding: 9.999 is 10
    if magnitude < -3 or magnitude > 7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def whole(value: float) -> str:
    """Return a count: 3,200."""
    return f"{value:,.0f}" if math.isfinite(value) else "unknown"


def short_count(value: float) -> str:
    """Return a large count in three digits: 940, 1.23 M."""
    if not math.isfinite(value):
        return "unknown"
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * scale:
            return f"{figure(value / scale)} {unit}"
    return f"{value:.0f}"


def percent(share: float) -> str:
    """Return a share of 1: 0.3 %, 7.0 %, 42 %."""
    if not math.isfinite(share):
        return "unknown"
    value = 100 * share
    return f"{value:.0f} %" if value == 0 or abs(value) >= 9.95 else f"{value:.1f} %"


def duration(seconds: float) -> str:
    """Return a time in at most two units: 0.4 s, 12 s, 1 min 02 s, 2 h 05 min, 3 d 04 h."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole_seconds = round(seconds)
    if whole_seconds < 60:
        return f"{whole_seconds} s"
    if whole_seconds < 3600:
        return f"{whole_seconds // 60} min {whole_seconds % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def milliseconds(seconds: float) -> str:
    """Return a short time: 11.2 ms, 1.40 s."""
    if not math.isfinite(seconds):
        return "unknown"
    return f"{figure(1000 * seconds)} ms" if seconds < 0.9995 else f"{figure(seconds)} s"


def size(count: float) -> str:
    """Return a size in bytes: 3.20 GB (10^9 bytes)."""
    if not math.isfinite(count):
        return "unknown"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * scale:
            return f"{figure(count / scale)} {unit}"
    return f"{count:.0f} B"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 worker, 2 workers, 3,200 clips, 2 micro-batches."""
    ending = "" if count == 1 else "es" if noun.endswith(("ch", "s", "x")) else "s"
    return f"{count:,} {noun}{ending}"


def one_line(text: object, limit: int = 200) -> str:
    """Return foreign text (a key, an error message) fit to be shown: one line, no control characters.

    Names of samples come from archives: they may hold terminal escapes, or bytes that are no UTF-8.
    """
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
