"""The decoders by name. A new one is a file beside this and a line in the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace.data.decode import Decoder
from headrace.data.decode.index import VideoIndex
from headrace.data.decode.sniff import is_image, read_head
from headrace.data.failures import NotMedia, UnsupportedCodec
from headrace.errors import UserError, did_you_mean


class ByKind:
    """Gives images to one decoder and videos to another, by the first bytes of the file."""

    name = "auto"

    def __init__(self, image: Decoder, video: Decoder) -> None:
        self._image, self._video = image, video

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        # Only videos have an index; to look at the file would read more of it than is needed.
        decoder = self._image if index is None and is_image(read_head(file)) else self._video
        return decoder.decode(file, times_seconds, out, index)


class WithFallback:
    """Gives to a second decoder what the first does not support."""

    def __init__(self, first: Decoder, second: Decoder) -> None:
        self.name = first.name
        self._first, self._second = first, second

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        try:
            return self._first.decode(file, times_seconds, out, index)
        except (UnsupportedCodec, NotMedia):
            file.seek(0)
            return self._second.decode(file, times_seconds, out, index)


def _sparse() -> Decoder:
    from headrace.data.decode.pyav import PyAVDecoder

    return PyAVDecoder()


def _pyav() -> Decoder:
    from headrace.data.decode.pyav import PyAVDecoder

    return PyAVDecoder(sparse=False)


def _image() -> Decoder:
    from headrace.data.decode.image import ImageDecoder

    return ImageDecoder()


def _torchcodec() -> Decoder:
    from headrace.data.decode.torchcodec import TorchCodecDecoder

    return WithFallback(TorchCodecDecoder(), _sparse())


def _nvdec() -> Decoder:
    from headrace.data.decode.nvdec import NvdecDecoder

    return WithFallback(NvdecDecoder(), _sparse())


def _decord() -> Decoder:
    from headrace.data.decode.decord import DecordDecoder

    return WithFallback(DecordDecoder(), _sparse())


def _auto() -> Decoder:
    return ByKind(image=_image(), video=_sparse())


DECODERS: dict[str, Callable[[], Decoder]] = {
    "auto": _auto,  # images by libjpeg-turbo and Pillow, videos sparsely
    "sparse": _sparse,  # PyAV, and only what the wanted frames need
    "pyav": _pyav,  # PyAV, every frame from the key frame on
    "decord": _decord,  # what decord cannot decode exactly falls to PyAV
    "torchcodec": _torchcodec,  # the system's FFmpeg; likewise
    "nvdec": _nvdec,  # the GPU's video engine; likewise
    "image": _image,
}
_OWN = re.compile(r"[\w.]+:\w+")


def check_decoder(name: str) -> None:
    """Check that a decoder's name could be one, without importing anything.

    Raises:
        UserError: there is no such decoder.
    """
    if name not in DECODERS and not _OWN.fullmatch(name):
        raise UserError(f"there is no decoder {name!r}: {did_you_mean(name, DECODERS)}")


def build_decoder(name: str) -> Decoder:
    """Return the decoder of this name, or what "module:function" returns. Only its own libraries are imported.

    Raises:
        UserError: there is no such decoder, or what it needs is not installed.
    """
    check_decoder(name)
    if name in DECODERS:
        return DECODERS[name]()
    module, _, function = name.partition(":")
    try:
        factory: Callable[[], Decoder] = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the decoder {name!r} cannot be imported: {error}") from error
    return factory()
