"""A trained model as others take it: weights and settings in the layout of the Hugging Face Hub, or an ONNX graph.

DIR/model.safetensors           all weights, FP32, under the model's own names
    config.json                 what the model is, and from which run
    preprocessor_config.json    how pixels become its input
    README.md                   how to load it

DIR/model.onnx                  pixels [B, T, C, H, W] -> features [B, D], for any B
"""

from __future__ import annotations

import importlib
import json
import logging
import pkgutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import headrace
import headrace.models
from headrace.errors import RunError, UserError, did_you_mean
from headrace.models import ModelConfig, Objective
from headrace.recipe import Recipe, config_from

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
ONNX_FILE = "model.onnx"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

_TOLERANCE = 1e-3  # of features, relative to their largest; what other kernels round differently


def save_pretrained(objective: Objective, recipe: Recipe, folder: Path, step: int) -> None:
    """Write weights, settings and a card.

    Args:
        objective: with its trained weights.
        recipe: by which it was trained.
        folder: made where there is none.
        step: after how many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().float().cpu().contiguous() for name, value in objective.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    augment = recipe.augment
    size = {"height": augment.height, "width": augment.width}
    config = {
        "model_type": "headrace",
        "architectures": [type(objective).__name__],
        "model_config": type(recipe.model).__name__,
        "model": asdict(recipe.model),
        "frames": recipe.data.sampling.frames,
        **size,
        "dtype": "float32",
        "recipe": recipe.name,
        "step": step,
        "headrace_version": headrace.__version__,
    }
    preprocessor = {
        "do_resize": True,
        "size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(augment.mean),
        "image_std": list(augment.std),
    }
    for name, content in {CONFIG_FILE: config, PREPROCESSOR_FILE: preprocessor}.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(recipe, step), encoding="utf-8")


def load_pretrained(folder: Path) -> Objective:
    """Return the model that `save_pretrained` wrote, on the CPU and in evaluation mode.

    Raises:
        UserError: the folder holds none, or one of another version.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{str(folder)!r} holds no exported model: {CONFIG_FILE} is missing")
    config = json.loads(path.read_text(encoding="utf-8"))
    kind = str(config.get("model_config"))
    known = _model_configs()
    if kind not in known:
        raise UserError(f"{path} is of a model {kind!r}, which is unknown: {did_you_mean(kind, known)}")
    settings: ModelConfig = config_from(known[kind](), config["model"], str(path))
    objective = settings.build(config["height"], config["width"])
    objective.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return objective.eval()


def _model_configs() -> dict[str, type[ModelConfig]]:
    """Return the settings of all families in `headrace.models`, by name."""
    families = [module.name for module in pkgutil.iter_modules(headrace.models.__path__, "headrace.models.")]
    names = [value for family in families for value in vars(importlib.import_module(family)).values()]
    return {value.__name__: value for value in names if isinstance(value, type) and issubclass(value, ModelConfig)}


def save_onnx(objective: Objective, recipe: Recipe, folder: Path) -> float:
    """Write the features as an ONNX graph, and compare what onnxruntime makes of it with the model.

    Returns:
        The largest difference, as a share of the largest feature.

    Raises:
        UserError: a package is missing.
        RunError: the graph computes something else.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX wants {', '.join(missing)}: pip install headrace[onnx]")
    import onnxruntime

    folder.mkdir(parents=True, exist_ok=True)
    features = _Features(objective).eval()
    shape = (recipe.data.sampling.frames, 3, recipe.augment.height, recipe.augment.width)
    draws = torch.Generator().manual_seed(0)
    with _quiet_exporter():
        program = torch.onnx.export(
            features,
            (torch.randn(2, *shape, generator=draws),),
            input_names=["pixels"],
            output_names=["features"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1, max=4096)}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(folder / ONNX_FILE))
    session = onnxruntime.InferenceSession(str(folder / ONNX_FILE), providers=["CPUExecutionProvider"])
    difference = 0.0
    for batch in (1, 3):
        pixels = torch.randn(batch, *shape, generator=draws)
        with torch.inference_mode():
            ours = features(pixels).numpy()
        [theirs] = session.run(None, {"pixels": pixels.numpy()})
        difference = max(difference, float(np.abs(ours - theirs).max() / np.abs(ours).max()))
    if not difference <= _TOLERANCE:
        raise RunError(f"{folder / ONNX_FILE} computes other features than the model: they differ by {difference:.2%}")
    return difference


class _Features(nn.Module):
    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, pixels: Tensor) -> Tensor:
        return self.objective.features(pixels)


class _quiet_exporter(warnings.catch_warnings):
    """Keeps to itself what the exporter says of its own future."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return entered


def _card(recipe: Recipe, step: int) -> str:
    return f"""---
library_name: headrace
---
# {recipe.name}

Trained by headrace for {step:,} steps. Its input is [B, T, C, H, W] with T = {recipe.data.sampling.frames} frames of
{recipe.augment.height} x {recipe.augment.width} pixels, scaled to 0 ... 1 and normalised as `{PREPROCESSOR_FILE}` says.

```python
from pathlib import Path
from headrace.export import load_pretrained

model = load_pretrained(Path("."))
features = model.features(pixels)  # [B, D]
```
"""
