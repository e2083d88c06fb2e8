"""A recipe many times over: Ray Tune draws the settings, each trial is a run of its own, with workers and decoders.

    <sweep>/trials/<id>/0/     a trial's run, a run's folder like any other
                       1/      goes on from another's checkpoint, where a scheduler let it
            tune/              what Ray Tune remembers

A trial reports whenever it has a checkpoint. So what is compared can be gone on with, and a trial that is paused, taken
over or cut off loses nothing before it.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune

from headrace.cli import RECIPE_FILE
from headrace.cluster.launch import Behind, Outcome
from headrace.cluster.space import Space, derive
from headrace.data.split import Split
from headrace.observe.history import History
from headrace.observe.records import METRICS_FILE, Follower, StepRecord, number
from headrace.observe.wandb_log import WandbLog
from headrace.recipe import Recipe, save_recipe
from headrace.train.config import lower_is_better
from headrace.train.progress import CHECKPOINTS, STOP_FILE, newest_checkpoint

TRIALS = "trials"
WORST = 1e12
"""What a trial reports of a metric that is not a number, on the bad side: schedulers and searches know no NaN."""

RECENT_STEPS = 10

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 20.0

Prepare = Callable[[Recipe, Path, "ray.ObjectRef[Split]", dict[str, float]], Callable[[], None]]
"""Returns what trains a recipe in a run's folder."""


