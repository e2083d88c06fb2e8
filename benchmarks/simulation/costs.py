"""What the parts of the stream cost, as `simulate.py --measure` found it on one machine; kept in `costs.json`.

All times are seconds of one core of that machine. "Coordinator" is the process that runs Ray Data's executor: its
thread looks round ("a look"), takes what running tasks gave, hands it out in order, and starts new tasks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COSTS_FILE = Path(__file__).with_name("costs.json")


@dataclass(frozen=True)
class Costs:
    """Measured costs.

    Attributes:
        cores: of the machine.
        paired_speed: of a core while all cores are busy, against one that is busy alone; cores that are two threads of
            one have less than 1.
        ray_idle_cores: what all processes of an embedded Ray take while a stream rests, but for the executor's thread.
        look_seconds: CPU of the executor's thread for a look at which nothing happens.
        look_actor_seconds: more, for each decode actor and the two tasks that it has.
        block_seconds: more, for each block: taking it, handing it out, starting the task of another.
        get_seconds: CPU of the coordinator, beside its thread but in the same interpreter, for a rank that comes for a
            block.
        block_outside_seconds: CPU for each block elsewhere: other threads of the coordinator, raylet, consumer.
        actor_block_seconds: of an actor for each block, besides decoding: into the object store, next task.
        poll_seconds: for each time that a waiting rank looks whether its block is there; holds the interpreter.
        rank_block_seconds: for each block and each rank of a stream: who is next, how much all hold.
        store_share: of the micro-batches that the object-store limit names, how many are in flight when it holds.
        start_seconds: from the death of a decode actor until its successor decodes.
        head_actor_seconds: CPU of Ray's head service for each actor that starts.
        manifest_row_bytes: memory of one sample's row, without the index of its video.
        manifest_index_bytes: memory of the index of a clip of 90 frames.
        manifest_row_seconds: CPU to load and check one row at the start of a run.
        order_seconds: CPU to build an order of 10**10 samples and ask it for a micro-batch near the end.
        machine: where all this was measured.
    """

    cores: int
    paired_speed: float
    ray_idle_cores: float
    look_seconds: float
    look_actor_seconds: float
    block_seconds: float
    get_seconds: float
    block_outside_seconds: float
    actor_block_seconds: float
    poll_seconds: float
    rank_block_seconds: float
    store_share: float
    start_seconds: float
    head_actor_seconds: float
    manifest_row_bytes: float
    manifest_index_bytes: float
    manifest_row_seconds: float
    order_seconds: float
    machine: str

    def save(self, path: Path = COSTS_FILE) -> None:
        """Write them, one a line."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path = COSTS_FILE) -> Costs:
        """Return what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def fit_looks(looks: Sequence[NDArray[np.float64]]) -> tuple[float, float, float]:
    """Return the CPU of a look at which nothing happens, for each actor, and for each block.

    Args:
        looks: of several pools, [looks, 3]: CPU, blocks, actors. Each pool counts the same, however often it looked.
    """
    rows = np.concatenate([pool / len(pool) ** 0.5 for pool in looks])
    ones = np.concatenate([np.full(len(pool), len(pool) ** -0.5) for pool in looks])
    design = np.column_stack([ones, rows[:, 2], rows[:, 1]])
    found = np.linalg.lstsq(design, rows[:, 0], rcond=None)[0]
    look, actor, block = np.maximum(found, 0).tolist()
    return look, actor, block
