"""Save and load `Factors`, with a camera if there is one, as .json, .npz, .safetensors and the method's .mat.

The first three carry the head model's name, sizes and expression names, so that a file cannot be taken for another
head's. The .mat is the method's per-image file for the Basel Face Model (id, exp, tex, angle, gamma, trans): it has no
noise, and its camera is Deep3DFaceRecon's pose.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from copo.camera import DEEP3D_OFFSET, Camera
from copo.errors import CopoError
from copo.factors import FACTOR_NAMES, Factors, FactorSpec
from copo.formats.atomic import atomic_write, write_bytes
from copo.formats.bfm import bfm_spec
from copo.formats.mat import COEFFICIENT_SIZES, load_coefficients, save_coefficients

Array = NDArray[Any]
FORMAT = "copo-factors-1"
_CAMERA_NAMES = ("cam2world", "intrinsics")
_MAT_NAMES = {"shape": "id", "expression": "exp", "albedo": "tex", "illumination": "gamma"}


class FactorFile(NamedTuple):
    """What a factor file holds."""

    factors: Factors
    """B portraits, on the CPU."""
    camera: Camera | None
    """Their cameras, B or one for all; None where the file has none."""


def save_factors(path: str | os.PathLike[str], factors: Factors, camera: Camera | None = None) -> None:
    """Write factors to a file whose suffix chooses the format: .json, .npz, .safetensors or .mat.

    Every format keeps float32 exactly. The .mat keeps no noise, and its camera must be one that Deep3DFaceRecon can
    express (its field of view); without a camera the pose is the frontal one at which the method renders.

    Args:
        path: The file to make, atomically.
        factors: B portraits.
        camera: One camera, or one for each portrait.

    Raises:
        CopoError: Unknown suffix, a .mat for factors that are not the Basel Face Model's, NaN or infinite values, or
            the file cannot be written.
    """
    target = Path(path)
    if camera is not None and len(camera) not in (1, len(factors)):
        raise CopoError(f"{len(camera)} cameras for {len(factors)} portraits: give one, or one for each")
    if target.suffix.lower() == ".mat":
        _save_mat(target, factors, camera)
        return
    arrays = {name: _array(getattr(factors, name)) for name in FACTOR_NAMES}
    if camera is not None:
        arrays |= {name: _array(getattr(camera, name)) for name in _CAMERA_NAMES}
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise CopoError(f"cannot write {target.name}: {name} holds NaN or infinite numbers")
    writers: dict[str, Callable[[Path, dict[str, Array], FactorSpec], None]] = {
        ".json": _save_json,
        ".npz": _save_npz,
        ".safetensors": _save_safetensors,
    }
    if target.suffix.lower() not in writers:
        raise _unknown_suffix(target)
    writers[target.suffix.lower()](target, arrays, factors.spec)


def load_factors(path: str | os.PathLike[str], spec: FactorSpec | None = None) -> FactorFile:
    """Read a factor file.

    Args:
        path: .json, .npz, .safetensors or .mat. Nothing in it can run code.
        spec: The head model's specification. If given, the file must belong to that head. A .mat does not say what
            head it is of: without `spec` it is taken for the Basel Face Model's, and its missing noise becomes zeros.

    Returns:
        The factors, and the camera where the file has one. A .mat's angle and trans give `Camera.from_deep3d`.

    Raises:
        CopoError: The file is missing, damaged, of another kind or of another head model, or a factor is missing or
            of a wrong shape.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    readers: dict[str, Callable[[Path], tuple[Any, dict[str, Array]]]] = {
        ".json": _load_json,
        ".npz": _load_npz,
        ".safetensors": _load_safetensors,
    }
    if suffix == ".mat":
        return _load_mat(target, spec or bfm_spec())
    if suffix not in readers:
        raise _unknown_suffix(target)
    try:
        header, arrays = readers[suffix](target)
    except FileNotFoundError:
        raise CopoError(f"{target} does not exist") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError,
            zipfile.BadZipFile, SafetensorError) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CopoError(f"{target} is damaged or no factor file ({reason})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CopoError(f"{target} is no factor file of CoPo (its format entry is not {FORMAT!r})")
    return _assemble(target, header, arrays, spec)


def factor_document(factors: Factors, camera: Camera | None = None) -> dict[str, Any]:
    """The content of a .json factor file as plain data, with the shortest numbers that read back as the same float32.

    More entries may be added: `load_factors` passes over what it does not know.
    """
    arrays = {name: _array(getattr(factors, name)) for name in FACTOR_NAMES}
    if camera is not None:
        arrays |= {name: _array(getattr(camera, name)) for name in _CAMERA_NAMES}
    short = {
        name: np.array([float(str(v)) for v in value.ravel()]).reshape(value.shape).tolist()
        for name, value in arrays.items()
    }
    return _header(factors.spec) | short


# --- .json, .npz, .safetensors ----------------------------------------------------------------------------------


def _header(spec: FactorSpec) -> dict[str, Any]:
    return {"format": FORMAT, "spec": spec.to_dict()}


def _save_json(path: Path, arrays: dict[str, Array], spec: FactorSpec) -> None:
    # a float32's repr as a double is exact; json writes the shortest text that reads back as the same double
    body = _header(spec) | {name: value.tolist() for name, value in arrays.items()}
    write_bytes(path, (json.dumps(body, allow_nan=False) + "\n").encode())


def _load_json(path: Path) -> tuple[Any, dict[str, Array]]:
    body = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(body, dict):
        raise ValueError("not a JSON object")
    names = [name for name in (*FACTOR_NAMES, *_CAMERA_NAMES) if name in body]
    return body, {name: np.asarray(body[name], dtype=np.float32) for name in names}


def _save_npz(path: Path, arrays: dict[str, Array], spec: FactorSpec) -> None:
    header = np.frombuffer(json.dumps(_header(spec)).encode(), np.uint8)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, header=header, **arrays)


