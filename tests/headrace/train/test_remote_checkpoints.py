"""Checkpoints on an S3 server that is slow, breaks off, goes away and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("moto", reason="moto serves S3 for tests: pip install headrace[dev]")
from faulty_s3 import Faults, FaultyS3, put, serve_faulty_s3
from test_checkpoint import step, trained

from headrace.data import s3, storage
from headrace.data.retry import StorageError
from headrace.errors import RunError
from headrace.train import checkpoint
from headrace.train.checkpoint import Saver
from headrace.train.places import RemotePlace
from headrace.train.progress import (
    ELSEWHERE_FILE,
    Progress,
    complete_checkpoints,
    name_of,
    newest_checkpoint,
    read_progress,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyS3]:
    with serve_faulty_s3(str(tmp_path / "cache")) as server:
        put("bucket", {})
        for item in s3.list_objects("s3://bucket"):  # moto keeps what the test before has left
            storage.delete(f"s3://bucket/{item.key}")
        yield server


@pytest.fixture
def run(server: FaultyS3, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    server.forget()
    (folder / ELSEWHERE_FILE).write_text("s3://bucket/runs/one")
    return folder


def test_comes_back_with_model_optimizer_and_progress(run: Path) -> None:
    assert newest_checkpoint(run) is None
    one, other, alone = trained(ema=0.5), trained(steps=0, ema=0.5), trained(steps=0).objective
    place = checkpoint.save(run, one, Progress(3, 48, 1, "abc"), keep=2)
    assert place == "s3://bucket/runs/one/checkpoints/step-00000003"
    assert newest_checkpoint(run) == place
    assert read_progress(place) == Progress(3, 48, 1, "abc")
    checkpoint.load(place, other)
    checkpoint.load_model(place, alone)
    step(one)
    step(other)
    for ours, theirs in zip(one.objective.parameters(), other.objective.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not list(run.glob("checkpoints/*")), "nothing of it lies in the run's folder"


def test_old_ones_go_and_a_torn_one_is_none(run: Path) -> None:
    model = trained()
    for number in (1, 2, 3):
        checkpoint.save(run, model, Progress(number), keep=2)
    assert [name_of(found) for found in complete_checkpoints(run)] == ["step-00000002", "step-00000003"]
    assert not storage.names_in("s3://bucket/runs/one/checkpoints/step-00000001")
    place = checkpoint.save(run, model, Progress(4), keep=3)
    storage.delete(f"{place}/progress.json")
    assert len(storage.names_in(str(place))) == 2, "all was written but what completes it"
    assert name_of(newest_checkpoint(run) or "") == "step-00000003"
    checkpoint.save(run, model, Progress(4), keep=2)
    assert name_of(newest_checkpoint(run) or "") == "step-00000004"


def test_a_server_that_fails_now_and_then_is_asked_again(server: FaultyS3, run: Path) -> None:
    server.faults = Faults(
        slow=0.05, unavailable=0.15, internal=0.1, reset=0.05, cut=0.05, short=0.05, slow_seconds=0.1
    )
    for number in (1, 2, 3):
        place = checkpoint.save(run, trained(steps=number), Progress(number), keep=1)
    other = trained(steps=0)
    checkpoint.load(place, other)
    assert torch.equal(other.parallel[0].weight, trained(steps=3).parallel[0].weight)  # type: ignore[index]
    assert sum(count for kind, count in server.done.items() if kind != "good") > 5, server.done


def test_a_server_that_is_away_for_a_while_is_waited_for(server: FaultyS3, run: Path) -> None:
    checkpoint.save(run, trained(), Progress(1), keep=1)
    model, began = trained(), time.monotonic()
    with Saver(run, keep=1) as saver:
        saver.begin(model, Progress(2))
        server.gone = True
        step(model)  # training goes on meanwhile
        assert time.monotonic() - began < 2
        threading.Timer(4, lambda: setattr(server, "gone", False)).start()
        saved = saver.commit()
    assert saved is not None
    assert name_of(newest_checkpoint(run) or "") == "step-00000002"


def test_one_that_stays_away_is_one_sentence_and_the_checkpoint_before_is_left(
    server: FaultyS3, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = checkpoint.save(run, trained(), Progress(1), keep=1)
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 1.0)
    server.gone = True
    with Saver(run, keep=1) as saver:
        monkeypatch.setattr(RemotePlace, "make_room", lambda _: None)  # it goes away only now
        saver.begin(trained(), Progress(2))
        with pytest.raises(RunError, match=r"cannot write the checkpoint s3://.*step-00000002: .*could not be had"):
            saver.commit()
    server.gone = False
    assert newest_checkpoint(run) == good
    checkpoint.load(good, trained(steps=0))


def test_what_is_refused_is_said_at_once(server: FaultyS3, run: Path) -> None:
    (run / ELSEWHERE_FILE).write_text("s3://no-such-bucket/runs/one")
    with pytest.raises(StorageError, match="there is no bucket 'no-such-bucket'"):
        newest_checkpoint(run)
    server.refuse = (403, "AccessDenied")
    with pytest.raises(StorageError, match="was refused to the credentials"):
        newest_checkpoint(run)
