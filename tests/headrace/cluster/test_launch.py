from __future__ import annotations

import os
import threading
import time
from typing import Any
from unittest.mock import MagicMock

import pytest
import ray

from headrace.cluster import EMBEDDED, launch
from headrace.cluster.embedded import is_small
from headrace.cluster.launch import ray_cluster, serves_dashboard
from headrace.errors import RunError

TIMED_OUT = "The current node timed out during startup. This could happen because the raylet failed to start."


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Stand in for `ray.init`."""
    init = MagicMock()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", MagicMock())
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4})
    return init


def test_a_start_that_timed_out_is_tried_once_more(starts: MagicMock) -> None:
    starts.side_effect = [Exception(TIMED_OUT), None]
    with ray_cluster(cpus=4, dashboard=False) as resources:
        assert resources == {"CPU": 4.0}
    assert starts.call_count == 2


def test_a_stream_that_was_left_open_ends_before_ray_does(starts: MagicMock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader, too, who waits for a block until the stream ends."""
    ended = threading.Event()
    order = []

    class Executor(threading.Thread):
        def shutdown(self, force: bool) -> None:
            order.append(f"stream, force {force}")
            ended.set()

    def read() -> None:
        ended.wait(10)
        time.sleep(0.1)
        order.append("reader")

    monkeypatch.setattr(launch, "StreamingExecutor", Executor)
    monkeypatch.setattr(ray, "shutdown", lambda: order.append("Ray"))
    with ray_cluster(cpus=4, dashboard=False):
        starts.assert_called_once()
        Executor(target=ended.wait, args=(10,), daemon=True).start()
        threading.Thread(target=read, name="iter_threaded", daemon=True).start()
    assert order == ["stream, force False", "reader", "Ray"]


@pytest.mark.parametrize("dashboard", [False, True])
def test_the_environment_is_as_before_when_the_cluster_has_ended(
    starts: MagicMock, monkeypatch: pytest.MonkeyPatch, dashboard: bool
) -> None:
    monkeypatch.setenv(EMBEDDED, "of a run around this one")
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "3")
    before = dict(os.environ)
    with ray_cluster(cpus=4, dashboard=dashboard):
        assert is_small() is not dashboard
        assert serves_dashboard() is dashboard
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "3"
    assert starts.call_args.kwargs["include_dashboard"] is dashboard
    assert dict(os.environ) == before


@pytest.mark.parametrize(("errors", "tries"), [([TIMED_OUT] * 2, 2), (["no space left on device"], 1)])
def test_a_ray_that_does_not_start_is_one_sentence(starts: MagicMock, errors: list[Any], tries: int) -> None:
    starts.side_effect = [Exception(error) for error in errors]
    with pytest.raises(RunError, match="Ray did not start on this machine: "), ray_cluster(cpus=4, dashboard=False):
        raise AssertionError
    assert starts.call_count == tries
