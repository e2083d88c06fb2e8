"""Training and held-out samples, by group."""

from __future__ import annotations

import numpy as np
import pytest
from manifest_rows import manifest_of

from headrace.data.config import DataConfig
from headrace.data.manifest import Manifest
from headrace.data.split import groups_of, place_of, split_samples
from headrace.errors import UserError

DRIVES = manifest_of(
    [f"city/drive{number // 10:02d}_{number % 10}.mp4" for number in range(600)],
    metadata=[{"segment": number // 30} for number in range(600)],
)


def keys(manifest: Manifest) -> set[str]:
    return set(manifest.table["key"].to_pylist())


@pytest.mark.parametrize("group_by", ["key", "key:_", "segment", "shard"])
def test_a_group_is_on_one_side_and_nothing_is_lost(group_by: str) -> None:
    split = split_samples("/videos", [DRIVES], DataConfig(holdout=0.3, group_by=group_by))
    sides = [set(groups_of(side, group_by)) for side in (split.training, split.held_out)]
    assert not sides[0] & sides[1]
    assert keys(split.training) | keys(split.held_out) == keys(DRIVES)
    assert (len(sides[0]), len(sides[1])) == (split.training_groups, split.held_out_groups)
    assert 0.05 < split.held_out_groups / len(sides[0] | sides[1]) < 0.55


def test_what_is_held_out_stays_so_when_data_are_added_or_more_is_held_out() -> None:
    few = manifest_of(sorted(keys(DRIVES))[::3])
    held_out = keys(split_samples("a", [DRIVES], DataConfig(holdout=0.2, group_by="key:_")).held_out)
    assert keys(split_samples("b", [few], DataConfig(holdout=0.2, group_by="key:_")).held_out) == held_out & keys(few)
    more = keys(split_samples("a", [DRIVES], DataConfig(holdout=0.4, group_by="key:_")).held_out)
    assert held_out < more


def test_sides_are_the_same_in_every_version() -> None:
    assert [round(place_of(name), 6) for name in ("", "drive01", "é")] == PINNED


@pytest.mark.parametrize("name", ["{}", "drive{:06d}", "{}/clip.mp4", "{:b}"])
def test_names_that_differ_little_fall_evenly(name: str) -> None:
    places = [place_of(name.format(number)) for number in range(2000)]
    assert np.abs(np.histogram(places, bins=10, range=(0, 1))[0] - 200).max() < 60


def test_groups_by_name() -> None:
    manifest = manifest_of(["a/b.left.mp4", "a/b.right.mp4", "c.mp4", "a/d_1.mp4"], samples_per_shard=2)
    assert groups_of(manifest, "key") == ["a/b", "a/b", "c", "a/d_1"]
    assert groups_of(manifest, "key:_") == ["a/b.left.mp4", "a/b.right.mp4", "c.mp4", "a/d"]
    assert groups_of(manifest, "folder") == ["a", "a", "", "a"]
    assert groups_of(manifest, "shard") == ["0.tar", "0.tar", "1.tar", "1.tar"]


def test_both_sides_count_the_same_classes() -> None:
    labels = [None, "cone", "barrier", "cone", "sign", None]
    left = manifest_of([f"{number}.mp4" for number in range(6)], labels=labels)
    right = manifest_of(["v0.mp4", "v1.mp4"], labels=["arrow", "sign"])
    split = split_samples("left", [left], DataConfig(validation="right"), right)
    assert split.training.classes == split.held_out.classes == ("arrow", "barrier", "cone", "sign")
    assert split.training.labels.tolist() == [-1, 2, 1, 2, 3, -1]
    assert split.held_out.labels.tolist() == [0, 3]
    assert split.limited(1).held_out.classes == split.training.classes
    assert "the 2 samples of" in str(split)
    for holdout in (0.2, 0.5, 0.8):
        sides = split_samples("left", [left], DataConfig(holdout=holdout))
        assert sides.training.classes == sides.held_out.classes == ("barrier", "cone", "sign")


def test_nothing_is_held_out_unless_asked_for() -> None:
    split = split_samples("/videos", [DRIVES], DataConfig())
    assert (len(split.training), len(split.held_out)) == (600, 0)
    assert split.training.digest == DRIVES.digest


def test_it_says_how_many_samples_and_groups_each_side_has() -> None:
    split = split_samples("/videos", [DRIVES], DataConfig(holdout=0.2, group_by="key:_"))
    assert str(split) == (
        f"held out: {len(split.held_out)} of 600 samples, {len(split.held_out) // 10} of 60 groups; "
        f"training sees the other {len(split.training)} samples"
    )


def test_a_group_of_two_sources_is_on_one_side_and_a_key_of_two_changes_no_side() -> None:
    data = DataConfig(holdout=0.3, group_by="key:_", source="/videos=1,/other=1")
    other = manifest_of(sorted(keys(DRIVES))[:300], source="/other")
    alone = split_samples("/videos", [DRIVES], data)
    both = split_samples(data.source, [DRIVES, other], data)
    assert both.held_out_groups == alone.held_out_groups
    assert both.held_out.source_sizes[0] == len(alone.held_out)
    assert both.training.source_sizes[0] == len(alone.training)


def test_weights_are_of_the_training_side_only() -> None:
    data = DataConfig(holdout=0.3, group_by="segment", weights="segment")
    split = split_samples("/videos", [DRIVES], data)
    assert split.training.weights is not None
    assert len(split.training.weights) == len(split.training)
    assert split.held_out.weights is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"holdout": 0.001, "group_by": "folder"}, "holds out nothing of '/videos', which has 1 groups"),
        ({"holdout": 0.9999, "group_by": "folder"}, "leaves nothing of '/videos' to train on"),
        ({"holdout": 0.1, "group_by": "segmnt"}, "names 'segmnt', which no sample .* did you mean 'segment'"),
    ],
)
def test_splits_with_an_empty_side_are_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        split_samples("/videos", [DRIVES], DataConfig(**settings))  # type: ignore[arg-type]


def test_a_sample_without_its_group_is_one_sentence() -> None:
    manifest = manifest_of(["a", "b"], metadata=[{"segment": 1}, {"other": 2}])
    with pytest.raises(UserError, match=r"1 of 2 samples have no 'segment' \('b' is one\)"):
        split_samples("/videos", [manifest], DataConfig(holdout=0.5, group_by="segment"))


PINNED = [0.866604, 0.98991, 0.989052]
