"""WebDataset's WebLoader over tars: decoding and batching in the workers, whole batches handed over.

`batched` in the dataset and `batch_size=None` in the loader is what its documentation recommends
(https://webdataset.github.io/webdataset/sharding/, "the recommended way of using IterableDataset with DataLoader is to
do the batching explicitly in the Dataset"). The batches of two workers are not mixed afterwards (`unbatched().shuffle()
.batched()`): that would be a further copy.
"""

from __future__ import annotations

from typing import Any

import torch
import webdataset

from benchmarks.loaders.contract import Batches, Corpus, Task
from benchmarks.loaders.decoding import PeerDecoder, build


class _Decode:
    """A sample of the tar -> its number and its pixels."""

    def __init__(self, corpus: Corpus, decoder: str) -> None:
        self._corpus, self._name = corpus, decoder
        self._decoder: PeerDecoder | None = None

    def __call__(self, item: dict[str, Any]) -> tuple[int, torch.Tensor]:
        if self._decoder is None:
            self._decoder = build(self._name)
        sample = int(item["__key__"].rpartition("/")[2])
        return sample, torch.from_numpy(
            self._decoder.decode(item[self._corpus.extension], self._corpus.samples[sample])
        )


def batches(task: Task) -> Batches:
    """Yield batches."""
    corpus = Corpus.load(task.corpus)
    dataset = webdataset.WebDataset(corpus.shards, shardshuffle=False).repeat()
    dataset = dataset.map(_Decode(corpus, task.decoder)).batched(
        task.batch, collation_fn=torch.utils.data.default_collate
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=task.workers, prefetch_factor=2)
    for samples, pixels in loader:
        yield pixels.numpy(), samples.tolist()
