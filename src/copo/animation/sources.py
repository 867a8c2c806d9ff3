"""Driving clips from files: folders of the method's .mat, LiveLink Face CSV, .npz, factor files, `copo analyze`.

Videos of a face are in `copo.animation.follow`; they need the analyser.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from copo.animation.clip import FASTEST, FORMAT, DrivingClip, without_gaps
from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import ARKIT_NAMES
from copo.formats.bfm import bfm_spec
from copo.formats.factor_files import FactorFile, load_factors
from copo.formats.mat import load_coefficients

Array = NDArray[Any]

MAT_RATE = 24.0
"""Frames a second of a folder of .mat files unless told otherwise (published program)."""
FACTOR_RATE = 30.0
"""Frames a second of a factor file unless told otherwise: it does not say."""
CLIP_SUFFIXES = (".csv", ".npz", ".json", ".safetensors")
OPTIONAL_UNITS = frozenset({"tongueOut"})
"""Units that early recordings lack (ARKit got the tongue in its second version)."""
_STANDARD_RATES = (24.0, 25.0, 30.0, 50.0, 60.0, 100.0, 120.0)
_LARGEST_TEXT = 1 << 28


def read_clip(path: str | os.PathLike[str], rate: float | None = None) -> DrivingClip:
    """Read a driving clip from anything but a video.

    | file | what it holds |
    |---|---|
    | folder | the method's .mat files, one for each frame in the order of their numbers; 24 frames a second |
    | .csv | a LiveLink Face recording: ARKit units, head rotation |
    | .npz | `save_clip`: names, expression, rate, pose; or factors of many frames |
    | .json | `copo analyze` of a video, or factors of many frames |
    | .safetensors | factors of many frames |

    Args:
        path: What to read.
        rate: Frames a second, instead of what the file says.

    Raises:
        CopoError: The file is missing, damaged, of no known kind, or holds no frames; a CSV lacks columns.
    """
    if rate is not None and not 0 < rate <= FASTEST:
        raise CopoError(f"{rate:g} frames a second: give a rate above 0")
    file = Path(path)
    suffix = file.suffix.lower()
    if not file.exists():
        raise CopoError(f"driving file {file} does not exist")
    if file.is_dir():
        return _mat_folder(file, rate)
    if suffix == ".mat":
        return _mat_files([file], file.name, rate)
    if suffix == ".csv":
        return _livelink(file, rate)
    if suffix == ".npz":
        return _npz(file, rate)
    if suffix == ".json":
        return _json(file, rate)
    if suffix == ".safetensors":
        return _factors(file.name, load_factors(file), rate)
    raise CopoError(
        f"driving file {file.name}: unknown kind {suffix!r}; give a folder of .mat, a video, or one of "
        f"{', '.join(CLIP_SUFFIXES)}"
    )


def pose_of(camera: Camera) -> Array:
    """(N, 3) yaw, pitch, roll of cameras around the head in radians, as in `DrivingClip.pose`."""
    x, y, z = camera.position.double().unbind(1)
    right, up = camera.cam2world[:, :3, 0].double(), -camera.cam2world[:, :3, 1].double()
    pose = [torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z)), torch.atan2(right[:, 1], up[:, 1])]
    return torch.stack(pose, dim=1).numpy().astype(np.float32)


# --- the method's .mat ------------------------------------------------------------------------------------------------


def _mat_folder(folder: Path, rate: float | None) -> DrivingClip:
    files = sorted((p for p in folder.iterdir() if p.suffix.lower() == ".mat"), key=lambda p: natural(p.name))
    if not files:
        raise CopoError(f"driving folder {folder} holds no .mat files")
    return _mat_files(files, folder.name or str(folder), rate)


def _mat_files(files: list[Path], title: str, rate: float | None) -> DrivingClip:
    rows = [load_coefficients(file) for file in files]
    expression, angle, trans = (np.concatenate([row[name] for row in rows]) for name in ("exp", "angle", "trans"))
    camera = Camera.from_deep3d(torch.from_numpy(angle), torch.from_numpy(trans))
    names = bfm_spec().expression_names
    return DrivingClip(names, expression, rate or MAT_RATE, pose_of(camera), source=title)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts frame_2 before frame_10."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


# --- LiveLink Face ----------------------------------------------------------------------------------------------------


def _livelink(path: Path, rate: float | None) -> DrivingClip:
    """A recording of the app LiveLink Face: Timecode, BlendShapeCount, ARKit units, head and eye rotation (radians).

    Rows without values, where the app saw no face, are filled from their neighbours.
    """
    title = path.name
    rows = _csv_rows(path)
    if not rows:
        raise CopoError(f"{title} is empty: give a LiveLink Face recording")
    column = {name.strip().lower(): i for i, name in enumerate(rows[0])}
    missing = [name for name in ARKIT_NAMES if name.lower() not in column and name not in OPTIONAL_UNITS]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise CopoError(f"{title} lacks the columns {shown}: a LiveLink Face recording has all ARKit units")
    body = [row for row in rows[1:] if any(cell.strip() for cell in row)]
    if not body:
        raise CopoError(f"{title}: the driving file has no frames")
    names = tuple(name for name in ARKIT_NAMES if name.lower() in column)
    expression = _numbers(title, body, [column[name.lower()] for name in names])
    if not np.isfinite(expression).all(1).any():
        raise CopoError(f"{title}: no face was seen in any frame")
    head = ("headyaw", "headpitch", "headroll")
    pose = None
    if all(name in column for name in head):
        pose = _numbers(title, body, [column[name] for name in head])
        pose = without_gaps(pose) if np.isfinite(pose).all(1).any() else None
    expression = without_gaps(expression)
    if "timecode" not in column and rate is None:
        raise CopoError(f"{title} lacks the column Timecode: give its frames a second with --drive-rate")
    if rate is None:
        times, rate = _times([row[column["timecode"]] if column["timecode"] < len(row) else "" for row in body], title)
        at = np.arange(max(int(np.floor(times[-1] * rate + 1e-6)) + 1, 1)) / rate
        expression, pose = _resampled(expression, times, at), None if pose is None else _resampled(pose, times, at)
    return DrivingClip(names, expression.clip(0, 1), rate, pose, source=title)


def _csv_rows(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise CopoError(f"{path.name} is too large for a recording: {path.stat().st_size >> 20} MiB")
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CopoError(f"{path.name} is no CSV file that can be read ({str(error).splitlines()[0]})") from error


def _numbers(title: str, rows: list[list[str]], columns: list[int]) -> Array:
    """(N, n) with rows of NaN where all cells are empty."""
    out = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        cells = [row[c].strip() if c < len(row) else "" for c in columns]
        if not any(cells):
            continue
        try:
            out[i] = [float(cell) for cell in cells]
        except ValueError:
            bad = next(cell for cell in cells if not _is_number(cell))
            raise CopoError(f"{title}: row {i + 2} holds {bad!r} where a number belongs") from None
        if not np.isfinite(out[i]).all():
            raise CopoError(f"{title}: row {i + 2} holds a number that is not finite")
    return out


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_TIMECODE = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})[:;](\d{1,4}(?:\.\d+)?)")


def _times(codes: list[str], title: str) -> tuple[Array, float]:
    """Seconds from the first frame, and frames a second, from HH:MM:SS:FF.fraction.

    The file does not say how many frames make a second: the highest frame number does, once a second has passed.
    """
    parts = []
    for i, code in enumerate(codes):
        match = _TIMECODE.fullmatch(code.strip())
        if match is None:
            raise CopoError(f"{title}: row {i + 2} has the timecode {code!r}: expected HH:MM:SS:FF.fraction")
        parts.append([float(p) for p in match.groups()])
    hours, minutes, seconds, frames = np.array(parts).T
    whole = hours * 3600 + minutes * 60 + seconds
    whole += 86_400 * np.cumsum(np.diff(whole, prepend=whole[0]) < -43_200)  # past midnight
    highest = float(np.floor(frames.max())) + 1
    if highest > _STANDARD_RATES[-1]:
        highest = 1000.0  # some exporters write milliseconds
    elif len(np.unique(whole)) < 2:
        highest = max(highest, 60.0)  # the app's own rate
    per_second = next((r for r in _STANDARD_RATES if r >= highest), highest)
    times = whole + frames / per_second
    times -= times[0]
    if len(times) == 1:
        return times, per_second if per_second <= _STANDARD_RATES[-1] else 60.0
    if (np.diff(times) <= 0).any():  # frame numbers that do not run: the rows themselves do
        return np.arange(len(times)) / per_second, per_second
    usual = 1 / float(np.median(np.diff(times)))
    return times, next((r for r in _STANDARD_RATES if abs(r - usual) < 0.04 * r), min(round(usual, 3), per_second))


def _resampled(values: Array, times: Array, at: Array) -> Array:
    return np.stack([np.interp(at, times, values[:, i]) for i in range(values.shape[1])], axis=1)


# --- .npz, .json, factors ---------------------------------------------------------------------------------------------


def _npz(path: Path, rate: float | None) -> DrivingClip:
    title = path.name
    try:
        with np.load(path, allow_pickle=False) as data:
            if "header" in data:
                return _factors(title, load_factors(path), rate)
            missing = [name for name in ("names", "expression") if name not in data]
            if missing:
                raise CopoError(f"{title} lacks {' and '.join(missing)}: a driving .npz has names, expression and rate")
            names = tuple(str(name) for name in np.atleast_1d(data["names"]))
            expression = np.asarray(data["expression"], np.float32)
            stored = float(data["rate"]) if "rate" in data else None
            pose = np.asarray(data["pose"], np.float32) if "pose" in data else None
            kind = str(data["format"]) if "format" in data else FORMAT
    except CopoError:
        raise
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CopoError(f"{title} is damaged or no driving file ({reason})") from error
    if kind != FORMAT:
        raise CopoError(f"{title} is of kind {kind!r}: this program reads {FORMAT!r}")
    if rate is None and stored is None:
        raise CopoError(f"{title} does not say its rate: give its frames a second with --drive-rate")
    return DrivingClip(names, expression, rate or float(stored or 0), pose, source=title)


def _json(path: Path, rate: float | None) -> DrivingClip:
    title = path.name
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CopoError(f"{title} is damaged or no JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(body, dict) or "frames" not in body:
        return _factors(title, load_factors(path), rate)
    try:
        faces = [frame["face"] for frame in body["frames"]]
        seen = [face for face in faces if face is not None]
        if not seen:
            raise CopoError(f"{title}: no face was seen in any frame")
        names = tuple(seen[0]["expression"])
        expression = np.full((len(faces), len(names)), np.nan)
        pose = np.full((len(faces), 3), np.nan)
        for i, face in enumerate(faces):
            if face is not None:
                expression[i] = [float(face["expression"][name]) for name in names]
                pose[i] = [math.radians(float(face["pose"][name])) for name in ("yaw", "pitch", "roll")]
        stored = float(body["frames_per_second"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CopoError(f"{title} is no analysis of a video by copo analyze ({error!r})") from error
    return DrivingClip(names, without_gaps(expression), rate or stored, without_gaps(pose), source=title)


def _factors(title: str, file: FactorFile, rate: float | None) -> DrivingClip:
    factors, camera = file.factors, file.camera
    if len(factors) < 2:
        raise CopoError(f"{title} holds one portrait: a driving file has one for each frame")
    pose = None if camera is None else pose_of(camera.expand(len(factors)))
    return DrivingClip(factors.spec.expression_names, factors.expression.numpy(), rate or FACTOR_RATE, pose,
                       source=title)  # fmt: skip
