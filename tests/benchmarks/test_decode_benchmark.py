"""The decoding benchmark: it runs, its figures follow from its measurements, and it finds what it should find."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from benchmarks import decode
from benchmarks.clips import Codec, Encoding, generated_video
from benchmarks.contender import ContenderError, ContenderProcess, one_core
from benchmarks.decode import CONTENDERS, Sampling, families, main
from benchmarks.decoders import PlainPyAV, Request
from benchmarks.floor import Floor
from benchmarks.reference import Reference, wrong_frames
from benchmarks.scores import FLOOR, OURS, UNINDEXED, Case, scores_of
from headrace.errors import UserError


def tiny(codec: Codec = "h264", gop: int = 12, b_frames: int | None = 3) -> Encoding:
    return Encoding(codec, gop, b_frames, frames=30, height=72, width=128)


def request_of(encoding: Encoding, sampling: Sampling) -> Request:
    path = generated_video(encoding)
    reference = Reference()
    request = decode._request(path, reference.timing(str(path)), sampling)
    return replace(request, checksums=reference.truth(request).checksums)


def case(name: str, family: bool = True, long_gop: bool = False, wrong: str | None = None, **seconds: float) -> Case:
    measured = {contender: np.array([value, value, 2 * value]) for contender, value in seconds.items()}
    return Case(name, family, long_gop, measured, {wrong: "another frame"} if wrong else {})


def test_smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = {name: CONTENDERS[name] for name in (OURS, UNINDEXED, "PyAV", FLOOR)}
    monkeypatch.setattr(decode, "CONTENDERS", {**few, "absent": ("no_such_library:Decoder", ())})
    clips = tmp_path / "clips"
    clips.mkdir()
    for gop in (6, 30):
        generated_video(tiny(gop=gop)).rename(clips / f"gop{gop}.mp4")
    (clips / "not_a_video.mp4").write_bytes(b"nothing" * 1000)

    chart = tmp_path / "charts" / "decode.svg"
    code = main(["--real-only", "--repeats", "1", "--videos", str(clips), "--chart", str(chart)])

    lines = capsys.readouterr().out.strip().splitlines()
    result = json.loads(lines[-1])
    assert code == 0
    assert result["frames_identical"] is True
    assert result["clips"] == 2
    assert result["real_cpu_ratio"] > 0
    assert result["of_floor"] > 0
    assert result["long_gop_ratio"] is None
    assert result["worst_family_ratio"] is None
    assert result["best_other"] == "PyAV"
    assert set(result["left_out"]) == {"not_a_video.mp4"}
    assert "no_such_library" in result["missing"]["absent"]
    assert set(result["real_cpu_seconds"]) == {OURS, UNINDEXED, "PyAV", FLOOR}
    words = " ".join(element.text or "" for element in ElementTree.parse(chart).iter())
    assert "2 real clips" in words
    assert "PyAV" in words


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchcodec exact", "torchcodec approximate", "decord"])
def test_the_other_libraries_give_the_wanted_frames(name: str) -> None:
    request = request_of(tiny(), Sampling(8))
    factory, arguments = CONTENDERS[name]
    try:
        contender = ContenderProcess(factory, *arguments)
    except ContenderError as error:
        pytest.skip(f"{name} does not run here: {error}")
    with contender:
        assert contender.call("versions")
        assert wrong_frames(contender.call("decode", request), Reference().truth(request)) is None


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("gop", [2, 12, 250])
def test_plain_pyav_gives_the_wanted_frames(gop: int, contiguous: bool) -> None:
    request = request_of(tiny(gop=gop), Sampling(5, contiguous))
    assert wrong_frames(PlainPyAV().decode(request), Reference().truth(request)) is None


def test_a_neighbour_is_not_the_wanted_frame() -> None:
    request = request_of(tiny(), Sampling(4))
    truth = Reference().truth(request)
    one_off = truth.stretched[:, 1].copy()
    assert wrong_frames(one_off, truth) is None
    one_off[2] = truth.stretched[2, 2]
    assert "frame 3 of 4" in str(wrong_frames(one_off, truth))
    assert "gives" in str(wrong_frames(one_off[:3], truth))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_the_floor_leaves_out_what_nobody_refers_to(codec: Codec) -> None:
    request = request_of(tiny(codec, gop=250), Sampling(2))
    floor = Floor()
    assert floor.prepare(request) == "references"
    assert floor.decode(request) == 2
    with av.open(request.path) as container:
        kinds = {frame.pts: frame.pict_type for frame in container.decode(video=0)}
    decoded = {packet.pts for run in floor._runs for packet in run.packets}
    left_out = {pts for pts in kinds if pts < max(request.pts)} - decoded
    assert left_out
    assert all(kinds[pts] == PictureType.B for pts in left_out)


def test_the_floor_proves_its_frames() -> None:
    request = request_of(tiny(), Sampling(2))
    with pytest.raises(ValueError, match="does not give the wanted frames"):
        Floor().prepare(replace(request, checksums=(1, 2)))


def test_families_cover_each_level() -> None:
    chosen = families(quick=False)
    assert len({family.name for family in chosen}) == len(chosen)
    assert {family.encoding.codec for family in chosen} == {"h264", "hevc", "vp9", "av1"}
    for codec in ("h264", "hevc", "vp9", "av1"):
        assert {family.encoding.gop for family in chosen if family.encoding.codec == codec} == {2, 30, 250}
        assert any(family.sampling.contiguous for family in chosen if family.encoding.codec == codec)
    for codec in ("h264", "hevc"):
        assert {family.encoding.b_frames for family in chosen if family.encoding.codec == codec} == {0, 3, 8}
    for contiguous in (False, True):
        counts = {family.sampling.frames for family in chosen if family.sampling.contiguous == contiguous}
        assert counts == {4, 8, 16, 32}
    assert any(family.long_gop for family in families(quick=True))


@pytest.mark.parametrize("count", [1, 3, 8, 300])
@pytest.mark.parametrize("sampling", [Sampling(8), Sampling(8, contiguous=True), Sampling(1)])
def test_sampling_stays_inside(sampling: Sampling, count: int) -> None:
    frames = sampling.of(count)
    assert len(frames) == sampling.frames
    assert frames == sorted(frames)
    assert frames[0] >= 0
    assert frames[-1] < count


def test_scores() -> None:
    scores = scores_of(
        [
            # The best other is one library over all clips (b: 5 + 5), not the best of each (a: 2, b: 5).
            case("real 1", family=False, headrace=2, floor=1, a=2, b=5),
            case("real 2", family=False, headrace=4, floor=2, a=10, b=5),
            case("long", long_gop=True, headrace=1, a=4, b=5),
            case("worst", headrace=2, a=3, b=1),
            case("only ours", headrace=2),
        ]
    )
    assert scores.real_cpu_ratio is not None
    assert scores.real_cpu_ratio.median == pytest.approx(0.6)
    assert scores.real_cpu_ratio.low == pytest.approx(0.6)
    assert scores.of_floor is not None
    assert scores.of_floor.median == pytest.approx(0.5)
    assert scores.long_gop_ratio is not None
    assert scores.long_gop_ratio.median == pytest.approx(0.25)
    assert scores.worst_family_ratio is not None
    assert scores.worst_family_ratio.median == pytest.approx(0.5)
    assert scores.worst_family == "worst"
    assert scores.frames_identical


@pytest.mark.parametrize("who", [OURS, UNINDEXED])
def test_a_wrong_frame_of_ours_is_never_hidden(who: str) -> None:
    good = case("good", headrace=1, a=2)
    assert not scores_of([good, case("bad", wrong=who)]).frames_identical
    assert scores_of([good, case("bad", wrong="a", headrace=1)]).frames_identical
    assert not scores_of([]).frames_identical


def test_contender_processes_outlive_their_failures() -> None:
    with ContenderProcess("io:BytesIO", b"bytes") as contender:
        assert contender.call("read") == b"bytes"
        assert contender.measure("getvalue") >= 0
        with pytest.raises(ContenderError, match="AttributeError"):
            contender.call("no_such_method")
        assert contender.call("getvalue") == b"bytes"
    with ContenderProcess("ctypes:CDLL", None) as contender:
        with pytest.raises(ContenderError, match="SIGABRT"):
            contender.call("abort")
        assert contender.call("getpid") > 0


def test_one_core_is_given_back() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not keep processes on cores")
    before = os.sched_getaffinity(0)
    with one_core() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--real-only", "--families-only"], "leave nothing to measure"),
        (["--videos", "/no/such/folder"], "there are no videos in /no/such/folder"),
    ],
)
def test_mistakes_are_sentences(arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        main(arguments)
