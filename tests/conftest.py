"""What tests share: small media made once, and the real data where it lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from small_media import flat_image, ramp_video

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let two processes share the tests by file; all that start Ray on both cores come one after the other."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else str(item.path)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep manifests of read-only sources out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real videos and images, or skip."""
    folder = Path(os.environ.get("HEADRACE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "videos").is_dir():
        pytest.skip(f"no real data at {folder} (HEADRACE_DATA names its folder)")
    return folder


@pytest.fixture(scope="session")
def clip_bytes() -> list[bytes]:
    """Return eight small clips."""
    return [ramp_video(index) for index in range(8)]


@pytest.fixture
def video_folder(tmp_path: Path, clip_bytes: list[bytes]) -> Path:
    """Return a folder of eight small clips."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for index, data in enumerate(clip_bytes):
        (folder / f"clip{index}.mp4").write_bytes(data)
    return folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Return a folder of forty images in two brightnesses."""
    folder = tmp_path / "images"
    for index in range(40):
        path = folder / ("dark" if index % 2 else "bright") / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flat_image((30 if index % 2 else 200) + index))
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch to one thread: several on two busy cores are slower, and tests must not wait on each other."""
    torch.set_num_threads(1)
