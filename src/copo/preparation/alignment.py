"""Where the face goes: FFHQ's crop and the method's five-point convention, without black corners.

Points are (x, y) in pixels, x to the right, y down, pixel centres at +0.5. Matrices (2, 3) lead from pixels of the
photograph to pixels of the aligned picture.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from copo.camera import METHOD_FOV, Camera
from copo.errors import CopoError
from copo.vision.align import similarity
from copo.vision.points import five_of_68

Picture = NDArray[np.uint8]
Array = NDArray[np.float64]

OVERSAMPLING = 2
"""Samples per output pixel and side before the final, smooth reduction."""
BLUR_SHARE = 0.03
"""Standard deviation of the blur far outside of the photograph, as a share of the side of the aligned picture."""
FADE_SHARE = 0.08
"""Distance from the photograph's border over which the mirrored surroundings become blurred, same unit."""


def ffhq_matrix(points68: NDArray[np.floating], size: int) -> Array:
    """FFHQ's oriented square around a face, as a similarity.

    From the eyes' centres e0, e1 and the mouth's corners m0, m1: x' = e1 - e0, y' = mean(e) - mean(m), the square's
    centre is mean(e) - 0.1 y', its side max(4 |x'|, 3.6 |y'|), its axis x along x' - rot90(y') (Karras et al. 2018,
    "Progressive growing of GANs", appendix C, which FFHQ follows).

    Args:
        points68: (68, 2) landmarks in iBUG's order.
        size: Side of the aligned picture in pixels.

    Returns:
        (2, 3) from photograph to aligned pixels.

    Raises:
        CopoError: Landmarks of a wrong shape, not finite, or all in one place.
    """
    centre, side, angle = ffhq_square(points68)
    return square_matrix(centre, side, angle, size)


def ffhq_square(points68: NDArray[np.floating]) -> tuple[Array, float, float]:
    """Centre (2,), side in pixels and angle in radians (positive is clockwise) of FFHQ's square; see `ffhq_matrix`."""
    points = np.asarray(points68, np.float64)
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise CopoError(f"alignment: landmarks of shape {points.shape}: give (68, 2) finite pixel positions")
    eyes = np.stack([points[36:42].mean(0), points[42:48].mean(0)])
    mouth = points[[48, 54]]
    across, up = eyes[1] - eyes[0], eyes.mean(0) - mouth.mean(0)
    centre = eyes.mean(0) - 0.1 * up
    side = max(4.0 * np.hypot(*across), 3.6 * np.hypot(*up))
    axis = across - np.array([up[1], -up[0]])  # y points down: turning "up" by 90 degrees clockwise gives "right"
    length = np.hypot(*axis)
    if side < 1e-6 or length < 1e-9:
        raise CopoError("alignment: all landmarks lie in one point")
    return centre, float(side), math.atan2(axis[1], axis[0])


def square_matrix(centre: NDArray[np.floating], side: float, angle: float, size: int) -> Array:
    """The similarity that brings a turned square of a photograph to a picture.

    Args:
        centre: (2,) in photograph pixels.
        side: In photograph pixels.
        angle: Of its upper edge against the horizontal, radians, positive is clockwise.
        size: Side of the picture in pixels.
    """
    cosine, sine = math.cos(angle) * size / side, math.sin(angle) * size / side
    linear = np.array([[cosine, sine], [-sine, cosine]])
    return np.concatenate([linear, (size / 2 - linear @ np.asarray(centre, np.float64))[:, None]], axis=1)


def copo_matrix(
    points68: NDArray[np.floating], landmarks: torch.Tensor, vertices: torch.Tensor, camera: Camera, size: int
) -> tuple[Array, Camera]:
    """The method's alignment: five points go where the fitted head has them before the method's camera.

    The published program projects the face model with its translation set to (0, -0.1, 0) and drops the roll. Here the
    camera of the fit keeps its direction from the head, moves to the method's sphere and looks at the origin, upright:
    the aligned picture belongs to a camera that has a pitch and a yaw and nothing else.

    Args:
        points68: (68, 2) landmarks in the photograph.
        landmarks: (68,) the head's vertices at these landmarks.
        vertices: (1, V, 3) the fitted head, metres.
        camera: (1) the fitted camera.
        size: Side of the aligned picture in pixels.

    Returns:
        (2, 3) from photograph to aligned pixels, and the camera of the aligned picture.

    Raises:
        CopoError: The landmarks coincide or are not finite.
    """
    direction = torch.nn.functional.normalize(camera.position, dim=1)
    pitch = direction[:, 1].clamp(-1, 1).acos()
    target = Camera.from_pitch_yaw(pitch, torch.atan2(direction[:, 2], direction[:, 0]), METHOD_FOV)
    projected, _ = target.project(vertices[:, landmarks])
    five = five_of_68((projected[0] * size).numpy())
    source = torch.from_numpy(five_of_68(np.asarray(points68, np.float32)))[None].double()
    matrix = similarity(source, torch.from_numpy(five).double())
    return matrix[0].numpy(), target


