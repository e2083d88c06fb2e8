"""What a recipe takes: the arithmetic, what is measured for it, and the tables."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from test_train import ROOT, TINY

from data_pipelines.index import index
from headrace.data.clip_cost import draw_rows, measure_clips, transcoding_ratio
from headrace.data.config import DataConfig
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of
from headrace.errors import UserError
from headrace.observe.needs import Machine, Needs
from jobs import plan
from jobs.plan import Choice, verdict, worker_groups

SMALL = [argument for argument in TINY if argument not in ("--wandb", "off")]
GPU_NODE = Machine(cores=48, workers=4, threads=1, device="cuda")
LAPTOP = Machine(cores=2, workers=1, threads=1, device="cpu")


def needs(machine: Machine, decode_seconds: float, demand: float) -> Needs:
    return Needs(decode_seconds, demand, block_clips=8, machine=machine, headroom=1.1)


def test_the_cpus_of_a_gpu_are_its_clips_times_their_cost() -> None:
    it = needs(GPU_NODE, decode_seconds=0.05, demand=200.0)
    assert it.clips_per_cpu == 20
    assert it.cpus_per_worker == pytest.approx(11)
    assert it.decoders == 44
    assert it.supply == pytest.approx(880)
    assert it.wait_share == 0


def test_waiting_is_what_the_cores_that_are_left_cannot_decode() -> None:
    it = needs(GPU_NODE, decode_seconds=0.1, demand=200.0)
    assert it.wait_share == pytest.approx(1 - 440 / 800)
    assert needs(LAPTOP, 0.1, 20.0).wait_share == pytest.approx(0.5)


def test_workers_that_use_all_cores_share_them_with_the_decoders() -> None:
    crowded = needs(replace(LAPTOP, workers=2), decode_seconds=0.05, demand=10.0)
    assert crowded.supply == pytest.approx(2 / (0.05 + 0.1)), "a clip costs 50 ms to decode and 100 ms to train on"
    assert crowded.wait_share == pytest.approx(1 - (2 / 0.15) / 20)


@pytest.mark.parametrize(("workers", "demand", "streams"), [(4, 200.0, 1), (64, 60.0, 4), (6, 400.0, 2), (5, 800.0, 5)])
def test_streams_divide_the_workers_and_are_enough(workers: int, demand: float, streams: int) -> None:
    """Of 8 clips a block, and 200 blocks a second."""
    assert needs(replace(GPU_NODE, workers=workers), 0.1, demand).streams == streams


def test_the_verdict_names_what_is_enough_or_what_would_help_most() -> None:
    assert verdict(needs(GPU_NODE, 0.05, 200.0), []).endswith("--data.decoders 44 is enough.")
    starving = needs(GPU_NODE, 0.1, 200.0)
    assert verdict(starving, []) == (
        "Training would wait 45 % of its time here; 88 cores that only decode would end it (--data.decoders 1..88)."
    )
    choices = [Choice("4 frames, not 8", "", 0.08, 8), Choice("transcoding the source", "jobs/transcode.py", 0.01, 3)]
    said = verdict(starving, choices)
    assert "transcoding the source (jobs/transcode.py) makes a clip 10 times cheaper" in said
    assert said.endswith("9 decoders would do, and waiting here would be 0 %.")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_worker_groups_are_what_ray_up_accepts(device: str) -> None:
    it = needs(Machine(48, 6, 1, device), decode_seconds=0.1, demand=200.0)
    groups = yaml.safe_load(worker_groups(it, node_cpus=16, node_gpus=4))["available_node_types"]
    assert groups["decoder"]["max_workers"] == 9, "132 decoders, 16 a node"
    assert groups["trainer"]["max_workers"] == 2
    assert groups["trainer"]["resources"].get("GPU", 0) == (4 if device == "cuda" else 0)
    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    for name, group in groups.items():
        config["available_node_types"][name] |= {**group, "node_config": {"InstanceType": "c7i.8xlarge"}}
    validate_config(prepare_config(config))


def test_clips_are_measured_as_training_reads_them_and_broken_ones_left_out(video_folder: Path) -> None:
    manifest = index(str(video_folder), shards_of(str(video_folder))).usable()
    data = DataConfig(height=24, width=24, sampling=SamplingConfig(frames=2))
    rows = draw_rows(manifest, 5).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == 5
    costs = measure_clips(manifest, data, rows)
    assert [cost.row for cost in costs] == rows
    assert {cost.kind for cost in costs} == {"h264 48x32"}
    assert all(0 < cost.cpu_seconds < 1 for cost in costs)

    (video_folder / f"clip{rows[1]}.mp4").write_bytes(bytes(3000))
    assert rows[1] not in [cost.row for cost in measure_clips(manifest, data, rows)]
    with pytest.raises(UserError, match="none of 1 samples"):
        measure_clips(manifest, data, rows[1:2])


def test_more_clips_from_each_decode_are_cheaper(video_folder: Path) -> None:
    manifest = index(str(video_folder), shards_of(str(video_folder))).usable()
    data = DataConfig(height=24, width=24, sampling=SamplingConfig(frames=2))
    rows = list(range(8))
    once, often = (measure_clips(manifest, replace(data, repeats=repeats), rows) for repeats in (1, 8))
    assert sum(cost.cpu_seconds for cost in often) < 0.9 * sum(cost.cpu_seconds for cost in once)


def test_what_transcoding_would_save_is_measured(video_folder: Path, image_folder: Path) -> None:
    data = DataConfig(height=24, width=24, sampling=SamplingConfig(frames=2))
    manifest = index(str(video_folder), shards_of(str(video_folder))).usable()
    ratio, clips = transcoding_ratio(manifest, data, [0, 1])
    assert clips == 2
    assert 0.2 < ratio < 5
    images = index(str(image_folder), shards_of(str(image_folder))).usable()
    ratio, clips = transcoding_ratio(images, data, [0, 1])
    assert math.isnan(ratio)
    assert clips == 0


def test_it_ends_with_a_sentence(
    video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    nodes = tmp_path / "nodes.yaml"
    mine = ["--clips", "2", "--steps", "1", "--cores", "8", "--nodes", str(nodes)]
    assert plan.main(["hjepa_tiny", "--data.source", str(video_folder), *SMALL, *mine]) == 0
    said = capsys.readouterr().out
    for expected in (
        "h264 48x32",
        "clips/s of one CPU that decodes",
        "8, 7",
        "transcoding the source",
        "key frames only",
    ):
        assert expected in said
    assert said.rstrip().splitlines()[-1].startswith(("This machine keeps up", "Training would wait"))
    decoder = yaml.safe_load(nodes.read_text())["available_node_types"]["decoder"]
    assert decoder["resources"] == {"CPU": 16, "decode": 16}


def test_what_cannot_be_is_said_first(video_folder: Path) -> None:
    with pytest.raises(UserError, match="--clips must be at least 1, got 0"):
        plan.main(["hjepa_tiny", "--data.source", str(video_folder), "--clips", "0"])
    with pytest.raises(UserError, match="no GPU here"):
        plan.main(["hjepa_tiny", "--data.source", str(video_folder), *SMALL, "--train.device", "cuda"])
    with pytest.raises(SystemExit):  # a plan has no folder
        plan.main(["hjepa_tiny", "--data.source", str(video_folder), *SMALL, "--output", "somewhere"])


def test_the_help_shows_its_own_options_and_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        plan.main(["hjepa_tiny", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "--node-cpus" in said
    assert "--data.source" in said
