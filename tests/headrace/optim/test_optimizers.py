"""Each optimizer by the property that makes it what it is, and the average of the weights by its closed form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headrace.errors import UserError
from headrace.optim import (
    Ema,
    Lion,
    OptimConfig,
    SophiaConfig,
    SophiaH,
    build_optimizer,
    eval_mode,
    hutchinson,
    learning_rate,
    set_schedule,
    train_mode,
)

NAMES = ("adamw", "schedule-free", "lion", "sophia-h")


def config(name: str, **settings: Any) -> OptimConfig:
    schedule = "constant" if name == "schedule-free" else "cosine"
    return OptimConfig(**{"name": name, "schedule": schedule, "lr": 0.01, **settings})


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def descend(optimizer: torch.optim.Optimizer, weights: nn.Parameter, loss: Callable[[Tensor], Tensor]) -> None:
    optimizer.zero_grad()
    loss(weights).backward()
    optimizer.step()


# Lion


def test_lion_in_closed_form() -> None:
    weights = parameter(1.0, -2.0)
    lion = Lion([weights], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    weights.grad = torch.tensor([3.0, -1.0])
    lion.step()
    assert weights.tolist() == pytest.approx([1 * 0.95 - 0.1, -2 * 0.95 + 0.1])
    before = weights.tolist()
    weights.grad = torch.tensor([-0.2, -1.0])  # c = 0.9 * 0.03 - 0.1 * 0.2 > 0 still
    lion.step()
    assert weights.tolist() == pytest.approx([before[0] * 0.95 - 0.1, before[1] * 0.95 + 0.1])
    assert lion.state[weights]["exp_avg"].tolist() == pytest.approx([0.99 * 0.03 - 0.01 * 0.2, 0.99 * -0.01 - 0.01])


def test_lion_moves_by_the_learning_rate_whatever_the_scale_of_the_gradient() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(20, 64)
    paths = []
    for scale in (1.0, 1e4):
        weights = nn.Parameter(torch.zeros(64))
        lion = Lion([weights], lr=0.01)
        path = [weights.detach().clone()]
        for gradient in gradients:
            weights.grad = scale * gradient
            lion.step()
            path.append(weights.detach().clone())
        moves = torch.stack(path).diff(dim=0).abs()
        torch.testing.assert_close(moves, torch.full_like(moves, 0.01))
        paths.append(torch.stack(path))
    assert torch.equal(*paths)


# Sophia-H


def test_the_estimate_is_the_diagonal_of_the_hessian() -> None:
    torch.manual_seed(0)
    square = torch.randn(6, 6, dtype=torch.float64)
    hessian = square @ square.T
    weights, unused = nn.Parameter(torch.randn(6, dtype=torch.float64)), parameter(1.0)
    linear = nn.Parameter(torch.zeros(3))
    samples = []
    for _ in range(4000):
        loss = 0.5 * weights @ hessian @ weights + linear.sum().double()
        found = hutchinson(loss, [weights, unused, linear])
        assert found[1] is None
        assert found[2] is not None
        assert not found[2].any(), "a linear loss has no curvature"
        assert found[0] is not None
        samples.append(found[0])
    mean, spread = torch.stack(samples).mean(0), torch.stack(samples).std(0) / 4000**0.5
    assert ((mean - hessian.diagonal()).abs() < 4 * spread).all()
    assert ((mean / hessian.diagonal() - 1).abs() < 0.15).all()


def test_the_estimate_sees_through_a_network() -> None:
    """Against the Hessian that autograd gives in full."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    inputs = torch.randn(16, 3, dtype=torch.float64)
    weights = network[0].weight

    def loss_at(values: Tensor) -> Tensor:
        return torch.func.functional_call(network, {"0.weight": values}, inputs).square().mean()

    full = torch.autograd.functional.hessian(loss_at, weights.detach()).reshape(12, 12).diagonal()  # type: ignore[no-untyped-call]
    samples = []
    for _ in range(3000):
        [found] = hutchinson(network(inputs).square().mean(), [weights])
        assert found is not None
        samples.append(found.flatten())
    spread = torch.stack(samples).std(0) / 3000**0.5
    assert ((torch.stack(samples).mean(0) - full).abs() < 5 * spread + 1e-6).all()


def test_sophia_in_closed_form() -> None:
    weights = parameter(1.0, 1.0, 1.0)
    sophia = SophiaH([weights], lr=0.1, betas=(0.5, 0.75), weight_decay=0.5, gamma=2.0, eps=1e-12)
    sophia.estimate([torch.tensor([8.0, -1.0, 0.0])])
    weights.grad = torch.tensor([4.0, 1e-6, 0.0])
    sophia.step()
    # m = 2, h = 2: m / (gamma h) = 0.5; a negative curvature gives the sign; no gradient gives only the decay
    assert weights.tolist() == pytest.approx([0.95 - 0.05, 0.95 - 0.1, 0.95])


