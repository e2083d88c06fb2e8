"""Damaged videos without end: mutant number n of a seed is always the same file, found again by its number.

    (seed, number) -> one file of the corpus -> one to three mutations -> Mutant

A third of the mutations know nothing of the file; the others know where its boxes (mp4), elements (Matroska) and
packets begin, and damage what a demuxer or a decoder believes: sizes, counts, types, headers. One mutant in five
leaves the file whole and damages its index instead. `benchmarks/fuzz_decode.py` decodes them.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from generated_clips import ClipSpec, encode_clip
from numpy.random import Generator
from numpy.typing import NDArray

from headrace.data.decode.index import VideoIndex
from headrace.data.decode.probe import probe
from headrace.data.failures import SampleError

# With its rate control and lookahead on, x264 does not always give the same bytes.
_X264 = {"x264-params": "keyint=8:min-keyint=8:scenecut=0:bframes=3:b-adapt=0:qp=26:mbtree=0:rc-lookahead=0:threads=1"}
_X265 = {"x265-params": "keyint=8:min-keyint=8:bframes=3:log-level=none:pools=none:frame-threads=1"}
_VP9 = {"g": "8", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "4"}
_SAME = {"fflags": "+bitexact"}  # no random identifiers: the same bytes in every process


def _spec(container: str, codec: str, options: dict[str, str], **more: str) -> ClipSpec:
    return ClipSpec(container, codec, options, frames=20, container_options=_SAME | more)


_SPECS = {
    "h264.mp4": _spec("mp4", "libx264", _X264),
    "h264_moov_first.mp4": _spec("mp4", "libx264", _X264, movflags="faststart"),
    "h264_fragments.mp4": _spec("mp4", "libx264", _X264, movflags="frag_keyframe+empty_moov"),
    "h264_rotated_audio.mp4": replace(_spec("mp4", "libx264", _X264), rotation=90, audio=True),
    "h264_edit_list.mp4": replace(_spec("mp4", "libx264", _X264), times=[40 * n - 80 for n in range(20)]),
    "hevc.mp4": _spec("mp4", "libx265", _X265),
    "mpeg4.mp4": _spec("mp4", "mpeg4", {"bf": "2", "g": "8"}),
    "h264.mkv": _spec("matroska", "libx264", _X264),
    "vp8.webm": _spec("webm", "libvpx", _VP9 | {"deadline": "good"}),
    "vp9.webm": _spec("webm", "libvpx-vp9", _VP9),
    "h264.ts": _spec("mpegts", "libx264", _X264),
    "mpeg2.ts": _spec("mpegts", "mpeg2video", {"bf": "2", "g": "8"}),
    "h264.flv": _spec("flv", "libx264", _X264),
    "mpeg4.avi": _spec("avi", "mpeg4", {"bf": "2", "g": "8"}),
}

REAL_FILES_BYTES = 120_000
"""Real files up to this size are mutated: small ones are decoded quickly, and have the oddest structures."""


@functools.cache
def source(name: str) -> bytes:
    """Return a file of the corpus."""
    return encode_clip(_SPECS[name]) if name in _SPECS else Path(name).read_bytes()


def corpus(real_data: Path | None = None) -> list[str]:
    """Return the names of the corpus: generated clips, and the small real videos below a folder."""
    real = sorted((real_data / "videos").glob("[bc]*/*")) if real_data else []
    return [*_SPECS, *(str(path) for path in real if 0 < path.stat().st_size <= REAL_FILES_BYTES)]


@functools.cache
def index_of(name: str) -> VideoIndex | None:
    """Return what `probe` learns of a whole file of the corpus, None where it gives no index."""
    try:
        return probe(io.BytesIO(source(name))).index
    except SampleError:
        return None


# Mutations


@dataclass(frozen=True)
class Mutant:
    """A damaged sample.

    Attributes:
        source: the file that it was made from.
        data: the file.
        index: what a manifest may hold of it: the index of the file before it was damaged, or a damaged one.
        story: what was done to it.
    """

    seed: int
    number: int
    source: str
    data: bytes
    index: VideoIndex | None
    story: tuple[str, ...]


def mutant(names: list[str], seed: int, number: int) -> Mutant:
    """Return mutant `number` of `seed` over a corpus."""
    rng = np.random.default_rng([seed, number])
    name = names[rng.integers(len(names))]
    index = index_of(name)
    if index is not None and rng.random() < 0.2:
        index, story = mutate_index(index, rng)
        return Mutant(seed, number, name, source(name), index, (story,))
    data, stories = bytearray(source(name)), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        mutate = _MUTATIONS[rng.choice(len(_MUTATIONS), p=_WEIGHTS)]
        stories.append(mutate(data, rng, index) if len(data) > 16 else "nothing left")
    return Mutant(seed, number, name, bytes(data), index, tuple(stories))


_ODD_NUMBERS = (0, 1, 7, 8, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)

Mutation = Callable[[bytearray, Generator, "VideoIndex | None"], str]


def _truncate(data: bytearray, rng: Generator, _: VideoIndex | None) -> str:
    del data[rng.integers(len(data)) :]
    return f"truncated to {len(data)}"


def _flip_bits(data: bytearray, rng: Generator, _: VideoIndex | None) -> str:
    places = rng.integers(8 * len(data), size=rng.integers(1, 24)).tolist()
    for place in places:
        data[place // 8] ^= 1 << place % 8
    return f"bits {places} flipped"


def _overwrite(data: bytearray, rng: Generator, _: VideoIndex | None) -> str:
    start, stop = _range(len(data), rng)
    fill = rng.integers(3)
    data[start:stop] = rng.bytes(stop - start) if fill == 2 else bytes([255 * int(fill)]) * (stop - start)
    return f"{start}:{stop} overwritten"


def _delete(data: bytearray, rng: Generator, _: VideoIndex | None) -> str:
    start, stop = _range(len(data), rng)
    del data[start:stop]
    return f"{start}:{stop} deleted"


def _insert(data: bytearray, rng: Generator, _: VideoIndex | None) -> str:
    start, stop = _range(len(data), rng)
    at = int(rng.integers(len(data)))
    data[at:at] = data[start:stop]
    return f"{start}:{stop} inserted at {at}"


def _set_number(data: bytearray, rng: Generator, _: VideoIndex | None) -> str:
    at, number = int(rng.integers(len(data) - 4)), int(rng.choice(_ODD_NUMBERS))
    data[at : at + 4] = number.to_bytes(4, "big" if rng.random() < 0.7 else "little")
    return f"{number} at {at}"


def _damage_packet(data: bytearray, rng: Generator, index: VideoIndex | None) -> str:
    """Damage the first bytes of a packet: the lengths and headers that the codec's parser believes."""
    if index is None:
        return _flip_bits(data, rng, index)
    packet = int(rng.integers(len(index.offset)))
    start = int(index.offset[packet] + rng.integers(min(16, int(index.size[packet]))))
    if start >= len(data):
        return "packet gone"
    data[start] = int(rng.integers(256))
    return f"byte {start} of packet {packet} set"


