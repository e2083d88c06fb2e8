"""From media files and what a table says of them to WebDataset shards, in three steps that can run apart.

    source, table  --plan_items-->  items  --plan_shards-->  plans  --write_plan-->  one shard each

A plan is all that a worker needs to write its shard, so the shards do not depend on who writes them or when.
The media's bytes are copied as they are. A sample's json holds "path", its name in the source, its row of the
table, and "label" where a label column is given; a label that is an integer also becomes the member `cls`.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace.data import storage
from headrace.data.media_source import MediaFile, open_source
from headrace.data.metadata_csv import Join, Table, Value, filter_rows, join_rows
from headrace.data.shards import Place, check_key, inside, shard_name, write_shard
from headrace.errors import UserError
from headrace.keyed import permute

Progress = Callable[[int, int], None]
"""Told what is done and what there is to do."""

_PREFIX = "shard"
_OWN_SHARD = re.compile(rf"{_PREFIX}-\d{{6,}}\.tar")


@dataclass(frozen=True)
class Item:
    """One sample to be: its key, the file in the source, and the json that will stand beside it."""

    key: str
    path: str
    size: int
    metadata: str
    label: str | None


@dataclass(frozen=True)
class ShardPlan:
    """Which items make up shard number `number`, in order."""

    number: int
    items: tuple[Item, ...]


def join_table(files: Sequence[MediaFile], table: Table, *, key_column: str | None, where: Sequence[str]) -> Join:
    """Choose the table's rows and find their files (see `headrace.data.metadata_csv`)."""
    return join_rows(table, filter_rows(table, where), [file.path for file in files], key_column)


def plan_items(
    files: Sequence[MediaFile],
    table: Table | None = None,
    join: Join | None = None,
    label_column: str | None = None,
) -> list[Item]:
    """Return the samples to be written, in the order of their paths; files without a row are left out.

    A key is the path without its extension, its base name's dots turned into underscores. Where two files
    would share a key ("a.jpg" and "a.png"), each gets its extension into it: "a-jpg", "a-png".

    Raises:
        UserError: the label column is unknown or would hide another, or a file's name cannot be a key.
    """
    if label_column is not None and table is not None:
        table.require(label_column)
        if label_column != "label" and "label" in table.types:
            raise UserError(
                f"{table.path} has a column 'label' beside --label-column {label_column!r}, and a sample has "
                "one label; rename that column, or take it as the label"
            )
    if join is not None:
        files = [file for file in files if file.path in join.rows]
    items = []
    for file, key in zip(files, _keys([file.path for file in files]), strict=True):
        values: dict[str, Value] = {"path": file.path}
        label = None
        if table is not None and join is not None:
            values |= table.values(join.rows[file.path])
            if label_column is not None:
                values["label"] = values[label_column]
                label = str(values["label"]) if isinstance(values["label"], int) else None
        items.append(Item(key, file.path, file.size, json.dumps(values, ensure_ascii=False), label))
    return items


def plan_shards(
    items: Sequence[Item], *, samples_per_shard: int, bytes_per_shard: int, seed: int | None
) -> list[ShardPlan]:
    """Deal the items to shards, a shard being full at so many samples or bytes, whatever comes first.

    Args:
        items: all samples.
        samples_per_shard: most samples in a shard.
        bytes_per_shard: a shard takes no further sample once its media have so many bytes.
        seed: of the order in which they are dealt, so that no shard holds a single class because the files
            lay in one folder a class; None keeps the items' own order.

    Raises:
        UserError: a shard would have room for nothing.
    """
    if samples_per_shard < 1 or bytes_per_shard < 1:
        raise UserError(
            f"a shard must have room for a sample, got {samples_per_shard} samples, {bytes_per_shard} bytes"
        )
    order = np.arange(len(items))
    if seed is not None:
        order = permute(order, len(items), "pack", seed)
    plans: list[ShardPlan] = []
    shard: list[Item] = []
    total = 0
    for item in (items[index] for index in order.tolist()):
        shard.append(item)
        total += item.size
        if len(shard) >= samples_per_shard or total >= bytes_per_shard:
            plans.append(ShardPlan(len(plans), tuple(shard)))
            shard, total = [], 0
    return plans if not shard else [*plans, ShardPlan(len(plans), tuple(shard))]


