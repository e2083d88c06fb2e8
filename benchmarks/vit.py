"""Vision transformers of the sizes that people train, and one of nearly nothing, with random weights, as classifiers.

The architecture is DINOv3's (Siméoni et al., arXiv 2508.10104) as transformers builds it: S/16, B/16, and H/16+ with
its gated MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from headrace.batch import DeviceBatch
from headrace.models import ModelConfig, Objective

Size = Literal["nothing", "S", "B", "H+"]

_SIZES: dict[Size, dict[str, Any]] = {
    "nothing": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32},
    "S": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
    "B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "H+": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "intermediate_size": 5120,
        "use_gated_mlp": True,
        "hidden_act": "silu",
    },
}
_REGISTERS = 4
_CLASSES = 1000


@dataclass(frozen=True)
class VitConfig(ModelConfig):
    """A vision transformer and a linear head."""

    size: Size = "S"

    def build(self, height: int, width: int) -> Objective:
        """Return the classifier for frames of height x width pixels."""
        return VitClassifier(self.size, height)


class VitClassifier(Objective):
    """Cross-entropy of a linear head on the class token of each clip's first frame."""

    scores = ("loss", "accuracy")

    def __init__(self, size: Size, height: int) -> None:
        super().__init__()
        config = DINOv3ViTConfig(**_SIZES[size], image_size=height, num_register_tokens=_REGISTERS, patch_size=16)
        self.vit = DINOv3ViTModel(config)
        self.head = nn.Linear(config.hidden_size, _CLASSES)

    def forward(self, batch: DeviceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss."""
        return self.score(batch)["loss"].mean(), {}

    def score(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """Return loss and accuracy of each clip [B]."""
        logits, label = self.head(self.features(batch.pixels)), batch.label % _CLASSES
        loss = F.cross_entropy(logits, label, reduction="none")
        return {"loss": loss, "accuracy": (logits.detach().argmax(dim=1) == label).float()}

    def features(self, pixels: Tensor) -> Tensor:
        """Return the class tokens [B, D]."""
        pooled: Tensor = self.vit(pixels[:, 0]).pooler_output
        return pooled

    def blocks(self) -> Sequence[nn.Module]:
        """Return the transformer's layers."""
        return list(self.vit.model.layer)

    def networks(self) -> Sequence[nn.Module]:
        """Return the transformer."""
        return [self.vit]
