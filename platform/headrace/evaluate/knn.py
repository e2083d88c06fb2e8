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
        similarity, neighbour = (queries @ train.T).topk(min(k, len(train)), dim=1)
        votes = torch.zeros(len(queries), classes, device=train.device)
        # Subtracting the best scales all votes of a query alike, and keeps exp from overflowing.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        votes.scatter_add_(1, train_labels[neighbour], weight)
        right += int((votes.argmax(dim=1) == labels).sum())
    return right / len(test)
