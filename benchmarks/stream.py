"""The stream against every loader: the same frames, as many workers on the same two cores, an idle consumer.

    python benchmarks/stream.py                     long groups of pictures and real clips
    python benchmarks/stream.py --quick             fewer batches, once
    python benchmarks/stream.py --images            JPEG images instead
    python benchmarks/stream.py --only headrace "bare headrace" "torch DataLoader decord"
    python benchmarks/stream.py --workers 1 --only headrace "bare headrace"      leaves a core to all else

For each corpus:

    convert to each loader's format  ->  one run each, frames compared and memory watched  ->  rounds of all in turn

Each run is of fresh processes. "Once running" is from the last batch of the warm-up to the last batch taken, of a
stream that goes on: its start and its end count in neither; what is read ahead at either end is the same. Files lie in
the page cache. Loaders that have no decoder of their own use decord or torchcodec, whichever takes less CPU on the
corpus; torch's DataLoader and SPDL are measured with more than one. `stream_scores.py` says what is judged. The last
line printed is JSON. Ctrl-C ends it with the rounds that are complete.

mosaicml-streaming wants other versions of NumPy and transformers than headrace has. It is measured from an environment
of its own, made with `pip install mosaicml-streaming torch==2.13.0 decord torchcodec==0.13.0` and named by
`--python mosaicml-streaming=/path/to/bin/python`; so can any other.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console

from benchmarks import decode
from benchmarks.decode_report import Machine
from benchmarks.loaders.contract import Corpus, Task
from benchmarks.loaders.decoding import names_for
from benchmarks.stream_contender import Contender, Run, StreamError, prepare, run
from benchmarks.stream_corpus import images, long_gop, real, wrong
from benchmarks.stream_report import chart, print_aims, print_corpus, summary
from benchmarks.stream_scores import CEILING, OURS, Measured, Role
from headrace.errors import RunError, UserError, did_you_mean, exit_with_sentence

ROOT = Path(__file__).resolve().parent.parent
CORES = 2
_SPARE_BATCHES = 64  # that a loader may have read ahead, or begun, when the last batch is taken

BARE = {"decord": "bare decord", "torchcodec": "bare torchcodec", "Pillow": "bare Pillow"}
LOADERS = ("torch DataLoader", "WebLoader", "SPDL", "LitData", "mosaicml-streaming", "Ray Data", OURS)


@dataclass(frozen=True)
class Options:
    """Measure the stream against other loaders, and against bare processes that decode and keep nothing."""

    quick: bool = False
    """Fewer batches, one round unless --repeats says otherwise."""

    images: bool = False
    """JPEG images instead of clips."""

    corpus: Literal["all", "long-gop", "real"] = "all"
    """Which clips."""

    repeats: int | None = None
    """Rounds; the median counts. 5 if not given."""

    batch: int | None = None
    """Samples in a batch; 8 clips or 64 images if not given."""

    workers: int = CORES
    """Processes, or threads, that decode, of each contender. Two are all cores: what else runs takes from them."""

    only: tuple[str, ...] = ()
    """Only contenders whose name begins with one of these."""

    python: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=INTERPRETER: the environment in which a contender is installed, where it is not this one; once for each."""

    videos: str | None = None
    """Folder whose videos are measured as the real clips; if not given, those of $HEADRACE_DATA/videos."""

    chart: str = str(ROOT / "docs" / "stream.svg")
    """Where the chart is written."""

    def __post_init__(self) -> None:
        if self.repeats is not None and self.repeats < 1:
            raise UserError(f"repeats must be at least 1, got {self.repeats}")
        if self.batch is not None and self.batch < 1:
            raise UserError(f"batch must be at least 1, got {self.batch}")
        if self.workers < 1:
            raise UserError(f"workers must be at least 1, got {self.workers}")
        for setting in self.python:
            name, _, interpreter = setting.partition("=")
            if not Path(interpreter).is_file():
                raise UserError(f"--python is NAME=INTERPRETER, and there is no file at {interpreter!r} ({setting})")
            if name not in LOADERS:
                raise UserError(f"--python names no loader {name!r}: {did_you_mean(name, LOADERS)}")

    @property
    def rounds(self) -> int:
        """Rounds that are timed."""
        return self.repeats or (1 if self.quick else 5)

    def interpreter(self, loader: str) -> str:
        """Return the interpreter of a loader's environment."""
        return dict(setting.split("=", 1) for setting in self.python).get(loader, sys.executable)


