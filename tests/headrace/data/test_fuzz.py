"""The short form of benchmarks/fuzz_decode.py, and that the fuzzer itself finds what it is there to find."""

from __future__ import annotations

from pathlib import Path

import pytest
from generated_clips import encode_clip
from mutants import _SPECS, corpus, mutant, source

from benchmarks import fuzz_decode
from benchmarks.fuzz_decode import fuzz


def test_damaged_videos_give_frames_or_typed_errors() -> None:
    report = fuzz(range(150), batch=150)
    assert report.problems == []
    assert report.mutants == 150
    # Neither so broken that nothing is decoded, nor so whole that nothing is found.
    for outcome in ("probe: frames", "decode: frames", "own index: frames", "given index: frames", "decode: Truncated"):
        assert report.outcomes[outcome] > 15, outcome
    assert max(report.growth_mib) < 20


def test_a_mutant_is_found_again_by_its_number() -> None:
    source.cache_clear()
    first = [mutant(corpus(), seed=3, number=number) for number in range(40)]
    source.cache_clear()
    again = [mutant(corpus(), seed=3, number=number) for number in range(40)]
    assert [(one.data, one.story) for one in first] == [(one.data, one.story) for one in again]
    assert len({one.data for one in first}) > 30


@pytest.mark.parametrize("name", _SPECS)
def test_the_corpus_is_the_same_in_every_process(name: str) -> None:
    assert source(name) == encode_clip(_SPECS[name])


VICTIM = """
import json, os, signal, sys, time
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    print(json.dumps({"begins": number}), flush=True)
    if number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 6:
        time.sleep(60)
    finding = {"number": number, "source": "clip", "story": [], "outcomes": {"probe": "frames"}, "seconds": 0.1}
    print(json.dumps(finding | {"problems": ["x"] * (number == 8), "resident_mib": 90 + 2 * number, "peak_mib": 120}))
"""


def test_what_kills_hangs_or_escapes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "victim.py"
    script.write_text(VICTIM)
    monkeypatch.setattr(fuzz_decode, "EXAMINE", script)
    monkeypatch.setattr(fuzz_decode, "HANG_SECONDS", 1.0)
    report = fuzz(range(20), batch=9)
    assert [(number, problem.split(":")[0]) for number, problem in report.problems] == [
        (3, "kills its process"),
        (6, "hangs"),
        (8, "clip []"),
    ]
    assert "-11" in report.problems[0][1]
    assert report.mutants == report.outcomes["probe: frames"] == 18
    assert report.growth_mib == [12.0, 4.0]
