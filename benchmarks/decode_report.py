"""The decoding benchmark's results for a person (tables and a chart) and for a program (one JSON object)."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chart import Bar, Bars, Colour, Dot, Dots, chart_svg
from benchmarks.decoders import SIZE
from benchmarks.scores import AIMS, FLOOR, OURS, UNINDEXED, Case, Spread, best_other, others_of, ratio, scores_of, total


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    Attributes:
        core: the one it ran on, None where processes cannot be kept on one.
        missing: contenders that could not be started, and why.
    """

    processor: str
    cores: int
    core: int | None
    versions: dict[str, str]
    missing: dict[str, str]

    @classmethod
    def this(cls, core: int | None, versions: dict[str, str], missing: dict[str, str]) -> Machine:
        """Return this machine."""
        versions = {"python": platform.python_version(), **versions}
        return cls(_processor(), os.cpu_count() or 1, core, versions, missing)


def summary(cases: Sequence[Case], machine: Machine, repeats: int) -> dict[str, Any]:
    """Return what is judged and all that is needed to judge it, ready for JSON."""
    scores = scores_of(cases)
    judged = {name: getattr(scores, name) for name in AIMS}
    real, families = _measured(cases, family=False), _measured(cases, family=True)
    unindexed = _unindexed_ratio(real)
    return {
        **{name: None if spread is None else round(spread.median, 4) for name, spread in judged.items()},
        "frames_identical": scores.frames_identical,
        "met": {name: _is_met(name, spread) for name, spread in judged.items()},
        "quartiles": {name: [round(spread.low, 4), round(spread.high, 4)] for name, spread in judged.items() if spread},
        "real_cpu_ratio_without_index": None if unindexed is None else round(unindexed.median, 4),
        "best_other": best_other(real),
        "worst_family": scores.worst_family,
        "clips": len(real),
        "families": len(families),
        "left_out": {case.name: dict(case.wrong) for case in cases if not case.family and case.wrong},
        "left_out_of_families": {case.name: dict(case.wrong) for case in cases if case.family and case.wrong},
        "real_cpu_seconds": {name: round(total(real, name).median, 4) for name in _contenders(real)},
        "repeats": repeats,
        **asdict(machine),
    }


def print_report(cases: Sequence[Case], result: dict[str, Any]) -> None:
    """Print tables of the real clips and of the families, and which aims are met."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    real, families = _measured(cases, family=False), _measured(cases, family=True)
    if real:
        console.print(_real_table(real))
    if families:
        console.print(_family_table(families))
    for kind in ("left_out", "left_out_of_families"):
        for name, reasons in result[kind].items():
            who = "; ".join(f"{contender}: {reason}" for contender, reason in reasons.items())
            console.print(f"{kind.replace('_', ' ')}: {name} ({who})", style="dim", markup=False, highlight=False)
    for name, reason in result["missing"].items():
        console.print(f"not measured: {name} ({reason})", markup=False, highlight=False)
    for name, (bound, aim) in AIMS.items():
        if result[name] is None:
            continue
        low, high = result["quartiles"][name]
        verdict = "met" if result["met"][name] else "NOT met"
        what = f"{name} {result[name]:.3f} (quartiles {low:.3f} to {high:.3f})"
        console.print(f"{what}, aim {bound} {aim}: {verdict}", markup=False, highlight=False)
    identical = "are" if result["frames_identical"] else "are NOT"
    console.print(f"all frames of headrace {identical} those of a full decode, bit for bit", highlight=False)


def chart(cases: Sequence[Case], result: dict[str, Any]) -> str:
    """Return the chart of the results as SVG."""
    real, families = _measured(cases, family=False), _measured(cases, family=True)
    clips = len(real)
    bars = [_bar(real, name) for name in _contenders(real)]
    dots = [_dot(case, case.best_other) for case in families if case.best_other is not None]
    panels: list[Bars | Dots] = [
        Bars(f"{clips} real clips", "CPU ms a clip, 8 sparse frames; line: quartiles of rounds", bars),
        Dots("Generated families", "CPU of headrace; 1 is the fastest other; tick: the floor of the codec", dots),
    ]
    note = f"One core, one thread, median of {result['repeats']}, to {SIZE} x {SIZE} RGB. {result['processor']}"
    return chart_svg("CPU time of decoding", note, panels)


def _bar(cases: Sequence[Case], name: str) -> Bar:
    spread, scale = total(cases, name), 1000 / len(cases)
    colour: Colour = "main" if name == OURS else "third" if name == FLOOR else "faint"
    return Bar(name, scale * spread.median, scale * spread.low, scale * spread.high, colour)


def _dot(case: Case, best: str) -> Dot:
    cost = ratio([case], OURS, best).median
    floor = ratio([case], FLOOR, best).median if FLOOR in case.cpu_seconds else None
    return Dot(case.name, cost, floor, "main" if 1 / cost >= AIMS["worst_family_ratio"][1] else "poor")


def _real_table(cases: Sequence[Case]) -> Table:
    table = Table(title=f"{len(cases)} real clips, 8 sparse frames each", title_justify="left")
    table.add_column("contender")
    for head in ("CPU ms/clip", "quartiles", "headrace / it"):
        table.add_column(head, justify="right")
    for name in _contenders(cases):
        spread, against = total(cases, name), ratio(cases, OURS, name)
        median, low, high = (1000 * seconds / len(cases) for seconds in (spread.median, spread.low, spread.high))
        style = "bold" if name == OURS else "dim" if name == FLOOR else ""
        table.add_row(name, f"{median:.1f}", f"{low:.1f} to {high:.1f}", f"{against.median:.3f}", style=style)
    return table


def _family_table(cases: Sequence[Case]) -> Table:
    table = Table(title=f"{len(cases)} generated families, CPU ms", title_justify="left")
    table.add_column("family", no_wrap=True)
    for head in (OURS, "quartiles", "no index", "best other", "best / ours", "floor / ours"):
        table.add_column(head, justify="right")
    table.add_column("which")
    for case in cases:
        best = case.best_other
        ours = total([case], OURS)
        table.add_row(
            case.name,
            _milliseconds(case, OURS),
            f"{1000 * ours.low:.0f} to {1000 * ours.high:.0f}",
            _milliseconds(case, UNINDEXED),
            _milliseconds(case, best),
            _ratio_text(case, best),
            _ratio_text(case, FLOOR),
            best or "",
        )
    return table


def _milliseconds(case: Case, name: str | None) -> str:
    return f"{1000 * total([case], name).median:.1f}" if name in case.cpu_seconds and name else "-"


def _ratio_text(case: Case, name: str | None) -> str:
    return f"{ratio([case], name, OURS).median:.2f}" if name in case.cpu_seconds and name else "-"


def _measured(cases: Sequence[Case], *, family: bool) -> list[Case]:
    return [case for case in cases if case.family == family and OURS in case.cpu_seconds]


def _contenders(cases: Sequence[Case]) -> list[str]:
    """Return who was measured on all of these cases: the floor, ours, the others from the fastest on."""
    first = [name for name in (FLOOR, OURS, UNINDEXED) if cases and all(name in case.cpu_seconds for case in cases)]
    return first + sorted(others_of(cases), key=lambda name: total(cases, name).median)


def _unindexed_ratio(cases: Sequence[Case]) -> Spread | None:
    best = best_other(cases)
    return ratio(cases, UNINDEXED, best) if best and UNINDEXED in _contenders(cases) else None


def _is_met(name: str, spread: Spread | None) -> bool | None:
    bound, aim = AIMS[name]
    if spread is None:
        return None
    return spread.median <= aim if bound == "at most" else spread.median >= aim


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