@dataclass(frozen=True)
class Workload:
    """A corpus and how much of it is taken.

    Attributes:
        warm: batches until a loader counts as running; more than it reads ahead while the consumer is not there yet.
        window: batches over which it is then measured; whole epochs, so that all decode the same clips.
        check: batches whose frames are compared.
        workers: processes, or threads, that decode.
    """

    name: str
    corpus: Corpus
    batch: int
    warm: int
    window: int
    check: int
    workers: int = CORES

    @property
    def task(self) -> Task:
        """What a contender is to do in a timed run."""
        batches = self.warm + self.window
        epochs = math.ceil((batches + _SPARE_BATCHES) * self.batch / len(self.corpus))
        return Task(str(self.corpus.folder), "", self.batch, batches, epochs, self.workers)


def workloads(options: Options) -> Iterator[Workload]:
    """Yield what is measured; corpora are made when they are needed."""
    workers = options.workers
    if options.images:
        corpus, batch = images(512), options.batch or 64
        epoch = len(corpus) // batch
        yield Workload("images", corpus, batch, 64, epoch * (4 if options.quick else 16), epoch, workers)
        return
    batch = options.batch or 8
    if options.corpus != "real":
        yield Workload("long-gop", long_gop(64), batch, 4, 4 if options.quick else 12, 4, workers)
    if options.corpus != "long-gop":
        clips = decode.real_clips(decode.Options(quick=options.quick, videos=options.videos))
        corpus = real(clips, (*names_for("video"), "spdl"))
        whole = len(corpus) // math.gcd(len(corpus), batch)  # batches that are whole epochs
        window = whole * math.ceil((8 if options.quick else 32) / whole)
        yield Workload("real", corpus, batch, 8, window, math.ceil(len(corpus) / batch), workers)


