"""What an AV1 temporal unit says of its frame. Section numbers are those of the AV1 specification (version 1.0.0).

A frame whose refresh_frame_flags are 0 is kept in none of the eight slots from which later frames take their
references, probabilities, motion vectors and segmentation, so nothing refers to it. A shown key frame fills all of
them, so nothing after it refers to anything before. These flags come early in a frame's header, behind some twenty
fields whose presence the sequence header decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.data.decode.roles import ENTRY, REFERENCE, SHOWN

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME, _REDUNDANT_FRAME_HEADER = 1, 3, 6, 7  # OBU types, 6.2.2
_KEY, _INTRA_ONLY, _SWITCH = 0, 2, 3  # frame types, 6.8.2
_SELECT = 2


class AV1Roles:
    """See `roles.Roles`. Decoding begins only at units that hold the sequence header: encoders have been seen whose
    header in the container is another."""

    def __init__(self) -> None:
        self.steady = True
        self._header: bytes | None = None
        self._sequence: _Sequence | None = None

    def of(self, data: bytes, is_key_frame: bool) -> int:
        """Return the role of the temporal unit with these bytes."""
        role, may_begin = SHOWN, False
        try:
            for kind, has_layers, payload in _units(data):
                if kind == _SEQUENCE_HEADER:
                    self._take_sequence(payload)
                    may_begin = is_key_frame
                elif kind in (_FRAME_HEADER, _FRAME, _REDUNDANT_FRAME_HEADER):
                    role |= self._frame_role(payload, has_layers)
        except (IndexError, ValueError):  # ends in the middle of something
            self.steady = False
            return SHOWN | REFERENCE
        return role if may_begin else role & ~ENTRY

    def _take_sequence(self, payload: bytes) -> None:
        self.steady &= self._header in (None, payload)
        self._header, self._sequence = payload, _read_sequence(_Bits(payload))

    def _frame_role(self, payload: bytes, has_layers: bool) -> int:
        if self._sequence is None or has_layers:
            return REFERENCE
        return _read_frame_role(_Bits(payload), self._sequence)


@dataclass
class _Sequence:
    """What a frame's header depends on, of the sequence header."""

    reduced: bool = False
    equal_picture_interval: bool = False
    decoder_models: tuple[bool, ...] = ()  # of each operating point; empty where there is no decoder model
    removal_time_bits: int = 0
    presentation_time_bits: int = 0
    frame_id_bits: int = 0
    screen_content: int = _SELECT
    integer_mv: int = _SELECT
    order_hint_bits: int = 0


class _Bits:
    """Reads bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int = 1) -> int:
        """Return the next bits as a number, f(n) in the specification.

        Raises:
            IndexError: there are not so many.
        """
        value = 0
        for at in range(self._at, self._at + count):
            value = value << 1 | self._data[at >> 3] >> (7 - (at & 7)) & 1
        self._at += count
        return value

    def read_uvlc(self) -> int:
        """Return the next number of variable length (4.10.3)."""
        zeros = 0
        while not self.read():
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros) if zeros < 32 else (1 << 32) - 1


def _units(data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """Yield the open bitstream units (5.3): type, whether they are of a layer, payload."""
    at = 0
    while at < len(data):
        header = data[at]
        has_extension, has_size = header >> 2 & 1, header >> 1 & 1
        at += 1 + has_extension
        size = len(data) - at
        if has_size:
            size, shift = 0, 0
            while True:
                size |= (data[at] & 127) << shift
                at, shift = at + 1, shift + 7
                if not data[at - 1] & 128:
                    break
        if at + size > len(data):
            raise ValueError("a unit reaches past its packet")
        yield header >> 3 & 15, bool(has_extension), data[at : at + size]
        at += size


def _read_sequence(bits: _Bits) -> _Sequence:
    """Read a sequence header (5.5.1) up to what is needed of it."""
    sequence = _Sequence()
    bits.read(3 + 1)  # profile, still picture
    sequence.reduced = bool(bits.read())
    if sequence.reduced:
        return sequence
    has_decoder_model, delay_bits = False, 0
    if bits.read():  # timing information
        bits.read(32 + 32)
        sequence.equal_picture_interval = bool(bits.read())
        if sequence.equal_picture_interval:
            bits.read_uvlc()
        has_decoder_model = bool(bits.read())
        if has_decoder_model:
            delay_bits = bits.read(5) + 1
            bits.read(32)
            sequence.removal_time_bits = bits.read(5) + 1
            sequence.presentation_time_bits = bits.read(5) + 1
    has_display_delay = bits.read()
    models = []
    for _ in range(bits.read(5) + 1):  # operating points
        bits.read(12)
        if bits.read(5) > 7:
            bits.read()
        if has_decoder_model:
            models.append(bool(bits.read()))
            if models[-1]:
                bits.read(2 * delay_bits + 1)
        if has_display_delay and bits.read():
            bits.read(4)
    sequence.decoder_models = tuple(models)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    bits.read(width_bits + height_bits)
    if bits.read():  # frame ids
        sequence.frame_id_bits = bits.read(4) + bits.read(3) + 3
    bits.read(3 + 4)  # superblocks, intra tools; inter tools
    has_order_hint = bits.read()
    if has_order_hint:
        bits.read(2)
    sequence.screen_content = _SELECT if bits.read() else bits.read()
    if sequence.screen_content > 0:
        sequence.integer_mv = _SELECT if bits.read() else bits.read()
    if has_order_hint:
        sequence.order_hint_bits = bits.read(3) + 1
    return sequence


def _read_frame_role(bits: _Bits, sequence: _Sequence) -> int:
    """Read a frame header (5.9.2) up to refresh_frame_flags."""
    if sequence.reduced:
        return ENTRY | REFERENCE
    if bits.read():  # shows a frame decoded before: costs nothing, and may be a key frame, which refreshes
        return REFERENCE
    kind, is_shown = bits.read(2), bits.read()
    if is_shown and sequence.decoder_models and not sequence.equal_picture_interval:
        bits.read(sequence.presentation_time_bits)
    if not is_shown:
        bits.read()
    if kind == _KEY and is_shown:
        return ENTRY | REFERENCE
    if kind == _SWITCH:
        return REFERENCE
    is_resilient = bits.read()
    bits.read()
    allows_screen_content = bits.read() if sequence.screen_content == _SELECT else sequence.screen_content
    if allows_screen_content and sequence.integer_mv == _SELECT:
        bits.read()
    bits.read(sequence.frame_id_bits)
    bits.read()
    bits.read(sequence.order_hint_bits)
    if kind not in (_KEY, _INTRA_ONLY) and not is_resilient:
        bits.read(3)
    if sequence.decoder_models and bits.read():
        bits.read(sequence.removal_time_bits * sum(sequence.decoder_models))  # without layers, at all points
    return REFERENCE if bits.read(8) else 0
