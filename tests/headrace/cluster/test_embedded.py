"""What an embedded Ray leaves out, what stands in for it, and that all is as before when it has ended."""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray
import ray.data
from ray._private.node import Node
from ray.data._internal import stats
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator

from headrace.cluster import EMBEDDED
from headrace.cluster.embedded import Here, Locations, Statistics, small_ray
from headrace.cluster.launch import ray_cluster

CLIENT = "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client"


class Echo:
    """Any actor."""

    def __init__(self) -> None:
        self.same = {"a": 1}

    def twice(self, number: int) -> int:
        return 2 * number

    def state(self) -> dict[str, int]:
        return self.same


def test_all_is_as_before_when_the_cluster_has_ended() -> None:
    """Also what Ray Train took from Ray Data, whose modules are loaded within."""
    before = (Node.start_monitor, Node.start_api_server, stats.get_or_create_stats_actor)
    known = coordinator.get_or_create_autoscaling_coordinator
    with small_ray():
        assert Node.start_monitor is not before[0]
        assert isinstance(stats.get_or_create_stats_actor(), Here)
        client = importlib.reload(importlib.import_module(CLIENT))
        assert isinstance(client.get_or_create_autoscaling_coordinator(), Here)
    assert (Node.start_monitor, Node.start_api_server, stats.get_or_create_stats_actor) == before
    assert coordinator.get_or_create_autoscaling_coordinator is known
    assert client.get_or_create_autoscaling_coordinator is known


def test_a_ray_that_lacks_them_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Node, "start_monitor")
    monkeypatch.delattr(stats, "get_or_create_stats_actor")
    with small_ray():
        assert not hasattr(Node, "start_monitor")
        assert not hasattr(stats, "get_or_create_stats_actor")
    assert not hasattr(Node, "start_monitor")


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, float]]:
    with ray_cluster(cpus=2, dashboard=False) as resources:
        yield resources


def running() -> str:
    found = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    return "\n".join(found)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_no_process_is_started_that_nobody_needs() -> None:
    class Add:
        def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
            return {"id": rows["id"] + 1, "embedded": [EMBEDDED in os.environ] * len(rows["id"])}

    rows = ray.data.range(6).map_batches(Add, batch_size=2, compute=ray.data.ActorPoolStrategy(size=1)).take_all()
    assert sorted(row["id"] for row in rows) == [1, 2, 3, 4, 5, 6]
    assert all(row["embedded"] for row in rows)
    assert ray.util.list_named_actors(all_namespaces=True) == []
    there = running()
    assert "raylet" in there
    for left_out in ("dashboard.py", "monitor.py", "StatsActor", "ActorLocationTracker", "AutoscalingCoordinator"):
        assert left_out not in there


@pytest.mark.ray
def test_each_is_told_of_all_that_the_node_has(cluster: dict[str, float]) -> None:
    mine = coordinator.DefaultAutoscalingCoordinator("me")
    mine.request_resources([], 10.0, request_remaining=["CPU"])
    mine.get_reserved_resources()
    [resources] = mine.get_reserved_resources().values()
    assert resources["CPU"] == cluster["CPU"]
    assert resources["object_store_memory"] == cluster["object_store_memory"]
    mine.cancel_request()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_handle_calls_in_this_process_and_stores_the_same_result_once() -> None:
    handle = Here(Echo())
    assert ray.get(handle.twice.remote(21)) == 42
    assert handle.state.remote() == handle.state.remote()
    assert handle.twice.remote(1) != handle.twice.remote(2)
    there = pickle.loads(pickle.dumps(handle))
    assert ray.get(there.state.remote()) == {"a": 1}
    with pytest.raises(AttributeError):
        handle.thrice.remote()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_statistics_are_kept_by_nobody_and_actors_are_here() -> None:
    statistics = Here(Statistics())
    assert ray.get(statistics.update_execution_metrics.remote("dataset", [])) is None
    assert ray.get(statistics.gen_dataset_id.remote()) != ray.get(statistics.gen_dataset_id.remote())
    locations = Here(Locations())
    locations.update_actor_location.remote("one", "node")
    assert ray.get(locations.get_actor_locations.remote(("one", "two"))) == dict.fromkeys(
        ("one", "two"), ray.get_runtime_context().get_node_id()
    )
