"""Camera paths, hand-worked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from copo.animation.paths import camera_path
from copo.animation.sources import pose_of
from copo.camera import Camera, ellipse
from copo.errors import CopoError

BASE = Camera.from_degrees()


def test_the_ellipse_is_the_methods() -> None:
    ours, theirs = camera_path("ellipse", BASE, 24), ellipse(24)
    assert torch.allclose(ours.cam2world, theirs.cam2world, atol=1e-6)


def test_orbit_and_sway() -> None:
    orbit = pose_of(camera_path("orbit", BASE, 4))
    np.testing.assert_allclose(np.abs(orbit[:, 0]), [0, math.pi / 2, math.pi, math.pi / 2], atol=1e-5)
    sway = pose_of(camera_path("sway", BASE, 4, yaw=0.3))
    np.testing.assert_allclose(sway[:, 0], [0, 0.3, 0, -0.3], atol=1e-6)
    twice = pose_of(camera_path("sway", BASE, 8, yaw=0.3, period=4))
    np.testing.assert_allclose(twice[:, 0], [0, 0.3, 0, -0.3] * 2, atol=1e-6)


def test_fixed_keeps_the_camera() -> None:
    aside = Camera.from_degrees(30, 5)
    assert torch.equal(camera_path("fixed", aside, 3).cam2world, aside.cam2world.expand(3, 4, 4))


@given(st.floats(-1.2, 1.2), st.floats(-1, 1), st.floats(-1, 1))
def test_driven_cameras_have_the_pose(yaw: float, pitch: float, roll: float) -> None:
    pose = np.array([[yaw, pitch, roll]], np.float32)
    found = camera_path("drive", BASE, 1, pose=pose)
    np.testing.assert_allclose(pose_of(found), pose, atol=2e-5)
    place, depth = found.project(torch.zeros(1, 1, 3))
    assert torch.allclose(place, torch.full_like(place, 0.5), atol=1e-5) and float(depth) == pytest.approx(1, abs=1e-5)


def test_bad_paths() -> None:
    with pytest.raises(CopoError, match="orbit"):
        camera_path("orbitt", BASE, 2)
    with pytest.raises(CopoError, match="at least 1"):
        camera_path("fixed", BASE, 0)
    with pytest.raises(CopoError, match="no poses"):
        camera_path("drive", BASE, 2)
