"""The stream simulated, from one machine to 4,096 GPUs: how much training waits, what bends first, and what helps.

    python benchmarks/simulate.py                          8, 64, 512 and 4,096 GPUs, by the costs beside the model
    python benchmarks/simulate.py --training vit-b --gpus 8 64 512
    python benchmarks/simulate.py --measure                measure these costs on this machine (some minutes, alone)
    python benchmarks/simulate.py --validate               run real streams of 1 to 4 decoders, and simulate them

`simulation/model.py` is the model and says what is not in it, `simulation/scale.py` what is assumed of a large cluster.
Costs and validation are kept beside the model, so that the scales can be simulated anywhere. Writes a chart; the last
line printed is JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.simulation import report
from benchmarks.simulation.compared import STREAMS, load
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.scale import SCALES, TRAININGS, losses, stages
from headrace.errors import UserError, did_you_mean, exit_with_sentence

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Options:
    """Simulate the stream at scale, by measured costs."""

    measure: bool = False
    """Measure the costs on this machine, and end."""

    validate: bool = False
    """Run real streams on this machine, compare them with the simulator, and end."""

    streams: tuple[str, ...] = STREAMS
    """Of --validate: which; the results of others are kept."""

    rounds: int = 3
    """Of --validate: rounds of 1 to 4 decoders each; the median counts."""

    training: Literal["vit-h", "vit-b"] = "vit-h"
    """What is trained: ViT-H on videos as they are, or ViT-B, which takes far more clips, on transcoded ones."""

    gpus: tuple[int, ...] = SCALES
    """Scales."""

    clips_per_second: float | None = None
    """That one GPU takes, in place of what is assumed of the model."""

    clip_seconds: float | None = None
    """CPU to decode a clip, in place of what was measured."""

    node_losses: float = 0.02
    """Losses of each decode node in an hour."""

    seconds: float = 20.0
    """That are simulated once the stream runs."""

    chart: str = str(ROOT / "docs" / "simulation.svg")
    """Where the chart is written."""

    def __post_init__(self) -> None:
        for name in self.streams:
            if name not in STREAMS:
                raise UserError(f"there is no stream {name!r} to validate: {did_you_mean(name, STREAMS)}")
        for name in ("rounds", "seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be more than 0, got {getattr(self, name)}")
        if not self.gpus or min(self.gpus) < 1:
            raise UserError(f"gpus must be 1 and more, got {self.gpus}")


def main(arguments: Sequence[str]) -> int:
    """Measure, validate or simulate; the exit code is 1 where the simulator is further off than it may be."""
    options = tyro.cli(Options, prog="simulate.py", args=arguments)
    if options.measure:
        from benchmarks.simulation.measure import measure  # starts Ray, which simulating does without

        costs = measure(_say)
        costs.save()
        print(json.dumps(vars(costs)))
        return 0
    costs = Costs.load()
    if options.validate:
        from benchmarks.simulation.validate import validate

        compared = validate(costs, options.streams, options.rounds, _say)
        report.print_validation(compared)
        worst = report.worst_error(compared)
        print(json.dumps({"worst_error": worst}))
        return 0 if worst is not None and worst <= report.MOST_ERROR else 1
    return scale(options, costs)


def scale(options: Options, costs: Costs) -> int:
    """Simulate all scales, print and chart them beside the validation."""
    training = TRAININGS[options.training]
    training = replace(
        training,
        clips_per_second=options.clips_per_second or training.clips_per_second,
        clip_seconds=options.clip_seconds or training.clip_seconds,
    )
    found = []
    for gpus in options.gpus:
        for stage in stages(training, gpus, costs, options.seconds):
            _say(f"{gpus:,} GPUs, {stage.remedy}: waits {stage.outcome.wait_share:.1%}, limit: {stage.limit}")
            found.append(stage)
    _say("a lost node")
    lost = losses(training, options.gpus, costs, options.node_losses)
    compared = load()
    result = report.summary(compared, found, lost, costs)
    report.print_validation(compared)
    report.print_stages(found)
    report.print_losses(lost, costs)
    path = Path(options.chart)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.chart(compared, found, lost), encoding="utf-8")
    print(f"chart: {path}")
    print(json.dumps(result))
    return 1 if result["met"]["worst_error"] is False else 0


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    exit_with_sentence(lambda: main(sys.argv[1:]))
