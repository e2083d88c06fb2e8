"""What several clips from each decode cost in learning, for the decoding that they save.

    python benchmarks/repeats.py --train cifar/train --test cifar/test --seeds 0 1 2
    python benchmarks/repeats.py --learner hjepa_tiny --train videos --test others --repeats 2 4 --steps 1000

For each number of repeats R two runs are compared, of the same recipe and seed:

    as many samples    R repeats   N steps    against   1 repeat   N steps     which decodes R times as much
    as many decodes    R repeats   N steps    against   1 repeat   N / R steps

With the first an echoed sample is worth less than a fresh one, by how much is asked; with the second it is worth more
than none (Choi et al., "Faster neural network training with data echoing", arXiv:1907.05550, asks the same). Either a
small network learns the labels of images, and the score is its accuracy on the test source; or a recipe is trained, a
tenth of it to warm up, and the scores are those of `jobs/evaluate.py`: a linear probe on the frozen features, and k-NN.
Where the source has fewer samples than a run takes, all runs see all of it again and again, and an echo differs little
from the next epoch: say `--steps` so that the longest run is about one epoch for the hard case. The last line is JSON.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import tyro
from rich.console import Console
from rich.table import Table

from headrace.data.config import DataConfig
from headrace.data.manifest import Manifest
from headrace.errors import RunError, UserError, exit_with_sentence
from jobs.sources import open_source

JOBS = Path(__file__).resolve().parent.parent / "jobs"
CLASSIFIER = "classifier"
OPTIONS_FILE = "options.json"
SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Options:
    """Measure what repeats cost in learning."""

    train: str
    """Labelled source: trained on, and probes are fitted on it."""

    test: str
    """Labelled source on which is scored."""

    learner: str = CLASSIFIER
    """What is trained: classifier, a small network that learns the labels of images, or a recipe by its name."""

    steps: int = 768
    """Steps of the longest runs, N."""

    batch: int = 64
    """Samples in a step of the classifier; a recipe has its own."""

    repeats: tuple[int, ...] = (2, 4)
    """Clips from each decode, beside 1."""

    seeds: tuple[int, ...] = (0,)
    """One round each."""

    limit: int = 10_000
    """Samples of each source that probes see at most."""

    output: Path | None = None
    """Folder for the runs, by which a round that was cut off goes on; a temporary one if not given."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "limit"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if not self.seeds or not self.repeats:
            raise UserError("--seeds and --repeats name one number at least")
        for repeats in self.repeats:
            if repeats < 2 or self.steps % repeats:
                raise UserError(f"--repeats wants numbers from 2 that divide --steps ({self.steps}), got {repeats}")

    @property
    def scores(self) -> tuple[str, ...]:
        """What a run is scored by."""
        return ("accuracy",) if self.learner == CLASSIFIER else ("linear", "knn")


@dataclass(frozen=True, order=True)
class Case:
    """One run but for its seed."""

    repeats: int
    steps: int

    def __str__(self) -> str:
        return f"R = {self.repeats}, {self.steps:,} steps"


Scores: TypeAlias = "dict[Case, dict[str, float]]"


