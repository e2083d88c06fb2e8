"""What `torch.compile` made, kept in the run's folder: who starts the run again compiles little of it.

A worker that takes the place of a lost one, on any machine of the kind, loads the graphs, kernels and tunings that the
run has written beside its checkpoints; a fresh node of a cluster has none of its own. Torch looks them up by what they
were made from, so what does not fit (another GPU, another version) is not used.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

COMPILED = "compiled.bin"


class CompileCache:
    """A run's file of compiled graphs.

    Args:
        run: its folder.
        compiles: whether there is anything to keep.
    """

    def __init__(self, run: Path, *, compiles: bool) -> None:
        self._path, self._compiles = run / COMPILED, compiles
        self._kept = 0

    def load(self) -> None:
        """Fill this process' caches, before anything is compiled."""
        if self._compiles and self._path.exists():
            torch.compiler.load_cache_artifacts(self._path.read_bytes())

    def keep(self, graphs: int) -> None:
        """Write the caches if more graphs were compiled since they were last written; one rank does it for all.

        Args:
            graphs: compiled in all.
        """
        if not self._compiles or graphs == self._kept:
            return
        self._kept = graphs
        artifacts = torch.compiler.save_cache_artifacts()
        if artifacts is None:
            return
        unfinished = self._path.with_suffix(".partial")
        with contextlib.suppress(OSError):  # a full disk ends no run for this; a checkpoint will say so
            unfinished.write_bytes(artifacts[0])
            unfinished.replace(self._path)