class Trial(tune.Trainable):
    """One recipe of a sweep. Each call of `train` goes on to the next checkpoint."""

    def setup(  # type: ignore[override]  # tune.with_parameters gives the others
        self,
        config: dict[str, Any],
        *,
        recipe: Recipe,
        sweep: Path,
        split: list[ray.ObjectRef[Split]],
        prepare: Prepare,
        cluster: dict[str, float],
        metric: str,
        wandb: bool,
    ) -> None:
        """Derive the recipe and find the folder.

        Args:
            config: values by path, as they were drawn.
            recipe: from which all trials are derived.
            sweep: the sweep's folder.
            split: the samples, in a list, in which Ray leaves a reference alone.
            prepare: what makes a run of it.
            cluster: this trial's part of the cluster's resources.
            metric: by which trials are compared.
            wandb: whether to write to Weights & Biases.
        """
        self._base, self._sweep, self._split, self._prepare = recipe, sweep, split[0], prepare
        self._cluster, self._metric, self._wandb = cluster, metric, wandb
        self._become(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial, in the same process; say whether that can be."""
        self.cleanup()
        if self._behind is not None and self._behind.outcome is None:
            return False
        self._become(new_config)
        return True

    def _become(self, config: dict[str, Any]) -> None:
        self._recipe = derive(self._base, config)
        self._folder = self._sweep / TRIALS / self.trial_id
        self._run: Path | None = None
        self._behind: Behind | None = None
        self._log: WandbLog | None = None
        self._told = 0
        self._follower: Follower

    def step(self) -> dict[str, Any]:
        """Train to the next checkpoint and return what was measured since the last one, and how it was evaluated.

        Raises:
            RuntimeError: the run failed, by no fault of the recipe.
        """
        if self._behind is None:
            run = self._run or self._begin(max(0, _generations(self._folder) - 1))  # unless something was loaded
            fit = self._prepare(self._recipe, run, self._split, self._cluster)
            self._behind = Behind(fit, run, self._recipe.train.steps)
            self._behind.start()
        while True:
            over = self._behind.outcome  # asked first: what was written before it is read below
            for record in self._follower.poll():
                self._history.add(record)
                if record["kind"] == "step":
                    self._since.append(record)
                if self._log is not None:
                    self._log.see(record, self._history)
            if over is not None:
                return self._final_report(over)
            due = self._due()
            if self._told < due < self._recipe.train.steps:
                self._told = due
                return self._report(due)
            time.sleep(_POLL_SECONDS)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy the newest checkpoint, for this trial or another that takes its place."""
        newest = newest_checkpoint(self._run) if self._run is not None else None
        if isinstance(newest, Path):
            shutil.copytree(newest, Path(checkpoint_dir) / newest.name)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from a checkpoint, this trial's own or another's, in a new folder."""
        run = self._begin(_generations(self._folder))
        for saved in Path(checkpoint).glob("step-*"):
            shutil.copytree(saved, run / CHECKPOINTS / saved.name)

    def cleanup(self) -> None:
        """Ask the workers to end, and wait a little; what still runs ends with this process."""
        if self._run is not None and self._behind is not None and self._behind.outcome is None:
            (self._run / STOP_FILE).touch()
            until = time.monotonic() + _PATIENCE_SECONDS
            while self._behind.outcome is None and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
        if self._log is not None:
            self._log.close(self._history)

    def _begin(self, generation: int) -> Path:
        """Return the folder of the trial's run, with its recipe in it."""
        run: Path = self._folder / str(generation)
        run.mkdir(parents=True, exist_ok=True)
        save_recipe(self._recipe, run / RECIPE_FILE)
        self._run = run
        self._history, self._since = History(keep=1000), list[StepRecord]()
        self._follower = Follower(run / METRICS_FILE)
        for record in self._follower.poll():
            self._history.add(record)
        self._told = self._due()
        if self._wandb:
            self._log = WandbLog(run, asdict(self._recipe), f"{self.trial_id}-{generation}", self._sweep.name)
        return run

    def _due(self) -> int:
        """Return the newest step that can be reported: it has a checkpoint and, if its scores count, was evaluated."""
        saved = [record["step"] for record in self._history.checkpoints]
        if self._metric.startswith("held_out/"):
            evaluated = {record["step"] for record in self._history.evaluations}
            saved = [step for step in saved if step in evaluated]
        return max(saved, default=0)

    def _report(self, step: int) -> dict[str, Any]:
        """Return what the trial reports of its checkpoint of a step."""
        steps = [record for record in self._since if record["step"] <= step]
        self._since = self._since[len(steps) :]
        steps = steps or list(self._history.steps)[-RECENT_STEPS:]  # of a run that was over when it was begun again
        found = {name: _mean(steps, name) for name in ("loss", "clips_per_second", "wait_share", "mfu")}
        evaluated = [record for record in self._history.evaluations if record["step"] <= step]
        if evaluated:
            scores = evaluated[-1].get("scores") or {}
            found |= {f"held_out/{name}": number(scores, name) for name in scores}
        value = found.get(self._metric, math.nan)
        if not math.isfinite(value):
            found[self._metric] = WORST if lower_is_better(self._metric) else -WORST
        finite = {name: value for name, value in found.items() if math.isfinite(value)}
        return {"step": step, "run": str(self._run), "note": "", **finite}

    def _final_report(self, outcome: Outcome) -> dict[str, Any]:
        """Return the last report of a run that is over: one that could not learn is a bad trial, not a broken one."""
        result = self._report(self._history.step)
        if outcome.outcome != "failed":
            return {**result, "done": True}
        if len(self._history.refused) <= self._recipe.train.guard.budget:
            raise RuntimeError(outcome.message)
        worst = WORST if lower_is_better(self._metric) else -WORST
        return {**result, self._metric: worst, "note": outcome.message, "done": True}


def share_of(cluster: Mapping[str, float], concurrent: int) -> dict[str, float]:
    """Return the part of a cluster's resources that each of so many trials may count on."""
    return {name: value / concurrent for name, value in cluster.items()}


def most_at_once(recipe: Recipe, cluster: Mapping[str, float], device: str) -> int:
    """Return how many runs of a recipe fit a cluster at once, workers and the least number of decoders; 1 at least."""
    least = recipe.data.pool(spare_cpus=1).least
    fits = [cluster.get("CPU", 0.0) / least_cpus(recipe)]
    gpus = (recipe.train.workers if device == "cuda" else 0) + least * recipe.data.decoder_gpus
    if gpus:
        fits.append(cluster.get("GPU", 0.0) / gpus)
    decode = cluster.get(recipe.data.decoder_resource, 0.0)
    if decode:
        fits.append(decode / least)
    return max(1, int(min(fits)))


def most_demanding(recipe: Recipe, space: Space) -> Recipe:
    """Return the recipe with the most workers and decoders that a space may draw."""
    for path in ("train.workers", "data.decoders"):
        drawn = [derive(recipe, {path: value}) for value in space.choices.get(path, ())]
        recipe = max(drawn, key=least_cpus, default=recipe)
    return recipe


def least_cpus(recipe: Recipe) -> int:
    """Return the CPUs without which a run does not begin: its workers', and those of the least number of decoders."""
    return recipe.train.workers + recipe.data.pool(spare_cpus=1).least


def _generations(folder: Path) -> int:
    return sum(path.name.isdigit() for path in folder.iterdir()) if folder.is_dir() else 0


def _mean(steps: list[StepRecord], name: str) -> float:
    values = [value for step in steps if math.isfinite(value := number(step, name))]
    return sum(values) / len(values) if values else math.nan
