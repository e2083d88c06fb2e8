"""How each kind of thing looks. A new kind is a function here and a line in `PAINTERS`."""

from __future__ import annotations

import math
from collections.abc import Callable

from headrace.demo.drawing.brush import Brush, Plane, Points
from headrace.demo.drawing.view import times
from headrace.demo.scenes import Color, Thing

NEAR = 1.4  # metres; what is nearer is behind the camera


def _paint_building(brush: Brush, thing: Thing) -> None:
    """A box with its long side to the road; a house has a gable roof over it."""
    side = 1.0 if thing.x > 0 else -1.0
    near, far = max(thing.z, NEAR), thing.z + thing.length
    x0, x1, top = thing.x, thing.x + side * thing.width, thing.height
    roof = 0.45 * thing.width if thing.kind == "house" else 0.0
    middle = 0.5 * (x0 + x1)
    tint = brush.air.tint(x0 - brush.camera.x, max(near, 2.0))
    wall, front = thing.color, times(thing.color, (0.82, 0.82, 0.84))
    tiles: Color = ((122, 62, 48), (84, 78, 80), (104, 84, 66), (70, 66, 72))[thing.variant % 4]
    brush.quad(((x0, 0, near), (x0, 0, far), (x0, top, far), (x0, top, near)), tint(wall))
    if roof:
        eaves = x0 - side * 0.4
        brush.quad(
            ((eaves, top, near), (eaves, top, far), (middle, top + roof, far), (middle, top + roof, near)),
            tint(tiles),
        )
    if thing.z > NEAR:
        gable = ((x0, 0, near), (x1, 0, near), (x1, top, near), (middle, top + roof, near), (x0, top, near))
        brush.quad(gable, tint(front))
    if near < 42:
        _paint_windows(brush, thing, x0, near)


def _paint_windows(brush: Brush, thing: Thing, x0: float, near: float) -> None:
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
            if z0 < near or z0 > 42 or z1 < first_seen:
                continue
            lit = night and (thing.variant * 7 + floor * 3 + column * 5) % 7 < 3
            fill = _warm(lamp((0, 0, 0))) if lit else glass
            shop = thing.kind == "block" and floor == 0
            bottom, top = (0.4, 2.7) if shop else (low, low + 1.35)
            brush.quad(((x0, bottom, z0), (x0, bottom, z1), (x0, top, z1), (x0, top, z0)), fill)


def _paint_tree(brush: Brush, thing: Thing) -> None:
    plane = brush.plane(thing)
    h, r, color = thing.height, 0.5 * thing.width, thing.color
    plane.shadow(0.8 * r)
    plane.box(-0.035 * h, 0, 0.035 * h, 0.5 * h, (88, 68, 52))
    if thing.variant % 4 == 0:  # a conifer
        for layer in range(3):
            low, high = (0.16 + 0.24 * layer) * h, (0.56 + 0.22 * layer) * h
            wide, shade = r * (0.85 - 0.22 * layer), 0.7 + 0.12 * layer
            plane.shape(((-wide, low), (wide, low), (0, high)), times(color, (0.8 * shade, shade, shade)))
        return
    lean = 0.25 * math.sin(2.4 * thing.variant) * r
    blobs = ((-0.5, 0.58, 0.55), (0.5, 0.6, 0.52), (0.0, 0.72, 0.72), (-0.28, 0.8, 0.46), (0.3, 0.84, 0.4))
    for number, (dx, y, size) in enumerate(blobs if thing.z < 45 else blobs[2:3]):
        shade = (0.74, 0.84, 0.94, 1.08, 1.16)[number]
        plane.disc(dx * r + lean * (y - 0.5), y * h, size * r, times(color, (shade, shade, shade)), squash=0.95)


