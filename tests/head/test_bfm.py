"""The Basel Face Model as a head: the published program's numbers, and the shared interface."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests import parity

from copo.camera import Camera, euler_zyx
from copo.errors import CopoError
from copo.formats.bfm import BfmFrontModel
from copo.head.bfm import BaselFaceModel
from copo.head.protocol import PARSER_CLASSES, HeadModel

TOLERANCE = 1e-4
"""Largest error relative to the largest recorded value."""


def close(ours: torch.Tensor, recorded: torch.Tensor, name: str) -> None:
    assert ours.shape == recorded.shape, name
    assert float((ours - recorded).abs().max() / recorded.abs().max()) <= TOLERANCE, name


@parity.parametrize("parametric_face_model")
def test_the_published_programs_numbers(recording: parity.Recording) -> None:
    head = BaselFaceModel.load(parity.ROOT / f"bfm_front_synthetic_{recording.variant}")
    r = {name: torch.from_numpy(value) for name, value in recording.arrays.items() if value.dtype.kind == "f"}
    shape, expression, albedo = r["coeff_id"], r["coeff_exp"], r["coeff_tex"]
    points = head.camera_vertices(shape, expression, r["coeff_angle"], r["coeff_trans"])
    close(points, r["vertex_camera"], "vertex_camera")
    close(euler_zyx(r["coeff_angle"]).mT, r["rotation"], "rotation")
    close(head.albedo(albedo), r["albedo"], "albedo")
    close(head.picture_landmarks(points), r["landmarks68"], "landmarks68")
    close(head.colors(shape, expression, albedo, r["coeff_angle"], r["coeff_gamma"]), r["color"], "color")


@parity.parametrize("parametric_face_model")
def test_the_scene_shows_the_same_picture(recording: parity.Recording) -> None:
    """Resting head, moved camera: the shared `Camera` puts the landmarks where the published program does."""
    head = BaselFaceModel.load(parity.ROOT / f"bfm_front_synthetic_{recording.variant}")
    r = {name: torch.from_numpy(value) for name, value in recording.arrays.items() if value.dtype.kind == "f"}
    landmarks = head.landmarks68(head.vertices(r["coeff_id"], r["coeff_exp"]))
    position, depth = Camera.from_deep3d(r["coeff_angle"], r["coeff_trans"]).project(landmarks)
    pixels = torch.stack([position[..., 0] * 224, 224 - position[..., 1] * 224], dim=-1)
    assert float((pixels - r["landmarks68"]).abs().max()) < 0.01
    recorded = r["vertex_camera"][:, head.topology.landmarks68, 2] * 0.1
    torch.testing.assert_close(depth, recorded, atol=1e-5, rtol=0)


def face_model(side: int = 21) -> BfmFrontModel:
    """A flat square "face" on a grid from -1 to 1, eyes and mouth where faces have them, all else at the centre."""
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1).astype(np.float32)
    index = np.arange(side * side).reshape(side, side)
    a, b, c, d = (index[i : side - 1 + i, j : side - 1 + j].ravel() for i, j in ((0, 0), (0, 1), (1, 1), (1, 0)))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    around = np.full((side * side, 8), len(faces))
    for number, face in enumerate(faces):
        for vertex in face:
            around[vertex, np.argmax(around[vertex] == len(faces))] = number

    def vertex_at(x: float, y: float) -> int:
        return int(np.argmin((points[:, 0] - x) ** 2 + (points[:, 1] - y) ** 2))

    places = dict.fromkeys(range(68), (0.0, 0.0))
    for first, centre in ((36, -0.4), (42, 0.4)):
        ring = [(-0.2, 0), (-0.1, 0.1), (0.1, 0.1), (0.2, 0), (0.1, -0.1), (-0.1, -0.1)]
        places |= {first + i: (centre + dx, 0.4 + dy) for i, (dx, dy) in enumerate(ring)}
    upper = [(-0.4, -0.5), (-0.3, -0.4), (-0.1, -0.3), (0, -0.3), (0.1, -0.3), (0.3, -0.4), (0.4, -0.5)]
    lower = [(0.3, -0.6), (0.1, -0.7), (0, -0.7), (-0.1, -0.7), (-0.3, -0.6)]
    inner = [(-0.3, -0.5), (-0.1, -0.5), (0, -0.5), (0.1, -0.5), (0.3, -0.5), (0.1, -0.5), (0, -0.5), (-0.1, -0.5)]
    places |= dict(enumerate(upper + lower + inner, 48))
    zeros = np.zeros((3 * side * side, 2), np.float32)
    return BfmFrontModel(
        mean_shape=points + np.float32(3),
        mean_texture=np.full_like(points, 51),
        shape_basis=zeros + 1,
        texture_basis=zeros + np.float32(25.5),
        expression_basis=zeros,
        faces=faces,
        vertex_faces=around,
        landmarks68=np.array([vertex_at(*places[i]) for i in range(68)]),
        skin_mask=(y.ravel() > 0.8).astype(np.float32),
    )


def test_it_is_a_head_model() -> None:
    head = BaselFaceModel(face_model(), noise=7)
    assert isinstance(head, HeadModel)
    assert head.spec.sizes == {"noise": 7, "shape": 2, "albedo": 2, "expression": 2, "illumination": 27}


def test_scene_coordinates_and_albedo_by_hand() -> None:
    """The stored mean is off by (3, 3, 3) and is recentred; shape (0.5, 0) moves every coordinate by 0.5."""
    model = face_model()
    head = BaselFaceModel(model)
    vertices = head.vertices(torch.tensor([[0.5, 0.0]]), torch.zeros(1, 2))
    expected = (model.mean_shape - 3 + 0.5 + np.array([0, -0.1, 0])) / 10
    np.testing.assert_allclose(vertices[0], expected, atol=1e-6)
    albedo = head.albedo(torch.tensor([[2.0, -1.0]]))
    np.testing.assert_allclose(albedo, 51 / 255 + 0.1, atol=1e-6)


def test_normals_point_to_the_viewer_and_light_from_the_front_is_seen() -> None:
    """The flat face looks along +z: its shading is that of the normal (0, 0, 1), turned with the head."""
    head = BaselFaceModel(face_model())
    none = torch.zeros(2, 2)
    points = head.model_vertices(none, none)
    np.testing.assert_allclose(head.normals(points), np.broadcast_to([0, 0, 1], points.shape), atol=1e-6)
    light = torch.zeros(2, 27)
    light[:, 2] = 0.1  # red light along z
    angles = torch.tensor([[0.0, 0, 0], [0, math.pi / 2, 0]])
    colors = head.colors(none, none, none, angles, light)
    white = 0.2 * 0.8 * math.pi / math.sqrt(4 * math.pi)
    red = 0.2 * 0.1 * 2 * math.pi / math.sqrt(3) * math.sqrt(3 / (4 * math.pi))
    np.testing.assert_allclose(colors[0], np.broadcast_to([white + red, white, white], (441, 3)), atol=1e-6)
    np.testing.assert_allclose(colors[1], white, atol=1e-6)


def test_labels_are_eyes_and_lips_inside_their_outlines() -> None:
    """ "Left" is the person's left, at +x."""
    model = face_model()
    head = BaselFaceModel(model)
    points = model.mean_shape[:, :2] - 3

    def label(x: float, y: float) -> str:
        vertex = int(np.argmin(((points - np.array([x, y])) ** 2).sum(1)))
        return PARSER_CLASSES[int(head.topology.labels[vertex])]

    assert label(0.4, 0.4) == "eye_left" and label(-0.4, 0.4) == "eye_right"
    assert label(0, -0.4) == "lip_upper" and label(0, -0.6) == "lip_lower"
    for place in ((0, 0.4), (0, 0), (0.8, 0.4), (0, -0.9), (0, -0.2), (0.5, -0.5)):
        assert label(*place) == "skin"


