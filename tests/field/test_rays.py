from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from copo.camera import METHOD_FOV, Camera
from copo.errors import CopoError
from copo.field.rays import camera_rays

pitches = st.floats(0.6, 2.5)
yaws = st.floats(-1.0, 4.0)
sizes = st.tuples(st.integers(1, 7), st.integers(1, 7))


def test_one_pixel_looks_along_the_axis() -> None:
    rays = camera_rays(Camera.from_pitch_yaw(math.pi / 2, math.pi / 2), 1)
    torch.testing.assert_close(rays.origins, torch.tensor([[[0.0, 0.0, 1.0]]]))
    torch.testing.assert_close(rays.directions, torch.tensor([[[0.0, 0.0, -1.0]]]))
    torch.testing.assert_close(rays.axis_share, torch.ones(1, 1))


def test_corner_grid_of_the_published_program() -> None:
    """Pixels at linspace(-1, 1) to the right, linspace(1, -1) downwards, z = -1 / tan(fov / 2), normalised."""
    rays = camera_rays(Camera.from_pitch_yaw(math.pi / 2, math.pi / 2), 3, "corners")
    z = -1 / math.tan(METHOD_FOV / 2)
    expected = torch.tensor([[x, y, z] for y in (1.0, 0.0, -1.0) for x in (-1.0, 0.0, 1.0)])
    torch.testing.assert_close(rays.directions[0], torch.nn.functional.normalize(expected, dim=1))


def test_center_grid_lies_half_a_pixel_inside() -> None:
    rays = camera_rays(Camera.from_pitch_yaw(math.pi / 2, math.pi / 2, fov=math.pi / 2), 2)
    expected = torch.tensor([[-0.5, 0.5, -1], [0.5, 0.5, -1], [-0.5, -0.5, -1], [0.5, -0.5, -1]])
    torch.testing.assert_close(rays.directions[0], torch.nn.functional.normalize(expected, dim=1))


@given(pitches, yaws, sizes, st.floats(0.5, 3))
def test_points_of_a_ray_project_onto_its_pixel(
    pitch: float, yaw: float, size: tuple[int, int], distance: float
) -> None:
    camera = Camera.from_pitch_yaw(pitch, yaw)
    rays = camera_rays(camera, size)
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(1, size[0] * size[1]))
    depths = torch.full((1, size[0] * size[1], 1), distance)
    place, depth = camera.project(rays.at(depths)[:, :, 0])
    rows = (torch.arange(size[0]) + 0.5) / size[0]
    columns = (torch.arange(size[1]) + 0.5) / size[1]
    expected = torch.stack([columns.repeat(size[0]), rows.repeat_interleave(size[1])], dim=1)
    torch.testing.assert_close(place[0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(depth, rays.axis_share * distance, atol=1e-5, rtol=0)


def test_skewed_and_shifted_intrinsics() -> None:
    k = torch.tensor([[[4.0, 0.3, 0.4], [0.0, 5.0, 0.6], [0.0, 0.0, 1.0]]])
    camera = Camera(Camera.from_pitch_yaw(1.2, 1.9).cam2world, k)
    place, _ = camera.project(camera_rays(camera, 4).at(torch.ones(1, 16, 1))[:, :, 0])
    torch.testing.assert_close(place[0, 6], torch.tensor([2.5 / 4, 1.5 / 4]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [0, (0, 4), (4, -1)])
def test_pictures_without_pixels_are_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(CopoError, match="has no pixels"):
        camera_rays(Camera.from_pitch_yaw(1.5, 1.5), size)
