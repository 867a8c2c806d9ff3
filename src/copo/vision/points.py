"""Which landmark is which: subsets of the 68 and 478 points, and the fixed points that alignments aim at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from copo.errors import CopoError

Points = NDArray[np.float32]

MEDIAPIPE_68: tuple[int, ...] = (
    # jaw, from the left of the picture over the chin
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    # brows
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,
    # nose: bridge, then base
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    # eyes
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    # lips: outer, then inner
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
"""The MediaPipe point nearest to each of iBUG's 68. The two definitions of the jaw differ by a few pixels."""

ARCFACE_FIVE: Points = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
) + np.float32(0.5)
"""(5, 2) where ArcFace's 112 px crop has eyes, nose tip and mouth corners (InsightFace); pixel centres at +0.5."""

DEEP3D_FIVE: Points = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032535, -0.04617932, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ],
    np.float32,
)
"""(5, 3) the same points on the mean face, in face-model units, y up (Deep3DFaceRecon, MIT: similarity_Lm3D_all)."""

DLIB_CHIP_POINTS: tuple[int, ...] = tuple(i for i in range(27, 68) if not (55 <= i <= 59 or 65 <= i <= 67))
"""Landmarks that place dlib's chip: nose, eyes, upper lip and mouth corners; neither jaw, brows nor lower lip."""

DLIB_MEAN_FACE: Points = np.array(
    [
        [0.490127, 0.203352], [0.490127, 0.307009], [0.490127, 0.409805], [0.490127, 0.515625], [0.36688, 0.587326],
        [0.426036, 0.609345], [0.490127, 0.628106], [0.554217, 0.609345], [0.613373, 0.587326], [0.121737, 0.216423],
        [0.187122, 0.178758], [0.265825, 0.179852], [0.334606, 0.231733], [0.260918, 0.245099], [0.182743, 0.244077],
        [0.645647, 0.231733], [0.714428, 0.179852], [0.793132, 0.178758], [0.858516, 0.216423], [0.79751, 0.244077],
        [0.719335, 0.245099], [0.254149, 0.780233], [0.340985, 0.745405], [0.428858, 0.727388], [0.490127, 0.742578],
        [0.551395, 0.727388], [0.639268, 0.745405], [0.726104, 0.780233], [0.290379, 0.784792],
        [0.428096, 0.778746], [0.490127, 0.785343], [0.552157, 0.778746], [0.689874, 0.784792],
    ],
    np.float32,
)  # fmt: skip
"""Where `DLIB_CHIP_POINTS` lie in dlib's mean face, as a share of its size (dlib, image_transforms/interpolation.h)."""

DLIB_MEAN_FIVE: Points = np.array(
    [
        [0.8595674595992, 0.2134981538014], [0.6460604764104, 0.2289674387677], [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242], [0.4901123135679, 0.6277975316475],
    ],
    np.float32,
)  # fmt: skip
"""dlib's own five points in its mean face: outer and inner corner of the eye at the right of the picture, of the one at
the left, base of the nose (dlib, image_transforms/interpolation.h)."""

_EYES = ((36, 39), (42, 45))


def five_of_68(points: Points) -> Points:
    """Five points as in the published program: eyes (middle of their corners), nose tip, mouth corners.

    Args:
        points: (68, 2) or (68, 3), iBUG order.

    Returns:
        (5, 2) or (5, 3), each pair from left to right in the picture.
    """
    eyes = [(points[a] + points[b]) / 2 for a, b in _EYES]
    return np.stack([*eyes, points[30], points[48], points[54]]).astype(np.float32)


def points_68(points: Points) -> Points:
    """(478, 2) MediaPipe points to (68, 2); 68 points are returned as they are.

    Raises:
        CopoError: There are neither 68 nor 478 points.
    """
    if len(points) == 68:
        return points
    if len(points) == 478:
        return points[list(MEDIAPIPE_68)]
    raise CopoError(f"{len(points)} landmarks: give iBUG's 68 or MediaPipe's 478")
