"""The stream benchmark's results for a person (tables and a chart) and for a program (one JSON object)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chart import Bar, Bars, Colour, chart_svg
from benchmarks.decode_report import Machine
from benchmarks.loaders.contract import SIZE
from benchmarks.scores import Spread
from benchmarks.stream_scores import AIMS, OURS, Measured, Quantity, Role, is_met, judged
from headrace.observe.figures import percent

_MEBIBYTE = 1 << 20
_COLOURS: dict[Role, Colour] = {"ours": "main", "peer": "faint", "ceiling": "third"}
_TITLES = {
    "long-gop": "long groups of pictures: 10 s, 720p H.264, GOP 250, 3 B-frames",
    "real": "real clips, H.264 and HEVC",
    "images": "JPEG images, 512 x 384",
}


def summary(corpora: Sequence[Measured], machine: Machine, repeats: int) -> dict[str, Any]:
    """Return what is judged and all that is needed to judge it, ready for JSON."""
    spreads = judged(corpora)
    return {
        **{name: _round(spread) for name, spread in spreads.items()},
        "met": {name: is_met(name, spread) for name, spread in spreads.items()},
        "quartiles": {name: [round(s.low, 4), round(s.high, 4)] for name, s in spreads.items() if s is not None},
        "corpora": {corpus.name: _corpus_summary(corpus) for corpus in corpora},
        "repeats": repeats,
        **asdict(machine),
    }


def print_corpus(corpus: Measured) -> None:
    """Print the table of a corpus, and what is left out of it."""
    console = _console()
    console.print(_table(corpus))
    share = _decode_cpu_share(corpus)
    if share is not None:
        console.print(f"{OURS}: {percent(share.median)} of its CPU time is its decode actors'", highlight=False)
    for name, reason in [*corpus.wrong.items(), *((f"clip {name}", why) for name, why in corpus.left_out.items())]:
        console.print(f"left out: {name} ({reason})", style="dim", markup=False, highlight=False)


def print_aims(result: dict[str, Any]) -> None:
    """Print which aims are met."""
    console = _console()
    for name, (bound, aim) in AIMS.items():
        if result[name] is not None:
            low, high = result["quartiles"][name]
            verdict = "met" if result["met"][name] else "NOT met"
            what = f"{name} {result[name]:.3f} (quartiles {low:.3f} to {high:.3f})"
            console.print(f"{what}, aim {bound} {aim}: {verdict}", markup=False, highlight=False)


def chart(corpora: Sequence[Measured], result: dict[str, Any]) -> str:
    """Return the chart of the results as SVG."""
    panels = [
        Bars(
            f"{corpus.clips} {corpus.name} {_unit(corpus)}s",
            f"{_unit(corpus)}s/s once running; line: quartiles of rounds",
            [_bar(corpus, name) for role in ("ceiling", "ours", "peer") for name in corpus.names(role)],
        )
        for corpus in corpora
    ]
    note = f"Two workers on two cores, median of {result['repeats']}, to {SIZE} x {SIZE} RGB. {result['processor']}"
    return chart_svg("Loaders that decode", note, panels)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _corpus_summary(corpus: Measured) -> dict[str, Any]:
    quantities: tuple[Quantity, ...] = (
        "clips_per_second",
        "whole_clips_per_second",
        "first_batch_seconds",
        "first_batch_without_ray",
        "cpu_seconds_per_clip",
    )
    return {
        "clips": corpus.clips,
        "batch": corpus.batch,
        "best_peer": corpus.best_peer,
        "of_ceiling": _round(corpus.of_ceiling),
        "vs_best_peer": _round(corpus.vs_best_peer),
        "first_batch_ratio": _round(corpus.first_batch_ratio()),
        "first_batch_ratio_ray_up": _round(corpus.first_batch_ratio(ray_up=True)),
        "decode_cpu_share": _round(_decode_cpu_share(corpus)),
        "contenders": {
            name: {
                **{quantity: _round(corpus.spread(name, quantity)) for quantity in quantities},
                "memory_mebibytes": round(corpus.memory[name].memory_bytes / _MEBIBYTE),
                "shared_mebibytes": round(corpus.memory[name].shared_bytes / _MEBIBYTE),
            }
            for name in corpus.rounds
        },
        "wrong": dict(corpus.wrong),
        "left_out": dict(corpus.left_out),
    }


def _decode_cpu_share(corpus: Measured) -> Spread | None:
    return corpus.spread(OURS, "decode_cpu_share") if OURS in corpus.rounds else None


def _table(corpus: Measured) -> Table:
    unit = _unit(corpus)
    table = Table(title=f"{corpus.clips} {_TITLES[corpus.name]}; batches of {corpus.batch}", title_justify="left")
    table.add_column("contender", no_wrap=True)
    heads = (f"{unit}s/s running", "quartiles", "headrace / it", f"{unit}s/s whole run", "first batch s", "Ray up")
    for head in (*heads, f"CPU ms/{unit}", "memory MiB", "shared MiB"):
        table.add_column(head, justify="right")
    styles: dict[Role, str] = {"ours": "bold", "peer": "", "ceiling": "dim"}
    for role in ("ceiling", "ours", "peer"):
        for name in corpus.names(role):
            table.add_row(name, *_cells(corpus, name), style=styles[role])
    return table


def _cells(corpus: Measured, name: str) -> list[str]:
    rate, against = corpus.spread(name, "clips_per_second"), corpus.ratio(OURS, name)
    has_ray = any(run.ray_seconds for run in corpus.rounds[name])
    memory = corpus.memory[name]
    return [
        f"{rate.median:.2f}",
        f"{rate.low:.2f} to {rate.high:.2f}",
        "-" if against is None else f"{against.median:.2f}",
        f"{corpus.spread(name, 'whole_clips_per_second').median:.2f}",
        f"{corpus.spread(name, 'first_batch_seconds').median:.1f}",
        f"{corpus.spread(name, 'first_batch_without_ray').median:.1f}" if has_ray else "",
        f"{1000 * corpus.spread(name, 'cpu_seconds_per_clip').median:.1f}",
        f"{memory.memory_bytes / _MEBIBYTE:.0f}",
        f"{memory.shared_bytes / _MEBIBYTE:.0f}",
    ]


def _bar(corpus: Measured, name: str) -> Bar:
    rate = corpus.spread(name, "clips_per_second")
    return Bar(name, rate.median, rate.low, rate.high, _COLOURS[corpus.roles[name]])


def _unit(corpus: Measured) -> str:
    return "image" if corpus.name == "images" else "clip"


def _round(spread: Spread | None) -> float | None:
    return None if spread is None else round(spread.median, 4)
