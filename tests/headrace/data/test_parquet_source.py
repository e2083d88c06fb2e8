"""Parquet files as a source: what is found in them, what is read of them, and what is said of those that are no use."""

from __future__ import annotations

import datetime
import io
import json
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_media import flat_image

from data_pipelines.index import index
from headrace.data import parquet, storage
from headrace.data.config import DataConfig
from headrace.data.failures import Truncated
from headrace.data.manifest import Manifest
from headrace.data.order import Order
from headrace.data.reader import BatchReader, Plan
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of
from headrace.errors import UserError
from jobs import index as index_job
from jobs import pack as pack_job
from jobs.sources import open_source

IMAGES = [flat_image(5 * level) for level in range(40)]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test with empty caches."""
    parquet._footer.cache_clear()
    monkeypatch.setattr(parquet, "_row_groups", parquet._RowGroups(parquet.CACHE_BYTES))


def hugging_face(images: Sequence[bytes | None] = IMAGES, **columns: Any) -> pa.Table:
    """Return a table as `datasets` writes it: structs of bytes and path, labels by number, features in the metadata."""
    rows = len(images)
    image = pa.array(
        [{"bytes": data, "path": f"photo {row}.PNG"} for row, data in enumerate(images)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "tags": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
    }
    table = pa.table({"image": image, "label": pa.array([row % 2 for row in range(rows)], pa.int64()), **columns})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(path: Path, table: pa.Table, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **{"row_group_size": 7, **how})
    return path


def indexed(source: Path, column: str = "") -> Manifest:
    return index(str(source), shards_of(str(source), column), column=column)


def read_all(manifest: Manifest) -> list[bytes]:
    contents = []
    for row in range(len(manifest)):
        with manifest.bytes_of(row).open() as file:
            contents.append(file.read())
    return contents


def errors(manifest: Manifest) -> dict[int, str]:
    """Return the reasons by row number, which a key ends with."""
    rows = manifest.table.filter(manifest.table["error"].is_valid()).select(["key", "error"]).to_pylist()
    return {int(Path(row["key"]).stem): row["error"] for row in rows}


@pytest.mark.parametrize(
    ("how", "found_as"),
    [
        ({"compression": "NONE"}, "stored"),
        ({"compression": "NONE", "use_dictionary": False, "data_page_version": "2.0"}, "stored"),
        ({"compression": "NONE", "use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY"}, "stored"),
        ({"compression": "NONE", "use_dictionary": False, "data_page_size": 200, "write_page_index": True}, "stored"),
        ({"compression": "snappy"}, "parquet"),
        ({"compression": "zstd", "use_dictionary": False}, "parquet"),
        ({"compression": "snappy", "row_group_size": 1}, "parquet"),
        ({"compression": "gzip", "row_group_size": 1000}, "parquet"),
    ],
)
def test_every_row_is_read_as_it_was_written(tmp_path: Path, how: dict[str, Any], found_as: str) -> None:
    repeated = [*IMAGES, IMAGES[3], IMAGES[0]]  # a dictionary holds these once
    if "column_encoding" in how:
        how = {**how, "column_encoding": {"image.bytes": how["column_encoding"]}}
    write(tmp_path / "data" / "train-00000-of-00001.parquet", hugging_face(repeated), **how)
    manifest = indexed(tmp_path)
    assert set(manifest.table["compression"].to_pylist()) == {found_as}
    contents = dict(zip(manifest.table["key"].to_pylist(), read_all(manifest), strict=True))
    keys = [f"data/train-00000-of-00001/{row:08d}.png" for row in range(42)]
    assert [contents[key] for key in keys] == repeated


def test_labels_are_names_and_other_scalars_are_metadata(tmp_path: Path) -> None:
    table = hugging_face(
        IMAGES[:3],
        caption=["a", None, "c"],
        score=[0.5, math.nan, math.inf],
        day=[datetime.date(2024, 2, 29)] * 3,
        tags=[["x"], [], None],
    ).set_column(1, "label", pa.array([1, -1, None], pa.int64()))
    manifest = indexed(write(tmp_path / "a.parquet", table))
    assert manifest.table["label"].to_pylist() == ["dog", None, None]
    assert manifest.classes == ("dog",)
    about = [json.loads(text) for text in manifest.table["metadata"].to_pylist()]
    assert about[0] == {"label": "dog", "caption": "a", "score": 0.5, "day": "2024-02-29", "path": "photo 0.PNG"}
    assert about[1]["score"] is None
    assert about[2]["score"] is None


def test_a_plain_column_of_videos_is_decoded_like_files(
    tmp_path: Path, video_folder: Path, clip_bytes: list[bytes]
) -> None:
    table = pa.table({"clip": pa.array(clip_bytes, pa.large_binary()), "label": ["a", "b"] * 4})
    data = DataConfig(height=32, width=48, sampling=SamplingConfig(frames=4))
    pixels = {}
    for name, source in {
        "files": video_folder,
        "stored": write(tmp_path / "stored" / "a.parquet", table, compression="NONE"),
        "packed": write(tmp_path / "packed" / "a.parquet", table, compression="zstd"),
    }.items():
        manifest = indexed(source).usable()
        plan = Plan(Order(8, 0, "none"), data, 8, training=False)
        pixels[name] = BatchReader(manifest, plan).read(0).pixels
    assert np.array_equal(pixels["stored"], pixels["files"])
    assert np.array_equal(pixels["packed"], pixels["files"])
    assert pixels["files"].any()


def test_among_several_columns_the_user_chooses_once(tmp_path: Path) -> None:
    other = [flat_image(200 + level) for level in range(4)]
    write(tmp_path / "a.parquet", pa.table({"left": IMAGES[:4], "right": other}))
    with pytest.raises(UserError, match=r"several columns of bytes.*--data.column.*left, right"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match="no column 'rigth' of bytes: did you mean 'right'"):
        open_source(str(tmp_path), "rigth")
    assert read_all(open_source(str(tmp_path), "right").manifest()) == other
    assert open_source(str(tmp_path)).known is not None, "what was indexed stays chosen"
    assert read_all(open_source(str(tmp_path)).manifest()) == other
    assert open_source(str(tmp_path), "left").known is None
    assert read_all(open_source(str(tmp_path), "left").manifest()) == IMAGES[:4]
    assert index_job.main([str(tmp_path), "--column", "right"]) == 0
    assert read_all(open_source(str(tmp_path)).manifest()) == other


def test_declared_images_come_before_other_bytes(tmp_path: Path) -> None:
    sound = pa.array([{"bytes": b"RIFF", "path": "a.wav"}] * 40)
    table = hugging_face(IMAGES, audio=sound, digest=[b"12"] * 40)
    assert read_all(indexed(write(tmp_path / "a.parquet", table, compression="zstd"))) == IMAGES


def test_tables_beside_media_are_not_samples(image_folder: Path) -> None:
    write(image_folder / "metadata.parquet", pa.table({"file_name": ["a"], "caption": ["b"]}))
    assert len(indexed(image_folder)) == 40
    with pytest.raises(UserError, match="no column 'image' of bytes"):
        shards_of(str(image_folder), "image")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            pa.table({"url": ["http://a"], "n": [1]}),
            "no column of images' or videos' bytes; it has url: string, n: int64",
        ),
        (pa.table({"images": [[b"a"]]}), r"it has images: list<"),
    ],
)
def test_a_table_without_media_is_refused(tmp_path: Path, table: pa.Table, says: str) -> None:
    write(tmp_path / "a.parquet", table)
    with pytest.raises(UserError, match=says):
        shards_of(str(tmp_path))


def test_rows_without_a_picture_say_why(tmp_path: Path) -> None:
    table = hugging_face([IMAGES[0], None, b"", b"no image at all", IMAGES[1]])
    image = table["image"].combine_chunks()
    rows = image.to_pylist()
    rows[4] = None  # the struct itself
    table = table.set_column(0, "image", pa.array(rows, image.type))
    manifest = indexed(write(tmp_path / "a.parquet", table))
    reasons = {1: "no bytes", 2: "no bytes", 3: "not a video or image", 4: "no bytes"}
    assert errors(manifest) == reasons
    assert "only the name 'photo 1.PNG'" in manifest.table["error_message"][1].as_py()
    assert read_all(manifest.usable()) == [IMAGES[0]]


def test_a_data_set_of_names_alone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    manifest = indexed(write(tmp_path / "a.parquet", hugging_face([None] * 5)))
    with pytest.raises(UserError, match="5 x no bytes"):
        manifest.usable()


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    whole = write(tmp_path / "b.parquet", hugging_face()).read_bytes()
    (tmp_path / "c.parquet").write_bytes(whole[: len(whole) // 2])
    manifest = indexed(tmp_path)
    assert manifest.errors() == {"truncated or damaged": 1}
    assert len(manifest.usable()) == 40
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"a.parquet' is named .parquet but is none"):
        shards_of(str(tmp_path))


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path / "a.parquet", hugging_face(), compression=compression)
    manifest = indexed(path)
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    damaged = bytearray(path.read_bytes())
    start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
    damaged[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(damaged)

    for row in range(14, 21):
        with pytest.raises(Truncated, match="no sound Parquet"):
            manifest.bytes_of(row).open()
    with manifest.bytes_of(13).open() as file:
        assert file.read() == IMAGES[13]
    again = indexed(path)
    assert errors(again) == dict.fromkeys(range(14, 21), "truncated or damaged")
    assert read_all(again.usable()) == IMAGES[:14] + IMAGES[21:]


def test_a_failure_of_the_storage_is_no_bad_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", hugging_face(), compression="snappy")
    manifest = indexed(path)

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError(104, "reset by peer")

    with manifest.bytes_of(0).open():
        pass  # the footer is known, so it is the row group that cannot be read
    opened = storage.open_file
    monkeypatch.setattr(storage, "open_file", lambda *_, **__: Broken(path.read_bytes()))
    with pytest.raises(ConnectionResetError):
        manifest.bytes_of(30).open()
    with pytest.raises(ConnectionResetError):
        indexed(path)
    monkeypatch.setattr(storage, "open_file", opened)
    with manifest.bytes_of(30).open() as file:
        assert file.read() == IMAGES[30], "a read that failed is not kept"


def test_a_file_that_changed_is_no_bad_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", hugging_face(), compression="snappy")
    manifest = indexed(path)
    write(path, hugging_face(IMAGES[:5]), compression="snappy")
    with pytest.raises(OSError, match="changed since it was indexed"):
        manifest.bytes_of(20).open()


def test_neighbours_cost_one_read_also_for_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = indexed(write(tmp_path / "a.parquet", hugging_face(), compression="snappy"))
    reads = counted_reads(monkeypatch)
    threads = [threading.Thread(target=lambda row=row: manifest.bytes_of(row).open()) for row in range(14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reads) == [0, 1]


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = [np.random.default_rng(n).bytes(20_000) for n in range(40)]
    path = write(tmp_path / "a.parquet", hugging_face(noise), compression="snappy")

    def read(row: int) -> bytes:
        with storage.ByteRange(str(path), row, 20_000, "parquet", "image.bytes").open() as file:
            return file.read()

    reads = counted_reads(monkeypatch)
    monkeypatch.setattr(parquet, "_row_groups", parquet._RowGroups(3 * 7 * 21_000))
    for row in [0, 7, 14, 0, 21, 1, 14, 8]:  # group 1 was not asked for the longest when group 3 came
        assert read(row) == noise[row]
    assert reads == [0, 1, 2, 3, 1]
    monkeypatch.setattr(parquet, "_row_groups", parquet._RowGroups(1))
    assert [read(8), read(9)] == noise[8:10], "one that is too large is kept all the same"
    assert reads[5:] == [1]


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of each row group that is read."""
    reads: list[int] = []
    read: Callable[..., Any] = parquet._read_values

    def counting(location: str, metadata: Any, leaf: str, group: int) -> Any:
        reads.append(group)
        return read(location, metadata, leaf, group)

    monkeypatch.setattr(parquet, "_read_values", counting)
    return reads


