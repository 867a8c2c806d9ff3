"""Splat and point files, read back with trimesh's PLY reader and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from copo.errors import CopoError
from copo.formats.splat import GaussianSplats, save_points, save_splats

ORDER = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
ORDER += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
"""What viewers of 3D Gaussian Splatting files expect."""


def splats() -> GaussianSplats:
    return GaussianSplats(
        positions=np.array([[0.1, 0.2, 0.3], [-0.1, 0, 0]]),
        colors=np.array([[0.5, 1.0, 0.0], [0.25, 0.5, 0.75]]),
        opacities=np.array([0.5, 0.9]),
        scales=np.array([[1.0, 0.01, 0.001], [1, 1, 1]]),
        rotations=np.array([[2.0, 0, 0, 0], [0, 0, 3.0, 0]]),
    )


def test_splats_have_the_layout_and_the_units_of_viewers(tmp_path: Path) -> None:
    path = tmp_path / "s.ply"
    save_splats(path, splats())
    header, body = path.read_bytes().split(b"end_header\n", 1)
    properties = [line.split()[-1] for line in header.decode().splitlines() if line.startswith("property")]
    assert properties == ORDER
    assert b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia\n" in header
    rows = np.frombuffer(body, "<f4").reshape(2, len(ORDER))
    first = dict(zip(ORDER, rows[0].tolist(), strict=True))
    assert (first["x"], first["y"], first["z"]) == pytest.approx((0.1, 0.2, 0.3))
    assert first["f_dc_0"] == pytest.approx(0)
    assert first["f_dc_1"] == pytest.approx(0.5 * 2 * np.pi**0.5, rel=1e-6)  # 1 / Y00 = 2 sqrt(pi)
    assert first["opacity"] == pytest.approx(0)  # sigmoid(0) = 0.5
    assert rows[1, ORDER.index("opacity")] == pytest.approx(np.log(9))  # sigmoid(log 9) = 0.9
    assert [first[f"scale_{i}"] for i in range(3)] == pytest.approx([0, np.log(0.01), np.log(0.001)])
    assert rows[:, -4:].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]


def test_another_reader_finds_the_same_points(tmp_path: Path) -> None:
    save_splats(tmp_path / "s.ply", splats())
    cloud = trimesh.load(tmp_path / "s.ply")
    np.testing.assert_allclose(cloud.vertices, splats().positions, atol=1e-7)


def test_points_keep_position_and_colour(tmp_path: Path) -> None:
    positions = np.array([[0, 0, 0], [1, 2, 3.0]])
    save_points(tmp_path / "p.ply", positions, np.array([[255, 0, 0], [1, 2, 3]], np.uint8))
    cloud = trimesh.load(tmp_path / "p.ply")
    np.testing.assert_allclose(cloud.vertices, positions)
    assert cloud.colors[:, :3].tolist() == [[255, 0, 0], [1, 2, 3]]


def test_extreme_opacity_stays_finite(tmp_path: Path) -> None:
    one = GaussianSplats(np.zeros((2, 3)), np.zeros((2, 3)), np.array([0.0, 1.0]), np.ones((2, 3)))
    save_splats(tmp_path / "s.ply", one)
    rows = np.frombuffer((tmp_path / "s.ply").read_bytes().split(b"end_header\n", 1)[1], "<f4")
    assert np.isfinite(rows).all()


def test_a_selection_keeps_rows_together() -> None:
    part = splats().keep(np.array([False, True]))
    assert len(part) == 1 and part.opacities[0] == np.float32(0.9) and part.rotations is not None
    assert part.rotations[0].tolist() == [0, 0, 3, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": np.zeros((2, 3))}, "above zero"),
        ({"opacities": np.ones(3)}, r"opacities have shape \(3,\): expected \(2,\)"),
        ({"positions": np.full((2, 3), np.inf)}, "infinite"),
    ],
)
def test_bad_splats_are_refused(change: dict, message: str) -> None:
    with pytest.raises(CopoError, match=message):
        GaussianSplats(**{**vars(splats()), **change})


def test_points_in_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CopoError, match=r"end the name in \.ply"):
        save_points(tmp_path / "p.xyz", np.zeros((1, 3)))
    with pytest.raises(CopoError, match=r"expected \(1, 3\)"):
        save_points(tmp_path / "p.ply", np.zeros((1, 3)), np.zeros((2, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