def write_plan(source: str, directory: Place, plan: ShardPlan) -> int:
    """Write the shard of one plan and return the bytes in it. Done again, writes the same file again.

    Raises:
        RunError: a file cannot be read.
    """
    return write_shard(inside(directory, shard_name(_PREFIX, plan.number)), _samples(source, plan.items), replace=True)


def _samples(source: str, items: Sequence[Item]) -> Iterator[tuple[str, dict[str, bytes]]]:
    media = open_source(source)
    for item in items:
        extension = item.path.rpartition(".")[2].lower()
        members = {extension: media.read(item.path), "json": item.metadata.encode()}
        if item.label is not None:
            members["cls"] = item.label.encode()
        yield item.key, members


@contextlib.contextmanager
def all_or_nothing(output: Place, *, overwrite: bool) -> Iterator[Place]:
    """Yield a hidden folder inside `output` for the shards; they move to `output` when the block ends well.

    Until then, and if the block raises, what `output` held stays as it was. In object storage nothing but names
    moves, one shard after the other.

    Raises:
        UserError: `output` holds shards already and `overwrite` does not say to replace them, or holds tars
            that packing did not name.
    """
    check_output(output, overwrite=overwrite)
    staging = inside(output, f".packing-{uuid.uuid4().hex[:12]}")
    if isinstance(staging, Path):
        staging.mkdir(parents=True)
    try:
        yield staging
        written = storage.names_in(str(staging))
        for name in written:
            storage.move(str(inside(staging, name)), str(inside(output, name)))
        for old in set(_tars(output)) - set(written):
            storage.delete(str(inside(output, old)))
    finally:
        if isinstance(staging, Path):
            shutil.rmtree(staging)
        else:
            for name in storage.names_in(staging):
                storage.delete(str(inside(staging, name)))


def check_output(output: Place, *, overwrite: bool) -> None:
    """Raise what `all_or_nothing` would, before any work is done."""
    if isinstance(output, Path) and output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; the shards need a folder")
    present = _tars(output)
    foreign = [name for name in present if not _OWN_SHARD.fullmatch(name)]
    if foreign:
        raise UserError(f"{output} holds {foreign[0]}, which packing did not write; choose another folder")
    if present and not overwrite:
        raise UserError(f"{output} holds {len(present)} shards already; choose another folder, or --overwrite them")


def _tars(directory: Place) -> list[str]:
    return [name for name in storage.names_in(str(directory)) if name.endswith(".tar")]


def _keys(paths: Sequence[str]) -> list[str]:
    plain = [_key(path) for path in paths]
    sharing: dict[str, list[str]] = defaultdict(list)
    for path, key in zip(paths, plain, strict=True):
        sharing[key].append(path)
    keys = [
        key if len(sharing[key]) == 1 else f"{key}-{path.rpartition('.')[2].lower()}"
        for path, key in zip(paths, plain, strict=True)
    ]
    taken: dict[str, str] = {}
    for path, key in zip(paths, keys, strict=True):
        if key in taken:
            raise UserError(f"{taken[key]!r} and {path!r} would both have the key {key!r}; rename one of them")
        taken[key] = path
    return keys


def _key(path: str) -> str:
    folder, slash, name = path.replace("\\", "/").lstrip("/").rpartition("/")
    key = f"{folder}{slash}{name.rpartition('.')[0].replace('.', '_')}"
    try:
        check_key(key)
    except UserError as error:
        raise UserError(f"the file {path!r} cannot be packed: {error}") from error
    return key
