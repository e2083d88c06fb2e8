from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import av
import numpy as np
import pytest
from small_media import flat_image, ramp_video

from headrace.data.decode.probe import probe
from headrace.errors import RunError, UserError
from jobs.index import main as index_main
from jobs.sources import open_source
from jobs.transcode import main

Samples = dict[str, dict[str, bytes]]
LARGE = 320


def write_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write members in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def samples_of(output: Path) -> Samples:
    samples: Samples = {}
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                folder, slash, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                file = tar.extractfile(info)
                assert file is not None
                samples.setdefault(folder + slash + stem, {})[extension] = file.read()
    return samples


def digests(output: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.glob("*.tar"))}


def transcode(*arguments: object) -> int:
    return main([str(argument) for argument in (*arguments, "--workers", 0)])


@pytest.fixture(scope="module")
def clips() -> list[bytes]:
    return [ramp_video(number, frames=12, height=LARGE, width=LARGE + 160) for number in range(4)]


@pytest.fixture
def shards(tmp_path: Path, clips: list[bytes]) -> Path:
    """Two tars: four videos, an image, a broken video, and much beside them."""
    root = tmp_path / "source"
    write_tar(
        root / "a.tar",
        {
            "street/0": {"mp4": clips[0], "json": b'{"gps":  [1, 2], "label": "bus"}', "txt": "ü".encode()},
            "street/1": {"cls": b"1", "mp4": clips[1], "jpg": flat_image(9, kind="JPEG")},
            "broken": {"mp4": clips[2][: len(clips[2]) // 2], "json": b"{}"},
            "picture": {"png": flat_image(50, size=600), "json": b'{"label": 7}'},
        },
    )
    write_tar(root / "b.tar", {"street/2": {"left.mp4": clips[2], "npy": b"\0\1"}, "x.y/3": {"mp4": clips[3]}})
    return root


def test_samples_stay_what_they_are_and_videos_become_small(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert transcode(shards, out, "--short-side", 128, "--gop", 4, "--measure-clips", 2, "--measure-size", 64) == 0
    before, after = samples_of(shards), samples_of(out)
    assert list(after) == ["street/0", "street/1", "picture", "street/2", "x.y/3"]
    assert after["picture"] == before["picture"]
    assert after["street/0"] == before["street/0"] | {"mp4": after["street/0"]["mp4"]}
    assert after["street/2"].keys() == {"left.mp4", "npy"}
    assert after["street/1"].keys() == {"cls", "0.mp4", "jpg"}, "the video stays its first medium"
    info = probe(io.BytesIO(after["street/0"]["mp4"]))
    assert (info.codec, info.height, info.width, info.frames, info.seconds) == ("h264", 128, 192, 12, 1.0)
    assert len(info.key_frame_seconds) == 3
    with av.open(io.BytesIO(after["x.y/3"]["mp4"])) as container:
        levels = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert levels == pytest.approx(40 + 8 * 3 + 4 * np.arange(12), abs=3)

    said = capsys.readouterr().out
    assert "1 sample left out:\n  a/broken: truncated or damaged (" in said
    assert "5 samples in 1 shard" in said
    assert "measured on 2 clips, 8 frames each at 64 x 64" in said
    rows = [line.split() for line in said.splitlines()]
    assert [row[0] for row in rows if row[:1] in (["size"], ["decoding"])] == ["size", "decoding"]


def test_the_manifest_of_the_output_tells_the_same(shards: Path, tmp_path: Path) -> None:
    transcode(shards, tmp_path / "out", "--short-side", 64)
    index_main([str(tmp_path / "out")])
    known = [open_source(str(path)).known for path in (shards, tmp_path / "out")]
    tables = []
    for manifest in known:
        assert manifest is not None
        rows = manifest.usable().table.select(["key", "kind", "frames", "seconds", "label", "metadata"]).to_pylist()
        tables.append([{**row, "key": row["key"].partition("/")[2]} for row in rows])
    assert tables[0] == tables[1]


def test_a_folder_of_videos_becomes_shards(video_folder: Path, tmp_path: Path) -> None:
    (video_folder / "clip0.mp4").rename(video_folder / "my.clip.MP4")
    transcode(video_folder, tmp_path / "out", "--codec", "mjpeg", "--fps", 6, "--measure-clips", 0)
    after = samples_of(tmp_path / "out")
    assert sorted(after) == [*(f"clip{number}" for number in range(1, 8)), "my_clip"]
    assert json.loads(after["my_clip"]["json"]) == {"path": "my.clip.MP4"}
    info = probe(io.BytesIO(after["my_clip"]["mp4"]))
    assert (info.codec, info.frames) == ("mjpeg", 12)


def test_shards_are_full_at_samples_or_bytes_of_the_output(shards: Path, tmp_path: Path) -> None:
    transcode(shards, tmp_path / "out", "--samples-per-shard", 2, "--measure-clips", 0)
    assert list(digests(tmp_path / "out")) == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert list(samples_of(tmp_path / "out")) == ["street/0", "street/1", "picture", "street/2", "x.y/3"]


def test_a_trial_takes_some_and_the_same_again(shards: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        transcode(shards, tmp_path / name, "--limit", 2, "--short-side", 64, "--measure-clips", 1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(samples_of(tmp_path / "a")) == 2


def test_a_source_with_nothing_to_save_ends_the_run(tmp_path: Path, clips: list[bytes]) -> None:
    write_tar(tmp_path / "broken" / "s.tar", {"0": {"mp4": clips[0][:2000]}})
    with pytest.raises(UserError, match="no sample of"):
        transcode(tmp_path / "broken", tmp_path / "out")
    write_tar(tmp_path / "slow" / "s.tar", {"0": {"mp4": clips[0]}})
    with pytest.raises(RunError, match=r"not one of 1 samples.*'s/0': too slow"):
        transcode(tmp_path / "slow", tmp_path / "out", "--minutes-per-sample", 1e-9)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_storage_error_leaves_what_was_there(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    transcode(shards, out, "--limit", 1, "--measure-clips", 0)
    before = digests(out)
    tar = shards / "b.tar"
    times = tar.stat().st_mtime_ns
    data = tar.read_bytes()
    tar.write_bytes(data[:1024] + bytes(len(data) - 1024))  # the same size and date, but no longer what was indexed
    os.utime(tar, ns=(times, times))
    with pytest.raises(RunError, match=r"'b/.*cannot be transcoded.*it changed"):
        transcode(shards, out, "--overwrite")
    assert digests(out) == before
    assert [path.name for path in out.iterdir()] == list(before)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["source", "source"], "is the source itself"),
        (["source", "source/out"], "one lies in the other"),
        (["source/a.tar", "."], "one lies in the other"),
        (["nowhere", "out"], "no file or folder"),
        (["source", "full"], "--overwrite"),
        (["source", "out", "--codec", "h246"], "did you mean 'h264'"),
        (["source", "out", "--short-side", "255"], "even number"),
        (["source", "out", "--codec", "mjpeg", "--gop", "8"], "about h264"),
        (["source", "out", "--quality", "99"], "between 0 and 51"),
        (["source", "out", "--workers", "-1"], "--workers"),
        (["source", "out", "--samples-per-shard", "0"], "--samples-per-shard must be positive"),
        (["source", "out", "--megabytes-per-shard", "-1"], "--megabytes-per-shard must be positive"),
        (["source", "out", "--minutes-per-sample", "nan"], "--minutes-per-sample must be positive"),
        (["source", "out", "--limit", "0"], "--limit must be positive"),
        (["source", "out", "--measure-clips", "-1"], "--measure-clips"),
        (["source", "out", "--measure-frames", "0"], "--measure-frames"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_read(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "shard-000000.tar").write_bytes(b"")
    with pytest.raises(UserError, match=sentence):
        main(arguments)
    assert not (tmp_path / "out").exists()
    assert not (shards / ".headrace").exists(), "nothing was indexed"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_writes_the_same_shards_and_fails_with_the_same_sentence(shards: Path, tmp_path: Path) -> None:
    from data_pipelines.transcode import Outcome, Work
    from data_pipelines.transcode import transcode as run
    from headrace.data.decode.limits import Limits
    from headrace.data.members import plan_items
    from headrace.data.transcode import Encoding
    from headrace.data.transcode_sample import Measure

    write_tar(shards / "c.tar", {f"{number:02}": {"png": flat_image(number)} for number in range(20)})
    items = plan_items(open_source(str(shards)).manifest())
    work = Work(Encoding(short_side=64), Limits(), Measure(2, 32), frozenset({0, 3}))
    told: list[tuple[int, int]] = []
    outcomes: list[Outcome] = []
    for workers, name in ((2, "ray"), (0, "here")):
        outcomes.append(
            run(
                items,
                tmp_path / name,
                work,
                samples_per_shard=3,
                bytes_per_shard=1 << 20,
                workers=workers,
                overwrite=False,
                on_progress=lambda done, total: told.append((done, total)),
            )
        )
    assert digests(tmp_path / "ray") == digests(tmp_path / "here")
    assert [len(outcome.comparisons) for outcome in outcomes] == [2, 2]
    assert outcomes[0].bytes_after == outcomes[1].bytes_after
    assert told == [(done, len(items)) for done in range(len(items) + 1)] * 2

    (shards / "c.tar").unlink()
    with pytest.raises(RunError, match=r"c/00.*cannot be transcoded"):
        run(
            items,
            tmp_path / "gone",
            work,
            samples_per_shard=3,
            bytes_per_shard=1 << 20,
            workers=2,
            overwrite=False,
            on_progress=lambda *_: None,
        )
    assert list((tmp_path / "gone").iterdir()) == []
