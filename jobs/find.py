"""Find settings by trying them.

    python jobs/find.py lr hjepa_vits --data.source my_videos       learning rate, by a range test
    python jobs/find.py batch hjepa_vits                            largest micro-batch that fits the device

Beside these options all of `jobs/train.py`'s recipe options are understood. The range test runs one worker, in this
process, and so does the search for a micro-batch unless --train.workers asks for more: then each size is tried on all
of them, as they share the model, on the cluster that RAY_ADDRESS names or on an embedded one. Run it on the GPUs that
will train.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import tyro

from headrace.cli import RecipeOptions, parse
from headrace.cluster.launch import ray_cluster
from headrace.cluster.trainer import plan_of, resources_for
from headrace.cluster.trial import limit_memory, try_on_workers
from headrace.data.agenda import Agenda
from headrace.data.split import Split
from headrace.errors import UserError, did_you_mean, exit_with_sentence
from headrace.observe.figures import figure
from headrace.observe.range_chart import write_range_chart
from headrace.recipe import Recipe, replace_at
from headrace.train.feed import Feed
from headrace.train.find import RangeTest, largest_that_runs, range_test
from headrace.train.kernels import attention_kernels
from headrace.train.loop import build_trainable
from headrace.train.session import LocalSession, local_device
from headrace.train.step_cost import try_steps
from jobs.recipes import DEFAULT, RECIPES
from jobs.sources import open_sources

WHAT = ("lr", "batch")

NEAR = 0.05
"""How near the search comes to a micro-batch that does not fit, on several workers, which start anew for each."""


@dataclass(frozen=True)
class LrOptions:
    """Where the learning rate is looked for."""

    lowest: float = 1e-6
    """Learning rate of the first step."""

    highest: float = 1.0
    """Learning rate of the last step, if the test gets that far."""

    range_steps: int = 100
    """Steps from one to the other; it ends earlier where the loss runs away."""

    plot: Path = Path("lr.svg")
    """Where the plot is written."""

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest:
            raise UserError(f"--lowest must be above 0 and below --highest, got {self.lowest:g} and {self.highest:g}")
        if self.range_steps < 10:
            raise UserError(f"--range-steps must be at least 10, got {self.range_steps}")


@dataclass(frozen=True)
class BatchOptions:
    """How the micro-batch is looked for."""

    most: int = 4096
    """Largest micro-batch that is tried."""

    limit_gigabytes: float | None = None
    """On the CPU, which has no memory of its own to run out of: what training may take of it in each worker."""

    def __post_init__(self) -> None:
        if self.most < 1:
            raise UserError(f"--most must be at least 1, got {self.most}")
        if self.limit_gigabytes is not None and self.limit_gigabytes <= 0:
            raise UserError(f"--limit-gigabytes must be above 0, got {self.limit_gigabytes}")


def main(arguments: Sequence[str]) -> int:
    """Try, and say what was found."""
    what, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if what not in WHAT:
        if {"-h", "--help"} & set(arguments) or not arguments:
            print(__doc__)
            return 0
        raise UserError(f"find.py looks for lr or batch, not {what!r}: {did_you_mean(what, WHAT)}")
    kind: type[LrOptions] | type[BatchOptions] = LrOptions if what == "lr" else BatchOptions
    if {"-h", "--help"} & set(rest):
        with contextlib.suppress(SystemExit):  # the recipe's own options follow
            tyro.cli(kind, prog=f"find.py {what} [RECIPE]", args=["--help"])
    options, rest = tyro.cli(kind, prog=f"find.py {what}", args=list(rest), return_unknown_args=True, add_help=False)
    recipe, _ = parse(rest, RECIPES, DEFAULT, f"find.py {what}", f"Find the {what}.", RecipeOptions())
    if isinstance(options, LrOptions):
        return find_lr(alone(recipe), options)
    return find_batch(recipe, options)


def alone(recipe: Recipe) -> Recipe:
    """Return the recipe of a run that one worker does, with the same global batch."""
    return replace_at(recipe, "train.workers", 1)


def find_lr(recipe: Recipe, options: LrOptions) -> int:
    """Let the learning rate grow while training, plot the loss, suggest a rate."""
    device = local_device(recipe.train.device)
    manifest = open_sources(recipe.data).split().training
    plan = plan_of(recipe, manifest)
    torch.set_num_threads(recipe.train.threads)
    micro_batches = options.range_steps * recipe.train.accumulate
    session = LocalSession(Path(), Split.whole(manifest), plan, Agenda(micro_batches), device)
    kernels = attention_kernels(recipe.train.attention, recipe.train.flash)
    with kernels, Feed(session.batches(0, 0), range(micro_batches), device, recipe.train.queue) as feed:
        trainable = build_trainable(recipe, device)
        found = range_test(trainable, feed, recipe, options.lowest, options.highest, options.range_steps)
    write_range_chart(found.rates, found.losses, found.smoothed, found.suggestion, options.plot)
    print(f"plot: {options.plot}")
    print(verdict(found))
    return 0


def verdict(found: RangeTest) -> str:
    """Return what the range test says, one sentence."""
    if math.isnan(found.suggestion):
        return (
            f"The loss never fell between {figure(found.rates[0], 2)} and {figure(found.rates[-1], 2)}: try a wider "
            f"range, more --range-steps, or look at the data."
        )
    return (
        f"The loss falls fastest at a learning rate of {figure(found.suggestion, 2)} and is lowest at "
        f"{figure(found.highest, 2)}: train with --optim.lr {found.suggestion:.1g}."
    )


def find_batch(recipe: Recipe, options: BatchOptions) -> int:
    """Run steps with larger and larger micro-batches until one does not fit."""
    workers, limit = recipe.train.workers, options.limit_gigabytes
    if workers == 1:
        device = local_device(recipe.train.device)
        _check_limit(device.type, limit)
        if limit is not None:
            limit_memory(limit)
        fits = largest_that_runs(partial(_try, recipe, lambda sized: try_steps(sized, device)), options.most)
    else:
        with ray_cluster(cpus=workers, dashboard=False) as cluster:
            resources = resources_for(recipe, cluster)
            _check_limit(resources.device, limit)
            on_workers = partial(try_on_workers, resources=resources, limit_gigabytes=limit)
            fits = largest_that_runs(partial(_try, recipe, on_workers), options.most, near=NEAR)
    where = "" if workers == 1 else f" on {workers} workers"
    more = f"; more than --most {options.most} was not tried" if fits == options.most else ""
    print(f"A micro-batch of {fits} is the largest that ran{where}: train with --train.micro-batch {fits}{more}.")
    return 0


def _check_limit(device: str, limit: float | None) -> None:
    if device == "cpu" and limit is None:
        raise UserError(
            "there is no GPU here, and a CPU's memory has no end that could be met safely: say how much may be used "
            "with --limit-gigabytes, or run this on the GPU that will train"
        )
    if device != "cpu" and limit is not None:
        raise UserError("--limit-gigabytes is for the CPU: a GPU's memory is its limit")


def _try(recipe: Recipe, run: Callable[[Recipe], None], micro_batch: int) -> None:
    """Take steps with a micro-batch, and say that it ran."""
    global_batch = micro_batch * recipe.train.workers
    run(replace(recipe, train=replace(recipe.train, micro_batch=micro_batch, global_batch=global_batch)))
    print(f"  {micro_batch} ran", flush=True)


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
