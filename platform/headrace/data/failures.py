"""What can be wrong with a sample, and how much of it a run tolerates."""

from __future__ import annotations

from typing import ClassVar


class SampleError(Exception):
    """A sample that cannot be turned into pixels. The run replaces it and writes it down.

    `reason` is the short, stable name by which quarantine tables and budgets count.
    """

    reason: ClassVar[str] = "unreadable"


class NotMedia(SampleError):
    """The bytes are no video or image that any decoder here knows."""

    reason = "not a video or image"


class Truncated(SampleError):
    """The file ends, or breaks, before a wanted frame."""

    reason = "truncated or damaged"


class NoFrames(SampleError):
    """The container is sound but holds no picture (an init segment, an audio file)."""

    reason = "no frames"


class Encrypted(SampleError):
    """The pictures are encrypted."""

    reason = "encrypted"


class UnsupportedCodec(SampleError):
    """No decoder for this codec is built in."""

    reason = "unsupported codec"


class TooLarge(SampleError):
    """The sample exceeds a stated limit of pixels, frames or bytes."""

    reason = "too large"


class TooSlow(SampleError):
    """Decoding took longer than the stated limit."""

    reason = "too slow"


class Crashed(SampleError):
    """The process that decoded it died."""

    reason = "crashes the decoder"
