"""Pose, depth, reprojection and shading with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.training.samples import open_head

from copo.camera import Camera
from copo.evaluation.blending import change, flicker
from copo.evaluation.control import light_direction, shading_pairs
from copo.evaluation.geometry import angles_of, camera_rotation, fit_poses, grown, head_points, shrunk, turn_between
from copo.evaluation.plans import lamp_light
from copo.evaluation.shape import carry, depth_error
from copo.evaluation.sources import HeadSource, Leak, Request
from copo.factors import Factors
from copo.formats.pictures import from_uint8
from copo.illumination import NEUTRAL_LIGHT


def test_pose_is_found_from_landmarks() -> None:
    head = open_head()
    person = Factors.random(head.spec, [3, 4, 5])
    true = Camera.cat([Camera.from_degrees(-25, 10), Camera.from_degrees(8, -12), Camera.from_degrees(0, 0)])
    start = Camera.cat([Camera.from_degrees(0, 0), Camera.from_degrees(20, 0), Camera.from_degrees(-15, 5)])
    points = head_points(head, person, true, dense=True).points
    seen, _ = true.project(points)
    found = fit_poses(points.double(), seen.double(), torch.ones(3, points.shape[1]), start)
    assert turn_between(found.rotation, camera_rotation(true)).max() < 0.05  # arccos of float32 rotations
    assert found.residual.max() < 1e-5


def test_outlying_landmarks_hardly_move_the_pose() -> None:
    head = open_head()
    person, camera = Factors.random(head.spec, [3]), Camera.from_degrees(15, 0)
    points = head_points(head, person, camera, dense=True).points
    seen, _ = camera.project(points)
    seen = seen.double()
    seen[:, :30] += 0.2
    found = fit_poses(points.double(), seen, torch.ones(1, points.shape[1]), Camera.from_degrees())
    assert turn_between(found.rotation, camera_rotation(camera)).max() < 3


def test_angles_of_cameras() -> None:
    cameras = Camera.cat([Camera.from_degrees(30, 0), Camera.from_degrees(0, 20), Camera.from_degrees(-10, -5)])
    assert angles_of(camera_rotation(cameras)).numpy() == pytest.approx(
        np.array([[30, 0, 0], [0, 20, 0], [-10, -5, 0]]), abs=1e-3
    )


def test_depth_error_ignores_scale_and_shift_only() -> None:
    across = np.linspace(0, 1, 100)
    asked = np.tile(across, (10, 1))
    mask = np.ones_like(asked, bool)
    assert depth_error(0.5 * asked + 3, asked, mask) == pytest.approx((0, 2))
    assert depth_error(np.ones_like(asked), asked, mask)[0] == pytest.approx(0.25 / 0.96, rel=0.02)  # a billboard
    turned = depth_error(asked.max() - asked, asked, mask)
    assert turned == pytest.approx((0, -1))  # a hollow face has a negative scale
    rows = np.random.default_rng(0).permuted(asked, axis=1)
    assert depth_error(rows, asked, mask)[0] > 0.2


def test_masks_grow_and_shrink() -> None:
    mask = np.zeros((1, 7, 7), bool)
    mask[0, 2:5, 2:5] = True
    assert grown(mask, 1).sum() == 25
    assert shrunk(mask, 1).sum() == 1


def test_a_view_is_carried_into_another_by_depth() -> None:
    """The head's own depth explains the change of view; a tilted depth map does not."""
    head = open_head()
    person = Factors.random(head.spec, [7, 7], NEUTRAL_LIGHT)
    cameras = Camera.cat([Camera.from_degrees(-8), Camera.from_degrees(8)])
    request = Request(person, cameras, maps=("depth", "alpha"))
    made = HeadSource(head, size=64, map_size=64).render(request)
    pictures, depth = from_uint8(made.pictures), torch.from_numpy(made.maps["depth"])
    alpha = torch.from_numpy(made.maps["alpha"])
    carried, valid = carry(pictures[:1], depth[:1], cameras[0], depth[1:], cameras[1])
    inside = valid[0] & (alpha[1] > 0.5)
    good = (carried[0] - pictures[1]).abs().mean(0)[inside].mean()
    assert inside.sum() > 0.7 * (alpha[1] > 0.5).sum()
    assert good < 0.5 * (pictures[0] - pictures[1]).abs().mean(0)[inside].mean()
    bent = torch.from_numpy(
        HeadSource(head, size=64, map_size=64, leak=Leak(depth_tilt=0.3)).render(request).maps["depth"]
    )
    _, valid = carry(pictures[:1], bent[:1], cameras[0], bent[1:], cameras[1])
    assert (valid[0] & (alpha[1] > 0.5)).sum() < 0.6 * inside.sum()


def _shading(leak: Leak) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    head = open_head()
    person = Factors.random(head.spec, [11] * 3)
    lights = torch.stack([NEUTRAL_LIGHT, lamp_light(-70, 10, (1, 1, 1)), lamp_light(60, 30, (1, 1, 1))])
    asked = person.replace(illumination=lights)
    camera = Camera.from_degrees().expand(3)
    made = HeadSource(head, size=96, leak=leak).render(Request(asked, camera))
    measured, wanted, normals, _ = shading_pairs(head, asked, camera, made.pictures)
    return measured.mean(2), wanted.mean(2), normals


def test_shading_in_pictures_is_the_asked_one() -> None:
    measured, asked, normals = _shading(Leak())
    assert np.corrcoef(measured[1:].ravel(), asked[1:].ravel())[0, 1] > 0.97
    assert light_direction(measured[1], normals)[0] < 0 < light_direction(measured[2], normals)[0]


def test_light_that_is_not_followed_shows() -> None:
    measured, asked, _ = _shading(Leak(light_gain=0.0))
    assert np.abs(measured - 1).max() < 0.02
    assert np.abs(asked[1:] - 1).max() > 0.3


def test_change_and_flicker_by_hand() -> None:
    frames = np.zeros((3, 2, 2, 3))
    frames[1], frames[2] = 0.1, 0.2
    outside = np.array([[True, False], [True, True]])
    assert change(frames, outside) == pytest.approx(0.15)
    assert flicker(frames, outside) == pytest.approx(0)  # even motion does not flicker
    frames[2] = 0
    assert flicker(frames, outside) == pytest.approx(0.2)
    assert np.isnan(change(frames, np.zeros((2, 2), bool)))
