"""The run on a terminal: one panel that is drawn anew in place.

recipe, workers, device               progress and time left
loss and its recent past              the same of held-out samples
share of each step spent waiting for data
speed, learning rate, gradient        decoders, queue, failures, checkpoint
what limits the run, and what to do about it
what the decode pool did last, and why
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from headrace.observe.advice import LITTLE_WAIT, MUCH_WAIT, feeding
from headrace.observe.figures import (
    duration,
    figure,
    milliseconds,
    one_line,
    percent,
    plural,
    short_count,
    size,
)
from headrace.observe.history import History
from headrace.observe.pace import advice_now, recent, seconds_left
from headrace.observe.plain import PlainConsole, compiled_again_text, mfu_text, refused_step_text, workers_on
from headrace.observe.pool import pool_text
from headrace.observe.records import Record, StepRecord, number
from headrace.observe.summary import outcome, summary_lines

WIDEST = 104
QUIET_SECONDS = 30.0
NEWS_SECONDS = 60.0

_BLOCKS = "▁▂▃▄▅▆▇█"
_OUTCOME_STYLE = {"finished": "green", "stopped": "yellow", "failed": "red", "cut off": "red"}


def console_observer(name: str, starting: str) -> PlainConsole | LiveConsole:
    """Return the display that fits standard output: live on a terminal, lines elsewhere."""
    console = Console()
    live = console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")
    return LiveConsole(name, starting, console) if live else PlainConsole(starting)


class LiveConsole:
    """An observer that keeps a panel up to date, and leaves the summary in its place.

    Args:
        name: of the recipe.
        starting: what is being waited for at first.
        console: a terminal.
        clock: seconds, only ever growing.
    """

    def __init__(self, name: str, starting: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._waiting_for = name, f"starting {starting}"
        self._clock = clock
        self._since = clock()  # when the newest record came, or the wait began
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._live.start()

    def see(self, record: Record, history: History) -> None:
        """Take in a record; what is out of the ordinary leaves a line above the panel."""
        if record["kind"] in ("start", "step", "restart", "end"):
            self._since = self._clock()
        if record["kind"] == "start":
            self._waiting_for = f"{workers_on(record)}: waiting for the first step"
        elif record["kind"] == "restart":
            reason = one_line(record.get("reason", ""))
            self._console.print(
                Text(f"restart {len(history.restarts)} from step {record['step']:,}: {reason}", "yellow")
            )

        elif record["kind"] == "refused":
            self._console.print(Text(refused_step_text(record), "yellow"))
        elif record["kind"] == "step" and history.compiled_again(record):
            self._console.print(Text(compiled_again_text(record, history), "yellow"))

    def tick(self, history: History) -> None:
        """Draw the panel."""
        quiet = self._clock() - self._since
        width = min(self._console.width, WIDEST)
        self._live.update(run_panel(self._name, self._waiting_for, history, quiet, width), refresh=True)

    def close(self, history: History, where: Mapping[str, str] | None = None) -> None:
        """Take the panel down and print the summary."""
        self._live.stop()
        table = Table.grid(padding=(0, 2))
        for label, text in summary_lines(history, where or {}):
            style = _OUTCOME_STYLE.get(label, "dim") if label == outcome(history) else "dim"
            table.add_row(Text(label, style), Text(text, overflow="fold"))
        self._console.print(table)


def run_panel(name: str, waiting_for: str, history: History, quiet_seconds: float, width: int) -> Panel:
    """Return the panel.

    Args:
        waiting_for: shown until the first step is there.
        quiet_seconds: since the newest record.
        width: columns of the whole panel.
    """
    inner = width - 6
    body: list[RenderableType]
    if history.last is None:
        body = [Text(f"{waiting_for} … {quiet_seconds:.0f} s", "dim")]
    else:
        body = [
            _progress(history, inner),
            Text(),
            _curves(history, inner),
            Text(),
            _details(history.last, history, inner),
            Text(),
            _verdict(history, waiting_for, quiet_seconds),
            *_pool_news(history),
        ]
    title = Text(f" {name} ", "bold")
    if history.start is not None:
        title.append(f"· {workers_on(history.start)} ", "dim not bold")
        title.append(f"· {short_count(number(history.start, 'parameters'))} parameters ", "dim not bold")
    subtitle = Text(f" {duration(history.elapsed_seconds)} ", "dim") if history.elapsed_seconds else None
    return Panel(
        Group(*body),
        box=box.ROUNDED,
        border_style="dim",
        title=title,
        title_align="left",
        subtitle=subtitle,
        subtitle_align="right",
        padding=(1, 2),
        width=width,
    )


def sparkline(values: Sequence[float], cells: int) -> str:
    """Return the course of values as blocks, the mean of an equal share of them in each cell.

    Values that are not finite leave their cell empty where there is no other. A level course is a low line.
    """
    count = min(cells, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    means = [_mean(values[low:high]) for low, high in pairwise(edges)]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return ""
    lowest, span = min(finite), max(finite) - min(finite)
    scale = (len(_BLOCKS) - 1) / span if span > 0 and math.isfinite(span) else 0.0
    return "".join(_BLOCKS[round((mean - lowest) * scale)] if math.isfinite(mean) else " " for mean in means)


def wait_style(wait_share: float) -> str:
    """Return the colour of a share of time spent waiting: green, yellow, red."""
    if math.isnan(wait_share):
        return "dim"
    return "green" if wait_share < LITTLE_WAIT else "yellow" if wait_share < MUCH_WAIT else "red"


def _progress(history: History, width: int) -> Table:
    step, steps = history.step, max(history.total_steps, 1)
    share = min(1.0, step / steps)
    left = seconds_left(history)
    text = f"{step:,} of {steps:,}  {100 * share:3.0f} %"
    if left > 0:
        text += f"  {duration(left)} left"
    table = Table.grid(padding=(0, 2))
    table.add_row(_bar(share, max(10, width - 46), "cyan"), Text(text))
    return table


def _curves(history: History, width: int) -> Table:
    losses = [number(step, "loss") for step in history.steps]
    balance = feeding(recent(history))
    style = wait_style(balance.wait_share)
    step_seconds = _mean([number(step, "step_seconds") for step in recent(history)])
    table = _grid(12, 10 if math.isfinite(losses[-1]) else 14)
    table.add_column()
    table.add_row("loss", _loss(losses[-1]), Text(sparkline(losses, width - 26), "cyan"))
    if history.evaluations:
        held_out = [number(evaluation.get("scores") or {}, "loss") for evaluation in history.evaluations]
        best = f"  best at step {history.best['step']:,}" if history.best else ""
        curve = Text(sparkline(held_out, max(1, width - 26 - len(best))), "cyan") + Text(best, "dim")
        table.add_row("held out", _loss(held_out[-1]), curve)
    of_step = f"  of a {milliseconds(step_seconds)} step{mfu_text(history.steps[-1])}"
    waiting = _bar(balance.wait_share, max(10, width - 24 - max(22, len(of_step))), style) + Text(of_step, "dim")
    table.add_row("waiting", Text(percent(balance.wait_share), f"bold {style}"), waiting)
    return table


def _details(step: StepRecord, history: History, width: int) -> Table:
    balance = feeding(recent(history))
    decoders = plural(balance.decoders, "actor")
    if not math.isnan(balance.decode_seconds):
        decoders += f", {milliseconds(balance.decode_seconds)} CPU a clip"
    queue, in_flight = number(step, "queue"), number(step, "in_flight_bytes")
    ready = "unknown" if math.isnan(queue) else f"{int(queue)} ready"
    if not math.isnan(in_flight):
        ready += f", {size(in_flight)} in flight"
    failed = history.failed_samples
    failures = (
        f"{plural(failed, 'sample')} ({percent(failed / max(number(step, 'position'), 1))})" if failed else "none"
    )
    saved = f"step {history.checkpoints[-1]['step']:,}" if history.checkpoints else "none yet"
    left = [
        ("speed", Text(f"{figure(balance.given)} clips/s")),
        ("lr", Text(figure(number(step, "lr")))),
        ("gradient", _loss(number(step, "grad_norm"))),
        ("memory", Text(size(number(step, "memory_bytes")))),
    ]
    right = [
        ("decoders", Text(decoders)),
        ("queue", Text(ready)),
        ("failures", Text(failures, "yellow" if failed else "")),
        ("checkpoint", Text(saved)),
    ]
    if width < 60:
        table = _grid(12, width - 12)
        for label, text in left + right:
            table.add_row(label, text)
        return table
    table = _grid(12, width // 2 - 17)
    table.add_column(width=12, style="dim")
    table.add_column()
    for (label, text), (other_label, other_text) in zip(left, right, strict=True):
        table.add_row(label, text, other_label, other_text)
    return table


def _verdict(history: History, waiting_for: str, quiet_seconds: float) -> Text:
    if history.last is not None and not history.in_session(history.last):
        return Text(f"{waiting_for} … {quiet_seconds:.0f} s", "yellow")
    step_seconds = _mean([number(step, "step_seconds") for step in recent(history)])
    patience = max(QUIET_SECONDS, 10 * step_seconds if math.isfinite(step_seconds) else 0.0)
    if quiet_seconds > patience:
        return Text(f"no step for {duration(quiet_seconds)}", "yellow")
    advice = advice_now(history)
    if advice is None:
        return Text("the first steps compile and fill the queues", "dim")
    style = wait_style(advice.feeding.wait_share)
    return Text(advice.sentence, "dim" if style == "green" else style)


def _pool_news(history: History) -> list[Text]:
    """Return what the decode pool did last, while it is news."""
    change, last = history.newest_pool, history.last
    if change is None or last is None or not change["from"] or last["time"] - change["time"] > NEWS_SECONDS:
        return []
    return [Text(f"decoders {pool_text(change)}", "dim")]


def _grid(label_width: int, value_width: int) -> Table:
    table = Table.grid()
    table.add_column(width=label_width, style="dim")
    table.add_column(width=value_width)
    return table


def _loss(value: float) -> Text:
    return Text(figure(value), "bold" if math.isfinite(value) else "bold red")


def _bar(share: float, cells: int, style: str) -> Text:
    full = round(cells * min(1.0, max(0.0, share))) if math.isfinite(share) else 0
    if share > 0 and full == 0:
        full = 1
    return Text.assemble(("━" * full, style), ("━" * (cells - full), "bright_black"))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
