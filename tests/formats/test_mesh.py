"""Mesh files, read back with trimesh as an independent reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from copo.errors import CopoError
from copo.formats.mesh import MeshData, baked_colors, save_mesh, split_at_seams
from copo.formats.provenance import Provenance

VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32) * 0.1
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [188, 188, 188]], np.uint8)
NORMALS = np.array([[-1, -1, -1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
NORMALS /= np.linalg.norm(NORMALS, axis=1, keepdims=True)
TEXTURE = np.zeros((4, 8, 3), np.uint8)
TEXTURE[0, 0] = (10, 20, 30)  # u = 0, v = 1
TEXTURE[3, 7] = (40, 50, 60)  # u = 1, v = 0
UV = np.array([[0, 1], [1, 0], [0, 0], [1, 1], [0.5, 0.5]], np.float32)
UV_FACES = np.array([[0, 2, 1], [0, 1, 3], [4, 3, 2], [1, 2, 3]])  # vertex 0 lies on a seam: uv rows 0 and 4


def load(path: Path) -> trimesh.Trimesh:
    (mesh,) = trimesh.load_scene(path, process=False).geometry.values()
    return mesh


def gltf_header(path: Path) -> dict:
    data = path.read_bytes()
    assert data[:4] == b"glTF" and int.from_bytes(data[8:12], "little") == len(data)
    return json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_geometry_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    save_mesh(path, MeshData(VERTICES, FACES, normals=NORMALS))
    mesh = load(path)
    np.testing.assert_allclose(mesh.vertices, VERTICES, atol=1e-7)
    np.testing.assert_array_equal(mesh.faces, FACES)
    np.testing.assert_allclose(mesh.vertex_normals, NORMALS, atol=1e-5)
    assert mesh.volume == pytest.approx(0.1**3 / 6, rel=1e-5)  # positive: faces are seen from outside


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_vertex_colours_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    save_mesh(path, MeshData(VERTICES, FACES, colors=COLORS / 255.0))
    np.testing.assert_array_equal(load(path).visual.vertex_colors[:, :3], COLORS)


def test_gltf_vertex_colours_are_linear(tmp_path: Path) -> None:
    """sRGB 188 is half of the linear range: (188/255 + 0.055)^2.4 / 1.055^2.4 = 0.5029."""
    path = tmp_path / "m.glb"
    save_mesh(path, MeshData(VERTICES, FACES, colors=COLORS))
    header = gltf_header(path)
    place = header["accessors"][header["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    start = 28 + len(json.dumps(header, separators=(",", ":")).encode())
    start += -start % 4 + header["bufferViews"][place["bufferView"]]["byteOffset"]
    values = np.frombuffer(path.read_bytes()[start : start + 32], "<u2").reshape(4, 4)[:, :3] / 65535
    assert place["normalized"] is True
    np.testing.assert_allclose(values[:3], np.eye(3), atol=1e-9)
    np.testing.assert_allclose(values[3], 0.5029, atol=1e-4)


def test_textured_obj_brings_material_and_picture(tmp_path: Path) -> None:
    save_mesh(tmp_path / "m.obj", MeshData(VERTICES, FACES, uv=UV, uv_faces=UV_FACES, texture=TEXTURE, normals=NORMALS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.mtl", "m.obj", "m.png"]
    mesh = load(tmp_path / "m.obj")
    np.testing.assert_array_equal(np.asarray(mesh.visual.material.image), TEXTURE)
    corners = mesh.vertices[mesh.faces].reshape(-1, 3)
    np.testing.assert_allclose(corners, VERTICES[FACES].reshape(-1, 3), atol=1e-6)
    np.testing.assert_allclose(mesh.visual.uv[mesh.faces].reshape(-1, 2), UV[UV_FACES].reshape(-1, 2), atol=1e-6)


def test_textured_glb_keeps_the_picture_and_its_orientation(tmp_path: Path) -> None:
    save_mesh(tmp_path / "m.glb", MeshData(VERTICES, FACES, uv=UV, uv_faces=UV_FACES, texture=TEXTURE))
    mesh = load(tmp_path / "m.glb")
    np.testing.assert_array_equal(np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")), TEXTURE)
    # trimesh turns glTF's v (down) round, so that it reads as ours (up)
    np.testing.assert_allclose(mesh.visual.uv[mesh.faces].reshape(-1, 2), UV[UV_FACES].reshape(-1, 2), atol=1e-6)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], VERTICES[FACES], atol=1e-6)


def test_a_glb_without_normals_gets_smooth_ones_also_on_seams(tmp_path: Path) -> None:
    """At vertex 0 three right-angled triangles of equal area meet: the normal is their mean direction."""
    save_mesh(tmp_path / "m.glb", MeshData(VERTICES, FACES, uv=UV, uv_faces=UV_FACES, texture=TEXTURE))
    mesh = load(tmp_path / "m.glb")
    copies = np.linalg.norm(mesh.vertices, axis=1) < 1e-6
    assert copies.sum() == 2
    np.testing.assert_allclose(mesh.vertex_normals[copies], -np.ones((2, 3)) / 3**0.5, atol=1e-5)


def test_seams_double_only_the_vertices_on_them() -> None:
    mesh = MeshData(VERTICES, FACES, uv=UV, uv_faces=UV_FACES, labels=np.arange(4))
    split = split_at_seams(mesh)
    assert len(split.vertices) == 5 and split.uv is not None and split.labels is not None
    np.testing.assert_array_equal(split.vertices[split.faces], VERTICES[FACES])
    np.testing.assert_array_equal(split.uv[split.faces], UV[UV_FACES])
    assert sorted(split.labels.tolist()) == [0, 0, 1, 2, 3]


def test_a_texture_becomes_vertex_colours_where_the_format_has_no_textures(tmp_path: Path) -> None:
    mesh = MeshData(VERTICES, FACES, uv=UV[:4], texture=TEXTURE)
    colors = baked_colors(mesh)
    assert colors is not None
    assert colors[0].tolist() == [10, 20, 30] and colors[1].tolist() == [40, 50, 60]
    save_mesh(tmp_path / "m.ply", mesh)
    np.testing.assert_array_equal(load(tmp_path / "m.ply").visual.vertex_colors[:, :3], colors)


def test_labels_come_back_from_ply_and_glb(tmp_path: Path) -> None:
    mesh = MeshData(VERTICES, FACES, labels=np.array([1, 17, 12, 4]), colors=COLORS)
    save_mesh(tmp_path / "m.ply", mesh)
    raw = load(tmp_path / "m.ply").metadata["_ply_raw"]["vertex"]["data"]
    assert raw["label"].ravel().tolist() == [1, 17, 12, 4]
    save_mesh(tmp_path / "m.glb", mesh)
    assert load(tmp_path / "m.glb").vertex_attributes["_LABEL"].ravel().tolist() == [1, 17, 12, 4]


def test_every_mesh_says_that_it_is_synthetic_and_keeps_its_metadata(tmp_path: Path) -> None:
    mark = Provenance("algorithmicMedia", {"seed": 3, "name": "Zoë"})
    uri = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"
    mesh = MeshData(VERTICES, FACES)
    for suffix in ("ply", "obj"):
        save_mesh(tmp_path / f"m.{suffix}", mesh, mark)
        lines = (tmp_path / f"m.{suffix}").read_bytes().decode("ascii", "replace").splitlines()
        assert any(line.endswith("DigitalSourceType: " + uri) for line in lines)
        stored = next(line.split("copo: ")[1] for line in lines if "copo: " in line)
        assert json.loads(stored) == {"seed": 3, "name": "Zoë"}
    save_mesh(tmp_path / "m.glb", mesh, mark)
    extras = gltf_header(tmp_path / "m.glb")["asset"]["extras"]
    assert extras["DigitalSourceType"] == uri and extras["copo"] == {"seed": 3, "name": "Zoë"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": np.array([[0, 1, 4]])}, "faces points outside its 4 rows"),
        ({"vertices": VERTICES * np.nan}, "NaN"),
        ({"colors": COLORS[:2]}, r"colors has shape \(2, 3\): expected \(4, 3\)"),
        ({"texture": TEXTURE}, "no uv"),
        ({"uv": UV}, r"expected \(4, 2\), or uv_faces"),
        ({"uv": UV, "uv_faces": UV_FACES[:1]}, r"uv_faces has shape \(1, 3\)"),
    ],
)
def test_inconsistent_meshes_are_refused(change: dict, message: str) -> None:
    with pytest.raises(CopoError, match=message):
        MeshData(**{"vertices": VERTICES, "faces": FACES, **change})


def test_unknown_suffix_and_empty_mesh_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(CopoError, match=r"end the name in \.ply, \.obj, \.glb"):
        save_mesh(tmp_path / "m.fbx", MeshData(VERTICES, FACES))
    with pytest.raises(CopoError, match="no faces"):
        save_mesh(tmp_path / "m.glb", MeshData(VERTICES, FACES[:0]))
    assert list(tmp_path.iterdir()) == []


def test_blendshapes_need_glb_and_fitting_shapes(tmp_path: Path) -> None:
    moved = {"up": np.ones_like(VERTICES)}
    with pytest.raises(CopoError, match=r"only \.glb"):
        save_mesh(tmp_path / "m.ply", MeshData(VERTICES, FACES, morphs=moved))
    with pytest.raises(CopoError, match="blendshape 'up'"):
        MeshData(VERTICES, FACES, morphs={"up": np.ones((1, 3))})
    with pytest.raises(CopoError, match="NaN"):
        MeshData(VERTICES, FACES, morphs={"up": np.full_like(VERTICES, np.nan)})
    with pytest.raises(CopoError, match="down"):
        MeshData(VERTICES, FACES, morphs=moved, weights={"down": 1.0})


def test_blendshapes_follow_their_vertices_over_seams(tmp_path: Path) -> None:
    moved = {"up": np.arange(VERTICES.size, dtype=np.float32).reshape(-1, 3), "still": np.zeros_like(VERTICES)}
    mesh = MeshData(VERTICES, FACES, uv=UV, uv_faces=UV_FACES, texture=TEXTURE, morphs=moved, weights={"up": 0.25})
    save_mesh(tmp_path / "m.glb", mesh)
    body = gltf_header(tmp_path / "m.glb")["meshes"][0]
    assert body["extras"]["targetNames"] == ["up", "still"] and body["weights"] == [0.25, 0.0]
    split = split_at_seams(mesh)
    for vertex, delta in zip(split.vertices, split.morphs["up"], strict=True):
        (at,) = np.flatnonzero((vertex == mesh.vertices).all(1))
        np.testing.assert_array_equal(delta, moved["up"][at])
