from __future__ import annotations

import json
import logging
import re
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.observe import wandb_log
from headrace.observe.history import History
from headrace.observe.records import MetricsWriter
from headrace.observe.sheet import write_sheet
from headrace.observe.tensorboard_log import TensorBoardLog
from headrace.observe.wandb_log import WandbLog
from headrace.observe.watch import recorded_bytes, watch

RECIPE = {
    "name": "demo",
    "train": {"workers": 2, "steps": 60},
    "data": {"decoders": "3", "source": "s3://me:hunter2@bucket"},
}


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_BASE_URL", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def write(run, records):
    with MetricsWriter(run / "metrics.jsonl") as writer:
        for record in records:
            writer.write(record)


def watched_while_writing(run, records, **options):
    over = threading.Event()

    def train():
        with MetricsWriter(run / "metrics.jsonl") as writer:
            for record in records:
                writer.write(record)
                time.sleep(0.002)
        over.set()

    since = recorded_bytes(run)
    worker = threading.Thread(target=train)
    worker.start()
    history = watch(run, over.is_set, RECIPE, since=since, **options)
    worker.join()
    return history


def mirrored(run, records):
    """Watch as a run with Weights & Biases is watched."""
    return watched_while_writing(run, records, mirrors=[WandbLog(run, RECIPE)])


def test_everything_written_before_the_end_is_shown(tmp_path, fake, capfd):
    history = watched_while_writing(tmp_path / "run", fake(60, failures=1))
    out = capfd.readouterr().out
    assert history.step == 60
    assert history.end is not None
    assert "starting 2 workers and 3 decoders" in out
    assert "finished    60 of 60 steps" in out


def test_a_silent_watch_prints_nothing(tmp_path, fake, capfd):
    watched_while_writing(tmp_path / "run", fake(5), console=False)
    assert capfd.readouterr() == ("", "")


def test_what_an_earlier_session_wrote_is_known_and_not_told_again(tmp_path, fake, capfd):
    records = fake(100, end="stopped")
    write(tmp_path, records)
    history = watch(tmp_path, lambda: True, RECIPE)
    out = capfd.readouterr().out
    assert history.step == 100
    assert "checkpoint of step 50" not in out
    assert "stopped     100 of 100" in out


def test_what_finished_raises_is_passed_on_after_the_summary(tmp_path, fake, capfd):
    write(tmp_path, fake(10, end=None))

    def finished() -> bool:
        raise RuntimeError("the cluster is gone")

    with pytest.raises(RuntimeError, match="the cluster is gone"):
        watch(tmp_path, finished, RECIPE)
    assert "cut off     10 of 10" in capfd.readouterr().out


def wandb_records(folder: Path) -> list[Any]:
    """Return the records of an offline run: protobuf messages in a LevelDB log (7 bytes lead the file, then
    blocks of 32 KiB with chunks of: checksum, length, type (1 full, 2 first, 3 middle, 4 last), data)."""
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = folder.glob("*.wandb")
    data, at, message, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        left_in_block = 32768 - at % 32768
        if left_in_block < 7:
            at += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):
            break  # it is still being written
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(message))
            message = b""
    return found


