"""I-JEPA's objective (arXiv 2301.08243): the level 0 of H-JEPA.

images --- all patches ----> target encoder -> layer norm -> tokens of the target blocks ---+
   |                         (moving average, no gradient)                                   smooth L1
   +------ context patches -> encoder -> predictor (+ places of a target block) ------------+
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

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


class HJepa(Objective):
    """Encoder, its moving average and the predictor. The T frames of a clip are T images with own masks.

    Args:
        encoder: sees the context; trained.
        predictor: trained.
        masks: draws each image's masks from its seed.
        momentum: of the moving average, at the first step and after the last; linear between.
    """

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
        losses, signs = self._losses(batch)
        return losses.mean(), signs

    def score(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """Return the loss of each clip [B], the mean over its frames."""
        losses, _ = self._losses(batch)
        return {"loss": losses.unflatten(0, batch.pixels.shape[:2]).mean(dim=1)}

    def _losses(self, batch: DeviceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each image [B * T], and the signs of collapse.

        An image's loss is the mean over its own targets: it does not depend on what other images are in the batch.
        """
        images = batch.pixels.flatten(0, 1)
        masks = self.masks(frame_seeds(batch.seed, frames=batch.pixels.shape[1]))
        keep, target, is_target = (
            torch.from_numpy(array).to(images.device) for array in (masks.context, masks.target, masks.is_target)
        )

        with torch.no_grad():
            everything = self.target_encoder(images).float()
            truth = F.layer_norm(everything, everything.shape[-1:])
            truth = take(truth, target.flatten(1)).unflatten(1, target.shape[1:])
        context = self.encoder(images, keep)
        predictions = self.predictor(context, keep, target, is_target).float()

        weight = is_target / is_target.sum(dim=(1, 2), keepdim=True)
        losses = (F.smooth_l1_loss(predictions, truth, reduction="none").mean(dim=-1) * weight).sum(dim=(1, 2))
        return losses, {
            "target_std": everything.std(dim=0, correction=0).mean(),
            "context_std": context.detach().float().flatten(0, 1).std(dim=0, correction=0).mean(),
            "prediction_std": _weighted_std(predictions.detach(), weight / len(images)),
        }

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
