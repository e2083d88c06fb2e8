"""Decode nodes come when the trainers starve, go when they are idle, and may be lost: runs on Ray's fake multi-node
provider."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from live_run import steps_done, training, wait_until
from ray.util import get_node_ip_address
from slow_decoder import SECONDS_FILE
from test_train import ROOT

from headrace.observe.records import PoolRecord, read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LISTS = (
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
"""What a whole cluster configuration has and this one needs not."""

SLOW = ("--data.decoder", "slow_decoder:build", "--data.read-ahead", "8")

NODES = """
import json, ray
from ray._private.state import available_resources_per_node
ray.init(log_to_driver=False, logging_level="ERROR")
free = available_resources_per_node()
nodes = [
    {
        "id": node["NodeID"],
        "cpus": node["Resources"].get("CPU", 0),
        "decodes": "decode" in node["Resources"],
        "free": free.get(node["NodeID"], {}).get("CPU", 0),
    }
    for node in ray.nodes() if node["Alive"]
]
print(json.dumps(nodes))
"""


class Cluster:
    """A head that trains, and an autoscaler that may bring three nodes of two CPUs that decode."""

    def __init__(self, folder: Path) -> None:
        self.seconds = folder / "seconds"
        self.port = _free_port()
        config = {
            "cluster_name": "headrace-test",
            "max_workers": 3,
            "idle_timeout_minutes": 0.25,
            "upscaling_speed": 10,
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "gcs_address": f"{get_node_ip_address()}:{self.port}",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "auth": {"ssh_user": "ubuntu"},
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
                "decoder": {
                    "resources": {"CPU": 2, "decode": 2},
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": 3,
                },
            },
            "head_node_type": "ray.head.default",
            "docker": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            **{name: [] for name in LISTS},
        }
        path = folder / "cluster.yaml"
        path.write_text(json.dumps(config))
        clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        paths = [str(ROOT / "platform"), str(ROOT), str(Path(__file__).parent)]
        self.environment = {
            **clean,
            "PYTHONPATH": os.pathsep.join(paths),
            SECONDS_FILE: str(self.seconds),
            "RAY_AUTH_MODE": "disabled",  # on one machine, for as long as the test takes
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "AUTOSCALER_HEARTBEAT_TIMEOUT_S": "10",
            "RAY_enable_autoscaler_v2": "0",
        }
        self.environment["RAY_ADDRESS"] = f"127.0.0.1:{self.port}"
        ray = Path(sys.executable).parent / "ray"
        self.command = [str(ray), "start", "--head", "--block", "--num-cpus=2", f"--port={self.port}"]
        self.command += [f"--autoscaling-config={path}", "--include-dashboard=false"]
        self.command += ["--object-store-memory=300000000"]
        self.log = (folder / "ray.log").open("w")

    def start(self) -> None:
        """Start the head. On a busy machine one of its processes may come too late for the others: then once more."""
        for _ in range(4):
            self.head = subprocess.Popen(
                self.command, env=self.environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
            )
            while self.head.poll() is None:
                if self.node_cpus() == [2]:
                    return
                time.sleep(2)
        raise AssertionError("Ray's head does not come up: see ray.log")

    def node_cpus(self) -> list[float]:
        """Return the CPUs of each node that is alive."""
        return [node["cpus"] for node in self.nodes()]

    def decode_nodes(self) -> list[str]:
        """Return the nodes that have the resource for it."""
        return [node["id"] for node in self.nodes() if node["decodes"]]

    def kill(self, node: str) -> None:
        """Kill a node as a spot instance goes: its Ray and all that it runs, at once."""
        [raylet] = [
            process
            for process in psutil.Process(self.head.pid).children(recursive=True)
            if process.name() == "raylet" and process.environ().get("RAY_CLOUD_INSTANCE_ID") == node
        ]
        for process in [*raylet.children(recursive=True), raylet]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that are alive: id, CPUs, those that are free, and whether they decode."""
        asked = subprocess.run([sys.executable, "-c", NODES], env=self.environment, capture_output=True, text=True)
        answers = [line for line in asked.stdout.splitlines() if line.startswith("[{")]  # Ray may add words of its own
        return json.loads(answers[-1]) if answers else []

    def stop(self) -> None:
        """End the head and all that it started."""
        if self.head.poll() is not None:
            return
        head = psutil.Process(self.head.pid)
        processes = [*head.children(recursive=True), head]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()
        self.log.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def pool_records(run: Path) -> list[PoolRecord]:
    return [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "pool"]


def test_decode_nodes_come_when_the_trainers_starve_and_go_when_they_are_idle(
    cluster: Cluster, video_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    cluster.seconds.write_text("1.0")
    with training(cluster.environment, video_folder, run, *SLOW, "--data.decoders", "1..6"):
        came = wait_until(lambda: len(cluster.node_cpus()) >= 3, 240, "two decode nodes come")
        wait_until(lambda: pool_records(run)[-1]["to"] == 6, 60, "the pool is asked for all its decoders")
        cluster.seconds.write_text("0.0")
        gave_back = wait_until(lambda: pool_records(run)[-1]["to"] <= 2, 240, "decoders are given back")
        went = wait_until(lambda: cluster.node_cpus() == [2], 240, "the decode nodes go")
    print(f"nodes came after {came:.0f} s, decoders went after {gave_back:.0f} s, the last node {went:.0f} s later")
    for record in pool_records(run):
        print(f"{record['from']} -> {record['to']}: {record['reason']}")
    sizes = [record["to"] for record in pool_records(run)]
    assert sizes[0] == 1
    assert max(sizes) == 6
    assert sizes[-1] <= 2
    assert all("Ray's own scaling" not in record["reason"] for record in pool_records(run))


def test_decoders_stay_off_the_trainers_and_a_lost_decode_node_is_replaced(
    cluster: Cluster, video_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    cluster.seconds.write_text("0.2")
    only = ("--data.decoders", "1..2", "--data.decoder-resource", "decode")
    with training(cluster.environment, video_folder, run, *SLOW, *only):
        wait_until(lambda: steps_done(run) >= 3, 240, "a decode node comes, and training begins")
        [head] = [node for node in cluster.nodes() if not node["decodes"]]
        assert head["free"] == 1, "the worker is on the head, and no decoder is"
        [lost] = cluster.decode_nodes()
        cluster.kill(lost)
        replaced = wait_until(lambda: cluster.decode_nodes() not in ([], [lost]), 240, "another node takes its place")
        before = steps_done(run)
        wait_until(lambda: steps_done(run) >= before + 20, 240, "training goes on")
    print(f"another node came after {replaced:.0f} s")
    assert "no node has 'decode' yet" in (tmp_path / "train.log").read_text()
