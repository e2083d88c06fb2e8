"""The floor of exact decoding: the decoder's own time for the reference chain and the wanted frames.

What is measured is one loop that hands packets to FFmpeg's decoder (through PyAV, as headrace does) and takes its
frames. The packets are in memory, the decoder is open and knows the stream. Not in it: opening, reading and demuxing
the file, deciding what to decode, scaling, colour conversion, copying. In it: for each group of pictures, the packets
from its key frame on that other frames refer to, those of the wanted frames, and emptying and resetting the decoder
behind the last of them.

Which packets are references is read from their headers here, by code of its own. Several plans are tried, the
shortest first, and the first counts whose frames are those of a full decode, bit for bit: without non-reference
frames, then with them, then from the start of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from benchmarks.decoders import Request
from benchmarks.reference import checksum


@dataclass(frozen=True)
class _Run:
    """Packets decoded in one go."""

    packets: list[Packet[VideoStream]]
    wanted: frozenset[int]


class Floor:
    """The bare loop. Its `decode` gives no pixels: how many of the wanted frames came."""

    def __init__(self) -> None:
        self._container: av.container.InputContainer | None = None
        self._runs: list[_Run] = []

    def versions(self) -> dict[str, str]:
        """See `benchmarks.decoders.VideoDecoder.versions`; this is plain PyAV's."""
        return {}

    def prepare(self, request: Request) -> str:
        """Read the packets and find the shortest plan that gives the wanted frames; return which it was.

        Raises:
            ValueError: none does.
        """
        if self._container is not None:
            self._container.close()
        self._container = av.open(request.path)
        self._stream = self._container.streams.video[0]
        self._codec = self._stream.codec_context
        self._codec.thread_count, self._codec.thread_type = 1, "NONE"
        packets = [packet for packet in self._container.demux(self._stream) if packet.size]
        plans: dict[str, Callable[[], list[_Run]]] = {
            "references": lambda: _runs(packets, set(request.pts), _references(packets, self._stream)),
            "whole groups": lambda: _runs(packets, set(request.pts), [True] * len(packets)),
            "from the start": lambda: [_from_start(packets, set(request.pts))],
        }
        expected = dict(zip(request.pts, request.checksums, strict=True))
        for name, plan in plans.items():
            self._runs = plan()
            if self._gives(expected):
                return name
        raise ValueError("the bare loop does not give the wanted frames")

    def decode(self, request: Request) -> int:
        """Return how many of the wanted frames came."""
        return sum(1 for _ in self._wanted_frames())

    def _wanted_frames(self) -> Iterator[VideoFrame]:
        decode = self._codec.decode
        for run in self._runs:
            for packet in (*run.packets, None):
                for frame in decode(packet):
                    if frame.pts in run.wanted:
                        yield frame
            self._codec.flush_buffers()

    def _gives(self, expected: dict[int, int]) -> bool:
        """Whether the plan gives the frames of these times, with these checksums."""
        try:
            return {frame.pts or 0: checksum(frame) for frame in self._wanted_frames()} == expected
        except av.error.FFmpegError:
            self._codec.flush_buffers()
            return False


def _runs(packets: list[Packet[VideoStream]], wanted_pts: set[int], is_reference: list[bool]) -> list[_Run]:
    """Return what to decode: for each wanted frame from the last key frame both decoded and shown no later."""
    spans: list[tuple[int, int, set[int]]] = []
    for last, packet in enumerate(packets):
        if packet.pts not in wanted_pts:
            continue
        keys = (
            index
            for index in range(last, 0, -1)
            if packets[index].is_keyframe and (packets[index].pts or 0) <= packet.pts
        )
        first = next(keys, 0)
        if spans and first <= spans[-1][1]:
            first, _, pts = spans.pop()
            spans.append((first, last, pts | {packet.pts}))
        else:
            spans.append((first, last, {packet.pts}))
    return [
        _Run(
            [packets[at] for at in range(first, last + 1) if is_reference[at] or packets[at].pts in pts], frozenset(pts)
        )
        for first, last, pts in spans
    ]


def _from_start(packets: list[Packet[VideoStream]], wanted_pts: set[int]) -> _Run:
    last = max((at for at, packet in enumerate(packets) if packet.pts in wanted_pts), default=len(packets) - 1)
    return _Run(packets[: last + 1], frozenset(wanted_pts))


def _references(packets: list[Packet[VideoStream]], stream: VideoStream) -> list[bool]:
    """Return of each packet whether other frames may refer to its frame; True where that is not known."""
    codec, extradata = stream.codec_context.name, stream.codec_context.extradata or b""
    if codec == "h264":
        # ISO/IEC 14496-15, 5.2.4.1: the fifth byte of avcC says how long lengths are.
        length_bytes = (extradata[4] & 3) + 1 if extradata[:1] == b"\x01" else 0
        return [_h264_is_reference(bytes(packet), length_bytes) for packet in packets]
    if codec == "hevc":
        # ISO/IEC 14496-15, 8.3.3.1: in hvcC it is byte 22.
        length_bytes = (extradata[21] & 3) + 1 if len(extradata) > 21 and extradata[0] == 1 else 0
        pictures = [_hevc_picture(bytes(packet), length_bytes) for packet in packets]
        highest = max(layer for layer, _ in pictures)
        return [layer < highest or not is_sub_layer_non_reference for layer, is_sub_layer_non_reference in pictures]
    return [True] * len(packets)


def _h264_is_reference(data: bytes, length_bytes: int) -> bool:
    """Whether nal_ref_idc of any slice (nal_unit_type 1 to 5) is not 0: ITU-T H.264, 7.4.1."""
    headers = [data[start] for start in _unit_starts(data, length_bytes)]
    return any(header >> 5 & 3 for header in headers if 1 <= header & 31 <= 5)


def _hevc_picture(data: bytes, length_bytes: int) -> tuple[int, bool]:
    """Return TemporalId and whether it is a sub-layer non-reference picture: ITU-T H.265, 7.4.2.2.

    Pictures of its own sub-layer do not refer to such a picture (even types up to RSV_VCL_N14), those of higher
    ones may.
    """
    for start in _unit_starts(data, length_bytes):
        kind = data[start] >> 1 & 63
        if kind < 32:
            return (data[start + 1] & 7) - 1, kind <= 14 and kind % 2 == 0
    return 0, False


def _unit_starts(data: bytes, length_bytes: int) -> Iterator[int]:
    """Yield where the network units of a packet begin: behind lengths, or (0) behind start codes 00 00 01."""
    if length_bytes:
        at = 0
        while at + length_bytes < len(data):
            yield at + length_bytes
            at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
        return
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        yield at + 3
        at = data.find(b"\0\0\1", at + 3)
