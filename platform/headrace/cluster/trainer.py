"""A recipe on Ray Train: who runs where, what happens when one dies.

TorchTrainer
  streams    evaluated at every start of the workers, also after a failure: they begin where the newest
             checkpoint stands, and span all epochs to the last step
  workers    n processes, one device each, torch.distributed between them; each runs `train`
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from headrace.cluster.ingest import ResumableStream, RoundRobin, StreamBuilder, stream_names
from headrace.cluster.launch import serves_dashboard
from headrace.cluster.pool import PoolOfRun
from headrace.data.agenda import Agenda
from headrace.data.config import PoolSize
from headrace.data.course import Course
from headrace.data.echo import Echo
from headrace.data.manifest import Manifest
from headrace.data.order.build import build_order
from headrace.data.reader import Plan, micro_batch_bytes
from headrace.errors import UserError, final_sentence
from headrace.recipe import Recipe
from headrace.train.progress import FAILED_FILE

_RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"

DECODERS_PER_WORKER = 64
"""Most decoders for each worker where nobody said how many, and nodes come as they are asked for."""


@dataclass(frozen=True)
class Resources:
    """What a run asks of the cluster.

    Attributes:
        device: "cpu" or "cuda".
        worker: Ray resources of one training worker.
        cpus: CPUs of all workers together; the decoders want others.
    """

    device: str
    worker: dict[str, float]
    cpus: int


def resources_for(recipe: Recipe, cluster: dict[str, float]) -> Resources:
    """Decide the workers' device and what each of them reserves.

    Raises:
        UserError: the recipe wants GPUs that the cluster does not have.
    """
    workers, gpus = recipe.train.workers, cluster.get("GPU", 0.0)
    device = recipe.train.device
    if device == "auto":
        device = "cuda" if gpus >= workers else "cpu"
    if device == "cuda" and gpus < workers and not _only_coordinates(cluster):
        raise UserError(
            f"--train.device cuda needs a GPU for each of {workers} workers, but the cluster has {gpus:g}: lower "
            f"--train.workers, add GPU nodes, or use --train.device cpu"
        )
    worker = {"CPU": 1.0, "GPU": 1.0} if device == "cuda" else {"CPU": 1.0}
    return Resources(device, worker, workers)


def spare_cpus(resources: Resources, cluster: dict[str, float], decoder_resource: str = "") -> int:
    """Return the CPUs that decoders may use: what the workers leave, or, where nodes come on demand, a large number.

    There the pool asks for as many as it needs, and the largest number of nodes is the cluster's own.

    Args:
        resources: what the workers get.
        cluster: resources by name.
        decoder_resource: what only the nodes that decode have, if there is such a thing.
    """
    if _comes_on_demand(cluster, decoder_resource):
        return DECODERS_PER_WORKER * resources.cpus
    left = cluster.get("CPU", 0.0) - resources.cpus
    return int(min(left, cluster[decoder_resource]) if decoder_resource else left)


def check_room(recipe: Recipe, resources: Resources, pool: PoolSize, cluster: dict[str, float]) -> None:
    """Check that the workers, the least number of decoders and what repeats hold fit the cluster.

    Raises:
        UserError: they do not, and the run would wait for ever.
    """
    resource = recipe.data.decoder_resource
    if _comes_on_demand(cluster, resource):
        return
    workers = recipe.train.workers
    cpus, needed = cluster.get("CPU", 0.0), workers + pool.least
    if needed > cpus:
        raise UserError(
            f"{workers} workers and {pool.least} decoders need {needed} CPUs, but the cluster has {cpus:g}: lower "
            f"--train.workers or --data.decoders, or add nodes"
        )
    if resource and pool.least > cluster[resource]:
        raise UserError(
            f"{pool.least} decoders need as many of {resource!r}, but the cluster's nodes have {cluster[resource]:g} "
            f"of it: lower --data.decoders, or add nodes that decode"
        )
    gpus = cluster.get("GPU", 0.0)
    needed_gpus = workers * resources.worker.get("GPU", 0.0) + pool.least * recipe.data.decoder_gpus
    if needed_gpus > gpus:
        raise UserError(
            f"{workers} workers and {pool.least} decoders need {needed_gpus:g} GPUs, but the cluster has {gpus:g}: "
            f"lower --data.decoder-gpus or --data.decoders, or add nodes"
        )
    _check_memory(recipe, cluster.get("object_store_memory", math.inf))


def _check_memory(recipe: Recipe, store: float) -> None:
    """Check that the clips which repeats hold for later leave the stream half of the object store."""
    held = echo_of(recipe).held_micro_batches * micro_batch_bytes(recipe.data, recipe.train.micro_batch)
    if held > store / 2:
        raise UserError(
            f"--data.repeats {recipe.data.repeats} with {recipe.data.repeats_apart} steps between them holds "
            f"{held / 1e9:.2f} GB of decoded clips, more than half of the object store's {store / 1e9:.2f} GB: lower "
            f"--data.repeats-apart, repeats, the batch, frames or size, or give Ray more memory"
        )


def _only_coordinates(cluster: dict[str, float]) -> bool:
    """Say whether the cluster is a head without CPUs, whose autoscaler brings nodes when they are asked for."""
    return cluster.get("CPU", 0.0) == 0


def _comes_on_demand(cluster: dict[str, float], decoder_resource: str) -> bool:
    """Say whether nodes that decode have yet to come, so that what the cluster has now says nothing of them."""
    return _only_coordinates(cluster) or (decoder_resource != "" and decoder_resource not in cluster)


def plan_of(recipe: Recipe, manifest: Manifest) -> Plan:
    """Return which samples a recipe's training sees in which order, and how they are read.

    Args:
        recipe: the run.
        manifest: its samples, with their weights: the training side of `split_samples`.

    Raises:
        UserError: there are too many samples for the order that is asked for.
    """
    data, train = recipe.data, recipe.train
    order = build_order(manifest, data, recipe.seed)
    return Plan(order, data, train.micro_batch, echo=echo_of(recipe))


def agenda_of(recipe: Recipe, held_out: int) -> Agenda:
    """Return which micro-batches a recipe's run consumes, and when.

    Args:
        recipe: the run.
        held_out: samples that it evaluates on.
    """
    train, every = recipe.train, recipe.train.evaluate.every
    rounds = -(-held_out // (train.micro_batch * train.workers)) if every else 0
    return Agenda(train.steps, train.global_batch // train.micro_batch, max(1, every), rounds * train.workers)


def echo_of(recipe: Recipe) -> Echo:
    """Return how often a recipe's training sees a sample for one decode."""
    data, train = recipe.data, recipe.train
    return Echo.of(data.repeats, data.repeats_apart, train.global_batch // train.micro_batch)


class Trainer(TorchTrainer):
    """Ray's, without what a cluster of our own does not need and waits for.

    Ray frees the workers' CPUs by a helper if their controller dies, which it asks of the dashboard once a second. An
    embedded cluster serves none: the helper waits 10 seconds for each answer, and the end of the run for the helper.
    Such a cluster ends with its driver and needs no freeing.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        if serves_dashboard():
            return callbacks
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def build_trainer(
    recipe: Recipe, course: Course, run: Path, stream_from: StreamBuilder, resources: Resources
) -> TorchTrainer:
    """Return the trainer of a run, ready to `fit()`.

    Args:
        recipe: the run.
        course: what it streams.
        run: its folder, which the driver and all workers can reach.
        stream_from: builds a stream from where the run stands.
        resources: what `resources_for` decided.
    """
    # Ray's own list of the run's checkpoints: with it, Ray would not start once one of them was deleted.
    (run / _RAY_SNAPSHOT).unlink(missing_ok=True)
    micro_batch, streams = recipe.train.micro_batch, recipe.data.streams
    return Trainer(
        partial(_work, recipe, run, course),
        datasets={
            name: ResumableStream(
                micro_batch, stream_from, PoolOfRun(run, micro_batch * recipe.data.repeats, stream, streams)
            )
            for stream, name in enumerate(stream_names(streams))
        },
        dataset_config=RoundRobin(streams),
        torch_config=TorchConfig(backend="nccl" if resources.device == "cuda" else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=recipe.train.workers,
            use_gpu=resources.device == "cuda",
            resources_per_worker=resources.worker,
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=str(run.parent),
            failure_config=FailureConfig(max_failures=recipe.train.restarts),
        ),
    )


def fit(build: Callable[[], TorchTrainer], restarts: int) -> None:
    """Train to the end. A worker that is lost while the workers start is another start, too.

    Ray starts the workers again only when one was lost while it trained; in the seconds before that, it gives up.

    Args:
        build: returns a trainer that goes on from the run's newest checkpoint.
        restarts: how often at most.
    """
    for left in range(restarts, -1, -1):
        try:
            build().fit()
        except ControllerError as error:
            if not isinstance(error.controller_failure, RayActorError) or left == 0:
                raise
        else:
            return


def _work(recipe: Recipe, run: Path, course: Course) -> None:
    """Train, in one worker."""
    import torch

    from headrace.cluster.session import RaySession
    from headrace.train.loop import train  # what only the workers need is loaded only there

    if (run / FAILED_FILE).exists():
        return  # Ray starts lost workers again, whatever the reason; this one would come again too
    torch.set_num_threads(recipe.train.threads)
    try:
        train(recipe, RaySession(run, course, recipe.data.streams))
    except Exception as error:
        sentence = final_sentence(error)
        if sentence is not None:
            (run / FAILED_FILE).write_text(sentence)
        raise