def _damage_structure(data: bytearray, rng: Generator, index: VideoIndex | None) -> str:
    """Damage a box of an mp4 or an element of a Matroska file."""
    parts = list(_boxes(data) if data[4:8].startswith((b"ftyp", b"styp", b"moov", b"moof")) else _elements(data))
    if not parts:
        return _set_number(data, rng, index)
    part = parts[rng.integers(len(parts))]
    action = str(rng.choice(["size", "size", "kind", "number", "number", "delete", "double", "swap"]))
    if action == "size":
        odd = int(rng.choice([*_ODD_NUMBERS, int(rng.integers(2 * part.size + 16))]))
        data[part.size_at : part.head] = _as_size(odd, part)
    elif action == "kind":
        other = parts[rng.integers(len(parts))]
        if len(other.kind) == len(part.kind):
            data[part.start + part.kind_at : part.start + part.kind_at + len(part.kind)] = other.kind
    elif action == "number" and part.stop - part.head >= 4:
        at = int(rng.integers(part.head, min(part.stop - 3, part.head + 64)))
        data[at : at + 4] = int(rng.choice(_ODD_NUMBERS)).to_bytes(4, "big")
    elif action == "delete":
        del data[part.start : part.stop]
    elif action == "double":
        data[part.stop : part.stop] = data[part.start : part.stop]
    elif action == "swap":
        siblings = [other for other in parts if other.depth == part.depth and other.start >= part.stop]
        if siblings:
            other = siblings[rng.integers(len(siblings))]
            first, between = data[part.start : part.stop], data[part.stop : other.start]
            data[part.start : other.stop] = data[other.start : other.stop] + between + first
    return f"{part.kind!r} at {part.start}: {action}"


_MUTATIONS: tuple[Mutation, ...] = (
    _truncate,
    _flip_bits,
    _overwrite,
    _delete,
    _insert,
    _set_number,
    _damage_packet,
    _damage_structure,
)
_WEIGHTS = (0.08, 0.1, 0.08, 0.06, 0.06, 0.07, 0.2, 0.35)


def _range(length: int, rng: Generator) -> tuple[int, int]:
    """Return a random range, short ones likelier than long ones."""
    start = int(rng.integers(length))
    return start, min(length, start + int(2 ** rng.uniform(0, np.log2(length))))


@dataclass(frozen=True)
class Part:
    """A box or an element: where it starts, its size stands, its content begins and it stops."""

    kind: bytes
    start: int
    kind_at: int
    size_at: int
    head: int
    stop: int
    depth: int

    @property
    def size(self) -> int:
        """Bytes from its start on."""
        return self.stop - self.start


