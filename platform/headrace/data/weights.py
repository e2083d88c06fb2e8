"""`--data.weights` -> how often each sample is drawn: a column of its metadata, a table beside it, or its class."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headrace.data import storage
from headrace.data.manifest import Manifest
from headrace.errors import UserError, did_you_mean

BY_CLASS = "class"
_TABLES = (".csv", ".parquet")


def weights_of(manifest: Manifest, setting: str) -> NDArray[np.float64]:
    """Return the weight of each sample [rows], not negative, not all zero.

    Args:
        manifest: the samples.
        setting: "class", by which all classes come equally often; a CSV or Parquet file with the columns `key` and
            `weight`; or a column of the samples' metadata.

    Raises:
        UserError: a sample has no weight, or one that is none.
    """
    if setting == BY_CLASS:
        weights = _inverse_class_frequency(manifest)
    elif setting.lower().endswith(_TABLES):
        weights = _of_table(manifest, setting)
    else:
        weights = np.array([_number(value) for value in metadata_column(manifest, setting, "--data.weights")])
    _check(manifest, weights, setting)
    return weights


def metadata_column(manifest: Manifest, column: str, option: str) -> list[object]:
    """Return one value of each sample's metadata, None where it has none.

    Raises:
        UserError: no sample has it; names the option that asked for it.
    """
    texts = manifest.table["metadata"].to_pylist()
    values = [json.loads(text).get(column) if text else None for text in texts]
    if all(value is None for value in values):
        known = {name for text in texts[:1000] if text for name in json.loads(text)}
        hint = did_you_mean(column, known) if known else "they have no metadata (`jobs/pack.py --metadata` adds it)"
        raise UserError(f"{option} names {column!r}, which no sample of {manifest.source!r} has: {hint}")
    return values


def _inverse_class_frequency(manifest: Manifest) -> NDArray[np.float64]:
    labels = manifest.labels
    weights = np.full(len(labels), np.nan)
    labelled = labels >= 0
    if len(manifest.classes):
        weights[labelled] = 1 / np.bincount(labels[labelled])[labels[labelled]]
    return weights


def _of_table(manifest: Manifest, path: str) -> NDArray[np.float64]:
    table = _read_table(path)
    for name in ("key", "weight"):
        if name not in table.column_names:
            raise UserError(f"{path!r} has no column {name!r}: {did_you_mean(name, table.column_names)}")
    if pc.count_distinct(table["key"]).as_py() < len(table):
        raise UserError(f"{path!r} has several rows of the same key: keep one of each")
    try:
        found = pc.cast(table["weight"], pa.float64())
    except pa.ArrowInvalid as error:
        raise UserError(f"the column 'weight' of {path!r} does not hold numbers: {error}") from error
    where = pc.index_in(manifest.table["key"], pc.cast(table["key"], pa.string()).combine_chunks())
    weights: NDArray[np.float64] = pc.fill_null(found.take(where), np.nan).to_numpy()
    return weights


def _read_table(path: str) -> pa.Table:
    try:
        with storage.open_file(path) as file:
            if path.lower().endswith(".parquet"):
                return pq.read_table(file)
            as_text = pa.csv.ConvertOptions(column_types={"key": pa.string()}, strings_can_be_null=False)
            return pa.csv.read_csv(file, convert_options=as_text)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"the weights {path!r} cannot be read: {error}") from error


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan


def _check(manifest: Manifest, weights: NDArray[np.float64], setting: str) -> None:
    """Complain of weights by which nothing can be drawn."""
    for wrong, what in (
        (np.isnan(weights), "no weight"),
        (weights < 0, "a negative weight"),
        (np.isinf(weights), "an infinite weight"),
    ):
        rows = np.flatnonzero(wrong)
        if len(rows):
            remedy = "label them" if setting == BY_CLASS else "give them one, 0 to leave them out"
            raise UserError(
                f"--data.weights {setting}: {len(rows):,} of {len(weights):,} samples have {what} "
                f"({_some_keys(manifest, rows)}): {remedy}"
            )
    with np.errstate(over="ignore"):
        total = np.cumsum(weights)[-1]
    if total == 0:
        raise UserError(f"--data.weights {setting}: all {len(weights):,} weights are 0, so nothing can be drawn")
    if np.isinf(total):
        raise UserError(f"--data.weights {setting}: the weights are too large to be added up; make them smaller")


def _some_keys(manifest: Manifest, rows: Sequence[int] | NDArray[np.int64]) -> str:
    shown = ", ".join(repr(manifest.key(int(row))) for row in rows[:3])
    return shown if len(rows) <= 3 else f"{shown}, ..."
