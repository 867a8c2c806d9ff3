"""Similarities against known motions, crops against pictures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from copo.errors import CopoError
from copo.vision.align import crop, deep3d_crop, inverse, similarity, transform
from copo.vision.points import DEEP3D_FIVE


def motion(angle: float, scale: float, x: float, y: float) -> torch.Tensor:
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[[c, -s, x], [s, c, y]]], dtype=torch.float64)


angles = st.floats(-3.1, 3.1)
scales = st.floats(0.05, 20)
shifts = st.floats(-500, 500)


@given(angles, scales, shifts, shifts, st.integers(2, 68))
def test_similarity_finds_the_motion_that_was_applied(angle: float, scale: float, x: float, y: float, n: int) -> None:
    points = torch.from_numpy(np.random.default_rng(n).normal(size=(1, n, 2)) * 50)
    matrix = motion(angle, scale, x, y)
    assert torch.allclose(similarity(points, transform(matrix, points)), matrix, atol=1e-8 * max(scale, 1))


@given(angles, scales, shifts, shifts)
def test_inverse_leads_back(angle: float, scale: float, x: float, y: float) -> None:
    points = torch.tensor([[[1.0, 2.0], [-3.0, 5.0]]], dtype=torch.float64)
    matrix = motion(angle, scale, x, y)
    assert torch.allclose(transform(inverse(matrix), transform(matrix, points)), points, atol=1e-8)


def test_similarity_is_least_squares_where_no_similarity_fits() -> None:
    """A square stretched to 4 x 2: the best similarity is the mean scale, 3 / 2 of the 2 x 2 square."""
    square = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]])
    stretched = square * torch.tensor([2.0, 1.0]) + 7
    expected = torch.tensor([[[1.5, 0.0, 7.0], [0.0, 1.5, 7.0]]])
    assert torch.allclose(similarity(square, stretched), expected, atol=1e-6)


def test_similarity_makes_no_mirror_image() -> None:
    points = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])
    matrix = similarity(points, points * torch.tensor([-1.0, 1.0]))
    assert float(matrix[0, :, :2].det()) >= 0


@pytest.mark.parametrize("points", [torch.full((1, 5, 2), 3.0), torch.tensor([[[0.0, 0.0], [math.nan, 1.0]]])])
def test_similarity_refuses_points_that_say_nothing(points: torch.Tensor) -> None:
    with pytest.raises(CopoError, match="alignment"):
        similarity(points, torch.rand(points.shape[1], 2))


def test_crop_by_whole_pixels_copies_them() -> None:
    picture = torch.arange(48.0).reshape(1, 1, 6, 8)
    cut = crop(picture, torch.tensor([[[1.0, 0.0, -2.0], [0.0, 1.0, -1.0]]]), (3, 4))
    assert torch.allclose(cut, picture[:, :, 1:4, 2:6], atol=1e-5)


def test_crop_outside_is_zero_or_the_edge() -> None:
    picture = torch.ones(1, 1, 4, 4)
    away = torch.tensor([[[1.0, 0.0, 100.0], [0.0, 1.0, 0.0]]])
    assert crop(picture, away, 4).abs().max() == 0
    assert torch.allclose(crop(picture, away, 4, border="border"), torch.ones(1, 1, 4, 4))


def test_crop_averages_fine_patterns_instead_of_picking_from_them() -> None:
    """A checkerboard of single pixels, brought to a quarter, is grey; plain sampling would find black or white."""
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    picture = board[None, None].float()
    quarter = torch.tensor([[[0.25, 0.0, 0.0], [0.0, 0.25, 0.0]]])
    assert torch.allclose(crop(picture, quarter, 8), torch.full((1, 1, 8, 8), 0.5))


def test_crop_is_differentiable_in_the_picture() -> None:
    picture = torch.rand(1, 2, 7, 9, dtype=torch.float64, requires_grad=True)
    matrix = motion(0.4, 0.6, 1.0, 2.0)
    assert torch.autograd.gradcheck(lambda p: crop(p, matrix, 4), (picture,))


def test_crop_refuses_a_similarity_without_inverse() -> None:
    with pytest.raises(CopoError, match="no inverse"):
        crop(torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 3), 4)


def test_deep3d_crop_of_the_mean_face_itself() -> None:
    """The mean face, 60 px for a unit, upright at (200, 150) counted from the top: scale 102 / 60, centred there."""
    height, width = 300, 400
    five = DEEP3D_FIVE[:, :2] * [60, -60] + [200, 150]
    place = deep3d_crop(five, width, height)
    assert place.scale == pytest.approx(1.7, rel=1e-5)
    assert place.centre == pytest.approx([199.5, 300 - 1 - 149.5], abs=1e-3)  # from the corner pixel's centre, y up
    # 400 x 1.7 = 680 px wide; 340 - 112 - 0.5 x 1.7 = 227.15 -> 227. 510 px high; 255 - 112 + 0.5 x 1.7 = 143.85 -> 143
    assert place.matrix == pytest.approx(np.array([[1.7, 0, -227], [0, 1.7, -143]]), abs=1e-3)
    assert place.trans_params == pytest.approx([400, 300, 1.7, 199.5, 149.5], abs=1e-2)


@given(st.floats(20, 400), st.floats(0, 800), st.floats(0, 600))
def test_deep3d_crop_puts_the_face_in_the_middle_at_one_size(size: float, x: float, y: float) -> None:
    five = DEEP3D_FIVE[:, :2] * [size, -size] + [x, y]
    place = deep3d_crop(five, 800, 600)
    matrix = torch.from_numpy(place.matrix)[None]
    where = transform(matrix, torch.from_numpy(five.astype(np.float32))[None])[0].numpy()
    assert where == pytest.approx(DEEP3D_FIVE[:, :2] * [102, -102] + 112, abs=5.5)  # whole pixels, half-pixel shift


def test_deep3d_crop_refuses_points_that_give_no_scale() -> None:
    with pytest.raises(CopoError, match="alignment"):
        deep3d_crop(np.full((5, 2), 7.0), 100, 100)
    with pytest.raises(CopoError, match="five"):
        deep3d_crop(np.zeros((4, 2)), 100, 100)
