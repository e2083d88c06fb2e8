"""One sample -> the same sample, its video encoded anew, or the reason why not.

An image, and all that stands beside the medium, stay as they are, byte for byte.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from headrace.data.decode.limits import Limits
from headrace.data.decode_cost import Comparison, compare
from headrace.data.failures import SampleError
from headrace.data.members import Item, members_of, place_of
from headrace.data.shards import check_sample
from headrace.data.storage import ByteRange
from headrace.data.transcode import EXTENSION, Encoding, transcode
from headrace.errors import RunError, UserError


@dataclass(frozen=True)
class Measure:
    """How decoding is measured before and after: so many frames of a clip at size x size pixels."""

    frames: int = 8
    size: int = 224

    def __post_init__(self) -> None:
        if self.frames < 1 or self.size < 1:
            raise UserError(
                f"decoding is measured on at least 1 frame of 1 pixel: raise --measure-frames ({self.frames}) or "
                f"--measure-size ({self.size})"
            )


@dataclass(frozen=True)
class Transcoded:
    """A sample to be written, or, with a `reason`, to be left out.

    Attributes:
        key: under which it is to be written, or under which its source knows it if it is left out.
        members: the bytes of each extension; empty if it is left out.
        bytes_before, bytes_after: of its medium.
        comparison: of its decoding, if that was asked for.
        reason, message: why it is left out: a few stable words, and a sentence.
    """

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    bytes_before: int = 0
    bytes_after: int = 0
    comparison: Comparison | None = None
    reason: str = ""
    message: str = ""


def transcode_sample(item: Item, encoding: Encoding, limits: Limits, measure: Measure | None = None) -> Transcoded:
    """Return the sample with its video encoded anew.

    Raises:
        RunError: the storage failed.
    """
    try:
        return _transcode(item, encoding, limits, measure)
    except SampleError as error:
        return Transcoded(item.source_key, reason=error.reason, message=str(error))
    except OSError as error:
        raise RunError(f"{item.source_key!r} cannot be transcoded: {error}") from error


def _transcode(item: Item, encoding: Encoding, limits: Limits, measure: Measure | None) -> Transcoded:
    found = members_of(item)
    comparison = None
    with item.media.open() as file:
        if item.kind == "video":
            media, suffix = transcode(file, encoding, limits), EXTENSION
            if measure is not None:
                comparison = compare(file, io.BytesIO(media), frames=measure.frames, size=measure.size, limits=limits)
        else:
            media, suffix = file.read(), found.extension.rpartition(".")[2]
    extension = place_of(found.extension, suffix, list(found.beside))
    members = {extension: media} | {name: _read(where) for name, where in found.beside.items()}
    try:
        check_sample(item.key, members)
    except UserError as error:
        return Transcoded(item.source_key, reason="no name for a shard", message=str(error))
    return Transcoded(item.key, members, item.media.size, len(media), comparison)


def _read(where: ByteRange | bytes) -> bytes:
    if isinstance(where, bytes):
        return where
    with where.open() as file:
        return file.read()
