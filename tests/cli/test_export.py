"""`copo export` from end to end with random weights, read back by other programs' readers where there are any."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from copo.cli.main import main
from copo.factors import ARKIT_NAMES
from copo.formats.pictures import load_image, read_metadata
from copo.portrait import Portrait


@cache
def tiny() -> Portrait:
    return Portrait.random("tiny", seed=1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return str(tiny().save_pretrained(tmp_path_factory.mktemp("models") / "tiny", half=False))


@cache
def threshold() -> str:
    """A density that random weights reach in about half of the volume."""
    points = torch.rand(1, 4096, 3, generator=torch.Generator().manual_seed(0)) * 0.2 - 0.1
    return f"{float(tiny().volume(tiny().sample(seed=1)).probe(points).density.median()):.4f}"


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    main(["export", "--json", *map(str, words)])
    return json.loads(capsys.readouterr().out)


def gltf(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    magic, version, length, size, kind = struct.unpack_from("<4sII I4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def dense(document: dict[str, Any], blob: bytes, index: int) -> np.ndarray:
    """A VEC3 float accessor, sparse or not, as (N, 3), by the letter of glTF 2.0."""
    accessor = document["accessors"][index]
    assert accessor["type"] == "VEC3" and accessor["componentType"] == 5126

    def part(view: int, kind: str, count: int) -> np.ndarray:
        entry = document["bufferViews"][view]
        return np.frombuffer(blob, kind, count, entry["byteOffset"])

    out = np.zeros((accessor["count"], 3), "<f4")
    if "bufferView" in accessor:
        out = part(accessor["bufferView"], "<f4", 3 * accessor["count"]).reshape(-1, 3).copy()
    if "sparse" in accessor:
        sparse = accessor["sparse"]
        at = part(sparse["indices"]["bufferView"], "<u4", sparse["count"])
        assert (np.diff(at.astype(np.int64)) > 0).all() and at.max() < accessor["count"]
        out[at] = part(sparse["values"]["bufferView"], "<f4", 3 * sparse["count"]).reshape(-1, 3)
    if "min" in accessor:
        np.testing.assert_allclose(out.min(0), accessor["min"])
        np.testing.assert_allclose(out.max(0), accessor["max"])
    return out


@pytest.mark.parametrize("name", ["p.glb", "p.obj", "p.ply"])
def test_meshes(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], name: str) -> None:
    words = ["--model", model, "--seed", "1", "--resolution", "16", "--threshold", threshold(), "--without", "none"]
    colors = "field" if name.endswith("obj") else "pictures"
    body = told(capsys, *words, "--out", tmp_path / name, "--colors", colors)
    mesh = trimesh.load(tmp_path / name, force="mesh", process=False)
    assert body["what"] == "mesh" and len(mesh.faces) == body["triangles"] > 10
    assert np.abs(mesh.vertices).max() < 0.2
    if name.endswith("glb"):
        assert "COLOR_0" in gltf(tmp_path / name)[0]["meshes"][0]["primitives"][0]["attributes"]
    else:
        assert mesh.visual.kind == "vertex" and len(np.unique(mesh.visual.vertex_colors, axis=0)) > 10
    if name.endswith("ply"):
        small = told(capsys, *words, "--faces", "40", "--out", tmp_path / "small.ply")
        assert small["triangles"] <= 60


@pytest.mark.parametrize("what", ["points", "splats"])
def test_clouds(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], what: str) -> None:
    body = told(capsys, "--model", model, "--what", what, "--count", "500", "--resolution", "16", "--threshold",
                threshold(), "--without", "none", "--out", tmp_path / "cloud.ply")  # fmt: skip
    assert body[what] == 500
    head = (tmp_path / "cloud.ply").read_bytes().partition(b"end_header")[0].decode()
    assert "element vertex 500" in head and "trainedAlgorithmicMedia" in head
    assert ("f_dc_0" in head) == (what == "splats") and ("red" in head) == (what == "points")
    if what == "points":
        assert trimesh.load(tmp_path / "cloud.ply").vertices.shape == (500, 3)


def test_a_head_with_blendshapes(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "head.glb"
    body = told(capsys, "--model", model, "--seed", "3", "--what", "head", "--texture", "64", "--out", path,
                "--expression", "smile=0.5")  # fmt: skip
    assert body["blendshapes"] == 52
    document, blob = gltf(path)
    (mesh,) = document["meshes"]
    assert tuple(mesh["extras"]["targetNames"]) == ARKIT_NAMES
    weights = dict(zip(ARKIT_NAMES, mesh["weights"], strict=True))
    assert weights["mouthSmileLeft"] == 0.5 and weights["jawOpen"] == 0
    (primitive,) = mesh["primitives"]
    rest = dense(document, blob, primitive["attributes"]["POSITION"])
    normals = dense(document, blob, primitive["attributes"]["NORMAL"])
    jaw = primitive["targets"][ARKIT_NAMES.index("jawOpen")]
    moved = rest + dense(document, blob, jaw["POSITION"])
    turned = normals + dense(document, blob, jaw["NORMAL"])
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-3)
    person = tiny().sample(seed=3).replace(expression=torch.zeros(1, 52))
    for vertices, wanted in ((rest, person), (moved, person.with_expression(jawOpen=1.0))):
        expected = tiny().head_mesh(wanted).vertices
        assert len(np.unique(vertices, axis=0)) == len(np.unique(expected, axis=0))
        np.testing.assert_allclose(np.sort(vertices.max(0)), np.sort(expected.max(0)), atol=1e-6)
        np.testing.assert_allclose(vertices.min(0), expected.min(0), atol=1e-6)
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(blob)
    assert document["asset"]["extras"]["copo"]["recipe"]["seed"] == 3
    loaded = trimesh.load(path, force="mesh", process=False)
    assert loaded.visual.material.baseColorTexture.size == (64, 64)


def test_a_head_as_it_is(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", model, "--what", "head", "--expression", "jawOpen=1", "--skin", "model"]
    body = told(capsys, *words, "--texture", "32", "--out", tmp_path / "head.obj")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.mtl", "head.obj", "head.png"]
    assert sorted(body["written"]) == sorted(str(tmp_path / n) for n in ("head.obj", "head.mtl", "head.png"))
    told(capsys, *words, "--texture", "0", "--no-blendshapes", "--out", tmp_path / "head.glb")
    document, blob = gltf(tmp_path / "head.glb")
    primitive = document["meshes"][0]["primitives"][0]
    assert "targets" not in primitive and "COLOR_0" in primitive["attributes"]
    shown = dense(document, blob, primitive["attributes"]["POSITION"])
    wanted = tiny().head_mesh(tiny().sample(seed=0).with_expression(jawOpen=1.0)).vertices
    np.testing.assert_allclose(shown, wanted, atol=1e-6)


def test_a_texture(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    body = told(capsys, "--model", model, "--seed", "2", "--texture", "48", "--out", tmp_path / "skin.png")
    assert body["what"] == "texture" and load_image(tmp_path / "skin.png").shape == (48, 48, 3)
    mark = read_metadata(tmp_path / "skin.png")
    assert mark.source_type == "trainedAlgorithmicMedia" and mark.metadata["recipe"]["seed"] == 2


def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, complaint in (
        (["--out", "p.stl"], "p.stl"),
        (["--what", "splats", "--out", "p.glb"], "splats"),
        (["--out", "p.png", "--texture", "0"], "--texture 0"),
        (["--what", "head", "--texture", "9"], "--texture 9"),
        (["--resolution", "4"], "too coarse"),
        (["--resolution", "9999"], "--resolution"),
        (["--faces", "1"], "4"),
        (["--without", "hat,shoes"], "shoes"),
        (["--count", "0", "--what", "points", "--out", "p.ply"], "--count 0"),
        (["--threshold", "1e9", "--resolution", "8"], "no surface"),
        (["--threshold", "-1"], "not a density"),
    ):
        given = [str(tmp_path / w) if w.startswith("p.") else w for w in words]
        given += [] if "--out" in given else ["--out", str(tmp_path / "p.glb")]
        with pytest.raises(SystemExit) as stop:
            main(["export", "--model", model, *given])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and complaint in error, (words, error)
        assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
