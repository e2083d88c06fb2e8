"""The architecture, held: who may import whom, and what may never be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "platform" / "headrace"
RAY_ROOMS = (
    "platform/headrace/cluster/",
    "jobs/",
    "data_pipelines/",
    "tune_spaces/",
    "benchmarks/",
    "tests/",
)
NEED_TORCH = {"platform/headrace/data/decode/torchcodec.py", "platform/headrace/data/decode/nvdec.py"}
"""Decoders of a library that is built on torch; imported only by those who choose them."""
SOURCES = sorted(
    path
    for folder in ("platform", "jobs", "data_pipelines", "tune_spaces", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def offenders(folder: Path, *forbidden: str) -> dict[str, set[str]]:
    found = {}
    for path in folder.rglob("*.py"):
        bad = {name for name in imports_of(path) for root in forbidden if name == root or name.startswith(root + ".")}
        if bad:
            found[str(path.relative_to(ROOT))] = bad
    return found


def test_platform_holds_no_init() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would shadow the standard library's platform"
    import platform

    assert platform.python_version()


def test_ray_stays_in_its_rooms() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == "ray" or name.startswith("ray.") for name in imports_of(path))
        and not str(path.relative_to(ROOT)).startswith(RAY_ROOMS)
    }
    assert not found


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("data", ("torch", "headrace.models", "headrace.train", "headrace.cluster", "headrace.observe")),
        ("demo", ("torch", "headrace.models", "headrace.train", "headrace.cluster", "headrace.observe")),
        ("layers", ("headrace.models", "headrace.train", "headrace.data", "headrace.cluster")),
        (
            "models",
            ("headrace.train", "headrace.data", "headrace.cluster", "headrace.observe", "headrace.optim"),
        ),
        ("augment", ("headrace.train", "headrace.models", "headrace.cluster")),
        ("optim", ("headrace.train", "headrace.models.hjepa", "headrace.cluster", "headrace.data")),
        ("observe", ("torch", "headrace.train", "headrace.models", "headrace.cluster")),
        ("train", ("headrace.cluster", "headrace.models.hjepa")),
        ("", ("jobs", "data_pipelines", "tune_spaces")),
    ],
)
def test_arrows_point_down(room: str, forbidden: tuple[str, ...]) -> None:
    found = offenders(PACKAGE / room, *forbidden)
    for file in NEED_TORCH & found.keys():
        found[file] = {name for name in found[file] if name.split(".")[0] != "torch"}
    assert not {file: bad for file, bad in found.items() if bad}


def test_pipelines_do_not_know_the_jobs() -> None:
    assert not offenders(ROOT / "data_pipelines", "jobs")


def test_the_loop_names_no_model() -> None:
    families = [path.name for path in (PACKAGE / "models").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert families
    rooms = [*(PACKAGE / "train").glob("*.py"), *(PACKAGE / "cluster").glob("*.py"), PACKAGE / "recipe.py"]
    for path in rooms:
        for family in families:
            assert family not in path.read_text().lower(), f"{path.name} speaks of {family}"


def test_nothing_is_unpickled() -> None:
    for path in (PACKAGE / "data").rglob("*.py"):
        assert not imports_of(path) & {"pickle", "cloudpickle", "dill", "joblib"}, path


def test_every_test_folder_mirrors_a_room() -> None:
    for folder in (ROOT / "tests" / "headrace").rglob("*"):
        if folder.is_dir() and folder.name != "__pycache__":
            assert (PACKAGE / folder.relative_to(ROOT / "tests" / "headrace")).is_dir(), folder
