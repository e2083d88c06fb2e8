from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from headrace.observe.console import LiveConsole, console_observer, run_panel, sparkline
from headrace.observe.figures import duration, figure, one_line, percent, plural, short_count
from headrace.observe.history import History
from headrace.observe.pace import seconds_left
from headrace.observe.plain import PlainConsole


def run_plain(records, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    now = [0.0]
    history, console = History(), PlainConsole("2 workers and 2 decoders", file, clock=lambda: now[0])
    for record in records:
        now[0] = record["time"]
        history.add(record)
        console.see(record, history)
        console.tick(history)
    console.close(history, {"W&B": "wandb sync here", "Prometheus": ""})
    file.seek(0)
    return [line[10:] for line in file.read().splitlines()]  # without the time of day


def shown(history, width=80, quiet=0.0, name="demo"):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(run_panel(name, "starting 2 workers and 2 decoders", history, quiet, min(width, 104)))
    return console.file.getvalue()


def history_of(records):
    history = History(keep=1000)
    for record in records:
        history.add(record)
    return history


def test_plain_lines_of_a_short_run(fake):
    lines = run_plain(fake(100, wait_share=0.4, cores=8))
    assert lines[:2] == [
        "starting 2 workers and 2 decoders",
        "2 workers on cpu, 1.23 M parameters, from step 0 of 100",
    ]
    assert lines[2].startswith("step 1 of 100, loss ")
    assert " left" not in lines[2]
    assert "checkpoint of step 50: checkpoints/step-00000050" in lines
    assert any(line.startswith("decoding gives") and "raise --data.decoders" in line for line in lines)
    summary = lines[lines.index("checkpoint of step 100: checkpoints/step-00000100") + 1 :]
    assert summary[0].startswith("step 100 of 100, loss ")
    assert summary[1].startswith("finished    100 of 100 steps in ")
    assert summary[1].endswith(" s, 1,600 clips")
    assert summary[2].startswith("loss        ")
    assert " to " in summary[2]
    assert summary[-2:] == ["checkpoint  checkpoints/step-00000100", "W&B         wandb sync here"]


def test_plain_tells_of_steps_left_out_and_of_shapes_that_changed(eventful):
    lines = run_plain(eventful)
    assert (
        "step 10 was left out: loss not a number, gradient not a number; samples clip-00.mp4, clip-01.mp4, "
        "clip-02.mp4, clip-03.mp4, clip-04.mp4, clip-05.mp4, clip-06.mp4, clip-07.mp4 and 8 more"
    ) in lines
    [compiled] = [line for line in lines if "torch.compile" in line]
    assert compiled == "torch.compile compiled 2 graphs again by step 10: did the shape of batches change?"
    assert " clips/s, 41 % MFU, waiting " in next(line for line in lines if line.startswith("step 1 of 20"))
    assert any(line.startswith("left out    1 step, as the loss or gradient was not finite") for line in lines)


def test_evaluations_are_told_and_summed_up(evaluated):
    lines = run_plain(evaluated())
    told = "step 100, held out: loss 0.500, rankme 12.5, knn 0.750 over 1,024 samples, the best so far"
    assert told in lines
    assert "step 200, held out: loss 0.600, rankme 11.5, knn 0.750 over 1,024 samples" in lines
    assert "held out    loss 0.600, rankme 11.5, knn 0.750, best at step 100" in lines


def test_the_panel_shows_the_loss_on_held_out_samples(evaluated):
    row = next(line for line in shown(history_of(evaluated())).splitlines() if "held out" in line)
    assert "0.6" in row
    assert "best at step 100" in row


def test_what_a_restart_takes_back_is_no_evaluation(evaluated):
    records = [record for record in evaluated() if record["kind"] != "end"]
    history = history_of([*records, {**records[0], "step": 100, "attempt": 1}])
    assert [evaluation["step"] for evaluation in history.evaluations] == [50, 100]


def test_what_a_restart_takes_back_is_no_longer_left_out(eventful):
    history = history_of(eventful)
    assert [record["step"] for record in history.refused] == [10]
    history.add({"kind": "restart", "time": eventful[-1]["time"], "attempt": 1, "step": 5, "reason": ""})
    assert not history.refused


def test_the_first_steps_of_a_session_may_compile(fake):
    records = fake(100, restart_at=60)
    again = next(index for index, record in enumerate(records) if record["kind"] == "restart")
    for record in [*records[1:3], *records[again + 2 : again + 4]]:
        record["compiles"] = 4
    assert not any("torch.compile" in line for line in run_plain(records))


def test_the_panel_shows_utilization(fake):
    assert "41 % MFU" in shown(history_of(fake(20, mfu=0.41)))
    assert "MFU" not in shown(history_of(fake(20)))


def test_plain_step_lines_come_every_ten_seconds(fake):
    records = fake(200)
    seconds = records[-1]["time"] - records[0]["time"]
    told = [line for line in run_plain(records) if line.startswith("step ")]
    assert seconds / 10 <= len(told) <= seconds / 10 + 3


def test_plain_output_has_no_control_characters_even_for_hostile_names(fake):
    records = fake(5, failures=3)
    for record in records:
        if record["kind"] == "failure":
            record["key"] = "\x1b[2J\x1b]0;owned\x07\r\n[red]x[/red]\udcff\u202e"
    for encoding in ("utf-8", "ascii"):
        text = "\n".join(run_plain(records, encoding))
        assert all(c == "\n" or c.isprintable() for c in text)
        assert "[red]x[/red]" in text


def test_plain_tells_only_the_first_failures(fake):
    lines = run_plain(fake(60, failures=40))
    assert sum(line.startswith("could not be decoded") for line in lines) == 5
    assert any("failures    40 samples" in line for line in lines)


def test_plain_restart(fake):
    lines = run_plain(fake(200, restart_at=130))
    assert any(line.startswith("restart 1 from step 100: a worker was lost") for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_the_panel_fits_its_width(fake, width):
    for records in (fake(200, wait_share=0.4, failures=3)[:-80], fake(3)[:1], fake(2)[:2]):
        for line in shown(history_of(records), width).splitlines():
            assert len(line) == min(width, 104)


def test_the_panel_shows_what_matters(fake):
    text = shown(history_of(fake(200, wait_share=0.4, failures=3, cores=8)[:-80]))
    for part in (
        "2 workers on cpu",
        "of 200",
        "left",
        "loss",
        "waiting",
        "clips/s",
        "decoders",
        "queue",
        "24.0 MB in flight",
        "step 100",
    ):
        assert part in text
    assert "3 samples" in text
    assert "raise --data.decoders from 2 to 3" in " ".join(text.replace("│", "").split())


def test_the_panel_before_the_first_step_says_what_it_waits_for():
    assert "starting 2 workers and 2 decoders … 3 s" in shown(History(), quiet=3.2)


def test_the_panel_says_that_nothing_moves(fake):
    assert "no step for 2 min 00 s" in shown(history_of(fake(200)[:100]), quiet=120)


def test_a_nan_loss_is_shown(fake):
    records = fake(20)
    records[-2]["loss"] = None
    assert "not a number" in shown(history_of(records[:-1]))


def test_markup_in_a_name_is_no_markup():
    assert "[bold]x[/bold]" in shown(History(), name="[bold]x[/bold]")


def test_live_draws_in_place_and_leaves_the_summary(fake):
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    live, history = LiveConsole("demo", "2 workers", console, clock=lambda: 0.0), History()
    for record in fake(30):
        history.add(record)
        live.see(record, history)
        live.tick(history)
    live.close(history, {"W&B": "https://example.org/run"})
    text = file.getvalue()
    assert "\x1b[?25l" in text
    assert text.rstrip().count("\x1b[?25h") == 1
    assert "\x1b[2J" not in text  # never clears the screen
    tail = text[text.rindex("\x1b") :]
    assert "finished" in tail
    assert "https://example.org/run" in tail
    assert "╭" not in tail


def test_standard_output_that_is_no_terminal_gets_lines(capsys):
    assert isinstance(console_observer("demo", "2 workers"), PlainConsole)
    assert capsys.readouterr().out.endswith("starting 2 workers\n")


def test_time_left_leaves_out_the_warm_up_and_what_was_before_a_restart(fake):
    records = fake(200, restart_at=130, wait_share=0.0)
    cut = next(i for i, r in enumerate(records) if r["kind"] == "restart")
    history = history_of(records[: cut + 2])
    assert math.isnan(seconds_left(history))
    history = history_of(records[: cut + 22])
    assert seconds_left(history) == pytest.approx((200 - history.step) * 0.295, rel=0.1)


@pytest.mark.parametrize(
    ("values", "cells", "expected"),
    [
        ([], 5, ""),
        ([math.nan], 5, ""),
        ([1.0, 1.0], 5, "▁▁"),
        ([0.0, 7.0], 5, "▁█"),
        ([0.0, math.nan, 7.0], 5, "▁ █"),
        (list(range(8)), 8, "▁▂▃▄▅▆▇█"),
        ([0.0] * 50 + [1.0] * 50, 4, "▁▁██"),
        ([-1e100, 1e100], 5, "▁█"),
    ],
)
def test_sparkline(values, cells, expected):
    assert sparkline(values, cells) == expected


def test_figures():
    assert [figure(v) for v in (0, 0.41234, 52.13, 12345.6, 3e-4, 9.999, 1.5e9, -2.5)] == [
        "0", "0.412", "52.1", "12,346", "3.00e-4", "10.0", "1.50e9", "-2.50",
    ]  # fmt: skip
    assert figure(math.nan) == "not a number"
    assert [duration(s) for s in (0.44, 9.96, 59.7, 62, 3599.7, 7500, 273_600)] == [
        "0.4 s", "10 s", "1 min 00 s", "1 min 02 s", "1 h 00 min", "2 h 05 min", "3 d 04 h",
    ]  # fmt: skip
    assert [percent(s) for s in (0, 0.003, 0.0996, 0.42, math.nan)] == [
        "0 %",
        "0.3 %",
        "10 %",
        "42 %",
        "unknown",
    ]
    assert [short_count(c) for c in (940, 999_900, 1_234_567, 7e9)] == ["940", "1.00 M", "1.23 M", "7.00 B"]
    assert [plural(1, "worker"), plural(2, "batch"), plural(3200, "clip")] == [
        "1 worker",
        "2 batches",
        "3,200 clips",
    ]
    assert one_line("a\n\tb  c\x00" + "x" * 300, 10) == "a b c�xxx…"
