"""An indexed source -> shards, its samples as they are: how the rows of Parquet files become WebDataset tars.

Samples keep the order of their source: to deal rows of large row groups at random would read each group once for
every sample of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.data.media import media_kind
from headrace.data.members import Item, members_of
from headrace.data.packing import Progress, all_or_nothing
from headrace.data.shards import Place, ShardWriter
from headrace.data.storage import ByteRange
from headrace.errors import RunError


@dataclass
class Repacked:
    """What was written: samples, shards, bytes of media; and the samples whose format has no name in a shard."""

    samples: int = 0
    shards: int = 0
    media_bytes: int = 0
    left_out: list[str] = field(default_factory=list)


def repack(
    items: Sequence[Item],
    output: Place,
    *,
    samples_per_shard: int,
    bytes_per_shard: int,
    overwrite: bool,
    on_progress: Progress,
) -> Repacked:
    """Write samples into shards in `output`, all of them or none.

    Args:
        items: of `headrace.data.members.plan_items`.
        output: folder for the shards.
        samples_per_shard, bytes_per_shard: a shard that has reached one of them takes no further sample.
        overwrite: replace the shards that `output` holds.
        on_progress: told the number of samples done and to do.

    Raises:
        UserError: `output` holds shards and `overwrite` is false.
        RunError: the storage failed; nothing is written then.
    """
    done = Repacked()
    with all_or_nothing(output, overwrite=overwrite) as staging:
        with ShardWriter(staging, samples_per_shard=samples_per_shard, bytes_per_shard=bytes_per_shard) as shards:
            for number, item in enumerate(items, start=1):
                found = members_of(item)
                if media_kind(found.extension) is None:
                    done.left_out.append(item.source_key)
                    continue
                members = {name: _read(item, where) for name, where in found.beside.items()}
                members[found.extension] = media = _read(item, item.media)
                shards.write(item.key, members)
                done.samples += 1
                done.media_bytes += len(media)
                on_progress(number, len(items))
        done.shards = len(shards.paths)
    return done


def _read(item: Item, where: ByteRange | bytes) -> bytes:
    if isinstance(where, bytes):
        return where
    try:
        with where.open() as file:
            return file.read()
    except OSError as error:
        raise RunError(f"{item.source_key!r} cannot be read: {error}") from error
