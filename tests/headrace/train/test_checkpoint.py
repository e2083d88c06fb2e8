from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from headrace.errors import RunError, UserError
from headrace.train import checkpoint
from headrace.train.progress import Progress, newest_checkpoint, read_progress


def trained(steps: int = 3, width: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1))
    model[1].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, model[0].in_features)).square().sum().backward()  # type: ignore[index]
    optimizer.step()


def test_comes_back_with_model_optimizer_and_progress(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = checkpoint.save(tmp_path, model, optimizer, Progress(3, 48, 1, "abc"), keep=2)
    other, other_optimizer = trained(steps=0)
    checkpoint.load(path, other, other_optimizer)
    assert read_progress(path) == Progress(3, 48, 1, "abc")
    step(model, optimizer)
    step(other, other_optimizer)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_saving_changes_nothing(tmp_path: Path) -> None:
    model, optimizer = trained(steps=0)
    before = copy.deepcopy(model.state_dict())
    checkpoint.save(tmp_path, model, optimizer, Progress(0), keep=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_model_alone(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = checkpoint.save(tmp_path, model, optimizer, Progress(3), keep=1)
    other, _ = trained(steps=0)
    checkpoint.load_model(path, other)
    assert torch.equal(other[0].weight, model[0].weight)  # type: ignore[index]


def test_newest_is_the_highest_step_and_old_ones_go(tmp_path: Path) -> None:
    model, optimizer = trained()
    assert newest_checkpoint(tmp_path) is None
    assert read_progress(None) == Progress()
    for number in (5, 100_000_000, 99_999_999 + 3):
        checkpoint.save(tmp_path, model, optimizer, Progress(number), keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-100000000", "step-100000002"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step-100000002"


def test_a_torn_write_is_no_checkpoint(tmp_path: Path) -> None:
    model, optimizer = trained()
    good = checkpoint.save(tmp_path, model, optimizer, Progress(1), keep=3)
    torn = good.with_name(".step-00000002.partial")
    torn.mkdir()
    (torn / "__0_0.distcp").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) == good
    checkpoint.save(tmp_path, model, optimizer, Progress(2), keep=3)
    assert not torn.exists()
    again, again_optimizer = trained(steps=0)
    checkpoint.load(tmp_path / "checkpoints" / "step-00000002", again, again_optimizer)


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, *trained(), Progress(1), keep=1)
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        checkpoint.load(path, *trained(width=8))
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        checkpoint.load_model(path, nn.Linear(3, 3))


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(RunError, match="cannot write the checkpoint"):
        checkpoint.save(tmp_path, *trained(), Progress(1), keep=1)


def test_progress_is_readable_by_people(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, *trained(), Progress(2, 32), keep=1)
    assert json.loads((path / "progress.json").read_text())["position"] == 32
