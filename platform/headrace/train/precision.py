"""Arithmetic: BF16 autocast over FP32 master weights, and compilation. BF16 needs no loss scaling."""

from __future__ import annotations

import contextlib

import torch

from headrace.models import Objective
from headrace.train.config import CompileConfig, Precision


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Return the context in which forward runs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def compile_parts(objective: Objective, config: CompileConfig) -> None:
    """Compile the modules that hold the objective's arithmetic, in place: state-dict names do not change."""
    if not config.enabled:
        return
    options = {name: _parse(value) for name, value in (config.options or {}).items()} or None
    for part in objective.blocks() if config.scope == "blocks" else objective.networks():
        part.compile(fullgraph=True, mode=config.mode, options=options)


def _parse(value: str) -> str | bool | int:
    lower = value.lower()
    if lower in ("true", "false"):
        return lower == "true"
    return int(value) if value.lstrip("-").isdigit() else value
