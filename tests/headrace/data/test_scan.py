from __future__ import annotations

import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.index import index
from headrace.data.manifest import Manifest
from headrace.data.scan import scan_shard, shards_of
from headrace.data.shards import ShardWriter
from headrace.data.source import locate, open_manifest
from headrace.errors import UserError


def indexed(source: Path) -> Manifest:
    return index(str(source), shards_of(str(source)), Manifest.load(str(source)))


def tar_of(folder: Path, clip_bytes: list[bytes]) -> Path:
    with ShardWriter(folder, samples_per_shard=3) as writer:
        for number, data in enumerate(clip_bytes[:5]):
            members = {"mp4": data, "json": json.dumps({"label": number % 2, "gps": [1.5, 2]}).encode()}
            writer.write(f"road/{number:04d}", members)
    return folder


def test_a_folder_of_videos(video_folder: Path) -> None:
    (video_folder / "notes.txt").write_text("not a sample")
    manifest = indexed(video_folder)
    assert len(manifest) == 8
    row = manifest.table.slice(0, 1).to_pylist()[0]
    assert (row["kind"], row["codec"], row["width"], row["height"], row["frames"]) == (
        "video",
        "h264",
        48,
        32,
        24,
    )
    assert row["seconds"] == pytest.approx(2.0)
    assert row["key_frame_seconds"][0] == 0
    assert len(row["key_frame_seconds"]) >= 3, "a key frame every eight frames at the latest"
    assert manifest.key(0) == "clip0.mp4"
    with manifest.bytes_of(0).open() as file:
        assert file.read() == (video_folder / "clip0.mp4").read_bytes()


def test_tars_of_samples(tmp_path: Path, clip_bytes: list[bytes]) -> None:
    manifest = indexed(tar_of(tmp_path / "shards", clip_bytes))
    assert [manifest.key(row) for row in range(5)] == [
        *(f"shard-000000/road/{number:04d}" for number in range(3)),
        *(f"shard-000001/road/{number:04d}" for number in (3, 4)),
    ]
    assert manifest.labels.tolist() == [0, 1, 0, 1, 0]
    assert json.loads(manifest.table["metadata"][0].as_py())["gps"] == [1.5, 2]
    for row in range(5):
        with manifest.bytes_of(row).open() as file:
            assert file.read() == clip_bytes[row]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_images(tmp_path: Path, image_folder: Path, compression: int) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for image in sorted(image_folder.rglob("*.png")):
            archive.write(image, image.relative_to(image_folder))
    manifest = indexed(path)
    assert len(manifest) == 40
    assert set(manifest.table["kind"].to_pylist()) == {"image"}
    for row in (0, 39):
        with manifest.bytes_of(row).open() as file:
            original = image_folder / manifest.key(row)
            assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(original)))


def test_a_single_file(video_folder: Path) -> None:
    manifest = indexed(video_folder / "clip3.mp4")
    assert [manifest.key(0)] == ["clip3.mp4"]
    with manifest.bytes_of(0).open() as file:
        assert len(file.read()) == (video_folder / "clip3.mp4").stat().st_size


def test_broken_samples_are_kept_with_their_reason(video_folder: Path) -> None:
    (video_folder / "broken.mp4").write_bytes(b"no video at all" * 100)
    (video_folder / "empty.mp4").write_bytes(b"")
    manifest = indexed(video_folder)
    assert len(manifest) == 10
    assert sum(manifest.errors().values()) == 2
    assert len(manifest.usable()) == 8
    assert "broken.mp4" not in {manifest.usable().key(row) for row in range(8)}


def test_bad_metadata_and_repeated_keys_are_errors_of_the_sample(tmp_path: Path, clip_bytes: list[bytes]) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, data in [
            ("x.mp4", clip_bytes[0]),
            ("x.json", b"{not json"),
            ("y.mp4", clip_bytes[1]),
            ("z.txt", b"no media"),
            ("y.mp4", clip_bytes[2]),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            import io

            tar.addfile(info, io.BytesIO(data))
    manifest = indexed(folder)
    assert manifest.errors() == {"bad metadata": 1, "duplicate key": 1}
    assert len(manifest.usable()) == 1


def test_a_second_run_reads_only_what_changed(video_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = indexed(video_folder)
    read: list[str] = []

    def spy(source: str, shard: object, column: str) -> object:
        read.append(shard.path)  # type: ignore[attr-defined]
        return scan_shard(source, shard, column)  # type: ignore[arg-type]

    monkeypatch.setattr("data_pipelines.index.scan_shard", spy)
    assert indexed(video_folder).table.equals(first.table)
    assert read == []
    (video_folder / "clip2.mp4").unlink()
    (video_folder / "clip5.mp4").write_bytes((video_folder / "clip6.mp4").read_bytes())
    (video_folder / "new.mp4").write_bytes((video_folder / "clip0.mp4").read_bytes())
    manifest = indexed(video_folder)
    assert sorted(read) == ["clip5.mp4", "new.mp4"]
    assert len(manifest) == 8
    assert manifest.digest != first.digest


def test_the_manifest_is_the_same_whatever_came_first(video_folder: Path) -> None:
    whole = indexed(video_folder)
    assert [whole.key(row) for row in range(8)] == sorted(whole.key(row) for row in range(8))
    loaded = Manifest.load(str(video_folder))
    assert loaded is not None
    assert loaded.table.equals(whole.table)
    assert loaded.digest == whole.digest


def test_a_read_only_source_is_indexed_in_the_cache(video_folder: Path) -> None:
    video_folder.chmod(0o555)
    indexed(video_folder)
    assert not (video_folder / ".headrace").exists()
    loaded = Manifest.load(str(video_folder))
    assert loaded is not None
    assert len(loaded) == 8


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda _: None, "holds no .tar"),
        (lambda folder: (folder / "readme.txt").write_text("x"), "1 other files"),
        (lambda folder: (folder / "a.tar").write_text("x" * 2000), "is no tar archive"),
        (lambda folder: (folder / "a.zip").write_text("x" * 2000), "is no zip archive"),
        (lambda folder: (folder / "a.tar.gz").write_bytes(b"x"), "compressed tar"),
    ],
)
def test_what_cannot_be_a_source_is_one_sentence(tmp_path: Path, make: object, sentence: str) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=sentence):
        shards_of(locate(str(tmp_path)))


def test_no_such_path() -> None:
    with pytest.raises(UserError, match="no file or folder at 'nowhere/at/all'"):
        locate("nowhere/at/all")


def test_a_manifest_that_no_longer_fits_is_refused(video_folder: Path) -> None:
    indexed(video_folder)
    assert open_manifest(str(video_folder), shards_of(str(video_folder))) is not None
    os.utime(video_folder / "clip1.mp4", ns=(0, 0))
    with pytest.raises(UserError, match=r"clip1.mp4.*changed since it was indexed.*jobs/index.py"):
        open_manifest(str(video_folder), shards_of(str(video_folder)))
    (video_folder / "clip1.mp4").unlink()
    with pytest.raises(UserError, match=r"clip1.mp4.*gone"):
        open_manifest(str(video_folder), shards_of(str(video_folder)))


def test_names_in_archives_are_never_paths(tmp_path: Path, clip_bytes: list[bytes]) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        info = tarfile.TarInfo("../../../etc/evil.mp4")
        info.size = len(clip_bytes[0])
        import io

        tar.addfile(info, io.BytesIO(clip_bytes[0]))
    manifest = indexed(folder)
    assert manifest.bytes_of(0).location == str(folder / "a.tar")
    assert not list(tmp_path.rglob("evil*"))
