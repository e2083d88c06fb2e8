"""What a sweep may vary, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from small_recipe import TINY

from headrace.cluster.space import Space, check_exchange, check_space, derive
from headrace.cluster.sweep import most_at_once, most_demanding, share_of
from headrace.cluster.tuner import Sweep, SweepOptions
from headrace.errors import UserError
from headrace.recipe import replace_all, replace_at
from headrace.train.config import lower_is_better
from jobs.recipes import RECIPES
from tune_spaces import SPACES


@pytest.mark.parametrize("name", sorted(SPACES))
def test_every_space_holds_only_recipes(name: str) -> None:
    space = SPACES[name]()
    base = replace_all(RECIPES[space.recipe](), space.settings)
    check_space(base, space.parameters)
    scores = {"loss", "clips_per_second"}
    assert space.metric in scores or base.train.evaluate.every, "it is measured by evaluations"


def test_values_become_what_recipes_hold() -> None:
    drawn = {"optim.lr": np.float64(0.25), "train.steps": np.int64(7), "augment.crop_scale": [0.5, 1.0]}
    recipe = derive(TINY, drawn)
    assert (recipe.optim.lr, recipe.train.steps, recipe.augment.crop_scale) == (0.25, 7, (0.5, 1.0))
    assert type(recipe.optim.lr) is float
    assert type(recipe.train.steps) is int


def test_what_belongs_together_is_replaced_together() -> None:
    with pytest.raises(UserError, match="must be constant"):
        replace_at(TINY, "optim.name", "schedule-free")
    recipe = replace_all(TINY, {"optim.name": "schedule-free", "optim.schedule": "constant", "seed": 3})
    assert (recipe.optim.name, recipe.optim.schedule, recipe.seed) == ("schedule-free", "constant", 3)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({}, "something to vary"),
        ({"optim.lrr": tune.uniform(0, 1)}, "did you mean 'lr'"),
        ({"optimm.lr": tune.uniform(0, 1)}, "did you mean 'optim'"),
        ({"optim.lr.more": tune.uniform(0, 1)}, "optim.lr.more is no setting"),
        ({"optim": tune.choice([1])}, "group of settings"),
        ({"optim.lr": tune.choice(["fast"])}, "optim.lr cannot be 'fast'"),
        ({"train.steps": tune.uniform(1, 9)}, "train.steps cannot be"),
        ({"optim.name": tune.choice(["adamw", "adam"])}, "optim.name cannot be 'adam'"),
        ({"train.micro_batch": tune.choice([2, 3])}, "recipes that cannot be.*micro_batch 3"),
        ({"data.source": tune.choice(["a", "b"])}, "which samples there are"),
        ({"data.holdout": tune.uniform(0, 1)}, "which samples there are"),
    ],
)
def test_what_cannot_be_varied_is_refused(parameters: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check_space(TINY, parameters)


def test_what_a_run_cannot_change_on_its_way() -> None:
    momentum = {"optim.lr": tune.uniform(0.1, 0.2), "model.momentum": tune.choice([(0.9, 1.0)])}
    check_exchange(TINY, momentum, ranges=False)
    for path, domain in {
        "model.width": tune.choice([16, 32]),
        "train.micro_batch": tune.choice([2, 4]),
        "seed": tune.randint(0, 9),
    }.items():
        with pytest.raises(UserError, match=f"{path} decides which"):
            check_exchange(TINY, {path: domain}, ranges=False)
    with pytest.raises(UserError, match="moves within ranges"):
        check_exchange(TINY, {"optim.lr": tune.choice([0.1, 0.2])}, ranges=True)


def test_a_grid_needs_values_that_can_be_counted() -> None:
    check_space(TINY, {"optim.lr": tune.choice([0.1, 0.2])}, grid=True)
    with pytest.raises(UserError, match="cannot be counted"):
        check_space(TINY, {"optim.lr": tune.uniform(0.1, 0.2)}, grid=True)


def test_a_grid_has_as_many_trials_as_combinations() -> None:
    parameters = {"optim.lr": tune.choice([0.1, 0.2, 0.3]), "optim.clip_norm": tune.choice([1.0, 3.0])}
    space = Space("tiny", parameters, "loss")
    assert Sweep("tiny", space, TINY, SweepOptions(search="grid"), Path()).trials == 6
    assert Sweep("tiny", space, TINY, SweepOptions(trials=9), Path()).trials == 9


def test_a_trial_finds_room_whatever_it_draws() -> None:
    space = SPACES["feeding"]()
    base = replace_all(RECIPES[space.recipe](), space.settings)
    assert most_demanding(base, space).data.pool(spare_cpus=1).least == 4
    assert most_demanding(base, Space("demo", {}, "loss")) == base


def test_losses_are_low_and_all_else_is_high() -> None:
    assert [lower_is_better(metric) for metric in ("loss", "held_out/loss", "held_out/knn")] == [True, True, False]


def test_as_many_at_once_as_there_is_room_for() -> None:
    recipe = replace_all(TINY, {"train.workers": 2, "train.global_batch": 8, "data.decoders": "2..4"})
    assert most_at_once(recipe, {"CPU": 16.0}, "cpu") == 4
    assert most_at_once(recipe, {"CPU": 16.0, "GPU": 4.0}, "cuda") == 2
    assert most_at_once(recipe, {"CPU": 2.0}, "cpu") == 1
    assert share_of({"CPU": 16.0, "GPU": 4.0}, 2) == {"CPU": 8.0, "GPU": 2.0}
