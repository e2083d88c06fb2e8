"""The simulation's results for a person (tables and a chart) and for a program (one JSON object)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chart import Bar, Bars, Dot, Dots, chart_svg
from benchmarks.simulation.compared import EMPTY, Compared
from benchmarks.simulation.coordinator import POLL_SECONDS
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.scale import AS_IT_IS, HUGE_SAMPLES, OR_WIDER, Lost, Stage, bends_at

MOST_ERROR = 0.15
"""How far the simulator may be from what was measured."""

_STATIONS = ("decoders", "reading", "coordinator", "polls", "storage", "sending", "receiving", "window")


def worst_error(compared: Sequence[Compared], *, empty: bool = False) -> float | None:
    """Return the largest difference of simulated and measured throughput, as a share of the latter.

    Args:
        compared: real streams and simulated ones.
        empty: of the one that decodes nothing; else of the others.
    """
    return max((abs(row.error) for row in compared if (row.workload == EMPTY) == empty), default=None)


def summary(
    compared: Sequence[Compared], stages: Sequence[Stage], lost: Sequence[Lost], costs: Costs
) -> dict[str, Any]:
    """Return what is judged and all that is needed to judge it, ready for JSON."""
    worst, empty, bend = worst_error(compared), worst_error(compared, empty=True), bends_at(stages)
    return {
        "worst_error": None if worst is None else round(worst, 4),
        "worst_error_of_nothing": None if empty is None else round(empty, 4),
        "met": {"worst_error": None if worst is None else worst <= MOST_ERROR},
        "bends_at": None if bend is None else {"gpus": bend[0], "limit": bend[1]},
        "wait_share": {str(gpus): round(stage.outcome.wait_share, 4) for gpus, stage in _first(stages).items()},
        "remedied_wait_share": {str(gpus): round(stage.outcome.wait_share, 4) for gpus, stage in _last(stages).items()},
        "remedies": {str(gpus): _remedies(stages, gpus) for gpus in _last(stages)},
        "stages": [_stage(stage) for stage in stages],
        "lost_nodes": [
            {
                "gpus": row.gpus,
                "losses_per_hour": round(row.losses_per_hour, 2),
                "wait_share": round(row.wait_share, 4),
                "with_spare_nodes": round(row.spared_wait_share, 4),
            }
            for row in lost
        ],
        "validation": [
            {
                "workload": row.workload,
                "decoders": row.decoders,
                "measured": round(row.measured, 3),
                "simulated": round(row.simulated, 3),
                "error": round(row.error, 4),
                "measured_wait": round(row.measured_wait, 3),
                "simulated_wait": round(row.simulated_wait, 3),
            }
            for row in compared
        ],
        "huge": huge(costs),
        "coordinator_blocks_per_second": round(coordinator_bound(costs), 1),
        "machine": costs.machine,
    }


def huge(costs: Costs) -> dict[str, float]:
    """Return what 10**10 samples take: of the order, seconds; of the manifest, terabytes and hours of one core."""
    row = costs.manifest_row_bytes + costs.manifest_index_bytes
    return {
        "samples": HUGE_SAMPLES,
        "order_seconds": round(costs.order_seconds, 5),
        "manifest_bytes_per_sample": round(row, 1),
        "manifest_terabytes": round(row * HUGE_SAMPLES / 1e12, 2),
        "manifest_start_hours": round(costs.manifest_row_seconds * HUGE_SAMPLES / 3600, 2),
    }


def coordinator_bound(costs: Costs, ranks: int = 8) -> float:
    """Return the blocks/s that one coordinator hands to so many ranks that wait, all of whose polls it bears."""
    each = costs.block_seconds + costs.get_seconds + costs.rank_block_seconds * ranks
    return 1 / (each * (1 + ranks * costs.poll_seconds / POLL_SECONDS))


def print_validation(compared: Sequence[Compared]) -> None:
    """Print real and simulated streams side by side."""
    table = Table(title="streams of one machine, measured and simulated", title_justify="left")
    heads = ("decoders", "clips/s measured", "rounds", "simulated", "difference", "waits, measured", "simulated")
    _add_columns(table, ("stream",), heads)
    for row in compared:
        table.add_row(
            row.workload,
            str(row.decoders),
            f"{row.measured:.2f}",
            f"{min(one for one, _ in row.rounds):.2f} to {max(one for one, _ in row.rounds):.2f}",
            f"{row.simulated:.2f}",
            f"{row.error:+.1%}",
            f"{row.measured_wait:.0%}",
            f"{row.simulated_wait:.0%}",
            style="" if abs(row.error) <= MOST_ERROR else "bold",
        )
    console().print(table)


def print_stages(stages: Sequence[Stage]) -> None:
    """Print each scale as it is, and what each remedy changes."""
    table = Table(title=f"{stages[0].training}: share of time for which each is at work", title_justify="left")
    heads = ("clips/s", "of demand", "training waits", *_STATIONS, "decoders #", "nodes #", "store GB/node")
    _add_columns(table, ("GPUs", "", "limit"), heads)
    before = 0
    for stage in stages:
        outcome, gpus = stage.outcome, stage.cluster.gpus
        if gpus != before and before:
            table.add_section()
        table.add_row(
            f"{gpus:,}" if gpus != before else "",
            stage.remedy,
            stage.limit,
            f"{outcome.clips_per_second:,.0f}",
            f"{outcome.clips_per_second / outcome.demand:.0%}",
            f"{outcome.wait_share:.1%}",
            *(f"{min(1.0, outcome.busy[station]):.0%}" for station in _STATIONS),
            f"{stage.decoders:,}{' *' if stage.beyond_ray else ''}",
            f"{stage.nodes:,}",
            f"{stage.store_bytes / 1e9:.1f}",
            style="bold" if stage.fed else "",
        )
        before = gpus
    console().print(table)
    if any(stage.beyond_ray for stage in stages):
        console().print("* more actors or nodes than Ray's own release tests run with", style="dim")


def print_losses(lost: Sequence[Lost], costs: Costs) -> None:
    """Print what lost nodes cost, and what 10**10 samples take."""
    table = Table(title="decode nodes that are taken away, replaced after 3 minutes", title_justify="left")
    _add_columns(table, (), ("GPUs", "lost in an hour", "training waits", "with spare nodes"))
    for row in lost:
        table.add_row(
            f"{row.gpus:,}", f"{row.losses_per_hour:.1f}", f"{row.wait_share:.1%}", f"{row.spared_wait_share:.1%}"
        )
    console().print(table)
    figures = huge(costs)
    console().print(
        f"{HUGE_SAMPLES:,} samples: the order takes {1e3 * figures['order_seconds']:.1f} ms anywhere; the manifest "
        f"{figures['manifest_terabytes']:.1f} TB of memory in every process that holds it, and "
        f"{figures['manifest_start_hours']:.1f} hours of a core at each start",
        highlight=False,
    )


def chart(compared: Sequence[Compared], stages: Sequence[Stage], lost: Sequence[Lost]) -> str:
    """Return the chart of the results as SVG."""
    dots = [
        Dot(
            f"{row.workload}, {row.decoders}",
            row.simulated / row.measured,
            None,
            "main" if abs(row.error) <= MOST_ERROR else "poor",
        )
        for row in compared
    ]
    bars = [
        Bar(
            f"{gpus:,} {stage.remedy if stage.remedy == AS_IT_IS else 'relieved'}",
            100 * stage.outcome.wait_share,
            100 * stage.outcome.wait_share,
            100 * stage.outcome.wait_share,
            "main" if stage.fed else "poor",
        )
        for gpus, first in _first(stages).items()
        for stage in ([first] if first.fed else [first, _last(stages)[gpus]])
    ]
    losses = [
        Bar(f"{row.gpus:,} {words}", 100 * share, 100 * share, 100 * share, "main" if share < 0.02 else "poor")
        for row in lost
        for words, share in (("as it is", row.wait_share), ("nodes to spare", row.spared_wait_share))
    ]
    panels: list[Bars | Dots] = [
        Dots("Simulated over measured", "clips/s of real streams with 1 to 4 decoders", dots),
        Bars("Training waits, by GPUs", f"% of its time; {stages[0].training}", bars),
        Bars("... where decode nodes are lost", "% of its time; another comes after 3 min", losses),
    ]
    bend = bends_at(stages)
    words = "never bends" if bend is None else f"bends at {bend[0]:,} GPUs: the {bend[1]}"
    return chart_svg("The stream, simulated", f"One coordinator, one prefix, nothing to spare: {words}.", panels)


def console() -> Console:
    """Return a console that is wide where nobody looks."""
    found = Console()
    return found if found.is_terminal else Console(width=200)


def _first(stages: Sequence[Stage]) -> dict[int, Stage]:
    return {stage.cluster.gpus: stage for stage in reversed(stages) if stage.remedy == AS_IT_IS}


def _last(stages: Sequence[Stage]) -> dict[int, Stage]:
    return {stage.cluster.gpus: stage for stage in stages if stage.remedy != OR_WIDER}


def _remedies(stages: Sequence[Stage], gpus: int) -> list[str]:
    kept = [stage.remedy for stage in stages if stage.cluster.gpus == gpus]
    return [remedy for remedy in kept if remedy not in (AS_IT_IS, OR_WIDER)]


def _stage(stage: Stage) -> dict[str, Any]:
    outcome = stage.outcome
    return {
        "gpus": stage.cluster.gpus,
        "remedy": stage.remedy,
        "limit": stage.limit,
        "clips_per_second": round(outcome.clips_per_second, 1),
        "demand": round(outcome.demand, 1),
        "wait_share": round(outcome.wait_share, 4),
        "busy": {name: round(share, 3) for name, share in outcome.busy.items()},
        "decoders": stage.decoders,
        "nodes": stage.nodes,
        "first_round_seconds": round(stage.first_round_seconds, 1),
        "store_gigabytes_per_node": round(stage.store_bytes / 1e9, 2),
    }


def _add_columns(table: Table, words: Sequence[str], figures: Sequence[str]) -> None:
    for word in words:
        table.add_column(word)
    for figure in figures:
        table.add_column(figure, justify="right")
