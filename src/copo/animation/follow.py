"""Driving clips from videos of a face, through the analyser."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from copo.animation.clip import DrivingClip, without_gaps
from copo.animation.sources import pose_of
from copo.errors import CopoError
from copo.formats.video import video_frames, video_info
from copo.vision.analyser import Analyser, Analysis

FASTEST = 30.0
"""Frames a second that are looked at unless told otherwise."""
LONGEST = 3600.0
"""Seconds; longer videos must be told where to stop."""


def follow_face(
    path: str | os.PathLike[str],
    analyser: Analyser,
    rate: float | None = None,
    seconds: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DrivingClip:
    """Expressions and poses of the largest face in a video, from frame to frame the same one.

    Frames without the face are filled from their neighbours. Units that the analyser reads too small are multiplied by
    their gains (docs/analyser.md). Nothing is smoothed here.

    Args:
        path: The video.
        analyser: What looks at it.
        rate: Frames a second to look at; by default the video's own, 30 at most.
        seconds: Only the beginning.
        progress: Called with frames done and frames in all.

    Raises:
        CopoError: The video cannot be read, has no end, is longer than an hour without `seconds`, or shows no face.
    """
    info = video_info(path)
    title = Path(path).name
    length = info.seconds if seconds is None else min(info.seconds, seconds)
    if not (math.isfinite(length) and 0 < length <= LONGEST):
        raise CopoError(f"{title}: a video of {info.seconds:.0f} seconds: say with --seconds how much of it to take")
    chosen = rate or min(info.rate, FASTEST)
    count = max(math.floor(length * chosen + 0.25), 1)  # containers state lengths that are ticks too short
    names = analyser.spec.expression_names
    expression = np.full((count, len(names)), np.nan)
    pose = np.full((count, 3), np.nan)
    face: Analysis | None = None
    last = -1
    for time, picture in video_frames(path, [i / chosen for i in range(count)]):
        face = None if face is None else analyser.follow(picture, face)
        if face is None:
            faces = analyser.analyse(picture)
            face = faces[0] if faces else None
        last = round(time * chosen)
        if face is not None:
            expression[last] = analyser.driving_expression(face.factors.expression)[0].numpy()
            pose[last] = pose_of(face.camera)[0]
        progress(last + 1, count)
    expression, pose = expression[: last + 1], pose[: last + 1]
    if not np.isfinite(expression).all(1).any():
        raise CopoError(f"{title}: no face was found in any frame: give a video that shows one, larger or less turned")
    return DrivingClip(names, without_gaps(expression), chosen, without_gaps(pose), Path(path), title)