def test_the_models_own_skin_stays_skin() -> None:
    model = face_model()
    covered = BfmFrontModel(**{**vars(model), "skin_mask": np.ones_like(model.skin_mask)})
    assert BaselFaceModel(covered).topology.labels.unique().tolist() == [PARSER_CLASSES.index("skin")]


def test_gradients_reach_the_coefficients() -> None:
    head = BaselFaceModel(face_model())
    shape = torch.zeros(1, 2, requires_grad=True)
    head.vertices(shape, torch.zeros(1, 2)).sum().backward()
    np.testing.assert_allclose(shape.grad, 0.1 * 3 * 441, rtol=1e-5)


def test_no_checkpoint_ever_holds_the_models_data() -> None:
    head = BaselFaceModel(face_model())
    assert head.state_dict() == {}
    assert (
        head.to(torch.float64).vertices(torch.zeros(1, 2).double(), torch.zeros(1, 2).double()).dtype == torch.float64
    )


def test_wrong_coefficients_are_refused() -> None:
    head = BaselFaceModel(face_model())
    with pytest.raises(CopoError, match=r"shape coefficients have shape \(1, 80\): head 'bfm09' needs \(B, 2\)"):
        head.vertices(torch.zeros(1, 80), torch.zeros(1, 2))
    with pytest.raises(CopoError, match="albedo coefficients"):
        head.albedo(torch.zeros(2))
