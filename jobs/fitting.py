"""Fitting a recipe to its samples once Ray is up: what one run and the trials of a sweep have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ray

from data_pipelines.clips import micro_batches
from headrace.cluster.embedded import is_small
from headrace.cluster.trainer import (
    Resources,
    agenda_of,
    build_trainer,
    check_room,
    fit,
    plan_of,
    resources_for,
    spare_cpus,
)
from headrace.data.config import PoolSize
from headrace.data.course import Course
from headrace.data.split import Split
from headrace.errors import UserError
from headrace.recipe import Recipe
from headrace.train.progress import newest_checkpoint, read_progress


def check_cluster(recipe: Recipe, cluster: dict[str, float]) -> tuple[Resources, PoolSize]:
    """Return what a recipe's workers and its decode pool get of a cluster.

    Args:
        recipe: the run's.
        cluster: resources by name.

    Raises:
        UserError: the run does not fit the cluster.
    """
    resources = resources_for(recipe, cluster)
    pool = recipe.data.pool(spare_cpus=spare_cpus(resources, cluster, recipe.data.decoder_resource))
    check_room(recipe, resources, pool, cluster)
    return resources, pool


def fitting(recipe: Recipe, run: Path, split: ray.ObjectRef[Split], cluster: dict[str, float]) -> Callable[[], None]:
    """Return what trains a recipe from its run's newest checkpoint to its last step.

    Args:
        recipe: the run's.
        run: its folder.
        split: its samples, the held-out ones limited to those that are evaluated.
        cluster: resources by name.

    Raises:
        UserError: the run does not fit the cluster, or its held-out samples do not give its metric.
        RunError: the run has a checkpoint, and it counts other samples or another order.
    """
    resources, pool = check_cluster(recipe, cluster)
    resource = recipe.data.decoder_resource
    if resource and resource not in cluster:
        print(f"no node has {resource!r} yet: training begins when the cluster's autoscaler brings one", flush=True)
    samples = ray.get(split)
    _check_metric(recipe, samples)
    plan, agenda = plan_of(recipe, samples.training), agenda_of(recipe, len(samples.held_out))
    course = Course.of(samples, plan, agenda)
    read_progress(newest_checkpoint(run)).check_same_samples(course.manifest_digest, course.sequence)
    store = cluster["object_store_memory"] if is_small() else math.inf  # elsewhere Ray divides it among the streams
    stream = partial(micro_batches, split, plan, agenda, pool, recipe.train.workers, store_bytes=store)
    trainer = partial(build_trainer, recipe, course, run, stream, resources)
    return partial(fit, trainer, recipe.train.restarts)


def _check_metric(recipe: Recipe, split: Split) -> None:
    """Check that the held-out samples can tell what checkpoints are compared by."""
    evaluate = recipe.train.evaluate
    if evaluate.every and evaluate.metric == "knn" and len(set(split.held_out.labels.tolist()) - {-1}) < 2:
        raise UserError(
            "--train.evaluate.metric knn needs held-out samples of two classes at least: label them with `jobs/pack.py "
            "--metadata`, hold out more, or take --train.evaluate.metric loss"
        )
