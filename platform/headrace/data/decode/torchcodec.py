"""Decoding with torchcodec 0.13, which uses the FFmpeg of the system. Optional: `pip install "headrace[torchcodec]"`.

    times -> packets wanted -> the key frames before them -> torchcodec -> pictures at full size -> cut and scaled

torchcodec (https://github.com/meta-pytorch/torchcodec) seeks in the container, and a seek may land behind the key
frame: with HEVC in an mp4 that marks every frame as a key frame, two thirds of the frames were other pictures with the
right times. So it is told which frames there are and where decoding may begin, as the file's index says; and of each
group of pictures it must first give that first frame: a decoder that did stands where it should. What is not certain
to be the right frame is UnsupportedCodec: a file that has no index, several video streams, mirrored pictures, a key
frame that an edit list hides, a frame at another time than its packet's.

What cannot be kept from it: a picture whose own data are damaged may come with the damage painted over, where PyAV
reports it; torchcodec does not tell.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from headrace.data.decode.geometry import Box, Orientation, centre_box
from headrace.data.decode.index import VideoIndex
from headrace.data.decode.limits import Deadline, Limits
from headrace.data.decode.probe import probe
from headrace.data.failures import UnsupportedCodec
from headrace.errors import UserError

# What torchcodec says, in degrees counterclockwise, of the orientations that are rotations.
_DEGREES = {
    Orientation(): 0,
    Orientation(transpose=True, flip_rows=True): 90,
    Orientation(flip_rows=True, flip_columns=True): 180,
    Orientation(transpose=True, flip_columns=True): 270,
}


class TorchCodecDecoder:
    """Decodes videos that have an index. One instance serves one thread.

    Args:
        limits: what is accepted.
        device: of torch; where pictures are decoded, cut and scaled.

    Raises:
        UserError: torchcodec is not installed, or cannot be loaded.
    """

    name = "torchcodec"

    def __init__(self, limits: Limits | None = None, device: str = "cpu") -> None:
        self._limits = limits or Limits()
        self._device = device
        self._torchcodec = _import_torchcodec()

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`.

        Raises:
            UnsupportedCodec: also for what torchcodec cannot be trusted to decode exactly, or fails to decode.
        """
        deadline = self._limits.start()
        if index is None:
            index = probe(file, self._limits).index
            file.seek(0)
        if index is None:
            raise UnsupportedCodec("torchcodec decodes only files whose packets tell their frames with certainty")
        self._limits.check_picture(index.codec.width, index.codec.height)
        which = index.timeline.on_screen(times_seconds)
        slots: dict[int, list[int]] = defaultdict(list)
        for slot, packet in enumerate(index.timeline.ids[which].tolist()):
            slots[packet].append(slot)
        reader = _Reader(file, deadline)
        try:
            for packet, picture in self._pictures(reader, index, slots.keys()):
                deadline.check()
                first, *others = slots[packet]
                self._write(picture, out[first], index.orientation)
                if others:
                    out[others] = out[first]
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the device's fault, not the sample's
        except (RuntimeError, ValueError, IndexError) as error:
            raise UnsupportedCodec(f"torchcodec cannot decode this video: {_reason(error)}") from error
        finally:
            reader.raise_what_was_caught()  # where reading failed, whatever else went wrong came of that
        return index.timeline.seconds[which]

    def _pictures(
        self, reader: _Reader, index: VideoIndex, wanted: Collection[int]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the upright pictures [3, H, W] of the wanted packets, and which it is, as they are shown."""
        entries = {index.entry_of(packet) for packet in wanted}
        needed = sorted(entries.union(wanted), key=lambda packet: int(index.pts[packet]))
        decoder = self._torchcodec.decoders.VideoDecoder(
            reader,
            dimension_order="NCHW",  # a view: the memory is NHWC
            num_ffmpeg_threads=1,
            device=self._device,
            custom_frame_mappings=_frame_mappings(index, needed, entries),
        )
        self._check_stream(decoder, index)
        tick = float(index.time_base)
        for number, packet in enumerate(needed):
            frame = decoder.get_frame_at(2 * number + 1)
            if abs(frame.pts_seconds - int(index.pts[packet]) * tick) > tick / 2:
                raise UnsupportedCodec(
                    f"torchcodec gives a frame at {frame.pts_seconds:.6f} s for one at {index.pts[packet] * tick:.6f} s"
                )
            if packet in wanted:
                yield packet, frame.data

    def _write(self, picture: torch.Tensor, out: NDArray[np.uint8], orientation: Orientation) -> None:
        """Write the centre of an upright picture [3, H, W], scaled, to `out` [height, width, 3]."""
        height, width = out.shape[:2]
        box = upright_centre_box(orientation, picture.shape[1], picture.shape[2], (height, width))
        centre = picture[:, box.top : box.top + box.height, box.left : box.left + box.width]
        torch.from_numpy(out).copy_(scale(centre, height, width).permute(1, 2, 0))

    def _check_stream(self, decoder: Any, index: VideoIndex) -> None:
        """Refuse another stream of the file than the indexed one, or one that torchcodec takes differently."""
        core, metadata = self._torchcodec._core, decoder.metadata
        streams = core.get_container_metadata(decoder._decoder).streams
        of_video = sum(isinstance(stream, core.VideoStreamMetadata) for stream in streams)
        first_seconds = int(index.pts[index.timeline.ids[0]]) * float(index.time_base)
        begin_seconds = metadata.begin_stream_seconds_from_header
        degrees = round(metadata.rotation or 0) % 360
        if of_video != 1:
            raise UnsupportedCodec(f"torchcodec may take another of the {of_video} video streams")
        if begin_seconds is None or abs(begin_seconds - first_seconds) > float(index.time_base) / 2:
            raise UnsupportedCodec(f"torchcodec lets the video begin at {begin_seconds} s, not at {first_seconds} s")
        if degrees != _DEGREES.get(index.orientation):
            raise UnsupportedCodec(f"torchcodec turns the picture by {degrees} degrees, which makes it not upright")


class _Reader:
    """A file for C++ code, through which no exception may pass: to it, a failure is the end of the file."""

    def __init__(self, file: BinaryIO, deadline: Deadline) -> None:
        self._file, self._deadline = file, deadline
        self._caught: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            self._deadline.check()
            return self._file.read(size) if self._caught is None else b""
        except BaseException as error:
            self._caught = self._caught or error
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except BaseException as error:
            self._caught = self._caught or error
            return -1

    def raise_what_was_caught(self) -> None:
        """Raise the first failure of the file, or that the time was up; do nothing if there was none."""
        if self._caught is not None:
            raise self._caught


def _frame_mappings(index: VideoIndex, needed: list[int], entries: set[int]) -> str:
    """Return what torchcodec is told instead of having it scan the file: these frames, by time, as JSON.

    Only they are listed, so that a few frames of a long video stay cheap. Each is listed twice, and of the two
    the second asked for: of frame numbers in succession torchcodec takes it that the frames succeed, too.
    """
    frames = [
        {"pts": int(index.pts[packet]), "duration": 0, "key_frame": int(packet in entries)}
        for packet in needed
        for _ in range(2)
    ]
    return json.dumps({"frames": frames})


def upright_centre_box(orientation: Orientation, height: int, width: int, target: tuple[int, int]) -> Box:
    """Return which box of an upright picture (height, width) is scaled to the target (height, width).

    It is the stored picture's centre box, turned as the picture was: the two differ by up to two rows or columns.
    """
    box = centre_box(*orientation.size(height, width), *orientation.size(*target), step=2)
    if orientation.transpose:
        box = Box(box.left, box.top, box.width, box.height)
    return Box(
        height - box.top - box.height if orientation.flip_rows else box.top,
        width - box.left - box.width if orientation.flip_columns else box.left,
        box.height,
        box.width,
    )


def scale(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return a picture [3, H, W] scaled to [3, height, width], uint8; the filter is that of Pillow."""
    wide = picture if picture.is_cpu else picture.float()  # CUDA has the antialiased filter only for floating point
    scaled = interpolate(wide[None], (height, width), mode="bilinear", antialias=True)[0]
    return scaled if scaled.dtype == torch.uint8 else scaled.round_().to(torch.uint8)


def _import_torchcodec() -> ModuleType:
    """Import torchcodec on first use.

    Raises:
        UserError: it is not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module("torchcodec")
    except ModuleNotFoundError as error:
        raise UserError(
            "the decoders torchcodec and nvdec need the package torchcodec, which is not installed: "
            "pip install 'headrace[torchcodec]', or choose --data.decoder auto"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"torchcodec is installed, but its libraries do not load: it needs the shared libraries of FFmpeg 4 to 8 "
            f"(apt install ffmpeg, or conda install ffmpeg) and the torch that it was built for (here is torch "
            f"{torch.__version__}); install them, or choose --data.decoder auto"
        ) from error


def _reason(error: Exception) -> str:
    """Return what torchcodec said, without the place in its source."""
    return re.sub(r"^\w+, \S+:\d+, ", "", str(error).strip().partition("\n")[0])
