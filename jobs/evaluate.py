"""Measure what a run's encoder has learnt: linear probe, k-NN, RankMe and feature std.

    python jobs/evaluate.py runs/hjepa_cifar-... --train cifar_train --test cifar_test
    python jobs/evaluate.py runs/demo-...        on the run's own source: what --data.holdout kept from it, or a fifth

The same probes measure an encoder of random weights and the raw pixels: what a trained one must beat.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import ray
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import interpolate

from data_pipelines.clips import batches, micro_batches
from headrace import keyed
from headrace.augment import Augment
from headrace.cli import saved_recipe
from headrace.cluster.launch import ray_cluster
from headrace.data.agenda import Agenda
from headrace.data.config import DataConfig, PoolSize
from headrace.data.manifest import Manifest
from headrace.data.order import Order
from headrace.data.reader import Plan
from headrace.data.split import Split, draw
from headrace.errors import UserError, exit_with_sentence
from headrace.evaluate import feature_std, knn_accuracy, linear_probe_accuracy, rankme
from headrace.models import Objective
from headrace.recipe import Recipe
from headrace.train import checkpoint
from headrace.train.progress import CheckpointPath, checkpoints_called
from jobs.recipes import RECIPES
from jobs.sources import Bar, RunSource, cores, open_sources

RAW = "raw pixels"
RESULTS_FILE = "evaluation.jsonl"


@dataclass(frozen=True)
class Options:
    """Measure what a run's encoder has learnt: linear probe, k-NN, RankMe and feature std."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""

    checkpoint: str = "newest"
    """Which one: newest, best (by the run's own evaluations), the number of its step, or all that the run has kept:
    does it rise?"""

    train: str | None = None
    """Labelled source on which the probes are fitted; the run's own source if not given. Without labels there
    are no probes, but the features are still looked at for collapse."""

    test: str | None = None
    """Labelled source on which they are scored; if not given, what the run held out, or else a fifth of the train
    source."""

    limit: int = 20_000
    """Samples taken of each source at most."""

    batch: int = 64
    """Samples in a forward pass."""

    decoders: int = 0
    """Decode actors; 0 takes one for each core."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoder runs."""


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, and append it to the run's evaluation.jsonl."""
    options = tyro.cli(Options, prog="evaluate.py", args=arguments)
    recipe = saved_recipe(options.run, RECIPES)
    checkpoints = checkpoints_called(options.run, options.checkpoint)
    everything = replace(recipe.data, weights=None, without_replacement=0.0)
    fit = open_sources(DataConfig(source=options.train) if options.train else everything)
    score = open_sources(DataConfig(source=options.test)) if options.test else None

    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    encoders = {"random weights": _encoder(recipe, None, device)}
    encoders |= {f"step {step:,}": _encoder(recipe, path, device) for step, path in checkpoints.items()}
    decoders = options.decoders or cores()
    with ray_cluster(decoders, dashboard=False, resource=recipe.data.decoder_resource):
        train, test = _sides(fit, score, options.limit)
        encode = partial(_encode, recipe=recipe, encoders=encoders, batch=options.batch, decoders=decoders)
        fitted, scored = encode(train), encode(test)

    results = {name: _measure(name, fitted, scored) for name in (RAW, *encoders)}
    _say(results, fitted, scored)
    with (options.run / RESULTS_FILE).open("a") as file:
        sizes = {"train": len(fitted.labels), "test": len(scored.labels)}
        file.write(json.dumps({"time": time.time(), **sizes, "results": results}) + "\n")
    return 0


@dataclass(frozen=True)
class Encoded:
    """Labelled samples, as each encoder sees them.

    Attributes:
        features: [N, D] float32 by encoder.
        labels: class names.
    """

    features: dict[str, Tensor]
    labels: list[str]


