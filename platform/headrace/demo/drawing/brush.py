"""Drawing in metres: polygons that stand in the scene, and lights that are added at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from headrace.demo.drawing.view import Air, Camera, FloatArray, planes_of, times
from headrace.demo.scenes import Color, Scene, Thing
from headrace.keyed import uniform

Glow = tuple[float, float, float, Color]  # u, v and radius in pixels
Points = Sequence[tuple[float, float]]

SCALE = 2  # the supersampling of things


class Brush:
    """Draws in metres onto the doubled picture. Shapes stand in a plane across the road at some z."""

    def __init__(self, image: Image.Image, camera: Camera, air: Air, seconds: float) -> None:
        self.draw = ImageDraw.Draw(image)
        self.veil = ImageDraw.Draw(image, "RGBA")  # mixes with what is there, at a cost
        self.size = image.size
        self.camera, self.air, self.seconds = camera, air, seconds
        self.glows: list[Glow] = []

    def plane(self, thing: Thing) -> Plane:
        return Plane(self, thing.x, thing.z)

    def quad(self, corners: Sequence[tuple[float, float, float]], fill: tuple[int, ...]) -> None:
        """Fill a polygon whose corners are x, y, z in metres."""
        project = self.camera.project
        self.draw.polygon([(SCALE * u, SCALE * v) for u, v in (project(*c) for c in corners)], fill)

    def glow(self, x: float, y: float, z: float, metres: float, color: Color) -> None:
        """Remember a light, to be added when the picture has its own size again."""
        if z < 3.0:
            return
        u, v = self.camera.project(x, y, z)
        passing = min(1.0, (z - 3.0) / 6.0)  # a beam that passes the camera by no longer dazzles it
        clear = passing * math.exp(-z / (1.6 * self.air.sight_metres))
        radius = max(2.0, metres * self.camera.focal / z)
        self.glows.append((u, v, radius, times(color, (clear, clear, clear))))


class Plane:
    """The plane across the road in which a thing stands: dx from its middle, y from the ground, metres."""

    def __init__(self, brush: Brush, x: float, z: float) -> None:
        u, v = brush.camera.project(x, 0.0, z)
        self.u, self.v = SCALE * u, SCALE * v
        self.scale = SCALE * brush.camera.focal / z  # pixels a metre
        self.draw, self.veil = brush.draw, brush.veil
        self.tint = brush.air.tint(x - brush.camera.x, z)
        self.clear = math.exp(-z / brush.air.sight_metres)

    def shape(self, points: Points, color: Color) -> None:
        u, v, s = self.u, self.v, self.scale
        self.draw.polygon([(u + dx * s, v - y * s) for dx, y in points], self.tint(color))

    def box(self, left: float, bottom: float, right: float, top: float, color: Color) -> None:
        self.shape(((left, bottom), (right, bottom), (right, top), (left, top)), color)

    def disc(self, dx: float, y: float, radius: float, color: Color, *, squash: float = 1.0) -> None:
        u, v, r = self.u + dx * self.scale, self.v - y * self.scale, radius * self.scale
        self.draw.ellipse((u - r, v - r * squash, u + r, v + r * squash), self.tint(color))

    def shadow(self, half_width: float, depth: float = 0.12) -> None:
        r, h = half_width * self.scale, max(1.0, depth * self.scale)
        self.veil.ellipse((self.u - r, self.v - h, self.u + r, self.v + h), (0, 0, 0, int(80 * self.clear)))


def paint_rain(brush: Brush, scene: Scene, number: int) -> None:
    width, height = brush.size
    place = uniform("rain", scene.seed, scene.index, number, np.arange(3 * 110)).reshape(3, -1)
    for x, y, length in zip(*place.tolist(), strict=True):
        u, v, tall = x * width, y * height, (0.03 + 0.06 * length) * height
        brush.veil.line((u, v, u - 0.1 * tall, v + tall), (214, 222, 230, 64), 1)


def add_glow(picture: FloatArray, u: float, v: float, radius: float, color: Color) -> None:
    """Add a soft round light of the given radius in pixels around u, v."""
    reach = 1.8 * radius
    top, bottom = max(0, int(v - reach)), min(picture.shape[1], int(v + reach) + 1)
    left, right = max(0, int(u - reach)), min(picture.shape[2], int(u + reach) + 1)
    if top >= bottom or left >= right:
        return
    dy = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - v)) / np.float32(radius)
    dx = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - u)) / np.float32(radius)
    halo = np.exp(-1.6 * dy * dy)[:, None] * np.exp(-1.6 * dx * dx)
    picture[:, top:bottom, left:right] += halo * planes_of(color)
