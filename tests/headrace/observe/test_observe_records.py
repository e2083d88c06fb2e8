from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from headrace.observe.history import History
from headrace.observe.records import Follower, MetricsWriter, number, parse_record, read_records


def test_what_is_written_is_read(tmp_path, fake):
    records = fake(60, failures=2, restart_at=55)
    with MetricsWriter(tmp_path / "run" / "metrics.jsonl") as writer:
        for record in records:
            writer.write(record)
    assert read_records(tmp_path / "run" / "metrics.jsonl") == records


def test_nan_and_infinity_become_null(tmp_path, fake):
    record = {**fake(1)[1], "loss": math.nan, "grad_norm": math.inf, "extra": {"std": -math.inf, "ok": 1.0}}
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(record)
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()
    [read] = read_records(path)
    assert read["loss"] is None
    assert read["grad_norm"] is None
    assert read["extra"] == {"std": None, "ok": 1.0}
    assert math.isnan(number(read, "loss"))


def test_a_value_that_was_not_converted_is_refused_and_leaves_no_trace(tmp_path, fake):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer, pytest.raises(TypeError):
        writer.write({**fake(1)[1], "loss": object()})
    assert path.read_bytes() == b""


def test_each_line_is_on_disk_when_write_returns(tmp_path, fake):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write(fake(1)[0])
    assert len(read_records(tmp_path / "metrics.jsonl")) == 1
    writer.close()


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_torn_last_line_is_passed_over_and_closed_by_the_next_writer(tmp_path, fake, cut):
    path, records = tmp_path / "metrics.jsonl", fake(3)
    with MetricsWriter(path) as writer:
        for record in records[:3]:
            writer.write(record)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1].rstrip(b"\n")[:cut])
    assert read_records(path) == records[:2]

    with MetricsWriter(path) as writer:
        writer.write(records[3])
    follower = Follower(path)
    assert follower.poll() == [*records[:2], records[3]]
    assert follower.unreadable == 1


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "null",
        "[1]",
        '"step"',
        '{"kind":"step"}',
        '{"kind":"step","time":1,"step":"7","steps":9}',
        '{"kind":"step","time":1,"step":null,"steps":9}',
        '{"kind":"step","time":NaN,"step":1,"steps":9}',
        '{"kind":"step","time":1e999,"step":1,"steps":9}',
        '{"kind":"step","time":1,"step":1' + "0" * 400 + ',"steps":9}',
        '{"kind":"other","time":1}',
        '{"kind":["step"],"time":1}',
        "[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_a_line_that_is_no_record_is_none(line):
    assert parse_record(line) is None


def test_a_follower_gives_each_record_once_however_the_file_grows(tmp_path, fake):
    path = tmp_path / "metrics.jsonl"
    follower, got = Follower(path), []
    assert follower.poll() == []
    records = fake(20, failures=3)
    data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    for low in range(0, len(data), 777):
        with path.open("ab") as file:
            file.write(data[low : low + 777])
        got += follower.poll()
    assert got == records
    assert follower.unreadable == 0


def test_a_poll_may_stop_early_and_the_next_one_goes_on(tmp_path, fake):
    path, records = tmp_path / "metrics.jsonl", fake(10)
    lines = [json.dumps(record) + "\n" for record in records]
    path.write_text("".join(lines))
    follower, first = Follower(path), len("".join(lines[:4]))
    assert follower.poll(until=0) == []
    assert follower.poll(until=first) == records[:4]
    assert follower.poll() == records[4:]


def test_a_follower_starts_anew_when_the_file_was_replaced_by_a_shorter_one(tmp_path, fake):
    path, records = tmp_path / "metrics.jsonl", fake(5)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    follower = Follower(path)
    assert len(follower.poll()) == len(records)
    path.write_text(json.dumps(records[0]) + "\n")
    assert follower.poll() == records[:1]


def test_a_poll_without_news_is_cheap(tmp_path, fake):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in fake(2000)))
    follower = Follower(path)
    follower.poll()
    before = time.process_time()
    for _ in range(1000):
        follower.poll()
    assert time.process_time() - before < 0.5


def history_of(records) -> History:
    history = History()
    for record in records:
        history.add(record)
    return history


def test_repeated_steps_count_once_with_their_last_value(fake):
    records = fake(200, restart_at=130)
    history = history_of(records)
    assert [step["step"] for step in history.steps] == list(range(1, 201))
    last = {record["step"]: record for record in records if record["kind"] == "step"}
    assert list(history.steps) == list(last.values())
    assert len(history.restarts) == 1
    assert not history.resumes


def test_steps_behind_the_checkpoint_are_undone_at_the_restart(fake):
    records = fake(200, restart_at=130)
    cut = next(index for index, record in enumerate(records) if record["kind"] == "restart")
    history = history_of(records[: cut + 2])
    assert history.step == 100
    assert history.end is None


def test_the_first_step_of_each_session_is_no_steady_one(fake):
    steady = {step["step"] for step in history_of(fake(200, restart_at=130)).steady()}
    assert steady == set(range(1, 201)) - {1, 101}
    assert len(history_of(fake(1)).steady()) == 1


def test_the_pause_before_a_resume_is_not_time_under_way(fake):
    records = fake(50, end="stopped")
    once = history_of(records).elapsed_seconds
    later = [{**record, "time": record["time"] + 86_400} for record in fake(50)]
    later[0] = {**later[0], "step": 50, "position": 800}
    history = history_of(
        [*records, *({**r, "step": r.get("step", 0) + 50} if r["kind"] == "step" else r for r in later)]
    )
    assert history.elapsed_seconds == pytest.approx(2 * once, rel=0.01)
    assert len(history.resumes) == 1
    assert history.step == 100


def test_a_sample_that_fails_again_after_a_restart_counts_once():
    failure = {"kind": "failure", "time": 1.0, "key": "a", "shard": "s", "reason": "no frames", "message": ""}
    history = history_of([failure, failure, {**failure, "key": "b"}])
    assert history.failures == {"no frames": 2}
    assert len(history.failure_rows) == 2


def test_a_history_that_keeps_little_stays_small(fake):
    history = History(keep=10)
    for record in fake(500):
        history.add(record)
    assert len(history.steps) == 10
    assert history.step == 500
    assert history.first["step"] == 1


def test_a_writer_makes_one_write_a_line(tmp_path: Path, fake):
    # What is written at once is torn only by a crash, never by a reader that comes in between.
    path = tmp_path / "metrics.jsonl"
    sizes = []
    with MetricsWriter(path) as writer:
        for record in fake(20):
            writer.write(record)
            sizes.append(path.stat().st_size)
            assert path.read_bytes().endswith(b"}\n")
    assert sizes == sorted(set(sizes))