def _sides(fit: RunSource, score: RunSource | None, limit: int) -> tuple[Manifest, Manifest]:
    """Return the samples to fit on and to score on: of two sources, of both sides of one, or a fifth kept apart."""
    split = fit.split()
    train, test = split.training, score.split().training if score else split.held_out
    if len(train.classes) >= 2:  # else there is nothing to tell apart, and labels mean nothing
        train, test = _labelled(train), _labelled(test) if len(test) else test
    if len(test):
        return draw(train, limit), draw(test, limit)
    drawn = keyed.permute(np.arange(len(train)), len(train), "evaluation split")[:limit]
    cut = max(1, len(drawn) // 5)
    return train.rows(np.sort(drawn[cut:])), train.rows(np.sort(drawn[:cut]))


def _labelled(manifest: Manifest) -> Manifest:
    labelled = manifest.rows(np.flatnonzero(manifest.labels >= 0))
    if len(labelled) < 10:
        raise UserError(
            f"{manifest.source!r} has {len(labelled)} labelled samples to fit or to score on; probes need at least 10: "
            f"label more with `jobs/pack.py --metadata`, or name another source with --train or --test"
        )
    return labelled


def _encoder(recipe: Recipe, weights: CheckpointPath | None, device: torch.device) -> Objective:
    torch.manual_seed(recipe.seed)
    objective = recipe.model.build(recipe.augment.height, recipe.augment.width)
    if weights is not None:
        checkpoint.load_model(weights, objective)
    return objective.to(device).eval()


@torch.inference_mode()
def _encode(manifest: Manifest, recipe: Recipe, encoders: dict[str, Objective], batch: int, decoders: int) -> Encoded:
    """Stream all samples once, unaugmented and in order, through each encoder. What fails to decode is left out."""
    device = next(next(iter(encoders.values())).parameters()).device
    augment = Augment(recipe.augment, device, training=False)
    data = replace(recipe.data, streams=1)  # one process takes all of it
    plan = Plan(Order(len(manifest), recipe.seed, "none"), data, batch, training=False, once=True)
    agenda = Agenda(steps=-(-len(manifest) // batch))
    stream = micro_batches(ray.put(Split.whole(manifest)), plan, agenda, PoolSize(decoders, decoders))
    parts: dict[str, list[Tensor]] = {name: [] for name in (*encoders, RAW)}
    samples: list[np.ndarray] = []
    with Bar("encoding") as bar:
        for number, block in enumerate(batches(stream, agenda)):
            keep = torch.from_numpy(block.valid)
            pixels = augment(torch.tensor(block.pixels, device=device), block.seed)[keep]
            for name, encoder in encoders.items():
                parts[name].append(encoder.features(pixels).cpu())
            parts[RAW].append(_thumbnails(pixels).cpu())
            samples.append(block.sample[keep.numpy()])
            bar(number + 1, agenda.steps)
    labels = manifest.labels[np.concatenate(samples)]
    names = [manifest.classes[label] if label >= 0 else "" for label in labels]
    return Encoded({name: torch.cat(part) for name, part in parts.items()}, names)


def _thumbnails(pixels: Tensor) -> Tensor:
    """Return the mean frame of each clip, at most 32 pixels on a side, as a vector."""
    frames = pixels.mean(dim=1)
    height, width = (min(side, 32) for side in frames.shape[-2:])
    return interpolate(frames, (height, width), mode="area").flatten(1)


def _measure(name: str, train: Encoded, test: Encoded) -> dict[str, float]:
    features = train.features[name]
    measured = {"rankme": rankme(features), "std": feature_std(features) * features.shape[1] ** 0.5}
    classes = sorted({*train.labels, *test.labels})
    if len(classes) >= 2:
        index = {label: number for number, label in enumerate(classes)}
        fitted, scored = (torch.tensor([index[label] for label in part.labels]) for part in (train, test))
        measured["linear"] = linear_probe_accuracy(features, fitted, test.features[name], scored)
        measured["knn"] = knn_accuracy(features, fitted, test.features[name], scored)
    return measured


def _say(results: dict[str, dict[str, float]], train: Encoded, test: Encoded) -> None:
    columns = {"linear": ("linear probe", ".1%"), "knn": ("k-NN", ".1%")}
    columns |= {"rankme": ("RankMe", ".1f"), "std": ("std x sqrt(d)", ".3f")}
    shown = [column for column in columns if column in results[RAW]]
    commonest = max(test.labels.count(label) for label in set(test.labels)) / len(test.labels)
    about = f"; the commonest class is {commonest:.1%}" if "linear" in shown else "; no labels, so no probes"
    print(f"fitted on {len(train.labels):,}, scored on {len(test.labels):,} samples{about}")
    table = Table()
    table.add_column("features")
    for column in shown:
        table.add_column(columns[column][0], justify="right")
    for name, row in results.items():
        table.add_row(name, *(format(row[column], columns[column][1]) for column in shown))
    Console().print(table)


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
