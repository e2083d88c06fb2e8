"""mosaicml-streaming: samples written as MDS shards once, decoded in the workers of its StreamingDataLoader.

The same `batch_size` for dataset and loader, shards of the default size, no compression, local
(https://docs.mosaicml.com/projects/streaming/en/stable/getting_started/quick_start.html). It wants NumPy < 2.2 and
transformers < 5, so it lives in an environment of its own: `stream.py --help` says how.
"""

from __future__ import annotations

import shutil
from typing import Any

import streaming
import torch
from streaming.base.util import clean_stale_shared_memory

from benchmarks.loaders.contract import Batches, Corpus, Task
from benchmarks.loaders.decoding import PeerDecoder, build


def prepare(task: Task) -> None:
    """Convert the corpus."""
    corpus = Corpus.load(task.corpus)
    folder, partial_folder = task.converted("mds"), task.converted("mds-partial")
    if folder.exists():
        return
    shutil.rmtree(partial_folder, ignore_errors=True)
    with streaming.MDSWriter(out=str(partial_folder), columns={"sample": "int", "data": "bytes"}) as writer:
        for _ in range(task.epochs):
            for sample in range(len(corpus)):
                writer.write({"sample": sample, "data": corpus.file(sample).read_bytes()})
    partial_folder.rename(folder)


class _Clips(streaming.StreamingDataset):
    """Samples decoded as they are read."""

    def __init__(self, folder: str, corpus: Corpus, task: Task) -> None:
        super().__init__(local=folder, batch_size=task.batch, shuffle=False, num_canonical_nodes=1)
        self._corpus, self._name = corpus, task.decoder
        self._decoder: PeerDecoder | None = None

    def __getitem__(self, at: Any) -> tuple[int, torch.Tensor]:
        if self._decoder is None:
            self._decoder = build(self._name)
        item = super().__getitem__(at)
        sample = int(item["sample"])
        return sample, torch.from_numpy(self._decoder.decode(item["data"], self._corpus.samples[sample]))


def batches(task: Task) -> Batches:
    """Yield batches."""
    clean_stale_shared_memory()  # of a run that was killed, as its documentation says
    corpus = Corpus.load(task.corpus)
    dataset = _Clips(str(task.converted("mds")), corpus, task)
    loader = streaming.StreamingDataLoader(dataset, batch_size=task.batch, num_workers=task.workers, prefetch_factor=2)
    for samples, pixels in loader:
        yield pixels.numpy(), samples.tolist()
