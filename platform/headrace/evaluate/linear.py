"""The linear probe: multinomial logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace import keyed

L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Strengths of the penalty that are tried, from simple to flexible."""

_MAX_STEPS = 100


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of standardised features.

    Attributes:
        mean, scale: [D], what features are standardised by: (features - mean) / scale.
        weight, bias: [C, D] and [C].
        l2: strength of the penalty that was chosen.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    l2: float

    def __call__(self, features: Tensor) -> Tensor:
        """Return the logits [N, C] of features [N, D]."""
        return (features.float() - self.mean) / self.scale @ self.weight.T + self.bias


def linear_probe_accuracy(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> float:
    """Return the share of test samples that a probe fitted on the training samples gets right."""
    probe = fit_linear_probe(train_features, train_labels)
    return _accuracy(probe(test_features), test_labels)


def fit_linear_probe(features: Tensor, labels: Tensor, *, l2_grid: Sequence[float] = L2_GRID) -> LinearProbe:
    """Fit a probe; the penalty is the one that does best on a held-out fifth, then all samples are used.

    Deterministic: the split depends on the number of samples alone, the solver is full-batch L-BFGS from 0.

    Args:
        features: [N, D] float; N at least 5.
        labels: [N] int64, from 0.
        l2_grid: strengths to try; of equals, the first is taken.
    """
    features, classes = features.detach().float(), int(labels.max()) + 1
    mean, scale = features.mean(dim=0), features.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-6 * mean.abs(), scale, 1.0)  # a constant feature stays constant
    inputs = (features - mean) / scale

    shuffled = torch.from_numpy(keyed.permute(np.arange(len(labels)), len(labels), "linear probe"))
    held_out, used = shuffled[: len(labels) // 5], shuffled[len(labels) // 5 :]
    best_l2, best_accuracy = l2_grid[0], -1.0
    for l2 in l2_grid:
        weight, bias = _minimise(inputs[used], labels[used], classes, l2)
        accuracy = _accuracy(F.linear(inputs[held_out], weight, bias), labels[held_out])
        if accuracy > best_accuracy:
            best_l2, best_accuracy = l2, accuracy

    weight, bias = _minimise(inputs, labels, classes, best_l2)
    return LinearProbe(mean, scale, weight, bias, best_l2)


def _minimise(inputs: Tensor, labels: Tensor, classes: int, l2: float) -> tuple[Tensor, Tensor]:
    """Return the weight [C, D] and bias [C] that minimise mean cross-entropy + l2 / 2 * |weight|^2.

    Features of a network are strongly correlated, and L-BFGS would need hundreds of steps. It works in the
    coordinates instead in which the curvature at the start, covariance / C + l2, is 1 in all directions.
    """
    curvature, axes = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    curvature = curvature.clamp_min(0) / classes + l2
    stretch = axes / curvature.sqrt()
    data = F.pad(inputs @ stretch, (0, 1), value=classes**0.5)
    penalty = F.pad(l2 / curvature, (0, 1))

    solution = torch.zeros(classes, data.shape[1], device=data.device, requires_grad=True)
    solver = torch.optim.LBFGS([solution], max_iter=_MAX_STEPS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        total = F.cross_entropy(data @ solution.T, labels) + (penalty * solution.square()).sum() / 2
        total.backward()
        return total

    solver.step(loss)
    found = solution.detach()
    return found[:, :-1] @ stretch.T, found[:, -1] * classes**0.5


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels).float().mean())
