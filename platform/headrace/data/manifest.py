"""The manifest: one row per sample, written once by `jobs/index.py`. Rows are shuffled, pixels never.

It lies beside the shards as `.headrace/manifest.parquet`, or in the user's cache where the source cannot be
written to. Samples that cannot be read keep their row, with the reason, so that a second run does not try them
again; `usable` leaves them out, and those that somebody excluded (`exclusions`). Rows are sorted by shard and offset:
the same source gives the same rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headrace.data import storage
from headrace.data.decode.index import VideoIndex
from headrace.data.exclusions import Exclusions
from headrace.data.storage import ByteRange, Compression, StoredFile
from headrace.errors import UserError

_FORMAT = "2"  # what the columns mean; a manifest of another format is made again
SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # unique within the source
        ("shard", pa.string()),  # path below the source
        ("shard_size", pa.int64()),  # these two tell whether the shard changed
        ("shard_mtime_ns", pa.int64()),
        ("offset", pa.int64()),  # the sample's bytes in the shard; where "parquet" packs them, its row in the table
        ("size", pa.int64()),
        ("compression", pa.string()),  # "stored", "deflate" or "parquet"
        ("column", pa.string()),  # of a table that is the shard, where the media are; else null
        ("kind", pa.string()),  # "video" or "image"
        ("codec", pa.string()),
        ("width", pa.int32()),  # pixels, upright
        ("height", pa.int32()),
        ("frames", pa.int64()),
        ("seconds", pa.float64()),
        ("key_frame_seconds", pa.list_(pa.float64())),
        ("video_index", pa.large_binary()),  # where each frame's data lie: a packed `VideoIndex`, or null
        ("label", pa.string()),  # class name or number, null where there is none
        ("metadata", pa.string()),  # all that the user knows of the sample, as a JSON object
        ("error", pa.string()),  # null, or why the sample cannot be used, in a few stable words
        ("error_message", pa.string()),
    ]
)


@dataclass(frozen=True)
class Row:
    """One row of the manifest, with the defaults of a row that only says that something is wrong."""

    key: str
    shard: str
    shard_size: int
    shard_mtime_ns: int
    offset: int = 0
    size: int = 0
    compression: Compression = "stored"
    column: str | None = None
    kind: str | None = None
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    seconds: float | None = None
    key_frame_seconds: tuple[float, ...] = ()
    video_index: bytes | None = None
    label: str | None = None
    metadata: str | None = None
    error: str | None = None
    error_message: str | None = None


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Return the rows as an Arrow table of the manifest's schema."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)


@dataclass(frozen=True)
class Manifest:
    """The samples of a source, or of several (`mixture.mix`). Immutable; pickles and maps cheaply.

    Attributes:
        source: the location of the shards, absolute or a URI; of several sources what the user wrote.
        table: Arrow table of `SCHEMA`, sorted by shard and offset. For a run it can have two columns more: `source`,
            a dictionary of locations, source by source, and `weight`.
        known_classes: what its labels count, where these are not the labels that occur in it.
    """

    source: str
    table: pa.Table
    known_classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def usable(self) -> Manifest:
        """Return the manifest of the samples that can be read and are not excluded.

        Raises:
            UserError: there is none.
        """
        table = self.table.filter(pc.is_null(self.table["error"]))
        excluded = pa.array(list(self.exclusions().read()), pa.string())
        table = table.filter(pc.invert(pc.is_in(table["key"], excluded)))
        if not table.num_rows:
            found = self.errors() + Counter({"excluded": len(excluded)})
            reasons = "; ".join(f"{count} x {reason}" for reason, count in found.most_common(3))
            raise UserError(f"no sample of {self.source!r} can be read ({reasons or 'it holds none'})")
        return replace(self, table=table.combine_chunks())

    def rows(self, rows: NDArray[np.integer]) -> Manifest:
        """Return the manifest of these rows, in the order given."""
        return replace(self, table=self.table.take(pa.array(rows)).combine_chunks())

    def where(self, wanted: NDArray[np.bool_]) -> Manifest:
        """Return the manifest of the rows that are wanted [rows], in their order."""
        return replace(self, table=self.table.filter(pa.array(wanted)).combine_chunks())

    def take(self, most: int) -> Manifest:
        """Return the first rows, `most` at most."""
        return replace(self, table=self.table.slice(0, most))

    def of_classes(self, classes: tuple[str, ...]) -> Manifest:
        """Return the manifest whose labels count these classes."""
        return replace(self, known_classes=classes)

    def exclusions(self) -> Exclusions:
        """Return what somebody took out of the source."""
        return Exclusions(_places(self.source))

    def count_of(self, keys: Iterable[str]) -> int:
        """Count the samples that have one of these keys."""
        return int(pc.sum(pc.is_in(self.table["key"], pa.array(list(keys), pa.string()))).as_py() or 0)

    def errors(self) -> Counter[str]:
        """Count the samples that cannot be read, by reason."""
        return Counter(self.table["error"].drop_null().to_pylist())

    def bytes_of(self, row: int) -> ByteRange:
        """Return where the bytes of the sample in this row lie."""
        location = storage.join(self._source_of(row), self._value("shard", row))
        fields = ("offset", "size", "compression", "column")
        return ByteRange(location, *(self._value(field, row) for field in fields))

    def key_frame_seconds(self, row: int) -> NDArray[np.float64]:
        """Return when the frames at which decoding may begin are shown, ascending; 0 for an image."""
        return np.array(self._value("key_frame_seconds", row) or [0.0])

    def video_index(self, row: int) -> VideoIndex | None:
        """Return where each frame's data lie in the sample in this row, None where only the file can tell."""
        packed = self._value("video_index", row)
        return None if packed is None else VideoIndex.from_bytes(packed)

    def key(self, row: int) -> str:
        return str(self._value("key", row))

    def shard(self, row: int) -> str:
        """Return the path of the shard below its source; of one of several sources the whole location."""
        shard = str(self._value("shard", row))
        return storage.join(self._source_of(row), shard) if "source" in self.table.column_names else shard

    @cached_property
    def source_sizes(self) -> tuple[int, ...]:
        """Return how many samples each source has, in the order of their rows."""
        if "source" not in self.table.column_names:
            return (len(self),)
        chunks = self.table["source"].chunks
        counts = [np.bincount(chunk.indices, minlength=len(chunk.dictionary)) for chunk in chunks]
        return tuple(np.sum(counts, axis=0).tolist())

    @cached_property
    def weights(self) -> NDArray[np.float64] | None:
        """Return each sample's weight [rows], None where the run has none."""
        return self.table["weight"].to_numpy() if "weight" in self.table.column_names else None

    def with_weights(self, weights: NDArray[np.float64]) -> Manifest:
        """Return the manifest with these weights [rows]."""
        return replace(self, table=self.table.append_column("weight", pa.array(weights, pa.float64())))

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Return the length of each sample [rows]; 0 for images."""
        seconds: NDArray[np.float64] = self.table["seconds"].to_numpy()
        return seconds

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return what the labels count: if nobody said otherwise, those that occur."""
        return classes_of(self) if self.known_classes is None else self.known_classes

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Return each sample's class as an index into `classes` [rows], -1 where there is none."""
        index = pc.index_in(self.table["label"], pa.array(self.classes, pa.string()))
        labels: NDArray[np.int64] = pc.fill_null(index, -1).to_numpy().astype(np.int64)
        return labels

    @cached_property
    def digest(self) -> str:
        """Return what identifies the samples and their order: a resumed run must find it unchanged."""
        digest = hashlib.sha256()
        for name in ("key", "shard", "offset", "size"):
            column = self.table[name].combine_chunks().dictionary_encode()
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                digest.update("\n".join(map(str, chunk.dictionary.to_pylist())).encode())
                digest.update(chunk.indices.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
        if len(self.source_sizes) > 1:
            digest.update(repr(self.source_sizes).encode())
        if self.weights is not None:
            digest.update(self.weights.tobytes())
        return digest.hexdigest()[:16]

    def shards(self) -> dict[str, StoredFile]:
        """Return the shards as they were when they were indexed, by path."""
        columns = (
            self.table.select(["shard", "shard_size", "shard_mtime_ns"])
            .group_by("shard")
            .aggregate([("shard_size", "max"), ("shard_mtime_ns", "max")])
        )
        rows = zip(*(columns[name].to_pylist() for name in columns.column_names), strict=True)
        return {path: StoredFile(path, size, mtime) for path, size, mtime in rows}

    def check_fits(self, files: Mapping[str, StoredFile]) -> None:
        """Check that the shards are those that were indexed.

        Raises:
            UserError: one is gone or changed; says which, and what to do.
        """
        remedy = f"run `python jobs/index.py {self.source}` again"
        for path, indexed in self.shards().items():
            if path not in files:
                raise UserError(f"the manifest of {self.source!r} names {path!r}, which is gone: {remedy}")
            if files[path] != indexed:
                now = files[path].size
                how = f"{indexed.size:,} bytes then, {now:,} now" if now != indexed.size else "written again since"
                raise UserError(f"{path!r} in {self.source!r} changed since it was indexed ({how}): {remedy}")

    def save(self) -> Path:
        """Write the manifest where `load` finds it, atomically, and return its path."""
        last: OSError | None = None
        for path in _places(self.source):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(f".{os.getpid()}.partial")
                about = {b"headrace.source": json.dumps(self.source), b"headrace.format": _FORMAT}
                pq.write_table(self.table.replace_schema_metadata(about), partial, compression="zstd")
                partial.replace(path)
                return path
            except OSError as error:
                last = error
        raise UserError(f"cannot write the manifest of {self.source!r}: {last}")

    @classmethod
    def load(cls, source: str) -> Manifest | None:
        """Return the source's manifest, or None where it was never indexed, or by another version of this."""
        for path in _places(source):
            if path.is_file():
                about = pq.read_schema(path).metadata or {}
                if about.get(b"headrace.format", b"").decode() != _FORMAT:
                    return None
                return cls(source, pq.read_table(path, schema=SCHEMA).combine_chunks())
        return None

    def _source_of(self, row: int) -> str:
        return str(self._value("source", row)) if "source" in self.table.column_names else self.source

    def _value(self, column: str, row: int) -> Any:
        return self.table[column][row].as_py()


def classes_of(*manifests: Manifest) -> tuple[str, ...]:
    """Return the labels that occur in any of them: numbers in numeric order, then names alphabetically."""
    names = {name for manifest in manifests for name in pc.unique(manifest.table["label"]).drop_null().to_pylist()}
    return tuple(sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)))


def _places(source: str) -> list[Path]:
    """Return where a source's manifest may lie, the preferred place first."""
    cache_root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    cache = cache_root / "headrace" / "manifests" / name / "manifest.parquet"
    if storage.is_remote(source):
        return [cache]
    path = Path(source)
    beside = (
        path.parent / ".headrace" / f"{path.name}.parquet" if path.is_file() else path / ".headrace/manifest.parquet"
    )
    home = beside.parent.parent
    nobodys = home.is_dir() and not home.stat().st_mode & 0o222  # read-only, and root shall respect it
    return [cache] if nobodys else [beside, cache]
