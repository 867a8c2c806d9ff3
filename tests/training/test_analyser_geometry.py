"""Where heads and points go when pictures are placed, warped and mirrored."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from copo.camera import euler_zyx
from copo.factors import ARKIT_NAMES
from copo.head.open_head import OpenHead
from copo.head.renderer import RasterConfig, render_head
from copo.training.analyser import mirror
from copo.training.analyser.geometry import Crop, place, warp_grid, warp_points, warp_pose
from copo.vision.portrait_pose import METHOD_FOCAL, as_method_lens, camera_of, ffhq_square, project


@cache
def loaded() -> OpenHead:
    return OpenHead.load()


@pytest.fixture
def head() -> OpenHead:
    return loaded()


def crop(scale: float = 1.0, x: float = 0.0, y: float = 0.0, angle: float = 0.0) -> Crop:
    return Crop(torch.tensor([scale]), torch.tensor([[x, y]]), torch.tensor([angle]))


@settings(max_examples=20, deadline=None)
@given(
    st.floats(-1.0, 1.0), st.floats(-0.4, 0.4), st.floats(0.6, 1.6), st.floats(-0.2, 0.2), st.floats(-0.5, 0.5),
    st.floats(1.5, 6.0),
)  # fmt: skip
def test_heads_are_placed_where_the_square_is_asked(
    yaw: float, pitch: float, scale: float, shift: float, angle: float, focal: float
) -> None:
    head = loaded()
    points = head.landmarks68(head.vertices(torch.zeros(1, 80), torch.zeros(1, 52)))
    turn = euler_zyx(torch.tensor([[pitch, yaw, 0.1]]))
    lens = torch.tensor([focal])
    rotation, translation = place(points, turn, crop(scale, shift, -shift, angle), lens)
    centre, side, found = ffhq_square(project(points, rotation, translation, lens))
    torch.testing.assert_close(centre, torch.tensor([[0.5 + shift, 0.5 - shift]]), atol=1e-3, rtol=0)
    assert float(side) == pytest.approx(1 / scale, rel=1e-2)
    assert float(found) == pytest.approx(angle, abs=1e-2)


def test_warped_poses_project_to_warped_points(head: OpenHead) -> None:
    points = head.landmarks68(head.vertices(torch.zeros(1, 80), torch.zeros(1, 52)))
    rotation, translation = place(
        points, euler_zyx(torch.tensor([[0.1, 0.4, 0]])), crop(), torch.tensor([METHOD_FOCAL])
    )
    change = crop(0.8, 0.05, -0.04, 0.2)
    turned, moved = warp_pose(rotation, translation, change)
    there = project(points, turned, moved)
    # a shift is a turn of the camera, under which points of other depths move a little differently
    torch.testing.assert_close(there, warp_points(project(points, rotation, translation), change), atol=3e-3, rtol=0)


def test_warp_by_hand() -> None:
    # a quarter turn clockwise brings what is right of the middle below it; twice as large, then 0.1 to the right
    got = warp_points(torch.tensor([[[0.6, 0.5]]]), crop(2.0, 0.1, 0.0, math.pi / 2))
    torch.testing.assert_close(got, torch.tensor([[[0.6, 0.7]]]))


@pytest.mark.parametrize("change", [(1.5, 0.1, -0.05, 0.4), (0.7, -0.1, 0.1, -1.0), (1.0, 0.0, 0.0, 0.0)])
def test_pictures_are_warped_like_points(change: tuple[float, float, float, float]) -> None:
    picture = torch.zeros(1, 1, 128, 128)
    picture[0, 0, 50:54, 70:74] = 1
    start = torch.tensor([[[72 / 128, 52 / 128]]])
    seen = F.grid_sample(picture, warp_grid(crop(*change), 128), align_corners=False)[0, 0]
    axis = (torch.arange(128) + 0.5) / 128
    found = torch.stack([(seen.sum(0) * axis).sum(), (seen.sum(1) * axis).sum()]) / seen.sum()
    torch.testing.assert_close(found, warp_points(start, crop(*change))[0, 0], atol=2e-3, rtol=0)


def test_other_lenses_show_the_same_size_and_place() -> None:
    there = torch.tensor([[0.05, -0.02, 0.6]])
    same = as_method_lens(there, torch.tensor([0.5]))
    torch.testing.assert_close(same[:, 2], torch.tensor([1.2]))
    point = torch.zeros(1, 1, 3)
    eye = torch.eye(3)[None]
    torch.testing.assert_close(
        project(point, eye, same), project(point, eye, there, torch.tensor([METHOD_FOCAL / 2])), atol=1e-6, rtol=0
    )


def test_mirror_tables() -> None:
    for table in (mirror.POINTS_68, mirror.POINTS_478, mirror.POINTS, mirror.LABELS, mirror.EXPRESSION):
        assert torch.equal(table[table], torch.arange(len(table)))
    # MediaPipe: outer eye corners, mouth corners, ears, nose tip, chin, irises
    for a, b in ((33, 263), (61, 291), (234, 454), (1, 1), (152, 152), (468, 473)):
        assert int(mirror.POINTS_478[a]) == b
    for a, b in ((0, 16), (36, 45), (48, 54), (30, 30), (8, 8), (60, 64)):
        assert int(mirror.POINTS_68[a]) == b
    named = dict(zip(ARKIT_NAMES, (ARKIT_NAMES[i] for i in mirror.EXPRESSION), strict=True))
    assert named["mouthSmileLeft"] == "mouthSmileRight" and named["jawOpen"] == "jawOpen"
    assert named["jawLeft"] == "jawRight" and named["eyeLookInLeft"] == "eyeLookInRight"
    assert mirror.LABELS[2] == 3 and mirror.LABELS[17] == 17 and mirror.LABELS[255] == 255


def test_a_mirrored_head_looks_like_the_mirrored_picture(head: OpenHead) -> None:
    """Pose, expression, light and labels all together: the head's shapes are the same left and right."""
    torch.manual_seed(0)
    shape, albedo = torch.randn(1, 80), torch.randn(1, 50) * 0.5
    expression = torch.zeros(1, 52)
    for name, value in (("mouthSmileLeft", 0.8), ("browOuterUpRight", 0.7), ("eyeBlinkLeft", 1.0), ("jawOpen", 0.3)):
        expression[0, ARKIT_NAMES.index(name)] = value
    light = torch.randn(1, 27) * 0.2
    points = head.landmarks68(head.vertices(shape, expression))
    lens = torch.tensor([METHOD_FOCAL])
    rotation, translation = place(points, euler_zyx(torch.tensor([[0.1, 0.5, 0]])), crop(1, 0.03, 0, 0.1), lens)
    config = RasterConfig(validate=False)

    def draw(expression, light, rotation, translation):  # type: ignore[no-untyped-def]
        return render_head(head, shape, expression, albedo, light, camera_of(rotation, translation), 128, config=config)

    one = draw(expression, light, rotation, translation)
    other = draw(
        expression[:, mirror.EXPRESSION], mirror.mirror_light(light), *mirror.mirror_pose(rotation, translation)
    )
    difference = (one.over(0.5).flip(3) - other.over(0.5)).abs().mean()
    unlike = (one.over(0.5) - other.over(0.5)).abs().mean()
    assert difference < 0.006 < unlike
    assert one.labels is not None and other.labels is not None
    assert (mirror.LABELS[one.labels.flip(2)] == other.labels).float().mean() > 0.985
