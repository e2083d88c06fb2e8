"""Ray Data as it comes: `read_webdataset`, decord in `map_batches`, no more.

The read and the map are fused into one task per shard, so raw bytes are not put into the object store
(https://docs.ray.io/en/latest/data/performance-tips.html), and two tasks run at a time on two CPUs. Its own decoder of
shard members is off: it would unpickle them.
"""

from __future__ import annotations

import logging
from functools import lru_cache, partial
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from benchmarks.loaders.contract import Batches, Corpus, Task
from benchmarks.loaders.decoding import PeerDecoder, build


def batches(task: Task) -> Batches:
    """Yield batches, from a Ray that is started first."""
    corpus = Corpus.load(task.corpus)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    yield "ray starts"
    ray.init("local", num_cpus=task.workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield "ray is up"
    ray.data.DataContext.get_current().enable_progress_bars = False
    paths = corpus.shards * task.epochs
    dataset = ray.data.read_webdataset(paths, decoder=None, override_num_blocks=len(paths))
    dataset = dataset.map_batches(partial(_decode, task), batch_size=task.batch)
    for block in dataset.iter_batches(batch_size=task.batch, batch_format="numpy", prefetch_batches=2):
        yield block["pixels"], block["sample"].tolist()


def _decode(task: Task, columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    corpus, decoder = _tools(task)
    samples = [int(key.rpartition("/")[2]) for key in columns["__key__"]]
    data = columns[corpus.extension]
    pixels = [decoder.decode(item, corpus.samples[sample]) for sample, item in zip(samples, data, strict=True)]
    return {"sample": np.array(samples), "pixels": np.stack(pixels)}


@lru_cache(maxsize=1)
def _tools(task: Task) -> tuple[Corpus, PeerDecoder]:
    """Return what a worker process needs of which it keeps one."""
    return Corpus.load(task.corpus), build(task.decoder)
