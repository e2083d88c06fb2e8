from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from headrace.augment import Augment, AugmentConfig
from headrace.errors import RunError, UserError
from headrace.models import Objective
from headrace.optim import Ema
from headrace.train import checkpoint
from headrace.train.progress import Progress, newest_checkpoint, read_progress
from headrace.train.step import Trainable

CPU = torch.device("cpu")


def trained(steps: int = 3, width: int = 4, ema: float | None = None) -> Trainable:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1))
    model[1].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    average = None if ema is None else Ema(model, ema)
    trainable = Trainable(cast("Objective", model), model, optimizer, Augment(AugmentConfig(), CPU), CPU, average)
    for _ in range(steps):
        step(trainable)
    return trainable


def step(trainable: Trainable) -> None:
    trainable.optimizer.zero_grad()
    width = trainable.parallel[0].in_features  # type: ignore[index]
    trainable.parallel(torch.ones(2, width)).square().sum().backward()
    trainable.optimizer.step()
    if trainable.ema is not None:
        trainable.ema.update()


def test_comes_back_with_model_optimizer_and_progress(tmp_path: Path) -> None:
    one, other = trained(), trained(steps=0)
    path = checkpoint.save(tmp_path, one, Progress(3, 48, 1, "abc"), keep=2)
    checkpoint.load(path, other)
    assert read_progress(path) == Progress(3, 48, 1, "abc")
    step(one)
    step(other)
    for ours, theirs in zip(one.objective.parameters(), other.objective.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_saving_changes_nothing(tmp_path: Path) -> None:
    fresh = trained(steps=0)
    before = copy.deepcopy(fresh.objective.state_dict())
    checkpoint.save(tmp_path, fresh, Progress(0), keep=1)
    assert all(torch.equal(before[name], value) for name, value in fresh.objective.state_dict().items())


def test_model_alone(tmp_path: Path) -> None:
    one, other = trained(), trained(steps=0).objective
    path = checkpoint.save(tmp_path, one, Progress(3), keep=1)
    checkpoint.load_model(path, other)
    assert torch.equal(other[0].weight, one.parallel[0].weight)  # type: ignore[index]


def test_the_average_comes_back_and_is_what_is_evaluated(tmp_path: Path) -> None:
    one, other = trained(ema=0.5), trained(steps=0, ema=0.5)
    path = checkpoint.save(tmp_path, one, Progress(3), keep=1)
    checkpoint.load(path, other)
    step(one)
    step(other)
    assert one.ema is not None
    assert other.ema is not None
    for name, average in one.ema.state_dict()["average"].items():
        assert torch.equal(average, other.ema.state_dict()["average"][name])
    alone, averaged = trained(steps=0).objective, trained(ema=0.5)
    checkpoint.load_model(path, alone)
    assert not torch.equal(alone[0].weight, averaged.parallel[0].weight)  # type: ignore[index]
    assert averaged.ema is not None
    with averaged.ema.applied():
        assert torch.equal(alone[0].weight, averaged.parallel[0].weight)  # type: ignore[index]
        assert torch.equal(alone[1].bias, averaged.parallel[1].bias)  # type: ignore[index]


def test_an_average_that_was_not_kept_is_asked_for(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, trained(), Progress(3), keep=1)
    with pytest.raises(UserError, match=r"leave out --optim\.ema"):
        checkpoint.load(path, trained(ema=0.5))


def test_newest_is_the_highest_step_and_old_ones_go(tmp_path: Path) -> None:
    model = trained()
    assert newest_checkpoint(tmp_path) is None
    assert read_progress(None) == Progress()
    for number in (5, 100_000_000, 99_999_999 + 3):
        checkpoint.save(tmp_path, model, Progress(number), keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-100000000", "step-100000002"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step-100000002"


def test_a_torn_write_is_no_checkpoint(tmp_path: Path) -> None:
    model = trained()
    good = checkpoint.save(tmp_path, model, Progress(1), keep=3)
    torn = good.with_name(".step-00000002.partial")
    torn.mkdir()
    (torn / "__0_0.distcp").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) == good
    checkpoint.save(tmp_path, model, Progress(2), keep=3)
    assert not torn.exists()
    checkpoint.load(tmp_path / "checkpoints" / "step-00000002", trained(steps=0))


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, trained(), Progress(1), keep=1)
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        checkpoint.load(path, trained(width=8))
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        checkpoint.load_model(path, nn.Linear(3, 3))


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(RunError, match="cannot write the checkpoint"):
        checkpoint.save(tmp_path, trained(), Progress(1), keep=1)


def test_progress_is_readable_by_people(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, trained(), Progress(2, 32), keep=1)
    assert json.loads((path / "progress.json").read_text())["position"] == 32
