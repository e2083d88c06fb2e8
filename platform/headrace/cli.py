"""Recipe name + typed overrides -> Recipe. The command line of `jobs/train.py` and its kin.

    [RECIPE] [--output DIR] [--resume DIR] [--from-run DIR] [--data.source ...] [--train.steps N] ...

Every field of every config is an option with its type and its help, because the options are the fields (tyro).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from headrace.data import storage
from headrace.errors import UserError, did_you_mean
from headrace.recipe import Recipe, load_recipe

RECIPE_FILE = "recipe.json"
Recipes = Mapping[str, Callable[[], Recipe]]
Options = TypeVar("Options", bound="RecipeOptions")


@dataclass(frozen=True)
class RecipeOptions:
    """Where a recipe comes from, if not from its name."""

    from_run: Path | None = None
    """Folder of a run whose recipe starts anew."""


@dataclass(frozen=True)
class RunOptions(RecipeOptions):
    """Where a run lives and what it starts from."""

    output: Path | None = None
    """Folder of the new run; runs/<recipe>-<date>-<time> if not given."""

    resume: str | None = None
    """Folder of a run that goes on from its newest checkpoint, with its own recipe; or where its checkpoints are kept,
    as s3://bucket/runs/NAME, if the folder is lost."""

    dashboard: bool = False
    """Serve the Ray dashboard of an embedded run; a cluster of its own always does."""

    wandb: Literal["auto", "off"] = "auto"
    """Weights & Biases: auto is online where a key is, offline elsewhere, and obeys WANDB_MODE."""

    tensorboard: bool = False
    """Write event files for TensorBoard, too."""


def parse(
    arguments: Sequence[str],
    recipes: Recipes,
    default: str,
    program: str,
    description: str,
    options: Options,
    saved: Recipes | None = None,
) -> tuple[Recipe, Options]:
    """Return the recipe and the options of a command line.

    Args:
        arguments: without the program's name.
        recipes: functions that make a recipe, by name.
        default: name of the recipe that is run where none is given.
        program, description: for the help.
        options: the program's own, beside the recipe's, with their defaults.
        saved: recipes by which those saved with runs are read, if they are not `recipes`.

    Raises:
        UserError: there is no such recipe or run, or a value is impossible.
        SystemExit: an option is unknown or has the wrong type (code 2, the nearest valid one named), or help was
            asked for (code 0).
    """
    name, rest = _split_name(list(arguments))
    resumes = _value_of(rest, "--resume") if isinstance(options, RunOptions) else None
    run = resumes or _value_of(rest, "--from-run")
    if run is not None and name is not None:
        raise UserError(f"a run brings its own recipe: drop {name!r}, or drop --resume/--from-run")
    base = _named(name or default, recipes) if run is None else saved_recipe(run, saved or recipes)
    unnamed = tyro.conf.arg(name="")
    fields = [("recipe", Annotated[Recipe, unnamed]), ("own", Annotated[type(options), unnamed])]
    command_class = make_dataclass("Command", fields, frozen=True)

    command = tyro.cli(
        command_class,
        prog=f"{program} [RECIPE]" if len(recipes) > 1 else program,
        description=f"{description}\n\nrecipes:\n{named_list(recipes)}" if len(recipes) > 1 else description,
        default=command_class(base, options),
        args=rest,
        config=(tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed, tyro.conf.HelptextFromCommentsOff),
    )
    return command.recipe, command.own


def saved_recipe(run: Path | str, recipes: Recipes) -> Recipe:
    """Return the recipe that was saved with a run.

    Args:
        run: its folder, or the location at which its checkpoints are kept.
        recipes: by name.

    Raises:
        UserError: there is no run, or its recipe no longer exists.
    """
    where = f"{run}/{RECIPE_FILE}"
    try:
        text = storage.read_text(where)
    except OSError as error:
        raise UserError(f"{str(run)!r} is no run: it holds no {RECIPE_FILE} ({error})") from None
    return load_recipe(text, _named(json.loads(text).get("name", ""), recipes), where)


def named_list(functions: Mapping[str, Callable[..., object]]) -> str:
    """Return a line for each function: its name, and the first sentence of what it says of itself."""
    return "\n".join(f"  {name:14s} {_first_line(one)}" for name, one in sorted(functions.items()))


def _named(name: str, recipes: Recipes) -> Recipe:
    if name not in recipes:
        raise UserError(f"there is no recipe {name!r}: {did_you_mean(name, recipes)}")
    return recipes[name]()


def _split_name(arguments: list[str]) -> tuple[str | None, list[str]]:
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    return None, arguments


def _value_of(arguments: Sequence[str], option: str) -> str | None:
    """Return the value of an option that must be known before the others can be parsed."""
    for index, argument in enumerate(arguments):
        if argument.startswith(option + "="):
            return argument.partition("=")[2]
        if argument == option and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _first_line(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]
