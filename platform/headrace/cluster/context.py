"""Ray Data's settings for all of our pipelines. Decode actors load this, so it loads nothing of Ray Train."""

from __future__ import annotations

import warnings

import ray
import ray.data
from ray.data import ExecutionResources

from headrace.cluster.pacing import Pacing

HOLD_NONE = 0
"""How many blocks Ray's iterators hold back: with n, each is only given out once the n that follow it are decoded. A
thread of Ray's fetches blocks while the consumer is busy in any case."""


def quiet_context() -> ray.data.DataContext:
    """Return Ray Data's context of this process, with its own displays off: headrace has one of its own."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def stream_context(in_flight_bytes: int) -> None:
    """Set up Ray Data, in this process, for streams of micro-batches in order.

    Args:
        in_flight_bytes: how much the stream may keep in the object store before the decoders pause.
    """
    context = quiet_context()
    context.target_max_block_size = 1  # a block is a row: nothing is joined, nothing is split
    context.memory_usage_poll_interval_s = None  # else each task starts a thread that measures its process
    context.execution_options.preserve_order = True
    callbacks = getattr(context, "custom_execution_callback_classes", [])
    if Pacing not in callbacks:
        callbacks.append(Pacing)
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=in_flight_bytes)


def died_before() -> bool:
    """Say whether the actor that asks stands in for one that died."""
    with warnings.catch_warnings():  # announced to go, with nothing that takes its place
        warnings.simplefilter("ignore", DeprecationWarning)
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)
