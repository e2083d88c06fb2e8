"""Train a recipe.

    python jobs/train.py                                          the demo, on street scenes that it makes
    python jobs/train.py hjepa_tiny --data.source my_videos       a recipe on data of your own
    python jobs/train.py --resume runs/hjepa_tiny-...             go on with a run, or with s3://bucket/runs/...
    python jobs/train.py --from-run runs/hjepa_tiny-... --seed 1  the same recipe once more

Runs embedded, or on the cluster that RAY_ADDRESS names (`ray job submit -- python jobs/train.py` sets it).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import ray
import torch

from headrace.cli import RECIPE_FILE, RunOptions, parse
from headrace.cluster.launch import ray_cluster, see_through
from headrace.cluster.prometheus_log import PrometheusLog
from headrace.data import storage
from headrace.errors import RunError, UserError, exit_with_sentence
from headrace.observe.environment import write_environment
from headrace.observe.mirror import Mirror
from headrace.observe.report import write_report
from headrace.observe.tensorboard_log import TensorBoardLog
from headrace.observe.wandb_log import WandbLog
from headrace.observe.watch import recorded_bytes, watch
from headrace.recipe import Recipe, save_recipe
from headrace.train.evaluation import check_metric
from headrace.train.progress import ELSEWHERE_FILE, newest_checkpoint
from jobs import sources
from jobs.fitting import check_cluster, fitting
from jobs.recipes import DEFAULT, RECIPES


def main(arguments: Sequence[str]) -> int:
    """Train, and leave a run's folder with checkpoints, metrics and a report."""
    recipe, options = parse(arguments, RECIPES, DEFAULT, "train.py", "Train a recipe.", RunOptions())

    # What can be wrong is found here, before anything expensive starts.
    with torch.device("meta"):
        objective = recipe.model.build(recipe.augment.height, recipe.augment.width)
    metric = recipe.train.evaluate.metric
    check_metric(objective, metric, f"--train.evaluate.metric {metric}")
    recipe, source = sources.open_for(recipe)
    run = _open_run(recipe, options)

    workers = recipe.train.workers
    asked = recipe.data.pool(spare_cpus=sources.cores() - workers)
    cpus, resource = workers + asked.most, recipe.data.decoder_resource
    with ray_cluster(cpus, options.dashboard, resource) as cluster:
        check_cluster(recipe, cluster)
        split = source.split().limited(recipe.train.evaluate.samples)
        sources.say_slow_shuffle(split.training, recipe.data.shuffle)
        since = recorded_bytes(run)
        outcome = see_through(
            fitting(recipe, run, ray.put(split), cluster),
            run,
            recipe.train.steps,
            partial(watch, run, recipe=asdict(recipe), mirrors=_mirrors(run, recipe, options), since=since),
        )
    report = write_report(run)
    print(f"report: {report}")
    if outcome.outcome == "failed":
        raise RunError(f"{outcome.message} (go on with --resume {run})")
    return 0


def _mirrors(run: Path, recipe: Recipe, options: RunOptions) -> list[Mirror]:
    """Return where the run is to be seen beside its own folder."""
    settings = asdict(recipe)
    mirrors: list[Mirror] = [PrometheusLog(run)]
    if options.wandb == "auto":
        mirrors.append(WandbLog(run, settings))
    if options.tensorboard:
        mirrors.append(TensorBoardLog(run, settings))
    return mirrors


def _open_run(recipe: Recipe, options: RunOptions) -> Path:
    """Return the folder of the run, with its recipe in it."""
    if options.resume is not None:
        run = _resumed(options.resume, options.output)
    else:
        run = (options.output or Path("runs") / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
        if (run / RECIPE_FILE).exists():
            raise UserError(f"{str(run)!r} holds a run already: choose another --output, or --resume {run}")
        run.mkdir(parents=True, exist_ok=True)
        if recipe.train.checkpoints is not None:
            _keep_elsewhere(run, f"{recipe.train.checkpoints.rstrip('/')}/{run.name}")
    save_recipe(recipe, run / RECIPE_FILE)
    if (run / ELSEWHERE_FILE).exists():  # beside the checkpoints, which then are all that a run needs
        storage.upload(run / RECIPE_FILE, f"{(run / ELSEWHERE_FILE).read_text()}/{RECIPE_FILE}")
    write_environment(run)
    return run


def _keep_elsewhere(run: Path, location: str) -> None:
    """Let the checkpoints of a new run lie at a location in object storage."""
    if storage.list_files(location, missing=True):
        raise UserError(f"{location!r} holds a run already: choose another --output, or --resume {location}")
    (run / ELSEWHERE_FILE).write_text(location)


def _resumed(asked: str, output: Path | None) -> Path:
    """Return the folder of a run that goes on; a new one where only its checkpoints are left."""
    run = Path(asked).absolute()
    if storage.is_remote(asked):
        location = asked.rstrip("/")
        run = (output or Path("runs") / location.rpartition("/")[2]).absolute()
        if (run / RECIPE_FILE).exists():
            raise UserError(f"{str(run)!r} holds a run already: --resume it, or choose another --output")
        storage.list_files(location)  # which says at once what is wrong with it
        run.mkdir(parents=True, exist_ok=True)
        (run / ELSEWHERE_FILE).write_text(location)
    if newest_checkpoint(run) is None:
        raise UserError(f"{asked!r} holds no checkpoint to go on from")
    return run


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
