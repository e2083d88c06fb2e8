"""Pictures of `headrace.data.scenes`: a pinhole camera over a flat, bending road.

    sky panorama -> ground, one shader over its pixels -> things, far to near -> glows -> lens

The ground is computed at the picture's own size, with every edge's coverage of a pixel in closed form; things
are Pillow polygons at twice the size, averaged down. A point at x, y, z metres (right, up, ahead) stands at

    u = centre + f * (x - camera_x + bend * z^2 / 2) / z        v = horizon + f * (camera_height - y) / z
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from headrace.data.scenes import Color, Daytime, Scene, Thing, Weather
from headrace.keyed import uniform

FloatArray = NDArray[np.floating[Any]]  # float32 throughout
Glow = tuple[float, float, float, Color]  # u, v and radius in pixels
Points = Sequence[tuple[float, float]]

_CAMERA_HEIGHT = 1.35  # metres
_FOCAL = 0.82  # picture widths: a horizontal view of 63 degrees
_NEAR, _FAR = 1.4, 130.0  # metres
_SCALE = 2  # the supersampling of things
_TILE = 256  # the side of the ground's noise texture


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
        return Air(
            _times(top, (0.46, 0.44, 0.62)), glow, _mix(glow, (96, 86, 104), 0.35), light, 0.2, sight, wet
        )
    top, bottom = _times(top, (0.07, 0.08, 0.14)), _times(bottom, (0.13, 0.14, 0.20))
    light = (0.15 * ambient, 0.16 * ambient, 0.23 * ambient)
    return Air(top, bottom, bottom, light, 0.85, sight, wet)


def scene_frames(
    scene: Scene, *, width: int, height: int, fps: float, frames: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames [height, width, 3] uint8 RGB of a drive, frame i at i / fps seconds.

    Inside, colours are planar float32 [3, H, W]: NumPy is several times faster when the long axis is last.
    """
    air = air_of(scene.weather, scene.daytime)
    sky = _Sky(scene, air, width, height)
    ground = _Ground(scene, air, width, height)
    lens = _lens(scene, width, height)
    for number in range(frames):
        seconds = number / fps
        camera = _Camera.at(scene, seconds, width, height)
        picture = np.empty((3, height, width), dtype=np.float32)
        sky.paint(picture, camera)
        ground.paint(picture, camera)
        image = Image.fromarray(_interleaved(picture))
        image = image.resize((width * _SCALE, height * _SCALE), Image.Resampling.NEAREST)
        brush = _Brush(image, camera, air, seconds)
        for thing in _in_view(scene, camera, seconds):
            _PAINTERS[thing.kind](brush, thing)
        if scene.weather == "rain":
            _rain(brush, scene, number)
        picture = np.asarray(image.reduce(_SCALE)).transpose(2, 0, 1).astype(np.float32, order="C")
        for glow in brush.glows:
            _add_glow(picture, *glow)
        yield _interleaved(picture * lens[:1] + lens[1:])


@dataclass(frozen=True)
class _Camera:
    focal: float  # pixels, as are the two below
    centre: float
    horizon: float
    x: float
    travelled: float
    bend: float
    turned: float  # radians since the start

    @staticmethod
    def at(scene: Scene, seconds: float, width: int, height: int) -> _Camera:
        focal = _FOCAL * width
        yaw, pitch = scene.sway(seconds)
        travelled = scene.speed_mps * seconds
        return _Camera(
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
            self.horizon + scale * (_CAMERA_HEIGHT - y),
        )


class _Sky:
    """A panorama, of which a frame sees the part that the camera is turned to."""

    def __init__(self, scene: Scene, air: Air, width: int, height: int) -> None:
        self.width, self.rows = width, int(0.62 * height)
        self.horizon = int(0.44 * height)
        size = (2 * width, self.rows)
        up = np.clip(1 - np.arange(self.rows, dtype=np.float32) / self.horizon, 0, 1)[:, None]
        colors = _array(air.bottom) + (_array(air.top) - _array(air.bottom)) * up**0.8
        clouds = _clouds(scene, size) * np.minimum(1.0, 3.0 * up)
        lit = _array(_mix(air.bottom, (255, 250, 244), 0.5 if scene.daytime == "day" else 0.12))
        amount = {"clear": 0.75, "overcast": 0.35, "rain": 0.22, "fog": 0.08}[scene.weather]
        colors = colors + (lit - colors) * clouds * amount
        if scene.daytime == "night" and scene.weather == "clear":
            stars = _noise(scene, "stars", (self.rows, 2 * width)) > 0.9965
            colors = colors + 150 * stars * up
        panorama = Image.fromarray(_interleaved(colors))
        _skyline(panorama, scene, air, self.horizon)
        self.panorama = np.asarray(panorama).transpose(2, 0, 1).astype(np.float32, order="C")

    def paint(self, picture: FloatArray, camera: _Camera) -> None:
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
    draw.polygon(
        [(0, horizon + 60), *zip(x.tolist(), tops.tolist(), strict=True), (width + 4, horizon + 60)], color
    )


