"""evaluate.py on a run that was trained in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_recipe import session_of

from data_pipelines.index import index
from headrace.cli import RECIPE_FILE
from headrace.data.scan import shards_of
from headrace.recipe import replace_at, save_recipe
from headrace.train.loop import train
from jobs import evaluate, pack
from jobs.recipes import RECIPES

pytestmark = pytest.mark.ray

SMALL = {
    "optim.warmup_steps": 0,
    "train.steps": 2,
    "train.micro_batch": 8,
    "train.global_batch": 8,
    "train.checkpoint_every": 1,
    "data.height": 16,
    "data.width": 16,
    "augment.height": 32,
    "augment.width": 32,
}


@pytest.fixture
def shards(tmp_path: Path, image_folder: Path) -> Path:
    """Return forty images in two brightnesses, labelled, as shards."""
    names = [f"{path.parent.name}/{path.name}" for path in sorted(image_folder.rglob("*.png"))]
    table = tmp_path / "table.csv"
    table.write_text("file,kind\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in names))
    pack.main([str(image_folder), str(tmp_path / "shards"), "--metadata", str(table), "--label-column", "kind"])
    return tmp_path / "shards"


def trained(run: Path, source: Path) -> Path:
    recipe = replace_at(RECIPES["hjepa_cifar"](), "data.source", str(source))
    for path, value in SMALL.items():
        recipe = replace_at(recipe, path, value)
    run.mkdir()
    save_recipe(recipe, run / RECIPE_FILE)
    manifest = index(str(source), shards_of(str(source))).usable()
    train(recipe, session_of(recipe, run, manifest))
    return run


def test_labelled_images(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path / "run", shards)
    assert evaluate.main([str(run), "--checkpoint", "all", "--decoders", "1", "--batch", "8"]) == 0
    said = capsys.readouterr().out
    record = json.loads((run / evaluate.RESULTS_FILE).read_text())
    assert set(record["results"]) == {"raw pixels", "random weights", "step 1", "step 2"}
    assert (record["train"], record["test"]) == (32, 8), "each sample once, though the last batch goes round"
    assert record["results"]["raw pixels"]["linear"] == 1.0, "brightness tells the classes apart"
    assert "linear probe" in said
    assert "100.0%" in said


def test_images_without_labels(tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path / "run", image_folder)
    assert evaluate.main([str(run), "--decoders", "1"]) == 0
    assert "no labels" in capsys.readouterr().out
    results = json.loads((run / evaluate.RESULTS_FILE).read_text())["results"]
    assert set(results["step 2"]) == {"rankme", "std"}
