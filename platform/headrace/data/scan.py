"""Shard -> rows of the manifest. What a source holds is learnt here, once.

    source (folder, tar, zip, Parquet, file)  --shards_of-->  shards  --scan_shard-->  rows

A *shard* is a file that holds samples: a WebDataset tar, a zip, a Parquet file with a column of media, or a single
video or image, which is a shard of one sample. Members are found by reading headers only; each sample is then demuxed
once to count what is in it. Names in archives are never used as paths, and nothing in them is ever unpickled.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from headrace.data import storage
from headrace.data.decode.probe import probe
from headrace.data.failures import SampleError
from headrace.data.manifest import Row
from headrace.data.media import media_kind
from headrace.data.parquet_scan import SUFFIXES, NoMediaColumn, cells, check_table
from headrace.data.storage import ByteRange, Compression, StoredFile
from headrace.errors import UserError

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAX_METADATA_BYTES = 16 << 20


def shards_of(source: str, column: str = "") -> list[StoredFile]:
    """Return the shards of a source, sorted by path.

    Args:
        source: absolute location.
        column: of Parquet files, where the media are; "" for the only one that can be it.

    Raises:
        UserError: there is no such path, nothing in it can be a shard, or a shard is not what its name says.
    """
    files = storage.list_files(source)
    shards = [file for file in files if _is_shard(file.path)]
    for file in files:
        if file.path.lower().endswith(COMPRESSED_TARS):
            raise UserError(
                f"{file.path!r} is a compressed tar, in which no sample can be found without unpacking all before "
                f"it: unpack it to a plain .tar (videos and images gain nothing from it)"
            )
    shards = sorted(shards + _tables(source, files, column, required=not shards), key=lambda file: file.path)
    if not shards:
        raise UserError(
            f"{source!r} holds no .tar, no .zip, no video and no image, nor a .parquet ({len(files)} other files)"
        )
    for shard in shards:
        location = storage.join(source, shard.path)
        if shard.path.lower().endswith(".tar") and not _is_tar(location):
            raise UserError(f"{location!r} is named .tar but is no tar archive: remove it or write it again")
        if shard.path.lower().endswith(".zip") and not _is_zip(location):
            raise UserError(f"{location!r} is named .zip but is no zip archive: remove it or write it again")
    return shards


def scan_shard(source: str, shard: StoredFile, column: str = "") -> list[Row]:
    """Return the rows of one shard's samples; those that cannot be read say why in `error`.

    Args:
        source: absolute location.
        shard: one of `shards_of`.
        column: as there.

    Raises:
        OSError: the storage failed; that is not the samples' fault.
    """
    rows, seen = list[Row](), set[str]()
    for member in _members(source, shard, column):
        row = _row(shard, member)
        if row.key in seen:
            row = _failed(replace(row, key=f"{row.key}@{row.offset}"), "duplicate key", f"second {row.key!r}")
        seen.add(row.key)
        rows.append(row)
    return rows or [_failed(_empty_row(shard, shard.path), "empty shard", "it holds no video and no image")]


@dataclass(frozen=True)
class _Member:
    """A sample in a shard: its media bytes and what lies beside them."""

    key: str
    where: ByteRange
    label: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    reason: str = "bad metadata"
    data: bytes | None = None  # the bytes, where finding them read them


def _row(shard: StoredFile, member: _Member) -> Row:
    row = replace(
        _empty_row(shard, member.key),
        offset=member.where.offset,
        size=member.where.size,
        compression=member.where.compression,
        column=member.where.column,
        label=member.label,
        metadata=json.dumps(member.metadata, sort_keys=True) if member.metadata else None,
    )
    if member.problem:
        return _failed(row, member.reason, member.problem)
    try:
        with member.where.open() if member.data is None else io.BytesIO(member.data) as file:
            info = probe(file)
    except SampleError as error:
        return _failed(row, error.reason, str(error))
    return replace(
        row,
        kind=info.kind,
        codec=info.codec,
        width=info.width,
        height=info.height,
        frames=info.frames,
        seconds=info.seconds,
        key_frame_seconds=info.key_frame_seconds,
        video_index=None if info.index is None else info.index.to_bytes(),
    )


def _members(source: str, shard: StoredFile, column: str) -> Iterator[_Member]:
    location = storage.join(source, shard.path)
    name = shard.path.lower()
    if name.endswith(".tar"):
        with storage.open_file(location) as file:
            yield from _tar_members(file, location, shard.path[: -len(".tar")])
    elif name.endswith(".zip"):
        with storage.open_file(location) as file:
            yield from _zip_members(file, location)
    elif name.endswith(SUFFIXES):
        yield from _table_members(location, column, shard.path)
    else:
        yield _Member(shard.path, ByteRange(location, 0, shard.size))


def _tar_members(file: BinaryIO, location: str, prefix: str) -> Iterator[_Member]:
    """Group a WebDataset tar by key: `a/b.left.mp4` has key `a/b` and extension `left.mp4`."""
    key, group = "", dict[str, tarfile.TarInfo]()
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            if not info.isfile():
                continue
            folder, _, name = info.name.rpartition("/")
            stem, _, extension = name.partition(".")
            this = f"{folder}/{stem}" if folder else stem
            if this != key:
                yield from _tar_sample(file, location, f"{prefix}/{key}", group)
                key, group = this, {}
            group[extension.lower()] = info
    yield from _tar_sample(file, location, f"{prefix}/{key}", group)


def _tar_sample(file: BinaryIO, location: str, key: str, group: dict[str, tarfile.TarInfo]) -> Iterator[_Member]:
    media = [info for extension, info in group.items() if media_kind(f"x.{extension}")]
    if not media:
        return
    where = ByteRange(location, media[0].offset_data, media[0].size)
    metadata, label, problem = dict[str, Any](), None, None
    try:
        if "json" in group:
            metadata = json.loads(_read_member(file, group["json"]))
            if not isinstance(metadata, dict):
                raise ValueError(f"the sample's json holds a {type(metadata).__name__}, not an object")
            label = _label(metadata.get("label"))
        if "cls" in group:
            label = _read_member(file, group["cls"]).decode().strip()
    except ValueError as error:
        problem = str(error)
    yield _Member(key, where, label, metadata, problem)


def _read_member(file: BinaryIO, info: tarfile.TarInfo) -> bytes:
    if info.size > MAX_METADATA_BYTES:
        raise ValueError(f"{info.name!r} has {info.size:,} bytes; metadata may have {MAX_METADATA_BYTES:,}")
    here = file.tell()
    file.seek(info.offset_data)
    data = file.read(info.size)
    file.seek(here)
    return data


def _zip_members(file: BinaryIO, location: str) -> Iterator[_Member]:
    """List a zip's videos and images; the folder that holds one is its label only if a table says so."""
    compressions: dict[int, Compression] = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate"}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir() or not media_kind(info.filename):
                continue
            if info.compress_type not in compressions or info.flag_bits & 1:
                where = ByteRange(location, 0, 0)
                yield _Member(info.filename, where, problem="compressed or encrypted in a way that is not read")
                continue
            offset = info.header_offset + _zip_header_size(file, info.header_offset)
            compression = compressions[info.compress_type]
            yield _Member(info.filename, ByteRange(location, offset, info.compress_size, compression))


