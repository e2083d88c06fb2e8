"""The training loop: restore, step, write down, checkpoint. It never asks which model it trains.

All workers share the run's folder: `metrics.jsonl`, `quarantine.jsonl`, `ledger-<rank>.jsonl` if asked for,
`stacks-<rank>.txt` where a worker hung, `compiled.bin`, and `checkpoints/`. A file named STOP in it asks them to write
a checkpoint and end.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from types import TracebackType

import torch
from typing_extensions import Self

from headrace.augment import Augment
from headrace.errors import RunError
from headrace.optim import Ema, build_optimizer
from headrace.recipe import Recipe
from headrace.train import checkpoint
from headrace.train.checkpoint import Saver
from headrace.train.compiled import CompileCache
from headrace.train.evaluation import Evaluator
from headrace.train.feed import Feed
from headrace.train.flops import Usage
from headrace.train.guard import Guard
from headrace.train.hang import HangWatch
from headrace.train.kernels import CompileCount, attention_kernels
from headrace.train.meter import Measured, Meter, failures_exceeded, refusals_exceeded
from headrace.train.parallel import any_rank, distribute
from headrace.train.precision import compile_parts
from headrace.train.profiler import PROFILE_FOLDER, StepProfiler
from headrace.train.progress import STOP_FILE, Progress, newest_checkpoint, read_progress
from headrace.train.recompute import recompute
from headrace.train.scribe import Scribe
from headrace.train.session import Session
from headrace.train.step import Trainable, train_step

LOOK_SECONDS = 2.0
"""How long, at most, a call to stop or the notice of a machine that goes waits, a step's end apart."""


def train(recipe: Recipe, session: Session) -> Progress:
    """Train from the run's newest checkpoint, or from the start, to the recipe's last step.

    Returns:
        How far the run is: short of the last step if it was asked to stop.

    Raises:
        RunError: too many samples failed, too many steps were left out, the stream broke its order, or a checkpoint
            could not be written.
    """
    course, last = session.course, newest_checkpoint(session.run)
    progress = read_progress(last)
    progress.check_same_samples(course.manifest_digest, course.sequence)
    progress.manifest_digest, progress.sequence = course.manifest_digest, course.sequence
    if last is not None and any_rank(_is_asked_to_stop(session), session.device):
        return progress  # asked while the workers started again: all that was done is in the checkpoint

    first = progress.micro_batch(recipe.train.micro_batch)
    numbers = course.agenda.numbers_of(session.rank, session.world_size, progress.step, first)
    feed = Feed(session.batches(progress.step, first), numbers, session.device, recipe.train.queue)
    hang = HangWatch(session.run, session.rank, recipe.train.hang_minutes)
    # The decoders start while the model is built.
    with feed, hang, attention_kernels(recipe.train.attention, recipe.train.flash):
        trainable = build_trainable(recipe, session.device)
        if last is not None:
            checkpoint.load(last, trainable)
        with Loop(recipe, session, feed, trainable, progress, hang.alive) as loop:
            loop.start()
            while not loop.is_over:
                loop.step()
                loop.after_step()
    return progress


