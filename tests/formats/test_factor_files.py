"""Factors and cameras survive every file format; damaged and foreign files are told in one line."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import FACTOR_NAMES, Factors, FactorSpec
from copo.formats.bfm import bfm_spec
from copo.formats.factor_files import load_factors, save_factors
from copo.formats.mat import load_coefficients

SPEC = FactorSpec(head="open_head", shape=5, albedo=4, expression_names=("jawOpen", "smileß"), noise=3)
OWN = [".json", ".npz", ".safetensors"]
FOV = 2 * math.atan(112 / 1015)  # Deep3DFaceRecon's camera


def random_factors(spec: FactorSpec, batch: int = 2) -> Factors:
    generator = torch.Generator().manual_seed(0)
    return Factors(spec, **{n: torch.randn(batch, size, generator=generator) for n, size in spec.sizes.items()})


@pytest.mark.parametrize("suffix", OWN)
def test_factors_and_camera_come_back_bit_by_bit(tmp_path: Path, suffix: str) -> None:
    factors, path = random_factors(SPEC), tmp_path / f"f{suffix}"
    camera = Camera.from_pitch_yaw(torch.tensor([1.5, 1.7]), torch.tensor([1.2, 1.9]))
    save_factors(path, factors, camera)
    for loaded in (load_factors(path), load_factors(path, SPEC)):
        assert loaded.factors.spec == SPEC
        for name in FACTOR_NAMES:
            assert torch.equal(getattr(loaded.factors, name), getattr(factors, name))
        assert loaded.camera is not None
        assert torch.equal(loaded.camera.cam2world, camera.cam2world)
        assert torch.equal(loaded.camera.intrinsics, camera.intrinsics)


@pytest.mark.parametrize("suffix", OWN)
def test_a_camera_is_optional(tmp_path: Path, suffix: str) -> None:
    save_factors(tmp_path / f"f{suffix}", random_factors(SPEC))
    assert load_factors(tmp_path / f"f{suffix}").camera is None


@pytest.mark.parametrize("suffix", OWN)
def test_the_same_factors_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        save_factors(tmp_path / f"{name}{suffix}", random_factors(SPEC))
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert suffix == ".npz" or first == second  # a zip file stores the time


def test_the_methods_file_carries_face_light_and_pose(tmp_path: Path) -> None:
    factors, path = random_factors(bfm_spec()), tmp_path / "f.mat"
    camera = Camera.from_pitch_yaw(torch.tensor([1.5, 1.7]), torch.tensor([1.2, 1.9]), FOV)
    save_factors(path, factors, camera)
    loaded = load_factors(path, bfm_spec(noise=128))
    for name in ("shape", "albedo", "expression", "illumination"):
        assert torch.equal(getattr(loaded.factors, name), getattr(factors, name))
    assert not loaded.factors.noise.any()
    assert loaded.camera is not None
    torch.testing.assert_close(loaded.camera.cam2world, camera.cam2world, atol=2e-6, rtol=0)


@pytest.mark.parametrize("angle", [(0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (-0.2, 0.0, 0.0), (0.0, 0.3, 0.0)])
def test_the_methods_pose_is_the_published_one(tmp_path: Path, angle: tuple[float, float, float]) -> None:
    """(pitch, yaw) of the generator are pi/2 + (angle_x, angle_y) x (-1, +1), exact for a turn about one axis."""
    camera = Camera.from_pitch_yaw(math.pi / 2 - angle[0], math.pi / 2 + angle[1], FOV)
    save_factors(tmp_path / "f.mat", random_factors(bfm_spec(), 1), camera)
    np.testing.assert_allclose(load_coefficients(tmp_path / "f.mat")["angle"], [angle], atol=1e-6)


def test_without_a_camera_the_face_looks_straight_ahead(tmp_path: Path) -> None:
    save_factors(tmp_path / "f.mat", random_factors(bfm_spec(), 1))
    data = load_coefficients(tmp_path / "f.mat")
    assert data["angle"].tolist() == [[0, 0, 0]]
    np.testing.assert_allclose(data["trans"], [[0, -0.1, 0]], atol=1e-7)
    camera = load_factors(tmp_path / "f.mat").camera
    assert camera is not None
    torch.testing.assert_close(camera.position, torch.tensor([[0.0, 0, 1]]), atol=1e-6, rtol=0)


def test_the_methods_file_is_only_for_its_face_model(tmp_path: Path) -> None:
    with pytest.raises(CopoError, match=r"use \.json, \.npz or \.safetensors"):
        save_factors(tmp_path / "f.mat", random_factors(SPEC))
    save_factors(tmp_path / "g.mat", random_factors(bfm_spec()))
    with pytest.raises(CopoError, match="head 'open_head' has other sizes"):
        load_factors(tmp_path / "g.mat", SPEC)
    wide = Camera.from_pitch_yaw(math.pi / 2, math.pi / 2, 1.0)
    with pytest.raises(CopoError, match="fixed camera"):
        save_factors(tmp_path / "h.mat", random_factors(bfm_spec()), wide)
    assert [p.name for p in tmp_path.iterdir()] == ["g.mat"]


@pytest.mark.parametrize("suffix", OWN)
def test_another_heads_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"f{suffix}"
    save_factors(path, random_factors(SPEC))
    with pytest.raises(CopoError, match="belongs to head 'open_head' with sizes 3/5/4/2/27; this one is 'bfm09'"):
        load_factors(path, bfm_spec())
    renamed = FactorSpec(head="open_head", shape=5, albedo=4, expression_names=("jawOpen", "kiss"), noise=3)
    with pytest.raises(CopoError, match="names other expressions"):
        load_factors(path, renamed)


@pytest.mark.parametrize("suffix", [*OWN, ".mat"])
def test_bad_numbers_are_not_written(tmp_path: Path, suffix: str) -> None:
    factors = random_factors(bfm_spec())
    factors.shape[0, 0] = math.inf
    with pytest.raises(CopoError, match="NaN or infinite"):
        save_factors(tmp_path / f"f{suffix}", factors)
    with pytest.raises(CopoError, match="3 cameras for 2 portraits"):
        angles = torch.full((3,), 1.5)
        save_factors(tmp_path / f"f{suffix}", random_factors(bfm_spec()), Camera.from_pitch_yaw(angles, angles))
    assert list(tmp_path.iterdir()) == []


def test_unknown_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CopoError, match="end the name in"):
        save_factors(tmp_path / "f.pkl", random_factors(SPEC))
    with pytest.raises(CopoError, match="end the name in"):
        load_factors(tmp_path / "f.pkl")
    for suffix in (*OWN, ".mat"):
        with pytest.raises(CopoError, match="does not exist"):
            load_factors(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("suffix", OWN)
@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"[1]", b"\x80\x04" + b"x" * 50, b"[" * 100_000])
def test_foreign_files_are_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"f{suffix}"
    path.write_bytes(content)
    with pytest.raises(CopoError, match="factor file") as caught:
        load_factors(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", OWN)
def test_truncated_files_are_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"f{suffix}"
    save_factors(path, random_factors(SPEC))
    data = path.read_bytes()
    for share in (0.1, 0.5, 0.95):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(CopoError, match="damaged or no factor file") as caught:
            load_factors(path)
        assert "\n" not in str(caught.value)


def edited(path: Path, **changes: object) -> Path:
    body = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in body.items() if v is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": None}, "no factor 'shape'"),
        ({"shape": [[1, 2]]}, r"factor shape has shape \(1, 2\)|factor albedo|expected"),
        ({"shape": "text"}, "damaged or no factor file"),
        ({"shape": [[1e400] * 5]}, "NaN or infinite"),
        ({"format": "other"}, "its format entry is not"),
        ({"spec": {"head": "x"}}, "factor specification is incomplete"),
        ({"spec": {"hat": 1}}, "unknown factor specification key 'hat'"),
        ({"cam2world": np.eye(4)[None].tolist()}, "half a camera"),
        ({"cam2world": (2 * np.eye(4))[None].tolist(), "intrinsics": np.eye(3)[None].tolist()}, "not a rotation"),
    ],
)
def test_edited_files_name_what_is_wrong(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "f.json"
    save_factors(path, random_factors(SPEC, 1))
    with pytest.raises(CopoError, match=message) as caught:
        load_factors(edited(path, **changes))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


class Trap:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_pickles_inside_npz_are_refused_with_nothing_run(tmp_path: Path) -> None:
    mark = tmp_path / "was_run"
    trap = np.array([Trap(mark)], dtype=object)
    np.savez(tmp_path / "f.npz", header=trap, shape=trap)
    (tmp_path / "g.npz").write_bytes(pickle.dumps(Trap(mark)))
    for name in ("f.npz", "g.npz"):
        with pytest.raises(CopoError, match="factor file"):
            load_factors(tmp_path / name)
    assert not mark.exists()
    np.load(tmp_path / "f.npz", allow_pickle=True)["shape"]  # the trap is a real one
    assert mark.exists()


def test_a_safetensors_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    path.write_bytes(safetensors.numpy.save({"weight": np.ones(3, np.float32)}))
    with pytest.raises(CopoError, match="is no factor file of CoPo"):
        load_factors(path)