def _clouds(scene: Scene, size: tuple[int, int]) -> FloatArray:
    """Return how much cloud there is, [rows, columns] from 0 to 1: three octaves of smooth noise."""
    total = np.zeros((size[1], size[0]), dtype=np.float32)
    for octave, weight in enumerate((0.55, 0.3, 0.15)):
        coarse = _noise(scene, f"clouds {octave}", (4 << octave, 6 << octave))
        smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        total += weight * np.asarray(smooth)
    cover: FloatArray = np.clip((total - 0.48) * 4.0, 0, 1)
    return cover


class _Ground:
    """The road and what lies beside it, for every pixel below the horizon."""

    def __init__(self, scene: Scene, air: Air, width: int, height: int) -> None:
        self.scene, self.air = scene, air
        self.width, self.height = width, height
        self.noise = _noise(scene, "ground", (_TILE, _TILE)) - 0.5
        wet = 1.0 - 0.25 * air.wet
        self.asphalt = _array((92, 93, 97)) * wet * (0.85 + 0.3 * _one(scene, "asphalt"))
        verges = {"city": (150, 146, 140), "suburb": (96, 124, 64), "country": (112, 128, 62)}
        self.verge = _array(verges[scene.place]) * (0.85 + 0.3 * _one(scene, "verge"))
        self.grass = _array((104, 104, 100)) if scene.place == "city" else self.verge
        self.walk = 2.6 if scene.place != "country" else 0.0

    def paint(self, picture: FloatArray, camera: _Camera) -> None:
        first = max(0, math.floor(camera.horizon) + 1)
        v = np.arange(first, self.height, dtype=np.float32)[:, None] + 0.5
        z = np.minimum(camera.focal * _CAMERA_HEIGHT / np.maximum(v - camera.horizon, 0.5), 400.0)
        pixel = z / camera.focal  # metres across the road that a pixel covers
        u = np.arange(self.width, dtype=np.float32)[None, :] + 0.5
        seen_x = (u - camera.centre) * pixel  # from the camera's axis
        x = seen_x + np.float32(camera.x) - np.float32(0.5 * camera.bend) * z * z
        along = z + np.float32(camera.travelled)

        color = self._surface(x, along, z, pixel)
        deep = z * pixel / _CAMERA_HEIGHT  # metres along the road that a pixel covers
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
            slabs = 0.12 * _dashes(along, 1.5, 0.06, z * pixel / _CAMERA_HEIGHT)
            paving = _array((158, 154, 148)) * (1 + 0.15 * fine - slabs)
            color += (paving - color) * walk
        kerb = _covered(0.18 - np.abs(beyond - 0.09), pixel) * 0.7
        color += (_array((178, 176, 170)) - color) * kerb
        worn = 0.06 * np.cos(x * (4 * math.pi / self.scene.lane_width))  # two wheel tracks a lane
        asphalt = self.asphalt * (1 + 0.28 * fine + 0.16 * coarse + worn)
        color += (asphalt - color) * road
        result: FloatArray = color
        return result

    def _mark(
        self, color: FloatArray, x: FloatArray, along: FloatArray, pixel: FloatArray, deep: FloatArray
    ) -> None:
        """Paint the lines, and what a worksite digs up and paints anew, into the colours."""
        scene, work = self.scene, self.scene.roadwork
        white, yellow = _array((226, 226, 220)), _array((232, 180, 48))
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
            _blend(color, _array((104, 80, 58)) * (1 + 0.9 * ragged), inside)
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
            mirrored = picture[:, rows] / np.maximum(_array(air.ambient), 0.3)
            color = color + (mirrored - color) * (0.18 + 0.3 * np.clip(z / 40, 0, 1))
        light = _array(air.ambient)
        if air.headlight:
            beam = np.exp(-z / 30.0 - (seen_x / (2.2 + 0.16 * z)) ** 2) * np.clip((z - 2.2) / 4, 0.25, 1)
            color = color * (light + air.headlight * beam * _array((1.0, 0.95, 0.82)))
        else:
            color = color * light
        clear = np.exp(-z / air.sight_metres)
        result: FloatArray = color * clear + _array(air.haze) * (1 - clear)
        return result

    def _texture(self, x: FloatArray, along: FloatArray, per_metre: float) -> FloatArray:
        """Return noise from -0.5 to 0.5 at `per_metre` grains a metre."""
        column = (x * per_metre).astype(np.int32) & (_TILE - 1)
        row = (along * (0.6 * per_metre)).astype(np.int32) & (_TILE - 1)
        grains: FloatArray = self.noise[row, column]
        return grains


