"""Several sources as one: what the user writes, SOURCE=WEIGHT,SOURCE=WEIGHT, and one manifest of all of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headrace.data.manifest import Manifest
from headrace.data.order import BLOCK_SLOTS
from headrace.errors import UserError

_PART = re.compile(r"(.+)=(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)")


@dataclass(frozen=True)
class Part:
    """One source of a mixture, and its weight among the others."""

    source: str
    weight: float


def parse_mixture(text: str) -> tuple[Part, ...]:
    """Return the sources that a setting names: those of SOURCE=WEIGHT,SOURCE=WEIGHT, or the one that it is.

    A path may hold "=" and ",": only two or more pieces that all end in a weight are a mixture.

    Raises:
        UserError: a weight is not positive, a source is named twice, or there are more than the order can hold.
    """
    found = [_PART.fullmatch(piece.strip()) for piece in text.split(",")]
    if len(found) < 2 or not all(found):
        return (Part(text, 1.0),)
    parts = tuple(Part(match[1], float(match[2])) for match in found if match)
    for part in parts:
        if not (part.weight > 0 and math.isfinite(part.weight)):
            raise UserError(f"--data.source gives {part.source!r} the weight {part.weight:g}: weights are positive")
    repeated = [source for source, count in Counter(part.source for part in parts).items() if count > 1]
    if repeated:
        raise UserError(f"--data.source names {repeated[0]!r} twice: name it once, with the sum of the weights")
    if len(parts) > BLOCK_SLOTS:
        raise UserError(f"--data.source mixes {len(parts):,} sources; {BLOCK_SLOTS:,} at most can be mixed")
    return parts


def format_mixture(parts: Sequence[Part]) -> str:
    """Return the text that `parse_mixture` reads as these sources.

    Raises:
        UserError: the path of one of several holds a comma, at which the text would be taken apart.
    """
    if len(parts) == 1:
        return parts[0].source
    for part in parts:
        if "," in part.source:
            raise UserError(f"a source of a mixture cannot have a comma in its path: give {part.source!r} another name")
    return ",".join(f"{part.source}={part.weight!r}" for part in parts)


def mix(name: str, manifests: Sequence[Manifest]) -> Manifest:
    """Return one manifest of several sources, source by source.

    Keys that several sources have get the last part of their source's path before them; labels are the same class
    where they have the same name.

    Args:
        name: what the user calls the mixture.
        manifests: one for each source.

    Raises:
        UserError: keys cannot be told apart even so.
    """
    if len(manifests) == 1:
        return manifests[0]
    sizes = [len(manifest) for manifest in manifests]
    table = pa.concat_tables([manifest.table for manifest in manifests]).combine_chunks()
    codes = np.repeat(np.arange(len(manifests), dtype=np.int32), sizes)

    counts = table["key"].value_counts()
    shared = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(shared):
        prefixes = pa.array(_short_names([manifest.source for manifest in manifests])).take(pa.array(codes))
        prefixed = pc.binary_join_element_wise(prefixes, table["key"], "/")
        keys = pc.if_else(pc.is_in(table["key"], shared), prefixed, table["key"])
        table = table.set_column(table.column_names.index("key"), "key", keys)
        if pc.count_distinct(keys).as_py() < len(keys):
            raise UserError(f"the sources of {name!r} hold samples of the same keys: rename the folders of one of them")
    return Manifest(name, table.append_column("source", _locations(manifests, codes)))


def _locations(manifests: Sequence[Manifest], codes: NDArray[np.int32]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array([manifest.source for manifest in manifests]))


def _short_names(sources: Sequence[str]) -> list[str]:
    """Return the last part of each path, numbered where several are the same."""
    names = [source.rstrip("/").rpartition("/")[2] for source in sources]
    often = Counter(names)
    return [name if often[name] == 1 else f"{name}-{number}" for number, name in enumerate(names)]
