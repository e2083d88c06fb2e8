from __future__ import annotations

import math
import random

import pytest
from test_observe_report import checked

from headrace.observe.sweep_report import Tried, importances, ranked, write_sweep_report


def tried(count, *, lower=True, failing=()):
    draws = random.Random(0)
    trials = []
    for number in range(1, count + 1):
        lr = 10 ** draws.uniform(-4, -2)
        off = abs(math.log10(lr) + 3)
        value = math.nan if number in failing else (off if lower else -off)
        settings = {"optim.lr": lr, "optim.clip_norm": draws.choice([0.3, 1.0]), "model.momentum": (0.99, 1.0)}
        curve = [(step, value + 10 / step) for step in (50, 100, 200)]
        note = "<b>it broke" if number in failing else ""
        trials.append(Tried(number, settings, value, 200, 12.5, f"/runs/trials/{number}/0", note, curve))
    return trials


@pytest.mark.parametrize("count", [0, 1, 2, 7, 16])
@pytest.mark.parametrize("lower", [True, False])
def test_any_number_of_trials(tmp_path, count, lower):
    path = write_sweep_report(tmp_path, "demo", "held_out/loss", tried(count, lower=lower), lower)
    text = checked(path.read_text())
    assert f"{count} trial" in text
    if count:
        best = ranked(tried(count, lower=lower), lower)[0]
        assert f"in trial {best.number} of" in text
        assert f"python jobs/train.py --from-run {tmp_path}/best" in text


def test_trials_that_failed_are_named_and_escaped(tmp_path):
    text = checked(write_sweep_report(tmp_path, "demo", "loss", tried(8, failing=(2, 5)), True).read_text())
    assert "2 of which were not measured" in text
    assert "<b>it broke" in text


def test_all_failed(tmp_path):
    text = checked(write_sweep_report(tmp_path, "demo", "loss", tried(3, failing=(1, 2, 3)), True).read_text())
    assert "3 of which were not measured" in text
    assert "--from-run" not in text


@pytest.mark.parametrize(("lower", "order"), [(True, [2, 3, 1]), (False, [3, 2, 1])])
def test_what_ended_early_is_not_best(lower, order):
    trials = [
        Tried(number, {"optim.lr": 0.1}, value, steps, 1.0, "", "", [])
        for number, value, steps in ((1, 0.5, 30), (2, 0.7, 90), (3, 0.8, 90))
    ]
    assert [trial.number for trial in ranked(trials, lower)] == order


@pytest.mark.parametrize("lower", [True, False])
def test_what_makes_the_difference_is_important(lower):
    pytest.importorskip("optuna")
    found = importances(ranked(tried(60, lower=lower), lower))
    assert set(found) == {"optim.lr", "optim.clip_norm"}, "what never changes is not judged"
    assert found["optim.lr"] > 0.7
    assert importances(tried(3)) == {}