def apply(matrix: Array, points: NDArray[np.floating]) -> NDArray[np.float32]:
    """(2, 3) on (N, 2) points."""
    return (np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def scale_of(matrix: Array) -> float:
    """Aligned pixels for each photograph pixel."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def outside_share(matrix: Array, width: int, height: int, size: int) -> float:
    """Share of the aligned picture outside of a photograph of this size, 0 to 1 (on a 64 x 64 grid)."""
    grid = (np.stack(np.meshgrid(np.arange(64), np.arange(64)), axis=-1).reshape(-1, 2) + 0.5) * size / 64
    x, y = _back(matrix, grid).T
    return float(1 - ((x >= 0) & (x <= width) & (y >= 0) & (y <= height)).mean())


def warp(picture: Picture, matrix: Array, size: int) -> Picture:
    """The aligned picture. What lies outside of the photograph is its mirror image, more blurred with the distance.

    The photograph is first reduced with a Lanczos filter to at most twice the density that is needed, sampled
    bicubically at twice the size, and reduced again: no aliasing, and no softness where the scale is near one.

    Args:
        picture: (H, W, 3) uint8.
        matrix: (2, 3) from photograph to aligned pixels.
        size: Side of the aligned picture.

    Returns:
        (size, size, 3) uint8.
    """
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    (left, top), (right, bottom) = _back(matrix, np.array([[0.0, 0.0], [size, size]])).tolist()
    if matrix[0, 1] == 0 and min(left, top) >= 0 and right <= width and bottom <= height:  # upright and all inside
        return np.array(image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, right, bottom)))
    density = OVERSAMPLING * scale_of(matrix)
    if density < 0.75:
        reduced = max(round(width * density), 1), max(round(height * density), 1)
        image = image.resize(reduced, Image.Resampling.LANCZOS)
        # each axis by its own exact factor, which rounding makes slightly different
        matrix = np.concatenate([matrix[:, :2] * [width / reduced[0], height / reduced[1]], matrix[:, 2:]], axis=1)
        width, height = reduced
    fine = size * OVERSAMPLING
    corners = _back(matrix, np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64))
    margin = np.ceil(np.concatenate([-corners.min(0), corners.max(0) - [width, height]]).clip(0)).astype(int)
    before_x, before_y, after_x, after_y = (int(m) + (2 if m else 0) for m in margin)
    padded = bool(before_x or before_y or after_x or after_y)
    if padded:
        widths = ((before_y, after_y), (before_x, after_x), (0, 0))
        image = Image.fromarray(np.pad(np.asarray(image), widths, mode="symmetric"))
        shift = matrix[:, :2] @ np.array([[before_x], [before_y]])
        matrix = np.concatenate([matrix[:, :2], matrix[:, 2:] - shift], axis=1)
    linear = np.linalg.inv(matrix[:, :2])
    shift = -linear @ matrix[:, 2]
    coefficients = np.concatenate([linear / OVERSAMPLING, shift[:, None]], axis=1).reshape(-1)
    sampled = image.transform((fine, fine), Image.Transform.AFFINE, tuple(coefficients), Image.Resampling.BICUBIC)
    out = np.asarray(sampled.resize((size, size), Image.Resampling.LANCZOS))
    if padded:
        out = _softened(out, matrix, (before_x, before_y, width, height), size)
    return np.ascontiguousarray(out)


def _back(matrix: Array, points: Array) -> Array:
    linear = np.linalg.inv(matrix[:, :2])
    return (points - matrix[:, 2]) @ linear.T


def _softened(out: Picture, matrix: Array, inside: tuple[int, int, int, int], size: int) -> Picture:
    """Blur what lies outside of the photograph, the more the farther, so that nobody takes it for a second face."""
    left, top, width, height = inside
    ys, xs = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5, indexing="ij")
    place = _back(matrix, np.stack([xs, ys], axis=-1).reshape(-1, 2)) - [left, top]
    beyond = np.maximum(np.maximum(-place, place - [width, height]), 0).max(1).reshape(size, size) * scale_of(matrix)
    weight = (beyond / (FADE_SHARE * size)).clip(0, 1)[..., None]
    weight = weight * weight * (3 - 2 * weight)
    sigma = BLUR_SHARE * size
    blurred = gaussian_filter(out.astype(np.float32), (sigma, sigma, 0), mode="nearest")
    return (out * (1 - weight) + blurred * weight).round().clip(0, 255).astype(np.uint8)
