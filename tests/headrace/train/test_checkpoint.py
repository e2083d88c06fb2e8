from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import cast
from unittest.mock import MagicMock

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from headrace.augment import Augment, AugmentConfig
from headrace.errors import RunError, UserError, final_sentence
from headrace.models import Objective
from headrace.optim import Ema
from headrace.train import checkpoint
from headrace.train.checkpoint import Saver
from headrace.train.config import GuardConfig
from headrace.train.guard import Guard
from headrace.train.progress import Progress, newest_checkpoint, read_progress
from headrace.train.step import Trainable

CPU = torch.device("cpu")


def trained(steps: int = 3, width: int = 4, ema: float | None = None, spike: float | None = None) -> Trainable:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1))
    model[1].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    average = None if ema is None else Ema(model, ema)
    augment, guard = Augment(AugmentConfig(), CPU), Guard(GuardConfig(spike=spike), CPU)
    trainable = Trainable(cast("Objective", model), model, optimizer, augment, CPU, guard, average)
    for _ in range(steps):
        step(trainable)
    return trainable


def step(trainable: Trainable) -> None:
    trainable.optimizer.zero_grad()
    width = trainable.parallel[0].in_features  # type: ignore[index]
    loss = trainable.parallel(torch.ones(2, width)).square().sum()
    loss.backward()
    trainable.guard.refuses(loss, loss)
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


def test_what_happens_to_other_ranks_is_not_the_models_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that is killed while they read: the others see this, and are started again."""
    path = checkpoint.save(tmp_path, trained(), Progress(1), keep=1)
    lost = RuntimeError("Read error [127.0.0.1]:41359: Connection reset by peer")
    monkeypatch.setattr(dcp, "load", MagicMock(side_effect=lost))
    with pytest.raises(RuntimeError, match="Connection reset by peer") as raised:
        checkpoint.load(path, trained())
    assert final_sentence(raised.value) is None, "it is no reason to give up"


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, trained(), Progress(1), keep=1)
    assert isinstance(path, Path)
    [data] = path.glob("*.distcp")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(RunError, match="step-00000001 cannot be read"):
        checkpoint.load(path, trained())


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(RunError, match="cannot write the checkpoint"):
        checkpoint.save(tmp_path, trained(), Progress(1), keep=1)


def test_what_is_saved_is_what_was_there_when_it_began(tmp_path: Path) -> None:
    one, other = trained(ema=0.5), trained(steps=0, ema=0.5)
    before = copy.deepcopy(one.objective.state_dict())
    progress = Progress(3, 48)
    with Saver(tmp_path, keep=2) as saver:
        saver.begin(one, progress, loss=0.5)
        progress.step += 1
        for _ in range(3):
            step(one)
        saved = saver.commit()
        assert saver.commit() is None
    assert saved is not None
    assert (saved.progress.step, saved.loss, saved.path.name) == (3, 0.5, "step-00000003")
    assert 0 < saved.blocked_seconds <= saved.seconds
    checkpoint.load(saved.path, other)
    assert all(torch.equal(before[name], value) for name, value in other.objective.state_dict().items())
    assert int(other.optimizer.state_dict()["state"][0]["step"]) == 3


def test_one_that_was_begun_is_not_lost_with_what_ends_the_run(tmp_path: Path) -> None:
    with Saver(tmp_path, keep=2) as saver:
        saver.begin(trained(), Progress(3))
    assert read_progress(newest_checkpoint(tmp_path)) == Progress(3)


def test_what_the_guard_knows_comes_back_and_may_begin_anew(tmp_path: Path) -> None:
    one, other, careless = trained(spike=5.0), trained(steps=0, spike=5.0), trained(steps=0)
    path = checkpoint.save(tmp_path, one, Progress(3), keep=2)
    checkpoint.load(path, other)
    assert all(torch.equal(value, other.guard.state_dict()[name]) for name, value in one.guard.state_dict().items())
    checkpoint.load(path, careless)
    path = checkpoint.save(tmp_path, careless, Progress(4), keep=2)
    checkpoint.load(path, other)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from headrace.train import checkpoint
from headrace.train.progress import Progress, newest_checkpoint
from test_checkpoint import trained

folder = Path(sys.argv[1])
good = checkpoint.save(folder, trained(width=64), Progress(1), keep=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    checkpoint.save(folder, trained(width=64), Progress(2), keep=1)
except checkpoint.RunError as error:
    print(error)
assert newest_checkpoint(folder) == good
checkpoint.load(good, trained(steps=0, width=64))
"""


def test_a_disk_that_is_full_is_one_sentence_and_the_checkpoint_before_is_left(tmp_path: Path) -> None:
    """A limit on the size of files fails in the same place: in the thread that writes."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    said = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert re.fullmatch(r"cannot write the checkpoint .*step-00000002: .*File too large.*", said.stdout.strip())


def test_progress_is_readable_by_people(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, trained(), Progress(2, 32), keep=1)
    assert json.loads((path / "progress.json").read_text())["position"] == 32
