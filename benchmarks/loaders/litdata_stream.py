"""LitData: samples optimised into chunks once, decoded in the workers of its StreamingDataLoader.

Chunks of 64 MB, the dataset subclassed for what is done to a sample, two workers (https://github.com/Lightning-AI/litdata,
README, "Speed up model training" and "Optimize data"). Local chunks are read where they lie, without a cache. Install
it by `pip install --no-deps litdata lightning-utilities obstore tifffile`: it asks for torchvision, and needs it not.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import litdata
import torch

from benchmarks.loaders.contract import Batches, Corpus, Task
from benchmarks.loaders.decoding import PeerDecoder, build


def prepare(task: Task) -> None:
    """Convert the corpus."""
    corpus = Corpus.load(task.corpus)
    folder, partial_folder = task.converted("litdata"), task.converted("litdata-partial")
    if folder.exists():
        return
    shutil.rmtree(partial_folder, ignore_errors=True)
    litdata.optimize(
        fn=partial(_item, corpus),
        inputs=list(range(len(corpus))) * task.epochs,
        output_dir=str(partial_folder),
        chunk_bytes="64MB",
        num_workers=1,
        keep_data_ordered=True,
        verbose=False,
    )
    partial_folder.rename(folder)


def _item(corpus: Corpus, sample: int) -> dict[str, Any]:
    return {"sample": sample, "data": corpus.file(sample).read_bytes()}


class _Clips(litdata.StreamingDataset):
    """Samples decoded as they are read."""

    def __init__(self, folder: str, corpus: Corpus, decoder: str) -> None:
        super().__init__(folder, shuffle=False, drop_last=False)
        self._corpus, self._name = corpus, decoder
        self._decoder: PeerDecoder | None = None

    def __getitem__(self, index: Any) -> tuple[int, torch.Tensor]:
        if self._decoder is None:
            self._decoder = build(self._name)
        item = super().__getitem__(index)
        sample = int(item["sample"])
        return sample, torch.from_numpy(self._decoder.decode(item["data"], self._corpus.samples[sample]))


def batches(task: Task) -> Batches:
    """Yield batches."""
    corpus = Corpus.load(task.corpus)
    dataset = _Clips(str(task.converted("litdata")), corpus, task.decoder)
    loader = litdata.StreamingDataLoader(dataset, batch_size=task.batch, num_workers=task.workers, prefetch_factor=2)
    for samples, pixels in loader:
        yield pixels.numpy(), samples.tolist()