def _zip_header_size(file: BinaryIO, offset: int) -> int:
    """Return the size of the local header, which may differ from the one in the central directory."""
    file.seek(offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return 30 + int(name) + int(extra)


def _table_members(location: str, column: str, path: str) -> Iterator[_Member]:
    stem = path.rpartition(".")[0]
    try:
        for cell in cells(location, column):
            key, reason = f"{stem}/{cell.row:08d}.{cell.extension}", cell.reason or ""
            yield _Member(key, cell.where, cell.label, cell.metadata, cell.problem, reason, cell.data)
    except (SampleError, NoMediaColumn) as error:
        reason = error.reason if isinstance(error, SampleError) else "no column of media"
        yield _Member(path, ByteRange(location, 0, 0), problem=str(error), reason=reason)


def _tables(source: str, files: list[StoredFile], column: str, *, required: bool) -> list[StoredFile]:
    """Return the Parquet files that hold media. The first of a folder tells of its neighbours: to look into each would
    cost a request or two before anything starts. Beside other shards, and of other columns, they are only tables.
    """
    folders: dict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        if file.path.lower().endswith(SUFFIXES):
            folders[file.path.rpartition("/")[0]].append(file)
    if column and not folders:
        raise UserError(f"--data.column {column} is about Parquet files, of which {source!r} holds none")
    found, refused = list[StoredFile](), list[NoMediaColumn]()
    for tables in folders.values():
        try:
            check_table(storage.join(source, tables[0].path), column)
            found += tables
        except NoMediaColumn as error:
            refused.append(error)
    if refused and not found and (required or column):
        raise refused[0]
    return found


def _is_shard(path: str) -> bool:
    return path.lower().endswith((".tar", ".zip")) or media_kind(path) is not None


def _is_tar(location: str) -> bool:
    if storage.is_remote(location):
        return True  # a look at each remote shard would cost a request before anything starts
    with storage.open_file(location) as file:
        return tarfile.is_tarfile(file)


def _is_zip(location: str) -> bool:
    if storage.is_remote(location):
        return True
    with storage.open_file(location) as file:
        return zipfile.is_zipfile(file)


def _label(value: object) -> str | None:
    return None if value is None else str(value)


def _empty_row(shard: StoredFile, key: str) -> Row:
    return Row(key=key, shard=shard.path, shard_size=shard.size, shard_mtime_ns=shard.mtime_ns)


def _failed(row: Row, reason: str, message: str) -> Row:
    return replace(row, error=reason, error_message=message)