class _Brush:
    """Draws in metres onto the doubled picture. Shapes stand in a plane across the road at some z."""

    def __init__(self, image: Image.Image, camera: _Camera, air: Air, seconds: float) -> None:
        self.draw = ImageDraw.Draw(image)
        self.veil = ImageDraw.Draw(image, "RGBA")  # mixes with what is there, at a cost
        self.size = image.size
        self.camera, self.air, self.seconds = camera, air, seconds
        self.glows: list[Glow] = []

    def plane(self, thing: Thing) -> _Plane:
        return _Plane(self, thing.x, thing.z)

    def quad(self, corners: Sequence[tuple[float, float, float]], fill: tuple[int, ...]) -> None:
        """Fill a polygon whose corners are x, y, z in metres."""
        project = self.camera.project
        self.draw.polygon([(_SCALE * u, _SCALE * v) for u, v in (project(*c) for c in corners)], fill)

    def glow(self, x: float, y: float, z: float, metres: float, color: Color) -> None:
        """Remember a light, to be added when the picture has its own size again."""
        if z < 3.0:  # the beam passes the camera by
            return
        u, v = self.camera.project(x, y, z)
        clear = math.exp(-z / (1.6 * self.air.sight_metres))
        radius = max(2.0, metres * self.camera.focal / z)
        self.glows.append((u, v, radius, _times(color, (clear, clear, clear))))


class _Plane:
    """The plane across the road in which a thing stands: dx from its middle, y from the ground, metres."""

    def __init__(self, brush: _Brush, x: float, z: float) -> None:
        u, v = brush.camera.project(x, 0.0, z)
        self.u, self.v = _SCALE * u, _SCALE * v
        self.scale = _SCALE * brush.camera.focal / z  # pixels a metre
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


def _in_view(scene: Scene, camera: _Camera, seconds: float) -> list[Thing]:
    """Return the things before the camera, far to near, with z from the camera."""
    seen = []
    sight = min(_FAR, 4.0 * air_sight(scene))
    for thing in scene.things:
        z = thing.z + thing.speed_mps * seconds - camera.travelled
        beside = (
            abs(thing.x - camera.x) - thing.width > 0.7 * (z + thing.length) + 1.0
        )  # left or right of the view
        if not beside and z + thing.length > _NEAR and z < sight and (thing.length or z > _NEAR):
            seen.append(
                Thing(
                    thing.kind, thing.x, z, thing.width, thing.height, thing.length, thing.color,
                    thing.variant, thing.speed_mps,
                )
            )  # fmt: skip
    seen.sort(key=lambda thing: -thing.z)
    return seen


def air_sight(scene: Scene) -> float:
    """Return the distance in metres at which haze has taken 63 % of a colour."""
    return _SKIES[scene.weather][3]


