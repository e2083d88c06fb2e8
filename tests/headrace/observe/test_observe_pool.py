"""The decode pool's changes, wherever they are shown, and the advice that follows from them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from headrace.observe.advice import feeding_advice
from headrace.observe.console import run_panel
from headrace.observe.history import History
from headrace.observe.plain import PlainConsole
from headrace.observe.pool import pool_changes, pool_text
from headrace.observe.records import parse_record
from headrace.observe.report import write_report

Fake = Callable[..., list[dict[str, Any]]]
REASON = "training waits 34 % of its time: 3 decoders give 5.1 clips/s, 7.8 clips/s take 6"


def change(time: float, before: int, after: int, **more: Any) -> dict[str, Any]:
    bounds = {"needed": after, "least": 1, "most": 16, "cores": 2, "reason": REASON}
    return {"kind": "pool", "time": time, "from": before, "to": after, **bounds, **more}


def history_of(records: list[dict[str, Any]]) -> History:
    history = History()
    for record in records:
        parsed = parse_record(json.dumps(record))
        assert parsed is not None
        history.add(parsed)
    return history


def with_changes(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a run whose pool begins with 3 decoders and has 6 before its last step."""
    before_last = next(index for index in reversed(range(len(records))) if records[index]["kind"] == "step")
    grows = change(records[before_last]["time"] - 0.01, 3, 6)
    return [records[0], change(records[0]["time"], 0, 3), *records[1:before_last], grows, *records[before_last:]]


def test_the_pools_of_several_streams_are_one() -> None:
    of = [{"stream": stream, "streams": 2, "most": 8} for stream in range(2)]
    began = [change(0.0, 0, 3, **of[0]), change(0.0, 0, 2, **of[1])]
    history = history_of([*began, change(1.0, 2, 5, **of[1])])
    sizes = [(record["from"], record["to"], record["needed"], record["most"]) for record in history.pool]
    assert sizes == [(0, 3, 3, 8), (3, 5, 5, 16), (5, 8, 8, 16)]
    assert pool_text(history.pool[-1]) == f"5 → 8: stream 2 of 2: {REASON}"
    history.add(change(2.0, 0, 4))  # type: ignore[arg-type]  # the run goes on in one stream
    assert history.newest_pool is not None
    assert history.newest_pool["to"] == 4


def test_a_change_is_told_with_its_reason(fake: Fake) -> None:
    history = history_of(with_changes(fake(20, end=None)))
    assert [pool_text(item) for _, item in pool_changes(history)] == [f"3: {REASON}", f"3 → 6: {REASON}"]
    assert [step for step, _ in pool_changes(history)] == [0, 19]

    file = io.StringIO()
    plain = PlainConsole("1 worker", file=file)
    for item in history.pool:
        plain.see(item, history)
    assert file.getvalue().count(REASON) == 1, "that the stream begins is no news"
    assert f"decoders 3 -> 6: {REASON}" in file.getvalue()

    console = Console(file=io.StringIO(), width=104, record=True)
    console.print(run_panel("demo", "", history, 0.0, 104))
    assert "decoders 3 → 6" in console.export_text()


def test_the_report_shows_the_pool_beside_the_waiting(fake: Fake, tmp_path: Path) -> None:
    lines = [json.dumps(record) for record in with_changes(fake(20))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    page = write_report(tmp_path).read_text()
    assert "Waiting for data" in page
    assert ">Decoders<" in page
    assert REASON in page


def test_a_change_that_lacks_its_numbers_is_no_record() -> None:
    for name in ("from", "to", "needed", "least", "most", "cores"):
        record = change(1.0, 1, 2)
        del record[name]
        assert parse_record(json.dumps(record)) is None


def test_a_pool_that_may_grow_is_not_told_to(fake: Fake) -> None:
    history = history_of([*fake(60, wait_share=0.6, decode_seconds=0.2, cores=2), change(1.0, 2, 4, cores=64)])
    assert history.cores == 64, "nodes came since the start"
    advice = feeding_advice(history.steady(), history.cores, history.newest_pool)
    assert advice.limit == "decoders"
    assert "may grow to" in advice.remedy
    assert "by itself" in advice.remedy


def test_a_pool_at_its_bound_whose_decoders_wait_for_storage_is_told_to_be_larger(fake: Fake) -> None:
    history = history_of(
        [*fake(60, wait_share=0.6, decode_seconds=0.005, cores=2), change(1.0, 2, 2, needed=9, most=2)]
    )
    advice = feeding_advice(history.steady(), history.cores, history.newest_pool)
    assert advice.limit == "decoders"
    assert advice.remedy == "raise --data.decoders from 1..2 to 1..9"
    busy = history_of([*fake(60, wait_share=0.6, decode_seconds=0.05, cores=2), change(1.0, 2, 2, needed=9, most=2)])
    assert feeding_advice(busy.steady(), busy.cores, busy.newest_pool).limit != "decoders"
