"""Labelled dash-cam clips made from nothing, so that anyone can try everything without data of their own.

demo://street?clips=64&seed=0  ->  scenes  ->  drawing  ->  H.264  ->  WebDataset shards
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from headrace.demo.dataset import DemoConfig, make_demo_shards
from headrace.errors import UserError, did_you_mean

SCHEME = "demo://"
FOLDER = Path("demo_shards")
SETTINGS = ("clips", "seed", "width", "height")


def make_demo(source: str, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of the shards that a demo:// source names, made first if they are not there.

    Args:
        source: `demo://street`, with settings after a question mark: `demo://street?clips=64&seed=0`.
        on_progress: told the clips done and to do.

    Raises:
        UserError: there is no such demo or setting.
    """
    parts = urlsplit(source)
    if parts.netloc != "street":
        raise UserError(f"there is no demo {parts.netloc!r}: demo://street is the one there is")
    config = DemoConfig()
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in SETTINGS:
            raise UserError(f"{source!r} sets {name!r}: {did_you_mean(name, SETTINGS)}")
        if not value.isdigit():
            raise UserError(f"{source!r}: {name} is a whole number, got {value!r}")
        config = replace(config, **{name: int(value)})
    folder = FOLDER / f"street-{config.clips}x{config.width}x{config.height}-{config.seed}"
    make_demo_shards(folder, config, on_progress)
    return folder.absolute()
