from __future__ import annotations

import csv
import hashlib
import json
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from headrace.errors import RunError, UserError
from jobs.pack import main

DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
Samples = dict[str, dict[str, bytes]]


def read(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None
    return file.read()


def samples_of(output: Path) -> Samples:
    """Return what all shards of a folder hold: key -> extension -> bytes."""
    samples: Samples = {}
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                folder, slash, name = info.name.rpartition("/")
                stem, _, extension = name.partition(".")
                samples.setdefault(folder + slash + stem, {})[extension] = read(tar, info)
    return samples


def digests(output: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.iterdir())}


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def pack(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder of 12 files in two subfolders, whose bytes are their paths."""
    root = tmp_path / "media"
    for number in range(12):
        path = root / ("day" if number % 2 else "night") / f"clip.{number:02d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.relative_to(root).as_posix().encode())
    for noise in ("readme.txt", ".hidden.mp4", "__MACOSX/day/._clip.mp4", ".cache/x.mp4"):
        (root / noise).parent.mkdir(parents=True, exist_ok=True)
        (root / noise).write_bytes(b"noise")
    return root


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        {
            "file": f"clip.{n:02d}",
            "zip code": f"{n:05d}",
            "speed": n / 4,
            "place": "" if n else "ü,b",
            "site": n % 3,
        }
        for n in range(14)
    ]
    return write_csv(tmp_path / "table.csv", rows)


def test_a_folder_becomes_shards_with_its_bytes_as_they_are(media: Path, tmp_path: Path) -> None:
    assert pack(media, tmp_path / "out", "--samples-per-shard", "5") == 0
    samples = samples_of(tmp_path / "out")
    assert len(samples) == 12
    assert len(list((tmp_path / "out").iterdir())) == 3
    for key, members in samples.items():
        path = json.loads(members["json"])["path"]
        assert members["mp4"].decode() == path
        assert key == path.removesuffix(".mp4").replace("clip.", "clip_")
    assert list(samples) != sorted(samples)
    pack(media, tmp_path / "sorted", "--seed", "None")
    assert list(samples_of(tmp_path / "sorted")) == sorted(samples)


def test_a_zip_gives_the_same_shards_as_the_folder(media: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "media.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(media.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(media))
    pack(media, tmp_path / "a", "--samples-per-shard", "5")
    pack(tmp_path / "media.zip", tmp_path / "b", "--samples-per-shard", "5")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_rows_join_by_stem_with_types_and_label(
    media: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(media, tmp_path / "out", "--metadata", table, "--label-column", "site", "--where", "site=1")
    samples = samples_of(tmp_path / "out")
    assert sorted(json.loads(members["json"])["file"] for members in samples.values()) == [
        f"clip.{number:02d}" for number in (1, 4, 7, 10)
    ]
    assert samples["night/clip_04"]["cls"] == b"1"
    assert json.loads(samples["night/clip_04"]["json"]) == {
        "path": "night/clip.04.mp4",
        "file": "clip.04",
        "zip code": "00004",
        "speed": 1.0,
        "place": None,
        "site": 1,
        "label": 1,
    }
    said = capsys.readouterr().out
    assert "8 files without a row are left out" in said
    assert "1 rows have no file: clip.13" in said


def test_a_label_that_is_no_integer_gets_no_cls(media: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", [{"path": "day/clip.01.mp4", "kind": "bus"}])
    pack(media, tmp_path / "out", "--metadata", table, "--label-column", "kind")
    ((_, members),) = samples_of(tmp_path / "out").items()
    assert sorted(members) == ["json", "mp4"]
    assert json.loads(members["json"])["label"] == "bus"


@pytest.mark.parametrize(
    "value",
    ["day/clip.01.mp4", "day\\clip.01.mp4", "./day/clip.01.mp4", "day/clip.01", "clip.01.mp4", "clip.01"],
)
def test_a_file_may_be_named_by_path_name_or_stem(media: Path, tmp_path: Path, value: str) -> None:
    pack(media, tmp_path / "out", "--metadata", write_csv(tmp_path / "t.csv", [{"k": value}]))
    assert list(samples_of(tmp_path / "out")) == ["day/clip_01"]


def test_a_path_into_another_folder_is_never_matched_by_its_name(media: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", [{"k": "night/clip.01.mp4"}, {"k": "day/clip.03.mp4"}])
    pack(media, tmp_path / "out", "--metadata", table)
    assert list(samples_of(tmp_path / "out")) == ["day/clip_03"]


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        ([{"k": "same"}], [], "fits 2 files"),
        ([{"k": "clip.01"}, {"k": "day/clip.01.mp4"}], [], "two rows"),
        ([{"k": "clip.01", "l": "clip.01"}], [], "give one as --key-column"),
        ([{"k": "nowhere"}], [], "no column"),
        ([{"k": "nowhere"}], ["--key-column", "k"], "no row of"),
        ([{"k": "clip.01"}], ["--key-column", "kk"], "did you mean 'k'"),
        ([{"k": "clip.01"}], ["--label-column", "lab"], "no column 'lab'"),
        ([{"k": "clip.01", "label": 1, "kind": 2}], ["--label-column", "kind"], "one label"),
        ([{"k": "clip.01"}], ["--where", "k"], "COLUMN=VALUE"),
        ([{"k": "clip.01"}], ["--where", "k=clip.02"], "there is 'clip.01'"),
        ([{"k": "clip.01"}], ["--samples-per-shard", "0"], "room for"),
        ([{"k": "clip.01"}], ["--workers", "-1"], "--workers"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    media: Path, tmp_path: Path, rows: list[dict[str, object]], options: list[str], sentence: str
) -> None:
    for folder in ("day", "night"):
        (media / folder / "same.mp4").write_bytes(b"")
    table = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(UserError, match=sentence):
        pack(media, tmp_path / "out", "--metadata", table, *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "header"),
        (b"k,k\nclip.01,2\n", "twice"),
        (b"k,l\nclip.01\n", "line 2"),
        (b"k\n\xff\xfe\n", "UTF-8"),
        (b"k,l\n", "no rows"),
    ],
)
def test_broken_tables_are_named(media: Path, tmp_path: Path, text: bytes, sentence: str) -> None:
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(UserError, match=sentence):
        pack(media, tmp_path / "out", "--metadata", tmp_path / "t.csv")


def test_sources_that_hold_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 with \.txt"):
        pack(tmp_path / "notes", tmp_path / "out")
    with pytest.raises(UserError, match="nor a sound zip"):
        pack(tmp_path / "notes" / "a.txt", tmp_path / "out")
    with pytest.raises(UserError, match="there is no folder or zip"):
        pack(tmp_path / "nowhere", tmp_path / "out")


def test_an_archive_that_names_files_outside_itself_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.mp4", b"")
    with pytest.raises(UserError, match="evil"):
        pack(tmp_path / "evil.zip", tmp_path / "out")


def test_files_that_differ_only_in_extension_keep_apart(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg"):
        (tmp_path / "media").mkdir(exist_ok=True)
        (tmp_path / "media" / name).write_bytes(b"")
    pack(tmp_path / "media", tmp_path / "out")
    assert sorted(samples_of(tmp_path / "out")) == ["a-jpg", "a-png", "b"]


def test_shards_are_replaced_only_when_told(media: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(media, out, "--samples-per-shard", "2")
    before = digests(out)
    with pytest.raises(UserError, match="--overwrite"):
        pack(media, out)
    assert digests(out) == before
    pack(media, out, "--overwrite")
    assert list(digests(out)) == ["shard-000000.tar"]
    (out / "foreign.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"foreign\.tar"):
        pack(media, out, "--overwrite")


def test_a_failing_run_leaves_what_was_there(media: Path, tmp_path: Path) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken.zip"
    pack(media, out)
    before = digests(out)
    with zipfile.ZipFile(broken, "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.mp4", f"payload {number}" * 9)
    damaged = broken.read_bytes().replace(b"payload 2payload 2", b"payload 2pay-oad 2")
    broken.write_bytes(damaged)
    with pytest.raises(RunError, match=r"2\.mp4"):
        pack(broken, out, "--overwrite", "--samples-per-shard", "1")
    assert digests(out) == before


@pytest.mark.skipif(not (DATA / "cifar10").exists(), reason=f"no CIFAR-10 in {DATA}")
def test_cifar10_packs_its_marked_subset(tmp_path: Path) -> None:
    zip_path, index = DATA / "cifar10" / "cifar10_jpg.zip", DATA / "cifar10" / "index.csv"
    pack(
        *(zip_path, tmp_path / "out", "--metadata", index, "--label-column", "label"),
        *("--where", "split=train", "--where", "in_subset_10k_2k=1"),
    )
    samples = samples_of(tmp_path / "out")
    assert len(samples) == 10_000
    assert set(Counter(members["cls"] for members in samples.values()).values()) == {1000}
    first = list(samples.values())[:1000]  # one shard: all classes, none much more often than the others
    assert all(60 < count < 140 for count in Counter(members["cls"] for members in first).values())
    with zipfile.ZipFile(zip_path) as archive:
        for key in list(samples)[::997]:
            assert samples[key]["jpg"] == archive.read(f"{key}.jpg")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_ray_writes_the_same_shards_and_fails_with_the_same_sentence(media: Path, tmp_path: Path) -> None:
    from data_pipelines.pack import pack as run
    from headrace.data.media_source import open_source
    from headrace.data.packing import plan_items, plan_shards

    items = plan_items(open_source(str(media)).files())
    plans = plan_shards(items, samples_per_shard=5, bytes_per_shard=2**20, seed=0)
    told: list[tuple[int, int]] = []
    for workers, name in ((2, "ray"), (0, "here")):
        run(
            str(media),
            tmp_path / name,
            plans,
            workers=workers,
            overwrite=False,
            on_progress=lambda done, total: told.append((done, total)),
        )
    assert digests(tmp_path / "ray") == digests(tmp_path / "here")
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)] * 2

    (media / plans[1].items[0].path).unlink()
    with pytest.raises(RunError, match="cannot be read"):
        run(str(media), tmp_path / "gone", plans, workers=2, overwrite=False, on_progress=lambda *_: None)
    assert list((tmp_path / "gone").iterdir()) == []
