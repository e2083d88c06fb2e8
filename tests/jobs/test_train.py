"""The whole river on Ray: undisturbed, and with a worker or a decode actor killed in the middle.

Each run's ledger says which samples were consumed in which step by which rank. They must be the same in all of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from headrace.observe.records import read_records
from headrace.train.hang import STACKS
from headrace.train.progress import newest_checkpoint, read_progress
from jobs import index

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
STEPS = 24
TINY = [
    "--model.patch-size",
    "12",
    "--model.width",
    "24",
    "--model.depth",
    "1",
    "--model.heads",
    "2",
    "--model.predictor-width",
    "16",
    "--model.predictor-depth",
    "1",
    "--model.predictor-heads",
    "2",
    "--data.height",
    "48",
    "--data.width",
    "48",
    "--augment.height",
    "48",
    "--augment.width",
    "48",
    "--data.sampling.frames",
    "2",
    "--optim.warmup-steps",
    "2",
    "--train.global-batch",
    "8",
    "--train.micro-batch",
    "2",
    "--train.checkpoint-every",
    "8",
    "--train.ledger",
    "True",
    "--wandb",
    "off",
]


def start(folder: Path, source: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "hjepa_tiny", "--data.source", str(source)]
    command += [*TINY, "--train.steps", str(STEPS), "--output", str(folder), *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=folder.parent,
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        said, _ = process.communicate(timeout=480)
    except subprocess.TimeoutExpired:
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            child.kill()
        said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def wait_for_step(folder: Path, step: int, kind: str = "step") -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        records = read_records(folder / "metrics.jsonl")
        if any(record["kind"] == kind and record["step"] >= step for record in records):  # type: ignore[typeddict-item]
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} did not come")


def children(process: subprocess.Popen[str], title: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if title in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@dataclass(frozen=True)
class Ledger:
    """What a run consumed, and its loss: the last word on each step, as after a restart steps are repeated."""

    samples: dict[tuple[int, int], list[int]]
    loss: dict[int, float]

    @classmethod
    def of(cls, folder: Path) -> Ledger:
        samples = {}
        for path in folder.glob("ledger-*.jsonl"):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                key = (entry["step"], entry["micro_batch"])
                assert samples.setdefault(key, entry["samples"]) == entry["samples"], "a repeated step differs"
        records = read_records(folder / "metrics.jsonl")
        loss = {r["step"]: r["loss"] for r in records if r["kind"] == "step"}
        return cls(samples, loss)  # type: ignore[arg-type]


def evaluations(folder: Path) -> dict[int, dict[str, float]]:
    """Return the scores of a run on its held-out samples, by step."""
    records = [r for r in read_records(folder / "metrics.jsonl") if r["kind"] == "evaluation"]
    assert {record["samples"] for record in records} == {3}
    return {record["step"]: record["scores"] for record in records}  # type: ignore[misc]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, clip_bytes: list[bytes]) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number, data in enumerate(clip_bytes):
        (folder / f"clip{number}.mp4").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, clip_bytes: list[bytes]) -> tuple[str, ...]:
    """Return the options of a run that evaluates on three clips of its own, which no number of workers divides."""
    folder = tmp_path_factory.mktemp("validation")
    for number, data in enumerate(clip_bytes[:3]):
        (folder / f"other{number}.mp4").write_bytes(data)
    return ("--data.validation", str(folder), "--train.evaluate.every", "8")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, source: Path, evaluated: tuple[str, ...]) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    said = finish(start(folder, source, "--train.workers", "2", "--data.decoders", "1", *evaluated))
    assert "finished" in said
    assert "Traceback" not in said
    return folder


def test_every_position_is_consumed_once_and_the_run_is_documented(undisturbed: Path) -> None:
    ledger = Ledger.of(undisturbed)
    assert sorted(ledger.samples) == [(1 + number // 4, number) for number in range(4 * STEPS)]
    consumed = [sample for _, samples in sorted(ledger.samples.items()) for sample in samples]
    for epoch in range(len(consumed) // 8):
        assert sorted(consumed[8 * epoch : 8 * epoch + 8]) == list(range(8))
    ranks = {json.loads(line)["rank"] for line in (undisturbed / "ledger-1.jsonl").read_text().splitlines()}
    assert ranks == {1}
    assert (undisturbed / "report.html").read_text().rstrip().endswith("</html>")
    assert {path.name for path in (undisturbed / "checkpoints").iterdir()} == {
        f"step-{step:08d}" for step in (8, 16, 24)
    }


def test_a_killed_worker_costs_nothing_but_time(
    undisturbed: Path, source: Path, evaluated: tuple[str, ...], tmp_path: Path
) -> None:
    process = start(tmp_path / "run", source, "--train.workers", "2", "--data.decoders", "1", *evaluated)
    wait_for_step(tmp_path / "run", 8, "checkpoint")
    children(process, "ray::RayTrainWorker")[-1].send_signal(signal.SIGKILL)
    finish(process)
    [restart] = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "restart"]
    assert restart["step"] in (8, 16), "from the newest checkpoint, which is written while training goes on"
    left, right = Ledger.of(undisturbed), Ledger.of(tmp_path / "run")
    assert left.samples == right.samples
    assert right.loss == pytest.approx(left.loss, rel=1e-5)
    scores, again = evaluations(undisturbed), evaluations(tmp_path / "run")
    assert sorted(again) == sorted(scores) == [8, 16, 24]
    for step in scores:
        assert again[step] == pytest.approx(scores[step], rel=1e-4)


@pytest.mark.slow
def test_a_killed_decode_actor_costs_nothing_but_time(undisturbed: Path, source: Path, tmp_path: Path) -> None:
    read_ahead = ("--data.read-ahead", "2")  # so that there is decoding left to be done
    process = start(tmp_path / "run", source, "--train.workers", "2", "--data.decoders", "1", *read_ahead)
    wait_for_step(tmp_path / "run", 3)
    actors = children(process, "ray::MapWorker(MapBatches(Decode))")
    assert actors, "the decode actor should still be at work"
    actors[0].send_signal(signal.SIGKILL)
    finish(process)
    left, right = Ledger.of(undisturbed), Ledger.of(tmp_path / "run")
    assert left.samples == right.samples
    assert right.loss == pytest.approx(left.loss, rel=1e-5)


@pytest.mark.slow
def test_two_streams_carry_what_one_does(
    undisturbed: Path, source: Path, evaluated: tuple[str, ...], tmp_path: Path
) -> None:
    """Also where a worker is killed, and both begin again."""
    run = tmp_path / "run"
    process = start(run, source, "--train.workers", "2", "--data.streams", "2", "--data.decoders", "2", *evaluated)
    wait_for_step(run, 8, "checkpoint")
    children(process, "ray::RayTrainWorker")[-1].send_signal(signal.SIGKILL)
    finish(process)
    left, right = Ledger.of(undisturbed), Ledger.of(run)
    assert left.samples == right.samples
    assert right.loss == pytest.approx(left.loss, rel=1e-5)
    pools = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "pool"]
    assert {(record["stream"], record["to"]) for record in pools} == {(0, 1), (1, 1)}
    assert evaluations(run).keys() == evaluations(undisturbed).keys()


@pytest.mark.slow
def test_a_worker_that_stands_still_costs_nothing_but_time(
    undisturbed: Path, source: Path, evaluated: tuple[str, ...], tmp_path: Path
) -> None:
    """Its collective is never joined: the other worker hangs, says where, and all of them begin again."""
    run = tmp_path / "run"
    patience = ("--train.hang-minutes", "0.3")
    process = start(run, source, "--train.workers", "2", "--data.decoders", "1", *evaluated, *patience)
    wait_for_step(run, 8, "checkpoint")
    children(process, "ray::RayTrainWorker")[-1].send_signal(signal.SIGSTOP)
    said = finish(process)
    [restart] = [r for r in read_records(run / "metrics.jsonl") if r["kind"] == "restart"]
    assert restart["step"] in (8, 16)
    assert "Timeout (0:00:18)!" in (run / STACKS.format(rank=0)).read_text()
    assert "stacks-0.txt" in said, "where it hung is told"
    left, right = Ledger.of(undisturbed), Ledger.of(run)
    assert left.samples == right.samples
    assert right.loss == pytest.approx(left.loss, rel=1e-5)


def test_ctrl_c_leaves_a_checkpoint_and_another_number_of_workers_goes_on(
    undisturbed: Path, source: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    often = ("--train.checkpoint-every", "1", "--train.keep-checkpoints", "1")  # so that some were deleted before
    process = start(run, source, "--train.workers", "2", "--data.decoders", "1..2", *often)
    wait_for_step(run, 3)
    process.send_signal(signal.SIGINT)
    assert "stopped" in finish(process)
    newest = newest_checkpoint(run)
    assert newest is not None
    assert read_progress(newest).step < STEPS
    assert (run / "report.html").exists()

    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--resume", str(run), "--train.workers", "1"]
    subprocess.run([*command, "--wandb", "off"], check=True, timeout=300, capture_output=True)
    left, right = Ledger.of(undisturbed), Ledger.of(run)
    assert left.samples == right.samples
    assert right.loss == pytest.approx(left.loss, rel=1e-4)


def test_too_many_broken_clips_end_the_run_at_once_with_the_reason(
    source: Path, tmp_path: Path, clip_bytes: list[bytes]
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for path in source.glob("*.mp4"):
        (clips / path.name).write_bytes(path.read_bytes())
    index.main([str(clips)])
    broken = clips / "clip5.mp4"
    stat = broken.stat()
    broken.write_bytes(bytes(len(clip_bytes[5])))
    os.utime(broken, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # damage that the index cannot have seen
    process = start(tmp_path / "run", clips, "--data.decoders", "1", "--data.failures", "0")
    said, _ = process.communicate(timeout=480)
    assert process.returncode == 1
    assert "could not be decoded, more than the budget of 0.00%" in said.splitlines()[-1]
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [r["kind"] for r in records].count("start") == 1, "starting again would not help"
    assert records[-1]["kind"] == "end"
    assert records[-1]["outcome"] == "failed"
    assert "clip5.mp4" in (tmp_path / "run" / "quarantine.jsonl").read_text()
