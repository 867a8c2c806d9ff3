"""Driving files for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from copo.factors import ARKIT_NAMES
from copo.formats.mat import save_coefficients


def pascal(name: str) -> str:
    return name[0].upper() + name[1:]


def livelink(path: Path, values: np.ndarray, codes: list[str], head: np.ndarray | None = None) -> Path:
    """A recording in the app's layout: (N, 52) units in the order of ARKIT_NAMES; NaN rows are left empty."""
    names = [pascal(name) for name in ARKIT_NAMES]
    rotation = ["HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll"]
    lines = [",".join(["Timecode", "BlendShapeCount", *names, *rotation])]
    for i, row in enumerate(values):
        turned = np.zeros(3) if head is None else head[i]
        cells = [f"{v:.6f}" for v in (*row, *turned, 0, 0, 0)] if np.isfinite(row).all() else [""] * 58
        lines.append(",".join([codes[i], "61" if cells[0] else "0", *cells]))
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return path


def codes(count: int, rate: int, start: int = 0) -> list[str]:
    """Time codes of the app, beginning at 14:03:52."""
    out = []
    for i in range(start, start + count):
        seconds = 52 + i // rate
        out.append(f"14:{3 + seconds // 60:02d}:{seconds % 60:02d}:{i % rate:02d}.207")
    return out


def mat_folder(folder: Path, count: int = 3) -> Path:
    """The method's per-frame files, 1.mat to N.mat: exp is the frame's number, the head turns about y."""
    folder.mkdir()
    for i in range(1, count + 1):
        fields = {"id": 80, "exp": 64, "tex": 80, "gamma": 27, "angle": 3, "trans": 3}
        values = {name: np.zeros((1, size), np.float32) for name, size in fields.items()}
        values["exp"][:] = i
        values["angle"][0, 1] = 0.1 * i
        save_coefficients(folder / f"{i}.mat", values)
    return folder
