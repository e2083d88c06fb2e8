"""The report of a run: `<run>/report.html`, one file that needs nothing else.

    header         what was trained, how it ended, the key figures
    feeding        what limited the run, and what would help
    samples        the first ones, as the model saw them
    learning       loss, learning rate, gradient, and the objective's own curves
    profile        what the profiled steps spent their time on
    failures       samples that could not be decoded
    events         restarts, resumes, steps left out, changes of the decode pool, and checkpoints
    reproducing    the commands to go on and to evaluate, the recipe, the versions

All text from outside (names of samples, error messages, the recipe) is escaped.
"""

from __future__ import annotations

import base64
import json
import math
import shlex
import statistics
import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from headrace.errors import UserError
from headrace.observe.advice import LITTLE_WAIT, MUCH_WAIT, Advice, Feeding, feeding_advice
from headrace.observe.figures import duration, figure, milliseconds, one_line, percent, plural, short_count, whole
from headrace.observe.history import FAILURE_ROWS, History
from headrace.observe.page import page_html
from headrace.observe.plain import compiled_again_text, evaluation_text, refused_step_text
from headrace.observe.pool import pool_changes, pool_text
from headrace.observe.records import METRICS_FILE, Follower, number
from headrace.observe.redact import redacted
from headrace.observe.report_charts import feeding_charts, learning_charts
from headrace.observe.sheet import SHEET_FILE
from headrace.observe.summary import outcome

REPORT_FILE = "report.html"
EVENT_ROWS = 30

_OUTCOMES = {"finished": "Finished", "stopped": "Stopped", "failed": "Failed", "cut off": "Cut off"}


def write_report(run: Path) -> Path:
    """Write the report of a run, over an earlier one, and return where it lies.

    Args:
        run: the run's folder. Its `metrics.jsonl` and `recipe.json` are used where they exist.

    Raises:
        UserError: there is no such folder.
    """
    if not run.is_dir():
        raise UserError(f"no run lies at {run}: give the folder that the training wrote")
    follower = Follower(run / METRICS_FILE)
    history = History()
    for record in follower.poll():
        history.add(record)
    advice = feeding_advice(history.steady(), history.cores, history.newest_pool)
    sections = (
        _header(run, history),
        _figures(history, advice.feeding),
        _feeding(history, advice),
        _samples(run),
        _learning(history),
        _profile(history),
        _failures(history),
        _events(history),
        _going_on(run, history),
        _footer(follower.unreadable),
    )
    path = run / REPORT_FILE
    unfinished = path.with_name(f".{REPORT_FILE}.part")
    unfinished.write_text(
        page_html(f"{_name(run, history)} · headrace", "".join(sections)), encoding="utf-8", errors="replace"
    )
    unfinished.replace(path)
    return path


def _name(run: Path, history: History) -> str:
    recipe = one_line(history.start.get("recipe", ""), 80) if history.start else ""
    return escape(recipe or one_line(run.resolve().name, 80))


def _header(run: Path, history: History) -> str:
    began = history.start
    when = time.strftime("%d %B %Y, %H:%M", time.localtime(began["time"])) if began else "not started"
    folder = escape(one_line(run.resolve().name))
    state = outcome(history)
    return (
        f'<header><p class="brand">headrace · {folder} · {when}</p><h1>{_name(run, history)}</h1>'
        f'<p class="lead {state.split()[0]}">{_sentence(history, state)}</p></header>'
    )


def _sentence(history: History, state: str) -> str:
    """Return in one sentence what was trained and how it ended."""
    start, first, last = history.start, history.first, history.last
    if start is None:
        return "<b>Nothing was recorded</b>: the workers never started."
    model = f"a model of {short_count(number(start, 'parameters'))} parameters"
    workers = plural(int(number(start, "workers")), "worker") if number(start, "workers") > 0 else "workers"
    device = escape(one_line(start.get("device", "?"), 20)).upper()
    text = f"<b>{_OUTCOMES[state]}</b> after {history.step:,} of {plural(history.total_steps, 'step')}: "
    text += f"{model} on {workers} ({device})"
    if first and last and last["step"] > first["step"]:
        text += f", loss {figure(number(first, 'loss'))} to {figure(number(last, 'loss'))}"
    text += f", in {duration(history.elapsed_seconds)}."
    if history.end and history.end.get("message"):
        text += f" {escape(one_line(history.end['message'], 600))}"
    return text


