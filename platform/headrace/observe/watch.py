"""Following a run from outside: its records, as they come, to everyone who looks on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.observe.console import console_observer
from headrace.observe.figures import one_line, plural
from headrace.observe.history import History
from headrace.observe.mirror import Mirror
from headrace.observe.records import METRICS_FILE, Follower, Record

POLL_SECONDS = 0.2
KEPT_STEPS = 1000


def watch(
    run: Path,
    finished: Callable[[], bool],
    recipe: Mapping[str, Any],
    console: bool = True,
    mirrors: Sequence[Mirror] = (),
    since: int | None = None,
) -> History:
    """Show a run until it is finished and all that it wrote has been read; return its history.

    Args:
        run: its folder.
        finished: tells whether the run is over. What it raises ends the watching and is passed on.
        recipe: the resolved recipe, of which the name is shown.
        console: show the run on standard output: live on a terminal, otherwise plain lines.
        mirrors: where else the run is to be seen.
        since: bytes of `metrics.jsonl` that an earlier session wrote (`recorded_bytes`, asked before this one
            starts): they are known, and not told again. By default all that is there when this is called.
    """
    history = History(keep=KEPT_STEPS)
    follower = Follower(run / METRICS_FILE)
    earlier = follower.poll(until=since)
    for record in earlier:
        history.add(record)

    name = one_line(recipe.get("name") or run.name, 40)
    screen = console_observer(name, _what_starts(recipe)) if console else None
    for mirror in mirrors:
        if not mirror.resumed:
            _catch_up(mirror, earlier)
    try:
        while True:
            over = finished()  # asked first: what was written before it became true is read below
            for record in follower.poll():
                history.add(record)
                for observer in (screen, *mirrors):
                    if observer is not None:
                        observer.see(record, history)
            if screen is not None:
                screen.tick(history)
            if over:
                return history
            time.sleep(POLL_SECONDS)
    finally:
        where = {mirror.name: mirror.close(history) for mirror in mirrors}
        if screen is not None:
            screen.close(history, where)


def recorded_bytes(run: Path) -> int:
    """Return how much a run has recorded so far; 0 for a new one."""
    file = run / METRICS_FILE
    return file.stat().st_size if file.exists() else 0


def _catch_up(mirror: Mirror, records: list[Record]) -> None:
    history = History(keep=1)
    for record in records:
        history.add(record)
        mirror.see(record, history)


def _what_starts(recipe: Mapping[str, Any]) -> str:
    """Return what is waited for at first: 2 workers and 3 decoders."""
    train, data = recipe.get("train") or {}, recipe.get("data") or {}
    workers, decoders = train.get("workers"), str(data.get("decoders", ""))
    trainers = plural(workers, "worker") if isinstance(workers, int) else "the workers"
    return f"{trainers} and {f'{decoders} decoders' if decoders[:1].isdigit() else 'the decoders'}"
