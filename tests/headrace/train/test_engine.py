"""What stands around the step: counted operations, kernels, compilations, profiles, and workers that hang."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_recipe import TINY
from torch import nn
from torch.nn.attention import _cur_sdpa_kernel_backends

from headrace.augment import AugmentConfig
from headrace.batch import DeviceBatch
from headrace.errors import UserError
from headrace.models import ModelConfig, Objective
from headrace.observe.environment import describe, write_environment
from headrace.train.flops import Usage, flops_per_clip, peak_flops
from headrace.train.hang import stacks_of
from headrace.train.kernels import CompileCount, attention_kernels
from headrace.train.profiler import StepProfiler
from jobs.recipes import RECIPES

CPU = torch.device("cpu")


class Attends(Objective):
    """Two matrices and one attention over the pixels of a frame, each a token of 3 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 32, bias=False), nn.Linear(32, 1, bias=False)

    def forward(self, batch: DeviceBatch):  # type: ignore[no-untyped-def]
        tokens = batch.pixels.flatten(0, 1).flatten(2).transpose(1, 2)
        hidden = self.up(tokens)
        read = F.scaled_dot_product_attention(hidden[:, None], hidden[:, None], hidden[:, None])[:, 0]
        return self.down(read).mean(), {}

    def score(self, batch):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def features(self, pixels):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def blocks(self):  # type: ignore[no-untyped-def]
        return [self.up]

    def networks(self):  # type: ignore[no-untyped-def]
        return [self]


class AttendsConfig(ModelConfig):
    def build(self, height: int, width: int) -> Objective:
        return Attends()


def test_operations_are_counted_as_on_paper() -> None:
    recipe = replace(TINY, model=AttendsConfig(), augment=AugmentConfig(height=8, width=8))
    tokens, width = 64, 32
    up, attention, down = 2 * tokens * 3 * width, 2 * 2 * tokens * tokens * width, 2 * tokens * width
    # Backward costs twice forward, but the gradient with respect to the pixels is nobody's.
    assert flops_per_clip(recipe) == 3 * (up + attention + down) - up


def test_recomputing_and_batches_change_no_count() -> None:
    recipe = RECIPES["demo"]()
    counted = flops_per_clip(recipe)
    assert counted > 1e8
    again = replace(recipe, train=replace(recipe.train, recompute="full", micro_batch=2))
    assert flops_per_clip(again) == counted


def test_a_model_that_looks_at_values_is_not_counted() -> None:
    class Looks(Attends):
        def forward(self, batch: DeviceBatch):  # type: ignore[no-untyped-def]
            loss, extra = super().forward(batch)
            return (loss if batch.pixels.sum() > 0 else 2 * loss), extra

    class LooksConfig(ModelConfig):
        def build(self, height: int, width: int) -> Objective:
            return Looks()

    usage = Usage.of(replace(TINY, model=LooksConfig()), CPU)
    assert usage.at(1.0) == {"flops_per_second": None, "mfu": None}


def test_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(flops_per_clip=10**12, peak=100e12)
    assert usage.at(50.0) == {"flops_per_second": 5e13, "mfu": 0.5}
    assert Usage(10**12, None).at(50.0)["mfu"] is None
    assert peak_flops(CPU, "bf16", None) is None
    assert peak_flops(CPU, "fp32", 2.0) == 2e12
    gpu = torch.device("cuda", 0)
    names = {
        "NVIDIA H100 80GB HBM3": 989.4e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA A10G": 70e12,
        "NVIDIA GB200": 2500e12,
        "Some GPU of the future": None,
    }
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(gpu, "bf16", None) == peak
        assert peak_flops(gpu, "fp32", None) is None


def test_kernels_are_taken_in_order_and_given_back() -> None:
    before = _cur_sdpa_kernel_backends(with_priority=True)
    q = torch.randn(1, 2, 16, 8)
    with attention_kernels(("math",), "FA2"):
        exact = F.scaled_dot_product_attention(q, q, q)
    with attention_kernels(("cudnn", "flash", "efficient", "math"), "FA2"):
        names = [backend.name for backend in _cur_sdpa_kernel_backends(with_priority=True)]
        torch.testing.assert_close(F.scaled_dot_product_attention(q, q, q), exact)
    assert names == ["CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"]
    assert _cur_sdpa_kernel_backends(with_priority=True) == before


def test_a_flash_attention_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(UserError, match="flash_attn_interface, which is not installed"), attention_kernels((), "FA3"):
        pass


def test_compilations_are_counted() -> None:
    torch._dynamo.reset()

    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    compiled = torch.compile(double, backend="eager", dynamic=False)
    with CompileCount() as count:
        compiled(torch.ones(2))
        compiled(torch.ones(2))
        assert count.take() == 1
        compiled(torch.ones(2))
        assert count.take() == 0
        compiled(torch.ones(3))
        assert count.take() == 1, "of another shape"
    compiled(torch.ones(4))
    assert count.take() == 0


def test_a_profile_holds_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path / "profile", (2, 3), CPU)
    found = []
    for step in range(1, 6):
        profiler.before(step)
        torch.mm(torch.ones(64, 64), torch.ones(64, 64))
        found.append(profiler.after(step))
    assert [one is not None for one in found] == [False, False, True, False, False]
    assert found[2] is not None
    trace, kernels = found[2]
    assert trace == tmp_path / "profile" / "steps-2-3.json.gz"
    with gzip.open(trace, "rt") as file:
        assert "aten::mm" in {event.get("name") for event in json.load(file)["traceEvents"]}
    costly = {kernel["name"]: kernel for kernel in kernels}
    assert costly["aten::mm"]["calls"] == 2
    assert sum(kernel["share"] for kernel in kernels) == pytest.approx(1.0, abs=0.01)


HANGS = """
import sys, time
from pathlib import Path
from headrace.train.hang import HangWatch

def stuck_in_a_collective():
    time.sleep(60)

with HangWatch(Path(sys.argv[1]), rank=0, minutes=1 / 60) as watch:
    for _ in range(3):
        time.sleep(0.5)
        watch.alive()
    print("alive", flush=True)
    if sys.argv[2] == "hang":
        stuck_in_a_collective()
"""


def test_a_worker_that_hangs_says_where_and_ends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stacks, command = run / "stacks-0.txt", [sys.executable, "-c", HANGS, str(run)]
    well = subprocess.run([*command, "go on"], capture_output=True, text=True, check=False)
    assert (well.returncode, well.stdout) == (0, "alive\n"), well.stderr
    assert not stacks.exists(), "nothing is left where nothing hung"
    hung = subprocess.run([*command, "hang"], capture_output=True, text=True, timeout=30, check=False)
    assert (hung.returncode, hung.stdout) == (1, "alive\n")
    assert "stuck_in_a_collective" in stacks.read_text()
    assert stacks_of(run) == [stacks]


def test_the_environment_is_written_down_each_time(tmp_path: Path) -> None:
    write_environment(tmp_path)
    write_environment(tmp_path)
    lines = (tmp_path / "environment.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [describe()] * 2
    assert describe()["packages"]["torch"].startswith("2.")
    assert isinstance(describe()["cpus"], int)
    assert np.__version__ == describe()["packages"]["numpy"]
