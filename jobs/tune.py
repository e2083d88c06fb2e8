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
import importlib.util
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import torch
import tyro
from ray import tune
from ray.tune import schedulers
from ray.tune.search import BasicVariantGenerator, Searcher
from rich.console import Console
from rich.table import Table

from headrace.cli import RECIPE_FILE, RecipeOptions, parse, saved_recipe
from headrace.cluster.launch import ray_cluster
from headrace.cluster.space import Space, check_space, derive, lower_is_better
from headrace.cluster.sweep import WORST, Trial, most_at_once, share_of
from headrace.cluster.trainer import resources_for
from headrace.errors import RunError, UserError, did_you_mean, exit_with_sentence
from headrace.observe.figures import figure, one_line, plural
from headrace.observe.report import write_report
from headrace.observe.sweep_report import Tried, write_sweep_report
from headrace.recipe import Recipe, replace_all, save_recipe
from headrace.train.evaluation import check_metric
from jobs import sources
from jobs.fitting import check_cluster, fitting
from jobs.recipes import RECIPES
from tune_spaces import DEFAULT, SPACES

SWEEP_FILE = "sweep.json"
BEST = "best"
TUNE = "tune"
MEASURED = ("loss", "clips_per_second", "wait_share", "mfu")

ON_HEAD = {"CPU": 0.0, "node:__internal_head__": 0.001}
"""What a trial takes for itself: a place on the head. Its workers and decoders ask for theirs."""

_NEEDS = {"optuna": ("optuna",), "bohb": ("hpbandster", "ConfigSpace"), "pb2": ("sklearn",)}
_EXCHANGES = ("pbt", "pb2")
_PAUSES = (*_EXCHANGES, "bohb")


@dataclass(frozen=True)
class SweepOptions(RecipeOptions):
    """How the settings are drawn, and which trials go on."""

    trials: int = 16
    """Trials in all; of pbt and pb2 the size of the population. --search grid tries all combinations, so often."""

    scheduler: Literal["asha", "median", "pbt", "pb2", "none"] = "asha"
    """asha: of those that got as far, the better third goes on. median: whoever is worse than the median ends. pbt,
    pb2: bad trials go on from a good one's checkpoint, with settings near its own. none: all run to their end."""

    search: Literal["optuna", "random", "grid", "bohb"] = "optuna"
    """optuna: by what earlier trials found (TPE). bohb: likewise, with a scheduler of its own. random. grid."""

    metric: str | None = None
    """By which trials are compared: loss, clips_per_second, held_out/loss, held_out/knn, ...; the space's own if not
    given. Of what ends in loss the lowest is best, else the highest."""

    concurrent: int = 0
    """Trials at once; 0: as many as the cluster has room for."""

    retries: int = 1
    """Times that a trial is begun again after a failure that was not the recipe's."""

    draw_seed: int = 0
    """Seed of the draws; --seed is that of every trial's run."""

    sweep: Path | None = None
    """Folder of the sweep; runs/sweep-<space>-<date>-<time> if not given."""

    wandb: Literal["auto", "off"] = "auto"
    """Weights & Biases, a run for each trial and a group for the sweep; as of jobs/train.py."""

    dashboard: bool = False
    """Serve the Ray dashboard of an embedded sweep."""

    def __post_init__(self) -> None:
        for name in ("trials",):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in ("concurrent", "retries"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} must be at least 0, got {getattr(self, name)}")
        if self.search == "bohb" and self.scheduler not in ("asha", "none"):
            raise UserError(f"--search bohb brings a scheduler of its own: leave out --scheduler {self.scheduler}")
        if self.scheduler in _EXCHANGES and self.trials < 2:
            raise UserError(f"--scheduler {self.scheduler} exchanges settings between trials: it needs 2 at least")
        for asked in {self.search, self.scheduler} & _NEEDS.keys():
            missing = [name for name in _NEEDS[asked] if importlib.util.find_spec(name) is None]
            if missing:
                raise UserError(f"{asked} needs {' and '.join(missing)}: pip install 'headrace[tune]'")


