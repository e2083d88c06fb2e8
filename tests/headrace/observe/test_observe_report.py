from __future__ import annotations

import json
import math
import random
import re
import shlex
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from headrace.errors import UserError
from headrace.observe.curves import bounds, envelope, smoothed, thinned, ticks
from headrace.observe.records import MetricsWriter
from headrace.observe.redact import HIDDEN, redacted
from headrace.observe.report import write_report
from headrace.observe.sheet import write_sheet

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Balance(HTMLParser):
    """Checks that every element is closed where it should be, and gathers the text and the elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def report(folder, records, recipe=None):
    with MetricsWriter(folder / "metrics.jsonl") as writer:
        for record in records:
            writer.write(record)
    if recipe is not None:
        (folder / "recipe.json").write_text(json.dumps(recipe))
    path = write_report(folder)
    assert path == folder / "report.html"
    assert sorted(folder.glob("*report*")) == [path]
    return path.read_text(encoding="utf-8")


def checked(html):
    page = Balance()
    page.feed(html)
    page.close()
    assert page.open == []
    for svg in re.findall(r"<svg.*?</svg>(?=<div)", html, re.S):
        numbers = [
            float(n)
            for path in ElementTree.fromstring(svg).iter("path")
            for n in re.findall(r"[-\d.e]+", path.attrib["d"].replace("nan", "!"))
        ]
        assert "nan" not in svg
        assert "inf" not in svg
        assert all(abs(n) < 1e5 for n in numbers)
    for tag, attributes in page.seen:
        assert "href" not in attributes, f"<{tag}> leads away"
        assert str(attributes.get("src", "data:image/")).startswith("data:image/"), f"<{tag}> loads something"
        if "data-points" in attributes:
            points = json.loads(attributes["data-points"] or "")
            assert all(len(line) == len(points["steps"]) for line in points["values"])
            assert points["from"] < points["to"]
    return " ".join(" ".join(page.text).split())


def test_a_whole_run(tmp_path, fake):
    html = report(tmp_path, fake(200, wait_share=0.4, failures=5, restart_at=130, cores=8), {"name": "demo"})
    text = checked(html)
    assert "Finished after 200 of 200 steps: a model of 1.23 M parameters on 2 workers (CPU)" in text
    assert "raise --data.decoders from 2 to 3." in text
    assert "3,200" in text
    assert "1 restart" in text
    assert "truncated or damaged" in text
    assert f"python jobs/train.py --resume {tmp_path}" in text
    assert f"python jobs/evaluate.py {tmp_path}" in text
    assert "2.13.0" in text
    assert html.count('class="restart"') == 3
    assert html.count("<svg viewBox") == 2 * html.count("<figure")
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html


@pytest.mark.parametrize("count", [0, 1, 2, 3, 89, 90, 479, 481])
@pytest.mark.parametrize("end", ["finished", "failed", None])
def test_any_number_of_steps(tmp_path, fake, count, end):
    text = checked(report(tmp_path, fake(count, end=end)))
    assert {"finished": "Finished", "failed": "Failed", None: "Cut off"}[end] in text


def test_what_happened_is_told(tmp_path, eventful):
    text = report(tmp_path, eventful)
    page = Balance()
    page.feed(text)
    said = " ".join(page.text)
    assert "step 10 was left out: loss not a number" in said
    assert "compiled 2 graphs again by step 10" in said
    assert "profile/steps-9-10.json.gz" in said
    assert "aten::addmm <b>" in said
    assert "1.59 GFLOP each, 41 % MFU" in said
    assert "Model FLOPs utilization" in said


def test_evaluations_have_their_curves(tmp_path, evaluated):
    text = checked(report(tmp_path, evaluated()))
    assert "Held-out loss 0.600 best 0.500 at step 100" in text
    assert "newest at step 200, best at 100" in text
    assert "rankme, held out" in text
    assert "knn, held out" in text
    assert "step 100, held out: loss 0.5" in text


@pytest.mark.parametrize("scores", [None, {}, {"loss": None}, {"knn": 0.5}, {"<b>": 1e300}])
def test_scores_may_be_anything(tmp_path, evaluated, scores):
    records = evaluated(100)
    for record in records:
        if record["kind"] == "evaluation":
            record["scores"] = scores
    checked(report(tmp_path, records))


@pytest.mark.parametrize(("count", "frames", "size"), [(1, 1, (32, 32)), (8, 2, (96, 96)), (64, 16, (40, 600))])
def test_the_first_samples_are_shown(tmp_path, fake, count, frames, size):
    clips = np.zeros((count, frames, *size, 3), np.uint8)
    clips[0] = (250, 10, 10)
    picture = Image.open(write_sheet(tmp_path, clips))
    assert picture.width <= 1080
    red, green, blue = picture.getpixel((3, 3))
    assert red > 200
    assert max(green, blue) < 60
    html = report(tmp_path, fake(3))
    checked(html)
    assert html.count("data:image/jpeg;base64,") == 1


def test_a_folder_without_records(tmp_path):
    assert "Nothing was recorded" in checked(report(tmp_path, []))
    (tmp_path / "metrics.jsonl").unlink()
    assert "Nothing was recorded" in checked(write_report(tmp_path).read_text())


def test_no_folder_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no run lies at"):
        write_report(tmp_path / "nowhere")


def test_a_long_run_stays_small(tmp_path, fake):
    html = report(tmp_path, fake(10_000, failures=300))
    text = checked(html)
    assert len(html) < 400_000
    assert "The first 50 of 300" in text
    assert "10,000" in text


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, 1e308, 1e99, -1e99, 0.0, 10**400, "text", [1]])
def test_losses_and_everything_else_may_be_anything(tmp_path, fake, bad):
    records = fake(120)
    for record in records[30:60]:
        if record["kind"] == "step":
            for name in (
                "loss",
                "lr",
                "grad_norm",
                "clips_per_second",
                "step_seconds",
                "wait_seconds",
                "decode_actors",
            ):
                record[name] = bad
            record["extra"] = {"std": bad}
    checked(report(tmp_path, records))


def test_fields_may_be_missing(tmp_path, fake):
    needed = {"kind", "time", "step", "steps"}
    records = [{name: value for name, value in record.items() if name in needed} for record in fake(20, failures=2)]
    checked(report(tmp_path, records))


def test_all_losses_nan(tmp_path, fake):
    records = [{**r, "loss": math.nan} if r["kind"] == "step" else r for r in fake(200)]
    text = checked(report(tmp_path, records))
    assert "not a number" in text


HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x00\x1b[2J\u202e\udcff"


def test_hostile_text_is_only_text(tmp_path, fake):
    records = fake(30, failures=4, restart_at=12, end="failed")
    for record in records:
        for name in ("recipe", "device", "key", "shard", "reason", "message", "path"):
            if name in record:
                record[name] = HOSTILE
        if record["kind"] == "start":
            record["world"] = {HOSTILE: HOSTILE}
        if record["kind"] == "step":
            record["extra"] = {HOSTILE: 1.0}
    folder = tmp_path / "a <b> & 'c'; rm -rf"
    folder.mkdir()
    html = report(folder, records, {"name": HOSTILE, HOSTILE: [HOSTILE]})
    text = checked(html)
    assert html.count("<script") == 1
    assert "<img" not in html
    assert "\x00" not in html
    assert "\x1b" not in html
    assert "alert(1)" in text
    assert f"--resume {shlex.quote(str(folder))}" in text


def test_secrets_of_the_recipe_are_hidden(tmp_path, fake):
    recipe = {
        "data": {"source": "s3://me:hunter2@bucket/x", "secret_key": "k"},
        "hf_token": "t0k",
        "aws_secret": "sss",
    }
    html = report(tmp_path, fake(3), recipe)
    assert "hunter2" not in html
    assert "t0k" not in html
    assert "sss" not in html
    assert HIDDEN in html


def test_redaction_leaves_what_is_no_secret():
    recipe = {
        "tokens": 49, "tokenizer": "smollm", "token_pooling": "mean", "mask_token": "learned",
        "url": "s3://bucket/a@b", "nested": [{"steps": 1, "path": "/a/b"}], "secret_key": None,
        "key_frames": "all",
    }  # fmt: skip
    assert redacted(recipe) == recipe


def test_a_recipe_that_cannot_be_read_is_said_to_be_so(tmp_path, fake):
    (tmp_path / "recipe.json").write_text("{torn")
    assert "unreadable" in checked(report(tmp_path, fake(3)))


def test_lines_that_were_left_out_are_counted(tmp_path, fake):
    (tmp_path / "metrics.jsonl").write_text('{"kind":"st\n')
    assert "1 line of metrics.jsonl could not be read" in checked(report(tmp_path, fake(3)))


def test_ticks_are_round_and_inside():
    draws = random.Random(1)
    for _ in range(300):
        low = draws.uniform(-1, 1) * 10 ** draws.uniform(-8, 8)
        high = low + 10 ** draws.uniform(-6, 8)
        marks = ticks(low, high)
        assert 1 <= len(marks) <= 9
        assert all(low - 1e-6 * (high - low) <= m <= high + 1e-6 * (high - low) for m in marks)
    assert ticks(0, 10_000, 5) == [0, 2000, 4000, 6000, 8000, 10_000]


def test_thinning_keeps_extremes_and_means():
    axis, values = np.arange(10_000.0), np.zeros(10_000)
    values[[1234, 8765]] = [-5.0, 9.0]
    kept_axis, kept = envelope(axis, values)
    assert kept.min() == -5
    assert kept.max() == 9
    assert len(kept) <= 960
    assert np.all(np.diff(kept_axis) > 0)
    thin = thinned({"axis": axis, "values": np.where(axis == 7, np.nan, 3.0)})
    assert len(thin["axis"]) == 480
    assert np.allclose(thin["values"], 3.0)


def test_smoothing_follows_a_line_from_its_start_and_leaves_gaps_out():
    line = np.linspace(5, 1, 1000)
    assert np.allclose(smoothed(line)[:-16], line[:-16])
    noise = np.random.default_rng(0).normal(size=1000)
    assert abs(smoothed(noise)[-1]) < 0.8  # the mean of what is left of the window, not the last value
    broken = np.where(np.arange(1000) % 10 == 0, np.nan, 2.0)
    assert np.allclose(smoothed(broken)[1:-1], 2.0)


def test_bounds_of_nothing_and_of_one_value():
    assert bounds([]) == (0.0, 1.0)
    assert bounds([np.array([np.nan])]) == (0.0, 1.0)
    low, high = bounds([np.array([3.0, 3.0])])
    assert low < 3 < high
