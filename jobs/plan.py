"""Say what a recipe takes: measure a few clips and a few steps, and count.

    python jobs/plan.py hjepa_vits --data.source my_videos          what it takes on this machine
    python jobs/plan.py hjepa_vits --nodes workers.yaml --node-cpus 16

Beside these options all of `jobs/train.py`'s recipe options are understood. Nothing is trained and Ray is not started,
unless a large source has to be indexed. Steps are measured on the device at hand: run it on the GPU that will train.
"""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from headrace.cli import RecipeOptions, parse
from headrace.cluster.pool_policy import HEADROOM
from headrace.data.clip_cost import ClipCost, draw_rows, measure_clips, transcoding_ratio
from headrace.data.config import DataConfig
from headrace.data.manifest import Manifest
from headrace.errors import UserError, exit_with_sentence
from headrace.observe.advice import LITTLE_WAIT
from headrace.observe.figures import figure, milliseconds, percent, plural
from headrace.observe.needs import Machine, Needs
from headrace.recipe import Recipe
from headrace.train.session import local_device
from headrace.train.step_cost import StepCost, measure_steps
from jobs.recipes import DEFAULT, RECIPES
from jobs.sources import Bar, cores, open_sources

COMPARED_CLIPS = 8
TRANSCODED_CLIPS = 3
KINDS_SHOWN = 8