def _load_npz(path: Path) -> tuple[Any, dict[str, Array]]:
    with np.load(path, allow_pickle=False) as data:
        names = [name for name in (*FACTOR_NAMES, *_CAMERA_NAMES) if name in data]
        return json.loads(bytes(data["header"])), {name: data[name] for name in names}


def _save_safetensors(path: Path, arrays: dict[str, Array], spec: FactorSpec) -> None:
    write_bytes(path, safetensors.numpy.save(arrays, metadata={"copo": json.dumps(_header(spec))}))


def _load_safetensors(path: Path) -> tuple[Any, dict[str, Array]]:
    with path.open("rb"):  # a plain error where the file is missing
        pass
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        names = set(file.keys()) & {*FACTOR_NAMES, *_CAMERA_NAMES}
        return json.loads(metadata.get("copo", "null")), {name: file.get_tensor(name) for name in names}


def _assemble(path: Path, header: dict[str, Any], arrays: dict[str, Array], spec: FactorSpec | None) -> FactorFile:
    try:
        stored = FactorSpec.from_dict(header.get("spec") or {})
    except CopoError as error:
        raise CopoError(f"{path}: {error}") from error
    if spec is not None and (stored.head != spec.head or stored.sizes != spec.sizes):
        raise CopoError(
            f"{path} belongs to head {stored.head!r} with sizes {_sizes(stored)}; this one is {spec.head!r} with "
            f"{_sizes(spec)}: convert the coefficients or choose the other head"
        )
    if spec is not None and stored.expression_names != spec.expression_names:
        raise CopoError(f"{path} names other expressions than head {spec.head!r}: the file is of another version")
    for name in FACTOR_NAMES:
        if name not in arrays:
            raise CopoError(f"{path} has no factor {name!r}: the file is incomplete")
    try:
        factors = Factors(spec=spec or stored, **{name: _tensor(path, name, arrays[name]) for name in FACTOR_NAMES})
        camera = None
        if any(name in arrays for name in _CAMERA_NAMES):
            camera = Camera(**{name: _tensor(path, name, arrays[name]) for name in _CAMERA_NAMES})
    except KeyError as error:
        raise CopoError(f"{path} has half a camera: {error} is missing") from None
    except CopoError as error:
        raise CopoError(f"{path}: {error}") from error
    return FactorFile(factors, camera)


# --- the method's .mat ------------------------------------------------------------------------------------------


def _save_mat(path: Path, factors: Factors, camera: Camera | None) -> None:
    sizes = factors.spec.sizes
    for name, field in _MAT_NAMES.items():
        if sizes[name] != COEFFICIENT_SIZES[field]:
            raise CopoError(
                f"cannot write {path.name}: a .mat holds {COEFFICIENT_SIZES[field]} {name} coefficients of the Basel "
                f"Face Model, head {factors.spec.head!r} has {sizes[name]}; use .json, .npz or .safetensors"
            )
    values = {field: _array(getattr(factors, name)) for name, field in _MAT_NAMES.items()}
    values["angle"] = np.zeros((len(factors), 3), np.float32)
    values["trans"] = np.tile(np.asarray(DEEP3D_OFFSET, np.float32), (len(factors), 1))
    if camera is not None:
        pose = camera.expand(len(factors)).to_deep3d()
        values["angle"], values["trans"] = _array(pose.angles), _array(pose.translation)
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise CopoError(f"cannot write {path.name}: {name} holds NaN or infinite numbers")
    save_coefficients(path, values)


def _load_mat(path: Path, spec: FactorSpec) -> FactorFile:
    sizes = {field: spec.sizes[name] for name, field in _MAT_NAMES.items()} | {"angle": 3, "trans": 3}
    if sizes != COEFFICIENT_SIZES:
        raise CopoError(f"{path} is a coefficient file of the Basel Face Model: head {spec.head!r} has other sizes")
    data = {name: torch.from_numpy(value) for name, value in load_coefficients(path).items()}
    noise = torch.zeros(len(data["id"]), spec.noise)
    factors = Factors(spec=spec, noise=noise, **{name: data[field] for name, field in _MAT_NAMES.items()})
    return FactorFile(factors, Camera.from_deep3d(data["angle"], data["trans"]))


# --- inside -----------------------------------------------------------------------------------------------------


def _array(value: torch.Tensor) -> Array:
    return np.ascontiguousarray(value.detach().cpu().float().numpy())


def _tensor(path: Path, name: str, value: Array) -> torch.Tensor:
    if value.dtype.kind not in "fiu":
        raise CopoError(f"{path}: {name} is of type {value.dtype}: expected real numbers")
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise CopoError(f"{path}: {name} holds NaN or infinite numbers")
    return torch.from_numpy(np.ascontiguousarray(value))


def _sizes(spec: FactorSpec) -> str:
    return "/".join(str(size) for size in spec.sizes.values())


def _unknown_suffix(path: Path) -> CopoError:
    return CopoError(f"unknown factor file {path.name!r}: end the name in .json, .npz, .safetensors or .mat")
