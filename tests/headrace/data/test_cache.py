"""The cache of remote bytes: right bytes, a bound that holds, several processes at once, and crashes."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from headrace.data import cache as cache_module
from headrace.data.cache import GRANULE_BYTES, Cache
from headrace.data.config import DataConfig
from headrace.errors import UserError

DATA = np.random.default_rng(0).bytes(12 * GRANULE_BYTES + 77)
GRANULE_ON_DISK = GRANULE_BYTES + 16


@dataclass
class FakeObject:
    """An object in memory that counts what is asked of it."""

    location: str = "s3://bucket/key"
    data: bytes = field(default=DATA, repr=False)
    version: str = "v1"
    asked: list[tuple[int, int]] = field(default_factory=list)

    def stat(self) -> tuple[int, str]:
        return len(self.data), self.version

    def fetch(self, offset: int, size: int) -> Iterator[bytes]:
        self.asked.append((offset, size))
        yield self.data[offset : offset + size]


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != ".lock")


def granules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != ".lock")


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (GRANULE_BYTES - 1, 2), (100, 3 * GRANULE_BYTES), (len(DATA) - 5, 100), (0, len(DATA)), (len(DATA), 9)],
)
def test_bytes_are_those_of_the_object_and_are_fetched_once(tmp_path: Path, offset: int, size: int) -> None:
    cache, where = Cache(tmp_path, 1 << 30), FakeObject()
    for _ in range(2):
        assert cache.read(where, offset, size) == DATA[offset : offset + size]
    assert sum(size for _, size in where.asked) <= size + 2 * GRANULE_BYTES
    asked = len(where.asked)
    assert Cache(tmp_path, 1 << 30).read(where, offset, size) == DATA[offset : offset + size]
    assert len(where.asked) == asked


def test_neighbours_come_in_one_request(tmp_path: Path) -> None:
    cache, where = Cache(tmp_path, 1 << 30), FakeObject()
    cache.read(where, GRANULE_BYTES, 1)
    cache.read(where, 0, 4 * GRANULE_BYTES)
    assert where.asked == [(GRANULE_BYTES, GRANULE_BYTES), (0, GRANULE_BYTES), (2 * GRANULE_BYTES, 2 * GRANULE_BYTES)]


def test_a_changed_object_is_another_object(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 30)
    assert cache.read(FakeObject(), 0, 9) == DATA[:9]
    assert cache.read(FakeObject(data=b"x" * len(DATA), version="v2"), 0, 9) == b"x" * 9
    assert cache.read(FakeObject(data=b"y" * 20), 0, 9) == b"y" * 9, "of another size under the same version"
    assert cache.read(FakeObject(location="s3://bucket/other", data=b"z" * len(DATA)), 0, 9) == b"z" * 9


def test_the_bound_holds_and_what_was_used_last_stays(tmp_path: Path) -> None:
    most = 5 * GRANULE_ON_DISK
    cache, where = Cache(tmp_path, most), FakeObject()
    for number in (0, 1, 2, 0, 3, 4, 0, 5, 6, 0):
        cache.read(where, number * GRANULE_BYTES, 10)
        assert held(tmp_path) <= most
        time.sleep(0.01)
    assert [offset for offset, _ in where.asked].count(0) == 1
    where.asked.clear()
    cache.read(where, 1 * GRANULE_BYTES, 10)
    assert where.asked, "the least recently used is gone"
    Cache(tmp_path, 2 * GRANULE_ON_DISK)
    assert held(tmp_path) <= 2 * GRANULE_ON_DISK, "a smaller bound holds from the start"


def test_a_granule_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    assert Cache(tmp_path, 1000).read(FakeObject(), 5, 10) == DATA[5:15]
    assert not granules(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_damage_is_noticed_and_fetched_again(tmp_path: Path, damage: str) -> None:
    cache, where = Cache(tmp_path, 1 << 30), FakeObject()
    cache.read(where, 0, 10)
    (path,) = granules(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-9], "empty": b"", "longer": content + b"x"}.get(damage, content))
    assert cache.read(where, 0, 10) == DATA[:10]
    assert len(where.asked) == 2
    cache.read(where, 0, 10)
    assert len(where.asked) == 2, "and kept again"


def test_what_a_crash_leaves_costs_nothing_for_ever(tmp_path: Path) -> None:
    cache, where = Cache(tmp_path, 4 * GRANULE_ON_DISK), FakeObject()
    (tmp_path / "abc.123.partial").write_bytes(bytes(2 * GRANULE_ON_DISK))
    (tmp_path / ".lock").write_bytes(b"not a number")
    for number in range(6):
        cache.read(where, number * GRANULE_BYTES, 10)
        assert held(tmp_path) <= 4 * GRANULE_ON_DISK
    assert not (tmp_path / "abc.123.partial").exists()


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    cache, where = Cache(tmp_path, 1 << 30), FakeObject()
    monkeypatch.setattr(Path, "write_bytes", full)
    assert cache.read(where, 0, 10) == DATA[:10]


def _hammer(folder: Path, seed: int, errors: multiprocessing.Queue[str]) -> None:
    cache, draw = Cache(folder, 5 * GRANULE_ON_DISK), random.Random(seed)
    for _ in range(60):
        offset = draw.randrange(len(DATA))
        if cache.read(FakeObject(), offset, 1000) != DATA[offset : offset + 1000]:
            errors.put(f"wrong bytes at {offset}")


def test_several_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    errors = context.Queue()
    processes = [context.Process(target=_hammer, args=(tmp_path, seed, errors)) for seed in range(3)]
    for process in processes:
        process.start()
    most, end = 0, threading.Event()
    while not end.is_set():
        alive = any(process.is_alive() for process in processes)
        with suppress(FileNotFoundError):  # it went while it was counted
            most = max(most, held(tmp_path))
        if not alive:
            end.set()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert errors.empty()
    assert 0 < most <= 5 * GRANULE_ON_DISK


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least"):
        DataConfig(cache_bytes=1000)
    with pytest.raises(UserError, match="cache-bytes"):
        DataConfig(cache_folder=str(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be kept"):
        DataConfig(cache_bytes=cache_module.LEAST_BYTES, cache_folder=str(tmp_path / "file")).open_cache()
    assert DataConfig().open_cache() is None
