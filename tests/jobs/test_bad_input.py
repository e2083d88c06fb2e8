"""Bad input: one clear sentence and exit code 2, before Ray starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from small_media import flat_image

from headrace.errors import exit_with_sentence
from jobs import evaluate, index, train


def sentence(main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run an entry point that must fail; return what it said."""
    with pytest.raises(SystemExit) as ended:
        exit_with_sentence(lambda: main(arguments))
    assert ended.value.code == 2
    assert not ray.is_initialized()
    return capsys.readouterr().err.strip()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def empty_folder(folder: Path) -> None:
    folder.mkdir()


def one_image(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.png").write_bytes(flat_image(7))


def no_tar(folder: Path) -> None:
    folder.mkdir()
    (folder / "shard-000.tar").write_bytes(b"x" * 4096)


def outdated(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    (folder / "b.png").write_bytes(b"")
    with pytest.raises(SystemExit):
        exit_with_sentence(lambda: index.main([str(folder)]))
    os.utime(folder / "b.png", ns=(1, 1))


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (None, ["demo", "--data.source", "no/such/path"], "no file or folder at 'no/such/path'"),
        (empty_folder, ["demo", "--data.source", "source"], "holds no .tar, no .zip, no video and no image"),
        (no_tar, ["demo", "--data.source", "source"], "is named .tar but is no tar archive"),
        (outdated, ["demo", "--data.source", "source"], "changed since it was indexed"),
        (
            one_image,
            ["demo", "--data.source", "source", "--data.holdout", "0.0", "--data.validation", "source"],
            "trained on",
        ),
        (None, ["demo", "--data.validation", "other"], "leave out one"),
        (None, ["demo", "--train.evaluate.metric", "los"], "did you mean 'loss'"),
        (None, ["dmeo"], "there is no recipe 'dmeo': did you mean 'demo'?"),
        (
            None,
            ["--train.compile.mode", "max-autotune", "--train.compile.options", "epilogue_fusion", "true"],
            "takes a mode or options, not both",
        ),
        (None, ["--train.global-batch", "20"], "--train.global-batch 16 can"),
        (None, ["--train.workers", "3"], "cannot be divided over 3 workers"),
        (None, ["--augment.height", "100"], "patch_size 12 does not divide a height of 100 pixels"),
        (None, ["--optim.warmup-steps", "200"], "warmup_steps must be fewer than the run's 200 steps"),
        (None, ["--data.decoders", "4..2"], "MIN <= MAX"),
        (None, ["--resume", "nowhere"], "'nowhere' is no run"),
        (None, ["demo", "--resume", "nowhere"], "a run brings its own recipe"),
    ],
)
def test_train(
    make: Callable[[Path], None] | None, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if make is not None:
        make(Path("source"))
        capsys.readouterr()
    said = sentence(train.main, arguments, capsys)
    assert words in said
    assert said.startswith("error: ")
    assert "\n" not in said, "one sentence"


def test_an_unknown_option_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["demo", "--train.stpes", "3"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--train.stpes" in said
    assert "--train.steps" in said


def test_a_run_is_never_overwritten(capsys: pytest.CaptureFixture[str], image_folder: Path) -> None:
    Path("run").mkdir()
    Path("run/recipe.json").write_text("{}")
    said = sentence(train.main, ["demo", "--data.source", str(image_folder), "--output", "run"], capsys)
    assert "holds a run already" in said


def test_index_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no file or folder" in sentence(index.main, ["nowhere"], capsys)


def test_evaluate_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no run" in sentence(evaluate.main, ["nowhere"], capsys)
