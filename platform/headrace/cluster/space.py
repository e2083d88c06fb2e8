"""What a sweep varies: paths of a recipe, and from what their values are drawn."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from headrace.errors import UserError
from headrace.recipe import Recipe, replace_all

DRAWS = 64
"""Recipes that are drawn to see whether a space holds impossible ones."""

SHAPE_DRAWS = 4

FIXED = ("seed", "train.steps", "train.global_batch", "train.micro_batch")
"""What a run cannot change on its way, beside `data`."""

SAMPLES = ("source", "column", "holdout", "validation", "group_by", "weights", "without_replacement")
"""Fields of `data` that say which samples there are: a sweep compares recipes on the same ones."""


@dataclass(frozen=True)
class Space:
    """A recipe, and what is varied of it.

    Attributes:
        recipe: name of the recipe from which all trials are derived.
        parameters: distributions of ray.tune, by the dotted path of a recipe's field.
        metric: by which trials are compared: loss, clips_per_second, held_out/loss, held_out/knn, ...
        settings: values that all trials have, by path, where the recipe has others.
    """

    recipe: str
    parameters: Mapping[str, Domain]
    metric: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def choices(self) -> dict[str, list[Any]]:
        """The values of each path, where they can be counted."""
        return {path: list(one.categories) for path, one in self.parameters.items() if isinstance(one, Categorical)}


def derive(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with the values that a trial was given.

    Raises:
        UserError: they do not go together.
    """
    return replace_all(recipe, {path: _plain(value) for path, value in values.items()})


def check_space(recipe: Recipe, parameters: Mapping[str, Domain], *, grid: bool = False) -> None:
    """Check that all that can be drawn is a recipe.

    Args:
        recipe: from which trials are derived.
        parameters: what is drawn.
        grid: whether all combinations are to be tried.

    Raises:
        UserError: a path is no field of the recipe, a value not of its type, a combination impossible; says which.
    """
    if not parameters:
        raise UserError("a sweep needs something to vary")
    draws = np.random.RandomState(0)
    for path, domain in parameters.items():
        kind = _type_at(recipe, path)
        if grid and not isinstance(domain, Categorical):
            raise UserError(f"--search grid tries all values, and those of {path} cannot be counted: use tune.choice")
        values = domain.categories if isinstance(domain, Categorical) else [domain.sample(random_state=draws)]
        for value in values:
            _check_type(path, _plain(value), kind)
    for _ in range(DRAWS):
        drawn = {path: domain.sample(random_state=draws) for path, domain in parameters.items()}
        try:
            derive(recipe, drawn)
        except UserError as error:
            settings = ", ".join(f"{path} {_plain(value)}" for path, value in drawn.items())
            raise UserError(f"the space holds recipes that cannot be: {settings}: {error}") from error


def check_exchange(recipe: Recipe, parameters: Mapping[str, Domain], *, ranges: bool) -> None:
    """Check that a trial can go on from another's checkpoint, whatever settings both have.

    Args:
        recipe: from which trials are derived.
        parameters: what is drawn.
        ranges: whether all must be ranges of numbers.

    Raises:
        UserError: a setting decides which samples come when, or which weights there are; or is no range.
    """
    draws = np.random.RandomState(0)
    shapes = _shapes(recipe)
    for path, domain in parameters.items():
        if path.startswith("data.") or path in FIXED:
            raise UserError(f"{path} decides which samples come when: a run cannot go on with another value of it")
        if ranges and not isinstance(domain, (Float, Integer)):
            raise UserError(f"--scheduler pb2 moves within ranges, and {path} is none: use pbt, or tune.uniform")
        for _ in range(SHAPE_DRAWS):
            value = domain.sample(random_state=draws)
            if _shapes(derive(recipe, {path: value})) != shapes:
                raise UserError(
                    f"{path} decides which weights there are, so a run cannot go on with another value of it"
                )


def _shapes(recipe: Recipe) -> dict[str, torch.Size]:
    with torch.device("meta"):
        objective = recipe.model.build(recipe.augment.height, recipe.augment.width)
    return {name: value.shape for name, value in objective.state_dict().items()}


def _type_at(recipe: Recipe, path: str) -> Any:
    """Return the annotated type of a recipe's field."""
    config: Any = recipe
    *heads, name = path.split(".")
    for head in heads:
        config = getattr(_with_field(config, head, path), head)
    _with_field(config, name, path)
    if heads == ["data"] and name in SAMPLES:
        raise UserError(f"{path} says which samples there are: a sweep compares recipes on the same ones")
    if dataclasses.is_dataclass(getattr(config, name)):
        raise UserError(f"{path} is a group of settings: name one of them, as {path}.{_first_field(config, name)}")
    return typing.get_type_hints(type(config))[name]


def _with_field(config: Any, name: str, path: str) -> Any:
    if not dataclasses.is_dataclass(config):
        raise UserError(f"{path} is no setting of the recipe: {path.rpartition('.')[0]} holds nothing")
    if name not in {item.name for item in dataclasses.fields(config)}:
        replace_all(config, {name: None})  # which says what is near
    return config


def _first_field(config: Any, name: str) -> str:
    return dataclasses.fields(getattr(config, name))[0].name


def _check_type(path: str, value: Any, kind: Any) -> None:
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise UserError(f"{path} cannot be {value!r}: {error.errors()[0]['msg']}") from error


def _plain(value: Any) -> Any:
    """Return a drawn value as a recipe holds it: Python's own numbers, tuples."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(value) if isinstance(value, list) else value
