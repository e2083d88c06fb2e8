"""headrace's stream as `jobs/train.py` builds it: `data_pipelines/clips.py` on an embedded Ray, two decode actors.

Its own defaults, but for two: no shuffle, so that its first batch holds the clips of all others' first batch; and the
times of the frames are the middles of equal parts of the clip, as in evaluation, so that they are those of all others.
"""

from __future__ import annotations

from benchmarks.loaders.contract import SIZE, Batches, Corpus, Task
from headrace.data.agenda import Agenda
from headrace.data.config import DataConfig, PoolSize
from headrace.data.manifest import Manifest
from headrace.data.order import Order
from headrace.data.reader import Plan
from headrace.data.sampling import SamplingConfig
from headrace.data.split import Split


def prepare(task: Task) -> None:
    """Index the shards, as `jobs/index.py` does."""
    from data_pipelines.index import index
    from headrace.data.scan import shards_of
    from headrace.data.source import open_manifest

    source = source_of(Corpus.load(task.corpus))
    shards = shards_of(source)
    if open_manifest(source, shards) is None:
        index(source, shards)


def batches(task: Task) -> Batches:
    """Yield batches, from a Ray that is started first."""
    import ray

    from data_pipelines.clips import batches as take
    from data_pipelines.clips import micro_batches
    from headrace.cluster.launch import ray_cluster

    corpus = Corpus.load(task.corpus)
    manifest = Manifest.load(source_of(corpus))
    assert manifest is not None
    data = DataConfig(height=SIZE, width=SIZE, sampling=SamplingConfig(frames=corpus.frames))
    plan = Plan(Order(len(manifest), 0, shuffle="none"), data, task.batch, training=False)
    yield "ray starts"
    with ray_cluster(cpus=task.workers, dashboard=False):
        yield "ray is up"
        pool = PoolSize(task.workers, task.workers)
        agenda = Agenda(steps=task.epochs * len(corpus) // task.batch)
        stream = micro_batches(ray.put(Split.whole(manifest)), plan, agenda, pool)
        for batch in take(stream, agenda):
            yield batch.pixels, batch.sample.tolist()


def source_of(corpus: Corpus) -> str:
    """Return the corpus as headrace reads it; its rows are the samples by number."""
    return str(corpus.folder / "shards")
