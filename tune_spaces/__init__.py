"""The named search spaces, one file per family. A space is a function; deriving one is calling another."""

from __future__ import annotations

from collections.abc import Callable

from headrace.cluster.space import Space
from tune_spaces import feeding, hjepa

SPACES: dict[str, Callable[[], Space]] = {
    "demo": hjepa.demo,
    "hjepa_vits": hjepa.hjepa_vits,
    "feeding": feeding.feeding,
}

DEFAULT = "demo"