def test_a_full_shuffle_that_reads_too_much_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_folder: Path
) -> None:
    packed = indexed(write(tmp_path / "p" / "a.parquet", hugging_face(), row_group_size=10, compression="zstd"))
    assert parquet.bytes_read_for_each(packed) == 1.0, "all of it is kept in memory"
    monkeypatch.setattr(parquet, "CACHE_BYTES", 100)
    assert parquet.bytes_read_for_each(packed) == pytest.approx(10, rel=0.01)
    stored = indexed(write(tmp_path / "s" / "a.parquet", hugging_face(), row_group_size=10, compression="NONE"))
    assert parquet.bytes_read_for_each(stored) == 1.0
    assert parquet.bytes_read_for_each(indexed(image_folder)) == 1.0


def test_parquet_is_packed_into_tars_with_its_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "hf"
    write(source / "data" / "train-0.parquet", hugging_face([*IMAGES[:9], None], n=list(range(10))))
    assert pack_job.main([str(source), str(tmp_path / "out"), "--samples-per-shard", "4"]) == 0
    said = capsys.readouterr().out
    assert "1 rows are left out: no bytes" in said
    assert "9 samples in 3 shards" in said
    packed = indexed(tmp_path / "out")
    assert read_all(packed) == IMAGES[:9]
    assert packed.table["label"].to_pylist() == ["cat", "dog"] * 4 + ["cat"]
    assert json.loads(packed.table["metadata"][3].as_py())["n"] == 3
    with pytest.raises(UserError, match="--metadata is about a folder or a zip"):
        pack_job.main([str(source), str(tmp_path / "more"), "--metadata", "a.csv"])


def test_what_is_read_over_a_slow_line_is_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample: its row group's column, not the file, nor the other columns."""
    noise = [np.random.default_rng(n).bytes(20_000) for n in range(40)]
    path = write(tmp_path / "a.parquet", hugging_face(noise, big=[b.hex() for b in noise]), compression="snappy")
    location, read = str(path), 0

    class Counting(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal read
            data = super().read(-1 if size is None else size)
            read += len(data)
            return data

    def counting(location: str, **_: Any) -> BinaryIO:
        return Counting(location)  # type: ignore[return-value]

    where = storage.ByteRange(location, 8, 20_000, "parquet", "image.bytes")
    with where.open() as file:
        assert file.read() == noise[8]
    monkeypatch.setattr(storage, "open_file", counting)
    where = storage.ByteRange(location, 15, 20_000, "parquet", "image.bytes")
    with where.open() as file:
        assert file.read() == noise[15]
    assert 7 * 20_000 <= read < 8 * 20_000
