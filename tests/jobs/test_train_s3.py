"""A run whose clips lie on an S3 server that fails all the time sees what a run from the disk sees."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("moto", reason="moto serves S3 for tests: pip install headrace[dev]")
from faulty_s3 import ACCESS_KEY, SECRET, TOKEN, Faults, FaultyS3, put, serve_faulty_s3
from test_train import ROOT, STEPS, Ledger, finish, start, wait_for_step

from headrace.data import storage
from headrace.observe.records import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def server(tmp_path: Path, clip_bytes: list[bytes]) -> Iterator[FaultyS3]:
    with serve_faulty_s3(str(tmp_path / "cache")) as server:
        put("clips", {f"street/clip{number}.mp4": data for number, data in enumerate(clip_bytes)})
        server.forget()
        yield server


@pytest.fixture
def disk(tmp_path: Path, clip_bytes: list[bytes]) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    for number, data in enumerate(clip_bytes):
        (folder / f"clip{number}.mp4").write_bytes(data)
    return folder


def test_a_run_over_a_faulty_server_has_the_ledger_of_one_from_the_disk(
    server: FaultyS3, tmp_path: Path, disk: Path
) -> None:
    server.faults = Faults(slow=0.05, unavailable=0.1, internal=0.05, reset=0.1, cut=0.1, short=0.1, slow_seconds=0.1)
    granules = ("--data.cache-bytes", str(64 << 20), "--data.cache-folder", str(tmp_path / "granules"))
    sources = {"disk": (disk,), "s3": ("s3://clips/street",), "cache": ("s3://clips/street", *granules)}
    runs, requests = {}, {}
    for name, source in sources.items():
        runs[name], before = tmp_path / f"run-{name}", len(server.requests)
        said = finish(start(runs[name], *source, "--data.decoders", "1"))
        requests[name] = len(server.requests) - before
        assert "finished" in said
        for secret in (SECRET, TOKEN, ACCESS_KEY):
            assert secret not in said
            assert not [path for path in runs[name].rglob("*.json*") if secret in path.read_text()]
    assert requests["cache"] < requests["s3"] / 2
    left = Ledger.of(runs["disk"])
    for name in ("s3", "cache"):
        right = Ledger.of(runs[name])
        assert left.samples == right.samples
        assert right.loss == pytest.approx(left.loss, rel=1e-5)
        assert not [r for r in read_records(runs[name] / "metrics.jsonl") if r["kind"] == "restart"]
    wrong = {kind: count for kind, count in server.done.items() if kind != "good"}
    assert sum(wrong.values()) > 20, wrong
    assert len(wrong) >= 5, wrong


def test_a_run_whose_folder_is_lost_goes_on_from_its_checkpoints_in_s3(
    server: FaultyS3, tmp_path: Path, disk: Path
) -> None:
    whole = tmp_path / "whole"
    assert "finished" in finish(start(whole, disk, "--data.decoders", "1"))

    server.faults = Faults(slow=0.05, unavailable=0.1, reset=0.05, slow_seconds=0.1)
    process = start(tmp_path / "lost", disk, "--data.decoders", "1", "--train.checkpoints", "s3://clips/runs")
    wait_for_step(tmp_path / "lost", 10)
    process.send_signal(signal.SIGINT)
    assert "stopped" in finish(process)
    before = Ledger.of(tmp_path / "lost")
    assert not (tmp_path / "lost" / "checkpoints").exists()
    shutil.rmtree(tmp_path / "lost")

    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--resume", "s3://clips/runs/lost", "--wandb", "off"]
    command += ["--output", str(tmp_path / "found")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    after = Ledger.of(tmp_path / "found")
    undisturbed = Ledger.of(whole)
    assert before.samples | after.samples == undisturbed.samples
    assert before.loss | after.loss == pytest.approx(undisturbed.loss, rel=1e-5)
    assert max(before.loss) + 1 == min(after.loss)
    names = {file.path.split("/")[1] for file in storage.list_files("s3://clips/runs/lost") if "/" in file.path}
    assert f"step-{STEPS:08d}" in names