@dataclass(frozen=True)
class Sweep:
    """A sweep, checked.

    Attributes:
        name: of its space.
        space: with the recipe options of the command line among its settings.
        recipe: from which all trials are derived.
        options: of the command line.
        folder: where it lies.
    """

    name: str
    space: Space
    recipe: Recipe
    options: SweepOptions
    folder: Path

    @property
    def metric(self) -> str:
        return self.options.metric or self.space.metric


def _quiet() -> None:
    """Turn off what Tune and Optuna print on their own."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with it, verbose=0 still prints a table
    warnings.filterwarnings("ignore", message="Choices for a categorical distribution", category=UserWarning)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    if importlib.util.find_spec("optuna") is not None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)


def main(arguments: Sequence[str]) -> int:
    """Sweep, and leave a folder with a report, all trials, and the best recipe."""
    sweep, goes_on = _sweep(arguments)
    _quiet()
    recipe, options = sweep.recipe, sweep.options
    _, source = sources.open_for(recipe)

    at_once = options.concurrent or most_at_once(recipe, {"CPU": float(sources.cores())}, "cpu")
    least = recipe.train.workers + recipe.data.pool(spare_cpus=1).least
    with ray_cluster(cpus=at_once * least, dashboard=options.dashboard) as cluster:
        at_once = options.concurrent or most_at_once(recipe, cluster, resources_for(recipe, cluster).device)
        at_once = min(at_once, options.trials)
        share = share_of(cluster, at_once)
        check_cluster(recipe, share)
        split = source.split().limited(recipe.train.evaluate.samples)
        trial = tune.with_parameters(
            Trial,
            recipe=recipe,
            sweep=sweep.folder,
            split=[ray.put(split)],
            prepare=fitting,
            cluster=share,
            metric=sweep.metric,
            wandb=options.wandb == "auto",
        )
        trial = tune.with_resources(trial, ON_HEAD)
        print(f"{sweep.folder}: {plural(options.trials, 'trial')}, {at_once} at once, by {sweep.metric}", flush=True)
        results = _tuner(sweep, trial, at_once, goes_on=goes_on).fit()
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
        print(__doc__)
    space = SPACES[name]()
    base = replace_all(RECIPES[space.recipe](), space.settings)
    recipe, options = parse(rest, {name: lambda: base}, name, "tune.py [SPACE]", "Vary a recipe.", SweepOptions())
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
    if recipe.train.checkpoints is not None and options.scheduler in _PAUSES:
        raise UserError(f"--scheduler {options.scheduler} hands checkpoints on: leave out --train.checkpoints")
    reports = recipe.train.steps // recipe.train.checkpoint_every
    if options.scheduler != "none" and reports < 2:
        raise UserError(
            f"a trial reports at each checkpoint, and --scheduler {options.scheduler} wants to compare trials before "
            f"their last step: lower --train.checkpoint-every ({recipe.train.checkpoint_every}), or take "
            f"--scheduler none"
        )


def _tuner(sweep: Sweep, trial: Any, at_once: int, *, goes_on: bool) -> tune.Tuner:
    """Return Ray's tuner of a sweep, a new one or the one that was cut off."""
    options = sweep.options
    if goes_on:
        return tune.Tuner.restore(str(sweep.folder / TUNE), trial, resume_errored=True)
    mode = "min" if lower_is_better(sweep.metric) else "max"
    space: dict[str, Any] = dict(sweep.space.parameters)
    if options.search == "grid":
        space = {path: tune.grid_search(list(domain.categories)) for path, domain in sweep.space.parameters.items()}  # type: ignore[attr-defined]
    pauses = options.scheduler in _EXCHANGES or options.search == "bohb"
    return tune.Tuner(
        trial,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=sweep.metric,
            mode=mode,
            num_samples=1 if options.search == "grid" else options.trials,
            search_alg=_search(options),
            scheduler=_scheduler(sweep),
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(sweep.folder),
            verbose=0,
            callbacks=[Lines(sweep)],
            failure_config=tune.FailureConfig(max_failures=options.retries),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1 if pauses else 0),
        ),
    )


