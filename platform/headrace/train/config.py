"""Settings of the training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from headrace.errors import UserError

Parallel = Literal["ddp", "fsdp"]
Precision = Literal["bf16", "fp32"]
AttentionKernel = Literal["cudnn", "flash", "efficient", "math"]
Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class CompileConfig:
    """torch.compile of the model's arithmetic. Mode and options exclude each other, as in torch itself."""

    enabled: bool = True
    """Compile at all; off runs eagerly."""

    scope: Literal["blocks", "networks"] = "blocks"
    """What is compiled as one: each block, of which all alike are compiled once, in seconds; or whole networks, which
    can be a little faster and takes minutes."""

    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = None
    """Preset of torch.compile; reduce-overhead and max-autotune replay CUDA graphs."""

    options: dict[str, str] | None = None
    """Inductor options as NAME VALUE pairs, for instance epilogue_fusion true; instead of a mode."""

    @property
    def replays_graphs(self) -> bool:
        """Whether CUDA graphs are recorded and replayed."""
        asked = (self.options or {}).get("triton.cudagraphs", "false").lower() == "true"
        return self.enabled and (asked or self.mode in ("reduce-overhead", "max-autotune"))

    def __post_init__(self) -> None:
        if self.mode is not None and self.options is not None:
            raise UserError(
                "torch.compile takes a mode or options, not both: drop --train.compile.mode "
                f"(now {self.mode!r}) or --train.compile.options"
            )


@dataclass(frozen=True)
class GuardConfig:
    """Steps that are left out because they would do harm."""

    budget: int = 10
    """How many of the last 1,000 steps may be left out because their loss or gradient is not finite, or spikes; with
    one more the run stops and names the samples."""

    spike: float | None = None
    """Leave out also steps whose loss or gradient norm is so many standard deviations above that of the last 100
    steps. Losses that jump by design, as at the end of a schedule's warm-up, want a large number."""

    def __post_init__(self) -> None:
        if self.budget < 0:
            raise UserError(f"--train.guard.budget must be at least 0, got {self.budget}")
        if self.spike is not None and not self.spike > 0:
            raise UserError(f"--train.guard.spike must be above 0 standard deviations, got {self.spike}")


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluating on held-out samples while training goes on; --data.holdout or --data.validation says which."""

    every: int = 0
    """Steps between two evaluations, each of which writes a checkpoint; the last step is evaluated, too. 0: none."""

    samples: int = 2048
    """Held-out samples that are evaluated at most: the same ones each time."""

    metric: str = "loss"
    """By which checkpoints are compared: a score of the model (loss, ...), or of its features (knn, rankme,
    feature_std). Of what ends in loss the lowest is best, else the highest."""

    keep_best: int = 1
    """Best checkpoints that are kept, beside the newest ones."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise UserError(f"--train.evaluate.every is a number of steps, or 0 for no evaluation, got {self.every}")
        for name in ("samples", "keep_best"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"--train.evaluate.{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}"
                )

    def is_better(self, one: float, other: float) -> bool:
        """Say whether one value of the metric is better than another; NaN never is."""
        if math.isnan(one) or math.isnan(other):
            return not math.isnan(one)
        return one < other if lower_is_better(self.metric) else one > other


def lower_is_better(metric: str) -> bool:
    """Say in which direction a metric is good: of what ends in loss the lower value is better, else the higher."""
    return metric.endswith("loss")


