"""Pictures of `headrace.demo.scenes`: a pinhole camera over a flat, bending road.

    sky panorama -> ground, one shader over its pixels -> things, far to near -> glows -> lens

The ground is computed at the picture's own size, with every edge's coverage of a pixel in closed form; things
are Pillow polygons at twice the size, averaged down. A point at x, y, z metres (right, up, ahead) stands at

    u = centre + f * (x - camera_x + bend * z^2 / 2) / z        v = horizon + f * (camera_height - y) / z
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headrace.demo.drawing.backdrop import Ground, Sky, lens_of
from headrace.demo.drawing.brush import SCALE, Brush, add_glow, paint_rain
from headrace.demo.drawing.things import NEAR, PAINTERS
from headrace.demo.drawing.view import Camera, air_of, interleaved
from headrace.demo.scenes import Scene, Thing

_FAR = 110.0  # metres


def scene_frames(scene: Scene, *, width: int, height: int, fps: float, frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames [height, width, 3] uint8 RGB of a drive, frame i at i / fps seconds.

    Inside, colours are planar float32 [3, H, W]: NumPy is several times faster when the long axis is last.
    """
    air = air_of(scene.weather, scene.daytime)
    sky = Sky(scene, air, width, height)
    ground = Ground(scene, air, width, height)
    lens = lens_of(scene, width, height)
    for number in range(frames):
        seconds = number / fps
        camera = Camera.at(scene, seconds, width, height)
        picture = np.empty((3, height, width), dtype=np.float32)
        sky.paint(picture, camera)
        ground.paint(picture, camera)
        image = Image.fromarray(interleaved(picture))
        image = image.resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
        brush = Brush(image, camera, air, seconds)
        for thing in _in_view(scene, camera, seconds):
            PAINTERS[thing.kind](brush, thing)
        if scene.weather == "rain":
            paint_rain(brush, scene, number)
        picture = np.asarray(image.reduce(SCALE)).transpose(2, 0, 1).astype(np.float32, order="C")
        for glow in brush.glows:
            add_glow(picture, *glow)
        yield interleaved(picture * lens[:1] + lens[1:])


def _in_view(scene: Scene, camera: Camera, seconds: float) -> list[Thing]:
    """Return the things before the camera, far to near, with z from the camera."""
    seen = []
    sight = min(_FAR, 4.0 * air_of(scene.weather, scene.daytime).sight_metres)
    for thing in scene.things:
        z = thing.z + thing.speed_mps * seconds - camera.travelled
        beside = abs(thing.x - camera.x) - thing.width > 0.7 * (z + thing.length) + 1.0  # left or right of the view
        if not beside and z + thing.length > NEAR and z < sight and (thing.length or z > NEAR):
            seen.append(dataclasses.replace(thing, z=z))
    seen.sort(key=lambda thing: -thing.z)
    return seen
