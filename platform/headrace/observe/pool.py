"""What was asked of the decode pool, in a line."""

from __future__ import annotations

import bisect

from headrace.observe.figures import one_line
from headrace.observe.history import History
from headrace.observe.records import PoolRecord, number


def pool_text(change: PoolRecord, arrow: str = "→") -> str:
    """Return a change and why; of several streams, also which: 3 → 6: training waits 34 % of its time, …"""
    before, after = change["from"], change["to"]
    size = f"{before} {arrow} {after}" if before and before != after else f"{after}"
    streams = number(change, "streams")
    stream = f"stream {number(change, 'stream') + 1:.0f} of {streams:.0f}: " if streams > 1 else ""
    return f"{size}: {stream}{one_line(change.get('reason', ''))}"


def pool_changes(history: History) -> list[tuple[int, PoolRecord]]:
    """Return what was asked of the pool, each with the step that was done by then."""
    steps = list(history.steps)
    times = [step["time"] for step in steps]
    done = (bisect.bisect_right(times, change["time"]) for change in history.pool)
    return [
        (steps[count - 1]["step"] if count else 0, change) for count, change in zip(done, history.pool, strict=True)
    ]
