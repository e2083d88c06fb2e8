"""What failed, as it is kept; samples taken out of a source and back; samples copied out and decoded again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipelines.index import index
from headrace.batch import Failure
from headrace.data import retest
from headrace.data.exclusions import Exclusion
from headrace.data.extract import extract, safe_name
from headrace.data.manifest import Manifest
from headrace.data.members import plan_items
from headrace.data.quarantine import QUARANTINE_FILE, Quarantine, export, read_quarantine
from headrace.data.retest import Retest
from headrace.data.scan import shards_of
from headrace.errors import UserError


def failure(position: int, key: str, reason: str = "truncated or damaged") -> Failure:
    return Failure(position, key, "shards/a.tar", 512, reason, f"{key} is broken")


def add(run: Path, *failures: Failure, time: float = 1.0) -> list[str]:
    table = Quarantine(run)
    new = table.add(failures, time)
    table.close()
    return [row.key for row in new]


def indexed(folder: Path) -> Manifest:
    return index(str(folder), shards_of(str(folder)))


def test_a_sample_is_listed_once_however_often_it_is_met(tmp_path: Path) -> None:
    assert add(tmp_path, failure(3, "a"), failure(4, "b"), failure(9, "a")) == ["a", "b"]
    assert add(tmp_path, failure(3, "a"), failure(5, "c"), time=2.0) == ["c"], "after a restart"
    rows = read_quarantine(tmp_path)
    assert [(row.key, row.position, row.time) for row in rows] == [("a", 3, 1.0), ("b", 4, 1.0), ("c", 5, 2.0)]
    assert len((tmp_path / QUARANTINE_FILE).read_text().splitlines()) == 3
    assert read_quarantine(tmp_path / "no run") == []


def test_a_torn_line_costs_no_other(tmp_path: Path) -> None:
    add(tmp_path, failure(3, "a"), failure(4, "b"))
    path = tmp_path / QUARANTINE_FILE
    path.write_bytes(path.read_bytes()[:-30])
    assert [row.key for row in read_quarantine(tmp_path)] == ["a"]
    assert add(tmp_path, failure(4, "b"), failure(7, "c")) == ["b", "c"], "what was torn is written again"
    assert [row.key for row in read_quarantine(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_exports_hold_every_column(tmp_path: Path, suffix: str) -> None:
    add(tmp_path, failure(3, 'odd, "key"\nof two lines'), failure(4, "b"))
    path = tmp_path / "sub" / f"table{suffix}"
    export(path, read_quarantine(tmp_path), {"b": "bad"})
    if suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    assert [row["key"] for row in rows] == ['odd, "key"\nof two lines', "b"]
    assert [row["verdict"] for row in rows] == ["", "bad"]
    assert [int(row["position"]) for row in rows] == [3, 4]
    with pytest.raises(UserError, match=r"--export writes \.csv, \.parquet, \.jsonl, got .*xlsx"):
        export(tmp_path / "a.xlsx", [], {})


def test_excluded_samples_are_left_out_until_they_are_taken_back(video_folder: Path) -> None:
    manifest = indexed(video_folder)
    before = manifest.usable().digest
    out = [Exclusion("clip3.mp4", "too slow", "run-1"), Exclusion("clip5.mp4", "crashes the decoder", "run-1")]
    assert manifest.exclusions().add(out) == 2
    assert manifest.exclusions().add([Exclusion("clip3.mp4", "no frames", "run-2")]) == 0
    usable = manifest.usable()
    assert len(usable) == 6
    assert usable.digest != before
    assert not {"clip3.mp4", "clip5.mp4"} & set(usable.table["key"].to_pylist())
    assert "clip3.mp4" not in {item.source_key for item in plan_items(manifest)}, "nor transcoded"
    assert manifest.exclusions().read()["clip3.mp4"].reason == "too slow", "the first reason stays"

    again = index(str(video_folder), shards_of(str(video_folder)))
    assert len(again) == 8
    assert len(again.usable()) == 6, "a decision outlives indexing anew"
    assert again.exclusions().remove({"clip3.mp4", "clip5.mp4", "unknown"}) == 2
    assert again.usable().digest == before


def test_excluding_everything_is_said(video_folder: Path) -> None:
    manifest = indexed(video_folder)
    manifest.exclusions().add(Exclusion(key, "bad", "r") for key in manifest.table["key"].to_pylist())
    with pytest.raises(UserError, match=r"no sample of .* can be read .8 x excluded"):
        manifest.usable()


def test_exclusions_of_what_cannot_be_written_to_lie_in_the_cache(video_folder: Path) -> None:
    video_folder.chmod(0o555)
    try:
        manifest = indexed(video_folder)
        manifest.exclusions().add([Exclusion("clip3.mp4", "too slow", "run-1")])
        assert len(manifest.usable()) == 7
        assert not (video_folder / ".headrace").exists()
    finally:
        video_folder.chmod(0o755)


def test_a_damaged_list_of_exclusions_is_not_passed_over(video_folder: Path) -> None:
    manifest = indexed(video_folder)
    manifest.exclusions().add([Exclusion("clip3.mp4", "too slow", "run-1")])
    path = video_folder / ".headrace" / "manifest.exclusions.jsonl"
    path.write_text(path.read_text() + '{"key": ')
    with pytest.raises(UserError, match="does not say which samples are left out"):
        manifest.usable()


def test_extracted_files_have_safe_names_and_a_bound(video_folder: Path, tmp_path: Path) -> None:
    manifest = indexed(video_folder)
    size = (video_folder / "clip0.mp4").stat().st_size
    (video_folder / "clip2.mp4").unlink()
    folder = tmp_path / "out"
    written, left = extract(manifest, ["clip0.mp4", "gone.mp4", "clip2.mp4", "clip1.mp4"], folder, size + 10)
    assert written == {"clip0.mp4": "00000-clip0.mp4"}
    assert (folder / "00000-clip0.mp4").read_bytes() == (video_folder / "clip0.mp4").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["00000-clip0.mp4", "files.csv"]
    assert "no longer has it" in left["gone.mp4"]
    assert "clip2.mp4" in left
    assert "more than may still be copied" in left["clip1.mp4"]
    with pytest.raises(UserError, match="is not an empty folder"):
        extract(manifest, [], folder, 1)


@pytest.mark.parametrize("key", ["../../etc/passwd", "a\\..\\b.mp4", ".bashrc", "x\0y\n.mp4", "é" * 500, "", "CON.mp4"])
def test_names_in_archives_are_never_paths(key: str) -> None:
    name = safe_name(7, key)
    assert name.startswith("00007-")
    assert name.isascii()
    assert len(name) < 100
    assert not set(name) & set("/\\\0\n")


def test_samples_decoded_again(video_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retest, "_VIDEO", ["sparse", "hostile_decoder:build_refused"])
    (video_folder / "clip6.mp4").write_bytes(b"no video")
    manifest = indexed(video_folder)
    half = (video_folder / "clip3.mp4").read_bytes()
    (video_folder / "clip3.mp4").write_bytes(half[: len(half) // 2] + bytes(len(half) - len(half) // 2))
    (video_folder / "clip4.mp4").unlink()
    keys = ["clip0.mp4", "clip3.mp4", "clip4.mp4", "clip6.mp4", "clip9.mp4"]
    with Retest(manifest, "auto") as again:
        verdicts = [again.of(key).verdict for key in keys]
    assert verdicts == ["reads now", "bad", "storage", "gone", "gone"]
    assert again.missing == {"hostile_decoder:build_refused": "the decoder needs a library: install it"}


def test_a_sample_that_kills_one_decoder_and_not_another(video_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retest, "_VIDEO", ["sparse"])
    manifest = indexed(video_folder)
    own = "fatal_twin:build"
    (video_folder / "fatal_twin.py").write_text(
        "import os\n\nclass build:\n    name = 'fatal'\n\n    def decode(self, *_):\n        os.abort()\n"
    )
    monkeypatch.syspath_prepend(video_folder)
    with Retest(manifest, own) as again:
        found = again.of("clip0.mp4")
    assert found.verdict == "other decoder"
    assert found.answers["sparse"] == ""
    assert "crashes the decoder" in found.answers[own]
    assert "SIGABRT" in found.answers[own]
