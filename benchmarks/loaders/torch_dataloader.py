"""torch's DataLoader over files: a map-style dataset, batches collated in the workers into shared memory.

Workers persist and read ahead (`prefetch_factor`); tensors are returned, which the default `collate_fn` stacks straight
into shared memory in a worker (https://docs.pytorch.org/docs/stable/data.html). To read further ahead than the default
costs memory and gains nothing where decoding is slower than the consumer.
"""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.loaders.contract import Batches, Corpus, Task
from benchmarks.loaders.decoding import PeerDecoder, build


class Files(Dataset[tuple[int, torch.Tensor]]):
    """The corpus' files, over and over."""

    def __init__(self, corpus: Corpus, decoder: str, epochs: int) -> None:
        self._corpus, self._name, self._epochs = corpus, decoder, epochs
        self._decoder: PeerDecoder | None = None

    def __len__(self) -> int:
        return self._epochs * len(self._corpus)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        if self._decoder is None:
            self._decoder = build(self._name)  # in the worker: decoders do not survive a fork
        sample = index % len(self._corpus)
        pixels = self._decoder.decode(str(self._corpus.file(sample)), self._corpus.samples[sample])
        return sample, torch.from_numpy(pixels)


def batches(task: Task) -> Batches:
    """Yield batches."""
    corpus = Corpus.load(task.corpus)
    dataset = Files(corpus, task.decoder, task.epochs)
    loader = DataLoader(dataset, task.batch, num_workers=task.workers, persistent_workers=True, prefetch_factor=2)
    for samples, pixels in loader:
        yield pixels.numpy(), samples.tolist()
