"""The training loop: restore, step, write down, checkpoint. It never asks which model it trains.

All workers share the run's folder: `metrics.jsonl`, `quarantine.jsonl`, `ledger-<rank>.jsonl` if asked for,
`stacks-<rank>.txt` where a worker hung, and `checkpoints/`. A file named STOP in it asks them to write a checkpoint
and end.
"""

from __future__ import annotations

import torch

from headrace.augment import Augment
from headrace.errors import RunError
from headrace.optim import Ema, build_optimizer
from headrace.recipe import Recipe
from headrace.train import checkpoint
from headrace.train.checkpoint import Saver
from headrace.train.feed import Feed
from headrace.train.flops import Usage
from headrace.train.guard import Guard
from headrace.train.hang import HangWatch
from headrace.train.kernels import CompileCount, attention_kernels
from headrace.train.meter import Measured, Meter, failures_exceeded, refusals_exceeded
from headrace.train.parallel import distribute
from headrace.train.precision import compile_parts
from headrace.train.profiler import PROFILE_FOLDER, StepProfiler
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
        RunError: too many samples failed, too many steps were left out, the stream broke its order, or a checkpoint
            could not be written.
    """
    train_config, last = recipe.train, newest_checkpoint(session.run)
    progress = read_progress(last)
    progress.check_same_samples(session.manifest_digest, session.sequence)
    progress.manifest_digest, progress.sequence = session.manifest_digest, session.sequence

    first = progress.micro_batch(train_config.micro_batch)
    stream = session.batches(first)
    feed = Feed(stream, first + session.rank, session.world_size, session.device, train_config.queue)
    hang = HangWatch(session.run, session.rank, train_config.hang_minutes)
    kernels = attention_kernels(train_config.attention, train_config.flash)
    # The decoders start while the model is built.
    with (
        feed,
        hang,
        kernels,
        CompileCount() as compiles,
        Saver(session.run, train_config.keep_checkpoints) as saver,
        Scribe(recipe, session) as scribe,
    ):
        trainable = build_trainable(recipe, session.device)
        if last is not None:
            checkpoint.load(last, trainable)
        usage = Usage.of(recipe, session.device)
        scribe.start(progress, sum(p.numel() for p in trainable.objective.parameters() if p.requires_grad), usage)
        wanted = train_config.profile if session.rank == 0 else None
        profiler = StepProfiler(session.run / PROFILE_FOLDER, wanted, session.device)
        meter, stop, left = Meter(session.device), progress.step >= train_config.steps, False
        while not stop:
            profiler.before(progress.step + 1)
            result = train_step(trainable, feed, progress.step, (recipe.seed, session.rank), train_config, recipe.optim)
            progress.step += 1
            progress.position += train_config.global_batch
            meter.add(result)
            scribe.ledger(progress.step, result)
            scribe.profile(progress.step, profiler.after(progress.step))
            hang.alive()

            done = progress.step == train_config.steps
            due = done or progress.step % train_config.checkpoint_every == 0
            if due or progress.step % train_config.log_every == 0:
                asked = session.rank == 0 and (session.run / STOP_FILE).exists()
                measured = meter.reduce(session.world_size, asked, saver.is_written, session.leaving())
                progress.count_failures(failure.reason for failure in measured.failures)
                progress.count_refused(refused.step for refused in measured.refused)
                used = usage.at(measured.record["clips_per_second"] / session.world_size)
                scribe.measured(progress, measured, {**used, "compiles": compiles.take()})

                enough = _budget_exceeded(recipe, progress, measured)
                stop = done or measured.stop or enough is not None
                in_time = measured.leaving and not left  # one checkpoint, before a machine is taken away
                left = measured.leaving
                if measured.written or due or stop or in_time:
                    _commit(saver, session, scribe)
                if due or stop or in_time:
                    saver.begin(trainable, progress, measured.record["loss"])
                if stop or in_time:
                    _commit(saver, session, scribe)
                if enough:  # written down first: with a larger budget the run goes on from here
                    raise RunError(enough)
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
        guard=Guard(train.guard, device),
        ema=None if recipe.optim.ema is None else Ema(objective, recipe.optim.ema),
        augment=Augment(recipe.augment, device),
        device=device,
    )


def _budget_exceeded(recipe: Recipe, progress: Progress, measured: Measured) -> str | None:
    """Return what to say where too much failed for the run to go on."""
    too_many_refused = refusals_exceeded(progress, recipe.train.guard.budget, measured.refused)
    return failures_exceeded(progress, recipe.data.failures) or too_many_refused


def _commit(saver: Saver, session: Session, scribe: Scribe) -> None:
    """Complete the checkpoint that was begun, if one was, and tell of it."""
    saved = saver.commit()
    if saved is not None:
        scribe.checkpoint(saved)
        session.committed(saved.path, saved.progress.step, saved.loss)
