"""What lies behind and below all things: the sky, the ground, and the lens in front of both."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from headrace.demo.drawing.view import (
    CAMERA_HEIGHT,
    Air,
    Camera,
    FloatArray,
    air_of,
    interleaved,
    mix,
    planes_of,
)
from headrace.demo.scenes import Scene
from headrace.keyed import uniform

_TILE = 256  # the side of the ground's noise texture


class Sky:
    """A panorama, of which a frame sees the part that the camera is turned to."""

    def __init__(self, scene: Scene, air: Air, width: int, height: int) -> None:
        self.width, self.rows = width, int(0.62 * height)
        self.horizon = int(0.44 * height)
        size = (2 * width, self.rows)
        up = np.clip(1 - np.arange(self.rows, dtype=np.float32) / self.horizon, 0, 1)[:, None]
        colors = planes_of(air.bottom) + (planes_of(air.top) - planes_of(air.bottom)) * up**0.8
        clouds = _clouds(scene, size) * np.minimum(1.0, 3.0 * up)
        lit = planes_of(mix(air.bottom, (255, 250, 244), 0.5 if scene.daytime == "day" else 0.12))
        amount = {"clear": 0.75, "overcast": 0.35, "rain": 0.22, "fog": 0.08}[scene.weather]
        colors = colors + (lit - colors) * clouds * amount
        if scene.daytime == "night" and scene.weather == "clear":
            stars = _noise(scene, "stars", (self.rows, 2 * width)) > 0.9965
            colors = colors + 150 * stars * up
        panorama = Image.fromarray(interleaved(colors))
        _skyline(panorama, scene, air, self.horizon)
        self.panorama = np.asarray(panorama).transpose(2, 0, 1).astype(np.float32, order="C")

    def paint(self, picture: FloatArray, camera: Camera) -> None:
        left = int(np.clip(0.5 * self.width + camera.focal * camera.turned, 0, self.width))
        shift = round(camera.horizon) - self.horizon
        rows = np.clip(np.arange(math.ceil(camera.horizon) + 1) - shift, 0, self.rows - 1)
        picture[:, : len(rows)] = self.panorama[:, rows, left : left + self.width]


def _skyline(panorama: Image.Image, scene: Scene, air: Air, horizon: int) -> None:
    """Draw hills, or the roofs of a city, where the sky ends."""
    draw = ImageDraw.Draw(panorama)
    width = panorama.width
    color = air.tint(50.0, 0.45 * air.sight_metres + 60)((70, 84, 82))
    if scene.place == "city":
        edges = np.cumsum(4 + 12 * _noise(scene, "roofs", (width // 8,)))
        heights = 3 + 0.2 * horizon * _noise(scene, "roof heights", (width // 8,)) ** 2
        for left, right, tall in zip(edges[:-1], edges[1:], heights, strict=False):
            draw.rectangle((float(left), horizon - float(tall), float(right), horizon + 60), fill=color)
        return
    x = np.arange(0, width + 4, 4)
    phase = 6.28 * _noise(scene, "hills", (3,))
    waves = np.sin(x / 61 + phase[0]) + 0.5 * np.sin(x / 23 + phase[1]) + 0.15 * np.sin(x / 5 + phase[2])
    tops = horizon - 0.045 * horizon * (2.0 + waves)
    draw.polygon([(0, horizon + 60), *zip(x.tolist(), tops.tolist(), strict=True), (width + 4, horizon + 60)], color)


def _clouds(scene: Scene, size: tuple[int, int]) -> FloatArray:
    """Return how much cloud there is, [rows, columns] from 0 to 1: three octaves of smooth noise."""
    total = np.zeros((size[1], size[0]), dtype=np.float32)
    for octave, weight in enumerate((0.55, 0.3, 0.15)):
        coarse = _noise(scene, f"clouds {octave}", (4 << octave, 6 << octave))
        smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        total += weight * np.asarray(smooth)
    cover: FloatArray = np.clip((total - 0.48) * 4.0, 0, 1)
    return cover


class Ground:
    """The road and what lies beside it, for every pixel below the horizon."""

    def __init__(self, scene: Scene, air: Air, width: int, height: int) -> None:
        self.scene, self.air = scene, air
        self.width, self.height = width, height
        self.noise = _noise(scene, "ground", (_TILE, _TILE)) - 0.5
        wet = 1.0 - 0.25 * air.wet
        self.asphalt = planes_of((92, 93, 97)) * wet * (0.85 + 0.3 * _one(scene, "asphalt"))
        verges = {"city": (150, 146, 140), "suburb": (96, 124, 64), "country": (112, 128, 62)}
        self.verge = planes_of(verges[scene.place]) * (0.85 + 0.3 * _one(scene, "verge"))
        self.grass = planes_of((104, 104, 100)) if scene.place == "city" else self.verge
        self.walk = 2.6 if scene.place != "country" else 0.0

    def paint(self, picture: FloatArray, camera: Camera) -> None:
        first = max(0, math.floor(camera.horizon) + 1)
        v = np.arange(first, self.height, dtype=np.float32)[:, None] + 0.5
        z = np.minimum(camera.focal * CAMERA_HEIGHT / np.maximum(v - camera.horizon, 0.5), 400.0)
        pixel = z / camera.focal  # metres across the road that a pixel covers
        u = np.arange(self.width, dtype=np.float32)[None, :] + 0.5
        seen_x = (u - camera.centre) * pixel  # from the camera's axis
        x = seen_x + np.float32(camera.x) - np.float32(0.5 * camera.bend) * z * z
        along = z + np.float32(camera.travelled)

        color = self._surface(x, along, z, pixel)
        deep = z * pixel / CAMERA_HEIGHT  # metres along the road that a pixel covers
        self._mark(color, x, along, pixel, deep)
        picture[:, first:] = self._light(color, seen_x, z, picture, first)

    def _surface(self, x: FloatArray, along: FloatArray, z: FloatArray, pixel: FloatArray) -> FloatArray:
        """Return asphalt, kerb, pavement and grass, [3, rows, W]."""
        half = np.float32(self.scene.half_width)
        beyond = np.abs(x) - half
        fine = self._texture(x, along, 14.0) * np.clip(1.3 - pixel * 26, 0, 1)
        coarse = self._texture(x, along, 1.7) * np.clip(1.3 - pixel * 3, 0, 1)
        road = _covered(-beyond, pixel)
        color = self.grass * (1 + 0.5 * fine + 0.35 * coarse)
        if self.walk:
            walk = _covered(self.walk - beyond, pixel)
            slabs = 0.12 * _dashes(along, 1.5, 0.06, z * pixel / CAMERA_HEIGHT)
            paving = planes_of((158, 154, 148)) * (1 + 0.15 * fine - slabs)
            color += (paving - color) * walk
        kerb = _covered(0.18 - np.abs(beyond - 0.09), pixel) * 0.7
        color += (planes_of((178, 176, 170)) - color) * kerb
        worn = 0.06 * np.cos(x * (4 * math.pi / self.scene.lane_width))  # two wheel tracks a lane
        asphalt = self.asphalt * (1 + 0.28 * fine + 0.16 * coarse + worn)
        color += (asphalt - color) * road
        result: FloatArray = color
        return result

    def _mark(self, color: FloatArray, x: FloatArray, along: FloatArray, pixel: FloatArray, deep: FloatArray) -> None:
        """Paint the lines, and what a worksite digs up and paints anew, into the colours."""
        scene, work = self.scene, self.scene.roadwork
        white, yellow = planes_of((226, 226, 220)), planes_of((232, 180, 48))
        dashed = _dashes(along, 9.0, 3.6, deep)
        middle = yellow if scene.yellow_lines else white
        if scene.lanes > 1:
            _blend(color, middle, _stripe(x - 0.14, 0.06, pixel) + _stripe(x + 0.14, 0.06, pixel))
            _blend(color, white, _stripe(np.abs(x) - scene.lane_width, 0.07, pixel) * dashed)
        else:
            _blend(color, middle, _stripe(x, 0.07, pixel) * dashed)
        if scene.place == "country" or scene.lanes > 1:
            _blend(color, white, _stripe(np.abs(x) - (scene.half_width - 0.25), 0.07, pixel))
        if work is None:
            return
        across = work.side * x
        if work.dug:
            begin = work.start + work.taper_metres + 2.5
            ragged = 0.5 * self._texture(x, along, 2.3)
            inside = _covered(across - work.edge_x - 0.55 + ragged * 0.5, pixel)
            inside = inside * _covered(scene.half_width - 0.15 - across, pixel)
            inside = inside * _covered(along - begin + ragged, deep) * _covered(work.end - 4 - along, deep)
            _blend(color, planes_of((104, 80, 58)) * (1 + 0.9 * ragged), inside)
        taper = np.clip((along - work.start) / work.taper_metres, 0, 1)
        edge = scene.half_width + (work.edge_x - scene.half_width) * taper - 0.35
        fresh = _stripe(across - edge, 0.07, pixel) * _covered(along - work.start, deep)
        _blend(color, yellow, fresh * _covered(work.end - along, deep))

    def _light(
        self, color: FloatArray, seen_x: FloatArray, z: FloatArray, picture: FloatArray, first: int
    ) -> FloatArray:
        """Return the colours lit, wet and in haze."""
        air = self.air
        if air.wet:  # the sky mirrored in the road, most of it far ahead where one looks along the surface
            rows = np.clip(2 * first - np.arange(first, self.height) - 1, 0, first - 1)
            mirrored = picture[:, rows] / np.maximum(planes_of(air.ambient), 0.3)
            color = color + (mirrored - color) * (0.18 + 0.3 * np.clip(z / 40, 0, 1))
        light = planes_of(air.ambient)
        if air.headlight:
            beam = np.exp(-z / 30.0 - (seen_x / (2.2 + 0.16 * z)) ** 2) * np.clip((z - 2.2) / 4, 0.25, 1)
            color = color * (light + air.headlight * beam * planes_of((1.0, 0.95, 0.82)))
        else:
            color = color * light
        clear = np.exp(-z / air.sight_metres)
        result: FloatArray = color * clear + planes_of(air.haze) * (1 - clear)
        return result

    def _texture(self, x: FloatArray, along: FloatArray, per_metre: float) -> FloatArray:
        """Return noise from -0.5 to 0.5 at `per_metre` grains a metre."""
        column = (x * per_metre).astype(np.int32) & (_TILE - 1)
        row = (along * (0.6 * per_metre)).astype(np.int32) & (_TILE - 1)
        grains: FloatArray = self.noise[row, column]
        return grains


def lens_of(scene: Scene, width: int, height: int) -> FloatArray:
    """Return what the lens and the bonnet do, [4, H, W]: a factor, and a colour to add."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    lens = np.zeros((4, height, width), dtype=np.float32)
    lens[0] = 1 - 0.16 * (x**2 + y**2) ** 1.5 / 2.8
    if scene.bonnet:
        mask = Image.new("L", (width, height))
        box = (-0.18 * width, 0.925 * height, 1.18 * width, 1.45 * height)
        ImageDraw.Draw(mask).ellipse(box, 255)
        bonnet = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32) / 255
        ambient = planes_of(air_of(scene.weather, scene.daytime).ambient)
        lens[0] *= 1 - bonnet
        lens[1:] = bonnet * ambient * (34 + 60 * np.clip(1 - np.abs(x + 0.2), 0, 1) * np.clip(2.4 - 2 * y, 0, 1))
    return lens


