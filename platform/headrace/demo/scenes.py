"""Made-up drives along a street, for trying the platform out with no data: what stands where, and the track.

A scene is a road with a constant bend, things beside it, traffic on it and, in every second one, roadwork:
cones that taper off a lane, barriers, warning signs, a dug-up patch, machines and workers. Scenes without
roadwork hold what is easily taken for it: orange cars and houses, autumn trees, red-and-white signs, people.
`headrace.demo.drawing` makes the pictures.

Metres; x to the right of the road's middle, y up, z along the road from where the camera starts. Traffic
keeps right. Every number is a keyed draw with a name of its own, so a scene is a pure function of
(seed, index), and a new draw leaves all others as they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from headrace.keyed import hash64, uniform

Weather: TypeAlias = Literal["clear", "overcast", "rain", "fog"]
Daytime: TypeAlias = Literal["day", "dusk", "night"]
Place: TypeAlias = Literal["city", "suburb", "country"]
Color: TypeAlias = tuple[float, float, float]
T = TypeVar("T")

SCENE_METRES = 170.0
"""How far ahead of the start things are placed."""

_METRES_PER_DEGREE = 111_320.0
_CITIES = ((52.52, 13.40), (40.44, -79.99), (39.77, -86.16), (47.38, 8.54), (35.68, 139.69), (-33.87, 151.21))

_CAR_COLORS: tuple[Color, ...] = (
    (205, 207, 210), (30, 32, 36), (120, 124, 130), (148, 30, 34), (34, 66, 120), (70, 96, 82),
    (226, 118, 36), (196, 178, 140), (236, 236, 232), (222, 184, 40),
)  # fmt: skip
_WALL_COLORS: tuple[Color, ...] = (
    (196, 178, 150), (170, 92, 70), (208, 202, 190), (150, 140, 132), (214, 170, 104), (132, 148, 158),
    (198, 120, 84), (226, 216, 186),
)  # fmt: skip
_TREE_COLORS: tuple[Color, ...] = (
    (62, 104, 48), (78, 120, 56), (48, 88, 52), (96, 118, 50), (190, 112, 40), (176, 70, 38),
)  # fmt: skip
_COAT_COLORS: tuple[Color, ...] = (
    (60, 70, 110), (40, 40, 46), (226, 110, 40), (150, 40, 50), (120, 130, 120), (220, 214, 200),
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """Something that stands or drives: its nearest face's middle, its size and its looks."""

    kind: str
    x: float
    z: float
    width: float
    height: float
    length: float = 0.0
    color: Color = (128.0, 128.0, 128.0)
    variant: int = 0
    speed_mps: float = 0.0  # along +z; oncoming traffic has a negative one


@dataclass(frozen=True)
class Roadwork:
    """Which strip of the road is closed: from the kerb on `side` to `edge_x`, z from `start` to `end`."""

    side: int  # +1 the camera's side, -1 the oncoming one
    start: float
    end: float
    taper_metres: float
    edge_x: float
    dug: bool


