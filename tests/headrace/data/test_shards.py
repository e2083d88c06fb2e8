from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.data.media import media_kind
from headrace.data.shards import ShardWriter, check_key, write_shard
from headrace.errors import UserError

NAMES = st.text(st.characters(exclude_characters="/.\\", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9)
FOLDERS = st.text(st.characters(exclude_characters="/\\", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9)


def read(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None
    return file.read()


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:") as tar:
        return {info.name: read(tar, info) for info in tar}


def write_numbers(
    directory: Path, count: int, *, samples_per_shard: int = 1000, bytes_per_shard: int = 2**20
) -> list[Path]:
    with ShardWriter(directory, samples_per_shard=samples_per_shard, bytes_per_shard=bytes_per_shard) as writer:
        for number in range(count):
            writer.write(f"clip/{number:03d}", {"mp4": bytes([number]) * 100, "cls": b"1", "json": b"{}"})
    return writer.paths


def test_samples_come_back_in_order_and_shards_are_full(tmp_path: Path) -> None:
    paths = write_numbers(tmp_path, 7, samples_per_shard=3)
    assert [path.name for path in paths] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert [len(members_of(path)) for path in paths] == [9, 9, 3]
    names = [name for path in paths for name in members_of(path)]
    assert names == [f"clip/{n:03d}.{extension}" for n in range(7) for extension in ("cls", "json", "mp4")]
    assert members_of(paths[2])["clip/006.mp4"] == b"\6" * 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths]


def test_a_shard_closes_once_it_has_its_bytes(tmp_path: Path) -> None:
    assert len(write_numbers(tmp_path, 4, bytes_per_shard=103)) == 4
    assert len(write_numbers(tmp_path / "other", 4, bytes_per_shard=104)) == 2


def test_the_same_samples_give_the_same_bytes_whatever_the_order_of_members(tmp_path: Path) -> None:
    forward, backward = tmp_path / "a.tar", tmp_path / "b.tar"
    write_shard(forward, [("é" * 200 + "/x", {"mp4": b"1", "json": b"2"})])
    write_shard(backward, [("é" * 200 + "/x", {"json": b"2", "mp4": b"1"})])
    assert forward.read_bytes() == backward.read_bytes()
    with tarfile.open(forward) as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")


def test_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "s.tar"
    keys = ["plain", "v1.2/dir with dots/ü", "long/" + "x" * 300]
    write_shard(path, [(key, {"mp4": key.encode(), "seg.png": b"p", "json": b'{"a": 1}'}) for key in keys])
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == keys
    assert [sample["mp4"] for sample in samples] == [key.encode() for key in keys]
    assert {sample["seg.png"] for sample in samples} == {b"p"}


@settings(max_examples=150, deadline=None)
@given(st.lists(FOLDERS.filter(lambda name: name not in (".", "..")), max_size=2), NAMES)
def test_every_key_that_passes_is_split_where_webdataset_splits_it(folders: list[str], name: str) -> None:
    tariterators = pytest.importorskip("webdataset.tariterators")
    key = "/".join([*folders, name])
    check_key(key)
    assert tariterators.base_plus_ext(f"{key}.mp4") == (key, "mp4")


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", ".", "a.b", ".hidden", "a\\b", "a\nb", "a\udcff"],
)
def test_keys_that_would_be_misread_or_escape_are_refused(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path) as writer, pytest.raises(UserError):
        writer.write(key, {"mp4": b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extension", ["", ".mp4", "MP4", "a/b", "mp4.", "../x", "__key__"])
def test_extensions_that_would_be_misread_are_refused(tmp_path: Path, extension: str) -> None:
    with ShardWriter(tmp_path) as writer, pytest.raises(UserError, match="extension"):
        writer.write("key", {extension: b""})


def test_a_key_is_written_once_even_in_another_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, samples_per_shard=1) as writer:
        writer.write("a", {"mp4": b""})
        with pytest.raises(UserError, match="'a'"):
            writer.write("a", {"mp4": b""})


def test_an_exception_leaves_whole_shards_and_nothing_else(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, samples_per_shard=2) as writer:
            for number in range(3):
                writer.write(f"{number}", {"mp4": b"x"})
            assert not (tmp_path / "shard-000001.tar").exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000000.tar"]
    assert len(members_of(tmp_path / "shard-000000.tar")) == 2


def test_existing_shards_are_never_overwritten(tmp_path: Path) -> None:
    write_numbers(tmp_path, 1)
    before = (tmp_path / "shard-000000.tar").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write_numbers(tmp_path, 2)
    assert (tmp_path / "shard-000000.tar").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/b.MP4", "video"),
        ("mp4", "video"),
        ("x.tar.jpeg", "image"),
        ("mp4/readme", None),
        ("a.mp4/b", None),
    ],
)
def test_media_kind_goes_by_the_last_extension(name: str, kind: str | None) -> None:
    assert media_kind(name) == kind
