"""Landmark subsets, and boxes that belong together."""

from __future__ import annotations

import numpy as np
import pytest

from copo.errors import CopoError
from copo.vision.boxes import overlap, suppress
from copo.vision.points import DLIB_CHIP_POINTS, DLIB_MEAN_FACE, MEDIAPIPE_68, five_of_68, points_68
from copo.vision.protocols import Face, Landmarks, as_picture


def test_five_points_are_eye_centres_nose_and_mouth_corners() -> None:
    points = np.zeros((68, 2), np.float32)
    points[36], points[39], points[42], points[45] = (10, 5), (20, 7), (30, 7), (40, 5)
    points[30], points[48], points[54] = (25, 20), (15, 30), (35, 31)
    assert five_of_68(points).tolist() == [[15, 6], [35, 6], [25, 20], [15, 30], [35, 31]]


def test_mediapipe_points_stand_for_68_different_ones() -> None:
    assert len(MEDIAPIPE_68) == len(set(MEDIAPIPE_68)) == 68
    assert max(MEDIAPIPE_68) < 468  # none of the iris points, which are absent in older models
    points = np.random.default_rng(0).normal(size=(478, 2)).astype(np.float32)
    assert np.array_equal(points_68(points), points[list(MEDIAPIPE_68)])
    assert points_68(points[:68]) is not None and points_68(points[:68]).shape == (68, 2)
    with pytest.raises(CopoError, match="5 landmarks"):
        points_68(points[:5])


def test_dlib_mean_face_is_left_right_symmetric_where_it_should_be() -> None:
    """dlib's mean face is nearly a mirror image of itself: eye corners and mouth corners come in pairs."""
    where = {landmark: DLIB_MEAN_FACE[i] for i, landmark in enumerate(DLIB_CHIP_POINTS)}
    assert len(DLIB_CHIP_POINTS) == len(DLIB_MEAN_FACE) == 33
    middle = where[27][0]
    for left, right in ((36, 45), (39, 42), (31, 35), (48, 54), (60, 64)):
        assert where[left][0] + where[right][0] == pytest.approx(2 * middle, abs=2e-3)
        assert where[left][1] == pytest.approx(where[right][1], abs=1e-3)


def test_overlap_by_hand() -> None:
    """Two 2 x 2 squares that share 1 x 2 of their area: 2 / (4 + 4 - 2)."""
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [1, 1, 1, 1]], float)
    assert overlap(boxes[0], boxes) == pytest.approx([1, 1 / 3, 0, 0])


def test_suppression_keeps_the_best_or_the_weighted_mean() -> None:
    values = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], float)
    scores = np.array([0.6, 0.2, 0.9])
    kept, best = suppress(values, scores, 0.5)
    assert kept.tolist() == [[50, 50, 60, 60], [0, 0, 10, 10]] and best.tolist() == [0.9, 0.6]
    blended, _ = suppress(values, scores, 0.5, blend=True)
    assert blended[1] == pytest.approx([0.25, 0, 10.25, 10])
    empty, none = suppress(np.zeros((0, 4)), np.zeros(0), 0.5)
    assert empty.shape == (0, 4) and none.shape == (0,)


def test_areas_and_boxes_of_results() -> None:
    assert Face(np.array([2, 3, 6, 5], np.float32), 1.0).area == 8
    assert Face(np.array([6, 3, 2, 5], np.float32), 1.0).area == 0
    marks = Landmarks(np.array([[1, 2], [4, 8]], np.float32), 1.0)
    assert marks.box.tolist() == [1, 2, 4, 8] and marks.area == 18


def test_pictures_of_other_kinds_are_brought_to_rgb_or_refused() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert as_picture(grey).tolist() == np.stack([grey] * 3, -1).tolist()
    assert as_picture(np.zeros((2, 3, 4), np.uint8)).shape == (2, 3, 3)
    for wrong in (np.zeros((2, 3, 3), np.float32), np.zeros((0, 3, 3), np.uint8), np.zeros((2, 3, 2), np.uint8)):
        with pytest.raises(CopoError, match="uint8"):
            as_picture(wrong)
