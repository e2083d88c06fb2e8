"""The training loop: restore, step, write down, checkpoint. It never asks which model it trains.

All workers share the run's folder: `metrics.jsonl`, `quarantine.jsonl`, `ledger-<rank>.jsonl` if asked for, and
`checkpoints/`. A file named STOP in it asks them to write a checkpoint and end.
"""

from __future__ import annotations

import time

import torch

from headrace.augment import Augment
from headrace.errors import RunError
from headrace.optim import Ema, build_optimizer
from headrace.recipe import Recipe
from headrace.train import checkpoint
from headrace.train.feed import Feed
from headrace.train.meter import Meter, budget_exceeded
from headrace.train.parallel import distribute
from headrace.train.precision import compile_parts
from headrace.train.progress import STOP_FILE, Progress, newest_checkpoint, read_progress
from headrace.train.recompute import recompute
from headrace.train.scribe import Scribe
from headrace.train.session import Session
from headrace.train.step import Trainable, train_step


def train(recipe: Recipe, session: Session) -> Progress:
    """Train from the run's newest checkpoint, or from the start, to the recipe's last step.

    Returns:
        How far the run is: short of the last step if it was asked to stop.

    Raises:
        RunError: too many samples failed, the stream broke its order, or a checkpoint could not be written.
    """
    train_config, last = recipe.train, newest_checkpoint(session.run)
    progress = read_progress(last)
    progress.check_same_samples(session.manifest_digest, session.sequence)
    progress.manifest_digest, progress.sequence = session.manifest_digest, session.sequence

    first = progress.micro_batch(train_config.micro_batch)
    stream = session.batches(first)
    feed = Feed(stream, first + session.rank, session.world_size, session.device, train_config.queue)
    with feed, Scribe(recipe, session) as scribe:  # the decoders start while the model is built
        trainable = build_trainable(recipe, session.device)
        if last is not None:
            checkpoint.load(last, trainable)
        scribe.start(progress, sum(p.numel() for p in trainable.objective.parameters() if p.requires_grad))
        meter, stop = Meter(session.device), False
        while progress.step < train_config.steps and not stop:
            result = train_step(trainable, feed, progress.step, (recipe.seed, session.rank), train_config, recipe.optim)
            progress.step += 1
            progress.position += train_config.global_batch
            meter.add(result)
            scribe.ledger(progress.step, result)

            done = progress.step == train_config.steps
            due = done or progress.step % train_config.checkpoint_every == 0
            if due or progress.step % train_config.log_every == 0:
                asked = session.rank == 0 and (session.run / STOP_FILE).exists()
                record, failures, stop = meter.reduce(session.world_size, asked)
                progress.count_failures(failure.reason for failure in failures)
                scribe.failures(failures)
                scribe.step(progress, record)
                too_many_failed = budget_exceeded(progress, recipe.data.failures)
                if due or stop or too_many_failed:
                    _checkpoint(recipe, session, trainable, progress, scribe, record["loss"])
                if too_many_failed:  # written down first: with a larger budget the run goes on from here
                    raise RunError(too_many_failed)
    return progress


def build_trainable(recipe: Recipe, device: torch.device) -> Trainable:
    """Build what a recipe trains: weights drawn from its seed, compiled, wrapped for all workers."""
    torch.manual_seed(recipe.seed)
    objective = recipe.model.build(recipe.augment.height, recipe.augment.width).to(device)
    objective.train()
    train = recipe.train
    recompute(objective.blocks(), train.recompute)
    compile_parts(objective, train.compile)
    return Trainable(
        objective=objective,
        parallel=distribute(objective, objective.blocks(), device, train.parallel, train.precision),
        optimizer=build_optimizer(objective, recipe.optim),
        ema=None if recipe.optim.ema is None else Ema(objective, recipe.optim.ema),
        augment=Augment(recipe.augment, device),
        device=device,
    )


def _checkpoint(
    recipe: Recipe, session: Session, trainable: Trainable, progress: Progress, scribe: Scribe, loss: float
) -> None:
    start = time.perf_counter()
    keep = recipe.train.keep_checkpoints
    path = checkpoint.save(session.run, trainable, progress, keep)
    scribe.checkpoint(progress, path, time.perf_counter() - start)
    session.committed(path, progress.step, loss)
