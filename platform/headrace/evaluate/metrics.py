"""Signs of collapse, from features alone. A loss cannot show it: a constant encoder predicts itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-7


def rankme(features: Tensor) -> float:
    """Return RankMe, the effective rank of features [N, D]: between 1 (collapsed) and min(N, D).

    exp of the entropy of p = sigma / sum(sigma) + 1e-7 over the singular values sigma (Garrido et al.,
    "RankMe", arXiv 2210.02885). The paper uses 25,600 samples; compare only runs of one method.
    """
    singular = torch.linalg.svdvals(_checked(features).double())
    share = singular / singular.sum().clamp_min(_EPSILON) + _EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


def feature_std(features: Tensor) -> float:
    """Return the mean over dimensions of the standard deviation of L2-normalised features [N, D].

    Features spread evenly over the sphere have 1 / sqrt(D), collapsed ones 0 (Chen & He, "SimSiam",
    arXiv 2011.10566).
    """
    directions = F.normalize(_checked(features).double(), dim=1)
    return float(directions.std(dim=0, correction=0).mean())


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features must be [N, D] with N > 0, got shape {tuple(features.shape)}")
    if not features.isfinite().all():
        raise ValueError("features hold values that are not finite")
    return features
