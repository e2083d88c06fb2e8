"""RankMe and the spread of features at values that are known exactly."""

from __future__ import annotations

import math

import pytest
import torch

from headrace.evaluate import feature_std, rankme


def test_rankme_of_orthonormal_features() -> None:
    basis = torch.linalg.qr(torch.randn(300, 64))[0]
    assert rankme(basis) == pytest.approx(64.0, abs=0.01)
    assert rankme(5 * basis) == pytest.approx(64.0, abs=0.01)


def test_rankme_of_rank_one() -> None:
    assert rankme(torch.randn(300, 1) @ torch.randn(1, 64)) == pytest.approx(1.0, abs=0.01)


def test_rankme_between() -> None:
    """Singular values 2, 1, 1: entropy 1.5 bits."""
    features = torch.linalg.qr(torch.randn(50, 3))[0] * torch.tensor([2.0, 1.0, 1.0])
    assert rankme(features) == pytest.approx(2**1.5, abs=0.01)


def test_rankme_of_nothing() -> None:
    assert rankme(torch.zeros(10, 8)) == pytest.approx(1.0, abs=0.01)


def test_spread_over_the_sphere() -> None:
    torch.manual_seed(0)
    assert feature_std(torch.randn(5000, 100)) == pytest.approx(1 / math.sqrt(100), rel=0.02)


def test_spread_of_a_constant() -> None:
    assert feature_std(torch.randn(1, 16).repeat(50, 1)) == pytest.approx(0.0, abs=1e-6)
    assert feature_std(torch.zeros(50, 16)) == 0.0


@pytest.mark.parametrize("measure", [rankme, feature_std])
def test_impossible_features(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="not finite"):
        measure(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"must be \[N, D\]"):
        measure(torch.zeros(3))
