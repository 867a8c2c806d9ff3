"""Panoramas: Radiance files and their harmonics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from copo.errors import CopoError
from copo.formats.environment import load_panorama, panorama_directions, radiance_of, save_panorama
from copo.head.shading import sh_shading
from copo.illumination import illumination_from_radiance, sh_basis

SIGNS = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1, 1])
LIGHTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "lighting" / "hdri_sh9.npz"


def test_a_uniform_panorama_is_the_constant_alone() -> None:
    """The mean of 1 over the sphere: L_00 = sqrt(4 pi), everything else 0; a white surface sends out 1."""
    radiance = radiance_of(np.ones((32, 64, 3)))
    assert torch.allclose(radiance[0], torch.full((3,), math.sqrt(4 * math.pi)), atol=1e-4)
    assert radiance[1:].abs().max() < 4e-3  # midpoints of 32 rows
    shading = sh_shading(torch.tensor([[[0.0, 0.0, 1.0]]]), illumination_from_radiance(radiance)[None])
    assert torch.allclose(shading, torch.ones(1, 1, 3), atol=1e-3)


@pytest.mark.parametrize(
    ("row", "column", "direction"),
    [(16, 32, (0, 0, 1)), (16, 48, (-1, 0, 0)), (16, 16, (1, 0, 0)), (16, 0, (0, 0, -1)), (0, 5, (0, 1, 0))],
)
def test_bright_spots_shine_from_where_they_are(row: int, column: int, direction: tuple[int, int, int]) -> None:
    """The centre is before the face; the right half lies at the person's right, -x; the first row is above."""
    panorama = np.zeros((33, 65, 3))
    panorama[row, column] = 1
    found = radiance_of(panorama)[:, 0]
    linear = torch.stack([found[3], found[1], found[2]])
    assert torch.dot(linear / linear.norm(), torch.tensor(direction, dtype=torch.float32)) > 0.98
    lit = sh_shading(torch.tensor([direction, [-d for d in direction]], dtype=torch.float32)[None],
                     illumination_from_radiance(radiance_of(panorama))[None])  # fmt: skip
    assert lit[0, 0, 0] > lit[0, 1, 0]


@pytest.mark.skipif(not LIGHTS.exists(), reason="needs the shared lights")
def test_panoramas_painted_from_harmonics_give_them_back() -> None:
    given_ = torch.from_numpy(np.load(LIGHTS, allow_pickle=False)["sh"][3])
    basis = sh_basis(torch.from_numpy(panorama_directions(64, 128))).float() * SIGNS
    assert torch.allclose(radiance_of((basis @ given_).numpy()), given_, atol=2e-3 * float(given_.abs().max()))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 1000))
def test_written_and_read_within_the_precision_of_the_format(height: int, width: int, seed: int) -> None:
    import tempfile

    random = np.random.default_rng(seed)
    panorama = random.random((height, width, 3)) * 10.0 ** random.integers(-3, 4, (height, width, 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.hdr"
        save_panorama(path, panorama)
        assert np.abs(load_panorama(path) - panorama).max(-1).max() <= (panorama.max(-1) / 128).max()
        again = load_panorama(path)
    assert np.all(np.abs(again - panorama) <= panorama.max(-1, keepdims=True) / 128 + 1e-12)


def rle(rgbe: NDArray[np.uint8]) -> bytes:
    """New run lengths by hand: every channel of a row as one literal and one run."""
    out = b""
    for row in rgbe:
        out += bytes([2, 2, len(row) >> 8, len(row) & 255])
        for channel in row.T:
            out += bytes([len(channel) - 3, *channel[:-3], 128 + 3, channel[-1]])
    return out


def test_run_lengths(tmp_path: Path) -> None:
    rgbe = np.random.default_rng(0).integers(2, 200, (3, 10, 4)).astype(np.uint8)
    rgbe[:, -3:] = rgbe[:, -1:]
    head = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 3 +X 10\n"
    (tmp_path / "flat.hdr").write_bytes(head + rgbe.tobytes())
    (tmp_path / "rle.hdr").write_bytes(head + rle(rgbe))
    old = b"".join(bytes(p) for row in rgbe for p in [*row[:8], (1, 1, 1, 2)])
    (tmp_path / "old.hdr").write_bytes(head + old)
    flat = load_panorama(tmp_path / "flat.hdr")
    assert np.array_equal(load_panorama(tmp_path / "rle.hdr"), flat)
    assert np.array_equal(load_panorama(tmp_path / "old.hdr"), flat)
    assert flat[0, 0, 0] == pytest.approx((rgbe[0, 0, 0] + 0.5) * 2.0 ** (int(rgbe[0, 0, 3]) - 136), rel=1e-6)
    (tmp_path / "exposed.hdr").write_bytes(head.replace(b"\n\n", b"\nEXPOSURE=2\n\n") + rgbe.tobytes())
    assert np.allclose(load_panorama(tmp_path / "exposed.hdr") * 2, flat)
    whole = (tmp_path / "rle.hdr").read_bytes()
    for cut in (len(head), len(head) + 7, len(whole) - 1):
        (tmp_path / "cut.hdr").write_bytes(whole[:cut])
        with pytest.raises(CopoError, match="truncated"):
            load_panorama(tmp_path / "cut.hdr")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_never_more_than_one_line(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.hdr"
        path.write_bytes(b"#?RADIANCE\n\n-Y 4 +X 9\n" + data)
        try:
            assert load_panorama(path).shape == (4, 9, 3)
        except CopoError as error:
            assert "damaged" in str(error)


def test_what_is_no_panorama_is_told(tmp_path: Path) -> None:
    with pytest.raises(CopoError, match="no such file"):
        load_panorama(tmp_path / "gone.hdr")
    (tmp_path / "a.hdr").write_bytes(b"hello")
    with pytest.raises(CopoError, match="Radiance"):
        load_panorama(tmp_path / "a.hdr")
    (tmp_path / "x.hdr").write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n-Y 1 +X 1\n0000")
    with pytest.raises(CopoError, match="XYZ"):
        load_panorama(tmp_path / "x.hdr")
    with pytest.raises(CopoError, match="finite"):
        radiance_of(np.full((2, 2, 3), np.nan))