def cases(options: Options) -> list[Case]:
    """Return what is trained, each once."""
    short = [Case(1, options.steps // repeats) for repeats in options.repeats]
    return sorted({Case(1, options.steps), *short, *(Case(repeats, options.steps) for repeats in options.repeats)})


def main(arguments: Sequence[str]) -> int:
    """Train, score, compare."""
    options = tyro.cli(Options, prog="repeats.py", args=arguments)
    with tempfile.TemporaryDirectory(prefix="headrace-repeats-") as temporary:
        folder = options.output or Path(temporary)
        _check_same(options, folder)
        found = [_round(options, seed, folder) for seed in options.seeds]
    compared = list(_compared(options, found))
    _print(options, found, compared)
    print(json.dumps({"seeds": options.seeds, "steps": options.steps, "compared": compared}))
    return 0


def _check_same(options: Options, folder: Path) -> None:
    """Check that the runs in a folder, if there are any, are of the same learner on the same data."""
    asked = {name: str(getattr(options, name)) for name in ("learner", "train", "test", "batch", "limit")}
    written = folder / OPTIONS_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if not written.exists():
        written.write_text(json.dumps(asked))
    elif (there := json.loads(written.read_text())) != asked:
        raise UserError(f"{folder} holds runs of {there}, not of {asked}: name another --output")


def _round(options: Options, seed: int, folder: Path) -> Scores:
    """Return the scores of each case, and those of the network before it learns where they tell anything."""
    learn = _classify if options.learner == CLASSIFIER else _train
    found = {}
    for case in cases(options):
        run = folder / f"seed-{seed}-repeats-{case.repeats}-steps-{case.steps}"
        results = run / SCORES_FILE
        if not results.exists():
            shutil.rmtree(run, ignore_errors=True)  # of a round that was cut off
            with Console(stderr=True).status(f"seed {seed}, {case}"):
                scores = learn(options, case, seed, run)
            run.mkdir(parents=True, exist_ok=True)
            half = results.with_suffix(".part")
            half.write_text(json.dumps(scores))
            half.rename(results)
        found[case] = json.loads(results.read_text())
    return found


def _classify(options: Options, case: Case, seed: int, _: Path) -> dict[str, float]:
    from benchmarks.classifier import Training, accuracy

    train, test = _labelled(options.train), _labelled(options.test)
    if unknown := sorted(set(test.classes) - set(train.classes)):
        raise UserError(f"--test has classes that --train lacks: {', '.join(unknown)}")
    training = Training(case.steps, options.batch, case.repeats, DataConfig().repeats_apart, seed)
    return {"accuracy": accuracy(train, test, training)}


@cache
def _labelled(source: str) -> Manifest:
    manifest = open_source(source).manifest().usable()
    labelled = manifest.where(manifest.labels >= 0)
    if not len(labelled):
        raise UserError(f"{source} has no labels to learn: add them with `jobs/pack.py --metadata`")
    return labelled


def _train(options: Options, case: Case, seed: int, run: Path) -> dict[str, float]:
    data = ("--data.source", options.train, "--data.repeats", str(case.repeats))
    length = ("--train.steps", str(case.steps), "--train.checkpoint-every", str(case.steps))
    warm_up = ("--optim.warmup-steps", str(max(1, case.steps // 10)))
    where = ("--output", str(run), "--wandb", "off", "--seed", str(seed))
    _job("train.py", options.learner, *data, *length, *warm_up, *where)
    probe = ("--train", options.train, "--test", options.test, "--limit", str(options.limit))
    _job("evaluate.py", str(run), *probe)
    scores = json.loads((run / "evaluation.jsonl").read_text().splitlines()[-1])["results"]
    trained = next(name for name in scores if name.startswith("step "))
    before = {f"random {name}": scores["random weights"][name] for name in options.scores}
    return before | {name: scores[trained][name] for name in options.scores}


def _job(name: str, *arguments: str) -> None:
    command = [sys.executable, str(JOBS / name), *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        raise RunError(f"{name} {' '.join(arguments)} failed: {(said.stderr.strip().splitlines() or ['no word'])[-1]}")


def _compared(options: Options, found: Sequence[Scores]) -> Iterator[dict[str, object]]:
    """Yield, for each comparison, the difference of the scores in points, one for each seed."""
    for repeats in options.repeats:
        echoed = Case(repeats, options.steps)
        for what, other in (("samples", Case(1, options.steps)), ("decodes", Case(1, options.steps // repeats))):
            differences = {
                name: [round(100 * (scores[echoed][name] - scores[other][name]), 2) for scores in found]
                for name in options.scores
            }
            yield {"repeats": repeats, "as_many": what, **differences}


def _print(options: Options, found: Sequence[Scores], compared: Sequence[dict[str, object]]) -> None:
    table = Table(title=f"{options.learner}, {len(found)} seeds, means", title_justify="left")
    for heading in ("run", "samples decoded, of N steps", *options.scores):
        table.add_column(heading, justify="left" if heading == "run" else "right")
    first = next(iter(found[0]))
    if f"random {options.scores[0]}" in found[0][first]:
        before = (_mean([scores[first][f"random {name}"] for scores in found]) for name in options.scores)
        table.add_row("random weights", "", *before)
    for case in found[0]:
        share = f"{case.steps / case.repeats / options.steps:.0%}"
        means = (_mean([scores[case][name] for scores in found]) for name in options.scores)
        table.add_row(str(case), share, *means)
    Console().print(table)
    for row in compared:
        scores = ", ".join(f"{name} {row[name]}" for name in options.scores)
        print(f"R = {row['repeats']} against as many {row['as_many']}: {scores} points")


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1%}"


if __name__ == "__main__":
    exit_with_sentence(lambda: main(sys.argv[1:]))