def _noise(scene: Scene, name: str, shape: tuple[int, ...]) -> FloatArray:
    """Return keyed white noise from 0 to 1."""
    count = math.prod(shape)
    return uniform("picture", scene.seed, scene.index, name, np.arange(count)).astype(np.float32).reshape(shape)


def _one(scene: Scene, name: str) -> float:
    return float(_noise(scene, name, (1,))[0])


def _covered(inside_metres: FloatArray, pixel_metres: FloatArray) -> FloatArray:
    """Return how much of a pixel is inside an edge that lies `inside_metres` away."""
    coverage: FloatArray = np.clip(inside_metres / pixel_metres + 0.5, 0, 1)
    return coverage


def _stripe(offset: FloatArray, half_width: float, pixel: FloatArray) -> FloatArray:
    """Return how much of a pixel a painted line covers whose middle is `offset` away."""
    visible = np.minimum(np.float32(1.0), 2 * half_width / pixel)
    painted: FloatArray = _covered(np.maximum(half_width, 0.5 * pixel) - np.abs(offset), pixel) * visible
    return painted


def _dashes(along: FloatArray, period: float, length: float, deep: FloatArray) -> FloatArray:
    """Return the coverage of dashes `length` long every `period` metres; their mean where they blur."""
    offset = np.abs(np.mod(along, period) - 0.5 * period)
    sharp = _covered(0.5 * length - offset, deep)
    blur = np.clip(deep / period, 0, 1)
    coverage: FloatArray = sharp + (length / period - sharp) * blur
    return coverage


def _blend(color: FloatArray, paint: FloatArray, coverage: FloatArray) -> None:
    color += (paint - color) * np.minimum(coverage, 1)
