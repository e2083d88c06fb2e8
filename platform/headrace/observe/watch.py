"""Following a run from outside: its records, as they come, to everyone who looks on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from headrace.observe.console import console_observer
from headrace.observe.figures import one_line, plural
from headrace.observe.history import History
from headrace.observe.records import METRICS_FILE, Follower, Record
from headrace.observe.wandb_log import WandbLog

POLL_SECONDS = 0.2
KEPT_STEPS = 1000


class Observer(Protocol):
    """Someone who looks on. Called from one thread; every call returns at once."""

    def see(self, record: Record, history: History) -> None:
        """Take in a new record, which `history` holds already."""

    def tick(self, history: History) -> None:
        """Note that time has passed. Called several times a second."""


def watch(
    run: Path,
    finished: Callable[[], bool],
    recipe: Mapping[str, Any],
    console: bool = True,
    use_wandb: bool = True,
    since: int | None = None,
) -> History:
    """Show a run until it is finished and all that it wrote has been read; return its history.

    Args:
        run: its folder.
        finished: tells whether the run is over. What it raises ends the watching and is passed on.
        recipe: the resolved recipe; its "name" is shown, all of it becomes the config in W&B.
        console: show the run on standard output: live on a terminal, otherwise plain lines.
        use_wandb: mirror it to Weights & Biases.
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
    wandb_log = WandbLog(run, recipe) if use_wandb else None
    if wandb_log is not None and not wandb_log.resumed:
        _catch_up(wandb_log, earlier)
    observers: list[Observer] = [observer for observer in (screen, wandb_log) if observer is not None]
    try:
        while True:
            over = finished()  # asked first: what was written before it became true is read below
            for record in follower.poll():
                history.add(record)
                for observer in observers:
                    observer.see(record, history)
            for observer in observers:
                observer.tick(history)
            if over:
                return history
            time.sleep(POLL_SECONDS)
    finally:
        where = wandb_log.close(history) if wandb_log is not None else ""
        if screen is not None:
            screen.close(history, where)


def recorded_bytes(run: Path) -> int:
    """Return how much a run has recorded so far; 0 for a new one."""
    file = run / METRICS_FILE
    return file.stat().st_size if file.exists() else 0


def _catch_up(wandb_log: WandbLog, records: list[Record]) -> None:
    history = History(keep=1)
    for record in records:
        history.add(record)
        wandb_log.see(record, history)


def _what_starts(recipe: Mapping[str, Any]) -> str:
    """Return what is waited for at first: 2 workers and 3 decoders."""
    train, data = recipe.get("train") or {}, recipe.get("data") or {}
    workers, decoders = train.get("workers"), str(data.get("decoders", ""))
    trainers = plural(workers, "worker") if isinstance(workers, int) else "the workers"
    return f"{trainers} and {f'{decoders} decoders' if decoders[:1].isdigit() else 'the decoders'}"