@dataclass(frozen=True)
class Options:
    """How much is measured, and what is written."""

    clips: int = 24
    """Samples, drawn at random, that are decoded."""

    steps: int = 5
    """Training steps that are timed, after two that warm up."""

    cores: int | None = None
    """Cores of the machine that is asked about; this one's if not given."""

    compare: bool = True
    """Measure what would make decoding cheaper as well."""

    nodes: Path | None = None
    """File to write the worker groups of a cluster into, for ray_cluster.yaml."""

    node_cpus: int = 16
    """CPUs of a node that decodes, for --nodes."""

    node_gpus: int = 1
    """GPUs of a node that trains, for --nodes."""

    def __post_init__(self) -> None:
        for name in ("clips", "steps", "node_cpus", "node_gpus"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.cores is not None and self.cores < 1:
            raise UserError(f"--cores must be at least 1, got {self.cores}")


@dataclass(frozen=True)
class Choice:
    """Something that would change the balance.

    Attributes:
        name: what to do. how: the option or the command for it.
        decode_seconds: CPU seconds for each clip then, measured.
        clips: on how many.
    """

    name: str
    how: str
    decode_seconds: float
    clips: int


def main(arguments: Sequence[str]) -> int:
    """Measure, print the tables, and end with a sentence."""
    recipe, options = _parse(arguments)
    with torch.device("meta"):
        recipe.model.build(recipe.augment.height, recipe.augment.width)
    manifest = open_sources(recipe.data).split().training
    device = local_device(recipe.train.device)
    rows = draw_rows(manifest, options.clips).tolist()
    with Bar("decoding") as bar:
        costs = _measure(manifest, recipe.data, rows, bar)
    step = measure_steps(recipe, device, options.steps)
    machine = Machine(options.cores or cores(), recipe.train.workers, recipe.train.threads, device.type)
    block_clips = recipe.train.micro_batch * recipe.data.repeats
    needs = Needs(_mean(costs), step.clips_per_second, block_clips, machine, HEADROOM)
    choices = list(_choices(manifest, recipe, rows[:COMPARED_CLIPS])) if options.compare else []
    choices = [replace(choice, decode_seconds=choice.decode_seconds * needs.decode_seconds) for choice in choices]

    console = Console()
    console.print(_cost_table(costs), _step_table(step, device), _needs_table(needs), sep="\n")
    if choices:
        console.print(_choice_table(needs, choices))
    if options.nodes is not None:
        options.nodes.write_text(worker_groups(needs, options.node_cpus, options.node_gpus))
        console.print(f"{options.nodes}: worker groups for available_node_types of ray_cluster.yaml")
    print(verdict(needs, choices))
    return 0


def _parse(arguments: Sequence[str]) -> tuple[Recipe, Options]:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        with contextlib.suppress(SystemExit):  # the recipe's own options follow
            tyro.cli(Options, prog="plan.py [RECIPE]", args=["--help"])
    options, rest = tyro.cli(Options, prog="plan.py", args=list(arguments), return_unknown_args=True, add_help=False)
    recipe, _ = parse(rest, RECIPES, DEFAULT, "plan.py", "Say what a recipe takes.", RecipeOptions())
    return recipe, options


def _measure(manifest: Manifest, data: DataConfig, rows: list[int], bar: Callable[[int, int], None]) -> list[ClipCost]:
    costs: list[ClipCost] = []
    for done, row in enumerate(rows, 1):
        try:
            costs += measure_clips(manifest, data, [row])
        except UserError:  # this one cannot be decoded; the others may
            if done == len(rows) and not costs:
                raise
        bar(done, len(rows))
    return costs


def _choices(manifest: Manifest, recipe: Recipe, rows: list[int]) -> Iterator[Choice]:
    """Measure what would make a clip cheaper, as shares of what it costs now."""
    data, sampling = recipe.data, recipe.data.sampling
    videos = [row for row in rows if manifest.seconds[row] > 0]
    now = _mean(measure_clips(manifest, data, rows))

    def measured(name: str, how: str, changed: DataConfig) -> Choice:
        return Choice(name, how, _mean(measure_clips(manifest, changed, rows)) / now, len(rows))

    if videos:
        ratio, clips = transcoding_ratio(manifest, data, videos[:TRANSCODED_CLIPS])
        if clips:
            yield Choice("transcoding the source", "jobs/transcode.py", ratio, clips)
        if not sampling.key_frames:
            nearest = replace(data, sampling=replace(sampling, key_frames=True))
            yield measured("key frames only", "--data.sampling.key-frames True", nearest)
        if sampling.frames > 1:
            few = sampling.frames // 2
            fewer = replace(data, sampling=replace(sampling, frames=few))
            yield measured(f"{plural(few, 'frame')}, not {sampling.frames}", f"--data.sampling.frames {few}", fewer)
        again = 2 * data.repeats
        yield measured(f"{again} clips a decode", f"--data.repeats {again}", replace(data, repeats=again))
    height, width = recipe.augment.height, recipe.augment.width
    if height * width < data.height * data.width:
        smaller = replace(data, height=height, width=width)
        how = f"--data.height {height} --data.width {width}"
        yield measured(f"{height} x {width} pixels, not {data.height} x {data.width}", how, smaller)


def _mean(costs: Sequence[ClipCost]) -> float:
    return sum(cost.cpu_seconds for cost in costs) / len(costs)


def _cost_table(costs: list[ClipCost]) -> Table:
    table = _table("decoding, CPU a clip, measured", "clips", "median", "middle half", "waiting for storage")
    groups: dict[str, list[ClipCost]] = defaultdict(list)
    for cost in costs:
        groups[cost.kind].append(cost)
    named = sorted(groups.items(), key=lambda item: -len(item[1]))
    rest = [cost for _, group in named[KINDS_SHOWN:] for cost in group]
    named = [*named[:KINDS_SHOWN], *([("others", rest)] if rest else []), *([("all", costs)] if len(named) > 1 else [])]
    for kind, group in named:
        cpu, waits = [cost.cpu_seconds for cost in group], [cost.wall_seconds - cost.cpu_seconds for cost in group]
        low, median, high = np.percentile(cpu, [25, 50, 75]).tolist()
        spread = f"{milliseconds(low)} to {milliseconds(high)}" if len(group) > 1 else ""
        table.add_row(
            kind, str(len(group)), milliseconds(median), spread, milliseconds(max(0.0, float(np.median(waits))))
        )
    return table


def _step_table(step: StepCost, device: torch.device) -> Table:
    table = _table(f"a step of one worker on {device.type}, measured", "")
    table.add_row("time", f"{milliseconds(step.seconds)} for {plural(step.clips, 'clip')}")
    table.add_row("middle half of the steps", f"{percent(step.spread)} apart")
    table.add_row("the first step", milliseconds(step.first_seconds))
    return table


def _needs_table(needs: Needs) -> Table:
    machine = needs.machine
    unit = "GPU" if machine.device == "cuda" else "worker"
    table = _table("what it takes", "", "")
    table.add_row("clips/s of one CPU that decodes", figure(needs.clips_per_cpu), "measured")
    table.add_row(f"clips/s of one {unit}", figure(needs.demand), "measured")
    spare = f"with {percent(needs.headroom - 1)} to spare"
    table.add_row(f"CPUs that decode for each {unit}", figure(needs.cpus_per_worker, 2), spare)
    table.add_row(f"decoders for {plural(machine.workers, unit)}", str(needs.decoders), "")
    if needs.streams > 1:
        rate = machine.workers * needs.demand / needs.block_clips
        table.add_row("streams (--data.streams)", str(needs.streams), f"for {figure(rate)} blocks/s")
    table.add_row("cores here, and those that the training leaves", f"{machine.cores}, {machine.decode_cores}", "")
    table.add_row("waiting share here", percent(needs.wait_share), "estimated")
    return table


def _choice_table(needs: Needs, choices: list[Choice]) -> Table:
    unit = "GPU" if needs.machine.device == "cuda" else "worker"
    table = _table("what would help", "CPU a clip", "", f"CPUs a {unit}", "waiting", "measured on")
    table.add_row("as it is", milliseconds(needs.decode_seconds), "1.00", *_effect(needs), "all above")
    more = replace(needs.machine, cores=needs.machine.cores - needs.machine.decode_cores + needs.decoders)
    table.add_row(
        f"{plural(needs.decoders, 'core')} to decode", "", "", *_effect(replace(needs, machine=more)), "estimated"
    )
    for choice in sorted(choices, key=lambda choice: choice.decode_seconds):
        then = needs.costing(choice.decode_seconds)
        ratio = f"{choice.decode_seconds / needs.decode_seconds:.2f}"
        table.add_row(
            choice.name, milliseconds(choice.decode_seconds), ratio, *_effect(then), plural(choice.clips, "clip")
        )
    table.caption = "waiting is estimated; fewer frames and pixels also make a step cheaper, which is not counted"
    table.caption_justify = "left"
    return table


def _effect(needs: Needs) -> tuple[str, str]:
    return figure(needs.cpus_per_worker, 2), percent(needs.wait_share)


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", header_style="bold", pad_edge=False)
    table.add_column(title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def verdict(needs: Needs, choices: Sequence[Choice]) -> str:
    """Return the recommendation, one sentence."""
    machine = needs.machine
    if needs.wait_share < LITTLE_WAIT:
        return (
            f"This machine keeps up: {plural(machine.decode_cores or machine.cores, 'core')} can decode "
            f"{figure(needs.supply, 2)} clips/s, training takes {figure(machine.workers * needs.demand, 2)}; "
            f"--data.decoders {needs.decoders} is enough."
        )
    waits = f"Training would wait {percent(needs.wait_share)} of its time here"
    cheap = min(choices, key=lambda choice: choice.decode_seconds, default=None)
    helps = cheap is not None and cheap.decode_seconds < 0.9 * needs.decode_seconds
    more = f"{plural(needs.decoders, 'core')} that only decode would end it (--data.decoders 1..{needs.decoders})"
    if cheap is None or not helps:
        return f"{waits}; {more}."
    then = needs.costing(cheap.decode_seconds)
    gain = figure(needs.decode_seconds / cheap.decode_seconds, 2)
    return (
        f"{waits}; {more}, and {cheap.name} ({cheap.how}) makes a clip {gain} times cheaper: "
        f"{plural(then.decoders, 'decoder')} would do, and waiting here would be {percent(then.wait_share)}."
    )


def worker_groups(needs: Needs, node_cpus: int, node_gpus: int) -> str:
    """Return the groups of nodes that train and that decode, as `available_node_types` of ray_cluster.yaml.

    They name CPUs and GPUs and no instance: `node_config` is yours to fill in.

    Args:
        node_cpus: CPUs of a node that decodes.
        node_gpus: GPUs of a node that trains, a worker each; without a GPU, workers of a node that trains.
    """
    workers, decoders = needs.machine.workers, needs.decoders
    per_node = min(node_gpus, workers)
    gpus = f", GPU: {per_node}" if needs.machine.device == "cuda" else ""
    return f"""\
# {plural(workers, "worker")} at {figure(needs.demand)} clips/s, {milliseconds(needs.decode_seconds)} of CPU a clip.
# Run with --data.decoders 1..{decoders} --data.decoder-resource decode: nodes that decode come when training waits, and
# go when they are idle.
available_node_types:
  trainer:
    min_workers: 0
    max_workers: {-(-workers // per_node)}
    resources: {{CPU: {per_node}{gpus}}}
    node_config: {{}}
  decoder:
    min_workers: 0
    max_workers: {-(-decoders // node_cpus)}
    resources: {{CPU: {node_cpus}, decode: {node_cpus}}}
    node_config: {{}}
"""


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