def history_rows(folder: Path) -> list[dict[str, float]]:
    """Return what was logged, once W&B's own process, which outlives `finish`, has written it all."""
    for _ in range(100):
        records = wandb_records(folder)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            break
        time.sleep(0.1)
    return [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def test_wandb_offline_holds_the_run_and_a_resume_goes_on_in_it(tmp_path, fake, capfd, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("SOME_SECRET_OF_THE_SHELL", "s3cr3t-value")
    run = tmp_path / "run"
    records = fake(60, restart_at=55, end="stopped")
    records[5]["loss"] = None
    mirrored(run, records)
    out, err = capfd.readouterr()
    assert "wandb sync" in out
    assert err == ""
    assert "wandb:" not in out
    [first] = run.glob("wandb/offline-run-*")
    rows = history_rows(first)
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == [*range(1, 56), *range(51, 61)]
    assert any(row.get("restarts") == 1 for row in rows)
    assert any(row.get("extra/std") for row in rows)

    later = [{**record, "step": 60, "steps": 120} for record in fake(1)[:1]]
    later += [{**record, "step": record["step"] + 60} for record in fake(10) if record["kind"] == "step"]
    mirrored(run, later)
    [second] = set(run.glob("wandb/offline-run-*")) - {first}
    identity = (run / "wandb_id").read_text().strip()
    assert identity in first.name
    assert identity in second.name
    assert [row["step"] for row in history_rows(second) if "loss" in row] == list(range(61, 71))

    for file in (file for file in run.glob("wandb/**/*") if file.is_file()):
        content = file.read_bytes()
        assert not any(secret in content for secret in (b"s3cr3t-value", b"hunter2")), file


def test_wandb_disabled_writes_nothing(tmp_path, fake, capfd, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mirrored(tmp_path / "run", fake(5))
    assert not (tmp_path / "run" / "wandb").exists()
    assert "W&B" not in capfd.readouterr().out


def test_wandb_that_fails_is_one_warning_and_the_run_goes_on(tmp_path, fake, monkeypatch, caplog):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "no-such-mode")
    with caplog.at_level(logging.WARNING):
        history = mirrored(tmp_path / "run", fake(5))
    assert history.step == 5
    [warning] = [r for r in caplog.records if r.name.startswith("headrace")]
    assert re.search("Weights & Biases is off", warning.getMessage())


def test_the_history_that_is_returned_is_bounded(tmp_path, fake):
    write(tmp_path, fake(3000))
    history = watch(tmp_path, lambda: True, RECIPE, console=False)
    assert isinstance(history, History)
    assert len(history.steps) == 1000
    assert history.step == 3000


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """Return what the event files of a run hold: framed records, each a length, a checksum, a message, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for file in sorted((run / "tensorboard").iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_tensorboard_holds_the_steps_and_a_resume_goes_on_there(tmp_path, fake, capfd):
    run, records = tmp_path / "run", fake(10, end="stopped")
    records[5]["loss"] = None
    watched_while_writing(run, records, mirrors=[TensorBoardLog(run, RECIPE)])
    assert f"TensorBoard  tensorboard --logdir {run}/tensorboard" in capfd.readouterr().out
    later = [{**record, "step": record["step"] + 10} for record in fake(5) if record["kind"] == "step"]
    watched_while_writing(run, later, mirrors=[TensorBoardLog(run, RECIPE)])
    found = scalars(run)
    assert sorted(found["run/loss"]) == [step for step in range(1, 16) if step != 5], "what is no number leaves a gap"
    assert found["run/loss"][1] == pytest.approx(records[1]["loss"])
    assert sorted(found["extra/std"]) == list(range(1, 16))
    assert not any(b"hunter2" in file.read_bytes() for file in (run / "tensorboard").iterdir())


def test_mirrors_hold_more_than_curves(tmp_path, evaluated, fake):
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    run.mkdir()
    write_sheet(run, np.zeros((2, 1, 8, 8, 3), np.uint8))
    (run / "checkpoints" / "step-00000050").mkdir(parents=True)
    (run / "checkpoints" / "step-00000050" / "progress.json").write_text("{}")
    records = evaluated(100)
    records[2:2] = [record for record in fake(3, failures=3) if record["kind"] == "failure"]
    refused = {"kind": "refused", "step": 1, "loss": None, "grad_norm": 3.0, "keys": ["a", "b"]}
    records[5:5] = [{**refused, "time": records[4]["time"]}]
    watched_while_writing(run, records, mirrors=[TensorBoardLog(run, RECIPE), WandbLog(run, RECIPE)])
    assert scalars(run)["held_out/loss"] == {50: pytest.approx(0.55), 100: pytest.approx(0.5)}
    [folder] = run.glob("wandb/offline-run-*")
    rows = history_rows(folder)
    scored = [row for row in rows if "held_out/knn" in row]
    assert [(row["step"], row["held_out/loss"]) for row in scored] == [(50, 0.55), (100, 0.5)]
    assert sum("samples" in row for row in rows) == 1
    records = wandb_records(folder)
    history = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    items = [item for row in history for item in row.item]
    lengths = {item.nested_key[0]: item.value_json for item in items if list(item.nested_key)[1:] == ["nrows"]}
    assert lengths == {"failed_samples": "3", "steps_left_out": "1"}
    artifacts = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    [model] = [artifact for artifact in artifacts if artifact.type == "model"]
    assert {"step-50", "best"} <= set(model.aliases), "that of step 100 was gone when it was looked for"
    [entry] = model.manifest.contents
    assert entry.ref == (run / "checkpoints" / "step-00000050" / "progress.json").as_uri()


@pytest.mark.slow
def test_wandb_that_cannot_be_reached_is_kept_in_files(tmp_path, fake, monkeypatch, caplog):
    pytest.importorskip("wandb")
    monkeypatch.setattr(wandb_log, "START_TIMEOUT_SECONDS", 2)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        mirrored(run, fake(5))
    assert any("cannot be reached" in record.getMessage() for record in caplog.records)
    [folder] = run.glob("wandb/offline-run-*")
    assert [row["step"] for row in history_rows(folder)] == [1, 2, 3, 4, 5]
