"""The stream benchmark: the wanted frames, figures that follow from the runs, and what is wrong is found."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import stream, stream_contender
from benchmarks.decode_report import Machine
from benchmarks.loaders.contract import SIZE, Corpus, Task
from benchmarks.stream import Options, few_cores, main
from benchmarks.stream_contender import Contender, Run, StreamError, prepare, run
from benchmarks.stream_corpus import images, long_gop, real, wrong
from benchmarks.stream_report import chart, print_aims, print_corpus, summary
from benchmarks.stream_scores import CEILING, OURS, Measured, Role, is_met, judged
from headrace.errors import UserError

DATALOADER = "torch DataLoader decord"
ROLES: dict[str, Role] = {OURS: "ours", CEILING: "ceiling", DATALOADER: "peer", "SPDL": "peer"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return four small clips, out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        made = small_clips()
        assert small_clips() == made, "a corpus is made once"
        return made


def small_clips(samples: int = 4) -> Corpus:
    return long_gop(samples, frames=30, height=72, width=128)


def task_of(corpus: Corpus) -> Task:
    return Task(str(corpus.folder), "", batch=2, batches=4, epochs=8)


def runs(*rates: float, first: float = 10.0, ray: float = 0.0) -> list[Run]:
    return [Run(first, ray, rate, rate, 1 / rate) for rate in rates]


def measured(name: str = "long-gop", **rates: list[Run]) -> Measured:
    named = {"ours": OURS, "ceiling": CEILING, "loader": DATALOADER, "spdl": "SPDL"}
    found = {named[who]: rounds for who, rounds in rates.items()}
    return Measured(name, 64, 8, ROLES, found, {who: rounds[0] for who, rounds in found.items()})


def test_a_corpus_is_the_same_in_all_forms(clips: Corpus) -> None:
    assert [clips.file(sample).is_file() for sample in range(4)] == [True] * 4
    assert len(clips.shards) == 2
    assert len(clips.samples[0].frames) == 8
    assert clips.samples[0].frames == (1, 5, 9, 13, 16, 20, 24, 28)
    assert all(30 * second == pytest.approx(frame + 0.5) for frame, second in zip(*_wanted(clips), strict=True))


def _wanted(corpus: Corpus) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return corpus.samples[0].frames, corpus.samples[0].seconds


@pytest.mark.parametrize(
    ("loader", "decoder"),
    [
        ("torch_dataloader", "decord"),
        ("webdataset_webloader", "decord"),
        ("spdl_pipeline", "spdl"),
        ("bare", "headrace"),
    ],
)
@pytest.mark.slow
def test_loaders_give_the_wanted_frames(clips: Corpus, tmp_path: Path, loader: str, decoder: str) -> None:
    contender = Contender(loader, loader, decoder)
    try:
        prepare(contender, task_of(clips))
    except StreamError as error:
        pytest.skip(f"{loader} does not run here: {error}")
    found = run(contender, task_of(clips), warm=2, memory=True, keep=tmp_path)
    assert 0 < found.whole_clips_per_second <= found.clips_per_second * 2
    assert found.first_batch_seconds > 0
    assert found.memory_bytes > found.shared_bytes >= 0
    for file in tmp_path.glob("*.npz"):
        kept = np.load(file)
        for pixels, sample in zip(kept["pixels"], kept["samples"].tolist(), strict=True):
            assert wrong(clips, pixels, sample, exact=False) is None


@pytest.mark.ray
@pytest.mark.slow
def test_smoke(
    clips: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stream, "long_gop", lambda _: clips)
    path = tmp_path / "stream.svg"
    only = ["--only", OURS, CEILING, "torch DataLoader"]
    main(["--quick", "--corpus", "long-gop", "--batch", "2", *only, "--chart", str(path)])

    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    corpus = result["corpora"]["long-gop"]
    assert {OURS, CEILING} <= set(corpus["contenders"])
    assert corpus["best_peer"].startswith("torch DataLoader")
    assert result["of_ceiling"] > 0
    assert result["vs_best_peer_long_gop"] > 0
    assert result["vs_best_peer_real"] is None
    assert result["first_batch_ratio"] > corpus["first_batch_ratio_ray_up"]
    assert corpus["contenders"][OURS]["shared_mebibytes"] > 0
    assert "headrace" in "".join(element.text or "" for element in ElementTree.parse(path).iter())


def test_wrong_frames_are_found(clips: Corpus) -> None:
    with np.load(clips.folder / "truth" / f"{clips.samples[0].name}.npz") as truth:
        exact, stretched = truth["exact"], truth["stretched"]
    assert wrong(clips, exact, 0, exact=True) is None
    assert wrong(clips, stretched[:, 1], 0, exact=False) is None
    assert "not those of a full decode" in str(wrong(clips, exact ^ 1, 0, exact=True))
    assert "another one" in str(wrong(clips, stretched[:, 2], 0, exact=False))
    assert "gives" in str(wrong(clips, exact[:3], 0, exact=False))


def test_images_are_checked_by_their_levels() -> None:
    corpus = images(8, height=240, width=320)
    assert corpus.frames == 1
    with np.load(corpus.folder / "truth" / f"{corpus.samples[3].name}.npz") as truth:
        exact = truth["exact"]
    assert exact.shape == (1, SIZE, SIZE, 3)
    assert wrong(corpus, exact, 3, exact=True) is None
    assert "another picture" in str(wrong(corpus, exact + np.uint8(20), 3, exact=False))


def test_clips_that_someone_cannot_decode_are_left_out(clips: Corpus, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(clips.file(0).read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"nothing" * 1000)
    corpus = real(sorted(tmp_path.iterdir()), checkers=())
    assert [sample.name for sample in corpus.samples] == ["0.mp4", "1.mp4", "2.mp4"]
    assert set(corpus.left_out) == {"broken.mp4"}


def test_a_contender_that_fails_says_why(clips: Corpus) -> None:
    absent = Contender("absent", "no_such_loader", "decord")
    with pytest.raises(StreamError, match="no_such_loader"):
        prepare(absent, task_of(clips))
    with pytest.raises(StreamError, match="there is no decoder 'nobody'"):
        run(Contender("nobody", "bare", "nobody"), task_of(clips), warm=1)


def test_nothing_of_a_contender_outlives_it(clips: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoding processes, which never end by themselves, go with it, also where it is killed before its end."""
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(stream_contender, "_LIMIT_SECONDS", 4.0)
    task = replace(task_of(clips), batches=10**6)
    with pytest.raises(StreamError):
        run(Contender("bare", "bare", "decord"), task, warm=2)
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if task.corpus in " ".join(process.info["cmdline"] or [])
    ]
    assert not left