@dataclass(frozen=True)
class TrainConfig:
    """How long, how large, on how many workers, how precise, and how often to write it down."""

    steps: int = 200
    """Optimizer steps of the whole run."""

    global_batch: int = 16
    """Samples in an optimizer step, over all workers. The micro-batches accumulated follow from it."""

    micro_batch: int = 8
    """Samples in a block of the stream and in one forward and backward pass of a worker."""

    workers: int = 1
    """Training workers, each with one GPU or, on the CPU, one process."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes a GPU where the cluster has one for each worker."""

    threads: int = 1
    """CPU threads of torch in each worker; on the CPU the decoders want the other cores."""

    precision: Precision = "bf16"
    """Arithmetic of forward and backward; bf16 is autocast over FP32 master weights."""

    compile: CompileConfig = field(default_factory=CompileConfig)
    """torch.compile."""

    parallel: Parallel = "ddp"
    """How workers share the model. ddp: each holds all of it. fsdp: each holds a share of weights, gradients and
    optimizer state, for models that do not fit one GPU."""

    recompute: Recompute = "none"
    """Activation checkpointing of blocks. none: all activations are kept. selective: those of matrix products and
    attention are, the rest is computed again. full: only the blocks' inputs are kept."""

    attention: tuple[AttentionKernel, ...] = ("cudnn", "flash", "efficient", "math")
    """Kernels for attention, the first that can is taken. What they compute differs in rounding only."""

    flash: Literal["FA2", "FA3", "FA4"] = "FA2"
    """Which FlashAttention "flash" is: torch's own FA2, or one that is installed beside torch, for newer GPUs."""

    peak_teraflops: float | None = None
    """What the device could do at most, in 10^12 operations a second, for the model FLOPs utilization; known for common
    GPUs in BF16."""

    profile: tuple[int, int] | None = None
    """First and last step that are profiled: writes a trace and names the costliest kernels in the report."""

    guard: GuardConfig = field(default_factory=GuardConfig)
    """Steps that are left out."""

    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Evaluation on held-out samples, and the best checkpoints."""

    hang_minutes: float = 30.0
    """A worker that takes longer over one step writes down where it stands and ends, and the run goes on from its
    newest checkpoint; what compiles may take minutes."""

    checkpoints: str | None = None
    """Location in object storage, as s3://bucket/runs, below which a run's checkpoints are kept under its name; in the
    run's folder if not given."""

    checkpoint_every: int = 100
    """Steps between checkpoints; the last step always writes one."""

    keep_checkpoints: int = 3
    """Newest checkpoints that are kept; older ones are deleted."""

    log_every: int = 1
    """Steps between records in metrics.jsonl; on a GPU each record waits for the device once."""

    queue: int = 2
    """Micro-batches that a worker keeps ready ahead of the step."""

    restarts: int = 3
    """Times that the workers are started again from the newest checkpoint after one of them died."""

    ledger: bool = False
    """Write down which samples each worker consumed in each step, as ledger-<rank>.jsonl."""

    def __post_init__(self) -> None:
        counts = ("steps", "global_batch", "micro_batch", "workers", "threads", "checkpoint_every")
        for name in (*counts, "keep_checkpoints", "log_every", "queue"):
            if getattr(self, name) < 1:
                raise UserError(f"--train.{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.profile is not None and not 1 <= self.profile[0] <= self.profile[1] <= self.steps:
            raise UserError(
                f"--train.profile wants a first and a last step out of 1 to {self.steps}, in order, got "
                f"{self.profile[0]} {self.profile[1]}"
            )
        if self.checkpoints is not None and "://" not in self.checkpoints:
            raise UserError(
                f"--train.checkpoints wants a location in object storage, as s3://bucket/runs, got "
                f"{self.checkpoints!r}: checkpoints lie in the run's folder anyway, which --output names"
            )
        if not self.attention:
            raise UserError("--train.attention names no kernel: math always works")
        if not self.hang_minutes > 0:
            raise UserError(f"--train.hang-minutes must be above 0, got {self.hang_minutes}")
        if self.restarts < 0:
            raise UserError(f"--train.restarts must be at least 0, got {self.restarts}")
        if self.global_batch % (self.workers * self.micro_batch):
            whole = self.workers * self.micro_batch
            near = max(whole, round(self.global_batch / whole) * whole)
            raise UserError(
                f"a global batch of {self.global_batch} cannot be divided over {self.workers} workers in "
                f"micro-batches of {self.micro_batch}: --train.global-batch {near} can"
            )

    @property
    def accumulate(self) -> int:
        """Micro-batches that each worker adds up before an optimizer step."""
        return self.global_batch // (self.workers * self.micro_batch)
