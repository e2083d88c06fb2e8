"""Steps that are left out: which, what stays as it was, and when that is too many."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_recipe import TINY
from torch import Tensor, nn

from headrace.batch import fake_batch
from headrace.errors import UserError
from headrace.optim import OptimConfig, SophiaConfig, build_optimizer, step_unless, train_mode
from headrace.recipe import Recipe
from headrace.train.config import GuardConfig, TrainConfig
from headrace.train.guard import WARM_UP_STEPS, Guard
from headrace.train.loop import build_trainable
from headrace.train.meter import Meter, Refused, refusals_exceeded
from headrace.train.progress import REFUSED_WINDOW, Progress
from headrace.train.step import StepResult, train_step
from headrace.train.step_cost import noise_feed

CPU = torch.device("cpu")


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, -math.inf)])
def test_what_is_not_finite_is_refused(loss: float, norm: float) -> None:
    guard = Guard(GuardConfig(), CPU)
    assert guard.refuses(scalar(loss), scalar(norm))
    assert not guard.refuses(scalar(1e30), scalar(1e30)), "large is no spike where nobody asked"


def test_a_spike_stands_out_from_the_steps_before_it() -> None:
    guard = Guard(GuardConfig(spike=6.0), CPU)
    draws = torch.Generator().manual_seed(0)
    values = (1 + 0.1 * torch.randn(1000, 2, generator=draws)).tolist()
    assert not any(guard.refuses(scalar(loss), scalar(norm)) for loss, norm in values)
    assert guard.refuses(scalar(2.0), scalar(1.0))
    assert guard.refuses(scalar(1.0), scalar(2.0))
    assert not guard.refuses(scalar(0.0), scalar(0.0)), "below is no harm"
    before = {name: value.clone() for name, value in guard.state_dict().items()}
    assert guard.refuses(scalar(math.nan), scalar(50.0))
    assert all(torch.equal(value, before[name]) for name, value in guard.state_dict().items()), "it learns none of it"


def test_nothing_is_a_spike_in_the_first_steps_and_a_fall_of_the_loss_is_followed() -> None:
    guard = Guard(GuardConfig(spike=4.0), CPU)
    assert not any(guard.refuses(scalar(10.0 ** (step % 3)), scalar(1.0)) for step in range(WARM_UP_STEPS))
    guard = Guard(GuardConfig(spike=4.0), CPU)
    draws = torch.Generator().manual_seed(1)
    for step in range(600):
        loss = math.exp(-step / 100) + 0.02 * float(torch.randn((), generator=draws))
        assert not guard.refuses(scalar(loss), scalar(1.0)), step


def test_the_recent_past_is_a_mean_and_a_variance() -> None:
    guard = Guard(GuardConfig(spike=1e9), CPU)
    values = torch.arange(1.0, WARM_UP_STEPS + 1)
    for value in values:
        guard.refuses(value, 2 * value)
    state = guard.state_dict()
    torch.testing.assert_close(state["mean"], torch.stack([values.mean(), 2 * values.mean()]))
    torch.testing.assert_close(
        state["variance"], torch.stack([values.var(correction=0), (2 * values).var(correction=0)])
    )


@pytest.mark.parametrize("name", ["adamw", "schedule-free", "lion", "sophia-h"])
def test_a_step_that_is_left_out_leaves_weights_and_averages(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = build_optimizer(model, OptimConfig(name=name, lr=0.1, schedule="constant", warmup_steps=0))  # type: ignore
    train_mode(optimizer)

    def go(refused: bool, scale: float) -> None:
        model(scale * torch.ones(2, 4)).square().sum().backward()
        step_unless(torch.tensor(refused), optimizer)
        optimizer.zero_grad()

    go(False, 1.0)
    weights = [p.detach().clone() for p in model.parameters()]
    state = {
        (i, key): torch.as_tensor(value).clone()
        for i, p in enumerate(model.parameters())
        for key, value in optimizer.state[p].items()
    }
    go(True, math.nan)
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), weights, strict=True))
    for i, p in enumerate(model.parameters()):
        for key, value in optimizer.state[p].items():
            assert torch.equal(torch.as_tensor(value), state[i, key]), key
    go(False, 1.0)
    assert not torch.equal(model.weight, weights[0]), "the next one is taken"


def poisoned(recipe: Recipe, bad: int) -> list[StepResult]:
    """Take six steps, of which one has a loss that is not a number."""
    trainable, now = build_trainable(recipe, CPU), 0
    forward = trainable.objective.forward

    def poison(batch):  # type: ignore[no-untyped-def]
        loss, extra = forward(batch)
        return (loss * math.nan if now == bad else loss), extra

    trainable.objective.forward = poison  # type: ignore[method-assign]
    results = []
    with noise_feed(recipe, CPU) as feed:
        for now in range(6):
            results += [train_step(trainable, feed, now, (0, 0), recipe.train, recipe.optim)]
    return results


@pytest.mark.parametrize("name", ["adamw", "sophia-h"])
def test_training_goes_on_after_a_loss_that_is_no_number(name: str) -> None:
    """Sophia-H looks at the curvature in the bad step, too."""
    sophia = replace(TINY.optim, name="sophia-h", sophia=SophiaConfig(every=3))
    results = poisoned(replace(TINY, optim=sophia if name == "sophia-h" else TINY.optim), bad=3)
    assert [bool(result.refused) for result in results] == [False, False, False, True, False, False]
    assert [math.isfinite(float(result.loss)) for result in results] == [True, True, True, False, True, True]


def test_the_record_says_which_samples_it_was() -> None:
    meter = Meter(CPU)
    for number, result in enumerate(poisoned(TINY, bad=3), 1):
        batches = [replace(fake_batch(2, 1, 4, 4), keys=(f"a{number}", f"b{number}"))]
        meter.add(replace(result, batches=batches))
    measured = meter.reduce(1, stop=False)
    [refused] = measured.refused
    assert (refused.step, refused.keys) == (4, ("a4", "b4"))
    assert math.isnan(refused.loss)
    assert math.isfinite(measured.record["loss"]), "the mean is over the steps that were taken"


def test_the_budget_counts_the_last_thousand_steps() -> None:
    progress = Progress(step=10)
    progress.count_refused([3, 10])
    newest = [Refused(10, math.nan, math.inf, tuple("abcdefghij"))]
    assert refusals_exceeded(progress, 2, newest) is None
    said = refusals_exceeded(progress, 1, newest)
    assert said is not None
    assert "2 of the last 1,000 steps" in said
    assert "step 10 (loss nan, gradient norm inf, samples a, b, c, d, e, f, g, h and 2 more)" in said
    progress.step = 3 + REFUSED_WINDOW
    progress.count_refused([])
    assert progress.refused == [10]
    assert refusals_exceeded(progress, 0, []) is None, "what was within the budget then is no reason to stop now"


def test_impossible_settings() -> None:
    with pytest.raises(UserError, match="budget"):
        GuardConfig(budget=-1)
    with pytest.raises(UserError, match="spike"):
        GuardConfig(spike=0.0)
    with pytest.raises(UserError, match="kernel"):
        TrainConfig(attention=())
    with pytest.raises(UserError, match="profile"):
        TrainConfig(profile=(5, 3))
