"""Blending: what moves outside the face while the expression does, with and without it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from copo.evaluation.geometry import grown, head_picture
from copo.evaluation.metric import Evidence, Metric, Noted, Result, Shown, Table, number, register
from copo.evaluation.statistics import mean
from copo.evaluation.store import CHUNK
from copo.evaluation.views import strips
from copo.head.classes import class_numbers

RATIO_TARGET = 5.0
MARGIN = 0.03
"""Width of the border around the face that does not count as outside, in sides of the picture."""
HELD = class_numbers("background", "hair")
LEAST = 0.05 / 255
"""Changes below count as this: a twentieth of a grey level."""


def change(frames: NDArray[np.floating], outside: NDArray[np.bool_]) -> float:
    """(T, S, S, 3) in [0, 1], (S, S) -> mean absolute difference from the first frame, over pixels and frames."""
    if not outside.any():
        return float("nan")
    return float(np.abs(frames[1:] - frames[:1])[:, outside].mean())


def flicker(frames: NDArray[np.floating], outside: NDArray[np.bool_]) -> float:
    """(T, S, S, 3) in [0, 1], (S, S) -> mean absolute second difference in time: 0 for what moves evenly."""
    if not outside.any() or len(frames) < 3:
        return float("nan")
    return float(np.abs(frames[2:] - 2 * frames[1:-1] + frames[:-2])[:, outside].mean())


def measure_blending(evidence: Evidence) -> Result:
    """Change and flicker outside the face over clips of a moving expression."""
    plan, pictures = evidence.plan("clip"), evidence.pictures("clip")
    people = int(plan.columns["person"].max()) + 1
    frames = int(plan.columns["frame"].max()) + 1
    each = 2 * frames
    rows: list[tuple[float, ...]] = []
    tiles = []
    for person in range(people):
        start = person * each
        stack = np.stack(pictures.some(range(start, start + each))).astype(np.float32) / 255
        side = stack.shape[1]
        span = slice(start, start + frames)
        drawn = head_picture(evidence.head, plan.factors[span], plan.camera[span], side)
        face = np.asarray(drawn.face.any(0))
        outside = ~grown(face[None], max(round(MARGIN * side), 1))[0]
        first = pictures.maps(start // CHUNK)["labels"][start % CHUNK].astype(np.uint8)
        labels = np.asarray(Image.fromarray(first).resize((side, side), Image.Resampling.NEAREST))
        held = outside & np.isin(labels, HELD)
        plain, blended = stack[:frames], stack[frames:]
        rows.append(
            (
                change(plain, outside),
                change(blended, outside),
                change(plain, held),
                change(blended, held),
                flicker(plain, outside),
                flicker(blended, outside),
            )
        )
        if person < 3:
            middle = frames // 4
            for part in (plain, blended):
                moved = np.abs(part[middle] - part[0]) * 4 * outside[..., None]
                tiles += [(v.clip(0, 1) * 255).astype(np.uint8) for v in (part[0], part[middle], moved)]
    table = np.array(rows)
    found = [mean(table[:, i]) for i in range(6)]
    notes = Noted()
    notes.add(
        "blending_ratio",
        "Change outside the face: without blending / with",
        max(found[0], LEAST) / max(found[1], LEAST),
        people,
        target=RATIO_TARGET,
        at_least=True,
    )
    notes.add(
        "blending_change", "Change outside the face without blending, grey levels", 255 * found[0], people * frames
    )
    notes.add("blending_change_blended", "The same with blending", 255 * found[1], people * frames)
    notes.add(
        "blending_ratio_held",
        "Ratio over hair and background only",
        max(found[2], LEAST) / max(found[3], LEAST),
        people,
    )
    notes.add("flicker", "Flicker outside the face without blending, grey levels", 255 * found[4], people * frames)
    notes.add("flicker_blended", "The same with blending", 255 * found[5], people * frames)
    per = tuple((str(i), *(number(255 * v) for v in row[:4])) for i, row in enumerate(rows[:12]))
    columns = ("person", "outside", "outside, blended", "hair and background", "hair and background, blended")
    titles = ["first", "moved", "change x 4"] * 2
    sheet = strips(tiles, 6, titles)
    caption = "Left without, right with blending: first frame, moved frame, change outside the face times 4."
    return Result(
        tuple(notes.figures), (Table("Change, grey levels", columns, per),), (Shown("blending", sheet, caption),)
    )


register(Metric("blending", "Blending and flicker", measure_blending, ("clip",), head=True))