def test_no_coordinate_of_sophia_moves_further_than_the_learning_rate() -> None:
    torch.manual_seed(0)
    weights = nn.Parameter(torch.randn(1000))
    sophia = SophiaH([weights], lr=0.01)
    for _ in range(20):
        before = weights.detach().clone()
        weights.grad = 100 * torch.randn(1000)
        sophia.estimate([torch.randn(1000)])
        sophia.step()
        assert (weights.detach() - before).abs().max() <= 0.01 * (1 + 1e-4)


def test_sophia_goes_straight_down_an_ill_conditioned_bowl() -> None:
    """With curvatures 1 and 10^4, gradient descent at any stable rate is still far away after as many steps."""
    curvature = torch.tensor([1.0, 1e4])
    weights = parameter(1.0, 1.0)
    sophia = SophiaH([weights], lr=0.3, betas=(0.0, 0.0), gamma=1.0)
    for _ in range(40):
        sophia.zero_grad()
        loss = 0.5 * (curvature * weights.square()).sum()
        sophia.estimate([curvature])
        loss.backward()
        sophia.step()
    assert weights.abs().max() < 1e-5


# Schedule-Free


def test_schedule_free_is_its_authors_reference() -> None:
    from schedulefree import AdamWScheduleFreeReference

    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 4), nn.Linear(4, 4)
    theirs.load_state_dict(ours.state_dict())
    settings = config("schedule-free", warmup_steps=5, start_lr=0.002, weight_decay=0.1, final_weight_decay=0.1)
    one = build_optimizer(ours, settings)
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    other = AdamWScheduleFreeReference(groups, lr=0.01)
    other.train()
    for step in range(30):
        inputs = torch.randn(8, 4)
        set_schedule(one, step, 30, settings)
        for group in other.param_groups:
            group["lr"] = learning_rate(step, 30, settings)
        for module, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            module(inputs).square().mean().backward()
            optimizer.step()
    with eval_mode(one):
        other.eval()
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-4, atol=1e-6)


