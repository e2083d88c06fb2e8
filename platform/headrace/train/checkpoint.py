"""Checkpoints: written by all ranks while training goes on, read by any number of them.

    <run>/checkpoints/step-00000100/    model, optimizer, average and guard, by torch.distributed.checkpoint
                      progress.json     step, position, failures, what they belong to

Where they lie, and what makes one complete, is `places`' matter. Tensors are saved under the model's own names, so any
number of workers can read them, however they share the model. There is no random state to save: every draw is a
function of the seed and the position.
"""

from __future__ import annotations

import contextlib
import copy
import math
import shutil
import time
import warnings
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from typing_extensions import Self

from headrace.errors import RunError, UserError
from headrace.observe.figures import size
from headrace.optim import eval_mode, train_mode
from headrace.train.parallel import barrier, world_size
from headrace.train.places import Place, place_of
from headrace.train.progress import CheckpointPath, Progress, checkpoint_at, complete_checkpoints
from headrace.train.step import Trainable

# Of a process that is alone torch says so at every save and load, also in the thread that writes.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint.

    Attributes:
        path: where it lies.
        progress: how far the run was.
        loss: what it was then.
        seconds: from its begin until it was complete; blocked_seconds: of these, those in which nobody trained.
    """

    path: CheckpointPath
    progress: Progress
    loss: float
    seconds: float
    blocked_seconds: float


@dataclass(frozen=True)
class _Pending:
    path: CheckpointPath
    progress: Progress
    loss: float
    began: float
    blocked_seconds: float
    complete: Future[None]


class Saver:
    """Writes checkpoints while training goes on, one at a time; all ranks take part in each call.

    `begin` copies what is to be saved into host memory and returns; a thread writes the copy and, on rank 0, completes
    the checkpoint once all ranks have written their share. `commit` waits for it. An error on its way out does, too.

    Args:
        run: the run's folder.
        keep: newest checkpoints that are kept, beside the best ones.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self._run, self._keep = run, keep
        # The thread's talk with other ranks must not get between that of the training.
        self._group = dist.new_group(backend="gloo") if world_size() > 1 else None
        pinned = torch.cuda.is_available()  # the copies are kept for the next checkpoint, so pinning pays
        self._stager = DefaultStager(StagingOptions(pinned, False, False, pinned))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="headrace-checkpoint")
        self._pending: _Pending | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        self._stager.close()

    @property
    def is_written(self) -> bool:
        """Whether this rank has nothing left to write, and on rank 0 to complete."""
        return self._pending is None or self._pending.complete.done()

    def begin(self, trainable: Trainable, progress: Progress, loss: float = math.nan) -> None:
        """Begin a checkpoint, after the one before was committed.

        Raises:
            RunError: it cannot be written.
        """
        assert self._pending is None
        start = time.perf_counter()
        path = checkpoint_at(self._run, progress.step)
        place = place_of(path)
        with _as_run_error(path):
            if _rank() == 0:
                place.make_room()
            barrier()
            with eval_mode(trainable.optimizer):
                written = dcp.async_save(
                    _state(trainable),
                    storage_writer=place.writer(),
                    process_group=self._group,
                    async_stager=self._stager,
                    no_dist=not dist.is_initialized(),
                )
        assert isinstance(written, Future)  # it would be another thing if the stager staged in a thread, too
        progress = copy.deepcopy(progress)
        complete = self._thread.submit(self._complete, written, place, progress)
        self._pending = _Pending(path, progress, loss, start, time.perf_counter() - start, complete)

    def commit(self) -> Saved | None:
        """Wait until the checkpoint that was begun is complete and return it; None where none was begun.

        Raises:
            RunError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        start = time.perf_counter()
        with _as_run_error(pending.path):
            pending.complete.result()
        barrier()
        now = time.perf_counter()
        blocked = pending.blocked_seconds + now - start
        return Saved(pending.path, pending.progress, pending.loss, now - pending.began, blocked)

    def _complete(self, written: Future[Any], place: Place, progress: Progress) -> None:
        written.result()  # on rank 0, only after all ranks have written their shares
        if _rank() == 0:
            place.complete(progress)
            best = [checkpoint_at(self._run, step) for step, _ in progress.best]
            for old in complete_checkpoints(self._run)[: -self._keep]:
                if old not in best:
                    place_of(old).remove()


def save(run: Path, trainable: Trainable, progress: Progress, keep: int) -> CheckpointPath:
    """Write a checkpoint and wait for it; all ranks take part. Returns its path, on every rank once it is complete.

    Raises:
        RunError: it could not be written.
    """
    with Saver(run, keep) as saver:
        saver.begin(trainable, progress)
        saved = saver.commit()
    assert saved is not None
    return saved.path


def load(checkpoint: CheckpointPath, trainable: Trainable) -> None:
    """Read model, optimizer and average, in place, whatever number of workers wrote them, and however they shared them.

    Raises:
        UserError: the checkpoint belongs to another model.
        RunError: it cannot be read.
    """
    metadata = place_of(checkpoint).reader().read_metadata()
    saved: Container[str] = metadata.state_dict_metadata
    if trainable.ema is not None and "ema.updates" not in saved:
        raise UserError(f"{checkpoint} holds no average of weights, as the run has kept none: leave out --optim.ema")
    state = _state(trainable)
    if "guard.taken" not in saved:
        state.pop("guard", None)
    _read(checkpoint, state, metadata, alone=not dist.is_initialized())
    set_state_dict(
        trainable.objective,
        trainable.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    train_mode(trainable.optimizer)
    trainable.guard.load_state_dict(state.get("guard", {}))
    if trainable.ema is not None:
        trainable.ema.load_state_dict(state["ema"])


def load_model(checkpoint: CheckpointPath, model: nn.Module) -> None:
    """Read only the model, in place, in a process of its own: the average of its weights, where the run kept one.

    Raises:
        UserError: the checkpoint belongs to another model.
        RunError: it cannot be read.
    """
    metadata = place_of(checkpoint).reader().read_metadata()
    weights, saved = model.state_dict(), metadata.state_dict_metadata
    state: dict[str, Any] = {"model": weights}
    averaged = [name for name in weights if f"ema.average.{name}" in saved]
    if averaged:
        state["ema"] = {"average": {name: torch.empty_like(weights[name], dtype=torch.float32) for name in averaged}}
    _read(checkpoint, state, metadata, alone=True)
    model.load_state_dict(weights | (state["ema"]["average"] if averaged else {}))


def _state(trainable: Trainable) -> dict[str, Any]:
    model, optimizer = get_state_dict(trainable.objective, trainable.optimizer)
    average = None if trainable.ema is None else trainable.ema.state_dict()
    parts = {"model": model, "optimizer": optimizer, "ema": average, "guard": trainable.guard.state_dict()}
    return {name: part for name, part in parts.items() if part}


def _read(checkpoint: CheckpointPath, state: dict[str, Any], metadata: dcp.Metadata, *, alone: bool) -> None:
    """Read a state, in place: of all ranks together, unless this process is `alone`.

    Whether it fits is found out before, by each rank for itself: while they read, a rank that is lost is an error of
    all others as well, and has nothing to do with the model.
    """
    planner = dcp.DefaultLoadPlanner()
    try:
        planner.set_up_planner(state, metadata, is_coordinator=True)
        planner.create_local_plan()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{checkpoint} does not fit this recipe's model: {_last_line(error)}") from error
    try:
        dcp.load(state, storage_reader=place_of(checkpoint).reader(), no_dist=alone)
    except dcp.api.CheckpointException as error:
        raise RunError(f"{checkpoint} cannot be read: {_root_cause(error)}") from error


@contextlib.contextmanager
def _as_run_error(path: CheckpointPath) -> Iterator[None]:
    try:
        yield
    except (OSError, dcp.api.CheckpointException) as error:
        raise RunError(f"cannot write the checkpoint {path}: {_root_cause(error)}{_space_left(path)}") from error


def _root_cause(error: BaseException) -> str:
    """Return what went wrong, on the first of the ranks where something did: what the system said, if it is known."""
    if isinstance(error, dcp.api.CheckpointException):
        for failure, _ in error.failures.values():
            return _root_cause(failure)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return _last_line(cause or error)


def _space_left(path: CheckpointPath) -> str:
    for folder in path.parents if isinstance(path, Path) else ():
        with contextlib.suppress(OSError):
            return f" ({size(shutil.disk_usage(folder).free)} are free there)"
    return ""


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
