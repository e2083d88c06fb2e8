from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from headrace.cluster.prometheus_log import PrometheusLog
from headrace.observe.history import History
from headrace.observe.records import Record

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[tuple[str, ...], float]]:
    """What Ray's gauges were set to, by name and tags."""
    found: dict[str, dict[tuple[str, ...], float]] = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert re.fullmatch(r"headrace_[a-z_]+", name)
            assert description
            self._tags, self._values = tag_keys, found.setdefault(name, {})

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == self._tags
            self._values[tuple(tags.values())] = value

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    return found


def test_every_figure_of_a_run_is_a_gauge(gauges: dict[str, Any], tmp_path: Path) -> None:
    step = {
        "kind": "step",
        "time": 1.0,
        "step": 7,
        "steps": 10,
        "position": 112,
        "loss": None,
        "clips_per_second": 12.5,
        "mfu": 0.4,
        "wait_share": 0.02,
        "extra": {"std": 0.9},
    }
    records: list[dict[str, Any]] = [
        {"kind": "pool", "time": 1.0, "from": 2, "to": 5, "needed": 5, "least": 1, "most": 8, "cores": 8, "reason": ""},
        step,
        {"kind": "failure", "time": 1.0, "key": "a", "shard": "b", "reason": "c", "message": "d"},
        {"kind": "refused", "time": 1.0, "step": 7, "loss": None, "grad_norm": None, "keys": []},
    ]
    run = tmp_path / "run-1"
    log, history = PrometheusLog(run), History()
    for record in records:
        seen: Record = record  # type: ignore[assignment]
        history.add(seen)
        log.see(seen, history)
    assert log.close(history) == ""
    expected = {"clips_per_second": 12.5, "mfu": 0.4, "wait_share": 0.02, "decoders": 5, "step": 7}
    expected |= {"quarantined": 1, "refused_steps": 1, "restarts": 0, "position": 112}
    assert {name: gauges[f"headrace_{name}"][("run-1",)] for name in expected} == expected
    assert math.isnan(gauges["headrace_loss"][("run-1",)])
    assert gauges["headrace_extra"] == {("run-1", "std"): 0.9}


def test_the_grafana_dashboard_shows_figures_that_exist(gauges: dict[str, Any], tmp_path: Path) -> None:
    """And nearly all of them."""
    PrometheusLog(tmp_path / "run")
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "headrace.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for expression in asked for name in re.findall(r"ray_(headrace_\w+)", expression)}
    assert shown - gauges.keys() == set()
    assert gauges.keys() - shown == set()
    assert all('run=~"$run"' in expression for expression in asked)
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)), "panels overlap"


def test_figures_that_rest_are_set_again_since_ray_forgets_them(gauges: dict[str, Any], tmp_path: Path) -> None:
    log, history = PrometheusLog(tmp_path / "run"), History()
    pool = {"kind": "pool", "time": 1.0, "from": 2, "to": 5, "needed": 5, "least": 1, "most": 8, "cores": 8}
    scores = {"kind": "evaluation", "time": 1.0, "step": 5, "scores": {"loss": 0.5}, "samples": 3, "best": True}
    step = {"kind": "step", "time": 2.0, "step": 7, "steps": 10, "position": 112, "loss": 0.4}
    for record in ({**pool, "reason": ""}, scores):
        history.add(record)  # type: ignore[arg-type]
    history.add(step)  # type: ignore[arg-type]
    log.see(step, history)  # type: ignore[arg-type]
    assert gauges["headrace_decoders"] == {("run",): 5}
    assert gauges["headrace_held_out"] == {("run", "loss"): 0.5}
