"""Ray's tuner of a sweep: how settings are drawn, which trials go on, and what is said of each.

space  ->  search  ->  trials (`cluster.sweep`)  ->  scheduler  ->  which of them go on, with which settings
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray import tune
from ray.tune import schedulers
from ray.tune.search import BasicVariantGenerator, Searcher

from headrace.cli import RecipeOptions
from headrace.cluster.space import Space
from headrace.cluster.sweep import WORST, Trial
from headrace.errors import UserError
from headrace.observe.figures import figure, one_line
from headrace.recipe import Recipe
from headrace.train.config import lower_is_better

TUNE = "tune"
"""Folder of what Ray Tune remembers, in a sweep's."""

ON_HEAD = {"CPU": 0.0, "node:__internal_head__": 0.001}
"""What a trial takes for itself: a place on the head. Its workers and decoders ask for theirs."""

_NEEDS = {"optuna": ("optuna",), "bohb": ("hpbandster", "ConfigSpace"), "pb2": ("sklearn",)}
EXCHANGES = ("pbt", "pb2")


@dataclass(frozen=True)
class SweepOptions(RecipeOptions):
    """How the settings are drawn, and which trials go on."""

    trials: int = 16
    """Trials in all; of pbt and pb2 the size of the population. --search grid tries all combinations, once."""

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
        if self.trials < 1:
            raise UserError(f"--trials must be at least 1, got {self.trials}")
        for name in ("concurrent", "retries"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} must be at least 0, got {getattr(self, name)}")
        if self.search == "bohb" and self.scheduler not in ("asha", "none"):
            raise UserError(f"--search bohb brings a scheduler of its own: leave out --scheduler {self.scheduler}")
        if self.scheduler in EXCHANGES and self.trials < 2:
            raise UserError(f"--scheduler {self.scheduler} exchanges settings between trials: it needs 2 at least")
        if self.scheduler in EXCHANGES and self.search == "grid":
            raise UserError(f"--scheduler {self.scheduler} draws for itself: leave out --search grid")
        draws = set() if self.scheduler in EXCHANGES else {self.search}  # those draw for themselves
        for asked in ({self.scheduler} | draws) & _NEEDS.keys():
            missing = [name for name in _NEEDS[asked] if importlib.util.find_spec(name) is None]
            if missing:
                how = " ".join(missing) if asked == "bohb" else "'headrace[tune]'"
                raise UserError(f"{asked} needs {' and '.join(missing)}: pip install {how}")

    @property
    def hands_on(self) -> bool:
        """Whether Tune keeps checkpoints of trials, for others or for when they go on."""
        return self.scheduler in EXCHANGES or self.search == "bohb"


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

    @property
    def trials(self) -> int:
        """How many there are in all."""
        if self.options.search != "grid":
            return self.options.trials
        return math.prod(len(values) for values in self.space.choices.values())


def build_tuner(sweep: Sweep, at_once: int, *, goes_on: bool, **of_trials: Any) -> tune.Tuner:
    """Return Ray's tuner of a sweep, a new one or the one that was cut off.

    Args:
        sweep: what is tried.
        at_once: how many trials run at the same time.
        goes_on: whether it was cut off.
        of_trials: what `Trial.setup` is given, beside what the sweep knows.
    """
    _quiet()
    trial: Any = tune.with_parameters(
        Trial,
        recipe=sweep.recipe,
        sweep=sweep.folder,
        metric=sweep.metric,
        wandb=sweep.options.wandb == "auto",
        **of_trials,
    )
    trial = tune.with_resources(trial, ON_HEAD)
    options = sweep.options
    if goes_on:
        return tune.Tuner.restore(str(sweep.folder / TUNE), trial, resume_errored=True)
    mode = "min" if lower_is_better(sweep.metric) else "max"
    space: dict[str, Any] = dict(sweep.space.parameters)
    if options.search == "grid":
        space = {path: tune.grid_search(values) for path, values in sweep.space.choices.items()}
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
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=int(options.hands_on)),
        ),
    )


def _search(options: SweepOptions) -> Searcher | BasicVariantGenerator:
    if options.scheduler in EXCHANGES or options.search in ("random", "grid"):
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
        self._metric, self._steps, self._trials = sweep.metric, sweep.recipe.train.steps, sweep.trials

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._say(f"trial {_place(trial, trials)} of {self._trials} begins: {settings_text(trial.config)}")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        value = result.get(self._metric, math.nan)
        note = f": {one_line(result['note'])}" if result.get("note") else ""
        self._say(
            f"trial {_place(trial, trials)}, step {result.get('step', 0):,} of {self._steps:,}: "
            f"{self._metric} {value_text(value)}{note}"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._say(f"trial {_place(trial, trials)} failed: {_reason(trial)}")

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def _place(trial: Any, trials: list[Any]) -> int:
    """Return a trial's number, from 1."""
    return sorted(made_as(one.experiment_tag) for one in trials).index(made_as(trial.experiment_tag)) + 1


def made_as(tag: str) -> float:
    """Return as which of its sweep's trials Tune made one, by its tag, "7_optim.lr=0.0031".

    Tune's own lists begin with what was not done yet when a sweep goes on.
    """
    count = tag.partition("_")[0]
    return int(count) if count.isdecimal() else math.inf


def settings_text(config: dict[str, Any]) -> str:
    """Return a trial's settings: optim.lr 0.0031, optim.clip_norm 3."""
    return ", ".join(f"{path} {value_text(value)}" for path, value in config.items())


def value_text(value: Any) -> str:
    if isinstance(value, float):
        return "none" if abs(value) >= WORST else figure(value)
    return one_line(tuple(value) if isinstance(value, list) else value, 60)  # a sweep that goes on reads lists


def _reason(trial: Any) -> str:
    text = str(getattr(trial, "get_error", lambda: "")() or "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return one_line(lines[-1] if lines else "no reason given")


def _quiet() -> None:
    """Turn off what Tune and Optuna print on their own."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with it, verbose=0 still prints a table
    warnings.filterwarnings("ignore", message="Choices for a categorical distribution", category=UserWarning)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    if importlib.util.find_spec("optuna") is not None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