def _paint_building(brush: _Brush, thing: Thing) -> None:
    """A box with its long side to the road; a house has a gable roof over it."""
    side = 1.0 if thing.x > 0 else -1.0
    near, far = max(thing.z, _NEAR), thing.z + thing.length
    x0, x1, top = thing.x, thing.x + side * thing.width, thing.height
    roof = 0.45 * thing.width if thing.kind == "house" else 0.0
    middle = 0.5 * (x0 + x1)
    tint = brush.air.tint(x0 - brush.camera.x, max(near, 2.0))
    wall, front = thing.color, _times(thing.color, (0.82, 0.82, 0.84))
    tiles: Color = ((122, 62, 48), (84, 78, 80), (104, 84, 66), (70, 66, 72))[thing.variant % 4]
    brush.quad(((x0, 0, near), (x0, 0, far), (x0, top, far), (x0, top, near)), tint(wall))
    if roof:
        eaves = x0 - side * 0.4
        brush.quad(
            ((eaves, top, near), (eaves, top, far), (middle, top + roof, far), (middle, top + roof, near)),
            tint(tiles),
        )
    if thing.z > _NEAR:
        gable = ((x0, 0, near), (x1, 0, near), (x1, top, near), (middle, top + roof, near), (x0, top, near))
        brush.quad(gable, tint(front))
    if near < 55:
        _paint_windows(brush, thing, x0, near)


def _paint_windows(brush: _Brush, thing: Thing, x0: float, near: float) -> None:
    night = brush.air.headlight > 0.1
    floors = max(1, int(thing.height / 3.0))
    columns = max(2, int(thing.length / 3.2))
    step = thing.length / columns
    tint = brush.air.tint(x0 - brush.camera.x, max(near, 2.0))
    glass = tint((70, 84, 98))
    lamp = brush.air.tint(0.0, 0.7 * near)
    first_seen = 1.3 * abs(x0 - brush.camera.x)
    for floor in range(floors):
        low = 3.0 * floor + (1.0 if thing.kind == "house" else 1.1)
        for column in range(columns):
            z0, z1 = thing.z + (column + 0.28) * step, thing.z + (column + 0.72) * step
            if z0 < near or z0 > 55 or z1 < first_seen:
                continue
            lit = night and (thing.variant * 7 + floor * 3 + column * 5) % 7 < 3
            fill = _warm(lamp((0, 0, 0))) if lit else glass
            shop = thing.kind == "block" and floor == 0
            bottom, top = (0.4, 2.7) if shop else (low, low + 1.35)
            brush.quad(((x0, bottom, z0), (x0, bottom, z1), (x0, top, z1), (x0, top, z0)), fill)


def _paint_tree(brush: _Brush, thing: Thing) -> None:
    plane = brush.plane(thing)
    h, r, color = thing.height, 0.5 * thing.width, thing.color
    plane.shadow(0.8 * r)
    plane.box(-0.035 * h, 0, 0.035 * h, 0.5 * h, (88, 68, 52))
    if thing.variant % 4 == 0:  # a conifer
        for layer in range(3):
            low, high = (0.16 + 0.24 * layer) * h, (0.56 + 0.22 * layer) * h
            wide, shade = r * (0.85 - 0.22 * layer), 0.7 + 0.12 * layer
            plane.shape(((-wide, low), (wide, low), (0, high)), _times(color, (0.8 * shade, shade, shade)))
        return
    lean = 0.25 * math.sin(2.4 * thing.variant) * r
    blobs = ((-0.5, 0.58, 0.55), (0.5, 0.6, 0.52), (0.0, 0.72, 0.72), (-0.28, 0.8, 0.46), (0.3, 0.84, 0.4))
    for number, (dx, y, size) in enumerate(blobs if thing.z < 45 else blobs[2:3]):
        shade = (0.74, 0.84, 0.94, 1.08, 1.16)[number]
        plane.disc(
            dx * r + lean * (y - 0.5), y * h, size * r, _times(color, (shade, shade, shade)), squash=0.95
        )


def _paint_car(brush: _Brush, thing: Thing) -> None:
    """A car or a van: its side as a box in perspective, its rear or, oncoming, its front before it."""
    w, h, color = 0.5 * thing.width, thing.height, thing.color
    van, waist = thing.kind == "van", 0.55 * thing.height
    roof = 0.92 * w if van else 0.74 * w
    if abs(brush.camera.x - thing.x) > w and thing.z < 60:
        _paint_car_side(brush, thing, waist, roof)
    if thing.z < _NEAR:
        return
    plane = brush.plane(thing)
    plane.shadow(1.15 * w)
    plane.box(-0.92 * w, 0, -0.6 * w, 0.3, (22, 22, 24))
    plane.box(0.6 * w, 0, 0.92 * w, 0.3, (22, 22, 24))
    shoulder = 0.95 * w
    body = ((-w, 0.2), (w, 0.2), (w, 0.9 * waist), (shoulder, waist), (-shoulder, waist), (-w, 0.9 * waist))
    plane.shape(body, color)
    plane.shape(_trapezium(shoulder, waist, roof, h), _times(color, (0.9, 0.9, 0.9)))
    glass: Color = (70, 82, 94) if thing.speed_mps < 0 else (54, 64, 76)
    plane.shape(_trapezium(0.84 * w, 1.04 * waist, 0.88 * roof, 0.94 * h), glass)
    _paint_car_lights(brush, plane, thing, waist)


