"""Vary a recipe's settings, and find the best.

    python jobs/tune.py                                            16 trials of the demo's space
    python jobs/tune.py hjepa_vits --trials 40 --data.source s3://bucket/shards
    python jobs/tune.py demo --scheduler pbt --trials 4            settings change while training goes on
    python jobs/tune.py --resume runs/sweep-demo-...               go on with a sweep that was cut off
    python jobs/train.py --from-run runs/sweep-demo-.../best       train with what was best

A space names a recipe and the paths of it that vary (`tune_spaces/`); all of `jobs/train.py`'s recipe options set what
all trials share. Each trial is a run of its own, with a folder, a report and checkpoints. As many run at once as the
cluster has room for; it is the one that RAY_ADDRESS names, or an embedded one.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import tyro
from ray import tune
from rich.console import Console
from rich.table import Table

from headrace.cli import RECIPE_FILE, named_list, parse, saved_recipe
from headrace.cluster.launch import ray_cluster
from headrace.cluster.space import check_exchange, check_space, derive
from headrace.cluster.sweep import WORST, least_cpus, most_at_once, most_demanding, share_of
from headrace.cluster.trainer import resources_for
from headrace.cluster.tuner import EXCHANGES, TUNE, Sweep, SweepOptions, build_tuner, made_as, value_text
from headrace.errors import RunError, UserError, did_you_mean, exit_with_sentence
from headrace.observe.figures import figure, one_line, plural
from headrace.observe.report import write_report
from headrace.observe.sweep_report import Tried, ranked, write_sweep_report
from headrace.recipe import replace_all, save_recipe
from headrace.train.config import lower_is_better
from headrace.train.evaluation import check_metric
from jobs import sources
from jobs.fitting import check_cluster, fitting
from jobs.recipes import RECIPES
from tune_spaces import DEFAULT, SPACES

SWEEP_FILE = "sweep.json"
BEST = "best"
MEASURED = ("loss", "clips_per_second", "wait_share", "mfu")


def main(arguments: Sequence[str]) -> int:
    """Sweep, and leave a folder with a report, all trials, and the best recipe."""
    sweep, goes_on = _sweep(arguments)
    recipe, options = sweep.recipe, sweep.options
    _, source = sources.open_for(recipe)

    widest = most_demanding(recipe, sweep.space)  # of all that may be drawn: each trial finds room
    at_once = options.concurrent or most_at_once(widest, {"CPU": float(sources.cores())}, "cpu")
    with ray_cluster(at_once * least_cpus(widest), options.dashboard, recipe.data.decoder_resource) as cluster:
        at_once = options.concurrent or most_at_once(widest, cluster, resources_for(widest, cluster).device)
        at_once = min(at_once, sweep.trials)
        share = share_of(cluster, at_once)
        check_cluster(widest, share)
        split = source.split().limited(recipe.train.evaluate.samples)
        print(f"{sweep.folder}: {plural(sweep.trials, 'trial')}, {at_once} at once, by {sweep.metric}", flush=True)
        tuner = build_tuner(sweep, at_once, goes_on=goes_on, split=[ray.put(split)], prepare=fitting, cluster=share)
        results = tuner.fit()
    return _end(sweep, results)


def _sweep(arguments: Sequence[str]) -> tuple[Sweep, bool]:
    """Return the sweep that a command line asks for, and whether it goes on."""
    if "--resume" in arguments or any(argument.startswith("--resume=") for argument in arguments):
        return _resumed(arguments), True
    names = [argument for argument in arguments[:1] if not argument.startswith("-")]
    name = names[0] if names else DEFAULT
    if name not in SPACES:
        raise UserError(f"there is no space {name!r}: {did_you_mean(name, SPACES)}")
    rest = list(arguments[len(names) :])
    if {"-h", "--help"} & set(rest):
        print(f"{__doc__}\nspaces:\n{named_list(SPACES)}\n")
    space = SPACES[name]()
    base = replace_all(RECIPES[space.recipe](), space.settings)
    recipe, options = parse(
        rest, {name: lambda: base}, name, f"tune.py {name}", "Vary a recipe.", SweepOptions(), saved=RECIPES
    )
    folder = (options.sweep or Path("runs") / f"sweep-{name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    _check(Sweep(name, space, recipe, options, folder))
    recipe, _ = sources.open_for(recipe)
    if (folder / SWEEP_FILE).exists():
        raise UserError(f"{str(folder)!r} holds a sweep already: choose another --sweep, or --resume {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, folder / RECIPE_FILE)
    saved = {"space": name, "options": {key: value for key, value in asdict(options).items() if key != "sweep"}}
    (folder / SWEEP_FILE).write_text(json.dumps(saved, indent=2, default=str) + "\n")
    return Sweep(name, space, recipe, options, folder), False


def _resumed(arguments: Sequence[str]) -> Sweep:
    @dataclass(frozen=True)
    class Options:
        """Go on with a sweep that was cut off, with its own settings."""

        resume: Path
        """Folder of the sweep."""

    folder = tyro.cli(Options, prog="tune.py", args=list(arguments)).resume.absolute()
    try:
        saved = json.loads((folder / SWEEP_FILE).read_text())
    except OSError:
        raise UserError(f"{str(folder)!r} is no sweep: it holds no {SWEEP_FILE}") from None
    if not tune.Tuner.can_restore(folder / TUNE):
        raise UserError(f"{str(folder)!r} was cut off before its first trial: begin it again")
    options = SweepOptions(**saved["options"])
    recipe = saved_recipe(folder, RECIPES)
    return Sweep(saved["space"], SPACES[saved["space"]](), recipe, options, folder)


def _check(sweep: Sweep) -> None:
    """Complain of what can be known before anything is started."""
    recipe, options = sweep.recipe, sweep.options
    check_space(recipe, sweep.space.parameters, grid=options.search == "grid")
    with torch.device("meta"):
        objective = recipe.model.build(recipe.augment.height, recipe.augment.width)
    group, slash, name = sweep.metric.rpartition("/")
    if slash and group == "held_out":
        if not recipe.train.evaluate.every:
            raise UserError(f"--metric {sweep.metric} is measured by evaluations: say --train.evaluate.every N")
        check_metric(objective, name, f"--metric {sweep.metric}")
    elif sweep.metric not in MEASURED:
        raise UserError(f"--metric {sweep.metric}: {did_you_mean(sweep.metric, (*MEASURED, 'held_out/loss'))}")
    if recipe.train.checkpoints is not None and options.hands_on:
        name = "--search bohb" if options.search == "bohb" else f"--scheduler {options.scheduler}"
        raise UserError(f"{name} hands checkpoints on: leave out --train.checkpoints")
    if options.scheduler in EXCHANGES:
        check_exchange(recipe, sweep.space.parameters, ranges=options.scheduler == "pb2")
    _check_reports(sweep)


def _check_reports(sweep: Sweep) -> None:
    """Check that trials can be compared before they end."""
    train, options = sweep.recipe.train, sweep.options
    every, setting = train.checkpoint_every, "--train.checkpoint-every"
    if sweep.metric.startswith("held_out/"):
        every, setting = train.evaluate.every, "--train.evaluate.every"
    if options.scheduler != "none" and train.steps < 2 * every:
        raise UserError(
            f"--scheduler {options.scheduler} compares trials before their last step, which is {train.steps}: lower "
            f"{setting} ({every}), or take --scheduler none"
        )


def _end(sweep: Sweep, results: tune.ResultGrid) -> int:
    """Print the table, write the report and the best recipe."""
    found = [results[number] for number in range(len(results))]
    ordered = sorted(found, key=lambda result: made_as(str((result.metrics or {}).get("experiment_tag"))))
    tried = [_tried(sweep, number, result) for number, result in enumerate(ordered, start=1)]
    lower = lower_is_better(sweep.metric)
    known = ranked(tried, lower)
    for trial in tried:
        with contextlib.suppress(UserError):  # one that never began has no folder
            write_report(Path(trial.run))
    report = write_sweep_report(sweep.folder, sweep.name, sweep.metric, tried, lower)
    _print(sweep, known, tried)
    print(f"report: {report}")
    if not known:
        raise RunError(f"no trial was measured: the first reason is in {report}")
    best = sweep.folder / BEST
    best.mkdir(exist_ok=True)
    save_recipe(derive(sweep.recipe, known[0].settings), best / RECIPE_FILE)
    print(f"best recipe: python jobs/train.py --from-run {best}")
    return 0


def _tried(sweep: Sweep, number: int, result: Any) -> Tried:
    metrics, config = result.metrics or {}, result.config or {}
    value = float(metrics.get(sweep.metric, math.nan))
    note = str(metrics.get("note") or "")
    if result.error is not None:
        lines = [line.strip() for line in str(result.error).splitlines() if line.strip()]
        note = lines[-1] if lines else type(result.error).__name__
    frame = result.metrics_dataframe
    curve: list[tuple[int, float]] = []
    if frame is not None and sweep.metric in frame and "step" in frame:
        curve = [(int(step), float(at)) for step, at in zip(frame["step"], frame[sweep.metric], strict=True)]
    return Tried(
        number=number,
        settings={path: tuple(value) if isinstance(value, list) else value for path, value in config.items()},
        value=value if abs(value) < WORST else math.nan,
        steps=int(metrics.get("step", 0)),
        seconds=float(metrics.get("time_total_s", math.nan)),
        run=str(metrics.get("run", "")),
        note=one_line(note, 300),
        curve=[(step, at) for step, at in curve if abs(at) < WORST],
    )


def _print(sweep: Sweep, known: Sequence[Tried], tried: Sequence[Tried]) -> None:
    paths = list(sweep.space.parameters)
    table = Table("", *(path.rpartition(".")[2] for path in paths), sweep.metric, "steps", "", box=None, pad_edge=False)
    unknown = [trial for trial in tried if not math.isfinite(trial.value)]
    for trial in (*known, *unknown):
        values = (value_text(trial.settings.get(path, "")) for path in paths)
        table.add_row(f"trial {trial.number}", *values, figure(trial.value), f"{trial.steps:,}", trial.note)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
