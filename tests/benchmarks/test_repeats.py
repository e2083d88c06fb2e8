"""What the benchmark of repeats trains and compares; the training itself is that of jobs/train.py."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from small_media import flat_image

from benchmarks import repeats
from benchmarks.classifier import Training, accuracy
from benchmarks.repeats import Case, Options, cases, main
from data_pipelines.index import index
from headrace.data.scan import shards_of
from headrace.errors import UserError


def test_each_run_is_made_once() -> None:
    found = cases(Options("train", "test", steps=400, repeats=(2, 4)))
    assert found == [Case(1, 100), Case(1, 200), Case(1, 400), Case(2, 400), Case(4, 400)]
    with pytest.raises(UserError, match="divide --steps"):
        Options("train", "test", steps=400, repeats=(3,))


def test_echoes_are_compared_with_as_many_samples_and_with_as_many_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here a fresh sample is worth a point of the linear probe for each 100 steps, and an echo half of that."""
    jobs = []

    def job(name: str, *arguments: str) -> None:
        jobs.append((name, *arguments))
        if name == "train.py":
            run = Path(arguments[arguments.index("--output") + 1])
            run.mkdir(parents=True)
            worth = int(arguments[arguments.index("--train.steps") + 1]) / 100
            echoes = int(arguments[arguments.index("--data.repeats") + 1])
            (run / "worth").write_text(str(worth * (1 / echoes + (1 - 1 / echoes) / 2)))
        else:
            run = Path(arguments[0])
            linear = 0.3 + float((run / "worth").read_text()) / 100
            results = {"random weights": {"linear": 0.3, "knn": 0.2}, "step 1": {"linear": linear, "knn": 0.2}}
            (run / "evaluation.jsonl").write_text(json.dumps({"results": results}) + "\n")

    monkeypatch.setattr(repeats, "_job", job)
    arguments = ["--train", "a", "--test", "b", "--learner", "hjepa_tiny", "--steps", "400", "--repeats", "2"]
    arguments += ["--output", str(tmp_path)]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["as_many"], row["linear"], row["knn"]) for row in result["compared"]] == [
        ("samples", [-1.0], [0.0]),
        ("decodes", [1.0], [0.0]),
    ]
    done = len(jobs)
    assert main(arguments) == 0
    assert len(jobs) == done, "what is there is not made again"


def two_brightnesses(folder: Path, labels: tuple[str, str] = ("dark", "bright")) -> Path:
    """Write forty images, and their labels where these are not empty."""
    folder.mkdir()
    with tarfile.open(folder / "images.tar", "w") as tar:
        for image in range(40):
            bright = image % 2
            files = {"png": flat_image(40 + image + 130 * bright), "cls": labels[bright].encode()}
            for name, data in files.items():
                if not data:
                    continue
                member = tarfile.TarInfo(f"{image:02d}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_classifier_learns_from_the_stream(tmp_path: Path, repeats: int) -> None:
    folder = str(two_brightnesses(tmp_path / "images"))
    images = index(folder, shards_of(folder)).usable()
    training = Training(steps=80, batch=10, repeats=repeats, apart=3, seed=0, peak_lr=0.01)
    assert accuracy(images, images, training) == 1.0


def test_samples_without_a_label_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = two_brightnesses(tmp_path / "train", ("", "bright"))
    test = two_brightnesses(tmp_path / "test", ("", "bright"))
    arguments = ["--train", str(train), "--test", str(test), "--steps", "2", "--repeats", "2", "--batch", "4"]
    assert main([*arguments, "--output", str(tmp_path / "runs")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["accuracy"] for row in result["compared"]] == [[0.0], [0.0]]

    with pytest.raises(UserError, match="name another --output"):
        main([*arguments, "--output", str(tmp_path / "runs"), "--limit", "5"])
    others = two_brightnesses(tmp_path / "others")
    with pytest.raises(UserError, match="classes that --train lacks: dark"):
        main([*arguments, "--test", str(others)])
    bare = two_brightnesses(tmp_path / "bare", ("", ""))
    with pytest.raises(UserError, match="has no labels to learn"):
        main([*arguments, "--train", str(bare)])


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--batch", "0"]])
def test_bad_numbers_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UserError, match="must be at least 1, got 0"):
        main(["--train", "a", "--test", "b", *arguments])
