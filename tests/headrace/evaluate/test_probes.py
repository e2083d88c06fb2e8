"""Probes of frozen features: what they must find, and what they must not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.evaluate import fit_linear_probe, knn_accuracy, linear_probe_accuracy
from headrace.evaluate.linear import _minimise


def clusters(count: int, spread: float, start: int = 0) -> tuple[Tensor, Tensor]:
    """Return features [count, 16] around five directions, and which."""
    centres = F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(99)), dim=1)
    draws = torch.Generator().manual_seed(start)
    labels = torch.randint(5, (count,), generator=draws)
    return centres[labels] + spread * torch.randn(count, 16, generator=draws), labels


def naive_knn(train: Tensor, labels: Tensor, query: Tensor, k: int, temperature: float) -> int:
    votes: dict[int, float] = {}
    cosines = [float(F.cosine_similarity(query, sample, dim=0)) for sample in train]
    for near in sorted(range(len(train)), key=lambda sample: -cosines[sample])[:k]:
        label = int(labels[near])
        votes[label] = votes.get(label, 0.0) + math.exp(cosines[near] / temperature)
    return max(votes, key=lambda label: votes[label])


def test_knn_equals_the_definition() -> None:
    (train, labels), (test, truth) = clusters(80, 0.4), clusters(40, 0.4, start=1)
    votes = [naive_knn(train, labels, query, k=7, temperature=0.07) for query in test]
    expected = sum(vote == int(label) for vote, label in zip(votes, truth, strict=True)) / 40
    assert 0.3 < expected < 1.0
    assert knn_accuracy(train, labels, test, truth, k=7) == pytest.approx(expected)


def test_knn_at_its_edges() -> None:
    train, labels = clusters(60, 0.3)
    assert knn_accuracy(train, labels, train, labels, k=1) == 1.0
    assert knn_accuracy(10 * train, labels, train, labels, k=1) == 1.0, "length does not matter"
    assert knn_accuracy(train, labels, train, labels, k=1000, temperature=0.001) == 1.0, "and no overflow"
    assert knn_accuracy(train, labels, train, labels + 5) == 0.0, "a class never seen"


@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-6])
def test_linear_solution_is_the_minimum(l2: float) -> None:
    """The gradient of the stated objective vanishes, also where features are nearly collinear."""
    features, labels = clusters(400, 0.4)
    features = torch.cat([features, features[:, :8] + 1e-3 * torch.randn(400, 8)], dim=1)
    features = (features - features.mean(dim=0)) / features.std(dim=0)
    weight, bias = (part.requires_grad_() for part in _minimise(features, labels, 5, l2))
    loss = F.cross_entropy(F.linear(features, weight, bias), labels) + l2 / 2 * weight.square().sum()
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(gradient.abs().max().item() for gradient in gradients) < 2e-4


def test_linear_probe_finds_what_is_there() -> None:
    accuracy = linear_probe_accuracy(*clusters(500, 0.2), *clusters(300, 0.2, start=1))
    assert accuracy > 0.97


def test_linear_probe_finds_nothing_in_noise() -> None:
    features, labels = clusters(600, 0.2)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(3))
    assert linear_probe_accuracy(noise[:400], labels[:400], noise[400:], labels[400:]) < 0.35


def test_linear_probe_chooses_its_penalty() -> None:
    """Few samples in many noisy dimensions want a strong penalty, a faint difference a weak one."""
    draws = torch.Generator().manual_seed(3)
    features, labels = clusters(60, 0.4)
    noisy = torch.cat([features, torch.randn(60, 200, generator=draws)], dim=1)
    assert fit_linear_probe(noisy, labels).l2 >= 1e-2

    common, difference = torch.randn(2, 500, generator=draws)
    faint = torch.stack([common, common + 0.02 * difference], dim=1)
    assert fit_linear_probe(faint, (difference > 0).long()).l2 <= 1e-4


def test_linear_probe_does_not_see_scale_or_shift() -> None:
    (train, labels), (test, truth) = clusters(300, 0.4), clusters(300, 0.4, start=1)
    scale, shift = torch.logspace(-3, 3, 16), torch.linspace(-10, 10, 16)
    plain = linear_probe_accuracy(train, labels, test, truth)
    moved = linear_probe_accuracy(train * scale + shift * scale, labels, test * scale + shift * scale, truth)
    assert moved == pytest.approx(plain, abs=0.01)


def test_constant_features_do_no_harm() -> None:
    (train, labels), (test, truth) = clusters(300, 0.2), clusters(300, 0.2, start=1)
    padded = (F.pad(features, (0, 3), value=0.1) for features in (train, test))
    assert linear_probe_accuracy(next(padded), labels, next(padded), truth) > 0.97
    collapsed = torch.full((300, 16), 0.1)
    assert linear_probe_accuracy(collapsed, labels, collapsed, truth) < 0.4


def test_linear_probe_is_deterministic() -> None:
    torch.manual_seed(0)
    first = fit_linear_probe(*clusters(200, 0.4))
    torch.manual_seed(1)
    second = fit_linear_probe(*clusters(200, 0.4))
    assert torch.equal(first.weight, second.weight)
    assert first.l2 == second.l2