def _paint_car_side(brush: _Brush, thing: Thing, waist: float, roof: float) -> None:
    """The side that the camera sees, cut off where it passes the camera."""
    way = math.copysign(1.0, brush.camera.x - thing.x)
    outer, inner = thing.x + way * 0.5 * thing.width, thing.x + way * roof
    tint = brush.air.tint(outer - brush.camera.x, max(thing.z, _NEAR))
    color, h, length = _times(thing.color, (0.72, 0.72, 0.74)), thing.height, thing.length
    ends = (0.0, 1.0) if thing.kind == "van" else (0.1, 0.76)
    at = [max(_NEAR, thing.z + share * length) for share in (0.0, 1.0, *ends, 0.22, 0.7)]
    z0, z1, cabin0, cabin1, glass0, glass1 = at
    brush.quad(((outer, 0.2, z0), (outer, 0.2, z1), (outer, waist, z1), (outer, waist, z0)), tint(color))
    cabin = ((outer, waist, cabin0), (outer, waist, cabin1), (inner, h, cabin1), (inner, h, cabin0))
    brush.quad(cabin, tint(color))
    middle, high = 0.5 * (outer + inner), 0.9 * h
    glass = ((outer, waist, glass0), (outer, waist, glass1), (middle, high, glass1), (middle, high, glass0))
    brush.quad(glass, tint((46, 54, 64)))
    for share in (0.2, 0.8):  # wheels, as what a disc across the line of sight becomes: a narrow box
        front, back = thing.z + share * length - 0.32, thing.z + share * length + 0.32
        if front > _NEAR:
            wheel = ((outer, 0, front), (outer, 0, back), (outer, 0.6, back), (outer, 0.6, front))
            brush.quad(wheel, tint((24, 24, 26)))


def _paint_car_lights(brush: _Brush, plane: _Plane, thing: Thing, waist: float) -> None:
    w, dark = 0.5 * thing.width, brush.air.headlight > 0.1 or brush.air.sight_metres < 100
    oncoming = thing.speed_mps < 0
    plane.box(-0.3 * w, 0.38, 0.3 * w, 0.52, (200, 200, 190) if not oncoming else (40, 40, 44))
    lamp: Color = (250, 246, 226) if oncoming else (190, 28, 24)
    for dx in (-0.78, 0.78):
        plane.box((dx - 0.17) * w, 0.66 * waist, (dx + 0.17) * w, 0.88 * waist, lamp)
        if dark:
            size, color = (0.85, (235.0, 225.0, 195.0)) if oncoming else (0.42, (205.0, 30.0, 22.0))
            strength = 1.0 if brush.air.headlight > 0.5 else 0.55
            brush.glow(thing.x + dx * w, 0.77 * waist, thing.z, size, _times(color, (strength,) * 3))


def _paint_lamp(brush: _Brush, thing: Thing) -> None:
    plane, h = brush.plane(thing), thing.height
    inward = -math.copysign(1.4, thing.x)
    plane.box(-0.07, 0, 0.07, h, (104, 106, 108))
    plane.shape(((0, h), (0, h - 0.12), (inward, h + 0.25), (inward, h + 0.37)), (104, 106, 108))
    plane.box(min(inward, 0.7 * inward), h + 0.14, max(inward, 0.7 * inward), h + 0.34, (216, 214, 200))
    if brush.air.headlight > 0.1:
        brush.glow(thing.x + inward, h + 0.15, thing.z, 1.1, (250, 205, 130))
        if thing.z < 40:
            brush.glow(thing.x + inward, 0.0, thing.z, 2.4, (46, 36, 20))


def _paint_post(brush: _Brush, thing: Thing) -> None:
    plane = brush.plane(thing)
    plane.box(-0.06, 0, 0.06, 1.0, (232, 232, 228))
    plane.box(-0.06, 0.66, 0.06, 0.84, (34, 34, 36))