@dataclass(frozen=True)
class Scene:
    """One drive. Lengths in metres, angles in radians, heading clockwise from north."""

    seed: int
    index: int
    weather: Weather
    daytime: Daytime
    place: Place
    lanes: int  # a direction
    lane_width: float
    lane_x: float  # the middle of the lane that the camera starts in
    bend_per_metre: float
    speed_mps: float
    heading: float
    latitude: float
    longitude: float
    sway_phases: tuple[float, float, float, float]
    yellow_lines: bool
    bonnet: bool
    roadwork: Roadwork | None
    things: tuple[Thing, ...]

    @property
    def half_width(self) -> float:
        """From the middle of the road to its kerb."""
        return self.lanes * self.lane_width

    def camera_x(self, seconds: float) -> float:
        """Return where the camera is across the road: the middle of its lane, or of what is left of it."""
        work, lane_x = self.roadwork, self.lane_x
        if work is None or work.side < 0 or lane_x + 1.4 < work.edge_x:
            return lane_x
        aside = max(0.5 * self.lane_width, work.edge_x - 1.7) if self.lanes > 1 else work.edge_x - 1.5
        ahead = 22.0  # a driver moves over well before the cones
        progress = (self.speed_mps * seconds - (work.start - ahead)) / (ahead + 0.5 * work.taper_metres)
        return lane_x + (aside - lane_x) * _smoothstep(progress)

    def sway(self, seconds: float) -> tuple[float, float]:
        """Return the camera's yaw and pitch in radians: a car on its springs on a road that is not flat."""
        a, b, c, d = self.sway_phases
        yaw = 0.006 * math.sin(1.9 * seconds + a) + 0.002 * math.sin(7.1 * seconds + b)
        pitch = 0.005 * math.sin(5.3 * seconds + c) + 0.0025 * math.sin(11.7 * seconds + d)
        return yaw, pitch

    def gps(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return latitude and longitude in degrees, [N, 2], at the given times [N].

        The road is an arc of a circle: after s metres the camera lies a chord of s * sinc(b * s / 2) from its
        start, b the bend, in the direction of the heading half-way.
        """
        metres = self.speed_mps * seconds
        half_turn = 0.5 * self.bend_per_metre * metres
        chord = metres * np.sinc(half_turn / math.pi)
        north, east = chord * np.cos(self.heading + half_turn), chord * np.sin(self.heading + half_turn)
        longitude_metres = _METRES_PER_DEGREE * math.cos(math.radians(self.latitude))
        track = np.stack([self.latitude + north / _METRES_PER_DEGREE, self.longitude + east / longitude_metres], 1)
        return np.round(track, 7)  # a centimetre


def has_roadwork(seed: int, index: int) -> bool:
    """Return the scene's label. Of the scenes 2k and 2k + 1 exactly one has roadwork."""
    return bool((int(hash64("roadwork", seed, index // 2)) ^ index) & 1)


def street_scene(seed: int, index: int, *, roadwork: bool | None = None) -> Scene:
    """Return scene number `index`; `roadwork` overrides its label and changes nothing but the roadwork."""
    draws = _Draws(seed, index)
    place = draws.choice("place", get_args(Place))
    lanes = 1 if place == "country" else draws.choice("lanes", (1, 1, 2))
    lane_width = draws.between("lane width", 3.2, 3.8)
    works = has_roadwork(seed, index) if roadwork is None else roadwork
    work = _draw_roadwork(draws, lanes, lane_width) if works else None

    things = _roadside(draws, place, lanes * lane_width)
    things += _traffic(draws, lanes, lane_width, work)
    if work is not None:
        things += _worksite(draws, work, lanes * lane_width)

    city_latitude, city_longitude = draws.choice("city", _CITIES)
    slow = {"city": 5.0, "suburb": 6.0, "country": 8.0}[place]
    return Scene(
        seed=seed,
        index=index,
        weather=draws.choice("weather", get_args(Weather), (0.4, 0.25, 0.2, 0.15)),
        daytime=draws.choice("daytime", get_args(Daytime), (0.6, 0.18, 0.22)),
        place=place,
        lanes=lanes,
        lane_width=lane_width,
        lane_x=(draws.below("lane", lanes) + 0.5) * lane_width,
        bend_per_metre=draws.between("bend", -0.004, 0.004),
        speed_mps=round(draws.between("speed", slow, slow + 5.0), 2),
        heading=draws.phase("heading"),
        latitude=city_latitude + draws.between("latitude", -0.05, 0.05),
        longitude=city_longitude + draws.between("longitude", -0.05, 0.05),
        sway_phases=(
            draws.phase("yaw 1"),
            draws.phase("yaw 2"),
            draws.phase("pitch 1"),
            draws.phase("pitch 2"),
        ),
        yellow_lines=draws.chance("yellow lines", 0.35),
        bonnet=draws.chance("bonnet", 0.5),
        roadwork=work,
        things=tuple(things),
    )


def _draw_roadwork(draws: _Draws, lanes: int, lane_width: float) -> Roadwork:
    side = 1 if draws.chance("work side", 0.7) else -1
    closed = draws.between("closed", 0.75, 1.0) * lane_width if lanes > 1 else draws.between("closed", 1.1, 1.9)
    start = draws.between("work start", 7.0, 24.0)
    return Roadwork(
        side=side,
        start=start,
        end=start + draws.between("work length", 32.0, 60.0),
        taper_metres=draws.between("taper", 8.0, 16.0),
        edge_x=lanes * lane_width - closed,
        dug=draws.chance("dug", 0.6),
    )


def _roadside(draws: _Draws, place: Place, half_width: float) -> list[Thing]:
    things: list[Thing] = []
    for side in (-1, 1):
        row = draws.named(f"roadside {side}")
        z = row.between("first", -8.0, 4.0)
        kinds = {
            "city": ("block",),
            "suburb": ("house", "house", "tree"),
            "country": ("tree", "gap", "house"),
        }
        number = 0
        while z < SCENE_METRES:
            plot = row.named(f"plot {number}")
            number += 1
            kind = plot.choice("kind", kinds[place])
            if place == "country" and plot.chance("grove", 0.55):
                kind = "tree"
            thing, metres = _plot(plot, kind, side, z, half_width)
            things += thing
            z += metres
        things += _furniture(row, place, side, half_width)
    return things


def _plot(draws: _Draws, kind: str, side: int, z: float, half_width: float) -> tuple[list[Thing], float]:
    """Return what stands on one plot beside the road and how many metres of road it takes."""
    if kind == "block":
        length, setback = draws.between("length", 10.0, 22.0), draws.between("setback", 3.2, 4.6)
        height = draws.between("height", 8.0, 22.0)
        color, variant = draws.choice("color", _WALL_COLORS), draws.below("variant", 4)
        block = Thing("block", side * (half_width + setback), z, 12.0, height, length, color, variant)
        return [block], length + (3.0 if draws.chance("alley", 0.25) else 0.0)
    if kind == "house":
        length, setback = draws.between("length", 7.0, 12.0), draws.between("setback", 5.5, 10.0)
        height, color = draws.between("height", 3.2, 6.2), draws.choice("color", _WALL_COLORS)
        x = side * (half_width + setback)
        house = Thing("house", x, z, draws.between("depth", 7, 10), height, length, color, draws.below("v", 4))
        return [house], length + draws.between("garden", 3.0, 9.0)
    if kind == "tree":
        height, setback = draws.between("height", 4.0, 10.0), draws.between("setback", 2.6, 14.0)
        color, variant = draws.choice("color", _TREE_COLORS), draws.below("variant", 64)
        x = side * (half_width + setback)
        return [Thing("tree", x, z, 0.6 * height, height, 0, color, variant)], draws.between("gap", 2.5, 9.0)
    return [], draws.between("gap", 8.0, 20.0)


def _furniture(draws: _Draws, place: Place, side: int, half_width: float) -> list[Thing]:
    """Return lamps, posts, signs, parked cars and walkers along one kerb."""
    things: list[Thing] = []
    spacing = draws.between("pole spacing", 22.0, 34.0)
    if place != "country":
        poles = np.arange(draws.between("pole", -6.0, spacing), SCENE_METRES, spacing)
        height = draws.between("pole height", 6.0, 8.0)
        things += [Thing("lamp", side * (half_width + 0.9), float(z), 0.2, height) for z in poles]
    else:
        posts = np.arange(draws.between("post", 0.0, 12.0), SCENE_METRES, 14.0)
        things += [Thing("post", side * (half_width + 0.6), float(z), 0.14, 1.0) for z in posts]
    for number in range(draws.below("signs", 3)):
        sign = draws.named(f"sign {number}")
        x, height = side * (half_width + sign.between("setback", 0.6, 1.5)), sign.between("height", 2.2, 2.9)
        z, variant = sign.between("z", 6.0, 70.0), sign.below("variant", 4)
        things.append(Thing("sign", x, z, sign.between("size", 0.6, 0.9), height, 0, (0, 0, 0), variant))
    if place != "country":
        for number in range(draws.below("walkers", 4)):
            walker = draws.named(f"walker {number}")
            x, z = side * (half_width + walker.between("setback", 1.0, 2.6)), walker.between("z", 5.0, 60.0)
            color, speed = walker.choice("coat", _COAT_COLORS), walker.choice("speed", (-1.3, 1.2))
            things.append(Thing("person", x, z, 0.5, walker.between("height", 1.55, 1.9), 0, color, 0, speed))
    return things


def _traffic(draws: _Draws, lanes: int, lane_width: float, work: Roadwork | None) -> list[Thing]:
    things: list[Thing] = []
    for lane in range(lanes):
        for direction in (-1, 1):
            row = draws.named(f"lane {lane} {direction}")
            x = direction * (lane + 0.5) * lane_width
            speed = row.between("speed", 6.0, 11.0) * direction
            z = row.between("first", 14.0, 50.0)
            while z < SCENE_METRES:
                car = row.named(f"car {z:.3f}")
                kind = "van" if car.chance("van", 0.2) else "car"
                width, height = (2.0, 2.4) if kind == "van" else (1.8, car.between("height", 1.4, 1.7))
                color, variant = car.choice("color", _CAR_COLORS), car.below("variant", 4)
                length = car.between("length", 3.9, 4.7) + (1.0 if kind == "van" else 0.0)
                if work is None or abs(x) + 1.0 < work.edge_x or direction != work.side:
                    things.append(Thing(kind, x, z, width, height, length, color, variant, speed))
                z += car.between("gap", 18.0, 70.0)
    return things


def _worksite(draws: _Draws, work: Roadwork, half_width: float) -> list[Thing]:
    """Return the cones, barriers, signs, machines and workers of a closed strip."""
    site = draws.named("worksite")
    side, inside = work.side, 0.5 * (work.edge_x + half_width)
    cones, boards = site.choice("fence", ((True, True), (True, False), (False, True)))
    things: list[Thing] = []
    spacing, cone_height = site.between("spacing", 2.2, 4.0), site.between("cone height", 0.65, 1.05)
    for number, z in enumerate(np.arange(work.start, work.end, spacing)):
        x = side * taper_x(work, half_width, float(z)) + site.between(f"astray {number}", -0.12, 0.12)
        if cones:
            things.append(Thing("cone", x, float(z), 0.42 * cone_height, cone_height))
        elif number % 2 == 0:
            width = site.between("board width", 0.9, 1.5)
            things.append(Thing("barrier", x, float(z), width, 1.05, variant=number))
    if boards:
        z, width = work.start + work.taper_metres + 1.5, half_width - work.edge_x
        count = max(1, round(width / 1.6))
        for number in range(count):
            x = side * (work.edge_x + (number + 0.5) * width / count)
            things.append(Thing("barrier", x, z, 0.92 * width / count, 1.1, variant=number))
    if site.chance("warning sign", 0.75):
        x, variant = side * (half_width + 0.8), site.below("warning variant", 2)
        z = work.start + site.between("warning z", -4.0, 14.0)
        things.append(Thing("warning", x, z, site.between("size", 0.9, 1.3), 2.3, variant=variant))
    if site.chance("digger", 0.45):
        z = work.start + work.taper_metres + site.between("digger z", 7.0, 18.0)
        things.append(Thing("digger", side * (inside + 0.6), z, 2.3, 2.9, variant=site.below("digger", 2)))
    for number in range(site.below("workers", 4)):
        x = side * (inside + site.between(f"worker x {number}", -0.4, 1.6))
        z = work.start + work.taper_metres + site.between(f"worker z {number}", 3.0, 22.0)
        vest = site.choice(f"vest {number}", ((255.0, 110.0, 24.0), (206.0, 230.0, 40.0)))
        things.append(Thing("worker", x, z, 0.55, site.between(f"tall {number}", 1.65, 1.9), 0, vest))
    if work.dug and site.chance("heap", 0.7):
        z, width = (
            work.start + work.taper_metres + site.between("heap z", 4.0, 16.0),
            site.between("w", 1.4, 2.6),
        )
        things.append(Thing("heap", side * (half_width + 1.0), z, width, 0.45 * width, 0, (124, 98, 72)))
    return things


def taper_x(work: Roadwork, half_width: float, z: float) -> float:
    """Return how far from the middle of the road the closed strip begins at z."""
    closing = min(max((z - work.start) / work.taper_metres, 0.0), 1.0)
    return half_width + (work.edge_x - half_width) * closing


def _smoothstep(t: float) -> float:
    t = min(max(t, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


class _Draws:
    """The named random draws of one scene."""

    def __init__(self, *keys: int | str) -> None:
        self._key = hash64("scene", *keys).astype(np.int64)

    def named(self, name: str) -> _Draws:
        child = _Draws()
        child._key = hash64(self._key, name).astype(np.int64)
        return child

    def between(self, name: str, low: float, high: float) -> float:
        return low + (high - low) * float(uniform(self._key, name))

    def phase(self, name: str) -> float:
        return self.between(name, 0.0, 2 * math.pi)

    def below(self, name: str, count: int) -> int:
        return int(uniform(self._key, name) * count)

    def chance(self, name: str, probability: float) -> bool:
        return float(uniform(self._key, name)) < probability

    def choice(self, name: str, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        if weights is None:
            return options[self.below(name, len(options))]
        bounds = np.cumsum(weights) / sum(weights)
        return options[int(np.searchsorted(bounds, float(uniform(self._key, name)), side="right"))]
