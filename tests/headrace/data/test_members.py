from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_media import flat_image

from headrace.data.manifest import Manifest, table_of
from headrace.data.members import Item, members_of, place_of, plan_items
from headrace.data.scan import scan_shard, shards_of
from headrace.errors import UserError

PNG = flat_image(10, size=4)


def write_tar(path: Path, names: Sequence[str]) -> None:
    """Write members whose bytes are their names, but for pictures, which are pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            data = PNG if name.endswith(".png") else name.encode()
            if name.endswith(".json"):
                data = b'{"label": 3}'
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def manifest_of(source: Path) -> Manifest:
    rows = [row for shard in shards_of(str(source)) for row in scan_shard(str(source), shard)]
    return Manifest(str(source), table_of(rows))


def beside(item: Item) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, where in members_of(item).beside.items():
        if isinstance(where, bytes):
            found[name] = where
            continue
        with where.open() as file:
            found[name] = file.read()
    return found


def test_each_sample_of_a_tar_finds_all_its_members_wherever_they_stand(tmp_path: Path) -> None:
    long = "street/" + "ü" * 120  # a name that takes headers of its own
    names = ["0.txt", "readme.md", "./a/1.seg.txt", "./a/1.png", "./a/1.cls", "2.PNG", "3.json", "3.left.png", "3.txt"]
    write_tar(tmp_path / "x" / "s.tar", [*names[:-4], "2.png", *names[-3:], f"{long}.png", f"{long}.txt", "5.txt"])
    items = plan_items(manifest_of(tmp_path))
    assert [item.key for item in items] == ["a/1", "2", "3", long]
    assert [members_of(item).extension for item in items] == ["png", "png", "left.png", "png"]
    assert [sorted(beside(item)) for item in items] == [["cls", "seg.txt"], [], ["json", "txt"], ["txt"]]
    assert beside(items[0]) == {"seg.txt": b"./a/1.seg.txt", "cls": b"./a/1.cls"}
    assert beside(items[2])["json"] == b'{"label": 3}'
    assert {item.media.size for item in items} == {len(PNG)}


def test_an_item_is_read_without_going_through_its_shard(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [f"{number}.{kind}" for number in range(200) for kind in ("png", "txt")])
    items = plan_items(manifest_of(tmp_path))
    size = (tmp_path / "s.tar").stat().st_size
    assert 0.9 * size < items[-1].search_from < items[-1].media.offset
    assert beside(items[-1]) == {"txt": b"199.txt"}


def test_samples_that_cannot_be_read_are_no_items_but_bound_their_neighbours(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", ["0.png", "0.txt", "1.mp4", "1.txt", "2.png", "2.txt"])
    items = plan_items(manifest_of(tmp_path))
    assert [(item.key, beside(item)) for item in items] == [("0", {"txt": b"0.txt"}), ("2", {"txt": b"2.txt"})]


def test_keys_that_meet_are_told_apart(tmp_path: Path) -> None:
    write_tar(tmp_path / "train" / "s.0.tar", ["0.png", "1.png"])
    write_tar(tmp_path / "train" / "s.1.tar", ["0.png", "2.png"])
    (tmp_path / "a.b.png").write_bytes(PNG)
    (tmp_path / "c.png").write_bytes(PNG)
    (tmp_path / "c.bmp").write_bytes(flat_image(0, kind="BMP"))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("c.png", PNG)
        archive.writestr("d/e.png", PNG)
    keys = [item.key for item in plan_items(manifest_of(tmp_path))]
    assert keys == ["a_b", "c-bmp", "c-png", "train/s.0/0", "1", "train/s.1/0", "2", "z/c-png", "d/e"]


def test_outside_of_a_tar_the_json_says_where_a_sample_came_from(tmp_path: Path) -> None:
    (tmp_path / "a.b.png").write_bytes(PNG)
    (item,) = plan_items(manifest_of(tmp_path))
    assert json.loads(beside(item)["json"]) == {"path": "a.b.png"}
    assert members_of(item).extension == "png"


@pytest.mark.parametrize("name", ["../up.png", "a//b.png", "a/.png"])
def test_a_key_that_cannot_be_written_is_said_at_once(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "s.tar", [name])
    with pytest.raises(UserError, match="key"):
        plan_items(manifest_of(tmp_path))


def test_a_shard_that_changed_is_an_error_of_the_storage(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", ["0.txt", "0.png"])
    (item,) = plan_items(manifest_of(tmp_path))
    write_tar(tmp_path / "s.tar", ["0.txt", "0.json", "0.png"])
    with pytest.raises(OSError, match="changed"):
        members_of(item)


@pytest.mark.parametrize(
    ("extension", "others", "expected"),
    [
        ("mkv", ["json", "txt"], "mp4"),
        ("mkv", ["seg.png"], "mp4"),
        ("left.mkv", ["right.mkv"], "left.mp4"),
        ("mkv", ["jpg"], "0.mp4"),
        ("webm", ["mp4"], "0.mp4"),
        ("mkv", ["cls", "a.npy"], "mp4"),
    ],
)
def test_a_medium_stays_the_first_of_its_sample(extension: str, others: list[str], expected: str) -> None:
    assert place_of(extension, "mp4", others) == expected
