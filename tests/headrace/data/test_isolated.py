"""A decoder in a process of its own: what dies, hangs, leaks or prints there costs one sample and nothing else."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from generated_clips import ClipSpec, encode_clip
from numpy.typing import NDArray

from headrace.data.decode import Decoder
from headrace.data.decode.isolated import IsolatedDecoder
from headrace.data.decode.limits import Limits
from headrace.data.decode.probe import probe
from headrace.data.decode.table import build_decoder
from headrace.data.failures import Crashed, NotMedia, SampleError, TooLarge, TooSlow, Truncated, UnsupportedCodec
from headrace.errors import RunError, UserError

PROC = Path("/proc/self")
needs_proc = pytest.mark.skipif(not PROC.exists(), reason="this system has no /proc")
QUICK = Limits(seconds_per_sample=0.5)
MEMORY = 400 << 20


@pytest.fixture
def decoder() -> Iterator[IsolatedDecoder]:
    decoder = IsolatedDecoder("hostile_decoder:build", QUICK)
    yield decoder
    decoder.close()


def calls_of_child(decoder: IsolatedDecoder, command: str, file: BinaryIO | None = None) -> int:
    """Decode a sample that gives the decoder a command; return how many samples its child has decoded."""
    out = np.zeros((2, 3, 5, 3), np.uint8)
    given = decoder.decode(file or io.BytesIO(command.encode()), np.array([1.0, 1 / 3]), out)
    assert np.array_equal(given, np.array([1.0, 1 / 3]) * 0.1)
    assert (out == out[0, 0, 0, 0]).all()
    return int(out[0, 0, 0, 0])


def children() -> set[int]:
    """Return the processes, zombies too, whose parent this one is."""
    return {int(pid) for task in (PROC / "task").iterdir() for pid in (task / "children").read_text().split()}


def ends(pid: int, seconds: float) -> bool:
    """Whether a process that is not our child ends within some time."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            os.kill(pid, 0)
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


# What it gives


def decoded(
    decoder: Decoder, data: bytes, times: NDArray[np.float64], *, with_index: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    out = np.zeros((len(times), 32, 48, 3), np.uint8)
    index = probe(io.BytesIO(data)).index if with_index else None
    return out, decoder.decode(io.BytesIO(data), times, out, index)


@pytest.mark.parametrize("name", ["auto", "pyav"])
def test_the_frames_are_those_of_the_same_decoder_in_this_process(name: str) -> None:
    specs = [
        ClipSpec(options={"x264-params": "keyint=12:bframes=3"}),
        ClipSpec("matroska", frames=25),
        ClipSpec("mpegts", rotation=0, frames=30),
        ClipSpec(rotation=90, frames=20),
    ]
    isolated = IsolatedDecoder(name)
    here = build_decoder(name)
    for spec in specs:
        data = encode_clip(spec)
        times = np.random.default_rng(spec.frames).uniform(-0.1, spec.frames / 24, 9)
        for with_index in (False, True):
            frames, given = decoded(isolated, data, times, with_index=with_index)
            expected, expected_given = decoded(here, data, times, with_index=with_index)
            assert np.array_equal(frames, expected)
            assert np.array_equal(given, expected_given)
    isolated.close()


def test_one_child_serves_many_samples_also_after_their_errors(decoder: IsolatedDecoder) -> None:
    assert calls_of_child(decoder, "nothing") == 1
    with pytest.raises(Truncated, match=r"^at 3 s$"):
        calls_of_child(decoder, "truncated at 3 s")
    assert calls_of_child(decoder, "nothing") == 3


@pytest.mark.parametrize(
    ("command", "error"), [("truncated it", Truncated), ("oddly it", Truncated), ("unsupported it", UnsupportedCodec)]
)
def test_an_error_about_the_sample_crosses(decoder: IsolatedDecoder, command: str, error: type[SampleError]) -> None:
    with pytest.raises(error, match=r"^it$") as raised:
        calls_of_child(decoder, command)
    assert raised.type is error


def test_what_no_decoder_should_raise_is_told_with_its_traceback(decoder: IsolatedDecoder) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)_obey.*ZeroDivisionError: oh"):
        calls_of_child(decoder, "bug oh")


def test_a_real_decoder_refuses_what_is_no_video() -> None:
    isolated = IsolatedDecoder("auto")
    with pytest.raises(NotMedia):
        decoded(isolated, b"Not a video.\n" * 99, np.zeros(1), with_index=False)
    isolated.close()


def test_what_is_printed_meets_no_message(decoder: IsolatedDecoder) -> None:
    assert [calls_of_child(decoder, "print") for _ in range(3)] == [1, 2, 3]


# What dies


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
def test_a_sample_that_kills_its_process_is_named_and_the_next_is_decoded(decoder: IsolatedDecoder, name: str) -> None:
    assert calls_of_child(decoder, "nothing") == 1
    with pytest.raises(Crashed, match=name):
        calls_of_child(decoder, f"signal {name}")
    assert calls_of_child(decoder, "nothing") == 1