_BOXES_OF_BOXES = {b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"edts": 0, b"mvex": 0, b"dinf": 0} | {
    b"moof": 0,
    b"traf": 0,
    b"stsd": 8,
    b"avc1": 78,
    b"hvc1": 78,
    b"hev1": 78,
    b"mp4v": 78,
}
"""What may hold boxes, and how many bytes come before them."""


def _boxes(data: bytearray, start: int = 0, stop: int | None = None, depth: int = 0) -> Iterator[Part]:
    """Yield the boxes of an mp4, parents before children: [size: 4][type: 4][content]."""
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > stop:
            return
        yield Part(kind, start, 4, start, start + 4, start + size, depth)
        if kind in _BOXES_OF_BOXES and depth < 12:
            yield from _boxes(data, start + 8 + _BOXES_OF_BOXES[kind], start + size, depth + 1)
        start += size


_MASTERS = {
    b"\x1aE\xdf\xa3",  # EBML
    b"\x18S\x80g",  # Segment
    b"\x11M\x9bt",  # SeekHead
    b"\x15I\xa9f",  # Info
    b"\x16T\xaek",  # Tracks
    b"\xae",  # TrackEntry
    b"\xe0",  # Video
    b"\x1fC\xb6u",  # Cluster
    b"\xa0",  # BlockGroup
    b"\x1cS\xbbk",  # Cues
    b"\xbb",  # CuePoint
}
"""Elements that hold elements."""


def _elements(data: bytearray, start: int = 0, stop: int | None = None, depth: int = 0) -> Iterator[Part]:
    """Yield the elements of a Matroska file: [id: 1-4][size: 1-8][content], as their leading zero bits say."""
    stop = len(data) if stop is None else stop
    while start + 2 <= stop and data[0:4] == b"\x1aE\xdf\xa3":
        size_at = start + 9 - data[start].bit_length()
        if size_at >= stop or data[size_at] == 0:
            return
        head = size_at + 9 - data[size_at].bit_length()
        octets = head - size_at
        size = int.from_bytes(data[size_at:head], "big") & ((1 << 7 * octets) - 1)
        end = stop if size == (1 << 7 * octets) - 1 else head + size
        if head > stop or end > stop:
            return
        kind = bytes(data[start:size_at])
        yield Part(kind, start, 0, size_at, head, end, depth)
        if kind in _MASTERS and depth < 8:
            yield from _elements(data, head, end, depth + 1)
        start = end


def _as_size(size: int, part: Part) -> bytes:
    octets = part.head - part.size_at
    if part.kind_at:  # a box
        return (size % 2**32).to_bytes(4, "big")
    return (1 << 7 * octets | size % (1 << 7 * octets)).to_bytes(octets, "big")


def mutate_index(index: VideoIndex, rng: Generator) -> tuple[VideoIndex, str]:
    """Return an index that is wrong, as one of another file or of a damaged manifest is."""
    column = str(rng.choice(["offset", "size", "pts", "role", "codec", "packed"]))
    if column == "packed":
        return _mutate_packed(index, rng)
    if column == "codec":
        codec = index.codec
        changed = replace(
            codec,
            extradata=bytes(rng.permutation(np.frombuffer(bytearray(codec.extradata), np.uint8))),
            width=int(rng.choice([0, 1, codec.width, 2**15])),
            height=int(rng.choice([-1, codec.height, 2**31 - 1])),
            name=str(rng.choice([codec.name, codec.name, "h264", "vp9", "nonsense"])),
            pix_fmt=[codec.pix_fmt, None, "nonsense", "gray"][rng.integers(4)],
        )
        return replace(
            index, codec=changed
        ), f"codec: {changed.name} {changed.width}x{changed.height} {changed.pix_fmt}"
    values: NDArray[np.int64] = getattr(index, column).copy()
    where = rng.integers(len(values), size=rng.integers(1, 4))
    odd = [-1, 0, 1, 2**31, 2**62, -(2**62), int(values[0]), int(values[-1]), int(values.max()) + 1]
    values[where] = rng.choice(odd, size=len(where)) if column != "role" else rng.integers(256, size=len(where))
    if rng.random() < 0.3:
        values = rng.permutation(values)
    changes: dict[str, Any] = {column: values}
    return replace(index, **changes), f"{column} at {where.tolist()}: {values[where].tolist()}"


def _mutate_packed(index: VideoIndex, rng: Generator) -> tuple[VideoIndex, str]:
    """Damage the packed index; what is no index any more must be a ValueError, and the whole one stays."""
    data = bytearray(zlib.decompress(index.to_bytes()))
    mutate = (_flip_bits, _overwrite, _delete, _insert, _truncate)[rng.integers(5)]
    story = f"packed index: {mutate(data, rng, None)}"
    try:
        return VideoIndex.from_bytes(zlib.compress(bytes(data))), story
    except ValueError as error:
        return index, f"{story}: {error}"
