"""Manifests without files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from headrace.data.manifest import Manifest, Row, table_of


def manifest_of(
    keys: Sequence[str],
    *,
    source: str = "/videos",
    labels: Sequence[str | None] | None = None,
    metadata: Sequence[Mapping[str, object] | None] | None = None,
    samples_per_shard: int = 3,
) -> Manifest:
    """Return the manifest of samples of which nothing is known but this."""
    return Manifest(
        source,
        table_of(
            Row(
                key=key,
                shard=f"{number // samples_per_shard}.tar",
                shard_size=1,
                shard_mtime_ns=1,
                offset=512 * number,
                size=10,
                seconds=1.0,
                label=labels[number] if labels else None,
                metadata=None if metadata is None or metadata[number] is None else json.dumps(metadata[number]),
            )
            for number, key in enumerate(keys)
        ),
    )
