"""Generated videos: one moving scene, encoded by each codec with short and long groups of pictures.

The scene has what makes decoding cost what it costs in practice: texture at all scales, a lens that blurs the finest,
a camera that pans by parts of a pixel, objects that cover one another, and sensor noise. Encoders run with their own
defaults (x264 medium: adaptive B-frames, b-pyramid). So the files are like those that users have: at GOP 250 with
B-frames x264 spends 0.06 bits a pixel and no frame refers to 44 % of the frames (12 real H.264 clips with B-frames:
0.01 to 0.09 bits, 36 to 50 %).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

Codec = Literal["h264", "hevc", "vp9", "av1"]
CODECS: tuple[Codec, ...] = ("h264", "hevc", "vp9", "av1")

_ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
_EDGE_PIXELS = 160  # how far the camera pans beyond the picture, each way


@dataclass(frozen=True)
class Encoding:
    """How a generated video is encoded.

    Attributes:
        gop: frames from one key frame to the next.
        b_frames: most B-frames in a row; None for codecs that do not have them (they hide frames instead).
    """

    codec: Codec
    gop: int
    b_frames: int | None = None
    frames: int = 300
    fps: int = 30
    height: int = 360
    width: int = 640

    @property
    def name(self) -> str:
        """What tables call it, e.g. "h264 GOP 250 B 3"."""
        b_frames = "" if self.b_frames is None else f" B {self.b_frames}"
        return f"{self.codec} GOP {self.gop}{b_frames}"

    @property
    def suffix(self) -> str:
        """The container in which one finds it."""
        return ".webm" if self.codec == "vp9" else ".mp4"

    @property
    def options(self) -> dict[str, str]:
        """What the encoder is told."""
        # One thread each: how many there are would change the bits from one machine to the next.
        if self.codec == "h264":
            parameters = f"keyint={self.gop}:bframes={self.b_frames or 0}:scenecut=0"
            return {"preset": "medium", "crf": "23", "x264-params": parameters}
        if self.codec == "hevc":
            parameters = f"keyint={self.gop}:bframes={self.b_frames or 0}:scenecut=0:pools=1:frame-threads=1"
            return {"preset": "fast", "crf": "26", "x265-params": f"{parameters}:log-level=error"}
        if self.codec == "vp9":
            return {"deadline": "good", "cpu-used": "5", "crf": "33", "b": "0"}
        return {"preset": "9", "crf": "35", "svtav1-params": f"keyint={self.gop}:lp=1"}


def generated_video(encoding: Encoding) -> Path:
    """Return where the encoded scene lies; it is made once and kept in the user's cache."""
    drawn_by = Path(__file__).read_text(encoding="utf-8")  # another scene is another video
    recipe = json.dumps({**asdict(encoding), "drawn_by": drawn_by, "ffmpeg": av.ffmpeg_version_info})
    name = f"{encoding.name.replace(' ', '-').lower()}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"
    path = _cache_folder() / f"{name}{encoding.suffix}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{os.getpid()}-{path.name}")
        _encode(encoding, unfinished)
        unfinished.replace(path)
    return path