def _paint_car(brush: Brush, thing: Thing) -> None:
    """A car or a van: its side as a box in perspective, its rear or, oncoming, its front before it."""
    w, h, color = 0.5 * thing.width, thing.height, thing.color
    van, waist = thing.kind == "van", 0.55 * thing.height
    roof = 0.92 * w if van else 0.74 * w
    if abs(brush.camera.x - thing.x) > w and thing.z < 60:
        _paint_car_side(brush, thing, waist, roof)
    if thing.z < NEAR:
        return
    plane = brush.plane(thing)
    plane.shadow(1.15 * w)
    plane.box(-0.92 * w, 0, -0.6 * w, 0.3, (22, 22, 24))
    plane.box(0.6 * w, 0, 0.92 * w, 0.3, (22, 22, 24))
    shoulder = 0.95 * w
    body = ((-w, 0.2), (w, 0.2), (w, 0.9 * waist), (shoulder, waist), (-shoulder, waist), (-w, 0.9 * waist))
    plane.shape(body, color)
    plane.shape(_trapezium(shoulder, waist, roof, h), times(color, (0.9, 0.9, 0.9)))
    glass: Color = (70, 82, 94) if thing.speed_mps < 0 else (54, 64, 76)
    plane.shape(_trapezium(0.84 * w, 1.04 * waist, 0.88 * roof, 0.94 * h), glass)
    _paint_car_lights(brush, plane, thing, waist)


def _paint_car_side(brush: Brush, thing: Thing, waist: float, roof: float) -> None:
    """The side that the camera sees, cut off where it passes the camera."""
    way = math.copysign(1.0, brush.camera.x - thing.x)
    outer, inner = thing.x + way * 0.5 * thing.width, thing.x + way * roof
    tint = brush.air.tint(outer - brush.camera.x, max(thing.z, NEAR))
    color, h, length = times(thing.color, (0.72, 0.72, 0.74)), thing.height, thing.length
    ends = (0.0, 1.0) if thing.kind == "van" else (0.1, 0.76)
    at = [max(NEAR, thing.z + share * length) for share in (0.0, 1.0, *ends, 0.22, 0.7)]
    z0, z1, cabin0, cabin1, glass0, glass1 = at
    brush.quad(((outer, 0.2, z0), (outer, 0.2, z1), (outer, waist, z1), (outer, waist, z0)), tint(color))
    cabin = ((outer, waist, cabin0), (outer, waist, cabin1), (inner, h, cabin1), (inner, h, cabin0))
    brush.quad(cabin, tint(color))
    middle, high = 0.5 * (outer + inner), 0.9 * h
    glass = ((outer, waist, glass0), (outer, waist, glass1), (middle, high, glass1), (middle, high, glass0))
    brush.quad(glass, tint((46, 54, 64)))
    for share in (0.2, 0.8):  # wheels, as what a disc across the line of sight becomes: a narrow box
        front, back = thing.z + share * length - 0.32, thing.z + share * length + 0.32
        if front > NEAR:
            wheel = ((outer, 0, front), (outer, 0, back), (outer, 0.6, back), (outer, 0.6, front))
            brush.quad(wheel, tint((24, 24, 26)))


def _paint_car_lights(brush: Brush, plane: Plane, thing: Thing, waist: float) -> None:
    w, dark = 0.5 * thing.width, brush.air.headlight > 0.1 or brush.air.sight_metres < 100
    oncoming = thing.speed_mps < 0
    plane.box(-0.3 * w, 0.38, 0.3 * w, 0.52, (200, 200, 190) if not oncoming else (40, 40, 44))
    lamp: Color = (250, 246, 226) if oncoming else (190, 28, 24)
    for dx in (-0.78, 0.78):
        plane.box((dx - 0.17) * w, 0.66 * waist, (dx + 0.17) * w, 0.88 * waist, lamp)
        if dark:
            size, color = (0.85, (235.0, 225.0, 195.0)) if oncoming else (0.42, (205.0, 30.0, 22.0))
            strength = 1.0 if brush.air.headlight > 0.5 else 0.55
            brush.glow(thing.x + dx * w, 0.77 * waist, thing.z, size, times(color, (strength,) * 3))