def _paint_sign(brush: _Brush, thing: Thing) -> None:
    """A sign of everyday traffic: speed limit, parking, crossing, priority."""
    plane, y, r = brush.plane(thing), thing.height, 0.5 * thing.width
    plane.box(-0.04, 0, 0.04, y, (140, 142, 144))
    if thing.variant == 0:
        plane.disc(0, y, r, (196, 30, 34))
        plane.disc(0, y, 0.74 * r, (236, 236, 232))
        plane.box(-0.4 * r, y - 0.3 * r, -0.08 * r, y + 0.3 * r, (30, 30, 32))
        plane.box(0.08 * r, y - 0.3 * r, 0.4 * r, y + 0.3 * r, (30, 30, 32))
    elif thing.variant == 1:
        plane.box(-r, y - r, r, y + r, (30, 84, 168))
        plane.box(-0.35 * r, y - 0.6 * r, -0.05 * r, y + 0.6 * r, (236, 236, 232))
        plane.box(-0.05 * r, y, 0.4 * r, y + 0.6 * r, (236, 236, 232))
    elif thing.variant == 2:
        plane.shape(_diamond(y, 1.1 * r), (236, 236, 232))
        plane.shape(_diamond(y, 0.8 * r), (240, 190, 40))
    else:
        plane.shape(((-1.1 * r, y + r), (1.1 * r, y + r), (0, y - r)), (196, 30, 34))
        plane.shape(((-0.66 * r, y + 0.74 * r), (0.66 * r, y + 0.74 * r), (0, y - 0.5 * r)), (236, 236, 232))


def _paint_warning(brush: _Brush, thing: Thing) -> None:
    """Men at work: an orange diamond, or a white triangle with a red rim."""
    plane, y, r = brush.plane(thing), thing.height - 0.4 * thing.width, 0.62 * thing.width
    plane.box(-0.05, 0, 0.05, y, (120, 122, 124))
    if thing.variant == 0:
        plane.shape(_diamond(y, 1.12 * r), (32, 28, 24))
        plane.shape(_diamond(y, r), (255, 128, 22))
    else:
        plane.shape(((-1.1 * r, y - 0.8 * r), (1.1 * r, y - 0.8 * r), (0, y + 1.1 * r)), (204, 28, 34))
        plane.shape(((-0.74 * r, y - 0.6 * r), (0.74 * r, y - 0.6 * r), (0, y + 0.7 * r)), (246, 240, 214))
    plane.disc(-0.05 * r, y + 0.28 * r, 0.12 * r, (24, 22, 20))
    plane.shape(
        (
            (-0.2 * r, y - 0.5 * r),
            (0.02 * r, y - 0.5 * r),
            (0.12 * r, y + 0.1 * r),
            (-0.12 * r, y + 0.18 * r),
        ),
        (24, 22, 20),
    )
    plane.shape(((0.12 * r, y - 0.5 * r), (0.48 * r, y - 0.5 * r), (0.3 * r, y - 0.22 * r)), (24, 22, 20))


def _paint_cone(brush: _Brush, thing: Thing) -> None:
    plane, h, w = brush.plane(thing), thing.height, 0.5 * thing.width
    orange: Color = (250, 98, 20)
    plane.shadow(1.25 * w, 0.08)
    plane.box(-w, 0, w, 0.07 * h, (200, 76, 18))
    plane.shape(_slice(h, w, 0.05, 1.0), orange)
    if plane.scale * h > 7:
        plane.shape(_slice(h, w, 0.34, 0.54), (244, 240, 232))
        plane.shape(_slice(h, w, 0.68, 0.82), (244, 240, 232))


def _slice(h: float, w: float, low: float, high: float) -> Points:
    """Return the part of a cone of height h from `low` to `high` of it."""
    at_low, at_high = w * (0.72 - 0.6 * low), w * (0.72 - 0.6 * high)
    return ((-at_low, low * h), (at_low, low * h), (at_high, high * h), (-at_high, high * h))


