"""What was compiled is kept with a run, and used by another process that has compiled nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headrace.errors import UserError
from headrace.train.compiled import COMPILED, CompileCache
from headrace.train.config import CompileConfig

WORKER = """
import sys
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from headrace.train.compiled import CompileCache
from headrace.train.kernels import CompileCount

class Block(torch.nn.Linear):
    def forward(self, x):
        return torch.nn.functional.gelu(super().forward(x))

cache = CompileCache(Path(sys.argv[1]), compiles=True)
cache.load()
block = Block(4, 4)
block.compile(fullgraph=True)
with CompileCount() as compiles:
    block(torch.ones(2, 4)).sum().backward()
    cache.keep(compiles.total)
print(counters["inductor"]["fxgraph_cache_miss"], counters["aot_autograd"]["autograd_cache_hit"])
"""


def compiled_by_a_worker(run: Path, own_cache: Path) -> tuple[int, int]:
    """Return how many graphs a new process compiled, and how many pairs of them it found."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(own_cache)}
    said = subprocess.run(
        [sys.executable, "-c", WORKER, str(run)], env=environment, capture_output=True, text=True, check=True
    )
    missed, found = said.stdout.split()
    return int(missed), int(found)


def test_a_worker_on_another_machine_finds_what_was_compiled(tmp_path: Path) -> None:
    assert compiled_by_a_worker(tmp_path, tmp_path / "here")[0] > 0
    kept = tmp_path / COMPILED
    assert kept.stat().st_size > 0
    assert compiled_by_a_worker(tmp_path, tmp_path / "there") == (0, 1)
    kept.write_bytes(kept.read_bytes()[:100])
    CompileCache(tmp_path, compiles=True).load()  # what is damaged is compiled again


def test_a_full_disk_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"graphs", None))
    CompileCache(tmp_path, compiles=True).keep(1)
    assert (tmp_path / COMPILED).read_bytes() == b"graphs"
    CompileCache(tmp_path / "that cannot be written to", compiles=True).keep(1)


def test_eager_runs_keep_nothing(tmp_path: Path) -> None:
    CompileCache(tmp_path, compiles=False).keep(3)
    assert not list(tmp_path.iterdir())


def test_which_settings_replay_cuda_graphs() -> None:
    assert not CompileConfig().replays_graphs
    assert CompileConfig(mode="max-autotune").replays_graphs
    assert CompileConfig(options={"triton.cudagraphs": "True"}).replays_graphs
    assert not CompileConfig(enabled=False, mode="reduce-overhead").replays_graphs
    with pytest.raises(UserError):
        CompileConfig(mode="default", options={"triton.cudagraphs": "True"})
