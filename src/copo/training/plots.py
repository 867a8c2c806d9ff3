"""The curves of a run as one SVG picture: a small panel for each statistic."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from copo.errors import CopoError
from copo.training.stats import STATS_FILE, read_records

GROUPS = ("Loss/", "Scores/", "Gradient/", "Progress/augment", "Timing/images_per_second")
"""Beginnings of the names that are drawn."""
POINTS = 160
"""Most points of a curve; each is the mean of the lines that it stands for."""
_COLUMNS, _WIDTH, _HEIGHT, _LEFT, _TOP = 5, 230, 120, 44, 22
Curve = list[tuple[float, float]]


def read_curves(run: Path) -> dict[str, Curve]:
    """Statistics of a run by name: (kimg, mean) in order, at most `POINTS` of each.

    Raises:
        CopoError: The folder has no statistics.
    """
    try:
        records = read_records(run / STATS_FILE)
    except OSError as error:
        raise CopoError(f"run {run}: there is no {STATS_FILE} in it") from error
    curves: dict[str, Curve] = {}
    for kimg, record in records:
        for name, value in record.items():
            if name.startswith(GROUPS) and isinstance(value, dict) and math.isfinite(value.get("mean", math.nan)):
                curves.setdefault(name, []).append((kimg, float(value["mean"])))
    if not curves:
        raise CopoError(f"run {run}: its {STATS_FILE} holds no statistics")
    return {name: _thinned(curve) for name, curve in curves.items()}


def curves_svg(curves: Mapping[str, Curve], title: str) -> str:
    """All curves side by side, over the thousands of photographs shown.

    Args:
        curves: From `read_curves`.
        title: Of the picture.
    """
    names = sorted(curves, key=lambda n: ([n.startswith(g) for g in GROUPS].index(True), n))
    last = max(kimg for curve in curves.values() for kimg, _ in curve)
    rows = math.ceil(len(names) / _COLUMNS)
    width, height = _COLUMNS * (_WIDTH + _LEFT) + 12, rows * (_HEIGHT + _TOP + 14) + 34
    panels = "".join(_panel(name, curves[name], last, *divmod(number, _COLUMNS)) for number, name in enumerate(names))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui,sans-serif" font-size="10" fill="#333">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
        f'<text x="12" y="20" font-size="14" font-weight="600">{html.escape(title)}</text>{panels}</svg>\n'
    )


def _panel(name: str, curve: Curve, last: float, row: int, column: int) -> str:
    left, top = column * (_WIDTH + _LEFT) + _LEFT, row * (_HEIGHT + _TOP + 14) + 34 + _TOP
    low, high = min(v for _, v in curve), max(v for _, v in curve)
    if math.isclose(low, high):
        low, high = low - 0.5, high + 0.5
    places = " ".join(
        f"{left + kimg / max(last, 1e-9) * _WIDTH:.1f},{top + (high - v) / (high - low) * _HEIGHT:.1f}"
        for kimg, v in curve
    )
    return (
        f'<text x="{left}" y="{top - 6}" font-weight="600">{html.escape(name)}</text>'
        f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#ccc"/>'
        f'<text x="{left - 4}" y="{top + 9}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{left - 4}" y="{top + _HEIGHT}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{left + _WIDTH}" y="{top + _HEIGHT + 11}" text-anchor="end">{last:.0f} kimg</text>'
        f'<polyline points="{places}" fill="none" stroke="#1864ab" stroke-width="1.2"/>'
    )


def _thinned(curve: Sequence[tuple[float, float]]) -> Curve:
    """Means of neighbours, so that at most `POINTS` are left."""
    step = math.ceil(len(curve) / POINTS)
    parts = [curve[i : i + step] for i in range(0, len(curve), step)]
    return [(sum(k for k, _ in p) / len(p), sum(v for _, v in p) / len(p)) for p in parts]