def _paint_barrier(brush: _Brush, thing: Thing) -> None:
    """A red and white board on two feet, every other one with a blinking lamp."""
    plane, w, h = brush.plane(thing), 0.5 * thing.width, thing.height
    plane.shadow(w, 0.08)
    for dx in (-0.8 * w, 0.8 * w):
        plane.box(dx - 0.05, 0, dx + 0.05, h, (96, 96, 98))
    for low, high in ((0.66 * h, h), (0.2 * h, 0.42 * h)):
        if plane.scale * h < 9:  # too small to tell stripes
            plane.box(-w, low, w, high, (228, 130, 124))
            continue
        plane.box(-w, low, w, high, (240, 238, 234))
        stripes, lean = max(2, round(thing.width / 0.42)), 0.6 * (high - low)
        step = (2 * w - lean) / stripes
        for number in range(stripes):
            left = -w + number * step
            plane.shape(
                (
                    (left, low),
                    (left + 0.5 * step, low),
                    (left + 0.5 * step + lean, high),
                    (left + lean, high),
                ),
                (212, 34, 32),
            )
    if thing.variant % 2 == 0:
        on = math.sin(2 * math.pi * brush.seconds + thing.variant) > 0
        plane.disc(0, h + 0.12, 0.12, (255, 200, 60) if on else (180, 120, 30))
        if on:
            brush.glow(thing.x, h + 0.12, thing.z, 0.5, (190, 126, 26))


def _paint_person(brush: _Brush, thing: Thing) -> None:
    plane, h, coat = brush.plane(thing), thing.height, thing.color
    worker = thing.kind == "worker"
    swing = 0.0 if worker else 0.09 * math.sin(7.5 * brush.seconds + thing.x)
    plane.shadow(0.3, 0.06)
    for dx in (-0.09, 0.09):
        foot = dx + math.copysign(swing, dx) * (1 if swing > 0 else -1)
        plane.shape(
            ((foot - 0.07, 0), (foot + 0.07, 0), (dx + 0.09, 0.48 * h), (dx - 0.09, 0.48 * h)), (44, 48, 62)
        )
    plane.shape(((-0.2, 0.45 * h), (0.2, 0.45 * h), (0.25, 0.8 * h), (-0.25, 0.8 * h)), coat)
    if worker:
        plane.box(-0.21, 0.56 * h, 0.21, 0.61 * h, (238, 238, 226))
        plane.box(-0.14, 0.61 * h, -0.07, 0.8 * h, (238, 238, 226))
        plane.box(0.07, 0.61 * h, 0.14, 0.8 * h, (238, 238, 226))
    plane.disc(0, 0.9 * h, 0.12, (206, 164, 138))
    if worker:
        plane.shape(
            ((-0.15, 0.93 * h), (0.15, 0.93 * h), (0.09, 1.02 * h), (-0.09, 1.02 * h)), (250, 214, 50)
        )
    else:
        plane.shape(((-0.12, 0.91 * h), (0.12, 0.91 * h), (0.08, 0.99 * h), (-0.08, 0.99 * h)), (58, 46, 38))


def _paint_digger(brush: _Brush, thing: Thing) -> None:
    plane, way = brush.plane(thing), 1.0 if thing.variant else -1.0
    yellow: Color = (240, 178, 32)
    plane.shadow(1.7, 0.2)
    plane.box(-1.3, 0, 1.3, 0.55, (44, 42, 42))
    plane.disc(-1.0, 0.28, 0.24, (84, 82, 80))
    plane.disc(1.0, 0.28, 0.24, (84, 82, 80))
    plane.box(-1.25, 0.6, 1.2, 1.4, yellow)
    plane.shape(_flip(((-0.2, 1.4), (1.0, 1.4), (0.9, 2.6), (-0.1, 2.6)), way), (206, 150, 30))
    plane.shape(_flip(((-0.05, 1.5), (0.85, 1.5), (0.78, 2.4), (0.02, 2.4)), way), (74, 90, 102))
    lift = 0.25 * math.sin(1.3 * brush.seconds + thing.x)
    elbow, hand = (-2.2, 3.3 + lift), (-3.1, 1.5 + 1.4 * lift)
    plane.shape(_flip(((-0.4, 1.3), (-0.8, 1.5), (elbow[0] - 0.2, elbow[1]), elbow), way), yellow)
    plane.shape(
        _flip((elbow, (elbow[0] - 0.3, elbow[1]), (hand[0] - 0.12, hand[1]), (hand[0] + 0.12, hand[1])), way),
        yellow,
    )
    x, y = hand
    plane.shape(
        _flip(((x - 0.4, y), (x + 0.4, y), (x + 0.3, y - 0.6), (x - 0.15, y - 0.55)), way), (70, 66, 62)
    )


