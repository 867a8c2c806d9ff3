"""Pictures of the report: strips with titles, matrices, distributions."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from copo.formats.pictures import contact_sheet

Picture = NDArray[np.uint8]
TILE = 128
"""Side of a picture in a strip."""
_CELL = 13
_BLUE, _RED = np.array([40.0, 90.0, 200.0]), np.array([200.0, 40.0, 30.0])


def small(picture: Picture, side: int = TILE) -> Picture:
    """A picture at the size of a tile."""
    if picture.shape[0] == side:
        return picture
    how = Image.Resampling.LANCZOS if picture.shape[0] > side else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((side, side), how))


def strips(pictures: Sequence[Picture], columns: int, titles: Sequence[str]) -> Picture:
    """Rows of pictures, each column with its title under the first row."""
    tiles = [small(p) for p in pictures]
    captions = [titles[i % columns] if i < columns else "" for i in range(len(tiles))]
    return contact_sheet(tiles, columns=columns, captions=captions, gap=2)


def heat_map(values: NDArray[np.floating], rows: Sequence[str], columns: Sequence[str]) -> Picture:
    """A matrix with names: blue above zero, red below, full colour at 1; grey where nothing is known."""
    font = ImageFont.load_default(10)
    left = max(int(font.getlength(name)) for name in rows) + 8
    top = max(int(font.getlength(name)) for name in columns) + 8
    canvas = Image.new("RGB", (left + _CELL * len(columns) + 4, top + _CELL * len(rows) + 4), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for i, name in enumerate(rows):
        draw.text((4, top + i * _CELL), name, fill=(30, 30, 30), font=font)
    for j, name in enumerate(columns):
        label = Image.new("L", (top, _CELL), 0)
        ImageDraw.Draw(label).text((2, 0), name, fill=255, font=font)
        canvas.paste((30, 30, 30), (left + j * _CELL, 0), label.rotate(90, expand=True))
    for i in range(len(rows)):
        for j in range(len(columns)):
            value = float(values[i, j])
            share = min(abs(value), 1.0) if np.isfinite(value) else 0.0
            ink = 255 + share * ((_BLUE if value >= 0 else _RED) - 255) if np.isfinite(value) else np.full(3, 200.0)
            x, y = left + j * _CELL, top + i * _CELL
            draw.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=tuple(int(v) for v in ink))
    return np.asarray(canvas)


def distributions(sets: Sequence[tuple[str, NDArray[np.floating]]], title: str, bins: int = 40) -> str:
    """Several histograms over one axis as SVG, each scaled to its own number."""
    colours = ("#3a6ea5", "#c1541c", "#5a8f3c")
    every = np.concatenate([v for _, v in sets])
    low, high = float(every.min()), float(every.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    width, height = 520, 150
    parts = []
    for (name, values), colour in zip(sets, colours, strict=False):
        counts, _ = np.histogram(values, bins=bins, range=(low, high))
        share = counts / max(len(values), 1)
        peak = max(float(share.max()), 1e-9)
        points = " ".join(
            f"{(i + 0.5) * width / bins:.1f},{height - height * s / peak:.1f}" for i, s in enumerate(share)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = 14 + 14 * len(parts)
        parts.append(
            f'<text x="{width - 4}" y="{y}" text-anchor="end" style="fill:{colour}">{html.escape(name)}</text>'
        )
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {width} {height + 18}" '
        f'style="max-width:{width}px" role="img" aria-label="{html.escape(title)}">{"".join(parts)}'
        f'<text x="0" y="{height + 15}">{low:.3g}</text>'
        f'<text x="{width}" y="{height + 15}" text-anchor="end">{high:.3g}</text></svg></figure>'
    )
