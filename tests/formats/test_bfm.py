"""The front model from the original files (true sizes, real index files) and from BFM_model_front.mat."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import scipy.sparse.linalg
from tests import parity

from copo.errors import CopoError
from copo.formats.bfm import bfm_spec, build_front_model, load_bfm

FRONT, EXPRESSION, RAW = 35_709, 53_215, 53_490
INDEX = Path(__file__).parents[2] / "src" / "copo" / "assets" / "bfm_index"


def components(rows: int, columns: int, period: int) -> np.ndarray:
    """(rows, columns) float32 that differ everywhere nearby, without the cost of random numbers."""
    return np.multiply.outer(np.arange(rows, dtype=np.float32) % period + 1, np.arange(columns, dtype=np.float32) + 1)


@pytest.fixture(scope="module")
def raw() -> Iterator[tuple[Path, dict[str, np.ndarray], np.ndarray]]:
    """A folder with original files of the true sizes, and their content."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = {
            "shapeMU": np.arange(3 * RAW, dtype=np.float32)[:, None],
            "shapePC": np.asfortranarray(components(3 * RAW, 199, 97)),
            "shapeEV": np.arange(199, dtype=np.float32)[:, None] + 5,
            "texMU": (np.arange(3 * RAW, dtype=np.float32) % 256)[:, None],
            "texPC": np.asfortranarray(components(3 * RAW, 199, 89)),
            "texEV": np.arange(199, dtype=np.float32)[:, None] + 7,
        }
        scipy.io.savemat(folder / "01_MorphableModel.mat", content | {"tl": np.ones((3, 3)), "segbin": np.ones((2, 4))})
        expression = np.ascontiguousarray(components(3 * EXPRESSION, 80, 83).T)  # the mean, then 79 components
        with (folder / "Exp_Pca.bin").open("wb") as file:
            file.write((79).to_bytes(4, "little"))
            expression.tofile(file)
        yield folder, content, expression[1:]


def test_the_original_files_give_the_front_model(raw: tuple[Path, dict[str, np.ndarray], np.ndarray]) -> None:
    """Single vertices are followed by hand through the index files, which count from one."""
    folder, content, expression = raw
    model = load_bfm(folder)
    assert model.mean_shape.shape == model.mean_texture.shape == (FRONT, 3)
    assert model.shape_basis.shape == model.texture_basis.shape == (3 * FRONT, 80)
    assert model.expression_basis.shape == (3 * FRONT, 64)
    for value in (model.mean_shape, model.shape_basis, model.texture_basis, model.expression_basis):
        assert value.dtype == np.float32
    assert model.faces.shape == (70_789, 3) and model.faces.min() == 0 and model.faces.max() == FRONT - 1
    assert model.vertex_faces.max() == 70_789 and model.landmarks68.shape == (68,)

    in_expression = scipy.io.loadmat(INDEX / "BFM_front_idx.mat")["idx"].astype(int).ravel()
    in_raw = scipy.io.loadmat(INDEX / "BFM_exp_idx.mat")["trimIndex"].astype(int).ravel()
    deviations = [float(word) for word in (INDEX / "std_exp.txt").read_text().split()]
    for vertex in (0, 1, 12_345, FRONT - 1):
        e = in_expression[vertex] - 1
        r = in_raw[e] - 1
        for axis in range(3):
            row = 3 * vertex + axis
            assert model.mean_shape[vertex, axis] == pytest.approx(content["shapeMU"][3 * r + axis, 0] / 1e5)
            assert model.mean_texture[vertex, axis] == content["texMU"][3 * r + axis, 0]
            for k in (0, 41, 79):
                shape, texture = content["shapePC"][3 * r + axis, k], content["texPC"][3 * r + axis, k]
                assert model.shape_basis[row, k] == pytest.approx(shape * (k + 5) / 1e5, rel=1e-6)
                assert model.texture_basis[row, k] == pytest.approx(texture * (k + 7), rel=1e-6)
            for k in (0, 63):
                expected = expression[k, 3 * e + axis] * deviations[k] / 1e5
                assert model.expression_basis[row, k] == pytest.approx(expected, rel=1e-6)


