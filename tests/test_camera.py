"""Camera converters: every pair round-trips, and a point lands on the same pixel through all of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from copo.camera import (
    DEEP3D_FOCAL,
    DEEP3D_SIZE,
    METHOD_FOV,
    Camera,
    ellipse,
    euler_zyx,
    euler_zyx_angles,
    orbit,
    spline,
    turntable,
)
from copo.errors import CopoError

DEEP3D_FOV = 2 * math.atan(DEEP3D_SIZE / 2 / DEEP3D_FOCAL)
pitches = st.floats(0.3, math.pi - 0.3)
yaws = st.floats(-math.pi + 0.1, math.pi - 0.1)
points = st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, check_dtype=False)


def double(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_frontal_camera_by_hand() -> None:
    camera = Camera.from_pitch_yaw(math.pi / 2, math.pi / 2)
    close(camera.position, torch.tensor([[0.0, 0.0, 1.0]]))
    # OpenCV axes in the world: right = +x, down = -y, forward = -z.
    close(camera.cam2world[0, :3, :3], torch.diag(torch.tensor([1.0, -1.0, -1.0])))
    # A point 5 cm right of and 2 cm above the origin, at depth 1: u = 0.5 + f * 0.05, v = 0.5 - f * 0.02.
    focal = 0.5 / math.tan(METHOD_FOV / 2)
    uv, depth = camera.project(torch.tensor([[[0.05, 0.02, 0.0]]]))
    close(uv[0, 0], torch.tensor([0.5 + focal * 0.05, 0.5 - focal * 0.02]))
    close(depth, torch.tensor([[1.0]]))


def test_degrees_move_right_and_up() -> None:
    camera = Camera.from_degrees(yaw=30, pitch=10)
    assert camera.position[0, 0] > 0.4 and camera.position[0, 1] > 0.17
    close(camera.position.norm(dim=1), torch.ones(1))


def test_published_camera_formula() -> None:
    """cam2world columns (-left, up', -forward) in OpenGL axes, with left = up x forward, up' = forward x left."""
    pitch, yaw = 1.2, 1.9
    position = torch.tensor(
        [math.sin(pitch) * math.cos(yaw), math.cos(pitch), math.sin(pitch) * math.sin(yaw)], dtype=torch.float64
    )
    forward = -position
    left = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), forward)
    left = left / left.norm()
    expected = torch.stack([-left, torch.linalg.cross(forward, left), -forward], dim=1)
    gl = Camera.from_pitch_yaw(double(pitch), double(yaw)).to_opengl()
    close(gl.cam2world[0, :3, :3], expected, 1e-12)
    close(gl.cam2world[0, :3, 3], position, 1e-12)


@settings(max_examples=40, deadline=None)
@given(pitches, yaws, points)
def test_all_converters_agree(pitch: float, yaw: float, point: list[float]) -> None:
    camera = Camera.from_pitch_yaw(double(pitch), double(yaw), DEEP3D_FOV)
    others = {
        "pitch_yaw": Camera.from_pitch_yaw(*camera.to_pitch_yaw()),
        "eg3d": Camera.from_eg3d(camera.to_eg3d(1 / 2.7), 1 / 2.7),
        "opengl": Camera.from_opengl(*camera.to_opengl()),
        "deep3d": Camera.from_deep3d(*camera.to_deep3d()),
        "look_at": Camera.look_at(*camera.to_look_at()),
    }
    world = torch.tensor([[point]], dtype=torch.float64)
    uv, depth = camera.project(world)
    for first in others.values():
        close(first.cam2world, camera.cam2world, 1e-9)
        close(first.intrinsics, camera.intrinsics, 1e-9)
        # every pair: through the first converter, then through each of the others
        for second in (
            Camera.from_pitch_yaw(*first.to_pitch_yaw()),
            Camera.from_eg3d(first.to_eg3d()),
            Camera.from_opengl(*first.to_opengl()),
            Camera.from_deep3d(*first.to_deep3d()),
            Camera.look_at(*first.to_look_at()),
        ):
            close(second.project(world)[0], uv, 1e-8)
            close(second.project(world)[1], depth, 1e-8)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1.2, 1.2), min_size=3, max_size=3),
    st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3),
    points,
)
def test_deep3d_projects_like_its_own_formula(angles: list[float], shift: list[float], point: list[float]) -> None:
    """A face-model point v through Rz Ry Rx v + t, z' = 10 - z, 1015 x / z' + 112 (y upwards) meets our pixel."""
    v = torch.tensor(point, dtype=torch.float64) * 5
    angle, t = torch.tensor([angles], dtype=torch.float64), torch.tensor([shift], dtype=torch.float64)
    moved = euler_zyx(angle)[0] @ v + t[0]
    z = 10 - moved[2]
    expected = torch.stack([1015 * moved[0] / z + 112, 224 - (1015 * moved[1] / z + 112)]) / 224
    world = (v + torch.tensor([0, -0.1, 0], dtype=torch.float64)) / 10
    camera = Camera.from_deep3d(angle, t)
    uv, depth = camera.project(world[None, None])
    close(uv[0, 0], expected, 1e-9)
    close(depth[0, 0], z / 10, 1e-9)
    back = camera.to_deep3d()
    close(back.angles, angle, 1e-8)
    close(back.translation, t, 1e-8)


def test_deep3d_angles_are_the_methods_pitch_and_yaw() -> None:
    """Pose for the generator: (pitch, yaw) = pi/2 + (angle_x, angle_y) * (-1, +1), roll dropped."""
    ax, ay = 0.0, 0.35
    camera = Camera.from_deep3d(torch.tensor([[ax, ay, 0.0]]), torch.tensor([[0.0, 0.0, 0.0]]))
    direction = camera.position[0] / camera.position[0].norm()
    yaw = math.atan2(direction[2], direction[0])
    assert yaw == pytest.approx(math.pi / 2 + ay, abs=2e-3)
    tilted = Camera.from_deep3d(torch.tensor([[0.2, 0.0, 0.0]]), torch.zeros(1, 3))
    direction = tilted.forward[0]
    assert math.acos(float(-direction[1])) == pytest.approx(math.pi / 2 - 0.2, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3))
def test_euler_round_trip(angles: list[float]) -> None:
    angle = torch.tensor([angles], dtype=torch.float64)
    close(euler_zyx_angles(euler_zyx(angle)), angle, 1e-7)


def test_euler_order_by_hand() -> None:
    """Rz Ry Rx: a quarter turn about x first takes y to z; then a quarter turn about y takes z to x."""
    rotation = euler_zyx(torch.tensor([[math.pi / 2, math.pi / 2, 0.0]]))[0]
    close(rotation @ torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]), 1e-6)


def test_opengl_projection_lands_on_the_same_pixel() -> None:
    camera = Camera.from_degrees(yaw=-25, pitch=12)
    gl = camera.to_opengl(0.1, 10)
    point = torch.tensor([0.03, -0.06, 0.08, 1.0])
    clip = gl.projection[0] @ torch.linalg.inv(gl.cam2world[0]) @ point
    ndc = clip[:3] / clip[3]
    uv, _ = camera.project(point[None, None, :3])
    close((ndc[:2] * torch.tensor([1.0, -1.0]) + 1) / 2, uv[0, 0])
    assert -1 < ndc[2] < 1


@pytest.mark.parametrize("make", [lambda n: ellipse(n), lambda n: orbit(n, 0.1), lambda n: turntable(n)])
def test_trajectories_look_at_the_head(make) -> None:  # type: ignore[no-untyped-def]
    camera = make(8)
    assert len(camera) == 8
    close(camera.position.norm(dim=1), torch.ones(8))
    close(camera.forward, -camera.position)


def test_ellipse_and_turntable_reach_their_ends() -> None:
    pose = ellipse(4).to_pitch_yaw()
    close(pose.yaw - math.pi / 2, torch.tensor([0.0, 0.4, 0.0, -0.4]))
    close(pose.pitch - math.pi / 2, torch.tensor([0.2, 0.0, -0.2, 0.0]))
    assert turntable(3).position[0, 0] == pytest.approx(-math.sin(math.pi / 4), abs=1e-6)


def test_spline_meets_its_keys() -> None:
    keys = Camera.cat([Camera.from_degrees(-30, 0, 12), Camera.from_degrees(0, 10, 14), Camera.from_degrees(30, 0, 12)])
    path = spline(keys, 5)
    close(path.cam2world[::2], keys.cam2world)
    close(path.intrinsics[::2], keys.intrinsics)
    closed = spline(keys, 6, closed=True)
    close(closed.cam2world[::2], keys.cam2world)


def test_bad_cameras_are_refused_in_one_line() -> None:
    good = Camera.from_degrees()
    scaled = good.cam2world.clone()
    scaled[:, :3, :3] *= 2
    mirrored = good.cam2world.clone()
    mirrored[:, :3, 0] *= -1
    broken = good.cam2world.clone()
    broken[0, 0, 3] = float("nan")
    for matrix, word in ((scaled, "not a rotation"), (mirrored, "not a rotation"), (broken, "NaN")):
        with pytest.raises(CopoError, match=word) as caught:
            Camera(matrix, good.intrinsics)
        assert "\n" not in str(caught.value)
    with pytest.raises(CopoError, match="expected 25"):
        Camera.from_eg3d(torch.zeros(1, 24))
    with pytest.raises(CopoError, match="coincide"):
        Camera.look_at([0.0, 0.0, 0.0])
    with pytest.raises(CopoError, match="parallel"):
        Camera.look_at([0.0, 1.0, 0.0])
    with pytest.raises(CopoError, match="field of view"):
        Camera.from_degrees(fov=190)
    with pytest.raises(CopoError, match="no \\(pitch, yaw\\)"):
        Camera.look_at([0.0, 0.0, 1.0], [0.1, 0.0, 0.0]).to_pitch_yaw()
    with pytest.raises(CopoError, match="Deep3DFaceRecon"):
        Camera.from_degrees(fov=30).to_deep3d()
    with pytest.raises(CopoError, match="at least 2"):
        spline(good, 4)