def _search(options: SweepOptions) -> Searcher | BasicVariantGenerator:
    if options.scheduler in _EXCHANGES or options.search in ("random", "grid"):
        return BasicVariantGenerator(random_state=options.draw_seed)
    if options.search == "bohb":
        from ray.tune.search.bohb import TuneBOHB

        return TuneBOHB(seed=options.draw_seed)
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(seed=options.draw_seed)


def _scheduler(sweep: Sweep) -> schedulers.TrialScheduler:
    options, steps = sweep.options, sweep.recipe.train.steps
    first = sweep.recipe.train.evaluate.every or sweep.recipe.train.checkpoint_every
    if options.search == "bohb":
        return schedulers.HyperBandForBOHB(time_attr="step", max_t=steps)
    if options.scheduler == "asha":
        return schedulers.ASHAScheduler(
            time_attr="step", max_t=steps, grace_period=min(first, steps), reduction_factor=3
        )
    if options.scheduler == "median":
        return schedulers.MedianStoppingRule(time_attr="step", grace_period=first)
    if options.scheduler == "pbt":
        return schedulers.PopulationBasedTraining(
            time_attr="step",
            perturbation_interval=first,
            hyperparam_mutations=dict(sweep.space.parameters),
            synch=True,
        )
    if options.scheduler == "pb2":
        bounds: dict[str, Any] = {path: [domain.lower, domain.upper] for path, domain in sweep.space.parameters.items()}  # type: ignore[attr-defined]
        from ray.tune.schedulers.pb2 import PB2

        return PB2(time_attr="step", perturbation_interval=first, hyperparam_bounds=bounds, synch=True)
    return schedulers.FIFOScheduler()


class Lines(tune.Callback):
    """Tells of each trial in a line: what it was given, what it reported, how it ended."""

    def __init__(self, sweep: Sweep) -> None:
        self._metric, self._steps, self._trials = sweep.metric, sweep.recipe.train.steps, sweep.options.trials
        self._numbers: dict[str, int] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = self._numbers.setdefault(trial.trial_id, len(self._numbers) + 1)
        self._say(f"trial {number} of {self._trials} begins: {settings_text(trial.config)}")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        value = result.get(self._metric, math.nan)
        note = f": {one_line(result['note'])}" if result.get("note") else ""
        self._say(
            f"trial {self._numbers.get(trial.trial_id, 0)}, step {result.get('step', 0):,} of {self._steps:,}: "
            f"{self._metric} {_value(value)}{note}"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._say(f"trial {self._numbers.get(trial.trial_id, 0)} failed: {_reason(trial)}")

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def settings_text(config: dict[str, Any]) -> str:
    """Return a trial's settings: optim.lr 0.0031, optim.clip_norm 3."""
    return ", ".join(f"{path} {_value(value)}" for path, value in config.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return "none" if abs(value) >= WORST else figure(value)
    return one_line(value, 60)


def _reason(trial: Any) -> str:
    text = str(getattr(trial, "get_error", lambda: "")() or "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return one_line(lines[-1] if lines else "no reason given")


def _end(sweep: Sweep, results: tune.ResultGrid) -> int:
    """Print the table, write the report and the best recipe."""
    tried = [_tried(sweep, number + 1, results[number]) for number in range(len(results))]
    known = [trial for trial in tried if math.isfinite(trial.value)]
    known.sort(key=lambda trial: trial.value, reverse=not lower_is_better(sweep.metric))
    for trial in tried:
        with contextlib.suppress(UserError):  # one that never began has no folder
            write_report(Path(trial.run))
    report = write_sweep_report(sweep.folder, sweep.name, sweep.metric, tried, lower_is_better(sweep.metric))
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
    metrics = result.metrics or {}
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
        settings=dict(result.config or {}),
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
        values = (_value(trial.settings.get(path, "")) for path in paths)
        table.add_row(f"trial {trial.number}", *values, figure(trial.value), f"{trial.steps:,}", trial.note)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
