"""What the first bytes of a packet say of its frame: may decoding begin here, do other frames refer to it?

Containers mark key frames, more or less rightly; that a frame is referred to by none they do not say. The
codecs' own headers say both, and a decoder acts on them:

    H.264   nal_ref_idc is 0 in all slices: no other frame refers to it. An IDR picture: nothing after it refers
            to anything before it. (ITU-T H.264, 7.4.1)
    HEVC    a sub-layer non-reference type (TRAIL_N, ..., RASL_N): no frame of the same temporal layer refers to
            it, and none of a lower layer ever does. An IRAP picture: nothing shown after it refers to anything
            before it. (ITU-T H.265, 7.4.2.2)
    AV1     refresh_frame_flags is 0: the frame is kept for none. A shown key frame. (AV1 specification, 7.20)
    VP8     bits of the first byte: key frame, shown. (RFC 6386, 9.1)
    others  the container's key frame; every frame may be referred to by the next, unless the codec has only
            key frames. (VP9 too: even a frame that is kept for none hands its motion vectors on to the next.)
"""

from __future__ import annotations

from typing import Protocol

ENTRY, REFERENCE, SHOWN, LAYER_SHIFT = 1, 2, 4, 3
"""Bits of a role: decoding may begin here; frames of its layer may refer to it; it gives a frame; from bit 3 on,
its temporal layer."""


class Roles(Protocol):
    """Tells the roles of a stream's packets, given one after the other.

    Attributes:
        steady: so far the packets are sound and what they depend on outside of frames never changed.
    """

    steady: bool

    def of(self, data: bytes, is_key_frame: bool) -> int:
        """Return the role of the packet with these bytes, which the container calls a key frame or not."""
        ...


def roles_for(codec: str, extradata: bytes, *, only_key_frames: bool) -> Roles:
    """Return what tells the roles of the packets of a codec (FFmpeg's name of it)."""
    from headrace.data.decode.av1 import AV1Roles
    from headrace.data.decode.nal import H264Roles, HEVCRoles

    if codec == "h264":
        return H264Roles(extradata)
    if codec == "hevc":
        return HEVCRoles(extradata)
    if codec == "av1":
        return AV1Roles()
    if codec == "vp8":
        return _VP8()
    return _ByContainer(only_key_frames)


class _ByContainer:
    steady = True

    def __init__(self, only_key_frames: bool) -> None:
        self._only_key_frames = only_key_frames

    def of(self, data: bytes, is_key_frame: bool) -> int:
        if self._only_key_frames:
            return SHOWN | ENTRY
        return SHOWN | REFERENCE | (ENTRY if is_key_frame else 0)


class _VP8:
    steady = True

    def of(self, data: bytes, is_key_frame: bool) -> int:
        first = data[0]
        return REFERENCE | (0 if first & 1 else ENTRY) | (SHOWN if first >> 4 & 1 else 0)
