"""Settings and manifest -> order."""

from __future__ import annotations

from headrace import keyed
from headrace.data.config import DataConfig
from headrace.data.manifest import Manifest
from headrace.data.mixture import parse_mixture
from headrace.data.order.contract import SampleOrder
from headrace.data.order.mixture import Mixture, quotas_of
from headrace.data.order.uniform import Order
from headrace.data.order.weighted import WithoutReplacement, WithReplacement


def build_order(manifest: Manifest, data: DataConfig, seed: int) -> SampleOrder:
    """Return the order of a run.

    Args:
        manifest: the samples of the run, as `split_samples` gave them; of a mixture all its sources.
        data: how they are shuffled, weighted and mixed.
        seed: the run's seed.

    Raises:
        UserError: there are too many samples for the order that is asked for.
    """
    mixture = parse_mixture(data.source)
    if len(mixture) == 1:
        order = _order(len(manifest), data, seed)
    else:
        seeds = (keyed.seed("source", seed, number) for number in range(len(mixture)))
        parts = (_order(size, data, own) for size, own in zip(manifest.source_sizes, seeds, strict=True))
        order = Mixture(len(manifest), seed, tuple(parts), quotas_of([part.weight for part in mixture]))
    return order.with_weights(manifest.weights)


def _order(samples: int, data: DataConfig, seed: int) -> SampleOrder:
    if data.weights is None:
        return Order(samples, seed, data.shuffle, data.chunk_samples, data.window_chunks)
    if data.without_replacement:
        return WithoutReplacement(samples, seed, share=data.without_replacement)
    return WithReplacement(samples, seed)