def test_the_vertices_are_those_that_the_index_files_author_lists(
    raw: tuple[Path, dict[str, np.ndarray], np.ndarray],
) -> None:
    """select_vertex_id.mat states directly what the two index files give in two steps. (shapeMU counts up.)"""
    listed = parity.ROOT.parent / "bfm_index" / "select_vertex_id.mat"
    if not listed.is_file():
        pytest.skip(f"{listed} is not here")
    index = scipy.io.loadmat(listed)["select_id"].astype(int).ravel() - 1
    model = load_bfm(raw[0])
    np.testing.assert_allclose(model.mean_shape[:, 0] * 1e5, 3 * index, rtol=1e-6)


def test_triangles_of_the_real_connection_agree_with_their_neighbourhoods() -> None:
    """point_buf lists for each vertex exactly the triangles that hold it: zero-based indices are in step."""
    info = scipy.io.loadmat(INDEX / "facemodel_info.mat")
    faces, around = info["tri"].astype(int) - 1, info["point_buf"].astype(int) - 1
    corners = np.stack([faces.ravel(), np.repeat(np.arange(len(faces)), 3)], axis=1)
    listed = np.stack([np.repeat(np.arange(FRONT), 8), around.ravel()], axis=1)
    listed = listed[listed[:, 1] < len(faces)]
    np.testing.assert_array_equal(np.unique(corners, axis=0), np.unique(listed, axis=0))


def test_triangles_are_counter_clockwise_from_the_front_and_landmarks_are_ibugs() -> None:
    """A thin plate is hung on the 68 mean landmarks at the landmark vertices (biharmonic equation on the mesh).

    Seen from the front (+z), nearly all its triangles are counter-clockwise; they would not be if triangles were turned
    round, or if the order of the landmarks were not that of the mean landmarks.
    """
    info = scipy.io.loadmat(INDEX / "facemodel_info.mat")
    faces, pins = info["tri"].astype(int) - 1, info["keypoints"].astype(int).ravel() - 1
    places = scipy.io.loadmat(INDEX / "similarity_Lm3D_all.mat")["lm"].astype(float)
    start, end = faces.ravel(), np.roll(faces, 1, axis=1).ravel()
    edges = scipy.sparse.coo_array((np.ones(len(start)), (start, end)), shape=(FRONT, FRONT)).tocsr()
    edges = ((edges + edges.T) > 0).astype(float)
    laplacian = scipy.sparse.diags_array(edges.sum(axis=1)) - edges
    free = np.setdiff1d(np.arange(FRONT), pins)
    rows = (laplacian @ laplacian).tocsc()[free]
    plate = np.zeros((FRONT, 2))
    plate[pins] = places[:, :2]
    plate[free] = scipy.sparse.linalg.spsolve(rows[:, free], -(rows[:, pins] @ places[:, :2]))
    a, b, c = (plate[faces[:, k]] for k in range(3))
    turn = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert (turn > 0).mean() > 0.999


def linked(raw_folder: Path, folder: Path) -> Path:
    """A folder whose original files are links, so that single ones can be replaced."""
    folder.mkdir(exist_ok=True)
    for name in ("01_MorphableModel.mat", "Exp_Pca.bin"):
        (folder / name).symlink_to(raw_folder / name)
    return folder


@pytest.mark.parametrize("name", ["01_MorphableModel.mat", "Exp_Pca.bin"])
def test_a_missing_file_is_named(raw: tuple, tmp_path: Path, name: str) -> None:
    folder = linked(raw[0], tmp_path / "bfm")
    (folder / name).unlink()
    with pytest.raises(CopoError, match=rf"neither BFM_model_front\.mat nor {name}; docs/formats\.md"):
        load_bfm(folder)


