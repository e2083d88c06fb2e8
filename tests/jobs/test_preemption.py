"""A machine that is announced to go leaves a checkpoint, and the run goes on elsewhere: two nodes of Ray on one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_run import steps_done, training, wait_until
from ray.cluster_utils import Cluster

from headrace.observe.records import read_records
from headrace.train.progress import newest_checkpoint, read_progress

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that only coordinates."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 << 20})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def test_a_machine_that_will_be_taken_away_leaves_a_checkpoint_in_time(
    cluster: Cluster, video_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    leaving = cluster.add_node(num_cpus=2, object_store_memory=200 << 20)
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    with training(environment, video_folder, run, "--data.decoders", "1"):
        wait_until(lambda: steps_done(run) >= 3, 120, "training begins")
        assert newest_checkpoint(run) is None
        drain = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", cluster.address]
        drain += ["--node-id", leaving.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        drain += ["--reason-message", "spot", "--deadline-remaining-seconds", "60"]
        subprocess.run(drain, env=environment, check=True)
        seconds = wait_until(lambda: newest_checkpoint(run) is not None, 60, "a checkpoint is written")
        kept = read_progress(newest_checkpoint(run)).step
        cluster.add_node(num_cpus=2, object_store_memory=200 << 20)
        cluster.remove_node(leaving, allow_graceful=False)
        wait_until(lambda: steps_done(run) >= kept + 20, 180, "training goes on, on the other node")
    print(f"a checkpoint {seconds:.0f} s after the announcement")
    starts = [record["step"] for record in read_records(run / "metrics.jsonl") if record["kind"] == "start"]
    assert starts == [0, kept], "it was started once more, from the checkpoint"
