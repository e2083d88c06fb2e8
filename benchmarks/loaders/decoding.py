"""How the other loaders' users decode: a file or its bytes, and which frames  ->  pixels [T, H, W, 3] uint8.

One thread each: with as many workers as cores, more cost time. All scale the whole picture, inside the decoder, with
its default filter, which is the cheapest that it has; an image is cut to the centre and scaled in one call.

- decord: `num_threads=1`, size given to the reader (https://github.com/dmlc/decord, README).
- torchcodec: approximate seeking, scaling as a transform of the decoder, one FFmpeg thread, all frames in one call
  (https://meta-pytorch.org/torchcodec/stable/generated_examples/decoding/performance_tips.html). NHWC is what FFmpeg
  gives it; NCHW would be a copy.
- Pillow: `draft`, then `resize` with a box (https://pillow.readthedocs.io/en/stable/reference/Image.html).
"""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from benchmarks.loaders.contract import SIZE, Kind, Pixels, Wanted

Source: TypeAlias = "str | bytes"

VIDEO_DECODERS = ("decord", "torchcodec")
IMAGE_DECODERS = ("Pillow",)


class PeerDecoder(Protocol):
    """A decoder of the other loaders."""

    def decode(self, source: Source, wanted: Wanted) -> Pixels:
        """Return the pixels [T, H, W, 3]."""
        ...


def build(name: str) -> PeerDecoder:
    """Return the decoder of this name; imports only its own libraries."""
    if name == "decord":
        return Decord()
    if name == "torchcodec":
        return TorchCodec()
    if name == "Pillow":
        return Pillow()
    if name == "spdl":
        from benchmarks.loaders.spdl_decoder import Spdl

        return Spdl()
    raise ValueError(f"there is no decoder {name!r}")


class Decord:
    """decord, scaling in the reader."""

    def __init__(self) -> None:
        self._decord: Any = import_module("decord")
        self._decord.logging.set_level(self._decord.logging.QUIET)

    def decode(self, source: Source, wanted: Wanted) -> Pixels:
        """See `PeerDecoder.decode`."""
        file = source if isinstance(source, str) else io.BytesIO(source)
        reader = self._decord.VideoReader(file, width=SIZE, height=SIZE, num_threads=1)
        pixels: Pixels = reader.get_batch(wanted.frames).asnumpy()
        return pixels


class TorchCodec:
    """torchcodec, scaling in the decoder."""

    def __init__(self) -> None:
        self._new_decoder: Any = import_module("torchcodec.decoders").VideoDecoder
        self._resize: Any = import_module("torchcodec.transforms").Resize((SIZE, SIZE))

    def decode(self, source: Source, wanted: Wanted) -> Pixels:
        """See `PeerDecoder.decode`."""
        decoder = self._new_decoder(
            source,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="approximate",
            transforms=[self._resize],
        )
        pixels: Pixels = decoder.get_frames_played_at(list(wanted.seconds)).data.numpy()
        return pixels


class Pillow:
    """Pillow, for images."""

    def __init__(self) -> None:
        self._image: Any = import_module("PIL.Image")

    def decode(self, source: Source, wanted: Wanted) -> Pixels:
        """See `PeerDecoder.decode`."""
        data = Path(source).read_bytes() if isinstance(source, str) else source
        image = self._image.open(io.BytesIO(data))
        image.draft("RGB", (SIZE, SIZE))
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        scaled = image.convert("RGB").resize((SIZE, SIZE), self._image.Resampling.BILINEAR, box=box)
        pixels: Pixels = np.asarray(scaled)[None]
        return pixels


def names_for(kind: Kind) -> tuple[str, ...]:
    """Return the decoders that the users of the other loaders choose between."""
    return VIDEO_DECODERS if kind == "video" else IMAGE_DECODERS
