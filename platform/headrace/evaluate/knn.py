"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 1024


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Return the share of test samples whose class wins the vote of their k nearest training samples.

    Nearness is cosine similarity s, and a neighbour's vote weighs exp(s / temperature): Wu et al.
    (arXiv 1805.01978) with DINO's values (arXiv 2104.14294).

    Args:
        train_features, test_features: [N, D] and [M, D] float, on one device.
        train_labels, test_labels: [N] and [M] int64, from 0.
        k: at most N neighbours are used.
    """
    train, test = F.normalize(train_features.float(), dim=1), F.normalize(test_features.float(), dim=1)
    classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    right = 0
    for queries, labels in zip(test.split(_CHUNK), test_labels.split(_CHUNK), strict=True):
        won = _vote(queries @ train.T, train_labels, classes, min(k, len(train)), temperature)
        right += int((won == labels).sum())
    return right / len(test)


def knn_accuracy_left_one_out(features: Tensor, labels: Tensor, *, k: int = 20, temperature: float = 0.07) -> float:
    """Return the share of samples whose class wins the vote of their k nearest among all the others.

    Args:
        features: [N, D] float, N at least 2.
        labels: [N] int64, from 0.
        k, temperature: as of `knn_accuracy`.
    """
    directions, classes = F.normalize(features.float(), dim=1), int(labels.max()) + 1
    right = 0
    for start in range(0, len(features), _CHUNK):
        similarity = directions[start : start + _CHUNK] @ directions.T
        similarity.diagonal(start).fill_(-torch.inf)
        won = _vote(similarity, labels, classes, min(k, len(features) - 1), temperature)
        right += int((won == labels[start : start + _CHUNK]).sum())
    return right / len(features)


def _vote(similarity: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Return the class [Q] that the k nearest give each query.

    Args:
        similarity: of queries and voters [Q, N].
        labels: of the voters [N].
    """
    nearest, neighbour = similarity.topk(k, dim=1)
    votes = torch.zeros(len(similarity), classes, device=similarity.device)
    # Subtracting the best scales all votes of a query alike, and keeps exp from overflowing.
    votes.scatter_add_(1, labels[neighbour], ((nearest - nearest[:, :1]) / temperature).exp())
    return votes.argmax(dim=1)
