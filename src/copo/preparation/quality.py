"""What makes a photograph unfit for training, as numbers, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab
from skimage.draw import polygon2mask

from copo.preparation.config import QualityConfig

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

UNLIKE_SKIN = 4.0
"""Robust standard deviations of the face's own skin colours beyond which a pixel counts as covered."""
_SIGMA_FINE, _SIGMA_COARSE = 1 / 128, 1 / 20
"""Scales of `sharpness`, as shares of the side of the aligned picture."""


@dataclass(frozen=True)
class Measures:
    """Numbers of one photograph; NaN where something could not be measured.

    Attributes:
        face: A quarter of the side of FFHQ's square in the photograph, pixels: about the distance between the eyes,
            also of a face that is turned away.
        enlargement: Aligned pixels for each pixel of the photograph.
        other_face: Size of the largest other face as a share of this one's; 0 where there is none.
        outside: Share of the aligned picture outside of the photograph.
        sharpness: See `sharpness`.
        colour: Mean chroma of the face, CIELAB.
        exposure: Mean brightness of the face, 0 to 1.
        clipped: Share of the face at either end of the range.
        occlusion: Share of the face below the brows that is hair or does not look like skin.
        yaw: Degrees, positive: the camera is at the right of the frontal picture.
        pitch: Degrees, positive: the camera is above.
        roll: Degrees, positive: the camera's right side points up.
        residual: Of the fit: mean distance of its landmarks (of a profile: its outline), percent of the distance
            between the eyes' outer corners.
    """

    face: float = math.nan
    enlargement: float = math.nan
    other_face: float = 0.0
    outside: float = math.nan
    sharpness: float = math.nan
    colour: float = math.nan
    exposure: float = math.nan
    clipped: float = math.nan
    occlusion: float = math.nan
    yaw: float = math.nan
    pitch: float = math.nan
    roll: float = math.nan
    residual: float = math.nan

    def to_row(self) -> dict[str, str]:
        """Columns of a manifest, four digits, empty where not measured."""
        return {f.name: number(getattr(self, f.name)) for f in fields(self)}


def number(value: float) -> str:
    """Four digits; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.4g}"


def verdict(measures: Measures, config: QualityConfig) -> list[tuple[str, str]]:
    """Every reason against a photograph as (short name, sentence); an empty list lets it in."""
    m, c = measures, config
    rules: tuple[tuple[str, float, float, bool, str], ...] = (
        ("small", m.face, c.min_face, True, "the face is small: {0:.0f} pixels from eye to eye, at least {1:.0f}"),
        ("size", m.enlargement, c.max_enlargement, False, "too few pixels: enlarged {0:.2g} times, at most {1:.2g}"),
        ("faces", m.other_face, c.other_face, False, "several faces: another {0:.2g} times as large, at most {1:.2g}"),
        ("cut", m.outside, c.max_outside, False, "the photograph ends too near: {0:.0%} is missing, at most {1:.0%}"),
        ("blur", m.sharpness, c.min_sharpness, True, "blurred: sharpness {0:.3f}, at least {1:.3f}"),
        ("grey", m.colour, c.min_colour, True, "grey: chroma {0:.1f}, at least {1:.1f}"),
        ("dark", m.exposure, c.min_exposure, True, "dark: brightness {0:.2f}, at least {1:.2f}"),
        ("clipped", m.clipped, c.max_clipped, False, "burnt out or black: {0:.0%} of the face, at most {1:.0%}"),
        ("occlusion", m.occlusion, c.max_occlusion, False, "the face is covered: {0:.0%}, at most {1:.0%}"),
        ("pose", abs(m.yaw), c.max_yaw, False, "turned too far: {0:.0f} degrees, at most {1:.0f}"),
        ("pose", abs(m.pitch), c.max_pitch, False, "from too far above or below: {0:.0f} degrees, at most {1:.0f}"),
        ("fit", m.residual, c.max_residual, False, "the head does not fit: landmarks {0:.1f}% apart, at most {1:.1f}%"),
    )  # fmt: skip
    return [
        (name, text.format(value, limit))
        for name, value, limit, least, text in rules
        if limit > 0 and not math.isnan(value) and (value < limit if least else value > limit)
    ]


def face_mask(points68: NDArray[np.floating], size: int) -> Mask:
    """(S, S) the face inside of jaw and brows, from 68 landmarks in pixels."""
    outline = np.concatenate([points68[:17], points68[26:16:-1]])
    return polygon2mask((size, size), outline[:, ::-1] - 0.5)


def sharpness(picture: Picture, mask: Mask) -> float:
    """Fine detail in a face as a share of its contrast.

    Measured on portraits at 256 px: 0.3 to 0.45 as they were; 0.14 to 0.19 after a Gaussian blur of 2 px, 0.1 to 0.14
    after 3 px; 0.22 to 0.28 reduced and enlarged three times, 0.18 to 0.23 four times.

    The ratio of two standard deviations of the luminance inside the mask: of what a small Gaussian (side / 128) takes
    away, and of what a large one (side / 20) takes away. It depends on neither brightness nor contrast, and a face that
    was enlarged has little of the first.

    Returns:
        NaN where the mask is nearly empty or the face is flat.
    """
    if mask.sum() < 64:
        return math.nan
    size = max(picture.shape[:2])
    luminance = picture.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    fine = (luminance - gaussian_filter(luminance, _SIGMA_FINE * size))[mask].std()
    coarse = (luminance - gaussian_filter(luminance, _SIGMA_COARSE * size))[mask].std()
    return float(fine / coarse) if coarse > 0.5 else math.nan


def colours(picture: Picture, mask: Mask) -> tuple[float, float, float]:
    """Chroma (CIELAB), brightness (0 to 1) and clipped share of a face; NaN where the mask is nearly empty."""
    if mask.sum() < 64:
        return math.nan, math.nan, math.nan
    pixels = picture[mask]
    lab = rgb2lab(pixels[None].astype(np.float32) / 255)[0]
    clipped = (pixels.min(1) >= 253) | (pixels.max(1) <= 4)
    return float(np.hypot(lab[:, 1], lab[:, 2]).mean()), float(pixels.mean() / 255), float(clipped.mean())


def occlusion(labels_of_mesh: NDArray[np.integer], hair: Mask, unlike_skin: Mask, below: float) -> float:
    """Share of the mesh's skin and nose below a line that is covered: by hair, or by what does not look like skin.

    Args:
        labels_of_mesh: (S, S) classes of the fitted head.
        hair: (S, S).
        unlike_skin: (S, S) pixels far from the colours of this face's skin.
        below: Row of the brows, in pixels.
    """
    region = np.isin(labels_of_mesh, (1, 10))
    region[: max(int(below), 0)] = False
    return float((region & (hair | unlike_skin)).sum() / region.sum()) if region.sum() >= 64 else math.nan
