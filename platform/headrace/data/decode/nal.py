"""H.264 and HEVC: what a packet of network abstraction layer (NAL) units says of its frame; see `roles`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from headrace.data.decode.roles import ENTRY, LAYER_SHIFT, REFERENCE, SHOWN


@dataclass(frozen=True)
class _Framing:
    """How units lie in a packet: each after its length in this many bytes, or (0) after a start code.

    `parameter_sets` are those that the decoder is given with the container's header.
    """

    length_bytes: int
    parameter_sets: frozenset[bytes]


@dataclass(frozen=True)
class _Unit:
    """What the header of a NAL unit says: a piece of a picture, a set of parameters, or nothing of interest."""

    role: int = 0
    is_parameter_set: bool = False
    is_unknown: bool = False


class _UnitRoles:
    """See `roles.Roles`."""

    def __init__(self, framing: _Framing, unit_of: _UnitOf) -> None:
        self.steady = True
        self._framing, self._unit_of = framing, unit_of

    def of(self, data: bytes, is_key_frame: bool) -> int:
        """Return the role of the packet with these bytes."""
        role = 0
        for start, stop in _units(data, self._framing.length_bytes):
            if not start < stop <= len(data):
                self.steady = False
                break
            unit = self._unit_of(data, start)
            role |= unit.role
            if unit.is_unknown or (
                unit.is_parameter_set and data[start:stop].rstrip(b"\0") not in self._framing.parameter_sets
            ):
                self.steady = False
        if not role:  # no picture where there must be one: whatever this is, the decoder shall see it
            self.steady = False
            return SHOWN | REFERENCE
        return role


class H264Roles(_UnitRoles):
    """Roles of H.264 packets, with the lengths or start codes that `extradata` says."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__(_h264_framing(extradata), _h264_unit)


class HEVCRoles(_UnitRoles):
    """Roles of HEVC packets, with the lengths or start codes that `extradata` says."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__(_hevc_framing(extradata), _hevc_unit)


class _UnitOf(Protocol):
    def __call__(self, data: bytes, start: int) -> _Unit: ...


_NOTHING, _PARAMETERS, _UNKNOWN = _Unit(), _Unit(is_parameter_set=True), _Unit(is_unknown=True)


def _h264_unit(data: bytes, start: int) -> _Unit:
    header = data[start]
    kind = header & 31
    if kind in (1, 5):
        return _H264_SLICES[kind == 5, header & 0x60 != 0]
    if kind in (7, 8, 13, 15):
        return _PARAMETERS
    return _UNKNOWN if kind in (2, 3, 4) else _NOTHING  # 2 to 4: a slice's data in partitions


_H264_SLICES = {
    (is_idr, is_reference): _Unit(SHOWN | (ENTRY if is_idr else 0) | (REFERENCE if is_reference else 0))
    for is_idr in (False, True)
    for is_reference in (False, True)
}


def _hevc_unit(data: bytes, start: int) -> _Unit:
    kind = data[start] >> 1 & 63
    if start + 1 >= len(data):
        return _UNKNOWN
    if (data[start] & 1) << 5 | data[start + 1] >> 3:
        return _NOTHING  # of another layer (depth, a second view), which is not decoded
    if kind < 32:
        is_random_access = 16 <= kind <= 21
        is_reference = kind >= 16 or kind & 1 == 1
        layer = max(0, (data[start + 1] & 7) - 1)
        return _Unit(
            SHOWN | (ENTRY if is_random_access else 0) | (REFERENCE if is_reference else 0) | layer << LAYER_SHIFT
        )
    return _PARAMETERS if kind in (32, 33, 34) else _NOTHING


def _units(data: bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield where each unit starts and stops; a length that points past the end is passed on as it is."""
    if length_bytes:
        at = 0
        while at + length_bytes < len(data):
            start = at + length_bytes
            at = start + int.from_bytes(data[at:start], "big")
            yield start, at
        return
    code = data.find(b"\0\0\1")
    while code >= 0:
        start = code + 3
        code = data.find(b"\0\0\1", start)
        yield start, code if code >= 0 else len(data)


def _h264_framing(extradata: bytes) -> _Framing:
    """Read an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3), or units with start codes."""
    if extradata[:1] != b"\1" or len(extradata) < 7:
        return _annex_b(extradata)
    sets = list[bytes]()
    at = _read_sets(extradata, 6, extradata[5] & 31, sets)
    if at < len(extradata):
        _read_sets(extradata, at + 1, extradata[at], sets)
    return _Framing((extradata[4] & 3) + 1, _stripped(sets))


def _hevc_framing(extradata: bytes) -> _Framing:
    """Read an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3), or units with start codes."""
    if len(extradata) < 23 or extradata[:3] in (b"\0\0\0", b"\0\0\1"):
        return _annex_b(extradata)
    sets, at = list[bytes](), 23
    for _ in range(extradata[22]):
        at = _read_sets(extradata, at + 3, int.from_bytes(extradata[at + 1 : at + 3], "big"), sets)
    return _Framing((extradata[21] & 3) + 1, _stripped(sets))


def _read_sets(extradata: bytes, at: int, count: int, sets: list[bytes]) -> int:
    for _ in range(count):
        size = int.from_bytes(extradata[at : at + 2], "big")
        sets.append(extradata[at + 2 : at + 2 + size])
        at += 2 + size
    return at


def _annex_b(extradata: bytes) -> _Framing:
    return _Framing(0, _stripped(extradata[start:stop] for start, stop in _units(extradata, 0)))


def _stripped(sets: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(one.rstrip(b"\0") for one in sets)
