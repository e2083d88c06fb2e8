"""I-JEPA's objective (arXiv 2301.08243): the level 0 of H-JEPA.

images --- all patches ----> target encoder -> layer norm -> tokens of the target blocks ---+
   |                         (moving average, no gradient)                                   smooth L1
   +------ context patches -> encoder -> predictor (+ places of a target block) ------------+
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from headrace import keyed
from headrace.batch import DeviceBatch
from headrace.layers.patch_embed import take
from headrace.layers.vit import ViT
from headrace.models import Objective
from headrace.models.hjepa.masks import MaskSampler
from headrace.models.hjepa.predictor import Predictor

_LEAST_VARIANCE = 1e-6
"""Of normalised targets, whose mean square is 1; one that is smaller is rounding."""


@dataclass(frozen=True)
class _Guess:
    """What is predicted of N images, and what is true: J targets of P places each, on a grid of L.

    Attributes:
        predictions, truth: [N, J, P, D].
        weight: [N, J, P], the same at each place of an image's targets and 0 at padding; an image's sum is 1.
        tokens, everywhere: [N, L, D], what the target encoder says of all places, and the same normalised.
        context: [N, K, D], what the encoder says of the context.
    """

    predictions: Tensor
    truth: Tensor
    weight: Tensor
    tokens: Tensor
    everywhere: Tensor
    context: Tensor

    def mean_over_targets(self, errors: Tensor) -> Tensor:
        """Return the mean of each image's errors [N, J, P, D], over its own targets: [N]. Others have no part in it."""
        return (errors.mean(dim=-1) * self.weight).sum(dim=(1, 2))


class HJepa(Objective):
    """Encoder, its moving average and the predictor. The T frames of a clip are T images with own masks.

    Args:
        encoder: sees the context; trained.
        predictor: trained.
        masks: draws each image's masks from its seed.
        momentum: of the moving average, at the first step and after the last; linear between.
    """

    scores = ("loss", "explained")

    def __init__(self, encoder: ViT, predictor: Predictor, masks: MaskSampler, momentum: tuple[float, float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.predictor = predictor
        self.masks = masks
        self.momentum = momentum

    def forward(self, batch: DeviceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, each image weighing the same, and signs of collapse.

        A collapsed encoder has a loss near 0, so the loss cannot show it. `target_std` does: the standard
        deviation, from image to image, of what the target encoder says of the same place, averaged over
        places and features. `context_std` and `prediction_std` are those of a feature over all tokens.
        """
        guess = self._guess(batch)
        losses = guess.mean_over_targets(F.smooth_l1_loss(guess.predictions, guess.truth, reduction="none"))
        return losses.mean(), {
            "target_std": guess.tokens.std(dim=0, correction=0).mean(),
            "context_std": guess.context.float().flatten(0, 1).std(dim=0, correction=0).mean(),
            "prediction_std": _weighted_std(guess.predictions.detach(), guess.weight / len(losses)),
        }

    def score(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """Return the loss of each clip [B], the mean over its frames, and what `judge` makes `explained` of."""
        guess = self._guess(batch)
        per_image = {
            "loss": guess.mean_over_targets(F.smooth_l1_loss(guess.predictions, guess.truth, reduction="none")),
            "error": guess.mean_over_targets(F.mse_loss(guess.predictions, guess.truth, reduction="none")),
            "power": guess.everywhere.square().mean(dim=(1, 2)),
            "place": guess.everywhere,
        }
        return {name: values.unflatten(0, batch.pixels.shape[:2]).mean(dim=1) for name, values in per_image.items()}

    def judge(self, means: dict[str, Tensor]) -> dict[str, float]:
        """Return the loss, and `explained`: the share of the variance of what is to be predicted that is predicted.

            1 - mean squared error / variance of the targets, from image to image at the same place

        0 is as good as knowing each place's mean over all images; below is worse. Other than the loss it can be
        compared between recipes whose targets differ, and an encoder that says the same of every image explains
        nothing. One whose targets have few dimensions may explain much of them: RankMe tells.
        """
        variance = float(means["power"] - means["place"].square().mean())
        explained = 1 - float(means["error"]) / variance if variance > _LEAST_VARIANCE else math.nan
        return {"loss": float(means["loss"]), "explained": explained}

    def _guess(self, batch: DeviceBatch) -> _Guess:
        """Return what is predicted of each image [B * T], and what is true."""
        images = batch.pixels.flatten(0, 1)
        masks = self.masks(frame_seeds(batch.seed, frames=batch.pixels.shape[1]))
        keep, target, is_target = (
            torch.from_numpy(array).to(images.device) for array in (masks.context, masks.target, masks.is_target)
        )

        with torch.no_grad():
            tokens = self.target_encoder(images).float()
            everywhere = F.layer_norm(tokens, tokens.shape[-1:])
            truth = take(everywhere, target.flatten(1)).unflatten(1, target.shape[1:])
        context = self.encoder(images, keep)
        predictions = self.predictor(context, keep, target, is_target).float()

        weight = is_target / is_target.sum(dim=(1, 2), keepdim=True)
        return _Guess(predictions, truth, weight, tokens, everywhere, context.detach())

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """Move the target encoder towards the encoder, in the weights' own float32."""
        start, end = self.momentum
        move = get_ema_multi_avg_fn(start + (end - start) * step / steps)
        move(list(self.target_encoder.parameters()), list(self.encoder.parameters()), None)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the mean token of the target encoder, [B, D] float32, of pixels [B, T, C, H, W]."""
        tokens: Tensor = self.target_encoder(pixels.flatten(0, 1)).float()
        return tokens.view(*pixels.shape[:2], -1, tokens.shape[-1]).mean(dim=(1, 2))

    def blocks(self) -> Sequence[nn.Module]:
        """Return the blocks of the three networks."""
        return [block for network in self.networks() for block in network.blocks.blocks]

    def networks(self) -> Sequence[ViT | Predictor]:
        """Return the three networks. What is left is a few reductions and the drawing of masks."""
        return self.target_encoder, self.encoder, self.predictor

    def train(self, mode: bool = True) -> HJepa:
        """Switch to training; the target encoder stays as it will be used."""
        super().train(mode)
        self.target_encoder.eval()
        return self


def frame_seeds(seed: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """Return a seed for each frame of samples with seeds [B], [B * frames]: samples first."""
    return keyed.hash64(seed[:, None], "frame", np.arange(frames)).reshape(-1).view(np.int64)


def _weighted_std(values: Tensor, weight: Tensor) -> Tensor:
    """Return the mean over features of the standard deviation of values [..., D], weights [...] sum to 1."""
    weight = weight.unsqueeze(-1)
    places = tuple(range(values.ndim - 1))
    mean = (weight * values).sum(dim=places)
    return (weight * (values - mean).square()).sum(dim=places).sqrt().mean()
