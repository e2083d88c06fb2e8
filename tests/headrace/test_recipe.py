from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.cli import RunOptions, parse, saved_recipe
from headrace.errors import UserError
from headrace.recipe import load_recipe, replace_all, replace_at, save_recipe
from jobs.recipes import DEFAULT, RECIPES


def command(*arguments: str) -> tuple[object, object]:
    return parse(arguments, RECIPES, DEFAULT, "train.py", "Train.", RunOptions())


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_saved_recipe_comes_back_the_same(name: str, tmp_path: Path) -> None:
    recipe = replace_at(replace_at(RECIPES[name](), "seed", 7), "train.compile.options", None)
    save_recipe(recipe, tmp_path / "recipe.json")
    path = tmp_path / "recipe.json"
    assert load_recipe(path.read_text(), RECIPES[name](), str(path)) == recipe
    assert saved_recipe(tmp_path, RECIPES) == recipe


def test_overrides_are_typed_and_nested() -> None:
    recipe, options = parse(
        [
            "hjepa_tiny",
            "--train.steps",
            "30",
            "--data.sampling.mode",
            "clip",
            "--augment.crop-scale",
            "0.5",
            "0.9",
            "--train.compile.enabled",
            "True",
            "--train.compile.options",
            "max_autotune",
            "true",
            "--output",
            "somewhere",
        ],
        RECIPES,
        DEFAULT,
        "train.py",
        "Train.",
        RunOptions(),
    )
    assert recipe.train.steps == 30
    assert recipe.data.sampling.mode == "clip"
    assert recipe.augment.crop_scale == (0.5, 0.9)
    assert recipe.train.compile.options == {"max_autotune": "true"}
    assert options.output == Path("somewhere")


def test_no_recipe_is_the_demo() -> None:
    assert command()[0] == RECIPES["demo"]()


def test_from_run_starts_with_its_recipe(tmp_path: Path) -> None:
    save_recipe(replace_at(RECIPES["hjepa_cifar"](), "train.steps", 77777), tmp_path / "recipe.json")
    recipe, _ = parse([f"--from-run={tmp_path}", "--seed", "3"], RECIPES, DEFAULT, "train.py", "Train.", RunOptions())
    assert (recipe.name, recipe.train.steps, recipe.seed) == ("hjepa_cifar", 77777, 3)


def test_a_recipe_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    save_recipe(RECIPES["demo"](), path)
    saved = json.loads(path.read_text())
    saved["train"]["setps"] = saved["train"].pop("steps")
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="'setps', which no longer exists: did you mean 'steps'"):
        load_recipe(path.read_text(), RECIPES["demo"](), str(path))


def test_replace_at_names_the_nearest_field() -> None:
    recipe = RECIPES["demo"]()
    assert replace_at(recipe, "train.steps", 500).train == replace(recipe.train, steps=500)
    with pytest.raises(UserError, match="TrainConfig has no field 'step': did you mean 'steps'"):
        replace_at(recipe, "train.step", 1)


def test_streams_divide_the_workers() -> None:
    values = {"train.workers": 6, "data.streams": 4, "train.global_batch": 48}
    with pytest.raises(UserError, match=r"--data\.streams 4 must divide --train\.workers 6"):
        replace_all(RECIPES["demo"](), values)


def test_help_names_every_recipe_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command("--help")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in (
        *RECIPES,
        "--data.source",
        "--train.compile.mode",
        "--model.patch-size",
        "--optim.lr",
        "--seed",
    ):
        assert word in said