def test_scores_are_of_paired_rounds() -> None:
    # The second round was slow for all: the ratios do not see it.
    corpus = measured(
        ours=runs(5, 2.5, 5, first=12, ray=4),
        ceiling=runs(5, 2.5, 6.25),
        loader=runs(2.5, 1.25, 2.5, first=4),
        spdl=runs(2, 1, 2),
    )
    assert corpus.best_peer == DATALOADER
    assert corpus.names("peer") == [DATALOADER, "SPDL"]
    found = judged([corpus, measured("images", ours=runs(1), ceiling=runs(100))])
    assert found["of_ceiling"] is not None
    assert found["of_ceiling"].median == pytest.approx(1.0)
    assert found["of_ceiling"].low == pytest.approx(0.9)
    assert found["vs_best_peer_long_gop"] is not None
    assert found["vs_best_peer_long_gop"].median == pytest.approx(2.0)
    assert found["vs_best_peer_real"] is None
    assert found["first_batch_ratio"] is not None
    assert found["first_batch_ratio"].median == pytest.approx(3.0)
    without_ray = corpus.first_batch_ratio(ray_up=True)
    assert without_ray is not None
    assert without_ray.median == pytest.approx(2.0)
    assert is_met("vs_best_peer_long_gop", found["vs_best_peer_long_gop"])
    assert is_met("first_batch_ratio", found["first_batch_ratio"]) is False
    assert is_met("vs_best_peer_real", None) is None


def test_the_worst_corpus_counts() -> None:
    good = measured(ours=runs(5), ceiling=runs(5), loader=runs(1))
    bad = measured("real", ours=runs(5), ceiling=runs(10), loader=runs(4))
    found = judged([good, bad])
    assert found["of_ceiling"] is not None
    assert found["of_ceiling"].median == pytest.approx(0.5)
    assert found["vs_best_peer_real"] is not None
    assert found["vs_best_peer_real"].median == pytest.approx(1.25)


def test_the_report_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    corpus = replace(
        measured(ours=runs(5, ray=3), ceiling=runs(10), loader=runs(2)),
        wrong={"LitData decord": "not installed"},
        left_out={"odd.mp4": "decord: crashed"},
    )
    result = summary([corpus], Machine.this(None, {}, {}), 1)
    print_corpus(corpus)
    print_aims(result)
    said = capsys.readouterr().out
    for word in (OURS, CEILING, DATALOADER, "not installed", "odd.mp4", "2.50", "NOT met"):
        assert word in said
    words = "".join(element.text or "" for element in ElementTree.fromstring(chart([corpus], result)).iter())
    assert DATALOADER in words
    assert json.loads(json.dumps(result))["vs_best_peer_long_gop"] == 2.5


def test_cores_are_given_back() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not keep processes on cores")
    before = os.sched_getaffinity(0)
    with few_cores(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--python", "LitData=/no/such/python"], "there is no file at '/no/such/python'"),
        (["--python", f"Litdata={stream_contender.__file__}"], "did you mean 'LitData'"),
    ],
)
def test_mistakes_are_sentences(arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        main(arguments)


def test_a_timed_run_takes_whole_epochs(clips: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "long_gop", lambda _: clips)
    monkeypatch.setattr(stream, "real", lambda *_: small_clips(5))
    monkeypatch.setattr(stream.decode, "real_clips", lambda _: [])
    for quick in (False, True):
        for load in stream.workloads(Options(quick=quick, batch=2)):
            assert load.window * load.batch % len(load.corpus) == 0
            assert load.window % load.workers == 0 or load.name == "real"
            assert load.task.epochs * len(load.corpus) > load.task.batches * load.batch


def test_a_batch_may_be_the_first_and_the_end_of_the_warm_up(clips: Corpus) -> None:
    found = run(Contender("bare", "bare", "decord"), task_of(clips), warm=1)
    assert found.first_batch_seconds > 0
    assert found.clips_per_second > 0