def _paint_lamp(brush: Brush, thing: Thing) -> None:
    plane, h = brush.plane(thing), thing.height
    inward = -math.copysign(1.4, thing.x)
    plane.box(-0.07, 0, 0.07, h, (104, 106, 108))
    plane.shape(((0, h), (0, h - 0.12), (inward, h + 0.25), (inward, h + 0.37)), (104, 106, 108))
    plane.box(min(inward, 0.7 * inward), h + 0.14, max(inward, 0.7 * inward), h + 0.34, (216, 214, 200))
    if brush.air.headlight > 0.1:
        brush.glow(thing.x + inward, h + 0.15, thing.z, 1.1, (250, 205, 130))
        if thing.z < 40:
            brush.glow(thing.x + inward, 0.0, thing.z, 2.4, (46, 36, 20))


def _paint_post(brush: Brush, thing: Thing) -> None:
    plane = brush.plane(thing)
    plane.box(-0.06, 0, 0.06, 1.0, (232, 232, 228))
    plane.box(-0.06, 0.66, 0.06, 0.84, (34, 34, 36))


def _paint_sign(brush: Brush, thing: Thing) -> None:
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


def _paint_warning(brush: Brush, thing: Thing) -> None:
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


def _paint_cone(brush: Brush, thing: Thing) -> None:
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


def _paint_barrier(brush: Brush, thing: Thing) -> None:
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
            strength = 1.0 if brush.air.headlight > 0.1 else 0.4
            brush.glow(thing.x, h + 0.12, thing.z, 0.5, (190 * strength, 126 * strength, 26 * strength))


def _paint_person(brush: Brush, thing: Thing) -> None:
    plane, h, coat = brush.plane(thing), thing.height, thing.color
    worker = thing.kind == "worker"
    swing = 0.0 if worker else 0.09 * math.sin(7.5 * brush.seconds + thing.x)
    plane.shadow(0.3, 0.06)
    for dx in (-0.09, 0.09):
        foot = dx + math.copysign(swing, dx) * (1 if swing > 0 else -1)
        plane.shape(((foot - 0.07, 0), (foot + 0.07, 0), (dx + 0.09, 0.48 * h), (dx - 0.09, 0.48 * h)), (44, 48, 62))
    plane.shape(((-0.2, 0.45 * h), (0.2, 0.45 * h), (0.25, 0.8 * h), (-0.25, 0.8 * h)), coat)
    if worker:
        plane.box(-0.21, 0.56 * h, 0.21, 0.61 * h, (238, 238, 226))
        plane.box(-0.14, 0.61 * h, -0.07, 0.8 * h, (238, 238, 226))
        plane.box(0.07, 0.61 * h, 0.14, 0.8 * h, (238, 238, 226))
    plane.disc(0, 0.9 * h, 0.12, (206, 164, 138))
    if worker:
        plane.shape(((-0.15, 0.93 * h), (0.15, 0.93 * h), (0.09, 1.02 * h), (-0.09, 1.02 * h)), (250, 214, 50))
    else:
        plane.shape(((-0.12, 0.91 * h), (0.12, 0.91 * h), (0.08, 0.99 * h), (-0.08, 0.99 * h)), (58, 46, 38))


def _paint_digger(brush: Brush, thing: Thing) -> None:
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
    plane.shape(_flip(((x - 0.4, y), (x + 0.4, y), (x + 0.3, y - 0.6), (x - 0.15, y - 0.55)), way), (70, 66, 62))


def _paint_heap(brush: Brush, thing: Thing) -> None:
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
    plane.shape((outline[2], outline[3], outline[4], (0.1 * w, 0.1 * h)), times(color, (1.18, 1.16, 1.12)))


PAINTERS: dict[str, Callable[[Brush, Thing], None]] = {
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


def _warm(base: tuple[int, int, int]) -> tuple[int, int, int]:
    return min(255, base[0] + 214), min(255, base[1] + 168), min(255, base[2] + 96)


def _trapezium(half_bottom: float, bottom: float, half_top: float, top: float) -> Points:
    return ((-half_bottom, bottom), (half_bottom, bottom), (half_top, top), (-half_top, top))


def _diamond(y: float, r: float) -> Points:
    return ((-r, y), (0, y - r), (r, y), (0, y + r))


def _flip(points: Points, way: float) -> Points:
    return tuple((way * dx, y) for dx, y in points)
