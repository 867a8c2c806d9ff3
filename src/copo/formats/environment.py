"""Light of a place: panoramas in Radiance's .hdr format, and their nine spherical harmonics.

A panorama is equirectangular: rows go from straight up to straight down, the centre column looks along +z, where the
face looks. Seen from the head the right half of the panorama lies at its own right hand, which is -x, the left of the
frontal picture.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from copo.errors import CopoError
from copo.illumination import sh_basis

SUFFIXES = (".hdr", ".rgbe", ".pic")
_SIGNS = (1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0)
"""(-1)^m: the method's basis relative to that of a radiance (`copo.illumination`)."""
_MOST_PIXELS = 1 << 28
_HEADER_BYTES = 1 << 16


def load_panorama(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a Radiance picture (Ward 1991: RGBE, flat or run-length encoded).

    Args:
        path: .hdr file with rows from top to bottom (`-Y H +X W`).

    Returns:
        (H, W, 3) linear radiance, float32.

    Raises:
        CopoError: The file is missing, damaged, no Radiance picture or in XYZ.
    """
    source = Path(path)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise CopoError(f"panorama {source}: {(error.strerror or 'cannot be read').lower()}") from None
    head = data[:_HEADER_BYTES]
    found = re.search(rb"\n\n?-Y (\d{1,6}) \+X (\d{1,6})\n", head)
    if not head.startswith(b"#?") or found is None:
        raise CopoError(f"panorama {source}: no Radiance .hdr with rows from the top; save it as .hdr (RGBE)")
    if b"FORMAT=32-bit_rle_xyze" in head[: found.start()]:
        raise CopoError(f"panorama {source}: its colours are XYZ; save it in RGB")
    height, width = int(found[1]), int(found[2])
    if not 0 < height * width <= _MOST_PIXELS:
        raise CopoError(f"panorama {source}: {width} x {height} pixels")
    try:
        rgbe = _scanlines(np.frombuffer(data, np.uint8, offset=found.end()), height, width)
    except (IndexError, ValueError) as error:
        raise CopoError(f"panorama {source} is truncated or damaged; fetch it again") from error
    scale = np.ldexp(1.0, rgbe[..., 3].astype(np.int32) - 136) * (rgbe[..., 3] > 0)
    exposure = 1.0
    for value in re.findall(rb"\nEXPOSURE= *([0-9.eE+-]+)", head[: found.start()]):
        exposure *= _positive(value, source)
    return ((rgbe[..., :3] + 0.5) * (scale / exposure)[..., None]).astype(np.float32)


def save_panorama(path: str | os.PathLike[str], panorama: NDArray[np.floating]) -> None:
    """Write a Radiance picture without run lengths; for tests and for exchange.

    Args:
        path: .hdr file.
        panorama: (H, W, 3) linear radiance, not negative.
    """
    values = np.asarray(panorama, np.float64)
    top = values.max(-1)
    mantissa, exponent = np.frexp(top)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(top > 1e-32, mantissa * 256 / top, 0.0)
    rgbe = np.zeros((*top.shape, 4), np.uint8)
    rgbe[..., :3] = np.floor(values * share[..., None]).clip(0, 255)
    rgbe[..., 3] = np.where(top > 1e-32, (exponent + 128).clip(0, 255), 0)
    height, width = top.shape
    header = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode()
    Path(path).write_bytes(header + rgbe.tobytes())


def panorama_directions(height: int, width: int) -> NDArray[np.float64]:
    """(H, W, 3) unit vectors in the head's frame through the pixels' centres."""
    polar = (np.arange(height) + 0.5) * math.pi / height
    around = ((np.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    sine = np.sin(polar)[:, None]
    return np.stack(
        [-sine * np.sin(around), np.broadcast_to(np.cos(polar)[:, None], (height, width)), sine * np.cos(around)], -1
    )


def radiance_of(panorama: NDArray[np.floating]) -> Tensor:
    """Project a panorama on the nine harmonics of a radiance, weighting pixels by their solid angle.

    Args:
        panorama: (H, W, 3) linear radiance.

    Returns:
        (9, 3) float32, for `copo.illumination.illumination_from_radiance`.

    Raises:
        CopoError: It is no (H, W, 3) picture, or holds numbers that are not finite.
    """
    values = np.asarray(panorama, np.float64)
    if values.ndim != 3 or values.shape[2] != 3 or 0 in values.shape:
        raise CopoError(f"panorama of shape {values.shape}: expected (H, W, 3)")
    if not np.isfinite(values).all():
        raise CopoError("panorama holds numbers that are not finite")
    height, width = values.shape[:2]
    edges = np.cos(np.arange(height + 1) * math.pi / height)
    weight = (edges[:-1] - edges[1:]) * 2 * math.pi / width
    out = torch.zeros(9, 3, dtype=torch.float64)
    directions = panorama_directions(height, width)
    for row in range(height):  # one row at a time: panoramas are large
        basis = sh_basis(torch.from_numpy(directions[row]))
        out += weight[row] * (basis.mT @ torch.from_numpy(values[row]))
    return (out * torch.tensor(_SIGNS, dtype=torch.float64)[:, None]).float()


def _scanlines(data: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 4) RGBE. New run lengths code each of the four bytes of a row apart; old ones repeat whole pixels."""
    out = np.empty((height, width, 4), np.uint8)
    at = 0
    for row in range(height):
        start = data[at : at + 4]
        if len(start) < 4:
            raise ValueError("truncated")
        if not (8 <= width < 32768 and start[0] == 2 and start[1] == 2 and start[2] < 128):
            at = _old_row(data, at, out[row])
            continue
        if int(start[2]) << 8 | int(start[3]) != width:
            raise ValueError("a row of another width")
        at += 4
        for channel in range(4):
            x = 0
            while x < width:
                count = int(data[at])
                if count > 128:
                    count -= 128
                    out[row, x : x + count, channel] = data[at + 1]
                    at += 2
                else:
                    if count == 0 or at + 1 + count > len(data):
                        raise ValueError("truncated")
                    out[row, x : x + count, channel] = data[at + 1 : at + 1 + count]
                    at += 1 + count
                x += count
            if x != width:
                raise ValueError("a run beyond the row")
    return out


def _old_row(data: NDArray[np.uint8], at: int, row: NDArray[np.uint8]) -> int:
    """One row of flat pixels, with (1, 1, 1, n) repeating the pixel before. Returns where the next row begins."""
    width = len(row)
    flat = data[at : at + 4 * width].reshape(-1, 4) if len(data) - at >= 4 * width else None
    if flat is not None and not (flat[:, :3] == 1).all(1).any():
        row[:] = flat
        return at + 4 * width
    x = shift = 0
    while x < width:
        pixel = data[at : at + 4]
        if len(pixel) < 4:
            raise ValueError("truncated")
        at += 4
        if (pixel[:3] == 1).all() and x:
            count = int(pixel[3]) << shift
            if count > width - x:
                raise ValueError("a run beyond the row")
            row[x : x + count] = row[x - 1]
            x, shift = x + count, shift + 8
        else:
            row[x] = pixel
            x, shift = x + 1, 0
    return at


def _positive(text: bytes, source: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and math.isfinite(value)):
        raise CopoError(f"panorama {source}: its EXPOSURE is {text.decode('ascii', 'replace')}")
    return value
