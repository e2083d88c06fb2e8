"""Training and held-out samples, by group: samples of one group (a drive, a person, a place) are on one side.

A group's side is a function of its name alone: not of the seed, not of the other groups. So data that are added move
no sample to the other side, every run of a source holds out the same, and a larger share holds out all that a smaller
one does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace import keyed
from headrace.data.config import DataConfig
from headrace.data.manifest import Manifest, classes_of
from headrace.data.mixture import mix
from headrace.data.weights import metadata_column, weights_of
from headrace.errors import UserError


@dataclass(frozen=True)
class Split:
    """The two sides of a run's samples. Both count the same classes.

    Attributes:
        training: with their weights, if the run has some.
        held_out: empty where nothing is held out.
        training_groups, held_out_groups: how many groups each side has; 0 where nothing is held out.
    """

    training: Manifest
    held_out: Manifest
    training_groups: int = 0
    held_out_groups: int = 0

    @classmethod
    def whole(cls, manifest: Manifest) -> Split:
        """Return a split that holds out nothing."""
        return cls(manifest, manifest.take(0))

    def limited(self, held_out: int) -> Split:
        """Return the split with so many held-out samples at most: the same ones each time."""
        return replace(self, held_out=draw(self.held_out, held_out))

    def __str__(self) -> str:
        if not self.held_out_groups:
            return (
                f"held out: the {len(self.held_out):,} samples of {self.held_out.source!r}; training sees "
                f"{len(self.training):,} others"
            )
        samples, groups = len(self.training) + len(self.held_out), self.training_groups + self.held_out_groups
        return (
            f"held out: {len(self.held_out):,} of {samples:,} samples, {self.held_out_groups:,} of {groups:,} groups; "
            f"training sees the other {len(self.training):,} samples"
        )


def split_samples(
    name: str, manifests: Sequence[Manifest], data: DataConfig, validation: Manifest | None = None
) -> Split:
    """Return the samples that a run trains on, and those that it must not see.

    Args:
        name: of the source, or of the mixture.
        manifests: what can be used of each source of the run.
        data: what is held out, and what weighs how much.
        validation: what is held out in place of a share of these.

    Raises:
        UserError: there are no groups or weights as the settings name them, or a side has no sample.
    """
    groups = [_Groups.of(manifest, data) for manifest in manifests]
    training = [group.side(held_out=False) for group in groups]
    for manifest in training:
        if not len(manifest):
            raise UserError(
                f"--data.holdout {data.holdout:g} leaves nothing of {manifest.source!r} to train on: hold out less, or "
                f"choose another --data.group-by than {data.group_by}, with more groups"
            )
    if data.weights is not None:
        training = [manifest.with_weights(weights_of(manifest, data.weights)) for manifest in training]
    held_out = mix(name, [group.side(held_out=True) for group in groups]) if validation is None else validation
    if data.holdout and not len(held_out):
        raise UserError(
            f"--data.holdout {data.holdout:g} holds out nothing of {name!r}, which has {_count(groups, False):,} "
            f"groups: hold out more, or choose another --data.group-by than {data.group_by}, with more groups"
        )
    training_side = mix(name, training)
    classes = classes_of(training_side, held_out)
    counts = (_count(groups, side) for side in (False, True))
    return Split(training_side.of_classes(classes), held_out.of_classes(classes), *counts)


def draw(manifest: Manifest, most: int) -> Manifest:
    """Return so many of a manifest's samples at most, in their order: the same ones each time."""
    if len(manifest) <= most:
        return manifest
    return manifest.rows(np.sort(keyed.permute(np.arange(most), len(manifest), "draw")))


@dataclass(frozen=True)
class _Groups:
    """The groups of one source, and on which side they are.

    Attributes:
        manifest: its samples.
        names: of the groups; none where nothing is held out.
        of_row: index of each sample's group [rows].
        held_out: side of each group.
    """

    manifest: Manifest
    names: list[str]
    of_row: NDArray[np.integer]
    held_out: NDArray[np.bool_]

    @classmethod
    def of(cls, manifest: Manifest, data: DataConfig) -> _Groups:
        if data.holdout == 0:
            return cls(manifest, [], np.zeros(0, np.int64), np.zeros(0, bool))
        encoded = pa.array(groups_of(manifest, data.group_by), pa.string()).dictionary_encode()
        names = encoded.dictionary.to_pylist()
        held_out = np.array([place_of(name) < data.holdout for name in names])
        return cls(manifest, names, encoded.indices.to_numpy(), held_out)

    def side(self, *, held_out: bool) -> Manifest:
        if not self.names:
            return self.manifest.take(0) if held_out else self.manifest
        return self.manifest.where(self.held_out[self.of_row] == held_out)


def _count(sources: Sequence[_Groups], held_out: bool) -> int:
    """Count the groups of one side over all sources; what has the same name is one group."""
    sides = (zip(groups.names, groups.held_out, strict=False) for groups in sources)
    return len({name for side in sides for name, is_held_out in side if is_held_out == held_out})


def place_of(group: str) -> float:
    """Return a group's place in [0, 1): below the held-out share it is held out."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=6).digest(), "big") / 2**48


def groups_of(manifest: Manifest, group_by: str) -> Sequence[str]:
    """Return the group of each sample.

    Args:
        manifest: the samples.
        group_by: "key": the key up to the first dot of its name, so that files of one WebDataset sample stay together.
            "key:SEPARATOR": up to the first SEPARATOR instead. "folder": the key up to its last slash. "shard". Else a
            column of the metadata.

    Raises:
        UserError: the metadata have no such column, or lack it in some samples.
    """
    if group_by == "shard":
        shards: list[str] = manifest.table["shard"].to_pylist()
        return shards
    what, colon, separator = group_by.partition(":")
    keys: list[str] = manifest.table["key"].to_pylist()
    if group_by == "folder":
        return [key.rpartition("/")[0] for key in keys]
    if what == "key":
        return [_up_to(key, separator if colon else ".") for key in keys]
    values = metadata_column(manifest, group_by, "--data.group-by")
    lacking = [key for key, value in zip(keys, values, strict=True) if value is None]
    if lacking:
        raise UserError(
            f"--data.group-by {group_by}: {len(lacking):,} of {len(keys):,} samples have no {group_by!r} "
            f"({lacking[0]!r} is one), so it is unknown to which side they belong"
        )
    return [str(value) for value in values]


def _up_to(key: str, separator: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.partition(separator)[0]
