"""Checkpoints: a folder is a checkpoint once it has its final name, never before.

    <run>/checkpoints/step-00000100/    model and optimizer, by torch.distributed.checkpoint
                      progress.json     step, position, failures, what they belong to
    <run>/checkpoints/.step-00000200.partial    being written; ignored, and overwritten by the next attempt

Each rank writes its share while training goes on, then rank 0 renames. In object storage, where nothing can be renamed
as a whole, a checkpoint is complete once it holds progress.json, which is written last. Tensors are saved under the
model's own names, so any number of workers can read them. There is no random state to save: every draw is a function
of the seed and the position.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
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

from headrace.data import storage
from headrace.errors import RunError, UserError
from headrace.observe.figures import size
from headrace.optim import eval_mode, train_mode
from headrace.train.parallel import barrier, world_size
from headrace.train.progress import PROGRESS_FILE, CheckpointPath, Progress, checkpoint_at, complete_checkpoints
from headrace.train.remote_files import RemoteFiles, RemoteReader, RemoteWriter
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
    final: CheckpointPath
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
        keep: newest checkpoints that are kept.
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
        final = checkpoint_at(self._run, progress.step)
        partial = final if isinstance(final, str) else final.with_name(f".{final.name}.partial")
        with _as_run_error(final):
            if _rank() == 0:
                _make_room(partial)
            barrier()
            with eval_mode(trainable.optimizer):
                written = dcp.async_save(
                    _state(trainable),
                    storage_writer=_writer(partial),
                    process_group=self._group,
                    async_stager=self._stager,
                    no_dist=not dist.is_initialized(),
                )
        assert isinstance(written, Future)  # it would be another thing if the stager staged in a thread, too
        progress = copy.deepcopy(progress)
        complete = self._thread.submit(self._complete, written, partial, final, progress)
        self._pending = _Pending(final, progress, loss, start, time.perf_counter() - start, complete)

    def commit(self) -> Saved | None:
        """Wait until the checkpoint that was begun is complete and return it; None where none was begun.

        Raises:
            RunError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        start = time.perf_counter()
        with _as_run_error(pending.final):
            pending.complete.result()
        barrier()
        now = time.perf_counter()
        blocked = pending.blocked_seconds + now - start
        return Saved(pending.final, pending.progress, pending.loss, now - pending.began, blocked)

    def _complete(
        self, written: Future[Any], partial: CheckpointPath, final: CheckpointPath, progress: Progress
    ) -> None:
        written.result()  # on rank 0, only after all ranks have written their shares
        if _rank() == 0:
            _complete(partial, final, progress)
            for old in complete_checkpoints(self._run)[: -self._keep]:
                _remove(old)


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
    """
    saved = _names(checkpoint)
    if trainable.ema is not None and "ema.updates" not in saved:
        raise UserError(f"{checkpoint} holds no average of weights, as the run has kept none: leave out --optim.ema")
    state = _state(trainable)
    if "guard.taken" not in saved:
        state.pop("guard", None)
    try:
        dcp.load(state, storage_reader=_reader(checkpoint), no_dist=not dist.is_initialized())
    except (dcp.api.CheckpointException, RuntimeError, ValueError) as error:
        raise UserError(f"{checkpoint} does not fit this recipe's model: {_last_line(error)}") from error
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
    """
    weights, saved = model.state_dict(), _names(checkpoint)
    state: dict[str, Any] = {"model": weights}
    averaged = [name for name in weights if f"ema.average.{name}" in saved]
    if averaged:
        state["ema"] = {"average": {name: torch.empty_like(weights[name], dtype=torch.float32) for name in averaged}}
    try:
        dcp.load(state, storage_reader=_reader(checkpoint), no_dist=True)
    except (dcp.api.CheckpointException, RuntimeError, ValueError) as error:
        raise UserError(f"{checkpoint} does not fit this recipe's model: {_last_line(error)}") from error
    model.load_state_dict(weights | (state["ema"]["average"] if averaged else {}))


def _state(trainable: Trainable) -> dict[str, Any]:
    model, optimizer = get_state_dict(trainable.objective, trainable.optimizer)
    average = None if trainable.ema is None else trainable.ema.state_dict()
    parts = {"model": model, "optimizer": optimizer, "ema": average, "guard": trainable.guard.state_dict()}
    return {name: part for name, part in parts.items() if part}


def _names(checkpoint: CheckpointPath) -> Container[str]:
    """Return the names of what a checkpoint holds."""
    names: Container[str] = _reader(checkpoint).read_metadata().state_dict_metadata
    return names


def _writer(place: CheckpointPath) -> dcp.StorageWriter:
    return RemoteWriter(place) if isinstance(place, str) else dcp.FileSystemWriter(place)


def _reader(place: CheckpointPath) -> dcp.StorageReader:
    return RemoteReader(place) if isinstance(place, str) else dcp.FileSystemReader(place)


def _make_room(partial: CheckpointPath) -> None:
    """Take away what an earlier attempt left where a checkpoint is to be written."""
    if isinstance(partial, str):
        _remove(partial)
    else:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)


def _complete(partial: CheckpointPath, final: CheckpointPath, progress: Progress) -> None:
    """Make a checkpoint of what all ranks have written."""
    text = json.dumps(asdict(progress)) + "\n"
    if isinstance(partial, str) or isinstance(final, str):
        with RemoteFiles().create_stream(f"{final}/{PROGRESS_FILE}", "wb") as file:
            file.write(text.encode())
        return
    (partial / PROGRESS_FILE).write_text(text)
    _flush(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush(final.parent)


def _remove(checkpoint: CheckpointPath) -> None:
    """Delete a checkpoint, first of all what makes it complete."""
    if not isinstance(checkpoint, str):
        shutil.rmtree(checkpoint)
        return
    for name in sorted(storage.names_in(checkpoint, patient=True), key=lambda name: name != PROGRESS_FILE):
        storage.delete(f"{checkpoint}/{name}")


def _flush(folder: Path) -> None:
    """Make a folder's files and names durable, so that a power cut cannot leave a complete name on torn files."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() or path == folder:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


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
