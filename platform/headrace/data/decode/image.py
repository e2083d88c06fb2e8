"""Decoding still pictures. An image is a video of one frame that stays on for ever.

    JPEG       --libjpeg-turbo, at 1, 1/2, 1/4 or 1/8-->  pixels
    all other  --Pillow------------------------------->  pixels  --centre box-->  swscale  -->  out, upright

swscale's bilinear filter is the antialiased one of Pillow, within 0.2 of 255 levels for all but pictures of a few
pixels, in a third of the time; and the one through which videos go, so that both have the same statistics.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from headrace.data.decode import jpeg
from headrace.data.decode.exif import exif_orientation
from headrace.data.decode.geometry import Orientation, centre_box
from headrace.data.decode.index import VideoIndex
from headrace.data.decode.limits import Limits
from headrace.data.decode.sniff import is_heif, is_image
from headrace.data.failures import NotMedia, TooLarge, Truncated, UnsupportedCodec

# Pillow can open more, but some of that calls other programs (EPS) or is no picture (FITS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Pillow's format plugins let the errors of the parsing they do by hand pass through.
_DAMAGE = (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, EOFError, struct.error, zlib.error)

# As in `scale`, and colour taken from every pixel of an RGB source, where swscale would skip every second.
_BILINEAR, _FULL_CHROMA_INTERPOLATION, _FULL_CHROMA_INPUT = 0x2, 0x2000, 0x4000
_ACCURATE_ROUNDING, _BIT_EXACT = 0x40000, 0x80000
_FILTER = _BILINEAR | _FULL_CHROMA_INTERPOLATION | _FULL_CHROMA_INPUT | _ACCURATE_ROUNDING | _BIT_EXACT

# What Pillow warns of (odd metadata, transparency that is lost) is nothing that the reader of a decode actor's log can
# act upon. For the whole process: `warnings.catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageDecoder:
    """Decodes still pictures; every wanted time gives the same one. One instance serves one thread."""

    name = "image"

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._reformatter = VideoReformatter()  # keeps swscale's tables from one picture to the next of its size

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        if len(out):
            data = _read(file, self._limits)
            self._write(*self._decode(data, *out.shape[1:3]), out[0])
            out[1:] = out[0]
        return np.zeros(len(times_seconds))

    def _decode(self, data: bytes, height: int, width: int) -> tuple[NDArray[np.uint8], Orientation]:
        if data.startswith(jpeg.MAGIC):
            decoded = jpeg.decode_jpeg(data, height, width, self._limits)
            if decoded is not None:
                return decoded
        with _open(data, self._limits) as (image, orientation):
            return _pixels(image), orientation

    def _write(self, pixels: NDArray[np.uint8], orientation: Orientation, out: NDArray[np.uint8]) -> None:
        """Write the centre of `pixels` ([H, W, 3] or grey [H, W], and padding), scaled and upright, to `out`."""
        height, width = orientation.size(*out.shape[:2])
        box = centre_box(*pixels.shape[:2], height, width)
        centre = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
        upright = orientation.undo(out)
        grey = pixels.ndim == 2
        if centre.shape[:2] == (height, width):
            upright[:] = centre[..., None] if grey else centre
            return
        scaled = self._reformatter.reformat(
            VideoFrame.from_numpy_buffer(centre, "gray" if grey else "rgb24"),
            width=width,
            height=height,
            format="gray" if grey else "gbrp",
            interpolation=_FILTER,
            threads=1,
        )
        for plane, channels in zip(scaled.planes, ([0, 1, 2],) if grey else ([1], [2], [0]), strict=True):
            lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width]
            for channel in channels:
                upright[..., channel] = lines


@contextmanager
def open_image(file: BinaryIO, limits: Limits) -> Iterator[tuple[Image.Image, Orientation]]:
    """Open a picture, its pixels not yet decoded, and tell how it becomes upright.

    Raises:
        NotMedia, Truncated, UnsupportedCodec, TooLarge: also for errors of Pillow inside the `with`.
    """
    with _open(_read(file, limits), limits) as opened:
        yield opened


def _read(file: BinaryIO, limits: Limits) -> bytes:
    """Return the whole file, so that what the storage raises is not mistaken for damage to the picture."""
    size = limits.check_bytes(file)
    if size > limits.bytes_in_memory:
        raise TooLarge(f"a picture of {size} bytes; the limit is {limits.bytes_in_memory}")
    return file.read()


@contextmanager
def _open(data: bytes, limits: Limits) -> Iterator[tuple[Image.Image, Orientation]]:
    if not is_image(data):
        raise NotMedia("no picture that any decoder here knows")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            limits.check_picture(image.width, image.height)
            yield image, exif_orientation(_exif(image))
    except Image.DecompressionBombError as error:
        raise TooLarge(str(error)) from error
    except UnidentifiedImageError as error:
        if is_heif(data):
            raise UnsupportedCodec("a HEIF picture, for which no decoder is built in") from error
        raise Truncated("begins as a picture but cannot be opened") from error
    except _DAMAGE as error:
        raise Truncated(f"the picture cannot be decoded: {error}") from error


def _exif(image: Image.Image) -> bytes | None:
    """Return a picture's EXIF block. Pillow itself turns a TIFF upright."""
    if image.format == "PNG":
        image.load()  # the block may stand behind the pixels
        if "Raw profile type exif" in image.info:  # as ImageMagick writes it: three lines of header, then hex
            return bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    exif = image.info.get("exif")
    return exif if isinstance(exif, bytes) else None


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Decode to [H, W, 3] RGB or [H, W] grey of 8 bits, with padding. Transparency is dropped, as all over the field."""
    image.load()
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255
        return _padded((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise UnsupportedCodec(f"pixels of mode {image.mode}, which is no RGB picture")
    if image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    return _padded(np.asarray(image))


def _padded(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy that is followed by `jpeg.PADDING_BYTES` of memory."""
    memory = np.empty(pixels.size + jpeg.PADDING_BYTES, np.uint8)
    copy = memory[: pixels.size].reshape(pixels.shape)
    copy[:] = pixels
    return copy
