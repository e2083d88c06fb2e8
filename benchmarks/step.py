"""What a training step costs beside the plainest correct loop, and beside Accelerate's: one model, one optimizer.

    python benchmarks/step.py                               nearly nothing, ViT-S/16 and ViT-B/16, compiled and eager
    python benchmarks/step.py --sizes H+ --height 512       DINOv3's ViT-H/16+ at 512 px

    plain        augment, autocast, backward, clip, step, zero: as a tutorial writes it
    headrace     the steps of `train.loop`: schedule, guard, feed, meter, and a record after each of them
    accelerate   the plain loop with Accelerate's wrapping, clipping and backward

All three take steps on the same weights, with the same compiled blocks, on the same noise, one step each in turn: what
slows the machine for a while slows all of them. The optimizer steps with a learning rate of 0, so they stay the same.
What a loop costs does not grow with the model: it is seen in steps of a transformer that is nearly
nothing, in milliseconds. The last line printed is JSON: throughputs of ours by the others' (above 1: ours is faster),
and the share of a plain step that our loop costs, as seen and as those milliseconds are of the shortest step.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.decode_report import Machine
from benchmarks.vit import Size, VitConfig
from headrace.augment import AugmentConfig
from headrace.batch import Batch, BatchStream, DeviceBatch, fake_batch
from headrace.data.agenda import Agenda
from headrace.data.config import DataConfig
from headrace.data.course import Course
from headrace.data.sampling import SamplingConfig
from headrace.errors import RunError, UserError, exit_with_sentence
from headrace.optim import OptimConfig
from headrace.recipe import Recipe
from headrace.train.config import CompileConfig, TrainConfig
from headrace.train.flops import Usage
from headrace.train.hang import HangWatch
from headrace.train.kernels import attention_kernels
from headrace.train.loop import Loop, build_trainable
from headrace.train.progress import CheckpointPath, Progress
from headrace.train.session import local_device
from headrace.train.step import Trainable
from headrace.train.step_cost import noise_feed

WARM_STEPS = 3
NOTHING: Size = "nothing"
_GIGA = 1e9


@dataclass(frozen=True)
class Options:
    """Measure training steps."""

    sizes: tuple[Size, ...] = (NOTHING, "S", "B")
    """Vision transformers."""

    batch: int = 8
    """Samples in a step."""

    height: int = 224
    """Height and width of frames, in pixels; a multiple of 16."""

    steps: int = 20
    """Steps of each that are timed."""

    compiled: tuple[bool, ...] = (False, True)
    """Eager, compiled by block, or both."""

    device: str = "auto"
    """Where the model runs: auto, cpu or cuda."""

    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""

    def __post_init__(self) -> None:
        if self.height % 16:
            raise UserError(f"height must be a multiple of 16, got {self.height}")


@dataclass(frozen=True)
class Case:
    """One model, measured.

    Attributes:
        seconds: [steps] by contender; the k-th of all were taken one after the other.
        augment_seconds: [steps] of augmentation alone.
        memory_bytes: high-water mark of the device over all three; 0 on a CPU.
        mfu, flops_per_second: of ours, at the median.
    """

    size: str
    compiled: bool
    seconds: dict[str, list[float]]
    augment_seconds: list[float]
    memory_bytes: int
    flops_per_second: float
    mfu: float | None

    @property
    def overhead_milliseconds(self) -> float:
        """Return what a step of ours takes more than a plain one: the median difference."""
        return 1e3 * float(np.median(np.array(self.seconds["headrace"]) - np.array(self.seconds["plain"])))

    def ratio(self, above: str, below: str) -> float:
        """Return the median ratio of the seconds of two contenders, step by step."""
        return float(np.median(np.array(self.seconds[above]) / np.array(self.seconds[below])))


Step = Callable[[int], object]


def measure(size: Size, compiled: bool, options: Options) -> Case:
    """Take steps of all contenders in turn."""
    device = local_device(options.device)  # type: ignore[arg-type]
    torch.manual_seed(0)
    torch._dynamo.reset()
    recipe = _recipe(size, compiled, options)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainable = build_trainable(recipe, device)
    usage = Usage.of(recipe, device)
    with attention_kernels(recipe.train.attention, recipe.train.flash), _ours(recipe, trainable) as ours:
        contenders: dict[str, Step] = {"plain": _plain(recipe, trainable), "headrace": ours}
        with contextlib.suppress(ImportError):
            contenders["accelerate"] = _accelerate(recipe, trainable)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        names = list(contenders)
        steps = options.steps * (10 if size == NOTHING else 1)
        for step in range(WARM_STEPS + steps):
            first = step % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(_timed(partial(contenders[name], step), device))
        noise = _noise(recipe)
        pixels = torch.from_numpy(noise.pixels).to(device)
        augment = [_timed(partial(trainable.augment, pixels, noise.seed), device) for _ in range(options.steps)]
    timed = {name: times[WARM_STEPS:] for name, times in seconds.items()}
    used = usage.at(options.batch / float(np.median(timed["headrace"])))
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Case(size, compiled, timed, augment, memory, used["flops_per_second"] or 0.0, used["mfu"])


def _recipe(size: Size, compiled: bool, options: Options) -> Recipe:
    threads = options.threads or torch.get_num_threads()
    return Recipe(
        name="step",
        model=VitConfig(size),
        data=DataConfig(height=options.height, width=options.height, sampling=SamplingConfig(frames=1)),
        augment=AugmentConfig(height=options.height, width=options.height),
        optim=OptimConfig(lr=1e-30, schedule="constant", warmup_steps=0, clip_norm=1.0),
        train=TrainConfig(
            steps=WARM_STEPS + options.steps,
            global_batch=options.batch,
            micro_batch=options.batch,
            threads=threads,
            compile=CompileConfig(enabled=compiled),
        ),
    )


def _noise(recipe: Recipe) -> Batch:
    return fake_batch(recipe.train.micro_batch, 1, recipe.data.height, recipe.data.width)


def _on_device(noise: Batch, trainable: Trainable) -> DeviceBatch:
    """Do what a tutorial does: copy, wait, augment."""
    pixels = torch.from_numpy(noise.pixels).to(trainable.device)
    label = torch.from_numpy(noise.label).to(trainable.device)
    return DeviceBatch(trainable.augment(pixels, noise.seed), noise.seed, label)


def _plain(recipe: Recipe, trainable: Trainable) -> Step:
    model, optimizer, noise = trainable.objective, trainable.optimizer, _noise(recipe)

    def step(_: int) -> None:
        batch = _on_device(noise, trainable)
        with torch.autocast(trainable.device.type, torch.bfloat16):
            loss, _extra = model(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


class _Shell(nn.Module):
    """Keeps what Accelerate does to a model's forward away from the model itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: DeviceBatch) -> Any:
        return self.model(batch)


