"""The adapter: cuts, cameras, protocols, files. The weights are random: what is tested is the geometry around them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from copo.camera import Camera, euler_zyx
from copo.errors import CopoError
from copo.head.open_head import OpenHead
from copo.preparation.alignment import ffhq_matrix, square_matrix
from copo.vision.align import transform
from copo.vision.analyser import (
    Analyser,
    AnalyserSettings,
    ffhq_matrices,
    fused,
    square_matrices,
    square_of,
    uncropped,
    whole_labels,
)
from copo.vision.analyser_file import load_analyser, save_analyser
from copo.vision.networks.analyser import AnalyserConfig, AnalyserNetwork
from copo.vision.portrait_pose import METHOD_FOCAL, camera_of, pose_of, project
from copo.vision.protocols import Face

LOOK = AnalyserSettings(find_size=192, second_find_size=0)
SMALL = AnalyserConfig(size=64, width=16, fine_width=8, head=32, hidden=32)


def network(logit: float = -20.0) -> AnalyserNetwork:
    """Random weights, but every cell of the finder tells one score and an upright square of 16 e^2 px around itself."""
    torch.manual_seed(1)
    net = AnalyserNetwork(SMALL)
    for module in net.modules():  # running statistics that are not trivial
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    with torch.no_grad():
        net.finder[1].weight.zero_()
        net.finder[1].bias.copy_(torch.tensor([logit, 0, 0, 0, 1.0, 0]))
    return net.eval()


@pytest.fixture(scope="module")
def analyser() -> Analyser:
    return Analyser(network(), OpenHead.load().spec, LOOK)


def photograph(height: int = 90, width: int = 120) -> np.ndarray:
    generator = np.random.default_rng(3)
    small = generator.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


FACE = Face(np.array([40, 20, 88, 68], np.float32), 0.9)


def test_folding_normalisations_changes_nothing() -> None:
    net = network()
    picture = torch.rand(2, 3, 64, 64) * 2 - 1
    folded = fused(net)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    for one, other in zip(folded(picture), net(picture), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_points_and_cameras_move_with_the_picture(analyser: Analyser) -> None:
    """A picture with 10 columns and 6 rows more at the upper left: everything lies 10 and 6 pixels farther."""
    picture = photograph()
    padded = np.pad(picture, ((6, 0), (10, 0), (0, 0)), mode="edge")
    moved = Face(FACE.box + np.array([10, 6, 10, 6], np.float32), 0.9)
    (one,), (other,) = analyser.analyse(picture, [FACE]), analyser.analyse(padded, [moved])
    assert one.points478.shape == (478, 2) and one.sigma68.shape == (68,)
    np.testing.assert_allclose(other.points478, one.points478 + np.array([10, 6]), atol=0.05)
    torch.testing.assert_close(other.factors.shape, one.factors.shape, atol=2e-3, rtol=0)
    head = torch.randn(1, 5, 3) * 0.05
    a, _ = one.camera.project(head)
    b, _ = other.camera.project(head)
    here = a[0] * torch.tensor([120, 90]) + torch.tensor([10, 6])
    np.testing.assert_allclose(b[0] * torch.tensor([130, 96]), here, atol=0.2)


def test_the_picture_camera_is_the_portrait_camera_through_the_matrix(analyser: Analyser) -> None:
    (found,) = analyser.analyse(photograph(), [FACE])
    head = torch.randn(1, 9, 3) * 0.05
    whole, _ = found.camera.project(head)
    portrait, _ = found.portrait_camera.project(head)
    pixels = torch.from_numpy(found.matrix)[None].float()
    there = transform(pixels, whole * torch.tensor([120.0, 90.0]))
    torch.testing.assert_close(there, portrait * 64, atol=1e-2, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.floats(-1.2, 1.2), st.floats(0.2, 5), st.floats(-200, 200), st.floats(-200, 200))
def test_uncropped(angle: float, scale: float, dx: float, dy: float) -> None:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    matrix = torch.tensor([[c, s, dx], [-s, c, dy]], dtype=torch.float64)
    camera = Camera.from_degrees(20, 10)
    whole = uncropped(camera, matrix, 256, 300, 200)
    head = torch.tensor([[[0.05, 0.1, 0], [-0.08, 0, 0.05], [0, -0.1, 0.02]]])
    seen, _ = whole.project(head)
    wanted, _ = camera.project(head)
    there = transform(matrix[None].float(), seen * torch.tensor([300.0, 200.0]))
    torch.testing.assert_close(there, wanted * 256, atol=0.05, rtol=1e-3)


def test_matrices_are_those_of_the_preparation() -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(100, 30, (68, 2))
    ours = ffhq_matrices(torch.from_numpy(points)[None], 256)[0]
    np.testing.assert_allclose(ours, ffhq_matrix(points, 256), atol=1e-6)
    ours = square_matrices(torch.tensor([[50.0, 60, 80, 0.3]], dtype=torch.float64), 64)[0]
    np.testing.assert_allclose(ours, square_matrix(np.array([50.0, 60]), 80, 0.3, 64), atol=1e-9)


def test_pose_and_camera_are_inverse() -> None:
    rotation = euler_zyx(torch.tensor([[0.2, -0.7, 0.1], [0, 0, 0]]))
    translation = torch.tensor([[0.02, -0.03, 1.2], [0, 0, 1.0]])
    camera = camera_of(rotation, translation)
    torch.testing.assert_close(camera.position[1], torch.tensor([0.0, 0, 1.0]))  # frontal: the method's place
    turned, moved = pose_of(camera)
    torch.testing.assert_close(turned, rotation)
    torch.testing.assert_close(moved, translation)
    head = torch.randn(2, 4, 3) * 0.1
    torch.testing.assert_close(camera.project(head)[0], project(head, rotation, translation), atol=1e-5, rtol=1e-5)
    # a yaw to the picture's right shows in x: the nose, 0.1 m before the origin, by sin(yaw)
    nose = project(torch.tensor([[[0, 0, 0.1]]]), euler_zyx(torch.tensor([[0, 0.5, 0]])), torch.tensor([[0, 0, 1.0]]))
    wanted = METHOD_FOCAL * 0.1 * np.sin(0.5) / (1 - 0.1 * np.cos(0.5))
    assert float(nose[0, 0, 0] - 0.5) == pytest.approx(wanted, rel=1e-4)


def test_no_face_and_many_cells(analyser: Analyser) -> None:
    picture = photograph()
    assert analyser.detect(picture) == [] and analyser.analyse(picture) == [] and analyser.landmarks(picture) == []
    with pytest.raises(CopoError, match="no face was found"):
        analyser.parse(picture)
    found = Analyser(network(logit=20.0), OpenHead.load().spec, LOOK).detect(picture)
    # every cell tells a square of 16 e^2 = 118 px in the 192 px wide look; only those that hardly overlap remain
    side = 16 * np.e**2 * 120 / 192
    for face in found:
        np.testing.assert_allclose(face.box[2:] - face.box[:2], side, rtol=1e-3)
    assert len(found) > 1
    for i, one in enumerate(found):
        for other in found[:i]:
            low, high = np.maximum(one.box[:2], other.box[:2]), np.minimum(one.box[2:], other.box[2:])
            shared = (high - low).clip(0).prod()
            assert shared / (2 * side**2 - shared) <= 0.3 + 1e-3


def test_protocols(analyser: Analyser) -> None:
    picture = photograph()
    five = np.array([[50, 40], [75, 42], [62, 52], [53, 62], [71, 63]], np.float32)
    made = analyser.reconstruct(picture, five)
    again = Camera.from_deep3d(made.angles, made.translation)
    torch.testing.assert_close(again.cam2world, made.camera.cam2world, atol=1e-4, rtol=0)
    head = torch.randn(1, 6, 3) * 0.05
    whole, _ = made.picture_camera(120, 90).project(head)
    crop, _ = made.camera.project(head)
    there = transform(made.crop, whole * torch.tensor([120.0, 90.0]))
    linear = made.crop[0, :, :2]
    if float((linear[0, 1]).abs()) < 1e-3:  # the published record knows no turn
        torch.testing.assert_close(there, crop * 224, atol=0.5, rtol=1e-2)
    marks = analyser.landmarks_at(picture, FACE)
    assert marks is not None and marks.points.shape == (478, 2) and set(marks.blendshapes or {}) >= {"jawOpen"}
    pictures = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    chances = analyser.probabilities(pictures)
    assert chances.shape == (1, 19, 64, 64)
    torch.testing.assert_close(chances.sum(1), torch.ones(1, 64, 64))
    assert analyser.coefficients(pictures).shape == (1, 209)
    analyser.coefficients(pictures).sum().backward()
    assert pictures.grad is not None and pictures.grad.abs().max() > 0


def test_labels_of_the_whole_picture(analyser: Analyser) -> None:
    (found,) = analyser.analyse(photograph(), [FACE])
    whole = whole_labels(found, 120, 90)
    assert whole.shape == (19, 90, 120)
    np.testing.assert_allclose(whole.sum(0), 1, atol=1e-4)
    corner = np.linalg.inv(np.concatenate([found.matrix, [[0, 0, 1]]]))[:2] @ [
        -4,
        -4,
        1,
    ]  # just outside of the portrait
    x, y = np.floor(corner).astype(int)
    if 0 <= x < 120 and 0 <= y < 90:
        assert whole[0, y, x] == pytest.approx(1)


def test_a_followed_face_is_looked_for_where_it_was(analyser: Analyser) -> None:
    (found,) = analyser.analyse(photograph(), [FACE])
    sure = replace(found, points478=found.points478 + 500)  # jumps that far are another face
    assert analyser.follow(photograph(), sure) is None
    x, y, side, angle = square_of(square_matrices(torch.tensor([[50.0, 60, 80, 0.3]]).double(), 64)[0].numpy(), 64)
    np.testing.assert_allclose([x, y, side, angle], [50, 60, 80, 0.3])


def test_file_round_trip(tmp_path: Path) -> None:
    net, spec = network(), OpenHead.load().spec
    path = tmp_path / "analyser.safetensors"
    save_analyser(path, net, spec, {"run": "test"})
    file = load_analyser(path)
    assert file.spec == spec and file.notes == {"run": "test"} and file.network.config == SMALL
    picture = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(file.network(picture).points, net(picture).points, atol=2e-3, rtol=0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CopoError, match="truncated"):
        load_analyser(path)
    with pytest.raises(CopoError, match="no such file"):
        load_analyser(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CopoError, match="not an analyser"):
        load_analyser(path)


def test_gains_are_kept_and_files_without_them_read(tmp_path: Path) -> None:
    net, spec, path = network(), OpenHead.load().spec, tmp_path / "analyser.safetensors"
    save_analyser(path, net, spec, gains={"jawOpen": 2.5})
    assert load_analyser(path).gains == {"jawOpen": 2.5} and Analyser.load(path).gains == {"jawOpen": 2.5}
    with safe_open(str(path), framework="pt") as file:
        facts = json.loads(file.metadata()["copo"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del facts["gains"]  # as files were written before
    save_file(state, path, metadata={"copo": json.dumps(facts)})
    assert load_analyser(path).gains == {}
    for wrong in ({"jawOpen": 3.5}, {"jawOpen": 0.9}, {"jawOpen": float("nan")}, {"jawOpn": 2.0}):
        with pytest.raises(CopoError, match=r"does not lie|jawOpen"):
            save_analyser(path, net, spec, gains=wrong)
    save_file(state, path, metadata={"copo": json.dumps(facts | {"gains": [2.5]})})
    with pytest.raises(CopoError, match="damaged"):
        load_analyser(path)


def test_weights_that_diverged_are_not_written(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        net.label_out.bias.fill_(float("nan"))
    with pytest.raises(CopoError, match="diverged"):
        save_analyser(tmp_path / "x.safetensors", net, OpenHead.load().spec)
    assert not list(tmp_path.iterdir())
