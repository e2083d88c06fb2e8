"""With what a run was made: enough to make it again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import headrace

ENVIRONMENT_FILE = "environment.jsonl"
_PACKAGES = (
    *("ray", "torch", "triton", "transformers", "peft", "kornia", "schedulefree", "av", "decord", "torchcodec"),
    *("numpy", "pyarrow", "pillow", "simplejpeg", "webdataset", "wandb", "boto3", "nvidia-cudnn-cu13"),
)


def describe() -> dict[str, Any]:
    """Return versions, the commit of the code and the machine that submits the run."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "headrace": headrace.__version__,
        "git": _git(Path(headrace.__file__).parent),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }


def write_environment(run: Path) -> None:
    """Append to what the run's folder says: a run that goes on may go on elsewhere."""
    with (run / ENVIRONMENT_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(describe()) + "\n")


def _git(folder: Path) -> dict[str, Any] | None:
    """Return the commit that lies in a folder, and whether files differ from it; None where it is no checkout."""
    commit = _ask(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_ask(folder, "status", "--porcelain", "--untracked-files=no"))}


def _ask(folder: Path, *question: str) -> str | None:
    try:
        answer = subprocess.run(["git", "-C", str(folder), *question], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
