"""No dead knob: every field of every recipe is read by something that acts on it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import ray.data
import torch
from small_recipe import session_of
from torch import nn

from data_pipelines.clips import micro_batches
from data_pipelines.index import index
from headrace.cluster.trainer import build_trainer, resources_for
from headrace.data.scan import shards_of
from headrace.data.source import locate
from headrace.data.split import split_samples
from headrace.recipe import Recipe
from headrace.train.loop import train
from jobs.recipes import RECIPES

NOT_ACTING = {
    "__post_init__",
    "__eq__",
    "__hash__",
    "__repr__",
    "asdict",
    "replace",
    "_asdict_inner",
    "deepcopy",
}
"""Functions that read a field only to check, compare or copy it."""


def configs_of(value: Any) -> Iterator[Any]:
    yield value
    for field in dataclasses.fields(value):
        if dataclasses.is_dataclass(getattr(value, field.name)):
            yield from configs_of(getattr(value, field.name))


def fields_of(recipe: Recipe) -> set[tuple[str, str]]:
    return {(type(c).__name__, f.name) for c in configs_of(recipe) for f in dataclasses.fields(c)}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Record which fields are read, by code that does more than check or copy them."""
    seen: set[tuple[str, str]] = set()
    classes = {type(config) for make in RECIPES.values() for config in configs_of(make())}
    for cls in classes:
        names = {field.name for field in dataclasses.fields(cls)}

        def spy(self: Any, name: str, names: set[str] = names, cls: type = cls) -> Any:
            if name in names and not _merely_checked():
                seen.add((cls.__name__, name))
            return object.__getattribute__(self, name)

        monkeypatch.setattr(cls, "__getattribute__", spy, raising=False)
    return seen


def _merely_checked() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in NOT_ACTING:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def live_through(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do all that jobs/train.py does with a recipe, but in this process and without starting Ray."""
    monkeypatch.setattr(nn.Module, "compile", MagicMock())
    monkeypatch.setattr(ray.data, "read_datasource", MagicMock())
    source = locate(recipe.data.source)
    column = recipe.data.column
    indexed = index(source, shards_of(source, column), column=column)
    split = split_samples(source, [indexed.usable()], recipe.data)
    session = session_of(recipe, folder, split)
    pool = recipe.data.pool(spare_cpus=2)
    micro_batches(MagicMock(), session.plan, session.agenda, pool, recipe.train.workers)
    build_trainer(recipe, session.course, folder, MagicMock(), resources_for(recipe, {"CPU": 2.0}))
    torch.set_num_threads(recipe.train.threads)
    train(recipe, session)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_field_is_read_by_something(
    name: str,
    reads: set[tuple[str, str]],
    video_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = RECIPES[name]()
    small = replace(
        recipe,
        data=replace(recipe.data, source=str(video_folder)),
        optim=replace(recipe.optim, warmup_steps=1),
        train=replace(recipe.train, steps=2, global_batch=2, micro_batch=2, checkpoint_every=1, precision="fp32"),
    )
    reads.clear()
    live_through(small, tmp_path, monkeypatch)
    compiled = replace(small.train.compile, enabled=True)  # mode and options mean nothing where it is off
    live_through(replace(small, train=replace(small.train, compile=compiled)), tmp_path / "compiled", monkeypatch)
    sophia = replace(small.optim, name="sophia-h", schedule="wsd")  # what others have no use for
    live_through(replace(small, optim=sophia), tmp_path / "sophia", monkeypatch)
    assert fields_of(recipe) - reads == set()


def test_the_test_sees_a_dead_knob(reads: set[tuple[str, str]]) -> None:
    recipe = RECIPES["demo"]()
    reads.clear()
    dataclasses.asdict(recipe)
    replace(recipe.train, steps=recipe.train.steps + 1)
    assert reads == {("Recipe", "train"), ("TrainConfig", "steps")}
