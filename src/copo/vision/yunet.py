"""YuNet: a small face detector with five points, through ONNX Runtime.

The network (Wu, Peng and Yu 2023) predicts, for every cell of 8, 16 and 32 pixels, a score, a box relative to the cell
and five points; decoding and suppression are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copo.errors import CopoError
from copo.vision.boxes import suppress
from copo.vision.models import find_model
from copo.vision.protocols import Face, Picture, as_picture, resize

STRIDES: tuple[int, ...] = (8, 16, 32)
"""Sizes of the network's cells in pixels."""


@dataclass(frozen=True)
class YuNetConfig:
    """Thresholds."""

    score: float = 0.8
    """Faces below are dropped (0 to 1). In the portraits tried, faces scored 0.82 and more, other things 0.75."""
    suppression: float = 0.3
    """Boxes that overlap by more are one face."""
    second_look: bool = True
    """Where no face is found, look again at half the size: faces that fill the picture are larger than the network
    expects."""
    threads: int = 2
    """CPU threads for one call."""


class YuNet:
    """A `Detector`."""

    def __init__(self, path: str | Path | None = None, config: YuNetConfig | None = None) -> None:
        """Read the model.

        Args:
            path: A YuNet .onnx file with fixed input size, as its authors (320 or 640 px) or OpenCV's model zoo publish
                it; by default the fetched one of 320 px.
            config: Thresholds.

        Raises:
            CopoError: The file is missing, truncated or another model, or the extra `mediapipe` is not installed.
        """
        self.config = config or YuNetConfig()
        path = Path(path) if path else find_model("yunet")
        try:
            import onnxruntime
        except ImportError:
            raise CopoError("YuNet needs the package onnxruntime: pip install 'copo[mediapipe]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.config.threads, 4
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # idle threads leave the core to others
        try:
            content = path.read_bytes()
            session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise CopoError(f"YuNet {path}: {(error.strerror or 'cannot be read').lower()}") from None
        except Exception as error:  # ONNX Runtime raises classes of its own for whatever is wrong with a file
            raise CopoError(f"YuNet {path}: truncated or not an ONNX model; get the file again") from error
        shape = session.get_inputs()[0].shape
        self._names = [f"{kind}_{stride}" for stride in STRIDES for kind in ("cls", "obj", "bbox", "kps")]
        known = {output.name for output in session.get_outputs()}
        if (
            not known.issuperset(self._names)
            or len(shape) != 4
            or shape[2] != shape[3]
            or not isinstance(shape[2], int)
        ):
            raise CopoError(f"YuNet {path}: another model than expected; give the file that `copo models list` names")
        self._session, self._input, self.size = session, session.get_inputs()[0].name, int(shape[2])

    def detect(self, picture: Picture) -> list[Face]:
        """All faces, the largest first, each with five points."""
        picture = as_picture(picture)
        fill = self.size / max(picture.shape[:2])
        faces = self._detect(picture, fill)
        return faces or (self._detect(picture, fill / 2) if self.config.second_look else [])

    def _detect(self, picture: Picture, scale: float) -> list[Face]:
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        small = resize(picture, width, height)
        square = np.zeros((1, 3, self.size, self.size), np.float32)  # BGR, 0..255, black below and at the right
        square[0, :, :height, :width] = small[:, :, ::-1].transpose(2, 0, 1)
        out = dict(zip(self._names, self._session.run(self._names, {self._input: square}), strict=True))
        rows = [_decode(out, stride, self.size) for stride in STRIDES]
        values = np.concatenate([values for values, _ in rows])
        scores = np.concatenate([scores for _, scores in rows])
        keep = scores >= self.config.score
        values, scores = suppress(values[keep], scores[keep], self.config.suppression)
        values[:, 0::2] *= picture.shape[1] / width
        values[:, 1::2] *= picture.shape[0] / height
        faces = [
            Face(row[:4].astype(np.float32), float(score), row[4:].reshape(5, 2).astype(np.float32))
            for row, score in zip(values, scores, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)


def _decode(
    out: dict[str, NDArray[np.float32]], stride: int, size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One stride's outputs -> (cells, 14) box corners and five points in network pixels, and (cells,) scores."""
    cells = size // stride
    ys, xs = np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij")
    corner = np.stack([xs, ys], axis=-1).reshape(-1, 2).astype(np.float64)
    box = out[f"bbox_{stride}"][0].astype(np.float64)
    centre, half = (corner + box[:, :2]) * stride, np.exp(box[:, 2:].clip(-20, 20)) * stride / 2
    points = (corner[:, None] + out[f"kps_{stride}"][0].reshape(-1, 5, 2)) * stride
    product = out[f"cls_{stride}"][0, :, 0].clip(0, 1) * out[f"obj_{stride}"][0, :, 0].clip(0, 1)
    values = np.concatenate([centre - half, centre + half, points.reshape(-1, 10)], axis=1)
    return values, np.sqrt(product.astype(np.float64))
