"""A small residual network that learns labels from headrace's stream, in this process and on the CPU.

The data are what matters here: the order, the decoding, the repeats and the augmentation are those of a run. The
network is made after that of He et al. (arXiv 1512.03385, section 4.2) for images of 32 pixels, with n = 2 and
projected shortcuts; the learning rate rises and falls once (Smith and Topin, arXiv 1708.07120).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from headrace.augment import Augment, AugmentConfig
from headrace.batch import Batch, BatchStream
from headrace.data.agenda import Agenda
from headrace.data.config import DataConfig
from headrace.data.echo import Echo, unfold
from headrace.data.manifest import Manifest
from headrace.data.order.build import build_order
from headrace.data.reader import BatchReader, Plan
from headrace.data.sampling import SamplingConfig

_SIZE = 32  # pixels
_WIDTHS = (16, 32, 64)
_BLOCKS = 2
_CPU = torch.device("cpu")
_AUGMENT = AugmentConfig(height=_SIZE, width=_SIZE)


@dataclass(frozen=True)
class Training:
    """How long, and with how many clips from each decode, a classifier learns.

    Attributes:
        repeats, apart: as `--data.repeats` and `--data.repeats-apart`.
    """

    steps: int
    batch: int
    repeats: int
    apart: int
    seed: int
    peak_lr: float = 0.1
    weight_decay: float = 5e-4


def accuracy(train: Manifest, test: Manifest, training: Training) -> float:
    """Return the share of the test samples that a network names right which was trained on the others.

    Args:
        train, test: labelled images.
        training: how it learns.
    """
    classes = train.classes
    data = DataConfig(height=_SIZE, width=_SIZE, sampling=SamplingConfig(frames=1))
    echo = Echo.of(training.repeats, training.apart, lanes=1)
    plan = Plan(build_order(train, data, training.seed), data, training.batch, echo=echo)
    torch.manual_seed(training.seed)
    network = _network(len(classes))
    _learn(network, _stream(BatchReader(train, plan), Agenda(training.steps)), training)
    return _score(network, BatchReader(test.of_classes(classes), plan.held_out(len(test))))


def _stream(reader: BatchReader, agenda: Agenda) -> BatchStream:
    """Yield what a worker receives, decoded here."""
    numbers = list(agenda.numbers(step=0, first=0))
    strips = (reader.read_strip(number) for number in reader.plan.echo.decoded(numbers, first=0))
    return unfold(strips, numbers)


def _learn(network: nn.Module, stream: BatchStream, training: Training) -> None:
    optimizer = torch.optim.SGD(
        network.parameters(), lr=training.peak_lr, momentum=0.9, nesterov=True, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.peak_lr, training.steps, cycle_momentum=False)
    augment = Augment(_AUGMENT, _CPU)
    network.train()
    for batch in stream:
        images, labels = _images(augment, batch)
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


@torch.no_grad()
def _score(network: nn.Module, reader: BatchReader) -> float:
    augment = Augment(_AUGMENT, _CPU, training=False)
    network.eval()
    right: list[NDArray[np.bool_]] = []
    for number in range(-(-len(reader.manifest) // reader.plan.micro_batch)):
        batch = reader.read(number)
        images, labels = _images(augment, batch)
        right.append((network(images).argmax(1) == labels).numpy()[batch.valid])
    return float(np.concatenate(right).mean())


def _images(augment: Augment, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return images [B, C, H, W] and their labels [B]."""
    return augment(torch.from_numpy(batch.pixels), batch.seed)[:, 0], torch.from_numpy(batch.label)


class _Block(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride=width // before, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.skip = nn.Identity() if before == width else nn.Conv2d(before, width, 1, stride=2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return features [B, C', H', W'] of features [B, C, H, W]."""
        inner = self.norms[1](self.second(F.relu(self.norms[0](self.first(features)))))
        return F.relu(inner + self.skip(features))


def _network(classes: int) -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU())
    widths = [width for width in _WIDTHS for _ in range(_BLOCKS)]
    blocks = [_Block(before, width) for before, width in zip([_WIDTHS[0], *widths[:-1]], widths, strict=True)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_WIDTHS[-1], classes))
