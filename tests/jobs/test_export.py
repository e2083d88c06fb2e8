"""What is exported is what was trained, also in other hands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_recipe import TINY, session_of

from data_pipelines.index import index
from headrace.data.scan import shards_of
from headrace.errors import RunError, UserError
from headrace.export import load_pretrained, save_onnx
from headrace.recipe import Recipe, save_recipe
from headrace.train.checkpoint import load_model
from headrace.train.loop import train
from headrace.train.progress import newest_checkpoint
from jobs import export


def small() -> Recipe:
    train = replace(TINY.train, steps=2, checkpoint_every=1)
    return replace(TINY, name="hjepa_tiny", optim=replace(TINY.optim, ema=0.5, warmup_steps=0), train=train)


@pytest.fixture
def run(video_folder: Path, tmp_path: Path) -> Path:
    recipe, folder = small(), tmp_path / "run"
    recipe = replace(recipe, data=replace(recipe.data, source=str(video_folder)))
    folder.mkdir()
    save_recipe(recipe, folder / "recipe.json")
    manifest = index(str(video_folder), shards_of(str(video_folder))).usable()
    train(recipe, session_of(recipe, folder, manifest))
    return folder


def pixels_for(recipe: Recipe, batch: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(batch, recipe.data.sampling.frames, 3, 32, 32, generator=draws)


def trained(run: Path) -> torch.nn.Module:
    newest = newest_checkpoint(run)
    assert newest is not None
    recipe = small()
    objective = recipe.model.build(32, 32)
    load_model(newest, objective)
    return objective.eval()


def test_weights_and_settings_come_back(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(run)]) == 0
    folder = run / "export"
    assert f"{folder}: the model after 2 steps" in capsys.readouterr().out
    pixels = pixels_for(small(), 3)
    with torch.inference_mode():
        ours, theirs = trained(run).features(pixels), load_pretrained(folder).features(pixels)  # type: ignore[operator]
    assert torch.equal(ours, theirs)
    config = json.loads((folder / "config.json").read_text())
    assert (config["recipe"], config["step"], config["height"]) == ("hjepa_tiny", 2, 32)
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    assert preprocessor["image_mean"] == list(small().augment.mean)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118
    assert "after" not in (folder / "README.md").read_text()


def test_an_earlier_checkpoint_may_be_meant(run: Path, tmp_path: Path) -> None:
    export.main([str(run), "--checkpoint", "1", "--output", str(tmp_path / "one")])
    assert json.loads((tmp_path / "one" / "config.json").read_text())["step"] == 1
    with pytest.raises(UserError, match=r"no checkpoint '7': there are .* steps 1, 2"):
        export.main([str(run), "--checkpoint", "7"])


def test_what_is_no_export_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no exported model"):
        load_pretrained(tmp_path)
    export.main([str(run)])
    config = json.loads((run / "export" / "config.json").read_text())
    (run / "export" / "config.json").write_text(json.dumps({**config, "model_config": "HJepaConfg"}))
    with pytest.raises(UserError, match="did you mean 'HJepaConfig'"):
        load_pretrained(run / "export")
    empty = tmp_path / "empty"
    empty.mkdir()
    save_recipe(small(), empty / "recipe.json")
    with pytest.raises(UserError, match="holds no checkpoint"):
        export.main([str(empty)])


def test_the_graph_computes_the_same_features(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx", reason="pip install headrace[onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install headrace[onnx]")
    assert export.main([str(run), "--format", "onnx"]) == 0
    assert "differ from the model's by" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(run / "export" / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        pixels = pixels_for(small(), batch)
        with torch.inference_mode():
            ours = trained(run).features(pixels).numpy()  # type: ignore[operator]
        np.testing.assert_allclose(session.run(None, {"pixels": pixels.numpy()})[0], ours, atol=1e-4)


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install headrace[onnx]")
    pytest.importorskip("onnx", reason="pip install headrace[onnx]")
    whole = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run", lambda *arguments: [2 * value for value in whole(*arguments)]
    )
    with pytest.raises(RunError, match="computes other features"):
        save_onnx(small().model.build(32, 32), small(), tmp_path)
