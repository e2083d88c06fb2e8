"""The samples of an indexed source with all that stands beside their media, to be written into other shards.

    manifest  --plan_items-->  items  --members_of-->  {"mp4": bytes in a shard, "json": ..., "txt": ...}

The manifest knows where the media lie. What else belongs to a sample of a tar is found by reading the few headers
around its media, so an item can be read by anyone, anywhere, without going through the whole shard:

    ... | 0006.mp4 | 0006.txt | 0007.json | 0007.mp4 | 0007.txt | 0008.json | ...
                   ^ the item of 0007 is looked for from here   ^ to here
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.data import storage
from headrace.data.manifest import Manifest
from headrace.data.media import media_kind
from headrace.data.shards import check_key
from headrace.data.storage import ByteRange
from headrace.errors import UserError

_TAR_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Item:
    """One sample of a source.

    Attributes:
        key: under which it is to be written, unique among the items.
        source_key: its key in the manifest.
        kind: "video" or "image".
        media: where its medium lies.
        extension: of its medium, e.g. "mp4"; empty in a tar, where its header says it.
        search_from: in a tar, the first header that may be of this sample.
        metadata: outside of a tar, the json to write beside it.
    """

    key: str
    source_key: str
    kind: str
    media: ByteRange
    extension: str = ""
    search_from: int = 0
    metadata: str | None = None


@dataclass(frozen=True)
class Members:
    """What a sample is made of: its medium's extension, and where the bytes of all else lie, or those bytes."""

    extension: str
    beside: dict[str, ByteRange | bytes]


def plan_items(manifest: Manifest) -> list[Item]:
    """Return the samples that can be read and are not excluded, in the manifest's order.

    A sample of a tar keeps its key in the tar. Another's key is its path without the extension, the dots of its base
    name turned into underscores. Samples that would share a key get the name of their shard, or their extension,
    into it.

    Raises:
        UserError: a key cannot be written into a shard, or two samples would share one even so.
    """
    columns = ["key", "shard", "offset", "size", "compression", "column", "kind", "label", "metadata", "error"]
    rows = manifest.table.select(columns).to_pylist()
    starts = _search_starts(rows)
    excluded = manifest.exclusions().read()
    usable = [n for n, row in enumerate(rows) if row["error"] is None and row["key"] not in excluded]
    keys = _distinct([_keys(rows[number]) for number in usable])
    return [_item(manifest, rows[number], key, starts[number]) for number, key in zip(usable, keys, strict=True)]


def members_of(item: Item) -> Members:
    """Find what belongs to a sample.

    Raises:
        OSError: the storage failed, or its shard changed since it was indexed.
    """
    if item.extension:
        return Members(item.extension, {} if item.metadata is None else {"json": item.metadata.encode()})
    group = _tar_group(item)
    (extension,) = (name for name, where in group.items() if where == item.media)
    return Members(extension, {name: where for name, where in group.items() if name != extension})


def place_of(extension: str, suffix: str, beside: Sequence[str]) -> str:
    """Return the extension for a medium of another format, so that it stays the sample's first medium.

    The members of a sample are written in the order of their extensions, and its first video or image is the sample.

    >>> place_of("left.mkv", "mp4", ["right.mp4", "json"]), place_of("mkv", "mp4", ["jpg"])
    ('left.mp4', '0.mp4')
    """
    stem = extension.rpartition(".")[0]
    name = f"{stem}.{suffix}" if stem else suffix
    return f"0.{name}" if any(media_kind(other) and other <= name for other in beside) else name


def _item(manifest: Manifest, row: dict[str, Any], key: str, start: int) -> Item:
    location = storage.join(manifest.source, row["shard"])
    media = ByteRange(location, row["offset"], row["size"], row["compression"], row["column"])
    if _is_tar(row):
        return Item(key, row["key"], row["kind"], media, search_from=start)
    about = {"path": row["key"], **json.loads(row["metadata"] or "{}")}
    if row["label"] is not None:
        about["label"] = row["label"]
    extension = row["key"].rpartition(".")[2].lower()
    return Item(key, row["key"], row["kind"], media, extension, metadata=json.dumps(about, ensure_ascii=False))


def _is_tar(row: dict[str, Any]) -> bool:
    return str(row["shard"]).lower().endswith(".tar")


def _search_starts(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Return, for each row, the first byte of its shard behind the medium of the row before."""
    starts, shard, end = [], None, 0
    for row in rows:
        if row["shard"] != shard:
            shard, end = row["shard"], 0
        starts.append(end)
        end = -(-(row["offset"] + row["size"]) // _TAR_BLOCK_BYTES) * _TAR_BLOCK_BYTES
    return starts


def _keys(row: dict[str, Any]) -> tuple[str, str]:
    """Return the key that a sample should have, and a longer one for the case that another has it too."""
    shard, key = str(row["shard"]), str(row["key"])
    shard_stem = shard.rpartition(".")[0]
    if _is_tar(row):
        inside = key.removeprefix(f"{shard_stem}/").lstrip("/").removeprefix("./")
        return inside, f"{shard_stem}/{inside}"
    folder, slash, name = key.replace("\\", "/").lstrip("/").rpartition("/")
    stem, _, extension = name.rpartition(".")
    plain = f"{folder}{slash}{stem.replace('.', '_')}"
    longer = f"{plain}-{extension.lower()}"
    return plain, f"{shard_stem}/{longer}" if shard.lower().endswith(".zip") else longer


def _distinct(choices: Sequence[tuple[str, str]]) -> list[str]:
    wanted = Counter(plain for plain, _ in choices)
    keys = [plain if wanted[plain] == 1 else longer for plain, longer in choices]
    for key, count in Counter(keys).items():
        check_key(key)
        if count > 1:
            raise UserError(f"{count} samples would have the key {key!r}; rename all but one of them")
    return keys


def _tar_group(item: Item) -> dict[str, ByteRange]:
    """Return the extensions and places of the members of the tar that share the key of the item's medium."""
    location = item.media.location
    with storage.open_file(location) as file:
        file.seek(item.search_from)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            key, group = "", dict[str, ByteRange]()
            for info in tar:
                if not info.isfile():
                    continue
                folder, slash, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if f"{folder}{slash}{stem}" != key:
                    if _holds(group, item):
                        break
                    key, group = f"{folder}{slash}{stem}", {}
                group[extension.lower()] = ByteRange(location, info.offset_data, info.size)
    if not _holds(group, item):
        raise OSError(
            f"{location} holds no member of {item.media.size} bytes at byte {item.media.offset}: it changed since it "
            "was indexed"
        )
    return group


def _holds(group: dict[str, ByteRange], item: Item) -> bool:
    return item.media in group.values()