def _accelerate(recipe: Recipe, trainable: Trainable) -> Step:
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision="bf16", cpu=trainable.device.type == "cpu")
    model = accelerator.prepare(_Shell(trainable.objective))
    optimizer = accelerator.prepare(trainable.optimizer)
    noise = _noise(recipe)

    def step(_: int) -> None:
        batch = _on_device(noise, trainable)
        with accelerator.autocast():
            loss, _extra = model(batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


@dataclass
class _Alone:
    """The session of a worker that is fed with noise."""

    run: Path
    device: torch.device
    course: Course
    rank: int = 0
    world_size: int = 1
    cores: int = 1

    def batches(self, step: int, first: int) -> BatchStream:
        raise NotImplementedError

    def leaving(self) -> bool:
        return False

    def committed(self, checkpoint: CheckpointPath, step: int, loss: float) -> None:
        pass


@contextlib.contextmanager
def _ours(recipe: Recipe, trainable: Trainable) -> Iterator[Step]:
    """Yield what `train.loop` does in each step, with a record after each of them."""
    with tempfile.TemporaryDirectory(prefix="headrace-step-") as folder:
        session = _Alone(Path(folder), trainable.device, Course(Agenda(recipe.train.steps), "", "", ""))
        hang = HangWatch(session.run, session.rank, recipe.train.hang_minutes)
        with (
            noise_feed(recipe, trainable.device) as feed,
            hang,
            Loop(recipe, session, feed, trainable, Progress(), hang.alive) as loop,
        ):

            def step(_: int) -> None:
                loop.step()
                loop.record()

            yield step


def _timed(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def summary(cases: Sequence[Case], options: Options) -> dict[str, Any]:
    """Return what is judged, of several cases the worst, and all that is needed to judge it."""
    models = [case for case in cases if case.size != NOTHING]
    known = [case for case in models if "accelerate" in case.seconds]
    milliseconds = max((case.overhead_milliseconds for case in cases if case.size == NOTHING), default=None)
    shortest = min((1e3 * float(np.median(case.seconds["plain"])) for case in models), default=None)
    judged = {
        "vs_plain_loop": min((case.ratio("plain", "headrace") for case in models), default=None),
        "vs_accelerate": min((case.ratio("accelerate", "headrace") for case in known), default=None),
        "loop_overhead": max((case.ratio("headrace", "plain") - 1 for case in models), default=None),
        "loop_milliseconds": milliseconds,
        "loop_share_of_shortest": milliseconds / shortest if milliseconds and shortest else None,
    }
    return {
        **{name: None if value is None else round(value, 4) for name, value in judged.items()},
        "cases": [
            {
                "size": case.size,
                "compiled": case.compiled,
                "seconds": {name: round(float(np.median(times)), 5) for name, times in case.seconds.items()},
                "loop_overhead": round(case.ratio("headrace", "plain") - 1, 4),
                "overhead_milliseconds": round(case.overhead_milliseconds, 3),
                "augment_share": round(float(np.median(case.augment_seconds) / np.median(case.seconds["plain"])), 4),
                "mfu": None if case.mfu is None else round(case.mfu, 4),
                "tera_flops": round(case.flops_per_second / 1e12, 3),
                "memory_gigabytes": round(case.memory_bytes / _GIGA, 2),
            }
            for case in cases
        ],
        "options": asdict(options),
        **asdict(Machine.this(None, {"torch": torch.__version__}, {})),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def print_report(cases: Sequence[Case]) -> None:
    """Print a table."""
    columns = ("plain", "headrace", "accelerate", "overhead", "", "augment", "TFLOP/s", "MFU", "GB")
    table = Table("model", "", *columns)
    for case in cases:
        milliseconds = {name: f"{1e3 * np.median(times):,.1f} ms" for name, times in case.seconds.items()}
        table.add_row(
            case.size if case.size == NOTHING else f"ViT-{case.size}",
            "compiled" if case.compiled else "eager",
            milliseconds["plain"],
            milliseconds["headrace"],
            milliseconds.get("accelerate", "absent"),
            f"{case.overhead_milliseconds:+,.1f} ms",
            f"{100 * (case.ratio('headrace', 'plain') - 1):+.1f} %",
            f"{100 * np.median(case.augment_seconds) / np.median(case.seconds['plain']):.1f} %",
            f"{case.flops_per_second / 1e12:,.2f}",
            "" if case.mfu is None else f"{100 * case.mfu:.1f} %",
            f"{case.memory_bytes / _GIGA:.1f}" if case.memory_bytes else "",
        )
    Console(width=120).print(table)


def main(arguments: Sequence[str]) -> int:
    """Measure and report."""
    options = tyro.cli(Options, prog="step.py", args=arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = []
    for size in options.sizes:
        for compiled in options.compiled:
            try:
                cases.append(measure(size, compiled, options))
            except torch.OutOfMemoryError as error:
                raise RunError(f"ViT-{size} does not fit with a batch of {options.batch}: {error}") from error
            print_report(cases[-1:])
    result = summary(cases, options)
    print_report(cases)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    exit_with_sentence(lambda: main(sys.argv[1:]))