def _paint_heap(brush: _Brush, thing: Thing) -> None:
    plane, w, h, color = brush.plane(thing), 0.5 * thing.width, thing.height, thing.color
    outline = (
        (-w, 0),
        (-0.6 * w, 0.5 * h),
        (-0.2 * w, 0.95 * h),
        (0.15 * w, h),
        (0.55 * w, 0.55 * h),
        (w, 0),
    )
    plane.shape(outline, color)
    plane.shape((outline[2], outline[3], outline[4], (0.1 * w, 0.1 * h)), _times(color, (1.18, 1.16, 1.12)))


_PAINTERS: dict[str, Callable[[_Brush, Thing], None]] = {
    "block": _paint_building,
    "house": _paint_building,
    "tree": _paint_tree,
    "car": _paint_car,
    "van": _paint_car,
    "lamp": _paint_lamp,
    "post": _paint_post,
    "sign": _paint_sign,
    "warning": _paint_warning,
    "cone": _paint_cone,
    "barrier": _paint_barrier,
    "person": _paint_person,
    "worker": _paint_person,
    "digger": _paint_digger,
    "heap": _paint_heap,
}


def _rain(brush: _Brush, scene: Scene, number: int) -> None:
    width, height = brush.size
    place = uniform("rain", scene.seed, scene.index, number, np.arange(3 * 110)).reshape(3, -1)
    for x, y, length in zip(*place.tolist(), strict=True):
        u, v, tall = x * width, y * height, (0.03 + 0.06 * length) * height
        brush.veil.line((u, v, u - 0.1 * tall, v + tall), (214, 222, 230, 64), 1)


def _add_glow(picture: FloatArray, u: float, v: float, radius: float, color: Color) -> None:
    """Add a soft round light of the given radius in pixels around u, v."""
    reach = 1.8 * radius
    top, bottom = max(0, int(v - reach)), min(picture.shape[1], int(v + reach) + 1)
    left, right = max(0, int(u - reach)), min(picture.shape[2], int(u + reach) + 1)
    if top >= bottom or left >= right:
        return
    dy = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - v)) / np.float32(radius)
    dx = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - u)) / np.float32(radius)
    halo = np.exp(-1.6 * dy * dy)[:, None] * np.exp(-1.6 * dx * dx)
    picture[:, top:bottom, left:right] += halo * _array(color)


def _lens(scene: Scene, width: int, height: int) -> FloatArray:
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
        ambient = _array(air_of(scene.weather, scene.daytime).ambient)
        lens[0] *= 1 - bonnet
        lens[1:] = (
            bonnet * ambient * (34 + 60 * np.clip(1 - np.abs(x + 0.2), 0, 1) * np.clip(2.4 - 2 * y, 0, 1))
        )
    return lens


def _noise(scene: Scene, name: str, shape: tuple[int, ...]) -> FloatArray:
    """Return keyed white noise from 0 to 1."""
    count = math.prod(shape)
    return (
        uniform("picture", scene.seed, scene.index, name, np.arange(count)).astype(np.float32).reshape(shape)
    )


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


def _array(color: Color) -> FloatArray:
    return np.array(color, dtype=np.float32)[:, None, None]


def _interleaved(planes: FloatArray) -> NDArray[np.uint8]:
    """Return [H, W, 3] bytes of [3, H, W] floats."""
    pixels = np.empty((*planes.shape[1:], 3), dtype=np.uint8)
    for channel, plane in enumerate(planes):
        pixels[..., channel] = np.clip(plane, 0, 255)
    return pixels


def _mix(one: Color, other: Color, amount: float) -> Color:
    r, g, b = (x + (y - x) * amount for x, y in zip(one, other, strict=True))
    return r, g, b


def _times(color: Color, factors: Sequence[float]) -> Color:
    return color[0] * factors[0], color[1] * factors[1], color[2] * factors[2]


def _warm(base: tuple[int, int, int]) -> tuple[int, int, int]:
    return min(255, base[0] + 214), min(255, base[1] + 168), min(255, base[2] + 96)


def _trapezium(half_bottom: float, bottom: float, half_top: float, top: float) -> Points:
    return ((-half_bottom, bottom), (half_bottom, bottom), (half_top, top), (-half_top, top))


def _diamond(y: float, r: float) -> Points:
    return ((-r, y), (0, y - r), (r, y), (0, y + r))


def _flip(points: Points, way: float) -> Points:
    return tuple((way * dx, y) for dx, y in points)
