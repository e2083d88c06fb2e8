"""What every part of a picture shares: the camera, the light, and how colours are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.demo.scenes import Color, Daytime, Scene, Weather

FloatArray = NDArray[np.floating[Any]]  # float32 throughout

CAMERA_HEIGHT = 1.35  # metres
_FOCAL = 0.82  # picture widths: a horizontal view of 63 degrees


@dataclass(frozen=True)
class Camera:
    focal: float  # pixels, as are the two below
    centre: float
    horizon: float
    x: float
    travelled: float
    bend: float
    turned: float  # radians since the start

    @staticmethod
    def at(scene: Scene, seconds: float, width: int, height: int) -> Camera:
        focal = _FOCAL * width
        yaw, pitch = scene.sway(seconds)
        travelled = scene.speed_mps * seconds
        return Camera(
            focal=focal,
            centre=width / 2 + focal * yaw,
            horizon=0.44 * height + focal * pitch,
            x=scene.camera_x(seconds),
            travelled=travelled,
            bend=scene.bend_per_metre,
            turned=scene.bend_per_metre * travelled - yaw,
        )

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        scale = self.focal / z
        return (
            self.centre + scale * (x - self.x + 0.5 * self.bend * z * z),
            self.horizon + scale * (CAMERA_HEIGHT - y),
        )


@dataclass(frozen=True)
class Air:
    """Light and sight: colours are 0 to 255, `ambient` and `headlight` factors of a surface's colour."""

    top: Color
    bottom: Color
    haze: Color
    ambient: Color
    headlight: float
    sight_metres: float
    wet: float

    def tint(self, x: float, z: float) -> Callable[[Color], tuple[int, int, int]]:
        """Return what turns a surface's colour into its colour as seen at x, z from the camera."""
        beam = self.headlight * math.exp(-z / 30.0 - (x / (2.2 + 0.16 * z)) ** 2)
        clear = math.exp(-z / self.sight_metres)
        (r, g, b), (hr, hg, hb) = self.ambient, self.haze
        r, g, b = (r + beam) * clear, (g + 0.95 * beam) * clear, (b + 0.82 * beam) * clear
        hr, hg, hb = hr * (1 - clear), hg * (1 - clear), hb * (1 - clear)

        def seen(color: Color) -> tuple[int, int, int]:
            return (
                min(255, int(color[0] * r + hr)),
                min(255, int(color[1] * g + hg)),
                min(255, int(color[2] * b + hb)),
            )

        return seen


_SKIES: dict[Weather, tuple[Color, Color, float, float]] = {  # top, bottom, ambient, sight in metres
    "clear": ((74, 134, 212), (190, 218, 240), 1.0, 320.0),
    "overcast": ((142, 152, 166), (204, 209, 213), 0.86, 190.0),
    "rain": ((104, 114, 126), (164, 172, 179), 0.70, 85.0),
    "fog": ((184, 190, 195), (206, 210, 212), 0.84, 27.0),
}
_DUSK: dict[Weather, Color] = {
    "clear": (250, 158, 92), "overcast": (176, 138, 128), "rain": (128, 110, 116), "fog": (168, 146, 140),
}  # fmt: skip


def air_of(weather: Weather, daytime: Daytime) -> Air:
    """Return the light and sight of a weather at a time of day."""
    top, bottom, ambient, sight = _SKIES[weather]
    wet = 1.0 if weather == "rain" else 0.0
    if daytime == "day":
        return Air(top, bottom, bottom, (ambient, ambient, ambient), 0.0, sight, wet)
    if daytime == "dusk":
        glow = _DUSK[weather]
        light = (0.70 * ambient, 0.60 * ambient, 0.66 * ambient)
        return Air(times(top, (0.46, 0.44, 0.62)), glow, mix(glow, (96, 86, 104), 0.35), light, 0.2, sight, wet)
    top, bottom = times(top, (0.07, 0.08, 0.14)), times(bottom, (0.13, 0.14, 0.20))
    light = (0.15 * ambient, 0.16 * ambient, 0.23 * ambient)
    return Air(top, bottom, bottom, light, 0.85, sight, wet)


def mix(one: Color, other: Color, amount: float) -> Color:
    r, g, b = (x + (y - x) * amount for x, y in zip(one, other, strict=True))
    return r, g, b


def times(color: Color, factors: Sequence[float]) -> Color:
    return color[0] * factors[0], color[1] * factors[1], color[2] * factors[2]


def planes_of(color: Color) -> FloatArray:
    return np.array(color, dtype=np.float32)[:, None, None]


def interleaved(planes: FloatArray) -> NDArray[np.uint8]:
    """Return [H, W, 3] bytes of [3, H, W] floats."""
    pixels = np.empty((*planes.shape[1:], 3), dtype=np.uint8)
    for channel, plane in enumerate(planes):
        pixels[..., channel] = np.clip(plane, 0, 255)
    return pixels