class Loop:
    """What a step needs around it: records, evaluations, checkpoints, and a watch over all of it.

    Args:
        recipe, session: of the run.
        feed: this rank's micro-batches.
        trainable: what is trained.
        progress: where it stands; kept up to date.
        alive: called whenever something was done.
    """

    def __init__(
        self,
        recipe: Recipe,
        session: Session,
        feed: Feed,
        trainable: Trainable,
        progress: Progress,
        alive: Callable[[], None],
    ) -> None:
        self.recipe, self.session, self.feed, self.trainable, self.progress = recipe, session, feed, trainable, progress
        self._alive = alive
        train, agenda = recipe.train, session.course.agenda
        self.is_over = progress.step >= train.steps
        self._meter = Meter(session.device)
        self._usage = Usage.of(recipe, session.device)
        self._evaluate = Evaluator(trainable, recipe, agenda.held_out // session.world_size)
        wanted = train.profile if session.rank == 0 else None
        self._profiler = StepProfiler(session.run / PROFILE_FOLDER, wanted, session.device)
        self._compile_cache = CompileCache(session.run, compiles=train.compile.enabled)
        self._leaving = False
        self._look_every = 1
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        train, session = self.recipe.train, self.session
        with contextlib.ExitStack() as opened:
            self._compiles = opened.enter_context(CompileCount())
            self._saver = opened.enter_context(Saver(session.run, train.keep_checkpoints))
            self._scribe = opened.enter_context(Scribe(self.recipe, session))
            self._open = opened.pop_all()
        self._compile_cache.load()  # in time: the first step compiles
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def start(self) -> None:
        """Write down what begins."""
        parameters = sum(p.numel() for p in self.trainable.objective.parameters() if p.requires_grad)
        self._scribe.start(self.progress, parameters, self._usage)

    def step(self) -> None:
        """Take a step and take note of it."""
        recipe, progress = self.recipe, self.progress
        self._profiler.before(progress.step + 1)
        new = progress.step == 0
        seed = recipe.seed, self.session.rank
        result = train_step(self.trainable, self.feed, progress.step, seed, recipe.train, recipe.optim)
        progress.step += 1
        progress.position += recipe.train.global_batch
        self._meter.add(result)
        if new:
            self._scribe.sheet(self.trainable.augment, result)
        self._scribe.ledger(progress.step, result)
        self._scribe.profile(progress.step, self._profiler.after(progress.step))
        self._alive()

    def after_step(self) -> None:
        """Write a record, evaluate and write a checkpoint, where one of them is due."""
        train, step = self.recipe.train, self.progress.step
        evaluation_due = self.session.course.agenda.is_evaluated(step)
        due = evaluation_due or step == train.steps or step % train.checkpoint_every == 0
        if not due and step % train.log_every and not self._is_called():
            return
        measured = self.record()
        enough = _budget_exceeded(self.recipe, self.progress, measured)
        self.is_over = step == train.steps or measured.stop or enough is not None
        in_time = measured.leaving and not self._leaving  # one checkpoint, before a machine is taken away
        self._leaving = measured.leaving
        if measured.written or due or self.is_over or in_time:
            self._commit()
        if in_time:
            self._saver.begin(self.trainable, self.progress, measured.record["loss"])
            self._commit()
        if evaluation_due:
            self._evaluated()
        if (due or self.is_over) and not in_time:
            self._saver.begin(self.trainable, self.progress, measured.record["loss"])
        if self.is_over:
            self._commit()
        if enough:  # written down first: with a larger budget the run goes on from here
            raise RunError(enough)

    def _is_called(self) -> bool:
        """Say whether, between two records, a rank was asked to stop or will lose its machine.

        All ranks ask at the same steps, some LOOK_SECONDS apart by what the last record says of a step.
        """
        if self.progress.step % self._look_every:
            return False
        leaving = self.session.leaving() and not self._leaving
        return any_rank(_is_asked_to_stop(self.session) or leaving, self.session.device)

    def record(self) -> Measured:
        """Write down what the ranks did since the last record, and return it."""
        session, progress = self.session, self.progress
        asked = _is_asked_to_stop(session)
        measured = self._meter.reduce(session.world_size, asked, self._saver.is_written, session.leaving())
        self._look_every = max(1, int(LOOK_SECONDS / max(measured.record["step_seconds"], 1e-9)))
        progress.count_failures(failure.reason for failure in measured.failures)
        progress.count_refused(refused.step for refused in measured.refused)
        used = self._usage.at(measured.record["clips_per_second"] / session.world_size)
        self._scribe.measured(progress, measured, {**used, "compiles": self._compiles.take()})
        return measured

    def _evaluated(self) -> None:
        """Evaluate on the held-out samples, which come next in the feed."""
        progress, config = self.progress, self.recipe.train.evaluate
        evaluation = self._evaluate(self.feed, self._alive)
        value = evaluation.scores.get(config.metric, math.nan)
        best = progress.rank(value, config, self.session.course.held_out_digest)
        self._scribe.evaluated(progress.step, evaluation, best=best, compiles=self._compiles.take())

    def _commit(self) -> None:
        """Complete the checkpoint that was begun, if one was, and tell of it."""
        saved = self._saver.commit()
        if saved is not None:
            if self.session.rank == 0:
                self._compile_cache.keep(self._compiles.total)
            self._scribe.checkpoint(saved)
            self.session.committed(saved.path, saved.progress.step, saved.loss)


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


def _is_asked_to_stop(session: Session) -> bool:
    """Say so on rank 0, which tells the others."""
    return session.rank == 0 and (session.run / STOP_FILE).exists()


def _budget_exceeded(recipe: Recipe, progress: Progress, measured: Measured) -> str | None:
    """Return what to say where too much failed for the run to go on."""
    too_many_refused = refusals_exceeded(progress, recipe.train.guard.budget, measured.refused)
    return failures_exceeded(progress, recipe.data.failures) or too_many_refused