@pytest.mark.parametrize("command", ["exit 3", "close"])
def test_a_sample_that_ends_or_cuts_off_its_process(decoder: IsolatedDecoder, command: str) -> None:
    with pytest.raises(Crashed, match="code 3" if command == "exit 3" else "closed its connection"):
        calls_of_child(decoder, command)
    assert calls_of_child(decoder, "nothing") == 1


def test_no_sample_is_blamed_for_what_another_did_to_the_process(decoder: IsolatedDecoder) -> None:
    calls_of_child(decoder, "doom")
    assert calls_of_child(decoder, "nothing") == 1


def test_a_child_killed_while_idle_is_replaced(decoder: IsolatedDecoder) -> None:
    calls_of_child(decoder, "nothing")
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    assert calls_of_child(decoder, "nothing") == 1


@pytest.mark.parametrize("command", ["sleep 30", "deaf 30"])
def test_a_sample_that_hangs_is_stopped_in_time(decoder: IsolatedDecoder, command: str) -> None:
    calls_of_child(decoder, "nothing")
    began = time.monotonic()
    with pytest.raises(TooSlow):
        calls_of_child(decoder, command)
    assert 0.5 <= time.monotonic() - began < 2
    assert calls_of_child(decoder, "nothing") == 1


@needs_proc
def test_memory_is_limited_for_each_sample() -> None:
    decoder = IsolatedDecoder("hostile_decoder:build", bytes_of_memory=MEMORY)
    with pytest.raises(TooLarge, match=str(MEMORY)):
        calls_of_child(decoder, f"leak {MEMORY}")
    # What stays behind from earlier samples is no later sample's fault.
    calls = [calls_of_child(decoder, f"leak {MEMORY // 4}") for _ in range(5)]
    assert max(calls) < 4
    assert calls.count(1) == 2
    decoder.close()


# What is not the sample's fault


class BrokenStorage(io.BytesIO):
    """A file that cannot be read, once."""

    broken = True

    def read(self, size: int | None = -1) -> bytes:
        if self.broken:
            self.broken = False
            raise ConnectionResetError("the bucket hung up")
        return super().read(size)


def test_what_the_storage_raises_passes_through(decoder: IsolatedDecoder) -> None:
    file = BrokenStorage(b"nothing")
    with pytest.raises(ConnectionResetError, match="the bucket hung up"):
        calls_of_child(decoder, "", file)
    assert calls_of_child(decoder, "", file) == 1


class SlowStorage(io.BytesIO):
    """A file that takes longer to read than it may to decode."""

    def read(self, size: int | None = -1) -> bytes:
        time.sleep(0.7)
        return super().read(size)


def test_waiting_for_the_storage_is_no_decoding_time(decoder: IsolatedDecoder) -> None:
    assert calls_of_child(decoder, "", SlowStorage(b"nothing")) == 1


class CountingFile(io.BytesIO):
    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def test_only_what_is_needed_is_read(decoder: IsolatedDecoder) -> None:
    file = CountingFile(b"nothing".ljust(50 << 20, b"\0"))
    calls_of_child(decoder, "", file)
    assert file.bytes_read <= 1 << 20


def test_a_wrong_name_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match="'pyav'"):
        IsolatedDecoder("pyva")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("hostile_decoder:build_refused", UserError, "^the decoder needs a library: install it$"),
        ("hostile_decoder:build_dead", RunError, "cannot be started.* code 7"),
        ("no_such_module:build", UserError, "No module named 'no_such_module'"),
    ],
)
def test_a_decoder_that_cannot_be_started_is_no_fault_of_the_sample(
    name: str, error: type[Exception], says: str
) -> None:
    decoder = IsolatedDecoder(name)
    with pytest.raises(error, match=says) as raised:
        calls_of_child(decoder, "nothing")
    assert not isinstance(raised.value, SampleError)


# What is left behind


@needs_proc
def test_nothing_is_left_behind() -> None:
    def held() -> list[set[str]]:
        return [{entry.name for entry in Path(folder).iterdir()} for folder in ("/proc/self/fd", "/dev/shm")]

    before = children(), held()
    for command in ("nothing", "signal SIGSEGV"):
        decoder = IsolatedDecoder("hostile_decoder:build", QUICK)
        with suppress(Crashed):
            calls_of_child(decoder, command)
        if command != "nothing":
            decoder.close()
        del decoder  # without close() too
        gc.collect()
    assert (children(), held()) == before


PARENT = """
import io, sys, threading, time
import numpy as np
from headrace.data.decode import isolated
from headrace.data.decode.limits import Limits

isolated._ORPHAN_SECONDS = 0.5
decoder = isolated.IsolatedDecoder("hostile_decoder:build", Limits(seconds_per_sample=1.0))
decode = lambda command: decoder.decode(io.BytesIO(command), np.zeros(1), np.zeros((1, 1, 1, 3), np.uint8))
decode(b"nothing")
threading.Timer(0.2, print, [decoder._child._process.pid], {"flush": True}).start()
decode(sys.argv[1].encode())
time.sleep(60)
"""


@needs_proc
@pytest.mark.parametrize("child_is", ["nothing", "sleep 30"])
def test_the_child_ends_with_its_parent_even_if_that_is_killed(child_is: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, child_is], stdout=subprocess.PIPE, env=environment)
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    assert ends(child, seconds=5)
