"""The ceiling of any loader with this decoder: bare processes that decode and keep nothing.

    process 1   decode, decode, decode, ...   "a batch is done"
    process 2   decode, decode, decode, ...   "a batch is done"

Nothing is transported but that word. headrace's decoder reads its ranges of the shards with the index that the
manifest holds, without the reader that makes batches of it: what that costs counts as the stream's.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

import numpy as np

from benchmarks.loaders.contract import SIZE, Batches, Corpus, Task
from benchmarks.loaders.decoding import build

OURS = "headrace"


def prepare(task: Task) -> None:
    """Index the shards, where headrace's decoder is the one."""
    if task.decoder == OURS:
        from benchmarks.loaders.headrace_stream import prepare as index

        index(task)


def batches(task: Task) -> Batches:
    """Yield nothing but that a batch is done, as often as one is."""
    context = multiprocessing.get_context("fork")
    ends = []
    for worker in range(task.workers):
        receiving, sending = context.Pipe(duplex=False)
        context.Process(target=_work, args=(task, worker, sending), daemon=True).start()
        sending.close()
        ends.append(receiving)
    while True:
        for end in wait(ends):
            assert isinstance(end, Connection)
            answer = end.recv()
            if isinstance(answer, str):
                raise RuntimeError(answer)
            yield None, answer


def _work(task: Task, worker: int, done: Connection) -> None:
    try:
        _decode_on(task, worker, done)
    except Exception as error:  # whatever it was, it ends the run, and this process has nobody else to tell
        done.send(f"{type(error).__name__}: {error}")


def _decode_on(task: Task, worker: int, done: Connection) -> None:
    corpus = Corpus.load(task.corpus)
    decode = _ours(corpus) if task.decoder == OURS else _theirs(corpus, task.decoder)
    number, parent = worker, os.getppid()
    while os.getppid() == parent:  # the pipe would not break: the other worker holds its other end, too
        first = number * task.batch
        samples = [(first + slot) % len(corpus) for slot in range(task.batch)]
        for sample in samples:
            decode(sample)
        done.send(samples)
        number += task.workers


def _theirs(corpus: Corpus, name: str) -> Callable[[int], object]:
    decoder = build(name)
    return lambda sample: decoder.decode(str(corpus.file(sample)), corpus.samples[sample])


def _ours(corpus: Corpus) -> Callable[[int], object]:
    from benchmarks.loaders.headrace_stream import source_of
    from headrace.data.decode.table import build_decoder
    from headrace.data.manifest import Manifest
    from headrace.data.sampling import SamplingConfig, frame_times

    manifest = Manifest.load(source_of(corpus))
    assert manifest is not None
    sampling = SamplingConfig(frames=corpus.frames)
    decoder = build_decoder("auto")
    pixels = np.zeros((corpus.frames, SIZE, SIZE, 3), np.uint8)
    indexes = [manifest.video_index(row) for row in range(len(manifest))]
    ranges = [manifest.bytes_of(row) for row in range(len(manifest))]
    times = [frame_times(sampling, float(seconds), 0, jitter=False) for seconds in manifest.seconds]

    def decode(row: int) -> None:
        with ranges[row].open(in_pieces=indexes[row] is not None) as file:
            decoder.decode(file, times[row], pixels, indexes[row])

    return decode
