"""Decoding still pictures with Pillow. An image is a video of one frame that stays on for ever."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from headrace.data.decode.geometry import Orientation, cover_size, crop_centre
from headrace.data.decode.limits import Limits
from headrace.data.decode.sniff import is_heif, is_image, read_head
from headrace.data.failures import NotMedia, TooLarge, Truncated, UnsupportedCodec

# Pillow can open more, but some of that calls other programs (EPS) or is no picture (FITS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "GIF", "AVIF")
_EXIF_ORIENTATION = 0x0112
_ORIENTATIONS = {  # EXIF 2.32, 4.6.4: which side of the scene the stored row 0 and column 0 are
    1: Orientation(),
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_columns=True),
    7: Orientation(transpose=True, flip_rows=True, flip_columns=True),
    8: Orientation(transpose=True, flip_rows=True),
}
# Pillow's format plugins let the errors of the parsing they do by hand pass through.
_DAMAGE = (ValueError, SyntaxError, IndexError, KeyError, TypeError, EOFError, struct.error, zlib.error)


class ImageDecoder:
    """Decodes still pictures; every wanted time gives the same one."""

    name = "image"

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()

    def decode(self, file: BinaryIO, times_seconds: NDArray[np.float64], out: NDArray[np.uint8]) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        target_height, target_width = out.shape[1:3]
        with open_image(file, self._limits) as (image, orientation):
            height, width = cover_size(image.height, image.width, *orientation.size(target_height, target_width))
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size for a fraction of the cost. Asking for
            # twice what is needed leaves the filter enough to work on.
            image.draft("RGB", (2 * width, 2 * height))
            pixels = np.asarray(_rgb(image).resize((width, height), Image.Resampling.BILINEAR))
        out[:] = crop_centre(orientation.apply(pixels), target_height, target_width)
        return np.zeros(len(times_seconds))


@contextmanager
def open_image(file: BinaryIO, limits: Limits) -> Iterator[tuple[Image.Image, Orientation]]:
    """Open a picture, its pixels not yet decoded, and tell how it becomes upright.

    Raises:
        NotMedia, Truncated, UnsupportedCodec, TooLarge: also for errors of Pillow inside the `with`.
    """
    limits.check_bytes(file)
    head = read_head(file)
    if not is_image(head):
        raise NotMedia("no picture that any decoder here knows")
    try:
        with Image.open(file, formats=_FORMATS) as image:
            limits.check_picture(image.width, image.height)
            yield image, _orientation(image)
    except Image.DecompressionBombError as error:
        raise TooLarge(str(error)) from error
    except UnidentifiedImageError as error:
        if is_heif(head):
            raise UnsupportedCodec("a HEIF picture, for which no decoder is built in") from error
        raise Truncated("begins as a picture but cannot be opened") from error
    except OSError as error:
        if error.errno is not None:  # of the storage, not of the picture
            raise
        raise Truncated(f"the picture cannot be decoded: {error}") from error
    except _DAMAGE as error:
        raise Truncated(f"the picture cannot be decoded: {error}") from error


def _orientation(image: Image.Image) -> Orientation:
    """Return what EXIF says of the picture; damaged EXIF says nothing, and costs no picture."""
    try:
        stated = image.getexif().get(_EXIF_ORIENTATION)
    except (OSError, *_DAMAGE):
        return Orientation()
    return _ORIENTATIONS.get(stated, Orientation()) if isinstance(stated, int) else Orientation()


def _rgb(image: Image.Image) -> Image.Image:
    """Decode to 8-bit RGB. Transparency is dropped, as everywhere in the field."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnsupportedCodec(f"pixels of mode {image.mode}, whose range is unknown")
    return image.convert("RGB")
