"""What README.md and docs/ say: options, commands, files, links, error sentences and metrics that exist; an example
that runs; a site that builds and loads nothing from elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from headrace.cluster.prometheus_log import _EVENTS
from headrace.observe.mirror import STEP_FIELDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = [ROOT / "README.md", *(page for page in PAGES if page.name != "log.md")]
"""The log speaks of what once was."""

JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if "\ndef run()" in path.read_text())
KINDS = {"find": (["lr"], ["batch"]), "tune": ([], ["--resume", "sweep"])}
"""Jobs whose help depends on what stands first."""

OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*[a-z0-9]")
ELSEWHERE = {
    "ray": {"--address", "--dashboard-host", "--follow", "--generate", "--head", "--metrics-export-port", "--no-wait"}
    | {"--runtime-env-json", "--submission-id", "--working-dir"},
    "podman": {"--build-arg"},
    "pip": {"--constraint", "--editable"},
    "tensorboard": {"--logdir"},
}
"""Options of other programs."""

FENCE = re.compile(r"(?ms)^```(\w*)[^\n]*\n(.*?)^```$")
TITLED = re.compile(r'(?ms)^```python title="([^"]+)"\n(.*?)^```$')


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def options_of(job: str) -> frozenset[str]:
    """Return what a job's help lists; the help of an option may name others, which do not count."""
    found: set[str] = set()
    module = importlib.import_module(f"jobs.{job}")
    for first in KINDS.get(job, ([],)):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            module.main([*first, "--help"])
        for line in re.findall(r"(?m)^[│|]? {1,2}((?:-\w, )?--.*)$", said.getvalue()):
            found |= set(OPTION.findall(re.split(r"\s{2,}", line)[0]))
    assert found, f"{job} lists no option"
    return frozenset(found)


def fields_of(code: str) -> set[str]:
    """Return the fields of dataclasses as options name them."""
    return {name.replace("_", "-") for name in re.findall(r"(?m)^    (\w+): [^=\n]+ = ", code)}


def commands() -> Iterator[tuple[str, str, str]]:
    """Yield each command of a job that a code block or a line of code names: where, which job, its arguments."""
    for text in TEXTS:
        content = text.read_text()
        blocks = [block for kind, block in FENCE.findall(content) if kind in ("sh", "text")]
        lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
        lines += re.findall(r"`([^`\n]+)`", FENCE.sub("", content))
        for line in lines:
            found = re.search(r"(?:jobs/(\w+)\.py|-m jobs\.(\w+))([^#]*)", line)
            if found:
                yield by_name(text), found[1] or found[2], found[3]


@pytest.mark.parametrize("text", TEXTS, ids=by_name)
def test_every_option_exists(text: Path) -> None:
    content = text.read_text()
    made = {f"--model.{name}" for _, code in TITLED.findall(content) for name in fields_of(code)}
    scripts = re.findall(r"\b(?:benchmarks|deploy)/[\w/]+\.py", content)
    made |= {f"--{name}" for script in scripts for name in fields_of((ROOT / script).read_text())}
    known = made.union(*map(options_of, JOBS), *ELSEWHERE.values())
    named = set(OPTION.findall(content))
    wild = {option for option in named if f"{option}.*" in content}
    unknown = named - known - wild
    unknown |= {option for option in wild if not any(one.startswith(f"{option}.") for one in known)}
    assert not unknown


def test_every_command_is_of_a_job_and_its_own_options() -> None:
    seen = set()
    for where, job, arguments in commands():
        assert (ROOT / "jobs" / f"{job}.py").is_file(), f"{where}: there is no jobs/{job}.py"
        unknown = set(OPTION.findall(arguments)) - options_of(job)
        assert not unknown, f"{where}: jobs/{job}.py has no {', '.join(sorted(unknown))}"
        seen.add(job)
    assert seen == set(JOBS), "each job is shown at work"


@pytest.mark.parametrize("text", TEXTS, ids=by_name)
def test_every_file_exists(text: Path) -> None:
    content = text.read_text()
    made = set(re.findall(r'title="([^"]+)"', content))
    rooms = r"platform|jobs|data_pipelines|tune_spaces|deploy|benchmarks|tests|docs"
    for path in re.findall(rf"(?<![\w/.])((?:{rooms})/[\w./-]*\w)", content):
        assert (ROOT / path).exists() or path in made, path


@pytest.mark.parametrize("text", [*TEXTS, ROOT / "CONTRIBUTING.md", DOCS / "log.md"], ids=by_name)
def test_every_relative_link_and_image_resolves(text: Path) -> None:
    content = re.sub(r"`[^`\n]+`", "", FENCE.sub("", text.read_text()))
    for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)", content):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            there = text.parent / path if path else text
            assert there.is_file(), target
            assert not anchor or anchor in anchors_of(there), target


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.+)$", FENCE.sub("", page.read_text()))
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    listed = list(pages(settings()["nav"]))
    assert sorted(listed) == [page.name for page in PAGES]
    assert listed[0] == "index.md"
    assert {"Log": "log.md"} in settings()["nav"]


def settings() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    return found


def test_operations_knows_every_metric() -> None:
    names = {*STEP_FIELDS, *_EVENTS, "extra", "held_out"}
    rows = re.findall(r"(?m)^\| `ray_headrace_(\w+)` \|", (DOCS / "operations.md").read_text())
    assert sorted(rows) == sorted(names)
    for text in TEXTS:
        assert set(re.findall(r"ray_headrace_([a-z_]+[a-z])", text.read_text())) <= names


def test_the_errors_of_operations_are_those_of_the_code() -> None:
    rooms = ("platform", "jobs", "data_pipelines")
    source = "".join(path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # literals that stand below each other are one
    tables = re.split(r"(?m)^\| the sentence holds \| do \|\n\| --- \| --- \|\n", (DOCS / "operations.md").read_text())
    rows = [row for table in tables[1:] for row in table.partition("\n\n")[0].splitlines()]
    sentences = [sentence for row in rows for sentence in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(sentences) > 30
    assert not [sentence for sentence in sentences if sentence not in source]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The files of the example, as modules of the names that their places give them."""
    modules = {}
    for path, code in TITLED.findall((DOCS / "your-model.md").read_text()):
        name = path.removeprefix("platform/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(code, path, "exec"), module.__dict__)
        modules[path] = module
    return modules


def test_the_example_runs(example: dict[str, ModuleType]) -> None:
    tests = [getattr(module, name) for module in example.values() for name in dir(module) if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


def test_the_space_of_the_example_holds_only_recipes(example: dict[str, ModuleType]) -> None:
    from headrace.cluster.space import check_space

    space = example["tune_spaces/classifier.py"].classifier_demo()
    check_space(example["jobs/recipes/classifier.py"].classifier_demo(), space.parameters)


def test_the_example_is_formatted() -> None:
    for path, code in TITLED.findall((DOCS / "your-model.md").read_text()):
        for check in (["check", "-"], ["format", "--check", "-"]):
            ruff = [sys.executable, "-m", "ruff", *check, "--stdin-filename", str(ROOT / path)]
            done = subprocess.run(ruff, input=code, capture_output=True, text=True, cwd=ROOT)
            assert done.returncode == 0, f"{path}: {done.stdout}{done.stderr}"


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for package in ("mkdocs", "material"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: `make docs` installs it")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()
    built = sorted((tmp_path / "site").glob("*.html"))
    assert {page.stem for page in built} == {page.stem for page in PAGES} | {"404"}
    for page in built:
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text())
        assert tags
        assert not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)]
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text()), style
