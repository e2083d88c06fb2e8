"""Position in the run -> sample. Pure functions, so that a run can stop and go on anywhere.

    Order                 each sample once an epoch: "full", "chunk" or "none"          nothing stored
    WithReplacement       any sample at each position, by weight                        8 bytes a sample
    WithoutReplacement    each epoch a weighted draw of a share, none of them twice     30 bytes a sample, at most
    Mixture               several sources by weight, each in an order of its own        nothing stored

All epochs stand in one line. An order is immutable, pickles to a few hundred bytes, and gives the same rows on every
machine and with every version of NumPy: it adds, multiplies and compares, and calls nothing whose last bit may differ.
Which samples there are, and their weights, is the manifest's to say; `order.build` brings both together.
"""

from headrace.data.order.contract import SampleOrder
from headrace.data.order.mixture import BLOCK_SLOTS, Mixture, quotas_of
from headrace.data.order.uniform import CHUNK_SAMPLES, WINDOW_CHUNKS, Order, Shuffle
from headrace.data.order.weighted import WithoutReplacement, WithReplacement

__all__ = [
    "BLOCK_SLOTS",
    "CHUNK_SAMPLES",
    "WINDOW_CHUNKS",
    "Mixture",
    "Order",
    "SampleOrder",
    "Shuffle",
    "WithReplacement",
    "WithoutReplacement",
    "quotas_of",
]
