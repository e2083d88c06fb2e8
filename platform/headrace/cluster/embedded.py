"""A Ray for one machine: without the processes that only a cluster or a dashboard needs.

    Ray's own                                          embedded, without a dashboard
    GCS, raylet, its two agents, workers               the same
    dashboard, autoscaler, log monitor                 not started
    three actors that keep house for Ray Data          stand-ins, in each process that has loaded headrace

Each of these is a Python process that takes up to two seconds of a core before the first batch, its memory, and often
a hundred wakings a second from then on. On a machine of few cores the decoders pay for that (docs/log.md), and nobody
has use for it: the statistics are shown by the dashboard, and all actors live on the one node, which has no others.

Ray has no public door for this. What is replaced are methods and functions of its own by which it starts these
processes, for as long as the embedded cluster runs; what a Ray lacks of them is left as it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

import ray
from ray._private.node import Node

from headrace.cluster import EMBEDDED

_STARTERS = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of Ray's node that start what is left out."""


@contextlib.contextmanager
def small_ray() -> Iterator[None]:
    """Let the cluster that starts within be small. It must have ended when this does."""
    before = {name: getattr(Node, name) for name in _STARTERS if hasattr(Node, name)}
    functions: dict[str, Callable[[], Any]] = {}
    try:
        _replace(_stand_ins(), functions)
        for name in before:
            setattr(Node, name, _ignore)
        yield
    finally:
        for name, starter in before.items():
            setattr(Node, name, starter)
        _replace(functions, {})


def is_small() -> bool:
    """Say whether this process works in a cluster that `small_ray` made, which `ray_cluster` writes down."""
    return EMBEDDED in os.environ


def stand_in_if_worker() -> None:
    """Let Ray Data call the stand-ins, if this is a worker of such a cluster."""
    if is_small() and ray.is_initialized():
        _replace(_stand_ins(), {})


class Here:
    """A handle as of an actor, whose methods are called in the process that holds it.

    Args:
        actor: it has the methods; `handle.method.remote(...)` returns a reference to what one gives.
    """

    def __init__(self, actor: object) -> None:
        self._actor = actor
        self._methods: dict[str, _Method] = {}

    def __getattr__(self, name: str) -> _Method:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._methods.setdefault(name, _Method(getattr(self._actor, name)))

    def __reduce__(self) -> tuple[type[Here], tuple[object]]:
        return Here, (self._actor,)


class _Method:
    """One method of a handle. Results that are the same object are put into the object store once."""

    def __init__(self, method: Callable[..., object]) -> None:
        self._method = method
        self._newest: tuple[object, ray.ObjectRef[Any]] | None = None

    def remote(self, *args: Any, **kwargs: Any) -> ray.ObjectRef[Any]:
        result, newest = self._method(*args, **kwargs), self._newest
        if newest is None or newest[0] is not result:
            self._newest = newest = (result, ray.put(result))
        return newest[1]


class Statistics:
    """For Ray Data's statistics, which are for its dashboard: kept by nobody."""

    def gen_dataset_id(self) -> str:
        """Return an id for an execution."""
        return uuid.uuid4().hex

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return _ignore


def _ignore(*_: Any, **__: Any) -> None:
    """Take what is told, and forget it."""


class Locations:
    """For what knows on which node each actor lives: on the only one."""

    update_actor_location = staticmethod(_ignore)

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def get_actor_locations(self, actors: Sequence[str]) -> dict[str, str]:
        """Return the node of each actor."""
        if self._known.keys() != set(actors):
            self._known = dict.fromkeys(actors, ray.get_runtime_context().get_node_id())
        return self._known


class Nodes:
    """For what shares the nodes out among trainers and streams, and asks for more: there are no more.

    Each is told of all that the node has. CPUs and GPUs are granted by Ray itself, to the trainers first, and how many
    decoders a run has is decided in `headrace.cluster.pool`; what streams may keep in the object store, by those who
    build them.
    """

    request_resources = staticmethod(_ignore)
    cancel_request = staticmethod(_ignore)

    def get_reserved_resources(self, *_: Any, **__: Any) -> dict[str, dict[str, float]]:
        """Return the resources of each node."""
        return self._nodes

    @cached_property
    def _nodes(self) -> dict[str, dict[str, float]]:
        return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


_STAND_INS = {
    "get_or_create_stats_actor": Statistics,
    "get_or_create_actor_location_tracker": Locations,
    "get_or_create_autoscaling_coordinator": Nodes,
}
"""Functions of Ray Data that start an actor if there is none, and what stands in for it."""

_CALLERS = (
    "ray.data._internal.stats",
    "ray.data._internal.execution.operators.actor_pool_map_operator",
    "ray.data._internal.utils.cached_ray_internals",
    "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator",
    "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client",
)
"""The modules that know these functions by name."""


def _stand_ins() -> dict[str, Callable[[], Here]]:
    return {name: _always(Here(actor())) for name, actor in _STAND_INS.items()}


def _always(handle: Here) -> Callable[[], Here]:
    return lambda: handle


def _replace(functions: Mapping[str, Callable[[], Any]], before: dict[str, Callable[[], Any]]) -> None:
    """Let names in Ray's modules mean these functions; write down what they meant.

    Ray Train is not loaded for it: it takes these names from Ray Data when it is.
    """
    for caller in _CALLERS:
        if caller.startswith("ray.data."):
            with contextlib.suppress(ImportError):
                import_module(caller)
        known = vars(sys.modules[caller]) if caller in sys.modules else {}
        for name in functions.keys() & known.keys():
            before.setdefault(name, known[name])
            known[name] = functions[name]
