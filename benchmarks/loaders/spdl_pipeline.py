"""SPDL's pipeline: threads instead of processes, so nothing is transported.

    files  ->  decode (2 threads)  ->  aggregate  ->  batch

The form of its documentation: decode each sample, aggregate the frames, convert the batch in one copy
(https://facebookresearch.github.io/spdl/main/best_practice.html). As many decoding tasks as cores, and one thread more
so that a batch is made while they decode. The decoder is SPDL's own, or one of the others in the same threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from spdl.pipeline import PipelineBuilder

from benchmarks.loaders.contract import Batches, Corpus, Pixels, Task
from benchmarks.loaders.decoding import build
from benchmarks.loaders.spdl_decoder import Spdl

OWN = "spdl"


def batches(task: Task) -> Batches:
    """Yield batches."""
    corpus = Corpus.load(task.corpus)
    stages = _OwnDecoder(corpus) if task.decoder == OWN else _OtherDecoder(corpus, task.decoder)
    new_builder: Any = PipelineBuilder
    builder = new_builder().add_source(_numbers(task.epochs, len(corpus)))
    builder = builder.pipe(stages.decode, concurrency=task.workers).aggregate(task.batch, drop_last=True)
    pipeline = builder.pipe(stages.batch).add_sink(2).build(num_threads=task.workers + 1)
    with pipeline.auto_stop():
        yield from pipeline


def _numbers(epochs: int, samples: int) -> Iterator[int]:
    for _ in range(epochs):
        yield from range(samples)


class _OwnDecoder:
    def __init__(self, corpus: Corpus) -> None:
        self._corpus, self._spdl = corpus, Spdl()

    def decode(self, sample: int) -> tuple[int, list[Any]]:
        file = str(self._corpus.file(sample))
        if self._corpus.kind == "image":
            return sample, self._spdl.image(file)
        return sample, self._spdl.video(file, self._corpus.samples[sample])

    def batch(self, items: list[tuple[int, list[Any]]]) -> tuple[Pixels, list[int]]:
        pixels = self._spdl.pixels([frame for _, frames in items for frame in frames])
        return pixels.reshape(len(items), -1, *pixels.shape[1:]), [sample for sample, _ in items]


class _OtherDecoder:
    def __init__(self, corpus: Corpus, name: str) -> None:
        self._corpus, self._decoder = corpus, build(name)

    def decode(self, sample: int) -> tuple[int, Pixels]:
        return sample, self._decoder.decode(str(self._corpus.file(sample)), self._corpus.samples[sample])

    def batch(self, items: list[tuple[int, Pixels]]) -> tuple[Pixels, list[int]]:
        return np.stack([pixels for _, pixels in items]), [sample for sample, _ in items]
