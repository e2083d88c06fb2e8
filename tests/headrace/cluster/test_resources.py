"""What a run asks of a cluster, and what is refused before it would wait for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.cluster.trainer import check_room, echo_of, resources_for
from headrace.data.config import PoolSize
from headrace.data.reader import micro_batch_bytes
from headrace.errors import UserError
from headrace.recipe import Recipe, replace_at
from jobs.recipes import RECIPES


def recipe(workers: int, device: str = "auto") -> Recipe:
    base = RECIPES["demo"]()
    train = replace(base.train, workers=workers, global_batch=8 * workers, device=device)  # type: ignore[arg-type]
    return replace(base, train=train)


def test_auto_takes_gpus_where_each_worker_has_one() -> None:
    assert resources_for(recipe(2), {"CPU": 8, "GPU": 2}).device == "cuda"
    assert resources_for(recipe(2), {"CPU": 8, "GPU": 1}).device == "cpu"
    assert resources_for(recipe(2), {"CPU": 8, "GPU": 2}).worker == {"CPU": 1.0, "GPU": 1.0}
    assert resources_for(recipe(2, "cpu"), {"CPU": 8, "GPU": 2}).device == "cpu"


def test_gpus_that_are_not_there() -> None:
    with pytest.raises(UserError, match="a GPU for each of 2 workers, but the cluster has 1"):
        resources_for(recipe(2, "cuda"), {"CPU": 8, "GPU": 1})


def room(
    workers: int, pool: PoolSize, cluster: dict[str, float], decoder_gpus: float = 0.0, resource: str = ""
) -> None:
    asked = replace_at(recipe(workers), "data.decoder_gpus", decoder_gpus)
    asked = replace_at(asked, "data.decoder_resource", resource)
    check_room(asked, resources_for(asked, cluster), pool, cluster)


def test_a_cluster_that_is_too_small() -> None:
    room(2, PoolSize(1, 4), {"CPU": 3})
    with pytest.raises(UserError, match="2 workers and 2 decoders need 4 CPUs, but the cluster has 3"):
        room(2, PoolSize(2, 2), {"CPU": 3})


def test_decoders_that_want_gpus_beside_the_workers() -> None:
    room(1, PoolSize(2, 4), {"CPU": 8, "GPU": 2}, decoder_gpus=0.5)
    with pytest.raises(UserError, match="1 workers and 4 decoders need 3 GPUs, but the cluster has 2"):
        room(1, PoolSize(4, 4), {"CPU": 8, "GPU": 2}, decoder_gpus=0.5)


def test_decoders_that_only_some_nodes_take() -> None:
    room(2, PoolSize(4, 8), {"CPU": 48, "decode": 4}, resource="decode")
    with pytest.raises(UserError, match="5 decoders need as many of 'decode', but the cluster's nodes have 4 of it"):
        room(2, PoolSize(5, 8), {"CPU": 48, "decode": 4}, resource="decode")
    room(2, PoolSize(100, 200), {"CPU": 48}, resource="decode")  # nodes that have it are yet to come


def test_repeats_that_hold_more_than_the_memory_there_is() -> None:
    asked = replace_at(replace_at(recipe(1), "data.repeats", 2), "data.repeats_apart", 64)
    cluster = {"CPU": 4, "object_store_memory": 1e9}
    held = echo_of(asked).held_micro_batches * micro_batch_bytes(asked.data, asked.train.micro_batch)
    check_room(asked, resources_for(asked, cluster), PoolSize(1, 1), cluster | {"object_store_memory": 2 * held})
    with pytest.raises(UserError, match=r"more than half of the object store.*lower --data.repeats-apart"):
        check_room(asked, resources_for(asked, cluster), PoolSize(1, 1), cluster | {"object_store_memory": 1.9 * held})


def test_a_head_that_only_coordinates_brings_nodes() -> None:
    room(2, PoolSize(2, 2), {})
    assert resources_for(recipe(2, "cuda"), {"memory": 1.0}).device == "cuda"
