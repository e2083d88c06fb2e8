"""The contenders of the decoding benchmark: each as its own documentation says it is fastest on one thread.

    a file on disk + which frames  ->  pixels [T, H, W, 3] uint8 RGB

Everything between the two is measured: opening, demuxing, decoding, scaling. Each lives in a `ContenderProcess`,
which imports only the library that it needs. The others stretch the picture where headrace first cuts it to the
target's proportions; they scale all of its pixels, and with a cheaper filter (their default).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SIZE = 224  # pixels: all deliver pictures of SIZE x SIZE


@dataclass(frozen=True)
class Request:
    """Which frames of a video are wanted, in each of the ways in which a library may ask for them.

    Attributes:
        frames: [T] counted in presentation order, ascending; repeats allowed.
        pts: [T] their presentation times in ticks of the stream.
        seconds: [T] the middle of the time for which each is shown, counted from the first frame of the video.
        first_seconds: when the first frame is shown, on the clock of the stream.
        height, width: of the pixels that are wanted.
        checksums: [T] of the frames as they are stored, for who must prove that it decodes them.
    """

    path: str
    frames: tuple[int, ...]
    pts: tuple[int, ...]
    seconds: tuple[float, ...]
    first_seconds: float
    height: int
    width: int
    checksums: tuple[int, ...] = ()


class VideoDecoder(Protocol):
    """A contender."""

    def versions(self) -> dict[str, str]:
        """Return the versions of what it is made of."""
        ...

    def prepare(self, request: Request) -> None:
        """Do what is not measured, for the request of which the next calls are."""
        ...

    def decode(self, request: Request) -> NDArray[np.uint8]:
        """Return the pixels [T, H, W, 3]."""
        ...


class Headrace:
    """headrace's default decoder, with the index that the manifest holds of each video, or without it."""

    def __init__(self, use_index: bool) -> None:
        from headrace.data.decode.table import build_decoder

        self._decoder = build_decoder("auto")
        self._use_index = use_index
        self._packed_index: bytes | None = None

    def versions(self) -> dict[str, str]:
        """See `VideoDecoder.versions`."""
        import headrace

        return {"headrace": headrace.__version__}

    def prepare(self, request: Request) -> None:
        """Learn what indexing a source learns once."""
        from headrace.data.decode.probe import probe

        self._packed_index = None
        if self._use_index:
            with Path(request.path).open("rb") as file:
                index = probe(file).index
            self._packed_index = None if index is None else index.to_bytes()

    def decode(self, request: Request) -> NDArray[np.uint8]:
        """See `VideoDecoder.decode`. Unpacking the index is part of it."""
        from headrace.data.decode.index import VideoIndex

        index = None if self._packed_index is None else VideoIndex.from_bytes(self._packed_index)
        pixels = np.empty((len(request.frames), request.height, request.width, 3), np.uint8)
        with Path(request.path).open("rb") as file:
            self._decoder.decode(file, np.array(request.seconds), pixels, index)
        return pixels


class TorchCodec:
    """torchcodec, scaling in the decoder and giving NHWC, which costs it no copy."""

    def __init__(self, seek_mode: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch_version = torch.__version__
        self._library: Any = import_module("torchcodec")
        self._new_decoder: Any = import_module("torchcodec.decoders").VideoDecoder
        self._resize: Any = import_module("torchcodec.transforms").Resize
        self._seek_mode = seek_mode

    def versions(self) -> dict[str, str]:
        """See `VideoDecoder.versions`."""
        return {
            "torch": self._torch_version,
            "torchcodec": self._library.__version__,
            "torchcodec's FFmpeg": str(self._library.ffmpeg_major_version),
        }

    def prepare(self, request: Request) -> None:
        """Nothing to prepare."""

    def decode(self, request: Request) -> NDArray[np.uint8]:
        """See `VideoDecoder.decode`."""
        decoder = self._new_decoder(
            request.path,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode=self._seek_mode,
            transforms=[self._resize((request.height, request.width))],
        )
        batch = decoder.get_frames_played_at([request.first_seconds + seconds for seconds in request.seconds])
        pixels: NDArray[np.uint8] = batch.data.numpy()
        return pixels


class Decord:
    """decord, scaling in the reader."""

    def __init__(self) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._decord: Any = decord

    def versions(self) -> dict[str, str]:
        """See `VideoDecoder.versions`."""
        return {"decord": self._decord.__version__}

    def prepare(self, request: Request) -> None:
        """Nothing to prepare."""

    def decode(self, request: Request) -> NDArray[np.uint8]:
        """See `VideoDecoder.decode`."""
        reader = self._decord.VideoReader(request.path, width=request.width, height=request.height, num_threads=1)
        pixels: NDArray[np.uint8] = reader.get_batch(request.frames).asnumpy()
        return pixels


class PlainPyAV:
    """PyAV as one uses it who knows it: seek to the key frame before, decode on, convert what is wanted.

    It goes on decoding from one wanted frame to the next, and seeks where the container's index shows a key frame
    in between.
    """

    def __init__(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._av: Any = av
        self._reformatter = VideoReformatter()  # keeps its tables from one frame to the next

    def versions(self) -> dict[str, str]:
        """See `VideoDecoder.versions`."""
        return {"av": self._av.__version__, "av's FFmpeg": self._av.ffmpeg_version_info}

    def prepare(self, request: Request) -> None:
        """Nothing to prepare."""

    def decode(self, request: Request) -> NDArray[np.uint8]:
        """See `VideoDecoder.decode`."""
        pixels = np.empty((len(request.frames), request.height, request.width, 3), np.uint8)
        with self._av.open(request.path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
            frame, frames = None, iter(())
            for slot, pts in enumerate(request.pts):
                if frame is None or self._key_frame_before(stream, pts) > frame.pts:
                    container.seek(pts, stream=stream)
                    frame, frames = None, container.decode(stream)
                while frame is None or frame.pts < pts:
                    frame = next(frames)
                self._convert(frame, pixels[slot])
        return pixels

    @staticmethod
    def _key_frame_before(stream: Any, pts: int) -> int:
        """Return when the last key frame up to a time is decoded, as far as the container tells before it is read."""
        at = stream.index_entries.search_timestamp(pts)
        return stream.start_time or 0 if at < 0 else int(stream.index_entries[at].timestamp)

    def _convert(self, frame: Any, out: NDArray[np.uint8]) -> None:
        height, width = out.shape[:2]
        quarter_turns = frame.rotation // 90
        if quarter_turns % 2:
            height, width = width, height
        scaled: Any = self._reformatter.reformat(frame, width, height, "rgb24")
        out[:] = np.rot90(scaled.to_ndarray(), quarter_turns)
