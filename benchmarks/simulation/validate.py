"""Real streams of 1 to 4 decode actors on this machine, and what the simulator says of them.

All that the simulator is told of a stream comes from its run with one actor: what each block took of its decoder,
waiting and computing, and what it cost besides. The machine's cores, Ray's own share of them and the coordinator's
costs are those of `Costs`. Runs of 1, 2, 3 and 4 actors alternate, since the machine's speed drifts; the median of some
rounds is compared. A run beside which others took more than FOREIGN_CORES of the machine is done again, TRIES times
at most.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.simulation import paced, streams
from benchmarks.simulation.compared import STREAMS, Compared, load, save
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.model import Outcome, Simulation
from benchmarks.simulation.scenario import MeasuredWork, Scenario
from benchmarks.simulation.streams import Seen, Stream
from headrace.data.manifest import Manifest
from headrace.errors import RunError

DECODERS = (1, 2, 3, 4)
FOREIGN_CORES = 0.1
TRIES = 3
_WINDOW_SECONDS = 12.0
_SIMULATED_SECONDS = 120.0


@dataclass(frozen=True)
class Workload:
    """A kind of stream that is run and simulated.

    Attributes:
        stream: what is streamed.
        overload: how much faster than one decoder the consumer is; None: it computes nothing.
    """

    stream: Stream
    overload: float | None = None


WORKLOADS = {
    "decoding": Workload(Stream()),
    "waiting": Workload(Stream(decoder=paced.WAITING)),
    "training": Workload(Stream(), overload=1.4),
    "nothing": Workload(Stream(paced.INSTANT, 1, 1, 16, 256)),
}
assert tuple(WORKLOADS) == STREAMS


def validate(costs: Costs, names: Sequence[str], rounds: int, say: Callable[[str], None]) -> list[Compared]:
    """Run and simulate these workloads, and keep the results beside those of others.

    Args:
        costs: of this machine.
        names: of STREAMS.
        rounds: of all numbers of decoders.
        say: is told what is measured now.
    """
    found = {(row.workload, row.decoders): row for row in load()}
    with tempfile.TemporaryDirectory(prefix="headrace-simulation-") as folder:
        manifest = streams.corpus(Path(folder) / "clips")
        with streams.embedded_ray(max(DECODERS)):
            for name in names:
                pairs = [_round(WORKLOADS[name], costs, manifest, f"{name}, round {k + 1}", say) for k in range(rounds)]
                found |= {(name, n): _compare(name, n, [pair[n] for pair in pairs]) for n in DECODERS}
    rows = [found[key] for key in sorted(found, key=lambda key: (STREAMS.index(key[0]), key[1]))]
    save(rows)
    return rows


def predict(costs: Costs, workload: Workload, one: Seen, decoders: int, step_seconds: float) -> Outcome:
    """Return what the simulator says of so many decoders, by what was seen of one."""
    stream = workload.stream
    scenario = Scenario(
        ranks=1,
        decoders=decoders,
        micro_batch=stream.micro_batch,
        step_seconds=step_seconds,
        window=max(1, round(costs.store_share * stream.read_ahead)),
    )
    of_run = replace(
        costs,
        get_seconds=0.0,  # the consumer is in the coordinator's process
        poll_seconds=0.0,
        block_outside_seconds=one.outside_seconds,
        actor_block_seconds=one.gap_seconds,
    )
    work = MeasuredWork(one.blocks)
    return Simulation(scenario, of_run, [work], one_machine=True).run(_SIMULATED_SECONDS / 4, _SIMULATED_SECONDS)


def _round(
    workload: Workload, costs: Costs, manifest: Manifest, name: str, say: Callable[[str], None]
) -> dict[int, tuple[Seen, Outcome]]:
    """Run all numbers of decoders once; a consumer that computes is set by a run with one that does not.

    Raises:
        RunError: the machine is not left alone.
    """

    def run(decoders: int, step: float) -> Seen:
        tries: list[Seen] = []
        while len(tries) < TRIES and (not tries or tries[-1].foreign_cores > FOREIGN_CORES):
            seen = streams.watch(
                workload.stream,
                manifest,
                decoders,
                seconds=_WINDOW_SECONDS,
                step_seconds=step,
                idle_cores=costs.ray_idle_cores,
            )
            tries.append(seen)
            cpu = sum(work for _, work in seen.blocks) / len(seen.blocks)
            rate, others = seen.clips_per_second, seen.foreign_cores
            say(f"{name}: {decoders} decoders, {rate:.2f} clips/s, {cpu:.3f} s a block, others {others:.2f} cores")
        best = min(tries, key=lambda seen: seen.foreign_cores)
        if best.foreign_cores > FOREIGN_CORES:
            raise RunError(
                f"other processes took {best.foreign_cores:.1f} cores beside {name} with {decoders} decoders, {TRIES} "
                f"times: validate on a machine that is left alone"
            )
        return best

    one, step = run(1, 0.0), 0.0
    if workload.overload is not None:
        step = workload.stream.micro_batch / one.clips_per_second / workload.overload
    seen = {decoders: one if decoders == 1 and not step else run(decoders, step) for decoders in DECODERS}
    return {decoders: (seen[decoders], predict(costs, workload, one, decoders, step)) for decoders in DECODERS}


def _compare(name: str, decoders: int, rounds: Sequence[tuple[Seen, Outcome]]) -> Compared:
    def middle(values: Sequence[float]) -> float:
        return float(np.median(values))

    return Compared(
        workload=name,
        decoders=decoders,
        measured=middle([seen.clips_per_second for seen, _ in rounds]),
        simulated=middle([outcome.clips_per_second for _, outcome in rounds]),
        measured_wait=middle([seen.wait_share for seen, _ in rounds]),
        simulated_wait=middle([outcome.wait_share for _, outcome in rounds]),
        rounds=[(seen.clips_per_second, outcome.clips_per_second) for seen, outcome in rounds],
    )
