"""AdamW's groups, and the schedules against their closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from headrace.errors import UserError
from headrace.layers.block import Block
from headrace.models.hjepa import HJepaConfig
from headrace.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_schedule,
    weight_decay,
)

CONFIG = OptimConfig(lr=1e-3, start_lr=2e-4, min_lr=1e-6, warmup_steps=10, weight_decay=0.04, final_weight_decay=0.4)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = HJepaConfig(
        patch_size=4, width=24, depth=1, heads=2, predictor_width=16, predictor_depth=1, predictor_heads=2
    ).build(16, 16)
    optimizer = build_optimizer(model, CONFIG)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decaying, resting = ({names[p] for p in group["params"]} for group in optimizer.param_groups)
    assert decaying | resting == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not decaying & resting
    assert "predictor.mask_token" in resting
    assert all(name.endswith(".weight") for name in decaying)
    assert all("norm" in name or name.endswith((".bias", "mask_token")) for name in resting)


def test_layer_scale_does_not_decay() -> None:
    block = Block(8, 2, layer_scale=0.1)
    resting = build_optimizer(block, CONFIG).param_groups[1]["params"]
    assert any(parameter is block.attention_branch[0].gamma for parameter in resting)


def test_learning_rate_in_closed_form() -> None:
    rates = [learning_rate(step, 110, CONFIG) for step in range(111)]
    assert rates[0] == 2e-4
    assert rates[5] == pytest.approx((2e-4 + 1e-3) / 2)
    assert rates[10] == 1e-3 == max(rates)
    assert rates[60] == pytest.approx((1e-3 + 1e-6) / 2)
    assert rates[35] == pytest.approx(1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[110] == pytest.approx(1e-6)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_weight_decay_in_closed_form() -> None:
    decays = [weight_decay(step, 100, CONFIG) for step in range(101)]
    assert decays[0] == pytest.approx(0.04)
    assert decays[50] == pytest.approx(0.22)
    assert decays[100] == pytest.approx(0.4)
    assert decays == sorted(decays)


def test_no_warm_up_starts_at_the_top() -> None:
    assert learning_rate(0, 1, OptimConfig()) == 1e-3


def test_set_schedule_reaches_the_step() -> None:
    """Zero gradients: an AdamW step is then p *= 1 - lr * decay, and nothing for vectors."""
    linear = nn.Linear(3, 2)
    optimizer = build_optimizer(linear, CONFIG)
    for parameter in linear.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    set_schedule(optimizer, 60, 110, CONFIG)
    optimizer.step()
    shrunk = weight * (1 - learning_rate(60, 110, CONFIG) * weight_decay(60, 110, CONFIG))
    torch.testing.assert_close(linear.weight.detach(), shrunk, atol=1e-9, rtol=1e-6)
    assert torch.equal(linear.bias, bias)


def test_resumed_optimizer_goes_on_the_same() -> None:
    def train(linear: nn.Linear, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            linear(torch.full((4, 3), float(step + 1))).square().mean().backward()
            set_schedule(optimizer, step, 20, CONFIG)
            optimizer.step()

    torch.manual_seed(0)
    straight, broken = nn.Linear(3, 2), nn.Linear(3, 2)
    broken.load_state_dict(straight.state_dict())
    train(straight, build_optimizer(straight, CONFIG), range(20))

    first = build_optimizer(broken, CONFIG)
    train(broken, first, range(7))
    second = build_optimizer(broken, CONFIG)
    second.load_state_dict(first.state_dict())
    train(broken, second, range(7, 20))
    assert torch.equal(broken.weight, straight.weight)
    assert torch.equal(broken.bias, straight.bias)


def test_clipping() -> None:
    linear = nn.Linear(2, 1, bias=False)
    linear.weight.grad = torch.tensor([[3.0, 4.0]])
    assert clip_gradients(linear, OptimConfig(clip_norm=None)).item() == pytest.approx(5.0)
    assert linear.weight.grad.tolist() == [[3.0, 4.0]]
    assert clip_gradients(linear, OptimConfig(clip_norm=1.0)).item() == pytest.approx(5.0)
    assert linear.weight.grad.flatten().tolist() == pytest.approx([0.6, 0.8], rel=1e-4)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("lr", 0.0, "lr must be above 0, got 0.0"),
        ("lr", float("nan"), "lr must be 0 or more, got nan"),
        ("start_lr", -1.0, "start_lr must be 0 or more"),
        ("min_lr", 1.0, "min_lr must be at most lr, 0.001, got 1.0"),
        ("betas", (0.9, 1.0), r"betas must be in \[0, 1\)"),
        ("warmup_steps", -1, "warmup_steps must be 0 or more"),
        ("clip_norm", 0.0, "clip_norm must be above 0"),
        ("weight_decay", -0.1, "weight_decay must be 0 or more"),
    ],
)
def test_impossible_values(setting: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OptimConfig(**{setting: value})


@pytest.mark.parametrize("steps", [1, 10])
def test_warm_up_longer_than_the_run(steps: int) -> None:
    with pytest.raises(UserError, match=f"warmup_steps must be fewer than the run's {steps} steps, got 10"):
        learning_rate(0, steps, CONFIG)
    with pytest.raises(UserError, match="warmup_steps"):
        CONFIG.check_steps(steps)
