"""What was compiled is kept with a run, and used by another process that has compiled nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_pipelines.index import index
from headrace.data.scan import shards_of
from headrace.errors import UserError
from headrace.train.compiled import COMPILED, CompileCache
from headrace.train.config import CompileConfig

ROOT = Path(__file__).resolve().parents[3]

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

RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from small_recipe import TINY, session_of
from torch._dynamo.utils import counters
from headrace.data.manifest import Manifest
from headrace.train.config import CompileConfig
from headrace.train.loop import train

source, run, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
recipe = replace(TINY, train=replace(TINY.train, steps=steps, compile=CompileConfig()))
manifest = Manifest.load(source)
train(recipe, session_of(recipe, run, manifest.usable()))
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


def said_by(script: str, *arguments: object, own_cache: Path) -> list[int]:
    """Return the numbers that a new process, with a compiler's cache of its own, printed last."""
    paths = [str(ROOT), str(ROOT / "platform"), str(ROOT / "tests")]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(own_cache), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return list(map(int, said.stdout.split()))


def test_a_worker_on_another_machine_finds_what_was_compiled(tmp_path: Path) -> None:
    missed, _ = said_by(WORKER, tmp_path, own_cache=tmp_path / "here")
    assert missed > 0
    kept = tmp_path / COMPILED
    assert kept.stat().st_size > 0
    assert said_by(WORKER, tmp_path, own_cache=tmp_path / "there") == [0, 1]
    kept.write_bytes(kept.read_bytes()[:100])
    CompileCache(tmp_path, compiles=True).load()  # what is damaged is compiled again


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_compiles_nothing_again(video_folder: Path, tmp_path: Path) -> None:
    index(str(video_folder), shards_of(str(video_folder)))
    missed, _ = said_by(RUN, video_folder, tmp_path / "run", 3, own_cache=tmp_path / "here")
    assert missed > 0
    assert (tmp_path / "run" / COMPILED).stat().st_size > 0
    missed, found = said_by(RUN, video_folder, tmp_path / "run", 6, own_cache=tmp_path / "there")
    assert (missed, found > 0) == (0, True)


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
