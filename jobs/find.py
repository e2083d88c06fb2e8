"""Find settings by trying them.

    python jobs/find.py lr hjepa_vits --data.source my_videos       learning rate, by a range test
    python jobs/find.py batch hjepa_vits                            largest micro-batch that fits the device

Beside these options all of `jobs/train.py`'s recipe options are understood. One worker runs, in this process: Ray is
not started, unless a large source has to be indexed. Run it on the GPU that will train.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import tyro

from headrace.cli import parse
from headrace.cluster.trainer import plan_of
from headrace.data.agenda import Agenda
from headrace.data.split import Split
from headrace.errors import UserError, did_you_mean, exit_with_sentence
from headrace.observe.figures import figure
from headrace.observe.range_chart import write_range_chart
from headrace.recipe import Recipe, replace_at
from headrace.train.feed import Feed
from headrace.train.find import RangeTest, largest_that_runs, range_test
from headrace.train.loop import build_trainable
from headrace.train.session import LocalSession, local_device
from headrace.train.step_cost import measure_steps
from jobs.recipes import DEFAULT, RECIPES
from jobs.sources import open_sources

WHAT = ("lr", "batch")


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
    """On the CPU, which has no memory of its own to run out of: memory that this process may take."""

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
    recipe, _ = parse(rest, RECIPES, DEFAULT, f"find.py {what}", f"Find the {what}.")
    recipe = replace_at(recipe, "train.workers", 1)
    if isinstance(options, LrOptions):
        return find_lr(recipe, options)
    return find_batch(recipe, options)


def find_lr(recipe: Recipe, options: LrOptions) -> int:
    """Let the learning rate grow while training, plot the loss, suggest a rate."""
    device = local_device(recipe.train.device)
    manifest = open_sources(recipe.data).split().training
    plan = plan_of(recipe, manifest)
    torch.set_num_threads(recipe.train.threads)
    micro_batches = options.range_steps * recipe.train.accumulate
    session = LocalSession(Path(), Split.whole(manifest), plan, Agenda(micro_batches), device)
    with Feed(session.batches(0, 0), range(micro_batches), device, recipe.train.queue) as feed:
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
    device = local_device(recipe.train.device)
    if device.type == "cpu":
        if options.limit_gigabytes is None:
            raise UserError(
                "there is no GPU here, and a CPU's memory has no end that could be met safely: say how much may be "
                "used with --limit-gigabytes, or run this on the GPU that will train"
            )
        _limit(options.limit_gigabytes)
    elif options.limit_gigabytes is not None:
        raise UserError("--limit-gigabytes is for the CPU: a GPU's memory is its limit")
    fits = largest_that_runs(partial(_try, recipe, device), options.most)
    tried_all = fits == options.most
    more = f"; more than --most {options.most} was not tried" if tried_all else ""
    print(f"A micro-batch of {fits} is the largest that ran: train with --train.micro-batch {fits}{more}.")
    return 0


def _try(recipe: Recipe, device: torch.device, micro_batch: int) -> None:
    """Take two steps, the second of which has the optimizer's state in memory too."""
    train = replace(recipe.train, micro_batch=micro_batch, global_batch=micro_batch)
    try:
        measure_steps(replace(recipe, train=train), device, steps=1)
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error  # what the CPU's allocator says
    except MemoryError as error:
        raise torch.OutOfMemoryError(str(error)) from error
    print(f"  {micro_batch} ran")


def _limit(gigabytes: float) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 1e9), hard))


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
