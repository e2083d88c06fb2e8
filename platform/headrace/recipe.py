"""One run, described: a value that can be derived, overridden, saved, read and run again.

A recipe composes the configs that live beside what they build. `jobs/recipes/` holds the named ones.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from headrace.augment import AugmentConfig
from headrace.data.config import DataConfig
from headrace.errors import UserError, did_you_mean
from headrace.models import ModelConfig
from headrace.optim import OptimConfig
from headrace.train.config import TrainConfig

Config = TypeVar("Config")


@dataclass(frozen=True)
class Recipe:
    """One run."""

    model: ModelConfig
    """The model and what it learns by."""

    data: DataConfig = field(default_factory=DataConfig)
    """The stream: which samples, which frames, at what size, decoded by whom."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation on the training device."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""

    train: TrainConfig = field(default_factory=TrainConfig)
    """Steps, batch, workers, precision, checkpoints."""

    seed: int = 0
    """Seed of everything that is random: weights, order, frame times, augmentation, masks."""

    name: Annotated[str, tyro.conf.Fixed] = ""
    """Name of the recipe that this one was made from."""

    def __post_init__(self) -> None:
        self.optim.check_steps(self.train.steps)
        if self.train.evaluate.every and not self.data.holds_out:
            raise UserError(
                f"--train.evaluate.every {self.train.evaluate.every} has nothing to evaluate on: hold out a share of "
                f"the samples with --data.holdout, or name another source with --data.validation"
            )
        if self.train.workers % self.data.streams:
            raise UserError(
                f"--data.streams {self.data.streams} must divide --train.workers {self.train.workers}: each of them "
                f"feeds as many workers"
            )
        if self.optim.name == "sophia-h" and self.train.parallel == "fsdp":
            raise UserError(
                "sophia-h differentiates twice, which FSDP cannot: use --train.parallel ddp, or another --optim.name"
            )


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as JSON."""
    path.write_text(json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")


def load_recipe(text: str, base: Recipe, where: str) -> Recipe:
    """Return the recipe that was saved.

    Args:
        text: what `save_recipe` wrote.
        base: the named recipe it was made from; it says of which classes the configs are.
        where: it was written, for errors.

    Raises:
        UserError: the text names a field that no longer exists, or lacks one.
    """
    recipe: Recipe = config_from(base, json.loads(text), where)
    return recipe


def replace_at(recipe: Config, path: str, value: Any) -> Config:
    """Return the config with the field at a dotted path (`train.steps`) replaced.

    Raises:
        UserError: there is no such field.
    """
    return replace_all(recipe, {path: value})


def replace_all(recipe: Config, values: Mapping[str, Any]) -> Config:
    """Return the config with the fields at dotted paths replaced, all at once: what one of them asks of another is only
    looked at when all are there.

    Raises:
        UserError: there is no such field, or the values do not go together.
    """
    heads: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        _check_field(recipe, head)
        heads.setdefault(head, {})[rest] = value
    changed = {
        head: inner[""] if "" in inner else replace_all(getattr(recipe, head), inner) for head, inner in heads.items()
    }
    return dataclasses.replace(recipe, **changed)  # type: ignore[type-var]


def _check_field(config: Any, name: str) -> None:
    names = [item.name for item in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    if name not in names:
        raise UserError(f"{type(config).__name__} has no field {name!r}: {did_you_mean(name, names)}")


def config_from(base: Any, saved: dict[str, Any], where: str) -> Any:
    """Return a config of the class of `base` with the values that were saved, `asdict` of it.

    Raises:
        UserError: a field no longer exists, or was not saved.
    """
    names = {item.name for item in dataclasses.fields(base)}
    for name in saved:
        if name not in names:
            raise UserError(f"{where} sets {name!r}, which no longer exists: {did_you_mean(name, names)}")
    values = {}
    for name in names:
        if name not in saved:
            raise UserError(f"{where} does not set {name!r}: it was written by another version of headrace")
        value, default = saved[name], getattr(base, name)
        if dataclasses.is_dataclass(default):
            value = config_from(default, value, where)
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return type(base)(**values)
