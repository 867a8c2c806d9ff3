from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from tests.field.scenes import AXES, BOX, HAIR, HAIR_LINE, SKIN, head_decoder, head_planes

from copo.errors import CopoError
from copo.field.blending import Blend, BlendedField, StaticField
from copo.field.shapes import ShapeConfig, extract_mesh, extract_splats
from copo.field.volume import Heads, TriPlaneField
from copo.formats.mesh import MeshData, save_mesh

HEADS = Heads(head_decoder())
FIELD = TriPlaneField(head_planes(), HEADS, BOX)
CONFIG = ShapeConfig(resolution=64)


@pytest.fixture(scope="module")
def mesh() -> MeshData:
    return extract_mesh(FIELD, CONFIG)


def quadric(points: np.ndarray) -> np.ndarray:
    """1 on the surface of the head."""
    return ((points / np.array(AXES)) ** 2).sum(1)


def test_the_surface_is_where_it_should_be(mesh: MeshData) -> None:
    """Closed, facing outwards, within a millimetre (a sixth of a grid step) of the ellipsoid, with its volume."""
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert solid.is_watertight and solid.is_winding_consistent
    volume = 4 / 3 * math.pi * math.prod(AXES)
    assert abs(solid.volume / volume - 1) < 0.03
    radius = np.sqrt(quadric(mesh.vertices))
    assert np.abs(radius - 1).max() < 0.001 / min(AXES)
    outward = mesh.vertices / np.array(AXES) ** 2
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    assert (mesh.normals * outward).sum(1).mean() > 0.99


def test_vertices_carry_what_the_field_says(mesh: MeshData) -> None:
    height = mesh.vertices[:, 1]
    assert (mesh.labels[height > HAIR_LINE + 1e-3] == HAIR).all()
    assert (mesh.labels[height < HAIR_LINE - 1e-3] == SKIN).all()
    probe = FIELD.probe(torch.from_numpy(mesh.vertices)[None])
    expected = HEADS.colors(probe.hidden[0]).clamp(0, 1).numpy()
    np.testing.assert_allclose(mesh.colors / 255, expected, atol=0.5 / 255 + 1e-6)


def test_simplified_mesh_keeps_shape_and_labels(mesh: MeshData) -> None:
    small = extract_mesh(FIELD, replace(CONFIG, faces=1000))
    assert len(mesh.faces) > 4000 and 900 <= len(small.faces) <= 1000
    assert np.abs(np.sqrt(quadric(small.vertices)) - 1).max() < 0.04
    assert set(np.unique(small.labels)) == {SKIN, HAIR}


def test_left_out_classes_leave_a_closed_rest() -> None:
    bald = extract_mesh(FIELD, replace(CONFIG, without=frozenset({0, HAIR})))
    assert trimesh.Trimesh(bald.vertices, bald.faces, process=False).is_watertight
    assert bald.vertices[:, 1].max() < HAIR_LINE + 0.006


def test_largest_part_and_all_parts() -> None:
    """A second blob beside the head is dropped, or kept."""

    class TwoBlobs:
        heads, box, texel = HEADS, BOX, FIELD.texel

        @staticmethod
        def probe(points: torch.Tensor):  # type: ignore[no-untyped-def]
            probe = FIELD.probe(points)
            blob = 1000.0 * ((points - torch.tensor([0.15, 0.15, 0.15])).norm(dim=-1) < 0.02)
            return replace(probe, density=probe.density + blob)

    everything = replace(CONFIG, without=frozenset())
    parts = [extract_mesh(TwoBlobs(), replace(everything, largest=keep)) for keep in (True, False)]
    counts = [len(trimesh.Trimesh(p.vertices, p.faces, process=False).split(only_watertight=False)) for p in parts]
    assert counts == [1, 2]
    assert parts[0].vertices[:, 0].max() < AXES[0] + 0.002 < 0.15 < parts[1].vertices[:, 0].max()


def test_a_blended_field_has_a_shape_too() -> None:
    static = StaticField(FIELD, Blend.of("both"))
    blended = BlendedField(static, TriPlaneField(head_planes(mouth=0.02, shift=1.0), HEADS, BOX))
    found = extract_mesh(blended, CONFIG)
    still = extract_mesh(FIELD, CONFIG)
    hair = found.vertices[:, 1] > HAIR_LINE + 0.01
    assert hair.sum() > 100
    places = {tuple(v) for v in still.vertices[still.vertices[:, 1] > HAIR_LINE + 0.01]}
    assert {tuple(v) for v in found.vertices[hair]} == places


def test_splats_lie_in_the_surface() -> None:
    splats = extract_splats(FIELD, 5000, CONFIG)
    assert len(splats) == 5000
    assert np.abs(np.sqrt(quadric(splats.positions)) - 1).max() < 0.02
    outward = splats.positions / np.array(AXES) ** 2
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    thin = Rotation.from_quat(splats.rotations[:, [1, 2, 3, 0]]).apply([0.0, 0.0, 1.0])
    assert ((thin * outward).sum(1) > 0.9).mean() > 0.99
    assert (splats.scales[:, 2] < splats.scales[:, 0]).all()
    # Even cover: each octant of the (symmetric) head has its eighth.
    octant = (splats.positions > 0) @ np.array([1, 2, 4])
    np.testing.assert_allclose(np.bincount(octant, minlength=8) / 5000, 1 / 8, atol=0.01)
    again = extract_splats(FIELD, 5000, CONFIG)
    assert np.array_equal(splats.positions, again.positions)


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_a_mesh_can_be_written_and_read(mesh: MeshData, tmp_path: Path, suffix: str) -> None:
    save_mesh(tmp_path / f"head{suffix}", mesh)
    read = trimesh.load(tmp_path / f"head{suffix}", force="mesh", process=False)
    assert len(read.faces) == len(mesh.faces)
    np.testing.assert_allclose(read.bounds, [mesh.vertices.min(0), mesh.vertices.max(0)], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: extract_mesh(FIELD, replace(CONFIG, threshold=1e9)), "no surface.*lower the threshold"),
        (lambda: ShapeConfig(resolution=4), "at least 8"),
        (lambda: ShapeConfig(threshold=math.nan), "not a density"),
        (lambda: ShapeConfig(faces=2), "at least 4"),
        (lambda: extract_splats(FIELD, 0), "at least 1"),
    ],
)
def test_bad_requests(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CopoError, match=message):
        make()
