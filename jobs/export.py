"""Export what a run has learnt.

    python jobs/export.py runs/hjepa_tiny-...                   safetensors, in the layout of the Hugging Face Hub
    python jobs/export.py runs/hjepa_tiny-... --format onnx     a graph of the features, compared with the model

Takes the newest checkpoint, or the one that --checkpoint names, and of it the average of the weights where the run kept
one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from headrace.cli import saved_recipe
from headrace.errors import UserError, exit_with_sentence
from headrace.export import ONNX_FILE, save_onnx, save_pretrained
from headrace.train import checkpoint
from headrace.train.progress import checkpoints_called
from jobs.recipes import RECIPES


@dataclass(frozen=True)
class Options:
    """Write a trained model for others."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""

    format: Literal["safetensors", "onnx"] = "safetensors"
    """safetensors: weights and settings. onnx: a graph from pixels to features."""

    checkpoint: str = "newest"
    """Which one: newest, best (by the run's own evaluations), or the number of its step."""

    output: Path | None = None
    """Folder that is written; export/ in the run's folder if not given."""


def main(arguments: Sequence[str]) -> int:
    """Load, write, compare."""
    options = tyro.cli(Options, prog="export.py", args=arguments)
    recipe = saved_recipe(options.run, RECIPES)
    if options.checkpoint == "all":
        raise UserError("--checkpoint all cannot be exported into one folder: name one")
    [(step, path)] = checkpoints_called(options.run, options.checkpoint).items()
    objective = recipe.model.build(recipe.augment.height, recipe.augment.width)
    checkpoint.load_model(path, objective)
    objective.eval()

    folder = options.output or options.run / "export"
    if options.format == "onnx":
        difference = save_onnx(objective, recipe, folder)
        print(f"{folder / ONNX_FILE}: onnxruntime's features differ from the model's by {difference:.1e} at most")
    else:
        save_pretrained(objective, recipe, folder, step)
        print(f"{folder}: the model after {step:,} steps")
    return 0


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