def scene(frames: int, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of the scene as 4:2:0 planes [H * 3 / 2, W]; the same ones on each call.

    Args:
        frames: how many.
        height, width: pixels, both even.
    """
    random = np.random.default_rng(0)
    background = _Texture(random, height + 2 * _EDGE_PIXELS, width + 2 * _EDGE_PIXELS)
    objects = [_Texture(random, height // 2, width // 3) for _ in range(3)]
    for number in range(frames):
        seconds = number / 30
        sway, bob = np.sin(0.5 * seconds), np.sin(0.8 * seconds + 1)
        planes = background.planes(_EDGE_PIXELS * (1 + 0.4 * bob), _EDGE_PIXELS * (1 + 0.9 * sway), height, width)
        for which, texture in enumerate(objects):
            phase = 2.1 * which + seconds * (0.7 + 0.3 * which)
            _put(planes, texture, 0.5 + 0.35 * np.sin(phase), 0.5 + 0.45 * np.cos(1.3 * phase))
        planes[0] += random.normal(0, 1, planes[0].shape).astype(np.float32)
        yield np.concatenate([np.clip(plane, 16, 235).astype(np.uint8).reshape(-1, width) for plane in planes])


class _Texture:
    """A picture with a spectrum like a photograph's, larger than what is shown of it at a time."""

    def __init__(self, random: np.random.Generator, height: int, width: int) -> None:
        # One row and column more, to look between pixels.
        self._luma = _spectral_noise(random, height + 2, width + 2, mean=120, deviation=38)
        self._chroma = [_spectral_noise(random, height // 2 + 2, width // 2 + 2, mean=128, deviation=8) for _ in "UV"]
        self.height, self.width = height, width

    def planes(self, top: float, left: float, height: int, width: int) -> list[NDArray[np.float32]]:
        """Return the planes Y, U, V of a window of it, which may begin between pixels."""
        luma = _window(self._luma, top, left, height, width)
        return [luma, *(_window(plane, top / 2, left / 2, height // 2, width // 2) for plane in self._chroma)]


def _spectral_noise(
    random: np.random.Generator, height: int, width: int, mean: float, deviation: float
) -> NDArray[np.float32]:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal((height, width))) / frequency**1.5
    frequency[0, 0] = 0
    spectrum *= np.exp(-((frequency / 0.3) ** 2))  # the lens
    picture = np.fft.irfft2(spectrum, (height, width))
    scaled: NDArray[np.float32] = (mean + deviation * picture / picture.std()).astype(np.float32)
    return scaled


def _window(picture: NDArray[np.float32], top: float, left: float, height: int, width: int) -> NDArray[np.float32]:
    row, column = int(top), int(left)
    down, right = np.float32(top - row), np.float32(left - column)
    part = picture[row : row + height + 1, column : column + width + 1]
    rows = part[:-1] * (1 - down) + part[1:] * down
    window: NDArray[np.float32] = rows[:, :-1] * (1 - right) + rows[:, 1:] * right
    return window


def _put(planes: list[NDArray[np.float32]], texture: _Texture, y: float, x: float) -> None:
    """Draw an ellipse of a texture, centred at a share of the picture's height and width, over the planes."""
    height, width = planes[0].shape
    top, left = (int(y * height) - texture.height // 2) // 2 * 2, (int(x * width) - texture.width // 2) // 2 * 2
    for plane, source in zip(planes, texture.planes(0, 0, texture.height, texture.width), strict=True):
        step = height // plane.shape[0]
        first_row, first_column = top // step, left // step
        rows = slice(max(0, first_row), min(plane.shape[0], first_row + source.shape[0]))
        columns = slice(max(0, first_column), min(plane.shape[1], first_column + source.shape[1]))
        across = (np.arange(rows.start, rows.stop) - first_row + 0.5) / source.shape[0] * 2 - 1
        along = (np.arange(columns.start, columns.stop) - first_column + 0.5) / source.shape[1] * 2 - 1
        inside = across[:, None] ** 2 + along[None, :] ** 2 < 1
        shown = source[rows.start - first_row : rows.stop - first_row]
        shown = shown[:, columns.start - first_column : columns.stop - first_column]
        plane[rows, columns] = np.where(inside, shown, plane[rows, columns])


def _encode(encoding: Encoding, path: Path) -> None:
    os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes to the terminal by itself
    container = "webm" if encoding.suffix == ".webm" else "mp4"
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(_ENCODERS[encoding.codec], rate=encoding.fps, options=encoding.options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = encoding.height, encoding.width, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = encoding.gop, 1
        for number, planes in enumerate(scene(encoding.frames, encoding.height, encoding.width)):
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, encoding.fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "headrace" / "benchmarks"
