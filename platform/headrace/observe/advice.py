"""What limits a run, the decoding or the training, and what would help most, in numbers.

The arithmetic, over a window of steps with C clips in T seconds of which W were spent waiting for data:

    given    G = C / T               clips/s that were trained on
    demand   D = C / (T - W)         clips/s the trainers take when they never wait
    cost     c                       CPU seconds of the decode pool for each clip
    supply   S = min(A, cores) / c   clips/s of A decoders, each on a core of its own: an upper bound
    needed   N = ceil(D * c)         decoders for which S >= D

S is a bound and no promise: c holds CPU time only, so decoders that wait for storage, or share their cores
with anything else, give less. D also assumes that the trainers get no slower when data comes faster, which
fails where trainers and decoders share the same cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.observe.figures import figure, milliseconds, percent, plural
from headrace.observe.records import PoolRecord, StepRecord, number

LITTLE_WAIT = 0.02
MUCH_WAIT = 0.10
IDLE_DECODERS = 0.5  # below this share of their cores, decoders wait for something else
DECODERS_SETTING = "--data.decoders"

Limit = Literal["trainers", "decoders", "cores", "delivery", "unknown"]


@dataclass(frozen=True)
class Feeding:
    """The balance of decoding and training over a window. NaN, or None, where it is not known.

    Attributes:
        wait_share: W / T. given, demand, supply: clips/s, as at the top of this file.
        decode_seconds: CPU seconds for each clip. decoders: the most actors seen at once.
        cores: that the decoders may use.
    """

    wait_share: float
    given: float
    demand: float
    supply: float
    decode_seconds: float
    decoders: int
    cores: int | None

    @property
    def decoders_needed(self) -> int | None:
        """N, the fewest decoders that could keep up, or None where it is not known."""
        load = self.demand * self.decode_seconds
        # A load that is whole but for rounding is whole.
        return max(1, math.ceil(load - 1e-9)) if math.isfinite(load) else None


@dataclass(frozen=True)
class Advice:
    """What to make of the feeding of a run.

    Attributes:
        limit: what the run's speed hangs on: the trainers; the number of decoders; the cores they run on;
            the delivery of clips (storage, busy cores) although there are decoders enough; or unknown.
        finding: what is the case. remedy: what to do, or "". Both begin small and end without a stop.
        reasoning: the arithmetic, as sentences.
    """

    limit: Limit
    finding: str
    remedy: str
    reasoning: str
    feeding: Feeding

    @property
    def sentence(self) -> str:
        """The finding and the remedy as one line."""
        return f"{self.finding}: {self.remedy}" if self.remedy else self.finding


def feeding(steps: Sequence[StepRecord], cores: int | None = None) -> Feeding:
    """Return the balance over these steps; records without a time for their step are passed over."""
    timed = [step for step in steps if number(step, "step_seconds") > 0]
    seconds = [number(step, "step_seconds") for step in timed]
    clips = [_or_zero(number(step, "clips_per_second")) * time for step, time in zip(timed, seconds, strict=True)]
    waited = sum(_or_zero(number(step, "wait_seconds")) for step in timed)
    costs = [number(step, "decode_cpu_seconds_per_clip") for step in timed]
    costed = [(count, cost) for count, cost in zip(clips, costs, strict=True) if cost > 0]
    cost = _ratio(sum(count * cost for count, cost in costed), sum(count for count, _ in costed))
    # A record that covers one batch saw one actor of the pool: the most that any record saw is nearest.
    decoders = int(max((_or_zero(number(step, "decode_actors")) for step in timed), default=0))
    busy_cores = decoders if cores is None else min(decoders, cores)
    return Feeding(
        wait_share=_ratio(waited, sum(seconds)),
        given=_ratio(sum(clips), sum(seconds)),
        demand=_ratio(sum(clips), sum(seconds) - waited),
        supply=_ratio(busy_cores, cost) if decoders else math.nan,
        decode_seconds=cost,
        decoders=decoders,
        cores=cores,
    )


def feeding_advice(steps: Sequence[StepRecord], cores: int | None = None, pool: PoolRecord | None = None) -> Advice:
    """Return what limits the run over these steps and what would help most.

    Args:
        steps: a window of a run, best without its first steps (`History.steady`).
        cores: CPU cores that the decoders may use, over the whole cluster; None if that is not known.
        pool: what was last asked of the decode pool, which counts wall time where the records count CPU time.
    """
    balance = feeding(steps, cores)
    needed = balance.decoders_needed
    if math.isnan(balance.wait_share):
        return Advice("unknown", "no step has been timed yet", "", "", balance)
    if balance.wait_share < LITTLE_WAIT:
        return _trainers_are_the_limit(balance)
    if needed is None or balance.decoders == 0:
        return _cost_is_unknown(balance)
    if needed <= balance.decoders and (cores is None or needed <= cores):
        if pool is not None and _pool_is_too_small(balance, pool):
            return _waiting_decoders_are_the_limit(balance, pool)
        return _clips_come_late(balance, needed)
    if cores is not None and needed > cores:
        return _cores_are_the_limit(balance, needed, cores)
    if pool is not None and needed <= pool["most"]:
        return _pool_is_growing(balance, needed)
    return _decoders_are_the_limit(balance, needed)


def _pool_is_too_small(balance: Feeding, pool: PoolRecord) -> bool:
    """Say whether more decoders than the bounds allow would help, although those there are have CPU to spare."""
    cores_in_use = balance.given * balance.decode_seconds
    cores = balance.decoders if balance.cores is None else min(balance.decoders, balance.cores)
    return pool["needed"] > pool["most"] > 0 and cores_in_use < IDLE_DECODERS * cores


def _trainers_are_the_limit(balance: Feeding) -> Advice:
    finding = "the trainers are the limit"
    spare = balance.supply / balance.demand - 1
    if spare >= 0:
        finding += f"; decoding keeps up with {100 * spare:,.0f} % to spare"
    else:
        finding += "; decoding keeps up"
    reasoning = f"Training waits {percent(balance.wait_share)} of its time. {_bound(balance)}"
    needed = balance.decoders_needed
    if needed is not None and needed < balance.decoders:
        reasoning += f" {plural(needed, 'decoder')} would do for {_rate(balance.demand)}."
    return Advice("trainers", finding, "", reasoning.strip(), balance)


def _decoders_are_the_limit(balance: Feeding, needed: int) -> Advice:
    remedy = f"raise {DECODERS_SETTING} from {balance.decoders} to {needed}"
    cores = f" Each needs a core of its own: {needed} beside those that train." if balance.cores is None else ""
    return Advice("decoders", _gap(balance), remedy, _load(balance, needed) + cores, balance)


def _pool_is_growing(balance: Feeding, needed: int) -> Advice:
    remedy = (
        f"the pool may grow to {needed} by itself; if it does not, add CPU machines for {needed - balance.decoders}"
    )
    return Advice("decoders", _gap(balance), remedy, _load(balance, needed), balance)


def _waiting_decoders_are_the_limit(balance: Feeding, pool: PoolRecord) -> Advice:
    bounds = str(pool["most"]) if pool["least"] == pool["most"] else f"{pool['least']}..{pool['most']}"
    needed = str(pool["needed"]) if pool["least"] == pool["most"] else f"{pool['least']}..{pool['needed']}"
    reasoning = (
        f"Training waits {percent(balance.wait_share)} of its time, and the decoders keep "
        f"{figure(balance.given * balance.decode_seconds, 2)} of their cores busy: they wait for storage most of the "
        f"time, so more of them help on the same cores. By the time each takes for a clip, {_rate(balance.demand)} "
        f"take {pool['needed']:,}."
    )
    return Advice("decoders", _gap(balance), f"raise {DECODERS_SETTING} from {bounds} to {needed}", reasoning, balance)


def _cores_are_the_limit(balance: Feeding, needed: int, cores: int) -> Advice:
    best = cores / balance.decode_seconds
    remedy = f"that takes {plural(needed, 'core')}, there {_are(cores, '')}; add CPU machines or shrink the clips"
    if balance.decoders < cores:
        remedy = f"raise {DECODERS_SETTING} from {balance.decoders} to {cores}, then add CPU machines"
    reasoning = (
        f"{_load(balance, needed)} There {_are(cores)}, which decode {_rate(best)} at most. Machines with "
        "CPUs can join the cluster and decode for this one; shards that were transcoded to the size that is "
        "trained on, and fewer frames a clip, cost less."
    )
    return Advice("cores", _gap(balance), remedy, reasoning, balance)


def _clips_come_late(balance: Feeding, needed: int) -> Advice:
    remedy = "not for want of decoders, they wait for storage or for a core"
    if balance.cores is not None and balance.decoders > balance.cores:
        remedy = f"{balance.decoders} decoders share {plural(balance.cores, 'core')}"
    reasoning = (
        f"{_bound(balance)} {plural(needed, 'decoder')} should do for {_rate(balance.demand)}, but "
        f"{_rate(balance.given)} arrive: more of them will not help. Look at how fast the shards can be "
        "read, and at what else runs on the decoders' cores, first of all the trainers themselves."
    )
    return Advice("delivery", _gap(balance), remedy, reasoning.strip(), balance)


def _cost_is_unknown(balance: Feeding) -> Advice:
    finding = f"training waits {percent(balance.wait_share)} of its time for data, at {_rate(balance.given)}"
    if math.isfinite(balance.demand):
        finding += f", and could take {figure(balance.demand, 2)}"
    return Advice("unknown", finding, "", "Too little is known of the cost of decoding to say more.", balance)


def _gap(balance: Feeding) -> str:
    return f"decoding gives {_rate(balance.given)}, training could take {figure(balance.demand, 2)}"


def _load(balance: Feeding, needed: int) -> str:
    gain = balance.demand / balance.given
    return (
        f"Training waits {percent(balance.wait_share)} of its time; without that it would be "
        f"{gain:.2f} times as fast. A clip costs {milliseconds(balance.decode_seconds)} of CPU to decode, so "
        f"{_rate(balance.demand)} keep {plural(needed, 'decoder')} busy; there {_are(balance.decoders, '')}."
    )


def _bound(balance: Feeding) -> str:
    if not math.isfinite(balance.supply):
        return ""
    cores = "" if balance.cores is None else f" on {plural(balance.cores, 'core')}"
    decoders = f"{plural(balance.decoders, 'decoder')}{cores}"
    cost = milliseconds(balance.decode_seconds)
    return f"At {cost} of CPU a clip, {decoders} can give {_rate(balance.supply)} at most."


def _are(count: int, noun: str = "core") -> str:
    return ("is " if count == 1 else "are ") + (plural(count, noun) if noun else f"{count:,}")


def _rate(clips_per_second: float) -> str:
    return f"{figure(clips_per_second, 2)} clips/s"


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan
