"""Evaluating on held-out samples while training goes on.

    held-out micro-batches  ->  the model's own scores, sample by sample   ->  means over all samples, judged
                            ->  features  ->  RankMe, feature std, k-NN    ->  of all samples together

What is evaluated is what will be saved and used: the average of the weights where the recipe keeps one, and of
Schedule-Free its average. Each sample counts once, whatever the micro-batch and the number of workers. Nothing here
changes what training does next.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from headrace.augment import Augment
from headrace.batch import Batch, DeviceBatch, Failure
from headrace.errors import UserError, did_you_mean
from headrace.evaluate import feature_std, knn_accuracy_left_one_out, rankme
from headrace.models import Objective
from headrace.optim import eval_mode
from headrace.recipe import Recipe
from headrace.train.feed import Feed
from headrace.train.parallel import gather_over_ranks, sum_over_ranks
from headrace.train.precision import autocast
from headrace.train.step import Trainable

PROBES = ("rankme", "feature_std", "knn")
"""Scores of the features. `knn`: the share of samples whose class is that of their nearest others, 20 of them or a
tenth of all, where samples of two classes or more are held out."""


@dataclass(frozen=True)
class Evaluation:
    """What the held-out samples say.

    Attributes:
        scores: by name.
        samples: how many they are the means of.
        seconds: what it took; wait_seconds: the part of it spent waiting for data, mean over the ranks.
        failures: samples that could not be decoded, of all ranks.
    """

    scores: dict[str, float]
    samples: int
    seconds: float
    wait_seconds: float
    failures: list[Failure]


@dataclass(frozen=True)
class _Seen:
    """What one rank keeps of the samples that it saw: rows [N], labels [N] and features [N, D], on the host."""

    rows: Tensor
    labels: Tensor
    features: Tensor


class Evaluator:
    """Evaluates a model on the held-out samples that the feed brings.

    Args:
        trainable: the model, and what keeps averages of it.
        recipe: the run's.
        micro_batches: that each rank is fed for an evaluation.
    """

    def __init__(self, trainable: Trainable, recipe: Recipe, micro_batches: int) -> None:
        self._trainable, self._precision, self._micro_batches = trainable, recipe.train.precision, micro_batches
        self._augment = Augment(recipe.augment, trainable.device, training=False)

    @torch.no_grad()
    def __call__(self, feed: Feed, alive: Callable[[], None]) -> Evaluation:
        """Evaluate; all ranks take part.

        Args:
            feed: whose next micro-batches are the held-out ones.
            alive: called after each of them.
        """
        start, wait = time.perf_counter(), 0.0
        sums: dict[str, Tensor] = {}
        seen, failures = [], list[Failure]()
        with _as_it_is_used(self._trainable):
            for _ in range(self._micro_batches):
                fed = feed.next()
                wait += fed.wait_seconds
                failures += fed.batch.failures
                valid = torch.from_numpy(fed.batch.valid)
                of_samples, features = self._look(fed.batch, fed.pixels)
                for name, values in of_samples.items():
                    total = values.double()[valid.to(values.device)].sum(dim=0)
                    sums[name] = sums.get(name, 0.0) + total
                rows, labels = torch.from_numpy(fed.batch.sample), torch.from_numpy(fed.batch.label)
                seen.append(_Seen(rows[valid], labels[valid], features.float().cpu()[valid]))
                alive()
        scores, samples, waited = self._over_ranks(sums, sum(len(part.rows) for part in seen), wait)
        gathered = gather_over_ranks((seen, failures), self._trainable.device)
        scores |= _probe([part for rank, _ in gathered for part in rank], self._trainable.device)
        everything = [failure for _, rank in gathered for failure in rank]
        return Evaluation(scores, samples, time.perf_counter() - start, waited, everything)

    def _look(self, batch: Batch, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        device, objective = self._trainable.device, self._trainable.objective
        label = torch.from_numpy(batch.label).to(device, non_blocking=True)
        on_device = DeviceBatch(self._augment(pixels, batch.seed), batch.seed, label)
        with autocast(device, self._precision):
            return objective.score(on_device), objective.features(on_device.pixels)

    def _over_ranks(self, sums: dict[str, Tensor], samples: int, wait: float) -> tuple[dict[str, float], int, float]:
        device = self._trainable.device
        counts = torch.tensor([samples, 1.0, wait], dtype=torch.float64, device=device)
        summed = sum_over_ranks(torch.cat([*(total.flatten() for total in sums.values()), counts]))
        *totals, (count, ranks, waited) = summed.split([*(total.numel() for total in sums.values()), len(counts)])
        means = {name: flat.view_as(sums[name]) / count for name, flat in zip(sums, totals, strict=True)}
        return self._trainable.objective.judge(means), int(count), float(waited / ranks)


@contextlib.contextmanager
def _as_it_is_used(trainable: Trainable) -> Iterator[None]:
    """Let the model be what will be saved, in evaluation mode, meanwhile."""
    objective = trainable.objective
    with eval_mode(trainable.optimizer), trainable.ema.applied() if trainable.ema else contextlib.nullcontext():
        objective.eval()
        try:
            yield
        finally:
            objective.train()
            if isinstance(objective, FSDPModule):
                objective.reshard()  # or it would go on with the weights that it gathered for this


def _probe(seen: Sequence[_Seen], device: torch.device) -> dict[str, float]:
    """Return what the features of all samples say; they are looked at in the order of their rows."""
    rows = torch.cat([part.rows for part in seen])
    order = rows.argsort()
    features = torch.cat([part.features for part in seen])[order].to(device)
    labels = torch.cat([part.labels for part in seen])[order].to(device)
    if len(rows) < 2 or not features.isfinite().all():
        return dict.fromkeys(PROBES[:2], math.nan)
    found = {"rankme": rankme(features), "feature_std": feature_std(features)}
    known = labels >= 0
    if len(labels[known].unique()) >= 2:
        few = max(1, int(known.sum()) // 10)  # of all others together, its own class is always one short
        found["knn"] = knn_accuracy_left_one_out(features[known], labels[known], k=min(20, few))
    return found


def check_metric(objective: Objective, metric: str, setting: str) -> None:
    """Check that evaluations give a metric.

    Args:
        objective: that is evaluated.
        metric: a score.
        setting: what the user wrote, for the error.

    Raises:
        UserError: no evaluation gives it.
    """
    known = (*objective.scores, *PROBES)
    if metric not in known:
        raise UserError(f"{setting}: no evaluation gives it: {did_you_mean(metric, known)}")
