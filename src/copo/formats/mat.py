"""Read MATLAB files with every field's type and shape checked, and the method's per-image coefficient files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from copo.errors import CopoError
from copo.formats.atomic import atomic_write

Array = NDArray[Any]
MAX_ELEMENTS = 1 << 28
"""Largest field that is read: 268 million numbers, eight times the largest matrix of the Basel Face Model."""


@dataclass(frozen=True)
class MatField:
    """What a field must look like.

    Attributes:
        shape: Expected size in each dimension, None for any. MATLAB has no vectors: for one dimension (n,) the file
            may hold (n, 1) or (1, n), for (a, b) only that.
        integer: Values must be whole numbers; returned as int64, else as float32.
        optional: May be missing.
    """

    shape: tuple[int | None, ...]
    integer: bool = False
    optional: bool = False


def read_mat(path: str | os.PathLike[str], fields: Mapping[str, MatField]) -> dict[str, Array]:
    """Read the named fields of a .mat file (version 4 to 7.2) and nothing else of it.

    Args:
        path: The file.
        fields: What is expected, by name. Only plain real numeric arrays are read: cells, structures and objects are
            refused before their content is looked at.

    Returns:
        The arrays by name, float32 or int64, in the shape of `fields`; missing optional fields are left out.

    Raises:
        CopoError: The file is missing, damaged or of version 7.3, a field is missing, of another shape or kind, or
            holds NaN or infinite numbers. One line with file, field, expected and found shape.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            found = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(file)}
            for name, field in fields.items():
                if name in found:
                    _check_header(path, name, field, *found[name])
                elif not field.optional:
                    known = ", ".join(found) or "nothing"
                    raise CopoError(f"{path} has no field {name!r} (it has {known}): is it the right file?")
            file.seek(0)
            wanted = [name for name in fields if name in found]
            data = scipy.io.loadmat(file, variable_names=wanted)
            return {name: _values(path, name, fields[name], data[name]) for name in wanted}
    except CopoError:
        raise
    except FileNotFoundError:
        raise CopoError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CopoError(f"{path} is a folder: give a .mat file") from None
    except NotImplementedError:
        raise CopoError(f"{path} is a MATLAB 7.3 (HDF5) file: save it again with -v7") from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, IndexError, MemoryError, OverflowError,
            struct.error, zlib.error, scipy.io.matlab.MatReadError) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CopoError(f"{path} is no MATLAB file, or damaged or truncated ({reason}): fetch it again") from error


def write_mat(path: str | os.PathLike[str], fields: Mapping[str, Array]) -> None:
    """Write arrays as a compressed .mat file (version 5), atomically; one-dimensional ones as rows (1, n).

    Raises:
        CopoError: The file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        scipy.io.savemat(file, dict(fields), do_compression=True, oned_as="row")


# --- the method's per-image file --------------------------------------------------------------------------------

COEFFICIENT_SIZES: dict[str, int] = {"id": 80, "exp": 64, "tex": 80, "angle": 3, "gamma": 27, "trans": 3}
"""Fields of the .mat that Deep3DFaceRecon writes for each photograph, with their lengths."""


def load_coefficients(path: str | os.PathLike[str], sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Read the method's per-image coefficients.

    Args:
        path: A .mat file with id, exp, tex, angle, gamma and trans.
        sizes: Number of values of each field; by default COEFFICIENT_SIZES.

    Returns:
        Each field as (B, n) float32; B is 1 in the method's own files.

    Raises:
        CopoError: See `read_mat`; also where the fields have different batch sizes.
    """
    sizes = COEFFICIENT_SIZES if sizes is None else sizes
    data = read_mat(path, {name: MatField((None, None)) for name in sizes})
    rows: dict[str, Array] = {}
    for name, size in sizes.items():
        value = data[name]
        if value.shape == (size, 1) and size > 1:
            value = value.T
        if value.shape[1] != size or not len(value):
            raise CopoError(f"{path}: field {name!r} has shape {data[name].shape}: expected (1, {size})")
        rows[name] = value
    batches = {name: len(value) for name, value in rows.items()}
    if len(set(batches.values())) > 1:
        raise CopoError(f"{path}: the fields hold different numbers of faces: {_listed(batches)}")
    return rows


def save_coefficients(path: str | os.PathLike[str], values: Mapping[str, Array]) -> None:
    """Write the method's per-image coefficients: each field (1, n) or (n,), stored as (1, n) float32.

    Args:
        path: The .mat file to make.
        values: id, exp, tex, angle, gamma, trans; several faces as (B, n) are stored as such.

    Raises:
        CopoError: A field is missing or unknown, or the file cannot be written.
    """
    if set(values) != set(COEFFICIENT_SIZES):
        raise CopoError(f"cannot write {path}: fields {', '.join(values)}; expected {', '.join(COEFFICIENT_SIZES)}")
    write_mat(path, {name: np.atleast_2d(np.asarray(values[name], np.float32)) for name in COEFFICIENT_SIZES})


# --- inside -----------------------------------------------------------------------------------------------------

_NUMERIC = {"double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


def _check_header(path: Path, name: str, field: MatField, shape: Sequence[int], kind: str) -> None:
    if kind not in _NUMERIC:
        raise CopoError(f"{path}: field {name!r} is of class {kind}: expected a numeric array of {_shape(field.shape)}")
    if _fit(tuple(shape), field.shape) is None:
        raise CopoError(f"{path}: field {name!r} has shape {tuple(shape)}: expected {_shape(field.shape)}")
    if int(np.prod(shape, dtype=np.float64)) > MAX_ELEMENTS:
        raise CopoError(f"{path}: field {name!r} of shape {tuple(shape)} is too large to be read")


def _fit(found: tuple[int, ...], expected: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """The shape to give to an array of shape `found` so that it is as expected, or None."""
    if len(expected) == 1 and len(found) == 2 and 1 in found:
        found = (max(found) if min(found) else 0,)
    if len(found) != len(expected) or any(e is not None and e != f for f, e in zip(found, expected, strict=True)):
        return None
    return found


def _values(path: Path, name: str, field: MatField, value: Any) -> Array:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        kind = getattr(value, "dtype", type(value).__name__)
        raise CopoError(f"{path}: field {name!r} is of kind {kind}: expected real numbers")
    shape = _fit(value.shape, field.shape)
    if shape is None:
        raise CopoError(f"{path}: field {name!r} has shape {value.shape}: expected {_shape(field.shape)}")
    value = value.reshape(shape)
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise CopoError(f"{path}: field {name!r} holds NaN or infinite numbers: make the file again")
    if not field.integer:
        return np.asarray(value, dtype=np.float32)
    whole = value.astype(np.int64)
    if value.dtype.kind == "f" and (whole != value).any():
        raise CopoError(f"{path}: field {name!r} holds fractions: expected whole numbers")
    return whole


def _shape(shape: tuple[int | None, ...]) -> str:
    sizes = ["n" if size is None else str(size) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
