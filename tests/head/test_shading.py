"""Normals and spherical-harmonic shading: worked examples, gradients, and the published program's recording."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from torch import Tensor

from copo.errors import CopoError
from copo.head.shading import face_normals, sh_basis, sh_shading, vertex_normals

PARITY = Path(os.environ.get("COPO_PARITY_DIR", Path(__file__).parents[2] / "../shared/reference/parity"))


def test_uniform_light_is_the_base_light() -> None:
    # gamma = 0 leaves 0.8 x pi x 1 / sqrt(4 pi) = 0.8 sqrt(pi) / 2 = 0.70898.
    normals = torch.nn.functional.normalize(torch.randn(1, 7, 3), dim=2)
    shaded = sh_shading(normals, torch.zeros(1, 27))
    torch.testing.assert_close(shaded, torch.full((1, 7, 3), 0.8 * math.sqrt(math.pi) / 2))


def test_linear_terms_follow_the_axes() -> None:
    # a_1 c_1 = 2 pi / sqrt 3 x sqrt(3 / (4 pi)) = sqrt pi. Order -y, z, -x; red, green, blue in turn.
    gamma = torch.zeros(1, 3, 9)
    gamma[0, 0, 1], gamma[0, 1, 2], gamma[0, 2, 3] = 1, 1, 1
    axes = torch.eye(3)[None]
    shaded = sh_shading(axes, gamma.flatten(1)) - 0.8 * math.sqrt(math.pi) / 2
    root = math.sqrt(math.pi)
    expected = torch.tensor([[[0.0, 0.0, -root], [-root, 0.0, 0.0], [0.0, root, 0.0]]])
    torch.testing.assert_close(shaded, expected, atol=1e-6, rtol=0)


def test_quadratic_terms_at_hand_worked_normals() -> None:
    # sqrt(15 / (4 pi)) = 1.0925484: at (1,0,0): x^2 - y^2 gives half, 3z^2 - 1 gives -1 / (2 sqrt 3).
    c2 = 1.0925484
    expected = torch.tensor([0.2820948, 0, 0, -0.4886025, 0, 0, -c2 / (2 * math.sqrt(3)), 0, c2 / 2])
    torch.testing.assert_close(sh_basis(torch.tensor([1.0, 0, 0])), expected, atol=1e-6, rtol=0)
    diagonal = torch.tensor([0.0, 1, 1]) / math.sqrt(2)
    assert sh_basis(diagonal)[5].item() == pytest.approx(-c2 / 2, abs=1e-6)


def test_light_batch_of_one_serves_all() -> None:
    normals = torch.nn.functional.normalize(torch.randn(3, 7, 3), dim=2)
    light = torch.randn(1, 27)
    torch.testing.assert_close(sh_shading(normals, light), sh_shading(normals, light.expand(3, -1)))


def test_normals_of_a_tetrahedron() -> None:
    vertices = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    expected = torch.tensor([[[0.0, 0, -1], [0, -1, 0], [-1, 0, 0], [1, 1, 1]]])
    torch.testing.assert_close(face_normals(vertices, faces), expected)
    # Corner 0 sees three unit triangles; corner 1 sees -z, -y and (1, 1, 1).
    normals = vertex_normals(vertices, faces)[0]
    torch.testing.assert_close(normals[0], torch.full((3,), -1 / math.sqrt(3)))
    torch.testing.assert_close(normals[1], torch.tensor([1.0, 0.0, 0.0]))


def test_a_vertex_without_triangles_has_no_normal_and_no_nan() -> None:
    vertices = torch.rand(1, 4, 3, requires_grad=True)
    normals = vertex_normals(vertices, torch.tensor([[0, 1, 2]]))
    assert torch.equal(normals[0, 3], torch.zeros(3))
    normals.sum().backward()
    assert vertices.grad is not None and torch.isfinite(vertices.grad).all()


def test_gradients_match_finite_differences() -> None:
    vertices = torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True)
    light = torch.randn(2, 27, dtype=torch.float64, requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 4]])

    def shade(v: Tensor, g: Tensor) -> Tensor:
        return sh_shading(vertex_normals(v, faces), g)

    assert torch.autograd.gradcheck(shade, (vertices, light))


def test_wrong_light_is_told() -> None:
    with pytest.raises(CopoError, match=r"illumination has shape \(1, 9\): expected \(B, 27\)"):
        sh_shading(torch.zeros(1, 3, 3), torch.zeros(1, 9))


@pytest.mark.parametrize(
    "recording", sorted(PARITY.glob("parametric_face_model_*.npz")) or [None], ids=lambda p: p.stem if p else "absent"
)
def test_shading_reproduces_the_published_program(recording: Path | None) -> None:
    if recording is None:
        pytest.skip(f"no recordings in {PARITY}: set COPO_PARITY_DIR")
    model = loadmat(PARITY / f"bfm_front_synthetic_{recording.stem.rpartition('_')[2]}" / "BFM_model_front.mat")
    recorded = {name: torch.tensor(values) for name, values in np.load(recording).items()}
    world = recorded["vertex_camera"] * torch.tensor([1.0, 1, -1]) + torch.tensor([0, 0, 10.0])
    triangles = torch.tensor(model["tri"].astype(np.int64) - 1)
    flat = torch.nn.functional.normalize(face_normals(world, triangles), dim=2)
    flat = torch.cat([flat, torch.zeros(len(flat), 1, 3)], dim=1)
    listed = torch.tensor(model["point_buf"].astype(np.int64) - 1)
    normals = torch.nn.functional.normalize(flat[:, listed].sum(dim=2), dim=2)

    colour = recorded["albedo"] * sh_shading(normals, recorded["coeff_gamma"])

    error = (colour - recorded["color"]).abs().max() / recorded["color"].std()
    assert error < 1e-4
