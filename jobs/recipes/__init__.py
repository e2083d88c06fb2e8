"""The named recipes, one file per model family. A recipe is a function; deriving one is calling another."""

from __future__ import annotations

from collections.abc import Callable

from headrace.recipe import Recipe
from jobs.recipes import hjepa

RECIPES: dict[str, Callable[[], Recipe]] = {
    "demo": hjepa.demo,
    "hjepa_tiny": hjepa.hjepa_tiny,
    "hjepa_cifar": hjepa.hjepa_cifar,
    "hjepa_vits": hjepa.hjepa_vits,
}

DEFAULT = "demo"