def test_schedule_free_evaluates_the_average_and_goes_on_where_it_was() -> None:
    """x is the average of all z, weighted by the square of the highest learning rate so far."""
    weights = nn.Parameter(torch.tensor([[1.0, -1.0]]))
    module = nn.Module()
    module.weight = weights
    settings = config("schedule-free", warmup_steps=4, start_lr=0.001, weight_decay=0.0, final_weight_decay=0.0)
    optimizer = build_optimizer(module, settings)
    average, total = torch.zeros_like(weights), 0.0
    for step in range(12):
        set_schedule(optimizer, step, 12, settings)
        descend(optimizer, weights, lambda w: (w - 3).square().sum())
        weight = learning_rate(step, 12, settings) ** 2
        total += weight
        average += weight / total * (optimizer.state[weights]["z"] - average)
    trained = weights.detach().clone()
    with eval_mode(optimizer):
        torch.testing.assert_close(weights.detach(), average.detach(), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(weights, trained)
        with pytest.raises(Exception, match="train mode"):
            optimizer.step()
    torch.testing.assert_close(weights.detach(), trained)


def test_schedule_free_takes_no_schedule() -> None:
    with pytest.raises(UserError, match="schedule must be constant for schedule-free, got cosine"):
        OptimConfig(name="schedule-free")


# All of them


@pytest.mark.parametrize("name", NAMES)
def test_vectors_never_decay(name: str) -> None:
    linear = nn.Linear(3, 2)
    settings = config(name, weight_decay=0.5, final_weight_decay=0.5)
    optimizer = build_optimizer(linear, settings)
    for p in linear.parameters():
        p.grad = torch.zeros_like(p)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    set_schedule(optimizer, 0, 10, settings)
    optimizer.step()
    torch.testing.assert_close(linear.weight.detach(), weight * (1 - 0.5 * 0.01), atol=1e-7, rtol=1e-5)
    assert torch.equal(linear.bias, bias)


@pytest.mark.parametrize("name", NAMES)
def test_each_finds_the_bottom_of_a_bowl(name: str) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(4, 1)
    goal = torch.tensor([[1.0, -2.0, 0.5, 0.0]])
    rate = 0.3 if name == "schedule-free" else 0.05
    settings = config(name, lr=rate, weight_decay=0.0, final_weight_decay=0.0)
    optimizer = build_optimizer(linear, settings)
    for step in range(300):
        inputs = torch.randn(32, 4)
        set_schedule(optimizer, step, 300, settings)
        optimizer.zero_grad()
        loss = (linear(inputs) - inputs @ goal.T).square().mean()
        if isinstance(optimizer, SophiaH) and step % 5 == 0:
            optimizer.estimate(hutchinson(loss, optimizer.parameters))
            loss = (linear(inputs) - inputs @ goal.T).square().mean()
        loss.backward()
        optimizer.step()
    with eval_mode(optimizer):
        torch.testing.assert_close(linear.weight.detach(), goal, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_optimizer_goes_on_the_same(name: str) -> None:
    def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            inputs = torch.full((4, 3), float(step + 1)) / 10
            set_schedule(optimizer, step, 20, settings)
            optimizer.zero_grad()
            if isinstance(optimizer, SophiaH):
                torch.manual_seed(step)
                optimizer.estimate(hutchinson(module(inputs).square().mean(), optimizer.parameters))
            module(inputs).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    settings = config(name)
    straight = nn.Linear(3, 2)
    broken = copy.deepcopy(straight)
    whole = build_optimizer(straight, settings)
    train(straight, whole, range(20))
    first = build_optimizer(broken, settings)
    train(broken, first, range(7))
    with eval_mode(first):
        weights, state = copy.deepcopy(broken.state_dict()), copy.deepcopy(first.state_dict())
    again = nn.Linear(3, 2)
    second = build_optimizer(again, settings)
    again.load_state_dict(weights)
    second.load_state_dict(state)
    train_mode(second)
    train(again, second, range(7, 20))
    torch.testing.assert_close(again.weight, straight.weight, atol=1e-6, rtol=1e-5)


def test_settings_that_nothing_would_read() -> None:
    with pytest.raises(UserError, match=r"--optim.decay-share means nothing for the schedule cosine: leave it at 0.2"):
        OptimConfig(decay_share=0.1)
    with pytest.raises(UserError, match=r"--optim.min-lr means nothing for a constant schedule"):
        OptimConfig(schedule="constant", min_lr=0.0)
    with pytest.raises(UserError, match=r"--optim.sophia means nothing for lion"):
        OptimConfig(name="lion", sophia=SophiaConfig(every=5))
    with pytest.raises(UserError, match=r"there is no optimizer 'lionn'.*lion"):
        OptimConfig(name="lionn")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("wsd", [1.0, 1.0, 1.0, 0.5]),
        ("cosine", [1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_in_closed_form(schedule: str, expected: list[float]) -> None:
    settings: dict[str, Any] = {"schedule": schedule, "lr": 1.0, "start_lr": 0.0, "warmup_steps": 20}
    settings |= {"min_lr": 0.0} if schedule != "constant" else {}
    settings |= {"decay_share": 0.4} if schedule == "wsd" else {}
    rates = [learning_rate(step, 100, OptimConfig(**settings)) for step in (20, 40, 60, 80)]
    assert rates == pytest.approx(expected, abs=1e-6)
    assert learning_rate(5, 100, OptimConfig(**settings)) == pytest.approx(0.25)


# The average of the weights


def test_the_average_in_closed_form() -> None:
    linear = nn.Linear(1, 1, bias=False)
    ema = Ema(linear, 0.9)
    values = [1.0, 2.0, 5.0, -3.0]
    expected = values[0]
    for value in values:
        with torch.no_grad():
            linear.weight.fill_(value)
        ema.update()
        expected = 0.9 * expected + 0.1 * value
    with ema.applied():
        assert linear.weight.item() == pytest.approx(expected, rel=1e-6)
    assert linear.weight.item() == -3.0


def test_the_average_is_of_trained_weights_and_in_fp32() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).bfloat16()
    network[0].requires_grad_(False)
    ema = Ema(network, 0.999)
    state = ema.state_dict()
    assert set(state["average"]) == {"1.weight", "1.bias"}
    assert all(value.dtype == torch.float32 for value in state["average"].values())
    start = network[1].weight.detach().float().clone()
    ema.update()
    with torch.no_grad():
        network[1].weight.add_(1.0)
    for _ in range(10):
        ema.update()
    moved = (ema.state_dict()["average"]["1.weight"] - start).mean().item()
    assert moved == pytest.approx(1 - 0.999**10, rel=0.05), "in BF16 such small moves would be lost"


def test_a_saved_average_goes_on() -> None:
    linear = nn.Linear(2, 2)
    one = Ema(linear, 0.5)
    one.update()
    other = Ema(nn.Linear(2, 2), 0.5)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.no_grad():
        linear.weight.add_(1.0)
    one.update()
    assert other.state_dict()["updates"] == 1
    assert one.state_dict()["updates"] == 2
    assert not torch.equal(one.state_dict()["average"]["weight"], other.state_dict()["average"]["weight"])


@pytest.mark.parametrize("ema", [0.0, 1.0])
def test_an_impossible_average(ema: float) -> None:
    with pytest.raises(UserError, match="ema must be between 0 and 1"):
        OptimConfig(ema=ema)
