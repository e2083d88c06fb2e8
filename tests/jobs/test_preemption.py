"""A machine that is announced to go leaves a checkpoint, and the run goes on elsewhere: two nodes of Ray on one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from test_autoscaling import MODEL, steps_done, wait_until
from test_train import ROOT

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
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "hjepa_tiny", "--data.source", str(video_folder)]
    command += [*MODEL, "--data.decoders", "1", "--train.steps", "1000000", "--train.checkpoint-every", "100000"]
    with (tmp_path / "train.log").open("w") as log:
        train = subprocess.Popen([*command, "--output", str(run)], env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: steps_done(run) >= 3, 120, "training begins")
        assert newest_checkpoint(run) is None
        drain = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", cluster.address]
        drain += ["--node-id", leaving.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        subprocess.run(
            [*drain, "--reason-message", "spot", "--deadline-remaining-seconds", "60"], env=environment, check=True
        )
        seconds = wait_until(lambda: newest_checkpoint(run) is not None, 60, "a checkpoint is written")
        kept = read_progress(newest_checkpoint(run)).step
        cluster.add_node(num_cpus=2, object_store_memory=200 << 20)
        cluster.remove_node(leaving, allow_graceful=False)
        wait_until(lambda: steps_done(run) >= kept + 20, 180, "training goes on, on the other node")
    finally:
        print((tmp_path / "train.log").read_text())
        train.send_signal(signal.SIGTERM)
        try:
            train.wait(60)
        except subprocess.TimeoutExpired:
            train.kill()
    print(f"a checkpoint {seconds:.0f} s after the announcement")
    starts = [record["step"] for record in read_records(run / "metrics.jsonl") if record["kind"] == "start"]
    assert starts[0] == 0
    assert all(step >= kept for step in starts[1:]), "nothing before the checkpoint was trained on again"
