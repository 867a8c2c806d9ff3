"""dlib's frontal face detector and 68 landmarks, as in the published preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from copo.errors import CopoError
from copo.vision.models import find_model
from copo.vision.protocols import Face, Landmarks, Picture, as_picture

_LARGEST_SIDE = 4096
"""Pictures beyond are too slow for the detector's pyramid; the caller scales them down."""


class DlibFaces:
    """A `Detector` and a `Landmarker` for frontal faces of at least about 80 / 2^upsample pixels."""

    def __init__(self, path: str | Path | None = None, upsample: int = 1) -> None:
        """Read the model.

        Args:
            path: shape_predictor_68_face_landmarks.dat; by default that of the package face-recognition-models.
            upsample: How often the picture is doubled before the search (the published program: once). Pictures above
                2000 px are searched as they are: their faces are large enough.

        Raises:
            CopoError: The file is missing, truncated or another kind of file, or the extra `dlib` is not installed.
        """
        try:
            import dlib
        except ImportError:
            raise CopoError("dlib's faces need the package dlib: pip install 'copo[dlib]'") from None
        path = Path(path) if path else find_model("dlib-landmarks")
        if not path.is_file():
            raise CopoError(f"dlib landmarks {path}: no such file")
        try:
            self._predictor: Any = dlib.shape_predictor(str(path))
        except (RuntimeError, MemoryError, ValueError) as error:
            raise CopoError(f"dlib landmarks {path}: truncated or another kind of file; get it again") from error
        probe = self._predictor(np.zeros((64, 64, 3), np.uint8), dlib.rectangle(8, 8, 56, 56))
        if probe.num_parts != 68:
            raise CopoError(f"dlib landmarks {path}: {probe.num_parts} points instead of 68; give the 68-point file")
        self._dlib: Any = dlib
        self._detector: Any = dlib.get_frontal_face_detector()
        self.upsample = upsample

    def detect(self, picture: Picture) -> list[Face]:
        """All frontal faces, the largest first."""
        picture = as_picture(picture)
        side = max(picture.shape[:2])
        if side > _LARGEST_SIDE:
            raise CopoError(f"picture of {side} px is too large for dlib's detector: scale it to {_LARGEST_SIDE} px")
        boxes, scores, _ = self._detector.run(picture, self.upsample if side <= 2000 else 0, 0.0)
        faces = [
            Face(np.array([b.left(), b.top(), b.right() + 1, b.bottom() + 1], np.float32), float(s))
            for b, s in zip(boxes, scores, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)

    def landmarks(self, picture: Picture) -> list[Landmarks]:
        """68 landmarks of all frontal faces, the largest face first."""
        picture = as_picture(picture)
        return [self._at(picture, face) for face in self.detect(picture)]

    def landmarks_at(self, picture: Picture, face: Face) -> Landmarks | None:
        """68 landmarks in a box. The model expects dlib's own boxes (square, brows to chin); others cost accuracy."""
        return self._at(as_picture(picture), face)

    def _at(self, picture: Picture, face: Face) -> Landmarks:
        left, top, right, bottom = (round(float(v)) for v in face.box)
        shape = self._predictor(picture, self._dlib.rectangle(left, top, right - 1, bottom - 1))
        points = np.array([(p.x, p.y) for p in shape.parts()], np.float32) + np.float32(0.5)
        return Landmarks(points, float("nan"))
