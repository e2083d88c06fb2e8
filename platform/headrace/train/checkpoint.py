"""Checkpoints: a folder is a checkpoint once it has its final name, never before.

    <run>/checkpoints/step-00000100/    model and optimizer, by torch.distributed.checkpoint
                      progress.json     step, position, failures, what they belong to
    <run>/checkpoints/.step-00000200.partial    being written; ignored, and overwritten by the next attempt

Each rank writes its share, then rank 0 renames. Tensors are saved under the model's own names, so any number of
workers can read them. There is no random state to save: every draw is a function of the seed and the position.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Container, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from headrace.errors import RunError, UserError
from headrace.optim import eval_mode, train_mode
from headrace.train.parallel import barrier
from headrace.train.progress import CHECKPOINTS, PROGRESS_FILE, Progress, complete_checkpoints
from headrace.train.step import Trainable


def save(run: Path, trainable: Trainable, progress: Progress, keep: int) -> Path:
    """Write a checkpoint; all ranks take part. Returns its path, on every rank once it is complete.

    Raises:
        RunError: it could not be written.
    """
    final = run / CHECKPOINTS / f"step-{progress.step:08d}"
    partial = final.with_name(f".{final.name}.partial")
    try:
        if _rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        barrier()
        with _alone_without_warning() as alone, eval_mode(trainable.optimizer):
            dcp.save(_state(trainable), checkpoint_id=partial, no_dist=alone)
        if _rank() == 0:
            (partial / PROGRESS_FILE).write_text(json.dumps(asdict(progress)) + "\n")
            _flush(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _flush(final.parent)
            for old in complete_checkpoints(run)[:-keep]:
                shutil.rmtree(old)
    except OSError as error:
        raise RunError(f"cannot write the checkpoint {final}: {error}") from error
    barrier()
    return final


def load(checkpoint: Path, trainable: Trainable) -> None:
    """Read model, optimizer and average, in place, whatever number of workers wrote them, and however they shared them.

    Raises:
        UserError: the checkpoint belongs to another model.
    """
    if trainable.ema is not None and "ema.updates" not in _names(checkpoint):
        raise UserError(f"{checkpoint} holds no average of weights, as the run has kept none: leave out --optim.ema")
    state = _state(trainable)
    try:
        with _alone_without_warning() as alone:
            dcp.load(state, checkpoint_id=checkpoint, no_dist=alone)
    except (dcp.api.CheckpointException, RuntimeError, ValueError) as error:
        raise UserError(f"{checkpoint} does not fit this recipe's model: {_last_line(error)}") from error
    set_state_dict(
        trainable.objective,
        trainable.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    train_mode(trainable.optimizer)
    if trainable.ema is not None:
        trainable.ema.load_state_dict(state["ema"])


def load_model(checkpoint: Path, model: nn.Module) -> None:
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
        with _alone_without_warning():
            dcp.load(state, checkpoint_id=checkpoint, no_dist=True)
    except (dcp.api.CheckpointException, RuntimeError, ValueError) as error:
        raise UserError(f"{checkpoint} does not fit this recipe's model: {_last_line(error)}") from error
    model.load_state_dict(weights | (state["ema"]["average"] if averaged else {}))


def _state(trainable: Trainable) -> dict[str, Any]:
    model, optimizer = get_state_dict(trainable.objective, trainable.optimizer)
    average = {} if trainable.ema is None else {"ema": trainable.ema.state_dict()}
    return {"model": model, "optimizer": optimizer, **average}


def _names(checkpoint: Path) -> Container[str]:
    """Return the names of what a checkpoint holds."""
    names: Container[str] = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return names


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
def _alone_without_warning() -> Iterator[bool]:
    """Say whether this process is alone; torch warns of it at every save and load."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield not dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
