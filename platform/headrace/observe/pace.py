"""How fast a run is now, and how long it will still take."""

from __future__ import annotations

import itertools
import math

from headrace.observe.advice import Advice, feeding_advice
from headrace.observe.history import History
from headrace.observe.records import StepRecord

RECENT_RECORDS = 50
SETTLED_RECORDS = 3


def recent(history: History) -> list[StepRecord]:
    """Return the newest step records of this session: what "now" means on the console.

    Without the first, which compiles and fills the queues, unless there is no other.
    """
    session = list(itertools.takewhile(history.in_session, itertools.islice(reversed(history.steps), RECENT_RECORDS)))
    steady = [step for step in reversed(session) if not history.is_warm_up(step)]
    return steady or session or list(history.steps)[-1:]


def advice_now(history: History) -> Advice | None:
    """Return what limits the run at present, None until a few steps have shown it."""
    window = recent(history)
    return feeding_advice(window, history.cores, history.newest_pool) if len(window) >= SETTLED_RECORDS else None


def seconds_left(history: History) -> float:
    """Return the seconds until the last step at the present pace, NaN while that is not known.

    By the clock between recent records, so that checkpoints count as well.
    """
    window = recent(history)
    if len(window) < SETTLED_RECORDS:
        return math.nan
    seconds, steps = window[-1]["time"] - window[0]["time"], window[-1]["step"] - window[0]["step"]
    return (history.total_steps - history.step) * seconds / steps if seconds > 0 else math.nan
