"""Decoding still pictures. An image is a video of one frame that stays on for ever.

    JPEG       --libjpeg-turbo, at 1, 1/2, 1/4 or 1/8-->  pixels
    all other  --Pillow------------------------------->  pixels  --centre, scaled, upright-->  out

Other PNG and WebP decoders were measured: FFmpeg's take 0.6 to 0.8 of Pillow's time, but its PNG decoder gives wrong
pixels when one context decodes one file after the other.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from headrace.data.decode.exif import exif_orientation
from headrace.data.decode.geometry import Orientation
from headrace.data.decode.index import VideoIndex
from headrace.data.decode.jpeg import MAGIC, decode_jpeg
from headrace.data.decode.limits import Limits
from headrace.data.decode.picture import Picture, PictureScaler, pixel_memory
from headrace.data.decode.sniff import is_heif, is_image
from headrace.data.failures import NotMedia, TooLarge, Truncated, UnsupportedCodec

# Pillow can open more, but some of that calls other programs (EPS) or is no picture (FITS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Pillow's format plugins let the errors of the parsing they do by hand pass through.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    IndexError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)

# What Pillow warns of (odd metadata, transparency that is lost) is nothing that the reader of a decode actor's log can
# act upon. For the whole process: `warnings.catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageDecoder:
    """Decodes still pictures; every wanted time gives the same one. One instance serves one thread."""

    name = "image"

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._scaler = PictureScaler()

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        if len(out):
            self._scaler.write(self._decode(_read(file, self._limits), out.shape[1], out.shape[2]), out[0])
            out[1:] = out[0]
        return np.zeros(len(times_seconds))

    def _decode(self, data: bytes, target_height: int, target_width: int) -> Picture:
        if data.startswith(MAGIC) and (picture := decode_jpeg(data, target_height, target_width, self._limits)):
            return picture
        with _open(data, self._limits) as (image, orientation):
            pixels = _pixels(image)
            return Picture(pixels, orientation, pixels.shape[0], pixels.shape[1])


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
            with suppress(ValueError):
                return bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    exif = image.info.get("exif")
    return exif if isinstance(exif, bytes) else None


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Decode to [h, w, 3] RGB or [h, w] grey of 8 bits. Transparency is dropped, as everywhere in the field."""
    image.load()
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise UnsupportedCodec(f"pixels of mode {image.mode}, which no rule turns into RGB")
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255
        decoded = np.asarray(image) >> 8
    else:
        decoded = np.asarray(image if image.mode in ("RGB", "L") else image.convert("RGB"))
    pixels = pixel_memory(decoded.size)[: decoded.size].reshape(decoded.shape)
    pixels[:] = decoded
    return pixels