class Field:
    """The contenders on a corpus: who takes part, and why the others do not."""

    def __init__(self, workload: Workload, options: Options) -> None:
        self.workload, self._options = workload, options
        self.contenders: dict[str, Contender] = {}
        self.roles: dict[str, Role] = {}
        self.memory: dict[str, Run] = {}
        self.wrong: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.interrupted = False

    def admit(self) -> None:
        """Let all convert the corpus and deliver it once, and keep those whose frames are right."""
        decoders = names_for(self.workload.corpus.kind)
        for name in decoders:
            self._try("ceiling", Contender(BARE[name], "bare", name), needed=True)
        able = [name for name in decoders if BARE[name] in self.memory]
        if not able:
            raise RunError(f"none of the other decoders runs here: {self.wrong}")
        best = min(able, key=lambda name: self.memory[BARE[name]].cpu_seconds_per_clip)
        self._try("ceiling", Contender(CEILING, "bare", "headrace"))
        self._try("ours", Contender(OURS, "headrace_stream", "auto"))
        for name in able:
            self._try("peer", Contender(f"torch DataLoader {name}", "torch_dataloader", name))
        self._try("peer", Contender(f"WebLoader {best}", "webdataset_webloader", best))
        self._try("peer", Contender("SPDL", "spdl_pipeline", "spdl"))
        self._try("peer", Contender(f"SPDL {best}", "spdl_pipeline", best))
        self._try("peer", Contender(f"LitData {best}", "litdata_stream", best))
        self._try("peer", Contender(f"mosaicml-streaming {best}", "mosaicml_stream", best))
        self._try("peer", Contender(f"Ray Data {best}", "ray_stock", best))

    def measure(self, rounds: int) -> Measured:
        """Run all in turn, each round beginning with another one. Ctrl-C leaves the rounds that are complete."""
        found: dict[str, list[Run]] = {name: [] for name in self.contenders}
        try:
            for number in range(rounds):
                self._round(found, number, rounds)
        except KeyboardInterrupt:
            self.interrupted = True
        complete = min(map(len, found.values()), default=0)
        found = {name: runs[:complete] for name, runs in found.items() if complete}
        corpus = self.workload.corpus
        return Measured(
            self.workload.name,
            len(corpus),
            self.workload.batch,
            self.roles,
            found,
            self.memory,
            self.wrong,
            corpus.left_out,
        )

    def _round(self, found: dict[str, list[Run]], number: int, rounds: int) -> None:
        names, console = list(found), Console(stderr=True)
        first = number * len(names) // rounds
        for name in names[first:] + names[:first]:
            with console.status(f"{self.workload.name}, round {number + 1} of {rounds}: {name}"):
                try:
                    found[name].append(run(self.contenders[name], self.workload.task, self.workload.warm))
                except StreamError as error:
                    self.wrong[name] = str(error)
                    del found[name]

    def _try(self, role: Role, contender: Contender, *, needed: bool = False) -> None:
        """Admit a contender, or note why not.

        Args:
            role: whose side it is on.
            contender: who.
            needed: also where it was not asked for: it decides with which decoder the others are measured.
        """
        name = contender.name
        loader = next((loader for loader in LOADERS if name.startswith(loader)), "")
        contender = replace(contender, python=self._options.interpreter(loader))
        asked = not self._options.only or any(name.startswith(only) for only in self._options.only)
        if not (asked or needed):
            return
        with Console(stderr=True).status(f"{self.workload.name}, looking at the frames: {name}"):
            try:
                self.versions |= prepare(contender, self.workload.task)
                self.memory[name], complaint = self._look(contender)
            except StreamError as error:
                complaint = str(error)
        if complaint is not None:
            self.wrong[name] = complaint
            if role == "ours":
                raise RunError(f"{name} itself cannot be measured: {complaint}")
        elif asked:
            self.contenders[name], self.roles[name] = contender, role

    def _look(self, contender: Contender) -> tuple[Run, str | None]:
        """Return a run whose memory was watched, and what is wrong with the frames it gave."""
        load = self.workload
        task = replace(load.task, batches=load.check + load.workers)
        with tempfile.TemporaryDirectory() as folder:
            found = run(contender, task, load.workers, memory=True, keep=Path(folder))
            for file in sorted(Path(folder).glob("*.npz")):
                with np.load(file) as kept:
                    for pixels, sample in zip(kept["pixels"], kept["samples"].tolist(), strict=True):
                        complaint = wrong(load.corpus, pixels, sample, exact=contender.name == OURS)
                        if complaint:
                            return found, f"{load.corpus.samples[sample].name}: {complaint}"
        return found, None


@contextlib.contextmanager
def few_cores(count: int) -> Iterator[None]:
    """Keep this process, and all that it starts meanwhile, on so many cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-count:])  # the first cores answer most interrupts
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_all(options: Options) -> tuple[list[Measured], Mapping[str, str]]:
    """Return each corpus, measured, and the versions of all that took part."""
    corpora, versions = [], dict[str, str]()
    for workload in workloads(options):
        field = Field(workload, options)
        field.admit()
        measured = field.measure(options.rounds)
        versions |= field.versions
        if not measured.rounds:
            break
        corpora.append(measured)
        print_corpus(measured)
        if field.interrupted:
            break
    if not corpora:
        raise RunError("interrupted before each contender had run once")
    return corpora, versions


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit code is 1 where an aim was measured and not met."""
    options = tyro.cli(Options, prog="stream.py", args=arguments)
    with few_cores(CORES):
        corpora, versions = measure_all(options)
    missing = {name: why for corpus in corpora for name, why in corpus.wrong.items()}
    rounds = min(len(runs) for corpus in corpora for runs in corpus.rounds.values())
    machine = Machine.this(None, dict(versions), missing)
    result = summary(corpora, machine, rounds) | {"workers": options.workers}
    print_aims(result)
    path = Path(options.chart)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(chart(corpora, result), encoding="utf-8")
    print(f"chart: {path}")
    print(json.dumps(result))
    return 1 if False in result["met"].values() else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end the contender that runs
    exit_with_sentence(lambda: main(sys.argv[1:]))