def _figures(history: History, balance: Feeding) -> str:
    if history.last is None:
        return ""
    batch = number(history.start or {}, "global_batch")
    last, losses = history.last, [number(step, "loss") for step in history.steps]
    finite = [loss for loss in losses if loss == loss]
    samples, failed = number(last, "position"), history.failed_samples
    restarts = plural(len(history.restarts), "restart") if history.restarts else "no restart"
    each = f"{batch:,.0f} samples each" if batch > 0 else ""
    tiles = [
        ("Final loss", figure(losses[-1]), f"lowest {figure(min(finite))}" if finite else "", ""),
        ("Speed", f"{figure(balance.given)} clips/s", f"could take {figure(balance.demand)}", ""),
        ("Waiting for data", percent(balance.wait_share), "of each step", _rating(balance.wait_share)),
        ("Time", duration(history.elapsed_seconds), restarts, ""),
        _held_out_tile(history) or ("Steps", whole(history.step), each, ""),
        ("Samples seen", whole(samples), _arithmetic(history), ""),
        (
            "Failed samples",
            whole(failed),
            f"{percent(failed / max(samples, 1))} of all",
            "fair" if failed else "",
        ),
        ("Checkpoints", whole(len(history.checkpoints)), _newest_checkpoint(history), ""),
    ]
    cells = (
        f'<div><dt>{escape(label)}</dt><dd class="value {rating}">{escape(value)}</dd>'
        f'<dd class="detail">{escape(detail)}</dd></div>'
        for label, value, detail, rating in tiles
    )
    return f'<dl class="figures">{"".join(cells)}</dl>'


def _held_out_tile(history: History) -> tuple[str, str, str, str] | None:
    """Return the newest score on held-out samples, and the best: of their loss, or else of what there is."""
    if not history.evaluations:
        return None
    scores = history.evaluations[-1].get("scores") or {}
    name = "loss" if "loss" in scores else next(iter(scores), "loss")
    best = history.best
    detail = f"best {figure(number(best.get('scores') or {}, name))} at step {best['step']:,}" if best else ""
    return f"Held-out {one_line(name, 20)}", figure(number(scores, name)), detail, ""


def _newest_checkpoint(history: History) -> str:
    if not history.checkpoints:
        return "none"
    best = f", best at {history.best['step']:,}" if history.best else ""
    return f"newest at step {history.checkpoints[-1]['step']:,}{best}"


def _arithmetic(history: History) -> str:
    """Return what the model computes for a sample, and how well the devices are used."""
    flops = number(history.start or {}, "flops_per_clip")
    if math.isnan(flops):
        return ""
    mfus = [mfu for step in history.steady() if (mfu := number(step, "mfu")) == mfu]
    used = f", {percent(statistics.median(mfus))} MFU" if mfus else ""
    return f"{flops / 1e9:,.3g} GFLOP each{used}"


def _feeding(history: History, advice: Advice) -> str:
    if history.last is None:
        return ""
    rating = _rating(advice.feeding.wait_share)
    sentence = advice.sentence[:1].upper() + advice.sentence[1:]
    return (
        f'<section><h2>Feeding</h2><div class="advice {rating}"><p class="first">{escape(sentence)}.</p>'
        f'<p class="why">{escape(advice.reasoning)}</p></div>{feeding_charts(history)}</section>'
    )


def _samples(run: Path) -> str:
    path = run / SHEET_FILE
    if not path.is_file():
        return ""
    picture = base64.b64encode(path.read_bytes()).decode()
    return (
        '<section><h2>Samples</h2><p class="note">The first ones of step 1, augmented: what the model saw.</p>'
        f'<img class="sheet" alt="samples of step 1" src="data:image/jpeg;base64,{picture}"></section>'
    )


def _learning(history: History) -> str:
    return "" if history.last is None else f"<section><h2>Learning</h2>{learning_charts(history)}</section>"


def _profile(history: History) -> str:
    if history.profile is None:
        return ""
    rows = [
        (
            escape(one_line(kernel.get("name", ""), 120)),
            f"{number(kernel, 'calls'):,.0f}",
            escape(milliseconds(number(kernel, "seconds"))),
            percent(number(kernel, "share")),
        )
        for kernel in history.profile.get("kernels") or []
    ]
    trace = escape(one_line(history.profile.get("path", "")))
    return (
        f'<section><h2>Profile</h2><p class="note">The costliest kernels up to step {history.profile["step"]:,}, each '
        f"by itself. The trace is {trace}: open it at ui.perfetto.dev.</p>"
        f"{_table(('Kernel', '#Calls', '#Time', '#Share'), rows)}</section>"
    )


