"""FFHQ's square from a hand-worked face, the method's alignment on a rendered head, and borders without black."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.preparation.samples import open_head

from copo.camera import METHOD_FOV, Camera
from copo.errors import CopoError
from copo.preparation.alignment import (
    apply,
    copo_matrix,
    ffhq_matrix,
    ffhq_square,
    outside_share,
    scale_of,
    square_matrix,
    warp,
)


def face(eyes: float = 60.0, mouth: float = 70.0) -> np.ndarray:
    """68 points of which only eyes and mouth corners count: eyes around (130, 100), mouth `mouth` below them."""
    points = np.zeros((68, 2))
    points[36:42] = (130 - eyes / 2, 100)
    points[42:48] = (130 + eyes / 2, 100)
    points[48], points[54] = (110, 100 + mouth), (150, 100 + mouth)
    return points


def test_ffhq_square_by_hand() -> None:
    """Eyes 60 apart, mouth 70 below: the side is max(4 x 60, 3.6 x 70) = 252, the centre 7 below the eyes."""
    centre, side, angle = ffhq_square(face())
    assert centre == pytest.approx([130, 107]) and side == pytest.approx(252) and angle == pytest.approx(0)
    matrix = ffhq_matrix(face(), 126)
    assert scale_of(matrix) == pytest.approx(0.5)
    corners = apply(matrix, np.array([[4, -19], [256, 233], [130, 107]]))
    assert corners == pytest.approx(np.array([[0, 0], [126, 126], [63, 63]]), abs=1e-4)
    assert ffhq_square(face(eyes=80))[1] == pytest.approx(320)


@given(angle=st.floats(-3, 3), scale=st.floats(0.2, 5), x=st.floats(-500, 500), y=st.floats(-500, 500))
def test_alignment_does_not_depend_on_the_pose_in_the_photograph(
    angle: float, scale: float, x: float, y: float
) -> None:
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    moved = face() @ np.array([[c, s], [-s, c]]) + [x, y]
    expected = apply(ffhq_matrix(face(), 256), face())
    assert apply(ffhq_matrix(moved, 256), moved) == pytest.approx(expected, abs=1e-2)


def test_bad_landmarks() -> None:
    for points in (np.zeros((5, 2)), np.full((68, 2), np.nan)):
        with pytest.raises(CopoError, match=r"give \(68, 2\) finite"):
            ffhq_matrix(points, 64)
    with pytest.raises(CopoError, match="one point"):
        ffhq_matrix(np.ones((68, 2)), 64)


def smooth_picture(height: int, width: int) -> np.ndarray:
    """Colours that change slowly, so that interpolation hardly matters."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([255 * x / width, 255 * y / height, 128 + 60 * np.sin(x / 30)], -1).round().astype(np.uint8)


@pytest.mark.parametrize(("side", "angle"), [(128, 0.0), (100, 0.4), (60, -1.0), (40, 2.0)])
def test_warp_takes_each_point_where_the_matrix_says(side: float, angle: float) -> None:
    picture = smooth_picture(240, 320)
    matrix = square_matrix(np.array([150.0, 120.0]), side, angle, 64)
    out = warp(picture, matrix, 64).astype(float)
    rows, columns = np.mgrid[4:60:8, 4:60:8]
    at = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    x, y = apply(back, at).T
    assert out[rows.ravel(), columns.ravel(), 0] == pytest.approx(255 * x / 320, abs=2)
    assert out[rows.ravel(), columns.ravel(), 1] == pytest.approx(255 * y / 240, abs=2)


def test_a_whole_picture_stays_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    out = warp(picture, square_matrix(np.array([32.0, 32.0]), 64, 0.0, 64), 64)
    assert (out == picture).all()


def test_fine_stripes_become_grey_not_false_stripes() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    out = warp(stripes, square_matrix(np.array([256.0, 256.0]), 512, 0.05, 64), 64)[4:-4, 4:-4]
    assert np.abs(out.astype(int) - 128).max() <= 6


@settings(max_examples=20, deadline=None)
@given(x=st.floats(-40, 100), y=st.floats(-40, 100), side=st.floats(30, 200), angle=st.floats(-3, 3))
def test_no_black_corners(x: float, y: float, side: float, angle: float) -> None:
    """However far the square reaches beyond a plain picture, all of it has the picture's colour."""
    picture = np.full((50, 70, 3), (200, 120, 60), np.uint8)
    out = warp(picture, square_matrix(np.array([x, y]), side, angle, 48), 48).astype(int)
    assert np.abs(out - (200, 120, 60)).max() <= 1


def test_outside_is_mirrored_and_blurred() -> None:
    """Left of the border the mirror image goes on; far from it detail is gone."""
    noisy = np.random.default_rng(1).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    out = warp(noisy, square_matrix(np.array([0.0, 64.0]), 128, 0.0, 128), 128).astype(float)
    assert np.abs(out[:, 64:66] - out[:, 63:61:-1]).mean() < 12
    assert out[:, :40].std() < 0.35 * out[:, 70:].std()


def test_outside_share_by_hand() -> None:
    assert outside_share(square_matrix(np.array([50.0, 50.0]), 100, 0.0, 64), 100, 100, 64) == 0
    assert outside_share(square_matrix(np.array([0.0, 50.0]), 100, 0.0, 64), 100, 100, 64) == pytest.approx(0.5)
    assert outside_share(square_matrix(np.array([0.0, 0.0]), 100, 0.0, 64), 100, 100, 64) == pytest.approx(0.75)


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (25.0, -10.0), (-35.0, 12.0)])
def test_copo_alignment_finds_the_method_camera(yaw: float, pitch: float) -> None:
    """A photograph taken by a method camera, then turned, scaled and moved, is brought back to that camera."""
    head, size = open_head(), 256
    vertices = head.vertices(torch.zeros(1, head.spec.shape), torch.zeros(1, head.spec.expression))
    camera = Camera.from_degrees(yaw, pitch, math.degrees(METHOD_FOV))
    points = camera.project(vertices[:, head.topology.landmarks68])[0][0].numpy() * size
    move = square_matrix(np.array([100.0, 140.0]), 150, 0.3, 400)
    matrix, target = copo_matrix(apply(move, points), head.topology.landmarks68, vertices, camera, size)
    assert torch.allclose(target.cam2world, camera.cam2world, atol=1e-5)
    assert apply(matrix, apply(move, points)) == pytest.approx(points, abs=0.02)
    pose = target.to_pitch_yaw()
    assert math.degrees(float(pose.yaw)) == pytest.approx(90 - yaw, abs=1e-3)