@pytest.mark.parametrize(("name", "size"), [("01_MorphableModel.mat", 70_000_000), ("Exp_Pca.bin", 51_000_000)])
def test_a_truncated_file_is_named(raw: tuple, tmp_path: Path, name: str, size: int) -> None:
    folder = linked(raw[0], tmp_path / "bfm")
    (folder / name).unlink()
    shutil.copy(raw[0] / name, folder / name)
    os.truncate(folder / name, size)
    with pytest.raises(CopoError, match="truncated") as caught:
        load_bfm(folder)
    (folder / name).unlink()  # do not leave it in the kept temporary folder
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_another_size_are_named(raw: tuple, tmp_path: Path) -> None:
    folder = linked(raw[0], tmp_path / "bfm")
    (folder / "01_MorphableModel.mat").unlink()
    small = {"shapeMU": np.ones((300, 1)), "shapePC": np.ones((300, 9)), "shapeEV": np.ones((9, 1))}
    scipy.io.savemat(folder / "01_MorphableModel.mat", small | {k.replace("shape", "tex"): v for k, v in small.items()})
    with pytest.raises(CopoError, match=r"01_MorphableModel\.mat: field 'shapeMU' has shape \(300, 1\)"):
        load_bfm(folder)
    (folder / "Exp_Pca.bin").unlink()
    (folder / "Exp_Pca.bin").write_bytes((64).to_bytes(4, "little") + bytes(1000))
    with pytest.raises(CopoError, match=r"Exp_Pca\.bin has 1004 bytes and says 64 components: expected 51086404 bytes"):
        load_bfm(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("BFM_front_idx.mat", {"idx": np.array([[1], [60_000]])}, "expected indices from 1 to 53215"),
        ("BFM_exp_idx.mat", {"trimIndex": np.ones((7, 1))}, r"has shape \(7, 1\): expected \(53215,\)"),
        ("facemodel_info.mat", {"tri": np.ones((4, 3))}, "no field 'point_buf'"),
        ("BFM_front_idx.mat", {"idx": np.array([[1], [2]])}, "is for 35709 vertices, the model has 2"),
        ("std_exp.txt", "1 2 three", "must hold numbers"),
        ("std_exp.txt", "1 2 3", "holds 3 numbers: expected at least 64"),
    ],
)
def test_the_folders_own_index_files_are_used_and_checked(
    raw: tuple, tmp_path: Path, name: str, content: dict | str, message: str
) -> None:
    folder = linked(raw[0], tmp_path / "bfm")
    if isinstance(content, str):
        (folder / name).write_text(content)
    else:
        scipy.io.savemat(folder / name, content)
    with pytest.raises(CopoError, match=message):
        build_front_model(folder)


def front_fields(vertices: int = 5) -> dict[str, np.ndarray]:
    size = 3 * vertices
    return {
        "meanshape": np.arange(size, dtype=np.float32)[None],
        "meantex": np.full((1, size), 127, np.float32),
        "idBase": np.ones((size, 4), np.float32),
        "exBase": np.ones((size, 3), np.float32),
        "texBase": np.ones((size, 2), np.float32),
        "tri": np.array([[1, 2, 3], [3, 4, vertices]], np.int32),
        "point_buf": np.full((vertices, 8), 3, np.int32),
        "keypoints": np.arange(68)[None] % vertices + 1,
        "skinmask": np.ones((1, vertices)),
    }


def test_a_front_model_is_read_from_its_file_or_its_folder(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "BFM_model_front.mat", front_fields())
    for path in (tmp_path, tmp_path / "BFM_model_front.mat"):
        model = load_bfm(path)
        assert model.mean_shape.tolist() == np.arange(15).reshape(5, 3).tolist()
        assert model.faces.tolist() == [[0, 1, 2], [2, 3, 4]]
        assert model.vertex_faces.tolist() == [[2] * 8] * 5  # two triangles: index 2 is none


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"idBase": np.ones((12, 4))}, "'idBase' has 12 rows, 'meanshape' has 15 numbers"),
        ({"meanshape": np.ones((1, 14))}, "'meanshape' has 14 numbers: expected three for each vertex"),
        ({"tri": np.array([[0, 1, 2]])}, "'tri' holds 0 to 2: expected indices from 1 to 5"),
        ({"point_buf": np.full((5, 8), 4)}, "'point_buf' holds 4 to 4: expected indices from 1 to 3"),
        ({"keypoints": np.ones((1, 67))}, r"'keypoints' has shape \(1, 67\): expected \(68,\)"),
        ({"skinmask": np.ones((1, 4))}, "'skinmask' is for 4 vertices, the model has 5"),
        ({"texBase": np.full((15, 2), np.inf)}, "'texBase' holds NaN or infinite"),
    ],
)
def test_an_inconsistent_front_model_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "BFM_model_front.mat"
    scipy.io.savemat(path, front_fields() | changes)
    with pytest.raises(CopoError, match=message) as caught:
        load_bfm(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(CopoError, match="does not exist"):
        load_bfm("/nowhere/bfm")


def test_the_specification_has_the_published_sizes() -> None:
    spec = bfm_spec()
    assert spec.total == 379 and spec.expression_names[0] == "exp_00" and spec.expression_names[-1] == "exp_63"
    assert [spec.normaliser(n) for n in ("shape", "albedo", "expression", "illumination")] == [4.2, 9.0, 4.0, 0.85]