def _failures(history: History) -> str:
    if not history.failures:
        return ""
    reasons = [(escape(one_line(reason, 80)), f"{count:,}") for reason, count in history.failures.most_common(20)]
    rows = [
        tuple(escape(one_line(row.get(name, ""))) for name in ("key", "shard", "reason", "message"))
        for row in history.failure_rows
    ]
    count = sum(history.failures.values())
    shown = f"The first {FAILURE_ROWS} of {count:,}." if count > len(rows) else ""
    return (
        '<section><h2>Failed samples</h2><p class="note">They could not be decoded; in training others took '
        f"their place. {shown}</p>"
        f"{_table(('Reason', '#Samples'), reasons, 'short')}"
        f"{_table(('Key', 'Shard', 'Reason', 'Message'), rows)}</section>"
    )


def _events(history: History) -> str:
    events = [
        (restart["time"], restart["step"], "restart", one_line(restart.get("reason", "")))
        for restart in history.restarts
    ]
    events += [(resume["time"], resume["step"], "resumed", "by hand") for resume in history.resumes]
    events += [
        (refused["time"], refused["step"], "left out", refused_step_text(refused)) for refused in history.refused
    ]
    events += [
        (step["time"], step["step"], "compiled", compiled_again_text(step, history))
        for step in history.steps
        if history.compiled_again(step)
    ]
    events += [
        (evaluation["time"], evaluation["step"], "evaluation", evaluation_text(evaluation))
        for evaluation in history.evaluations[-EVENT_ROWS:]
    ]
    events += [(change["time"], step, "decoders", pool_text(change)) for step, change in pool_changes(history)]
    for saved in history.checkpoints[-EVENT_ROWS:]:
        took, blocked = number(saved, "seconds"), number(saved, "blocked_seconds")
        text = f"{one_line(saved.get('path', ''))}, {duration(took)}"
        if blocked == blocked:
            text += f", of which training stood still for {milliseconds(blocked)}"
        events.append((saved["time"], saved["step"], "checkpoint", text))
    if not events:
        return ""
    rows = [
        (time.strftime("%H:%M:%S", time.localtime(when)), f"{step:,}", kind, escape(text))
        for when, step, kind, text in sorted(events)[-2 * EVENT_ROWS :]
    ]
    return f"<section><h2>Events</h2>{_table(('Time', '#Step', 'Event', ''), rows)}</section>"


def _going_on(run: Path, history: History) -> str:
    folder = escape(shlex.quote(one_line(run, 1000)))
    recipe, world = _recipe(run), (history.start.get("world") or {}) if history.start else {}
    versions = [(escape(one_line(name, 40)), escape(one_line(value, 80))) for name, value in world.items()]
    text = escape(json.dumps(redacted(recipe), indent=2, ensure_ascii=False, default=str)) if recipe else ""
    return (
        "<section><h2>Reproducing</h2>"
        f'<p class="note">To go on from the newest checkpoint, or to evaluate it:</p>'
        f"<pre>python jobs/train.py --resume {folder}\npython jobs/evaluate.py {folder}</pre>"
        + (f"<details><summary>The recipe as it ran</summary><pre>{_printable(text)}</pre></details>" if text else "")
        + (f"<details open><summary>Versions</summary>{_table((), versions, 'short')}</details>" if versions else "")
        + "</section>"
    )


def _recipe(run: Path) -> Any:
    path = run / "recipe.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return {"unreadable": f"recipe.json: {one_line(error)}"}


def _footer(unreadable: int) -> str:
    text = f"Written {time.strftime('%d %B %Y, %H:%M')} by headrace."
    if unreadable:
        text += f" {plural(unreadable, 'line')} of {METRICS_FILE} could not be read and is not in it."
    return f"<footer>{text}</footer>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """Return a table of escaped cells. A column whose head begins with # holds numbers."""
    numeric = [title.startswith("#") for title in head]
    titles = "".join(
        f"<th{' class=number' if is_number else ''}>{title.lstrip('#')}</th>"
        for title, is_number in zip(head, numeric, strict=True)
    )
    body = ""
    for row in rows:
        kinds = numeric or [False] * len(row)
        cells = (f"<td{' class=number' if n else ''}>{cell}</td>" for cell, n in zip(row, kinds, strict=True))
        body += f"<tr>{''.join(cells)}</tr>"
    top = f"<thead><tr>{titles}</tr></thead>" if head else ""
    return f'<div class="scroll"><table class="{style}">{top}<tbody>{body}</tbody></table></div>'


def _rating(wait_share: float) -> str:
    if wait_share != wait_share:
        return ""
    return "good" if wait_share < LITTLE_WAIT else "fair" if wait_share < MUCH_WAIT else "poor"


def _printable(text: str) -> str:
    return "\n".join(_code_line(line) for line in text.split("\n"))


def _code_line(line: str) -> str:
    """Return a line without control characters, its leading spaces kept."""
    indent = len(line) - len(line.lstrip(" "))
    return " " * indent + one_line(line, 4000)
